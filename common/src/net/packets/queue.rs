//! Packets of a quarantined container wait instead of being dropped.
//!
//! In the quarantine every packet is handed to a netfilter queue. The kernel keeps the packets there, in
//! order, until it is told what to do with them: so a peer waits for the outage only, and not also for its
//! own retransmission timer. The queue belongs to this process. If that dies, the kernel drops what is
//! queued and what would be, so the quarantine stays as tight as without a queue.
//!
//! Packets that are to leave through a tunnel also wait like this while their path gets shorter
//! ([`crate::net::packets::keep_order`]).
//!
//! Requests: include/uapi/linux/netfilter/nfnetlink_queue.h. They are written out here because the crate
//! `nfq` needs a buffer for each waiting packet, and releases them one by one.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{setsockopt, sockopt};

use crate::container::checkpoint::drain;
use crate::net::kernel::netns::{self, EnterError};

use crate::net::kernel::nfnetlink::{Message, Nfnetlink};

/// Numbers of the queues in the container's namespace: for packets that come, and for those that the
/// container sends. There are two because an application that has sent much may not read on until that
/// has left.
pub(crate) const ARRIVING: u16 = 0xC114;
pub(crate) const LEAVING: u16 = 0xC115;

/// The calling thread's namespace, for it and others.
const HERE: &str = "/proc/thread-self/ns/net";

/// Most packets that may wait in a queue; further ones are dropped. Anybody who can send to the container can
/// fill it: with some 2.3 KiB for a full packet that is 135 MiB. Older kernels have no other limit; Linux 6.18.44 holds
/// no more than 65,536, whatever it is told.
pub(crate) const MOST_PACKETS: u32 = 60_000;

/// Room for one message of the queue.
const DATAGRAM_BYTES: usize = 8192;

/// Receive buffer for the kernel's messages about packets, in bytes.
const RECEIVE_BUFFER: usize = 16 << 20;

const NFNL_SUBSYS_QUEUE: u16 = 3;
const NFQNL_MSG_CONFIG: u16 = NFNL_SUBSYS_QUEUE << 8 | 2;
const NFQNL_MSG_VERDICT_BATCH: u16 = NFNL_SUBSYS_QUEUE << 8 | 3;
const NFQA_CFG_CMD: u16 = 1;
const NFQA_CFG_PARAMS: u16 = 2;
const NFQA_CFG_QUEUE_MAXLEN: u16 = 3;
const NFQA_CFG_MASK: u16 = 4;
const NFQA_CFG_FLAGS: u16 = 5;
const NFQA_CFG_F_GSO: u32 = 4;
const NFQNL_CFG_CMD_BIND: u8 = 1;
const NFQNL_COPY_META: u8 = 1;
const NFQA_VERDICT_HDR: u16 = 2;
const NF_ACCEPT: u32 = 1;
const NFQA_PACKET_HDR: u16 = 1;

/// How many packets are released at once, and how many bytes a UDP socket may still have unread when the
/// next are: released all at once, packets that the socket has no room for would be lost.
const STEP_PACKETS: u32 = 128;
const UNREAD_BYTES: u64 = 64 << 10;

/// Pause between reads of the kernel's messages while packets wait, in ms. The receive buffer has room for
/// some ten thousand of them.
const GATHER: u8 = 5;

/// How long to wait for an application that reads nothing at all.
const READER_LIMIT: Duration = Duration::from_millis(200);

/// There can be no queue.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The namespace is gone, or may not be entered.
    #[error(transparent)]
    Enter(#[from] EnterError),
    /// The kernel refused, or has no such queues.
    #[error("cannot queue packets: {0}")]
    Queue(#[from] io::Error),
}

/// What becomes of the packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// They wait.
    Hold,
    /// They pass, those that have waited first.
    Pass,
    /// The owner is gone.
    End,
}

/// What has become of packets in queues.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// They have waited, or still do.
    pub held: u64,
    /// There was no room for them.
    pub dropped: u64,
}

/// What the owner of a [`Hold`] and its thread tell each other.
struct Shared {
    mode: Mutex<Mode>,
    /// Signalled when the mode changes.
    changed: EventFd,
    /// Whether those that waited have passed, and others no longer wait for readers.
    caught_up: AtomicBool,
    /// Whether all packets that the thread knows of have passed.
    idle: AtomicBool,
}

/// The queued packets of one network namespace.
///
/// Dropping it drops the packets that still wait, and those that would be queued later.
pub struct PacketQueue {
    netns: PathBuf,
    numbers: Vec<u16>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl PacketQueue {
    /// Takes the queues of the container's namespace at `netns`.
    pub(crate) fn begin(netns: &Path) -> Result<Self, QueueError> {
        PacketQueue::of(netns, Some(ARRIVING), LEAVING)
    }

    /// Takes one queue of the calling thread's namespace. Its packets do not wait for readers.
    pub(crate) fn begin_here(number: u16) -> Result<Self, QueueError> {
        PacketQueue::of(Path::new(HERE), None, number)
    }

    fn of(netns: &Path, arriving: Option<u16>, leaving: u16) -> Result<Self, QueueError> {
        let queues = netns::in_netns(netns, || {
            // Joined datagrams are split, because packets are released by number and nothing says how
            // many are joined. Large segments that leave stay whole: split, they would take many times
            // the room.
            let arriving = arriving.map(|number| Queue::bind(number, 0));
            let leaving = Queue::bind(leaving, NFQA_CFG_F_GSO)?;
            Ok::<_, io::Error>((arriving.transpose()?, leaving))
        })??;
        let shared = Arc::new(Shared {
            mode: Mutex::new(Mode::Hold),
            changed: EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)
                .map_err(io::Error::from)?,
            caught_up: AtomicBool::new(false),
            idle: AtomicBool::new(false),
        });
        let (entered, theirs) = (netns.to_owned(), shared.clone());
        let thread = std::thread::Builder::new()
            .name("packet-queue".into())
            .spawn(move || {
                let (incoming, outgoing) = queues;
                if let Err(error) = netns::in_netns(&entered, || keep(incoming, outgoing, &theirs))
                {
                    tracing::error!("{error}");
                }
            })?;
        Ok(PacketQueue {
            netns: netns.to_owned(),
            numbers: arriving.into_iter().chain([leaving]).collect(),
            shared,
            thread: Some(thread),
        })
    }

    /// Releases all packets that wait, in the order they came and as fast as they are read, and then
    /// those that come from now on. Returns at once.
    pub fn release(&self) {
        self.set(Mode::Pass);
    }

    /// Waits, for at most `limit`, until those that waited have passed, and others pass as they come. Returns
    /// whether they do.
    pub fn wait_until_caught_up(&self, limit: Duration) -> bool {
        wait(limit, || self.shared.caught_up.load(Ordering::SeqCst))
    }

    /// Waits, for at most `limit`, until all have passed. Returns whether they have. Call it when no more come.
    ///
    /// # Errors
    /// If the namespace is gone.
    pub fn wait_until_empty(&self, limit: Duration) -> Result<bool, QueueError> {
        // The kernel's count first: a packet that it no longer counts is still on its way until the thread
        // is idle again.
        let empty =
            || packets_waiting(&self.numbers) == 0 && self.shared.idle.load(Ordering::SeqCst);
        Ok(netns::in_netns(&self.netns, || wait(limit, empty))?)
    }

    /// What has become of packets so far; `None` if the kernel does not say it.
    ///
    /// # Errors
    /// If the namespace is gone.
    pub fn count(&self) -> Result<Option<Count>, QueueError> {
        Ok(netns::in_netns(&self.netns, || {
            count(&table(), &self.numbers)
        })?)
    }

    fn set(&self, mode: Mode) {
        *self.shared.mode.lock().expect("not poisoned") = mode;
        // Fails only if the counter overflows, and then the thread wakes all the same.
        let _ = self.shared.changed.write(1);
    }
}

impl Drop for PacketQueue {
    fn drop(&mut self) {
        self.set(Mode::End);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn wait(limit: Duration, done: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while !done() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

/// One of the queues, and its progress.
struct Queue {
    netlink: Nfnetlink,
    number: u16,
    /// Number of the packet that came last.
    newest: u32,
    /// Number of the packet that was released last.
    gone: u32,
}

impl Queue {
    fn bind(number: u16, flags: u32) -> io::Result<Self> {
        let netlink = Nfnetlink::open()?;
        setsockopt(&netlink, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
        let config = || Message::new(NFQNL_MSG_CONFIG, 0, number);

        let mut command = config();
        command.attribute(NFQA_CFG_CMD, &[NFQNL_CFG_CMD_BIND, 0, 0, 0]);
        netlink.request(command)?;
        let mut parameters = config();
        parameters.attribute(NFQA_CFG_PARAMS, &[0, 0, 0, 0, NFQNL_COPY_META]);
        parameters.attribute(NFQA_CFG_QUEUE_MAXLEN, &MOST_PACKETS.to_be_bytes());
        parameters.attribute(NFQA_CFG_FLAGS, &flags.to_be_bytes());
        parameters.attribute(NFQA_CFG_MASK, &NFQA_CFG_F_GSO.to_be_bytes());
        netlink.request(parameters)?;
        Ok(Queue {
            netlink,
            number,
            newest: 0,
            gone: 0,
        })
    }

    /// Reads the kernel's messages about packets, so that there is always room for the next. `ENOBUFS`
    /// and the like only mean that some were lost.
    fn follow(&mut self, buffer: &mut Vec<u8>) {
        while self.netlink.receive_waiting(buffer).is_ok() {
            self.newest = packet(buffer).unwrap_or(self.newest);
        }
    }

    fn waiting(&self) -> u32 {
        self.newest.wrapping_sub(self.gone)
    }

    /// Releases the packets that came first, at most `most` of them.
    fn let_go(&mut self, most: u32) {
        if self.waiting() == 0 {
            return;
        }
        self.gone = self.gone.wrapping_add(self.waiting().min(most));
        let mut verdict = Message::new(NFQNL_MSG_VERDICT_BATCH, 0, self.number);
        let header = [NF_ACCEPT.to_be_bytes(), self.gone.to_be_bytes()].concat();
        verdict.attribute(NFQA_VERDICT_HDR, &header);
        let _ = self.netlink.tell(verdict);
    }
}

/// Keeps track of the packets that come, and releases them when asked.
fn keep(mut arriving: Option<Queue>, mut leaving: Queue, shared: &Shared) {
    let mut buffer = Vec::with_capacity(DATAGRAM_BYTES);
    let mut pace = Pace::default();
    loop {
        leaving.follow(&mut buffer);
        let mut to_come = 0;
        if let Some(arriving) = &mut arriving {
            arriving.follow(&mut buffer);
            to_come = arriving.waiting();
        }
        let empty = to_come == 0 && leaving.waiting() == 0;
        let mode = *shared.mode.lock().expect("not poisoned");
        match mode {
            Mode::End => return,
            Mode::Pass if !empty => {
                shared.idle.store(false, Ordering::SeqCst);
                leaving.let_go(u32::MAX);
                let caught_up = pace.has_caught_up(to_come);
                shared.caught_up.store(caught_up, Ordering::SeqCst);
                let Some(arriving) = &mut arriving else {
                    continue;
                };
                if caught_up {
                    arriving.let_go(u32::MAX);
                } else {
                    wait_for_readers(&mut leaving, &mut buffer);
                    arriving.let_go(STEP_PACKETS);
                }
            }
            Mode::Pass | Mode::Hold => {
                let passing = mode == Mode::Pass;
                shared.idle.store(passing, Ordering::SeqCst);
                shared.caught_up.fetch_or(passing, Ordering::SeqCst);
                wait_for_news(arriving.iter().chain([&leaving]), &shared.changed);
                if !passing {
                    // Waking this thread for each packet would cost too much in a flood.
                    wait_for_mode(&shared.changed, GATHER);
                }
                let _ = shared.changed.read();
            }
        }
    }
}

/// Decides how long packets are released only as fast as they are read. Others come meanwhile: if they
/// come faster than that, some are lost, as they would be anywhere.
struct Pace {
    /// The fewest packets that waited, and since when.
    fewest: (u32, Instant),
    caught_up: bool,
}

impl Default for Pace {
    fn default() -> Self {
        Pace {
            fewest: (u32::MAX, Instant::now()),
            caught_up: false,
        }
    }
}

impl Pace {
    /// Whether that is over, now that so many packets wait. It never begins again.
    fn has_caught_up(&mut self, waiting: u32) -> bool {
        if waiting < self.fewest.0 {
            self.fewest = (waiting, Instant::now());
        }
        self.caught_up |= waiting <= STEP_PACKETS || self.fewest.1.elapsed() > READER_LIMIT;
        self.caught_up
    }
}

/// What the kernel says of the queues of this thread's network namespace.
fn table() -> String {
    let table = std::fs::read_to_string("/proc/thread-self/net/netfilter/nfnetlink_queue");
    table.unwrap_or_default()
}

/// A column of the lines for these queues (seq_show in the kernel's net/netfilter/nfnetlink_queue.c, which begins with
/// the queue's number).
fn column<'a>(
    table: &'a str,
    numbers: &'a [u16],
    column: usize,
) -> impl Iterator<Item = u64> + use<'a> {
    table.lines().filter_map(move |line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let number: u16 = columns.first()?.parse().ok()?;
        let value = columns.get(column)?.parse().ok()?;
        numbers.contains(&number).then_some(value)
    })
}

/// How many packets the kernel has in these queues.
fn packets_waiting(numbers: &[u16]) -> u64 {
    column(&table(), numbers, 2).sum()
}

/// What has become of packets in these queues: those that found no room in it or on the way to its owner, and the number
/// of the last one.
fn count(table: &str, numbers: &[u16]) -> Option<Count> {
    let sum = |of| column(table, numbers, of).reduce(|one, other| one + other);
    Some(Count {
        held: sum(7)?,
        dropped: sum(5)? + sum(6)?,
    })
}

/// Waits for a packet or for another mode.
fn wait_for_news<'a>(queues: impl Iterator<Item = &'a Queue>, changed: &'a EventFd) {
    let any = queues.map(|queue| queue.netlink.as_fd());
    let any = any.chain([changed.as_fd()]);
    let mut any: Vec<_> = any.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    let _ = poll(&mut any, PollTimeout::NONE);
}

/// Waits for another mode, at most for so many milliseconds.
fn wait_for_mode(changed: &EventFd, limit_ms: u8) {
    let _ = poll(
        &mut [PollFd::new(changed.as_fd(), PollFlags::POLLIN)],
        limit_ms,
    );
}

/// Number of the packet that a message is about; they are numbered from 1 in the order they came.
/// Its header is the first attribute (nfqnl_build_packet_message in the kernel's
/// net/netfilter/nfnetlink_queue.c).
pub(crate) fn packet(message: &[u8]) -> Option<u32> {
    let kind = u16::from_ne_bytes(message.get(22..24)?.try_into().ok()?);
    let number = u32::from_be_bytes(message.get(24..28)?.try_into().ok()?);
    (kind == NFQA_PACKET_HDR).then_some(number)
}

/// Waits until no UDP socket of this thread's network namespace has much to read; TCP does not lose
/// what it has no room for. What applications send leaves meanwhile, or they might not read on. Gives up
/// on those that do not read.
fn wait_for_readers(leaving: &mut Queue, buffer: &mut Vec<u8>) {
    let (mut last, mut since) = (u64::MAX, Instant::now());
    loop {
        let unread = drain::most_unread_datagram_bytes();
        if unread < last {
            (last, since) = (unread, Instant::now());
        }
        if unread <= UNREAD_BYTES || since.elapsed() > READER_LIMIT {
            return;
        }
        leaving.follow(buffer);
        leaving.let_go(u32::MAX);
        std::thread::sleep(Duration::from_micros(200));
    }
}
