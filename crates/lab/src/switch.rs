//! The network between the hosts: a bridge in its own host, and a veth pair to each other host, or
//! a TAP interface if that is a virtual machine.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::Host;

/// The name of the switch's host, and of the bridge in it.
pub(crate) const NAME: &str = "switch";

/// The switch is everyone's default gateway, at this address. It forwards nothing.
pub(crate) const NUMBER: u8 = 254;

/// Creates the bridge in the calling thread's network namespace. It goes away with the namespace.
pub(crate) fn bridge(switch: &Host) -> Result<()> {
    let (mac, ipv4, ipv6) = (mac(switch), switch.ipv4(), switch.ipv6());
    fresh_sysctls()?;
    allow_large_pipes()?;
    ip(&format!(
        "link set dev lo up
         link add name {NAME} address {mac} type bridge mcast_snooping 0
         link set dev {NAME} up
         addr add {ipv4}/24 dev {NAME}
         addr add {ipv6}/64 dev {NAME} nodad"
    ))
}

/// Gives the calling thread's network namespace an `eth0` that is connected to the switch, and a
/// default route. The other end is named after the host. It goes away with either namespace.
pub(crate) fn plug_in(host: &Host, switch: &Host) -> Result<()> {
    // The port of an earlier, killed host of this name may not be gone yet.
    switch.run(&["ip", "link", "delete", "dev", host.name()])?;

    let (mac, port) = (mac(host), host.name());
    let switch_network = switch.network_path()?;
    fresh_sysctls()?;
    ip(&format!(
        "link add name eth0 address {mac} type veth peer name {port} netns {switch_network}"
    ))?;
    attach_port(switch, port)?;
    accept_addresses()?;
    ip(&network_of(host, switch))
}

/// Connects an interface in the switch's network namespace to the bridge.
pub(crate) fn attach_port(switch: &Host, port: &str) -> Result<()> {
    switch.sh(&format!(
        "ip link set dev {port} master {NAME} addrgenmode none up"
    ))?;
    Ok(())
}

/// Turns off duplicate address detection: addresses are unique by construction, and a tentative one
/// would only delay the first test.
pub(crate) fn accept_addresses() -> Result<()> {
    sysctl("ipv6/conf/eth0/accept_dad", "0")
}

/// The iproute2 commands that give a host's `eth0` its addresses and the host its routes.
pub(crate) fn network_of(host: &Host, switch: &Host) -> String {
    let (ipv4, ipv6) = (host.ipv4(), host.ipv6());
    format!(
        "link set dev lo up
         link set dev eth0 up
         addr add {ipv4}/24 dev eth0
         addr add {ipv6}/64 dev eth0 nodad
         route add default via {}
         route add default via {}",
        switch.ipv4(),
        switch.ipv6()
    )
}

/// Silently drops all packets between the host and the others. Its own link stays up, as when a
/// cable fails further away. Undone by [`mend`].
pub(crate) fn cut(switch: &Host, host: &Host) -> Result<()> {
    set_port_state(switch, host, "disabled")
}

/// Undoes [`cut`].
pub(crate) fn mend(switch: &Host, host: &Host) -> Result<()> {
    set_port_state(switch, host, "forwarding")
}

fn set_port_state(switch: &Host, host: &Host, state: &str) -> Result<()> {
    let port = host.name();
    switch.sh(&format!("bridge link set dev {port} state {state}"))?;
    Ok(())
}

/// A locally administered address that contains the IPv4 address.
pub(crate) fn mac(host: &Host) -> String {
    let [a, b, c, d] = host.ipv4().octets();
    format!("02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

/// Sets what a new namespace copies from the machine to the values of a freshly booted Debian.
pub(crate) fn fresh_sysctls() -> Result<()> {
    sysctl("ipv4/ip_forward", "0")?;
    sysctl("ipv4/conf/all/rp_filter", "0")?;
    sysctl("ipv4/conf/default/rp_filter", "2")
}

/// Lets CRIU leave memory out of a dump. Root of a machine may make pipes of any size as a rule, but here it may be
/// without CAP_SYS_RESOURCE. This is the one setting of the machine itself that a lab changes: it belongs to no namespace.
fn allow_large_pipes() -> Result<()> {
    const PIPES: &str = "/proc/sys/fs/pipe-max-size";
    const BYTES: u64 = 16 << 20;
    let limit = fs::read_to_string(PIPES).context(PIPES)?;
    if limit.trim().parse::<u64>()? >= BYTES {
        return Ok(());
    }
    fs::write(PIPES, BYTES.to_string()).context(PIPES)
}

/// Sets a network sysctl of the calling thread's namespace.
fn sysctl(name: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/net/{name}");
    fs::write(&path, value).context(path)
}

/// Runs iproute2 commands, one per line, in the calling thread's network namespace.
pub(crate) fn ip(commands: &str) -> Result<()> {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start ip")?;
    child
        .stdin
        .take()
        .expect("stdin is piped")
        .write_all(commands.as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("ip: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
