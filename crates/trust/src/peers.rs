//! The hosts that this one has paired with.

use std::path::Path;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{error::Error, fingerprint::Fingerprint, store::Store};

/// A host whose key is pinned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Peer {
    /// What the host calls itself; not proven, and not unique.
    pub name: String,
    /// Its key, which identifies it.
    pub fingerprint: Fingerprint,
    /// Where it listens, as `HOST:PORT`; a client has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// When its key was pinned.
    #[serde(with = "time::serde::rfc3339")]
    pub paired_at: OffsetDateTime,
}

impl Peer {
    /// A peer that is paired as of now.
    ///
    /// # Errors
    ///
    /// [`Error::Name`] for a name that is not safe to show on a terminal or use on a command line.
    pub fn new(
        name: &str,
        fingerprint: Fingerprint,
        address: Option<String>,
    ) -> Result<Self, Error> {
        check_name(name)?;
        let now = OffsetDateTime::now_utc();
        Ok(Self {
            name: name.to_owned(),
            fingerprint,
            address,
            paired_at: now.replace_nanosecond(0).unwrap_or(now),
        })
    }

    fn answers_to(&self, wanted: &str) -> bool {
        self.name == wanted
            || self.address.as_deref() == Some(wanted)
            || self.fingerprint.begins_with(wanted)
    }
}

/// The name comes from the other host and ends up in logs and on terminals.
pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    let fits = (1..=253).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte));
    if fits {
        return Ok(());
    }
    Err(Error::Name {
        name: name.to_owned(),
    })
}

/// The list of paired hosts: `peers.json` in a directory, mode 0600.
///
/// A client keeps the servers it has pinned, a server the clients it lets in: the same kind of list
/// in different directories. The file is read again each time, so a change by another process takes
/// effect at once. It is replaced atomically under a lock, so no concurrent change is lost.
#[derive(Debug, Clone)]
pub struct Peers {
    store: Store<Peer>,
}

impl Peers {
    /// The list in `dir`, which is created (mode 0700) if it is missing. The file is created with
    /// the first peer.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]; [`Error::Exposed`] if others may write to the directory.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        Ok(Self {
            store: Store::open(dir, "peers.json")?,
        })
    }

    /// All peers, in the order they were paired.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`], [`Error::Exposed`] and [`Error::Io`], here as in every other method.
    pub fn list(&self) -> Result<Vec<Peer>, Error> {
        self.store.read()
    }

    /// The peer with this key.
    ///
    /// # Errors
    ///
    /// As [`Peers::list`].
    pub fn find(&self, fingerprint: Fingerprint) -> Result<Option<Peer>, Error> {
        let peers = self.list()?;
        Ok(peers
            .into_iter()
            .find(|peer| peer.fingerprint == fingerprint))
    }

    /// The peer at this address, written as it was when the peer was paired.
    ///
    /// # Errors
    ///
    /// As [`Peers::list`].
    pub fn find_by_address(&self, address: &str) -> Result<Option<Peer>, Error> {
        let peers = self.list()?;
        Ok(peers
            .into_iter()
            .find(|peer| peer.address.as_deref() == Some(address)))
    }

    /// Pins a key. An entry with the same key is replaced. Undone by [`Peers::remove`].
    ///
    /// # Errors
    ///
    /// [`Error::Pinned`] if another key is pinned for the address: that is never replaced unless a
    /// person says so. Otherwise as [`Peers::list`].
    pub fn add(&self, new: Peer) -> Result<(), Error> {
        self.store.update(|peers| {
            peers.retain(|peer| peer.fingerprint != new.fingerprint);
            if let Some(address) = &new.address
                && let Some(other) = peers.iter().find(|peer| peer.address == new.address)
            {
                return Err(Error::Pinned {
                    address: address.clone(),
                    name: other.name.clone(),
                    fingerprint: other.fingerprint,
                });
            }
            peers.push(new);
            Ok(())
        })
    }

    /// Removes the one peer that has this name, this address, or a fingerprint with this prefix (of
    /// at least eight digits), and returns it. Its next connection is refused; open ones are for the
    /// server to end.
    /// Undone only by pairing again.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchPeer`], [`Error::Ambiguous`], and as [`Peers::list`].
    pub fn remove(&self, wanted: &str) -> Result<Peer, Error> {
        self.store.update(|peers| {
            let matches: Vec<usize> = (0..peers.len())
                .filter(|&index| peers[index].answers_to(wanted))
                .collect();
            match matches[..] {
                [index] => Ok(peers.remove(index)),
                [] => Err(Error::NoSuchPeer {
                    wanted: wanted.to_owned(),
                }),
                _ => Err(Error::Ambiguous {
                    wanted: wanted.to_owned(),
                    matches: matches
                        .iter()
                        .map(|&index| peers[index].fingerprint)
                        .collect(),
                }),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, Permissions},
        os::unix::fs::PermissionsExt,
        thread,
    };

    use super::*;

    fn peer(name: &str, byte: u8, address: Option<&str>) -> Peer {
        let fingerprint = Fingerprint::from_bytes([byte; 32]);
        Peer::new(name, fingerprint, address.map(str::to_owned)).unwrap()
    }

    fn peers() -> (tempfile::TempDir, Peers) {
        let dir = tempfile::tempdir().unwrap();
        let peers = Peers::open(dir.path()).unwrap();
        (dir, peers)
    }

    #[test]
    fn are_found_and_removed_by_what_a_person_would_type() {
        let (dir, peers) = peers();
        let a = peer("a", 0xaa, Some("a:50051"));
        let b = peer("b", 0xbb, Some("b:50051"));
        let c = peer("c", 0xcc, None);
        for each in [&a, &b, &c] {
            peers.add(each.clone()).unwrap();
        }
        assert_eq!(peers.list().unwrap(), [a.clone(), b.clone(), c.clone()]);
        assert_eq!(peers.find(b.fingerprint).unwrap(), Some(b.clone()));
        assert_eq!(peers.find_by_address("a:50051").unwrap(), Some(a.clone()));
        assert_eq!(peers.find_by_address("c:50051").unwrap(), None);

        let mode = fs::metadata(dir.path().join("peers.json")).unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o600);

        assert_eq!(peers.remove("a").unwrap(), a);
        assert_eq!(peers.remove("b:50051").unwrap(), b);
        assert_eq!(peers.remove("cccccccc-cc").unwrap(), c);
        assert!(matches!(peers.remove("a"), Err(Error::NoSuchPeer { .. })));
        assert_eq!(peers.list().unwrap(), []);
    }

    #[test]
    fn an_ambiguous_name_removes_nothing() {
        let (_dir, peers) = peers();
        peers.add(peer("twin", 1, None)).unwrap();
        peers.add(peer("twin", 2, None)).unwrap();
        let error = peers.remove("twin").unwrap_err();
        assert!(matches!(&error, Error::Ambiguous { matches, .. } if matches.len() == 2));
        assert!(error.to_string().contains("01010101-"), "{error}");
        assert_eq!(peers.list().unwrap().len(), 2);
    }

    #[test]
    fn pairing_again_replaces_the_entry_but_never_a_key() {
        let (_dir, peers) = peers();
        peers.add(peer("old", 1, Some("a:1"))).unwrap();
        peers.add(peer("new", 1, Some("a:1"))).unwrap();
        let error = peers.add(peer("other", 2, Some("a:1"))).unwrap_err();
        assert!(matches!(error, Error::Pinned { .. }), "{error}");
        let names: Vec<_> = peers.list().unwrap().into_iter().map(|p| p.name).collect();
        assert_eq!(names, ["new"]);
    }

    #[test]
    fn concurrent_writers_lose_nothing() {
        let (dir, peers) = peers();
        thread::scope(|scope| {
            for byte in 0..16 {
                let own = Peers::open(dir.path()).unwrap();
                scope.spawn(move || own.add(peer("host", byte, None)).unwrap());
            }
        });
        assert_eq!(peers.list().unwrap().len(), 16);
    }

    #[test]
    fn a_damaged_file_is_reported_and_left_alone() {
        let (dir, peers) = peers();
        let path = dir.path().join("peers.json");
        fs::write(&path, "[{\"name\": \"a\", ").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let error = peers.add(peer("b", 1, None)).unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
        assert!(error.to_string().contains("peers.json"), "{error}");
        assert!(peers.list().is_err() && peers.remove("a").is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "[{\"name\": \"a\", ");
    }

    #[test]
    fn a_file_that_others_can_write_is_refused() {
        let (dir, peers) = peers();
        peers.add(peer("a", 1, None)).unwrap();
        let path = dir.path().join("peers.json");
        fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        assert!(matches!(peers.list(), Err(Error::Exposed { .. })));
    }

    #[test]
    fn a_name_cannot_carry_control_characters() {
        let fingerprint = Fingerprint::from_bytes([0; 32]);
        for name in ["", "a b", "\u{1b}[2J", "a\nb", &"x".repeat(254)] {
            let error = Peer::new(name, fingerprint, None).unwrap_err();
            assert!(!error.to_string().contains('\u{1b}'), "{error}");
        }
    }
}
