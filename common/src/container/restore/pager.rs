//! The process that gives a restored container its memory.
//!
//! Memory that has come ahead of a checkpoint waits in a tmpfs of its own, at `/run/live-migration/memory/ID`.
//! The agent starts a pager before the outage: the agent's own executable by another name, in a scope of its own,
//! which opens the socket that CRIU connects to and waits. Once CRIU has connected it needs nobody: it ends when
//! the container has all its memory, and takes the tmpfs with it. It holds a lock there meanwhile.
//!
//! If it ends before that, its guardian freezes the container ([`memory::pager`]).

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::time::{Duration, Instant};

use memory::pager::{self, Sources};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::command;
use crate::container::checkpoint::freezer::Freezer;
use crate::lock::Lock;
use crate::{host, paths, systemd};

/// Name under which the agent's executable is started as a pager.
pub const PAGER_NAME: &str = "memory-pager";

/// Says that a pager holds the memory's place, in it.
const LOCK: &str = "lock";

/// Of the memory that a host has left, what may be used for memory that goes ahead. It moves into the
/// container's processes afterwards.
const SHARE: [u64; 2] = [3, 4];

/// How long a pager may take to be ready, and to end when nothing is left to do.
const START_LIMIT: Duration = Duration::from_secs(10);
const END_LIMIT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(5);

/// The interval at which the guardian looks whether a container that it has frozen is gone.
const LOOK: Duration = Duration::from_secs(1);

/// Memory of a container that goes ahead.
#[derive(Debug, Clone)]
pub struct Place {
    directory: PathBuf,
    /// The container.
    id: String,
}

/// How many bytes of memory could come ahead to this host; 0 if its kernel cannot have processes wait for
/// memory.
pub fn room_bytes() -> u64 {
    if !pager::works() {
        return 0;
    }
    host::memory::available_bytes() / SHARE[1] * SHARE[0]
}

/// Whether a container's memory is still arriving in its processes. It cannot be checkpointed then: CRIU
/// would take what is missing for zeros.
pub fn is_filling(id: &str) -> bool {
    let place = Place::of(id);
    place.directory.join(LOCK).exists() && place.lock().is_none()
}

/// The containers whose memory is still arriving in their processes.
///
/// # Errors
/// If the places of memory cannot be listed.
pub fn filling() -> io::Result<Vec<String>> {
    let mut filling = places()?;
    filling.retain(|id| is_filling(id));
    Ok(filling)
}

/// The containers whose memory has a place.
fn places() -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(root()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut places = Vec::new();
    for entry in entries {
        places.extend(entry?.file_name().into_string().ok());
    }
    Ok(places)
}

/// Removes what pagers that were killed have left.
///
/// # Errors
/// If a file system cannot be unmounted.
pub fn sweep() -> io::Result<()> {
    let left = places()?.into_iter().filter(|id| !is_filling(id));
    left.map(|id| Place::of(&id))
        .try_for_each(|place| place.discard())
}

fn root() -> PathBuf {
    Path::new(paths::RUN_DIR).join("memory")
}

impl Place {
    /// That of the container with this id.
    pub fn of(id: &str) -> Self {
        Place {
            directory: root().join(id),
            id: id.to_owned(),
        }
    }

    /// Makes an empty one, for so many bytes. Undone by [`Place::discard`].
    ///
    /// # Errors
    /// If it cannot be made, and if a pager still serves this container.
    pub fn prepare(&self, limit_bytes: u64) -> io::Result<memory::store::Store> {
        if is_filling(&self.id) {
            let why = "memory that came with an earlier migration is still arriving";
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, why));
        }
        self.discard()?;
        let mut builder = std::fs::DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        // The store has the same limit, and says so better. What a file needs besides its pages comes on top.
        let options = format!(
            "mode=0700,size={}",
            limit_bytes + limit_bytes / 16 + (1 << 20)
        );
        let (kind, options) = (Some("tmpfs"), Some(options.as_str()));
        mount(kind, &self.directory, kind, flags, options)?;
        Ok(memory::store::Store::new(
            self.directory.clone(),
            limit_bytes,
        ))
    }

    /// Removes it and all that is in it. Harmless if it does not exist. A pager that reads in it can go on.
    ///
    /// # Errors
    /// If it cannot be unmounted.
    pub fn discard(&self) -> io::Result<()> {
        use nix::errno::Errno;
        loop {
            match umount2(&self.directory, MntFlags::MNT_DETACH) {
                // One could be mounted over another.
                Ok(()) => {}
                Err(Errno::EINVAL | Errno::ENOENT) => break,
                Err(error) => return Err(error.into()),
            }
        }
        match std::fs::remove_dir_all(&self.directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn lock(&self) -> Option<Lock> {
        Lock::try_exclusive(&self.directory.join(LOCK))
            .ok()
            .flatten()
    }
}

/// A pager that this process has started.
#[derive(Debug)]
pub struct Pager {
    process: Child,
    /// Closed when no restore will begin any more.
    owner: Option<ChildStdin>,
}

/// Starts a pager for this container, whose images will be in `images` and whose restore will have `bundle` as
/// its work directory. It listens when this returns. Blocks.
///
/// It ends when the container has its memory, or when its [`Pager`] is dropped before a restore begins.
///
/// # Errors
/// If it does not start.
pub fn start(place: &Place, images: &Path, bundle: &Path) -> io::Result<Pager> {
    let mut process = command::blocking("/proc/self/exe")
        .arg0(PAGER_NAME)
        .arg(&place.id)
        .arg(images)
        .arg(bundle)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut ready = process.stdout.take().expect("it is piped");
    let mut pager = Pager {
        owner: process.stdin.take(),
        process,
    };
    // It says something or ends. Neither takes long, but a host may be busy.
    let mut polled = [nix::poll::PollFd::new(
        ready.as_fd(),
        nix::poll::PollFlags::POLLIN,
    )];
    let limit = nix::poll::PollTimeout::try_from(START_LIMIT).map_err(io::Error::other)?;
    nix::poll::poll(&mut polled, limit)?;
    let said = polled[0].any().unwrap_or(false) && ready.read(&mut [0])? == 1;
    if !said {
        pager.end();
        return Err(io::Error::other("the pager did not start"));
    }
    Ok(pager)
}

impl Pager {
    /// Whether it has ended without having done its work.
    pub fn has_failed(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(Some(status)) if !status.success())
    }

    /// Waits until it has ended, and makes it end if no restore has begun or nothing of it is left. Blocks.
    pub fn end(&mut self) {
        self.owner = None;
        let deadline = Instant::now() + END_LIMIT;
        while matches!(self.process.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.process.kill();
                let _ = self.process.wait();
                return;
            }
            std::thread::sleep(POLL);
        }
    }

    /// Leaves it alone: the container runs, and it ends by itself.
    pub fn leave(mut self) {
        // Somebody must collect its exit status.
        std::thread::spawn(move || self.process.wait());
    }
}

/// Acts as the pager. Returns its exit status.
pub fn run(arguments: &[OsString]) -> i32 {
    let [id, images, bundle] = arguments else {
        eprintln!("{PAGER_NAME}: a container's id, its images and its bundle are expected");
        return 2;
    };
    let place = Place::of(&id.to_string_lossy());
    match serve(&place, Path::new(images), Path::new(bundle)) {
        Ok(summary) => {
            tracing::info!(
                container = place.id,
                processes = summary.processes,
                faults = summary.faults,
                bytes = summary.bytes,
                unmapped_bytes = summary.unmapped_bytes,
                ms = summary.filled_in.as_millis() as u64,
                "its memory is complete"
            );
            0
        }
        Err(error) => {
            tracing::error!(container = place.id, "{error:#}");
            1
        }
    }
}

fn serve(place: &Place, images: &Path, bundle: &Path) -> anyhow::Result<pager::Summary> {
    // Fails if this process leads a group already, and then has nothing to leave.
    let _ = nix::unistd::setsid();
    let scope = format!("live-migration-memory-{}", std::process::id());
    if let Err(error) = systemd::enter_scope(&scope) {
        tracing::warn!("the pager ends with the agent: {error}");
    }
    // A container that waits for its memory must not lose it to the search for memory. Needs CAP_SYS_RESOURCE.
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", "-1000") {
        tracing::debug!("the pager may be killed when memory is short: {error}");
    }
    // Held to the end of this process and of its guardian.
    std::mem::forget(be_alone(place)?);
    // The address of a socket must be shorter than the path of a bundle.
    std::env::set_current_dir(bundle)?;
    let _ = std::fs::remove_file(pager::SOCKET);
    let listener = UnixListener::bind(pager::SOCKET)?;
    std::env::set_current_dir("/")?;
    io::stdout().write_all(b"\n")?;
    io::stdout().flush()?;
    let sources = Sources {
        store: &place.directory,
        images,
    };
    let stop = || stop(place);
    let served = pager::serve(listener, io::stdin().as_fd(), sources, &stop);
    let _ = std::fs::remove_file(bundle.join(pager::SOCKET));
    let whole = matches!(served, Ok(_) | Err(pager::PagerError::GivenUp));
    // Otherwise the guardian does it, when the container is gone.
    if whole && let Err(error) = place.discard() {
        tracing::warn!("{}: {error}", place.directory.display());
    }
    Ok(served?)
}

/// Locks out other pagers. Looking for one takes the lock for a moment, which must not be mistaken for one.
fn be_alone(place: &Place) -> anyhow::Result<Lock> {
    let deadline = Instant::now() + START_LIMIT / 2;
    loop {
        match place.lock() {
            Some(lock) => return Ok(lock),
            None if Instant::now() < deadline => std::thread::sleep(POLL),
            None => anyhow::bail!("the container's memory has another pager"),
        }
    }
}

/// Freezes a container that has lost its pager, and returns once its processes are gone.
fn stop(place: &Place) {
    let mut said = false;
    while let Some(cgroup) = Freezer::of_container(&place.id)
        && !cgroup.processes().is_empty()
    {
        // Again and again: a restore may thaw it at its end.
        if let Err(error) = cgroup.stop() {
            tracing::error!(container = place.id, "it cannot be frozen: {error}");
        } else if !std::mem::replace(&mut said, true) {
            tracing::error!(
                container = place.id,
                "its pager ended before it had all its memory: it is frozen and cannot go on; remove it"
            );
        }
        std::thread::sleep(LOOK);
    }
    if let Err(error) = place.discard() {
        tracing::warn!("{}: {error}", place.directory.display());
    }
}
