//! When each phase took place and how many bytes it sent; tells the observer.

use std::sync::atomic::Ordering;
use std::time::Instant;

use common::report::{Phase, PhaseName};
use common::{bulk, faults};

use crate::progress::Observer;

/// The phases of one run.
pub(crate) struct Timeline<'a> {
    observer: &'a dyn Observer,
    start: Instant,
    done: Vec<Phase>,
    current: Option<(PhaseName, Instant, u64)>,
    sent: bulk::ByteCount,
}

impl<'a> Timeline<'a> {
    /// Starts the clock; `observer` is told of each phase. `sent` counts the bytes of all bulk
    /// streams.
    pub(crate) fn start(observer: &'a dyn Observer, sent: bulk::ByteCount) -> Self {
        observer.counts(sent.clone());
        Timeline {
            observer,
            start: Instant::now(),
            done: Vec::new(),
            current: None,
            sent,
        }
    }

    /// Ends the present phase and begins `name`.
    pub(crate) fn begin(&mut self, name: PhaseName) {
        faults::reached(|| format!("client.phase.{}", <&str>::from(name)));
        self.close();
        self.current = Some((name, Instant::now(), self.sent_bytes()));
        self.observer.phase(name);
    }

    /// Ends the present phase: the user is about to be asked.
    pub(crate) fn pause(&mut self) {
        self.close();
        self.observer.pause();
    }

    /// Ends the last phase.
    pub(crate) fn end(&mut self) {
        self.close();
        self.observer.finished();
    }

    fn close(&mut self) {
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
