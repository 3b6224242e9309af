//! What cannot be dumped of a file that a process has open.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// Descriptors without a file that CRIU can dump (`dump_one_file` in criu/files.c).
const KNOWN: [&str; 8] = [
    "[eventpoll]",
    "[eventfd]",
    "inotify",
    "[fanotify]",
    "[signalfd]",
    "[timerfd]",
    "[pidfd]",
    "bpf-map",
];

/// Major numbers of character devices that CRIU can dump: memory (/dev/null and the like), consoles and
/// terminals (`dump_chrdev` in criu/files.c).
const KNOWN_DEVICES: [u64; 3] = [1, 4, 5];
/// Major numbers of pseudo-terminals.
const PSEUDO_TERMINALS: std::ops::RangeInclusive<u64> = 136..=143;
/// Major and minor number of tun.
const TUN: (u64, u64) = (10, 200);

/// The kernel's names of protocols whose sockets CRIU can dump (`collect_sockets` in criu/sockets.c,
/// `can_dump_ipproto` in criu/sk-inet.c).
const KNOWN_PROTOCOLS: [&str; 14] = [
    "UNIX",
    "UNIX-STREAM",
    "TCP",
    "TCPv6",
    "UDP",
    "UDPv6",
    "UDP-Lite",
    "UDPLITEv6",
    "RAW",
    "RAWv6",
    "PING",
    "PINGv6",
    "PACKET",
    "NETLINK",
];

/// What sockfs tells of a socket: its protocol's name (`sockfs_xattr_get` in the kernel's net/socket.c).
const PROTOCOL: &str = "system.sockprotoname";

/// What cannot be dumped of the file behind a descriptor in `/proc/PID/fd`.
pub(super) fn descriptor(path: &Path) -> Option<String> {
    let target = fs::read_link(path).ok()?;
    let target = target.to_string_lossy();
    if let Some(kind) = target.strip_prefix("anon_inode:") {
        return (!KNOWN.contains(&kind)).then(|| match kind {
            "[io_uring]" => "uses io_uring".to_owned(),
            kind => format!("has a descriptor of the kind {kind} open"),
        });
    }
    if target.starts_with("socket:") {
        return socket(path);
    }
    if target == "/secretmem (deleted)" {
        return Some("has memory that is hidden from the kernel itself (memfd_secret)".to_owned());
    }
    if is_process_directory(&target) {
        return Some(format!("has the directory {target} open"));
    }
    let file = fs::metadata(path).ok()?;
    let (major, minor) = (nix::libc::major(file.rdev()), nix::libc::minor(file.rdev()));
    if is_unknown_device(&file.file_type(), major.into(), minor.into()) {
        return Some(format!("has the device {target} open"));
    }
    deleted(path)
}

fn is_unknown_device(kind: &fs::FileType, major: u64, minor: u64) -> bool {
    if !kind.is_char_device() {
        return kind.is_block_device();
    }
    let known = KNOWN_DEVICES.contains(&major) || PSEUDO_TERMINALS.contains(&major);
    !known && (major, minor) != TUN
}

/// A file that was deleted under one of its names and is open under that one: CRIU would have to give it
/// a name again.
pub(super) fn deleted(path: &Path) -> Option<String> {
    let target = fs::read_link(path).ok()?;
    let name = target.to_str()?.strip_suffix(" (deleted)")?.to_owned();
    let file = fs::metadata(path).ok()?;
    (file.is_file() && file.nlink() > 0)
        .then(|| format!("has {name} open, which was deleted there and has another name"))
}

fn socket(path: &Path) -> Option<String> {
    let name = xattr::get_deref(path, PROTOCOL).ok()??;
    let name = String::from_utf8_lossy(&name);
    let name = name.trim_end_matches('\0');
    (!KNOWN_PROTOCOLS.contains(&name)).then(|| match name {
        "MPTCP" | "MPTCPv6" => "has an MPTCP socket; programs in Go make them unless \
                                GODEBUG=multipathtcp=0 is set"
            .to_owned(),
        name => format!("has a socket of the protocol {name}"),
    })
}

/// CRIU would open it before the process is there.
fn is_process_directory(target: &str) -> bool {
    let pid = target.strip_prefix("/proc/").unwrap_or_default();
    !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_descriptors_are_fine() {
        let dir = tempfile::tempdir().unwrap();
        let link = |target: &str| {
            let path = dir.path().join("link");
            let _ = fs::remove_file(&path);
            std::os::unix::fs::symlink(target, &path).unwrap();
            path
        };
        assert_eq!(descriptor(&link("anon_inode:[eventpoll]")), None);
        assert_eq!(descriptor(&link("/dev/null")), None);
        assert_eq!(
            descriptor(&link("anon_inode:[io_uring]")).unwrap(),
            "uses io_uring"
        );
        assert!(descriptor(&link("anon_inode:[perf_event]")).is_some());
    }

    #[test]
    fn sockets_are_told_by_their_protocol() {
        use std::os::fd::AsRawFd;
        let said = |socket: &dyn AsRawFd| {
            let path = format!("/proc/self/fd/{}", socket.as_raw_fd());
            descriptor(Path::new(&path))
        };
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let (unix, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(said(&tcp).or_else(|| said(&unix)), None);
    }

    #[test]
    fn directories_of_processes_are_told_from_others() {
        assert!(is_process_directory("/proc/1"));
        for other in ["/proc", "/proc/", "/proc/1/fd", "/proc/sys", "/srv/1"] {
            assert!(!is_process_directory(other), "{other}");
        }
    }
}
