//! The page on which a run is published.

use super::record::{LEAST, Record};
use crate::table::table;

/// Writes the page; its plot is in `NAME.svg` beside it.
pub(super) fn page(record: &Record, name: &str) -> String {
    let Record {
        command,
        date,
        machine,
        wireguard,
        rounds,
        ..
    } = record;
    let (bars, rates, troubles) = (bars(record), rates(record), troubles(record));
    format!(
        "# What a flow gets after a migration\n\
         \n\
         Written by this command, not by hand:\n\
         \n\
         ```sh\n\
         {command}\n\
         ```\n\
         \n\
         {date}; {machine}; WireGuard: {wireguard}.\n\
         Rounds: {rounds}. All hosts, both ends of iperf3 and all WireGuard share the processors: compare\n\
         figures on this page with each other, and not with those of another machine or day.\n\
         \n\
         {bars}\n\
         {rates}\
         {troubles}\n\
         ![the rate of flows through two migrations]({name}.svg)\n\
         \n\
         The rounds with the median ratios. [{name}.json]({name}.json) has every round.\n\
         \n\
         {METHOD}"
    )
}

/// Bars and rates.
pub(super) fn tables(record: &Record) -> String {
    format!("{}\n{}", bars(record), rates(record))
}

fn bars(record: &Record) -> String {
    let rows = record.summaries.iter().flat_map(|summary| {
        let after = summary.stages.iter().filter(|stage| stage.migrations > 0);
        after.map(|stage| {
            let (ratio, (low, high)) = (stage.ratio, stage.ratio_quartiles);
            let verdict = if ratio >= LEAST { "met" } else { "missed" };
            [
                summary.case.to_string(),
                stage.migrations.to_string(),
                format!("≥ {LEAST:.2}×"),
                format!("{ratio:.2}× ({low:.2}–{high:.2})"),
                verdict.to_owned(),
            ]
        })
    });
    let header = ["flow", "migrations", "of plain iperf3", "measured", ""];
    table(header, rows)
}

fn rates(record: &Record) -> String {
    let gigabits = |bits: f64| format!("{:.2}", bits / 1e9);
    let rows = record.summaries.iter().map(|summary| {
        let pair = |n: usize| {
            summary.stages.get(n).map_or("–".to_owned(), |stage| {
                format!("{} / {}", gigabits(stage.flow), gigabits(stage.plain))
            })
        };
        [
            summary.case.to_string(),
            summary.rounds.to_string(),
            pair(0),
            pair(1),
            pair(2),
            summary.alone.map_or("–".to_owned(), gigabits),
            summary
                .of_alone
                .map_or("–".to_owned(), |ratio| format!("{ratio:.2}×")),
        ]
    });
    let header = [
        "Gbit/s: flow / plain",
        "rounds",
        "before",
        "after one",
        "after two",
        "tunnel alone",
        "after one / tunnel alone",
    ];
    table(header, rows)
}

/// What went wrong, if anything did.
fn troubles(record: &Record) -> String {
    let failures = record.failures.iter().map(|failure| {
        let line = failure.error.lines().next().unwrap_or_default();
        let (round, case) = (failure.round, failure.case);
        format!("- {case}, round {round} could not be measured: `{line}`\n")
    });
    let all: String = failures.collect();
    if all.is_empty() {
        all
    } else {
        format!("\n{all}")
    }
}

const METHOD: &str = "\
## What is measured

- **flow**: one run of iperf3, from a client to a container whose port is published at the source. It
  begins before the first migration and goes on after the second: the same connections all the time.
  The container moves from the source to the destination, and from there to a third host. After the
  first migration, packets pass through client, source, tunnel, destination and container; after the
  second, through client, source, another tunnel, third host and container.
- **plain**: iperf3 over the same path without any migration: from the same client, through the source
  and the same tunnel, to a container of the same image on the host to which the other one has moved.
  The source forwards a port to it as an administrator would set that up, with address translation
  (nftables, `dnat` and `masquerade`), and Podman publishes the container's port. So both flows pass
  the same hosts, bridges and tunnels, and what differs is what a migration leaves behind: restored
  sockets, marks and rules.
- **tunnel alone**: from the source itself to a server in the destination's own network, through the
  tunnel and nothing else. A flow from a client has two more hops.
- **before**: no tunnel; the plain flow goes to another container at the source. This shows how much two
  rates differ here that should be the same.

Before, between and after the migrations the flow takes turns with the others: when it is not a flow's turn,
its client is stopped (SIGSTOP), and its connections stay open. Each turn is measured for 2 s, beginning 1 s
after the flow started, the migration ended or the client continued. Ratios are medians of the ratios of
each turn in all rounds, with their quartiles in parentheses; rates are medians. The tunnels are the
agents' own, the same for all; both agents are built for release.

The first stop after the first migration can hurt a flow from the container in a way that it cannot hurt a
plain flow. Its client's window was made for segments of 64 KiB, from before there was a tunnel, and while the
client is stopped, its buffer fills up with segments of 1368 bytes, which take more space. The kernel drops those
for which there is none, although they are within the window, and the sender only goes on when its retransmission
timer expires, some seconds later. So this turn measures next to nothing. That is a matter between the two ends,
whatever path the packets take.
";

#[cfg(test)]
mod tests {
    use super::super::record::tests::example;
    use super::*;

    #[test]
    fn the_page_has_tables_plot_and_what_went_wrong() {
        let page = page(&example(), "throughput");
        for part in [
            "| to the container, 1 stream    | 1          | ≥ 0.95×         | 1.00× (1.00–1.00) | met    |",
            "| from the container, 8 streams | 2          | ≥ 0.95×         | 0.80× (0.80–0.80) | missed |",
            "| 10.00 / 10.00 | 0.75 / 0.75 | 0.40 / 0.50 | 0.80 ",
            "WireGuard: userspace",
            "](throughput.svg)",
            "- from the container, 1 stream, round 2 could not be measured: `it broke`",
        ] {
            assert!(page.contains(part), "{part}: {page}");
        }
        assert!(!page.contains("\n\n\n"), "{page}");
    }
}
