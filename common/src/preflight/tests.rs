use std::collections::BTreeMap;

use super::*;
use crate::container::ContainerFacts;
use crate::container::facts::{NetworkFacts, VolumeFacts};
use crate::host::HostFacts;

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
        bind_mounts: vec![],
        devices: vec![],
        pod: None,
        dependencies: vec![],
        exec_sessions: 0,
        terminal: false,
        overlay: true,
        service: None,
        health: None,
    }
}

fn here() -> DestinationFacts {
    DestinationFacts {
        networks: [(
            "podman".into(),
            ("bridge".into(), vec!["10.88.0.0/16".parse().unwrap()]),
        )]
        .into(),
        free_bytes: 10 << 30,
        ..Default::default()
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
        ("bind mounts", |c| c.bind_mounts = vec!["/srv".into()]),
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
        options: BTreeMap::new(),
        labels: BTreeMap::new(),
        anonymous: false,
        shared_with: vec!["other".into()],
    }];
    assert_eq!(failures(&source(&shared, &host())), ["volume"]);
}

#[test]
fn firewalls_in_the_way_are_named() {
    let mut obstacle = Obstacle {
        found: "a table drops packets".into(),
        advice: "`nft insert rule`".into(),
        certain: true,
    };
    assert!(passed(&firewalls(Side::Source, &[])));
    let checks = firewalls(Side::Destination, std::slice::from_ref(&obstacle));
    assert_eq!(failures(&checks), ["firewalls"]);
    assert_eq!(checks[0].host, Side::Destination);
    assert_eq!(checks[0].detail, "a table drops packets: `nft insert rule`");
    obstacle.certain = false;
    let checks = firewalls(Side::Source, &[obstacle]);
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
    assert_eq!(go(&|_, f| f.free_bytes = 0), ["disk space"]);
    assert_eq!(
        go(&|_, f| f.addresses = vec![("other".into(), vec!["10.88.0.5".parse().unwrap()])]),
        ["address"]
    );
    assert_eq!(
        go(&|_, f| f.networks.values_mut().for_each(|n| {
            n.1 = vec!["10.99.0.0/16".parse().unwrap()];
        })),
        ["network"]
    );
}
