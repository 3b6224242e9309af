//! Where the operator of a destination lets its peers bind and put things.

use std::path::{Path, PathBuf};

/// Directories below which paired hosts may bind what is there into their containers, and send what their
/// containers have bound.
#[derive(Debug, Clone, Default)]
pub struct Allowed(Vec<PathBuf>);

impl Allowed {
    /// Below these directories, which need not exist yet.
    pub fn below(directories: Vec<PathBuf>) -> Self {
        Allowed(directories)
    }

    /// Whether `path` is one of them or below one. Links are followed, those in the directories' names too.
    pub fn has(&self, path: &Path) -> bool {
        let real = real(path);
        let mut directories = self.0.iter();
        directories.any(|directory| real.starts_with(self::real(directory)))
    }
}

/// The path with no symbolic link in that part of it which exists.
pub fn real(path: &Path) -> PathBuf {
    let found = path.ancestors().find_map(|existing| {
        let rest = path.strip_prefix(existing).ok()?;
        Some(existing.canonicalize().ok()?.join(rest))
    });
    found.unwrap_or_else(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let own = root.join("own");
        std::fs::create_dir_all(own.join("deep")).unwrap();
        std::os::unix::fs::symlink("/etc", own.join("link")).unwrap();
        std::os::unix::fs::symlink(&own, root.join("alias")).unwrap();
        let allowed = Allowed::below(vec![root.join("alias")]);
        for inside in ["own", "own/deep", "own/not/yet", "alias/deep"] {
            assert!(allowed.has(&root.join(inside)), "{inside}");
        }
        for outside in ["", "owner", "own/link", "own/link/passwd"] {
            assert!(!allowed.has(&root.join(outside)), "{outside}");
        }
        assert!(!allowed.has(Path::new("/etc")));
        assert!(!Allowed::default().has(&own));
    }
}
