//! Whether `/etc/hosts` and its like were changed since Podman wrote them for the container.
//!
//! Podman writes them anew at the destination, with that host's addresses in them, so a change made
//! from inside the container is not kept.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Podman writes these files together, so one that is this much newer than another was changed later.
const TOGETHER: Duration = Duration::from_millis(20);

/// Longest that Podman may take from writing the OCI configuration to writing these.
const START: Duration = Duration::from_secs(30);

/// Those of `files`, which Podman has written for a container, that were changed afterwards, by their
/// names. `config` is the container's OCI configuration.
pub(super) fn since_start(config: &Path, files: &[&Path]) -> Vec<String> {
    let changed = |path: &Path| fs::metadata(path).and_then(|file| file.modified()).ok();
    // The host's name is written before the others.
    let later = files.iter().filter(|path| !path.ends_with("hostname"));
    let earliest = later.filter_map(|path| changed(path)).min();
    let limits = [
        earliest.map(|at| at + TOGETHER),
        changed(config).map(|at| at + START),
    ];
    let is_later = |at: SystemTime| limits.into_iter().flatten().any(|limit| at > limit);
    files
        .iter()
        .filter(|path| changed(path).is_some_and(is_later))
        .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changed_after_the_start_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let begin = SystemTime::now() - Duration::from_secs(1000);
        let write = |name: &str, after: Duration| {
            let file = fs::File::create(path(name)).unwrap();
            file.set_modified(begin + after).unwrap();
        };
        let ms = Duration::from_millis;
        let found = || {
            let (hosts, resolv, hostname) = (path("hosts"), path("resolv.conf"), path("hostname"));
            since_start(&path("config.json"), &[&hosts, &resolv, &hostname])
        };
        write("config.json", ms(0));
        write("hostname", ms(0));
        write("resolv.conf", ms(2000));
        assert!(found().is_empty());
        write("hosts", ms(2004));
        assert!(found().is_empty());
        write("hosts", ms(2100));
        assert_eq!(found(), ["hosts"]);
        write("hosts", ms(40_000));
        write("resolv.conf", ms(40_000));
        assert_eq!(found(), ["hosts", "resolv.conf"]);
    }
}
