//! The parts that work independently, each in its own thread.
//!
//! A part is a step that is repeated: it gets the number of the repetition, and fails if it does
//! not find what the previous one left.

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::{Read, Write, pipe as new_pipe};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use memmap2::MmapMut;

/// The time between two steps of a part.
const PACE: Duration = Duration::from_millis(10);

/// All parts, in the order they were started.
#[derive(Default)]
pub(crate) struct Parts(Vec<Arc<Part>>);

/// What is known about one part.
pub(crate) struct Part {
    pub(crate) name: String,
    count: AtomicU64,
    fault: Mutex<Option<String>>,
}

impl Part {
    pub(crate) fn progress(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn fail(&self, fault: &impl Display) {
        println!("BROKEN {}: {fault:#}", self.name);
        *self.fault.lock().expect("no thread panics") = Some(format!("{fault:#}"));
    }

    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    pub(crate) fn fault(&self) -> Option<String> {
        self.fault.lock().expect("no thread panics").clone()
    }
}

impl Parts {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Part> {
        self.0.iter().map(|part| &**part)
    }

    /// Adds a part whose owner reports its progress.
    pub(crate) fn add(&mut self, name: &str) -> Arc<Part> {
        let part = Arc::new(Part {
            name: name.to_owned(),
            count: AtomicU64::new(0),
            fault: Mutex::new(None),
        });
        self.0.push(part.clone());
        part
    }

    /// Adds a part that repeats `step` until it fails.
    pub(crate) fn start(
        &mut self,
        name: &str,
        mut step: impl FnMut(u64) -> Result<()> + Send + 'static,
    ) {
        let part = self.add(name);
        thread::spawn(move || {
            for number in 1.. {
                if let Err(error) = step(number) {
                    return part.fail(&error);
                }
                part.progress();
                thread::sleep(PACE);
            }
        });
    }
}

/// Sleeps, and checks that no less time has passed.
pub(crate) fn timer(period: Duration) -> impl FnMut(u64) -> Result<()> {
    move |_| {
        let start = Instant::now();
        thread::sleep(period);
        let slept = start.elapsed();
        ensure!(slept >= period, "slept {slept:?} instead of {period:?}");
        Ok(())
    }
}

/// Keeps a number in a pipe: writes the next one before it reads the last.
pub(crate) fn pipe() -> Result<impl FnMut(u64) -> Result<()>> {
    let (mut reader, mut writer) = new_pipe()?;
    writer.write_all(&0_u64.to_be_bytes())?;
    Ok(move |number: u64| {
        writer.write_all(&number.to_be_bytes())?;
        expect(read_number(&mut reader)?, number - 1)
    })
}

/// Plays ping-pong with another thread over a socket pair.
pub(crate) fn socket_pair() -> Result<impl FnMut(u64) -> Result<()>> {
    let (mut ping, mut pong) = UnixStream::pair()?;
    thread::spawn(move || -> Result<()> {
        loop {
            let number = read_number(&mut pong)?;
            pong.write_all(&number.to_be_bytes())?;
        }
    });
    Ok(move |number: u64| {
        ping.write_all(&number.to_be_bytes())?;
        expect(read_number(&mut ping)?, number)
    })
}

/// Keeps the last number in a file, written through a mapping and read back as a file.
pub(crate) fn mapped_file(path: PathBuf) -> Result<impl FnMut(u64) -> Result<()>> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .open(&path)
        .with_context(|| format!("open {}", path.display()))?;
    file.set_len(8)?;
    // SAFETY: nobody else opens the file, and it is never shortened.
    let mut map = unsafe { MmapMut::map_mut(&file)? };
    Ok(move |number: u64| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&map);
        expect(u64::from_be_bytes(bytes), number - 1)?;
        map.copy_from_slice(&number.to_be_bytes());
        file.read_exact_at(&mut bytes, 0)?;
        expect(u64::from_be_bytes(bytes), number)
    })
}

/// Keeps the last number in a file that is opened by name each time.
pub(crate) fn file(path: PathBuf) -> Result<impl FnMut(u64) -> Result<()>> {
    std::fs::write(&path, 0_u64.to_be_bytes())
        .with_context(|| format!("write {}", path.display()))?;
    Ok(move |number: u64| {
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, 0)?;
        expect(u64::from_be_bytes(bytes), number - 1)?;
        Ok(file.write_all_at(&number.to_be_bytes(), 0)?)
    })
}

fn read_number(source: &mut impl Read) -> Result<u64> {
    let mut bytes = [0; 8];
    source.read_exact(&mut bytes)?;
    Ok(u64::from_be_bytes(bytes))
}

fn expect(found: u64, due: u64) -> Result<()> {
    ensure!(found == due, "found {found} where {due} was due");
    Ok(())
}
