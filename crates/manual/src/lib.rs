//! Man pages of a program and its commands, made from its command line, so that they cannot say anything else
//! than `--help` does.
//!
//! [`pages`] makes them, [`lacking`] says which texts they would need and do not have, and [`complaints`] what
//! the formatter has to say about a page: for the tests of the programs.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command as Program, Stdio};

use clap::{Arg, Command};
use clap_mangen::Man;
use roff::{Roff, roman};
use time::OffsetDateTime;

/// Programs for administrators: man(1).
const SECTION: &str = "8";

/// Fewer words are no sentence.
const FEWEST_WORDS: usize = 3;

/// A man page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The name of its file.
    pub file: String,
    /// What is in it.
    pub text: Vec<u8>,
}

/// The pages of a program and of each of its commands that is not hidden. Their date is that of
/// `SOURCE_DATE_EPOCH`, so that every build of a version can give the same bytes; otherwise it is today's.
///
/// # Errors
/// None in practice: they are written to memory.
pub fn pages(program: Command) -> io::Result<Vec<Page>> {
    let program = built(program);
    let version = program.get_version().unwrap_or_default();
    let source = format!("{} {version}", program.get_name());
    let date = date();
    let all = with_those_above(&program, None).into_iter();
    all.map(|(command, above)| page(command, above, &source, &date))
        .collect()
}

/// Writes the pages into a directory, and returns where they are.
///
/// # Errors
/// Those of the file system.
pub fn write(program: Command, directory: &Path) -> io::Result<Vec<PathBuf>> {
    std::fs::create_dir_all(directory)?;
    let mut written = Vec::new();
    for page in pages(program)? {
        let path = directory.join(page.file);
        std::fs::write(&path, page.text)?;
        written.push(path);
    }
    Ok(written)
}

/// The commands, options and arguments that say nothing of themselves, or not in a sentence.
pub fn lacking(program: Command) -> Vec<String> {
    let program = built(program);
    let mut lacking = Vec::new();
    for (command, _) in with_those_above(&program, None) {
        let name = title(command);
        if !is_sentence(command.get_about()) {
            lacking.push(name.to_owned());
        }
        let arguments = command.get_arguments();
        let arguments = arguments.filter(|a| !is_claps_own(a) && !a.is_hide_set());
        for argument in arguments.filter(|a| !is_sentence(a.get_help())) {
            lacking.push(format!("{name} {}", argument.get_id()));
        }
    }
    lacking
}

/// What groff has to say about a page; nothing if all is well.
///
/// # Errors
/// Of the kind `NotFound` if groff is not installed.
pub fn complaints(page: &Page) -> io::Result<String> {
    let mut groff = Program::new("groff")
        .args(["-man", "-Tutf8", "-Kutf8", "-ww", "-z"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    // Closed when written: groff reads to the end.
    let mut input = groff.stdin.take().expect("it is a pipe");
    input.write_all(&page.text)?;
    drop(input);
    let output = groff.wait_with_output()?;
    let mut said = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        said += &format!("groff: {}", output.status);
    }
    Ok(said)
}

/// `help` as a command would have pages of its own for each of the others.
fn built(program: Command) -> Command {
    let mut program = program.disable_help_subcommand(true);
    program.build();
    program
}

/// A command and those below it that are not hidden, each with the one above it.
fn with_those_above<'a>(
    command: &'a Command,
    above: Option<&'a Command>,
) -> Vec<(&'a Command, Option<&'a Command>)> {
    let mut all = vec![(command, above)];
    for below in command.get_subcommands().filter(|c| !c.is_hide_set()) {
        all.extend(with_those_above(below, Some(command)));
    }
    all
}

/// <https://reproducible-builds.org/specs/source-date-epoch/>
fn date() -> String {
    let told = std::env::var("SOURCE_DATE_EPOCH").ok();
    let told =
        told.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds.parse().ok()?).ok());
    told.unwrap_or_else(OffsetDateTime::now_utc)
        .date()
        .to_string()
}

fn page(command: &Command, above: Option<&Command>, source: &str, date: &str) -> io::Result<Page> {
    let man = Man::new(command.clone())
        .section(SECTION)
        .date(date)
        .source(source)
        .manual("Live migration of containers");
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if command.get_subcommands().any(|c| !c.is_hide_set()) {
        man.render_subcommands_section(&mut text)?;
    }
    if let Some(more) = command.get_after_help() {
        sections(&more.to_string()).to_writer(&mut text)?;
    }
    if let Some(above) = above {
        let mut roff = Roff::new();
        roff.control("SH", ["SEE ALSO"]);
        roff.text([roman(format!("{}({SECTION})", title(above)))]);
        roff.to_writer(&mut text)?;
    }
    Ok(Page {
        file: format!("{}.{SECTION}", title(command)),
        text,
    })
}

/// Of the text after a help: what is indented is shown as it is, below the line before it, which is its heading.
fn sections(text: &str) -> Roff {
    let mut roff = Roff::new();
    let mut shown = false;
    for line in text.lines().filter(|line| !line.is_empty()) {
        match line.strip_prefix("  ") {
            Some(line) => roff.text([roman(line)]),
            None => {
                if shown {
                    roff.control("fi", []);
                }
                shown = true;
                let heading = line.trim_end_matches(':').to_uppercase();
                roff.control("SH", [heading.as_str()]);
                roff.control("nf", [])
            }
        };
    }
    if shown {
        roff.control("fi", []);
    }
    roff
}

fn title(command: &Command) -> &str {
    command.get_display_name().unwrap_or(command.get_name())
}

/// `--help` and `--version`.
fn is_claps_own(argument: &Arg) -> bool {
    matches!(argument.get_id().as_str(), "help" | "version")
}

fn is_sentence(text: Option<&clap::builder::StyledStr>) -> bool {
    let text = text.map(ToString::to_string).unwrap_or_default();
    text.starts_with(|c: char| c.is_uppercase()) && text.split_whitespace().count() >= FEWEST_WORDS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program() -> Command {
        Command::new("mover")
            .version("1.2")
            .about("Moves what there is to move")
            .after_help("Examples:\n  mover -v go    as it stands\n\nExit status:\n  0  gone")
            .arg(Arg::new("silent").long("silent").help("Say nothing"))
            .subcommand(
                Command::new("go")
                    .about("Go where it is said")
                    .arg(Arg::new("to").long("to")),
            )
            .subcommand(Command::new("secret").hide(true))
    }

    #[test]
    fn there_is_a_page_for_each_command() {
        let pages = pages(program()).unwrap();
        let files: Vec<_> = pages.iter().map(|page| page.file.as_str()).collect();
        assert_eq!(files, ["mover.8", "mover-go.8"]);
        let text = |page: &Page| String::from_utf8(page.text.clone()).unwrap();
        let (first, second) = (text(&pages[0]), text(&pages[1]));
        assert!(first.contains(".SH \"EXIT STATUS\"\n.nf\n"), "{first}");
        assert!(first.contains("as it stands"), "{first}");
        let heading = format!(".TH mover 8 {} \"mover 1.2\"", date());
        assert!(first.contains(&heading), "{first}");
        assert!(!first.contains("secret"), "{first}");
        assert!(second.contains("mover(8)"), "{second}");
        let directory = tempfile::tempdir().unwrap();
        let written = write(program(), directory.path()).unwrap();
        assert_eq!(std::fs::read(&written[1]).unwrap(), pages[1].text);
    }

    #[test]
    fn what_lacks_a_sentence_is_found() {
        assert_eq!(lacking(program()), ["mover silent", "mover-go to"]);
    }

    #[test]
    fn the_formatter_complains_about_a_mistake() {
        let page = |text: &str| Page {
            file: "mover.8".into(),
            text: text.into(),
        };
        match complaints(&page(".TH MOVER 8\n.nosuch\n")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                println!("skipped: groff is not installed");
            }
            said => assert!(said.unwrap().contains("nosuch")),
        }
    }
}
