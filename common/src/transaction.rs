//! The decisions that guarantee that there are never two copies of a container, and never none.
//!
//! Pure: each function says what is to be done, given what is on disk and what the other side has
//! said. The agents do it, and the package `model` tries these same functions against every order
//! of crashes, lost messages and failing steps.
//!
//! Everything rests on two facts. The source's record says `committing` before `Commit` is sent, so
//! a record that says less proves that no commit can have happened. The destination's record says
//! `committed` before the first packet leaves, so a record that says less proves that nobody has
//! seen that copy.

use crate::journal::Progress;
use crate::protocol::Fate;

/// What the destination answers to `Fate`, given its record (`None` if it has none) and whether
/// that migration is still being worked on: by a session, or because something that [`destination`]
/// has asked for keeps failing.
///
/// The source takes the answer as proof, so it must be final: as long as somebody is at work,
/// whatever the record says can still change. If its packets cannot be released, a commit is taken
/// back although the record said `committed`. Had the source been told too early, it would have
/// removed the only other copy.
pub fn fate(record: Option<Progress>, at_work: bool) -> Fate {
    match record {
        None => Fate::Unknown,
        Some(_) if at_work => Fate::UnderWay,
        // The destination never writes `committing`.
        Some(Progress::UnderWay | Progress::Committing) => Fate::UnderWay,
        Some(Progress::Committed) => Fate::Committed,
        Some(Progress::RolledBack) => Fate::RolledBack,
    }
}

/// Whether a migration that no command is working on is still open at the source. `scratch`: its
/// scratch space, which is removed after the copy, is still there.
///
/// While it is unsettled, its container must not leave again: the copy here may be one of two, and
/// a second migration that fails would thaw it.
pub fn unsettled(record: Progress, scratch: bool) -> bool {
    match record {
        Progress::UnderWay | Progress::Committing => true,
        Progress::Committed => scratch,
        Progress::RolledBack => false,
    }
}

/// What the source does about a migration that no command is working on, or whose commit was not
/// answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SourceStep {
    /// Let the container here run again.
    Thaw,
    /// Remove the copy here; the container runs at the destination.
    Remove,
    /// Keep it frozen and ask the destination, now or when it can be reached again.
    Ask,
    /// Keep it frozen: only a person can find out where the container runs.
    AskOperator,
}

/// What the source does about a migration whose record says `record`. `answer`: what the
/// destination has said, if it was asked. `frozen`: a container with that id is here and frozen.
/// Returns `None` if nothing is left to do to the container.
///
/// Time plays no part: that the destination does not answer proves nothing.
pub fn source(record: Progress, answer: Option<Fate>, frozen: bool) -> Option<SourceStep> {
    match (record, answer) {
        // The copy that was left behind is gone; one that is running has come back since.
        (Progress::Committed, _) | (Progress::Committing, Some(Fate::Committed)) if !frozen => None,
        // No `Commit` has been sent, and whoever might have sent one is dead.
        (Progress::UnderWay, _) => Some(SourceStep::Thaw),
        (Progress::Committing, None) => Some(SourceStep::Ask),
        (Progress::Committing, Some(Fate::Committed)) => Some(SourceStep::Remove),
        (Progress::Committing, Some(Fate::RolledBack)) => Some(SourceStep::Thaw),
        // The commit may still arrive on the old connection.
        (Progress::Committing, Some(Fate::UnderWay)) => Some(SourceStep::Ask),
        // It had a record when it answered `Restore`. Without that, it cannot know whether a copy
        // runs there, and asking again does not bring the record back.
        (Progress::Committing, Some(Fate::Unknown)) => Some(SourceStep::AskOperator),
        // The removal may have been interrupted.
        (Progress::Committed, _) => Some(SourceStep::Remove),
        (Progress::RolledBack, _) => None,
    }
}

/// What a destination does at its start about a recorded migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DestinationStep {
    /// Remove the copy and everything else that was created for it.
    Undo,
    /// Release the copy's packets, if that has not been done.
    ReleasePackets,
}

/// What a destination does at its start about a migration whose record says `record`.
/// `arrived_since`: a later migration has brought the same container here and has committed.
/// Returns `None` if nothing is left to do.
pub fn destination(record: Progress, arrived_since: bool) -> Option<DestinationStep> {
    match record {
        // What an unfinished undo has left of the earlier copy cannot be told apart from the
        // container that runs here now, with the same id, addresses and volumes.
        _ if arrived_since => None,
        // The session died with the server, so the commit can no longer arrive.
        Progress::UnderWay | Progress::Committing => Some(DestinationStep::Undo),
        // The source may have been told, and may have removed its copy.
        Progress::Committed => Some(DestinationStep::ReleasePackets),
        Progress::RolledBack => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORDS: [Progress; 4] = [
        Progress::UnderWay,
        Progress::Committing,
        Progress::Committed,
        Progress::RolledBack,
    ];

    #[test]
    fn an_answer_is_final_or_says_that_it_is_not() {
        assert_eq!(fate(None, false), Fate::Unknown);
        assert_eq!(fate(Some(Progress::UnderWay), false), Fate::UnderWay);
        assert_eq!(fate(Some(Progress::Committed), false), Fate::Committed);
        assert_eq!(fate(Some(Progress::RolledBack), false), Fate::RolledBack);
        for record in RECORDS {
            assert_eq!(fate(Some(record), true), Fate::UnderWay, "{record:?}");
        }
    }

    #[test]
    fn nothing_but_the_destinations_word_thaws_after_the_commit() {
        for answer in [
            None,
            Some(Fate::Committed),
            Some(Fate::UnderWay),
            Some(Fate::Unknown),
        ] {
            assert_ne!(
                source(Progress::Committing, answer, true),
                Some(SourceStep::Thaw),
                "{answer:?}"
            );
        }
        assert_eq!(
            source(Progress::Committing, Some(Fate::RolledBack), true),
            Some(SourceStep::Thaw)
        );
    }

    #[test]
    fn nothing_but_the_destinations_word_removes_before_it_is_on_record() {
        for record in [
            Progress::UnderWay,
            Progress::Committing,
            Progress::RolledBack,
        ] {
            for answer in [
                None,
                Some(Fate::RolledBack),
                Some(Fate::UnderWay),
                Some(Fate::Unknown),
            ] {
                assert_ne!(
                    source(record, answer, true),
                    Some(SourceStep::Remove),
                    "{record:?} {answer:?}"
                );
            }
        }
    }

    #[test]
    fn a_copy_that_has_come_back_is_not_removed() {
        for (record, answer) in [
            (Progress::Committing, Some(Fate::Committed)),
            (Progress::Committed, None),
        ] {
            assert_eq!(source(record, answer, true), Some(SourceStep::Remove));
            assert_eq!(source(record, answer, false), None);
        }
    }

    #[test]
    fn a_commit_is_settled_when_the_old_copy_is_gone() {
        for scratch in [true, false] {
            assert!(unsettled(Progress::UnderWay, scratch));
            assert!(unsettled(Progress::Committing, scratch));
            assert_eq!(unsettled(Progress::Committed, scratch), scratch);
            assert!(!unsettled(Progress::RolledBack, scratch));
        }
    }

    #[test]
    fn only_a_missing_record_needs_a_person() {
        assert_eq!(
            source(Progress::Committing, Some(Fate::Unknown), true),
            Some(SourceStep::AskOperator)
        );
        assert_eq!(
            source(Progress::Committing, Some(Fate::UnderWay), true),
            Some(SourceStep::Ask)
        );
        assert_eq!(
            source(Progress::Committing, None, true),
            Some(SourceStep::Ask)
        );
    }

    #[test]
    fn a_restart_undoes_what_is_not_committed_and_nothing_that_came_since() {
        assert_eq!(
            destination(Progress::UnderWay, false),
            Some(DestinationStep::Undo)
        );
        assert_eq!(
            destination(Progress::Committed, false),
            Some(DestinationStep::ReleasePackets)
        );
        assert_eq!(destination(Progress::RolledBack, false), None);
        for record in RECORDS {
            assert_eq!(destination(record, true), None, "{record:?}");
        }
    }
}
