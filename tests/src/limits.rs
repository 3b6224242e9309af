//! What CRIU may not ask for on a machine whose root lacks `CAP_SYS_RESOURCE`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use lab::Host;

/// Bit of the capability (capabilities(7), linux/capability.h).
const CAP_SYS_RESOURCE: u32 = 24;

/// Starts the real one.
const WRAPPER: &str = "#!/bin/bash
LD_PRELOAD=/usr/local/lib/limits.so exec -a criu /usr/sbin/criu \"$@\"
";

/// Lets CRIU on a host of namespaces dump processes that are not root's, if it could not: it gets to know their limits
/// from `/proc` (limits.c). Nothing else changes for it.
pub(crate) fn tell_criu(host: &Host) {
    if host.kind().is_machine() || has_capability() {
        return;
    }
    host.put(library(), "/usr/local/lib/limits.so")
        .and_then(|()| host.write("/usr/local/sbin/criu", WRAPPER))
        .and_then(|()| host.sh("chmod 755 /usr/local/sbin/criu && criu --version"))
        .expect("CRIU is wrapped");
}

fn has_capability() -> bool {
    let status = fs::read_to_string("/proc/self/status").expect("/proc is there");
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
        .expect("capabilities are told");
    effective >> CAP_SYS_RESOURCE & 1 == 1
}

fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        let library = package.join("../target/limits.so");
        let status = Command::new("cc")
            .args(["-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o"])
            .arg(&library)
            .arg(package.join("src/limits.c"))
            .status()
            .expect("cc starts");
        assert!(status.success(), "limits.c does not compile");
        library
    })
}
