//! Which files of a directory are hooks.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::HookError;

const EXECUTABLE: u32 = 0o111;
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// The hooks in a directory, sorted by name; none if there is no directory. As for run-parts(8), a hook is executable and
/// its name has only ASCII letters, digits, `-` and `_`: what editors and packages leave behind is none.
///
/// # Errors
/// If the directory cannot be read, or if others than root could have changed it or one of the hooks: an operator
/// relies on each of them.
pub(super) fn in_directory(directory: &Path) -> Result<Vec<PathBuf>, HookError> {
    let unreadable = |source| HookError::Unreadable {
        path: directory.to_owned(),
        source,
    };
    let not_trusted = |path: &Path, why| HookError::NotTrusted {
        path: path.to_owned(),
        why,
    };
    let entries = match std::fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(unreadable)?,
    };
    let itself = std::fs::symlink_metadata(directory).map_err(unreadable)?;
    if let Some(why) = roots_alone(&itself) {
        return Err(not_trusted(directory, why));
    }
    let mut hooks = Vec::new();
    for entry in entries {
        let entry = entry.map_err(unreadable)?;
        let (path, metadata) = (entry.path(), entry.metadata().map_err(unreadable)?);
        let name = entry.file_name();
        let executable = metadata.mode() & EXECUTABLE != 0;
        if metadata.is_dir() || !executable || !is_name(name.as_encoded_bytes()) {
            continue;
        }
        if !metadata.is_file() {
            return Err(not_trusted(&path, "it is not a regular file"));
        }
        if let Some(why) = roots_alone(&metadata) {
            return Err(not_trusted(&path, why));
        }
        hooks.push(path);
    }
    hooks.sort();
    Ok(hooks)
}

/// Why others than root could have changed a file.
fn roots_alone(metadata: &Metadata) -> Option<&'static str> {
    // Whoever may write may also make a symbolic link; its own mode says nothing.
    match () {
        () if metadata.is_symlink() => Some("it is a symbolic link"),
        () if metadata.uid() != 0 => Some("it does not belong to root"),
        () if metadata.mode() & WRITABLE_BY_OTHERS != 0 => {
            Some("others than its owner may write to it")
        }
        () => None,
    }
}

fn is_name(name: &[u8]) -> bool {
    let may = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    name.iter().all(may)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    fn put(directory: &Path, name: &str, mode: u32) -> PathBuf {
        let path = directory.join(name);
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        path
    }

    fn why(directory: &Path) -> String {
        in_directory(directory).unwrap_err().to_string()
    }

    #[test]
    fn hooks_are_executables_with_plain_names_in_order() {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: only root's files are hooks");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let hooks = dir.path();
        assert!(in_directory(&hooks.join("none")).unwrap().is_empty());
        let second = put(hooks, "20-b_c", 0o755);
        let first = put(hooks, "10-a", 0o700);
        put(hooks, "30-notes", 0o644);
        for left_behind in ["10-a~", "10-a.dpkg-old", ".hidden"] {
            put(hooks, left_behind, 0o755);
        }
        fs::create_dir(hooks.join("directory")).unwrap();
        assert_eq!(in_directory(hooks).unwrap(), [first.clone(), second]);

        // Each of these is refused, and named.
        fs::set_permissions(&first, Permissions::from_mode(0o775)).unwrap();
        let said = why(hooks);
        assert!(said.contains("10-a is not run: others"), "{said}");
        fs::set_permissions(&first, Permissions::from_mode(0o755)).unwrap();
        chown(&first, Some(1), None).unwrap();
        assert!(why(hooks).contains("does not belong to root"));
        fs::remove_file(&first).unwrap();
        symlink("/bin/true", &first).unwrap();
        assert!(why(hooks).contains("10-a is not run: it is not a regular file"));
        fs::remove_file(&first).unwrap();
        assert_eq!(in_directory(hooks).unwrap().len(), 1);
        fs::set_permissions(hooks, Permissions::from_mode(0o777)).unwrap();
        assert!(why(hooks).contains("others than its owner"));
    }
}
