//! Finds a container's bind mounts.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::bind::{Bind, InUse, Kind, changed};
use super::shared::{Shared, plain};
use crate::container::init;
use crate::container::spec::{Mount, Spec};

/// How a mount may follow what its host mounts later, or the other way round (mount_namespaces(7)).
const PROPAGATION: [&str; 6] = [
    "shared",
    "rshared",
    "slave",
    "rslave",
    "unbindable",
    "runbindable",
];

/// Most open files that are remembered of a container.
const MOST_FILES: usize = 10_000;

/// The bind mounts of a running container with this configuration: those of nothing that is `own`, which are
/// Podman's directories for it and its volumes. `first` is its first process, `processes` are all. Blocks.
pub fn of_container(spec: &Spec, own: &[PathBuf], first: i32, processes: &[i32]) -> Vec<Bind> {
    let of_host = |mount: &&Mount| {
        let mut own = own.iter().filter(|own| own.is_absolute());
        let is_own = own.any(|own| mount.source.starts_with(own));
        !is_own && mount.destination != init::DESTINATION
    };
    let proc = Path::new("/proc").join(first.to_string());
    let mounts = fs::read_to_string(proc.join("mountinfo")).unwrap_or_default();
    let known: Vec<&str> = spec.mount_points().collect();
    let found = spec.binds().filter(of_host);
    let mut found: Vec<Bind> = found
        .map(|mount| bind(mount, &proc.join("root"), &mounts, &known))
        .collect();
    for pid in processes {
        add_open_files(&mut found, &Path::new("/proc").join(pid.to_string()));
    }
    found
}

fn bind(mount: &Mount, root: &Path, mounts: &str, known: &[&str]) -> Bind {
    let real = mount.source.canonicalize();
    let source = real.as_deref().unwrap_or(&mount.source);
    let at = root.join(mount.destination.trim_start_matches('/'));
    let (outside, inside) = (fs::metadata(source).ok(), fs::metadata(&at).ok());
    let inode = |found: &Option<fs::Metadata>| found.as_ref().map(|f| (f.dev(), f.ino()));
    let mut options = mount.options.iter().flatten();
    let propagation = options.find(|option| PROPAGATION.contains(&option.as_str()));
    let below = mounted_below(mounts, &mount.destination, known);
    let obstacle = if let Some(propagation) = propagation {
        Some(format!(
            "it was bound with {propagation}: create the container without"
        ))
    } else if let Some(below) = below {
        Some(format!(
            "another file system is mounted in it, at {below}: bind that one by itself"
        ))
    } else if inode(&outside) != inode(&inside) {
        Some(
            "something else has taken its place on this host since the container started: restart the \
             container"
                .to_owned(),
        )
    } else {
        None
    };
    Bind {
        source: source.display().to_string(),
        destination: mount.destination.clone(),
        read_only: mount.is_read_only(),
        kind: outside.as_ref().map(Kind::of).unwrap_or_default(),
        obstacle,
        shared: Shared::at(source),
        ..Bind::default()
    }
}

/// Where something is mounted below `directory` of which the configuration, with its `known` mount points, says
/// nothing; `mounts` is as in proc_pid_mountinfo(5).
fn mounted_below(mounts: &str, directory: &str, known: &[&str]) -> Option<String> {
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    let mut points = points.map(plain);
    points.find(|point| {
        let path = Path::new(point);
        let below = path.starts_with(directory) && path != Path::new(directory);
        below && !known.iter().any(|known| Path::new(known) == path)
    })
}

/// Adds what a process has open in each of `binds`.
fn add_open_files(binds: &mut [Bind], process: &Path) {
    let below = |name: &str| {
        let entries = fs::read_dir(process.join(name))
            .into_iter()
            .flatten()
            .flatten();
        entries.map(|entry| entry.path())
    };
    let open = below("fd").chain(below("map_files"));
    for link in open.chain([process.join("cwd")]) {
        let (Ok(path), Ok(metadata)) = (fs::read_link(&link), fs::metadata(&link)) else {
            continue;
        };
        let inside = binds.iter_mut().filter_map(|bind| {
            let rest = path
                .strip_prefix(&bind.destination)
                .ok()?
                .to_str()?
                .to_owned();
            Some((bind, rest))
        });
        let Some((bind, rest)) = inside.max_by_key(|(bind, _)| bind.destination.len()) else {
            continue;
        };
        if metadata.nlink() > 0 && bind.in_use.len() < MOST_FILES {
            bind.in_use.insert(rest.clone(), InUse::of(&metadata));
        }
        let number = link.file_name().unwrap_or_default();
        let info = fs::read_to_string(process.join("fdinfo").join(number)).unwrap_or_default();
        if info.lines().any(|line| line.starts_with("lock:")) && !bind.locked.contains(&rest) {
            bind.locked.push(rest);
        }
    }
}

/// What of `binds` the destination is to compare, or has to make room for. Blocks, for as long as it takes to
/// read what is compared.
pub fn measure(binds: &mut [Bind]) {
    let mut known: BTreeMap<String, Option<[u8; 32]>> = BTreeMap::new();
    for bind in binds {
        let source = Path::new(&bind.source);
        if bind.is_sent() {
            bind.bytes = crate::container::files::usage::allocated(source);
        } else if bind.read_only || bind.kind == Kind::File {
            bind.compared = changed(source);
            let digest = || super::content::digest(source).unwrap_or_default();
            bind.content = *known.entry(bind.source.clone()).or_insert_with(digest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_within_one_is_found() {
        let mounts = "1 0 0:1 / / rw - overlay x rw\n\
                      2 1 0:2 / /data rw - ext4 x rw\n\
                      3 2 0:3 / /data/known rw - tmpfs x rw\n\
                      4 2 0:4 / /data/a\\040b rw - nfs4 x rw\n\
                      5 1 0:4 / /database rw - nfs4 x rw\n";
        let known = ["/data", "/data/known"];
        let found = mounted_below(mounts, "/data", &known);
        assert_eq!(found.as_deref(), Some("/data/a b"));
        assert_eq!(mounted_below(mounts, "/database", &known), None);
    }

    #[test]
    fn what_is_open_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap().join("open");
        let file = fs::File::create(&path).unwrap();
        file.set_len(7).unwrap();
        let mut binds = [Bind {
            destination: path.parent().unwrap().display().to_string(),
            ..Bind::default()
        }];
        add_open_files(&mut binds, Path::new("/proc/self"));
        assert_eq!(binds[0].in_use["open"].size, Some(7));
        assert!(binds[0].locked.is_empty());
        file.lock().unwrap();
        add_open_files(&mut binds, Path::new("/proc/self"));
        assert_eq!(binds[0].locked, ["open"]);
    }
}
