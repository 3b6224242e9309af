//! What the user decides about a container that moves.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Context;
use clap::Args;
use common::container::ContainerFacts;
use common::container::binds::{self, Wish};

/// What is to become of what the container has of this host.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Choices {
    /// What becomes of a directory or file of this host that is bound into the container: `PATH=send`
    /// sends it, `PATH=keep` uses what the destination has at that path, `PATH=OTHER` what it has at
    /// another path. May be given several times.
    #[arg(long = "bind", value_name = "PATH=WHAT")]
    binds: Vec<BindChoice>,
    /// What is sent with `--bind PATH=send` may take the place of what is there. That is removed once
    /// the container runs there.
    #[arg(long)]
    overwrite: bool,
}

/// What becomes of one bind mount.
#[derive(Debug, Clone, PartialEq, Eq)]
struct BindChoice {
    path: PathBuf,
    what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum What {
    Send,
    Keep,
    Other(String),
}

impl FromStr for BindChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // A path may have an equals sign; the words that can follow have none.
        let split = text.rsplit_once('=');
        let (path, what) = split.filter(|(path, _)| path.starts_with('/')).ok_or(
            "not an absolute path, an equals sign, and `send`, `keep` or another absolute path",
        )?;
        let what = match what {
            "send" => What::Send,
            "keep" => What::Keep,
            other if other.starts_with('/') && !other.split('/').any(|part| part == "..") => {
                // As the kernel has it: without anything that makes no difference.
                let plain: PathBuf = Path::new(other).components().collect();
                What::Other(plain.display().to_string())
            }
            other => {
                return Err(format!(
                    "{other:?} is neither `send`, `keep` nor an absolute path"
                ));
            }
        };
        Ok(BindChoice {
            path: path.into(),
            what,
        })
    }
}

impl Choices {
    /// Applies them to the container, and has what must be compared read. Blocks for as long as that takes.
    ///
    /// # Errors
    /// If the container does not have what they are about.
    pub(crate) fn apply(&self, container: &mut ContainerFacts) -> anyhow::Result<()> {
        for choice in &self.binds {
            let real = choice.path.canonicalize();
            let real = real.as_ref().unwrap_or(&choice.path);
            let mut meant = container.binds.iter_mut();
            let mut meant = meant
                .by_ref()
                .filter(|bind| Path::new(&bind.source) == real)
                .peekable();
            meant.peek().with_context(|| {
                let path = choice.path.display();
                format!("--bind {path}: the container has no such bind mount")
            })?;
            for bind in meant {
                bind.wish = match &choice.what {
                    What::Send => Wish::Send {
                        overwrite: self.overwrite,
                    },
                    What::Keep => Wish::Keep,
                    What::Other(path) => Wish::At { path: path.clone() },
                };
            }
        }
        binds::measure(&mut container.binds);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_read() {
        let read = |text: &str| text.parse::<BindChoice>().map(|c| (c.path, c.what));
        let is = |path: &str, what| Ok((PathBuf::from(path), what));
        assert_eq!(read("/srv/a=send"), is("/srv/a", What::Send));
        assert_eq!(read("/srv/a=b=keep"), is("/srv/a=b", What::Keep));
        let other = What::Other("/mnt/b".into());
        assert_eq!(read("/srv/a=/mnt//b/"), is("/srv/a", other));
        for bad in [
            "",
            "/srv",
            "srv=send",
            "/srv=",
            "/srv=sent",
            "/srv=/mnt/../etc",
            "=send",
        ] {
            read(bad).unwrap_err();
        }
    }

    #[test]
    fn a_choice_about_nothing_is_a_mistake() {
        let choices = Choices {
            binds: vec!["/nothing/here=keep".parse().unwrap()],
            overwrite: false,
        };
        let error = choices.apply(&mut ContainerFacts::default()).unwrap_err();
        assert!(error.to_string().contains("/nothing/here"), "{error}");
    }
}
