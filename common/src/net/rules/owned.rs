//! A table that nobody else can remove.
//!
//! `nft flush ruleset`, or a look by somebody at the wrong moment, takes the table that all agents share with
//! it. The tunnel's keeper puts it back within a second, but a packet of a moved connection that is routed
//! without a mark in that second is answered by the kernel with a reset. So the keeper also has a table of its
//! own with the rules that lead packets. They do nothing to a packet that the others have led already.
//!
//! The kernel lets only the socket that made such a table change it (`NFT_TABLE_F_OWNER`, Linux 5.12), and
//! removes it with that socket. That is the one of an `nft` which waits for more commands as long as the
//! keeper lives. With an older kernel, or an `nft` that was built without its interactive mode, there is no
//! such table.

use std::io::{self, Write};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nftables::batch::Batch;
use nftables::helper;
use nftables::schema::{Chain, NfListObject};

use super::chains::nat_chains;
use super::nft::{fill, own_table};
use super::tunnel::{incomplete, leading};
use crate::command;
use crate::net::kernel::nfnetlink::Nfnetlink;
use crate::net::mark::Index;

/// How long it may take to come about, and how long to be complete on a busy host.
const BEGUN: Duration = Duration::from_secs(3);
const COMPLETE: Duration = Duration::from_secs(10);
/// Pause between looks whether it has.
const LOOK: Duration = Duration::from_millis(10);

/// Such a table; it goes when this is dropped, or its process ends.
pub(crate) struct OwnedTable {
    nft: Child,
}

impl OwnedTable {
    /// Makes that of a tunnel. Blocks for a moment.
    ///
    /// # Errors
    /// Those of `nft`; `Unsupported` if such a table cannot be had here; `TimedOut` if it has taken too long.
    pub(crate) fn make(index: Index) -> io::Result<Self> {
        let nft = command::blocking("nft")
            .args(["--json", "--interactive"])
            // It would write what it is told to a file there.
            .env("HOME", "/nonexistent")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let mut made = OwnedTable { nft };
        let name = own_table(index);
        let commands = made.nft.stdin.as_mut().expect("stdin is piped");
        // Not every version takes flags in JSON.
        writeln!(commands, "add table inet {name} {{ flags owner; }}")?;
        let mut expected = Vec::new();
        let nat = nat_chains().map(|chain| (chain, Vec::new()));
        for (mut chain, rules) in nat.into_iter().chain(leading(index)) {
            chain.table = name.clone().into();
            expected.push((chain.clone(), rules.len()));
            let mut batch = Batch::new();
            batch.add(NfListObject::Chain(chain.clone()));
            fill(&mut batch, &chain, rules);
            let json = serde_json::to_string(&batch.to_nftables()).map_err(io::Error::from)?;
            writeln!(commands, "{json}")?;
        }
        made.wait_for(&name, &expected)?;
        Ok(made)
    }

    /// Waits until the table is complete.
    fn wait_for(&mut self, name: &str, expected: &[(Chain<'static>, usize)]) -> io::Result<()> {
        let begin = Instant::now();
        let list = ["--json", "list", "table", "inet", name];
        loop {
            let begun = Nfnetlink::open()?.has_table(name)?;
            if begun {
                let text = helper::get_current_ruleset_raw(helper::DEFAULT_NFT, list);
                let text = text.map_err(io::Error::other)?;
                if incomplete(&text, expected.iter().cloned()).is_empty() {
                    return Ok(());
                }
            }
            if !self.lives() || !begun && begin.elapsed() > BEGUN {
                let why = format!("nft cannot have the table inet {name} for itself");
                return Err(io::Error::new(io::ErrorKind::Unsupported, why));
            }
            if begin.elapsed() > COMPLETE {
                return Err(io::ErrorKind::TimedOut.into());
            }
            thread::sleep(LOOK);
        }
    }

    /// Whether it is there.
    pub(crate) fn lives(&mut self) -> bool {
        matches!(self.nft.try_wait(), Ok(None))
    }
}

impl Drop for OwnedTable {
    fn drop(&mut self) {
        let _ = self.nft.kill();
        let _ = self.nft.wait();
    }
}
