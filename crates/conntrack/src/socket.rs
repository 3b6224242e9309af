use std::{io, time::Duration};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_netfilter::{
    NetfilterMessage, NetfilterMessageInner, conntrack::ConntrackMessage,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use crate::{
    error::{Attempt, Error, Result},
    flow::{Flow, MaskedMark},
    message,
    tuple::{Family, Key},
};

/// Room for the largest datagram: for a dump the kernel fills at most 32 KiB (netlink_dump in
/// net/netlink/af_netlink.c), and only if the reader has shown that it has that much room.
const DATAGRAM: usize = 64 * 1024;

/// How many changes are in flight at once. The kernel answers each with its own datagram, which
/// takes about 1 KiB of the receive buffer, 208 KiB by default; an answer that does not fit is
/// lost.
const WINDOW: usize = 64;

/// Which entries to list. The kernel selects them, so the others need not be copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Filter {
    /// Only this address family.
    pub family: Option<Family>,
    /// Only entries whose mark has these bits.
    pub mark: Option<MaskedMark>,
}

/// The table of one network namespace.
pub struct Conntrack {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// A message to the kernel that it answers with an acknowledgement or an error.
struct Change {
    attempt: Attempt,
    flags: u16,
    message: NetfilterMessage,
}

impl Conntrack {
    /// Opens the table of the calling thread's *current* network namespace and stays with it,
    /// whichever thread uses it later. Changes nothing; dropping it closes the socket.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] if the kernel has no netfilter netlink. Missing capabilities only
    /// show in requests.
    pub fn open() -> Result<Self> {
        let attempt = Attempt::new("open the connection tracking table");
        let open = || {
            let mut socket = Socket::new(NETLINK_NETFILTER)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            // Errors need not repeat the whole request.
            socket.set_cap_ack(true)?;
            Ok(socket)
        };
        Ok(Self {
            socket: open().map_err(|error| Error::from_io(attempt, error))?,
            sequence: 0,
            buffer: Vec::with_capacity(DATAGRAM),
        })
    }

    /// The entries that pass `filter`. Not a snapshot: entries that come or go meanwhile may or
    /// may not be listed, and one may be listed twice if the table is resized.
    ///
    /// # Errors
    ///
    /// [`Error::Permission`].
    pub fn list(&mut self, filter: Filter) -> Result<Vec<Flow>> {
        self.request(
            Attempt::new("list flows"),
            NLM_F_DUMP,
            message::list(filter.family, filter.mark),
        )
    }

    /// One entry.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::Permission`].
    pub fn get(&mut self, key: impl Into<Key>) -> Result<Flow> {
        let key = key.into();
        let attempt = Attempt::on("get", key.tuple);
        self.request(attempt, NLM_F_ACK, message::get(&key))?
            .pop()
            .ok_or(Error::NotFound(attempt))
    }

    /// Creates an entry. Undone by [`delete`](Self::delete), or by its timeout.
    ///
    /// The flow is taken as [`list`](Self::list) returns it, on this host or another: its tuples
    /// are the true ones, and the translation follows from them. From the status, `SEEN_REPLY` and
    /// `ASSURED` are taken over; the kernel decides the rest. If the flow says nothing about its
    /// TCP state, it becomes [`Tcp::established`](crate::Tcp::established); it always gets
    /// [`TcpFlags::PICKED_UP`](crate::TcpFlags::PICKED_UP).
    ///
    /// - A flow that is not translated stays so for good: no NAT rule, such as a masquerade,
    ///   ever applies to an existing entry (nf_nat_setup_info in nf_nat_core.c).
    /// - A translated flow needs a chain of type `nat`, even an empty one, in the namespace.
    ///   Without one the entry exists, but packets pass untranslated.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`] if either tuple already belongs to an entry: nothing is changed then.
    /// [`Error::Invalid`] if there is no timeout, or the families differ. [`Error::Unsupported`]
    /// for a translated flow on a kernel without NAT. [`Error::Permission`]. [`Error::Kernel`] with
    /// `ENOMEM` if the table is full.
    pub fn insert(&mut self, flow: &Flow) -> Result<()> {
        self.change(insertion(flow)?)
    }

    /// Creates many entries as [`insert`](Self::insert) does, and returns the result of each, in
    /// order. If one fails, the others are still created.
    ///
    /// # Errors
    ///
    /// The outer one: the socket failed, and it is not known which entries were created.
    pub fn insert_all<'a>(
        &mut self,
        flows: impl IntoIterator<Item = &'a Flow>,
    ) -> Result<Vec<Result<()>>> {
        self.change_all(flows.into_iter().map(insertion))
    }

    /// Changes marks of entries in place, effective for the very next packet; their translations,
    /// states and timeouts stay. Returns the result of each, in order. Undone by setting the old
    /// marks.
    ///
    /// Many requests are in flight at once: 10,000 take about a tenth of a second.
    ///
    /// # Errors
    ///
    /// For each, [`Error::NotFound`] and [`Error::Permission`].
    ///
    /// The outer one: the socket failed, and it is not known which marks were changed. Setting
    /// them again is harmless.
    pub fn set_marks<K: Into<Key>>(
        &mut self,
        marks: impl IntoIterator<Item = (K, MaskedMark)>,
    ) -> Result<Vec<Result<()>>> {
        self.change_all(marks.into_iter().map(|(key, mark)| {
            let key = key.into();
            Ok(Change {
                attempt: Attempt::on("set the mark of", key.tuple),
                flags: 0,
                message: message::set_mark(&key, mark),
            })
        }))
    }

    /// Turns off window checks for TCP connections: no segment is considered invalid for lying outside the
    /// window that the tracker knows ([`TcpFlags::BE_LIBERAL`](crate::TcpFlags::BE_LIBERAL)). Returns the
    /// result of each, in order. Not undone.
    ///
    /// # Errors
    ///
    /// The outer one: the socket failed, and it is not known which were changed.
    pub fn disable_window_checks<K: Into<Key>>(
        &mut self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<Vec<Result<()>>> {
        self.change_all(keys.into_iter().map(|key| {
            let key = key.into();
            Ok(Change {
                attempt: Attempt::on("be liberal with", key.tuple),
                flags: 0,
                message: message::disable_window_checks(&key),
            })
        }))
    }

    /// Changes the time an entry has left, in whole seconds, rounded down. The next packet resets
    /// it to the timeout of the flow's state.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::Permission`], also for an entry whose timeout is fixed.
    pub fn set_timeout(&mut self, key: impl Into<Key>, timeout: Duration) -> Result<()> {
        let key = key.into();
        self.change(Change {
            attempt: Attempt::on("set the timeout of", key.tuple),
            flags: 0,
            message: message::set_timeout(&key, timeout),
        })
    }

    /// Deletes an entry. Undone by inserting it again; a packet that comes in between is treated as
    /// a new flow's.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], [`Error::Permission`].
    pub fn delete(&mut self, key: impl Into<Key>) -> Result<()> {
        let key = key.into();
        self.change(Change {
            attempt: Attempt::on("delete", key.tuple),
            flags: 0,
            message: message::delete(&key),
        })
    }

    fn change(&mut self, change: Change) -> Result<()> {
        self.request(change.attempt, change.flags | NLM_F_ACK, change.message)
            .map(drop)
    }

    /// Sends one request and collects the entries of the answer.
    fn request(
        &mut self,
        attempt: Attempt,
        flags: u16,
        message: NetfilterMessage,
    ) -> Result<Vec<Flow>> {
        let io = |error| Error::from_io(attempt, error);
        let mut request = Vec::new();
        let sequence = self.encode(&mut request, flags, message);
        self.socket.send(&request, 0).map_err(io)?;

        let mut flows = Vec::new();
        // An answer is read to its end even if a part of it is malformed: the rest would get in the
        // way of the next request.
        let mut malformed = None;
        loop {
            for answer in message::split(self.receive().map_err(io)?) {
                let (header, payload) = match answer {
                    Ok(answer) => answer.into_parts(),
                    Err(error) => {
                        malformed.get_or_insert(Error::malformed(attempt, &error));
                        continue;
                    }
                };
                if header.sequence_number != sequence {
                    continue;
                }
                let code = match payload {
                    NetlinkPayload::InnerMessage(NetfilterMessage {
                        inner: NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)),
                        ..
                    }) => {
                        match message::flow(&attributes) {
                            Ok(flow) => flows.push(flow),
                            Err(error) => {
                                malformed.get_or_insert(Error::malformed(attempt, &error));
                            }
                        }
                        continue;
                    }
                    NetlinkPayload::Done(done) => done.code,
                    NetlinkPayload::Error(error) => error.raw_code(),
                    _ => continue,
                };
                errno(code).map_err(io)?;
                return malformed.map_or(Ok(flows), Err);
            }
        }
    }

    /// Sends changes a window at a time and collects the acknowledgements.
    fn change_all(
        &mut self,
        changes: impl Iterator<Item = Result<Change>>,
    ) -> Result<Vec<Result<()>>> {
        let mut results = Vec::new();
        let mut changes = changes.peekable();
        while changes.peek().is_some() {
            let mut request = Vec::new();
            // The result index that each sequence number belongs to, starting with this one.
            let first = self.sequence.wrapping_add(1);
            let mut sent = Vec::new();
            for change in changes.by_ref().take(WINDOW) {
                match change {
                    Ok(change) => {
                        self.encode(&mut request, change.flags | NLM_F_ACK, change.message);
                        sent.push((results.len(), change.attempt));
                        results.push(Ok(()));
                    }
                    Err(error) => results.push(Err(error)),
                }
            }
            if let Some((_, attempt)) = sent.first() {
                self.exchange(&request, first, &sent, &mut results)
                    .map_err(|error| Error::from_io(*attempt, error))?;
            }
        }
        Ok(results)
    }

    /// Sends one window, whose sequence numbers start with `first`, and reads as many answers.
    fn exchange(
        &mut self,
        request: &[u8],
        first: u32,
        sent: &[(usize, Attempt)],
        results: &mut [Result<()>],
    ) -> io::Result<()> {
        self.socket.send(request, 0)?;
        let mut missing = sent.len();
        while missing > 0 {
            for answer in message::split(self.receive()?) {
                let (header, payload) = answer
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?
                    .into_parts();
                let number = header.sequence_number.wrapping_sub(first) as usize;
                if let (Some((result, attempt)), NetlinkPayload::Error(error)) =
                    (sent.get(number), payload)
                {
                    results[*result] =
                        errno(error.raw_code()).map_err(|error| Error::from_io(*attempt, error));
                    missing -= 1;
                }
            }
        }
        Ok(())
    }

    /// Appends a request and returns its sequence number.
    fn encode(&mut self, to: &mut Vec<u8>, flags: u16, message: NetfilterMessage) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let start = to.len();
        to.resize(start + message.buffer_len(), 0);
        message.serialize(&mut to[start..]);
        self.sequence
    }

    /// Receives one datagram. The socket is connected to the kernel and receives from nobody else.
    fn receive(&mut self) -> io::Result<&[u8]> {
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, libc::MSG_TRUNC) {
                Ok(length) if length > self.buffer.len() => {
                    return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
                }
                Ok(_) => return Ok(&self.buffer),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn insertion(flow: &Flow) -> Result<Change> {
    let attempt = Attempt::on("insert", flow.original);
    Ok(Change {
        attempt,
        flags: NLM_F_CREATE | NLM_F_EXCL,
        message: message::insert(flow).map_err(|reason| Error::Invalid { attempt, reason })?,
    })
}

/// The kernel's answer code: 0, or a negative errno.
fn errno(code: i32) -> io::Result<()> {
    match code {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
    }
}
