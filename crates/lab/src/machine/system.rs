//! What is on the disk of a host with a distribution's defaults: packages as apt installs them, with
//! their recommendations, and nothing configured but the network.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};

use super::{image, service, session};
use crate::cache::debian;
use crate::{Distribution, Flavour, Host};

/// What makes it a host, what a person would install to run and move containers, and a few tools for
/// tests to look at it with.
const PACKAGES: &[&str] = &[
    "apparmor",
    "ca-certificates",
    "conntrack",
    "criu",
    "dbus",
    "e2fsprogs",
    "iproute2",
    "iputils-ping",
    "kmod",
    "libpam-systemd",
    "nftables",
    "podman",
    "procps",
    "python3-minimal",
    "systemd",
    "systemd-sysv",
    "udev",
];

const OPTIONS: &[&str] = &[
    "--variant=minbase",
    // mmdebstrap installs no recommendations unless it is told to.
    "--aptopt=Apt::Install-Recommends \"true\"",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/man/*",
];

/// The first process: unpacks the second disk and becomes systemd. It mounts what Debian's initramfs
/// would mount; the program `lab` needs a place from which it can be executed.
const INIT: &str = "\
#!/bin/sh -e
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin
mount -t devtmpfs -o nosuid,mode=755 devtmpfs /dev
mount -t proc -o nosuid,nodev,noexec proc /proc
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
mount -t tmpfs -o nosuid,nodev,noexec,size=10%,mode=755 tmpfs /run
modprobe -a virtio_blk virtio_net
mkdir /run/lab
mount -t tmpfs -o nosuid,nodev,mode=755 tmpfs /run/lab
tar -C /run/lab -xf /dev/vda
cp -a /run/lab/etc/. /etc/
exec /usr/lib/systemd/systemd
";

/// Maintenance services for hosts that live longer than a test does. They would take processor time at
/// random moments.
const MASKED: &[&str] = &[
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "logrotate.timer",
];

/// There is no name server in a lab.
const RESOLVER: &str = "# There is no name server in a lab.\n";

fn packages(distribution: Distribution) -> Vec<&'static str> {
    let mut packages = PACKAGES.to_vec();
    packages.extend_from_slice(match distribution.flavour {
        Flavour::Firewalld => &["network-manager", "firewalld"],
        Flavour::Ufw => &["ufw"],
        // Debian 13's Podman prefers it if it is installed.
        Flavour::Runc => &["runc"],
        Flavour::Plain => &[],
    });
    packages
}

fn services(flavour: Flavour) -> &'static [&'static str] {
    match flavour {
        Flavour::Plain | Flavour::Runc => &["systemd-networkd.service"],
        Flavour::Firewalld => &["NetworkManager.service", "firewalld.service"],
        Flavour::Ufw => &["systemd-networkd.service", "ufw.service"],
    }
}

/// Everything that such a disk is made of.
pub(super) fn recipe(distribution: Distribution) -> String {
    format!(
        "{distribution} {:?} {:?} {OPTIONS:?} {INIT} {MASKED:?} {RESOLVER} {} {}",
        packages(distribution),
        services(distribution.flavour),
        service::UNIT,
        session::RULES,
    )
}

/// Builds its root file system into `root`.
pub(super) fn build(
    distribution: Distribution,
    root: &Path,
    lock: &File,
    log: &Path,
) -> Result<()> {
    let systemctl = |verb: &str, units: &[&str]| {
        format!(
            r#"--customize-hook=chroot "$1" systemctl {verb} {}"#,
            units.join(" ")
        )
    };
    let write = |path: &str, text: &str| {
        let directory = Path::new(path).parent().unwrap_or(Path::new("")).display();
        format!(
            "--customize-hook=mkdir -p \"$1/{directory}\"; cat >\"$1/{path}\" <<'END'\n{text}END\n"
        )
    };
    let mut options: Vec<String> = OPTIONS.iter().map(|&option| option.to_owned()).collect();
    options.extend([
        write(
            &format!("etc/systemd/system/{}", service::NAME),
            service::UNIT,
        ),
        write(&format!("etc/pam.d/{}", session::SERVICE), session::RULES),
        systemctl("mask", MASKED),
        systemctl("enable", &[service::NAME]),
        systemctl("enable", services(distribution.flavour)),
    ]);
    if distribution.flavour == Flavour::Ufw {
        options.push(
            r#"--customize-hook=sed -i s/^ENABLED=no/ENABLED=yes/ "$1/etc/ufw/ufw.conf""#
                .to_owned(),
        );
    }
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let suite = distribution.suite.name();
    debian(suite, root, lock, &options, &packages(distribution), log)?;

    image::write_init(root, INIT)?;
    fs::write(root.join("etc/resolv.conf"), RESOLVER)?;
    // Each host generates its own. With "uninitialized", systemd would ask questions on the console.
    fs::write(root.join("etc/machine-id"), "")?;
    // As at a second boot: the packages have already done what a first boot does for a new /usr.
    for directory in ["etc", "var"] {
        fs::write(root.join(directory).join(".updated"), "")?;
    }
    Ok(())
}

/// Writes the host's own files into its `/etc`, which is `etc`.
pub(super) fn configure(
    distribution: Distribution,
    host: &Host,
    switch: &Host,
    names: &str,
    etc: &Path,
) -> Result<()> {
    let write = |path: &str, text: String, mode: u32| {
        let path = etc.join(path);
        fs::create_dir_all(path.parent().context("a file is in a directory")?)?;
        fs::write(&path, text)?;
        anyhow::Ok(fs::set_permissions(
            &path,
            fs::Permissions::from_mode(mode),
        )?)
    };
    write("hostname", format!("{}\n", host.name()), 0o644)?;
    write("hosts", names.to_owned(), 0o644)?;
    let (ipv4, ipv6) = (host.ipv4(), host.ipv6());
    let (gateway4, gateway6) = (switch.ipv4(), switch.ipv6());
    match distribution.flavour {
        Flavour::Plain | Flavour::Ufw | Flavour::Runc => write(
            "systemd/network/10-eth0.network",
            format!(
                "[Match]\nName=eth0\n\n\
                 [Network]\nAddress={ipv4}/24\nAddress={ipv6}/64\n\
                 Gateway={gateway4}\nGateway={gateway6}\n"
            ),
            0o644,
        ),
        Flavour::Firewalld => write(
            "NetworkManager/system-connections/eth0.nmconnection",
            format!(
                "[connection]\nid=eth0\ntype=ethernet\ninterface-name=eth0\n\n\
                 [ipv4]\nmethod=manual\naddress1={ipv4}/24,{gateway4}\n\n\
                 [ipv6]\nmethod=manual\naddress1={ipv6}/64,{gateway6}\n"
            ),
            0o600,
        ),
    }
}
