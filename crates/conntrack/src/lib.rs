//! The kernel's connection tracking table, typed, over netlink.
//!
//! [`Conntrack`] lists, reads, inserts, changes and deletes entries. It blocks: the kernel answers
//! each request before the call returns.
//!
//! It is tied to the network namespace of the *thread that opens it*, for good: a socket opened by
//! a thread that has entered a container's namespace keeps working on that namespace from any
//! thread. It needs `CAP_NET_ADMIN` in the user namespace that owns the network namespace.
//!
//! The kernel tracks packets only if something asks for it: a rule with `ct state`, or a chain of
//! type `nat`. Without one, entries can be inserted and listed, but have no effect on packets.
//!
//! There is deliberately no way to flush the table.

mod error;
mod flow;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod message;
mod socket;
mod tuple;

pub use error::{Attempt, Error, Result};
pub use flow::{
    Counters, DirectionCounters, Flow, MaskedMark, Status, Tcp, TcpDirection, TcpFlags, TcpState,
};
pub use socket::{Conntrack, Filter};
pub use tuple::{Family, Key, Protocol, Tuple};
