//! What ids and names from another host may look like. They end up on command lines, where one that begins
//! with `-` would be an option, and in paths, where one with `/` would lead elsewhere.

use serde::{Deserialize, Deserializer, de::Error};

/// Longest name, in bytes: that of a file.
const MOST_NAME: usize = 255;

/// Longest reference of an image, in bytes.
const MOST_REFERENCE: usize = 4096;

/// Defines a deserializer for a text that must be of a kind.
macro_rules! checked {
    ($name:ident, $is:expr, $what:literal) => {
        #[doc = concat!("Reads ", $what, "; anything else is an error.")]
        pub fn $name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
            let text = String::deserialize(deserializer)?;
            match $is(&text) {
                true => Ok(text),
                false => Err(D::Error::custom(format!(
                    concat!("{:?} is not ", $what),
                    text
                ))),
            }
        }
    };
}

checked!(
    container_id,
    is_container_id,
    "a container's id (64 lower-case hex digits)"
);
checked!(
    image_id,
    is_image_id,
    "an image's id (64 lower-case hex digits)"
);
checked!(name, is_name, "a name of Podman's");
checked!(reference, is_reference, "an image's name");
checked!(runtime, is_runtime, "a runtime's name or path");
checked!(mount_point, is_mount_point, "an absolute path");
checked!(protocol, is_protocol, "tcp, udp or sctp");

fn is_container_id(text: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.len() == 64 && text.bytes().all(is_digit)
}

/// A container that was not made from an image has none.
fn is_image_id(text: &str) -> bool {
    text.is_empty() || is_container_id(text.strip_prefix("sha256:").unwrap_or(text))
}

/// Podman's `NameRegex` (containers/storage, pkg/regexp and libpod/define): `[a-zA-Z0-9][a-zA-Z0-9_.-]*`.
fn is_name(text: &str) -> bool {
    text.len() <= MOST_NAME && plain(text, b"_.-")
}

/// The characters that the grammar of references has (distribution/reference), and no more of it.
fn is_reference(text: &str) -> bool {
    text.len() <= MOST_REFERENCE && (text.is_empty() || plain(text, b"_.-+:/@"))
}

fn is_runtime(text: &str) -> bool {
    match text.strip_prefix('/') {
        Some(path) => plain(path, b"_.-+/") && !path.split('/').any(|part| part == ".."),
        None => is_name(text),
    }
}

fn is_mount_point(text: &str) -> bool {
    text.starts_with('/') && !text.split('/').any(|part| part == "..") && !text.contains('\0')
}

fn is_protocol(text: &str) -> bool {
    ["tcp", "udp", "sctp"].contains(&text)
}

/// Letters, digits and, but for the first character, these.
fn plain(text: &str, others: &[u8]) -> bool {
    text.bytes()
        .enumerate()
        .all(|(at, byte)| byte.is_ascii_alphanumeric() || (at > 0 && others.contains(&byte)))
        && !text.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_and_paths_are_no_names() {
        for bad in ["", "--all", "-a", "a b", "a/b", "..", ".a", "a\n", "ä"] {
            assert!(!is_name(bad), "{bad:?}");
            assert!(!is_container_id(bad), "{bad:?}");
        }
        for good in ["web", "A_b.c-9"] {
            assert!(is_name(good), "{good}");
        }
        assert!(!is_name(&"a".repeat(256)));
        assert!(is_container_id(&"0a".repeat(32)));
        for bad in ["ssh.service", &"0A".repeat(32), &"0a".repeat(31)] {
            assert!(!is_container_id(bad) && !is_image_id(bad), "{bad}");
        }
        assert!(is_image_id(&format!("sha256:{}", "0a".repeat(32))));
    }

    #[test]
    fn images_and_runtimes_are_known_by_names_of_their_own() {
        let digest = format!("docker.io/library/redis@sha256:{}", "0a".repeat(32));
        for good in ["localhost:5000/a/b:1.2_x", "busybox", "", &digest] {
            assert!(is_reference(good), "{good}");
        }
        for bad in ["--all", "a b", "a\u{1b}[2J", "/etc/passwd"] {
            assert!(!is_reference(bad), "{bad}");
        }
        for good in ["runc", "/usr/bin/crun", "/usr/libexec/runc-1.2+x"] {
            assert!(is_runtime(good), "{good}");
        }
        for bad in ["", "-r", "a/b", "/../tmp/x", "/usr/bin/a b", "/a\"]\n["] {
            assert!(!is_runtime(bad), "{bad}");
        }
        assert!(is_mount_point("/data") && !is_mount_point("data") && !is_mount_point("/a/../b"));
    }
}
