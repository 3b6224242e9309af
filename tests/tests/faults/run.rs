//! One case: break it, recover, check.

use std::time::{Duration, Instant};

use lab::Output;
use nix::sys::signal::Signal;
use serde_json::Value;
use tests::{Job, eventually, pause};

use crate::case::{Case, Deed, Exercise, Setting, Side};
use crate::world::{HOSTS, NAME, PORT, World};

/// Longer than any command takes, whatever is broken.
const LIMIT: Duration = Duration::from_secs(150);

/// How long connections with unanswered packets are remembered, in seconds: longer than any cut of
/// the network here. Otherwise they are forgotten sooner, so that hosts soon look as before.
const REMEMBERED_S: u32 = 120;
const FORGOTTEN_S: u32 = 40;

/// The status of a command that a signal killed.
const KILLED: i32 = 137;
/// The status of a command that leaves something open.
const OPEN: i32 = 3;

/// A CRIU that prints its version but fails whenever a runtime calls it.
const BROKEN_CRIU: &str = "#!/bin/sh
case \"$*\" in *swrk*) exit 1 ;; esac
exec /tmp/criu \"$@\"
";

/// A Podman that stops itself if HANGS is in its command line, and says so.
const HUNG_PODMAN: &str = r#"#!/bin/sh
case " $* " in
*" HANGS "*)
    mkdir -p /run/live-migration/held
    touch /run/live-migration/held/PLACE.podman
    kill -STOP $$
    ;;
esac
exec /tmp/podman "$@"
"#;

/// Stops every process named $1.
const STOPPER: &str = r#"
for comm in /proc/[0-9]*/comm; do
    read -r name <$comm && [ "$name" = "$1" ] || continue
    pid=${comm#/proc/}
    kill -STOP ${pid%/comm} && found=yes
done 2>/dev/null
[ "$found" ]
"#;

/// Kills the first process named $1 that appears, $2 seconds later. For Podman that includes the
/// one that already waits at the gate.
const KILLER: &str = r#"
known=' '
[ "$1" = podman ] || for comm in /proc/[0-9]*/comm; do
    read -r name <$comm && [ "$name" = "$1" ] && known="$known$comm "
done 2>/dev/null
i=0
while [ $i -lt 3000 ]; do
    i=$((i + 1))
    for comm in /proc/[0-9]*/comm; do
        read -r name <$comm || continue
        [ "$name" = "$1" ] || continue
        case $known in *" $comm "*) continue ;; esac
        pid=${comm#/proc/}
        [ "$2" = 0 ] || sleep $2
        # A runtime first starts one that only tells its version, and is gone by now.
        kill -9 ${pid%/comm} && exit
    done 2>/dev/null
done
exit 1
"#;

/// The result of a case.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) what: String,
    /// What the agents said.
    pub(crate) outcome: String,
    /// The host that had the container afterwards.
    pub(crate) holder: String,
    pub(crate) stall_ms: f64,
    pub(crate) took: Duration,
}

struct Run<'a> {
    world: &'a mut World,
    case: &'a Case,
    source: &'static str,
    destination: &'static str,
    job: Option<Job>,
    /// Other commands, and the status that each is expected to end with.
    helpers: Vec<(Job, i32)>,
    cut: bool,
    /// How often the server was found dead and restarted.
    restarts: u32,
}

/// Runs a case; panics with what is wrong. After a case that may break connections, the hosts only
/// have to be clean at the end of the world.
pub(crate) fn run(world: &mut World, case: &Case) -> Row {
    if case.from.is_some_and(|from| from != world.at) {
        world.move_on();
    }
    let begun = Instant::now();
    let (source, destination) = (world.at, world.other());
    let client = world.f.client("count", &world.f.at(source, PORT), &[]);
    let mut run = Run {
        world,
        case,
        source,
        destination,
        job: None,
        helpers: Vec::new(),
        cut: false,
        restarts: 0,
    };
    run.prepare();
    let output = run.exercise();
    run.assert_broken(&output);
    run.assert_lied(&output);
    let mut outcome = told(case, &output);
    if run.cut {
        outcome += &run.while_cut(&output);
    }
    run.put_right();
    outcome += &run.recover();
    if case.connections_may_break && run.world.start_if_ended() {
        outcome += ", the container ended";
    }
    run.world.locate();
    let side = if run.world.at == source {
        "source"
    } else {
        "destination"
    };
    let seen = match case.connections_may_break {
        true => client.finish(),
        false => client.finish_whole(),
    };
    if seen["ok"] != true {
        outcome += ", connections broke";
    }
    let missing = matches!(
        case.setting,
        Setting::ImageMissing | Setting::HungPodmanAndImageMissing(..)
    );
    if missing && world.at == source {
        // It was not there before, and the next case must not find it.
        eventually(LIMIT, || {
            let image = ["podman", "image", "exists", "localhost/counter"];
            let there = world.f.run(destination, &image).status.code();
            (there == Some(1))
                .then_some(())
                .ok_or("the image was left behind".to_owned())
        });
        world.f.add_image(destination, "counter");
    }
    match case.connections_may_break {
        true => world.reconnect(),
        false => world.assert_clean(),
    }
    Row {
        name: case.name.clone(),
        what: case.what.clone(),
        outcome,
        holder: side.to_owned(),
        stall_ms: seen["stall_ms"].as_f64().expect("a number"),
        took: begun.elapsed(),
    }
}

/// What a command reported, in a few words.
fn told(case: &Case, output: &Output) -> String {
    match (case.exercise, output.status.code()) {
        (Exercise::Pair, Some(0)) => "paired".into(),
        (Exercise::Pair, Some(1)) => "not paired".into(),
        (_, Some(0)) => "moved".into(),
        (_, Some(1)) => "rolled back".into(),
        (_, Some(4)) => "refused".into(),
        (_, Some(OPEN)) => "open".into(),
        (_, Some(KILLED)) => "killed".into(),
        _ => panic!("{}: {output}", case.name),
    }
}

impl Run<'_> {
    fn host(&self, side: Side) -> &'static str {
        match side {
            Side::Source => self.source,
            Side::Destination => self.destination,
        }
    }

    fn prepare(&mut self) {
        let f = &mut self.world.f;
        let held = |agent: &str, faults: &[String]| {
            let holds = self.case.steps.iter();
            let holds =
                holds.filter(|(place, _)| place.starts_with(agent) && !place.ends_with(".podman"));
            let holds = holds.map(|(place, _)| format!("{place}=1*return(hold)"));
            holds
                .chain(faults.iter().cloned())
                .collect::<Vec<_>>()
                .join(";")
        };
        let mut server = held("server", &self.case.server);
        if self.case.exercise == Exercise::Ask {
            server = "server.commit.after=1*return(kill)".into();
        }
        if !server.is_empty() {
            f.serve_with(self.destination, &[("FAILPOINTS", &server)]);
        }
        match self.case.setting {
            Setting::Usual | Setting::MaxFreeze => {}
            Setting::ImageMissing => {
                f.sh(self.destination, "podman rmi localhost/counter");
            }
            Setting::HungPodmanAndImageMissing(side, verb) => {
                f.sh(self.destination, "podman rmi localhost/counter");
                self.hang_podman(side, verb);
            }
            Setting::HungPodman(side, verb) => self.hang_podman(side, verb),
            Setting::BrokenCriu(side) => {
                let host = self.host(side);
                let f = &self.world.f;
                f.host(host)
                    .write("/tmp/broken", BROKEN_CRIU)
                    .expect("a script fits");
                f.sh(
                    host,
                    "cp /usr/sbin/criu /tmp/criu; chmod +x /tmp/broken
                     mount --bind /tmp/broken /usr/sbin/criu",
                );
            }
            Setting::SmallWork(side) => {
                let work = "/var/lib/live-migration/work";
                let mount = format!("mount -t tmpfs -o size=64k tmpfs {work}");
                let host = self.host(side);
                self.world.f.sh(host, &mount);
            }
        }
        let cuts = |deed: &Deed| matches!(deed, Deed::Cut(_) | Deed::CutForGood);
        if self.case.steps.iter().any(|(_, deed)| cuts(deed)) {
            // A host that is cut off later forgets connections by the settings at the time of their
            // last packet.
            self.remember_unanswered_for(REMEMBERED_S);
        }
        let client = held("client", &self.case.client);
        let environment = [("FAILPOINTS", client.as_str())];
        let f = &self.world.f;
        self.job = Some(match self.case.exercise {
            Exercise::Pair => {
                let token = f.invite(self.destination);
                let pair = ["agent-client", "pair", self.destination, "--token", &token];
                Job::start_with(f.host(self.source), &pair, &environment)
            }
            Exercise::Migrate | Exercise::Ask => {
                let more: &[&str] = match self.case.setting {
                    Setting::MaxFreeze => &["--max-freeze-ms", "1000"],
                    _ => &[],
                };
                f.begin_with(self.source, NAME, self.destination, more, &environment)
            }
        });
    }

    fn hang_podman(&self, side: Side, verb: &str) {
        let host = self.host(side);
        let place = match side {
            Side::Source => "client",
            Side::Destination => "server",
        };
        let script = HUNG_PODMAN.replace("HANGS", verb).replace("PLACE", place);
        let f = &self.world.f;
        let written = f.host(host).write("/tmp/hung", script);
        written.expect("a script fits");
        // The copy stays: conmon calls it when a container that it has started ends.
        f.sh(
            host,
            "[ -e /tmp/podman ] || cp /usr/bin/podman /tmp/podman
             chmod +x /tmp/hung; mount --bind /tmp/hung /usr/bin/podman",
        );
    }

    /// Does what the case does while an agent is held, and waits for the command's end.
    fn exercise(&mut self) -> Output {
        for (place, deed) in &self.case.steps {
            let side = match place.starts_with("client") {
                true => Side::Source,
                false => Side::Destination,
            };
            let (host, file) = (self.host(side), format!("/run/live-migration/held/{place}"));
            let deadline = Instant::now() + LIMIT;
            while self
                .world
                .f
                .host(host)
                .run(&["test", "-e", &file])
                .is_ok_and(|o| !o.status.success())
            {
                let ended = self.job.as_mut().expect("it was started").ended();
                assert!(ended.is_none(), "it ended before {place}: {}", self.words());
                assert!(Instant::now() < deadline, "it does not come to {place}");
            }
            let release = format!("rm -f {file}");
            match *deed {
                // Release first: the time until the kill counts from then.
                Deed::Kill(..) => {
                    self.world.f.sh(host, &release);
                    self.act(*deed);
                }
                Deed::KillBoth => {
                    self.act(*deed);
                    self.world.f.sh(host, &release);
                }
                _ => {
                    self.act(*deed);
                    self.world.f.sh(host, &release);
                    self.act_later(*deed);
                }
            }
        }
        self.wait()
    }

    /// Checks that what was to be killed was killed: a place that is never reached proves nothing.
    fn assert_broken(&mut self, output: &Output) {
        let kills = |faults: &[String]| faults.iter().any(|fault| fault.contains("kill"));
        if kills(&self.case.client) {
            assert_eq!(output.status.code(), Some(KILLED), "{output}");
        }
        if kills(&self.case.server) {
            let expected = 1 + u32::from(self.case.exercise == Exercise::Ask);
            // The command may hear of it before we do.
            eventually(Duration::from_secs(5), || {
                let dead = self.restarts + u32::from(!self.world.f.serves(self.destination));
                (dead == expected)
                    .then_some(())
                    .ok_or_else(|| format!("the server was not killed: {output}"))
            });
        }
    }

    /// Checks that a lie was told, and that it was noticed if it had to be.
    fn assert_lied(&mut self, output: &Output) {
        for (faults, of_server) in [(&self.case.client, false), (&self.case.server, true)] {
            for fault in faults.iter().filter(|fault| fault.contains(".says=")) {
                let place = fault.split_once('=').map_or("", |(place, _)| place);
                let said = match of_server {
                    true => self.world.f.server_log(self.destination),
                    false => output.stderr.clone(),
                };
                let told = format!("a lie at {place}");
                assert!(said.contains(&told), "not told: {told}: {output}\n{said}");
            }
        }
        if self.case.noticed {
            assert_ne!(output.status.code(), Some(0), "not noticed: {output}");
        }
    }

    fn words(&self) -> String {
        let job = self.job.as_ref().expect("it was started");
        format!("{}{}", job.stdout(), job.stderr())
    }

    fn act(&mut self, deed: Deed) {
        match deed {
            Deed::Cut(_) | Deed::CutForGood => {
                self.world
                    .f
                    .lab()
                    .cut(self.destination)
                    .expect("it can be cut off");
                self.cut = deed == Deed::CutForGood;
            }
            Deed::Kill(side, after) => {
                pause(after);
                self.kill(side);
            }
            Deed::KillBoth => {
                self.kill(Side::Source);
                self.kill(Side::Destination);
            }
            Deed::KillProgram(side, program, after) => {
                let seconds = format!("{}", after as f64 / 1e3);
                let argv = ["sh", "-c", KILLER, "sh", program, &seconds];
                let host = self.host(side);
                let killer = Job::start(self.world.f.host(host), &argv);
                self.helpers.push((killer, 0));
                pause(100);
            }
            Deed::Stop(side, program) => {
                let stop = ["sh", "-c", STOPPER, "sh", program];
                let stopped = self.world.f.run(self.host(side), &stop);
                assert!(stopped.status.success(), "{program}: {stopped}");
            }
            Deed::Fill(side) => {
                let fill = "cat /dev/zero >/var/lib/live-migration/filler 2>/dev/null || true";
                let host = self.host(side);
                self.world.f.sh(host, fill);
            }
            Deed::Cancel(status) => {
                let id = self.migration();
                let cancel = ["agent-client", "cancel", &id[..8]];
                let cancel = Job::start(self.world.f.host(self.source), &cancel);
                // It waits for the end of the held command.
                self.helpers.push((cancel, status));
                pause(500);
            }
            Deed::Terminate => {
                self.job
                    .as_ref()
                    .expect("it was started")
                    .signal(Signal::SIGTERM);
                pause(200);
            }
            Deed::Wait(milliseconds) => pause(milliseconds),
        }
    }

    fn act_later(&mut self, deed: Deed) {
        if let Deed::Cut(milliseconds) = deed {
            pause(milliseconds);
            self.mend();
        }
    }

    fn kill(&mut self, side: Side) {
        match side {
            Side::Source => {
                let job = self.job.as_ref().expect("it was started");
                // Also kills the command in the host.
                job.signal(Signal::SIGKILL);
            }
            Side::Destination => self.world.f.kill_server(self.destination),
        }
    }

    fn mend(&mut self) {
        self.world
            .f
            .lab()
            .mend(self.destination)
            .expect("it can be mended");
        self.remember_unanswered_for(FORGOTTEN_S);
        self.cut = false;
    }

    /// Sets how long the hosts remember a connection whose one end is silent.
    fn remember_unanswered_for(&self, seconds: u32) {
        for host in HOSTS {
            let script = format!(
                "cd /proc/sys/net/netfilter
                 echo {seconds} >nf_conntrack_tcp_timeout_max_retrans
                 echo {seconds} >nf_conntrack_tcp_timeout_unacknowledged"
            );
            self.world.f.sh(host, &script);
        }
    }

    /// The id of the migration that is under way.
    fn migration(&self) -> String {
        let status = ["agent-client", "status", "--format", "json"];
        let output = self.world.f.run(self.source, &status);
        let status: Value = serde_json::from_str(&output.stdout).expect("JSON");
        let newest = &status["migrations"][0]["migration"];
        newest
            .as_str()
            .unwrap_or_else(|| panic!("no migration: {output}"))
            .to_owned()
    }

    /// Waits for the command's end. Meanwhile, a killed server is started again, as a service
    /// manager would.
    fn wait(&mut self) -> Output {
        let deadline = Instant::now() + LIMIT;
        let mut job = self.job.take().expect("it was started");
        while job.ended().is_none() && Instant::now() < deadline {
            if !self.world.f.serves(self.destination) {
                self.restarts += 1;
                let faults = match (self.case.exercise, self.restarts) {
                    (Exercise::Ask, 1) => self.case.server.join(";"),
                    _ => String::new(),
                };
                let f = &mut self.world.f;
                f.serve_with(self.destination, &[("FAILPOINTS", &faults)]);
            }
            pause(20);
        }
        let mut output = job.wait(Duration::from_secs(1));
        if output.status.code().is_none() {
            // The outer process was killed, and the command with it.
            output.status = std::os::unix::process::ExitStatusExt::from_raw(KILLED << 8);
        }
        output
    }

    /// Checks what must hold as long as the destination cannot be reached; returns what was
    /// reported.
    fn while_cut(&mut self, output: &Output) -> String {
        if output.status.code() != Some(OPEN) {
            return String::new();
        }
        let f = &self.world.f;
        let recover = f.run(self.source, &["agent-client", "recover"]);
        assert_eq!(recover.status.code(), Some(OPEN), "{recover}");
        assert!(recover.stdout.contains("resolve"), "{recover}");
        let frozen =
            "cat /sys/fs/cgroup$(podman inspect -f '{{.State.CgroupPath}}' counter)/cgroup.freeze";
        assert_eq!(
            f.sh(self.source, frozen),
            "1",
            "it is frozen as long as nothing is known"
        );
        let Some(keep) = self.case.resolve else {
            return ", stays open".into();
        };
        let id = self.migration();
        let resolve = f.run(
            self.source,
            &["agent-client", "resolve", &id[..8], "--keep", keep],
        );
        assert_eq!(resolve.status.code(), Some(0), "{resolve}");
        assert!(resolve.stdout.contains("resolved by operator"), "{resolve}");
        let again = f.run(
            self.source,
            &["agent-client", "resolve", &id, "--keep", keep],
        );
        assert_eq!(again.status.code(), Some(1), "{again}");
        format!(", stays open, resolved: {keep}")
    }

    /// Repairs what was broken around the agents.
    fn put_right(&mut self) {
        if self.cut {
            self.mend();
        }
        for (helper, status) in self.helpers.drain(..) {
            let done = helper.wait(LIMIT);
            assert_eq!(done.status.code(), Some(status), "{done}");
        }
        let hosts = [self.source, self.destination];
        for host in hosts {
            let f = &self.world.f;
            f.sh(
                host,
                "rm -f /var/lib/live-migration/filler /run/live-migration/held/*
                 if grep -q ' /var/lib/live-migration/work ' /proc/mounts; then
                     umount /var/lib/live-migration/work
                 fi
                 if grep -q ' /usr/bin/podman ' /proc/mounts; then umount --lazy /usr/bin/podman; fi
                 if grep -q ' /usr/sbin/criu ' /proc/mounts; then umount /usr/sbin/criu; fi",
            );
        }
        let hung = matches!(
            self.case.setting,
            Setting::HungPodman(Side::Destination, _)
                | Setting::HungPodmanAndImageMissing(Side::Destination, _)
        );
        let faulty = hung
            || !self.case.server.is_empty()
            || self.case.exercise == Exercise::Ask
            || self
                .case
                .steps
                .iter()
                .any(|(place, _)| place.starts_with("server"));
        if !self.world.f.serves(self.destination) || faulty {
            // Stopped in order, if it is still running.
            if self.world.f.serves(self.destination) {
                self.world.f.stop_serving(self.destination);
            }
            self.world.f.serve(self.destination);
        }
    }

    /// Runs recovery at the source until nothing is left open.
    fn recover(&mut self) -> String {
        let mut said = String::new();
        let (f, source) = (&self.world.f, self.source);
        eventually(LIMIT, || {
            let recover = f.run(source, &["agent-client", "recover"]);
            for word in ["undone", "finished"] {
                if recover.stdout.contains(word) {
                    said = format!(", {word}");
                }
            }
            match recover.status.code() {
                Some(0) => Ok(()),
                _ => Err(format!("{recover}")),
            }
        });
        said
    }
}
