//! `recover`: finishes or undoes what was interrupted, and says how it ended.

use common::journal::{Journal, MigrationRecord, Progress};

use crate::format::Format;
use crate::recovery::{self, End, Recovered};

/// Exit status if a migration stays open.
const OPEN: u8 = 3;

/// Finishes or undoes all migrations that earlier commands left behind, or the one whose id starts
/// with `prefix`. Something is left open, too, if a record cannot be read.
pub(super) async fn recover(prefix: Option<&str>, format: Format) -> anyhow::Result<u8> {
    let only = match prefix {
        Some(prefix) => Some(Journal::of("client").find(prefix)?),
        None => None,
    };
    let recovered = recovery::recover(only.as_ref().map(|r| &r.migration)).await?;
    // What a record that cannot be read stands for may be open. It has been named.
    let unreadable = only.is_none() && !Journal::of("client").list()?.unreadable.is_empty();
    match format {
        Format::Text if unreadable && recovered.is_empty() => {
            println!("nothing else was left open");
        }
        Format::Text => print(only.as_ref(), &recovered),
        Format::Json => println!(
            "{}",
            serde_json::Value::from_iter(recovered.iter().map(json))
        ),
    }
    let open = unreadable || recovered.iter().any(|s| matches!(s.end, End::Open(_)));
    Ok(if open { OPEN } else { 0 })
}

pub(super) fn print(only: Option<&MigrationRecord>, recovered: &[Recovered]) {
    if recovered.is_empty() {
        match only {
            Some(record) => println!("{}: {}", head(record), common::status::progress(record)),
            None => println!("nothing was left open"),
        }
    }
    for Recovered { record, end } in recovered {
        let head = head(record);
        let peer = &record.peer;
        match end {
            End::Undone => println!("{head}: undone; the container runs here"),
            End::Finished => println!("{head}: finished; the container runs on {peer}"),
            End::UnderWay => println!("{head}: under way; another agent-client is working on it"),
            End::Open(error) => println!("{head}: OPEN: {error:#}\n{}", advice(record)),
        }
    }
}

fn json(Recovered { record, end }: &Recovered) -> serde_json::Value {
    let (word, error) = match end {
        End::Undone => ("undone", None),
        End::Finished => ("finished", None),
        End::UnderWay => ("under_way", None),
        End::Open(error) => ("open", Some(format!("{error:#}"))),
    };
    serde_json::json!({
        "migration_id": record.migration, "container": record.container,
        "destination": record.peer, "end": word, "error": error,
    })
}

pub(super) fn head(record: &MigrationRecord) -> String {
    let MigrationRecord {
        migration,
        container,
        peer,
        ..
    } = record;
    format!("{migration}  {} to {peer}", container.name)
}

fn advice(record: &MigrationRecord) -> String {
    let (peer, id) = (&record.peer, &record.migration);
    if !matches!(record.progress, Progress::Committing | Progress::Committed) {
        return "  Fix that, and run `agent-client recover` again.".into();
    }
    format!(
        "  Once {peer} can be reached again, run `agent-client recover`. If it never will \
         be:\n  agent-client resolve {id} --keep source        the container keeps running here\n  \
                  agent-client resolve {id} --keep destination   the copy here is removed\n  Keep the copy \
                  here only if you know that the container does not run there."
    )
}
