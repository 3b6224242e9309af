//! What a person brings from the inviting host to the invited one.

use std::{fmt, str::FromStr};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use time::OffsetDateTime;

use crate::fingerprint::Fingerprint;

/// The part of an invitation that proves it: 32 random bytes.
///
/// Never shown: `Debug` hides it and there is no `Display`. It is serialized, as base64url, for
/// the one message that redeems it.
#[derive(Clone)]
pub struct Secret([u8; Self::LEN]);

impl Secret {
    const LEN: usize = 32;

    pub(crate) fn random() -> Self {
        let mut bytes = [0; Self::LEN];
        // The kernel's generator blocks until it is ready, and does not fail after that.
        SystemRandom::new()
            .fill(&mut bytes)
            .expect("the kernel gives random bytes");
        Self(bytes)
    }

    /// The form in which it may be stored. The secret has full entropy, so a plain digest cannot be
    /// reversed.
    pub(crate) fn hash(&self) -> blake3::Hash {
        blake3::hash(&self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(redacted)")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64_URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The offending text stays out of the error, which may be logged.
        let text = String::deserialize(deserializer)?;
        BASE64_URL_SAFE_NO_PAD
            .decode(text)
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or_else(|| de::Error::custom("not the secret of an invitation"))
    }
}

/// An invitation as a person passes it on: whom to expect, what to say, and until when.
///
/// Its text is `inv1_` followed by these fields in base64url without padding ([RFC 4648] section
/// 5): the server's fingerprint (32 bytes), the secret (32), the expiry (8, big-endian), and the
/// first 4 bytes of the BLAKE3 digest of all that, which tell a damaged copy from a wrong one.
/// Whoever has the text can pair; only [`Token::reveal`] shows it.
///
/// [RFC 4648]: https://www.rfc-editor.org/rfc/rfc4648#section-5
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Token {
    /// The key of the host that invites.
    pub server: Fingerprint,
    /// What redeems the invitation.
    pub secret: Secret,
    /// When it expires, in seconds since 1970. The server's clock decides.
    pub expires: u64,
}

impl Token {
    const PREFIX: &str = "inv1_";
    const CHECKSUM: usize = 4;

    /// A fresh token.
    pub(crate) fn new(server: Fingerprint, expires: u64) -> Self {
        Self {
            server,
            secret: Secret::random(),
            expires,
        }
    }

    /// The text for the person who invites. It contains the secret: print it, do not log it.
    #[must_use]
    pub fn reveal(&self) -> String {
        let mut bytes = Vec::new();
        bytes.extend(self.server.as_bytes());
        bytes.extend(self.secret.0);
        bytes.extend(self.expires.to_be_bytes());
        let checksum = checksum(&bytes);
        bytes.extend(checksum);
        format!("{}{}", Self::PREFIX, BASE64_URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Whether it has expired according to this host's clock. Only good for an early warning,
    /// because the clocks may differ.
    #[must_use]
    pub fn seems_expired(&self) -> bool {
        unix_now() >= self.expires
    }
}

fn checksum(bytes: &[u8]) -> [u8; Token::CHECKSUM] {
    let mut checksum = [0; Token::CHECKSUM];
    checksum.copy_from_slice(&blake3::hash(bytes).as_bytes()[..Token::CHECKSUM]);
    checksum
}

pub(crate) fn unix_now() -> u64 {
    // A clock that shows a time before 1970 was never set.
    OffsetDateTime::now_utc()
        .unix_timestamp()
        .try_into()
        .unwrap_or(0)
}

/// A text that is not an invitation. The text is not repeated, because it may hold a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It begins differently.
    #[error(
        "this is not an invitation that this version understands: \
         `agent-server invite` prints one, and it begins with `inv1_`"
    )]
    Prefix,
    /// Its end is missing, or a character is wrong.
    #[error("the invitation is cut short or damaged: copy all of it, from `inv1_` to its end")]
    Damaged,
}

impl FromStr for Token {
    type Err = TokenError;

    /// Parses what [`Token::reveal`] wrote, ignoring white space around it.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let encoded = text
            .trim()
            .strip_prefix(Self::PREFIX)
            .ok_or(TokenError::Prefix)?;
        let bytes = BASE64_URL_SAFE_NO_PAD
            .decode(encoded)
            .map_err(|_| TokenError::Damaged)?;
        Self::decode(&bytes).ok_or(TokenError::Damaged)
    }
}

impl Token {
    fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, sum) = bytes.split_last_chunk()?;
        if checksum(body) != *sum {
            return None;
        }
        let (server, rest) = body.split_first_chunk()?;
        let (secret, rest) = rest.split_first_chunk()?;
        Some(Self {
            server: Fingerprint::from_bytes(*server),
            secret: Secret(*secret),
            expires: u64::from_be_bytes(rest.try_into().ok()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        Token::new(Fingerprint::from_bytes([7; 32]), u64::MAX)
    }

    #[test]
    fn is_read_as_it_was_revealed() {
        let token = token();
        let read: Token = format!(" {}\n", token.reveal()).parse().unwrap();
        assert_eq!(read.server, token.server);
        assert_eq!(read.secret.hash(), token.secret.hash());
        assert_eq!(read.expires, token.expires);
        assert!(!read.seems_expired());

        let old = Token::new(token.server, 0);
        let read: Token = old.reveal().parse().unwrap();
        assert!(read.seems_expired());
    }

    #[test]
    fn is_not_read_when_cut_or_changed_anywhere() {
        let text = token().reveal();
        for end in 0..text.len() {
            let expected = if end < Token::PREFIX.len() {
                TokenError::Prefix
            } else {
                TokenError::Damaged
            };
            assert_eq!(text[..end].parse::<Token>().unwrap_err(), expected);
        }
        for index in Token::PREFIX.len()..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[index] = if changed[index] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(
                changed.parse::<Token>().unwrap_err(),
                TokenError::Damaged,
                "{index}"
            );
        }
        assert_eq!("".parse::<Token>().unwrap_err(), TokenError::Prefix);
        assert_eq!("inv2_AA".parse::<Token>().unwrap_err(), TokenError::Prefix);
        assert_eq!("inv1_ü".parse::<Token>().unwrap_err(), TokenError::Damaged);
    }

    #[test]
    fn secrets_do_not_show() {
        let token = token();
        let serialized = serde_json::to_string(&token.secret).unwrap();
        let base64 = serialized.trim_matches('"');
        assert!(token.reveal().len() > base64.len());
        assert_eq!(format!("{:?}", token.secret), "Secret(redacted)");
        assert!(format!("{token:#?}").contains("Secret(redacted)"));
        assert!(!format!("{token:?}").contains(base64));

        let read: Secret = serde_json::from_str(&serialized).unwrap();
        assert_eq!(read.hash(), token.secret.hash());
        let short = format!("\"{}\"", &base64[1..]);
        let error = serde_json::from_str::<Secret>(&short).unwrap_err();
        assert!(!error.to_string().contains(&base64[1..]), "{error}");
    }
}
