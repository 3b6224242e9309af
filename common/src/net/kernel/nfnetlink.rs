//! The few netfilter requests that `nft` cannot make, or not quickly enough, as netlink messages.
//!
//! Encoding: include/uapi/linux/netfilter/nfnetlink.h and nf_tables.h of the kernel. Everything is
//! in network byte order but the message header.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
const NLMSG_ERROR: u16 = 2;
/// A header, then `struct nfgenmsg`.
const HEADER_BYTES: usize = 16 + 4;

const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFT_MSG_NEWTABLE: u16 = NFNL_SUBSYS_NFTABLES << 8;
const NFT_MSG_GETTABLE: u16 = NFNL_SUBSYS_NFTABLES << 8 | 1;
const NFT_MSG_NEWRULE: u16 = NFNL_SUBSYS_NFTABLES << 8 | 6;
const NFT_MSG_NEWGEN: u16 = NFNL_SUBSYS_NFTABLES << 8 | 15;
const NFT_MSG_GETGEN: u16 = NFNL_SUBSYS_NFTABLES << 8 | 16;
const NFTA_GEN_ID: u16 = 1;
const NFTA_TABLE_NAME: u16 = 1;
const NFTA_TABLE_FLAGS: u16 = 2;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_TARGET_NAME: u16 = 1;
const NFTA_TARGET_REV: u16 = 2;
const NFTA_TARGET_INFO: u16 = 3;
const NLA_F_NESTED: u16 = 0x8000;
const NFPROTO_INET: u8 = 1;

/// Whether the hooks of a table's chains are registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TableState {
    /// Its rules do not apply.
    Dormant,
    /// The rules apply.
    Awake,
}

/// A netlink socket in the network namespace of the thread that opened it.
pub(crate) struct Nfnetlink {
    socket: Socket,
}

impl AsFd for Nfnetlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is the socket's, which lives as long as the borrow.
        unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) }
    }
}

impl Nfnetlink {
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Nfnetlink { socket })
    }

    /// Makes the `inet` table if it is missing, and puts it to sleep or wakes it.
    pub(crate) fn set_table(&self, name: &str, state: TableState) -> io::Result<()> {
        let flags: u32 = match state {
            TableState::Dormant => 1,
            TableState::Awake => 0,
        };
        let mut table = Message::new(NFT_MSG_NEWTABLE, NFPROTO_INET, 0);
        table.text(NFTA_TABLE_NAME, name);
        table.attribute(NFTA_TABLE_FLAGS, &flags.to_be_bytes());
        self.transaction(table)
    }

    /// Whether there is such an `inet` table.
    pub(crate) fn has_table(&self, name: &str) -> io::Result<bool> {
        let mut table = Message::new(NFT_MSG_GETTABLE, NFPROTO_INET, 0);
        table.text(NFTA_TABLE_NAME, name);
        match self.request(table) {
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOENT) => Ok(false),
            asked => asked.map(|()| true),
        }
    }

    /// A number that changes with every change of the ruleset, whoever makes it.
    pub(crate) fn generation(&self) -> io::Result<u32> {
        let ask = Message::new(NFT_MSG_GETGEN, 0, 0);
        self.socket.send(&ask.finish(0), 0)?;
        let mut buffer = Vec::with_capacity(8192);
        self.socket.recv(&mut buffer, 0)?;
        generation(&buffer).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }

    /// Appends a rule to a chain of an `inet` table that hands every packet to queue number
    /// `queue`, by the xtables target: for kernels without nft's own statement for it. With `bypass`, packets
    /// pass if nobody reads that queue.
    pub(crate) fn append_nfqueue_target(
        &self,
        table: &str,
        chain: &str,
        queue: u16,
        bypass: bool,
    ) -> io::Result<()> {
        // struct xt_NFQ_info_v3 (xt_NFQUEUE.h), in host order: number, how many, flags; padded.
        let mut info = [0; 8];
        info[..2].copy_from_slice(&queue.to_ne_bytes());
        info[2..4].copy_from_slice(&1_u16.to_ne_bytes());
        info[4..6].copy_from_slice(&u16::from(bypass).to_ne_bytes());

        let mut rule = Message::new(NFT_MSG_NEWRULE, NFPROTO_INET, 0);
        rule.text(NFTA_RULE_TABLE, table);
        rule.text(NFTA_RULE_CHAIN, chain);
        rule.nested(NFTA_RULE_EXPRESSIONS, |list| {
            list.nested(NFTA_LIST_ELEM, |expression| {
                expression.text(NFTA_EXPR_NAME, "target");
                expression.nested(NFTA_EXPR_DATA, |target| {
                    target.text(NFTA_TARGET_NAME, "NFQUEUE");
                    target.attribute(NFTA_TARGET_REV, &3_u32.to_be_bytes());
                    target.attribute(NFTA_TARGET_INFO, &info);
                });
            });
        });
        self.transaction(rule)
    }

    fn transaction(&self, message: Message) -> io::Result<()> {
        let mut batch = Message::new(NFNL_MSG_BATCH_BEGIN, 0, NFNL_SUBSYS_NFTABLES).finish(0);
        batch.extend(message.finish(NLM_F_ACK | NLM_F_CREATE | NLM_F_APPEND));
        batch.extend(Message::new(NFNL_MSG_BATCH_END, 0, NFNL_SUBSYS_NFTABLES).finish(0));
        self.socket.send(&batch, 0)?;
        self.acknowledged()
    }

    /// Sends one message and waits for the kernel's answer.
    pub(crate) fn request(&self, message: Message) -> io::Result<()> {
        self.socket.send(&message.finish(NLM_F_ACK), 0)?;
        self.acknowledged()
    }

    /// Sends one message that is answered only if it fails, and does not wait for that.
    pub(crate) fn tell(&self, message: Message) -> io::Result<()> {
        self.socket.send(&message.finish(0), 0).map(drop)
    }

    /// Reads one datagram into `buffer` if there is one; fails with `WouldBlock` if not.
    pub(crate) fn receive_waiting(&self, buffer: &mut Vec<u8>) -> io::Result<()> {
        buffer.clear();
        self.socket.recv(buffer, nix::libc::MSG_DONTWAIT).map(drop)
    }

    fn acknowledged(&self) -> io::Result<()> {
        loop {
            let mut buffer = Vec::with_capacity(8192);
            self.socket.recv(&mut buffer, 0)?;
            let Some(code) = answer(&buffer) else {
                continue;
            };
            return match code {
                0 => Ok(()),
                code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
            };
        }
    }
}

/// The errno in an answer, negative, or 0 for success.
pub(crate) fn answer(datagram: &[u8]) -> Option<i32> {
    let kind = u16::from_ne_bytes(datagram.get(4..6)?.try_into().ok()?);
    let code = i32::from_ne_bytes(datagram.get(16..20)?.try_into().ok()?);
    (kind == NLMSG_ERROR).then_some(code)
}

/// The generation number in an answer.
pub(crate) fn generation(datagram: &[u8]) -> Option<u32> {
    let number = |at: usize| {
        Some(u16::from_ne_bytes(
            datagram.get(at..at + 2)?.try_into().ok()?,
        ))
    };
    if number(4)? != NFT_MSG_NEWGEN {
        return None;
    }
    let mut at = HEADER_BYTES;
    loop {
        let length = usize::from(number(at)?);
        if number(at + 2)? == NFTA_GEN_ID {
            let value = datagram.get(at + 4..at + 8)?;
            return Some(u32::from_be_bytes(value.try_into().ok()?));
        }
        // An attribute has at least four bytes, its header.
        at += length.max(4).next_multiple_of(4);
    }
}

/// A message under construction.
pub(crate) struct Message(Vec<u8>);

impl Message {
    /// What `resource` is depends on the subsystem: a queue's number, for example.
    pub(crate) fn new(kind: u16, family: u8, resource: u16) -> Self {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[16] = family;
        bytes[18..20].copy_from_slice(&resource.to_be_bytes());
        Message(bytes)
    }

    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) {
        let start = self.0.len();
        self.0.extend([0; 4]);
        self.0.extend(value);
        self.close(start, kind);
    }

    fn text(&mut self, kind: u16, value: &str) {
        self.attribute(kind, &[value.as_bytes(), b"\0"].concat());
    }

    fn nested(&mut self, kind: u16, content: impl FnOnce(&mut Self)) {
        let start = self.0.len();
        self.0.extend([0; 4]);
        content(self);
        self.close(start, kind | NLA_F_NESTED);
    }

    /// Writes the header of the attribute that began at `start`, and pads it to four bytes.
    fn close(&mut self, start: usize, kind: u16) {
        let length = (self.0.len() - start) as u16;
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.0[start + 2..start + 4].copy_from_slice(&kind.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn finish(mut self, flags: u16) -> Vec<u8> {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0[6..8].copy_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
        self.0
    }
}
