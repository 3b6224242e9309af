//! Kinds of containers that differ from an ordinary one: for each, what `check` says of it, and what the
//! migration then does. What `check` lets pass must move; what it refuses is refused again.

use tests::Fixture;

/// What `check` says, and so what becomes of the container.
#[derive(Clone, Copy)]
enum Said {
    /// Nothing: it moves whole.
    Nothing,
    /// A warning with these words, which the report has too: it moves.
    Warned(&'static [&'static str]),
    /// A reason with these words: nothing is touched.
    Refused(&'static [&'static str]),
}
use Said::{Nothing, Refused, Warned};

/// A container of one kind.
struct Case {
    name: &'static str,
    /// Options for `podman run`.
    options: &'static str,
    /// Its program, for a shell.
    program: &'static str,
    said: Said,
    /// What it prints in the container before and after the move, the same both times; empty: nothing.
    kept: &'static str,
}

const fn case(
    name: &'static str,
    options: &'static str,
    program: &'static str,
    said: Said,
    kept: &'static str,
) -> Case {
    Case {
        name,
        options,
        program,
        said,
        kept,
    }
}

const SLEEP: &str = "exec sleep 1000";

/// What the network namespace of a container is like, and which of the host's it has.
const NAMESPACES: [Case; 12] = [
    case(
        "sysctls",
        "--sysctl net.ipv4.ip_local_port_range='40000 41000' --sysctl net.core.somaxconn=77 \
         --sysctl net.ipv4.conf.eth0.rp_filter=2 --sysctl kernel.msgmax=70000",
        SLEEP,
        Nothing,
        "cd /proc/sys; cat net/ipv4/ip_local_port_range net/core/somaxconn \
         net/ipv4/conf/eth0/rp_filter net/ipv4/ping_group_range kernel/msgmax",
    ),
    case(
        "rules",
        "--cap-add NET_ADMIN",
        "nft add table inet killswitch; nft add chain inet killswitch out; \
         nft add rule inet killswitch out drop; exec sleep 1000",
        Refused(&["network set up", "nftables table inet killswitch"]),
        "",
    ),
    case(
        "links",
        "--cap-add NET_ADMIN",
        "ip link add br7 type bridge; ip addr add 10.7.0.1/24 dev br7; exec sleep 1000",
        Refused(&["interface br7 (bridge)", "address 10.7.0.1/24"]),
        "",
    ),
    case(
        "routes",
        "--cap-add NET_ADMIN",
        "ip route add 192.0.2.0/24 dev eth0; ip route del default; ip rule add pref 77 table 99; \
         exec sleep 1000",
        Refused(&[
            "route 192.0.2.0/24",
            "no default route",
            "rule 77 for table 99",
        ]),
        "",
    ),
    case(
        "ipc-host",
        "--ipc=host",
        SLEEP,
        Refused(&["--ipc=host"]),
        "",
    ),
    case("ipc-none", "--ipc=none", SLEEP, Nothing, ""),
    case(
        "pid-host",
        "--pid=host",
        SLEEP,
        Refused(&["--pid=host"]),
        "",
    ),
    case("uts-host", "--uts=host", SLEEP, Warned(&["--uts=host"]), ""),
    case(
        "cgroupns-host",
        "--cgroupns=host",
        SLEEP,
        Warned(&["--cgroupns=host"]),
        "",
    ),
    case(
        "no-network",
        "--network none",
        SLEEP,
        Refused(&["network mode", "none"]),
        "",
    ),
    case(
        "privileged",
        "--privileged",
        SLEEP,
        Warned(&["--privileged", "/dev"]),
        "",
    ),
    case(
        "device",
        "--privileged",
        "exec 3</dev/fuse; exec sleep 1000",
        Refused(&["/dev/fuse"]),
        "",
    ),
];

/// What programs do. A perl's `sleep` ends early when its process is restored.
const PROGRAMS: [Case; 15] = [
    case(
        "own-pids",
        "--cap-add SYS_ADMIN",
        "exec unshare -pf sleep 1000",
        Refused(&["pid namespace"]),
        "",
    ),
    case(
        "own-users",
        "--cap-add SYS_ADMIN",
        "exec unshare -U sleep 1000",
        Refused(&["user namespace"]),
        "",
    ),
    case(
        "own-network",
        "--cap-add SYS_ADMIN",
        "unshare -n sleep 1000 & exec sleep 1000",
        Refused(&["net namespace"]),
        "",
    ),
    case(
        "own-name",
        "--cap-add SYS_ADMIN",
        "unshare -u sleep 1000 & exec sleep 1000",
        Refused(&["uts namespace"]),
        "",
    ),
    case(
        "own-mounts",
        "--cap-add SYS_ADMIN",
        "unshare -m sleep 1000 & exec sleep 1000",
        Nothing,
        "",
    ),
    case(
        "io-uring",
        "--security-opt seccomp=unconfined",
        // io_uring_setup(2) has the same number on all of its architectures.
        r#"exec perl -e '$p = "\0" x 120; syscall(425, 4, $p) > 0 or die; sleep 9 while 1'"#,
        Refused(&["io_uring"]),
        "",
    ),
    case(
        "deleted",
        "",
        "exec 3<>/tmp/x; dd if=/dev/urandom of=/tmp/x bs=1M count=8; rm /tmp/x; exec sleep 1000",
        Nothing,
        "md5sum </proc/1/fd/3",
    ),
    case(
        "renamed",
        "",
        "echo a >/tmp/a; ln /tmp/a /tmp/b; exec 3</tmp/a; rm /tmp/a; exec sleep 1000",
        Refused(&["/tmp/a", "another name"]),
        "",
    ),
    case(
        "raw",
        "--cap-add NET_RAW",
        "exec perl -e 'socket(A, 2, 3, 1) && socket(B, 17, 3, 768) or die; sleep 9 while 1'",
        Nothing,
        "",
    ),
    case(
        "ping",
        "",
        "exec perl -e 'socket(A, 2, 2, 1) or die; sleep 9 while 1'",
        Nothing,
        "",
    ),
    case(
        "netlink",
        "",
        "exec perl -e 'socket(A, 16, 3, 0) or die; sleep 9 while 1'",
        Nothing,
        "",
    ),
    case(
        "multicast",
        "",
        // IP_ADD_MEMBERSHIP
        "exec perl -MSocket -e 'socket(A, 2, 2, 17); \
         setsockopt(A, 0, 35, inet_aton(\"239.1.2.3\") . inet_aton(\"0.0.0.0\")) or die; sleep 9 while 1'",
        Warned(&["multicast", "239.1.2.3"]),
        "",
    ),
    case(
        "stopped",
        "",
        "sh -c 'kill -STOP $$' & exec sleep 1000",
        Nothing,
        "",
    ),
    case(
        "traced",
        "--cap-add SYS_PTRACE",
        // PTRACE_TRACEME in the child, on x86-64 or arm64.
        "exec perl -e '$n = `uname -m` =~ /x86/ ? 101 : 117; \
         if (fork) { sleep 9 while 1 } else { syscall($n, 0, 0, 0, 0); sleep 9 while 1 }'",
        Refused(&["traced"]),
        "",
    ),
    case(
        "edited",
        "",
        "sleep 1; echo 192.0.2.9 elsewhere >>/etc/hosts; exec sleep 1000",
        Warned(&["/etc/hosts"]),
        "",
    ),
];

#[test]
fn namespaces() {
    try_all("m-kinds-ns", &NAMESPACES);
}

#[test]
fn programs() {
    try_all("m-kinds-prog", &PROGRAMS);
}

fn try_all(lab: &str, cases: &[Case]) {
    if !lab::can_run() {
        return;
    }
    let f = Fixture::new(lab, &["counter"]);
    make_tools(&f);
    for case in cases {
        f.sh(
            "a",
            &format!(
                "podman run -qd --name {} {} tools sh -c {}",
                case.name,
                case.options,
                quoted(case.program)
            ),
        );
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
    let check = f.run("a", &["agent-client", "check", case.name, "--to", "b"]);
    let said = check.to_string();
    let warned = said
        .lines()
        .any(|line| line.trim_start().starts_with("warn "));
    if let Refused(words) = case.said {
        assert_eq!(check.status.code(), Some(4), "{said}");
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
        f.migrate("a", case.name, "b").assert_failed(4, words);
        assert_eq!(f.state("a", case.name), "running");
        assert_eq!(look("a"), before);
        return;
    }
    assert!(check.status.success(), "{said}");
    let words = match case.said {
        Warned(words) => words,
        _ => &[],
    };
    assert_eq!(warned, !words.is_empty(), "{said}");
    assert!(words.iter().all(|word| said.contains(word)), "{said}");
    let migration = f.migrate("a", case.name, "b");
    migration.assert_moved().assert_says(words);
    let warnings = migration.report["warnings"].as_array();
    let warnings = warnings.map_or(0, Vec::len);
    assert_eq!(warnings > 0, warned, "{}", migration.report);
    assert_eq!(f.state("b", case.name), "running");
    assert_eq!(look("b"), before);
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
        for p in sh sleep cat rm ln perl unshare ip nft dd md5sum uname; do
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
