//! Test hosts made of Linux namespaces, or virtual machines.
//!
//! A lab is a set of hosts on one switch. A host of namespaces is Debian with Podman, CRIU and runc in
//! namespaces of its own (net, mount, uts, ipc, pid, cgroup), with its own root, `/dev`, `/run`, `/tmp`
//! and Podman store. The switch is one more such host, which holds the bridge and answers as everyone's
//! default gateway but forwards nothing: no packet of a lab reaches the machine.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! let lab = lab::Lab::fresh("example", &["a", "b"])?;
//! lab.host("a").sh("ping -c 1 -w 2 b")?;
//! lab.down()
//! # }
//! ```
//!
//! Such a host can have a disk of its own ([`Kind::Disk`]): a power cut then takes what was not synced.
//!
//! A host can be a virtual machine instead ([`Kind::Machine`]), with a kernel of its own and the same
//! commands, addresses and switch: for what hosts that share a kernel cannot show.
//!
//! Or it can be a virtual machine as people really have them ([`Kind::Systemd`]): with systemd, AppArmor, a
//! journal and a login session for each command, with what a distribution installs along with Podman and
//! CRIU, and with nothing configured. [`Lab::up`] boots it again from its disk, after [`Lab::power_off`] and
//! equally after `reboot` or `poweroff` in it: both end the emulator.
//!
//! # What exists where
//!
//! | what | where | gone after |
//! |---|---|---|
//! | root file system, shared by all labs | `/var/cache/live-migration-lab/rootfs-HASH` | never (it is a cache) |
//! | emulator, kernels and disks of virtual machines | `emulator-HASH`, `kernel-HASH` and `machine-HASH` there | never |
//! | a host's disk | `/var/lib/live-migration-lab/LAB/HOST`, or `LAB/HOST.ext4` | [`Lab::down`] |
//! | a host's processes | cgroup `live-migration-lab/LAB/HOST` of the cgroup2 hierarchy | its end |
//! | a host's mounts and network | namespaces held only by its processes | its end |
//!
//! Nothing is mounted and no link is made in the machine's own namespaces, so there is nothing to
//! undo there, but that pipes on the machine may be larger than before (`fs.pipe-max-size`). The kernel's own list of a cgroup's processes is the only record of what runs: a host
//! is up exactly when its `init` cgroup contains a process, and that process enters it as the last
//! step of its start. So whatever is killed at whatever moment, the next [`Lab::up`] or
//! [`Lab::down`] sees the true state.
//!
//! A virtual machine's processes on the machine are the emulator, in place of the init, and one for
//! each command. That one ends when either the command or the emulator does.
//!
//! Killing a host's init is a power cut: the host is gone at once, and [`Lab::up`] boots it again
//! from the same disk. What it had written and not synced is on that disk too, unless it is a virtual machine. To
//! lose it as well, [`Lab::power_off`] a host of [`Kind::Disk`].

mod cache;
mod cgroup;
mod disk;
mod distribution;
mod enter;
mod host;
mod init;
mod lab;
mod machine;
mod mounts;
mod part;
mod pidfd;
mod rootfs;
mod snapshot;
mod switch;

pub use distribution::{Distribution, Flavour, Suite};
pub use host::{Host, Kind, Output};
pub use lab::{Lab, can_run, can_run_machines};
pub use part::Part;
pub use rootfs::rootfs;
pub use snapshot::Snapshot;
