//! The kinds.

use super::case::Said::{Nothing, Refused, Warned};
use super::case::{Case, case};

const SLEEP: &str = "exec sleep 1000";

/// What the network namespace of a container is like, and which of the host's it has.
pub(super) const NAMESPACES: [Case; 13] = [
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
    Case {
        choices: &["--force", "network set up"],
        ..case(
            "rules-overruled",
            "--cap-add NET_ADMIN",
            "nft add table inet killswitch; nft add chain inet killswitch out; \
             nft add rule inet killswitch out drop; exec sleep 1000",
            Warned(&[
                "network set up",
                "overruled",
                "nftables table inet killswitch",
            ]),
            "",
        )
    },
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
        Refused(&["network mode", "none", "--internal"]),
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
pub(super) const PROGRAMS: [Case; 31] = [
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
        "own-mounts-of-the-first",
        "--cap-add SYS_ADMIN",
        "exec unshare -m sleep 1000",
        Refused(&["not mounted in the container any more"]),
        "",
    ),
    case(
        "mounted-memory",
        "--cap-add SYS_ADMIN",
        "mkdir /m; mount -t tmpfs t /m; echo kept >/m/file; exec sleep 1000",
        Nothing,
        "cat /m/file; stat -f -c %T /m",
    ),
    case(
        "mounted-huge-pages",
        "--cap-add SYS_ADMIN",
        "mkdir /m; mount -t hugetlbfs h /m; exec sleep 1000",
        Refused(&["hugetlbfs", "/m"]),
        "",
    ),
    case(
        "mounted-overlay",
        "--cap-add SYS_ADMIN --tmpfs /t",
        "mkdir /m /t/a /t/b; mount -t overlay o -o lowerdir=/t/a:/t/b /m; exec sleep 1000",
        Refused(&["overlay", "/m"]),
        "",
    ),
    case(
        "own-name-of-the-first",
        "--cap-add SYS_ADMIN",
        "exec unshare -u sleep 1000",
        Nothing,
        "",
    ),
    case(
        "root-of-the-first",
        "--cap-add SYS_CHROOT",
        "exec perl -e 'chroot \"/tmp\" or die; sleep 9 while 1'",
        Refused(&["has made /tmp its root"]),
        "",
    ),
    case(
        "root-of-another",
        "--cap-add SYS_CHROOT",
        "perl -e 'chroot \"/tmp\" or die; sleep 9 while 1' & exec sleep 1000",
        Nothing,
        "",
    ),
    case(
        "process-directory",
        "",
        "exec perl -e 'opendir D, \"/proc/1\" or die; sleep 9 while 1'",
        Refused(&["/proc/1 open"]),
        "",
    ),
    case(
        "process-files",
        "",
        "exec perl -e 'open A, \"</proc/1/stat\" or die; opendir B, \"/proc/1/fd\" or die; sleep 9 while 1'",
        Nothing,
        "",
    ),
    case(
        "message-queue",
        "",
        "exec 3>/dev/mqueue/q; exec sleep 1000",
        Refused(&["message queues exist (q)"]),
        "",
    ),
    case(
        "mptcp",
        "",
        "exec perl -MSocket -e 'socket(A, 2, 1, 262) && bind(A, sockaddr_in(9, \"\\0\\0\\0\\0\")) && listen(A, 5) \
         or die; sleep 9 while 1'",
        Refused(&["MPTCP", "GODEBUG"]),
        "",
    ),
    case(
        "vsock",
        "--security-opt seccomp=unconfined",
        "exec perl -e 'socket(A, 40, 1, 0) or die; sleep 9 while 1'",
        Refused(&["protocol AF_VSOCK"]),
        "",
    ),
    case(
        "hidden-memory",
        "--security-opt seccomp=unconfined",
        // memfd_secret(2)
        "exec perl -e 'syscall(447, 0) > 0 or die; sleep 9 while 1'",
        Refused(&["memfd_secret"]),
        "",
    ),
    case(
        "keys",
        "--security-opt seccomp=unconfined",
        // add_key(2) to the session's keyring, on x86-64 or arm64.
        "exec perl -e '$n = `uname -m` =~ /x86/ ? 248 : 217; ($t, $d, $c) = qw(user name content); \
         syscall($n, $t, $d, $c, 7, -3) > 0 or die; sleep 9 while 1'",
        Warned(&["keys", "session keyring (1"]),
        "",
    ),
    case(
        "keyring",
        "--security-opt seccomp=unconfined",
        // keyctl(2), KEYCTL_DESCRIBE, of the session's keyring, on x86-64 or arm64.
        "exec perl -e '$n = `uname -m` =~ /x86/ ? 250 : 219; $SIG{USR1} = sub { $s = \" \" x 200; \
         syscall($n, 6, -3, $s, 200) > 0 or die; open F, \">/tmp/new\"; print F $s =~ /keyring;.*;(\\w*\\.?\\w*)/; close F; \
         rename \"/tmp/new\", \"/tmp/said\" }; sleep 9 while 1'",
        Nothing,
        "rm -f /tmp/said; kill -USR1 1; until [ -e /tmp/said ]; do sleep 0.1; done; cat /tmp/said",
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
        Nothing,
        "grep -o '0*30201EF *[0-9]*' /proc/net/igmp; cat /proc/net/mcfilter",
    ),
    case(
        "options",
        "",
        // IP_RECVTOS, IP_MTU_DISCOVER, IP_UNICAST_IF, SO_TIMESTAMP; SO_REUSEADDR, TCP_USER_TIMEOUT,
        // TCP_DEFER_ACCEPT, TCP_CONGESTION.
        "exec perl -e '@all = ([A, 0, 13, pack(\"i\", 1)], [A, 0, 10, pack(\"i\", 2)], [A, 0, 50, pack(\"N\", 2)], \
         [A, 1, 29, pack(\"i\", 1)], [B, 1, 2, pack(\"i\", 1)], [B, 6, 18, pack(\"i\", 7000)], \
         [B, 6, 9, pack(\"i\", 3)], [B, 6, 13, \"reno\"]); socket(A, 2, 2, 17); socket(B, 2, 1, 6); \
         for (@all) { ($s, $l, $n, $v) = @$_; setsockopt($s, $l, $n, $v) or die \"$l $n: $!\" } \
         bind(B, pack(\"S n x12\", 2, 7)); listen(B, 9) or die; \
         $SIG{USR1} = sub { open F, \">/tmp/new\"; printf F \"%d %d %s\\n\", @$_[1, 2], \
         unpack(\"H8\", getsockopt($$_[0], $$_[1], $$_[2])) for @all; close F; rename \"/tmp/new\", \"/tmp/said\" }; \
         sleep 9 while 1'",
        Nothing,
        "rm -f /tmp/said; kill -USR1 1; until [ -e /tmp/said ]; do sleep 0.1; done; cat /tmp/said",
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

/// What Podman's own configuration of a container says.
pub(super) const CONFIGURED: [Case; 8] = [
    Case {
        here: "podman run -qd --name needed tools sleep 1000",
        ..case(
            "requires",
            "--requires needed",
            SLEEP,
            Refused(&["namespaces", "--requires"]),
            "",
        )
    },
    case(
        "own-user-ids",
        "--uidmap 0:100000:65536",
        SLEEP,
        Refused(&["users", "--userns"]),
        "",
    ),
    Case {
        afterwards: "podman inspect -f '{{.HostConfig.RestartPolicy}}' confined | grep 'on-failure 3'",
        ..case(
            "confined",
            "--security-opt no-new-privileges --security-opt mask=/etc/ld.so.cache --cap-drop all --read-only \
             --ulimit nofile=1000:1000 --ulimit core=0 --oom-score-adj 100 --umask 0077 --hostname other \
             --add-host elsewhere:192.0.2.1 --shm-size 10m --group-add 100 --stop-signal 9 --tz UTC \
             --restart on-failure:3",
            SLEEP,
            Nothing,
            "cat /proc/1/limits /proc/1/oom_score_adj /etc/hosts /proc/sys/kernel/hostname; \
             grep -e Umask -e Groups -e Cap -e NoNewPrivs -e Seccomp /proc/1/status; \
             grep /dev/shm /proc/self/mounts",
        )
    },
    Case {
        afterwards: "podman inspect -f '{{.HostConfig.AutoRemove}}' mounts | grep true",
        ..case(
            "mounts",
            "--rm -v /anonymous -v ro:/ro:ro --tmpfs /tmpfs:size=1m --mount type=tmpfs,destination=/t,tmpfs-size=2m \
             --mount type=devpts,destination=/pts --mount type=volume,source=v,destination=/v",
            "for d in anonymous tmpfs t v; do echo $d >/$d/x; done; exec sleep 1000",
            Nothing,
            "cat /anonymous/x /tmpfs/x /t/x /v/x; for d in anonymous ro tmpfs t pts v; do grep \" /$d \" /proc/self/mounts; done",
        )
    },
    Case {
        here: "for n in 1 2 3 4; do podman network create --subnet 10.97.$n.0/24 net$n; done",
        there: "for n in 1 2 3 4; do podman network create --subnet 10.97.$n.0/24 net$n; done",
        ..case(
            "networks",
            "--network net1:interface_name=front,ip=10.97.1.9,mac=92:d0:c6:0a:29:33 --network net2:interface_name=back \
             --network net3 --network net4",
            SLEEP,
            Nothing,
            // The default routes in their order.
            "{ ip -o -4 addr | perl -pe 's/^\\d+: //; s/@\\S+//'; ip route show scope link; \
             ip -o link show front | grep -c 92:d0:c6:0a:29:33; } | perl -e 'print sort <>'; ip route show default",
        )
    },
    case(
        "log-elsewhere",
        "--log-driver k8s-file --log-opt path=/srv/log",
        SLEEP,
        Refused(&["log", "/srv/log", "--log-opt path="]),
        "",
    ),
    case(
        "no-log",
        "--log-driver none",
        "echo x; exec sleep 1000",
        Nothing,
        "",
    ),
    Case {
        afterwards: "podman logs rotated | tail -n 1 | grep -x 'line 5000'",
        ..case(
            "rotated",
            "--log-driver k8s-file --log-opt max-size=20kb",
            "perl -e 'print \"line $_\\n\" for 1 .. 5000'; exec sleep 1000",
            Nothing,
            "",
        )
    },
];

/// Podman's volumes. The destination lets its peers use those whose names begin with `shared`.
pub(super) const VOLUMES: [Case; 9] = [
    Case {
        here: "mkdir -p /srv/v1; echo x >/srv/v1/x; podman volume create -o type=none -o o=bind -o device=/srv/v1 shared-1",
        there: "mkdir -p /srv/v1; echo x >/srv/v1/x; podman volume create -o type=none -o o=bind -o device=/srv/v1 shared-1; \
                podman volume mount shared-1",
        choices: &["--volume", "shared-1=keep"],
        ..case(
            "volume-with-options-kept",
            "-v shared-1:/x",
            "exec 3>>/x/x; exec sleep 1000",
            Nothing,
            "cat /x/x",
        )
    },
    Case {
        here: "podman volume create -o type=tmpfs -o device=tmpfs shared-2",
        there: "podman volume create -o type=tmpfs -o device=tmpfs shared-2",
        choices: &["--volume", "shared-2=keep"],
        ..case(
            "volume-in-memory-kept",
            "-v shared-2:/x",
            SLEEP,
            Nothing,
            "ls -A /x",
        )
    },
    Case {
        there: "podman volume create -o type=tmpfs -o device=tmpfs shared-3",
        here: "podman volume create -o type=tmpfs -o device=tmpfs shared-3",
        ..case(
            "volume-with-options",
            "-v shared-3:/x",
            SLEEP,
            Refused(&["shared-3 at /x", "is not sent", "--volume shared-3=keep"]),
            "",
        )
    },
    Case {
        here: "podman volume create -o type=tmpfs -o device=tmpfs shared-4",
        there: "podman volume create shared-4",
        choices: &["--volume", "shared-4=keep"],
        ..case(
            "volume-with-other-options",
            "-v shared-4:/x",
            SLEEP,
            Refused(&["shared-4 at /x", "other options"]),
            "",
        )
    },
    Case {
        here: "podman volume create -o type=tmpfs -o device=tmpfs shared-5",
        choices: &["--volume", "shared-5=send"],
        ..case(
            "volume-with-options-sent",
            "-v shared-5:/x",
            SLEEP,
            Refused(&["shared-5", "cannot be sent", "--volume shared-5=keep"]),
            "",
        )
    },
    Case {
        there: "podman volume create own",
        choices: &["--volume", "own=keep"],
        ..case(
            "volume-kept-not-allowed",
            "-v own:/x",
            SLEEP,
            Refused(&["own at /x", "--allow-bind"]),
            "",
        )
    },
    Case {
        choices: &["--volume", "shared-7=keep"],
        ..case(
            "volume-kept-missing",
            "-v shared-7:/x",
            SLEEP,
            Refused(&["shared-7 at /x", "there is no volume"]),
            "",
        )
    },
    Case {
        here: "podman run -qd --name sharer -v shared-8:/x tools sleep 1000",
        ..case(
            "volume-of-others",
            "-v shared-8:/x",
            SLEEP,
            Refused(&["shared-8", "also used by", "--volume shared-8=send"]),
            "",
        )
    },
    Case {
        here: "podman run -qd --name sharer-too -v shared-9:/x tools sh -c 'echo x >/x/x; exec sleep 1000'",
        choices: &["--volume", "shared-9=send"],
        ..case(
            "volume-of-others-sent",
            "-v shared-9:/x",
            SLEEP,
            Warned(&["shared-9", "also used by", "a copy goes"]),
            "cat /x/x",
        )
    },
];

/// Directories and files of the host. The destination lets its peers use what is below /srv.
pub(super) const BINDS: [Case; 31] = [
    Case {
        here: "mkdir -p /srv/same; echo x >/srv/same/x",
        there: "mkdir -p /srv/same; echo x >/srv/same/x",
        ..case(
            "read-only-same",
            "-v /srv/same:/same:ro",
            "exec 3</same/x; exec sleep 1000",
            Nothing,
            "cat /same/x",
        )
    },
    Case {
        here: "mkdir -p /opt/same; echo x >/opt/same/x",
        there: "mkdir -p /opt/same; echo x >/opt/same/x",
        ..case(
            "read-only-same-elsewhere",
            "-v /opt/same:/same:ro",
            SLEEP,
            Nothing,
            "cat /same/x",
        )
    },
    Case {
        here: "mkdir -p /srv/missing",
        ..case(
            "read-only-missing",
            "-v /srv/missing:/x:ro",
            SLEEP,
            Refused(&[
                "bind mount",
                "/srv/missing at /x",
                "not there",
                "=send",
                "=keep",
            ]),
            "",
        )
    },
    Case {
        here: "mkdir -p /srv/differs; echo x >/srv/differs/x",
        there: "mkdir -p /srv/differs; echo y >/srv/differs/x",
        ..case(
            "read-only-different",
            "-v /srv/differs:/x:ro",
            SLEEP,
            Refused(&["/srv/differs at /x", "content is different", "=send"]),
            "",
        )
    },
    Case {
        here: "mkdir -p /srv/ro/deep; echo x >/srv/ro/deep/x; chown 7:8 /srv/ro; chmod 750 /srv/ro",
        choices: &["--bind", "/srv/ro=send"],
        afterwards: "[ $(stat -c %u:%g:%a /srv/ro) = 7:8:750 ]",
        ..case(
            "read-only-sent",
            "-v /srv/ro:/x:ro",
            "exec 3</x/deep/x; exec sleep 1000",
            Nothing,
            "cat /x/deep/x; stat -c %u:%g:%a:%Y /x /x/deep/x",
        )
    },
    Case {
        here: "echo x >/srv/one",
        there: "echo x >/srv/one",
        ..case(
            "file-same",
            "-v /srv/one:/etc/one",
            "exec 3<>/etc/one; exec sleep 1000",
            Nothing,
            "cat /etc/one",
        )
    },
    Case {
        here: "echo x >/etc/one",
        there: "echo x >/etc/one",
        ..case(
            "file-same-not-allowed",
            "-v /etc/one:/etc/one",
            SLEEP,
            Refused(&["/etc/one", "may write to it", "--allow-bind /etc"]),
            "",
        )
    },
    case(
        "time-zone",
        "-v /etc/localtime:/etc/localtime:ro",
        "exec 3</etc/localtime; exec sleep 1000",
        Nothing,
        "md5sum </etc/localtime",
    ),
    Case {
        here: "echo x >/srv/sent; chmod 640 /srv/sent",
        meanwhile: "echo more >>/srv/sent",
        choices: &["--bind", "/srv/sent=send"],
        ..case(
            "file-sent",
            "-v /srv/sent:/etc/sent",
            "exec 3>>/etc/sent; exec sleep 1000",
            Nothing,
            "cat /etc/sent; stat -c %a:%Y /etc/sent",
        )
    },
    Case {
        here: "mkdir -p /srv/data",
        ..case(
            "directory",
            "-v /srv/data:/data",
            SLEEP,
            Refused(&[
                "/srv/data at /data",
                "may write",
                "/srv/data=send",
                "/srv/data=keep",
            ]),
            "",
        )
    },
    Case {
        here: "mkdir -p /srv/deep/data",
        choices: &["--bind", "/srv/deep/data=send"],
        ..case(
            "directory-sent",
            "-v /srv/deep/data:/data",
            "exec 3>/data/open; echo x >&3; ln /data/open /data/again; exec sleep 1000",
            Nothing,
            "cat /data/open /data/again",
        )
    },
    Case {
        here: "mkdir -p /srv/twice/in; echo x >/srv/twice/in/x",
        choices: &["--bind", "/srv/twice=send", "--bind", "/srv/twice/in=send"],
        ..case(
            "directory-sent-once",
            "-v /srv/twice:/one -v /srv/twice:/two -v /srv/twice/in:/three",
            "exec 3>>/two/in/x; exec sleep 1000",
            Nothing,
            "cat /one/in/x /two/in/x /three/x",
        )
    },
    Case {
        here: "mkdir -p /srv/empty; echo x >/srv/empty/x",
        there: "mkdir -p /srv/empty",
        choices: &["--bind", "/srv/empty=send"],
        afterwards: "! ls -A /srv | grep live-migration",
        ..case(
            "directory-sent-to-empty",
            "-v /srv/empty:/x",
            SLEEP,
            Nothing,
            "cat /x/x",
        )
    },
    Case {
        here: "mkdir -p /srv/full; echo new >/srv/full/x",
        there: "mkdir -p /srv/full; echo precious >/srv/full/x",
        choices: &["--bind", "/srv/full=send"],
        afterwards: "grep precious /srv/full/x",
        ..case(
            "directory-is-there",
            "-v /srv/full:/x",
            SLEEP,
            Refused(&["/srv/full", "not overwritten", "--overwrite"]),
            "",
        )
    },
    Case {
        here: "mkdir -p /srv/over; echo new >/srv/over/x",
        there: "mkdir -p /srv/over; echo old >/srv/over/y",
        choices: &["--bind", "/srv/over=send", "--overwrite"],
        afterwards: "! ls -A /srv | grep live-migration; ! [ -e /srv/over/y ]",
        ..case(
            "directory-overwritten",
            "-v /srv/over:/x",
            SLEEP,
            Nothing,
            "ls /x; cat /x/x",
        )
    },
    Case {
        here: "mkdir -p /opt/data",
        choices: &["--bind", "/opt/data=send"],
        afterwards: "! [ -e /opt/data ]",
        ..case(
            "directory-sent-not-allowed",
            "-v /opt/data:/x",
            SLEEP,
            Refused(&["/opt/data", "--allow-bind /opt"]),
            "",
        )
    },
    Case {
        here: "mkdir -p /srv/kept; echo x >/srv/kept/x",
        there: "mkdir -p /srv/kept; echo x >/srv/kept/x; echo own >/srv/kept/own",
        choices: &["--bind", "/srv/kept=keep"],
        afterwards: "grep own /srv/kept/own",
        ..case(
            "directory-kept",
            "-v /srv/kept:/x",
            "exec 3>>/x/x; cd /x; exec sleep 1000",
            Nothing,
            "cat /x/x",
        )
    },
    Case {
        here: "mkdir -p /srv/kept-not",
        choices: &["--bind", "/srv/kept-not=keep"],
        ..case(
            "directory-kept-missing",
            "-v /srv/kept-not:/x",
            SLEEP,
            Refused(&["/srv/kept-not", "nothing at this path"]),
            "",
        )
    },
    Case {
        choices: &["--bind", "/etc=keep"],
        ..case(
            "directory-kept-not-allowed",
            "-v /etc:/x",
            SLEEP,
            Refused(&["/etc at /x", "--allow-bind /"]),
            "",
        )
    },
    Case {
        here: "mkdir -p /srv/link",
        there: "ln -s /etc /srv/link",
        choices: &["--bind", "/srv/link=keep"],
        ..case(
            "directory-kept-link",
            "-v /srv/link:/x",
            SLEEP,
            Refused(&["/srv/link", "symbolic link"]),
            "",
        )
    },
    Case {
        here: "mkdir -p /srv/open; echo longer >/srv/open/x",
        there: "mkdir -p /srv/open; echo x >/srv/open/x",
        choices: &["--bind", "/srv/open=keep"],
        ..case(
            "directory-kept-open",
            "-v /srv/open:/x",
            "exec 3</x/x; exec sleep 1000",
            Refused(&["/srv/open", "open in it", "(x)"]),
            "",
        )
    },
    Case {
        here: "mkdir -p /srv/here; echo x >/srv/here/x",
        there: "mkdir -p /srv/disk/there; echo x >/srv/disk/there/x",
        choices: &["--bind", "/srv/here=/srv/disk/there"],
        ..case(
            "directory-elsewhere",
            "-v /srv/here:/x",
            "exec 3>>/x/x; exec sleep 1000",
            Nothing,
            "cat /x/x",
        )
    },
    Case {
        here: "perl -MIO::Socket::UNIX -e 'IO::Socket::UNIX->new(Local => shift)' /srv/s",
        ..case(
            "socket",
            "-v /srv/s:/run/s",
            SLEEP,
            Refused(&["/srv/s at /run/s", "neither a directory nor a file"]),
            "",
        )
    },
    Case {
        here: "perl -MIO::Socket::UNIX -e 'IO::Socket::UNIX->new(Local => shift)' /srv/t",
        there: "perl -MIO::Socket::UNIX -e 'IO::Socket::UNIX->new(Local => shift)' /srv/t",
        choices: &["--bind", "/srv/t=keep"],
        ..case(
            "socket-kept",
            "-v /srv/t:/run/t",
            SLEEP,
            Nothing,
            "stat -c %F /run/t",
        )
    },
    Case {
        here: "perl -MIO::Socket::UNIX -e '$s = IO::Socket::UNIX->new(Local => shift, Listen => 9); exit if fork; \
               open $_, \"+>/dev/null\" for *STDIN, *STDOUT, *STDERR; sleep 1000' /srv/u",
        there: "perl -MIO::Socket::UNIX -e 'IO::Socket::UNIX->new(Local => shift)' /srv/u",
        choices: &["--bind", "/srv/u=keep"],
        ..case(
            "socket-connected",
            "-v /srv/u:/run/u",
            "exec perl -MSocket -e 'socket(A, 1, 1, 0); connect(A, sockaddr_un(\"/run/u\")) or die; sleep 9 while 1'",
            Refused(&["Unix socket", "outside the container"]),
            "",
        )
    },
    Case {
        here: "mkdir -p /srv/follows",
        choices: &["--bind", "/srv/follows=send"],
        ..case(
            "follows",
            "-v /srv/follows:/x:rslave",
            SLEEP,
            Refused(&["/srv/follows", "rslave"]),
            "",
        )
    },
    Case {
        here: "mkdir -p /srv/disks/one; mount -t tmpfs none /srv/disks/one",
        choices: &["--bind", "/srv/disks=send"],
        ..case(
            "mount-within",
            "-v /srv/disks:/x",
            SLEEP,
            Refused(&["/srv/disks", "mounted in it, at /x/one"]),
            "",
        )
    },
    Case {
        here: "echo x >/srv/edited",
        meanwhile: "echo y >/srv/new; mv /srv/new /srv/edited",
        there: "echo y >/srv/edited",
        ..case(
            "replaced",
            "-v /srv/edited:/x:ro",
            SLEEP,
            Refused(&["/srv/edited", "taken its place", "restart"]),
            "",
        )
    },
    Case {
        here: "mkdir -p /srv/below",
        ..case(
            "overlay",
            "-v /srv/below:/x:O",
            SLEEP,
            Refused(&["mount", "/x (overlay)"]),
            "",
        )
    },
    case(
        "image",
        "--mount type=image,source=tools,destination=/x",
        SLEEP,
        Refused(&["mount", "/x (overlay)"]),
        "",
    ),
    case(
        "ramfs",
        "--mount type=ramfs,destination=/x",
        SLEEP,
        Refused(&["mount", "/x (ramfs)"]),
        "",
    ),
];
