//! Version negotiation.

use serde::{Deserialize, Serialize};

/// The newest protocol version this build speaks.
pub const CURRENT: u32 = 4;

/// The oldest protocol version this build still speaks.
pub const OLDEST: u32 = 4;

/// An inclusive range of protocol versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// Oldest version spoken.
    pub oldest: u32,
    /// Newest version spoken.
    pub newest: u32,
}

impl Versions {
    /// What this build speaks.
    pub const OURS: Versions = Versions {
        oldest: OLDEST,
        newest: CURRENT,
    };

    /// The highest version that both ranges contain.
    pub fn negotiate(self, other: Versions) -> Option<u32> {
        let candidate = self.newest.min(other.newest);
        (candidate >= self.oldest && candidate >= other.oldest).then_some(candidate)
    }
}

impl std::fmt::Display for Versions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.oldest == self.newest {
            write!(f, "{}", self.newest)
        } else {
            write!(f, "{} to {}", self.oldest, self.newest)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn v(oldest: u32, newest: u32) -> Versions {
        Versions { oldest, newest }
    }

    #[test]
    fn highest_common_version_wins() {
        assert_eq!(v(1, 3).negotiate(v(2, 5)), Some(3));
        assert_eq!(v(2, 5).negotiate(v(1, 3)), Some(3));
        assert_eq!(v(1, 1).negotiate(v(1, 1)), Some(1));
    }

    #[test]
    fn disjoint_ranges_have_none() {
        assert_eq!(v(1, 2).negotiate(v(3, 4)), None);
        assert_eq!(v(3, 4).negotiate(v(1, 2)), None);
    }
}
