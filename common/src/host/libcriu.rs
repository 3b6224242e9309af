//! Whether crun finds CRIU.
//!
//! crun does not run the CRIU program but uses its library, which it loads only when it is told to
//! checkpoint (`load_wrapper` in its src/libcrun/criu.c). `crun --version` says `+CRIU` if crun was
//! built for that, whether or not the library is installed, and so does `crun features`; `crun
//! checkpoint` looks up the container before it loads anything. So the dynamic linker is asked.

use std::path::Path;

use tokio::process::Command;

use crate::command;

const LIBRARY: &str = "libcriu.so.2";

/// Where the dynamic linker looks besides its cache (ld.so(8)).
const DIRECTORIES: [&str; 4] = ["/lib64", "/usr/lib64", "/lib", "/usr/lib"];

/// What keeps crun from checkpointing and restoring, if anything.
pub(super) async fn problem() -> Option<String> {
    let version = command::stdout(Command::new("crun").arg("--version")).await;
    let cache = command::stdout(Command::new("ldconfig").arg("-p")).await;
    let found = || {
        DIRECTORIES
            .iter()
            .any(|d| Path::new(d).join(LIBRARY).exists())
    };
    judge(
        &version.unwrap_or_default(),
        needs_library(),
        cache.is_ok_and(|text| lists(&text)) || found(),
    )
}

fn judge(version: &str, dynamic: bool, found: bool) -> Option<String> {
    if !version.split_ascii_whitespace().any(|word| word == "+CRIU") {
        return Some("it was built without CRIU: install another build of crun, or runc".into());
    }
    (dynamic && !found).then(|| {
        format!("it does not find {LIBRARY}: install libcriu2 (in some distributions criu-libs)")
    })
}

/// A static crun includes the library and does not name its file.
fn needs_library() -> bool {
    let Some(path) = command::find("crun") else {
        return true;
    };
    let program = std::fs::read(path).unwrap_or_default();
    let name = LIBRARY.as_bytes();
    program.is_empty() || program.windows(name.len()).any(|bytes| bytes == name)
}

fn lists(cache: &str) -> bool {
    let mut lines = cache.lines();
    lines.any(|line| line.split_ascii_whitespace().next() == Some(LIBRARY))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crun_needs_its_library() {
        let built =
            "crun version 1.21\n+SYSTEMD +SELINUX +APPARMOR +CAP +SECCOMP +EBPF +CRIU +YAJL\n";
        assert_eq!(judge(built, true, true), None);
        assert_eq!(judge(built, false, false), None);
        assert!(judge(built, true, false).unwrap().contains("libcriu2"));
        let without = built.replace("+CRIU ", "");
        assert!(
            judge(&without, true, true)
                .unwrap()
                .contains("without CRIU")
        );
    }

    #[test]
    fn the_cache_is_read_by_whole_names() {
        assert!(lists(
            "\tlibcriu.so.2 (libc6,x86-64) => /lib/x86_64-linux-gnu/libcriu.so.2\n"
        ));
        assert!(!lists(
            "\tlibcriu.so.2.0 (libc6,x86-64) => /x\n\tlibz.so.1 => /y\n"
        ));
    }
}
