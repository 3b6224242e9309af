//! What the user decides about a container that moves.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::Context;
use clap::Args;
use clap::builder::PossibleValuesParser;
use common::container::ContainerFacts;
use common::container::binds::{self, Bind, Volume, Wish};
use common::container::facts::VolumeFacts;
use common::preflight::JUDGEMENTS;

/// What is to become of what the container has of this host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub(crate) struct Choices {
    /// What becomes of a directory or file of this host that is bound into the container: `PATH=send`
    /// sends it, `PATH=keep` uses what the destination has at that path, `PATH=OTHER` what it has at
    /// another path. May be given several times.
    #[arg(long = "bind", value_name = "PATH=WHAT")]
    binds: Vec<BindChoice>,
    /// What becomes of one of Podman's volumes: `NAME=send` sends a copy though other containers use it,
    /// `NAME=keep` sends nothing and uses the destination's volume of that name. May be given several times.
    #[arg(long = "volume", value_name = "NAME=WHAT")]
    volumes: Vec<VolumeChoice>,
    /// Go on although this check fails, and have the report say so. Only checks that are judgements can be
    /// overruled: `network set up`, `CPU features`, `criu's images`, `firewalls`. May be given several times.
    #[arg(long = "force", value_name = "CHECK", value_parser = PossibleValuesParser::new(JUDGEMENTS))]
    forced: Vec<String>,
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

/// What becomes of one volume.
#[derive(Debug, Clone, PartialEq, Eq)]
struct VolumeChoice {
    name: String,
    keep: bool,
}

impl FromStr for VolumeChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, keep) = match text.rsplit_once('=') {
            Some((name, "keep")) => (name, true),
            Some((name, "send")) => (name, false),
            _ => return Err("not a volume's name, an equals sign, and `send` or `keep`".to_owned()),
        };
        Ok(VolumeChoice {
            name: name.to_owned(),
            keep,
        })
    }
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
        container.forced = self.forced.iter().cloned().collect();
        self.apply_to_volumes(container)?;
        binds::measure(&mut container.binds);
        Ok(())
    }

    /// A volume that is kept is a bind mount of its directory. So is one that has options or a driver of its own,
    /// unless the user wants it sent, which is refused.
    fn apply_to_volumes(&self, container: &mut ContainerFacts) -> anyhow::Result<()> {
        for choice in &self.volumes {
            let mut volumes = container.volumes.iter();
            anyhow::ensure!(
                volumes.any(|volume| volume.name == choice.name),
                "--volume {}: the container has no such volume",
                choice.name
            );
        }
        for volume in std::mem::take(&mut container.volumes) {
            let mut choices = self.volumes.iter();
            let said = choices.rfind(|choice| choice.name == volume.name);
            let said = said.map(|choice| choice.keep);
            let what = Volume {
                name: volume.name.clone(),
                driver: volume.driver.clone(),
                options: volume.options.clone(),
            };
            let keeps = said.unwrap_or(!what.is_plain());
            match volume.bind.as_deref().filter(|_| keeps) {
                Some(bind) => container.binds.push(Bind {
                    volume: Some(what),
                    wish: match said {
                        Some(_) => Wish::Keep,
                        None => Wish::Unsaid,
                    },
                    ..bind.clone()
                }),
                None => container.volumes.push(VolumeFacts {
                    send: said == Some(false),
                    ..volume
                }),
            }
        }
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
            ..Choices::default()
        };
        let error = choices.apply(&mut ContainerFacts::default()).unwrap_err();
        assert!(error.to_string().contains("/nothing/here"), "{error}");
        let choices = Choices {
            volumes: vec!["data=keep".parse().unwrap()],
            ..Choices::default()
        };
        let error = choices.apply(&mut ContainerFacts::default()).unwrap_err();
        assert!(error.to_string().contains("--volume data"), "{error}");
    }

    #[test]
    fn volumes_are_kept_or_sent() {
        let volume = |name: &str, options: &[(&str, &str)]| VolumeFacts {
            name: name.into(),
            destination: format!("/{name}"),
            driver: "local".into(),
            options: options
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            bind: Some(Box::default()),
            ..VolumeFacts::default()
        };
        let nfs = [("type", "nfs")];
        let choices = Choices {
            volumes: ["kept=keep", "copied=send", "refused=send"]
                .map(|text| text.parse().unwrap())
                .into(),
            ..Choices::default()
        };
        let mut container = ContainerFacts {
            volumes: vec![
                volume("kept", &[]),
                volume("copied", &[]),
                volume("plain", &[]),
                volume("remote", &nfs),
                volume("refused", &nfs),
            ],
            ..ContainerFacts::default()
        };
        choices.apply(&mut container).unwrap();
        let sent = container.volumes.iter().map(|v| (v.name.as_str(), v.send));
        let sent: Vec<_> = sent.collect();
        assert_eq!(
            sent,
            [("copied", true), ("plain", false), ("refused", true)]
        );
        let kept = container.binds.iter();
        let kept = kept.map(|bind| (bind.volume.as_ref().unwrap().name.as_str(), &bind.wish));
        let kept: Vec<_> = kept.collect();
        assert_eq!(kept, [("kept", &Wish::Keep), ("remote", &Wish::Unsaid)]);
        for bad in ["", "data", "data=", "data=/srv"] {
            bad.parse::<VolumeChoice>().unwrap_err();
        }
    }
}
