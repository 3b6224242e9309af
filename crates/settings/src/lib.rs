//! A file of settings in TOML: defaults for the options of a program.
//!
//! An option can be set if it can also be given as an environment variable. The file has one line for each, by the
//! option's long name, whichever commands have it. What is said on the command line comes first, then the
//! environment, then the file, then the program's own default. Values are read by the same code as those of the command
//! line, so nothing else is right or wrong in the file than there.
//!
//! ```toml
//! to = "b"
//! max-freeze-ms = 60000
//! allow-bind = ["/srv/data", "/srv/www"]
//! ```

mod file;
mod shown;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Command};

pub use file::{Settings, SettingsError};

/// The option that names the file. It cannot be in it.
pub const FILE_OPTION: &str = "config";

/// The file that the words of a command line, or the environment, name.
fn named(program: Command, words: &[OsString]) -> Option<PathBuf> {
    // Whatever else is wrong is said once the file has been read.
    let matches = program
        .ignore_errors(true)
        .try_get_matches_from(words)
        .ok()?;
    let named: Option<&PathBuf> = matches.try_get_one(FILE_OPTION).ok()?;
    named.cloned()
}

/// A program with its settings: those of the file that `words` or the environment name, or of the `usual` one if it
/// exists. If the words ask for help or for the version, they get it, whatever is wrong with the file.
///
/// # Errors
/// If the file cannot be read, or something in it is wrong.
pub fn with_file(
    program: Command,
    words: &[OsString],
    usual: &Path,
) -> Result<(Command, Settings), SettingsError> {
    let named = named(program.clone(), words);
    match read(&program, named.as_deref(), usual) {
        Ok(settings) => Ok((settings.apply(program), settings)),
        Err(error) => match program.clone().try_get_matches_from(words) {
            Err(other) if !other.use_stderr() => Ok((program, Settings::default())),
            _ => Err(error),
        },
    }
}

/// Reads the file that is named, which must be there, or the `usual` one, which need not.
fn read(program: &Command, named: Option<&Path>, usual: &Path) -> Result<Settings, SettingsError> {
    match named {
        Some(path) => Settings::read(program, path),
        None if usual.exists() => Settings::read(program, usual),
        None => Ok(Settings::default()),
    }
}

/// The options of a program and its commands that can be set, the same one as often as there are commands that
/// have it.
fn options(program: &Command) -> Vec<&Arg> {
    let own = program.get_arguments();
    let mut options: Vec<&Arg> = own.filter(|option| can_be_set(option)).collect();
    for command in program.get_subcommands() {
        options.extend(self::options(command));
    }
    options
}

fn can_be_set(option: &Arg) -> bool {
    option.get_env().is_some() && option.get_long().is_some_and(|name| name != FILE_OPTION)
}

fn takes_many(option: &Arg) -> bool {
    matches!(option.get_action(), ArgAction::Append)
}

/// What is wrong with these values, in one line, if they are those of this option.
fn complaint(option: &Arg, values: &[String]) -> Option<String> {
    let name = option.get_long()?;
    let words = values.iter().map(|value| format!("--{name}={value}"));
    // By itself: what else a command needs does not matter here.
    let alone = option.clone().required(false).global(false);
    let alone = Command::new("settings").arg(alone.env(None));
    let error = alone
        .try_get_matches_from(std::iter::once("settings".to_owned()).chain(words))
        .err()?;
    let text = error.to_string();
    let first = text.split("\n\n").next().unwrap_or(&text);
    let first = first.strip_prefix("error: ").unwrap_or(first);
    Some(first.split_whitespace().collect::<Vec<_>>().join(" "))
}
