//! Packets that tell a client that its connection is broken.

use std::time::Duration;

use lab::Host;
use nix::sys::signal::Signal;

use crate::{Job, eventually};

/// TCP resets, and all ICMP errors except those about a path's MTU.
const FILTER: &str = "(ip proto 6 and tcp[13] & 4 != 0) or (ip6 proto 6 and ip6[53] & 4 != 0) \
    or (icmp[0] == 3 and icmp[1] != 4) or icmp[0] == 5 or icmp[0] == 11 \
    or (ip6 proto 58 and ip6[40] < 128 and ip6[40] != 2)";

/// A `tcpdump` of the packets that tell a host of broken connections.
#[derive(Debug)]
pub struct Errors {
    job: Job,
}

impl Errors {
    /// Listens from now on.
    #[track_caller]
    pub(crate) fn listen(host: &Host) -> Self {
        let command = ["tcpdump", "-nlQ", "in", "-i", "eth0", FILTER];
        let mut job = Job::start(host, &command);
        eventually(Duration::from_secs(60), || {
            assert!(job.ended().is_none(), "{}", job.stderr());
            let ready = job.stderr().contains("listening on");
            ready.then_some(()).ok_or_else(|| job.stderr())
        });
        Self { job }
    }

    /// Checks that there were none.
    ///
    /// # Panics
    /// If there were any; the message lists them.
    #[track_caller]
    pub fn assert_none(self) {
        self.job.signal(Signal::SIGINT);
        let output = self.job.wait(Duration::from_secs(60));
        assert!(
            output.stdout.trim().is_empty(),
            "broken connections:\n{output}"
        );
    }
}
