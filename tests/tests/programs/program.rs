//! What people start: for each, the containers, their client, and what the client must get.

/// The client does not begin before it has opened its connections; this many answers on each of them, before, between and
/// after the moves, show that they go on.
pub(crate) struct Program {
    pub(crate) name: &'static str,
    /// What is special about it, for a reader.
    pub(crate) about: &'static str,
    pub(crate) containers: &'static [Container],
    /// Which of them moves, one after the other: each time to the host where it is not.
    pub(crate) moves: &'static [usize],
    /// A client in the image.
    pub(crate) client: &'static str,
    pub(crate) answers: u64,
    /// A shell command on the host of the first container that must succeed when the client has ended.
    pub(crate) after: &'static str,
}

/// A container of the image.
pub(crate) struct Container {
    pub(crate) name: &'static str,
    /// For `podman run`.
    pub(crate) options: &'static str,
    /// The program and its arguments.
    pub(crate) command: &'static str,
}

/// For a single container.
const THERE_AND_BACK: &[usize] = &[0, 0];

const fn container(name: &'static str, options: &'static str, command: &'static str) -> Container {
    Container {
        name,
        options,
        command,
    }
}

pub(crate) const ALL: [Program; 11] = [
    Program {
        name: "PostgreSQL",
        about: "parallel workers with memory in `/dev/shm`, a volume, an open transaction with a cursor; every row",
        containers: &[container(
            "postgresql",
            "-v data:/data --shm-size 128m -p 5432:5432",
            "postgresql",
        )],
        moves: THERE_AND_BACK,
        client: "postgresql",
        answers: 5,
        after: "",
    },
    Program {
        name: "MariaDB",
        about: "asynchronous I/O (libaio), a volume; every row",
        containers: &[container(
            "mariadb",
            "-v data:/data -p 3306:3306",
            "mariadb",
        )],
        moves: THERE_AND_BACK,
        client: "mariadb",
        answers: 20,
        after: "",
    },
    Program {
        name: "Redis",
        about: "writes its log and snapshots all the time; the same numbers after it is restarted from them",
        containers: &[container("redis", "-v data:/data -p 6379:6379", "redis")],
        moves: THERE_AND_BACK,
        client: "redis",
        answers: 20,
        after: "podman exec redis redis-cli mget counter0 counter1 counter2 counter3 >/tmp/before
            podman restart -t 20 redis
            until podman exec redis redis-cli ping | grep -q PONG; do sleep 0.1; done
            podman exec redis redis-cli mget counter0 counter1 counter2 counter3 | cmp - /tmp/before",
    },
    Program {
        name: "nginx",
        about: "four clients that fetch a large file over TLS, again and again on one connection; every byte",
        containers: &[container("nginx", "-p 8443:8443", "nginx")],
        moves: THERE_AND_BACK,
        client: "download",
        answers: 2,
        after: "",
    },
    Program {
        name: "sshd",
        about: "a session with a terminal, and one that sends a large file, of a user that is not root; every byte",
        containers: &[container("sshd", "-p 2222:22", "sshd")],
        moves: THERE_AND_BACK,
        client: "ssh",
        answers: 2,
        after: "",
    },
    Program {
        name: "Java",
        about: "an HTTP server with a pool of threads; every answer",
        containers: &[container("java", "-p 8080:8080", "java")],
        moves: THERE_AND_BACK,
        client: "count",
        answers: 10,
        after: "",
    },
    Program {
        name: "Node.js",
        about: "an HTTP server; every answer",
        containers: &[container("node", "-p 8080:8080", "node")],
        moves: THERE_AND_BACK,
        client: "count",
        answers: 10,
        after: "",
    },
    Program {
        name: "etcd",
        about: "a program in Go that maps its database, in a volume; every change, and every notice of one on one stream",
        containers: &[container("etcd", "-v data:/data -p 2379:2379", "etcd")],
        moves: THERE_AND_BACK,
        client: "etcd",
        answers: 10,
        after: "",
    },
    Program {
        name: "Python",
        about: "an application of gunicorn and Flask behind nginx in another container: first it moves, then nginx, then both; every byte",
        containers: &[
            container(
                "application",
                "--network back --ip 10.99.0.10",
                "application",
            ),
            container(
                "web",
                "--network back --ip 10.99.0.11 -p 8080:8080",
                "web 10.99.0.10:8080",
            ),
        ],
        moves: &[0, 0, 1, 1, 0, 1, 1, 0],
        client: "application",
        answers: 10,
        after: "",
    },
    Program {
        name: "memcached",
        about: "datagrams from four sockets, and a connection; every answer is to its question",
        containers: &[container(
            "memcached",
            "-p 11211:11211 -p 11211:11211/udp",
            "memcached",
        )],
        moves: THERE_AND_BACK,
        client: "memcached",
        answers: 20,
        after: "",
    },
    Program {
        name: "mosquitto",
        about: "a thousand subscribers; each gets every message, in order",
        containers: &[container("mosquitto", "-p 1883:1883", "mosquitto")],
        moves: THERE_AND_BACK,
        client: "mosquitto",
        answers: 5,
        after: "",
    },
];
