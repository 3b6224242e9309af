//! Which hosts lose power when, and what must be found afterwards.

use std::time::Duration;

/// Everything about a case.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) name: String,
    /// What is done, in words.
    pub(crate) what: &'static str,
    /// The hosts that lose power.
    pub(crate) cut: &'static [&'static str],
    /// The place at which an agent is held meanwhile; none: the migration has ended.
    pub(crate) place: Option<&'static str>,
    /// How long after the end of the migration.
    pub(crate) after: Duration,
    /// It was started with `--rm`: what it writes to its root is never synced by the kernel.
    pub(crate) rm: bool,
    pub(crate) expected: Expected,
    /// An agent does not sync something: the case has to fail, and to say this of it.
    pub(crate) control: Option<Control>,
}

/// A case that shows that others could fail.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Control {
    /// The fault of both agents.
    pub(crate) fault: &'static str,
    /// What is said of it.
    pub(crate) words: &'static str,
}

/// What must be found when both hosts are up again and recovery has run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    /// The container and its files at the source, nothing at the destination. The agents say so.
    Source,
    /// The container and its files at the destination, nothing at the source. The agents say so.
    Destination,
    /// The same, but a stopped copy is left at the source, whose host has lost power; the agents say so.
    DestinationAndStopped,
    /// The destination cannot say that it has everything: the source has kept its copy, with its files. The agents
    /// leave the decision to the operator.
    Operator,
}

/// Where the agents are held: those places at which what is on disk, or what is known at either end, differs.
const PLACES: [(&str, &str); 7] = [
    (
        "server.stage.after",
        "the destination has staged the container",
    ),
    (FILES_SENT, "its files have been sent for the first time"),
    ("client.phase.ship", "the container is frozen and dumped"),
    (
        "client.phase.restore",
        "all that is needed to restore it has been sent",
    ),
    (
        "server.commit.before",
        "`Commit` has arrived; the destination has restored the container",
    ),
    ("server.commit.after", "the destination has committed"),
    (
        "client.fate.after",
        "the source knows that all is on disk at the destination",
    ),
];

/// The files of the container have been sent for the first time.
pub(crate) const FILES_SENT: &str = "client.phase.flows";

/// How long after the end of a migration power is cut, in seconds.
const LATER: [u64; 2] = [10, 30];

const A: &[&str] = &["a"];
const B: &[&str] = &["b"];
const BOTH: &[&str] = &["a", "b"];

/// All of them, the most telling ones first: in virtual machines they take hours.
pub(crate) fn all() -> Vec<Case> {
    use Expected::{Destination, DestinationAndStopped, Operator, Source};
    let [
        staged,
        files_sent,
        frozen,
        shipped,
        restored,
        committed,
        on_disk,
    ] = PLACES;
    let files = Control {
        fault: "disk.files=return(skip)",
        words: "on b: [",
    };
    let records = Control {
        fault: "disk.records=return(skip)",
        words: "recover",
    };
    let mut cases = vec![
        Case::moved(B, false),
        Case::new(B, committed, Operator),
        Case::moved(B, true),
        Case::moved(B, false).without(files),
        Case::moved(B, true).without(files),
        Case::new(A, committed, DestinationAndStopped),
        Case::new(BOTH, committed, Operator),
        Case::new(A, committed, DestinationAndStopped).without(records),
        Case::moved(A, false),
        Case::moved(BOTH, false),
        Case::new(A, on_disk, DestinationAndStopped),
        Case::new(B, on_disk, Destination),
        Case::new(BOTH, on_disk, DestinationAndStopped),
    ];
    for place in [restored, shipped, frozen, files_sent, staged] {
        cases.extend([A, B, BOTH].map(|cut| Case::new(cut, place, Source)));
    }
    for seconds in LATER {
        cases.extend([A, B, BOTH].map(|cut| Case::moved(cut, false).later(seconds)));
        cases.push(Case::moved(B, true).later(seconds));
    }
    cases
}

impl Case {
    fn new(
        cut: &'static [&'static str],
        (place, what): (&'static str, &'static str),
        expected: Expected,
    ) -> Self {
        Case {
            name: format!("{}/{place}", hosts(cut)),
            what,
            cut,
            place: Some(place),
            after: Duration::ZERO,
            rm: false,
            expected,
            control: None,
        }
    }

    fn moved(cut: &'static [&'static str], rm: bool) -> Self {
        let rm_too = if rm { ", --rm" } else { "" };
        Case {
            name: format!("{}/moved{rm_too}", hosts(cut)),
            what: "`agent-client` has just said that the container has moved",
            cut,
            place: None,
            after: Duration::ZERO,
            rm,
            expected: Expected::Destination,
            control: None,
        }
    }

    /// The same some time later.
    fn later(mut self, seconds: u64) -> Self {
        self.name = format!("{}, {seconds} s later", self.name);
        self.what = "the same, that long ago";
        self.after = Duration::from_secs(seconds);
        self
    }

    /// The same while the agents leave something out, which must be noticed.
    fn without(mut self, control: Control) -> Self {
        self.name = format!(
            "{}, without {}",
            self.name,
            control.fault.replace("=return(skip)", "")
        );
        self.control = Some(control);
        self
    }

    /// Whether this host loses power.
    pub(crate) fn cuts(&self, host: &str) -> bool {
        self.cut.contains(&host)
    }
}

/// Which hosts lose power, in words.
fn hosts(cut: &[&str]) -> &'static str {
    match cut {
        ["a"] => "source",
        ["b"] => "destination",
        _ => "both",
    }
}
