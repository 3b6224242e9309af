//! Directories and files of the host that are bound into the container.

use super::room::Wanted;
use super::volumes::{is_another, way};
use super::{Checks, DestinationFacts, Verdict};
use crate::container::ContainerFacts;
use crate::container::binds::{Bind, Here, Kind, Wish, sent};
use crate::units;

/// The check's name.
const NAME: &str = "bind mount";

/// What cannot move whatever the destination has.
pub(super) fn at_source(checks: &mut Checks, container: &ContainerFacts) {
    for bind in &container.binds {
        let path = &bind.source;
        if let Some(obstacle) = &bind.obstacle {
            checks.add(NAME, Verdict::Failed, format!("{path}: {obstacle}"));
        }
        if bind.is_sent() && bind.kind == Kind::Special {
            checks.add(
                NAME,
                Verdict::Failed,
                format!("{path} is neither a directory nor a file: it cannot be sent"),
            );
        }
        if bind.shared.is_some() && !bind.is_sent() && !bind.locked.is_empty() {
            checks.add(
                NAME,
                Verdict::Failed,
                format!(
                    "{path}: the container has locked {} there, on a server: the destination cannot lock it \
                     before this host has let go",
                    bind.locked.join(", ")
                ),
            );
        }
    }
    for mount in &container.other_mounts {
        checks.add(
            "mount",
            Verdict::Failed,
            format!("{mount} is not known to move: create the container without"),
        );
    }
}

/// What becomes of each.
pub(super) fn at_destination(
    checks: &mut Checks,
    container: &ContainerFacts,
    facts: &DestinationFacts,
) {
    for bind in &container.binds {
        let here = facts.binds.get(&bind.destination);
        let unknown = Here::default();
        let (verdict, detail) = judged(bind, here.unwrap_or(&unknown));
        if let Some(volume) = &bind.volume {
            let detail = format!("{} at {}: {detail}", volume.name, bind.destination);
            checks.add("volume", verdict, detail);
            continue;
        }
        let place = match bind.there().to_str() {
            Some(there) if there != bind.source => format!("{} (here {there})", bind.source),
            _ => bind.source.clone(),
        };
        checks.add(
            NAME,
            verdict,
            format!("{place} at {}: {detail}", bind.destination),
        );
    }
}

/// What is to be written at the destination for those that are sent.
pub(super) fn wanted<'a>(
    container: &ContainerFacts,
    facts: &'a DestinationFacts,
) -> Vec<Wanted<'a>> {
    let sent = sent(&container.binds).into_iter();
    let wanted = sent.filter_map(|bind| {
        Some(Wanted {
            what: "bind mount",
            bytes: bind.bytes,
            room: &facts.binds.get(&bind.destination)?.room,
        })
    });
    wanted.collect()
}

fn judged(bind: &Bind, here: &Here) -> (Verdict, String) {
    if let Some(why) = bind.volume.as_ref().and_then(|v| is_another(v, here)) {
        return failed(why);
    }
    if here.through_link {
        return failed(
            "a symbolic link leads there: say `--bind PATH=` with the path that it leads to",
        );
    }
    match &bind.wish {
        Wish::Unsaid => unsaid(bind, here),
        Wish::Keep | Wish::At { .. } => kept(bind, here),
        Wish::Send { overwrite } => sent_here(bind, here, *overwrite),
    }
}

fn failed(why: impl Into<String>) -> (Verdict, String) {
    (Verdict::Failed, why.into())
}

fn fine(what: impl Into<String>) -> (Verdict, String) {
    (Verdict::Ok, what.into())
}

fn unsaid(bind: &Bind, here: &Here) -> (Verdict, String) {
    let path = &bind.source;
    if here.shared {
        return fine("kept: both hosts have this file system");
    }
    if let Some(volume) = &bind.volume {
        return match volume.is_on_server() {
            true => kept(bind, here),
            false => failed(way(bind, volume)),
        };
    }
    let ways = format!(
        "say `--bind {path}=send`, or `--bind {path}=keep` if what is to be used is already there, or \
         `--bind {path}=OTHER` if it is at another path"
    );
    match bind.kind {
        Kind::Directory if !bind.read_only => failed(format!(
            "a directory of the source that the container may write to: {ways}"
        )),
        Kind::Special => failed(format!(
            "neither a directory nor a file: say `--bind {path}=keep` if one that does the same is there"
        )),
        _ if bind.content.is_none() => failed(format!("too large to be compared: {ways}")),
        _ if here.kind.is_none() => failed(format!("it is not there: {ways}")),
        _ if !here.same => failed(format!("its content is different here: {ways}")),
        _ if !bind.read_only && !here.allowed => failed(format!(
            "the same here, but the container may write to it: {}",
            not_allowed(bind)
        )),
        _ => fine("kept: its content is the same here"),
    }
}

fn kept(bind: &Bind, here: &Here) -> (Verdict, String) {
    let gains_nothing = here.shared || here.same && bind.read_only;
    match here.kind {
        None => failed("there is nothing at this path"),
        Some(kind) if kind != bind.kind => failed("something of another kind is at this path"),
        Some(_) if !here.allowed && !gains_nothing => failed(not_allowed(bind)),
        Some(_) if !here.differing.is_empty() => failed(format!(
            "the container has files open in it that are different or missing here ({}): send it, or make \
             them the same",
            here.differing.join(", ")
        )),
        Some(_) => fine("kept: what is here takes its place"),
    }
}

fn sent_here(bind: &Bind, here: &Here, overwrite: bool) -> (Verdict, String) {
    let size = units::bytes(bind.bytes);
    match here.kind {
        _ if !here.allowed => failed(not_allowed(bind)),
        None => fine(format!("will be sent ({size})")),
        Some(_) if here.mounted => failed(
            "another file system is mounted exactly there, which cannot be put aside: copy the files there \
             yourself and say `keep`",
        ),
        Some(_) if here.empty => fine(format!("will be sent ({size})")),
        Some(_) if overwrite => fine(format!("will be sent ({size}), in place of what is there")),
        Some(_) => {
            failed("something is there and is not overwritten: remove it, or say `--overwrite`")
        }
    }
}

fn not_allowed(bind: &Bind) -> String {
    format!(
        "the destination does not let its peers use it: start it with `agent-server serve --allow-bind {}`, or \
         with a directory above",
        bind.there().display()
    )
}
