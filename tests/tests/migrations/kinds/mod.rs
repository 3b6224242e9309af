//! Kinds of containers that differ from an ordinary one: for each, what `check` says of it, and what the
//! migration then does. What `check` lets pass must move; what it refuses is refused again.

mod case;
mod readme;
mod table;

use tests::{Fixture, Migration};

use case::Case;
use case::Said::{Refused, Warned};
use table::{BINDS, CONFIGURED, NAMESPACES, PROGRAMS, VOLUMES};

#[test]
fn namespaces() {
    try_all("m-kinds-ns", &NAMESPACES);
}

#[test]
fn programs() {
    try_all("m-kinds-prog", &PROGRAMS);
}

#[test]
fn configured() {
    try_all("m-kinds-conf", &CONFIGURED);
}

/// An image that the destination lacks, named by its digest: Podman can only be told of it by its id.
#[test]
fn an_image_by_digest() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new("m-kinds-digest", &["counter"]);
    make_tools(&f);
    f.sh(
        "a",
        "d=$(podman image inspect -f '{{.Digest}}' tools); \
         podman run -qd --name pinned localhost/tools@$d sleep 1000",
    );
    let name = |host| f.sh(host, "podman inspect -f '{{.ImageName}}' pinned");
    let id = f.sh("a", "podman inspect -f '{{.Image}}' pinned");
    assert!(name("a").contains("@sha256:"), "{}", name("a"));
    let check = f.run("a", &["agent-client", "check", "pinned", "--to", "b"]);
    assert!(check.status.success(), "{check}");
    assert!(check.to_string().contains("image name"), "{check}");
    f.migrate("a", "pinned", "b")
        .assert_moved()
        .assert_says(&["image name", "by its id"]);
    assert_eq!(name("b"), id);
    f.sh("b", "podman restart -t0 pinned");
}

#[test]
fn binds() {
    try_all("m-kinds-binds", &BINDS);
}

#[test]
fn volumes() {
    try_all("m-kinds-volumes", &VOLUMES);
}

fn try_all(lab: &str, cases: &[Case]) {
    if !lab::can_run() {
        return;
    }
    let mut f = Fixture::new(lab, &["counter"]);
    let volumes = (1..=9).map(|n| format!("/var/lib/containers/storage/volumes/shared-{n}"));
    let volumes: Vec<String> = volumes.collect();
    let volumes = volumes.iter().map(String::as_str);
    let allowed: Vec<&str> = volumes.chain(["/srv"]).collect();
    f.serve_allowing("b", &allowed);
    make_tools(&f);
    for case in cases {
        f.sh("a", case.here);
        f.sh("b", case.there);
        f.sh(
            "a",
            &format!(
                "podman run -qd --name {} {} tools sh -c {}",
                case.name,
                case.options,
                quoted(case.program)
            ),
        );
        f.sh("a", case.meanwhile);
    }
    tests::pause(2500);
    for case in cases {
        println!("{}", case.name);
        try_one(&f, case);
    }
}

fn try_one(f: &Fixture, case: &Case) {
    let look = |host| match case.kept {
        "" => String::new(),
        kept => f.sh(
            host,
            &format!("podman exec {} sh -c {}", case.name, quoted(kept)),
        ),
    };
    let before = look("a");
    let check = ["agent-client", "check", case.name, "--to", "b"];
    let check = f.run("a", &[&check, case.choices].concat());
    let migrate = || Migration::of(f.begin("a", case.name, "b", case.choices));
    let said = check.to_string();
    let warned = said
        .lines()
        .any(|line| line.trim_start().starts_with("warn "));
    if let Refused(words) = case.said {
        assert_eq!(check.status.code(), Some(4), "{said}");
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
        migrate().assert_failed(4, words);
        assert_eq!(f.state("a", case.name), "running");
        assert_eq!(look("a"), before);
        f.sh("b", case.afterwards);
        return;
    }
    assert!(check.status.success(), "{said}");
    let words = match case.said {
        Warned(words) => words,
        _ => &[],
    };
    assert_eq!(warned, !words.is_empty(), "{said}");
    assert!(words.iter().all(|word| said.contains(word)), "{said}");
    let migration = migrate();
    migration.assert_moved().assert_says(words);
    let warnings = migration.report["warnings"].as_array();
    let warnings = warnings.map_or(0, Vec::len);
    assert_eq!(warnings > 0, warned, "{}", migration.report);
    assert_eq!(f.state("b", case.name), "running");
    assert_eq!(look("b"), before);
    f.sh("b", case.afterwards);
}

#[test]
fn secrets() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new("m-kinds-secrets", &["counter"]);
    let create = |host, content| {
        f.sh(
            host,
            &format!("printf {content} | podman secret create s -"),
        )
    };
    create("a", "one");
    f.start(
        "a",
        "counter",
        "-p 9000:9000 --secret s --secret s,type=env,target=S localhost/counter",
    );
    let client = f.client("count", &f.at("a", 9000), &[]);
    f.migrate("a", "counter", "b")
        .assert_failed(4, &["secret", "there is no s"]);
    create("b", "two");
    f.migrate("a", "counter", "b")
        .assert_failed(4, &["secret", "another content"]);
    f.sh("b", "podman secret rm s");
    create("b", "one");
    f.migrate("a", "counter", "b").assert_moved();
    tests::pause(300);
    client.finish_whole();
}

/// CRIU asks for the limits of each process.
#[test]
fn processes_of_another_user() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new("m-kinds-user", &["counter"]);
    f.start(
        "a",
        "counter",
        "-p 9000:9000 --user 1000:1000 localhost/counter",
    );
    let client = f.client("count", &f.at("a", 9000), &[]);
    let may_ask = "perl -ne 'exit !(hex($1) >> 24 & 1) if /CapEff:\\s*(.*)/' /proc/self/status";
    if f.run("a", &["sh", "-c", may_ask]).status.success() {
        f.migrate("a", "counter", "b").assert_moved();
    } else {
        f.migrate("a", "counter", "b")
            .assert_failed(4, &["is not root's", "CAP_SYS_RESOURCE"]);
    }
    client.finish_whole();
}

/// How many huge pages the kernel makes when they are asked for. All hosts made of namespaces have the same kernel.
struct HugePages<'a>(&'a Fixture);

impl HugePages<'_> {
    fn allow(&self, host: &str, number: u32) {
        self.0.sh(
            host,
            &format!("echo {number} >/proc/sys/vm/nr_overcommit_hugepages"),
        );
    }
}

impl Drop for HugePages<'_> {
    fn drop(&mut self) {
        for host in ["a", "b"] {
            self.allow(host, 0);
        }
    }
}

#[test]
fn huge_pages_and_shared_memory() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new("m-kinds-memory", &["counter"]);
    make_tools(&f);
    let pages = HugePages(&f);
    pages.allow("a", 2);
    // mmap(2) of 4 MiB, on x86-64 or arm64; and enough else that it goes ahead of the outage.
    let program = r#"exec perl -e '$n = `uname -m` =~ /x86/ ? 9 : 222;
        $at = syscall($n, 0, 4 << 20, 3, 0x40022, -1, 0); die if $at == -1;
        open M, "+<", "/proc/self/mem"; sysseek M, $at, 0; syswrite M, "huge"; close M;
        $much = "x" x (80 << 20); fork || last for 1, 2;
        open O, ">", "/tmp/$$"; print O $at; close O; sleep 9 while 1'"#;
    f.sh(
        "a",
        &format!("podman run -qd --name much tools sh -c {}", quoted(program)),
    );
    f.sh(
        "a",
        "until podman exec much sh -c '[ $(ls /tmp | wc -l) = 3 ]'; do sleep 0.1; done",
    );
    let at = f.sh("a", "podman exec much cat /tmp/1");
    let content = |host| {
        let read = r#"perl -e 'open M, "<", "/proc/$ARGV[0]/mem" or die; sysseek M, $ARGV[1], 0;
            sysread M, $b, 4; print $b'"#;
        let pid = "$(podman inspect -f '{{.State.Pid}}' much)";
        f.sh(host, &format!("{read} {pid} {at}"))
    };
    assert_eq!(content("a"), "huge");
    pages.allow("b", 0);
    f.migrate("a", "much", "b")
        .assert_failed(4, &["huge pages", "4.0 MiB", "vm.nr_hugepages"]);
    pages.allow("b", 8);
    let migration = f.migrate("a", "much", "b");
    migration
        .assert_moved()
        .assert_says(&["shared memory", "at the destination"]);
    assert!(
        !migration.report["memory"].is_null(),
        "{}",
        migration.report
    );
    assert_eq!(content("b"), "huge");
}

#[test]
fn names_of_neighbours() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new("m-kinds-names", &["counter"]);
    f.add_network(&["a", "b"], "back", "--subnet 10.99.0.0/24");
    f.start("a", "db", "--network back localhost/counter");
    f.start("a", "web", "--network back localhost/counter");
    f.start("a", "alone", "localhost/counter");
    f.migrate("a", "web", "b")
        .assert_moved()
        .assert_says(&["names", "db", "web"]);
    let alone = f.migrate("a", "alone", "b");
    assert_eq!(
        alone.assert_moved().report["warnings"],
        serde_json::json!([])
    );
}

/// A server that has closed a connection while its client still reads: known to the kernel only.
#[test]
fn a_download_whose_server_has_closed() {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new("m-kinds-closed", &["counter"]);
    make_tools(&f);
    let server = r#"exec perl -MSocket -e 'socket(L, 2, 1, 6); setsockopt(L, 1, 2, 1);
        bind(L, sockaddr_in(9000, "\0\0\0\0")) or die; listen(L, 9);
        $SIG{CHLD} = "IGNORE"; $SIG{PIPE} = "IGNORE";
        while (accept(C, L)) {
            setsockopt(C, 1, 7, 1 << 20); syswrite(C, "x" x 200_000); close(C);
        }'"#;
    for (name, port) in [("web", 9000), ("slow", 9001)] {
        let run = format!("podman run -qd --name {name} -p {port}:9000 tools sh -c");
        f.sh("a", &format!("{run} {}", quoted(server)));
    }
    // Its window is too small for what the server sends.
    let client = |port: u16, wait: u32| {
        let program = format!(
            r#"perl -MSocket -e 'socket(S, 2, 1, 6); setsockopt(S, 1, 8, 4000);
            connect(S, sockaddr_in({port}, inet_aton("{}"))) or die; open(O, ">/tmp/connected");
            sleep {wait}; $n += length($b) while sysread(S, $b, 65536); print $n' </dev/null"#,
            f.at("a", 9000).split(':').next().expect("an address")
        );
        f.sh("c", "rm -f /tmp/connected");
        f.sh("c", &format!("({program} >/tmp/got 2>&1 &)"));
        f.sh(
            "c",
            "until [ -e /tmp/connected ]; do sleep 0.1; done; sleep 0.3",
        );
    };
    // One that reads on gets all: it is waited for.
    client(9000, 2);
    let migration = f.migrate("a", "web", "b");
    migration.assert_moved();
    assert_eq!(migration.report["warnings"], serde_json::json!([]));
    assert_eq!(f.sh("c", "sleep 3; cat /tmp/got"), "200000");
    // One that does not is named.
    client(9001, 60);
    let migration = f.migrate("a", "slow", "b");
    migration
        .assert_moved()
        .assert_says(&["1 connections that the container had closed"]);
}

/// Makes an image named `tools` on `a`, which the first migration sends, with what the programs of the table need, made of
/// the host's own.
fn make_tools(f: &Fixture) {
    let make = r#"set -e
        d=$(mktemp -d)
        mkdir -p $d/tmp $d/etc $d/proc $d/sys $d/dev $d/run $d/var $d/root $d/usr/bin
        for n in bin sbin lib lib64; do ln -s usr/$n $d/$n; done
        for p in sh sleep cat rm ln perl unshare ip nft dd md5sum uname stat ls wc grep mkdir mount; do
            n=$(command -v $p)
            for x in $(readlink -f $n) $(ldd $n | grep -o '/[^ ]*'); do
                t=$d/usr/${x#/}
                case $x in /usr/*) t=$d$x ;; esac
                mkdir -p ${t%/*}
                cp -Ln $x $t 2>/dev/null || true
            done
            [ -e $d/usr/bin/$p ] || [ -e $d/usr/sbin/$p ] || ln -s $(readlink -f $n) $d/usr/bin/$p
        done
        for p in /usr/lib/*/perl-base; do mkdir -p $d${p%/*}; cp -r $p $d$p; done
        tar -C $d -c . | podman import -q - tools >&2
        rm -rf $d"#;
    f.sh("a", make);
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
