//! The systemd service that a container belongs to.

use std::path::PathBuf;

use super::{Checks, Verdict};
use crate::container::service::{ServiceFacts, ServiceHere};

/// Whether the container's service can leave the source.
pub(super) fn at_source(checks: &mut Checks, service: Option<&ServiceFacts>) {
    let Some(service) = service else { return };
    match &service.problem {
        Some(why) => checks.add("service", Verdict::Failed, why),
        None => checks.add(
            "service",
            Verdict::Ok,
            format!("{} moves with it", service.name),
        ),
    }
}

/// Whether the container's service can come to the destination.
pub(super) fn at_destination(
    checks: &mut Checks,
    service: Option<&ServiceFacts>,
    here: Option<&ServiceHere>,
) {
    let Some((service, here)) = service.zip(here) else {
        return;
    };
    let name = &service.name;
    let refusal = if here.no_systemd {
        Some(format!(
            "{name} cannot come here: this host does not run systemd"
        ))
    } else if matches!(
        here.state.as_str(),
        "active" | "activating" | "deactivating" | "reloading"
    ) {
        Some(format!(
            "a service {name} is {} here: stop it (`systemctl stop {name}`)",
            here.state
        ))
    } else if here.masked {
        Some(format!(
            "{name} is masked here: run `systemctl unmask {name}` if it may come here"
        ))
    } else if !here.other_files.is_empty() {
        Some(format!(
            "{name} is defined by files that differ here: make {} the same on both hosts, \
             or remove them here",
            list(&here.other_files)
        ))
    } else {
        let fixed: Vec<PathBuf> = service
            .files
            .iter()
            .filter(|file| !file.may_be_written() && here.missing_files.contains(&file.path))
            .map(|file| file.path.clone())
            .collect();
        (!fixed.is_empty())
            .then(|| format!("{name} needs {}: install what provides it", list(&fixed)))
    };
    if let Some(why) = refusal {
        return checks.add("service", Verdict::Failed, why);
    }
    let files = match here.missing_files.is_empty() {
        true => "its files are here".to_owned(),
        false => format!("{} will be installed here", list(&here.missing_files)),
    };
    checks.add("service", Verdict::Ok, format!("{name}: {files}"));
    let missing: Vec<String> = here
        .missing_services
        .iter()
        .cloned()
        .chain(
            here.missing_named_files
                .iter()
                .map(|path| path.display().to_string()),
        )
        .collect();
    if !missing.is_empty() {
        checks.add(
            "service",
            Verdict::Warning,
            format!(
                "{name} will run here, but cannot be started again until you provide {}",
                missing.join(", ")
            ),
        );
    }
}

fn list(paths: &[PathBuf]) -> String {
    let names: Vec<String> = paths
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    names.join(", ")
}
