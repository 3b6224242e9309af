//! The OCI `config.json` that Podman generates for a container
//! (<https://github.com/opencontainers/runtime-spec/blob/main/config.md>), as far as it is read here.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::binds::{self, Bind};
use crate::host::processors;

/// Its name in a container's bundle directory.
const NAME: &str = "config.json";

/// File systems that have nothing of the host's files.
const IN_MEMORY: [&str; 7] = [
    "proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2",
];

/// A container's OCI configuration.
#[derive(Debug, Deserialize)]
pub struct Spec {
    root: Root,
    #[serde(default)]
    mounts: Vec<Mount>,
    #[serde(default)]
    linux: Linux,
    #[serde(default)]
    process: Process,
    #[serde(default)]
    hooks: Value,
}

/// What a container may do on its host, by its OCI configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Privileges {
    /// Capabilities of any of its sets.
    pub capabilities: BTreeSet<String>,
    /// Kinds of namespaces that are not the host's.
    pub namespaces: BTreeSet<String>,
    /// Devices that it has, by path, and rules for those that it may use, as JSON.
    pub devices: BTreeSet<String>,
    /// Programs of the host that the runtime starts for it, as JSON.
    pub hooks: BTreeSet<String>,
    /// What restricts it beyond that: filters of system calls, no new privileges, paths that are masked or
    /// may not be written.
    pub restrictions: BTreeSet<String>,
}

impl Privileges {
    /// What these allow beyond `agreed`, in words; nothing if that is all.
    pub fn beyond(&self, agreed: &Privileges) -> Option<String> {
        let more = |what: &str, ours: &BTreeSet<String>, theirs: &BTreeSet<String>| {
            let more: Vec<&str> = ours.difference(theirs).map(String::as_str).collect();
            (!more.is_empty()).then(|| format!("{what} {}", more.join(", ")))
        };
        let found = [
            more("capabilities", &self.capabilities, &agreed.capabilities),
            more(
                "the host's namespaces",
                &agreed.namespaces,
                &self.namespaces,
            ),
            more("devices", &self.devices, &agreed.devices),
            more("hooks", &self.hooks, &agreed.hooks),
            more("no", &agreed.restrictions, &self.restrictions),
        ];
        let found: Vec<String> = found.into_iter().flatten().collect();
        (!found.is_empty()).then(|| found.join("; "))
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Process {
    #[serde(default)]
    capabilities: Option<BTreeMap<String, Option<BTreeSet<String>>>>,
    #[serde(default)]
    no_new_privileges: bool,
}

#[derive(Debug, Deserialize)]
struct Root {
    path: PathBuf,
}

/// Something that is mounted in the container.
#[derive(Debug, Deserialize)]
pub struct Mount {
    /// Where, in the container.
    pub destination: String,
    #[serde(default)]
    r#type: String,
    /// What: of a bind mount the path on the host.
    #[serde(default)]
    pub source: PathBuf,
    /// Options, as for mount(8).
    #[serde(default)]
    pub options: Option<Vec<String>>,
}

impl Mount {
    /// Runtimes go by the options.
    fn is_bind(&self) -> bool {
        let mut options = self.options.iter().flatten();
        self.r#type == "bind" || options.any(|option| option == "bind" || option == "rbind")
    }

    /// Whether the container may only read it. Of several options the last one holds.
    pub fn is_read_only(&self) -> bool {
        let mut options = self.options.iter().flatten().rev();
        options.find(|option| *option == "ro" || *option == "rw") == Some(&"ro".to_owned())
    }

    /// Whether this is what was agreed on as `bind`.
    fn is(&self, bind: &Bind) -> bool {
        let places = (self.source.as_path(), &self.destination);
        self.is_bind()
            && places == (bind.there(), &bind.destination)
            && (self.is_read_only() || !bind.read_only)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Linux {
    #[serde(default)]
    namespaces: Vec<Namespace>,
    #[serde(default)]
    sysctl: Option<BTreeMap<String, String>>,
    #[serde(default)]
    devices: Option<Vec<Device>>,
    #[serde(default)]
    resources: Resources,
    #[serde(default)]
    seccomp: Option<Value>,
    #[serde(default)]
    masked_paths: Option<Vec<String>>,
    #[serde(default)]
    readonly_paths: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
struct Device {
    path: String,
}

#[derive(Debug, Default, Deserialize)]
struct Resources {
    #[serde(default)]
    devices: Option<Vec<Value>>,
    #[serde(default)]
    cpu: Option<Cpu>,
    /// The rest of its limits, by the specification's names.
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

/// Which controller of cgroup v2 (Documentation/admin-guide/cgroup-v2.rst) each kind of limit needs.
const CONTROLLERS: [(&str, &str); 4] = [
    ("memory", "memory"),
    ("pids", "pids"),
    ("blockIO", "io"),
    ("hugepageLimits", "hugetlb"),
];

/// Lists of numbers.
#[derive(Debug, Default, Deserialize)]
struct Cpu {
    #[serde(default)]
    cpus: String,
    #[serde(default)]
    mems: String,
    #[serde(flatten)]
    others: BTreeMap<String, Value>,
}

/// Whether this limits anything: a number that is not zero, or a list that is not empty.
fn limits(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::Array(list) => !list.is_empty(),
        Value::Object(fields) => fields.values().any(limits),
        Value::String(_) | Value::Bool(_) | Value::Null => false,
    }
}

#[derive(Debug, Deserialize)]
struct Namespace {
    r#type: String,
    path: Option<PathBuf>,
}

impl Spec {
    /// Reads the configuration in a container's bundle directory. A container that does not run has none.
    pub fn read(bundle: &Path) -> io::Result<Self> {
        let path = bundle.join(NAME);
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let text = std::fs::read_to_string(&path).map_err(named)?;
        serde_json::from_str(&text).map_err(|error| named(error.into()))
    }

    /// The merged root file system.
    pub fn rootfs(&self) -> &Path {
        &self.root.path
    }

    /// What of the host is bound to this path in the container, if anything.
    pub fn bound_at(&self, destination: &str) -> Option<&Path> {
        let mut binds = self.mounts.iter().filter(|mount| mount.is_bind());
        let found = binds.rfind(|mount| mount.destination == destination)?;
        Some(&found.source)
    }

    /// The rests of the paths below this one to which something of the host is bound.
    pub fn bound_below(&self, destination: &str) -> Vec<&Path> {
        let binds = self.mounts.iter().filter(|mount| mount.r#type == "bind");
        let below = binds.filter_map(|mount| {
            let rest = Path::new(&mount.destination)
                .strip_prefix(destination)
                .ok()?;
            (rest != Path::new("")).then_some(rest)
        });
        below.collect()
    }

    /// What of the host is bound into it.
    pub fn binds(&self) -> impl Iterator<Item = &Mount> {
        self.mounts.iter().filter(|mount| mount.is_bind())
    }

    /// Where anything is mounted in it.
    pub fn mount_points(&self) -> impl Iterator<Item = &str> {
        self.mounts.iter().map(|mount| mount.destination.as_str())
    }

    /// File systems that are neither the host's files nor in memory, in words.
    pub fn other_mounts(&self) -> Vec<String> {
        let known =
            |mount: &&Mount| !mount.is_bind() && !IN_MEMORY.contains(&mount.r#type.as_str());
        let others = self.mounts.iter().filter(known);
        others
            .map(|mount| format!("{} ({})", mount.destination, mount.r#type))
            .collect()
    }

    /// Path of the network namespace, unless the container has the host's.
    pub fn netns(&self) -> Option<&Path> {
        self.namespace("network")?.path.as_deref()
    }

    /// What it may do on its host.
    pub fn privileges(&self) -> Privileges {
        let linux = &self.linux;
        let sets = self.process.capabilities.iter().flatten();
        let devices = linux.devices.iter().flatten();
        let rules = linux.resources.devices.iter().flatten();
        let rules = rules.filter(|rule| rule["allow"] == true);
        let hooks = self.hooks.as_object().into_iter().flatten();
        let hooks = hooks.flat_map(|(when, hooks)| {
            let hooks = hooks.as_array().into_iter().flatten();
            hooks.map(move |hook| format!("{when}: {hook}"))
        });
        let paths = |what: &'static str, paths: &'_ Option<Vec<String>>| {
            let named = paths.clone().unwrap_or_default().into_iter();
            named.map(move |path| format!("{what} {path}"))
        };
        let restrictions = linux.seccomp.as_ref().map(|_| "seccomp filter".to_owned());
        let restrictions = restrictions
            .into_iter()
            .chain(
                self.process
                    .no_new_privileges
                    .then(|| "no-new-privileges".into()),
            )
            .chain(paths("masked", &linux.masked_paths))
            .chain(paths("read-only", &linux.readonly_paths));
        Privileges {
            capabilities: sets
                .flat_map(|(_, set)| set.iter().flatten().cloned())
                .collect(),
            namespaces: linux.namespaces.iter().map(|n| n.r#type.clone()).collect(),
            devices: devices
                .map(|device| device.path.clone())
                .chain(rules.map(Value::to_string))
                .collect(),
            hooks: hooks.collect(),
            restrictions: restrictions.collect(),
        }
    }

    /// What it mounts of the host that it may not, if it does: a root that is not below `storage`, or anything
    /// that is not below one of `roots`, nor one of `files`, nor one of the `agreed` bind mounts. Links are
    /// followed, but not to what was agreed.
    pub fn foreign_mount(
        &self,
        storage: &Path,
        roots: &[&Path],
        files: &[&Path],
        agreed: &[Bind],
    ) -> Option<String> {
        let real = |path: &Path| path.canonicalize().ok();
        let roots: Vec<PathBuf> = roots.iter().filter_map(|root| real(root)).collect();
        let files: Vec<PathBuf> = files.iter().filter_map(|file| real(file)).collect();
        let own = |path: &Path| {
            real(path).is_some_and(|path| {
                files.contains(&path) || roots.iter().any(|root| path.starts_with(root))
            })
        };
        let root = real(&self.root.path).zip(real(storage));
        if root.is_none_or(|(root, storage)| !root.starts_with(storage)) {
            return Some(format!("{} as its root", self.root.path.display()));
        }
        let mut mounts = self.mounts.iter();
        let foreign = mounts.find(|mount| match mount.is_bind() {
            true => {
                // Part of what is sent may not be there yet.
                let direct = binds::real(&mount.source) == mount.source;
                let as_agreed = direct && agreed.iter().any(|bind| mount.is(bind));
                !own(&mount.source) && !as_agreed
            }
            false => !IN_MEMORY.contains(&mount.r#type.as_str()),
        })?;
        Some(format!(
            "{} at {}",
            foreign.source.display(),
            foreign.destination
        ))
    }

    /// Whether it has users of its own (`--userns`, `--uidmap`).
    pub fn user_namespace(&self) -> bool {
        self.namespace("user").is_some()
    }

    /// The kinds of namespaces, named as in the configuration, of which it has the host's: `ipc`
    /// (`--ipc=host`) and so on.
    pub fn host_namespaces(&self) -> Vec<String> {
        let kinds = ["ipc", "pid", "uts", "cgroup"];
        let missing = kinds.iter().filter(|kind| self.namespace(kind).is_none());
        missing.map(|kind| (*kind).to_owned()).collect()
    }

    /// Kernel parameters (`--sysctl`) that the runtime has set in its namespaces, and their values.
    pub fn sysctls(&self) -> BTreeMap<String, String> {
        self.linux.sysctl.clone().unwrap_or_default()
    }

    /// Processors and memory nodes that it is limited to (`--cpuset-cpus`, `--cpuset-mems`).
    pub fn cpusets(&self) -> [BTreeSet<u32>; 2] {
        let cpu = self.linux.resources.cpu.as_ref();
        cpu.map_or_else(Default::default, |cpu| {
            [&cpu.cpus, &cpu.mems].map(|list| processors::numbers(list))
        })
    }

    /// The controllers of cgroups that its limits need (`--memory`, `--pids-limit` and so on).
    pub fn controllers(&self) -> BTreeSet<String> {
        let resources = &self.linux.resources;
        let limited = |name: &str| resources.others.get(name).is_some_and(limits);
        let needed = CONTROLLERS.iter().filter(|(name, _)| limited(name));
        let mut needed: BTreeSet<String> = needed.map(|(_, needed)| needed.to_string()).collect();
        // Files of cgroups by their names, `memory.high` for one (`--cgroup-conf`).
        let files = resources.others.get("unified").and_then(Value::as_object);
        let named = files.into_iter().flat_map(|files| files.keys());
        let named = named.filter_map(|file| file.split_once('.'));
        let named = named.map(|(controller, _)| controller.to_owned());
        needed.extend(named.filter(|controller| controller != "cgroup"));
        if let Some(cpu) = &resources.cpu {
            if cpu.others.values().any(limits) {
                needed.insert("cpu".to_owned());
            }
            if !cpu.cpus.is_empty() || !cpu.mems.is_empty() {
                needed.insert("cpuset".to_owned());
            }
        }
        needed
    }

    /// Paths in the container of the host's devices that it has.
    pub fn devices(&self) -> Vec<String> {
        let devices = self.linux.devices.iter().flatten();
        devices.map(|device| device.path.clone()).collect()
    }

    fn namespace(&self, kind: &str) -> Option<&Namespace> {
        let mut namespaces = self.linux.namespaces.iter();
        namespaces.find(|namespace| namespace.r#type == kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_paths_come_from_the_spec() {
        let spec: Spec = serde_json::from_str(
            r#"{"root":{"path":"/m"},
                "mounts":[{"destination":"/proc","type":"proc","source":"proc"},
                          {"destination":"/dev/shm","type":"bind","source":"/s/shm"},
                          {"destination":"/data","type":"bind","source":"/v/data"}],
                "linux":{"namespaces":[{"type":"pid"},{"type":"network","path":"/run/netns/x"}]}}"#,
        )
        .unwrap();
        assert_eq!(spec.rootfs(), Path::new("/m"));
        assert_eq!(spec.netns(), Some(Path::new("/run/netns/x")));
        assert_eq!(spec.bound_at("/dev/shm"), Some(Path::new("/s/shm")));
        assert_eq!(spec.bound_at("/data"), Some(Path::new("/v/data")));
        assert_eq!(spec.bound_at("/proc"), None);
        assert!(!spec.user_namespace());
        let spec: Spec = serde_json::from_str(
            r#"{"root":{"path":"/m"},"linux":{"namespaces":[{"type":"user"}]}}"#,
        )
        .unwrap();
        assert!(spec.user_namespace());
        assert_eq!(spec.netns(), None);
        assert_eq!(spec.host_namespaces(), ["ipc", "pid", "uts", "cgroup"]);
        assert!(spec.sysctls().is_empty() && spec.devices().is_empty());
        assert_eq!(spec.cpusets(), [[].into(), [].into()]);
        let spec: Spec = serde_json::from_str(
            r#"{"root":{"path":"/m"},"linux":{"resources":{"cpu":{"shares":9,"cpus":"0-1,3"}}}}"#,
        )
        .unwrap();
        assert_eq!(spec.cpusets(), [[0, 1, 3].into(), [].into()]);
        assert_eq!(Vec::from_iter(spec.controllers()), ["cpu", "cpuset"]);
        let spec: Spec = serde_json::from_str(
            r#"{"root":{"path":"/m"},"linux":{"namespaces":[{"type":"ipc"},{"type":"uts"}],
                "sysctl":{"net.core.somaxconn":"9"},"devices":[{"path":"/dev/fuse","type":"c"}]}}"#,
        )
        .unwrap();
        assert_eq!(spec.host_namespaces(), ["pid", "cgroup"]);
        assert_eq!(spec.sysctls()["net.core.somaxconn"], "9");
        assert_eq!(spec.devices(), ["/dev/fuse"]);
    }

    #[test]
    fn limits_need_controllers() {
        let needed = |resources: &str| {
            let text = format!(r#"{{"root":{{"path":"/m"}},"linux":{{"resources":{resources}}}}}"#);
            let spec: Spec = serde_json::from_str(&text).unwrap();
            Vec::from_iter(spec.controllers()).join(" ")
        };
        for none in [
            "{}",
            r#"{"memory":{},"cpu":{},"pids":{"limit":0},"blockIO":{"weight":0},"unified":{}}"#,
            r#"{"memory":{"disableOOMKiller":false},"devices":[{"allow":true,"major":1}]}"#,
        ] {
            assert_eq!(needed(none), "", "{none}");
        }
        assert_eq!(needed(r#"{"memory":{"limit":9,"swap":-1}}"#), "memory");
        assert_eq!(needed(r#"{"pids":{"limit":2048}}"#), "pids");
        assert_eq!(needed(r#"{"cpu":{"quota":5000,"period":9}}"#), "cpu");
        assert_eq!(needed(r#"{"cpu":{"mems":"0"}}"#), "cpuset");
        assert_eq!(needed(r#"{"blockIO":{"weight":7}}"#), "io");
        let unified =
            r#"{"unified":{"memory.high":"1","hugetlb.2MB.max":"0","cgroup.freeze":"0"}}"#;
        assert_eq!(needed(unified), "hugetlb memory");
    }

    #[test]
    fn what_is_staged_allows_no_more_than_was_agreed() {
        let spec = |more: &str| -> Spec {
            let text = format!(
                r#"{{"root":{{"path":"/m"}},"process":{{"capabilities":{{"bounding":["CAP_CHOWN"]}},
                "noNewPrivileges":true}},"linux":{{"namespaces":[{{"type":"pid"}}],"seccomp":{{}},
                "maskedPaths":["/proc/kcore"]}}{more}}}"#
            );
            serde_json::from_str(&text).unwrap()
        };
        let agreed = spec("").privileges();
        assert_eq!(agreed.beyond(&agreed), None);
        let hooked = r#","hooks":{"poststop":[{"path":"/bin/sh"}]}"#;
        assert!(
            spec(hooked)
                .privileges()
                .beyond(&agreed)
                .unwrap()
                .contains("hooks")
        );
        let privileged: Spec = serde_json::from_str(
            r#"{"root":{"path":"/m"},"process":{"capabilities":{"effective":["CAP_SYS_ADMIN"]}},
            "linux":{"devices":[{"path":"/dev/sda"}],"resources":{"devices":[{"allow":true}]}}}"#,
        )
        .unwrap();
        let beyond = privileged.privileges().beyond(&agreed).unwrap();
        for word in [
            "CAP_SYS_ADMIN",
            "namespaces pid",
            "/dev/sda",
            "seccomp",
            "kcore",
            "no-new",
        ] {
            assert!(beyond.contains(word), "{word}: {beyond}");
        }
        assert!(agreed.beyond(&privileged.privileges()).is_some());
    }

    #[test]
    fn nothing_of_the_host_is_mounted() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("own");
        std::fs::create_dir(&own).unwrap();
        std::os::unix::fs::symlink("/etc", own.join("shm")).unwrap();
        std::fs::create_dir(own.join("data")).unwrap();
        let foreign = |mount: &str, source: &str| {
            let text = format!(
                r#"{{"root":{{"path":{own:?}}},"mounts":[{{"destination":"/x","source":{source:?},{mount}}}]}}"#
            );
            let spec: Spec = serde_json::from_str(&text).unwrap();
            spec.foreign_mount(&own, &[&own], &[Path::new("/etc/hostname")], &[])
        };
        let path = |name: &str| own.join(name).display().to_string();
        assert_eq!(foreign(r#""type":"bind""#, &path("data")), None);
        assert_eq!(foreign(r#""type":"bind""#, "/etc/hostname"), None);
        assert_eq!(foreign(r#""type":"tmpfs""#, "tmpfs"), None);
        for (mount, source) in [
            (r#""type":"bind""#, "/etc".to_owned()),
            (r#""type":"none","options":["rbind"]"#, "/etc".to_owned()),
            (r#""type":"ext4""#, "/dev/sda1".to_owned()),
            // A link in the archive, for one.
            (r#""type":"bind""#, path("shm")),
            (r#""type":"bind""#, path("../..")),
            (r#""type":"bind""#, path("missing")),
        ] {
            assert!(foreign(mount, &source).is_some(), "{mount} {source}");
        }
    }

    #[test]
    fn what_was_agreed_is_mounted_as_it_was_agreed() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        let root = real.join("root");
        std::fs::create_dir(&root).unwrap();
        std::os::unix::fs::symlink("/etc", real.join("link")).unwrap();
        let foreign = |source: &Path, read_only: bool, at: &str, options: &str| {
            let text = format!(
                r#"{{"root":{{"path":{root:?}}},"mounts":[{{"destination":"/x","type":"bind",
                "source":{source:?},"options":[{options}]}}]}}"#
            );
            let spec: Spec = serde_json::from_str(&text).unwrap();
            let agreed = Bind {
                source: source.display().to_string(),
                destination: at.into(),
                read_only,
                ..Bind::default()
            };
            spec.foreign_mount(&root, &[], &[], &[agreed]).is_some()
        };
        let (rw, ro) = (r#""rbind""#, r#""rbind","ro""#);
        assert!(!foreign(&real, false, "/x", rw) && !foreign(&real, false, "/x", ro));
        assert!(!foreign(&real, true, "/x", ro));
        assert!(foreign(&real, true, "/x", rw));
        assert!(foreign(&real, true, "/x", r#""rbind","ro","rw""#));
        assert!(foreign(&real, false, "/y", rw));
        assert!(foreign(&real.join("link"), false, "/x", rw));
        assert!(foreign(&real.join("link/missing"), false, "/x", rw));
        assert!(!foreign(&real.join("not/yet"), false, "/x", rw));
    }

    #[test]
    fn an_error_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let missing = Spec::read(dir.path()).unwrap_err();
        assert!(missing.to_string().contains(NAME), "{missing}");
        std::fs::write(dir.path().join(NAME), "no JSON").unwrap();
        let malformed = Spec::read(dir.path()).unwrap_err();
        assert!(malformed.to_string().contains(NAME), "{malformed}");
    }
}
