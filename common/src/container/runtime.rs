//! What the OCI runtime records about a running container.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// The supported runtimes, by name.
pub const NAMES: [&str; 2] = ["runc", "crun"];

/// Where cgroup v2 is mounted.
pub(crate) const CGROUP_MOUNT: &str = "/sys/fs/cgroup";

/// Where a runtime keeps its records when Podman starts it as root.
const STATE: &str = "/run";

/// The directory with the runtime's records of the container.
pub fn state_directory(runtime: &str, id: &str) -> PathBuf {
    let name = Path::new(runtime).file_name().unwrap_or_default();
    Path::new(STATE).join(name).join(id)
}

/// The cgroup that the runtime has put the container's processes into, below the mount of cgroup v2;
/// `None` if it does not say.
///
/// It is the one that CRIU freezes and thaws. Podman names another one: with systemd cgroups, crun puts a
/// container into `libpod-ID.scope/container` (crun's src/libcrun/cgroup-systemd.c), and
/// `State.CgroupPath` is the scope. If the scope is frozen when CRIU thaws the child, the tasks stay
/// frozen for good, and CRIU hangs.
pub fn cgroup(runtime: &str, id: &str) -> Option<String> {
    let directory = state_directory(runtime, id);
    let read = |name: &str| -> Option<Value> {
        serde_json::from_slice(&std::fs::read(directory.join(name)).ok()?).ok()
    };
    if let Some(state) = read("status") {
        return of_crun(&state);
    }
    of_runc(&read("state.json")?)
}

pub(crate) fn of_crun(status: &Value) -> Option<String> {
    Some(status["cgroup-path"].as_str()?.to_owned())
}

/// Runc records its path in the file system; the hierarchy without controllers is that of cgroup v2.
pub(crate) fn of_runc(state: &Value) -> Option<String> {
    let path = state["cgroup_paths"][""].as_str()?;
    Some(path.strip_prefix(CGROUP_MOUNT)?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn each_says_it_in_its_own_way() {
        let crun = json!({"pid": 1, "cgroup-path": "/machine.slice/libpod-1.scope/container"});
        assert_eq!(
            of_crun(&crun).unwrap(),
            "/machine.slice/libpod-1.scope/container"
        );
        let runc = json!({"cgroup_paths": {"": "/sys/fs/cgroup/machine.slice/libpod-1.scope"}});
        assert_eq!(of_runc(&runc).unwrap(), "/machine.slice/libpod-1.scope");
        assert_eq!(of_crun(&json!({})).or(of_runc(&json!([]))), None);
    }

    #[test]
    fn a_runtime_by_its_path_is_known_by_its_name() {
        let expected = Path::new("/run/crun/1");
        assert_eq!(state_directory("/usr/bin/crun", "1"), expected);
    }
}
