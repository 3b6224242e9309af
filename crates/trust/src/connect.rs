//! The client's end.

use std::{io, net::Ipv4Addr, sync::Arc};

use rustls::{
    AlertDescription,
    Error::{AlertReceived, InvalidMessage, PeerIncompatible},
    pki_types::ServerName,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::{TlsConnector, TlsStream};

use crate::{
    dial,
    fingerprint::Fingerprint,
    identity::Identity,
    tls::{self, PATIENCE, Standing, farewell},
    verify::UnexpectedKey,
};

/// Why there is no trusted connection to a server. Nothing was asked of it.
///
/// If a variant has a source, that says more: show the whole chain.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address has no port, or its name is not known.
    #[error("{host} cannot be resolved (an address is written HOST:PORT)")]
    Unresolved {
        /// The server's address, here and below.
        host: String,
        /// What the resolver says.
        source: io::Error,
    },
    /// Nothing listens there.
    #[error("{host} refused the connection: is agent-server running there, on this port?")]
    Refused {
        /// The server's address.
        host: String,
    },
    /// There is no route to it.
    #[error("{host} cannot be reached")]
    Unreachable {
        /// The server's address.
        host: String,
        /// What the network says.
        source: io::Error,
    },
    /// No answer to the connection request.
    #[error("{host} did not answer within {} seconds: is it up, does a firewall drop the packets?", PATIENCE.as_secs())]
    TimedOut {
        /// The server's address.
        host: String,
    },
    /// The connection was accepted, and then nothing came.
    #[error("{host} took the connection but said nothing for {} seconds: does something other than agent-server listen there?", PATIENCE.as_secs())]
    Silent {
        /// The server's address.
        host: String,
    },
    /// The connection was accepted, and then closed.
    #[error("{host} closed the connection during the handshake: its log may say why")]
    Closed {
        /// The server's address.
        host: String,
    },
    /// The answer is not TLS.
    #[error("{host} does not speak TLS: something other than agent-server listens there")]
    NotTls {
        /// The server's address.
        host: String,
    },
    /// The answer is another version of TLS.
    #[error(
        "{host} does not speak TLS 1.3 as agent-server does: \
         something else, or a version too old, listens there"
    )]
    Incompatible {
        /// The server's address.
        host: String,
    },
    /// The server has another key than the pinned one.
    #[error(
        "the key of {host} is not the one pinned: expected {expected}, got {actual}. \
         If the server was reinstalled, remove the peer and pair again; \
         if not, somebody else answers in its place"
    )]
    KeyChanged {
        /// The server's address.
        host: String,
        /// The pinned key.
        expected: Fingerprint,
        /// The key it has.
        actual: Fingerprint,
    },
    /// The server does not know this host.
    #[error(
        "this host is not paired with {host}: \
         run `agent-server invite` there and `agent-client pair` here"
    )]
    NotPaired {
        /// The server's address.
        host: String,
    },
    /// The server does not know this host, and expects no new one.
    #[error(
        "{host} has no open invitation, so this one was used or has expired: \
         run `agent-server invite` there again"
    )]
    NotInvited {
        /// The server's address.
        host: String,
    },
    /// The server ended the handshake for a reason of its own.
    #[error("{host} broke off the handshake ({alert:?}): its log says why")]
    BrokenOff {
        /// The server's address.
        host: String,
        /// What it gave as a reason.
        alert: AlertDescription,
    },
    /// Anything else.
    #[error("the connection to {host} failed")]
    Other {
        /// The server's address.
        host: String,
        /// What happened.
        source: io::Error,
    },
}

/// How often a handshake is tried that is cut off.
const ATTEMPTS: u32 = 5;

impl ConnectError {
    /// Whether the connection ended in the middle of the handshake, without a reason.
    fn is_cut_off(&self) -> bool {
        match self {
            ConnectError::Closed { .. } => true,
            ConnectError::Other { source, .. } => source.kind() == io::ErrorKind::ConnectionReset,
            _ => false,
        }
    }
}

/// Connects to the server at `host` (`HOST:PORT`) and proves both keys.
///
/// The server must hold the key `server`, and must grant this host at least the standing `wanted`:
/// a connection for work needs [`Standing::Paired`], one for pairing [`Standing::Unpaired`]. Every
/// refusal is an error here, not in a later read. Nothing is kept on disk.
///
/// A server that many strangers press may close a connection before it is known whose it is. So the handshake is
/// tried a few times if it is cut off.
///
/// # Errors
///
/// See [`ConnectError`].
pub async fn connect(
    identity: &Identity,
    host: &str,
    server: Fingerprint,
    wanted: Standing,
) -> Result<TlsStream<TcpStream>, ConnectError> {
    let mut attempt = 1;
    loop {
        match connect_once(identity, host, server, wanted).await {
            Err(error) if error.is_cut_off() && attempt < ATTEMPTS => attempt += 1,
            ended => return ended,
        }
    }
}

async fn connect_once(
    identity: &Identity,
    host: &str,
    server: Fingerprint,
    wanted: Standing,
) -> Result<TlsStream<TcpStream>, ConnectError> {
    let stream = timeout(PATIENCE, dial(host))
        .await
        .unwrap_or_else(|_| Err(ConnectError::TimedOut { host: host.into() }))?;
    connect_over(stream, identity, host, server, wanted).await
}

async fn dial(host: &str) -> Result<TcpStream, ConnectError> {
    let addresses: Vec<_> = lookup_host(host)
        .await
        .map_err(|source| ConnectError::Unresolved {
            host: host.into(),
            source,
        })?
        .collect();
    let stream = dial::first(addresses, TcpStream::connect)
        .await
        .map_err(|source| dial_error(host, source))?;
    // Requests and answers are short, and each waits for the other.
    stream
        .set_nodelay(true)
        .map_err(|source| dial_error(host, source))?;
    Ok(stream)
}

fn dial_error(host: &str, source: io::Error) -> ConnectError {
    let host = host.into();
    match source.kind() {
        io::ErrorKind::ConnectionRefused => ConnectError::Refused { host },
        io::ErrorKind::TimedOut => ConnectError::TimedOut { host },
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            ConnectError::Unreachable { host, source }
        }
        _ => ConnectError::Other { host, source },
    }
}

/// As [`connect`], over a stream that is connected already; `host` is for messages only.
///
/// # Errors
///
/// See [`ConnectError`].
pub async fn connect_over<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    identity: &Identity,
    host: &str,
    server: Fingerprint,
    wanted: Standing,
) -> Result<TlsStream<S>, ConnectError> {
    let silent = |_| ConnectError::Silent { host: host.into() };
    let failed = |error| handshake_error(host, server, wanted, error);

    let connector = TlsConnector::from(Arc::new(tls::client_config(identity, server)));
    // The key identifies the server; this name is neither sent nor checked.
    let unnamed = ServerName::from(std::net::IpAddr::from(Ipv4Addr::UNSPECIFIED));
    let handshake = connector.connect(unnamed, stream).into_fallible();
    let mut stream = match timeout(PATIENCE, handshake).await.map_err(silent)? {
        Ok(stream) => TlsStream::from(stream),
        Err((error, stream)) => {
            farewell(stream).await;
            return Err(failed(error));
        }
    };

    // Only now does the server look at our certificate.
    let greeting = timeout(PATIENCE, stream.read_u8()).await.map_err(silent)?;
    match Standing::from_byte(greeting.map_err(failed)?) {
        Some(Standing::Paired) => Ok(stream),
        Some(standing) if standing == wanted => Ok(stream),
        Some(_) => {
            // The answer is known; it does not matter whether the farewell arrives.
            let _ = stream.shutdown().await;
            Err(ConnectError::NotPaired { host: host.into() })
        }
        None => Err(ConnectError::Incompatible { host: host.into() }),
    }
}

fn handshake_error(
    host: &str,
    expected: Fingerprint,
    wanted: Standing,
    source: io::Error,
) -> ConnectError {
    let host = host.into();
    let Some(error) = tls::tls_error(&source) else {
        return if tls::is_end(&source) {
            ConnectError::Closed { host }
        } else {
            ConnectError::Other { host, source }
        };
    };
    if let Some(&UnexpectedKey { actual }) = tls::reason(error) {
        return ConnectError::KeyChanged {
            host,
            expected,
            actual,
        };
    }
    match error {
        InvalidMessage(_) => ConnectError::NotTls { host },
        PeerIncompatible(_) | AlertReceived(AlertDescription::ProtocolVersion) => {
            ConnectError::Incompatible { host }
        }
        AlertReceived(AlertDescription::CertificateUnknown) => match wanted {
            Standing::Paired => ConnectError::NotPaired { host },
            Standing::Unpaired => ConnectError::NotInvited { host },
        },
        AlertReceived(alert) => ConnectError::BrokenOff {
            host,
            alert: *alert,
        },
        _ => ConnectError::Other { host, source },
    }
}
