//! The control connection, seen from the source.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context;
use common::faults;
use common::paths;
use common::protocol::frame::{Frames, MAX_FRAME_BYTES};
use common::protocol::liveness;
use common::protocol::version::Versions;
use common::protocol::{Fate, MigrationId, Refused, Reply, Request};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use trust::{ConnectError, Fingerprint, Identity, Peers, Standing, TlsStream};

use crate::address::Address;

/// Longest wait for any one answer. Sending an image or restoring a large container takes long on
/// the destination; a dead connection is noticed much earlier by TCP itself.
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
    /// There is a migration that the destination has to be told to undo.
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

    /// Connects to the server with this key, as a stranger or not.
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
            open: false,
        };
        let hello = Request::Hello {
            versions: Versions::OURS,
            software: concat!("agent-client ", env!("CARGO_PKG_VERSION")).into(),
            host: nix::unistd::gethostname()?.to_string_lossy().into_owned(),
        };
        match control.request(hello, &CancellationToken::new()).await? {
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

    /// Sends a request and waits for its answer.
    pub(crate) async fn request(
        &mut self,
        request: Request,
        cancel: &CancellationToken,
    ) -> Result<Reply, RequestError> {
        let lost = |error: &dyn std::fmt::Display| RequestError::Lost(error.to_string());
        let name = request.name();
        self.open |= name == BEGIN;
        faults::reached(|| format!("client.{name}.before"));
        self.frames.send(request).await.map_err(|e| lost(&e))?;
        let answer = tokio::select! {
            answer = tokio::time::timeout(ANSWER_LIMIT, self.frames.receive()) => answer,
            () = cancel.cancelled() => return Err(RequestError::Cancelled),
        };
        faults::reached(|| format!("client.{name}.after"));
        match answer {
            Ok(Ok(Reply::Refused(refused))) => {
                // What failed is undone when it is asked for, but a commit at once, and of a beginning
                // there is nothing to undo.
                self.open &= !matches!(name, BEGIN | COMMIT);
                Err(refused.into())
            }
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(error)) => Err(lost(&error)),
            Err(_) => Err(RequestError::Lost("no answer".into())),
        }
    }

    /// Tells the destination to undo the migration and waits until it has. Returns what it could
    /// not undo. If the connection is gone, the destination does the same by itself.
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
                    // The answer to a request that was cancelled, on its way already.
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
    match control.request(request, &CancellationToken::new()).await? {
        Reply::Fate { fate } => Ok(fate),
        other => Err(unexpected(&other).into()),
    }
}

/// The answer does not belong to the request.
pub(crate) fn unexpected(reply: &Reply) -> RequestError {
    RequestError::Lost(format!("an answer that was not asked for: {reply:?}"))
}
