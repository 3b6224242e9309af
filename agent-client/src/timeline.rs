//! When each phase was, and how many bytes it sent.

use std::sync::atomic::Ordering;
use std::time::Instant;

use common::bulk;
use common::report::{Phase, PhaseName};

/// The phases of one run.
pub(crate) struct Timeline {
    start: Instant,
    done: Vec<Phase>,
    current: Option<(PhaseName, Instant, u64)>,
    sent: bulk::ByteCount,
}

impl Timeline {
    /// Starts the clock. `sent` counts the bytes of all bulk streams.
    pub(crate) fn start(sent: bulk::ByteCount) -> Self {
        Timeline {
            start: Instant::now(),
            done: Vec::new(),
            current: None,
            sent,
        }
    }

    /// Ends the present phase and begins `name`.
    pub(crate) fn begin(&mut self, name: PhaseName) {
        self.end();
        self.current = Some((name, Instant::now(), self.sent_bytes()));
    }

    /// Ends the present phase, if there is one.
    pub(crate) fn end(&mut self) {
        if let Some((name, began, sent_before)) = self.current.take() {
            self.done.push(Phase {
                name,
                start_ms: began.duration_since(self.start).as_millis() as u64,
                duration_ms: began.elapsed().as_millis() as u64,
                bytes: self.sent_bytes() - sent_before,
            });
        }
    }

    /// Bytes sent so far.
    pub(crate) fn sent_bytes(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// The phases that are over.
    pub(crate) fn phases(&self) -> &[Phase] {
        &self.done
    }
}
