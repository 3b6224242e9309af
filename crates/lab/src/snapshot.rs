use std::collections::BTreeMap;
use std::fmt;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::Host;

/// A host's network at one moment, in a form in which equal states are equal: without counters,
/// handles, timeouts and index numbers, and sorted.
///
/// To assert that everything is as before: `assert_eq!(before, after, "{}", before.diff(&after))`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Lines by topic.
    sections: BTreeMap<String, Vec<String>>,
}

/// Each section begins with a line `== NAME`.
const NETWORK: &str = "
echo == links; ip -o link
echo == addresses; ip -o address
echo == rules; ip rule
echo == rules, IPv6; ip -6 rule
echo == routes; ip route show table all
echo == routes, IPv6; ip -6 route show table all
echo == conntrack; conntrack -L -f ipv4 2>/dev/null
echo == conntrack, IPv6; conntrack -L -f ipv6 2>/dev/null
echo == sysctls
cd /proc/sys/net
grep -rs . ipv4/conf ipv4/ip_forward ipv6/conf netfilter || true
echo == nftables; nft --stateless list ruleset
";

const PODMAN: &str = "
echo == containers; podman ps -a --no-trunc --sort names \
    --format '{{.Names}} {{.ID}} {{.State}} {{.ImageID}} {{.Ports}}'
echo == volumes; podman volume ls --format '{{.Driver}} {{.Name}}'
echo == images; podman images -a --no-trunc --format '{{.ID}} {{.Repository}}:{{.Tag}}'
echo == podman networks; podman network ls --format '{{.ID}} {{.Name}} {{.Driver}}'
";

impl Host {
    /// The links, addresses, rules, routes, tracked connections, network sysctls and nftables rules
    /// of the host.
    pub fn snapshot(&self) -> Result<Snapshot> {
        Ok(Snapshot::parse(&self.sh(NETWORK)?))
    }

    /// [`Host::snapshot`], and Podman's containers, volumes, images and networks.
    pub fn snapshot_with_podman(&self) -> Result<Snapshot> {
        let text = format!("{}\n{}", self.sh(NETWORK)?, self.sh(PODMAN)?);
        Ok(Snapshot::parse(&text))
    }
}

impl Snapshot {
    /// What `other` has in addition (`+`) or lacks (`-`), by section; empty if they are equal.
    pub fn diff(&self, other: &Self) -> String {
        let none = Vec::new();
        let names = self.sections.keys().chain(other.sections.keys());
        let names: std::collections::BTreeSet<_> = names.collect();
        let mut text = String::new();
        for name in names {
            let [old, new] = [self, other].map(|s| s.sections.get(name).unwrap_or(&none));
            let changes = [("-", old, new), ("+", new, old)]
                .into_iter()
                .flat_map(|(sign, here, there)| {
                    let only = here.iter().filter(|line| !there.contains(line));
                    only.map(move |line| format!("  {sign} {line}\n"))
                })
                .collect::<String>();
            if !changes.is_empty() {
                text += &format!("{name}\n{changes}");
            } else if old != new {
                text += &format!("{name}\n  the same lines, in another order or number\n");
            }
        }
        text
    }

    /// Whether any line of the state contains this text: to look for something left behind.
    pub fn mentions(&self, text: &str) -> bool {
        self.sections
            .values()
            .flatten()
            .any(|line| line.contains(text))
    }

    fn parse(text: &str) -> Self {
        let mut sections = BTreeMap::<String, Vec<String>>::new();
        let mut section = String::new();
        let mut table = String::new();
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("== ") {
                section = name.to_owned();
                sections.entry(section.clone()).or_default();
                continue;
            }
            if section.starts_with("nftables") {
                // Each chain or set is a section: their order in a table means nothing.
                if let Some(name) = line.strip_suffix(" {").filter(|_| !line.starts_with('\t')) {
                    table = format!("nftables {name}");
                    section = table.clone();
                    sections.entry(section.clone()).or_default();
                    continue;
                }
                let name = line.strip_prefix('\t').and_then(|l| l.strip_suffix(" {"));
                if let Some(name) = name.filter(|name| !name.starts_with('\t')) {
                    section = format!("{table} {name}");
                } else if matches!(line, "\t}") {
                    section = table.clone();
                }
            }
            if let Some(line) = normal(&section, line) {
                sections.entry(section.clone()).or_default().push(line);
            }
        }
        for (name, lines) in &mut sections {
            if !name.starts_with("nftables") {
                lines.sort();
            }
        }
        Self { sections }
    }
}

impl fmt::Debug for Snapshot {
    /// All of it as text; for the difference of two, use [`Snapshot::diff`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, lines) in &self.sections {
            writeln!(f, "{name}")?;
            for line in lines {
                writeln!(f, "    {line}")?;
            }
        }
        Ok(())
    }
}

/// A line without what changes on its own; `None` if nothing is left of it.
fn normal(section: &str, line: &str) -> Option<String> {
    let line = line.trim();
    let words = |skip: &dyn Fn(usize, &str) -> bool| {
        let kept = line.split_whitespace().enumerate();
        let kept: Vec<_> = kept.filter(|(i, w)| !skip(*i, w)).map(|(_, w)| w).collect();
        kept.join(" ")
    };
    let line = match section {
        // "2: eth0@if7: <…" without the two index numbers.
        "links" => {
            let (_, rest) = line.split_once(": ")?;
            let (name, rest) = rest.split_once(": ")?;
            format!("{} {rest}", name.split('@').next()?)
        }
        // "2: eth0 inet …\ valid_lft …" without the index number and the lifetime.
        "addresses" => {
            let (_, rest) = line.split_once(": ")?;
            let rest = rest.split('\\').next()?;
            rest.split_whitespace().collect::<Vec<_>>().join(" ")
        }
        // "unknown 2 599 src=10.88.0.1 dst=224.0.0.22": whenever an interface comes up, the kernel
        // joins a multicast group (IGMP). The entry expires within its timeout.
        "conntrack" if line.starts_with("unknown") && line.contains(" dst=224.0.0.22 ") => {
            return None;
        }
        // "tcp 6 431999 ESTABLISHED … use=1": the third word is the timeout.
        "conntrack" | "conntrack, IPv6" => words(&|i, word| {
            i == 2
                || ["use=", "packets=", "bytes=", "id="]
                    .iter()
                    .any(|counter| word.starts_with(counter))
        }),
        "sysctls" if line.starts_with("netfilter/nf_conntrack_count:") => return None,
        _ => line.to_owned(),
    };
    (!line.is_empty()).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::Snapshot;

    const TEXT: &str = "\
== links
2: eth0@if7: <UP> mtu 1500
== conntrack
tcp      6 431999 ESTABLISHED src=192.0.2.1 dst=192.0.2.2 sport=1 dport=2 [ASSURED] mark=5 use=1
== nftables
table inet ours {
\tchain out {
\t\ttype filter hook output priority filter; policy accept;
\t\tmeta mark 1 accept
\t}

\tset empty {
\t\ttype ipv4_addr
\t}
}
";

    #[test]
    fn ignores_numbers_and_timeouts() {
        let again = TEXT.replace("2: eth0@if7", "9: eth0@if3");
        let again = again.replace("431999", "17").replace("use=1", "use=2");
        assert_eq!(Snapshot::parse(TEXT), Snapshot::parse(&again));
    }

    #[test]
    fn ignores_what_the_kernel_joins_by_itself() {
        const IGMP: &str = "unknown  2 599 src=10.88.0.1 dst=224.0.0.22 [UNREPLIED] use=1\n";
        let with = TEXT.replace("== nftables", &format!("{IGMP}== nftables"));
        assert_eq!(Snapshot::parse(TEXT), Snapshot::parse(&with));
    }

    #[test]
    fn tells_a_difference_by_section() {
        let other = TEXT.replace("mark 1", "mark 2").replace("mark=5", "mark=6");
        let diff = Snapshot::parse(TEXT).diff(&Snapshot::parse(&other));
        assert!(
            diff.contains("nftables table inet ours chain out\n  - meta mark 1 accept"),
            "{diff}"
        );
        assert!(diff.contains("mark=6"), "{diff}");
        assert!(!diff.contains("links"), "{diff}");
    }

    #[test]
    fn keeps_an_empty_table() {
        let empty = Snapshot::parse("== nftables\ntable inet ours {\n}\n");
        assert_ne!(empty, Snapshot::parse("== nftables\n"));
    }
}
