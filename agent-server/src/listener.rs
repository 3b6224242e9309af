//! The listening socket.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use common::journal::Journal;
use common::multicall::keeper_command;
use common::net::tunnel::{self, Dirs};
use common::paths;
use common::protocol::liveness;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use trust::{Acceptor, Gate, Identity, Invites, Peers};

use crate::podman_host::PodmanHost;
use crate::recovery;
use crate::session::Session;

/// Most connections served at once; more wait in the socket's queue.
const MOST_CONNECTIONS: usize = 256;

/// Listens on `address` until SIGTERM or SIGINT; migrations under way are undone then.
pub async fn serve(address: SocketAddr) -> anyhow::Result<()> {
    let directory = paths::server_dir();
    let identity = Identity::load_or_create(&directory, &host_name())?;
    let gate = Gate::new(Peers::open(&directory)?, Invites::open(&directory)?);
    let acceptor = Acceptor::new(&identity, gate.clone());

    // The socket first: a second server on this host stops here, before it takes the first one's
    // migrations for what a crash has left.
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address} (is another agent-server running?)")
    })?;
    let journal = Journal::of("server");
    recovery::recover(&journal).await?;
    tokio::task::spawn_blocking(|| tunnel::sweep(&Dirs::default(), &keeper_command))
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
                Ok(accepted) => accepted,
                Err(error) => {
                    // Usually out of descriptors: wait for some to be closed.
                    tracing::warn!("accept: {error}");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            },
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        };
        let (acceptor, gate, host, stop) =
            (acceptor.clone(), gate.clone(), host.clone(), stop.clone());
        sessions.spawn(async move {
            let _permit = permit;
            let _ = stream.set_nodelay(true);
            if let Err(error) = liveness::watch(&stream) {
                tracing::warn!(%from, "keepalive: {error}");
            }
            match acceptor.accept(stream, from).await {
                Ok((stream, peer)) => {
                    let stream = StopAtShutdown::new(stream, stop);
                    Session::new(stream, peer, from, &gate, &*host)
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

fn host_name() -> String {
    nix::unistd::gethostname()
        .map(|n| n.to_string_lossy().into_owned())
        .unwrap_or_else(|_| "agent-server".into())
}

/// A stream that ends when the server stops, so that every session takes its ordinary way out.
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
