//! What the figures were measured on.

use std::fs;

use serde::Serialize;

/// The machine that all hosts share.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    cores: usize,
    memory_mib: u64,
    kernel: String,
    architecture: &'static str,
}

impl Machine {
    /// This one.
    pub(crate) fn look() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let memory_kib: u64 = read("/proc/meminfo")
            .split_whitespace()
            .nth(1)
            .and_then(|number| number.parse().ok())
            .unwrap_or(0);
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_mib: memory_kib >> 10,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            architecture: std::env::consts::ARCH,
        }
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            cores,
            memory_mib,
            kernel,
            architecture,
        } = self;
        let memory = memory_mib.div_ceil(1024);
        write!(
            f,
            "{cores} {architecture} cores and {memory} GiB shared by all hosts, Linux {kernel}"
        )
    }
}
