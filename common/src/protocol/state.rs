//! Which request is legal when, as seen by the destination.
//!
//! ```text
//!            Hello                 Pair
//! Greeting ────────▶ Unpaired ───────────▶ Idle ◀──────────────────────────────┐
//!    │                                      ▲ │ Begin                          │
//!    └──────────────────────────────────────┘ ▼                                │
//!        Hello (paired)                      Begun                             │
//!                                             │ OpenTunnel                     │
//!                                             ▼                                │ Abort, from
//!                               OpenTunnel ⟲ TunnelOpen                        │ any of these
//!                                             │ ProveTunnel                    │
//!                                             ▼                                │
//! Receive{memory|image|volumes|skeleton}, StreamEnd ⟲ Connected ⇄ Receiving  │
//!                                             │ Stage                          │
//!                                             ▼                                │
//!          Receive{files}, StreamEnd, Flows ⟲ Staged                          │
//!                                             │ Receive{checkpoint}            │
//!                                             ▼                                │
//!                           Redirect, Flows ⟲ Receiving                        │
//!                                             │ StreamEnd                      │
//!                                             ▼                                │
//!                Redirect, Flows, MemoryEnd ⟲ Loaded                           │
//!                                             │ Restore                        │
//!                                             ▼                                │
//!                                            Restored ─────────────────────────┘
//!                                             │ Commit                         ▲
//!                                             └────────────────────────────────┘
//! ```
//!
//! A refused step leads to `Failed`, where only `Abort` is legal, which undoes the migration; the source
//! thaws the container first. A refused `Begin` leads back to `Idle`, and so does a refused `Commit`: it
//! has been undone by then.
//!
//! `Check`, `Fate` and `Introduce` are legal in `Idle` only: a connection that migrates does
//! nothing else.

use super::message::{Request, RequestName, StreamKind};

/// State of one control connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Nothing has been said yet.
    Greeting,
    /// Greeted by a peer that is not paired.
    Unpaired,
    /// Greeted by a paired peer; no migration on this connection.
    Idle,
    /// A migration is open.
    Begun,
    /// The destination's end of the tunnel is up.
    TunnelOpen,
    /// A handshake has been seen.
    Connected,
    /// A stream of the preparation is under way.
    ReceivingPreparation,
    /// Podman waits at the gate.
    Staged,
    /// A stream of files is under way; the container still runs at the source.
    ReceivingFiles,
    /// The checkpoint's stream is under way.
    ReceivingCheckpoint,
    /// The checkpoint is in place.
    Loaded,
    /// The container runs with its output held back.
    Restored,
    /// A step was refused. Nothing of the container runs; what was created for it is not undone
    /// yet.
    Failed,
}

/// A request that is not legal in the present state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{request}` is not legal in state {state:?}")]
pub struct Illegal {
    /// The request's name.
    pub request: &'static str,
    /// The state it came in.
    pub state: State,
}

impl State {
    /// The state after `request` succeeded, or why it is not legal now.
    ///
    /// `Hello` leads to [`State::Idle`]; for a stranger, the caller, who knows the peer's key,
    /// replaces that by [`State::Unpaired`].
    pub fn after(self, request: &Request) -> Result<State, Illegal> {
        use State::*;
        let next = match (self, request) {
            (Greeting, Request::Hello { .. }) => Idle,
            // A paired peer may have forgotten that it is, and ask again.
            (Unpaired | Idle, Request::Pair { .. }) => Idle,
            (Idle, Request::Check { .. } | Request::Fate { .. } | Request::Introduce { .. }) => {
                Idle
            }
            (Idle, Request::Begin { .. }) => Begun,
            // Repeated if something at the source has taken the agreed tunnel's place.
            (Begun | TunnelOpen, Request::OpenTunnel { .. }) => TunnelOpen,
            (TunnelOpen, Request::ProveTunnel) => Connected,
            (
                Connected,
                Request::Receive {
                    kind: StreamKind::Image | StreamKind::Volumes | StreamKind::Skeleton,
                    ..
                },
            ) => ReceivingPreparation,
            (ReceivingPreparation, Request::StreamEnd { .. }) => Connected,
            (Connected, Request::Stage) => Staged,
            (
                Staged,
                Request::Receive {
                    kind: StreamKind::Checkpoint,
                    ..
                },
            ) => ReceivingCheckpoint,
            (
                Staged,
                Request::Receive {
                    kind: StreamKind::Files,
                    ..
                },
            ) => ReceivingFiles,
            (ReceivingFiles, Request::StreamEnd { .. }) => Staged,
            (
                Connected,
                Request::Receive {
                    kind: StreamKind::Memory,
                    ..
                },
            ) => Connected,
            (Loaded, Request::MemoryEnd { .. }) => Loaded,
            (ReceivingCheckpoint, Request::StreamEnd { .. }) => Loaded,
            (Staged | ReceivingCheckpoint | Loaded, Request::Flows { .. } | Request::Redirect) => {
                self
            }
            (Loaded, Request::Restore) => Restored,
            (Restored, Request::Commit) => Idle,
            (state, Request::Abort { .. }) if state.migrating() => Idle,
            (state, request) => {
                return Err(Illegal {
                    request: request.name(),
                    state,
                });
            }
        };
        Ok(next)
    }

    /// Whether a migration is open, so that losing the connection must undo it.
    pub fn migrating(self) -> bool {
        !matches!(self, State::Greeting | State::Unpaired | State::Idle)
    }
}

impl Request {
    /// The request's name on the wire.
    pub fn name(&self) -> &'static str {
        RequestName::from(self).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{MigrationId, StreamDigest, version::Versions};

    fn hello() -> Request {
        Request::Hello {
            versions: Versions::OURS,
            software: String::new(),
            host: String::new(),
        }
    }

    fn receive(kind: StreamKind) -> Request {
        Request::Receive { stream: 1, kind }
    }

    fn end() -> Request {
        Request::StreamEnd {
            digest: StreamDigest {
                bytes: 0,
                blake3: [0; 32],
            },
        }
    }

    fn abort() -> Request {
        Request::Abort {
            reason: String::new(),
        }
    }

    #[test]
    fn the_whole_way_is_legal() {
        let mut state = State::Connected;
        for (request, expected) in [
            (receive(StreamKind::Image), State::ReceivingPreparation),
            (end(), State::Connected),
            (receive(StreamKind::Volumes), State::ReceivingPreparation),
            (end(), State::Connected),
            (receive(StreamKind::Memory), State::Connected),
            (receive(StreamKind::Skeleton), State::ReceivingPreparation),
            (end(), State::Connected),
            (Request::Stage, State::Staged),
            (receive(StreamKind::Files), State::ReceivingFiles),
            (end(), State::Staged),
            (Request::Flows { flows: vec![] }, State::Staged),
            (receive(StreamKind::Checkpoint), State::ReceivingCheckpoint),
            (Request::Redirect, State::ReceivingCheckpoint),
            (Request::Flows { flows: vec![] }, State::ReceivingCheckpoint),
            (end(), State::Loaded),
            (Request::Flows { flows: vec![] }, State::Loaded),
            (Request::Restore, State::Restored),
            (Request::Commit, State::Idle),
        ] {
            state = state.after(&request).unwrap();
            assert_eq!(state, expected, "{}", request.name());
        }
    }

    #[test]
    fn nothing_comes_before_hello() {
        for request in [Request::Commit, Request::Stage, abort()] {
            assert!(State::Greeting.after(&request).is_err());
        }
        assert_eq!(State::Greeting.after(&hello()), Ok(State::Idle));
        assert!(State::Idle.after(&hello()).is_err());
    }

    #[test]
    fn a_stranger_may_only_pair() {
        let id = MigrationId::random();
        for request in [
            Request::Fate { migration: id },
            Request::Commit,
            hello(),
            abort(),
        ] {
            assert!(State::Unpaired.after(&request).is_err());
        }
    }

    #[test]
    fn commit_needs_a_restored_container() {
        for state in [
            State::Idle,
            State::Begun,
            State::TunnelOpen,
            State::Connected,
            State::ReceivingPreparation,
            State::Staged,
            State::ReceivingCheckpoint,
            State::Loaded,
        ] {
            assert!(state.after(&Request::Commit).is_err(), "{state:?}");
        }
    }

    #[test]
    fn a_checkpoint_is_only_received_at_the_gate() {
        assert!(
            State::Connected
                .after(&receive(StreamKind::Checkpoint))
                .is_err()
        );
        assert!(State::Staged.after(&receive(StreamKind::Image)).is_err());
        assert!(State::Staged.after(&Request::Restore).is_err());
    }

    #[test]
    fn abort_ends_every_migration_and_nothing_else() {
        for state in [
            State::Begun,
            State::TunnelOpen,
            State::Connected,
            State::ReceivingPreparation,
            State::Staged,
            State::ReceivingCheckpoint,
            State::Loaded,
            State::Restored,
            State::Failed,
        ] {
            assert!(state.migrating());
            assert_eq!(state.after(&abort()), Ok(State::Idle), "{state:?}");
        }
        for state in [State::Greeting, State::Unpaired, State::Idle] {
            assert!(!state.migrating());
            assert!(state.after(&abort()).is_err());
        }
    }
}
