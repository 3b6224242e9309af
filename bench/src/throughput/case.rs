//! What kinds of flows are measured.

use std::fmt;

use serde::Serialize;

use crate::iperf::{Course, Interval};

/// Which way a flow goes, and how many streams it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Case {
    direction: Direction,
    streams: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Direction {
    ToContainer,
    FromContainer,
}

impl Case {
    /// All of them.
    pub(super) const ALL: [Self; 4] = [
        Self::new(Direction::ToContainer, 1),
        Self::new(Direction::FromContainer, 1),
        Self::new(Direction::ToContainer, 8),
        Self::new(Direction::FromContainer, 8),
    ];

    const fn new(direction: Direction, streams: u8) -> Self {
        Self { direction, streams }
    }

    /// The arguments for iperf3.
    pub(super) fn arguments(self) -> Vec<&'static str> {
        let mut arguments = Vec::new();
        if self.direction == Direction::FromContainer {
            arguments.push("--reverse");
        }
        if self.streams > 1 {
            arguments.extend(["--parallel", "8"]);
        }
        arguments
    }

    /// The client's view of it: what it sent, or what it received.
    pub(super) fn seen(self, course: &Course) -> &[Interval] {
        match self.direction {
            Direction::ToContainer => &course.sent,
            Direction::FromContainer => &course.received,
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = match self.direction {
            Direction::ToContainer => "to the container",
            Direction::FromContainer => "from the container",
        };
        let plural = if self.streams == 1 { "" } else { "s" };
        f.pad(&format!("{direction}, {} stream{plural}", self.streams))
    }
}
