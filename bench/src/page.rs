//! The page that a run is published as.

use crate::record::Record;
use crate::table;

/// Writes the page; its plot is in `NAME.svg` beside it.
pub(crate) fn page(record: &Record, name: &str) -> String {
    let Record {
        command,
        date,
        machine,
        rounds,
        ..
    } = record;
    let (bars, times, memory) = (
        table::bars(record),
        table::times(record),
        table::memory(record),
    );
    let troubles = troubles(record);
    format!(
        "# How long clients wait\n\
         \n\
         Written by this command, not by hand:\n\
         \n\
         ```sh\n\
         {command}\n\
         ```\n\
         \n\
         {date}; {machine}.\n\
         Rounds: {rounds}. In each round everything takes its turn, so that whatever else the machine does\n\
         affects all of it alike: compare figures on this page with each other, and not with those of another\n\
         machine or day. All are medians, with the 95th percentile in parentheses.\n\
         \n\
         {bars}\n\
         {times}\
         {troubles}\n\
         ![what happens during the outages, as timelines]({name}.svg)\n\
         \n\
         The rounds with the median gaps. [{name}.json]({name}.json) has every round.\n\
         \n\
         {memory}\n\
         {METHODS}"
    )
}

/// What went wrong, if anything did.
fn troubles(record: &Record) -> String {
    let faults = record.summaries.iter().filter_map(|summary| {
        let fault = summary.fault.as_ref()?;
        let (workload, method) = (summary.workload.describe(), summary.method);
        Some(format!("- {workload}, {method}, not whole: `{fault}`\n"))
    });
    let failures = record.failures.iter().map(|failure| {
        let (workload, method) = (failure.workload.describe(), failure.method);
        let line = failure.error.lines().next().unwrap_or_default();
        let round = failure.round;
        format!("- {workload}, {method}, round {round} could not be measured: `{line}`\n")
    });
    let all: String = faults.chain(failures).collect();
    if all.is_empty() {
        all
    } else {
        format!("\n{all}")
    }
}

const METHODS: &str = "\
## What is measured

- **gap**: the longest time in which a client had sent frames and got no answer. It sends one every
  millisecond; with 100 connections, each sends one every 50 ms. The gap is longer than the freeze
  if what a client sends meanwhile is lost and only sent again when the client's own timer expires.
- **frozen**: how long the processes were frozen: for the agents the report's `freeze_ms`; by hand, from
  the start of the checkpoint to the end of the restore; for the floor, the sum of both commands.
- **total**: from the first command to the last, including the removal of the old container.
  **moved**: bytes of the bulk streams, or of the archive.
- **whole**: rounds after which every connection had every byte, in order and from the same process,
  and the container reported nothing broken.
- **memory**: the most that was resident at any moment (`VmHWM`), in any round.

The same container, created again each time, is

- **floor**: checkpointed by `runc checkpoint` and restored by `runc restore` on one host, in the
  cgroup and the network that Podman made, with CRIU's own network lock. Nothing moves: no migration
  can do without this.
- **by hand**: moved with `podman container checkpoint --export --tcp-established`, a copy with `nc`, and
  `podman container restore --import --tcp-established`, over the agents' tunnel, with connections
  installed and redirected by the agents' own code, and packets dropped at the source meanwhile. Podman
  alone would break them.
- **agents**: moved by `agent-client migrate`, both agents built for release.

Before anything is measured, both hosts have the images, and the tunnel is up.
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::example;

    #[test]
    fn the_page_has_tables_plot_and_what_went_wrong() {
        let page = page(&example(), "outage");
        for part in [
            "| bar ",
            "| workload ",
            "| process ",
            "](outage.svg)",
            "- echo, 2 GiB of files, agents, not whole: `a < b`",
        ] {
            assert!(page.contains(part), "{part}: {page}");
        }
        assert!(!page.contains("\n\n\n"), "{page}");
    }
}
