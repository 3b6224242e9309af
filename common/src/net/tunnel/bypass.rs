//! How a host that flows only pass gets out of their path.
//!
//! ```text
//!   entry                        middle                             container
//!   keeper of its tunnel         agent-client, after a migration    agent-server
//!   to the middle                from the middle
//!        ◀─────── Offer ─────────────┤
//!                                    ├──────── Introduce ──────────────▶  its end of a tunnel
//!   its end of it  ◀── Meet ─────────┤                                    to the entry is up
//!        ◀─────── Turn ──────────────┤
//!        ├──────────── Return, to the keeper of the new tunnel ────────▶  packets to the peers
//!   packets to the container                                              wait
//!   wait             ◀─ echo ────────┼────────── echo ─────────────────▶
//!        ◀─────── Arrived ───────────┤
//!   and go straight ─────────── Arrived ────────────────────────────────▶  and go straight
//! ```
//!
//! Flows of a container that moves on from the middle are known at its new host through the middle only.
//! The entry trusts the middle with them already; now the middle names the host that it has trusted with
//! the container. Until `Turn` is answered, and if any of this fails, they go on through the middle.
//!
//! Packets that go straight would overtake those that are on their way through the middle ([`crate::net::packets::keep_order`]),
//! so they wait. What the middle sends through both tunnels after `Turn` comes after these in each of them:
//! when its echoes are back nothing is on that way any more, in either direction.
//!
//! New connections that the entry sends after the container ([`crate::net::flows::port_forwards`]) follow it in the same
//! conversation.
//!
//! The keepers listen at [`PORT`] of the tunnel's address, on the tunnel's interface only, and ask for the
//! tunnel's ticket first. After it: [frames](crate::protocol::frame), one reply per request.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::agreement::{Offer, Terms};
use super::echo;
use super::expect;
use super::in_use::InUseError;
use super::{Tunnel, TunnelError};
use crate::net::flows::apply;
use crate::net::flows::decide::MovedFlow;
use crate::net::flows::port_forwards;
use crate::net::mark::Index;
use crate::net::packets::keep_order::Waiting;
use crate::net::state::{self, Dirs, Record};
use crate::protocol::frame::{FrameError, Frames, MAX_FRAME_BYTES};
use crate::ticket::{self, Ticket};

/// TCP port of the keepers, inside the tunnels.
pub const PORT: u16 = 50052;
/// The ports that conversations come from, by which they can be expected: those that begin and end, and
/// the one that stays.
const FROM: u16 = 50053;
const STAY_FROM: u16 = 50054;

/// How long anything may take that the other end of a tunnel has to do.
const ANSWER: Duration = Duration::from_secs(10);
/// Pause between requests to stay, and how long one holds.
const ASK: Duration = Duration::from_secs(3);
const STAY: Duration = Duration::from_secs(20);
/// How long a new tunnel is tried before the long path is kept.
const PROOF: Duration = Duration::from_secs(3);
/// How long whoever connects may take to present the ticket.
const PRESENT: Duration = Duration::from_secs(2);
/// How often, and how many times, it is looked whether the interface is there: the keeper of a
/// userspace tunnel makes it.
const LOOK: Duration = Duration::from_millis(50);
const LOOKS: u32 = 100;

/// Flows could not be led past a host. They go on through it.
#[derive(Debug, thiserror::Error)]
pub enum BypassError {
    /// The other end does not listen.
    #[error("the tunnel's keeper at {0} cannot be asked: {1}")]
    Connect(SocketAddr, io::Error),
    /// The conversation ended.
    #[error("the conversation with the tunnel's keeper ended: {0}")]
    Lost(#[from] FrameError),
    /// The other end took too long.
    #[error("the tunnel's keeper does not answer")]
    Silent,
    /// The other end could not do it.
    #[error("the host at the tunnel's other end says: {0}")]
    Refused(String),
    /// Another tunnel has taken the place of the one agreed on.
    #[error("too many tunnels are being made at once")]
    Taken,
    /// This host's tunnel.
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
    /// There is no such tunnel here any more.
    #[error("tunnel {0} is gone")]
    Gone(Index),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case")]
pub(crate) enum BypassRequest {
    /// To the entry: what a tunnel to another host has to fit.
    Offer,
    /// To the entry: make your end of the tunnel to the host at `address`, and see that it works.
    Meet { terms: Terms, address: IpAddr },
    /// To the entry: what you send me of these flows, send to the host that you have met.
    Redirect { flows: Vec<MovedFlow> },
    /// From the entry: what you send to the peers of these flows, send through this tunnel.
    Return { flows: Vec<MovedFlow> },
    /// To the entry, and from there to the one that it has met: what you sent on the long way has arrived.
    Arrived,
    /// To the entry: do you send new connections to this container through this tunnel?
    Forwarding { container: String },
    /// To the entry: send them to the host that you have met.
    Follow { container: String },
    /// From the entry, again and again: keep the tunnel, new connections come through it.
    Stay,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub(crate) enum BypassReply {
    Offered {
        offer: Offer,
    },
    Met,
    /// To `Meet`: another tunnel has taken its place. Begin again, with `Offer`.
    Taken,
    Redirected {
        flows: usize,
    },
    /// To `Arrived`.
    Going,
    /// To `Forwarding` and `Follow`: whether there are any.
    Forwards {
        any: bool,
    },
    Staying,
    Refused {
        why: String,
    },
}

/// When the other end last asked for the tunnel to stay.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stay(Arc<Mutex<Option<Instant>>>);

impl Stay {
    fn ask(&self) {
        *self.0.lock().expect("no panic while locked") = Some(Instant::now());
    }

    /// Whether that was lately.
    pub(crate) fn is_asked(&self) -> bool {
        let asked = *self.0.lock().expect("no panic while locked");
        asked.is_some_and(|at| at.elapsed() < STAY)
    }
}

/// A conversation with the keeper at the other end of a tunnel. Ends when dropped.
pub struct Bypass {
    frames: Frames<TcpStream, BypassReply, BypassRequest>,
}

impl Bypass {
    /// Connects through tunnel `index`. Also returns the address of the host there, outside the
    /// tunnel.
    pub async fn open(dirs: &Dirs, index: Index) -> Result<(Self, IpAddr), BypassError> {
        Self::open_from(FROM, dirs, index).await
    }

    async fn open_from(
        port: u16,
        dirs: &Dirs,
        index: Index,
    ) -> Result<(Self, IpAddr), BypassError> {
        let gone = || BypassError::Gone(index);
        let record = Record::read(dirs, index)
            .map_err(TunnelError::from)?
            .ok_or_else(gone)?;
        let ticket = state::ticket(dirs, index)
            .map_err(TunnelError::from)?
            .ok_or_else(gone)?;
        let view = record.view().map_err(TunnelError::from)?;
        let keeper = SocketAddr::new(view.peer_addresses[0], PORT);
        let local = view.addresses[0].addr();
        let connected = async {
            let socket = TcpSocket::new_v4()?;
            // A host has routes of its own, and the tunnel's addresses may be among them by now.
            socket.bind_device(Some(index.interface().as_bytes()))?;
            socket.set_reuseaddr(true)?;
            // From another port will do where no firewall cares.
            socket
                .bind(SocketAddr::new(local, port))
                .or_else(|_| socket.bind(SocketAddr::new(local, 0)))?;
            let mut stream = socket.connect(keeper).await?;
            // The next conversation comes from the same port, and may come soon.
            stream.set_zero_linger()?;
            stream.write_all(ticket.bytes()).await?;
            io::Result::Ok(stream)
        };
        let stream = within(ANSWER, connected)
            .await?
            .map_err(|error| BypassError::Connect(keeper, error))?;
        let frames = Frames::new(stream, MAX_FRAME_BYTES);
        Ok((Bypass { frames }, record.endpoint.ip()))
    }

    /// What a tunnel from the other end's host to a third one has to fit.
    pub async fn offer(&mut self) -> Result<Offer, BypassError> {
        match self.ask(BypassRequest::Offer).await? {
            BypassReply::Offered { offer } => Ok(offer),
            other => Err(unexpected(&other)),
        }
    }

    /// Has the other end bring up its end of a tunnel to the host at `address`. Undone there by
    /// itself, if the tunnel is not used.
    ///
    /// # Errors
    /// [`BypassError::Taken`]: ask for an offer again.
    pub async fn meet(&mut self, terms: Terms, address: IpAddr) -> Result<(), BypassError> {
        match self.ask(BypassRequest::Meet { terms, address }).await? {
            BypassReply::Met => Ok(()),
            BypassReply::Taken => Err(BypassError::Taken),
            other => Err(unexpected(&other)),
        }
    }

    /// Has flows that the other end sends here take the tunnel to the host that it has met. Returns
    /// how many do. Their packets wait there, for a second or until [`Bypass::arrived`]. Not undone.
    pub async fn redirect(&mut self, flows: Vec<MovedFlow>) -> Result<usize, BypassError> {
        self.count(BypassRequest::Redirect { flows }).await
    }

    /// Lets the packets go that wait since [`Bypass::redirect`].
    pub async fn arrived(&mut self) -> Result<(), BypassError> {
        match self.ask(BypassRequest::Arrived).await? {
            BypassReply::Going => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Whether the other end sends new connections to this container, by id, through the tunnel.
    pub async fn forwarding(&mut self, container: &str) -> Result<bool, BypassError> {
        let container = container.to_owned();
        self.whether(BypassRequest::Forwarding { container }).await
    }

    /// Has the other end send them to the host that it has met. Not undone.
    pub async fn follow(&mut self, container: &str) -> Result<bool, BypassError> {
        let container = container.to_owned();
        self.whether(BypassRequest::Follow { container }).await
    }

    async fn whether(&mut self, request: BypassRequest) -> Result<bool, BypassError> {
        match self.ask(request).await? {
            BypassReply::Forwards { any } => Ok(any),
            other => Err(unexpected(&other)),
        }
    }

    async fn stay(&mut self) -> Result<(), BypassError> {
        match self.ask(BypassRequest::Stay).await? {
            BypassReply::Staying => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    async fn return_through(&mut self, flows: Vec<MovedFlow>) -> Result<usize, BypassError> {
        self.count(BypassRequest::Return { flows }).await
    }

    async fn count(&mut self, request: BypassRequest) -> Result<usize, BypassError> {
        match self.ask(request).await? {
            BypassReply::Redirected { flows } => Ok(flows),
            other => Err(unexpected(&other)),
        }
    }

    async fn ask(&mut self, request: BypassRequest) -> Result<BypassReply, BypassError> {
        let answered = async {
            self.frames.send(request).await?;
            self.frames.receive().await
        };
        match within(ANSWER, answered).await?? {
            BypassReply::Refused { why } => Err(BypassError::Refused(why)),
            reply => Ok(reply),
        }
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Result<T, BypassError> {
    timeout(limit, work).await.map_err(|_| BypassError::Silent)
}

fn unexpected(reply: &BypassReply) -> BypassError {
    BypassError::Refused(format!("{reply:?}, which was not asked for"))
}

/// Lets what the tunnel's other end may ask next, for an echo or a conversation, pass a firewall. To
/// be repeated.
pub(crate) fn expect(record: &Record) -> Result<(), TunnelError> {
    let view = record.view().map_err(TunnelError::from)?;
    let (peer, local) = (view.peer_addresses[0], view.addresses[0].addr());
    let here = SocketAddr::new(local, PORT);
    expect::echo(peer, local, echo::IDENTIFIER)
        .and_then(|()| expect::tcp(SocketAddr::new(peer, FROM), here))
        .and_then(|()| expect::tcp(SocketAddr::new(peer, STAY_FROM), here))
        .map_err(InUseError::from)?;
    Ok(())
}

/// Has the other end keep its half of the tunnel as long as forwards here use it.
pub(crate) async fn ask_to_stay(dirs: Dirs, index: Index) {
    let mut conversation: Option<Bypass> = None;
    loop {
        sleep(ASK).await;
        let forwards = port_forwards::of_tunnel(&dirs, index).unwrap_or_default();
        if forwards.is_empty() {
            conversation = None;
            continue;
        }
        if conversation.is_none() {
            let opened = Bypass::open_from(STAY_FROM, &dirs, index).await;
            conversation = opened.ok().map(|(opened, _)| opened);
        }
        if let Some(there) = &mut conversation
            && let Err(error) = there.stay().await
        {
            tracing::warn!("{error}");
            conversation = None;
        }
    }
}

/// Answers the other end of a tunnel, for as long as the tunnel's keeper lives.
pub(crate) async fn serve(dirs: Dirs, record: Record, keeper: fn(Index) -> Command, stay: Stay) {
    let listener = match listen(&record).await {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!("flows cannot be led past the other host: {error}");
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
    let address = SocketAddr::new(view.addresses[0].addr(), PORT);
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
    // An address is the host's on all its interfaces: without this others would reach the port.
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
    /// What goes straight from here.
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
                    let tunnel = Tunnel::establish(&dirs, &terms, address, &keeper)?;
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
                // Their peers may have moved meanwhile.
                let leaving = move || apply::leaving_through(flows, index);
                let flows = spawn_blocking(leaving).await??;
                let met = tunnel.index();
                self.waiting = wait(self.waiting.take(), &dirs, met).await;
                // The other direction first: as long as this one is not turned, the middle keeps
                // the flows alive, whatever becomes of the other.
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
                    flows: spawn_blocking(move || apply::return_through(&flows, index)).await??,
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

/// Has packets wait that are to leave through a tunnel, unless they do.
async fn wait(waiting: Option<Waiting>, dirs: &Dirs, tunnel: Index) -> Option<Waiting> {
    if waiting.is_some() {
        return waiting;
    }
    match Waiting::begin(dirs, tunnel).await {
        Ok(waiting) => Some(waiting),
        Err(error) => {
            tracing::warn!("packets may overtake others: {error}");
            None
        }
    }
}
