//! Which hosts lose power when, and what must be found afterwards.

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
    /// How long after that, in seconds.
    pub(crate) later_s: u64,
    /// It was started with `--rm`: what it writes to its root is never synced by the kernel.
    pub(crate) rm: bool,
    pub(crate) expected: Expected,
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

/// All of them. The places are those at which what is on disk, or what the other end knows, differs.
pub(crate) fn all() -> Vec<Case> {
    use Expected::{Destination, DestinationAndStopped, Operator, Source};
    const A: &[&str] = &["a"];
    const B: &[&str] = &["b"];
    const BOTH: &[&str] = &["a", "b"];
    let mut cases = Vec::new();
    for (place, what, cut, expected) in [
        ("client.phase.tunnel", "the migration has begun", A, Source),
        (
            "server.stage.after",
            "the destination has staged the container",
            A,
            Source,
        ),
        (
            "client.phase.ship",
            "the container is frozen and dumped",
            A,
            Source,
        ),
        (
            "server.restore.after",
            "the destination has restored the container",
            A,
            Source,
        ),
        ("server.commit.before", "`Commit` has arrived", A, Source),
        (
            "server.commit.after",
            "the destination has committed",
            A,
            DestinationAndStopped,
        ),
        (
            "client.fate.after",
            "the source knows that all is on disk",
            A,
            DestinationAndStopped,
        ),
        (
            "server.open_tunnel.after",
            "the destination has a tunnel",
            B,
            Source,
        ),
        (
            "server.stage.after",
            "the destination has staged the container",
            B,
            Source,
        ),
        (
            "client.phase.ship",
            "the container is frozen and dumped",
            B,
            Source,
        ),
        (
            "server.restore.after",
            "the destination has restored the container",
            B,
            Source,
        ),
        ("server.commit.before", "`Commit` has arrived", B, Source),
        (
            "server.commit.after",
            "the destination has committed",
            B,
            Operator,
        ),
        (
            "client.fate.after",
            "the source knows that all is on disk",
            B,
            Destination,
        ),
        (
            "server.stage.after",
            "the destination has staged the container",
            BOTH,
            Source,
        ),
        ("server.commit.before", "`Commit` has arrived", BOTH, Source),
        (
            "server.commit.after",
            "the destination has committed",
            BOTH,
            Operator,
        ),
        (
            "client.fate.after",
            "the source knows that all is on disk",
            BOTH,
            DestinationAndStopped,
        ),
    ] {
        cases.push(Case::new(cut, place, what, expected));
    }
    for (cut, later_s) in [(A, 0), (B, 0), (B, 10), (BOTH, 0)] {
        cases.push(Case::moved(cut, later_s, false));
    }
    for cut in [A, B] {
        cases.push(Case::moved(cut, 0, true));
    }
    cases
}

impl Case {
    fn new(
        cut: &'static [&'static str],
        place: &'static str,
        what: &'static str,
        expected: Expected,
    ) -> Self {
        Case {
            name: format!("{}/{place}", hosts(cut)),
            what,
            cut,
            place: Some(place),
            later_s: 0,
            rm: false,
            expected,
        }
    }

    fn moved(cut: &'static [&'static str], later_s: u64, rm: bool) -> Self {
        let after = match later_s {
            0 => "at once".to_owned(),
            later_s => format!("after {later_s} s"),
        };
        let rm_too = if rm { ", --rm" } else { "" };
        Case {
            name: format!("{}/moved, {after}{rm_too}", hosts(cut)),
            what: "`agent-client` has said that the container has moved",
            cut,
            place: None,
            later_s,
            rm,
            expected: Expected::Destination,
        }
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
