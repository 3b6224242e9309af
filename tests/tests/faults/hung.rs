//! A Podman that hangs, at each call that a migration depends on.
//!
//! Until the commit the user can end it: SIGTERM comes while Podman hangs. After it, and in an undo, the agents
//! give Podman two minutes.

use crate::case::{Case, Deed, Setting, Side};

const GROUP: &str = "podman hangs";

pub(crate) fn cases(cases: &mut Vec<Case>) {
    for (side, verb, during) in [
        (Side::Source, "inspect", "it is looked at"),
        (Side::Source, "container checkpoint", "it is written down"),
        (Side::Source, "image save", "the image is sent"),
        (Side::Destination, "info", "the checks are made"),
        (Side::Destination, "image exists", "the migration begins"),
        (Side::Destination, "image load", "the image arrives"),
        (Side::Destination, "volume create", "it is staged"),
        (
            Side::Destination,
            "container restore",
            "it comes to the gate",
        ),
    ] {
        let (name, end) = of(side);
        let what =
            format!("`podman {verb}` hangs at the {name} while {during}; SIGTERM to agent-client");
        let setting = match verb.starts_with("image ") && verb != "image exists" {
            true => Setting::HungPodmanAndImageMissing(side, verb),
            false => Setting::HungPodman(side, verb),
        };
        cases.push(
            Case::new(GROUP, &format!("{name}, {verb}"), what)
                .setting(setting)
                .step(format!("{end}.podman"), Deed::Terminate),
        );
    }
    for (side, verb, then) in [
        (Side::Destination, "info", "nobody cancels"),
        (Side::Source, "rm --force", "the container has moved"),
    ] {
        let (name, _) = of(side);
        let what = format!("`podman {verb}` hangs at the {name}; {then}");
        cases.push(
            Case::new(GROUP, &format!("{name}, {verb}, to its end"), what)
                .setting(Setting::HungPodman(side, verb)),
        );
    }
    let (side, verb) = (Side::Destination, "rm --force");
    let what = "`podman rm` hangs at the destination while the migration is undone";
    cases.push(
        Case::new(GROUP, "destination, rm --force, to its end", what.into())
            .setting(Setting::HungPodman(side, verb))
            .rolled_back(),
    );
    let what = "podman hangs at the destination behind the gate";
    cases.push(
        Case::new(GROUP, "destination, behind the gate", what.into())
            .setting(Setting::MaxFreeze)
            .step("server.restore.before", Deed::Stop(side, "podman")),
    );
}

/// A host's name in the table, and that of its agent in places.
fn of(side: Side) -> (&'static str, &'static str) {
    match side {
        Side::Source => ("source", "client"),
        Side::Destination => ("destination", "server"),
    }
}
