//! The decisions that guarantee that there are never two copies of a container, and never none.
//!
//! Pure: each function says what is to be done, given what is on disk and what the other side has
//! said. The agents do it, and the package `model` tries these same functions against every order
//! of crashes, lost messages and failing steps.
//!
//! Everything rests on three facts. The source's record says `committing` before `Commit` is sent, so
//! a record that says less proves that no commit can have happened. The destination's record says
//! `committed` before the first packet leaves, so a record that says less proves that nobody has
//! seen that copy. And the source removes its copy only when the destination has said that what came
//! is on disk, so that a power cut there takes nothing that was on disk here.

use crate::journal::Progress;
use crate::protocol::Fate;

/// Whether the destination opens a migration of an id of which it has this record (`None`: it has
/// none).
///
/// An id is one migration's for good: written over, its record would no longer say what became of
/// the migration that had it first, or say something else to a source that asks.
pub fn may_begin(record: Option<Progress>) -> bool {
    record.is_none()
}

/// What the destination answers to `Fate`, given its record (`None` if it has none), whether the peer
/// that asks is the one that has begun the migration, and whether that is still being worked on: by a
/// session, or because something that [`destination`] has asked for keeps failing.
///
/// A migration belongs to the peer that has begun it, known by its key. To all others it is unknown,
/// which says nothing about it and is safe whoever hears it: no source thaws or removes anything for
/// that answer (see [`source`]).
///
/// The source takes the answer as proof, so it must be final: as long as somebody is at work,
/// whatever the record says can still change. If its packets cannot be released, a commit is taken
/// back although the record said `committed`. Had the source been told too early, it would have
/// removed the only other copy.
pub fn fate(record: Option<Progress>, theirs: bool, at_work: bool) -> Fate {
    match record {
        None => Fate::Unknown,
        Some(_) if !theirs => Fate::Unknown,
        Some(_) if at_work => Fate::UnderWay,
        // The destination never writes `committing`.
        Some(Progress::UnderWay | Progress::Committing) => Fate::UnderWay,
        Some(Progress::Committed) => Fate::Committed,
        Some(Progress::OnDisk) => Fate::OnDisk,
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
        // The source never writes `on_disk`.
        Progress::Committed | Progress::OnDisk => scratch,
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
    /// The same, but the container runs at the destination: the copy here is kept until what came there is
    /// on disk.
    AwaitDisk,
    /// Keep it frozen: only a person can find out where the container runs.
    AskOperator,
}

/// What the source does about a migration whose record says `record`. `answer`: what the
/// destination has said, if it was asked. `frozen`: a container with that id is here and does nothing: it is
/// frozen, or has ended because this host has lost power. Returns `None` if nothing is left to do to the container.
///
/// Time plays no part: that the destination does not answer proves nothing.
pub fn source(record: Progress, answer: Option<Fate>, frozen: bool) -> Option<SourceStep> {
    match (record, answer) {
        // The copy that was left behind is gone; one that is running has come back since.
        (Progress::Committed | Progress::OnDisk, _)
        | (Progress::Committing, Some(Fate::Committed | Fate::OnDisk))
            if !frozen =>
        {
            None
        }
        // No `Commit` has been sent, and whoever might have sent one is dead.
        (Progress::UnderWay, _) => Some(SourceStep::Thaw),
        (Progress::Committing, None) => Some(SourceStep::Ask),
        (Progress::RolledBack, _) => None,
        // The removal may have been cut short, or was never begun.
        (_, Some(Fate::OnDisk)) => Some(SourceStep::Remove),
        (_, Some(Fate::Committed)) => Some(SourceStep::AwaitDisk),
        (Progress::Committed | Progress::OnDisk, None | Some(Fate::UnderWay)) => {
            Some(SourceStep::Ask)
        }
        // It has committed, and does not know of it any more.
        (Progress::Committed | Progress::OnDisk, Some(Fate::RolledBack | Fate::Unknown)) => {
            Some(SourceStep::AskOperator)
        }
        (Progress::Committing, Some(Fate::RolledBack)) => Some(SourceStep::Thaw),
        // The commit may still arrive on the old connection.
        (Progress::Committing, Some(Fate::UnderWay)) => Some(SourceStep::Ask),
        // It had a record when it answered `Restore`. Without that, it cannot know whether a copy
        // runs there, and asking again does not bring the record back.
        (Progress::Committing, Some(Fate::Unknown)) => Some(SourceStep::AskOperator),
    }
}

/// What a destination does at its start about a recorded migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DestinationStep {
    /// Remove the copy and everything else that was created for it.
    Undo,
    /// Release the copy's packets and put on disk what came with it, if that has not been done.
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
        Progress::Committed | Progress::OnDisk => Some(DestinationStep::ReleasePackets),
        Progress::RolledBack => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORDS: [Progress; 5] = [
        Progress::UnderWay,
        Progress::Committing,
        Progress::Committed,
        Progress::OnDisk,
        Progress::RolledBack,
    ];

    #[test]
    fn an_answer_is_final_or_says_that_it_is_not() {
        let theirs = |record, at_work| fate(record, true, at_work);
        assert_eq!(theirs(None, false), Fate::Unknown);
        assert_eq!(theirs(Some(Progress::UnderWay), false), Fate::UnderWay);
        assert_eq!(theirs(Some(Progress::Committed), false), Fate::Committed);
        assert_eq!(theirs(Some(Progress::OnDisk), false), Fate::OnDisk);
        assert_eq!(theirs(Some(Progress::RolledBack), false), Fate::RolledBack);
        for record in RECORDS {
            assert_eq!(theirs(Some(record), true), Fate::UnderWay, "{record:?}");
        }
    }

    #[test]
    fn a_migration_belongs_to_the_peer_that_has_begun_it() {
        assert!(may_begin(None));
        for record in RECORDS {
            assert!(!may_begin(Some(record)), "{record:?}");
            for at_work in [true, false] {
                let told = fate(Some(record), false, at_work);
                assert_eq!(told, fate(None, false, at_work), "{record:?}");
                assert_eq!(
                    source(Progress::Committing, Some(told), true),
                    Some(SourceStep::AskOperator)
                );
            }
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
    fn nothing_but_the_destinations_word_that_all_is_on_disk_removes() {
        for record in RECORDS {
            for answer in [
                None,
                Some(Fate::Committed),
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
    fn a_copy_that_runs_elsewhere_stays_until_all_is_on_disk_there() {
        for record in [Progress::Committing, Progress::Committed] {
            let next = |answer| source(record, answer, true);
            assert_eq!(next(None), Some(SourceStep::Ask));
            assert_eq!(next(Some(Fate::Committed)), Some(SourceStep::AwaitDisk));
            assert_eq!(next(Some(Fate::OnDisk)), Some(SourceStep::Remove));
        }
    }

    #[test]
    fn a_copy_that_has_come_back_is_not_removed() {
        for (record, answer) in [
            (Progress::Committing, Some(Fate::OnDisk)),
            (Progress::Committed, Some(Fate::OnDisk)),
        ] {
            assert_eq!(source(record, answer, true), Some(SourceStep::Remove));
            assert_eq!(source(record, answer, false), None);
        }
        assert_eq!(source(Progress::Committed, None, false), None);
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
