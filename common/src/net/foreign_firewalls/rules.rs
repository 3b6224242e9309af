//! What matters here of a firewall's rules, and what they do to a packet. Pure.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

/// Jumps cannot be nested deeper (NFT_JUMP_STACK_SIZE in the kernel's nf_tables.h).
const DEEPEST: usize = 16;

/// A packet of a TCP connection of the container, about to be forwarded.
#[derive(Debug, Clone)]
pub(crate) struct Packet {
    /// Interface it came by, if known.
    pub(crate) incoming: Option<String>,
    /// Interface it leaves by, if known.
    pub(crate) outgoing: Option<String>,
    /// The container's address.
    pub(crate) container: IpAddr,
    /// Whether the container is the packet's destination.
    pub(crate) to_container: bool,
    /// Whether it begins a connection; otherwise the connection is established.
    pub(crate) new: bool,
}

/// A condition of a rule, as a question about the packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Question {
    /// Came by an interface of one of these names; `*` at the end stands for anything.
    Incoming(Vec<String>),
    /// Leaves by one of these.
    Outgoing(Vec<String>),
    /// Comes from one of these networks.
    Source(Vec<IpNet>),
    /// Goes to one of these.
    Destination(Vec<IpNet>),
    /// Is IPv6, or IPv4.
    Family { ipv6: bool },
    /// Belongs to a connection in one of these states of the tracker.
    State { new: bool, established: bool },
    /// Something that is true of all such packets, or of none.
    Fixed(bool),
    /// Something else.
    Unknown,
}

/// A question, and whether the rule requires the answer to be no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Test {
    pub(crate) question: Question,
    pub(crate) negated: bool,
}

impl Test {
    pub(crate) fn unknown() -> Self {
        Test {
            question: Question::Unknown,
            negated: false,
        }
    }
}

/// What a rule does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) tests: Vec<Test>,
    pub(crate) verdict: Verdict,
}

/// A table with chains at the forward hook.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Table {
    /// The name that its program has for it.
    pub(crate) name: String,
    /// Whether that program is iptables.
    pub(crate) iptables: bool,
    pub(crate) ipv4: bool,
    pub(crate) ipv6: bool,
    pub(crate) chains: BTreeMap<String, Vec<Rule>>,
    /// Chains at the hook, and whether what reaches their end is dropped.
    pub(crate) hooks: Vec<(String, bool)>,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fate {
    Passes,
    /// It is dropped unless some condition is true that is not understood here.
    Unclear,
    Dropped,
}

/// Netavark's own rules for a network, which come with its first container and go with its last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Netavark {
    /// They will be gone.
    Gone,
    /// They will be there, if it uses the table at all.
    Coming,
    /// They are as they are.
    There,
}

/// How a chain can end.
#[derive(Debug, Clone, Copy, Default)]
struct Ends {
    accept: bool,
    drop: bool,
    through: bool,
}

impl Ends {
    fn or(self, other: Ends) -> Ends {
        Ends {
            accept: self.accept || other.accept,
            drop: self.drop || other.drop,
            through: self.through || other.through,
        }
    }
}

impl Table {
    /// Whether packets with this address pass this table.
    pub(crate) fn sees(&self, address: IpAddr) -> bool {
        if address.is_ipv4() {
            self.ipv4
        } else {
            self.ipv6
        }
    }

    /// What each chain at the hook does to the packet.
    pub(crate) fn fates(&self, packet: &Packet, netavark: Netavark) -> Vec<(String, Fate)> {
        let fate = |(chain, drops): &(String, bool)| {
            let ends = |guess| {
                let ends = Walk {
                    table: self,
                    packet,
                    guess,
                    netavark,
                    known: RefCell::default(),
                }
                .chain(chain, 0);
                // The policy decides about what gets to the end.
                Ends {
                    accept: ends.accept || ends.through && !drops,
                    drop: ends.drop || ends.through && *drops,
                    through: false,
                }
            };
            let fate = match (ends(false).drop, ends(true).accept) {
                (false, _) => Fate::Passes,
                (true, true) => Fate::Unclear,
                (true, false) => Fate::Dropped,
            };
            (chain.clone(), fate)
        };
        self.hooks.iter().map(fate).collect()
    }

    /// Commands that let moved connections pass that chain.
    pub(crate) fn remedy(&self, chain: &str) -> [String; 2] {
        if self.iptables {
            // Docker leaves this chain to the administrator, and it comes first.
            let users = "DOCKER-USER";
            let chain = match self.chains.contains_key(users) {
                true => users,
                false => chain,
            };
            let program = if self.ipv4 { "iptables" } else { "ip6tables" };
            ["-i", "-o"].map(|way| format!("{program} -I {chain} {way} lmwg+ -j ACCEPT"))
        } else {
            let name = &self.name;
            ["iifname", "oifname"]
                .map(|way| format!("nft insert rule {name} {chain} {way} 'lmwg*' accept"))
        }
    }
}

/// A packet's walk through a table's rules.
struct Walk<'a> {
    table: &'a Table,
    packet: &'a Packet,
    /// Whether to assume that conditions that are not understood may be true.
    guess: bool,
    netavark: Netavark,
    /// How chains end, by name and depth: there may be more ways to a chain than can be walked.
    known: RefCell<HashMap<(&'a str, usize), Ends>>,
}

impl<'a> Walk<'a> {
    fn chain(&self, name: &'a str, depth: usize) -> Ends {
        if let Some(known) = self.known.borrow().get(&(name, depth)) {
            return *known;
        }
        let ends = self.walk(name, depth);
        self.known.borrow_mut().insert((name, depth), ends);
        ends
    }

    fn walk(&self, name: &str, depth: usize) -> Ends {
        let mut ends = Ends::default();
        let rules = self.table.chains.get(name).map_or(&[][..], Vec::as_slice);
        for rule in rules {
            let Some(holds) = self.holds(rule) else {
                continue;
            };
            let mut after = self.verdict(&rule.verdict, depth);
            let goes_on = std::mem::take(&mut after.through);
            ends = ends.or(after);
            match rule.verdict {
                Verdict::Return | Verdict::Goto(_) if goes_on => {
                    ends.through = true;
                    if holds {
                        return ends;
                    }
                }
                _ if holds && !goes_on => return ends,
                _ => {}
            }
        }
        ends.through = true;
        ends
    }

    fn verdict(&self, verdict: &'a Verdict, depth: usize) -> Ends {
        let through = Ends {
            through: true,
            ..Ends::default()
        };
        match verdict {
            Verdict::Accept => Ends {
                accept: true,
                ..Ends::default()
            },
            Verdict::Drop => Ends {
                drop: true,
                ..Ends::default()
            },
            Verdict::Return => through,
            Verdict::Jump(chain) | Verdict::Goto(chain) if self.is_not_yet(chain) => {
                match self.netavark == Netavark::Coming && chain.ends_with("FORWARD") {
                    true => self.verdict(&Verdict::Accept, depth),
                    false => through,
                }
            }
            Verdict::Jump(_) | Verdict::Goto(_) if depth == DEEPEST => through,
            Verdict::Jump(chain) | Verdict::Goto(chain) => self.chain(chain, depth + 1),
        }
    }

    /// Whether a chain is one of netavark's that will not be what it is now.
    fn is_not_yet(&self, chain: &str) -> bool {
        self.netavark != Netavark::There && chain.starts_with("NETAVARK")
    }

    /// Whether the rule applies: for sure, maybe (`Some(false)`), or not.
    fn holds(&self, rule: &Rule) -> Option<bool> {
        let mut sure = true;
        for test in &rule.tests {
            match self.answer(&test.question) {
                Some(answer) if answer == test.negated => return None,
                Some(_) => {}
                None if self.guess => sure = false,
                None => return None,
            }
        }
        Some(sure)
    }

    fn answer(&self, question: &Question) -> Option<bool> {
        let packet = self.packet;
        match question {
            Question::Incoming(names) => named(names, packet.incoming.as_deref()),
            Question::Outgoing(names) => named(names, packet.outgoing.as_deref()),
            Question::Source(nets) => within(nets, packet.container, !packet.to_container),
            Question::Destination(nets) => within(nets, packet.container, packet.to_container),
            Question::Family { ipv6 } => Some(packet.container.is_ipv6() == *ipv6),
            Question::State { new, established } => Some(match packet.new {
                true => *new,
                false => *established,
            }),
            Question::Fixed(answer) => Some(*answer),
            Question::Unknown => None,
        }
    }
}

fn named(names: &[String], name: Option<&str>) -> Option<bool> {
    let fits = |pattern: &String, name: &str| match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => pattern == name,
    };
    name.map(|name| names.iter().any(|pattern| fits(pattern, name)))
}

/// The peer's address is not known: it may be any of the family.
fn within(nets: &[IpNet], container: IpAddr, is_container: bool) -> Option<bool> {
    let same_family = |net: &IpNet| net.addr().is_ipv4() == container.is_ipv4();
    let mut nets = nets.iter().filter(|net| same_family(net)).peekable();
    if is_container || nets.peek().is_none() {
        return Some(nets.any(|net| net.contains(&container)));
    }
    nets.any(|net| net.prefix_len() == 0).then_some(true)
}
