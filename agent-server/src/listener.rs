//! The listening socket.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Context;
use common::journal::Journal;
use common::multicall::keeper_command;
use common::net::state::Dirs;
use common::net::tunnel::lifecycle;
use common::paths;
use common::protocol::liveness;
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use trust::{Acceptor, Admission, Identity, Invites, Peers};

use crate::podman_host::PodmanHost;
use crate::recovery;
use crate::session::Session;

/// Connections that may wait to be accepted; the default of the standard library and of tokio.
const BACKLOG: u32 = 1024;

/// Most connections served at once; further ones wait in the socket's queue.
const MOST_CONNECTIONS: usize = 256;

/// Listens on `address` until SIGTERM or SIGINT, which undo migrations under way.
pub async fn serve(address: SocketAddr) -> anyhow::Result<()> {
    let directory = paths::server_dir();
    let identity = Identity::load_or_create(&directory, &host_name())?;
    let admission = Admission::new(Peers::open(&directory)?, Invites::open(&directory)?);
    let acceptor = Acceptor::new(&identity, admission.clone());

    // Bind the socket first: a second server on this host fails here, before it could take the
    // first one's migrations for leftovers of a crash.
    let listener = listen(address).with_context(|| {
        format!("cannot listen on {address} (is another agent-server running?)")
    })?;
    let address = listener.local_addr()?;
    let journal = Journal::of("server");
    recovery::recover(&journal).await?;
    tokio::task::spawn_blocking(|| lifecycle::sweep(&Dirs::default(), &keeper_command))
        .await?
        .context("cannot clean up old tunnels")?;

    let host = Arc::new(PodmanHost::new(journal));
    let permits = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let sessions = TaskTracker::new();
    let stop = tokio_util::sync::CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tracing::info!(%address, fingerprint = %identity.fingerprint(), "listening");

    loop {
        let permit = permits.clone().acquire_owned().await?;
        let (stream, from) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, from)) => (stream, canonical(from)),
                Err(error) => {
                    // Usually out of file descriptors: wait until some are closed.
                    tracing::warn!("accept: {error}");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            },
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        };
        let (acceptor, admission, host, stop) = (
            acceptor.clone(),
            admission.clone(),
            host.clone(),
            stop.clone(),
        );
        sessions.spawn(async move {
            let _permit = permit;
            let _ = stream.set_nodelay(true);
            if let Err(error) = liveness::watch(&stream) {
                tracing::warn!(%from, "keepalive: {error}");
            }
            match acceptor.accept(stream, from).await {
                Ok((stream, peer)) => {
                    let stream = StopAtShutdown::new(stream, stop);
                    Session::new(stream, peer, from, &admission, &*host)
                        .serve()
                        .await;
                }
                Err(error) => tracing::warn!("{:#}", anyhow::Error::from(error)),
            }
        });
    }
    tracing::info!("shutting down; migrations under way are undone");
    stop.cancel();
    sessions.close();
    sessions.wait().await;
    Ok(())
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

/// A stream that ends when the server stops, so that every session ends the ordinary way.
struct StopAtShutdown<S> {
    stream: S,
    stopped: std::pin::Pin<Box<tokio_util::sync::WaitForCancellationFutureOwned>>,
}

impl<S> StopAtShutdown<S> {
    fn new(stream: S, stop: tokio_util::sync::CancellationToken) -> Self {
        StopAtShutdown {
            stream,
            stopped: Box::pin(stop.cancelled_owned()),
        }
    }
}

impl<S: tokio::io::AsyncRead + Unpin> tokio::io::AsyncRead for StopAtShutdown<S> {
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

impl<S: tokio::io::AsyncWrite + Unpin> tokio::io::AsyncWrite for StopAtShutdown<S> {
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
    use std::net::IpAddr;

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
