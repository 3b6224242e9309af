//! One control connection: which request is allowed when, what answers it, and what is undone when
//! the connection is lost.

use std::future::Future;
use std::net::SocketAddr;

use common::container::restore::pager;
use common::faults;
use common::host::memory;
use common::protocol::frame::{FrameError, Frames, MAX_FRAME_BYTES, MAX_UNPAIRED_FRAME_BYTES};
use common::protocol::lies;
use common::protocol::version::Versions;
use common::protocol::{RefusalCode, Refused, Reply, Request, State};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use trust::{Admission, Peer, PeerIdentity};

use crate::destination::{Destination, Incoming, Step};

/// How long a peer may be silent before it has greeted and paired.
const STRANGER_LIMIT: std::time::Duration = std::time::Duration::from_secs(10);

/// How long a paired peer may be silent, except while a stream comes from it: between the plan and the
/// beginning somebody may think it over.
const IDLE_LIMIT: std::time::Duration = std::time::Duration::from_secs(600);

/// A failed commit is undone before the source is told, because the source may then ask for its
/// fate on any connection.
const COMMIT: &str = "commit";

/// Software version told to peers.
const SOFTWARE: &str = concat!("agent-server ", env!("CARGO_PKG_VERSION"));

/// A connection from a peer whose key has been checked.
pub struct Session<'a, S, D: Destination> {
    frames: Frames<S, Request, Reply>,
    state: State,
    peer: PeerIdentity,
    address: SocketAddr,
    admission: &'a Admission,
    host: &'a D,
    incoming: Option<D::Incoming>,
    cancel: CancellationToken,
}

/// What happened while a step was running.
enum During<T> {
    Done(Step<T>),
    /// The peer sent `Abort`, or something that is not legal now.
    Interrupted(Request),
    /// The connection is gone.
    Lost(FrameError),
}

impl<'a, S, D> Session<'a, S, D>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    D: Destination,
{
    /// A session over `stream` with `peer` at `address`. `admission` redeems invitations.
    pub fn new(
        stream: S,
        peer: PeerIdentity,
        address: SocketAddr,
        admission: &'a Admission,
        host: &'a D,
    ) -> Self {
        let limit = match peer {
            PeerIdentity::Paired(_) => MAX_FRAME_BYTES,
            PeerIdentity::Unpaired(_) => MAX_UNPAIRED_FRAME_BYTES,
        };
        Session {
            frames: Frames::new(stream, limit),
            state: State::Greeting,
            peer,
            address,
            admission,
            host,
            incoming: None,
            cancel: CancellationToken::new(),
        }
    }

    /// Serves the connection until it ends. A migration that is still open then is undone.
    pub async fn serve(mut self) {
        let why = loop {
            let request = match self.next_request().await {
                Ok(request) => request,
                Err(why) => break why,
            };
            match self.answer(request).await {
                Ok(()) => {}
                Err(error) => break error,
            }
        };
        tracing::debug!(peer = %self.address, "session ends: {why}");
        self.roll_back(&why).await;
    }

    /// Strangers must not keep a connection open without asking for something.
    async fn next_request(&mut self) -> Result<Request, String> {
        let limit = match self.state {
            State::Greeting | State::Unpaired => Some(STRANGER_LIMIT),
            State::ReceivingPreparation | State::ReceivingFiles | State::ReceivingCheckpoint => {
                None
            }
            _ => Some(IDLE_LIMIT),
        };
        let received = match limit {
            Some(limit) => tokio::time::timeout(limit, self.frames.receive())
                .await
                .map_err(|_| "no request came".to_owned())?,
            None => self.frames.receive().await,
        };
        received.map_err(|error| error.to_string())
    }

    /// Answers one request; an error ends the session.
    async fn answer(&mut self, request: Request) -> Result<(), String> {
        let next = match self.state.after(&request) {
            Ok(next) => next,
            Err(illegal) => {
                let message = illegal.to_string();
                self.refuse(Refused::new(RefusalCode::Protocol, &message))
                    .await?;
                return Err(message);
            }
        };
        let name = request.name();
        tracing::debug!(peer = %self.address, request = name);
        faults::reached(|| format!("server.{name}.before"));
        let reply = match request {
            Request::Abort { reason } => return self.abort(&reason).await,
            // From here on the source may believe that the container runs here, so nothing that
            // happens to the connection may interfere.
            Request::Commit => self.commit().await,
            request => match self.step(request).await {
                During::Done(reply) => reply,
                During::Interrupted(Request::Abort { reason }) => {
                    return self.abort(&reason).await;
                }
                During::Interrupted(other) => {
                    let message = format!("`{}` came before the last answer", other.name());
                    self.refuse(Refused::new(RefusalCode::Protocol, &message))
                        .await?;
                    return Err(message);
                }
                During::Lost(error) => return Err(error.to_string()),
            },
        };
        faults::reached(|| format!("server.{name}.after"));
        match reply {
            Ok(Reply::Committed) => {
                self.state = next;
                // The source waits for the answer, but nobody waits for the rest.
                let sent = self.tell(name, Reply::Committed).await;
                if let Some(mut committed) = self.incoming.take() {
                    committed.finish_outage().await;
                }
                sent
            }
            Ok(reply) => {
                self.state = next;
                if let Reply::Welcome { paired: false, .. } = reply {
                    self.state = State::Unpaired;
                }
                let paired_now = matches!(reply, Reply::Paired);
                self.tell(name, reply).await?;
                if paired_now {
                    return Err("paired; the next connection is a paired one".into());
                }
                Ok(())
            }
            // The source waits for this answer before it thaws the container, while its clients
            // wait. Undoing takes longer, and the source asks for it afterwards.
            Err(refused) if self.incoming.is_some() && name != COMMIT => {
                tracing::warn!(peer = %self.address, "refused: {}", refused.message);
                self.state = State::Failed;
                self.send(Reply::Refused(refused)).await
            }
            Err(refused) => {
                self.refuse(refused).await?;
                match self.state {
                    State::Greeting | State::Unpaired => Err("refused before pairing".into()),
                    _ => {
                        self.state = State::Idle;
                        Ok(())
                    }
                }
            }
        }
    }

    /// Undoes the migration that is open, if any, and refuses. The refusal also says what could not
    /// be undone.
    async fn refuse(&mut self, mut refused: Refused) -> Result<(), String> {
        tracing::warn!(peer = %self.address, "refused: {}", refused.message);
        let leftovers = self.roll_back(&refused.message).await;
        if !leftovers.is_empty() {
            refused.message = format!(
                "{}; could not be undone on the destination: {}",
                refused.message,
                leftovers.join("; ")
            );
        }
        self.send(Reply::Refused(refused)).await
    }

    async fn abort(&mut self, reason: &str) -> Result<(), String> {
        let leftovers = self.roll_back(reason).await;
        faults::reached(|| "server.abort.after".into());
        self.state = State::Idle;
        self.tell("abort", Reply::Aborted { leftovers }).await
    }

    async fn commit(&mut self) -> Step<Reply> {
        open(&mut self.incoming)?.commit().await?;
        Ok(Reply::Committed)
    }

    async fn step(&mut self, request: Request) -> During<Reply> {
        let Self {
            frames,
            peer,
            address,
            admission,
            host,
            incoming,
            cancel,
            ..
        } = self;
        // That a migration was cancelled concerns nothing that comes after it.
        if incoming.is_none() {
            *cancel = CancellationToken::new();
        }
        let token = cancel.clone();
        let work = async {
            match request {
                Request::Hello { versions, .. } => hello(versions, peer),
                Request::Pair { secret, name } => match peer {
                    PeerIdentity::Unpaired(client) => {
                        let paired = admission.pair(*client, &name, &secret).map_err(|error| {
                            tracing::warn!(from = %address, %client, "pairing refused: {error}");
                            Refused::new(RefusalCode::NotPaired, error.to_string())
                        })?;
                        tracing::info!(from = %address, name = paired.name, "paired");
                        Ok(Reply::Paired)
                    }
                    PeerIdentity::Paired(_) => Ok(Reply::Paired),
                },
                Request::Check {
                    container,
                    source,
                    forward_new,
                } => Ok(Reply::Checked {
                    // Changes nothing, so it need not come to its end.
                    checks: token
                        .run_until_cancelled(host.check(&container, &source, forward_new))
                        .await
                        .unwrap_or_else(|| Err(cancelled()))?,
                    available_bytes: memory::available_bytes(),
                }),
                Request::Fate { migration } => Ok(Reply::Fate {
                    fate: host.fate(&migration, paired(peer)?).await?,
                }),
                Request::Introduce { offer, address } => Ok(Reply::Introduced {
                    terms: host.introduce(offer, address, paired(peer)?).await?,
                }),
                Request::Begin {
                    migration,
                    container,
                    source,
                } => {
                    let (begun, missing_image) = host
                        .begin(
                            migration,
                            *container,
                            &source,
                            paired(peer)?,
                            *address,
                            token.clone(),
                        )
                        .await?;
                    *incoming = Some(begun);
                    Ok(Reply::Begun {
                        missing_image,
                        memory_bytes: pager::room_bytes(),
                    })
                }
                Request::OpenTunnel { offer } => Ok(Reply::TunnelOpened {
                    terms: open(incoming)?.open_tunnel(offer).await?,
                }),
                Request::ProveTunnel => {
                    let (data, ticket) = open(incoming)?.prove_tunnel().await?;
                    Ok(Reply::TunnelProven { data, ticket })
                }
                Request::Receive { stream, kind } => {
                    open(incoming)?.receive(stream, kind).await?;
                    Ok(Reply::Receiving)
                }
                Request::StreamEnd { digest } => {
                    let warnings = open(incoming)?.stream_end(digest).await?;
                    Ok(Reply::Received { warnings })
                }
                Request::MemoryEnd { digest } => {
                    open(incoming)?.memory_end(digest).await?;
                    Ok(Reply::Received {
                        warnings: Vec::new(),
                    })
                }
                Request::Stage => {
                    let packets = open(incoming)?.stage().await?;
                    Ok(Reply::Staged { packets })
                }
                Request::Flows { flows } => {
                    let waiting = open(incoming)?.flows(flows).await?;
                    Ok(Reply::FlowsInstalled { waiting })
                }
                Request::Redirect => {
                    open(incoming)?.redirect().await?;
                    Ok(Reply::Redirected)
                }
                Request::Restore => {
                    let warnings = open(incoming)?.restore().await?;
                    Ok(Reply::Restored { warnings })
                }
                Request::Commit | Request::Abort { .. } => {
                    unreachable!("answered before any step")
                }
            }
        };
        interruptible(frames, &token, work).await
    }

    async fn roll_back(&mut self, why: &str) -> Vec<String> {
        match self.incoming.take() {
            Some(mut incoming) => incoming.roll_back(why).await,
            None => Vec::new(),
        }
    }

    /// Answers the request of this name, which was met.
    async fn tell(&mut self, request: &str, reply: Reply) -> Result<(), String> {
        for said in lies::replies(request, reply) {
            self.send(said).await?;
        }
        Ok(())
    }

    async fn send(&mut self, reply: Reply) -> Result<(), String> {
        self.frames.send(reply).await.map_err(|e| e.to_string())
    }
}

/// Runs `work` while listening for an abort or the loss of the connection. Either cancels the work;
/// its end is waited for all the same, because it must be over before it can be undone.
async fn interruptible<S, T>(
    frames: &mut Frames<S, Request, Reply>,
    cancel: &CancellationToken,
    work: impl Future<Output = Step<T>>,
) -> During<T>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    tokio::pin!(work);
    tokio::select! {
        biased;
        done = &mut work => During::Done(done),
        early = frames.receive() => {
            cancel.cancel();
            let _ = work.await;
            match early {
                Ok(request) => During::Interrupted(request),
                Err(error) => During::Lost(error),
            }
        }
    }
}

fn open<I: Incoming>(incoming: &mut Option<I>) -> Step<&mut I> {
    incoming
        .as_mut()
        .ok_or_else(|| Refused::new(RefusalCode::Protocol, "no migration is open"))
}

fn cancelled() -> Refused {
    Refused::new(RefusalCode::Cancelled, "cancelled")
}

fn paired(peer: &PeerIdentity) -> Step<&Peer> {
    match peer {
        PeerIdentity::Paired(peer) => Ok(peer),
        PeerIdentity::Unpaired(_) => Err(Refused::new(RefusalCode::NotPaired, "not paired")),
    }
}

fn hello(theirs: Versions, peer: &PeerIdentity) -> Step<Reply> {
    let Some(version) = Versions::OURS.negotiate(theirs) else {
        return Err(Refused::new(
            RefusalCode::Version,
            format!(
                "the destination speaks protocol {}, the source {theirs}: install the same \
                 version of agent-client and agent-server",
                Versions::OURS
            ),
        ));
    };
    Ok(Reply::Welcome {
        version,
        software: SOFTWARE.into(),
        host: nix::unistd::gethostname()
            .map(|n| n.to_string_lossy().into_owned())
            .unwrap_or_default(),
        paired: matches!(peer, PeerIdentity::Paired(_)),
    })
}
