//! What an entry says beyond its header, as records of a PAX extended header (pax(1), "pax Extended
//! Header").
//!
//! A record has a length, so a value may hold any bytes: whoever looks for the end of its line instead
//! takes part of an attribute that a container made for a record of ours.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use nix::sys::time::TimeSpec;
use tar::{Builder, EntryType, Header};

use super::invalid;
use crate::container::files::entries::MOST_EXTENSION;

const MTIME: &[u8] = b"mtime";
/// Empty this directory first.
const OPAQUE: &[u8] = b"LIVEMIGRATION.opaque";
/// Remove what has this name.
const WHITEOUT: &[u8] = b"LIVEMIGRATION.whiteout";
/// Of a file of which pieces follow, as in [`super::contents`]: its size.
const SIZE: &[u8] = b"LIVEMIGRATION.size";
/// The pieces change the file that an earlier pass has brought.
const PATCH: &[u8] = b"LIVEMIGRATION.patch";
/// An extended attribute: its name, a zero, its value. Names may hold any byte but zero.
const XATTR: &[u8] = b"LIVEMIGRATION.xattr";

/// Attributes that each host gives by itself: where Podman mounts with `context=` the label of SELinux
/// cannot even be set (`selinux_inode_setxattr` in Linux' security/selinux/hooks.c), and the
/// measurements of IMA and EVM are signed with a key of the host's (evm_protected_xattrs).
const OF_THE_HOST: [&str; 3] = ["security.selinux", "security.ima", "security.evm"];

/// Whether the attribute `name` goes with its file.
pub(super) fn travels(name: &OsStr) -> bool {
    !OF_THE_HOST.iter().any(|own| name == *own)
}

/// What an entry says beyond its header.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Records {
    pub(super) opaque: bool,
    pub(super) whiteout: bool,
    pub(super) mtime: Option<TimeSpec>,
    pub(super) size: Option<u64>,
    pub(super) patch: bool,
    pub(super) xattrs: Vec<(OsString, Vec<u8>)>,
}

impl Records {
    /// Writes them; the entry that they belong to comes next.
    ///
    /// # Errors
    /// Those of the sink, and one if they take more than a reader accepts.
    pub(super) fn write<W: Write>(&self, builder: &mut Builder<W>) -> io::Result<()> {
        let mut bytes = Vec::new();
        if let Some(mtime) = self.mtime {
            let text = format!("{}.{:09}", mtime.tv_sec(), mtime.tv_nsec());
            record(&mut bytes, MTIME, text.as_bytes());
        }
        if self.opaque {
            record(&mut bytes, OPAQUE, b"1");
        }
        if self.whiteout {
            record(&mut bytes, WHITEOUT, b"1");
        }
        if let Some(size) = self.size {
            record(&mut bytes, SIZE, size.to_string().as_bytes());
        }
        if self.patch {
            record(&mut bytes, PATCH, b"1");
        }
        for (name, value) in &self.xattrs {
            record(&mut bytes, XATTR, &[name.as_bytes(), b"\0", value].concat());
        }
        if bytes.len() as u64 > MOST_EXTENSION {
            let why = format!("its extended attributes take more than {MOST_EXTENSION} bytes");
            return Err(invalid(why));
        }
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        builder.append(&header, bytes.as_slice())
    }

    /// Reads what [`Records::write`] wrote. Fails if there is anything else in it.
    pub(crate) fn parse(mut bytes: &[u8]) -> io::Result<Self> {
        let mut records = Records::default();
        while !bytes.is_empty() {
            let (key, value) = split_off(&mut bytes).ok_or_else(|| invalid("malformed record"))?;
            let number = || std::str::from_utf8(value).ok();
            match key {
                MTIME => {
                    let mtime = number().and_then(parse_time);
                    records.mtime = Some(mtime.ok_or_else(|| invalid("bad mtime"))?);
                }
                OPAQUE => records.opaque = true,
                WHITEOUT => records.whiteout = true,
                PATCH => records.patch = true,
                SIZE => {
                    let size = number().and_then(|size| size.parse().ok());
                    records.size = Some(size.ok_or_else(|| invalid("bad size"))?);
                }
                XATTR => {
                    let end = value.iter().position(|byte| *byte == 0);
                    let end = end.ok_or_else(|| invalid("an attribute without a name"))?;
                    let name = OsString::from_vec(value[..end].to_vec());
                    if travels(&name) {
                        records.xattrs.push((name, value[end + 1..].to_vec()));
                    }
                }
                other => {
                    let name = OsStr::from_bytes(other);
                    return Err(invalid(format!("unexpected record {name:?}")));
                }
            }
        }
        Ok(records)
    }
}

/// Adds a record. Its length counts itself.
fn record(bytes: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + b" =\n".len();
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    bytes.extend_from_slice(length.to_string().as_bytes());
    bytes.push(b' ');
    bytes.extend_from_slice(key);
    bytes.push(b'=');
    bytes.extend_from_slice(value);
    bytes.push(b'\n');
}

/// Takes the first record off: its key and its value.
fn split_off<'a>(bytes: &mut &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
    let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
    let (record, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..]))
}

fn parse_time(text: &str) -> Option<TimeSpec> {
    let (seconds, nanoseconds) = text.split_once('.')?;
    Some(TimeSpec::new(
        seconds.parse().ok()?,
        nanoseconds.parse().ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn written(records: &Records) -> io::Result<Vec<u8>> {
        let mut builder = Builder::new(Vec::new());
        records.write(&mut builder)?;
        let archive = builder.into_inner()?;
        let mut bytes = Vec::new();
        let mut archive = tar::Archive::new(archive.as_slice());
        let mut entries = archive.entries()?.raw(true);
        entries.next().unwrap()?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    #[test]
    fn any_bytes_come_back() {
        for length in [0, 1, 60, 61, 62, 63, 70, 71, 72, 900, 960, 970, 9900, 65536] {
            let mut value = vec![b'\n'; length];
            value.extend(b"\n18 path=log\n\0=\xff");
            let name = OsString::from_vec(b"user.\xff\n=a=\n12 b".to_vec());
            let records = Records {
                opaque: true,
                mtime: Some(TimeSpec::new(-7, 5)),
                size: Some(u64::MAX),
                xattrs: vec![(name, value), ("user.empty".into(), Vec::new())],
                ..Records::default()
            };
            let bytes = written(&records).unwrap();
            assert_eq!(Records::parse(&bytes).unwrap(), records);
        }
    }

    #[test]
    fn what_is_not_of_ours_is_refused() {
        for bytes in [
            &b"12 path=log\n"[..],
            b"10 size=1\n",
            b"14 linkpath=x\n",
            b"30 LIVEMIGRATION.opaque=1\n",
            b"26 LIVEMIGRATION.opaque=1x",
            b"1 ",
            b"0 ",
            b"-5 a=b\n",
            b"99999999999999999999 a=b\n",
            b"6 ab\n\n",
            b"27 LIVEMIGRATION.xattr=user\n",
            b"14 mtime=soon\n",
            b"\n",
        ] {
            let text = String::from_utf8_lossy(bytes);
            assert!(Records::parse(bytes).is_err(), "{text}");
        }
    }

    #[test]
    fn more_than_a_reader_accepts_is_not_written() {
        let attribute = |n| (OsString::from(format!("user.{n}")), vec![0; 65536]);
        let records = Records {
            xattrs: (0..17).map(attribute).collect(),
            ..Records::default()
        };
        assert!(written(&records).is_err());
    }
}
