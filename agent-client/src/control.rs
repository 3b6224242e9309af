//! The control connection, seen from the source.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context;
use common::faults;
use common::paths;
use common::protocol::frame::{Frames, MAX_FRAME_BYTES};
use common::protocol::lies;
use common::protocol::liveness;
use common::protocol::version::Versions;
use common::protocol::{
    Fate, MigrationId, RefusalCode, Refused, Reply, Request, RequestName, StreamDigest, StreamKind,
};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use trust::{ConnectError, Fingerprint, Identity, Peers, Standing, TlsStream};

use crate::address::Address;

/// Longest wait for any one answer. Loading an image or restoring a large container takes the
/// destination a long time; TCP itself notices a dead connection much earlier.
const ANSWER_LIMIT: Duration = Duration::from_secs(600);

/// Longest wait for the destination to undo a migration.
const ABORT_LIMIT: Duration = Duration::from_secs(60);

/// The requests that open a migration and end it.
const BEGIN: &str = "begin";
const COMMIT: &str = "commit";

/// Why a request was not met.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    /// The destination says no.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The connection is gone, or the destination says nothing.
    #[error("lost the connection to the destination: {0}")]
    Lost(String),
    /// The user does not want to wait for the answer.
    #[error("cancelled")]
    Cancelled,
}

/// A greeted connection to an agent-server.
pub(crate) struct Control {
    frames: Frames<TlsStream<TcpStream>, Reply, Request>,
    /// The destination's address, as this host reaches it.
    pub(crate) peer: IpAddr,
    /// Its key.
    pub(crate) server: Fingerprint,
    /// Ends the wait for any answer except in [`Control::insist`].
    cancel: CancellationToken,
    /// A migration is open, which the destination has to be told to undo.
    open: bool,
}

/// This host's identity as a client.
pub(crate) fn identity() -> anyhow::Result<Identity> {
    let name = nix::unistd::gethostname()?.to_string_lossy().into_owned();
    Ok(Identity::load_or_create(&paths::client_dir(), &name)?)
}

impl Control {
    /// Connects to a destination that is paired with this host.
    pub(crate) async fn connect(address: &Address) -> anyhow::Result<Self> {
        let host = address.to_string();
        let pinned = Peers::open(&paths::client_dir())?.find_by_address(&host)?;
        let Some(peer) = pinned else {
            return Err(ConnectError::NotPaired { host }.into());
        };
        Self::open(&host, peer.fingerprint, Standing::Paired).await
    }

    /// Connects to the server with this key, as a paired client or as a stranger.
    pub(crate) async fn open(
        host: &str,
        server: Fingerprint,
        standing: Standing,
    ) -> anyhow::Result<Self> {
        let stream = trust::connect(&identity()?, host, server, standing).await?;
        let socket = stream.get_ref().0;
        let peer = socket.peer_addr()?.ip().to_canonical();
        liveness::watch(socket).context("cannot set up the connection")?;
        let mut control = Control {
            frames: Frames::new(stream, MAX_FRAME_BYTES),
            peer,
            server,
            cancel: CancellationToken::new(),
            open: false,
        };
        let hello = Request::Hello {
            versions: Versions::OURS,
            software: concat!("agent-client ", env!("CARGO_PKG_VERSION")).into(),
            host: nix::unistd::gethostname()?.to_string_lossy().into_owned(),
        };
        match control.ask(hello).await? {
            Reply::Welcome {
                version,
                software,
                host,
                ..
            } => {
                tracing::debug!(version, software, host, "connected");
                Ok(control)
            }
            other => Err(unexpected(&other).into()),
        }
    }

    /// From now on, cancelling `cancel` ends the wait for an answer.
    pub(crate) fn cancelled_by(self, cancel: CancellationToken) -> Self {
        Control { cancel, ..self }
    }

    /// Sends a request and waits for its answer.
    pub(crate) async fn ask(&mut self, request: Request) -> Result<Reply, RequestError> {
        let cancel = self.cancel.clone();
        self.exchange(request, &cancel).await
    }

    /// Sends a request and waits for its answer even if the migration is cancelled meanwhile.
    pub(crate) async fn insist(&mut self, request: Request) -> Result<Reply, RequestError> {
        self.exchange(request, &CancellationToken::new()).await
    }

    async fn exchange(
        &mut self,
        request: Request,
        cancel: &CancellationToken,
    ) -> Result<Reply, RequestError> {
        let lost = |error: &dyn std::fmt::Display| RequestError::Lost(error.to_string());
        let (name, asked) = (request.name(), RequestName::from(&request));
        self.open |= name == BEGIN;
        faults::reached(|| format!("client.{name}.before"));
        for said in lies::requests(request) {
            self.frames.send(said).await.map_err(|e| lost(&e))?;
        }
        let answer = tokio::select! {
            answer = tokio::time::timeout(ANSWER_LIMIT, self.frames.receive()) => answer,
            () = cancel.cancelled() => return Err(RequestError::Cancelled),
        };
        faults::reached(|| format!("client.{name}.after"));
        match answer {
            Ok(Ok(Reply::Refused(refused))) => {
                // The destination undoes a failed migration only when it is told to. Two exceptions:
                // it undoes a failed commit at once, and a failed `Begin` leaves nothing to undo.
                self.open &= !matches!(name, BEGIN | COMMIT);
                Err(refused.into())
            }
            Ok(Ok(reply)) if reply.answers(asked) => Ok(reply),
            Ok(Ok(other)) => Err(unexpected(&other)),
            Ok(Err(error)) => Err(lost(&error)),
            Err(_) => Err(RequestError::Lost("no answer".into())),
        }
    }

    /// Announces a stream, and only then polls `sending`. The destination's warnings are added to
    /// `warnings`.
    pub(crate) async fn send(
        &mut self,
        kind: StreamKind,
        stream: u32,
        sending: impl Future<Output = anyhow::Result<StreamDigest>>,
        warnings: &mut Vec<String>,
    ) -> anyhow::Result<()> {
        self.ask(Request::Receive { stream, kind }).await?;
        let sent = sending.await;
        self.end_stream(sent, warnings).await
    }

    /// Compares what was sent with what arrived. Adds the destination's warnings to `warnings`,
    /// each only once: files are sent several times, and the warnings about them repeat.
    pub(crate) async fn end_stream(
        &mut self,
        sent: anyhow::Result<StreamDigest>,
        warnings: &mut Vec<String>,
    ) -> anyhow::Result<()> {
        let error = match sent {
            Ok(digest) => {
                if let Reply::Received { warnings: new } =
                    self.ask(Request::StreamEnd { digest }).await?
                {
                    for warning in new {
                        if !warnings.contains(&warning) {
                            warnings.push(warning);
                        }
                    }
                }
                return Ok(());
            }
            Err(error) => error,
        };
        anyhow::ensure!(!self.cancel.is_cancelled(), "cancelled");
        let broken = error.chain().any(|cause| {
            cause.downcast_ref().is_some_and(|e: &std::io::Error| {
                matches!(
                    e.kind(),
                    ErrorKind::ConnectionReset
                        | ErrorKind::BrokenPipe
                        | ErrorKind::ConnectionAborted
                )
            })
        });
        if !broken {
            return Err(error);
        }
        // When the destination gives up on a stream, its own words say more than the broken
        // connection that this end sees.
        let digest = StreamDigest {
            bytes: 0,
            blake3: [0; 32],
        };
        match self.ask(Request::StreamEnd { digest }).await {
            Err(RequestError::Refused(refused)) if refused.code == RefusalCode::Failed => {
                Err(RequestError::Refused(refused).into())
            }
            _ => Err(error),
        }
    }

    /// Tells the destination to undo the migration and waits until it has. Returns what it could
    /// not undo. If the connection is gone, the destination undoes the migration without being
    /// told.
    pub(crate) async fn abort(&mut self, reason: &str) -> Result<Vec<String>, RequestError> {
        if !self.open {
            return Ok(Vec::new());
        }
        let request = Request::Abort {
            reason: reason.to_owned(),
        };
        let lost = |error: &dyn std::fmt::Display| RequestError::Lost(error.to_string());
        faults::reached(|| "client.abort.before".into());
        self.frames.send(request).await.map_err(|e| lost(&e))?;
        let aborted = async {
            loop {
                match self.frames.receive().await.map_err(|e| lost(&e))? {
                    Reply::Aborted { leftovers } => return Ok(leftovers),
                    // The late answer to a request that was cancelled.
                    late => tracing::debug!("passed over {late:?}"),
                }
            }
        };
        let aborted = tokio::time::timeout(ABORT_LIMIT, aborted)
            .await
            .unwrap_or_else(|_| Err(RequestError::Lost("no answer to the abort".into())));
        faults::reached(|| "client.abort.after".into());
        aborted
    }
}

/// Asks a destination what became of a migration.
pub(crate) async fn ask_fate(
    destination: &Address,
    migration: &MigrationId,
) -> anyhow::Result<Fate> {
    let mut control = Control::connect(destination).await?;
    let request = Request::Fate {
        migration: migration.clone(),
    };
    match control.ask(request).await? {
        Reply::Fate { fate } => Ok(fate),
        other => Err(unexpected(&other).into()),
    }
}

/// The error for an answer that does not belong to the request.
pub(crate) fn unexpected(reply: &Reply) -> RequestError {
    RequestError::Lost(format!("an answer that was not asked for: {reply:?}"))
}
