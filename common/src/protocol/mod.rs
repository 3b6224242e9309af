//! What the two agents say to each other.
//!
//! One TCP connection carries the *control* conversation: mutual TLS 1.3 between pinned keys
//! (crate `trust`), inside it length-delimited frames of JSON ([`frame`]), inside them one
//! [`Request`] from the source answered by one [`Reply`] from the destination ([`message`]).
//! Which request is legal when is decided by [`State`] alone ([`state`]); anything else is
//! answered with [`Reply::Refused`] and the connection is closed.
//!
//! Bulk data never travels on the control connection. Each stream is a TCP connection of its own
//! *inside the WireGuard tunnel* ([`crate::bulk`]), opened with the ticket that
//! [`Reply::TunnelProven`] handed out; its length and BLAKE3 digest follow on the control
//! connection in [`Request::StreamEnd`].
//!
//! ```text
//!  source (agent-client)                                    destination (agent-server)
//!    │ ── TLS 1.3, both keys pinned ───────────────────────────────────────── │
//!    │ Hello{versions}                      → Welcome{version}                │
//!    │ Check{container, host}               → Checked{checks}                 │  nothing changed yet
//!    │ Begin{migration, container}          → Begun                           │
//!    │ OpenTunnel{offer}                    → TunnelOpened{answer}            │  WireGuard up there
//!    │   (WireGuard up here)                                                  │
//!    │ ProveTunnel                          → TunnelProven{data, ticket}      │  handshake seen by both
//!    │ Receive{image}    ══ bytes ══▶  StreamEnd{bytes, digest} → Received    │  only if missing there
//!    │ Receive{memory}   ══ bytes, until the end of the outage ══▶            │  if it is much
//!    │ Receive{skeleton} ══ bytes ══▶  StreamEnd{bytes, digest} → Received    │
//!    │ Stage                                → Staged                          │  Podman waits at the gate
//!    │ Receive{files}    ══ bytes ══▶  StreamEnd{bytes, digest} → Received    │  again while much changes
//!    │ Flows{batch} …                       → FlowsInstalled                  │
//!    │ Receive{checkpoint}                                                    │
//!    │ Redirect (if some pass there already) → Redirected                     │  ┐
//!    │   (the others' marks now lead into the tunnel: packets wait at the     │  │
//!    │   destination), freeze, dump                                           │  │
//!    │ Flows{late ones}, Redirect           → FlowsInstalled, Redirected      │  │ clients wait
//!    │                   ══ bytes ══▶  StreamEnd{bytes, digest} → Received    │  │
//!    │ MemoryEnd{bytes, digest}             → Received                        │  │
//!    │ Restore                              → Restored                        │  │ runs, output held back
//!    │ Commit                               → Committed                       │  ┘ the point of no return
//!    │   (old container removed)                                              │
//! ```
//!
//! * `Abort` is legal from `Begin` up to, but not including, `Commit`. Closing the connection means
//!   the same. `Abort` may be sent while an answer is outstanding.
//! * If no answer comes to `Commit`, only [`Request::Fate`] on a new connection tells what
//!   happened; until then the source's container stays frozen.
//! * Versioning: a change that an older peer cannot ignore raises [`version::CURRENT`]; peers use
//!   the highest version both know.

pub mod frame;
pub mod id;
pub mod lies;
pub mod liveness;
pub mod message;
pub mod state;
pub mod text;
pub mod version;

pub use id::{ContainerRef, MigrationId};
pub use message::{
    Fate, MissingImage, Packets, RefusalCode, Refused, Reply, Request, RequestName, StreamDigest,
    StreamKind,
};
pub use state::State;
