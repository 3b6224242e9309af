//! Which containers there are, and which of them a name means.

use serde::Deserialize;

use super::json;
use crate::command::CommandError;

/// Why no container could be found by what the user called it.
#[derive(Debug, thiserror::Error)]
pub enum PodmanError {
    /// No such container.
    #[error("there is no container `{0}` on this host (`podman ps` lists those that run)")]
    NoSuchContainer(String),
    /// It is a prefix of several containers' names or ids.
    #[error("`{prefix}` could be any of: {}", candidates.join(", "))]
    Ambiguous {
        /// What was given.
        prefix: String,
        /// Those containers.
        candidates: Vec<String>,
    },
    /// Podman failed.
    #[error(transparent)]
    Command(#[from] CommandError),
}

/// A line of `podman ps`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Full id.
    pub id: String,
    /// Name.
    pub name: String,
    /// Image name.
    pub image: String,
    /// Published ports, written as Podman does.
    pub ports: String,
    /// State, e.g. `running`.
    pub state: String,
    /// Full id of the image.
    pub image_id: String,
    /// Whether volumes or directories of the host were mounted into it.
    pub has_mounts: bool,
    /// Networks it has joined.
    pub networks: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PsEntry {
    #[serde(alias = "ID")]
    id: String,
    #[serde(default)]
    names: Vec<String>,
    #[serde(default)]
    image: String,
    #[serde(rename = "ImageID", default)]
    image_id: String,
    #[serde(default)]
    state: String,
    #[serde(default)]
    mounts: Option<Vec<String>>,
    #[serde(default)]
    networks: Option<Vec<String>>,
    #[serde(default)]
    ports: Option<Vec<PsPort>>,
}

#[derive(Deserialize)]
struct PsPort {
    host_ip: String,
    host_port: u16,
    container_port: u16,
    #[serde(default = "one")]
    range: u16,
    protocol: String,
}

fn one() -> u16 {
    1
}

/// All containers, running or not, in Podman's order.
pub async fn list() -> Result<Vec<Listed>, CommandError> {
    let entries: Option<Vec<PsEntry>> =
        json(&["ps", "--all", "--no-trunc", "--format", "json"]).await?;
    Ok(listed(entries))
}

fn listed(entries: Option<Vec<PsEntry>>) -> Vec<Listed> {
    entries
        .unwrap_or_default()
        .into_iter()
        .map(|e| Listed {
            name: e.names.into_iter().next().unwrap_or_default(),
            ports: e
                .ports
                .unwrap_or_default()
                .iter()
                .map(|p| {
                    let host = if p.host_ip.is_empty() {
                        String::new()
                    } else {
                        format!("{}:", p.host_ip)
                    };
                    let range = |first: u16| match p.range {
                        0 | 1 => first.to_string(),
                        n => format!("{first}-{}", first.saturating_add(n - 1)),
                    };
                    format!(
                        "{host}{}->{}/{}",
                        range(p.host_port),
                        range(p.container_port),
                        p.protocol
                    )
                })
                .collect::<Vec<_>>()
                .join(", "),
            id: e.id,
            image: e.image,
            state: e.state,
            image_id: e.image_id,
            has_mounts: e.mounts.is_some_and(|mounts| !mounts.is_empty()),
            networks: e.networks.unwrap_or_default(),
        })
        .collect()
}

/// What [`list`] makes of what Podman prints.
#[cfg(feature = "fuzzing")]
pub(crate) fn read(text: &str) -> Option<Vec<Listed>> {
    Some(listed(serde_json::from_str(text).ok()?))
}

/// Finds the container meant by a name, an id, or a unique prefix of an id.
pub fn resolve<'a>(containers: &'a [Listed], given: &str) -> Result<&'a Listed, PodmanError> {
    if let Some(exact) = containers.iter().find(|c| c.name == given || c.id == given) {
        return Ok(exact);
    }
    let fits: Vec<&Listed> = containers
        .iter()
        .filter(|c| !given.is_empty() && (c.id.starts_with(given) || c.name.starts_with(given)))
        .collect();
    match fits[..] {
        [] => Err(PodmanError::NoSuchContainer(given.to_owned())),
        [only] => Ok(only),
        _ => Err(PodmanError::Ambiguous {
            prefix: given.to_owned(),
            candidates: fits
                .iter()
                .map(|c| format!("{} ({})", c.name, &c.id[..c.id.floor_char_boundary(12)]))
                .collect(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(id: &str, name: &str) -> Listed {
        Listed {
            id: id.into(),
            name: name.into(),
            image: String::new(),
            ports: String::new(),
            state: "running".into(),
            image_id: String::new(),
            has_mounts: false,
            networks: Vec::new(),
        }
    }

    #[test]
    fn an_id_may_be_any_text() {
        let all = [listed("eleven byte\u{e4}s", "a1"), listed("", "a2")];
        let error = resolve(&all, "a").unwrap_err();
        assert!(error.to_string().contains("a1 (eleven byte"), "{error}");
    }

    #[test]
    fn a_name_beats_a_prefix() {
        let all = [listed("abc1", "web"), listed("abc2", "web2")];
        assert_eq!(resolve(&all, "web").unwrap().id, "abc1");
        assert_eq!(resolve(&all, "abc2").unwrap().name, "web2");
        assert_eq!(resolve(&all, "web2").unwrap().id, "abc2");
    }

    #[test]
    fn an_ambiguous_prefix_names_the_candidates() {
        let all = [listed("abc1", "one"), listed("abc2", "two")];
        let error = resolve(&all, "abc").unwrap_err().to_string();
        assert!(
            error.contains("one (abc1)") && error.contains("two (abc2)"),
            "{error}"
        );
    }

    #[test]
    fn nothing_fits() {
        for given in ["zzz", ""] {
            assert!(matches!(
                resolve(&[listed("abc1", "one")], given),
                Err(PodmanError::NoSuchContainer(_))
            ));
        }
    }
}
