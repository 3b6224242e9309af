//! The key that identifies a host.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::{
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    sign::CertifiedKey,
};

use crate::{error::Error, fingerprint::Fingerprint, peers, private, tls};

/// A host's private key, and the certificate that TLS wants around its public half.
#[derive(Clone)]
pub struct Identity {
    name: String,
    fingerprint: Fingerprint,
    certified_key: Arc<CertifiedKey>,
}

impl Identity {
    /// Reads the key from `host.key` in `dir`, or creates one on first use.
    ///
    /// The file is PKCS#8 in PEM ([RFC 5958]), mode 0600, in a directory of mode 0700. If several
    /// processes start at once, one creates the key and the others read it. Only the key is kept:
    /// the certificate is signed afresh each time, with `name` as its common name, and peers check
    /// nothing in it but the key. Removing the file gives the host a new identity at its next
    /// start, and every peer has to pair again.
    ///
    /// # Errors
    ///
    /// [`Error::Exposed`] if others could have read the key, [`Error::Key`] if it is unusable,
    /// [`Error::Name`], [`Error::Io`].
    ///
    /// [RFC 5958]: https://www.rfc-editor.org/rfc/rfc5958
    pub fn load_or_create(dir: &Path, name: &str) -> Result<Self, Error> {
        peers::check_name(name)?;
        private::prepare_dir(dir)?;
        let path = dir.join("host.key");
        loop {
            if let Some(pem) = private::read(&path)? {
                return Self::from_pem(&pem, name).map_err(|reason| Error::Key { path, reason });
            }
            let pem = new_key(&path)?;
            // Whether this key is there now or one that came first: read it back.
            private::create(dir, &path, &pem)?;
        }
    }

    fn from_pem(pem: &str, name: &str) -> Result<Self, String> {
        let key = KeyPair::from_pem(pem).map_err(|error| error.to_string())?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params
            .self_signed(&key)
            .map_err(|error| error.to_string())?
            .der()
            .clone();

        let fingerprint = Fingerprint::of(&certificate).map_err(|error| error.to_string())?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let certified_key = CertifiedKey::from_der(vec![certificate], key, &tls::provider())
            .map_err(|error| error.to_string())?;
        Ok(Self {
            name: name.to_owned(),
            fingerprint,
            certified_key: Arc::new(certified_key),
        })
    }

    /// The name this host gives itself.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the other side pins.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    pub(crate) fn certified_key(&self) -> Arc<CertifiedKey> {
        self.certified_key.clone()
    }
}

/// An ECDSA key on P-256, which every tool that a person may want to inspect it with can read.
fn new_key(path: &Path) -> Result<String, Error> {
    KeyPair::generate()
        .map(|key| key.serialize_pem())
        .map_err(|error| Error::Key {
            path: PathBuf::from(path),
            reason: error.to_string(),
        })
}

impl fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Identity")
            .field("name", &self.name)
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
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

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn is_the_same_at_every_start_and_private() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("state");
        let first = Identity::load_or_create(&dir, "one").unwrap();
        let second = Identity::load_or_create(&dir, "renamed").unwrap();
        assert_eq!(first.fingerprint(), second.fingerprint());
        assert_eq!(second.name(), "renamed");
        assert_eq!(mode(&dir), 0o700);
        assert_eq!(mode(&dir.join("host.key")), 0o600);
        assert_eq!(
            fs::read_dir(&dir).unwrap().count(),
            1,
            "nothing is left over"
        );
    }

    #[test]
    fn is_one_however_many_make_it_at_once() {
        let root = tempfile::tempdir().unwrap();
        let fingerprints: Vec<_> = thread::scope(|scope| {
            let makers: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| Identity::load_or_create(root.path(), "host").unwrap()))
                .collect();
            makers
                .into_iter()
                .map(|maker| maker.join().unwrap().fingerprint())
                .collect()
        });
        assert!(fingerprints.iter().all(|each| *each == fingerprints[0]));
    }

    #[test]
    fn an_exposed_key_is_refused() {
        let root = tempfile::tempdir().unwrap();
        Identity::load_or_create(root.path(), "host").unwrap();
        let path = root.path().join("host.key");
        for exposed in [0o640, 0o604] {
            fs::set_permissions(&path, Permissions::from_mode(exposed)).unwrap();
            let error = Identity::load_or_create(root.path(), "host").unwrap_err();
            assert!(matches!(error, Error::Exposed { mode, .. } if mode == exposed));
            assert!(error.to_string().contains("chmod go-rwx"), "{error}");
        }
    }

    #[test]
    fn a_directory_that_others_write_to_is_refused() {
        let root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), Permissions::from_mode(0o770)).unwrap();
        let error = Identity::load_or_create(root.path(), "host").unwrap_err();
        assert!(matches!(error, Error::Exposed { mode: 0o770, .. }));
    }

    #[test]
    fn a_damaged_key_is_refused_and_kept() {
        let root = tempfile::tempdir().unwrap();
        Identity::load_or_create(root.path(), "host").unwrap();
        let path = root.path().join("host.key");
        fs::write(&path, "nonsense").unwrap();
        let error = Identity::load_or_create(root.path(), "host").unwrap_err();
        assert!(matches!(error, Error::Key { .. }), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "nonsense");
    }

    #[test]
    fn debug_shows_no_key() {
        let root = tempfile::tempdir().unwrap();
        let identity = Identity::load_or_create(root.path(), "host").unwrap();
        let expected = format!(
            "Identity {{ name: \"host\", fingerprint: {:?}, .. }}",
            identity.fingerprint()
        );
        assert_eq!(format!("{identity:?}"), expected);
    }
}
