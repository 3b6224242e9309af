//! What is fed, and what must hold of it.

mod container;
mod files;
mod memory;
mod network;
mod protocol;

/// Memory that any target may take, and what it may take for each byte of input.
const ENOUGH: usize = 4 << 20;
const PER_BYTE: usize = 512;

/// A parser under test.
pub(crate) struct Target {
    /// Its name, and that of its corpus.
    pub(crate) name: &'static str,
    /// What it checks, besides that nothing panics.
    pub(crate) checks: &'static str,
    pub(crate) run: fn(&[u8]),
}

impl Target {
    /// How much memory it may take for an input of so many bytes.
    pub(crate) fn memory(&self, bytes: usize) -> usize {
        ENOUGH + PER_BYTE * bytes
    }
}

/// All of them.
pub(crate) const TARGETS: &[Target] = &[
    Target {
        name: "frames",
        checks: "a control connection from its first byte on: no frame is larger than its limit",
        run: protocol::frames,
    },
    Target {
        name: "requests",
        checks: "a request: reads as it was written, and preflight and the states answer it",
        run: protocol::requests,
    },
    Target {
        name: "replies",
        checks: "a reply: reads as it was written",
        run: protocol::replies,
    },
    Target {
        name: "agreements",
        checks: "an offer and terms: what is chosen overlaps nothing and is the same from both ends",
        run: network::agreements,
    },
    Target {
        name: "moved_flows",
        checks: "flows that a peer names: read as they were written, and become entries",
        run: network::moved_flows,
    },
    Target {
        name: "bypass",
        checks: "a message between keepers: reads as it was written",
        run: network::bypass,
    },
    Target {
        name: "preambles",
        checks: "what a bulk connection opens with: only ticket and number let it in",
        run: protocol::preambles,
    },
    Target {
        name: "tokens",
        checks: "an invitation, a fingerprint, a secret: read as they were written",
        run: protocol::tokens,
    },
    Target {
        name: "unpacking",
        checks: "a stream of files: nothing outside of its places changes",
        run: files::unpacking,
    },
    Target {
        name: "memory",
        checks: "a stream of memory: takes no more than its limit, and what was proven is there",
        run: memory::stream,
    },
    Target {
        name: "lists_of_pages",
        checks: "CRIU's list of a process's pages: those that are left out follow each other",
        run: memory::lists_of_pages,
    },
    Target {
        name: "saved_images",
        checks: "an image as Podman saves it: what is left out leaves an archive",
        run: files::saved_images,
    },
    Target {
        name: "conntrack",
        checks: "answers of the kernel's connection tracking: an entry that can be made reads the same",
        run: network::conntrack,
    },
    Target {
        name: "netfilter",
        checks: "other answers of netfilter, and echoes",
        run: network::netfilter,
    },
    Target {
        name: "nft",
        checks: "rules as `nft -j` prints them",
        run: network::nft,
    },
    Target {
        name: "iptables",
        checks: "rules as `iptables-save` prints them, and tables of sockets",
        run: network::iptables,
    },
    Target {
        name: "logs",
        checks: "what CRIU and runtimes log, and labels of processes",
        run: container::logs,
    },
    Target {
        name: "criu_images",
        checks: "CRIU's image of open files: what was mended needs no mending",
        run: container::criu_images,
    },
    Target {
        name: "podman",
        checks: "what Podman and the runtimes say in JSON",
        run: container::podman,
    },
    Target {
        name: "oci_config",
        checks: "a container's OCI configuration",
        run: container::oci_config,
    },
    Target {
        name: "records",
        checks: "journals and records of tunnels, flows and forwards: read as they were written",
        run: container::records,
    },
];

/// The input as text, as the product reads what programs print.
fn text(input: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(input)
}
