//! The systemd service that a container belongs to: from a Quadlet file, or a unit that runs `podman`.
//!
//! Such a container moves as a service. At the destination systemd starts the unit, but this one time it starts
//! the restore ([`gate`](crate::container::restore::gate)). So conmon, and with Quadlet the processes too, are in
//! the unit's cgroup, and conmon is its main process, as if the unit had started the container.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::command::CommandError;
use crate::durable;
use crate::paths;
use crate::systemd::{self, ServiceName};

/// Where Quadlet looks for root's files: podman-systemd.unit(5). Those below `/usr` come with packages.
const QUADLET: [&str; 3] = [
    "/run/containers/systemd",
    "/etc/containers/systemd",
    "/usr/share/containers/systemd",
];

/// Where unit files that come with a container may be installed.
const WRITABLE: [&str; 4] = [
    "/etc/containers/systemd",
    "/etc/systemd/system",
    "/run/containers/systemd",
    "/run/systemd/system",
];

/// Largest unit file, in bytes.
const MOST_BYTES: u64 = 64 << 10;

/// Most unit files of a container.
const MOST_FILES: usize = 64;

/// A service as the source has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceFacts {
    /// Its name.
    pub name: ServiceName,
    /// What defines it: its unit or its Quadlet file, their drop-ins, and the Quadlet files of its
    /// networks, volumes and images.
    pub files: Vec<UnitFile>,
    /// Whether it was enabled by `systemctl enable`. Quadlet's units are enabled by their files.
    pub enabled: bool,
    /// Other services that it cannot be started without.
    pub requires: Vec<String>,
    /// Files of the host that its command line names.
    pub named_files: Vec<PathBuf>,
    /// The file into which its command line has the container's id written (`--cidfile`).
    pub id_file: Option<PathBuf>,
    /// Why it cannot move, if it cannot.
    pub problem: Option<String>,
}

/// A file that defines a unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitFile {
    /// Where it is, on both hosts.
    pub path: PathBuf,
    /// What it says.
    pub text: String,
}

impl UnitFile {
    /// Whether it may be installed if it is missing: below the operator's directories, by a path without
    /// tricks. Files that come with packages are installed with them.
    pub fn may_be_written(&self) -> bool {
        let plain = self
            .path
            .components()
            .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
        plain
            && WRITABLE
                .iter()
                .any(|directory| self.path.starts_with(directory))
    }

    /// Installs it. Undone by [`remove_file`].
    pub fn install(&self) -> Result<(), CommandError> {
        systemd::write(&self.path, &self.text)
    }
}

/// Removes a unit file that was installed. Does nothing if it is not there.
pub fn remove_file(path: &Path) -> Result<(), CommandError> {
    systemd::remove(path)
}

/// What a destination has of a container's service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceHere {
    /// Files that exist with other content.
    pub other_files: Vec<PathBuf>,
    /// Files that do not exist.
    pub missing_files: Vec<PathBuf>,
    /// What `systemctl show` calls it, e.g. `active`.
    pub state: String,
    /// Whether an operator has masked it.
    pub masked: bool,
    /// Services that it requires and that are unknown here.
    pub missing_services: Vec<String>,
    /// Files that its command line names and that do not exist.
    pub missing_named_files: Vec<PathBuf>,
    /// Whether there is no systemd at all.
    pub no_systemd: bool,
}

impl ServiceFacts {
    /// The service that runs the container, if there is one: either conmon is its main process, or conmon
    /// is in its cgroup and its main process is a Podman attached to the container.
    ///
    /// `conmon` is the process; `notify` says whom Podman lets tell systemd that the container is ready.
    pub async fn of(conmon: i32, notify: &str) -> Result<Option<Self>, CommandError> {
        let Some(name) = systemd::runs().then(|| unit_of(conmon)).flatten() else {
            return Ok(None);
        };
        let unit = name.show(&PROPERTIES).await?;
        let main: i32 = unit["MainPID"].parse().unwrap_or(0);
        // Has ended after it started its containers, as podman-restart.service does.
        if main == 0 {
            return Ok(None);
        }
        let mut facts = ServiceFacts {
            files: Vec::new(),
            enabled: unit["UnitFileState"] == "enabled",
            requires: Vec::new(),
            named_files: named_files(&unit["ExecStart"]),
            id_file: id_file(&unit["ExecStart"]),
            problem: None,
            name,
        };
        if main != conmon && !is_podman(main) {
            facts.problem = Some(format!(
                "{} runs it among other things: stop the service, start the container with Podman, and \
                 move that",
                facts.name
            ));
        } else if notify == "container" {
            facts.problem = Some(format!(
                "the container tells systemd itself that it is ready (Notify=true), by a socket of this \
                 host's {}: leave that out",
                facts.name
            ));
        }
        let mut files = BTreeMap::new();
        facts.collect(&unit, &mut files).await?;
        facts.files = files
            .into_iter()
            .map(|(path, text)| UnitFile { path, text })
            .collect();
        Ok(Some(facts))
    }

    /// Reads the files of the unit and of those that it requires.
    async fn collect(
        &mut self,
        unit: &BTreeMap<String, String>,
        files: &mut BTreeMap<PathBuf, String>,
    ) -> Result<(), CommandError> {
        let mut units = vec![unit.clone()];
        let mut seen = BTreeSet::new();
        while let Some(unit) = units.pop() {
            for path in files_of(&unit) {
                match read(&path) {
                    Ok(text) if files.len() < MOST_FILES => {
                        files.insert(path, text);
                    }
                    Ok(_) => self.problem = Some(format!("{} has too many files", self.name)),
                    Err(why) => self.problem = Some(format!("{}: {why}", path.display())),
                }
            }
            let required = unit["Requires"].split_whitespace();
            for other in required.filter(|other| other.ends_with(".service")) {
                if !seen.insert(other.to_owned()) {
                    continue;
                }
                let found = systemd::show(other, &PROPERTIES).await?;
                let kind = Path::new(&found["SourcePath"]).extension();
                match kind.and_then(|kind| kind.to_str()) {
                    Some("network" | "volume" | "image") => units.push(found),
                    Some(kind @ ("build" | "pod" | "kube")) => {
                        self.problem = Some(format!(
                            "{} needs {other}, which is generated from a .{kind} file: those do not move",
                            self.name
                        ));
                    }
                    _ => self.requires.push(other.to_owned()),
                }
            }
        }
        Ok(())
    }

    fn how_to_part(&self) -> Parted {
        let quadlet = self.files.iter().any(|file| {
            let kind = file.path.extension();
            kind.is_some_and(|kind| kind == "container")
        });
        match quadlet {
            true => Parted::Masked,
            false => Parted::Disabled,
        }
    }

    /// What this host has of it.
    pub async fn look_here(&self) -> Result<ServiceHere, CommandError> {
        if !systemd::runs() {
            return Ok(ServiceHere {
                no_systemd: true,
                ..ServiceHere::default()
            });
        }
        let mut here = ServiceHere::default();
        for file in &self.files {
            match read(&file.path) {
                Ok(text) if text == file.text => {}
                Ok(_) => here.other_files.push(file.path.clone()),
                Err(_) => here.missing_files.push(file.path.clone()),
            }
        }
        let unit = self.name.show(&["ActiveState", "LoadState"]).await?;
        here.state = unit["ActiveState"].clone();
        // If a move from here masked it, a move to here unmasks it.
        here.masked = unit["LoadState"] == "masked" && parted(&self.name).is_none();
        for other in &self.requires {
            let state = systemd::show(other, &["LoadState"]).await?;
            if state["LoadState"] != "loaded" {
                here.missing_services.push(other.clone());
            }
        }
        let missing = self.named_files.iter().filter(|path| !path.exists());
        here.missing_named_files = missing.cloned().collect();
        Ok(here)
    }
}

/// Records what was done to services whose containers have moved away.
fn parted_file(name: &ServiceName) -> PathBuf {
    Path::new(paths::STATE_DIR)
        .join("services")
        .join(name.as_str())
}

/// What keeps a service from being started on the host that its container has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Parted {
    /// It is masked: Quadlet's units can be kept from starting in no other way.
    Masked,
    /// It is disabled.
    Disabled,
}

/// What was done to this service when its container moved away from here.
fn parted(name: &ServiceName) -> Option<Parted> {
    serde_json::from_slice(&std::fs::read(parted_file(name)).ok()?).ok()
}

/// File in the scratch space that names the service that is held.
const HELD: &str = "service.json";

/// Override while the container moves away: the end of the service is no failure, restarts nothing, and
/// runs none of the service's own commands, which would remove the container.
const HOLD: &str =
    "[Service]\nRestart=no\nExecStop=\nExecStopPost=\nSuccessExitStatus=137 143 SIGKILL\n";

/// Keeps the service from reacting when its container is frozen and ends. `work` records it first. Undone
/// by [`release`], ended by [`part`].
pub async fn hold(service: &ServiceFacts, work: &Path) -> Result<(), ServiceError> {
    let bytes = serde_json::to_vec(service).map_err(std::io::Error::from)?;
    // The override outlasts a power cut, so what undoes it must as well.
    durable::replace(&work.join(HELD), 0o644, &bytes)?;
    Ok(service.name.add_override(HOLD).await?)
}

/// Makes sure that from now on the held service is not started at boot. Called before the destination can
/// take over, so that a source that then loses power does not start a second copy. What runs of the
/// service runs on. Undone by [`release`]. Harmless if nothing is held.
pub async fn keep_down(work: &Path) -> Result<(), ServiceError> {
    let Some(service) = held(work)? else {
        return Ok(());
    };
    let how = service.how_to_part();
    // The note first: what follows is undone according to it, now or when the container comes back.
    let note = serde_json::to_string(&how).map_err(std::io::Error::from)?;
    systemd::write(&parted_file(&service.name), &note)?;
    match how {
        Parted::Masked => service.name.mask().await?,
        Parted::Disabled => service.name.disable().await?,
    }
    Ok(())
}

/// Undoes [`hold`] and [`keep_down`], as the scratch space says. Harmless if nothing is held.
pub async fn release(work: &Path) -> Result<(), ServiceError> {
    let Some(service) = held(work)? else {
        return Ok(());
    };
    match parted(&service.name) {
        Some(Parted::Masked) => service.name.unmask().await?,
        Some(Parted::Disabled) if service.enabled => service.name.enable().await?,
        _ => {}
    }
    systemd::remove(&parted_file(&service.name))?;
    service.name.remove_override().await?;
    Ok(std::fs::remove_file(work.join(HELD))?)
}

/// Ends the held service of a container that has moved away and was removed here, as if an operator had
/// stopped it. Returns its name and what keeps it from coming back; `None` if nothing is held. May be
/// repeated.
pub async fn part(work: &Path) -> Result<Option<(ServiceName, Parted)>, ServiceError> {
    let Some(service) = held(work)? else {
        return Ok(None);
    };
    keep_down(work).await?;
    service.name.stop().await?;
    service.name.remove_override().await?;
    std::fs::remove_file(work.join(HELD))?;
    Ok(Some((service.name.clone(), service.how_to_part())))
}

fn held(work: &Path) -> Result<Option<ServiceFacts>, ServiceError> {
    match std::fs::read(work.join(HELD)) {
        Ok(bytes) => Ok(Some(
            serde_json::from_slice(&bytes).map_err(std::io::Error::from)?,
        )),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Allows a service to come back whose container had left. Its files must be there. Undone by
/// [`undo_arrival`].
pub async fn prepare_arrival(service: &ServiceFacts) -> Result<(), CommandError> {
    if parted(&service.name) == Some(Parted::Masked) {
        service.name.unmask().await?;
    }
    Ok(())
}

/// Undoes [`prepare_arrival`] and the start of the service by [`gate::stage`](crate::container::restore::gate::stage).
pub async fn undo_arrival(service: &ServiceFacts) -> Result<(), CommandError> {
    service.name.stop().await?;
    if parted(&service.name) == Some(Parted::Masked) {
        service.name.mask().await?;
    }
    // This also reloads systemd, if the service had been started.
    service.name.remove_override().await
}

/// The container `id` runs here for good: from now on, its service is what its files say. May be
/// repeated.
pub async fn arrived(service: &ServiceFacts, id: &str) -> Result<(), CommandError> {
    if let Some(file) = service.id_file.as_ref().filter(|file| may_hold_an_id(file)) {
        systemd::write(file, id)?;
    }
    service.name.remove_override().await?;
    if service.enabled {
        service.name.enable().await?;
    }
    systemd::remove(&parted_file(&service.name))
}

/// A service cannot be held or released.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// systemd failed.
    #[error(transparent)]
    Systemd(#[from] CommandError),
    /// The scratch space could not be read or written.
    #[error("{HELD}: {0}")]
    File(#[from] std::io::Error),
}

const PROPERTIES: [&str; 8] = [
    "MainPID",
    "FragmentPath",
    "SourcePath",
    "DropInPaths",
    "UnitFileState",
    "Requires",
    "ExecStart",
    "LoadState",
];

/// The service in whose cgroup a process is: the last one in its path.
fn unit_of(process: i32) -> Option<ServiceName> {
    let cgroups = std::fs::read_to_string(format!("/proc/{process}/cgroup")).ok()?;
    let path = cgroups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let unit = path.split('/').rfind(|part| part.ends_with(".service"))?;
    ServiceName::try_from(unit.to_owned()).ok()
}

fn is_podman(process: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{process}/comm"))
        .is_ok_and(|name| name.trim() == "podman")
}

/// The files that define a unit, without those that a generator made of them.
fn files_of(unit: &BTreeMap<String, String>) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let source = PathBuf::from(&unit["SourcePath"]);
    if source.as_os_str().is_empty() {
        files.push(PathBuf::from(&unit["FragmentPath"]));
    } else {
        files.extend(quadlet_drop_ins(&source));
        files.push(source);
    }
    let drop_ins = unit["DropInPaths"].split_whitespace().map(PathBuf::from);
    // Files in /run/systemd/generator and the like are made by the host itself, and our override
    // goes away.
    files.extend(drop_ins.filter(|path| {
        let below = |directory| path.starts_with(directory);
        below("/etc") || below("/usr")
    }));
    files
}

/// Drop-ins of a Quadlet file: podman-systemd.unit(5), "foo.container.d".
fn quadlet_drop_ins(source: &Path) -> Vec<PathBuf> {
    let (Some(name), Some(kind)) = (source.file_name(), source.extension()) else {
        return Vec::new();
    };
    let (name, kind) = (name.to_string_lossy(), kind.to_string_lossy());
    let mut names = vec![format!("{name}.d"), format!("{kind}.d")];
    // `a-b-c.container` also has `a-b-.container.d` and `a-.container.d`; `a@1.container` also has those
    // of `a@`.
    let stem = name.strip_suffix(&format!(".{kind}")).unwrap_or(&name);
    names.extend(
        stem.match_indices('-')
            .map(|(at, _)| format!("{}.{kind}.d", &stem[..=at])),
    );
    names.extend(
        stem.find('@')
            .map(|at| format!("{}.{kind}.d", &stem[..=at])),
    );
    let mut found = Vec::new();
    for directory in QUADLET.iter().map(Path::new).chain(source.parent()) {
        for name in &names {
            let entries = std::fs::read_dir(directory.join(name));
            let paths = entries
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path());
            found.extend(paths.filter(|path| path.extension().is_some_and(|e| e == "conf")));
        }
    }
    found.sort();
    found.dedup();
    found
}

fn read(path: &Path) -> Result<String, String> {
    let length = std::fs::metadata(path).map_err(|e| e.to_string())?.len();
    if length > MOST_BYTES {
        return Err("is too large for a file of a unit".to_owned());
    }
    std::fs::read_to_string(path).map_err(|e| e.to_string())
}

/// The words of a command line as `systemctl show` prints it.
fn arguments(exec: &str) -> impl Iterator<Item = &str> {
    let line = exec.split_once("argv[]=").map_or("", |(_, rest)| rest);
    let line = line.split_once(" ; ").map_or(line, |(line, _)| line);
    line.split(' ')
}

/// The values of an option, each either in the same word or the next one.
fn values<'a>(exec: &'a str, option: &str) -> Vec<&'a str> {
    let words: Vec<&str> = arguments(exec).collect();
    let mut found = Vec::new();
    for (at, word) in words.iter().enumerate() {
        if *word == option {
            found.extend(words.get(at + 1).copied());
        } else if let Some(value) = word
            .strip_prefix(option)
            .and_then(|rest| rest.strip_prefix('='))
        {
            found.push(value);
        }
    }
    found
}

/// Files that the next start reads and that do not move.
fn named_files(exec: &str) -> Vec<PathBuf> {
    ["--env-file", "--authfile"]
        .iter()
        .flat_map(|option| values(exec, option))
        .map(PathBuf::from)
        .collect()
}

fn id_file(exec: &str) -> Option<PathBuf> {
    let path = PathBuf::from(*values(exec, "--cidfile").first()?);
    may_hold_an_id(&path).then_some(path)
}

/// Only such files are written because a command line, or a peer, says so.
fn may_hold_an_id(path: &Path) -> bool {
    let plain = path
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    plain && path.starts_with("/run")
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXEC: &str = "{ path=/usr/bin/podman ; argv[]=/usr/bin/podman run --cidfile=/run/web.cid --env-file \
                        /etc/web.env --name web image ; ignore_errors=no ; start_time=[n/a] }";

    #[test]
    fn what_a_command_line_names() {
        assert_eq!(named_files(EXEC), [Path::new("/etc/web.env")]);
        assert_eq!(id_file(EXEC).as_deref(), Some(Path::new("/run/web.cid")));
        for elsewhere in ["/etc/passwd", "/run/../etc/passwd"] {
            assert_eq!(id_file(&EXEC.replace("/run/web.cid", elsewhere)), None);
        }
    }

    #[test]
    fn only_files_of_the_operator_are_put_anywhere() {
        let file = |path: &str| UnitFile {
            path: path.into(),
            text: String::new(),
        };
        for good in [
            "/etc/containers/systemd/web.container",
            "/etc/systemd/system/web.service.d/a.conf",
        ] {
            assert!(file(good).may_be_written(), "{good}");
        }
        for bad in [
            "/usr/share/containers/systemd/web.container",
            "/etc/containers/systemd/../../shadow",
            "etc/containers/systemd/web.container",
            "/etc/passwd",
        ] {
            assert!(!file(bad).may_be_written(), "{bad}");
        }
    }
}
