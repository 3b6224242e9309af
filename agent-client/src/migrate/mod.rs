//! The phases of a migration, in order, and the one place that undoes them.

mod bypass;
mod checkpoint;
mod checks;
mod commit;
mod estimate;
mod failure;
mod files;
mod flood;
mod flows;
mod forward;
mod memory;
mod outage;
mod record;
mod removal;
mod tunnel;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use common::bulk;
use common::container::ContainerFacts;
use common::container::files::payload::Sent;
use common::container::podman::inspect::Local;
use common::container::restore::pager;
use common::durable;
use common::faults;
use common::journal::Progress;
use common::net::flows::decide::FlowCount;
use common::net::tunnel::Tunnel;
use common::paths;
use common::preflight::memory::{has_no_room, stays};
use common::preflight::{Check, Verdict};
use common::protocol::{
    MigrationId, MissingImage, RefusalCode, Reply, Request, StreamDigest, StreamKind,
};
use common::report::{self, Outcome, PhaseName, Report};
use common::undo::Undo;
use tokio_util::sync::CancellationToken;

use self::checkpoint::{Begun, Stream};
use self::checks::Found;
pub(crate) use self::checks::{check, survey};
pub(crate) use self::estimate::OUTAGE;
use self::estimate::Seen;
use self::failure::Failure;
pub(crate) use self::failure::is_usage_error;
use self::flows::MovingFlows;
use self::outage::Outage;
use self::record::Record;
use crate::address::Address;
use crate::choices::Choices;
use crate::control::{Control, RequestError, unexpected};
use crate::hooks::{self, HookError, Plan};
use crate::lock::{self, ContainerLock};
use crate::progress::Observer;
use crate::source::{Ahead, Data, Source, Which};
use crate::timeline::Timeline;

const TOO_MANY_DATAGRAMS: &str = "datagrams to the container were dropped while the checkpoint was sent: \
                                  more came than the tunnel carries";

/// The user's decision once the checks are done and before anything is changed.
pub(crate) type Confirm<'a> = &'a (dyn Fn(&ContainerFacts, &[Check]) -> bool + Send + Sync);

/// How long a container may still be getting its memory, and how often that is looked at.
const FILL_LIMIT: Duration = Duration::from_secs(60);
const FILL_POLL: Duration = Duration::from_millis(50);

/// Numbers of streams. The checkpoint's comes next, and then those of the files.
/// Most ports whose new connections are forwarded: each has rules and a socket of its own.
const MOST_FORWARDED: usize = 1024;

const IMAGE_STREAM: u32 = 1;
const SKELETON_STREAM: u32 = 2;

/// One migration from this host.
pub(crate) struct Migration<'a> {
    destination: Address,
    outage: Outage,
    timeline: Timeline<'a>,
    sent: bulk::ByteCount,
    undo: Undo,
    record: Record,
    control: Option<Control>,
    forward_new: bool,
    /// Whether those that come after are due.
    hooks_begun: bool,
    /// Why memory cannot go ahead of the outage.
    memory_stays: Option<String>,
    choices: Choices,
    report: Report,
    /// Held to the end of the rollback: recovery takes an unlocked record to be that of a dead
    /// command.
    lock: Option<ContainerLock>,
}

impl<'a> Migration<'a> {
    /// A migration to `destination`; cancelling `cancel` undoes it until it commits.
    pub(crate) fn new(
        destination: Address,
        observer: &'a dyn Observer,
        cancel: CancellationToken,
    ) -> Self {
        let sent = bulk::ByteCount::default();
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
                estimated_freeze_ms: 0,
                sent_bytes: 0,
                flows: FlowCount::default(),
                bypassed: 0,
                forwarded_ports: Vec::new(),
                tunnel: None,
                memory: None,
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
            forward_new: false,
            hooks_begun: false,
            memory_stays: None,
            choices: Choices::default(),
            lock: None,
        }
    }

    /// Undoes the migration if the container is still frozen after this time without a commit.
    pub(crate) fn max_freeze(mut self, limit: Duration) -> Self {
        self.outage.set_limit(limit);
        self
    }

    /// Whether to forward new connections to the ports that the container publishes here.
    pub(crate) fn forward_new(mut self, forward: bool) -> Self {
        self.forward_new = forward;
        self
    }

    /// What the user has decided about the container.
    pub(crate) fn choices(mut self, choices: Choices) -> Self {
        self.choices = choices;
        self
    }

    /// Moves `container` if both hosts and `confirm` agree; undoes everything if it fails. Also
    /// returns whether the failure is a mistake in the command line.
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
        if self.hooks_begun {
            let failed = hooks::after(&self.report).await.into_iter();
            let warnings = failed.map(|error| error.to_string());
            self.report.warnings.extend(warnings);
        }
        if self.record.is_open()
            && let Err(error) = self.record.keep(&self.report)
        {
            self.report.warnings.push(format!("{error:#}"));
        }
        (self.report, usage)
    }

    async fn attempt(
        &mut self,
        container: &str,
        dry_run: bool,
        confirm: Confirm<'_>,
    ) -> Result<Outcome, Failure> {
        let (found, mut checks, mut control) = self.connect(container).await?;
        self.preflight(&found, &mut checks, &mut control).await?;
        if dry_run {
            return Ok(Outcome::Possible);
        }
        self.timeline.pause();
        if !confirm(&found.facts, &checks) {
            return Err(anyhow::anyhow!("not confirmed").into());
        }
        self.outage.stop_if_cancelled()?;
        self.hooks(&found.facts, &checks).await?;
        let (source, missing_image) = self.begin(found, control).await?;
        self.carry_out(&source, missing_image).await
    }

    /// The operator's own checks. They may take a while.
    async fn hooks(&mut self, facts: &ContainerFacts, checks: &[Check]) -> Result<(), Failure> {
        self.hooks_begun = true;
        let plan = Plan::new(facts, checks, &self.report, self.forward_new);
        match hooks::before(&plan, &self.outage.cancel).await {
            Err(HookError::Cancelled) => Err(HookError::Cancelled.into()),
            Err(error) => Err(Failure::Refused(error.to_string())),
            Ok(()) => Ok(()),
        }
    }

    async fn connect(&mut self, container: &str) -> Result<(Found, Vec<Check>, Control), Failure> {
        self.timeline.begin(PhaseName::Connect);
        let cancel = &self.outage.cancel;
        let looked = Found::look(container, &self.choices);
        let looked = cancel.run_until_cancelled(looked).await;
        let found = looked.context("cancelled")??;
        let facts = &found.facts;
        self.report.container = Some(facts.reference());
        self.lock = Some(lock::container(&facts.id)?.ok_or_else(|| {
            anyhow::anyhow!("another agent-client is already migrating {}", facts.name)
        })?);
        if let Some(record) = self.record.unsettled(&facts.id)? {
            return Err(Failure::Refused(format!(
                "an earlier migration of {} to {} is neither finished nor undone (its id: {}): the \
                                  container may still run there",
                facts.name, record.peer, record.migration
            )));
        }
        self.await_memory(facts).await?;
        // If the container is not even running, there is nothing to ask the destination.
        let mut checks = found.check_here(self.forward_new).await;
        let (estimate, estimated_freeze_ms) = estimate::of(facts, &found.host, &self.destination);
        checks.push(estimate);
        self.report.estimated_freeze_ms = estimated_freeze_ms;
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
        if self.forward_new && facts.ports.len() > MOST_FORWARDED {
            return Err(Failure::Refused(format!(
                "{} publishes {} ports, of which at most {MOST_FORWARDED} can be forwarded: leave out \
                 --forward-new",
                facts.name,
                facts.ports.len()
            )));
        }
        let control = Control::connect(&self.destination).await?;
        Ok((found, checks, control.cancelled_by(cancel.clone())))
    }

    /// Waits until all memory is there that a container got when it came here itself.
    async fn await_memory(&self, facts: &ContainerFacts) -> Result<(), Failure> {
        let begun = Instant::now();
        while pager::is_filling(&facts.id) {
            self.outage.stop_if_cancelled()?;
            if begun.elapsed() > FILL_LIMIT {
                return Err(Failure::Refused(format!(
                    "the memory that {} came with is not all in its processes yet: try again later, and look at \
                     `systemctl status 'live-migration-memory-*'`",
                    facts.name
                )));
            }
            tokio::time::sleep(FILL_POLL).await;
        }
        Ok(())
    }

    /// Adds the destination's checks to `checks`.
    async fn preflight(
        &mut self,
        found: &Found,
        checks: &mut Vec<Check>,
        control: &mut Control,
    ) -> Result<(), Failure> {
        self.timeline.begin(PhaseName::Preflight);
        checks.extend(found.check_there(self.forward_new, control).await?.0);
        for check in checks.iter().filter(|c| c.verdict == Verdict::Warning) {
            self.report
                .warnings
                .push(format!("{}: {}", check.name, check.detail));
        }
        match checks::refusal(checks) {
            Some(why) => Err(Failure::Refused(why)),
            None => Ok(()),
        }
    }

    /// From here on both hosts know of the migration. The control connection is then in
    /// `self.control`, for the rollback. Returns what the destination lacks of the image.
    async fn begin(
        &mut self,
        mut found: Found,
        mut control: Control,
    ) -> Result<(Source, Option<MissingImage>), Failure> {
        found.mark_shared().await?;
        let migration = MigrationId::random();
        self.report.migration_id = Some(migration.clone());
        let criu = found.host.criu.clone().unwrap_or_default();
        if !faults::always(|| "client.memory".into()) {
            self.memory_stays = stays(&found.facts, &found.host);
        }
        let source = self.open_journal(&migration, &found.facts, found.local, criu)?;
        let begin = Request::Begin {
            migration,
            container: Box::new(found.facts),
            source: Box::new(found.host),
        };
        let missing_image = match control.ask(begin).await {
            Ok(Reply::Begun {
                missing_image,
                memory_bytes,
            }) => {
                let no_room = || has_no_room(&source.facts, memory_bytes);
                self.memory_stays = self.memory_stays.take().or_else(no_room);
                missing_image
            }
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
        Ok((source, missing_image))
    }

    /// The record and the scratch directory; recovery finds both if this process dies.
    fn open_journal(
        &mut self,
        migration: &MigrationId,
        facts: &ContainerFacts,
        local: Local,
        criu: String,
    ) -> anyhow::Result<Source> {
        let peer = self.destination.to_string();
        self.record.open(migration, facts.reference(), peer)?;
        if let Some(lock) = &self.lock {
            lock.carries(migration)
                .context("cannot write into the container's lock")?;
        }
        let work = paths::work_dir(migration);
        let removed = migration.clone();
        self.undo.register("scratch files", move || async move {
            Ok(paths::remove_work_dir(&removed)?)
        });
        durable::create_private_dir(&work).with_context(|| work.display().to_string())?;
        Source::new(facts.clone(), local, criu, work)
    }

    /// From `Begin` to the end, a line per phase.
    async fn carry_out(
        &mut self,
        source: &Source,
        missing_image: Option<MissingImage>,
    ) -> Result<Outcome, Failure> {
        let (tunnel, data) = self.tunnel().await?;
        self.image(source, &data, missing_image).await?;
        let sent_ahead = self.volumes(source, &data).await?;
        let ahead = self.memory(source, &data).await?;
        self.stage(source, &data).await?;
        let sent = self.files(source, &data, sent_ahead).await?;
        let (mut flows, stream) = self.flows(source, &data, &tunnel).await?;
        let ahead = self.catch_up(ahead).await?;
        let flood = self.freeze(source, &mut flows).await?;
        let (begun, memory) = self.dump(source, &mut flows, stream, ahead).await?;
        self.ship(source, &flows, begun, sent, flood).await?;
        self.end_memory(memory).await?;
        self.restore(source).await?;
        self.cut_over(&flows).await?;
        Ok(self.remove(source, &flows).await)
    }

    async fn tunnel(&mut self) -> anyhow::Result<(Arc<Tunnel>, Data)> {
        self.timeline.begin(PhaseName::Tunnel);
        let control = connected(&mut self.control)?;
        let tunnel = tunnel::establish(control).await?;
        self.report.tunnel = Some(report::Tunnel {
            backend: tunnel.backend().to_string(),
            interface: tunnel.interface(),
            reused: tunnel.reused(),
        });
        let tunnel = Arc::new(tunnel);
        tunnel::register_undo(&tunnel, &mut self.undo);
        let data = tunnel::prove(&tunnel, control, self.sent.clone()).await?;
        Ok((tunnel, data))
    }

    async fn image(
        &mut self,
        source: &Source,
        data: &Data,
        missing: Option<MissingImage>,
    ) -> anyhow::Result<()> {
        let Some(missing) = missing else {
            return Ok(());
        };
        self.timeline.begin(PhaseName::Image);
        let sent = source.send_image(IMAGE_STREAM, data, missing, self.outage.cancel.clone());
        let warnings = &mut self.report.warnings;
        connected(&mut self.control)?
            .send(StreamKind::Image, IMAGE_STREAM, sent, warnings)
            .await
    }

    /// Before Podman prepares the destination, because it then waits for 4 minutes only.
    async fn volumes(&mut self, source: &Source, data: &Data) -> anyhow::Result<Option<Sent>> {
        if !source.has_volumes() {
            return Ok(None);
        }
        self.timeline.begin(PhaseName::Volumes);
        self.send_files(Which::Volumes, source, data, None).await
    }

    /// Everything that does not need the memory image: the container runs on meanwhile.
    async fn stage(&mut self, source: &Source, data: &Data) -> anyhow::Result<()> {
        self.timeline.begin(PhaseName::Stage);
        let cancel = &self.outage.cancel;
        // The container is still unchanged, so a Podman that hangs can be abandoned.
        let written = cancel.run_until_cancelled(source.write_skeleton());
        written.await.context("cancelled")??;
        let sent = source.send_skeleton(SKELETON_STREAM, data, cancel.clone());
        let warnings = &mut self.report.warnings;
        let control = connected(&mut self.control)?;
        control
            .send(StreamKind::Skeleton, SKELETON_STREAM, sent, warnings)
            .await?;
        self.outage.staged();
        match control.ask(Request::Stage).await? {
            Reply::Staged { packets } => self.report.packets = Some(packets),
            other => return Err(unexpected(&other).into()),
        }
        Ok(())
    }

    async fn files(
        &mut self,
        source: &Source,
        data: &Data,
        ahead: Option<Sent>,
    ) -> anyhow::Result<Sent> {
        self.timeline.begin(PhaseName::Files);
        let sent = self.send_files(Which::All, source, data, ahead).await?;
        Ok(sent.unwrap_or_default())
    }

    async fn send_files(
        &mut self,
        which: Which,
        source: &Source,
        data: &Data,
        sent: Option<Sent>,
    ) -> anyhow::Result<Option<Sent>> {
        let (cancel, warnings) = (&self.outage.cancel, &mut self.report.warnings);
        let control = connected(&mut self.control)?;
        files::send(which, source, data, control, sent, cancel, warnings).await
    }

    /// Sends the memory ahead, if that is worth it and can be done. Before Podman prepares the destination, as for
    /// volumes.
    async fn memory(&mut self, source: &Source, data: &Data) -> anyhow::Result<Option<Ahead>> {
        if let Some(why) = self.memory_stays.take() {
            tracing::debug!("memory goes in the outage: {why}");
            return Ok(None);
        }
        self.timeline.begin(PhaseName::Memory);
        let control = connected(&mut self.control)?;
        let sent = memory::send(source, data, control, &self.outage.cancel).await;
        self.outage.stop_if_cancelled()?;
        Ok(self.ahead_or_warning(sent?))
    }

    /// Sends what has changed of the memory while the phases since then went on.
    async fn catch_up(&mut self, ahead: Option<Ahead>) -> anyhow::Result<Option<Ahead>> {
        let Some(ahead) = ahead else {
            return Ok(None);
        };
        let caught_up = ahead.catch_up().await;
        self.outage.stop_if_cancelled()?;
        Ok(self.ahead_or_warning(caught_up))
    }

    /// If the memory cannot go ahead, it goes in the outage.
    fn ahead_or_warning(&mut self, ahead: anyhow::Result<Ahead>) -> Option<Ahead> {
        let why = |error| format!("the memory went in the outage and not ahead of it: {error:#}");
        ahead
            .map_err(|error| self.report.warnings.push(why(error)))
            .ok()
    }

    /// The last phase before the outage, after everything else that can be done while the container
    /// runs.
    async fn flows(
        &mut self,
        source: &Source,
        data: &Data,
        tunnel: &Arc<Tunnel>,
    ) -> anyhow::Result<(MovingFlows, Stream)> {
        self.timeline.begin(PhaseName::Flows);
        let control = connected(&mut self.control)?;
        let flows = MovingFlows::prepare(source, tunnel.index(), control).await?;
        if self.forward_new {
            forward::prepare(source, tunnel.index(), &mut self.undo).await?;
        }
        // Before the freeze: a health check must not start while the container is frozen.
        let held = source.clone();
        self.undo
            .register("service and health checks", move || async move {
                held.release().await
            });
        let holding = source.hold().await;
        holding.context("cannot stop systemd from restarting or checking the container")?;
        let thawed = source.clone();
        self.undo
            .register("freeze", move || async move { thawed.thaw().await });
        source.prepare_freeze().await?;
        let stream = Stream::open(data, control, &self.outage.cancel).await?;
        self.outage.stop_if_cancelled()?;
        source.wait_ready().await?;
        self.outage.is_in_time()?;
        Ok((flows, stream))
    }

    /// From here on, packets for the container go to the destination and wait there.
    async fn freeze(
        &mut self,
        source: &Source,
        flows: &mut MovingFlows,
    ) -> anyhow::Result<flood::Watch> {
        self.timeline.begin(PhaseName::Freeze);
        self.outage.begin();
        let control = connected(&mut self.control)?;
        flows.redirect(control, &mut self.undo).await?;
        let frozen = source.freeze().await;
        let lost = frozen.context("cannot freeze the container")?;
        self.report.warnings.extend(lost);
        source.kept_is_still()?;
        Ok(flood::Watch::begin(flows.first().clone(), flows.tunnel))
    }

    async fn dump(
        &mut self,
        source: &Source,
        flows: &mut MovingFlows,
        stream: Stream,
        ahead: Option<Ahead>,
    ) -> anyhow::Result<(Begun, Option<StreamDigest>)> {
        self.timeline.begin(PhaseName::Dump);
        let follow = flows.follow(source, connected(&mut self.control)?, &mut self.undo);
        let cancel = &self.outage.cancel;
        let (dumped, followed, begun) = outage::dump(source, stream, ahead, cancel, follow).await;
        let sent = dumped?.map_err(|error| self.record.keep_log(error))?;
        followed?;
        self.outage.stop_if_cancelled()?;
        Ok((
            begun,
            sent.map(|(digest, memory)| {
                self.report.memory = Some(memory);
                digest
            }),
        ))
    }

    /// Compares the memory that was sent with what has arrived.
    async fn end_memory(&mut self, memory: Option<StreamDigest>) -> anyhow::Result<()> {
        if let Some(digest) = memory {
            let control = connected(&mut self.control)?;
            control.ask(Request::MemoryEnd { digest }).await?;
        }
        Ok(())
    }

    async fn ship(
        &mut self,
        source: &Source,
        flows: &MovingFlows,
        begun: Begun,
        sent: Sent,
        flood: flood::Watch,
    ) -> anyhow::Result<()> {
        self.timeline.begin(PhaseName::Ship);
        let shipped = begun.ship(source, sent).await;
        let shipped = shipped.context("cannot send the checkpoint");
        let warnings = &mut self.report.warnings;
        let control = connected(&mut self.control)?;
        control.end_stream(shipped, warnings).await?;
        if flood.end().await? > 0 {
            flows.redirect_again().await?;
            warnings.push(TOO_MANY_DATAGRAMS.into());
        }
        Ok(())
    }

    async fn restore(&mut self, source: &Source) -> anyhow::Result<()> {
        self.timeline.begin(PhaseName::Restore);
        let control = connected(&mut self.control)?;
        let lost = outage::restore(source, &mut self.record, control).await?;
        self.report.warnings.extend(lost);
        Ok(())
    }

    /// The point of no return.
    async fn cut_over(&mut self, flows: &MovingFlows) -> Result<(), Failure> {
        self.timeline.begin(PhaseName::CutOver);
        self.outage.stop_if_cancelled()?;
        let control = connected(&mut self.control)?;
        let migration = self.record.migration()?;
        let warning = commit::commit(control, &self.destination, migration).await?;
        self.report.warnings.extend(warning);
        self.undo.disarm();
        self.record
            .write(Progress::Committed, None)
            .unwrap_or_else(|error| self.report.warnings.push(format!("{error:#}")));
        self.report.freeze_ms = self.outage.frozen_ms();
        self.remember_outage();
        self.report.flows = flows.count();
        Ok(())
    }

    /// For the next estimate.
    fn remember_outage(&self) {
        let outage = [PhaseName::Freeze, PhaseName::Dump, PhaseName::Ship];
        let phases = self.timeline.phases().iter();
        let sent = phases.filter(|phase| outage.contains(&phase.name));
        let seen = Seen {
            bytes: sent.map(|phase| phase.bytes).sum(),
            freeze_ms: self.report.freeze_ms,
        };
        if let Err(error) = estimate::remember(&self.destination.to_string(), seen) {
            tracing::warn!("the length of the outage is not remembered: {error}");
        }
    }

    /// From here on, the migration cannot fail.
    async fn remove(&mut self, source: &Source, flows: &MovingFlows) -> Outcome {
        self.timeline.begin(PhaseName::Remove);
        if self.forward_new {
            removal::forward(source, &mut self.report).await;
        }
        if let Err(error) = self.await_disk().await {
            // The scratch space is kept too: it tells recovery that the container is still to be
            // removed.
            self.report.warnings.push(format!(
                "the old container was not removed: {error:#}; it is frozen, and the next agent-client \
                 command here asks again"
            ));
            return Outcome::Unknown;
        }
        let control = self.control.as_mut();
        let removed = removal::remove(source, flows, control, &mut self.report).await;
        if let Err(error) = removed {
            self.report.warnings.push(format!(
                "the old container could not be removed: {error:#}; it is frozen, and the next \
                 agent-client command here tries again"
            ));
            return Outcome::Unknown;
        }
        if let Ok(migration) = self.record.migration() {
            let _ = paths::remove_work_dir(migration);
        }
        Outcome::Moved
    }

    /// Waits until the copy at the destination would survive a power cut there as well as the one here.
    async fn await_disk(&mut self) -> anyhow::Result<()> {
        let control = connected(&mut self.control)?;
        commit::await_disk(control, &self.destination, self.record.migration()?).await
    }

    /// The only error path: this host first, since clients wait for it.
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

/// Borrows only this part of the migration, so that the others can be used meanwhile.
fn connected(control: &mut Option<Control>) -> Result<&mut Control, RequestError> {
    control
        .as_mut()
        .ok_or_else(|| RequestError::Lost("not connected".into()))
}
