//! Hosts that are virtual machines: QEMU with their own kernel, without the machine's KVM.
//!
//! The emulator's process is to the host what the init is to a namespace host: the only process in
//! the host's cgroup `init`, and only once the host is complete.

pub(crate) mod agent;
mod clock;
mod emulator;
mod image;
pub(crate) mod keeper;
mod kernel;
mod link;
mod program;
pub(crate) mod service;
pub(crate) mod session;
pub(crate) mod setup;
mod system;
mod wire;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns, unshare};

use crate::cgroup::Cgroup;
use crate::{Host, Kind, pidfd, switch};
use emulator::{Emulator, finish};
use image::Image;

/// How long a boot may take. On an idle machine it takes ten seconds or so, and about a minute with
/// systemd.
const PATIENCE: Duration = Duration::from_secs(240);
const SYSTEMD_PATIENCE: Duration = Duration::from_secs(900);

/// Memory of each host. Hosts with systemd run more that needs some.
const MEMORY: &str = "1G";
const SYSTEMD_MEMORY: &str = "1536M";

/// Everything that can be emulated, except what only protects the kernel and costs a tenth of the
/// time.
const CPU: &str = "max,la57=off,smap=off,smep=off,umip=off,pku=off";

/// The kernel's command line, apart from its disk. Its clock is the processor's counter, which the
/// emulator takes from the machine; with any other, reading the time would be a system call.
const KERNEL: &str = "root=/dev/nvme0n1 rootfstype=ext4 rw init=/usr/sbin/lab-init \
    console=ttyS0 quiet panic=-1 mitigations=off tsc=reliable net.ifnames=0";

/// What all virtual machines of a lab start from.
#[derive(Debug)]
pub(crate) struct Parts {
    emulator: Option<Emulator>,
    images: BTreeMap<Kind, Image>,
}

impl Parts {
    /// Builds what is missing for hosts of these kinds.
    pub(crate) fn get(kinds: impl Iterator<Item = Kind>) -> Result<Self> {
        let mut parts = Self {
            emulator: None,
            images: BTreeMap::new(),
        };
        for kind in kinds.filter(|kind| kind.is_machine()) {
            if parts.images.contains_key(&kind) {
                continue;
            }
            let emulator = match parts.emulator.take() {
                Some(emulator) => emulator,
                None => Emulator::get()?,
            };
            let image = match kind {
                Kind::Systemd(distribution) => Image::of(distribution, &emulator)?,
                _ => Image::bare(&emulator)?,
            };
            parts.emulator = Some(emulator);
            parts.images.insert(kind, image);
        }
        Ok(parts)
    }

    fn of(&self, host: &Host) -> Result<(&Emulator, &Image)> {
        self.emulator
            .as_ref()
            .zip(self.images.get(&host.kind()))
            .with_context(|| format!("no disk was made for {}", host.kind()))
    }
}

/// A command that will run in the virtual machine; see [`Host::command`].
pub(crate) fn command(emulator: &Cgroup, program: &OsStr) -> Command {
    let mut command = Command::new(program::lab());
    command.args(["machine", "run", "--emulator"]);
    command.arg(emulator.path()).arg("--").arg(program);
    let down = emulator.processes().is_empty();
    let check = move || match down {
        true => Err(std::io::Error::from_raw_os_error(libc::ESRCH)),
        false => Ok(()),
    };
    // SAFETY: it makes no system call and allocates nothing.
    unsafe { command.pre_exec(check) };
    command
}

/// A virtual machine that is being started.
#[derive(Debug)]
pub(crate) struct Boot<'a> {
    host: &'a Host,
    /// Where the emulator is until the host is complete.
    starting: Cgroup,
}

impl<'a> Boot<'a> {
    /// Starts the emulator, with the disk that the host had if it ran before. Leftovers of an
    /// earlier run are killed first.
    pub(crate) fn begin(host: &'a Host, switch: &Host, parts: &Parts, names: &str) -> Result<Self> {
        host.power_off()?;
        let (emulator, image) = parts.of(host)?;
        let boot = Self {
            host,
            starting: host.cgroup().child("starting"),
        };
        boot.starting.create()?;
        host.init_cgroup().create()?;
        fs::create_dir_all(host.disk())?;
        let disk = boot.make_disk(emulator, image)?;
        let seed = boot.make_seed(switch, names)?;
        let launch = || boot.launch(switch, emulator, image, &disk, &seed);
        thread::scope(|scope| scope.spawn(launch).join())
            .map_err(|_| anyhow!("the thread that starts it panicked"))
            .and_then(|launched| launched)
            .with_context(|| format!("cannot start the host {}", host.name()))?;
        Ok(boot)
    }

    /// Waits until the host is complete.
    pub(crate) fn finish(self) -> Result<()> {
        let systemd = matches!(self.host.kind(), Kind::Systemd(_));
        let patience = if systemd { SYSTEMD_PATIENCE } else { PATIENCE };
        let deadline = Instant::now() + patience;
        let emulator = pidfd::of_only(&self.starting).map_err(|_| self.failed("it ended"))?;
        while link::connect(&emulator).is_err() {
            if self.starting.processes().is_empty() {
                return Err(self.failed("it ended"));
            }
            if Instant::now() > deadline {
                return Err(self.failed("it takes too long"));
            }
            sleep(Duration::from_millis(100));
        }
        if systemd {
            self.wait_for_units(deadline)?;
        }
        let pids = self.starting.processes();
        let pid = pids.first().ok_or_else(|| self.failed("it ended"))?;
        let entrance = self.host.init_cgroup().path().join("cgroup.procs");
        fs::write(entrance, pid.to_string()).context("cannot move the emulator")
    }

    /// Waits until systemd has reached its target, which is when the host runs its first command. Prints
    /// which units failed, if any did.
    fn wait_for_units(&self, deadline: Instant) -> Result<()> {
        let mut ask = command(&self.starting, OsStr::new("systemctl"));
        ask.env("PATH", "/usr/bin")
            .args(["list-units", "--failed", "--plain", "--no-legend"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut asked = ask.spawn().context("cannot ask for failed units")?;
        while asked.try_wait()?.is_none() {
            if Instant::now() > deadline {
                asked.kill()?;
                asked.wait()?;
                return Err(self.failed("it takes too long"));
            }
            sleep(Duration::from_millis(100));
        }
        let output = asked.wait_with_output()?;
        if !output.status.success() {
            return Err(self.failed("its units cannot be listed"));
        }
        let host = self.host.name();
        for unit in String::from_utf8_lossy(&output.stdout).lines() {
            eprintln!("the host {host} is degraded: {unit}");
        }
        Ok(())
    }

    fn failed(&self, why: &str) -> anyhow::Error {
        let console = fs::read(self.console()).unwrap_or_default();
        let console = String::from_utf8_lossy(&console);
        let lines: Vec<&str> = console.lines().collect();
        let last = lines[lines.len().saturating_sub(30)..].join("\n");
        anyhow!(
            "the host {} does not boot, {why}:\n{last}",
            self.host.name()
        )
    }

    fn console(&self) -> PathBuf {
        self.host.disk().join("console")
    }

    /// What the host writes goes to a file of its own on top of the disk that all start from.
    fn make_disk(&self, emulator: &Emulator, image: &Image) -> Result<PathBuf> {
        let disk = self.host.disk().join("disk.qcow2");
        if !disk.exists() {
            let new = disk.with_extension("new");
            let mut create = emulator.program("usr/bin/qemu-img");
            create.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]);
            finish(create.arg(image.disk()).arg(&new))?;
            fs::rename(new, &disk)?;
        }
        Ok(disk)
    }

    /// The second disk, an archive: this program, and the host's name and network.
    fn make_seed(&self, switch: &Host, names: &str) -> Result<PathBuf> {
        let host = self.host;
        let seed = host.disk().join("seed");
        fs::create_dir_all(&seed)?;
        if let Kind::Systemd(distribution) = host.kind() {
            system::configure(distribution, host, switch, names, &seed.join("etc"))?;
        } else {
            fs::write(seed.join(setup::NAME), host.name())?;
            fs::write(seed.join(setup::NAMES), names)?;
            fs::write(seed.join(setup::NETWORK), switch::network_of(host, switch))?;
        }
        fs::copy(program::lab(), seed.join("lab")).context("cannot copy the program")?;
        let archive = seed.with_extension("tar");
        let mut tar = Command::new("tar");
        finish(tar.arg("-C").arg(&seed).arg("-cf").arg(&archive).arg("."))?;
        Ok(archive)
    }

    /// Starts the emulator in a network namespace of its own, which the calling thread is in
    /// afterwards.
    fn launch(
        &self,
        switch: &Host,
        emulator: &Emulator,
        image: &Image,
        disk: &Path,
        seed: &Path,
    ) -> Result<()> {
        let memory = match self.host.kind() {
            Kind::Systemd(_) => SYSTEMD_MEMORY,
            _ => MEMORY,
        };
        let device = switch.root_path()?.join("dev/net/tun");
        setns(
            fs::File::open(switch.network_path()?)?,
            CloneFlags::CLONE_NEWNET,
        )?;
        // The port of an earlier, killed host of this name may not be gone yet.
        let port = self.host.name();
        switch.run(&["ip", "link", "delete", "dev", port])?;
        let lan = link::tap(&device, port)?;
        switch::attach_port(switch, port)?;

        unshare(CloneFlags::CLONE_NEWNET)?;
        let agent = link::tap(&device, "agent")?;
        switch::ip(&format!(
            "link set dev agent up
             addr add {}/30 dev agent",
            link::NEAR
        ))?;

        let at = |path: &Path| path.display().to_string().replace(',', ",,");
        let drive = |name: &str, path: &Path, more: &str| {
            format!("file={},if=none,id={name},{more}", at(path))
        };
        let mut qemu = emulator.program("usr/bin/qemu-system-x86_64");
        qemu.args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none", "-daemonize"])
            .arg("-L")
            .arg(emulator.path("usr/share/qemu"))
            .arg("-L")
            .arg(emulator.path("usr/share/seabios"))
            .args(["-accel", "tcg", "-cpu", CPU, "-m", memory])
            .args(["-name", port])
            .arg("-kernel")
            .arg(image.kernel())
            .args([
                "-append",
                &format!("{KERNEL} tsc_early_khz={}", clock::counter_khz()),
            ])
            .args(["-serial", &format!("file:{}", at(&self.console()))])
            // What the host has written must outlive a killed emulator. With a write cache (`unsafe`), files
            // that had been synced were now and then lost.
            .args([
                "-drive",
                &drive("root", disk, "cache.writeback=off,cache.no-flush=on"),
            ])
            .args(["-drive", &drive("seed", seed, "format=raw,readonly=on")])
            // The kernel has a driver for the one, and needs a module for the other. Two of a kind
            // could get their names in either order.
            .args(["-device", "nvme,drive=root,serial=root"])
            .args(["-device", "virtio-blk-pci,drive=seed"]);
        for (name, tap, mac) in [
            ("eth0", &lan, switch::mac(self.host)),
            ("eth1", &agent, "02:00:00:00:00:01".to_owned()),
        ] {
            let fd = tap.as_raw_fd();
            let netdev = format!("tap,id={name},fd={fd}");
            let device = format!("virtio-net-pci,netdev={name},mac={mac},romfile=");
            qemu.args(["-netdev", &netdev, "-device", &device]);
        }
        let entrance = self.starting.entrance()?;
        let taps = [lan.as_raw_fd(), agent.as_raw_fd()];
        let enter = move || {
            nix::unistd::write(&entrance, b"0")?;
            nix::unistd::setsid()?;
            for tap in taps {
                // SAFETY: this changes a flag of a descriptor and touches no memory.
                if unsafe { libc::fcntl(tap, libc::F_SETFD, 0) } != 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        };
        // SAFETY: it makes only system calls and allocates nothing.
        unsafe { qemu.pre_exec(enter) };
        finish(&mut qemu)
    }
}

/// Why this machine cannot run virtual machines, if it cannot.
pub(crate) fn missing() -> Option<String> {
    (!cfg!(target_arch = "x86_64")).then(|| "virtual machines are of x86-64 only".to_owned())
}
