use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::Stream;
use netlink_packet_core::{NLM_F_CREATE, NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::{
    NetfilterMessage, NetfilterMessageInner, conntrack::ConntrackMessage,
};
use netlink_sys::{AsyncSocket, SocketAddr, TokioSocket, protocols::NETLINK_NETFILTER};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};

use crate::{
    error::{Attempt, Error, Result},
    flow::Flow,
    message,
    socket::DATAGRAM,
};

/// NFNLGRP_CONNTRACK_NEW, _UPDATE and _DESTROY of linux/netfilter/nfnetlink.h.
const GROUPS: [u32; 3] = [1, 2, 3];

/// Room for events not read yet, in bytes; an event takes about 1 KiB.
const BACKLOG: usize = 8 * 1024 * 1024;

/// Something happened to an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An entry came into the table.
    New(Flow),
    /// An entry's state, status or mark changed.
    Update(Flow),
    /// An entry left the table: it ended, timed out or was deleted. It has its last mark.
    Destroy(Flow),
    /// Events were lost because they were not read fast enough. What the reader knows must be
    /// made anew from a list; the events that follow are newer than this one.
    Overrun,
}

/// What happens to the entries of one network namespace, as a stream without end.
///
/// The kernel decides when an entry is *created* whether it will ever report it. With
/// `net.netfilter.nf_conntrack_events` at its default of 2, only entries created while something
/// is watching are reported (nf_ct_ecache_ext_add in nf_conntrack_ecache.c): the end of a flow
/// older than the watch passes in silence. Watch from the beginning, or look for such flows with
/// [`Conntrack::list`](crate::Conntrack::list).
pub struct Watch {
    socket: TokioSocket,
    buffer: Vec<u8>,
    pending: VecDeque<Result<Event>>,
}

impl Watch {
    /// Begins to watch the calling thread's *current* network namespace; events from now on are
    /// kept until they are read. Ended by dropping it. May be polled from any thread.
    ///
    /// # Errors
    ///
    /// [`Error::Permission`], [`Error::Unsupported`].
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime. (A thread that has entered a namespace enters the runtime with
    /// `tokio::runtime::Handle::enter`.)
    pub fn open() -> Result<Self> {
        let open = || {
            let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
            socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
            // Beyond the limit net.core.rmem_max, which takes a capability in the first user
            // namespace. Without it the backlog is shorter, and overruns come earlier.
            let _ = setsockopt(socket.socket_ref(), RcvBufForce, &BACKLOG);
            for group in GROUPS {
                socket.socket_ref().add_membership(group)?;
            }
            Ok(socket)
        };
        Ok(Self {
            socket: open().map_err(|error| Error::from_io(attempt(), error))?,
            buffer: Vec::with_capacity(DATAGRAM),
            pending: VecDeque::new(),
        })
    }

    /// Throws away what has been received. It is older than the events lost, and a reader that
    /// lists the table now must not take it for news.
    fn drain(&mut self) {
        loop {
            self.buffer.clear();
            match self.socket.socket_ref().recv(&mut self.buffer, 0) {
                Ok(_) => {}
                Err(error) if overrun(&error) => {}
                Err(_) => return,
            }
        }
    }
}

impl Stream for Watch {
    type Item = Result<Event>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(event) = this.pending.pop_front() {
                return Poll::Ready(Some(event));
            }
            this.buffer.clear();
            match ready!(this.socket.poll_recv_from(context, &mut this.buffer)) {
                // Other processes may send to these groups too.
                Ok(sender) if sender.port_number() != 0 => {}
                Ok(_) => this
                    .pending
                    .extend(message::split(&this.buffer).filter_map(|message| {
                        message
                            .and_then(event)
                            .map_err(|error| Error::malformed(attempt(), &error))
                            .transpose()
                    })),
                Err(error) if overrun(&error) => {
                    this.drain();
                    return Poll::Ready(Some(Ok(Event::Overrun)));
                }
                Err(error) => return Poll::Ready(Some(Err(Error::from_io(attempt(), error)))),
            }
        }
    }
}

fn attempt() -> Attempt {
    Attempt::new("watch flows")
}

/// How the kernel says that it had no room for an event (netlink(7)).
fn overrun(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOBUFS)
}

/// Reads an event; messages about other things are none.
fn event(
    message: NetlinkMessage<NetfilterMessage>,
) -> Result<Option<Event>, netlink_packet_core::DecodeError> {
    let (header, payload) = message.into_parts();
    let NetlinkPayload::InnerMessage(NetfilterMessage {
        inner: NetfilterMessageInner::Conntrack(message),
        ..
    }) = payload
    else {
        return Ok(None);
    };
    match message {
        // The flag tells the two apart (ctnetlink_conntrack_event).
        ConntrackMessage::New(attributes) if header.flags & NLM_F_CREATE != 0 => {
            message::flow(&attributes).map(Event::New).map(Some)
        }
        ConntrackMessage::New(attributes) => {
            message::flow(&attributes).map(Event::Update).map(Some)
        }
        ConntrackMessage::Delete(attributes) => {
            message::flow(&attributes).map(Event::Destroy).map(Some)
        }
        _ => Ok(None),
    }
}
