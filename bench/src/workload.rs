//! The containers that are moved.

use std::fmt;

use clap::ValueEnum;
use serde::Serialize;

/// A container and its clients. Each container is an example, or a variant of `echo`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Workload {
    /// The small echo server, one connection.
    Echo,
    /// The same with 100 connections.
    #[value(name = "echo-100")]
    #[serde(rename = "echo-100")]
    EchoHundred,
    /// Redis with 200 MB of data.
    Redis,
    /// An echo server beside 2 GiB of files: half in the root file system, half in a volume.
    Files,
    /// An echo server and 49 more processes.
    Processes,
    /// An echo server with 1 GiB of memory, which it leaves alone.
    Memory,
    /// The same, and 32 MiB of it are written all the time.
    #[value(name = "memory-written")]
    #[serde(rename = "memory-written")]
    MemoryWritten,
}

impl Workload {
    /// Its name in the table.
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Workload::Echo => "echo, 1 connection",
            Workload::EchoHundred => "echo, 100 connections",
            Workload::Redis => "redis, 200 MB of data",
            Workload::Files => "echo, 2 GiB of files",
            Workload::Processes => "echo, 50 processes",
            Workload::Memory => "echo, 1 GiB of memory",
            Workload::MemoryWritten => "the same, 32 MiB written",
        }
    }

    /// Whether it has so much data that a migration takes minutes.
    pub(crate) fn is_large(self) -> bool {
        matches!(
            self,
            Workload::Files | Workload::Memory | Workload::MemoryWritten
        )
    }

    /// The example that its image comes from.
    pub(crate) fn image(self) -> &'static str {
        match self {
            Workload::Echo | Workload::EchoHundred => "echo",
            Workload::Redis => "redis",
            Workload::Files => "files",
            Workload::Processes => "processes",
            Workload::Memory | Workload::MemoryWritten => "ballast",
        }
    }

    /// The arguments of `podman run` besides the name.
    pub(crate) fn run_arguments(self) -> &'static str {
        match self {
            Workload::Echo | Workload::EchoHundred => "-p 7000:7000 localhost/echo",
            Workload::Redis => "-p 6379:6379 localhost/redis",
            Workload::Files => {
                "-p 7000:7000 -v more:/more localhost/files --fill /data=1024 --fill /more=1024"
            }
            Workload::Processes => "-p 7000:7000 localhost/processes",
            Workload::Memory => "-p 7000:7000 localhost/ballast --mib 1024",
            Workload::MemoryWritten => "-p 7000:7000 localhost/ballast --mib 1024 --hot-mib 32",
        }
    }

    /// The published port.
    pub(crate) fn port(self) -> u16 {
        match self {
            Workload::Redis => 6379,
            _ => 7000,
        }
    }

    /// What to run at the client once the port answers. The values compress as badly as real data.
    pub(crate) fn prepare(self) -> &'static str {
        match self {
            Workload::Redis => {
                "head -c 150000000 /dev/urandom | base64 --wrap 1000 |
                awk '{ print \"SET key:\" NR, $0 }' | redis-cli -h source --pipe"
            }
            _ => "true",
        }
    }

    /// How many connections its clients have.
    pub(crate) fn connections(self) -> usize {
        match self {
            Workload::EchoHundred => 100,
            _ => 1,
        }
    }

    /// The arguments of `load` without the target. A hundred connections with a frame per
    /// millisecond each would use all of a small machine, and that would be measured instead.
    pub(crate) fn load(self) -> &'static [&'static str] {
        match self {
            Workload::Redis => &["redis", "--interval-ms", "1"],
            Workload::EchoHundred => &["echo", "--connections", "100", "--interval-ms", "50"],
            _ => &["echo", "--interval-ms", "1"],
        }
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value().expect("none is skipped");
        f.pad(value.get_name())
    }
}
