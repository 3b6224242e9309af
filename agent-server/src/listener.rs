//! The listening socket.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use common::container::binds::Allowed;
use common::journal::Journal;
use common::multicall::keeper_command;
use common::net::state::Dirs;
use common::net::tunnel::lifecycle;
use common::paths;
use common::protocol::liveness;
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use trust::{Acceptor, Admission, Identity, Invites, PeerIdentity, Peers, TlsStream};

use crate::connections::{Guests, Place, Strangers};
use crate::destination::Destination;
use crate::metrics::Metrics;
use crate::metrics::endpoint::{Access, Endpoint};
use crate::metrics::measured::Measured;
use crate::podman_host::PodmanHost;
use crate::recovery;
use crate::session::Session;
use crate::supervisor::{self, Supervisor};

/// Connections that may wait to be accepted; the default of the standard library and of tokio.
const BACKLOG: u32 = 1024;

/// How often the list of peers is looked at for those that have been removed.
const PEERS_PAUSE: Duration = Duration::from_secs(1);

/// Listens on `address` until SIGTERM or SIGINT, which undo migrations under way.
/// Tells others how it goes at another address, if one is given.
pub async fn serve(
    address: SocketAddr,
    allowed: Allowed,
    metrics_at: Option<(SocketAddr, Access)>,
) -> anyhow::Result<()> {
    let directory = paths::server_dir();
    let identity = Identity::load_or_create(&directory, &host_name())?;
    let admission = Admission::new(Peers::open(&directory)?, Invites::open(&directory)?);
    let acceptor = Acceptor::new(&identity, admission.clone());

    // Bind the socket first: a second server on this host fails here, before it could take the
    // first one's migrations for leftovers of a crash.
    let listener = listen(address).with_context(|| {
        format!("cannot listen on {address} (is another agent-server running?)")
    })?;
    let telling = match metrics_at {
        Some((at, access)) => {
            let bound = listen(at).with_context(|| format!("cannot listen on {at} for metrics"))?;
            tracing::info!(address = %bound.local_addr()?, "metrics at /metrics");
            Some((bound, access))
        }
        None => None,
    };
    let address = listener.local_addr()?;
    let journal = Journal::of("server");
    supervisor::starting("finishing or undoing what was interrupted");
    recovery::recover(&journal).await?;
    tokio::task::spawn_blocking(|| lifecycle::sweep(&Dirs::default(), &keeper_command))
        .await?
        .context("cannot clean up old tunnels")?;

    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tracing::info!(%address, fingerprint = %identity.fingerprint(), "listening");
    let stopped = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("shutting down; migrations under way are undone");
        stopped.cancel();
    });
    let metrics = Metrics::default();
    let host = PodmanHost::new(journal, allowed);
    let host = Arc::new(Measured::new(host, metrics.clone()));
    let calls = take_calls(listener, acceptor, admission, host, metrics.clone(), stop);
    let Some((listener, access)) = telling else {
        calls.await;
        return Ok(());
    };
    let endpoint = Endpoint {
        access,
        metrics,
        peers: Peers::open(&directory)?,
    };
    tokio::select! {
        () = calls => Ok(()),
        never = endpoint.serve(listener) => match never {},
    }
}

/// Serves all who call until `stop`; then ends every session, which undoes the migrations under way,
/// and waits for that.
///
/// Every connection is accepted at once. Until it has proven that it is a peer's it has a place among
/// those of strangers, of which there are few: however many say nothing, peers get through.
pub async fn take_calls<D: Destination + 'static>(
    listener: TcpListener,
    acceptor: Acceptor,
    admission: Admission,
    host: Arc<D>,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let mut supervisor = Supervisor::ready(&listener);
    let calls = Arc::new(Calls {
        acceptor,
        admission,
        host,
        metrics,
        strangers: Strangers::default(),
        guests: Guests::default(),
        stop: stop.clone(),
    });
    let sessions = TaskTracker::new();
    let mut look = tokio::time::interval(PEERS_PAUSE);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = look.tick() => {
                calls.end_those_of_removed_peers();
                supervisor.alive(calls.host.under_way());
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, from)) => {
                    let calls = calls.clone();
                    let from = canonical(from);
                    let place = calls.strangers.admit(from.ip(), &stop);
                    sessions.spawn(async move { calls.answer(stream, from, place).await });
                }
                Err(error) => {
                    // Usually out of file descriptors: wait until some are closed.
                    tracing::warn!("accept: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
    supervisor.stopping(calls.host.under_way());
    sessions.close();
    sessions.wait().await;
}

/// What it takes to answer a call.
struct Calls<D> {
    acceptor: Acceptor,
    admission: Admission,
    host: Arc<D>,
    metrics: Metrics,
    strangers: Strangers,
    guests: Guests,
    stop: CancellationToken,
}

impl<D: Destination> Calls<D> {
    /// Serves a connection to its end.
    async fn answer(&self, stream: TcpStream, from: SocketAddr, place: Place<IpAddr>) {
        let _ = stream.set_nodelay(true);
        if let Err(error) = liveness::watch(&stream) {
            tracing::warn!(%from, "keepalive: {error}");
        }
        let shaken = tokio::select! {
            shaken = self.acceptor.accept(stream, from) => shaken,
            // In silence: there may be thousands.
            () = place.end().cancelled() => return,
        };
        let (stream, peer) = match shaken {
            Ok(shaken) => shaken,
            Err(error) => {
                tracing::warn!("{:#}", anyhow::Error::from(error));
                return;
            }
        };
        let key = match &peer {
            PeerIdentity::Paired(peer) => peer.fingerprint,
            PeerIdentity::Unpaired(_) => return self.serve(stream, peer, from, &place).await,
        };
        let Some(guest) = self.guests.admit(key, &self.stop) else {
            tracing::warn!(%from, "too many connections of this peer");
            return;
        };
        drop(place);
        let _counted = self.metrics.session();
        self.serve(stream, peer, from, &guest).await;
    }

    async fn serve<K: Clone + PartialEq>(
        &self,
        stream: TlsStream<TcpStream>,
        peer: PeerIdentity,
        from: SocketAddr,
        place: &Place<K>,
    ) {
        let stream = EndedBy::new(stream, place.end().clone());
        Session::new(stream, peer, from, &self.admission, &*self.host)
            .serve()
            .await;
    }

    /// Ends the sessions of peers that have been removed from the list.
    fn end_those_of_removed_peers(&self) {
        match self.admission.peers() {
            Ok(peers) => {
                let keys: Vec<_> = peers.iter().map(|peer| peer.fingerprint).collect();
                self.guests.keep(&keys);
            }
            Err(error) => tracing::warn!("{:#}", anyhow::Error::from(error)),
        }
    }
}

/// Listens on `address`. If that is `[::]`, also listens on all IPv4 addresses, whatever
/// `net.ipv6.bindv6only` says, and only on those if the host has no IPv6.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let all = address.is_ipv6() && address.ip().is_unspecified();
    match listen_on(address, all) {
        Err(error) if all && has_no_ipv6(&error) => {
            let address = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port());
            tracing::info!("this host has no IPv6: listening on {address}");
            listen_on(address, false)
        }
        listening => listening,
    }
}

fn listen_on(address: SocketAddr, both: bool) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Connections of an earlier server may still be closing.
    socket.set_reuseaddr(true)?;
    if both {
        setsockopt(&socket, sockopt::Ipv6V6Only, &false)?;
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Either the module is missing, or the host was booted with `ipv6.disable=1`.
fn has_no_ipv6(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL))
}

/// The address of an IPv4 client of a dual-stack socket, as it is known everywhere else.
fn canonical(from: SocketAddr) -> SocketAddr {
    SocketAddr::new(from.ip().to_canonical(), from.port())
}

fn host_name() -> String {
    nix::unistd::gethostname()
        .map(|n| n.to_string_lossy().into_owned())
        .unwrap_or_else(|_| "agent-server".into())
}

/// A stream that ends when its session must, so that every session ends the ordinary way.
struct EndedBy<S> {
    stream: S,
    stopped: std::pin::Pin<Box<tokio_util::sync::WaitForCancellationFutureOwned>>,
}

impl<S> EndedBy<S> {
    fn new(stream: S, stop: tokio_util::sync::CancellationToken) -> Self {
        EndedBy {
            stream,
            stopped: Box::pin(stop.cancelled_owned()),
        }
    }
}

impl<S: tokio::io::AsyncRead + Unpin> tokio::io::AsyncRead for EndedBy<S> {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        if self.stopped.as_mut().poll(cx).is_ready() {
            return std::task::Poll::Ready(Ok(()));
        }
        std::pin::Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: tokio::io::AsyncWrite + Unpin> tokio::io::AsyncWrite for EndedBy<S> {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_families_are_heard_and_known_by_their_own_addresses() {
        let listener = listen("[::]:0".parse().unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut heard = Vec::new();
        for to in ["127.0.0.1", "::1"] {
            let to: IpAddr = to.parse().unwrap();
            match tokio::net::TcpStream::connect((to, port)).await {
                Ok(_) => {}
                Err(error) if to.is_ipv6() => {
                    println!("skipped: no IPv6 here: {error}");
                    continue;
                }
                Err(error) => panic!("{to}: {error}"),
            }
            let from = canonical(listener.accept().await.unwrap().1);
            heard.push((from.ip(), to));
        }
        assert!(!heard.is_empty());
        assert!(heard.iter().all(|(from, to)| from == to), "{heard:?}");
    }

    #[tokio::test]
    async fn an_address_of_one_family_is_that_alone() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        assert!(listener.local_addr().unwrap().is_ipv4());
        assert!(has_no_ipv6(&Errno::EAFNOSUPPORT.into()));
        assert!(!has_no_ipv6(&Errno::EADDRINUSE.into()));
    }
}
