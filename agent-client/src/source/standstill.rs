//! Stopping the container, and letting it run on.

use std::path::PathBuf;
use std::time::Duration;

use common::container::checkpoint::freezer::Freezer;
use common::container::checkpoint::{drain, dump, repair, unmovable};
use common::net::packets::{backlog, quarantine};

/// How often the container is given time to read what came in while it was being frozen.
const MOST_DRAINS: usize = 3;

/// How long packets may take to get to the frozen container that were sent before it was redirected.
const ON_THE_WAY: Duration = Duration::from_millis(100);

const UNREAD: &str = "the container had not read all datagrams that waited for it when it was frozen: \
                      these are lost";

/// What it takes to stop a container. All of this blocks.
#[derive(Clone)]
pub(super) struct Standstill {
    pub(super) pid: i32,
    pub(super) freezer: Freezer,
    pub(super) netns: Option<PathBuf>,
}

impl Standstill {
    /// Does the part of [`Standstill::freeze`] that can be done before it. Undone by [`Standstill::thaw`].
    pub(super) fn prepare(&self) -> anyhow::Result<()> {
        match &self.netns {
            Some(netns) => Ok(quarantine::prepare(netns)?),
            None => Ok(()),
        }
    }

    /// Waits, while the container runs on, until no connection waits to be accepted, and none that a
    /// program has closed has anything left to send: such connections cannot move. The latter may take
    /// as long as their clients like, so they do not prevent the migration. Then looks once more for what
    /// CRIU cannot dump.
    pub(super) fn wait_ready(&self) -> anyhow::Result<()> {
        drain::wait_sent(self.pid);
        let left = drain::wait_accepted(self.pid);
        anyhow::ensure!(left == 0, unaccepted(left));
        // Since `check` has looked, it may have opened something else.
        let found = unmovable::found(&self.freezer.processes(), self.pid);
        let found: Vec<String> = found.into_iter().collect();
        anyhow::ensure!(
            found.is_empty(),
            "CRIU cannot dump it: {}",
            found.join(", ")
        );
        Ok(())
    }

    /// Gives the container a moment to read what it has, stops it, and keeps all packets from it.
    /// Returns what is lost by that, in words. Undone by [`Standstill::thaw`].
    pub(super) fn freeze(&self) -> anyhow::Result<Vec<String>> {
        let mut lost = Vec::new();
        for left in (0..MOST_DRAINS).rev() {
            let drained = drain::drain(self.pid);
            self.freezer.freeze()?;
            // What was on the way when its flow was redirected comes here. After the freeze, so that what the container
            // has just sent to others of this host is on its way to where they are, before the quarantine stops it.
            backlog::wait_handed_on(ON_THE_WAY);
            if drain::waiting(self.pid) == 0 {
                break;
            }
            if !drained || left == 0 {
                let unaccepted_left = drain::unaccepted(self.pid);
                anyhow::ensure!(unaccepted_left == 0, unaccepted(unaccepted_left));
                lost.push(UNREAD.to_owned());
                break;
            }
            // Some came just before the freeze: they were on their way already.
            self.freezer.thaw()?;
        }
        // After the freeze, so that what the container sent until then has left, and before
        // the dump, so that its sockets stay as they are dumped.
        if let Some(netns) = &self.netns {
            quarantine::wake(netns)?;
        }
        let unsent = drain::closed_unsent(self.pid);
        if unsent > 0 {
            lost.push(format!(
                "{unsent} connections that the container had closed had data left to send: their other \
                 ends do not get the rest"
            ));
        }
        Ok(lost)
    }

    /// Lets the container run on, with its network. Harmless if it was never stopped.
    pub(super) fn thaw(&self) -> anyhow::Result<()> {
        if !dump::leave(&self.freezer) {
            tracing::warn!("a process still traces the container: it is thawed all the same");
        }
        // While nothing can use them.
        match repair::end(&self.freezer.processes()) {
            Ok(0) => {}
            Ok(count) => tracing::info!("{count} connections were left in repair mode by CRIU"),
            Err(error) => tracing::warn!("connections may be in repair mode still: {error}"),
        }
        // Thawed first: packets that came in between would find nobody to read them.
        self.freezer.thaw()?;
        if let Some(netns) = &self.netns {
            quarantine::lift(netns)?;
        }
        Ok(())
    }
}

fn unaccepted(count: u64) -> String {
    format!(
        "{count} connections wait for the container to accept them, and would be reset by a move: \
         try again when it accepts faster"
    )
}
