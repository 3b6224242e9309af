//! A plan for people, in 80 columns.

use common::units;

use super::summary::{Line, LineOutcome};

const WIDTH: usize = 80;
const NAME: usize = 24;
const PLACE: usize = 24;

/// One line per container: its name, where it goes, and how long it will be frozen. Below it, why it cannot move.
pub(super) fn table(lines: &[Line]) -> String {
    let mut text = row("container", "goes to", "frozen, estimated");
    for line in lines {
        let name = &line.container.name;
        text += &match (&line.destination, line.estimated_freeze_ms) {
            (Some(place), Some(ms)) => {
                row(name, place, &format!("about {}", units::milliseconds(ms)))
            }
            _ => row(name, "stays", ""),
        };
        if line.outcome == LineOutcome::Refused {
            for paragraph in line.error.iter().flat_map(|error| error.lines()) {
                text += &wrapped(paragraph, "    ");
            }
        }
    }
    text
}

fn row(name: &str, place: &str, outage: &str) -> String {
    let line = format!("{name:<NAME$} {place:<PLACE$} {outage}");
    format!("{}\n", line.trim_end())
}

/// The words in lines that are no longer than the table is wide, if words are not.
fn wrapped(text: &str, indent: &str) -> String {
    let mut lines = String::new();
    let mut line = indent.to_owned();
    for word in text.split_whitespace() {
        let begun = line.len() > indent.len();
        if begun && line.chars().count() + 1 + word.chars().count() > WIDTH {
            lines += &line;
            lines.push('\n');
            line = indent.to_owned();
        } else if begun {
            line.push(' ');
        }
        line += word;
    }
    lines + &line + "\n"
}

#[cfg(test)]
mod tests {
    use common::protocol::ContainerRef;

    use super::*;

    #[test]
    fn it_fits_into_a_narrow_terminal() {
        let line = |name: &str, destination: Option<&str>, error: Option<&str>| Line {
            container: ContainerRef {
                id: String::new(),
                name: name.to_owned(),
            },
            destination: destination.map(str::to_owned),
            estimated_freeze_ms: destination.map(|_| 310),
            outcome: match error {
                Some(_) => LineOutcome::Refused,
                None => LineOutcome::NotBegun,
            },
            error: error.map(str::to_owned),
            report: None,
        };
        let why = "network mode here: it has the host's network: CRIU cannot tell its connections from those \
                   of others\nports on the destination: taken";
        let said = table(&[
            line("web", Some("b:50051"), None),
            line("vpn", None, Some(why)),
        ]);
        let expected = "\
container                goes to                  frozen, estimated
web                      b:50051                  about 310 ms
vpn                      stays
    network mode here: it has the host's network: CRIU cannot tell its
    connections from those of others
    ports on the destination: taken
";
        assert_eq!(said, expected);
    }
}
