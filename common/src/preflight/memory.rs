//! Which way private memory goes: ahead of the outage, or in it. Neither keeps a container from moving.

use super::{Checks, DestinationFacts, Verdict};
use crate::container::ContainerFacts;
use crate::host::HostFacts;
use crate::units;

/// Containers with less memory than this, in bytes, move it in the outage: leaving it out of the dump and giving it to
/// the processes afterwards takes as long as writing and sending it (docs/container.md).
const WORTH_IT_BYTES: u64 = 64 << 20;

/// Less than this in addition, in bytes, is not worth a word.
const WORTH_A_WORD_BYTES: u64 = 16 << 20;

/// The only runtime whose restore has been seen to be lazy.
const RUNTIME: &str = "runc";

/// For each page that a process has mapped privately, used or not, CRIU makes room for as many bytes in a list when it
/// leaves memory out of a dump, and copies the list into the process' memory (`__parasite_dump_pages_seized` in
/// criu/mem.c; a `struct iovec`). If memory is dumped, only what is used of the list costs anything.
const LISTED_BYTES: u64 = 16;

/// Why memory cannot go ahead, as far as the source knows.
pub fn stays(container: &ContainerFacts, host: &HostFacts) -> Option<String> {
    let bytes = container.memory_bytes;
    if bytes < WORTH_IT_BYTES {
        Some(format!("{} is little", units::bytes(bytes)))
    } else if container.runtime_name() != RUNTIME {
        let runtime = container.runtime_name();
        Some(format!("{runtime} does not restore it lazily"))
    } else if container.mapped_bytes / host.page_bytes.max(1) > bytes / LISTED_BYTES {
        let mapped = units::bytes(container.mapped_bytes);
        Some(format!(
            "it has mapped {mapped}, of which CRIU would make a longer list"
        ))
    } else {
        host.lazy_dump_problem.clone()
    }
}

/// Why it cannot, as far as a destination knows that has room for so many bytes.
pub fn has_no_room(container: &ContainerFacts, room_bytes: u64) -> Option<String> {
    let bytes = container
        .memory_bytes
        .saturating_add(container.copied_bytes);
    (bytes > room_bytes).then(|| {
        format!(
            "there is room for {} of {} there",
            units::bytes(room_bytes),
            units::bytes(bytes)
        )
    })
}

/// Says it of the source.
pub(super) fn at_source(checks: &mut Checks, container: &ContainerFacts, host: &HostFacts) {
    let stays = stays(container, host);
    if stays.is_none() && container.copied_bytes > WORTH_A_WORD_BYTES {
        checks.add(
            "shared memory",
            Verdict::Warning,
            format!(
                "its processes share memory since they were forked, and each gets its own where it goes ahead of the \
                 outage: it takes up to {} more at the destination, until they are started anew",
                units::bytes(container.copied_bytes)
            ),
        );
    }
    say(checks, stays);
}

/// Says it of the destination.
pub(super) fn at_destination(
    checks: &mut Checks,
    container: &ContainerFacts,
    facts: &DestinationFacts,
) {
    say(checks, has_no_room(container, facts.memory_room_bytes));
    for pages in &container.huge_pages {
        let free = facts.huge_pages.get(&pages.page_bytes);
        let free = free.copied().unwrap_or_default();
        let (size, wanted) = (units::bytes(pages.page_bytes), pages.bytes);
        checks.expect(
            "huge pages",
            free >= wanted,
            format!(
                "the container has {} in pages of {size}, {} are free here",
                units::bytes(wanted),
                units::bytes(free)
            ),
            "reserve more (`sysctl -w vm.nr_hugepages=`, or for another size `nr_hugepages` in \
             /sys/kernel/mm/hugepages)",
        );
    }
}

fn say(checks: &mut Checks, why: Option<String>) {
    let detail = match why {
        None => "private memory can go ahead of the outage".to_owned(),
        Some(why) => format!("all of it goes in the outage: {why}"),
    };
    checks.add("memory", Verdict::Ok, detail);
}
