use super::*;
use crate::container::ContainerFacts;
use crate::container::apparmor::SecurityModule;
use crate::container::binds::{Bind, Here, Kind, Volume, Wish};
use crate::container::facts::{NetworkFacts, Roots, VolumeFacts};
use crate::container::init::InitProgram;
use crate::container::podman::info::Info;
use crate::container::podman::objects::Network;
use crate::container::secrets::SecretFacts;
use crate::host::{HostFacts, Room};
use crate::net::foreign_firewalls::Obstacle;

fn host() -> HostFacts {
    HostFacts {
        name: "h".into(),
        kernel: "6.18".into(),
        architecture: "x86_64".into(),
        podman: Some("5.8.2".into()),
        criu: Some("4.2.1".into()),
        runtimes: [("runc".into(), "1.3.3".into())].into(),
        cpu_flags: ["avx2".into(), "fpu".into()].into(),
        features: [("conntrack".into(), None)].into(),
        possible_cpus: 8,
        page_bytes: 4096,
        scratch: space(10 << 30),
        ..Default::default()
    }
}

fn container() -> ContainerFacts {
    ContainerFacts {
        id: "0123456789abcdef".into(),
        name: "web".into(),
        state: "running".into(),
        image_id: "i".into(),
        image_name: "localhost/web".into(),
        image_bytes: 1 << 20,
        image_layers: vec![],
        runtime: "runc".into(),
        memory_bytes: 1 << 20,
        network_mode: "bridge".into(),
        networks: vec![NetworkFacts {
            name: "podman".into(),
            driver: "bridge".into(),
            subnets: vec!["10.88.0.0/16".parse().unwrap()],
            addresses: vec!["10.88.0.5".parse().unwrap()],
        }],
        ports: vec![],
        volumes: vec![],
        devices: vec![],
        pod: None,
        dependencies: vec![],
        exec_sessions: 0,
        terminal: false,
        overlay: true,
        ..Default::default()
    }
}

fn here() -> DestinationFacts {
    DestinationFacts {
        networks: [(
            "podman".into(),
            Network {
                driver: "bridge".into(),
                bridge: Some("podman0".into()),
                subnets: vec!["10.88.0.0/16".parse().unwrap()],
                ..Default::default()
            },
        )]
        .into(),
        storage: space(10 << 30),
        volume_storage: space(10 << 30),
        ..Default::default()
    }
}

fn space(free_bytes: u64) -> Room {
    Room {
        path: "/there".into(),
        device: 1,
        free_bytes,
    }
}

fn failures(checks: &[Check]) -> Vec<&str> {
    checks
        .iter()
        .filter(|c| c.verdict == Verdict::Failed)
        .map(|c| c.name.as_str())
        .collect()
}

#[test]
fn the_init_program_is_the_same() {
    let program = |digest| InitProgram {
        path: "/usr/bin/catatonit".into(),
        blake3: [digest; 32],
    };
    let mut moving = container();
    let judged = |moving: &ContainerFacts, here: Option<InitProgram>| {
        let mut facts = self::here();
        facts.init = here;
        let checks = destination(moving, &host(), &host(), &facts);
        let mut found = checks.into_iter().filter(|c| c.name == "init program");
        found.next().map(|check| check.verdict)
    };
    assert_eq!(judged(&moving, None), None);
    moving.init = Some(program(1));
    assert_eq!(judged(&moving, Some(program(1))), Some(Verdict::Ok));
    assert_eq!(judged(&moving, Some(program(2))), Some(Verdict::Failed));
    assert_eq!(judged(&moving, None), Some(Verdict::Failed));
}

#[test]
fn an_ordinary_container_passes() {
    assert!(passed(&source(&container(), &host())));
    assert!(passed(&destination(
        &container(),
        &host(),
        &host(),
        &here()
    )));
}

#[test]
fn what_cannot_move_is_named() {
    type Change = fn(&mut ContainerFacts);
    let cases: [(&str, Change); 11] = [
        ("state", |c| c.state = "paused".into()),
        ("state", |c| c.state = "exited".into()),
        ("pod", |c| c.pod = Some("p".into())),
        ("namespaces", |c| c.dependencies = vec!["x".into()]),
        ("exec sessions", |c| c.exec_sessions = 1),
        ("terminal", |c| c.terminal = true),
        ("devices", |c| c.devices = vec!["/dev/fuse".into()]),
        ("mount", |c| c.other_mounts = vec!["/x (overlay)".into()]),
        ("root file system", |c| c.overlay = false),
        ("network mode", |c| c.network_mode = "host".into()),
        ("image", |c| c.image_bytes = 0),
    ];
    for (name, change) in cases {
        let mut changed = container();
        change(&mut changed);
        assert_eq!(failures(&source(&changed, &host())), [name]);
    }
}

#[test]
fn a_shared_volume_stays() {
    let mut shared = container();
    shared.volumes = vec![VolumeFacts {
        name: "v".into(),
        destination: "/data".into(),
        driver: "local".into(),
        shared_with: vec!["other".into()],
        ..VolumeFacts::default()
    }];
    assert_eq!(failures(&source(&shared, &host())), ["volume"]);
    shared.volumes[0].send = true;
    assert!(passed(&source(&shared, &host())));
    shared.volumes[0].options = [("type".to_owned(), "nfs".to_owned())].into();
    assert_eq!(failures(&source(&shared, &host())), ["volume"]);
}

#[test]
fn a_volume_is_kept_if_it_is_the_same_there() {
    let kind = |options: &[(&str, &str)]| Volume {
        name: "v".into(),
        driver: "local".into(),
        options: options
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
    };
    let nfs = kind(&[("type", "nfs"), ("device", "server:/v")]);
    let go = |wish: &Wish, volume: &Volume, here: Option<&Volume>, allowed: bool| {
        let mut moving = container();
        moving.binds = vec![Bind {
            destination: "/data".into(),
            volume: Some(volume.clone()),
            wish: wish.clone(),
            ..Bind::default()
        }];
        let mut facts = self::here();
        let found = Here {
            kind: Some(Kind::Directory),
            volume: here.cloned(),
            allowed,
            ..Here::default()
        };
        facts.binds = [("/data".to_owned(), found)].into();
        failures(&destination(&moving, &host(), &host(), &facts)).len()
    };
    assert_eq!(go(&Wish::Unsaid, &nfs, Some(&nfs), true), 0);
    assert_eq!(go(&Wish::Unsaid, &nfs, Some(&nfs), false), 1);
    assert_eq!(go(&Wish::Unsaid, &nfs, Some(&kind(&[])), true), 1);
    assert_eq!(go(&Wish::Keep, &nfs, None, true), 1);
    let memory = kind(&[("type", "tmpfs")]);
    assert_eq!(go(&Wish::Unsaid, &memory, Some(&memory), true), 1);
    assert_eq!(go(&Wish::Keep, &memory, Some(&memory), true), 0);
}

#[test]
fn processors_that_a_container_is_limited_to_must_be_there() {
    let mut moving = container();
    let mut facts = self::here();
    (facts.processors, facts.memory_nodes) = ([0, 1].into(), [0].into());
    let mut go = |processors: &[u32], memory_nodes: &[u32]| {
        moving.processors = processors.iter().copied().collect();
        moving.memory_nodes = memory_nodes.iter().copied().collect();
        let checks = destination(&moving, &host(), &host(), &facts);
        failures(&checks).join(", ")
    };
    assert_eq!(go(&[], &[]), "");
    assert_eq!(go(&[1], &[0]), "");
    assert_eq!(go(&[1, 2, 3], &[0]), "processors");
    assert_eq!(go(&[2], &[1]), "processors, memory nodes");
}

#[test]
fn limits_need_their_controllers() {
    let mut limited = container();
    let mut facts = self::here();
    facts.controllers = ["cpu", "pids"].map(str::to_owned).into();
    let mut go = |controllers: &[&str]| {
        limited.controllers = controllers.iter().map(ToString::to_string).collect();
        let checks = destination(&limited, &host(), &host(), &facts);
        failures(&checks).join(", ")
    };
    assert_eq!(go(&[]), "");
    assert_eq!(go(&["pids"]), "");
    assert_eq!(go(&["memory", "pids"]), "limits");
}

#[test]
fn judgements_can_be_overruled_and_facts_cannot() {
    let mut stubborn = container();
    stubborn.network_changes = vec!["rule 7".into()];
    stubborn.terminal = true;
    stubborn.forced = ["network set up", "terminal"].map(str::to_owned).into();
    let checks = source(&stubborn, &host());
    assert_eq!(failures(&checks), ["terminal"]);
    let overruled = checks.iter().find(|check| check.name == "network set up");
    let overruled = overruled.unwrap();
    assert_eq!(overruled.verdict, Verdict::Warning);
    assert!(overruled.detail.contains("overruled") && overruled.detail.contains("rule 7"));
    let obstacle = Obstacle {
        found: "a table drops packets".into(),
        advice: "`nft insert rule`".into(),
        certain: true,
    };
    assert!(!passed(&firewalls(
        Side::Source,
        &stubborn,
        std::slice::from_ref(&obstacle)
    )));
    stubborn.forced.insert("firewalls".into());
    assert!(passed(&firewalls(Side::Source, &stubborn, &[obstacle])));
}

#[test]
fn firewalls_in_the_way_are_named() {
    let mut obstacle = Obstacle {
        found: "a table drops packets".into(),
        advice: "`nft insert rule`".into(),
        certain: true,
    };
    assert!(passed(&firewalls(Side::Source, &container(), &[])));
    let checks = firewalls(
        Side::Destination,
        &container(),
        std::slice::from_ref(&obstacle),
    );
    assert_eq!(failures(&checks), ["firewalls"]);
    assert_eq!(checks[0].host, Side::Destination);
    assert_eq!(checks[0].detail, "a table drops packets: `nft insert rule`");
    obstacle.certain = false;
    let checks = firewalls(Side::Source, &container(), &[obstacle]);
    assert_eq!(checks[0].verdict, Verdict::Warning);
}

#[test]
fn what_the_destination_lacks_is_named() {
    let go = |change: &dyn Fn(&mut HostFacts, &mut DestinationFacts)| {
        let (mut host_there, mut facts) = (host(), here());
        change(&mut host_there, &mut facts);
        let checks = destination(&container(), &host(), &host_there, &facts);
        failures(&checks)
            .into_iter()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(go(&|h, _| h.criu = None), ["criu"]);
    assert_eq!(go(&|h, _| h.criu = Some("3.17.1".into())), ["criu"]);
    assert_eq!(go(&|h, _| h.runtimes.clear()), ["runc"]);
    assert_eq!(
        go(&|h, _| h.architecture = "aarch64".into()),
        ["architecture"]
    );
    assert_eq!(go(&|h, _| h.cpu_flags.clear()), ["CPU features"]);
    assert_eq!(
        go(&|h, _| {
            h.features.insert("conntrack".into(), Some("no".into()));
        }),
        ["conntrack"]
    );
    assert_eq!(go(&|_, f| f.id_taken = true), ["container id"]);
    assert_eq!(go(&|_, f| f.name_taken = true), ["container name"]);
    assert_eq!(go(&|_, f| f.networks.clear()), ["network"]);
    assert_eq!(go(&|_, f| f.storage = space(0)), ["disk space"]);
    assert_eq!(
        go(&|_, f| f
            .networks
            .values_mut()
            .for_each(|n| n.driver = "macvlan".into())),
        ["network"]
    );
    assert_eq!(
        go(&|_, f| f.addresses = vec![("other".into(), vec!["10.88.0.5".parse().unwrap()])]),
        ["address"]
    );
    assert_eq!(
        go(&|_, f| f.networks.values_mut().for_each(|n| {
            n.subnets = vec!["10.99.0.0/16".parse().unwrap()];
        })),
        ["network"]
    );
}

#[test]
fn versions_that_do_not_go_together_are_named() {
    let both = |change: &dyn Fn(&mut HostFacts, &mut HostFacts)| {
        let (mut from, mut to) = (host(), host());
        change(&mut from, &mut to);
        let mut checks = source(&container(), &from);
        checks.extend(destination(&container(), &from, &to, &here()));
        failures(&checks).join(", ")
    };
    let criu = |from: &str, to: &str| {
        let (from, to) = (from.to_owned(), to.to_owned());
        both(&move |a, b| {
            (a.criu, b.criu) = (Some(from.clone()), Some(to.clone()));
            (a.kernel, b.kernel) = ("6.12.117+deb13".into(), "6.12.117+deb13".into());
        })
    };
    assert_eq!(criu("4.2", "4.1.1"), "criu's images");
    assert_eq!(criu("4.1.1", "4.2.1"), "");
    assert_eq!(criu("4.1.1", "4.1"), "");
    let old = |kernel: &str, criu: &str| {
        let (kernel, criu) = (kernel.to_owned(), criu.to_owned());
        both(&move |a, b| {
            for host in [a, b] {
                (host.kernel, host.criu) = (kernel.clone(), Some(criu.clone()));
            }
        })
    };
    assert_eq!(
        old("6.16.3-amd64", "4.1.1"),
        "criu for this kernel, criu for this kernel"
    );
    assert_eq!(old("7.2.12", "4.2.1"), "");
    assert_eq!(old("6.15.11", "4.1.1"), "");
    let podman = |version: &str| {
        let version = version.to_owned();
        both(&move |_, b| b.podman = Some(version.clone()))
    };
    for broken in ["5.0.0", "5.0.3", "5.1.0", "5.1.1"] {
        assert_eq!(podman(broken), "podman's restore");
    }
    for whole in ["4.9.3+ds1", "5.1.2", "5.2.0", "5.10.0"] {
        assert_eq!(podman(whole), "");
    }
    // Such a Podman at the source does not matter: it restores nothing there.
    assert_eq!(both(&|a, _| a.podman = Some("5.0.3".into())), "");
    let problem = |host: &mut HostFacts| {
        let problem = ("runc".to_owned(), "no library".to_owned());
        host.runtime_problems.extend([problem]);
    };
    assert_eq!(both(&|a, _| problem(a)), "runc");
    assert_eq!(both(&|_, b| problem(b)), "runc");
}

#[test]
fn only_what_programs_can_use_of_a_processor_counts() {
    let (mut from, to) = (host(), host());
    for word in [
        "hypervisor",
        "pti",
        "tsc_known_freq",
        "rep_good",
        "nopl",
        "ibrs",
        "md_clear",
    ] {
        from.cpu_flags.insert(word.into());
    }
    assert!(passed(&destination(&container(), &from, &to, &here())));
    from.cpu_flags.insert("avx512f".into());
    let checks = destination(&container(), &from, &to, &here());
    assert_eq!(failures(&checks), ["CPU features"]);
    assert!(
        checks
            .iter()
            .any(|c| c.detail.starts_with("lacks avx512f:"))
    );
}

#[test]
fn rings_for_asynchronous_io_come_out_the_same_or_it_is_said() {
    let check = |ring: u64, cpus: u32| {
        let (mut container, mut there) = (container(), host());
        container.aio_rings.insert(ring);
        there.possible_cpus = cpus;
        passed(&destination(&container, &host(), &there, &here()))
    };
    // 32 requests of nginx on 2 processors: 32 + 32 * (2 * 32 + 2) bytes, in pages.
    assert!(check(4096, 2));
    assert!(check(4096, 8));
    assert!(!check(4096, 64));
    // The size it has with 64 possible processors: 256 requests.
    assert!(check(20480, 64));
    assert!(check(20480, 2));
    assert!(!check(20480, 128));
}

#[test]
fn what_confines_the_container_confines_it_there() {
    let go = |here_is, there_is, labels: &[&str], change: &dyn Fn(&mut DestinationFacts)| {
        let (mut from, mut to) = (host(), host());
        (from.security, to.security) = (here_is, there_is);
        let mut moving = container();
        moving.labels = labels.iter().map(|label| (*label).to_owned()).collect();
        let mut facts = here();
        change(&mut facts);
        let checks = destination(&moving, &from, &to, &facts);
        let found = checks.into_iter().filter(|c| c.name == "confinement");
        let failed = found.filter(|c| c.verdict == Verdict::Failed);
        failed.map(|c| c.detail).collect::<Vec<_>>().join("; ")
    };
    use SecurityModule::{Apparmor, None, Selinux};
    let podmans = "containers-default-0.62.2";
    let nothing = |_: &mut DestinationFacts| ();
    let loads = |facts: &mut DestinationFacts| facts.loads_profiles = true;
    let context = "system_u:system_r:container_t:s0:c1,c2";
    assert_eq!(go(None, None, &[], &nothing), "");
    assert_eq!(go(Apparmor, Apparmor, &[podmans], &loads), "");
    assert!(go(Apparmor, Apparmor, &[podmans], &nothing).contains("install apparmor_parser"));
    assert!(go(Apparmor, Apparmor, &["mine"], &loads).contains("profile mine is not loaded"));
    let loaded = |facts: &mut DestinationFacts| facts.profiles = ["mine".to_owned()].into();
    assert_eq!(go(Apparmor, Apparmor, &["mine"], &loaded), "");
    assert_eq!(go(Apparmor, Apparmor, &[], &nothing), "");
    assert!(go(Apparmor, None, &[podmans], &nothing).contains("turn on AppArmor"));
    assert_eq!(go(Apparmor, None, &[], &nothing), "");
    assert!(go(None, Apparmor, &[], &nothing).contains("not confined"));
    assert!(go(None, Selinux, &[], &nothing).contains("SELinux"));
    assert!(go(Selinux, None, &[context], &nothing).contains(context));
    assert!(go(Selinux, Apparmor, &[context], &loads).contains("turn on SELinux"));
    assert_eq!(go(Selinux, Selinux, &[context], &nothing), "");
}

#[test]
fn room_is_counted_on_each_file_system() {
    let mut moving = container();
    moving.memory_bytes = 1 << 30;
    moving.changed_bytes = 2 << 30;
    moving.volume_bytes = 4 << 30;
    moving.volumes = vec![VolumeFacts {
        name: "v".into(),
        destination: "/data".into(),
        driver: "local".into(),
        ..VolumeFacts::default()
    }];
    let go = |storage: Room, volumes: Room| {
        let facts = DestinationFacts {
            image_present: true,
            storage,
            volume_storage: volumes,
            ..here()
        };
        let checks = destination(&moving, &host(), &host(), &facts);
        failures(&checks).len()
    };
    let another = |free_bytes| Room {
        device: 2,
        ..space(free_bytes)
    };
    assert_eq!(go(space(8 << 30), space(8 << 30)), 0);
    assert_eq!(go(space(6 << 30), space(6 << 30)), 1);
    assert_eq!(go(space(4 << 30), another(5 << 30)), 0);
    assert_eq!(go(space(2 << 30), another(5 << 30)), 1);
    assert_eq!(go(space(2 << 30), another(3 << 30)), 2);

    let mut small = host();
    small.scratch = space(1 << 30);
    assert_eq!(failures(&source(&moving, &small)), ["disk space"]);
}

#[test]
fn memory_goes_ahead_unless_a_list_of_its_pages_is_longer() {
    let mut moving = container();
    moving.memory_bytes = 100 << 20;
    let mut why = |mapped_bytes| {
        moving.mapped_bytes = mapped_bytes;
        memory::stays(&moving, &host()).unwrap_or_default()
    };
    assert_eq!(why(200 << 20), "");
    assert_eq!(why(25 << 30), "");
    assert!(why(26 << 30).contains("26.0 GiB"));
    assert!(why(u64::MAX).contains("TiB"));
}

#[test]
fn any_number_and_any_id_can_be_claimed() {
    let mut moving = container();
    moving.image_bytes = u64::MAX;
    moving.changed_bytes = u64::MAX;
    moving.memory_bytes = u64::MAX;
    moving.mapped_bytes = u64::MAX;
    moving.volume_bytes = u64::MAX;
    moving.aio_rings = [u64::MAX].into();
    let checks = destination(&moving, &host(), &host(), &here());
    assert!(failures(&checks).contains(&"disk space"), "{checks:?}");

    moving.pod = Some("eleven byte\u{e4}s".into());
    let checks = source(&moving, &host());
    assert!(failures(&checks).contains(&"disk space"), "{checks:?}");
}

#[test]
fn a_log_that_stays_is_named() {
    let check = |driver: &str, path: Option<&str>| {
        let mut moving = container();
        (moving.log.driver, moving.log.path) = (driver.into(), path.map(str::to_owned));
        let checks = source(&moving, &host());
        let log = checks.into_iter().find(|c| c.name == "log");
        log.map(|c| (c.verdict, c.detail)).unwrap()
    };
    assert_eq!(check("k8s-file", None).0, Verdict::Ok);
    assert_eq!(check("none", None).0, Verdict::Ok);
    let (verdict, detail) = check("journald", None);
    assert_eq!(verdict, Verdict::Warning);
    assert!(detail.contains("journalctl CONTAINER_ID_FULL=0123456789abcdef"));
    assert_eq!(check("passthrough", None).0, Verdict::Failed);
    let (verdict, detail) = check("k8s-file", Some("/var/log/app/x.log"));
    assert_eq!(verdict, Verdict::Failed);
    assert!(detail.contains("/var/log/app/x.log"));
}

#[test]
fn podmans_directories_must_be_the_same() {
    let go = |change: &dyn Fn(&mut ContainerFacts, &mut Info)| {
        let mut moving = container();
        moving.roots = Roots {
            graph: Some("/var/lib/containers/storage".into()),
            run: Some("/run/containers/storage".into()),
            volumes: None,
        };
        let mut places = Info {
            version: "5.8.2".into(),
            graph_root: "/var/lib/containers/storage".into(),
            run_root: "/run/containers/storage/".into(),
            volumes: "/var/lib/containers/storage/volumes".into(),
            conmon: "/usr/bin/conmon".into(),
        };
        change(&mut moving, &mut places);
        let facts = DestinationFacts {
            podman: Some(places),
            ..here()
        };
        let checks = destination(&moving, &host(), &host(), &facts);
        let failed = checks.into_iter().find(|c| c.verdict == Verdict::Failed);
        failed.map_or_else(String::new, |c| format!("{}: {}", c.name, c.detail))
    };
    assert_eq!(go(&|_, _| ()), "");
    let moved = go(&|_, p| p.graph_root = "/srv/containers".into());
    assert!(moved.starts_with("graph root: /var/lib/containers/storage at the source, /srv/"));
    assert!(go(&|_, p| p.run_root = "/run/c".into()).starts_with("run root"));
    // Without volumes, nothing refers to their path.
    assert_eq!(go(&|_, p| p.volumes = "/srv/volumes".into()), "");
    let with = go(&|c, p| {
        c.roots.volumes = Some("/var/lib/containers/storage/volumes".into());
        p.volumes = "/srv/volumes".into();
    });
    assert!(with.starts_with("volume path"), "{with}");
}

#[test]
fn a_runtime_may_be_a_path() {
    let mut moving = container();
    moving.runtime = "/usr/bin/runc".into();
    let go = |found| {
        let facts = DestinationFacts {
            runtime_found: found,
            ..here()
        };
        let mut checks = source(&moving, &host());
        checks.extend(destination(&moving, &host(), &host(), &facts));
        failures(&checks).join(", ")
    };
    assert_eq!(go(true), "");
    assert_eq!(go(false), "runtime's path");
}

fn verdicts(checks: &[Check], name: &str) -> Vec<Verdict> {
    let found = checks.iter().filter(|check| check.name == name);
    found.map(|check| check.verdict).collect()
}

#[test]
fn what_sets_a_container_apart_is_refused_or_named() {
    type Change = fn(&mut ContainerFacts);
    let cases: [(&str, Verdict, Change); 10] = [
        ("host's namespaces", Verdict::Failed, |c| {
            c.host_namespaces = vec!["ipc".into()];
        }),
        ("host's namespaces", Verdict::Failed, |c| {
            c.host_namespaces = vec!["pid".into()];
        }),
        ("host's namespaces", Verdict::Warning, |c| {
            c.host_namespaces = vec!["uts".into()];
        }),
        ("host's namespaces", Verdict::Warning, |c| {
            c.host_namespaces = vec!["cgroup".into()];
        }),
        ("privileged", Verdict::Warning, |c| c.privileged = true),
        ("network set up", Verdict::Failed, |c| {
            c.network_changes = vec!["interface wg0 (wireguard)".into()];
        }),
        ("edited files", Verdict::Warning, |c| {
            c.edited = vec!["hosts".into()];
        }),
        ("names", Verdict::Warning, |c| {
            c.known_by_name = vec!["db".into()];
        }),
        ("programs", Verdict::Failed, |c| {
            c.unmovable = ["fio: uses io_uring".into()].into();
        }),
        ("secret", Verdict::Failed, |c| {
            c.lost_secrets = vec!["s".into()]
        }),
    ];
    for (name, verdict, change) in cases {
        let mut changed = container();
        change(&mut changed);
        let checks = source(&changed, &host());
        assert_eq!(verdicts(&checks, name), [verdict], "{name}");
        assert_eq!(passed(&checks), verdict == Verdict::Warning, "{name}");
    }
}

#[test]
fn secrets_are_the_same() {
    let secret = |digest| SecretFacts {
        name: "s".into(),
        blake3: [digest; 32],
    };
    let mut moving = container();
    moving.secrets = vec![secret(1)];
    let judged = |there: Vec<SecretFacts>| {
        let mut facts = here();
        facts.secrets = there;
        verdicts(&destination(&moving, &host(), &host(), &facts), "secret")
    };
    assert_eq!(judged(vec![secret(1)]), [Verdict::Ok]);
    assert_eq!(judged(vec![secret(2)]), [Verdict::Failed]);
    assert_eq!(judged(vec![]), [Verdict::Failed]);
}

#[test]
fn a_sysctl_must_exist() {
    let mut facts = here();
    facts.unknown_sysctls = vec!["net.ipv4.no_such_thing".into()];
    let checks = destination(&container(), &host(), &host(), &facts);
    assert_eq!(failures(&checks), ["sysctls"]);
}

#[test]
fn a_bind_mount_is_kept_sent_or_refused() {
    use crate::container::binds::{Bind, Here, Kind, Wish};
    let judged = |bind: &Bind, there: Here| {
        let mut moving = container();
        moving.binds = vec![bind.clone()];
        let mut facts = here();
        facts.binds = [("/x".into(), there)].into();
        let checks = destination(&moving, &host(), &host(), &facts);
        let mut found = checks.into_iter().filter(|c| c.name == "bind mount");
        found.next().map(|check| check.verdict == Verdict::Ok)
    };
    let there = Here {
        kind: Some(Kind::Directory),
        room: space(10 << 30),
        ..Here::default()
    };
    let allowed = Here {
        allowed: true,
        ..there.clone()
    };
    let with = |here: &Here, change: fn(&mut Here)| {
        let mut here = here.clone();
        change(&mut here);
        here
    };
    let directory = Bind {
        source: "/srv/x".into(),
        destination: "/x".into(),
        ..Bind::default()
    };
    let read_only = Bind {
        read_only: true,
        content: Some([1; 32]),
        ..directory.clone()
    };
    let file = Bind {
        kind: Kind::File,
        content: Some([1; 32]),
        ..directory.clone()
    };
    let wished = |bind: &Bind, wish| Bind {
        wish,
        ..bind.clone()
    };
    let (send, over) = (
        Wish::Send { overwrite: false },
        Wish::Send { overwrite: true },
    );
    let elsewhere = Wish::At { path: "/y".into() };
    let same = |here: &Here| with(here, |here| here.same = true);
    let file_here = |here: &Here| with(here, |here| here.kind = Some(Kind::File));
    for (number, (bind, here, fine)) in [
        (directory.clone(), allowed.clone(), false),
        (
            directory.clone(),
            with(&there, |here| here.shared = true),
            true,
        ),
        (read_only.clone(), same(&there), true),
        (read_only.clone(), allowed.clone(), false),
        (
            read_only.clone(),
            with(&same(&there), |here| here.through_link = true),
            false,
        ),
        (file.clone(), file_here(&same(&allowed)), true),
        (file.clone(), file_here(&same(&there)), false),
        (wished(&directory, Wish::Keep), allowed.clone(), true),
        (wished(&directory, Wish::Keep), there.clone(), false),
        (wished(&read_only, Wish::Keep), there.clone(), false),
        (wished(&read_only, Wish::Keep), same(&there), true),
        (wished(&directory, Wish::Keep), file_here(&allowed), false),
        (
            wished(&directory, Wish::Keep),
            with(&allowed, |here| here.kind = None),
            false,
        ),
        (
            wished(&directory, Wish::Keep),
            with(&allowed, |here| here.differing = vec!["a".into()]),
            false,
        ),
        (wished(&directory, elsewhere.clone()), allowed.clone(), true),
        (wished(&directory, elsewhere), there.clone(), false),
        (
            wished(&directory, send.clone()),
            with(&allowed, |here| here.kind = None),
            true,
        ),
        (
            wished(&directory, send.clone()),
            with(&there, |here| here.kind = None),
            false,
        ),
        (
            wished(&directory, send.clone()),
            with(&allowed, |here| here.empty = true),
            true,
        ),
        (wished(&directory, send.clone()), allowed.clone(), false),
        (wished(&directory, over.clone()), allowed.clone(), true),
        (
            wished(&directory, over),
            with(&allowed, |here| here.mounted = true),
            false,
        ),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(judged(&bind, here), Some(fine), "case {number}: {bind:?}");
    }
    let failed = |change: fn(&mut Bind)| {
        let mut moving = container();
        let mut bind = directory.clone();
        change(&mut bind);
        moving.binds = vec![bind];
        failures(&source(&moving, &host())) == ["bind mount"]
    };
    assert!(!failed(|_| {}));
    assert!(failed(|bind| bind.obstacle = Some("gone".into())));
    assert!(failed(|bind| {
        bind.kind = Kind::Special;
        bind.wish = Wish::Send { overwrite: false };
    }));
}
