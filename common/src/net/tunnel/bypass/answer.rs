//! The end of a conversation that answers: a tunnel's keeper.

use std::io;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::ask::Bypass;
use super::messages::{ANSWER, BypassReply, BypassRequest, FROM, STAY_FROM};
use crate::net::flows::apply;
use crate::net::flows::port_forwards;
use crate::net::mark::Index;
use crate::net::packets::keep_order::Waiting;
use crate::net::ports;
use crate::net::state::{self, Claim, Dirs, Record, StateError};
use crate::net::tunnel::Tunnel;
use crate::net::tunnel::echo;
use crate::net::tunnel::error::TunnelError;
use crate::net::tunnel::expect;
use crate::net::tunnel::in_use::InUseError;
use crate::protocol::frame::{Frames, MAX_FRAME_BYTES};
use crate::ticket::{self, Ticket};

/// How long a request to stay is valid.
const STAY: Duration = Duration::from_secs(20);
/// How long a new tunnel may take to work before the long path is kept.
const PROOF: Duration = Duration::from_secs(3);
/// How long a peer that connects may take to present the ticket.
const PRESENT: Duration = Duration::from_secs(2);
/// Poll interval, and number of polls, until the interface is there: the keeper of a userspace tunnel
/// makes it.
const LOOK: Duration = Duration::from_millis(50);
const LOOKS: u32 = 100;

/// When the other end last asked for the tunnel to stay.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stay(Arc<Mutex<Option<Instant>>>);

impl Stay {
    fn ask(&self) {
        *self.0.lock().expect("no panic while locked") = Some(Instant::now());
    }

    /// Whether that was recently.
    pub(crate) fn is_asked(&self) -> bool {
        let asked = *self.0.lock().expect("no panic while locked");
        asked.is_some_and(|at| at.elapsed() < STAY)
    }
}

/// Lets the next echo request or conversation from the tunnel's other end pass this host's firewall. Call
/// it repeatedly: the entries expire.
pub(crate) fn expect(record: &Record) -> Result<(), TunnelError> {
    let view = record.view().map_err(TunnelError::from)?;
    let (peer, local) = (view.peer_addresses[0], view.addresses[0].addr());
    let here = SocketAddr::new(local, ports::KEEPER);
    expect::echo(peer, local, echo::IDENTIFIER)
        .and_then(|()| expect::tcp(SocketAddr::new(peer, FROM), here))
        .and_then(|()| expect::tcp(SocketAddr::new(peer, STAY_FROM), here))
        .map_err(InUseError::from)?;
    Ok(())
}

/// Answers the other end of a tunnel, for as long as the tunnel's keeper lives.
pub(crate) async fn serve(dirs: Dirs, record: Record, keeper: fn(Index) -> Command, stay: Stay) {
    let listener = match listen(&record).await {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!("the other host cannot be bypassed: {error}");
            return;
        }
    };
    let Ok(Some(ticket)) = state::ticket(&dirs, record.index) else {
        return;
    };
    let ticket = Arc::new(ticket);
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            sleep(LOOK).await;
            continue;
        };
        let host = Host {
            dirs: dirs.clone(),
            index: record.index,
            keeper,
            stay: stay.clone(),
            met: None,
            waiting: None,
        };
        let ticket = ticket.clone();
        tokio::spawn(async move {
            match check_ticket(stream, &ticket).await {
                Ok(stream) => host.converse(stream).await,
                Err(error) => tracing::warn!(%from, "turned away: {error}"),
            }
        });
    }
}

async fn listen(record: &Record) -> io::Result<TcpListener> {
    let interface = record.index.interface();
    let view = record.view().map_err(io::Error::other)?;
    let address = SocketAddr::new(view.addresses[0].addr(), ports::KEEPER);
    for _ in 1..LOOKS {
        match bind(&interface, address) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => sleep(LOOK).await,
            bound => return bound,
        }
    }
    bind(&interface, address)
}

fn bind(interface: &str, address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    // A host answers for its addresses on every interface: without this others would reach the port.
    socket.bind_device(Some(interface.as_bytes()))?;
    socket.set_reuseaddr(true)?;
    // The interface gets its address when its keeper is ready.
    setsockopt(&socket, sockopt::IpFreebind, &true)?;
    socket.bind(address)?;
    socket.listen(8)
}

async fn check_ticket(mut stream: TcpStream, ticket: &Ticket) -> io::Result<TcpStream> {
    let mut presented = [0; ticket::BYTES];
    timeout(PRESENT, stream.read_exact(&mut presented)).await??;
    if ticket.is(presented) {
        Ok(stream)
    } else {
        Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "wrong ticket",
        ))
    }
}

/// This host, in one conversation.
struct Host {
    dirs: Dirs,
    /// The tunnel that the conversation comes through.
    index: Index,
    keeper: fn(Index) -> Command,
    stay: Stay,
    met: Option<(Arc<Tunnel>, Bypass)>,
    /// Packets for the short path that wait here.
    waiting: Option<Waiting>,
}

impl Host {
    async fn converse(mut self, stream: TcpStream) {
        let mut frames: Frames<TcpStream, BypassRequest, BypassReply> =
            Frames::new(stream, MAX_FRAME_BYTES);
        while let Ok(Ok(request)) = timeout(ANSWER, frames.receive()).await {
            let reply = self.answer(request).await.unwrap_or_else(|error| {
                tracing::warn!("{error:#}");
                BypassReply::Refused {
                    why: format!("{error:#}"),
                }
            });
            if frames.send(reply).await.is_err() {
                return;
            }
        }
    }

    async fn answer(&mut self, request: BypassRequest) -> anyhow::Result<BypassReply> {
        let (dirs, index, keeper) = (self.dirs.clone(), self.index, self.keeper);
        Ok(match request {
            BypassRequest::Offer => BypassReply::Offered {
                offer: spawn_blocking(move || Tunnel::offer(&dirs, &keeper)).await??,
            },
            BypassRequest::Meet { terms, address } => {
                let met = spawn_blocking(move || {
                    let record = Record::read(&dirs, index)?.ok_or(TunnelError::NotOurs)?;
                    let claim = Claim::Introduced(record.view()?.peer.public_key);
                    let tunnel = Tunnel::establish(&dirs, &terms, address, &claim, &keeper)?;
                    tunnel.prove(PROOF).map(|()| tunnel)
                });
                let tunnel = match met.await? {
                    Err(TunnelError::Taken(..)) => return Ok(BypassReply::Taken),
                    met => met?,
                };
                let (there, _) = Bypass::open(&self.dirs, tunnel.index()).await?;
                tracing::info!(interface = tunnel.interface(), "met the host at {address}");
                self.met = Some((Arc::new(tunnel), there));
                BypassReply::Met
            }
            BypassRequest::Redirect { flows } => {
                let Some((tunnel, there)) = &mut self.met else {
                    anyhow::bail!("no host was met");
                };
                // Their peers may have moved in the meantime.
                let leaving = move || apply::leaving_through(flows, index);
                let flows = spawn_blocking(leaving).await??;
                let met = tunnel.index();
                self.waiting = wait(self.waiting.take(), &dirs, met).await;
                // The other direction first: until this one is redirected, the middle keeps the
                // flows alive, whatever becomes of the other.
                there.return_through(flows.clone()).await?;
                BypassReply::Redirected {
                    flows: spawn_blocking(move || apply::reroute(&flows, index, met)).await??,
                }
            }
            BypassRequest::Forwarding { container } => {
                let forwards = port_forwards::of_tunnel(&dirs, index)?;
                let any = forwards.iter().any(|f| f.container.id == container);
                BypassReply::Forwards { any }
            }
            BypassRequest::Follow { container } => {
                let Some((tunnel, _)) = &self.met else {
                    anyhow::bail!("no host was met");
                };
                let met = tunnel.index();
                let follow = move || port_forwards::follow(&dirs, &container, index, met);
                BypassReply::Forwards {
                    any: spawn_blocking(follow).await??,
                }
            }
            BypassRequest::Stay => {
                self.stay.ask();
                BypassReply::Staying
            }
            BypassRequest::Return { flows } => {
                self.waiting = wait(self.waiting.take(), &dirs, index).await;
                BypassReply::Redirected {
                    flows: spawn_blocking(move || {
                        let introducers = introducers(&dirs, index)?;
                        anyhow::Ok(apply::return_through(&flows, &introducers, index)?)
                    })
                    .await??,
                }
            }
            BypassRequest::Arrived => {
                self.waiting = None;
                if let Some((_, there)) = &mut self.met {
                    there.arrived().await?;
                }
                BypassReply::Going
            }
        })
    }
}

/// The tunnels to the hosts that have introduced the one at the other end of this tunnel: only what comes by
/// way of these may take this one instead.
fn introducers(dirs: &Dirs, index: Index) -> Result<Vec<Index>, StateError> {
    let introduced_by = Record::read(dirs, index)?.map(|record| record.introduced_by);
    let introduced_by = introduced_by.unwrap_or_default();
    let leads_there = |record: &Record| {
        let view = record.view();
        view.is_ok_and(|view| introduced_by.contains(&view.peer.public_key))
    };
    let all = Record::read_all(dirs)?.into_iter();
    Ok(all.filter(leads_there).map(|record| record.index).collect())
}

/// Has packets that are to leave through a tunnel wait, unless they do already.
async fn wait(waiting: Option<Waiting>, dirs: &Dirs, tunnel: Index) -> Option<Waiting> {
    if waiting.is_some() {
        return waiting;
    }
    match Waiting::begin(dirs, tunnel).await {
        Ok(waiting) => Some(waiting),
        Err(error) => {
            tracing::warn!("packets may arrive out of order: {error}");
            None
        }
    }
}
