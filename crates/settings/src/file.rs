//! What a file of settings says.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use clap::Command;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::{can_be_set, complaint, options, takes_many};

/// Larger than any that somebody writes.
const MOST_BYTES: u64 = 1 << 20;

/// A file of settings, or none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    path: PathBuf,
    values: BTreeMap<String, Setting>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    pub(crate) line: usize,
    pub(crate) values: Vec<String>,
}

/// A place in a file. Counted from 1, columns in characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    path: PathBuf,
    line: usize,
    column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.path.display(), self.line, self.column)
    }
}

/// The file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// It cannot be read.
    #[error("{}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Something in it is wrong.
    #[error("{place}: {what}")]
    Wrong {
        /// Where.
        place: Place,
        /// In words.
        what: String,
    },
}

impl Settings {
    /// Reads a file, and compares it with what the program has.
    ///
    /// # Errors
    /// If it cannot be read, or something in it is wrong.
    pub fn read(program: &Command, path: &Path) -> Result<Self, SettingsError> {
        let read = |error| SettingsError::Read {
            path: path.to_owned(),
            error,
        };
        if std::fs::metadata(path).map_err(read)?.len() > MOST_BYTES {
            return Err(read(io::ErrorKind::FileTooLarge.into()));
        }
        let text = std::fs::read_to_string(path).map_err(read)?;
        Self::parse(program, path, &text)
    }

    fn parse(program: &Command, path: &Path, text: &str) -> Result<Self, SettingsError> {
        let wrong = |span: Range<usize>, what: String| SettingsError::Wrong {
            place: place(path, text, span.start),
            what,
        };
        let table = DeTable::parse(text)
            .map_err(|error| wrong(error.span().unwrap_or(0..0), error.message().to_owned()))?;
        let options = options(program);
        let mut values = BTreeMap::new();
        for (key, value) in table.get_ref() {
            let name = key.get_ref().as_ref();
            let meant = options.iter().filter(|o| o.get_long() == Some(name));
            let meant: Vec<_> = meant.collect();
            if meant.is_empty() {
                let mut names: Vec<_> = options.iter().filter_map(|o| o.get_long()).collect();
                names.sort_unstable();
                names.dedup();
                let names = names.join(", ");
                let what = format!("no such setting: {name:?}; there are: {names}");
                return Err(wrong(key.span(), what));
            }
            let many = meant.iter().all(|option| takes_many(option));
            let words = words(value, many)
                .ok_or_else(|| wrong(value.span(), format!("{name} is {}", shape(many))))?;
            if let Some(what) = meant.iter().find_map(|option| complaint(option, &words)) {
                return Err(wrong(value.span(), what));
            }
            let setting = Setting {
                line: place(path, text, key.span().start).line,
                values: words,
            };
            values.insert(name.to_owned(), setting);
        }
        Ok(Self {
            path: path.to_owned(),
            values,
        })
    }

    /// The program with these settings as its defaults.
    pub fn apply(&self, program: Command) -> Command {
        let names: Vec<String> = program
            .get_subcommands()
            .map(|command| command.get_name().to_owned())
            .collect();
        let program = program.mut_args(|option| {
            let name = option.get_long().filter(|_| can_be_set(&option));
            match name.and_then(|name| self.values.get(name)) {
                Some(setting) => option
                    .required(false)
                    .default_values(setting.values.clone()),
                None => option,
            }
        });
        names.into_iter().fold(program, |program, name| {
            program.mut_subcommand(name, |command| self.apply(command))
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Setting> {
        self.values.get(name)
    }
}

/// What an option would be given on the command line.
fn words(value: &Spanned<DeValue>, many: bool) -> Option<Vec<String>> {
    match value.get_ref() {
        DeValue::Array(values) if many => values.iter().map(word).collect(),
        _ if many => None,
        _ => Some(vec![word(value)?]),
    }
}

fn word(value: &Spanned<DeValue>) -> Option<String> {
    match value.get_ref() {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(number.to_string()),
        DeValue::Boolean(yes) => Some(yes.to_string()),
        DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

fn shape(many: bool) -> &'static str {
    match many {
        true => "a list of texts",
        false => "a text, a number, true or false",
    }
}

fn place(path: &Path, text: &str, offset: usize) -> Place {
    let before = text.get(..offset).unwrap_or(text);
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    Place {
        path: path.to_owned(),
        line: before.matches('\n').count() + 1,
        column: before[start..].chars().count() + 1,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use clap::Arg;

    /// A program with what there is to set.
    pub(crate) fn program() -> Command {
        let to = || Arg::new("to").long("to").env("MOVER_TO").required(true);
        let limit = Arg::new("limit")
            .long("limit-ms")
            .env("MOVER_LIMIT_MS")
            .default_value("100")
            .value_parser(clap::value_parser!(u64).range(1..));
        let from = Arg::new("from")
            .long("from")
            .env("MOVER_FROM")
            .action(clap::ArgAction::Append);
        Command::new("mover")
            .arg(
                Arg::new("config")
                    .long("config")
                    .global(true)
                    .env("MOVER_CONFIG")
                    .value_parser(clap::value_parser!(PathBuf)),
            )
            .arg(from)
            .subcommand(Command::new("go").arg(to()).arg(limit))
            .subcommand(Command::new("spread").arg(to().action(clap::ArgAction::Append)))
            .subcommand(
                Command::new("look")
                    .arg(to())
                    .arg(Arg::new("far").long("far")),
            )
    }

    pub(crate) fn parse(text: &str) -> Result<Settings, SettingsError> {
        Settings::parse(&program(), Path::new("/etc/mover.toml"), text)
    }

    #[test]
    fn it_gives_every_command_its_defaults() {
        let settings = parse("to = 'b'\nlimit-ms = 7\n# as many as you like\nfrom = ['a', 'c']\n");
        let program = || settings.as_ref().unwrap().apply(program());
        let go = program()
            .try_get_matches_from(["mover", "go", "--limit-ms", "8"])
            .unwrap();
        let from: Vec<&String> = go.get_many("from").unwrap().collect();
        assert_eq!(from, ["a", "c"]);
        let (_, go) = go.subcommand().unwrap();
        assert_eq!(go.get_one::<String>("to").unwrap(), "b");
        assert_eq!(go.get_one::<u64>("limit"), Some(&8));
        let look = program().try_get_matches_from(["mover", "look"]).unwrap();
        let (_, look) = look.subcommand().unwrap();
        assert_eq!(look.get_one::<String>("to").unwrap(), "b");
        // Without the file, what is required is.
        self::program()
            .try_get_matches_from(["mover", "look"])
            .unwrap_err();
    }

    #[test]
    fn whatever_is_wrong_is_named_with_its_place() {
        for (text, said) in [
            ("to = ", "/etc/mover.toml:1:"),
            (
                "to = 'b'\nlimit-ms = 0\n",
                "/etc/mover.toml:2:12: invalid value '0' for '--limit-ms <limit>': 0 is not in 1..",
            ),
            (
                "\n  limit = 7",
                "/etc/mover.toml:2:3: no such setting: \"limit\"; there are: from, limit-ms, to",
            ),
            ("far = 'x'", "/etc/mover.toml:1:1: no such setting: \"far\""),
            ("config = 'x'", "no such setting: \"config\""),
            ("to = ['a', 'b']", "/etc/mover.toml:1:6: to is a text"),
            ("from = 'a'", "/etc/mover.toml:1:8: from is a list of texts"),
            ("from = [['a']]", "from is a list of texts"),
            ("to = 'b'\nto = 'c'", "/etc/mover.toml:2:1: duplicate key"),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(said), "{text:?}: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }

    #[test]
    fn no_file_is_no_fault_unless_it_is_named() {
        let nowhere = Path::new("/nowhere/mover.toml");
        assert_eq!(
            crate::read(&program(), None, nowhere).unwrap(),
            Settings::default()
        );
        let error = crate::read(&program(), Some(nowhere), nowhere).unwrap_err();
        assert!(error.to_string().starts_with("/nowhere/mover.toml: "));
        let words = ["mover", "go", "--config", "/nowhere/mover.toml"].map(Into::into);
        assert_eq!(crate::named(program(), &words), Some(nowhere.to_owned()));
    }
}
