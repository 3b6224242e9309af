//! The lab that everything is measured in.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::{Host, Lab};
use serde::Deserialize;

use crate::artifacts::Artifacts;
use crate::job::Job;
use crate::workload::Workload;

/// The container's name, whatever its image.
pub(crate) const CONTAINER: &str = "moved";

/// A time limit for what may take a while.
pub(crate) const LIMIT: Duration = Duration::from_secs(300);

/// Removes what a measurement left behind. A conmon that was stopped would never end.
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

/// Hosts along which a container can move, each paired with the next, and a client's host.
pub(crate) struct Stage {
    lab: Lab,
    /// How many of the lab's hosts containers move along; the client's comes after them.
    chain: usize,
    _servers: Vec<Job>,
}

/// What is read from `agent-client status`.
#[derive(Deserialize)]
struct Status {
    tunnels: Vec<StatusTunnel>,
}

#[derive(Deserialize)]
struct StatusTunnel {
    backend: String,
}

impl Stage {
    /// Makes the lab, with images of these examples. It goes away when dropped.
    pub(crate) fn set(
        lab: &str,
        artifacts: &Artifacts,
        chain: &[&str],
        images: impl IntoIterator<Item = &'static str>,
    ) -> Result<Self> {
        let hosts = [chain, &["client"]].concat();
        let lab = Lab::fresh(lab, &hosts)?;
        for host in chain {
            for program in ["agent-client", "agent-server", "by-hand"] {
                let program = artifacts.program(program)?;
                lab.host(host).put(program, "/usr/local/bin/")?;
            }
        }
        lab.host("client").put(&artifacts.load, "/usr/local/bin/")?;
        for name in BTreeSet::from_iter(images) {
            let archive = artifacts.image(name)?;
            for host in chain {
                lab.host(host).put(&archive, "/tmp/image.tar")?;
                lab.host(host)
                    .sh("podman load --quiet --input /tmp/image.tar; rm /tmp/image.tar")?;
            }
        }

        let mut servers = Vec::new();
        for pair in chain.windows(2) {
            let (from, to) = (lab.host(pair[0]), lab.host(pair[1]));
            servers.push(Job::start(to, &["agent-server", "serve"])?);
            until(Duration::from_secs(20), "agent-server listens", || {
                Ok(!to.sh("ss -Hltn sport = :50051")?.is_empty())
            })?;
            let token = to.sh("agent-server invite 2>/dev/null")?;
            from.sh(&format!("agent-client pair {} --token {token}", to.name()))?;
        }
        Ok(Self {
            lab,
            chain: chain.len(),
            _servers: servers,
        })
    }

    /// The hosts that containers move along.
    pub(crate) fn chain(&self) -> &[Host] {
        &self.lab.hosts()[..self.chain]
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

    /// Starts the container of a workload at the source, with nothing left of the previous one.
    pub(crate) fn start(&self, workload: Workload) -> Result<()> {
        self.clean()?;
        self.run(workload.run_arguments(), workload.port())?;
        self.client().sh(workload.prepare())?;
        // Writing dirty pages to disk would disturb the measurement.
        bash(self.source(), "sync").map(drop)
    }

    /// Starts the container at the source, with these arguments of `podman run`, and waits until it
    /// listens on a port. Nobody connects to it: iperf3 would then close the port for a moment.
    pub(crate) fn run(&self, arguments: &str, port: u16) -> Result<()> {
        self.source()
            .sh(&format!("podman run -qd --name {CONTAINER} {arguments}"))?;
        let listening = format!(
            "nsenter -n -t $(podman inspect --format '{{{{.State.Pid}}}}' {CONTAINER}) \
             ss -Hltn sport = :{port}"
        );
        until(LIMIT, "the container listens", || {
            Ok(!self.source().sh(&listening)?.is_empty())
        })
    }

    /// Removes containers, volumes and files on all hosts.
    pub(crate) fn clean(&self) -> Result<()> {
        for host in self.chain() {
            bash(host, CLEAN)?;
        }
        Ok(())
    }

    /// Which WireGuard the source's tunnels use: the kernel's, or the agents' own.
    pub(crate) fn wireguard(&self) -> Result<String> {
        let said = self.source().sh("agent-client status --format json")?;
        let status: Status = serde_json::from_str(&said).with_context(|| said.clone())?;
        let tunnel = status.tunnels.into_iter().next();
        Ok(tunnel.context("there is no tunnel")?.backend)
    }

    /// The container's address, the same at both ends.
    pub(crate) fn container_address(&self) -> Result<IpAddr> {
        let format = "{{.NetworkSettings.IPAddress}}";
        let text = self
            .source()
            .sh(&format!("podman inspect --format '{format}' {CONTAINER}"))?;
        text.parse().with_context(|| format!("{text:?}"))
    }

    /// What the container at the destination says is broken, if anything.
    pub(crate) fn complaint(&self) -> Result<Option<String>> {
        let said = bash(
            self.destination(),
            &format!("podman logs {CONTAINER} 2>&1 | grep --max-count=1 BROKEN || true"),
        )?;
        Ok((!said.is_empty()).then_some(said))
    }
}

/// Runs a script in a host to its end; an error if it fails.
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

/// Waits until a condition holds.
pub(crate) fn until(
    limit: Duration,
    what: &str,
    mut holds: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let deadline = Instant::now() + limit;
    while !holds()? {
        ensure!(
            Instant::now() < deadline,
            "after {} s it is still not true that {what}",
            limit.as_secs()
        );
        sleep(Duration::from_millis(20));
    }
    Ok(())
}
