use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::cgroup::Cgroup;
use crate::host::{Host, Kind};
use crate::{machine, rootfs, switch};

/// Where the labs' disks are: on a real file system, which Podman's storage needs.
const LABS: &str = "/var/lib/live-migration-lab";

/// A set of running hosts on one switch. Dropping it takes it down, unless `LAB_KEEP=1` is set.
#[derive(Debug)]
pub struct Lab {
    name: String,
    hosts: Vec<Host>,
    switch: Host,
    /// Whether dropping this takes the lab down.
    owned: bool,
}

impl Lab {
    /// Makes sure that the lab `name` has these hosts and that they run. Running hosts are left
    /// alone; those that were killed start again from their disks; missing ones are added. The root
    /// file system is built first if there is none (about a minute). Undone by [`Lab::down`].
    ///
    /// If the switch was killed, it is as if the whole lab had lost power.
    pub fn up(name: &str, hosts: &[&str]) -> Result<Self> {
        Self::up_as(name, &of_namespaces(hosts))
    }

    /// [`Lab::up`] with hosts of any kind. Virtual machines boot in parallel. An existing host keeps
    /// its kind: asking for another is an error.
    pub fn up_as(name: &str, hosts: &[(&str, Kind)]) -> Result<Self> {
        check_name(name)?;
        for (host, _) in hosts {
            check_name(host)?;
            ensure!(
                *host != switch::NAME,
                "{host:?} is what the switch is called"
            );
        }
        // The switch is always of the plain kind.
        let rootfs = rootfs::rootfs()?;
        let services = hosts.iter().any(|(_, kind)| *kind == Kind::Services);
        let services = services.then(rootfs::with_services).transpose()?;
        let parts = machine::Parts::get(hosts.iter().map(|(_, kind)| *kind))?;
        let dir = dir(name);
        let _lock = lock(&dir)?;
        let mut order = order(&dir)?;
        for (host, kind) in hosts {
            match order.iter().find(|(known, _)| known == host) {
                Some((_, known)) => {
                    ensure!(
                        known == kind,
                        "the host {host} exists, of another kind: {known}"
                    );
                }
                None => order.push(((*host).to_owned(), *kind)),
            }
        }
        ensure!(order.len() < usize::from(switch::NUMBER), "too many hosts");
        save_order(&dir, &order)?;

        let mut lab = Self::assemble(name, &order)?;
        let wanted: Vec<&str> = hosts.iter().map(|(host, _)| *host).collect();
        let roots = Roots {
            plain: &rootfs,
            services: services.as_deref(),
        };
        lab.start(&wanted, roots, &parts)?;
        lab.owned = true;
        Ok(lab)
    }

    /// [`Lab::up`] on empty disks: an older lab of this name is taken down first.
    pub fn fresh(name: &str, hosts: &[&str]) -> Result<Self> {
        Self::fresh_as(name, &of_namespaces(hosts))
    }

    /// [`Lab::fresh`] with hosts of any kind.
    pub fn fresh_as(name: &str, hosts: &[(&str, Kind)]) -> Result<Self> {
        Self::destroy(name)?;
        Self::up_as(name, hosts).inspect_err(|_| {
            // The first error says more than one from cleaning up would.
            let _ = Self::destroy(name);
        })
    }

    /// An existing lab, in whatever state it is. Dropping the value leaves it as it is.
    pub fn open(name: &str) -> Result<Self> {
        check_name(name)?;
        let order = order(&dir(name))?;
        ensure!(!order.is_empty(), "there is no lab {name:?}");
        Self::assemble(name, &order)
    }

    /// Keeps the lab when the value is dropped.
    pub fn keep(mut self) {
        self.owned = false;
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All its hosts, running or not, without the switch.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The host of this name.
    ///
    /// # Panics
    /// If there is none: a test that names a host it did not ask for is wrong.
    pub fn host(&self, name: &str) -> &Host {
        self.find(name).expect("the lab has the host")
    }

    /// The host of this name, or the switch if it is `switch`.
    pub fn find(&self, name: &str) -> Result<&Host> {
        self.hosts
            .iter()
            .chain([&self.switch])
            .find(|host| host.name() == name)
            .with_context(|| format!("the lab {:?} has no host {name:?}", self.name))
    }

    /// The host that holds the bridge (also named `switch`) and one port per host, named after it:
    /// the place to watch traffic or to shape it.
    pub fn switch(&self) -> &Host {
        &self.switch
    }

    /// Cuts a host off: its packets and those for it are lost at the switch, while its own link
    /// stays up. Undone by [`Lab::mend`].
    pub fn cut(&self, host: &str) -> Result<()> {
        switch::cut(&self.switch, self.find(host)?)
    }

    /// Undoes [`Lab::cut`].
    pub fn mend(&self, host: &str) -> Result<()> {
        switch::mend(&self.switch, self.find(host)?)
    }

    /// Cuts a host's power: everything that runs in it is killed at once. Its disk stays;
    /// [`Lab::up`] boots it again.
    pub fn power_off(&self, host: &str) -> Result<()> {
        self.find(host)?.power_off()
    }

    /// Takes the lab down: kills everything that runs in it and deletes its disks.
    pub fn down(mut self) -> Result<()> {
        self.owned = false;
        Self::destroy(&self.name)
    }

    /// Takes the lab of this name down, in whatever state it is. Not an error if there is none.
    pub fn destroy(name: &str) -> Result<()> {
        check_name(name)?;
        let dir = dir(name);
        let _lock = lock(&dir)?;
        Cgroup::of_lab(name)?.destroy()?;
        delete(&dir)
    }

    fn assemble(name: &str, order: &[(String, Kind)]) -> Result<Self> {
        let (dir, cgroup) = (dir(name), Cgroup::of_lab(name)?);
        Ok(Self {
            name: name.to_owned(),
            hosts: (1..)
                .zip(order)
                .map(|(number, (host, kind))| Host::new(host, *kind, number, &dir, &cgroup))
                .collect(),
            switch: Host::new(
                switch::NAME,
                Kind::Namespaces,
                switch::NUMBER,
                &dir,
                &cgroup,
            ),
            owned: false,
        })
    }

    fn start(&self, wanted: &[&str], roots: Roots<'_>, parts: &machine::Parts) -> Result<()> {
        let names = self.names();
        let files = |host: &Host| {
            [
                ("/etc/hostname", format!("{}\n", host.name())),
                ("/etc/hosts", names.clone()),
            ]
        };
        if self.switch.init().is_none() {
            // The hosts' links ended at the old switch.
            Cgroup::of_lab(&self.name)?.destroy()?;
            let network = || switch::bridge(&self.switch);
            self.switch
                .boot(roots.plain, &files(&self.switch), network)?;
        }
        let mut boots = Vec::new();
        let mut services = Vec::new();
        for host in &self.hosts {
            if host.init().is_some() {
                host.write("/etc/hosts", &names)?;
            } else if wanted.contains(&host.name()) {
                if host.kind().is_machine() {
                    let boot = machine::Boot::begin(host, &self.switch, parts, &names)?;
                    boots.push(boot);
                } else {
                    let network = || switch::plug_in(host, &self.switch);
                    let root = match (host.kind(), roots.services) {
                        (Kind::Services, Some(root)) => {
                            services.push(host);
                            root
                        }
                        _ => roots.plain,
                    };
                    host.boot(root, &files(host), network)?;
                }
            }
        }
        boots.into_iter().try_for_each(machine::Boot::finish)?;
        services.into_iter().try_for_each(Host::wait_for_services)
    }

    /// The content of every host's `/etc/hosts`.
    fn names(&self) -> String {
        let mut text = "127.0.0.1 localhost\n::1 localhost\n".to_owned();
        for host in self.hosts.iter().chain([&self.switch]) {
            let (name, ipv4, ipv6) = (host.name(), host.ipv4(), host.ipv6());
            text += &format!("{ipv4} {name}\n{ipv6} {name}\n");
        }
        text
    }
}

/// The root file systems that namespace hosts start from; the one with services only if a host needs
/// it.
#[derive(Debug, Clone, Copy)]
struct Roots<'a> {
    plain: &'a Path,
    services: Option<&'a Path>,
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.owned || std::env::var_os("LAB_KEEP").is_some_and(|value| value == "1") {
            return;
        }
        if let Err(e) = Self::destroy(&self.name) {
            eprintln!("cannot take the lab {:?} down: {e:#}", self.name);
        }
    }
}

/// Whether this process can make a lab. If not, prints why in a line that begins with `skipped:`,
/// bypassing the test harness's capture, so that a test that then returns does not look as if it had
/// passed.
pub fn can_run() -> bool {
    let why = if !nix::unistd::geteuid().is_root() {
        "a lab needs root".to_owned()
    } else if let Err(e) = Cgroup::of_lab("any") {
        e.to_string()
    } else {
        return true;
    };
    say_skipped(&why);
    false
}

/// [`can_run`], for a lab with virtual machines.
pub fn can_run_machines() -> bool {
    match machine::missing() {
        None => can_run(),
        Some(why) => {
            say_skipped(&why);
            false
        }
    }
}

fn say_skipped(why: &str) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("unnamed");
    // If nothing can be written, there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "skipped: {test}: {why}");
}

fn of_namespaces<'a>(hosts: &[&'a str]) -> Vec<(&'a str, Kind)> {
    hosts.iter().map(|host| (*host, Kind::Namespaces)).collect()
}

fn dir(lab: &str) -> PathBuf {
    Path::new(LABS).join(lab)
}

/// A name becomes a path, the name of a link and a host name.
fn check_name(name: &str) -> Result<()> {
    let starts = name.starts_with(|c: char| c.is_ascii_lowercase());
    let rest = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    ensure!(
        starts && name.chars().all(rest) && name.len() <= 15,
        "{name:?} is not a valid name: it must be a letter, then letters, digits and '-', at most 15, all lower case"
    );
    Ok(())
}

/// Creates the lab's directory and locks it against other processes until the file is dropped.
fn lock(dir: &Path) -> Result<File> {
    loop {
        fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let file = File::open(dir)?;
        file.lock()?;
        // Whoever held the lock may have deleted the directory.
        if fs::metadata(dir)
            .is_ok_and(|now| Some(now.ino()) == file.metadata().ok().map(|m| m.ino()))
        {
            return Ok(file);
        }
    }
}

/// A lab's hosts in the order of their numbers, which they keep for the lab's life. Each has a line:
/// its name and, unless it is made of namespaces, its kind.
fn order(dir: &Path) -> Result<Vec<(String, Kind)>> {
    let host = |line: &str| match line.split_once(' ') {
        Some((name, kind)) => Ok((name.to_owned(), kind.parse()?)),
        None => Ok((line.to_owned(), Kind::Namespaces)),
    };
    match fs::read_to_string(dir.join(ORDER)) {
        Ok(text) => text.lines().map(host).collect(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e).with_context(|| format!("cannot read {ORDER} in {}", dir.display())),
    }
}

fn save_order(dir: &Path, order: &[(String, Kind)]) -> Result<()> {
    let new = dir.join(format!("{ORDER}.new"));
    let line = |(name, kind): &(String, Kind)| match kind {
        Kind::Namespaces => format!("{name}\n"),
        kind => format!("{name} {kind}\n"),
    };
    fs::write(&new, order.iter().map(line).collect::<String>())?;
    Ok(fs::rename(new, dir.join(ORDER))?)
}

/// No host has this name: it contains a dot.
const ORDER: &str = "hosts.txt";

/// Deletes a lab's directory. Refuses if anything is mounted in it: nothing of ours is, in this
/// namespace, and deleting would go on into the mount.
fn delete(dir: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let mounted = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    for path in mounted {
        if Path::new(path).starts_with(dir) {
            bail!("not deleting {}: {path} is a mount point", dir.display());
        }
    }
    fs::remove_dir_all(dir).with_context(|| format!("cannot delete {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::check_name;

    #[test]
    fn names_are_safe_as_paths_and_links() {
        for good in ["a", "host-1", "abcdefghijklmno"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "1a", "A", "a/b", "..", "a.b", "abcdefghijklmnop"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
