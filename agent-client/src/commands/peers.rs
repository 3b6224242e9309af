//! `peers`: the destinations paired with this host.

use common::paths;
use trust::Peers;

use crate::cli::PeersCommand;

pub(super) fn peers(command: PeersCommand) -> anyhow::Result<u8> {
    let peers = Peers::open(&paths::client_dir())?;
    match command {
        PeersCommand::List => {
            for peer in peers.list()? {
                println!(
                    "{}\t{}\t{}",
                    peer.name,
                    peer.address.unwrap_or_default(),
                    peer.fingerprint
                );
            }
        }
        PeersCommand::Remove { peer } => {
            let removed = peers.remove(&peer)?;
            eprintln!("{} is forgotten", removed.name);
        }
    }
    Ok(0)
}
