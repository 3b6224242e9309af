//! The container's image, sent when the destination lacks it.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::path::{Component, Path};
use std::process::Stdio;

use serde_json::Value;
use tar::{Archive, Builder};
use tokio_util::sync::CancellationToken;

pub use super::piped::ImageError;
use super::piped::Piped;
use crate::command;
use crate::container::leftover_processes;
use crate::units;

/// Streams `podman save` of the image into `sink`, without the layers `present`, which whoever loads it
/// has already; they are named by the digests of what they unpack to. Blocks; returns when Podman is done, or
/// has made no progress for a while, or with `cancel`.
///
/// Saved by id, without names, so that loading moves no tag at the destination; and in the format
/// the image has, because converting it would change its id. Layers are not compressed, so that their
/// digests are the ones in `present`.
pub fn save(
    image_id: &str,
    present: &[String],
    sink: &mut impl Write,
    cancel: &CancellationToken,
) -> Result<(), ImageError> {
    let format: &[&str] = if manifest_type(image_id, cancel)?.contains("oci") {
        &["oci-archive", "--uncompressed"]
    } else {
        &["docker-archive"]
    };
    let mut podman = Piped::start(
        command::blocking("podman")
            .args(["image", "save", "--quiet", "--format"])
            .args(format)
            .arg(image_id)
            .stdin(Stdio::null())
            .stdout(Stdio::piped()),
        cancel,
    )?;
    let mut stdout = podman.stdout().map_err(ImageError::Stream)?;
    copy_without(present, &mut stdout, sink).map_err(ImageError::Stream)?;
    drop(stdout);
    podman.finish("image save", 0)
}

/// Copies an image's archive without the content of some layers.
///
/// Podman does not read a layer that it has. In an archive in Docker's format there must still be a file
/// for it (`prepareLayerData` in containers/image, docker/internal/tarfile/src.go), which is left empty; in
/// one in OCI's format Podman does not even look for the file.
pub(crate) fn copy_without(
    layers: &[String],
    archive: &mut impl Read,
    sink: &mut impl Write,
) -> io::Result<()> {
    let digests: HashSet<&str> = layers
        .iter()
        .filter_map(|layer| layer.strip_prefix("sha256:"))
        .collect();
    let mut thinned = Builder::new(sink);
    let mut entries = Archive::new(&mut *archive);
    // Raw: an entry that only gives the next one a longer name is copied like any other.
    for entry in entries.entries()?.raw(true) {
        let mut entry = entry?;
        let name = entry.path()?.to_string_lossy().into_owned();
        let of_docker = name.strip_suffix(".tar");
        let of_oci = name.strip_prefix("blobs/sha256/");
        let mut header = entry.header().clone();
        if of_oci.is_some_and(|digest| digests.contains(digest)) {
            continue;
        } else if of_docker.is_some_and(|digest| digests.contains(digest)) {
            header.set_size(0);
            header.set_cksum();
            thinned.append(&header, io::empty())?;
        } else {
            thinned.append(&header, &mut entry)?;
        }
    }
    thinned.into_inner()?;
    // Padding after the archive's end.
    io::copy(archive, &mut io::sink()).map(drop)
}

fn manifest_type(image_id: &str, cancel: &CancellationToken) -> Result<String, ImageError> {
    let mut podman = Piped::start(
        command::blocking("podman")
            .args(["image", "inspect", "--format", "{{.ManifestType}}"])
            .arg(image_id)
            .stdin(Stdio::null())
            .stdout(Stdio::piped()),
        cancel,
    )?;
    let mut kind = String::new();
    let mut stdout = podman.stdout().map_err(ImageError::Stream)?;
    stdout
        .read_to_string(&mut kind)
        .map_err(ImageError::Stream)?;
    drop(stdout);
    podman.finish("image inspect", 0)?;
    Ok(kind)
}

/// Feeds `source` to `podman load`: up to `most` bytes, of which Podman keeps a copy while it unpacks them.
/// Blocks; returns when Podman is done, or has made no progress for a while, or with `cancel`. Should Podman
/// survive its caller, it is recognised by `work`, the migration's scratch space.
pub fn load(
    source: &mut impl Read,
    most: u64,
    work: &Path,
    cancel: &CancellationToken,
) -> Result<(), ImageError> {
    let mut podman = Piped::start(
        command::blocking("podman")
            .args(["image", "load", "--quiet"])
            .env(leftover_processes::WORK, work)
            .stdin(Stdio::piped())
            .stdout(Stdio::null()),
        cancel,
    )?;
    let mut stdin = podman.stdin().map_err(ImageError::Stream)?;
    let mut counted = Limited {
        source,
        left: most,
        most,
    };
    let copied = copy_nameless(&mut counted, &mut stdin);
    let bytes = most - counted.left;
    // Killed first: an archive that was refused must not look like one that ends here.
    if matches!(&copied, Err(error) if error.kind() != io::ErrorKind::BrokenPipe) {
        drop(podman);
        return copied.map_err(ImageError::Stream);
    }
    drop(stdin);
    // Podman's own message says more than the broken pipe that its failure causes here.
    podman.finish("image load", bytes)?;
    copied.map_err(ImageError::Stream)
}

/// Longest archive of an image of this size: its layers are as long as that, and the rest is small.
pub fn most_bytes(image_bytes: u64) -> u64 {
    image_bytes.saturating_mul(2).saturating_add(64 << 20)
}

/// A source that fails once it has given too much.
struct Limited<'a, R> {
    source: &'a mut R,
    left: u64,
    most: u64,
}

impl<R: Read> Read for Limited<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        match self.left.checked_sub(count as u64) {
            Some(left) => self.left = left,
            None => {
                let most = units::bytes(self.most);
                let why = format!(
                    "refused: an archive of more than {most}, for an image that is smaller"
                );
                return Err(io::Error::new(io::ErrorKind::InvalidData, why));
            }
        }
        Ok(count)
    }
}

/// Longest list of an archive's images, in bytes.
const MOST_LIST: u64 = 1 << 20;

/// Annotations by which an image in an archive of OCI's is named (containers/image, oci/layout and
/// oci/internal).
const NAMES: [&str; 2] = [
    "org.opencontainers.image.ref.name",
    "io.containerd.image.name",
];

/// Copies an image's archive, unless it says how an image is to be called: loading it would take that name
/// from the image that has it here.
///
/// The archive is of the kind that [`save`] sends: its files have short names, which no other entry
/// can replace.
fn copy_nameless(archive: &mut impl Read, sink: &mut impl Write) -> io::Result<()> {
    let refused = |why: &str| io::Error::new(io::ErrorKind::InvalidData, format!("refused: {why}"));
    let mut copy = Builder::new(sink);
    let mut seen = HashSet::new();
    let mut entries = Archive::new(&mut *archive);
    for entry in entries.entries()?.raw(true) {
        let mut entry = entry?;
        let header = entry.header().clone();
        let kind = header.entry_type();
        if !(kind.is_file() || kind.is_dir() || kind.is_symlink()) {
            return Err(refused("an entry that is no file"));
        }
        let path = header.path()?.into_owned();
        let plain = path
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        if !plain {
            return Err(refused("a path that leads elsewhere"));
        }
        let list = path.to_str().filter(|name| LISTS.contains(name));
        let Some(list) = list else {
            copy.append(&header, &mut entry)?;
            continue;
        };
        if !kind.is_file() || header.size()? > MOST_LIST || !seen.insert(list.to_owned()) {
            return Err(refused(list));
        }
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        if !is_nameless(list, &serde_json::from_slice(&content)?) {
            return Err(refused("an image that brings a name with it"));
        }
        copy.append(&header, content.as_slice())?;
    }
    copy.into_inner()?;
    // Padding after the archive's end.
    io::copy(archive, &mut io::sink()).map(drop)
}

/// The files of an archive that say which images are in it, and their names: the first two are Docker's.
const LISTS: [&str; 3] = ["manifest.json", "repositories", "index.json"];

/// Whether a list names nothing, and has one image at most.
fn is_nameless(list: &str, content: &Value) -> bool {
    let empty = |value: Option<&Value>| match value {
        None | Some(Value::Null) => true,
        Some(Value::Array(items)) => items.is_empty(),
        Some(_) => false,
    };
    match list {
        "repositories" => content.as_object().is_some_and(|names| names.is_empty()),
        "manifest.json" => match content.as_array().map(Vec::as_slice) {
            Some([image]) => {
                // Go's decoder takes no notice of the case of letters.
                let mut keys = image.as_object().into_iter().flatten();
                keys.all(|(key, value)| !key.eq_ignore_ascii_case("RepoTags") || empty(Some(value)))
            }
            _ => false,
        },
        _ => match content["manifests"].as_array().map(Vec::as_slice) {
            Some([_]) => {
                let text = content.to_string();
                !NAMES.iter().any(|name| text.contains(name))
            }
            _ => false,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tar::Header;

    fn archive(files: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for (name, content) in files {
            let mut header = Header::new_gnu();
            header.set_size(content.len() as u64);
            builder
                .append_data(&mut header, name, content.as_bytes())
                .unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn thinned(files: &[(&str, &str)], layers: &[&str]) -> Vec<(String, String)> {
        let layers: Vec<String> = layers.iter().map(|l| (*l).to_owned()).collect();
        let (full, mut out) = (archive(files), Vec::new());
        copy_without(&layers, &mut full.as_slice(), &mut out).unwrap();
        let mut archive = Archive::new(out.as_slice());
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().to_string_lossy().into_owned();
            let mut content = String::new();
            entry.read_to_string(&mut content).unwrap();
            (name, content)
        });
        entries.collect()
    }

    #[test]
    fn an_image_with_a_name_is_not_loaded() {
        let copied = |files: &[(&str, &str)]| {
            let (full, mut out) = (archive(files), Vec::new());
            copy_nameless(&mut full.as_slice(), &mut out).map(|()| out)
        };
        let docker = r#"[{"Config":"aa.json","RepoTags":null,"Layers":["aa.tar"]}]"#;
        let oci = r#"{"schemaVersion":2,"manifests":[{"digest":"sha256:aa","annotations":{}}]}"#;
        for good in [
            &[
                ("aa.tar", "layer"),
                ("manifest.json", docker),
                ("repositories", "{}"),
            ][..],
            &[("blobs/sha256/aa", "layer"), ("index.json", oci)],
        ] {
            assert_eq!(copied(good).unwrap(), archive(good));
        }
        let tagged = docker.replace("null", r#"["docker.io/library/nginx:latest"]"#);
        let other_case = tagged.replace("RepoTags", "repotags");
        let two = r#"[{"Config":"aa.json"},{"Config":"bb.json"}]"#;
        let named = oci.replace("{}", r#"{"org.opencontainers.image.ref.name":"nginx"}"#);
        let old = r#"{"nginx":{"latest":"aa"}}"#;
        let twice = [("manifest.json", docker), ("manifest.json", &tagged)];
        let long = "l".repeat(150);
        for bad in [
            &[("manifest.json", tagged.as_str())][..],
            &[("manifest.json", &other_case)],
            &[("manifest.json", two)],
            &[("index.json", &named)],
            &[("repositories", old)],
            &[(&long, "a name of its own kind")],
            &twice,
        ] {
            let error = copied(bad).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{bad:?}");
        }
    }

    #[test]
    fn an_image_that_is_too_large_is_not_read_to_its_end() {
        let full = archive(&[("aa.tar", "layer"), ("bb.tar", "layer")]);
        let copied = |most: usize| {
            let mut source = full.as_slice();
            let most = most as u64;
            let mut limited = Limited {
                source: &mut source,
                left: most,
                most,
            };
            copy_nameless(&mut limited, &mut Vec::new())
        };
        copied(full.len()).unwrap();
        let error = copied(full.len() - 1).unwrap_err();
        assert!(error.to_string().contains("more than"), "{error}");
        assert!(copied(600).is_err());
    }

    #[test]
    fn known_layers_are_left_out() {
        let long = format!("{}/layer.tar", "l".repeat(150));
        let of_docker = [("aa.tar", "first"), ("bb.tar", "second"), (&long, "link")];
        assert_eq!(
            thinned(&of_docker, &["sha256:aa", "sha256:cc"]),
            [
                ("aa.tar".to_owned(), String::new()),
                ("bb.tar".to_owned(), "second".to_owned()),
                (long.clone(), "link".to_owned())
            ]
        );
        let of_oci = [("blobs/sha256/aa", "first"), ("index.json", "{}")];
        assert_eq!(
            thinned(&of_oci, &["sha256:aa"]),
            [("index.json".to_owned(), "{}".to_owned())]
        );
        assert_eq!(thinned(&of_oci, &[]).len(), 2);
    }
}
