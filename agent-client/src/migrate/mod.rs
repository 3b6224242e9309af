//! The phases of a migration, in order, and the one place that undoes them.

mod bypass;
mod checks;
mod failure;
mod flood;
mod outage;
mod record;

use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Context;
use common::bulk;
use common::container::ContainerFacts;
use common::container::cargo::Sent;
use common::container::podman;
use common::container::service::{self, Parted};
use common::journal::{Direction, MigrationRecord, Progress};
use common::multicall::keeper_command;
use common::net::flows::FlowCount;
use common::net::published::{self, Forward};
use common::net::tunnel::{Dirs, MOST_TRIES, PROOF_LIMIT, Tunnel, TunnelError};
use common::paths;
use common::preflight::{Check, Verdict};
use common::protocol::message::FLOWS_PER_BATCH;
use common::protocol::{MigrationId, MissingImage, RefusalCode, Reply, Request, StreamKind};
use common::report::{self, Outcome, PhaseName, Report};
use common::transaction::{self, SourceStep};
use common::undo::Undo;
use time::OffsetDateTime;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use self::bypass::Moved;
use self::failure::Failure;
pub(crate) use self::failure::is_usage_error;
use self::outage::Outage;
use self::record::Record;
use crate::address::Address;
use crate::control::{Control, RequestError, ask_outcome, unexpected};
use crate::lock::{self, ContainerLock};
use crate::progress::Observer;
use crate::source::{Data, Flows, Source};
use crate::timeline::Timeline;

/// For how long, and with what pause, the destination is asked what became of a commit.
const OUTCOME_LIMIT: Duration = Duration::from_secs(15);
const OUTCOME_PAUSE: Duration = Duration::from_secs(2);

const TOO_MANY_DATAGRAMS: &str = "datagrams to the container were dropped while the checkpoint was sent: \
                                  more came than the tunnel carries";

/// A decision of the user between plan and act.
pub(crate) type Confirm<'a> = &'a (dyn Fn(&ContainerFacts, &[Check]) -> bool + Send + Sync);

/// Number of the stream with the checkpoint. The image and the skeleton come before, files after.
const CHECKPOINT_STREAM: u32 = 3;

/// A pass over the files that sent less than this is the last before the outage, in bytes.
const FEW_BYTES: u64 = 8 << 20;

/// Most passes over the files after the first.
const MOST_PASSES: u32 = 4;

/// One migration from this host.
pub(crate) struct Migration<'a> {
    destination: Address,
    outage: Outage,
    timeline: Timeline<'a>,
    sent: bulk::Progress,
    undo: Undo,
    record: Record,
    control: Option<Control>,
    /// Flows that the destination knows and has yet to turn.
    waiting: bool,
    forward_new: bool,
    report: Report,
    /// Held to the end of the roll-back: recovery takes a record without a lock for a dead one.
    lock: Option<ContainerLock>,
}

impl<'a> Migration<'a> {
    /// A migration to `destination`; cancelled through `cancel` until it commits.
    pub(crate) fn new(
        destination: Address,
        observer: &'a dyn Observer,
        cancel: CancellationToken,
    ) -> Self {
        let sent = bulk::Progress::default();
        Migration {
            report: Report {
                version: report::VERSION,
                migration_id: None,
                container: None,
                source: nix::unistd::gethostname()
                    .map(|n| n.to_string_lossy().into_owned())
                    .unwrap_or_default(),
                destination: destination.to_string(),
                outcome: Outcome::Failed,
                phases: Vec::new(),
                freeze_ms: 0,
                sent_bytes: 0,
                flows: FlowCount::default(),
                shortened: 0,
                forwarded_ports: Vec::new(),
                tunnel: None,
                packets: None,
                notes: Vec::new(),
                warnings: Vec::new(),
                error: None,
            },
            destination,
            outage: Outage::of(cancel),
            timeline: Timeline::start(observer, sent.clone()),
            sent,
            undo: Undo::default(),
            record: Record::none(),
            control: None,
            waiting: false,
            forward_new: false,
            lock: None,
        }
    }

    /// Undoes the migration if the container has been frozen for longer than this before it commits.
    pub(crate) fn max_freeze(mut self, limit: Duration) -> Self {
        self.outage.set_limit(limit);
        self
    }

    /// Sends new connections to the ports that the container publishes here after it.
    pub(crate) fn forward_new(mut self, forward: bool) -> Self {
        self.forward_new = forward;
        self
    }

    /// Moves `container` if both hosts agree and `confirm` does; undoes everything if it fails.
    /// Also says whether the failure is a mistake in the command line.
    pub(crate) async fn run(
        mut self,
        container: &str,
        dry_run: bool,
        confirm: Confirm<'_>,
    ) -> (Report, bool) {
        let mut usage = false;
        match self.attempt(container, dry_run, confirm).await {
            Ok(outcome) => self.report.outcome = outcome,
            Err(Failure::Refused(why)) => {
                if self.record.is_open() {
                    self.roll_back(&anyhow::anyhow!(why.clone())).await;
                }
                if self.report.outcome != Outcome::Unknown {
                    self.report.outcome = Outcome::Refused;
                }
                self.report.error = Some(why);
            }
            Err(Failure::Failed(error)) => {
                usage = is_usage_error(&error);
                self.roll_back(&self.outage.explain(error)).await;
            }
            Err(Failure::Unknown(error)) => {
                self.undo.disarm();
                self.report.outcome = Outcome::Unknown;
                self.report.error = Some(format!("{error:#}"));
            }
        }
        self.timeline.end();
        self.report.phases = self.timeline.phases().to_vec();
        self.report.sent_bytes = self.timeline.sent_bytes();
        (self.report, usage)
    }

    /// Looks at both hosts; returns what holds and what does not.
    pub(crate) async fn check(&mut self, container: &str) -> anyhow::Result<Vec<Check>> {
        let (facts, _, host) = checks::look(container).await?;
        let mut checks = checks::here(&facts, &host, self.forward_new).await;
        let mut control = Control::connect(&self.destination)
            .await?
            .cancelled_by(self.outage.cancel.clone());
        checks.extend(checks::there(&facts, &host, self.forward_new, &mut control).await?);
        Ok(checks)
    }

    async fn attempt(
        &mut self,
        container: &str,
        dry_run: bool,
        confirm: Confirm<'_>,
    ) -> Result<Outcome, Failure> {
        self.timeline.begin(PhaseName::Connect);
        let cancel = self.outage.cancel.clone();
        let looked = cancel.run_until_cancelled(checks::look(container)).await;
        let (facts, placement, host) = looked.context("cancelled")??;
        self.report.container = Some(facts.reference());
        self.lock = Some(lock::container(&facts.id)?.ok_or_else(|| {
            anyhow::anyhow!("another agent-client is migrating {} right now", facts.name)
        })?);
        if let Some(record) = self.record.unsettled(&facts.id)? {
            return Err(Failure::Refused(format!(
                "an earlier migration of {} to {} is not settled (its id: {}): until it is, it may \
                 run there",
                facts.name, record.peer, record.migration
            )));
        }
        // A container that is not running at all has nothing to ask the destination about.
        let mut checks = checks::here(&facts, &host, self.forward_new).await;
        if let Some(why) = checks::refusal(&checks) {
            return Err(Failure::Refused(why));
        }
        if self.forward_new && facts.ports.is_empty() {
            return Err(Failure::Refused(format!(
                "{} publishes no ports: there are no new connections to forward, leave out \
                 --forward-new",
                facts.name
            )));
        }
        let mut control = Control::connect(&self.destination)
            .await?
            .cancelled_by(self.outage.cancel.clone());

        self.timeline.begin(PhaseName::Preflight);
        checks.extend(checks::there(&facts, &host, self.forward_new, &mut control).await?);
        for check in checks.iter().filter(|c| c.verdict == Verdict::Warning) {
            self.report
                .warnings
                .push(format!("{}: {}", check.name, check.detail));
        }
        if let Some(why) = checks::refusal(&checks) {
            return Err(Failure::Refused(why));
        }
        if dry_run {
            return Ok(Outcome::Possible);
        }
        self.timeline.pause();
        if !confirm(&facts, &checks) {
            return Err(anyhow::anyhow!("not confirmed").into());
        }
        self.outage.stop_if_cancelled()?;

        let migration = MigrationId::random();
        self.report.migration_id = Some(migration.clone());
        let source = self.open_journal(&migration, &facts, placement)?;
        let begin = Request::Begin {
            migration: migration.clone(),
            container: Box::new(facts),
            source: Box::new(host),
        };
        let missing_image = match control.ask(begin).await {
            Ok(Reply::Begun { missing_image }) => missing_image,
            Ok(other) => return Err(unexpected(&other).into()),
            Err(RequestError::Refused(refused)) if refused.code == RefusalCode::Preflight => {
                return Err(Failure::Refused(refused.message));
            }
            Err(error) => {
                self.control = Some(control);
                return Err(error.into());
            }
        };
        self.control = Some(control);
        self.carry_out(&source, missing_image).await
    }

    /// From `Begin` to the end. From here on the control connection is in `self.control`, for the
    /// roll-back.
    async fn carry_out(
        &mut self,
        source: &Source,
        missing_image: Option<MissingImage>,
    ) -> Result<Outcome, Failure> {
        self.timeline.begin(PhaseName::Tunnel);
        let (tunnel, data) = self.open_tunnel().await?;

        if let Some(missing) = missing_image {
            self.timeline.begin(PhaseName::Image);
            let sent = source.send_image(1, &data, missing, self.outage.cancel.clone());
            connected(&mut self.control)?
                .send(StreamKind::Image, 1, sent, &mut self.report.warnings)
                .await?;
        }

        // Everything that needs no memory image: the container runs on meanwhile.
        self.timeline.begin(PhaseName::Stage);
        // Nothing of the container has been changed, so a Podman that hangs can be given up.
        let written = self
            .outage
            .cancel
            .run_until_cancelled(source.write_skeleton());
        written.await.context("cancelled")??;
        let sent = source.send_skeleton(2, &data, self.outage.cancel.clone());
        connected(&mut self.control)?
            .send(StreamKind::Skeleton, 2, sent, &mut self.report.warnings)
            .await?;
        match connected(&mut self.control)?.ask(Request::Stage).await? {
            Reply::Staged { packets } => self.report.packets = Some(packets),
            other => return Err(unexpected(&other).into()),
        }

        self.timeline.begin(PhaseName::Files);
        let sent = self.send_files(source, &data).await?;

        self.timeline.begin(PhaseName::Flows);
        let mut flows = vec![source.flows(None).await.context("cannot read the flows")?];
        self.install(&flows[0]).await?;
        let ready = flows[0].prepare(tunnel.index()).await;
        ready.context("cannot prepare the flows")?;
        if self.forward_new {
            self.prepare_forward(source, &tunnel).await?;
        }
        // Before the freeze: a check must not begin while the container stands still.
        let held = source.clone();
        self.undo
            .register("service and health checks", move || async move {
                held.release().await
            });
        let holding = source.hold().await;
        holding.context("cannot keep systemd from looking after the container")?;
        let thawed = source.clone();
        self.undo
            .register("freeze", move || async move { thawed.thaw().await });
        source.prepare_freeze().await?;
        connected(&mut self.control)?
            .ask(Request::Receive {
                stream: CHECKPOINT_STREAM,
                kind: StreamKind::Checkpoint,
            })
            .await?;
        let stream = self.outage.cancel.child_token();
        let (path, cancel) = (data.clone(), stream.clone());
        let sender = spawn_blocking(move || path.open(CHECKPOINT_STREAM, cancel)).await??;
        self.outage.stop_if_cancelled()?;
        source.wait_accepted().await?;

        // From here on packets for the container go to the destination and wait there.
        self.timeline.begin(PhaseName::Freeze);
        self.outage.begin();
        self.turn(&flows[0], &tunnel).await?;
        source
            .freeze()
            .await
            .context("cannot freeze the container")?;

        let watch = flood::Watch::begin(flows[0].clone(), tunnel.index());
        self.timeline.begin(PhaseName::Dump);
        let (dumping, ended) = mpsc::channel();
        let cancel = self.outage.cancel.clone();
        let dump = async {
            let dumped = source.dump(&cancel).await;
            drop(dumping);
            dumped
        };
        let follow = async {
            let late = self.follow(source, &flows[0], &tunnel).await;
            if late.is_err() {
                stream.cancel();
            }
            late
        };
        let (dumped, memory, late) = tokio::join!(dump, source.ship_dump(sender, ended), follow);
        // However this ends from here on, nobody waits for what was not sent.
        let _unsent = stream.drop_guard();
        dumped.map_err(|error| self.record.keep_log(error))?;
        flows.push(late?);
        self.outage.stop_if_cancelled()?;

        self.timeline.begin(PhaseName::Ship);
        let shipped = match memory {
            Ok(cargo) => source.ship(cargo, sent).await,
            Err(error) => Err(error),
        };
        connected(&mut self.control)?
            .end_stream(
                shipped.context("cannot send the checkpoint"),
                &mut self.report.warnings,
            )
            .await?;
        if watch.end().await? > 0 {
            let turned = flows[0].turn(tunnel.index()).await;
            turned.context("cannot turn the flows again")?;
            self.report.warnings.push(TOO_MANY_DATAGRAMS.into());
        }

        self.timeline.begin(PhaseName::Restore);
        // The record is on disk by the time that it must be, and nothing waits for the disk.
        let (recorded, kept_down, restored) = tokio::join!(
            self.record.write_later(Progress::Committing),
            source.keep_service_down(),
            connected(&mut self.control)?.ask(Request::Restore)
        );
        restored?;
        recorded?;
        kept_down.context("the container's service may come back at boot")?;

        self.timeline.begin(PhaseName::CutOver);
        self.outage.stop_if_cancelled()?;
        self.commit().await?;
        self.report.freeze_ms = self.outage.frozen_ms();
        let moved: Vec<_> = flows.iter().flat_map(Flows::moved).collect();
        self.report.flows = FlowCount::of(&moved);

        self.timeline.begin(PhaseName::Remove);
        self.remove_old(source, &flows, &tunnel).await;
        Ok(self.outcome_after_commit())
    }

    /// Sends the files while the container runs, and again what has changed meanwhile, until little
    /// is left for the outage or it does not get less.
    async fn send_files(&mut self, source: &Source, data: &Data) -> Result<Sent, Failure> {
        let mut sent = None;
        let mut before = u64::MAX;
        for pass in 0.. {
            let stream = CHECKPOINT_STREAM + 1 + pass;
            let kind = StreamKind::Files;
            connected(&mut self.control)?
                .ask(Request::Receive { stream, kind })
                .await?;
            let packed = source
                .send_files(stream, data, sent, &self.outage.cancel)
                .await;
            let (digest, so_far) = match packed {
                Ok((digest, so_far)) => (Ok(digest), Some(so_far)),
                Err(error) => (Err(error.context("cannot send the files")), None),
            };
            let bytes = digest.as_ref().map_or(0, |digest| digest.bytes);
            connected(&mut self.control)?
                .end_stream(digest, &mut self.report.warnings)
                .await?;
            sent = so_far;
            if bytes < FEW_BYTES || bytes > before / 2 || pass == MOST_PASSES {
                break;
            }
            before = bytes;
        }
        Ok(sent.unwrap_or_default())
    }

    /// The forward is on record before the commit: whoever finishes this migration has it work.
    async fn prepare_forward(
        &mut self,
        source: &Source,
        tunnel: &std::sync::Arc<Tunnel>,
    ) -> anyhow::Result<()> {
        let forward = Forward::of(&source.facts);
        let id = forward.container.id.clone();
        self.undo.register("forward", move || async move {
            spawn_blocking(move || published::remove(&Dirs::default(), &id)).await??;
            Ok(())
        });
        let tunnel = tunnel.clone();
        let prepare = move || published::prepare(&Dirs::default(), &tunnel, forward);
        spawn_blocking(prepare).await??;
        Ok(())
    }

    async fn activate_forward(&mut self, source: &Source) {
        let id = source.facts.id.clone();
        let activated = spawn_blocking(move || published::activate(&Dirs::default(), &id)).await;
        match activated.map_err(anyhow::Error::from).and_then(|r| Ok(r?)) {
            Ok(()) => {
                let ports = source.facts.ports.iter().map(ToString::to_string);
                self.report.forwarded_ports = ports.collect();
            }
            Err(error) => self
                .report
                .warnings
                .push(format!("new connections are not forwarded: {error:#}")),
        }
    }

    /// Tells the destination of flows, before any of their packets can get there.
    async fn install(&mut self, flows: &Flows) -> Result<(), RequestError> {
        for batch in flows.moved().chunks(FLOWS_PER_BATCH) {
            let request = Request::Flows {
                flows: batch.to_vec(),
            };
            match connected(&mut self.control)?.ask(request).await? {
                Reply::FlowsInstalled { waiting } => self.waiting = waiting > 0,
                other => return Err(unexpected(&other)),
            }
        }
        Ok(())
    }

    /// Sends the packets of flows to the destination from now on.
    async fn turn(&mut self, flows: &Flows, tunnel: &Tunnel) -> anyhow::Result<()> {
        let back = flows.clone();
        self.undo
            .register("flows", move || async move { back.restore().await });
        // Those that pass the destination anyway are turned there.
        if std::mem::take(&mut self.waiting) {
            connected(&mut self.control)?.ask(Request::Turn).await?;
        }
        let turned = flows.turn(tunnel.index()).await;
        turned.context("cannot turn the flows")
    }

    /// Lets the flows follow that began between the first look and the freeze.
    async fn follow(
        &mut self,
        source: &Source,
        earlier: &Flows,
        tunnel: &Tunnel,
    ) -> anyhow::Result<Flows> {
        let late = source.flows(Some(earlier)).await;
        let late = late.context("cannot read the flows")?;
        self.install(&late).await?;
        late.prepare(tunnel.index()).await?;
        self.turn(&late, tunnel).await?;
        Ok(late)
    }

    /// The record and the scratch directory; both are seen by recovery if this process dies.
    fn open_journal(
        &mut self,
        migration: &MigrationId,
        facts: &ContainerFacts,
        placement: podman::Placement,
    ) -> anyhow::Result<Source> {
        let record = MigrationRecord {
            migration: migration.clone(),
            container: facts.reference(),
            peer: self.destination.to_string(),
            direction: Direction::Outgoing,
            progress: Progress::UnderWay,
            started: OffsetDateTime::now_utc(),
            error: None,
        };
        self.record.open(record)?;
        if let Some(lock) = &self.lock {
            lock.carries(migration)
                .context("cannot write into the container's lock")?;
        }
        let work = paths::work_dir(migration);
        let removed = migration.clone();
        self.undo.register("scratch files", move || async move {
            Ok(paths::remove_work_dir(&removed)?)
        });
        std::fs::create_dir_all(&work).with_context(|| work.display().to_string())?;
        Source::new(facts.clone(), placement, work)
    }

    async fn open_tunnel(&mut self) -> Result<(std::sync::Arc<Tunnel>, Data), Failure> {
        let peer = connected(&mut self.control)?.peer;
        let mut tries = 1..=MOST_TRIES;
        let tunnel = loop {
            let offer = spawn_blocking(|| Tunnel::offer(&Dirs::default(), &keeper_command));
            let offer = offer.await??;
            let terms = match connected(&mut self.control)?
                .ask(Request::OpenTunnel { offer })
                .await?
            {
                Reply::TunnelOpened { terms } => terms,
                other => return Err(unexpected(&other).into()),
            };
            let established = spawn_blocking(move || {
                Tunnel::establish(&Dirs::default(), &terms, peer, &keeper_command)
            });
            match established.await? {
                Err(TunnelError::Taken(..)) if tries.next().is_some() => {}
                established => break established?,
            }
        };
        self.report.tunnel = Some(report::Tunnel {
            backend: tunnel.backend().to_string(),
            interface: tunnel.interface(),
            reused: tunnel.reused(),
        });
        let tunnel = std::sync::Arc::new(tunnel);
        let undone = std::sync::Arc::downgrade(&tunnel);
        self.undo.register("tunnel", move || async move {
            // By now nobody else holds it; the keeper takes it down if it is idle.
            if let Some(tunnel) = undone.upgrade().and_then(std::sync::Arc::into_inner) {
                spawn_blocking(move || tunnel.teardown()).await??;
            }
            Ok(())
        });
        let proven = tunnel.clone();
        let (here, there) = tokio::join!(
            spawn_blocking(move || proven.prove(PROOF_LIMIT)),
            connected(&mut self.control)?.ask(Request::ProveTunnel)
        );
        here??;
        match there? {
            Reply::TunnelProven { data, ticket } => Ok((
                tunnel,
                Data {
                    address: data,
                    ticket,
                    sent: self.sent.clone(),
                },
            )),
            other => Err(unexpected(&other).into()),
        }
    }

    /// The point of no return. The record says so already: from then on only the destination's
    /// word says where the container runs.
    async fn commit(&mut self) -> Result<(), Failure> {
        // Not cancellable from here on.
        let control = connected(&mut self.control)?;
        match control.insist(Request::Commit).await {
            Ok(Reply::Committed) => {}
            Ok(other) => return Err(Failure::Unknown(unexpected(&other).into())),
            Err(error) => self.learn_outcome(error).await?,
        }
        self.undo.disarm();
        self.record
            .write(Progress::Committed, None)
            .unwrap_or_else(|error| self.report.warnings.push(format!("{error:#}")));
        Ok(())
    }

    /// The answer to `Commit` did not come: asks until the destination says what became of it.
    async fn learn_outcome(&mut self, lost: RequestError) -> Result<(), Failure> {
        let migration = self.report.migration_id.clone().expect("begun");
        let deadline = Instant::now() + OUTCOME_LIMIT;
        while Instant::now() < deadline {
            tokio::time::sleep(OUTCOME_PAUSE).await;
            let left = deadline.saturating_duration_since(Instant::now());
            let asked = ask_outcome(&self.destination, &migration);
            let answer = match tokio::time::timeout(left, asked).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(error)) => {
                    tracing::warn!("cannot ask the destination: {error:#}");
                    continue;
                }
                Err(_) => break,
            };
            match transaction::source(Progress::Committing, Some(answer), true) {
                Some(SourceStep::Remove) => {
                    let warning = format!("the answer to the commit was not in order: {lost}");
                    self.report.warnings.push(warning);
                    return Ok(());
                }
                Some(SourceStep::Thaw) => {
                    return Err(Failure::Failed(anyhow::anyhow!(
                        "the destination did not commit: {lost}"
                    )));
                }
                Some(SourceStep::AskOperator) => {
                    return Err(Failure::Unknown(anyhow::anyhow!(
                        "{lost}; {} has no record of this migration. The copy here stays frozen \
                         until you have found out where the container runs",
                        self.destination
                    )));
                }
                Some(SourceStep::Ask) | None => {}
            }
        }
        Err(Failure::Unknown(anyhow::anyhow!(
            "{lost}; it is not known whether the container runs on {destination}. The copy here \
             stays frozen so that there are never two. When {destination} can be reached again, \
             run `agent-client recover` here: it asks and then finishes or undoes this migration. If it \
             never will be, decide with `agent-client resolve {migration}`",
            destination = self.destination
        )))
    }

    async fn remove_old(&mut self, source: &Source, flows: &[Flows], tunnel: &Tunnel) {
        // While the frozen copy is there nobody refuses a connection in between.
        if self.forward_new {
            self.activate_forward(source).await;
        }
        let removed = source.remove().await;
        for flows in flows {
            if let Err(error) = flows.settle(tunnel.index()).await {
                let warning = format!("some flows may not have moved: {error:#}");
                self.report.warnings.push(warning);
            }
        }
        if let Some(control) = &mut self.control {
            let moved = Moved {
                id: &source.facts.id,
                flows,
                tunnel: tunnel.index(),
            };
            let shortened = moved.shorten(control).await;
            self.report.shortened = shortened.flows;
            self.report.warnings.extend(shortened.warnings);
        }
        match source.left_behind(tunnel.index()).await {
            Ok(0) => {}
            Ok(behind) => self.report.warnings.push(format!(
                "{behind} connections that began during the cut-over did not move"
            )),
            Err(error) => tracing::debug!("{error:#}"),
        }
        let removed = match removed {
            Ok(()) => self.part_from_service().await,
            Err(error) => Err(error),
        };
        if let Err(error) = removed {
            // The scratch space stays with it: by that recovery knows.
            self.report.warnings.push(format!(
                "the old container could not be removed: {error:#}; it is frozen, and the next \
                 agent-client command here tries again"
            ));
            self.report.outcome = Outcome::Unknown;
        } else if let Some(migration) = &self.report.migration_id {
            let _ = paths::remove_work_dir(migration);
        }
    }

    /// The container's service is stopped here and does not come back. In the scratch space is which.
    async fn part_from_service(&mut self) -> anyhow::Result<()> {
        let Some(migration) = &self.report.migration_id else {
            return Ok(());
        };
        let parted = service::part(&paths::work_dir(migration)).await;
        if let Some((name, how)) = parted.context("its service could not be stopped")? {
            let (done, back) = match how {
                Parted::Masked => ("masked", "unmask"),
                Parted::Disabled => ("disabled", "enable"),
            };
            self.report.notes.push(format!(
                "{name} went with it: here it is stopped and {done} (`systemctl {back} {name}` takes that \
                 back; so does a migration to here)"
            ));
        }
        Ok(())
    }

    fn outcome_after_commit(&self) -> Outcome {
        match self.report.outcome {
            Outcome::Unknown => Outcome::Unknown,
            _ => Outcome::Moved,
        }
    }

    /// The one error tail: this host first, since clients wait for it.
    async fn roll_back(&mut self, error: &anyhow::Error) {
        let why = format!("{error:#}");
        self.report.freeze_ms = self.outage.frozen_ms();
        if self.record.is_open() {
            self.timeline.begin(PhaseName::RollBack);
        }
        let mut leftovers = self.undo.unwind().await;
        if let Some(mut control) = self.control.take() {
            match control.abort(&why).await {
                Ok(there) => {
                    leftovers.extend(there.into_iter().map(|l| format!("destination: {l}")))
                }
                Err(error) => {
                    tracing::debug!("abort: {error}");
                }
            }
        }
        self.report.outcome = Outcome::Failed;
        if !leftovers.is_empty() {
            self.report.outcome = Outcome::Unknown;
            self.report.warnings.extend(
                leftovers
                    .iter()
                    .map(|l| format!("could not be put back: {l}")),
            );
        }
        if self.record.is_open()
            && leftovers.is_empty()
            && let Err(error) = self.record.write(Progress::RolledBack, Some(why.clone()))
        {
            self.report.warnings.push(format!("{error:#}"));
        }
        self.report.error = Some(why);
    }
}

/// Of the migration only this part, so that the others can be used meanwhile.
fn connected(control: &mut Option<Control>) -> Result<&mut Control, RequestError> {
    control
        .as_mut()
        .ok_or_else(|| RequestError::Lost("not connected".into()))
}
