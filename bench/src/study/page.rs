//! The page on which a run is published.

use super::datagrams::{Datagrams, percent};
use super::record::Record;
use crate::table::table;

/// Writes the page; its plots are in `NAME-*.svg` beside it.
pub(super) fn page(record: &Record, name: &str) -> String {
    let Record {
        command,
        date,
        machine,
        wireguard,
        ..
    } = record;
    let (tcp, datagrams) = (tcp(record), datagrams(record, name));
    format!(
        "# Long flows through two migrations\n\
         \n\
         Written by this command, not by hand:\n\
         \n\
         ```sh\n\
         {command}\n\
         ```\n\
         \n\
         {date}; {machine}; WireGuard: {wireguard}.\n\
         A container with an iperf3 server moves from the source to the destination 20 s after a flow\n\
         has begun, and from there to a third host at 40 s; the flow lasts 80 s. Packets pass through client,\n\
         source, tunnel and destination after the first migration, and through client, source, another tunnel\n\
         and third host after the second. All hosts, both ends of iperf3 and all WireGuard share the processors.\n\
         [{name}.json]({name}.json) has every tenth of a second.\n\
         \n\
         ## TCP, both directions at once\n\
         \n\
         `iperf3 --bidir`.\n\
         \n\
         {tcp}\n\
         ![throughput]({name}-throughput.svg)\n\
         \n\
         ![round-trip time]({name}-rtt.svg)\n\
         \n\
         {datagrams}\
         ## Plots of the datagrams\n\
         \n\
         ![datagrams a second]({name}-packets.svg)\n\
         \n\
         ![loss]({name}-loss.svg)\n\
         \n\
         ![jitter]({name}-jitter.svg)\n"
    )
}

/// All tables.
pub(super) fn tables(record: &Record) -> String {
    let mut tables = tcp(record);
    for flow in &record.datagrams {
        tables += &format!("\n{}\n{}", stretches(flow), controls(flow));
    }
    tables
}

fn tcp(record: &Record) -> String {
    let tcp = &record.tcp;
    let rows = [
        ("to the container", &tcp.to_container),
        ("from the container", &tcp.from_container),
    ];
    let rows = rows.into_iter().map(|(name, direction)| {
        let mean = |n: usize| {
            let mean = direction.means_mbit.get(n).copied().flatten();
            mean.map_or("–".to_owned(), |mbit| format!("{mbit:.0}"))
        };
        [name.to_owned(), mean(0), mean(1), mean(2)]
    });
    let header = ["Mbit/s", "before", "after one", "after two"];
    table(header, rows)
}

fn datagrams(record: &Record, name: &str) -> String {
    let mut text = String::new();
    for flow in &record.datagrams {
        let rate = rate(flow);
        let how = match flow.rate {
            None => FULL.to_owned(),
            Some(_) => STEADY.to_owned(),
        };
        let (stretches, controls, sum) = (stretches(flow), controls(flow), sum(flow));
        text += &format!(
            "## Datagrams of 16 bytes, {rate}\n\
             \n\
             {how}\n\
             \n\
             {stretches}\n\
             {sum}\n\
             \n\
             Control, without any migration: over the same paths to a container that was at the far end\n\
             from the start, with ports forwarded by nftables (see `bench/src/ways.rs`).\n\
             \n\
             {controls}\n"
        );
    }
    text + &format!("{NOTES}\nThe plots are of [{name}.json]({name}.json).\n\n")
}

/// The rate, in words.
pub(super) fn rate(flow: &Datagrams) -> String {
    match flow.rate {
        None => "at full rate".to_owned(),
        Some(rate) => format!("{rate} a second"),
    }
}

fn stretches(flow: &Datagrams) -> String {
    let rows = flow.stretches.iter().map(|stretch| {
        let what = match (stretch.moving, stretch.migrations) {
            (true, number) => format!("migration {}", number + 1),
            (false, 0) => "before".to_owned(),
            (false, number) => format!("after {number}"),
        };
        let control = |place: usize| {
            let control = flow.controls.get(place);
            control.map_or("–".to_owned(), |c| format!("{:.2} %", c.loss_percent()))
        };
        let compared = if stretch.moving {
            let after = control(stretch.migrations + 1);
            format!("{} to {after}", control(stretch.migrations))
        } else {
            control(stretch.migrations)
        };
        [
            what,
            format!("{:.1}", stretch.seconds),
            stretch.sent.to_string(),
            stretch.lost.to_string(),
            format!("{:.2} %", stretch.loss_percent()),
            compared,
            format!("{:.0}", stretch.gap_ms),
            format!("{:.3}", stretch.jitter_ms),
        ]
    });
    let header = [
        "",
        "s",
        "sent",
        "lost",
        "loss",
        "control",
        "gap, ms",
        "jitter, ms",
    ];
    table(header, rows)
}

fn controls(flow: &Datagrams) -> String {
    let rows = flow.controls.iter().map(|control| {
        [
            control.place.to_string(),
            format!("{:.1}", control.seconds),
            control.sent.to_string(),
            control.lost.to_string(),
            format!("{:.2} %", control.loss_percent()),
            control.reordered.to_string(),
            format!("{:.0}", control.gap_ms),
            format!("{:.3}", control.jitter_ms),
        ]
    });
    let header = [
        "migrations",
        "s",
        "sent",
        "lost",
        "loss",
        "reordered",
        "gap, ms",
        "jitter, ms",
    ];
    table(header, rows)
}

fn sum(flow: &Datagrams) -> String {
    let (sent, lost) = flow.whole();
    let (loss, reordered) = (percent(lost, sent), flow.reordered);
    format!(
        "In all, {lost} of {sent} were lost ({loss:.2} %), and {reordered} arrived out of order."
    )
}

const FULL: &str = "\
`iperf3 --udp --bitrate 0 --length 16`: as many as the client can send, which is more than the
tunnel or the server can take. What the control loses as well is lost for that reason, and not because
of a migration.";

const STEADY: &str = "\
`iperf3 --udp --length 16` at the highest rate at which nothing was lost in three seconds, through the
tunnel to the last host and without a migration. The rate was found by bisection in the same run.";

const NOTES: &str = "\
## What is measured

- **sent**, **lost**, **jitter**: as the server reports them, by sequence numbers; in the control, what the
  client sent and the server did not receive. A migration's row begins with the command and ends 1 s after it.
- **control** in a migration's row: the control's loss over the path before it, and over the path after it.
- **gap**: the longest time in which nothing arrived, to within a tenth of a second: the intervals in which
  nothing arrived, plus the excess length of those in which the server was frozen. Datagrams that arrive
  meanwhile wait and are delivered afterwards.
";

#[cfg(test)]
mod tests {
    use super::super::record::tests::example;
    use super::*;

    #[test]
    fn the_page_has_tables_and_plots() {
        let page = page(&example(), "study");
        for part in [
            "| to the container   | 8      | 4         | –         |",
            "## Datagrams of 16 bytes, at full rate",
            "## Datagrams of 16 bytes, 100 a second",
            "| migration 1 | 2.0 | 200  | 50   | 25.00 % | 13.00 % to 13.00 % |",
            "In all, 55 of 490 were lost (11.22 %), and 3 arrived out of order.",
            "](study-jitter.svg)",
        ] {
            assert!(page.contains(part), "{part}: {page}");
        }
        assert!(!page.contains("\n\n\n"), "{page}");
    }
}
