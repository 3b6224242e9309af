//! Where `scripts/debian` gets packages from, tested with a fake apt and a fake mmdebstrap.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/debian");

/// Runs it on a machine whose apt has these index targets and this configuration. Returns what it
/// would have mmdebstrap do: the arguments, one per line, then the options that were in a file.
fn run(at: &Path, targets: &str, configuration: &str) -> Output {
    let program = |name: &str, script: &str| {
        let path = at.join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    program("apt-get", &format!("cat <<'END'\n{targets}\nEND"));
    program("apt-config", &format!("cat <<'END'\n{configuration}\nEND"));
    program(
        "mmdebstrap",
        r#"for word; do echo "$word"; done; cat "${1#--aptopt=}""#,
    );
    let path = format!("{}:/usr/bin:/bin", at.display());
    let mut script = Command::new(SCRIPT);
    script.args(["trixie", "/root/of/it", "--variant=extract"]);
    script.env("PATH", path).output().unwrap()
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn the_machines_own_archive_is_used_as_apt_uses_it() {
    let at = TempDir::new().unwrap();
    let sources = at.path().join("debian.sources");
    fs::write(
        &sources,
        "# Security.\nTypes: deb\nURIs: http://archive.test/security\nSuites: bookworm-security\n\n\
         Types: deb\nURIs: http://archive.test/debian\nSuites: bookworm\nSigned-By: /keys/ours.gpg\n",
    )
    .unwrap();
    let entry = sources.display();
    let targets = format!(
        "http://other.test/x|{entry}:1|stable|main|Other|Other\n\
         http://archive.test/security|{entry}:1|bookworm-security|main|Debian|Debian-Security\n\
         http://archive.test/debian|{entry}:2|bookworm-updates|main|Debian|Debian\n\
         http://archive.test/debian|{entry}:2|bookworm|contrib|Debian|Debian\n\
         http://archive.test/debian|{entry}:2|bookworm|main|Debian|Debian"
    );
    let configuration = "Acquire::http::Proxy \"http://proxy.test:3128\";\n\
         Acquire::Check-Date \"false\";\n\
         Acquire::IndexTargets::deb \"\";\n\
         DPkg::Post-Invoke:: \"rm -f /somewhere\";";
    let said = said(&run(at.path(), &targets, configuration));
    let source = "\ndeb [signed-by=/keys/ours.gpg] http://archive.test/debian trixie main\n";
    for expected in [
        source,
        "\n--variant=extract\ntrixie\n/root/of/it\n",
        "\nAcquire::http::Proxy \"http://proxy.test:3128\";\n",
        "\nAcquire::Check-Date \"false\";\n",
    ] {
        assert!(said.contains(expected), "no {expected:?} in {said}");
    }
    assert!(
        !said.contains("Post-Invoke") && !said.contains("IndexTargets"),
        "{said}"
    );
}

#[test]
fn a_line_of_a_list_says_as_much() {
    let at = TempDir::new().unwrap();
    let list = at.path().join("sources.list");
    fs::write(
        &list,
        "# none\ndeb [arch=amd64 signed-by=/keys/line.gpg] http://archive.test/debian bookworm main\n",
    )
    .unwrap();
    // Apt has not fetched anything yet.
    let unknown = "bookworm|main|$(ORIGIN)|$(LABEL)";
    let targets = format!("http://archive.test/debian|{}:2|{unknown}", list.display());
    let said = said(&run(at.path(), &targets, ""));
    let source = "\ndeb [signed-by=/keys/line.gpg] http://archive.test/debian trixie main\n";
    assert!(said.contains(source), "{said}");
}

#[test]
fn a_machine_without_debian_is_told_so() {
    let at = TempDir::new().unwrap();
    let targets = "http://other.test/x|/etc/apt/x.list:1|noble|main|Ubuntu|Ubuntu";
    let output = run(at.path(), targets, "");
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && error.contains("no source of Debian"),
        "{error}"
    );
}
