//! What a migration by hand needs besides Podman: a tunnel, and connection tracking that follows
//! the container through it. Run in the hosts, one command per step, as an administrator would.
//!
//! Both are the agents' own code, so a comparison with the agents is a comparison of everything
//! else.

use std::collections::HashSet;
use std::io::{self, BufRead};
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use common::net::flows::apply::{self, Here};
use common::net::flows::decide::MovedFlow;
use common::net::kernel::routes::Routes;
use common::net::mark::Index;
use common::net::state::{Claim, Dirs};
use common::net::tunnel::agreement::{Offer, Terms};
use common::net::tunnel::{PROOF_LIMIT, Tunnel};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Steps of a migration by hand. They exchange JSON, one value per line, on stdin and stdout.
#[derive(Parser)]
enum Step {
    /// Source: print an offer for a tunnel.
    Offer(Keeper),
    /// Destination: take an offer, print the agreement and the tunnel, and keep it until stdin
    /// ends.
    Accept {
        #[command(flatten)]
        keeper: Keeper,
        /// The source.
        peer: IpAddr,
    },
    /// Source: take an agreement, print the tunnel, and keep it until stdin ends.
    Connect {
        #[command(flatten)]
        keeper: Keeper,
        /// The destination.
        peer: IpAddr,
    },
    /// The container's connections.
    #[command(subcommand)]
    Flows(Flows),
}

#[derive(Subcommand)]
enum Flows {
    /// Source: print them.
    List {
        /// The container's address.
        container: IpAddr,
    },
    /// Destination: install the connections that the source printed, and send replies through the
    /// tunnel.
    Install {
        /// The tunnel's number here.
        tunnel: u8,
    },
    /// Source: send packets for the container through the tunnel.
    Redirect {
        /// The container's address.
        container: IpAddr,
        /// The tunnel's number here.
        tunnel: u8,
    },
}

#[derive(clap::Args)]
struct Keeper {
    /// The agent that runs as the tunnel's keeper.
    #[arg(long)]
    keeper: String,
}

impl Keeper {
    fn command(&self) -> impl Fn(Index) -> Command {
        |index| {
            let mut command = Command::new(&self.keeper);
            command.arg0("tunnel-keeper").arg(index.to_string());
            command
        }
    }
}

/// One end of the tunnel.
#[derive(Serialize)]
struct End {
    tunnel: Index,
    local: IpAddr,
    peer: IpAddr,
}

fn main() -> Result<()> {
    let dirs = Dirs::default();
    match Step::parse() {
        Step::Offer(keeper) => say(&Tunnel::offer(&dirs, &keeper.command())?),
        Step::Accept { keeper, peer } => {
            let offer: Offer = hear()?;
            let (tunnel, terms) =
                Tunnel::accept(&dirs, &offer, peer, &nobody()?, &keeper.command())?;
            say(&terms)?;
            hold(&tunnel)
        }
        Step::Connect { keeper, peer } => {
            let terms: Terms = hear()?;
            let tunnel = Tunnel::establish(&dirs, &terms, peer, &nobody()?, &keeper.command())?;
            tunnel.prove(PROOF_LIMIT)?;
            hold(&tunnel)
        }
        Step::Flows(Flows::List { container }) => {
            let departing = apply::departing(&HashSet::from([container]), HashSet::new())?;
            say(&departing.flows().collect::<Vec<_>>())
        }
        Step::Flows(Flows::Install { tunnel }) => {
            let flows: Vec<MovedFlow> = hear()?;
            let here = Here {
                addresses: Routes::open()?.own_addresses()?,
                ..Here::default()
            };
            let mut arriving = apply::arriving(&flows, tunnel.try_into()?, &here)?;
            arriving.install()?;
            Ok(arriving.redirect()?)
        }
        Step::Flows(Flows::Redirect { container, tunnel }) => {
            let departing = apply::departing(&HashSet::from([container]), HashSet::new())?;
            Ok(departing.redirect(tunnel.try_into()?)?)
        }
    }
}

/// Who asks for all tunnels here: hosts that are measured are not paired.
fn nobody() -> Result<Claim> {
    Ok(Claim::Client("0".repeat(64).parse()?))
}

/// Prints the tunnel, and keeps it until stdin ends.
fn hold(tunnel: &Tunnel) -> Result<()> {
    say(&End {
        tunnel: tunnel.index(),
        local: tunnel.local_address(),
        peer: tunnel.peer_address(),
    })?;
    io::copy(&mut io::stdin().lock(), &mut io::sink())?;
    Ok(())
}

fn say(what: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(what)?);
    Ok(())
}

fn hear<T: DeserializeOwned>() -> Result<T> {
    let mut line = String::new();
    ensure!(
        io::stdin().lock().read_line(&mut line)? > 0,
        "stdin is empty"
    );
    serde_json::from_str(&line).with_context(|| format!("{line:?}"))
}
