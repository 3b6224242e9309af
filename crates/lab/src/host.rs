use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sched::{CloneFlags, unshare};

use crate::cgroup::Cgroup;
use crate::distribution::Distribution;
use crate::enter::Door;
use crate::mounts::{self, STORE};
use crate::{disk, init, machine};

/// How long the services may take to start at boot.
const PATIENCE: Duration = Duration::from_secs(90);

/// What kind of host it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Namespaces of the machine: up in a moment, on the machine's own kernel.
    Namespaces,
    /// The same with a file system of its own as its disk: a power cut takes what was not synced. Each boot has an
    /// id of its own.
    Disk,
    /// The same as the first with systemd as the first process and nothing of Podman configured: up in a few
    /// seconds.
    Services,
    /// A virtual machine: up in ten seconds or so, on Debian's kernel, slower at everything.
    Machine,
    /// A virtual machine with a distribution's defaults and systemd: up in about a minute. Commands
    /// run in their own sessions, like commands run over ssh.
    Systemd(Distribution),
}

impl Kind {
    /// Whether it is a virtual machine.
    pub fn is_machine(self) -> bool {
        matches!(self, Self::Machine | Self::Systemd(_))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespaces => f.write_str("namespaces"),
            Self::Disk => f.write_str("disk"),
            Self::Services => f.write_str("services"),
            Self::Machine => f.write_str("machine"),
            Self::Systemd(distribution) => distribution.fmt(f),
        }
    }
}

impl FromStr for Kind {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "namespaces" => Ok(Self::Namespaces),
            "disk" => Ok(Self::Disk),
            "services" => Ok(Self::Services),
            "machine" => Ok(Self::Machine),
            other => Ok(Self::Systemd(other.parse()?)),
        }
    }
}

/// One host of a lab.
#[derive(Debug, Clone)]
pub struct Host {
    name: String,
    kind: Kind,
    number: u8,
    disk: PathBuf,
    cgroup: Cgroup,
}

impl Host {
    pub(crate) fn new(
        name: &str,
        kind: Kind,
        number: u8,
        lab_dir: &Path,
        lab_cgroup: &Cgroup,
    ) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            number,
            disk: lab_dir.join(name),
            cgroup: lab_cgroup.child(name),
        }
    }

    /// Its name, which the other hosts resolve to its addresses.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What kind it is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The IPv4 address of its `eth0`, in 198.51.100.0/24.
    pub fn ipv4(&self) -> Ipv4Addr {
        Ipv4Addr::new(198, 51, 100, self.number)
    }

    /// The IPv6 address of its `eth0`, in 2001:db8:51::/64. Its last group reads like the last part
    /// of the IPv4 address.
    pub fn ipv6(&self) -> Ipv6Addr {
        let digits = self.number.to_string();
        let last = u16::from_str_radix(&digits, 16).expect("decimal digits are hexadecimal digits");
        Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, last)
    }

    /// The id on the machine of the process whose life is the host's, if it is up: its init, or the
    /// emulator.
    pub fn init(&self) -> Option<i32> {
        self.init_cgroup().processes().first().copied()
    }

    /// A path on the machine that shows the host's files. An absolute symbolic link on the way leads
    /// out of the host and into the machine, so only read paths without such links, and write with
    /// [`Host::put`] and [`Host::write`]. Virtual machines have no such path.
    pub fn root_path(&self) -> Result<PathBuf> {
        ensure!(
            !self.kind.is_machine(),
            "the files of {} are on a disk of its own",
            self.name
        );
        let pid = self.init().ok_or_else(|| self.is_down())?;
        Ok(format!("/proc/{pid}/root").into())
    }

    /// The path on the machine of the host's network namespace.
    pub(crate) fn network_path(&self) -> Result<String> {
        let pid = self.init().ok_or_else(|| self.is_down())?;
        Ok(format!("/proc/{pid}/ns/net"))
    }

    /// A command that will run in the host: in its namespaces and its cgroup, in `/root`, with the
    /// plain environment of a login. The caller sets everything else as usual, except the working
    /// directory and the user, which would be those of the machine.
    ///
    /// The child's id is that of a process outside, which forwards HUP, INT, QUIT, TERM, USR1 and
    /// USR2, kills the command when it is killed, and exits with the command's status, or with 128 +
    /// N if signal N ended it. Spawning fails with "No such process" if the host is down.
    ///
    /// In a virtual machine two things differ. If a program cannot be started, the exit status is
    /// 125 to 127, as in a shell. And output ends with the command, even if what it has started
    /// still writes. If stdin and stdout are a terminal, the command has one in the virtual machine.
    ///
    /// On a host with systemd each command is a login session, as with ssh: PAM has registered it, so it
    /// is in its own scope below `user.slice`, and its environment has `XDG_SESSION_ID`,
    /// `XDG_RUNTIME_DIR` and whatever else PAM adds. What a killed command started stays in the session.
    ///
    /// # Panics
    /// If the host is a virtual machine and the program `lab`, which it needs, does not build.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = match self.kind {
            Kind::Namespaces | Kind::Disk | Kind::Services => Command::new(program),
            Kind::Machine | Kind::Systemd(_) => {
                machine::command(&self.init_cgroup(), program.as_ref())
            }
        };
        let terminal = std::env::var("TERM").unwrap_or_else(|_| "dumb".to_owned());
        command.env_clear().envs([
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"),
            ("HOME", "/root"),
            ("USER", "root"),
            ("LANG", "C.UTF-8"),
            ("TERM", &terminal),
        ]);
        if self.kind.is_machine() {
            return command;
        }
        let door = Door::open(&self.init_cgroup(), &self.cgroup.child(COMMANDS));
        let enter = move || match &door {
            Ok(door) => door.enter(),
            Err(e) => Err(std::io::Error::from_raw_os_error(
                e.raw_os_error().unwrap_or(libc::ESRCH),
            )),
        };
        // SAFETY: it makes only system calls, on descriptors opened above, and allocates nothing.
        unsafe { command.pre_exec(enter) };
        command
    }

    /// Runs a command to its end, with no input. Its failure is not an error.
    pub fn run<S: AsRef<OsStr>>(&self, argv: &[S]) -> Result<Output> {
        let (program, arguments) = argv.split_first().context("no command given")?;
        let mut command = self.command(program);
        self.finish(command.args(arguments).stdin(Stdio::null()))
    }

    /// Runs a shell script (`sh -e`) and returns what it printed, without the final newline. If it
    /// fails, the error contains all that it printed.
    pub fn sh(&self, script: &str) -> Result<String> {
        let output = self.run(&["sh", "-ec", script])?;
        if !output.status.success() {
            bail!("on {}: {script}\n{output}", self.name);
        }
        Ok(output.stdout.trim_end_matches('\n').to_owned())
    }

    /// Copies a file or a directory of the machine into the host. A file goes to `dst`, or into it
    /// if that is a directory or ends in `/`, and replaces what was there, even a running program.
    /// The contents of a directory go into the directory `dst`. Missing directories are created.
    pub fn put(&self, src: impl AsRef<Path>, dst: &str) -> Result<()> {
        let src = src.as_ref();
        let metadata = fs::metadata(src).with_context(|| src.display().to_string())?;
        let what = || format!("cannot put {} on {}", src.display(), self.name);
        if metadata.is_dir() {
            let mut tar = Command::new("tar")
                .arg("-C")
                .arg(src)
                .args(["-c", "."])
                .stdout(Stdio::piped())
                .spawn()
                .context("cannot start tar")?;
            let stream = tar.stdout.take().expect("stdout is piped");
            let unpack = r#"mkdir -p "$1" && exec tar -C "$1" --numeric-owner -x"#;
            let unpacked = self.feed(stream, unpack, &[dst]);
            let packed = tar.wait()?;
            unpacked.with_context(what)?;
            return packed
                .success()
                .then_some(())
                .ok_or_else(|| anyhow!("tar: {packed}"))
                .with_context(what);
        }
        let name = src.file_name().and_then(OsStr::to_str).with_context(what)?;
        let mode = format!("{:o}", metadata.permissions().mode() & 0o7777);
        let install = r#"
            case $1 in */) into=yes;; *) [ -d "$1" ] && into=yes;; esac
            exec install -D -m "$3" /dev/stdin "$1${into:+/$2}""#;
        self.feed(File::open(src)?, install, &[dst, name, &mode])
            .with_context(what)
    }

    /// Writes a file in the host, creating its directory if that is missing.
    pub fn write(&self, path: &str, contents: impl AsRef<[u8]> + Send) -> Result<()> {
        let (reader, mut writer) = std::io::pipe()?;
        thread::scope(|scope| {
            // If writing fails, so does the reader, which reports it.
            scope.spawn(move || writer.write_all(contents.as_ref()));
            self.feed(reader, r#"mkdir -p "${1%/*}/" && cat >"$1""#, &[path])
        })
        .with_context(|| format!("cannot write {path} on {}", self.name))
    }

    /// Runs a script with these arguments and this input; an error if it fails.
    fn feed(&self, input: impl Into<Stdio>, script: &str, arguments: &[&str]) -> Result<()> {
        let mut command = self.command("sh");
        command.args(["-ec", script, "sh"]).args(arguments);
        let output = self.finish(command.stdin(input))?;
        if !output.status.success() {
            bail!("{output}");
        }
        Ok(())
    }

    fn finish(&self, command: &mut Command) -> Result<Output> {
        let output = command
            .output()
            .with_context(|| format!("cannot run {:?} on {}", command.get_program(), self.name))?;
        Ok(Output {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Starts the namespace host on `rootfs`, with the disk it had if it ran before. `network` is called in
    /// its network namespace, with the machine's files still visible. Leftovers of an earlier run are killed
    /// first. Undone by [`Host::power_off`].
    pub(crate) fn boot(
        &self,
        rootfs: &Path,
        files: &[(&'static str, String)],
        network: impl FnOnce() -> Result<()> + Send,
    ) -> Result<()> {
        self.power_off()?;
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
        let image = self.image();
        if let Some(image) = &image {
            disk::make(image)?;
        }
        self.init_cgroup().create()?;
        self.cgroup.child(COMMANDS).create()?;
        let (host, leaf) = (self.cgroup.entrance()?, self.init_cgroup().entrance()?);
        let program: &[&str] = match self.kind {
            Kind::Services => &init::SYSTEMD,
            _ => &init::CATATONIT,
        };
        // A separate thread can leave the machine's namespaces without taking the caller along.
        let boot = || {
            unshare(
                CloneFlags::CLONE_NEWNS
                    | CloneFlags::CLONE_NEWNET
                    | CloneFlags::CLONE_NEWUTS
                    | CloneFlags::CLONE_NEWIPC,
            )
            .context("cannot make namespaces")?;
            nix::unistd::sethostname(&self.name)?;
            network()?;
            mounts::enter_root(&self.disk, image.as_deref(), rootfs)?;
            if image.is_some() {
                // Programs that ask whether what they had written may be lost tell by this.
                fs::write(init::BOOT_ID.to_str()?, &boot_id)?;
            }
            for (path, contents) in files {
                fs::write(path, contents).context(*path)?;
            }
            init::start(program, host, leaf)
        };
        thread::scope(|scope| scope.spawn(boot).join())
            .map_err(|_| anyhow!("the thread that starts it panicked"))
            .and_then(|booted| booted)
            .with_context(|| format!("cannot start the host {}", self.name))
    }

    /// Waits until systemd has started everything that belongs to a boot. An error if some of it
    /// failed.
    pub(crate) fn wait_for_services(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // Its bus is not there from the beginning.
            let state = self.run(&["systemctl", "is-system-running", "--wait"])?;
            match state.stdout.trim() {
                "running" => return Ok(()),
                "degraded" => {
                    let failed = self.run(&["systemctl", "--no-legend", "--failed"])?;
                    bail!("on {} failed:\n{failed}", self.name);
                }
                _ if Instant::now() > deadline => bail!("{} does not boot: {state}", self.name),
                _ => thread::sleep(Duration::from_millis(50)),
            }
        }
    }

    /// Kills everything that runs in the host. Its namespaces and mounts go away with the last
    /// process; its disk stays.
    pub(crate) fn power_off(&self) -> Result<()> {
        let Some(image) = self.image() else {
            return self.cgroup.destroy();
        };
        if let Some(init) = self.init() {
            disk::cut(&PathBuf::from(format!("/proc/{init}/root{STORE}")))?;
        }
        self.cgroup.destroy()?;
        disk::wait_until_free(&image)
    }

    /// The file of its disk, if it has one of its own.
    fn image(&self) -> Option<PathBuf> {
        (self.kind == Kind::Disk).then(|| self.disk.with_extension("ext4"))
    }

    /// Where its files are on the machine.
    pub(crate) fn disk(&self) -> &Path {
        &self.disk
    }

    /// The cgroup of all its processes on the machine.
    pub(crate) fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// The cgroup that contains a process exactly when the host is up.
    pub(crate) fn init_cgroup(&self) -> Cgroup {
        self.cgroup.child(match self.kind {
            // The cgroup that systemd moves itself to, wherever it was started.
            Kind::Services => "init.scope",
            _ => "init",
        })
    }

    fn is_down(&self) -> anyhow::Error {
        anyhow!("the host {} is not running", self.name)
    }
}

/// The cgroup that commands start in, below the host's. It cannot be the host's own: a cgroup with
/// processes of its own could not pass controllers on to containers.
const COMMANDS: &str = "commands";

/// How a command ended and what it printed.
#[derive(Debug, Clone)]
pub struct Output {
    /// Its exit status; the code is 128 + N if signal N ended it.
    pub status: ExitStatus,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.status)?;
        for (name, text) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !text.is_empty() {
                writeln!(f, "{name}:\n{}", text.trim_end())?;
            }
        }
        Ok(())
    }
}
