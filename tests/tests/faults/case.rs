//! The cases, generated from the lists of phases and requests: a new phase or request gets its
//! cases without anybody having to remember.

use common::protocol::RequestName;
use common::report::PhaseName;
use strum::VariantArray;

use crate::{hung, lies};

/// What is broken, and where.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    /// `group/place`.
    pub(crate) name: String,
    /// What is done, in words.
    pub(crate) what: String,
    pub(crate) exercise: Exercise,
    pub(crate) setting: Setting,
    /// `FAILPOINTS` of either agent.
    pub(crate) client: Vec<String>,
    pub(crate) server: Vec<String>,
    /// Places where an agent is held, in order, and what is done at each.
    pub(crate) steps: Vec<(String, Deed)>,
    /// Where the container has to be at the beginning.
    pub(crate) from: Option<&'static str>,
    /// What `resolve` is to keep, if the migration stays open.
    pub(crate) resolve: Option<&'static str>,
    /// Connections that the container is reading from at that moment may break, or it may end, and no
    /// agent could prevent it: if CRIU dies, runc itself thaws the container, with CRIU's code in it
    /// and its connections in repair mode.
    pub(crate) connections_may_break: bool,
    /// The migration must not succeed: whoever is lied to notices.
    pub(crate) noticed: bool,
}

/// What the agents are doing meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exercise {
    /// A migration.
    Migrate,
    /// A migration whose commit goes unanswered, because the server dies.
    Ask,
    /// A host pairs.
    Pair,
}

/// What is different from the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Setting {
    Usual,
    ImageMissing,
    /// CRIU fails whenever a runtime calls it.
    BrokenCriu(Side),
    /// There is hardly any space for scratch files.
    SmallWork(Side),
    /// The freeze may take a second at most.
    MaxFreeze,
    /// Podman hangs whenever this is in its command line.
    HungPodman(Side, &'static str),
    /// The same, and the image is missing.
    HungPodmanAndImageMissing(Side, &'static str),
}

/// A host of the migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Source,
    Destination,
}

/// What is done while an agent is held. The agent is released afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deed {
    /// The network is cut for this many milliseconds.
    Cut(u64),
    /// The network is cut until the command has ended.
    CutForGood,
    /// An agent is killed this many milliseconds after it is released.
    Kill(Side, u64),
    /// Both are killed at once.
    KillBoth,
    /// The first program with this name that appears is killed this many milliseconds later.
    KillProgram(Side, &'static str, u64),
    /// The disk is filled up.
    Fill(Side),
    /// `agent-client cancel`, which is expected to end with this status.
    Cancel(i32),
    /// Every program with this name is stopped, and is not continued.
    Stop(Side, &'static str),
    /// SIGTERM.
    Terminate,
    /// This many milliseconds pass.
    Wait(u64),
}

const CUT_MS: u64 = 3000;

/// All of them.
pub(crate) fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    hung::cases(&mut cases);
    lies::cases(&mut cases);
    phases(&mut cases);
    requests(&mut cases);
    removal(&mut cases);
    network(&mut cases);
    programs(&mut cases);
    disks(&mut cases);
    data(&mut cases);
    operator(&mut cases);
    cases
}

/// A few of each kind, for every day.
pub(crate) fn sample() -> Vec<Case> {
    const NAMES: [&str; 6] = [
        "client killed/phase cut_over",
        "client killed/after commit",
        "server killed/before commit",
        "server killed/after restore",
        "network lost for 3 s/phase restore",
        "corrupted byte/stream 3",
    ];
    let mut cases = all();
    cases.retain(|case| NAMES.contains(&case.name.as_str()));
    assert_eq!(
        cases.len(),
        NAMES.len(),
        "the sample names cases that exist"
    );
    cases
}

impl Case {
    pub(crate) fn new(group: &str, place: &str, what: String) -> Self {
        Case {
            name: format!("{group}/{place}"),
            what,
            exercise: Exercise::Migrate,
            setting: Setting::Usual,
            client: Vec::new(),
            server: Vec::new(),
            steps: Vec::new(),
            from: None,
            resolve: None,
            connections_may_break: false,
            noticed: false,
        }
    }

    pub(crate) fn setting(mut self, setting: Setting) -> Self {
        self.setting = setting;
        self
    }

    pub(crate) fn step(mut self, place: impl Into<String>, deed: Deed) -> Self {
        self.steps.push((place.into(), deed));
        self
    }

    pub(crate) fn client(mut self, place: &str, action: &str) -> Self {
        self.client.push(format!("{place}={action}"));
        self
    }

    pub(crate) fn server(mut self, place: &str, action: &str) -> Self {
        self.server.push(format!("{place}={action}"));
        self
    }

    /// Whoever is lied to notices.
    pub(crate) fn noticed(mut self) -> Self {
        self.noticed = true;
        self
    }

    fn resolve(mut self, keep: &'static str) -> Self {
        self.resolve = Some(keep);
        self
    }

    /// Forces a rollback, by a signal once the container runs at the destination.
    pub(crate) fn rolled_back(self) -> Self {
        self.step("client.phase.cut_over", Deed::Terminate)
    }

    /// The container has little memory, which would go in the outage.
    fn with_memory_ahead(self) -> Self {
        self.client("client.memory", "return(always)")
    }

    /// Makes sure that the migration goes through this phase.
    fn by_phase(self, phase: PhaseName) -> Self {
        match phase {
            PhaseName::Image => self.setting(Setting::ImageMissing),
            PhaseName::RollBack => self.rolled_back(),
            PhaseName::Memory => self.with_memory_ahead(),
            _ => self,
        }
    }

    /// Makes sure that this request is sent. `None` if no command can send it.
    pub(crate) fn by_request(mut self, request: RequestName) -> Option<Self> {
        match request {
            // `introduce` needs three hosts, and by then nothing of the migration depends on it.
            RequestName::Introduce => return None,
            RequestName::Pair => self.exercise = Exercise::Pair,
            RequestName::Fate => self.exercise = Exercise::Ask,
            RequestName::Abort => self = self.rolled_back(),
            RequestName::MemoryEnd => self = self.with_memory_ahead(),
            // Connections that begin there have come through the other host.
            RequestName::Redirect => self.from = Some("b"),
            _ => {}
        }
        Some(self)
    }
}

fn name(phase: PhaseName) -> &'static str {
    phase.into()
}

fn place(phase: PhaseName) -> String {
    format!("client.phase.{}", name(phase))
}

/// The phases in which both hosts work together.
fn joint_phases() -> impl Iterator<Item = PhaseName> {
    let all = PhaseName::VARIANTS.iter().copied();
    all.skip_while(|phase| *phase != PhaseName::Tunnel)
}

/// The action, to be taken the given time that the place is reached.
pub(crate) fn at_time(time: u32, action: &str) -> String {
    match time {
        1 => format!("1*{action}"),
        _ => format!("{}*off->1*{action}", time - 1),
    }
}

fn phases(cases: &mut Vec<Case>) {
    for phase in PhaseName::VARIANTS.iter().copied() {
        let (name, what) = (
            format!("phase {}", name(phase)),
            format!("SIGKILL to agent-client at the start of `{}`", name(phase)),
        );
        // The place held before that catches the signal that makes it roll back.
        let case = Case::new("client killed", &name, what).by_phase(phase);
        cases.push(case.client(&place(phase), "1*return(kill)"));
    }
    for (phase, delays) in [
        (PhaseName::Stage, &[150, 400, 800][..]),
        (PhaseName::Dump, &[20, 60]),
        (PhaseName::Ship, &[5]),
        (PhaseName::Remove, &[50, 200]),
    ] {
        for delay in delays {
            let what = format!("SIGKILL to agent-client {delay} ms into `{}`", name(phase));
            let place_name = format!("{delay} ms into {}", name(phase));
            cases.push(
                Case::new("client killed", &place_name, what)
                    .step(place(phase), Deed::Kill(Side::Source, *delay)),
            );
        }
    }
    for (place, delays) in [
        ("stage", &[150, 400, 800][..]),
        ("restore", &[20, 60]),
        ("commit", &[5]),
    ] {
        for delay in delays {
            let what = format!("SIGKILL to agent-server {delay} ms into `{place}`");
            cases.push(
                Case::new("server killed", &format!("{delay} ms into {place}"), what).step(
                    format!("server.{place}.before"),
                    Deed::Kill(Side::Destination, *delay),
                ),
            );
        }
    }
    for when in ["before", "after"] {
        let what = format!("SIGKILL to both agents {when} the destination commits");
        cases.push(
            Case::new("both killed", &format!("{when} commit"), what)
                .step(format!("server.commit.{when}"), Deed::KillBoth),
        );
    }
}

fn requests(cases: &mut Vec<Case>) {
    for request in RequestName::VARIANTS.iter().copied() {
        let name: &str = request.into();
        // The skeleton, the files, then the checkpoint.
        let times = match request {
            RequestName::Receive | RequestName::StreamEnd => 3,
            _ => 1,
        };
        for time in 1..=times {
            let nth = ["", " (2nd)", " (3rd)"][time as usize - 1];
            let kill = at_time(time, "return(kill)");
            for when in ["before", "after"] {
                let what = match when {
                    "before" => format!("SIGKILL to agent-client before it asks `{name}`{nth}"),
                    _ => format!("SIGKILL to agent-client when `{name}`{nth} is answered"),
                };
                let case = Case::new("client killed", &format!("{when} {name}{nth}"), what);
                cases.extend(
                    case.by_request(request)
                        .map(|c| c.client(&format!("client.{name}.{when}"), &kill)),
                );
                let what = match when {
                    "before" => format!("SIGKILL to agent-server before it does `{name}`{nth}"),
                    _ => format!("SIGKILL to agent-server before it answers `{name}`{nth}"),
                };
                let case = Case::new("server killed", &format!("{when} {name}{nth}"), what);
                cases.extend(
                    case.by_request(request)
                        .map(|c| c.server(&format!("server.{name}.{when}"), &kill)),
                );
            }
        }
    }
}

/// Before the source removes its copy it waits for the word that the other one is on disk.
fn removal(cases: &mut Vec<Case>) {
    for when in ["before", "after"] {
        let name = format!("{when} on_disk");
        let what = format!("SIGKILL to agent-client {when} it hears that all is on disk");
        let case = Case::new("client killed", &name, what);
        cases.push(case.client(&format!("client.fate.{when}"), "1*return(kill)"));
        let what = format!("SIGKILL to agent-server {when} it looks whether all is on disk");
        let case = Case::new("server killed", &name, what);
        cases.push(case.server(&format!("server.fate.{when}"), "1*return(kill)"));
    }
    let place = "server.fate.before";
    let what = "SIGKILL to both agents before the destination looks whether all is on disk";
    cases.push(Case::new("both killed", "before on_disk", what.into()).step(place, Deed::KillBoth));
    let what = "the destination takes 20 s to say that all is on disk";
    cases.push(Case::new("too slow", "on_disk", what.into()).step(place, Deed::Wait(20_000)));
    let what = "network lost for 3 s before the destination says that all is on disk";
    cases.push(
        Case::new("network lost for 3 s", "before on_disk", what.into())
            .step(place, Deed::Cut(CUT_MS)),
    );
    let what = "network lost for good before the destination says that all is on disk";
    cases.push(
        Case::new("network lost for good", "before on_disk", what.into())
            .step(place, Deed::CutForGood),
    );
    let what = "the same; resolve --keep destination";
    cases.push(
        Case::new(
            "network lost for good",
            "before on_disk, keep destination",
            what.into(),
        )
        .step(place, Deed::CutForGood)
        .resolve("destination"),
    );
}

fn network(cases: &mut Vec<Case>) {
    for phase in joint_phases() {
        let at = format!("phase {}", name(phase));
        let what = format!("network lost for 3 s from the start of `{}`", name(phase));
        let case = Case::new("network lost for 3 s", &at, what).by_phase(phase);
        cases.push(case.step(place(phase), Deed::Cut(CUT_MS)));
        let what = format!("network lost for good from the start of `{}`", name(phase));
        let case = Case::new("network lost for good", &at, what).by_phase(phase);
        cases.push(case.step(place(phase), Deed::CutForGood));
    }
    for (keep, place) in [
        ("source", "client.phase.cut_over"),
        ("destination", "server.commit.after"),
    ] {
        let what = match keep {
            "source" => "network lost for good before Commit arrives; resolve --keep source",
            _ => "network lost for good before Commit is answered; resolve --keep destination",
        };
        cases.push(
            Case::new(
                "network lost for good",
                &format!("keep {keep}"),
                what.into(),
            )
            .step(place, Deed::CutForGood)
            .resolve(keep),
        );
    }
    let what = "network lost for good before Commit is answered";
    cases.push(
        Case::new("network lost for good", "after commit", what.into())
            .step("server.commit.after", Deed::CutForGood),
    );
}

fn programs(cases: &mut Vec<Case>) {
    for (side, place, during, programs) in [
        (
            Side::Source,
            "client.phase.dump",
            "dump",
            &[("runc", &[0, 30][..]), ("criu", &[0, 20])][..],
        ),
        (
            Side::Destination,
            "server.restore.before",
            "restore",
            &[
                ("podman", &[0, 100, 160][..]),
                ("conmon", &[0, 20]),
                ("runc", &[0, 30]),
                ("criu", &[0, 10]),
            ],
        ),
    ] {
        for (program, delays) in programs {
            for delay in *delays {
                let what = format!("SIGKILL to {program} {delay} ms after it starts to {during}");
                let name = format!("{program} in {during}, {delay} ms");
                let mut case = Case::new("program killed", &name, what)
                    .step(place, Deed::KillProgram(side, program, *delay));
                case.connections_may_break = (side, *program) == (Side::Source, "criu");
                cases.push(case);
            }
        }
    }
}

fn disks(cases: &mut Vec<Case>) {
    for (side, name) in [(Side::Source, "source"), (Side::Destination, "destination")] {
        let what = format!("64 KiB for scratch files at the {name}");
        let case = Case::new("disk full", &format!("small, {name}"), what);
        cases.push(case.setting(Setting::SmallWork(side)));
    }
    for phase in [PhaseName::Stage, PhaseName::Dump, PhaseName::CutOver] {
        let what = format!("disk of the source full from `{}`", name(phase));
        cases.push(
            Case::new("disk full", &format!("source, {}", name(phase)), what)
                .step(place(phase), Deed::Fill(Side::Source)),
        );
    }
    for request in [
        RequestName::Begin,
        RequestName::Receive,
        RequestName::Stage,
        RequestName::Flows,
        RequestName::Restore,
        RequestName::Commit,
    ] {
        let name: &str = request.into();
        let what = format!("disk of the destination full from `{name}`");
        cases.push(
            Case::new("disk full", &format!("destination, {name}"), what).step(
                format!("server.{name}.before"),
                Deed::Fill(Side::Destination),
            ),
        );
    }
}

fn data(cases: &mut Vec<Case>) {
    for (stream, carries, setting) in [
        (1, "the image", Setting::ImageMissing),
        (2, "the skeleton", Setting::Usual),
        (3, "the checkpoint", Setting::Usual),
        (4, "the files", Setting::Usual),
    ] {
        let what = format!("a corrupted byte in the stream of {carries}");
        cases.push(
            Case::new("corrupted byte", &format!("stream {stream}"), what)
                .setting(setting)
                .client(&format!("bulk.{stream}"), "1*return(corrupt)"),
        );
    }
    for (side, what) in [(Side::Source, "dump"), (Side::Destination, "restore")] {
        let words = format!("CRIU refuses to {what}");
        cases.push(Case::new("CRIU refuses", what, words).setting(Setting::BrokenCriu(side)));
    }
}

fn operator(cases: &mut Vec<Case>) {
    for phase in [
        PhaseName::Tunnel,
        PhaseName::Stage,
        PhaseName::Freeze,
        PhaseName::Dump,
        PhaseName::Restore,
        PhaseName::CutOver,
    ] {
        let what = format!("agent-client cancel at the start of `{}`", name(phase));
        cases.push(
            Case::new("cancelled", &format!("phase {}", name(phase)), what)
                .step(place(phase), Deed::Cancel(0)),
        );
    }
    for when in ["before", "after"] {
        let what = format!("agent-client cancel {when} the destination commits: too late");
        cases.push(
            Case::new("cancelled", &format!("{when} commit"), what)
                .step(format!("server.commit.{when}"), Deed::Cancel(1)),
        );
    }
    let what = "the restore takes longer than --max-freeze-ms allows";
    cases.push(
        Case::new("too slow", "restore", what.into())
            .setting(Setting::MaxFreeze)
            .step("server.restore.before", Deed::Wait(1500)),
    );
}
