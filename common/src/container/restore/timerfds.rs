//! Repairs timer descriptors in CRIU's images before they are restored.
//!
//! A periodic timerfd that has expired stands still until it is read: only then does the kernel arm it
//! for its next period (`timerfd_read` in fs/timerfd.c), and until then it shows no remaining time but
//! at least one expiration. A frozen container reads nothing, so sooner or later each of its periodic
//! timers is found like that. CRIU restores the remaining time that it has seen, zero, so the timer
//! stays off for ever (`timerfd_arm` in criu/pie/restorer.c). For the timers of setitimer(2) and
//! timer_create(2) it does better and lets them run for a whole period (criu/timer.c); the same is done
//! here. The expirations that it has seen are restored, so none of the missed time is lost.
//!
//! A timer that was set to an absolute time also shows its remaining time, but CRIU adds the whole
//! seconds of the clock to it, so it would expire up to a second early. As a relative time it is
//! right. A timer that is cancelled when the clock is set must stay absolute.
//!
//! Format: criu/include/magic.h, images/fdinfo.proto and images/timerfd.proto in CRIU; Protocol Buffers'
//! wire format.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use memory::protobuf::{Value, fields, write_varint};

/// What all images but a few begin with, followed by the magic of this one (`IMG_COMMON_MAGIC`,
/// `FILES_MAGIC`).
const MAGIC: [u32; 2] = [0x5456_4319, 0x5630_3138];

/// Longest plausible entry, in bytes: the longest ones contain a path.
const LONGEST: u32 = 1 << 20;

/// Number of the field `tfd` in `file_entry`.
const TIMERFD: u64 = 12;

/// Numbers of the fields of `timerfd_entry`.
const TICKS: u64 = 5;
const SETTIME_FLAGS: u64 = 6;
const VALUE: [u64; 2] = [7, 8];
const INTERVAL: [u64; 2] = [9, 10];

/// `TFD_TIMER_ABSTIME` and `TFD_TIMER_CANCEL_ON_SET`: timerfd_create(2).
const ABSOLUTE: u64 = 1;
const CANCEL_ON_SET: u64 = 2;

/// The image of the open files cannot be repaired. It is unchanged.
#[derive(Debug, thiserror::Error)]
pub enum TimerfdError {
    /// A file failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not in the format of CRIU's images.
    #[error("{}: not an image of open files", .0.display())]
    Format(PathBuf),
}

/// Repairs the timer descriptors in the images of this directory, and returns how many. Not undone:
/// the images are for one restore. Blocks.
///
/// # Errors
/// If the image cannot be read or written, or is not one.
pub fn mend(images: &Path) -> Result<usize, TimerfdError> {
    let path = images.join("files.img");
    let fail = |source: io::Error| match source.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
            TimerfdError::Format(path.clone())
        }
        _ => TimerfdError::Io {
            path: path.clone(),
            source,
        },
    };
    let image = match File::open(&path) {
        Ok(image) => image,
        // The container has no open files at all.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(fail(error)),
    };
    let new = images.join("files.img.new");
    // Readable by root only, like the file it replaces.
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o600);
    let written = options.open(&new).and_then(|file| copy(image, file));
    match written {
        Ok(0) => std::fs::remove_file(&new).map(|()| 0),
        Ok(mended) => std::fs::rename(&new, &path).map(|()| mended),
        Err(error) => {
            let _ = std::fs::remove_file(&new);
            Err(error)
        }
    }
    .map_err(fail)
}

/// Copies an image, repairing timers on the way.
pub(crate) fn copy(image: impl Read, new: impl Write) -> io::Result<usize> {
    let (mut image, mut new) = (BufReader::new(image), BufWriter::new(new));
    for magic in MAGIC {
        if number(&mut image)? != Some(magic) {
            return Err(invalid());
        }
        new.write_all(&magic.to_le_bytes())?;
    }
    let mut mended = 0;
    let mut entry = Vec::new();
    while let Some(length) = number(&mut image)? {
        if length > LONGEST {
            return Err(invalid());
        }
        entry.resize(length as usize, 0);
        image.read_exact(&mut entry)?;
        let other = mended_entry(&entry).ok_or_else(invalid)?;
        mended += usize::from(other.is_some());
        let entry = other.as_deref().unwrap_or(&entry);
        new.write_all(&(entry.len() as u32).to_le_bytes())?;
        new.write_all(entry)?;
    }
    new.flush()?;
    Ok(mended)
}

fn invalid() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

/// The next four bytes as a number; `None` at the end.
fn number(image: &mut impl Read) -> io::Result<Option<u32>> {
    let mut bytes = [0; 4];
    if image.read(&mut bytes[..1])? == 0 {
        return Ok(None);
    }
    image.read_exact(&mut bytes[1..])?;
    Ok(Some(u32::from_le_bytes(bytes)))
}

/// The repaired entry of a file, if it needs repair; the outer `None` if it is not an entry.
#[expect(clippy::option_option, reason = "no entry, or nothing to change")]
fn mended_entry(entry: &[u8]) -> Option<Option<Vec<u8>>> {
    let mut new = Vec::new();
    let mut changed = false;
    for field in fields(entry)? {
        let timer = match field.value {
            Value::Bytes(bytes) if field.number == TIMERFD => mended_timer(bytes)?,
            _ => None,
        };
        match timer {
            Some(timer) => {
                changed = true;
                write_varint(&mut new, TIMERFD << 3 | 2);
                write_varint(&mut new, timer.len() as u64);
                new.extend(timer);
            }
            None => new.extend(field.whole),
        }
    }
    Some(changed.then_some(new))
}

#[expect(clippy::option_option, reason = "no timer, or nothing to change")]
fn mended_timer(timer: &[u8]) -> Option<Option<Vec<u8>>> {
    let fields = fields(timer)?;
    let of = |number: u64| {
        let mut found = fields.iter().filter(|field| field.number == number);
        match found.next_back()?.value {
            Value::Number(value) => Some(value),
            Value::Bytes(_) => None,
        }
    };
    let zero = |numbers: [u64; 2]| numbers.iter().all(|number| of(*number) == Some(0));
    // A timer that the program has turned off has not expired since.
    let expired = zero(VALUE) && !zero(INTERVAL) && of(TICKS)? > 0;
    let flags = of(SETTIME_FLAGS)?;
    let early = flags & (ABSOLUTE | CANCEL_ON_SET) == ABSOLUTE && (expired || !zero(VALUE));
    if !expired && !early {
        return Some(None);
    }
    let mut new = Vec::new();
    for field in &fields {
        let value = match field.number {
            SETTIME_FLAGS if early => flags & !ABSOLUTE,
            number if expired && VALUE.contains(&number) => of(number - VALUE[0] + INTERVAL[0])?,
            _ => {
                new.extend(field.whole);
                continue;
            }
        };
        write_varint(&mut new, field.number << 3);
        write_varint(&mut new, value);
    }
    Some(Some(new))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fields 5 to 10 of a timer, between others.
    fn entry(numbers: [u64; 6]) -> Vec<u8> {
        let mut timer = vec![0x08, 3, 0x10, 0x82, 0x20, 0x1a, 2, 0x08, 0, 0x20, 1];
        for (field, value) in (5..).zip(numbers) {
            write_varint(&mut timer, field << 3);
            write_varint(&mut timer, value);
        }
        let mut entry = vec![0x08, 17, 0x10, 3];
        write_varint(&mut entry, TIMERFD << 3 | 2);
        write_varint(&mut entry, timer.len() as u64);
        entry.extend(timer);
        entry
    }

    fn image(entries: &[Vec<u8>]) -> Vec<u8> {
        let mut image: Vec<u8> = MAGIC.iter().flat_map(|m| m.to_le_bytes()).collect();
        for entry in entries {
            image.extend((entry.len() as u32).to_le_bytes());
            image.extend(entry);
        }
        image
    }

    #[test]
    fn one_that_has_expired_goes_on() {
        let period = 250_000_000;
        // ticks, flags, value, interval.
        for (before, after) in [
            ([1, 0, 0, 0, 0, period], [1, 0, 0, period, 0, period]),
            ([3, 0, 0, 0, 7, 0], [3, 0, 7, 0, 7, 0]),
            // Set to an absolute time.
            ([1, 1, 0, 0, 0, period], [1, 0, 0, period, 0, period]),
            ([0, 1, 5, 9, 0, 0], [0, 0, 5, 9, 0, 0]),
            // To be cancelled when the clock is set.
            ([1, 3, 0, 0, 0, period], [1, 3, 0, period, 0, period]),
        ] {
            let mended = mended_entry(&entry(before)).unwrap();
            assert_eq!(mended, Some(entry(after)), "{before:?}");
        }
    }

    #[test]
    fn others_stay_as_they_are() {
        for same in [
            // Running; turned off; a one-shot timer that has expired.
            [0, 0, 0, 5, 0, 9],
            [2, 0, 0, 5, 0, 9],
            [0, 0, 0, 0, 0, 9],
            [0, 1, 0, 0, 0, 9],
            [1, 0, 0, 0, 0, 0],
            [0, 3, 5, 5, 0, 0],
        ] {
            assert_eq!(mended_entry(&entry(same)), Some(None), "{same:?}");
        }
        assert_eq!(mended_entry(&[0x08, 1, 0x10, 2, 0x1a, 1, 7]), Some(None));
    }

    #[test]
    fn an_image_is_mended_in_place() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(mend(dir.path()).unwrap(), 0);
        let path = dir.path().join("files.img");
        let other = vec![0x08, 1, 0x10, 2];
        let before = image(&[other.clone(), entry([1, 0, 0, 0, 0, 9]), other.clone()]);
        std::fs::write(&path, before).unwrap();
        assert_eq!(mend(dir.path()).unwrap(), 1);
        let after = image(&[other.clone(), entry([1, 0, 0, 9, 0, 9]), other]);
        assert_eq!(std::fs::read(&path).unwrap(), after);
        assert_eq!(mend(dir.path()).unwrap(), 0);

        for cut in 0..after.len() {
            std::fs::write(&path, &after[..cut]).unwrap();
            let _ = mend(dir.path());
            assert_eq!(std::fs::read(&path).unwrap(), after[..cut]);
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        }
        for bytes in [&b"no image"[..], &[&after[..], &[0xff; 9]].concat()] {
            std::fs::write(&path, bytes).unwrap();
            assert!(matches!(mend(dir.path()), Err(TimerfdError::Format(_))));
        }
    }
}
