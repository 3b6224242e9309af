//! Who a host is, which hosts it trusts, and the encrypted connection between two that trust
//! each other.
//!
//! There is no certificate authority. Every host makes one [`Identity`], a key that never leaves
//! it, and is known by the key's [`Fingerprint`]. Two hosts come to trust each other once, by an
//! invitation that a person carries from one to the other, and from then on each accepts exactly
//! the key it has pinned, as with SSH.
//!
//! ```text
//!  client                                                     server
//!    |                                      Invites::create -> token (kept: a hash)
//!    |<------- the token, carried by a person -----------------|
//!    |                                                         |
//!    | connect(token.server, Standing::Unpaired)               |
//!    |== TLS 1.3: the server's key is the one in the token ===>| Acceptor::accept:
//!    |<====== the client's key is unknown: PeerIdentity::Unpaired
//!    |------- token.secret ----------------------------------->| Admission::pair: redeem, pin
//!    | Peers::add(server)                                      |
//!    |                                                         |
//!    | connect(peer.fingerprint, Standing::Paired)             |
//!    |== TLS 1.3, both keys pinned ===========================>| PeerIdentity::Paired
//! ```
//!
//! TLS is version 1.3 only ([RFC 8446]), without session tickets: a resumed session would not
//! show its certificate again, and a removed peer must be refused at its next connection.
//!
//! In TLS 1.3 a client has finished its handshake before the server has seen its certificate, so a
//! refusal would otherwise surface as an odd error in some later read. The server therefore begins
//! each connection with one byte that tells the client its standing, and [`connect`] returns only
//! after reading it: an error of trust is always an error of [`connect`].
//!
//! [RFC 8446]: https://www.rfc-editor.org/rfc/rfc8446

mod accept;
mod admission;
mod connect;
mod dial;
mod error;
mod fingerprint;
mod identity;
mod invites;
mod peers;
mod private;
mod store;
mod tls;
mod token;
mod verify;

pub use accept::{AcceptError, Acceptor};
pub use admission::{Admission, PeerIdentity};
pub use connect::{ConnectError, connect, connect_over};
pub use error::Error;
pub use fingerprint::{Fingerprint, FingerprintError};
pub use identity::Identity;
pub use invites::{Invites, Refusal};
pub use peers::{Peer, Peers};
pub use tls::Standing;
pub use token::{Secret, Token, TokenError};
pub use tokio_rustls::TlsStream;
