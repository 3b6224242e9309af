//! The server's end.

use std::{error::Error as _, io, iter, net::SocketAddr, sync::Arc};

use rustls::{
    AlertDescription,
    Error::{AlertReceived, InvalidMessage, NoCertificatesPresented, PeerIncompatible},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsStream};

use crate::{
    admission::{Admission, PeerIdentity},
    error::Error,
    fingerprint::Fingerprint,
    identity::Identity,
    tls::{self, PATIENCE, Standing, farewell},
    verify::UnknownKey,
};

/// Why a caller was refused. It has been told as much as it should know, nothing was done for it,
/// and the next call can be accepted.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// A stranger called while no invitation was open.
    #[error("refused an unknown client with the key {client} from {from}")]
    UnknownClient {
        /// The caller's address, here and below.
        from: SocketAddr,
        /// The key it showed, before proving that it holds it.
        client: Fingerprint,
    },
    /// The caller did not accept this host's key.
    #[error("the client at {from} has another key pinned for this host: it has to pair again")]
    KeyRejected {
        /// The caller's address.
        from: SocketAddr,
    },
    /// The caller showed no certificate.
    #[error("refused a client from {from} that showed no key")]
    NoCertificate {
        /// The caller's address.
        from: SocketAddr,
    },
    /// The caller does not speak TLS.
    #[error("refused a caller from {from} that does not speak TLS")]
    NotTls {
        /// The caller's address.
        from: SocketAddr,
    },
    /// The caller speaks another version of TLS.
    #[error("refused a caller from {from} that does not speak TLS 1.3 as agent-client does")]
    Incompatible {
        /// The caller's address.
        from: SocketAddr,
    },
    /// The caller took too long.
    #[error("gave up on {from}, which did not complete the handshake within {} seconds", PATIENCE.as_secs())]
    TimedOut {
        /// The caller's address.
        from: SocketAddr,
    },
    /// The caller went away.
    #[error("{from} closed the connection during the handshake")]
    Closed {
        /// The caller's address.
        from: SocketAddr,
    },
    /// This host cannot tell whom it knows, so it lets nobody in.
    #[error(
        "refused the client from {from}, since the lists of peers and invitations cannot be used: {reason}"
    )]
    Unsure {
        /// The caller's address.
        from: SocketAddr,
        /// What is wrong with them.
        reason: String,
    },
    /// Anything else.
    #[error("the handshake with {from} failed")]
    Other {
        /// The caller's address.
        from: SocketAddr,
        /// What happened.
        source: io::Error,
    },
}

/// Accepts calls on a server's behalf. Clones share everything.
#[derive(Clone)]
pub struct Acceptor {
    tls: TlsAcceptor,
    admission: Admission,
}

impl Acceptor {
    /// An acceptor that proves this identity and lets in whom `admission` lets in.
    #[must_use]
    pub fn new(identity: &Identity, admission: Admission) -> Self {
        let config = tls::server_config(identity, admission.clone());
        Self {
            tls: TlsAcceptor::from(Arc::new(config)),
            admission,
        }
    }

    /// Turns a call from `from` into a trusted connection, and says who is calling.
    ///
    /// Takes a bounded time whatever the caller does, but run each call in a task of its own.
    ///
    /// # Errors
    ///
    /// See [`AcceptError`]: each is worth a line in the log, and none ends the server.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        from: SocketAddr,
    ) -> Result<(TlsStream<S>, PeerIdentity), AcceptError> {
        let late = |_| AcceptError::TimedOut { from };
        let failed = |error| handshake_error(from, error);

        let handshake = self.tls.accept(stream).into_fallible();
        let mut stream = match timeout(PATIENCE, handshake).await.map_err(late)? {
            Ok(stream) => TlsStream::from(stream),
            Err((error, stream)) => {
                farewell(stream).await;
                return Err(failed(error));
            }
        };
        let peer = self.identify(&stream, from)?;

        let greeting = async {
            stream.write_u8(Standing::from(&peer).to_byte()).await?;
            stream.flush().await
        };
        timeout(PATIENCE, greeting)
            .await
            .map_err(late)?
            .map_err(failed)?;
        Ok((stream, peer))
    }

    /// Asks the admission once more, now that the client has proven that it holds the key: the
    /// first answer stayed inside the handshake.
    fn identify<S>(
        &self,
        stream: &TlsStream<S>,
        from: SocketAddr,
    ) -> Result<PeerIdentity, AcceptError> {
        let (_, connection) = stream.get_ref();
        let certificate = connection
            .peer_certificates()
            .and_then(|chain| chain.first())
            .ok_or(AcceptError::NoCertificate { from })?;
        let client = Fingerprint::of(certificate).map_err(|source| AcceptError::Other {
            from,
            source: io::Error::other(source),
        })?;
        self.admission
            .admit(client)
            .map_err(|error| unsure(from, &error))?
            .ok_or(AcceptError::UnknownClient { from, client })
    }
}

fn unsure(from: SocketAddr, error: &Error) -> AcceptError {
    AcceptError::Unsure {
        from,
        reason: chain(error),
    }
}

/// An error and its sources in one line: the TLS library keeps only a reference to it.
fn chain(error: &Error) -> String {
    let causes = iter::successors(error.source(), |&cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

fn handshake_error(from: SocketAddr, source: io::Error) -> AcceptError {
    let Some(error) = tls::tls_error(&source) else {
        return if tls::is_end(&source) {
            AcceptError::Closed { from }
        } else {
            AcceptError::Other { from, source }
        };
    };
    if let Some(&UnknownKey { actual: client }) = tls::reason(error) {
        return AcceptError::UnknownClient { from, client };
    }
    if let Some(error) = tls::reason::<Error>(error) {
        return unsure(from, error);
    }
    match error {
        InvalidMessage(_) => AcceptError::NotTls { from },
        PeerIncompatible(_) => AcceptError::Incompatible { from },
        NoCertificatesPresented => AcceptError::NoCertificate { from },
        AlertReceived(AlertDescription::CertificateUnknown) => AcceptError::KeyRejected { from },
        _ => AcceptError::Other { from, source },
    }
}
