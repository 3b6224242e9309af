//! Which of several containers goes where.

use std::collections::{BTreeSet, HashMap};

use common::units;

/// A container, and what the destinations say of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) memory_bytes: u64,
    /// Podman's networks that it has joined.
    pub(super) networks: BTreeSet<String>,
    /// Other containers that it finds by name, and that find it.
    pub(super) known_by_name: Vec<String>,
    /// For each destination how long it would be frozen, in milliseconds, or why it cannot go there.
    pub(super) offers: Vec<Result<u64, String>>,
}

/// A host that containers can go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) name: String,
    /// Memory that it has for programs, if that is known.
    pub(super) available_bytes: Option<u64>,
}

/// What is to become of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    /// It goes to the place with this number.
    Goes {
        place: usize,
        estimated_freeze_ms: u64,
    },
    /// It cannot, for this reason.
    Stays(String),
}

/// Spreads containers over the places. Those that find each other by name go to the same one if they can: names lead
/// nowhere from another host. Otherwise each goes to where most memory is left, the largest first.
pub(super) fn spread(candidates: &[Candidate], places: &[Place]) -> Vec<Fate> {
    let mut left: Vec<Option<u64>> = places.iter().map(|place| place.available_bytes).collect();
    let mut fates = vec![Fate::Stays(String::new()); candidates.len()];
    for circle in circles(candidates) {
        let together = best(candidates, &circle, &left);
        for &number in &circle {
            let candidate = &candidates[number];
            let place = together
                .filter(|&place| takes(candidate, place, &left))
                .or_else(|| best(candidates, &[number], &left));
            fates[number] = match place.map(|place| (place, &candidate.offers[place])) {
                Some((place, Ok(estimated_freeze_ms))) => {
                    if let Some(left) = &mut left[place] {
                        *left = left.saturating_sub(candidate.memory_bytes);
                    }
                    Fate::Goes {
                        place,
                        estimated_freeze_ms: *estimated_freeze_ms,
                    }
                }
                _ => Fate::Stays(why_not(candidate, places)),
            };
        }
    }
    fates
}

/// Whether a container can go there, and there is memory for it.
fn takes(candidate: &Candidate, place: usize, left: &[Option<u64>]) -> bool {
    let room = left[place].is_none_or(|left| left >= candidate.memory_bytes);
    room && candidate.offers[place].is_ok()
}

/// The place that takes most of these containers; among several the one with most memory, then the first.
fn best(candidates: &[Candidate], numbers: &[usize], left: &[Option<u64>]) -> Option<usize> {
    let taken = |place: usize| {
        let taken = numbers
            .iter()
            .filter(|&&number| takes(&candidates[number], place, left));
        taken.count()
    };
    let room = |place: usize| left[place].unwrap_or(u64::MAX);
    (0..left.len())
        .filter(|&place| taken(place) > 0)
        .max_by_key(|&place| (taken(place), room(place), std::cmp::Reverse(place)))
}

/// Containers that find each other by name, directly or over others; the circles with most memory first, and in each
/// the largest container.
fn circles(candidates: &[Candidate]) -> Vec<Vec<usize>> {
    let names: HashMap<&str, usize> = candidates
        .iter()
        .enumerate()
        .map(|(number, candidate)| (candidate.name.as_str(), number))
        .collect();
    let mut circle_of: Vec<usize> = (0..candidates.len()).collect();
    for (number, candidate) in candidates.iter().enumerate() {
        for known in &candidate.known_by_name {
            if let Some(&other) = names.get(known.as_str()) {
                let (from, to) = (circle_of[other], circle_of[number]);
                for circle in &mut circle_of {
                    if *circle == from {
                        *circle = to;
                    }
                }
            }
        }
    }
    let mut circles: Vec<Vec<usize>> = vec![Vec::new(); candidates.len()];
    for (number, circle) in circle_of.iter().enumerate() {
        circles[*circle].push(number);
    }
    let bytes = |number: &usize| candidates[*number].memory_bytes;
    for circle in &mut circles {
        circle.sort_by_key(|number| std::cmp::Reverse(bytes(number)));
    }
    circles.retain(|circle| !circle.is_empty());
    circles.sort_by_key(|circle| std::cmp::Reverse(circle.iter().map(bytes).sum::<u64>()));
    circles
}

/// Why a container goes nowhere: what each place says, once if all say the same.
fn why_not(candidate: &Candidate, places: &[Place]) -> String {
    let room = format!(
        "not enough memory is left for its {}",
        units::bytes(candidate.memory_bytes)
    );
    let said = |offer: &Result<u64, String>| match offer {
        Ok(_) => room.clone(),
        Err(why) => why.clone(),
    };
    let all: Vec<String> = candidate.offers.iter().map(said).collect();
    match all.as_slice() {
        [first, rest @ ..] if rest.iter().all(|other| other == first) => first.clone(),
        _ => {
            let each = places.iter().zip(&all);
            let each: Vec<String> = each
                .map(|(place, why)| format!("{}: {why}", place.name))
                .collect();
            each.join("\n")
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn place(name: &str, mib: u64) -> Place {
        Place {
            name: name.to_owned(),
            available_bytes: (mib > 0).then_some(mib * MIB),
        }
    }

    pub(in crate::several) fn candidate(name: &str, mib: u64, places: usize) -> Candidate {
        Candidate {
            id: format!("id of {name}"),
            name: name.to_owned(),
            memory_bytes: mib * MIB,
            offers: vec![Ok(100); places],
            ..Candidate::default()
        }
    }

    /// Where each goes; nothing for those that stay.
    fn places_of(fates: &[Fate]) -> Vec<Option<usize>> {
        let place = |fate: &Fate| match fate {
            Fate::Goes { place, .. } => Some(*place),
            Fate::Stays(_) => None,
        };
        fates.iter().map(place).collect()
    }

    #[test]
    fn each_goes_to_where_most_memory_is_left() {
        let places = [place("b", 1000), place("c", 900)];
        let candidates = [
            candidate("small", 10, 2),
            candidate("large", 500, 2),
            candidate("middle", 300, 2),
            candidate("next", 200, 2),
        ];
        // The large one to b (500 left), the middle one to c (600), the next to c (400), the small one to b.
        assert_eq!(
            places_of(&spread(&candidates, &places)),
            [Some(0), Some(0), Some(1), Some(1)]
        );
        // What is not known is no limit, and the first is as good as any.
        let unknown = [place("b", 0), place("c", 0)];
        assert_eq!(places_of(&spread(&candidates[..1], &unknown)), [Some(0)]);
    }

    #[test]
    fn those_that_know_each_other_by_name_stay_together() {
        let places = [place("b", 1000), place("c", 900)];
        let mut candidates = [
            candidate("web", 400, 2),
            candidate("cache", 450, 2),
            candidate("db", 200, 2),
        ];
        candidates[0].known_by_name = vec!["db".into(), "gone".into()];
        candidates[2].known_by_name = vec!["web".into()];
        assert_eq!(
            places_of(&spread(&candidates, &places)),
            [Some(0), Some(1), Some(0)]
        );
        // Unless one cannot go there.
        candidates[2].offers[0] = Err("no".into());
        candidates[2].offers[1] = Ok(7);
        let fates = spread(&candidates, &places);
        assert_eq!(places_of(&fates), [Some(1), Some(0), Some(1)]);
        let goes = Fate::Goes {
            place: 1,
            estimated_freeze_ms: 7,
        };
        assert_eq!(fates[2], goes);
    }

    #[test]
    fn what_stays_has_a_reason() {
        let places = [place("b", 100), place("c", 50)];
        let mut candidates = [
            candidate("vpn", 1, 2),
            candidate("large", 400, 2),
            candidate("old", 60, 2),
        ];
        candidates[0].offers = vec![Err("no".into()), Err("no".into())];
        candidates[2].offers[0] = Err("too old".into());
        let reasons: Vec<Fate> = spread(&candidates, &places);
        let expected = [
            "no",
            "not enough memory is left for its 400.0 MiB",
            "b: too old\nc: not enough memory is left for its 60.0 MiB",
        ];
        assert_eq!(reasons, expected.map(|why| Fate::Stays(why.into())));
    }
}
