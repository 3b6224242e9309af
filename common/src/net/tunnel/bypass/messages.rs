//! What the keepers of a tunnel say to each other.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::net::flows::decide::MovedFlow;
use crate::net::tunnel::agreement::{Offer, Terms};

/// The ports that conversations come from, so that the other end can expect them ([`super::expect`]):
/// short ones, and the one that lasts.
pub(super) const FROM: u16 = 50053;
pub(super) const STAY_FROM: u16 = 50054;

/// How long the other end of a tunnel may take to do what it is asked.
pub(super) const ANSWER: Duration = Duration::from_secs(10);

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub(crate) enum BypassRequest {
    /// To the entry: what must a tunnel from you to another host fit?
    Offer,
    /// To the entry: make your end of the tunnel to the host at `address`, and prove that it works.
    Meet { terms: Terms, address: IpAddr },
    /// To the entry: send packets of these flows to the host that you have met, not to me.
    Redirect { flows: Vec<MovedFlow> },
    /// From the entry: send packets to the peers of these flows through this tunnel.
    Return { flows: Vec<MovedFlow> },
    /// To the entry, and from there to the host that it has met: what you sent by the long path has arrived.
    Arrived,
    /// To the entry: do you send new connections to this container through this tunnel?
    Forwarding { container: String },
    /// To the entry: send them to the host that you have met.
    Follow { container: String },
    /// From the entry, repeatedly: keep the tunnel, because new connections use it.
    Stay,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub(crate) enum BypassReply {
    Offered {
        offer: Offer,
    },
    Met,
    /// To `Meet`: another tunnel has taken what was agreed on. Start again, with `Offer`.
    Taken,
    Redirected {
        flows: usize,
    },
    /// To `Arrived`.
    Going,
    /// To `Forwarding` and `Follow`: whether there are any forwards.
    Forwards {
        any: bool,
    },
    Staying,
    Refused {
        why: String,
    },
}
