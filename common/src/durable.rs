//! Files that survive a crash or a power cut: whoever reads one finds either the whole old content
//! or the whole new one.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::unistd::syncfs;

use crate::faults;

/// Puts a file with this content and this mode (less the umask) at `path`, replacing any file that
/// is there. Creates the directory if need be. The file is on disk when this returns, and nothing
/// done afterwards can reach the disk without it.
///
/// The content is first written to `.NAME.new` beside it, over any draft that a crash has left
/// there. So those who replace the same file must not do so at the same time.
///
/// # Errors
/// Those of the file system. The old file is still there, unless only syncing the directory failed.
pub fn replace(path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    create_dir_all(directory)?;
    let mut draft = OsString::from(".");
    draft.push(name);
    draft.push(".new");
    let draft = directory.join(draft);
    let replaced = write(&draft, mode, content).and_then(|()| fs::rename(&draft, path));
    if replaced.is_err() {
        let _ = fs::remove_file(&draft);
    }
    replaced?;
    sync(directory)
}

/// Creates a directory, and any missing ones above it. They are on disk when this returns.
///
/// # Errors
/// Those of the file system.
pub fn create_dir_all(path: &Path) -> io::Result<()> {
    let missing = path.ancestors().take_while(|above| !above.exists()).count();
    fs::create_dir_all(path)?;
    path.ancestors().skip(1).take(missing).try_for_each(sync)
}

/// Makes a directory that only its owner may look into, or makes one that is there such a directory. Those
/// above it are made as by [`create_dir_all`]. It is on disk when this returns.
///
/// # Errors
/// Those of the file system.
pub fn create_private_dir(path: &Path) -> io::Result<()> {
    let above = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    create_dir_all(above)?;
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
        }
        made => made?,
    }
    sync(above)
}

/// Has everything that was written to the file systems of `paths` put on disk, once for each of them. What
/// is not there is passed over.
///
/// Of an overlay name a directory beside it: through one that is mounted `volatile` nothing is synced
/// (`ovl_sync_fs` in Linux' fs/overlayfs/super.c).
///
/// Blocks for as long as the disks take, also with what others have written.
///
/// # Errors
/// Those of syncfs(2): something that was written may be lost.
pub fn sync_file_systems<'a>(paths: impl IntoIterator<Item = &'a Path>) -> io::Result<()> {
    if faults::skips("disk.files") {
        return Ok(());
    }
    let mut synced = BTreeSet::new();
    for path in paths {
        let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
        let metadata = match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            metadata => metadata.map_err(named)?,
        };
        // To open anything else may have effects of its own.
        let ordinary = metadata.is_dir() || metadata.is_file();
        if ordinary && synced.insert(metadata.dev()) {
            let file = File::open(path).map_err(named)?;
            syncfs(&file).map_err(|error| named(error.into()))?;
        }
    }
    Ok(())
}

fn write(path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    // Removed first: what is left of an earlier draft may have another mode.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    file.write_all(content)?;
    if faults::skips("disk.records") {
        return Ok(());
    }
    file.sync_all()
}

/// An entry of a directory survives a power cut only once the directory itself is on disk:
/// fsync(2).
fn sync(directory: &Path) -> io::Result<()> {
    if faults::skips("disk.records") {
        return Ok(());
    }
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<OsString> {
        let entries = fs::read_dir(directory).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect()
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_file_is_replaced_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().join("made/on/the/way");
        let path = directory.join("file.json");
        replace(&path, 0o600, b"a long first version").unwrap();
        assert_eq!(mode(&path), 0o600);
        replace(&path, 0o600, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(mode(&path), 0o600);
        assert_eq!(names(&directory), ["file.json"]);
    }

    #[test]
    fn the_mode_is_the_one_that_is_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, "for all to read").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        replace(&path, 0o600, b"for root alone").unwrap();
        assert_eq!(mode(&path), 0o600);
    }

    #[test]
    fn a_private_directory_is_private_whatever_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("on/the/way");
        create_private_dir(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        create_private_dir(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
    }

    #[test]
    fn what_was_written_is_put_on_disk_wherever_it_can_be() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let nothing = dir.path().join("nothing");
        // Nobody is waited for at the FIFO.
        sync_file_systems([&fifo, &nothing, dir.path(), dir.path()]).unwrap();
    }

    #[test]
    fn what_a_crash_has_left_does_not_hinder() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        replace(&path, 0o600, b"old").unwrap();
        let draft = dir.path().join(".file.new");
        fs::write(&draft, "half of something that was longer").unwrap();
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o666)).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"old");
        replace(&path, 0o600, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(mode(&path), 0o600);
        assert_eq!(names(dir.path()), ["file"]);
    }

    #[test]
    fn whoever_reads_the_old_file_reads_it_to_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        replace(&path, 0o644, b"old").unwrap();
        let reader = File::open(&path).unwrap();
        replace(&path, 0o644, b"new").unwrap();
        assert_eq!(io::read_to_string(reader).unwrap(), "old");
    }

    #[test]
    fn what_cannot_be_replaced_stays_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("directory");
        fs::create_dir_all(path.join("full")).unwrap();
        replace(&path, 0o644, b"new").unwrap_err();
        assert!(path.join("full").exists());
        assert_eq!(names(dir.path()), ["directory"]);
    }
}
