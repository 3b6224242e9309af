//! Several containers move: those that are named, or all of this host.
//!
//! What goes where is decided before anything moves ([`plan`]). Then each moves as it would by itself, in its turn
//! ([`turns`]). What has moved is not here any more, so the same command, said again, goes on where it ended.

mod guests;
mod plan;
mod summary;
mod table;
mod turns;

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::time::Duration;

use common::container::podman::list::list;
use common::journal::Journal;
use common::protocol::ContainerRef;
use common::report::Report;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio_util::sync::CancellationToken;

use self::plan::{Candidate, Fate, Place};
use self::summary::{Line, LineOutcome, Summary};
use self::turns::Turns;
use crate::address::Address;
use crate::control::Control;
use crate::format::Format;
use crate::interactive;
use crate::migrate::{self, Migration};
use crate::progress::{Lines, Observer, Silent};

/// Which containers.
pub(crate) enum Which {
    /// These, by name, id or unique prefix.
    Named(Vec<String>),
    /// All that run.
    All,
    /// Those that came from another host.
    Guests,
}

/// How they move.
pub(crate) struct Options {
    pub(crate) yes: bool,
    pub(crate) dry_run: bool,
    /// At most so many at a time.
    pub(crate) parallel: NonZeroUsize,
    /// Whether those that can move do so although others cannot, or have failed.
    pub(crate) keep_going: bool,
    pub(crate) max_freeze: Duration,
    pub(crate) forward_new: bool,
    pub(crate) format: Format,
}

/// Moves containers to these hosts; `say` prints what became of each. Returns the exit status.
///
/// # Errors
/// If a container or a host cannot be asked. Nothing has moved then.
pub(crate) async fn move_all(
    which: Which,
    destinations: Vec<Address>,
    options: &Options,
    cancel: CancellationToken,
    say: &dyn Fn(&Report),
) -> anyhow::Result<u8> {
    let mut plan = Plan::make(which, destinations, options, &cancel).await?;
    let going = plan.lines.iter().any(|line| !line.is_bad());
    let all_go = plan.lines.iter().all(|line| !line.is_bad());
    if options.dry_run {
        plan.print(options, |table| print!("{table}"));
        return plan.finish(options);
    }
    if !options.yes || !all_go {
        plan.print(options, |table| eprint!("{table}"));
    }
    if !all_go && !options.keep_going {
        plan.begin_none();
        if options.format == Format::Text {
            eprintln!(
                "agent-client: nothing was moved, because not all can: --keep-going moves the others"
            );
        }
    } else if going && !options.yes && !interactive::go_on() {
        plan.begin_none();
    } else {
        plan.carry_out(options, &cancel, say).await;
    }
    plan.finish(options)
}

/// What goes where, and what has become of it.
struct Plan {
    candidates: Vec<Candidate>,
    destinations: Vec<Address>,
    fates: Vec<Fate>,
    lines: Vec<Line>,
}

impl Plan {
    /// Looks at the containers and asks the hosts. Changes nothing.
    async fn make(
        which: Which,
        destinations: Vec<Address>,
        options: &Options,
        cancel: &CancellationToken,
    ) -> anyhow::Result<Self> {
        let names = names(which).await?;
        let mut asked = Vec::new();
        for address in &destinations {
            let control = Control::connect(address).await?;
            asked.push((address.clone(), control.cancelled_by(cancel.clone())));
        }
        let mut places: Vec<Place> = destinations
            .iter()
            .map(|address| Place {
                name: address.to_string(),
                available_bytes: None,
            })
            .collect();
        let mut candidates: Vec<Candidate> = Vec::new();
        for name in &names {
            anyhow::ensure!(!cancel.is_cancelled(), "cancelled");
            let survey = migrate::survey(name, &mut asked, options.forward_new).await?;
            let facts = survey.facts;
            if candidates.iter().any(|known| known.id == facts.id) {
                continue;
            }
            for (place, said) in places.iter_mut().zip(&survey.destinations) {
                place.available_bytes = Some(said.available_bytes).filter(|bytes| *bytes > 0);
            }
            let offers = survey.destinations.into_iter();
            candidates.push(Candidate {
                networks: facts.networks.iter().map(|n| n.name.clone()).collect(),
                id: facts.id,
                name: facts.name,
                memory_bytes: facts.memory_bytes,
                known_by_name: facts.known_by_name,
                offers: offers
                    .map(|said| match said.refusal {
                        Some(why) => Err(why),
                        None => Ok(said.estimated_freeze_ms),
                    })
                    .collect(),
            });
        }
        candidates.sort_by(|one, other| one.name.cmp(&other.name));
        let fates = plan::spread(&candidates, &places);
        let lines = candidates
            .iter()
            .zip(&fates)
            .map(|(candidate, fate)| line(candidate, fate, &places))
            .collect();
        Ok(Plan {
            candidates,
            destinations,
            fates,
            lines,
        })
    }

    fn print(&self, options: &Options, print: impl Fn(String)) {
        match options.format {
            Format::Text if self.lines.is_empty() => {
                print("no container of that kind runs here\n".into())
            }
            Format::Text => print(table::table(&self.lines)),
            Format::Json => {}
        }
    }

    /// Those that could go do not.
    fn begin_none(&mut self) {
        for line in self.lines.iter_mut().filter(|line| !line.is_bad()) {
            line.outcome = LineOutcome::NotBegun;
        }
    }

    async fn carry_out(
        &mut self,
        options: &Options,
        cancel: &CancellationToken,
        say: &dyn Fn(&Report),
    ) {
        self.begin_none();
        let goes = |(number, fate): (usize, &Fate)| match fate {
            Fate::Goes { .. } => Some((number, self.candidates[number].networks.clone())),
            Fate::Stays(_) => None,
        };
        let waiting: Vec<_> = self.fates.iter().enumerate().filter_map(goes).collect();
        let count = waiting.len();
        let mut turns = Turns::new(waiting, options.parallel.get());
        let mut under_way = FuturesUnordered::new();
        let mut begun = 0;
        loop {
            while let Some(number) = turns.begin() {
                begun += 1;
                let Fate::Goes { place, .. } = self.fates[number] else {
                    unreachable!("only those that go have a turn");
                };
                let to = self.destinations[place].clone();
                if options.format == Format::Text {
                    let name = &self.candidates[number].name;
                    eprintln!("{begun} of {count}: {name} to {to}");
                }
                under_way.push(Box::pin(one(
                    number,
                    self.candidates[number].id.clone(),
                    to,
                    options,
                    // Of its own: a migration cancels it when its outage takes too long.
                    cancel.child_token(),
                )));
            }
            let Some((number, report)) = under_way.next().await else {
                break;
            };
            turns.end(number);
            if options.format == Format::Text {
                say(&report);
            }
            self.lines[number].tried(report);
            let stop = self.lines[number].is_bad() && !options.keep_going;
            if stop || cancel.is_cancelled() {
                turns.stop();
            }
        }
    }

    /// Prints the result, and returns the exit status.
    fn finish(self, options: &Options) -> anyhow::Result<u8> {
        let source = nix::unistd::gethostname()?.to_string_lossy().into_owned();
        let summary = Summary::of(source, self.lines);
        match options.format {
            Format::Json => println!("{}", serde_json::to_string_pretty(&summary)?),
            Format::Text if options.dry_run => {}
            Format::Text => println!("{}", summary.sentence()),
        }
        Ok(summary.exit_status())
    }
}

/// Moves one container, which is known by this number.
async fn one(
    number: usize,
    id: String,
    to: Address,
    options: &Options,
    cancel: CancellationToken,
) -> (usize, Report) {
    // The phases of several at a time would be mixed up.
    let shown = options.format == Format::Text && options.parallel.get() == 1;
    let observer: &dyn Observer = match shown {
        true => &Lines::new(),
        false => &Silent,
    };
    let migration = Migration::new(to, observer, cancel)
        .max_freeze(options.max_freeze)
        .forward_new(options.forward_new);
    let (report, _) = migration.run(&id, false, &|_, _| true).await;
    (number, report)
}

/// What the containers are called that are meant.
async fn names(which: Which) -> anyhow::Result<Vec<String>> {
    let guests: Option<HashSet<String>> = match which {
        Which::Named(names) => return Ok(names),
        Which::All => None,
        Which::Guests => {
            let mut records = Journal::of("server").list()?.readable;
            records.extend(Journal::of("client").list()?.readable);
            Some(guests::guests(&records).into_iter().collect())
        }
    };
    let running = list().await?.into_iter().filter(|c| c.state == "running");
    let meant = running.filter(|c| guests.as_ref().is_none_or(|ids| ids.contains(&c.id)));
    Ok(meant.map(|container| container.id).collect())
}

fn line(candidate: &Candidate, fate: &Fate, places: &[Place]) -> Line {
    let container = ContainerRef {
        id: candidate.id.clone(),
        name: candidate.name.clone(),
    };
    match fate {
        Fate::Goes {
            place,
            estimated_freeze_ms,
        } => Line {
            container,
            destination: Some(places[*place].name.clone()),
            estimated_freeze_ms: Some(*estimated_freeze_ms),
            outcome: LineOutcome::Possible,
            error: None,
            report: None,
        },
        Fate::Stays(why) => Line {
            container,
            destination: None,
            estimated_freeze_ms: None,
            outcome: LineOutcome::Refused,
            error: Some(why.clone()),
            report: None,
        },
    }
}
