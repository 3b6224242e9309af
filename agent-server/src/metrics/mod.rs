//! What is counted, for Prometheus and the like. docs/metrics.md says what each means.
//!
//! [`measured`] counts what migrations do, [`here`] looks at this host when somebody asks, and [`endpoint`] answers.

pub mod endpoint;
mod here;
pub mod measured;

use std::sync::Arc;
use std::time::Duration;

use common::net::packets::queue::Count;
use common::protocol::StreamKind;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use trust::Peers;

/// Bounds of what takes time, in seconds: outages are short, transfers may be long.
const SECONDS: [f64; 14] = [
    0.01, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 30.0, 60.0, 300.0,
];

/// A label whose values are known beforehand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Label {
    name: &'static str,
    value: &'static str,
}

impl EncodeLabelSet for Label {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        (self.name, self.value).encode(encoder.encode_label())
    }
}

/// What this server has counted since it was started; clones share everything.
#[derive(Debug, Clone, Default)]
pub struct Metrics(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    migrations: Family<Label, Counter>,
    phases: Family<Label, Histogram, fn() -> Histogram>,
    outage: Histogram,
    received: Family<Label, Counter>,
    packets: Family<Label, Counter>,
    sessions: Gauge,
}

fn seconds() -> Histogram {
    Histogram::new(SECONDS)
}

impl Default for Counts {
    fn default() -> Self {
        let counts = Counts {
            migrations: Family::default(),
            phases: Family::new_with_constructor(seconds),
            outage: seconds(),
            received: Family::default(),
            packets: Family::default(),
            sessions: Gauge::default(),
        };
        // What has not happened yet is 0 and not unknown: otherwise the first time would not be seen as a change.
        for end in [End::Committed, End::RolledBack, End::LeftOver, End::Refused] {
            drop(counts.migrations.get_or_create(&end.label()));
        }
        counts
    }
}

/// How a migration ended, as the destination sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The container runs here.
    Committed,
    /// It was undone.
    RolledBack,
    /// It was undone but for something that could not be.
    LeftOver,
    /// It was not begun.
    Refused,
}

impl End {
    fn label(self) -> Label {
        Label {
            name: "outcome",
            value: match self {
                End::Committed => "committed",
                End::RolledBack => "rolled_back",
                End::LeftOver => "left_over",
                End::Refused => "refused",
            },
        }
    }
}

impl Metrics {
    fn ended(&self, end: End) {
        self.0.migrations.get_or_create(&end.label()).inc();
    }

    fn phase(&self, value: &'static str, took: Duration) {
        let label = Label {
            name: "phase",
            value,
        };
        self.0
            .phases
            .get_or_create(&label)
            .observe(took.as_secs_f64());
    }

    fn outage(&self, took: Duration) {
        self.0.outage.observe(took.as_secs_f64());
    }

    fn received(&self, kind: StreamKind, bytes: u64) {
        let label = Label {
            name: "content",
            value: match kind {
                StreamKind::Image => "image",
                StreamKind::Skeleton => "skeleton",
                StreamKind::Volumes => "volumes",
                StreamKind::Files => "files",
                StreamKind::Checkpoint => "checkpoint",
                StreamKind::Memory => "memory",
            },
        };
        self.0.received.get_or_create(&label).inc_by(bytes);
    }

    fn packets(&self, count: Count) {
        for (value, number) in [("held", count.held), ("dropped", count.dropped)] {
            let label = Label {
                name: "fate",
                value,
            };
            self.0.packets.get_or_create(&label).inc_by(number);
        }
    }

    /// Counts a connection of a peer for as long as the guard lives.
    pub(crate) fn session(&self) -> OpenSession {
        self.0.sessions.inc();
        OpenSession(self.0.sessions.clone())
    }

    /// All of it as OpenMetrics text, along with what this host has now. Blocks.
    ///
    /// # Errors
    /// None in practice: it is written to memory.
    fn text(&self, peers: &Peers) -> Result<String, std::fmt::Error> {
        let counts = &self.0;
        let mut registry = Registry::with_prefix("live_migration");
        registry.register(
            "migrations",
            "Migrations to this host that have ended, by how",
            counts.migrations.clone(),
        );
        registry.register_with_unit(
            "outage",
            "From the first packet that was sent here instead of to the source until the commit",
            Unit::Seconds,
            counts.outage.clone(),
        );
        registry.register_with_unit(
            "phase",
            "Time that this host took for each request of a migration",
            Unit::Seconds,
            counts.phases.clone(),
        );
        registry.register_with_unit(
            "received",
            "Content that has come through tunnels and was whole",
            Unit::Bytes,
            counts.received.clone(),
        );
        registry.register(
            "packets",
            "Packets for containers and from them that waited during outages, and that found no room to wait",
            counts.packets.clone(),
        );
        registry.register(
            "sessions",
            "Control connections of peers that are open",
            counts.sessions.clone(),
        );
        here::look(&mut registry, peers);
        let mut text = String::new();
        encode(&mut text, &registry)?;
        Ok(text)
    }
}

/// A connection that is counted.
pub(crate) struct OpenSession(Gauge);

impl Drop for OpenSession {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_been_counted_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let peers = Peers::open(dir.path()).unwrap();
        let metrics = Metrics::default();
        metrics.ended(End::Committed);
        metrics.received(StreamKind::Memory, 4096);
        metrics.packets(Count {
            held: 3,
            dropped: 1,
        });
        metrics.outage(Duration::from_millis(150));
        metrics.phase("restore", Duration::from_secs(1));
        let session = metrics.session();
        let text = metrics.text(&peers).unwrap();
        for line in [
            "live_migration_migrations_total{outcome=\"committed\"} 1",
            "live_migration_migrations_total{outcome=\"rolled_back\"} 0",
            "live_migration_received_bytes_total{content=\"memory\"} 4096",
            "live_migration_packets_total{fate=\"held\"} 3",
            "live_migration_packets_total{fate=\"dropped\"} 1",
            "live_migration_outage_seconds_bucket{le=\"0.2\"} 1",
            "live_migration_phase_seconds_count{phase=\"restore\"} 1",
            "live_migration_sessions 1",
            "live_migration_peers 0",
            "# EOF",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}:\n{text}");
        }
        drop(session);
        let text = metrics.text(&peers).unwrap();
        assert!(text.contains("live_migration_sessions 0"), "{text}");
    }
}
