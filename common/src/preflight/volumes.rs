//! Podman's volumes.

use super::{Checks, DestinationFacts, Verdict, short};
use crate::container::ContainerFacts;
use crate::container::binds::{Bind, Here, Volume};
use crate::container::facts::VolumeFacts;

/// Those that are sent: whether they can be.
pub(super) fn at_source(checks: &mut Checks, container: &ContainerFacts) {
    for volume in &container.volumes {
        let name = &volume.name;
        let (verdict, detail) = if volume.driver != "local" || !volume.options.is_empty() {
            (
                Verdict::Failed,
                format!(
                    "{name} has options or a driver of its own: it cannot be sent; make one that is the same at the \
                     destination, and say `--volume {name}=keep`"
                ),
            )
        } else if volume.shared_with.is_empty() {
            (Verdict::Ok, format!("{name} ({})", volume.driver))
        } else {
            shared(volume)
        };
        checks.add("volume", verdict, detail);
    }
}

fn shared(volume: &VolumeFacts) -> (Verdict, String) {
    let name = &volume.name;
    let others: Vec<&str> = volume.shared_with.iter().map(|id| short(id)).collect();
    let others = others.join(", ");
    match volume.send {
        true => (
            Verdict::Warning,
            format!(
                "{name} is also used by {others}, which keep it here: a copy goes with the container, as it is when \
                 it is read, and neither sees what the other changes"
            ),
        ),
        false => (
            Verdict::Failed,
            format!(
                "{name} is also used by {others}: say `--volume {name}=send` if a copy is to go with the container, \
                 or `--volume {name}=keep` if the destination has what is to be used"
            ),
        ),
    }
}

/// Those that are sent: whether there is a place for them.
pub(super) fn at_destination(
    checks: &mut Checks,
    container: &ContainerFacts,
    facts: &DestinationFacts,
) {
    for volume in &container.volumes {
        let name = &volume.name;
        let taken = facts.volumes.contains(name);
        checks.expect(
            "volume name",
            !taken,
            format!("{name} is {}", if taken { "taken" } else { "free" }),
            &format!(
                "a volume of this name exists here and is not overwritten: remove or rename it, or say `--volume \
                 {name}=keep` if it is to be used"
            ),
        );
    }
}

/// Why the destination cannot keep a volume that is what it has `here` under its name.
pub(super) fn is_another(volume: &Volume, here: &Here) -> Option<String> {
    let name = &volume.name;
    let look = format!("`podman volume inspect {name}` at the source shows them");
    match &here.volume {
        None => Some(format!(
            "there is no volume of this name: create it with the same driver and options ({look})"
        )),
        Some(there) if there != volume => Some(format!(
            "the volume of this name has another driver or other options than the source's ({look})"
        )),
        Some(_) => None,
    }
}

/// What can be said of one of which nothing was said, and whose content may be another at the destination.
pub(super) fn way(bind: &Bind, volume: &Volume) -> String {
    let name = &volume.name;
    let at = &bind.destination;
    format!(
        "what is in it at the source, at {at}, is not sent, because it has options or a driver of its own: say \
         `--volume {name}=keep` if what is in the destination's is to be used"
    )
}
