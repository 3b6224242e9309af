//! File systems that several hosts have at the same time.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use serde::{Deserialize, Serialize};

/// File systems of servers, by the names that the kernel has for them. Inode numbers and times of change
/// are the server's. Those of a device that two hosts can see are not among them: a copy of a device has
/// all that the device has.
const OF_SERVERS: [&str; 6] = ["nfs", "nfs4", "ceph", "fuse.glusterfs", "cifs", "smb3"];

/// Names of servers that are others on each host.
const OWN_HOST: [&str; 4] = ["localhost", "127.", "[::1]", "::1"];

/// What tells a directory or file on a server from all others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shared {
    /// The server and what it exports.
    pub server: String,
    /// The path in it.
    pub path: PathBuf,
    /// The inode's number.
    pub inode: u64,
    /// Time of the last change, in seconds and nanoseconds, by the server's clock.
    pub changed: (i64, u32),
}

impl Shared {
    /// What is at `path`, which has no symbolic link in it, if it is on a server. Asks the server. Blocks.
    pub fn at(path: &Path) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
        let (server, within) = on_server(&mounts, path)?;
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::STATX_FORCE_SYNC;
        let found = statx(CWD, path, flags, StatxFlags::BASIC_STATS).ok()?;
        Some(Shared {
            server,
            path: within,
            inode: found.stx_ino,
            changed: (found.stx_ctime.tv_sec, found.stx_ctime.tv_nsec),
        })
    }

    /// Makes what is at `path` recognizable: the time of its last change is now. Nothing else of it
    /// changes, but a server may not let root do even that. Blocks.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn mark(path: &Path) -> io::Result<()> {
        let mode = fs::metadata(path)?.permissions().mode();
        fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o7777))
    }

    /// Whether this, as another host has seen it, is what this host now sees as `here`. It may have changed
    /// since.
    pub fn is(&self, here: &Shared) -> bool {
        let of = |shared: &Shared| (shared.server.clone(), shared.path.clone(), shared.inode);
        of(self) == of(here) && here.changed >= self.changed
    }
}

/// The server, and the path there, of `path`; `mounts` is as in proc_pid_mountinfo(5).
fn on_server(mounts: &str, path: &Path) -> Option<(String, PathBuf)> {
    let mount = mounts.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        let point = PathBuf::from(plain(fields.get(4)?));
        let rest = path.strip_prefix(&point).ok()?.to_owned();
        Some((point.components().count(), fields, rest))
    });
    // The last one hides those before it.
    let (_, fields, rest) = mount.max_by_key(|(depth, ..)| *depth)?;
    let end = fields.iter().position(|field| *field == "-")?;
    let [kind, source, options] = fields.get(end + 1..end + 4)?.try_into().ok()?;
    if !OF_SERVERS.contains(&kind) {
        return None;
    }
    let source = plain(source);
    let address = options
        .split(',')
        .find_map(|option| option.strip_prefix("addr="));
    let server = match (address, source.rsplit_once(":/")) {
        (Some(address), Some((_, export))) => format!("{address}:/{export}"),
        _ => source,
    };
    let own = OWN_HOST.iter().any(|name| server.starts_with(name));
    let within = Path::new(&plain(fields[3])).join(rest);
    (!own).then_some((server, within))
}

/// Undoes the kernel's escapes.
pub(super) fn plain(field: &str) -> String {
    let escapes = [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ];
    let replaced = escapes.iter();
    replaced.fold(field.to_owned(), |text, (escape, byte)| {
        text.replace(escape, byte)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
        1 0 254:0 / / rw - ext4 /dev/vda rw\n\
        2 1 0:50 /team /srv/a\\040b rw,relatime shared:3 - nfs4 nas:/export rw,vers=4.2,addr=192.0.2.7\n\
        3 1 0:51 / /gluster rw - fuse.glusterfs 192.0.2.8:vol rw\n\
        4 1 0:52 / /own rw - nfs4 localhost:/x rw,addr=127.0.0.1\n\
        5 2 8:1 / /srv/a\\040b/disk rw - ext4 /dev/sda1 rw\n";

    #[test]
    fn a_server_is_known_by_its_address() {
        let of = |path: &str| on_server(MOUNTS, Path::new(path));
        let found = |server: &str, path: &str| Some((server.to_owned(), PathBuf::from(path)));
        assert_eq!(of("/srv/a b/c"), found("192.0.2.7:/export", "/team/c"));
        assert_eq!(of("/gluster/d"), found("192.0.2.8:vol", "/d"));
        for other in ["/srv", "/srv/a b/disk/x", "/own/x", "/glusterx"] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn a_change_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let time = || {
            let found = statx(
                CWD,
                dir.path(),
                AtFlags::STATX_FORCE_SYNC,
                StatxFlags::BASIC_STATS,
            );
            let found = found.unwrap();
            (
                found.stx_ctime.tv_sec,
                found.stx_ctime.tv_nsec,
                found.stx_mtime.tv_nsec,
            )
        };
        let (before_s, before_ns, written) = time();
        std::thread::sleep(std::time::Duration::from_millis(20));
        Shared::mark(dir.path()).unwrap();
        let (after_s, after_ns, still) = time();
        assert!((after_s, after_ns) > (before_s, before_ns) && written == still);
        let seen = |changed| Shared {
            server: "s".into(),
            path: "/".into(),
            inode: 7,
            changed,
        };
        assert!(seen((1, 5)).is(&seen((1, 5))) && seen((1, 5)).is(&seen((2, 0))));
        assert!(!seen((1, 5)).is(&seen((1, 4))));
        let other = Shared {
            inode: 8,
            ..seen((1, 5))
        };
        assert!(!seen((1, 5)).is(&other));
    }
}
