//! The commands that README.md tells people to type.

use std::path::Path;

/// Where a command is to be typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Where the project is built.
    Workshop,
    Source,
    Destination,
}

/// One line of the section's code blocks, without its comment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) place: Place,
    pub(crate) command: String,
}

/// The commands of the section "Use it", in order.
///
/// # Panics
/// If there is no such file.
pub(crate) fn use_it() -> Vec<Line> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    parse(&std::fs::read_to_string(path).expect("there is a README"))
}

/// A line's comment says where to type it ("on the source"); otherwise the text before the block does ("On
/// the source:"); otherwise it is where the project is built.
fn parse(readme: &str) -> Vec<Line> {
    let section = readme
        .split("\n## ")
        .find(|part| part.starts_with("Use it\n"));
    let mut lines = Vec::new();
    let mut text = String::new();
    let mut in_block = false;
    for line in section.unwrap_or_default().lines() {
        match (line, in_block) {
            ("```sh", false) => in_block = true,
            ("```", true) => {
                in_block = false;
                text.clear();
            }
            (_, false) => text += &format!("{line}\n"),
            (_, true) => {
                let (command, comment) = line.split_once(" # ").unwrap_or((line, ""));
                let place = place(comment, "on the ")
                    .or_else(|| place(&text, "On the "))
                    .unwrap_or(Place::Workshop);
                let command = command.trim().to_owned();
                lines.push(Line { place, command });
            }
        }
    }
    lines
}

/// The place that this text names last.
fn place(text: &str, before: &str) -> Option<Place> {
    let (_, after) = text.rsplit_once(before)?;
    [
        ("source", Place::Source),
        ("destination", Place::Destination),
    ]
    .into_iter()
    .find_map(|(name, place)| after.starts_with(name).then_some(place))
}

#[test]
fn every_line_has_its_place() {
    let lines = use_it();
    let at = |place| {
        let here = lines.iter().filter(move |line| line.place == place);
        here.map(|line| line.command.as_str()).collect::<Vec<_>>()
    };
    assert!(
        at(Place::Workshop)
            .iter()
            .all(|line| line.starts_with("cargo build "))
    );
    assert!(
        at(Place::Source)
            .iter()
            .any(|line| line.starts_with("agent-client migrate web "))
    );
    assert!(at(Place::Destination).contains(&"agent-server invite"));
    let made_up = "# T\n\n## Use it\n\nText.\n\n```sh\nmake\ninstall a  # on the source\n```\n\n\
        On the destination, for the source:\n\n```sh\nrun # now\n```\n\n## Next\n\n```sh\nnot this\n```\n";
    let expected = [
        (Place::Workshop, "make"),
        (Place::Source, "install a"),
        (Place::Destination, "run"),
    ];
    let expected = expected.map(|(place, command)| Line {
        place,
        command: command.to_owned(),
    });
    assert_eq!(parse(made_up), expected);
}
