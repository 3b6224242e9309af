//! Live progress of a migration.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::bulk;
use common::report::PhaseName;
use common::units;
use indicatif::{ProgressBar, ProgressStyle};

/// Is told what a migration is doing.
pub(crate) trait Observer: Send + Sync {
    /// The counter of bytes sent.
    fn counts(&self, sent: bulk::ByteCount);
    /// A phase begins; the one before it is over.
    fn phase(&self, phase: PhaseName);
    /// The user is about to be asked.
    fn pause(&self);
    /// All is over.
    fn finished(&self);
}

/// Says nothing: for JSON.
pub(crate) struct Silent;

impl Observer for Silent {
    fn counts(&self, _: bulk::ByteCount) {}
    fn phase(&self, _: PhaseName) {}
    fn pause(&self) {}
    fn finished(&self) {}
}

/// A line per phase on stderr, with a spinner, bytes and rate on a terminal.
pub(crate) struct Lines {
    state: Mutex<State>,
}

struct State {
    sent: bulk::ByteCount,
    current: Option<Current>,
}

struct Current {
    phase: PhaseName,
    began: Instant,
    sent_before: u64,
    bar: Option<ProgressBar>,
}

impl Lines {
    /// Lines on stderr.
    pub(crate) fn new() -> Self {
        Lines {
            state: Mutex::new(State {
                sent: bulk::ByteCount::default(),
                current: None,
            }),
        }
    }
}

impl Observer for Lines {
    fn counts(&self, sent: bulk::ByteCount) {
        self.state.lock().expect("not poisoned").sent = sent;
    }

    fn phase(&self, phase: PhaseName) {
        let mut state = self.state.lock().expect("not poisoned");
        state.end();
        let bar = std::io::stderr().is_terminal().then(|| {
            let sent = state.sent.clone();
            let before = sent.load(Ordering::Relaxed);
            let began = Instant::now();
            let style =
                ProgressStyle::with_template("  {spinner} {prefix:<22} {elapsed} {bytes_sent}")
                    .expect("a valid template")
                    .with_key(
                        "bytes_sent",
                        move |_: &indicatif::ProgressState, out: &mut dyn std::fmt::Write| {
                            let bytes = sent.load(Ordering::Relaxed) - before;
                            let _ = out.write_str(&rate(bytes, began.elapsed()));
                        },
                    );
            let bar = ProgressBar::new_spinner().with_style(style);
            bar.set_prefix(phase.describe());
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        state.current = Some(Current {
            phase,
            began: Instant::now(),
            sent_before: state.sent.load(Ordering::Relaxed),
            bar,
        });
    }

    fn pause(&self) {
        self.state.lock().expect("not poisoned").end();
    }

    fn finished(&self) {
        self.state.lock().expect("not poisoned").end();
    }
}

impl State {
    fn end(&mut self) {
        let Some(current) = self.current.take() else {
            return;
        };
        if let Some(bar) = current.bar {
            // The ticker would draw once more between clearing and the line below.
            bar.disable_steady_tick();
            bar.finish_and_clear();
        }
        let bytes = self.sent.load(Ordering::Relaxed) - current.sent_before;
        let line = format!(
            "  {:<22} {:>8}  {}",
            current.phase.describe(),
            units::milliseconds(current.began.elapsed().as_millis() as u64),
            rate(bytes, current.began.elapsed())
        );
        eprintln!("{}", line.trim_end());
    }
}

fn rate(bytes: u64, elapsed: Duration) -> String {
    if bytes == 0 {
        return String::new();
    }
    let per_second = bytes as f64 / elapsed.as_secs_f64().max(0.001);
    format!(
        "{} ({}/s)",
        units::bytes(bytes),
        units::bytes(per_second as u64)
    )
}
