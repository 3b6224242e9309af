//! The settings that hold, and where each comes from.

use std::env;
use std::ffi::{OsStr, OsString};

use clap::{Arg, Command};

use crate::{Settings, options, takes_many};

impl Settings {
    /// A line for each option that can be set: what it is, and in a comment where that comes from. It is a file of
    /// settings itself.
    pub fn shown(&self, program: &Command) -> String {
        self.shown_with(program, |name| env::var_os(name))
    }

    fn shown_with(
        &self,
        program: &Command,
        variable: impl Fn(&OsStr) -> Option<OsString>,
    ) -> String {
        let mut options = options(program);
        // A value that one command takes is also right for one that takes several.
        options.sort_by_key(|option| (option.get_long(), takes_many(option)));
        options.dedup_by_key(|option| option.get_long());
        let lines: Vec<(String, String)> = options
            .into_iter()
            .map(|option| self.line(option, &variable))
            .collect();
        let width = lines.iter().map(|(setting, _)| setting.chars().count());
        let width = width.max().unwrap_or(0);
        lines
            .iter()
            .map(|(setting, from)| format!("{setting:width$}  # {from}\n"))
            .collect()
    }

    /// One option as it would be in a file, and where it comes from.
    fn line(
        &self,
        option: &Arg,
        variable: impl Fn(&OsStr) -> Option<OsString>,
    ) -> (String, String) {
        let name = option.get_long().unwrap_or_default();
        let told = option
            .get_env()
            .and_then(|name| Some((name.to_string_lossy(), variable(name)?)));
        let (values, from) = if let Some((variable, value)) = told {
            let value = value.to_string_lossy().into_owned();
            let values = match option.get_value_delimiter() {
                Some(delimiter) => value.split(delimiter).map(str::to_owned).collect(),
                None => vec![value],
            };
            (values, format!("the environment variable {variable}"))
        } else if let Some(setting) = self.get(name) {
            let from = format!("{}:{}", self.path().display(), setting.line);
            (setting.values.clone(), from)
        } else {
            let values = option.get_default_values().iter();
            let values = values.map(|v| v.to_string_lossy().into_owned());
            (values.collect(), "the default".to_owned())
        };
        let written: Vec<String> = values.iter().map(|value| written(value)).collect();
        let setting = match (takes_many(option), written.as_slice()) {
            (true, values) => format!("{name} = [{}]", values.join(", ")),
            (false, [value]) => format!("{name} = {value}"),
            (false, _) => format!("# {name} ="),
        };
        (setting, from)
    }
}

/// A value in TOML.
fn written(value: &str) -> String {
    match value.parse::<i64>() {
        Ok(number) if number.to_string() == value => value.to_owned(),
        _ if matches!(value, "true" | "false") => value.to_owned(),
        _ => toml::Value::from(value).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use crate::file::tests::{parse, program};

    #[test]
    fn each_has_its_source_and_the_whole_is_a_file() {
        let settings = parse("to = 'b'\nfrom = ['a \"1\"', 'c']\n").unwrap();
        let shown = settings.shown_with(&program(), |name| {
            (name == "MOVER_LIMIT_MS").then(|| "7".into())
        });
        let expected = r#"
from = ['a "1"', "c"]  # /etc/mover.toml:2
limit-ms = 7           # the environment variable MOVER_LIMIT_MS
to = "b"               # /etc/mover.toml:1
"#;
        assert_eq!(shown, expected.trim_start());
        parse(&shown).unwrap();

        let nothing = parse("").unwrap().shown_with(&program(), |_| None);
        assert!(nothing.contains("\n# to ="), "{nothing}");
        assert!(nothing.contains("limit-ms = 100"), "{nothing}");
        parse(&nothing).unwrap();
    }
}
