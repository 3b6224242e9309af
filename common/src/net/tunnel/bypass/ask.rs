//! The end of a conversation that asks.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

use super::messages::{ANSWER, BypassReply, BypassRequest, FROM, PORT, STAY_FROM};
use crate::net::flows::decide::MovedFlow;
use crate::net::flows::port_forwards;
use crate::net::mark::Index;
use crate::net::state::{self, Dirs, Record};
use crate::net::tunnel::agreement::{Offer, Terms};
use crate::net::tunnel::error::TunnelError;
use crate::protocol::frame::{FrameError, Frames, MAX_FRAME_BYTES};

/// Pause between requests to stay.
const ASK: Duration = Duration::from_secs(3);

/// A host could not be bypassed. Flows go on through it.
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
    /// Another tunnel has taken the number or networks of the one agreed on, each time.
    #[error("too many tunnels are being made at once")]
    Taken,
    /// This host's tunnel.
    #[error(transparent)]
    Tunnel(#[from] TunnelError),
    /// There is no such tunnel here any more.
    #[error("tunnel {0} is gone")]
    Gone(Index),
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
            // By now the host may have other routes that cover the tunnel's addresses.
            socket.bind_device(Some(index.interface().as_bytes()))?;
            socket.set_reuseaddr(true)?;
            // Another port will do where no firewall cares.
            socket
                .bind(SocketAddr::new(local, port))
                .or_else(|_| socket.bind(SocketAddr::new(local, 0)))?;
            let mut stream = socket.connect(keeper).await?;
            // The next conversation comes from the same port, perhaps soon.
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

    /// What a tunnel from the host at the other end to a third one must fit.
    pub async fn offer(&mut self) -> Result<Offer, BypassError> {
        match self.ask(BypassRequest::Offer).await? {
            BypassReply::Offered { offer } => Ok(offer),
            other => Err(unexpected(&other)),
        }
    }

    /// Has the other end bring up its end of a tunnel to the host at `address`. If the tunnel is not
    /// used, its keeper takes it down.
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

    /// Has the flows that the other end sends here take the tunnel to the host that it has met. Returns
    /// how many do. Their packets wait there, for a second or until [`Bypass::arrived`]. Never undone.
    pub async fn redirect(&mut self, flows: Vec<MovedFlow>) -> Result<usize, BypassError> {
        self.count(BypassRequest::Redirect { flows }).await
    }

    /// Releases the packets that have been waiting since [`Bypass::redirect`].
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

    /// Has the other end send those to the host that it has met. Never undone.
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

    pub(super) async fn return_through(
        &mut self,
        flows: Vec<MovedFlow>,
    ) -> Result<usize, BypassError> {
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
    BypassError::Refused(format!("{reply:?}, which is no answer to the request"))
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
