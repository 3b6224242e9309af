//! What sets the container apart from others, and would be lost or not work elsewhere.

use super::{Checks, DestinationFacts, Verdict, join, list_or_none};
use crate::container::ContainerFacts;

/// What cannot leave the source, and what does not come along.
pub(super) fn at_source(checks: &mut Checks, container: &ContainerFacts) {
    namespaces(checks, container);
    if container.privileged {
        checks.add(
            "privileged",
            Verdict::Warning,
            "--privileged: until it is started anew, its /dev has the devices of the source, by numbers that \
             may mean others at the destination; what it has changed of the source itself stays there",
        );
    }
    checks.expect(
        "network set up",
        container.network_changes.is_empty(),
        match container.network_changes.is_empty() {
            true => "by podman alone".to_owned(),
            false => format!("not by podman alone: {}", container.network_changes.join(", ")),
        },
        "podman sets up the container's network anew at the destination, without this: undo it, or let \
         the container's own start do it and start it there",
    );
    if container.keys > 0 {
        checks.add(
            "keys",
            Verdict::Warning,
            format!(
                "what is in its session keyring ({} keys) is not kept: its programs must add it again",
                container.keys
            ),
        );
    }
    if !container.edited.is_empty() {
        let files = container.edited.iter().map(|name| format!("/etc/{name}"));
        checks.add(
            "edited files",
            Verdict::Warning,
            format!(
                "{} changed since its start: podman writes it anew at the destination, without the change",
                join(&files.collect::<Vec<_>>())
            ),
        );
    }
    if !container.known_by_name.is_empty() {
        checks.add(
            "names",
            Verdict::Warning,
            format!(
                "{} and {} no longer find each other by name once it has moved",
                container.name,
                container.known_by_name.join(", ")
            ),
        );
    }
    let unmovable: Vec<String> = container.unmovable.iter().cloned().collect();
    checks.expect(
        "programs",
        unmovable.is_empty(),
        match unmovable.is_empty() {
            true => "nothing found that CRIU cannot dump".to_owned(),
            false => list_or_none(&unmovable),
        },
        "CRIU cannot dump this: end what uses it, or configure it otherwise",
    );
    for name in &container.lost_secrets {
        checks.add(
            "secret",
            Verdict::Failed,
            format!(
                "{name} is gone from this host, so it cannot be compared: create it again (`podman secret \
                 create {name}`)"
            ),
        );
    }
}

fn namespaces(checks: &mut Checks, container: &ContainerFacts) {
    for kind in &container.host_namespaces {
        let (verdict, detail) = match kind.as_str() {
            "ipc" => (
                Verdict::Failed,
                "--ipc=host: its shared memory is the host's, which stays here: create it with \
                 --ipc=shareable",
            ),
            "pid" => (
                Verdict::Failed,
                "--pid=host: the numbers of its processes are the host's, and may be taken elsewhere: \
                 create it without",
            ),
            "uts" => (
                Verdict::Warning,
                "--uts=host: at the destination its programs see that host's name",
            ),
            _ => (
                Verdict::Warning,
                "--cgroupns=host: at the destination its programs see that host's cgroups; what they have \
                 remembered of this one's is wrong there",
            ),
        };
        checks.add("host's namespaces", verdict, detail);
    }
}

/// What the destination must have for it.
pub(super) fn at_destination(
    checks: &mut Checks,
    container: &ContainerFacts,
    facts: &DestinationFacts,
) {
    if !facts.unknown_sysctls.is_empty() {
        checks.add(
            "sysctls",
            Verdict::Failed,
            format!(
                "the kernel here does not have {}: load the module that has it, or create the container \
                 without",
                facts.unknown_sysctls.join(", ")
            ),
        );
    }
    for secret in &container.secrets {
        let name = &secret.name;
        let here = facts.secrets.iter().find(|here| here.name == *name);
        checks.expect(
            "secret",
            here == Some(secret),
            match here {
                None => format!("there is no {name}"),
                Some(here) if here == secret => format!("{name} is the same here"),
                Some(_) => format!("{name} has another content here"),
            },
            "secrets do not travel: create it with the container's content (`podman secret create`)",
        );
    }
}
