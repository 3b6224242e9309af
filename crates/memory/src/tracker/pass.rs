//! A pass over the memory of one process.

use std::io;

use super::doubts::Doubt;
use crate::process::Process;
use crate::ranges::LazyRange;
use crate::stream::Run;

/// Takes runs of pages, from several threads, one after another.
pub type Sink<'a> = dyn Fn(&Run<'_>) -> io::Result<()> + Sync + 'a;

/// How a tracker knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// It reads all memory each time and compares hashes of pages with those of what was sent: always right, but takes time in
    /// proportion to all memory.
    Hashes,
    /// The kernel protects pages and notes the first write to each (`PAGEMAP_SCAN`, userfaultfd).
    Protection,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Kind::Hashes => "hashes",
            Kind::Protection => "write protection",
        })
    }
}

/// Whether the process runs while a pass goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It does: what is sent may have changed by the time that it was.
    Running,
    /// It does not, and what is sent stays true.
    Frozen,
}

/// What one pass over a process did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pass {
    /// Pages that have content.
    pub examined_pages: u64,
    /// Of these, those that were sent.
    pub sent_pages: u64,
    /// Of these, those that are zero.
    pub zero_pages: u64,
    /// Pages that could not be read: they vanished meanwhile, or nobody may read them.
    pub unread_pages: u64,
}

impl std::ops::AddAssign for Pass {
    fn add_assign(&mut self, other: Pass) {
        self.examined_pages += other.examined_pages;
        self.sent_pages += other.sent_pages;
        self.zero_pages += other.zero_pages;
        self.unread_pages += other.unread_pages;
    }
}

/// A pass failed.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// What /proc says of the process could not be read.
    #[error("cannot read the memory of process {pid}: {source}")]
    Read {
        /// Its number here.
        pid: i32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Pages could not be sent.
    #[error("cannot send memory: {0}")]
    Send(#[source] io::Error),
}

/// The memory of one process, of which the other side has what was sent.
///
/// Dropping it undoes what it did to the process. So does the end of this process.
pub(crate) trait Tracker: Send {
    fn kind(&self) -> Kind;

    /// Sends the pages in `ranges` that may have changed since they were sent, or were never sent. After an error the other side
    /// has nobody knows what: the tracker must not be used again.
    fn pass(
        &mut self,
        process: &Process,
        ranges: &[LazyRange],
        state: State,
        sink: &Sink<'_>,
    ) -> Result<Pass, TrackError>;
}

/// A pass of one tracker failed.
pub(crate) enum TrackError {
    Pass(PassError),
    /// Another kind of tracker is needed from now on, and from the first page on.
    Doubt(Doubt),
}

impl From<PassError> for TrackError {
    fn from(error: PassError) -> Self {
        TrackError::Pass(error)
    }
}
