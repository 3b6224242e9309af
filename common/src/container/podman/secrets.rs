//! Podman's secrets of this host.

use std::collections::BTreeMap;

use super::podman;
use crate::command::{self, CommandError};

/// Name, length in bytes and content, each of the first two in a line of its own.
const FORMAT: &str = "{{.Spec.Name}}\n{{len .SecretData}}\n{{.SecretData}}";

/// The contents of those of these secrets that exist, by name. Podman is not asked if there are none.
pub async fn contents(names: &[&str]) -> Result<BTreeMap<String, Vec<u8>>, CommandError> {
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    let mut command = podman();
    command.args(["secret", "inspect", "--showsecret", "--format", FORMAT]);
    // It fails if any is missing, but prints the others all the same.
    let output = command::output_in_time(command.args(names)).await?;
    Ok(parsed(&output.stdout))
}

fn parsed(mut output: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    while let Some((name, content, rest)) = first(output) {
        found.insert(name, content);
        output = rest.strip_prefix(b"\n").unwrap_or(rest);
    }
    found
}

fn first(output: &[u8]) -> Option<(String, Vec<u8>, &[u8])> {
    let mut lines = output.splitn(3, |byte| *byte == b'\n');
    let name = std::str::from_utf8(lines.next()?).ok()?.to_owned();
    let length: usize = std::str::from_utf8(lines.next()?).ok()?.parse().ok()?;
    let (content, rest) = lines.next()?.split_at_checked(length)?;
    Some((name, content.to_vec(), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_may_contain_anything() {
        let found = parsed(b"a\n4\nx\n\xff\n\nb\n0\n\nc\n1\n7\n");
        let expected: [(&str, &[u8]); 3] = [("a", b"x\n\xff\n"), ("b", b""), ("c", b"7")];
        let expected = expected.map(|(name, content)| (name.to_owned(), content.to_vec()));
        assert_eq!(found, expected.into());
        assert!(parsed(b"no secret").is_empty());
    }
}
