//! The lab that everything is measured in.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{Host, Lab};

use crate::artifacts::Artifacts;
use crate::job::Job;
use crate::workload::Workload;

/// The container's name, whatever it is.
pub(crate) const CONTAINER: &str = "moved";

/// For what may take a while.
pub(crate) const LIMIT: Duration = Duration::from_secs(300);

/// Removes what a measurement left. A conmon that was stopped would never end.
const CLEAN: &str = "
for id in $(podman ps --quiet --no-trunc); do
    kill -CONT $(podman inspect --format '{{.State.ConmonPid}}' $id)
done
for id in $(runc list --quiet); do
    runc delete --force $id
done
podman rm --all --force --time 0
podman volume prune --force
rm -rf /root/bench
mkdir /root/bench";

/// Three hosts; two of them paired, the agents' server running.
pub(crate) struct Stage {
    lab: Lab,
    _server: Job,
}

impl Stage {
    /// Makes it, with what these workloads need. Gone when dropped.
    pub(crate) fn set(lab: &str, artifacts: &Artifacts, workloads: &[Workload]) -> Result<Self> {
        let lab = Lab::fresh(lab, &["source", "destination", "client"])?;
        for (host, program) in [
            ("source", artifacts.program("agent-client")?),
            ("source", artifacts.program("by-hand")?),
            ("destination", artifacts.program("agent-server")?),
            ("destination", artifacts.program("by-hand")?),
            ("client", artifacts.load.clone()),
        ] {
            lab.host(host).put(program, "/usr/local/bin/")?;
        }
        let images: BTreeSet<_> = workloads.iter().map(|workload| workload.image()).collect();
        for name in images {
            let archive = artifacts.image(name)?;
            for host in ["source", "destination"] {
                lab.host(host).put(&archive, "/tmp/image.tar")?;
                lab.host(host)
                    .sh("podman load --quiet --input /tmp/image.tar; rm /tmp/image.tar")?;
            }
        }

        let destination = lab.host("destination");
        let server = Job::start(destination, &["agent-server", "serve"])?;
        until(Duration::from_secs(20), "agent-server listens", || {
            Ok(!destination.sh("ss -Hltn sport = :50051")?.is_empty())
        })?;
        let token = destination.sh("agent-server invite 2>/dev/null")?;
        let pair = format!("agent-client pair destination --token {token}");
        lab.host("source").sh(&pair)?;
        Ok(Self {
            lab,
            _server: server,
        })
    }

    pub(crate) fn source(&self) -> &Host {
        self.lab.host("source")
    }

    pub(crate) fn destination(&self) -> &Host {
        self.lab.host("destination")
    }

    pub(crate) fn client(&self) -> &Host {
        self.lab.host("client")
    }

    /// Starts the container of a workload at the source, with nothing left of the one before.
    pub(crate) fn start(&self, workload: Workload) -> Result<()> {
        self.clean()?;
        let arguments = workload.run_arguments();
        self.source()
            .sh(&format!("podman run -qd --name {CONTAINER} {arguments}"))?;
        let answers = format!("nc -z -w 1 source {}", workload.port());
        until(LIMIT, "the container answers", || {
            let tried = self.client().run(&["sh", "-c", &answers])?;
            Ok(tried.status.success())
        })?;
        self.client().sh(workload.prepare())?;
        // Dirty pages on their way to the disk would be in the way of what is measured.
        bash(self.source(), "sync").map(drop)
    }

    /// Removes containers, volumes and files at both ends.
    pub(crate) fn clean(&self) -> Result<()> {
        for host in [self.source(), self.destination()] {
            bash(host, CLEAN)?;
        }
        Ok(())
    }

    /// The container's address, the same at both ends.
    pub(crate) fn container_address(&self) -> Result<IpAddr> {
        let format = "{{.NetworkSettings.IPAddress}}";
        let text = self
            .source()
            .sh(&format!("podman inspect --format '{format}' {CONTAINER}"))?;
        text.parse().with_context(|| format!("{text:?}"))
    }

    /// What the container at the destination says of its state, if that is not whole.
    pub(crate) fn complaint(&self) -> Result<Option<String>> {
        let said = bash(
            self.destination(),
            &format!("podman logs {CONTAINER} 2>&1 | grep --max-count=1 BROKEN || true"),
        )?;
        Ok((!said.is_empty()).then_some(said))
    }
}

/// Runs a script in a host, to its end and without error.
pub(crate) fn bash(host: &Host, script: &str) -> Result<String> {
    let limit = LIMIT.as_secs().to_string();
    let argv = ["timeout", "-k", "5", &limit, "bash", "-ec", script];
    let output = host.run(&argv)?;
    ensure!(
        output.status.success(),
        "on {}: {script}\n{output}",
        host.name()
    );
    Ok(output.stdout.trim_end().to_owned())
}

/// Waits until something holds.
pub(crate) fn until(
    limit: Duration,
    what: &str,
    mut holds: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !holds()? {
        ensure!(
            Instant::now() < deadline,
            "after {} s it is not true that {what}",
            limit.as_secs()
        );
        sleep(Duration::from_millis(20));
    }
    Ok(())
}
