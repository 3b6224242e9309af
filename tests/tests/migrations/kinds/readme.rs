//! README's lists of what cannot move and of what is lost say what the table shows, and nothing else.

use super::case::Case;
use super::case::Said::{Nothing, Refused, Warned};
use super::table::{BINDS, CONFIGURED, NAMESPACES, PROGRAMS, VOLUMES};

const README: &str = include_str!("../../../../README.md");

const REFUSED: &str = "### Refused by `check`";
const LOST: &str = "### Lost, and the report says so";

/// Words of an item in README, and the rows of the table that show it.
const SHOWN: [(&str, &[&str]); 41] = [
    ("`--requires`", &["requires"]),
    ("users of their own", &["own-user-ids"]),
    ("`--log-opt path=`", &["log-elsewhere"]),
    ("no network", &["no-network"]),
    ("`--ipc=host`", &["ipc-host"]),
    ("`--pid=host`", &["pid-host"]),
    ("firewall rules", &["rules"]),
    ("interfaces, addresses", &["links"]),
    ("rules of routing", &["routes"]),
    ("io_uring", &["io-uring"]),
    ("a device open", &["device"]),
    ("traced by a debugger", &["traced"]),
    (
        "a namespace of their own",
        &["own-pids", "own-users", "own-network", "own-name"],
    ),
    ("deleted under one of several names", &["renamed"]),
    (
        "a mount namespace that it has left",
        &["own-mounts-of-the-first"],
    ),
    ("has changed its root", &["root-of-the-first"]),
    (
        "that a program has mounted",
        &["mounted-huge-pages", "mounted-overlay"],
    ),
    ("a directory of `/proc`", &["process-directory"]),
    ("POSIX message queues", &["message-queue"]),
    ("MPTCP", &["mptcp"]),
    ("a protocol that CRIU does not know", &["vsock"]),
    ("`memfd_secret`", &["hidden-memory"]),
    ("a program outside", &["socket-connected"]),
    (
        "of which nothing was said",
        &[
            "read-only-missing",
            "read-only-different",
            "directory",
            "directory-is-there",
            "directory-kept-missing",
            "directory-kept-link",
            "socket",
        ],
    ),
    (
        "let its peers use",
        &[
            "file-same-not-allowed",
            "directory-sent-not-allowed",
            "directory-kept-not-allowed",
        ],
    ),
    ("mounted within", &["mount-within"]),
    ("`:rslave`", &["follows"]),
    ("replaced on the host", &["replaced"]),
    ("files open in it", &["directory-kept-open"]),
    ("Mounts of images and overlays", &["overlay", "image"]),
    (
        "[Volumes](#volumes) with options",
        &[
            "volume-with-options",
            "volume-with-other-options",
            "volume-with-options-sent",
            "volume-kept-missing",
        ],
    ),
    ("let its peers use; that have", &["volume-kept-not-allowed"]),
    ("that other containers use", &["volume-of-others"]),
    (
        "A volume that other containers use",
        &["volume-of-others-sent"],
    ),
    ("ramfs", &["ramfs"]),
    ("`--force`", &["rules-overruled"]),
    ("`--uts=host`", &["uts-host"]),
    ("`--cgroupns=host`", &["cgroupns-host"]),
    ("`--privileged`", &["privileged"]),
    ("Changes of `/etc/hosts`", &["edited"]),
    ("Keys in its session keyring", &["keys"]),
];

/// Words of an item in README, and the test that shows it elsewhere: its file and its name.
const ELSEWHERE: [(&str, &str, &str); 26] = [
    ("host's network", PREFLIGHT, "what_cannot_move_is_named"),
    ("terminals (`-t`)", PREFLIGHT, "what_cannot_move_is_named"),
    (
        "Storage other than overlay",
        PREFLIGHT,
        "what_cannot_move_is_named",
    ),
    (
        "`Notify=true`",
        MOVES,
        "services.rs: a_service_that_is_in_the_way_is_refused",
    ),
    (
        "A destination that has",
        PREFLIGHT,
        "what_the_destination_lacks_is_named",
    ),
    (
        "architecture or page size",
        PREFLIGHT,
        "what_the_destination_lacks_is_named",
    ),
    (
        "an older CRIU",
        PREFLIGHT,
        "versions_that_do_not_go_together_are_named",
    ),
    (
        "another security module",
        PREFLIGHT,
        "what_confines_the_container_confines_it_there",
    ),
    (
        "no network of the same name",
        MOVES,
        "refusals.rs: a_network_that_is_not_there",
    ),
    (
        "A kernel and a CRIU",
        PREFLIGHT,
        "versions_that_do_not_go_together_are_named",
    ),
    (
        "firewall of another program",
        MOVES,
        "firewalls.rs: those_that_know_only_interfaces",
    ),
    ("The journal", PREFLIGHT, "a_log_that_stays_is_named"),
    (
        "A service's dependencies",
        MOVES,
        "services.rs: a_service_moves_as_one",
    ),
    (
        "Names of other containers",
        MOVES,
        "kinds/mod.rs: names_of_neighbours",
    ),
    (
        "lacks `CAP_SYS_RESOURCE`",
        MOVES,
        "kinds/mod.rs: processes_of_another_user",
    ),
    (
        "fewer huge pages",
        MOVES,
        "kinds/mod.rs: huge_pages_and_shared_memory",
    ),
    (
        "share since they were forked",
        MOVES,
        "kinds/mod.rs: huge_pages_and_shared_memory",
    ),
    (
        "named by its digest",
        MOVES,
        "kinds/mod.rs: an_image_by_digest",
    ),
    (
        "closed while data was still unsent",
        MOVES,
        "kinds/mod.rs: a_download_whose_server_has_closed",
    ),
    (
        "Extended attributes",
        MOVES,
        "attributes.rs: an_attribute_that_the_destination_has_no_room_for",
    ),
    (
        "more come than the tunnel carries",
        MOVES,
        "floods.rs: a_flood_does_not_keep_the_container_frozen",
    ),
    (
        "Options of sockets",
        "common/src/container/sockets/settings.rs",
        "what_cannot_be_set_is_named",
    ),
    ("had not read when it was frozen", MOVES, UNTRIED),
    ("without netfilter queues", MOVES, UNTRIED),
    ("the instant between", MOVES, UNTRIED),
    ("that could not be set up", MOVES, UNTRIED),
];

const PREFLIGHT: &str = "common/src/preflight/tests.rs";
const MOVES: &str = "tests/tests/migrations";

/// No test makes it happen.
const UNTRIED: &str = "";

fn rows() -> impl Iterator<Item = &'static Case> {
    let all: [&[Case]; 5] = [&NAMESPACES, &PROGRAMS, &CONFIGURED, &BINDS, &VOLUMES];
    all.into_iter().flatten()
}

/// A section of README, in which line breaks are spaces.
fn section(heading: &str) -> String {
    let (_, after) = README.split_once(heading).expect(heading);
    let section = after.split("\n##").next().unwrap_or_default();
    section
        .replace("\n    ", " ")
        .replace("\n  ", " ")
        .replace(" - ", "\n- ")
}

#[test]
fn every_row_is_under_its_heading() {
    for row in rows() {
        let heading = match row.said {
            Nothing => continue,
            Refused(_) => REFUSED,
            Warned(_) => LOST,
        };
        let mut shown = SHOWN.iter();
        let (words, _) = shown
            .find(|(_, rows)| rows.contains(&row.name))
            .unwrap_or_else(|| panic!("{} is not in README", row.name));
        assert!(section(heading).contains(words), "{}: {words}", row.name);
    }
}

#[test]
fn every_item_is_shown() {
    for heading in [REFUSED, LOST] {
        let section = section(heading);
        for item in section.lines().filter(|line| line.starts_with("- ")) {
            let shown = SHOWN.iter().map(|(words, _)| words);
            let mut words = shown.chain(ELSEWHERE.iter().map(|(words, ..)| words));
            assert!(words.any(|words| item.contains(words)), "not shown: {item}");
        }
    }
    let names: Vec<&str> = rows().map(|row| row.name).collect();
    for (words, rows) in SHOWN {
        assert!(README.contains(words), "{words}");
        for row in rows {
            assert!(names.contains(row), "{words}: there is no row {row}");
        }
    }
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for (words, file, test) in ELSEWHERE {
        assert!(README.contains(words), "{words}");
        let (file, test) = match test.split_once(": ") {
            Some((name, test)) => (format!("{file}/{name}"), test),
            None => (file.to_owned(), test),
        };
        if test != UNTRIED {
            let text = std::fs::read_to_string(root.join(&file)).expect(&file);
            assert!(text.contains(&format!("fn {test}()")), "{file}: {test}");
        }
    }
}
