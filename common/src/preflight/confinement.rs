//! What confines the container's processes, and whether it would at the destination.

use super::{Checks, DestinationFacts, Verdict};
use crate::container::ContainerFacts;
use crate::container::apparmor::{PODMANS, SecurityModule};
use crate::host::HostFacts;

const NAME: &str = "confinement";

/// CRIU restores each process's label. A container must not fail for lack of it during the outage,
/// nor run less confined than before, or than others on the destination.
pub(super) fn confinement(
    checks: &mut Checks,
    container: &ContainerFacts,
    source: &HostFacts,
    host: &HostFacts,
    facts: &DestinationFacts,
) {
    let labels = &container.labels;
    match (source.security, host.security) {
        (SecurityModule::None, SecurityModule::None) => {
            checks.add(NAME, Verdict::Ok, SecurityModule::None.to_string());
        }
        (SecurityModule::None, there) => checks.add(
            NAME,
            Verdict::Failed,
            format!(
                "the source has no AppArmor or SELinux, so the container is not confined, and would run \
                 so here, where {there} confines the others: create it here anew, or turn off {there} \
                 here"
            ),
        ),
        (here, there) if here != there && !labels.is_empty() => checks.add(
            NAME,
            Verdict::Failed,
            format!(
                "{here} confines the container at the source ({}), and this host has {there}: turn on \
                 {here} here",
                list(labels)
            ),
        ),
        (SecurityModule::Apparmor, SecurityModule::Apparmor) => profiles(checks, container, facts),
        _ if labels.is_empty() => checks.add(NAME, Verdict::Ok, "unconfined at the source as well"),
        _ => checks.add(NAME, Verdict::Ok, list(labels)),
    }
}

fn profiles(checks: &mut Checks, container: &ContainerFacts, facts: &DestinationFacts) {
    for profile in &container.labels {
        let (verdict, detail) = if facts.profiles.contains(profile) {
            (Verdict::Ok, profile.clone())
        } else if !profile.starts_with(PODMANS) {
            let detail = format!(
                "the AppArmor profile {profile} is not loaded here: copy its file from the source's \
                 /etc/apparmor.d and load it with `apparmor_parser -r`"
            );
            (Verdict::Failed, detail)
        } else if facts.loads_profiles {
            let detail = format!("{profile} is podman's own and will be loaded by podman");
            (Verdict::Ok, detail)
        } else {
            let detail = format!(
                "podman cannot load its AppArmor profile {profile} here: install apparmor_parser (in most \
                 distributions the package apparmor)"
            );
            (Verdict::Failed, detail)
        };
        checks.add(NAME, verdict, detail);
    }
    if container.labels.is_empty() {
        checks.add(NAME, Verdict::Ok, "unconfined at the source as well");
    }
}

fn list(labels: &std::collections::BTreeSet<String>) -> String {
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    labels.join(", ")
}
