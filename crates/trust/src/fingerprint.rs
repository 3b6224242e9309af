//! The short form of a host's public key.

use std::{
    fmt::{self, Display, Formatter},
    str::FromStr,
};

use ring::digest;
use rustls::{pki_types::CertificateDer, server::ParsedCertificate};
use serde::{Deserialize, Serialize};

/// The SHA-256 digest of a public key in its SubjectPublicKeyInfo form, as in [RFC 7469].
///
/// It depends only on the key, not on the certificate around it. Shown as eight groups of eight
/// hexadecimal digits, so that two can be compared by eye; parsed with or without the dashes. The
/// same digits are printed by `openssl pkey -in host.key -pubout -outform DER | sha256sum`.
///
/// [RFC 7469]: https://www.rfc-editor.org/rfc/rfc7469#section-2.4
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint([u8; Self::LEN]);

impl Fingerprint {
    pub(crate) const LEN: usize = digest::SHA256_OUTPUT_LEN;

    /// Digits in a group, and the fewest that may stand for a whole fingerprint.
    const GROUP: usize = 8;

    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Result<Self, rustls::Error> {
        let key = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
        let mut bytes = [0; Self::LEN];
        bytes.copy_from_slice(digest::digest(&digest::SHA256, &key).as_ref());
        Ok(Self(bytes))
    }

    pub(crate) fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    pub(crate) fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// Whether `prefix` is the beginning of this fingerprint, and long enough not to be
    /// mistaken for a name.
    pub(crate) fn begins_with(&self, prefix: &str) -> bool {
        let digits = digits(prefix);
        digits.len() >= Self::GROUP && self.hex().starts_with(&digits)
    }

    fn hex(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

fn digits(text: &str) -> String {
    text.chars()
        .filter(|char| *char != '-')
        .map(|char| char.to_ascii_lowercase())
        .collect()
}

impl Display for Fingerprint {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        for (index, group) in self.0.chunks(Self::GROUP / 2).enumerate() {
            if index > 0 {
                formatter.write_str("-")?;
            }
            for byte in group {
                write!(formatter, "{byte:02x}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        write!(formatter, "Fingerprint({self})")
    }
}

/// A text that is not a fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a fingerprint has 64 hexadecimal digits, with or without dashes between them")]
pub struct FingerprintError;

impl FromStr for Fingerprint {
    type Err = FingerprintError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // BLAKE3's parser for hexadecimal digests works here: the digests have the same length.
        blake3::Hash::from_hex(digits(text.trim()))
            .map(|hash| Self(hash.into()))
            .map_err(|_| FingerprintError)
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = FingerprintError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_read_as_it_is_shown() {
        let fingerprint = Fingerprint(std::array::from_fn(|index| index as u8 * 7));
        let shown = fingerprint.to_string();
        assert_eq!(shown.len(), 64 + 7);
        assert_eq!(shown.parse(), Ok(fingerprint));
        assert_eq!(
            shown.replace('-', "").to_uppercase().parse(),
            Ok(fingerprint)
        );
        assert_eq!(shown[1..].parse::<Fingerprint>(), Err(FingerprintError));
        assert_eq!("".parse::<Fingerprint>(), Err(FingerprintError));

        let json = serde_json::to_string(&fingerprint).unwrap();
        assert_eq!(json, format!("\"{shown}\""));
        assert_eq!(
            serde_json::from_str::<Fingerprint>(&json).unwrap(),
            fingerprint
        );
        assert!(serde_json::from_str::<Fingerprint>("\"00\"").is_err());
    }

    #[test]
    fn a_prefix_has_at_least_one_group() {
        let fingerprint = Fingerprint([0xab; 32]);
        assert!(fingerprint.begins_with("abababab"));
        assert!(fingerprint.begins_with("ABABABAB-ab"));
        assert!(fingerprint.begins_with(&fingerprint.to_string()));
        assert!(!fingerprint.begins_with("abababa"));
        assert!(!fingerprint.begins_with("abababac"));
    }
}
