//! What both ends of a connection share.

use std::{error::Error as StdError, io, sync::Arc, time::Duration};

use rustls::{
    CertificateError, ClientConfig, OtherError, ServerConfig,
    client::Resumption,
    crypto::{CryptoProvider, ring},
    server::NoServerSessionStorage,
    sign::SingleCertAndKey,
    version::TLS13,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy, sink},
    time::timeout,
};

use crate::{
    admission::{Admission, PeerIdentity},
    fingerprint::Fingerprint,
    identity::Identity,
    verify::{AdmittedClient, PinnedServer},
};

/// How long the other side may take for the handshake, or to answer at all.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// The standing that a server grants a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// A host it has paired with.
    Paired,
    /// A stranger who may redeem an invitation, and nothing else.
    Unpaired,
}

impl Standing {
    /// The first byte that a server sends.
    pub(crate) fn to_byte(self) -> u8 {
        match self {
            Self::Paired => b'P',
            Self::Unpaired => b'U',
        }
    }

    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            b'P' => Some(Self::Paired),
            b'U' => Some(Self::Unpaired),
            _ => None,
        }
    }
}

impl From<&PeerIdentity> for Standing {
    fn from(peer: &PeerIdentity) -> Self {
        match peer {
            PeerIdentity::Paired(_) => Self::Paired,
            PeerIdentity::Unpaired(_) => Self::Unpaired,
        }
    }
}

pub(crate) fn provider() -> CryptoProvider {
    ring::default_provider()
}

pub(crate) fn client_config(identity: &Identity, server: Fingerprint) -> ClientConfig {
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&TLS13])
        .expect("the provider speaks TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PinnedServer::new(server)))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity.certified_key())));
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    config
}

pub(crate) fn server_config(identity: &Identity, admission: Admission) -> ServerConfig {
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&TLS13])
        .expect("the provider speaks TLS 1.3")
        .with_client_cert_verifier(Arc::new(AdmittedClient::new(admission)))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(identity.certified_key())));
    // A resumed session skips the check of the client's certificate.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config
}

/// Ends a connection after a failed handshake so that the other side gets to read why.
///
/// Closing a socket with unread input resets it, and loses what is still under way, including the
/// alert. So let the other side close first, but do not wait long for it.
pub(crate) async fn farewell(mut io: impl AsyncRead + AsyncWrite + Unpin) {
    let _ = timeout(Duration::from_secs(1), async {
        io.shutdown().await?;
        copy(&mut io, &mut sink()).await
    })
    .await;
}

/// The TLS error inside an I/O error, if there is one.
pub(crate) fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// The reason that one of our own certificate checks gave, if it is of this type.
pub(crate) fn reason<E: StdError + 'static>(error: &rustls::Error) -> Option<&E> {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(reason)))
        | rustls::Error::Other(OtherError(reason)) => reason.downcast_ref(),
        _ => None,
    }
}

/// Whether the connection ended although more was expected.
pub(crate) fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(
        error.kind(),
        BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof
    )
}
