//! The invitations a host has given out.

use std::{path::Path, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    error::Error,
    fingerprint::Fingerprint,
    store::Store,
    token::{Secret, Token, unix_now},
};

/// How long an invitation is remembered after its expiry, so that a latecomer is told why.
const REMEMBERED: u64 = 7 * 24 * 60 * 60;

/// Why an invitation is not accepted. May be sent to whoever tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// There never was such an invitation, or it is long past.
    #[error("this host gave out no such invitation: run `agent-server invite` for a new one")]
    Unknown,
    /// It has paired a host already.
    #[error("the invitation has been used: run `agent-server invite` for a new one")]
    Used,
    /// It has expired.
    #[error("the invitation has expired: run `agent-server invite` for a new one")]
    Expired,
}

#[derive(Debug, Serialize, Deserialize)]
struct Invite {
    /// BLAKE3 of the secret, in hexadecimal.
    hash: String,
    /// In seconds since 1970.
    expires: u64,
    /// Kept after use, so that a second try is told so.
    used: bool,
}

impl Invite {
    fn matches(&self, secret: &blake3::Hash) -> bool {
        // This type compares digests in constant time.
        blake3::Hash::from_hex(&self.hash).is_ok_and(|hash| hash == *secret)
    }

    fn is_open(&self) -> bool {
        !self.used && unix_now() < self.expires
    }
}

/// The invitations that were given out: `invites.json` in a directory, mode 0600, with a hash of
/// each secret and never the secret.
#[derive(Debug, Clone)]
pub struct Invites {
    store: Store<Invite>,
}

impl Invites {
    /// The invitations in `dir`, which is created (mode 0700) if it is missing.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]; [`Error::Exposed`] if others may write to the directory.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        Ok(Self {
            store: Store::open(dir, "invites.json")?,
        })
    }

    /// Invites one host to pair with the host whose key is `server`, within `ttl` from now.
    ///
    /// The token is the only copy of the secret. Undone when it is used, when it expires, or by
    /// removing the file, which withdraws all invitations.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`], [`Error::Exposed`], [`Error::Io`].
    pub fn create(&self, ttl: Duration, server: Fingerprint) -> Result<Token, Error> {
        let now = unix_now();
        let token = Token::new(server, now.saturating_add(ttl.as_secs()));
        self.store.update(|invites| {
            invites.retain(|invite| now < invite.expires.saturating_add(REMEMBERED));
            invites.push(Invite {
                hash: token.secret.hash().to_string(),
                expires: token.expires,
                used: false,
            });
            Ok(())
        })?;
        Ok(token)
    }

    /// Uses up the invitation with this secret.
    ///
    /// It is marked as used on disk before this returns `Ok`, under a lock: of several attempts at
    /// once, one succeeds. There is no way back: if a later step fails, a new invitation is needed.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with the reason; otherwise as [`Invites::create`].
    pub fn redeem(&self, secret: &Secret) -> Result<(), Error> {
        let hash = secret.hash();
        self.store.update(|invites| {
            let invite = invites
                .iter_mut()
                .find(|invite| invite.matches(&hash))
                .ok_or(Refusal::Unknown)?;
            if invite.used {
                return Err(Refusal::Used.into());
            }
            if !invite.is_open() {
                return Err(Refusal::Expired.into());
            }
            invite.used = true;
            Ok(())
        })
    }

    /// Whether there is an invitation that can still be used.
    ///
    /// # Errors
    ///
    /// As [`Invites::create`].
    pub fn any_open(&self) -> Result<bool, Error> {
        Ok(self.store.read()?.iter().any(Invite::is_open))
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, thread};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const SERVER: [u8; 32] = [1; 32];

    fn invites() -> (tempfile::TempDir, Invites) {
        let dir = tempfile::tempdir().unwrap();
        let invites = Invites::open(dir.path()).unwrap();
        (dir, invites)
    }

    fn create(invites: &Invites, ttl: Duration) -> Token {
        let server = Fingerprint::from_bytes(SERVER);
        invites.create(ttl, server).unwrap()
    }

    fn refusal(outcome: Result<(), Error>) -> Refusal {
        match outcome {
            Err(Error::Refused(refusal)) => refusal,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_invitation_works_once() {
        let (_dir, invites) = invites();
        assert!(!invites.any_open().unwrap());
        let token = create(&invites, HOUR);
        assert!(invites.any_open().unwrap());
        invites.redeem(&token.secret).unwrap();
        assert!(!invites.any_open().unwrap());
        assert_eq!(refusal(invites.redeem(&token.secret)), Refusal::Used);
    }

    #[test]
    fn wrong_and_expired_ones_are_told_apart_and_use_up_nothing() {
        let (_dir, invites) = invites();
        let late = create(&invites, Duration::ZERO);
        assert!(!invites.any_open().unwrap());
        let good = create(&invites, HOUR);
        assert_eq!(refusal(invites.redeem(&Secret::random())), Refusal::Unknown);
        assert_eq!(refusal(invites.redeem(&late.secret)), Refusal::Expired);
        invites.redeem(&good.secret).unwrap();
    }

    #[test]
    fn of_many_at_once_exactly_one_wins() {
        let (dir, invites) = invites();
        let token = create(&invites, HOUR);
        let outcomes: Vec<_> = thread::scope(|scope| {
            let tries: Vec<_> = (0..8)
                .map(|_| {
                    let own = Invites::open(dir.path()).unwrap();
                    let secret = &token.secret;
                    scope.spawn(move || own.redeem(secret))
                })
                .collect();
            tries.into_iter().map(|each| each.join().unwrap()).collect()
        });
        let (won, lost): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
        assert_eq!(won.len(), 1);
        assert!(lost.into_iter().all(|each| refusal(each) == Refusal::Used));
    }

    #[test]
    fn only_a_hash_is_kept_and_only_for_a_while() {
        let (dir, invites) = invites();
        let token = create(&invites, HOUR);
        let path = dir.path().join("invites.json");
        let text = fs::read_to_string(&path).unwrap();
        let secret = serde_json::to_string(&token.secret).unwrap();
        assert!(!text.contains(secret.trim_matches('"')));
        assert!(text.contains(&token.secret.hash().to_string()));
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        invites
            .store
            .update(|invites| {
                invites[0].expires = unix_now() - REMEMBERED;
                Ok(())
            })
            .unwrap();
        create(&invites, HOUR);
        assert_eq!(invites.store.read().unwrap().len(), 1);
        assert_eq!(refusal(invites.redeem(&token.secret)), Refusal::Unknown);
    }
}
