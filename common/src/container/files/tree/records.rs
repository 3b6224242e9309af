//! What an entry says beyond its header.

use std::ffi::OsString;
use std::io::{self, Read};

use nix::sys::time::TimeSpec;
use tar::Entry;

pub(super) const OPAQUE: &str = "LIVEMIGRATION.opaque";
pub(super) const XATTR: &str = "SCHILY.xattr.";
const OVERLAY_XATTR: &str = "trusted.overlay.";

/// Attributes that each host gives by itself: where Podman mounts with `context=` the label of SELinux
/// cannot even be set (`selinux_inode_setxattr` in Linux' security/selinux/hooks.c), and the
/// measurements of IMA and EVM are signed with a key of the host's (evm_protected_xattrs).
const OF_THE_HOST: [&str; 3] = ["security.selinux", "security.ima", "security.evm"];

/// Whether the attribute `name` goes with its file.
pub(super) fn travels(name: &str) -> bool {
    !name.starts_with(OVERLAY_XATTR) && !OF_THE_HOST.contains(&name)
}

/// What an entry's PAX header says.
pub(super) struct Records {
    pub(super) opaque: bool,
    pub(super) mtime: TimeSpec,
    pub(super) xattrs: Vec<(OsString, Vec<u8>)>,
}

impl Records {
    pub(super) fn read<R: Read>(entry: &mut Entry<R>) -> io::Result<Self> {
        let mut records = Records {
            opaque: false,
            mtime: TimeSpec::new(entry.header().mtime()? as i64, 0),
            xattrs: Vec::new(),
        };
        for record in entry.pax_extensions()?.into_iter().flatten() {
            let record = record?;
            let key = record.key().map_err(invalid)?;
            let value = record.value_bytes();
            if key == OPAQUE {
                records.opaque = true;
            } else if key == "mtime" {
                records.mtime = std::str::from_utf8(value)
                    .ok()
                    .and_then(parse_time)
                    .ok_or_else(|| invalid("bad mtime"))?;
            } else if let Some(name) = key.strip_prefix(XATTR).filter(|name| travels(name)) {
                records.xattrs.push((name.into(), value.to_vec()));
            }
        }
        Ok(records)
    }
}

fn parse_time(text: &str) -> Option<TimeSpec> {
    let (seconds, nanoseconds) = text.split_once('.')?;
    Some(TimeSpec::new(
        seconds.parse().ok()?,
        nanoseconds.parse().ok()?,
    ))
}

pub(super) fn invalid(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
