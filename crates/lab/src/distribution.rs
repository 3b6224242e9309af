use std::fmt;
use std::str::FromStr;

use anyhow::{Error, Result, bail};

/// What is installed on a host with a distribution's defaults: a suite of Debian, and one of a few
/// common choices where Debian has no default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Distribution {
    /// Which Debian.
    pub suite: Suite,
    /// Who manages its network and its firewall.
    pub flavour: Flavour,
}

/// A suite of Debian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Suite {
    /// Debian 13.
    Trixie,
    /// Debian 14.
    Forky,
}

/// Who manages a host's network and its firewall, or runs its containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Flavour {
    /// systemd-networkd, and no firewall.
    Plain,
    /// NetworkManager and firewalld.
    Firewalld,
    /// systemd-networkd and ufw, which is enabled.
    Ufw,
    /// systemd-networkd and no firewall; runc is installed besides crun.
    Runc,
}

impl Distribution {
    /// Debian 13 with systemd-networkd and no firewall.
    pub const TRIXIE: Self = Self::plain(Suite::Trixie);

    /// Debian 14 with systemd-networkd and no firewall.
    pub const FORKY: Self = Self::plain(Suite::Forky);

    const fn plain(suite: Suite) -> Self {
        Self {
            suite,
            flavour: Flavour::Plain,
        }
    }
}

impl Suite {
    /// Its name in the archive.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Trixie => "trixie",
            Self::Forky => "forky",
        }
    }
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.suite.name())?;
        f.write_str(match self.flavour {
            Flavour::Plain => "",
            Flavour::Firewalld => "-firewalld",
            Flavour::Ufw => "-ufw",
            Flavour::Runc => "-runc",
        })
    }
}

impl FromStr for Distribution {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        let (suite, flavour) = match name.split_once('-') {
            Some((suite, flavour)) => (suite, Some(flavour)),
            None => (name, None),
        };
        let suite = match suite {
            "trixie" => Suite::Trixie,
            "forky" => Suite::Forky,
            _ => bail!(
                "{name:?} is neither trixie nor forky, nor one of them with -firewalld, -ufw or -runc"
            ),
        };
        let flavour = match flavour {
            None => Flavour::Plain,
            Some("firewalld") => Flavour::Firewalld,
            Some("ufw") => Flavour::Ufw,
            Some("runc") => Flavour::Runc,
            Some(other) => {
                bail!("no flavour is called {other:?}: there are firewalld, ufw and runc")
            }
        };
        Ok(Self { suite, flavour })
    }
}

#[cfg(test)]
mod tests {
    use super::{Distribution, Flavour, Suite};

    #[test]
    fn a_name_says_all() {
        for suite in [Suite::Trixie, Suite::Forky] {
            for flavour in [
                Flavour::Plain,
                Flavour::Firewalld,
                Flavour::Ufw,
                Flavour::Runc,
            ] {
                let distribution = Distribution { suite, flavour };
                let again = distribution.to_string().parse::<Distribution>();
                assert_eq!(again.unwrap(), distribution);
            }
        }
        for wrong in ["", "bookworm", "trixie-", "trixie-ufw-ufw", "ufw"] {
            assert!(wrong.parse::<Distribution>().is_err(), "{wrong:?}");
        }
    }
}
