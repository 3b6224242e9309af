//! The crate against the real kernel, each test in its own network namespaces.

mod namespace;

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use conntrack::{
    Conntrack, Error, Family, Filter, Flow, Key, MaskedMark, Protocol, Status, TcpFlags, TcpState,
    Tuple,
};
use namespace::{Namespace, Routed};

/// Tracks connections and drops what the tracker calls invalid, as container networks do. The empty
/// chains turn translation on.
const TRACK: &str = "
    table inet test {
        chain forward { type filter hook forward priority 0; ct state invalid drop; }
        chain prerouting { type nat hook prerouting priority dstnat; }
        chain postrouting { type nat hook postrouting priority srcnat; }
    }
";

const MINUTES: Duration = Duration::from_secs(600);
const PATIENCE: Duration = Duration::from_secs(5);

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Flows of every protocol the crate knows, in both families.
fn flows() -> Vec<Flow> {
    let v4 = ("192.0.2.9:4000", "198.51.100.1:80");
    let v6 = ("[2001:db8::9]:4000", "[2001:db8::1]:80");
    let tuple = |(source, destination), protocol| Tuple {
        source: address(source),
        destination: address(destination),
        protocol,
    };
    let query = ("192.0.2.9:0", "198.51.100.1:0");
    let query6 = ("[2001:db8::9]:0", "[2001:db8::1]:0");
    let (code, id) = (0, 77);
    [
        tuple(v4, Protocol::Tcp),
        tuple(v6, Protocol::Tcp),
        tuple(v4, Protocol::Udp),
        tuple(v6, Protocol::Udp),
        tuple(v4, Protocol::Other(132)),
        tuple(query, Protocol::Icmp { kind: 8, code, id }),
        tuple(
            query6,
            Protocol::Icmpv6 {
                kind: 128,
                code,
                id,
            },
        ),
    ]
    .into_iter()
    .map(|tuple| Flow::identity(tuple, MINUTES))
    .collect()
}

/// 10,000 UDP flows.
fn many() -> Vec<Flow> {
    (0..10_000u32)
        .map(|n| {
            let source = SocketAddr::from(([10, 9, (n >> 8) as u8, n as u8], 4000));
            Flow::identity(Tuple::udp(source, address("10.8.0.1:53")), MINUTES)
        })
        .collect()
}

/// All 32 bits of a mark.
fn exact(value: u32) -> MaskedMark {
    MaskedMark::masked(value, u32::MAX)
}

fn set_mark(table: &mut Conntrack, key: impl Into<Key>, mark: MaskedMark) -> Result<(), Error> {
    table.set_marks([(key, mark)]).unwrap().remove(0)
}

fn opened(namespace: &Namespace) -> Conntrack {
    namespace.run(|| Conntrack::open().unwrap())
}

#[test]
fn an_entry_is_inserted_listed_read_changed_and_deleted() {
    let Some(namespace) = Namespace::new() else {
        return;
    };
    let mut table = opened(&namespace);
    for mut flow in flows() {
        flow.mark = 0x10;
        table.insert(&flow).unwrap();

        let read = table.get(flow.original).unwrap();
        assert_eq!((read.original, read.reply), (flow.original, flow.reply));
        assert_eq!(read.mark, 0x10);
        assert!(read.status.contains(flow.status));
        assert!(!read.is_snat() && !read.is_dnat());
        assert!(read.timeout.unwrap() <= MINUTES);
        assert!(read.timeout.unwrap() > MINUTES - PATIENCE);
        let listed = table.list(Filter::default()).unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!((listed[0].original, listed[0].id), (flow.original, read.id));
        // The reply tuple identifies the entry as well.
        assert_eq!(table.get(flow.reply).unwrap().id, read.id);

        set_mark(&mut table, &flow, exact(0x20)).unwrap();
        table.set_timeout(&flow, MINUTES * 2).unwrap();
        let changed = table.get(&flow).unwrap();
        assert_eq!(changed.mark, 0x20);
        assert!(changed.timeout.unwrap() > MINUTES);
        assert_eq!(changed.id, read.id);

        table.delete(&flow).unwrap();
        assert!(matches!(table.get(&flow), Err(Error::NotFound(_))));
        assert!(table.list(Filter::default()).unwrap().is_empty());
    }
}

#[test]
fn an_inserted_tcp_flow_is_established_and_liberal() {
    let Some(namespace) = Namespace::new() else {
        return;
    };
    let mut table = opened(&namespace);
    let mut flow = flows().remove(0);
    let tcp = flow.tcp.as_mut().unwrap();
    tcp.original.window_scale = 7;
    tcp.reply.window_scale = 9;
    table.insert(&flow).unwrap();
    let read = table.get(&flow).unwrap().tcp.unwrap();
    assert_eq!(read.state, TcpState::Established);
    assert!(read.original.flags.contains(TcpFlags::PICKED_UP));
    assert!(read.reply.flags.contains(TcpFlags::PICKED_UP));
    assert_eq!(read.original.window_scale, 7);
    assert_eq!(read.reply.window_scale, 9);
}

#[test]
fn mistakes_are_errors_that_say_what_was_attempted() {
    let Some(namespace) = Namespace::new() else {
        return;
    };
    let mut table = opened(&namespace);
    let flow = flows().remove(0);

    let missing = set_mark(&mut table, &flow, exact(1)).unwrap_err();
    assert!(matches!(missing, Error::NotFound(_)));
    assert_eq!(
        missing.to_string(),
        "set the mark of tcp 192.0.2.9:4000 -> 198.51.100.1:80: no such entry"
    );
    assert!(matches!(table.delete(&flow), Err(Error::NotFound(_))));
    assert!(matches!(
        table.set_timeout(&flow, MINUTES),
        Err(Error::NotFound(_))
    ));

    table.insert(&flow).unwrap();
    assert!(matches!(table.insert(&flow), Err(Error::Exists(_))));
    // A flow whose answers could not be told apart from the first one's.
    let mut collision = flow.clone();
    collision.original.source.set_port(4001);
    assert!(collision.is_snat());
    namespace.nft(TRACK);
    assert!(matches!(table.insert(&collision), Err(Error::Exists(_))));
    assert_eq!(table.list(Filter::default()).unwrap().len(), 1);

    let endless = Flow {
        timeout: None,
        ..collision
    };
    assert!(matches!(table.insert(&endless), Err(Error::Invalid { .. })));
}

#[test]
fn without_the_capability_everything_is_refused() {
    let Some(namespace) = Namespace::new() else {
        return;
    };
    namespace.run(|| {
        const NOBODY: libc::uid_t = 65534;
        // SAFETY: the call takes three numbers. Unlike the C library's function it only changes the
        // credentials of this thread, which ends with this closure.
        let result = unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
        assert_eq!(result, 0);

        let mut table = Conntrack::open().unwrap();
        let flow = flows().remove(0);
        assert!(matches!(
            table.list(Filter::default()),
            Err(Error::Permission(_))
        ));
        assert!(matches!(table.insert(&flow), Err(Error::Permission(_))));
        assert!(matches!(
            table.set_marks([(&flow, exact(1))]).unwrap()[..],
            [Err(Error::Permission(_))]
        ));
    });
}

#[test]
fn zones_keep_equal_flows_apart() {
    let Some(namespace) = Namespace::new() else {
        return;
    };
    let mut table = opened(&namespace);
    let mut flow = flows().remove(0);
    table.insert(&flow).unwrap();
    flow.zone = 5;
    flow.mark = 5;
    table.insert(&flow).unwrap();
    let read = table.get(&flow).unwrap();
    assert_eq!((read.zone, read.mark), (5, 5));
    table.delete(&flow).unwrap();
    let read = table.get(Key::from(flow.original)).unwrap();
    assert_eq!((read.zone, read.mark), (0, 0));
}

#[test]
fn the_kernel_filters_by_mark_and_family() {
    let Some(namespace) = Namespace::new() else {
        return;
    };
    let mut table = opened(&namespace);
    for (mark, mut flow) in (0x100..).zip(flows()) {
        flow.mark = mark;
        table.insert(&flow).unwrap();
    }
    let mut marks = |family, mark| {
        let mut marks: Vec<u32> = table
            .list(Filter { family, mark })
            .unwrap()
            .iter()
            .map(|flow| flow.mark)
            .collect();
        marks.sort_unstable();
        marks
    };
    assert_eq!(marks(None, None).len(), flows().len());
    assert_eq!(marks(None, Some(exact(0x102))), [0x102]);
    assert_eq!(
        marks(None, Some(MaskedMark::masked(1, 1))),
        [0x101, 0x103, 0x105]
    );
    assert_eq!(marks(Some(Family::V6), None), [0x101, 0x103, 0x106]);
    assert_eq!(
        marks(Some(Family::V6), Some(MaskedMark::masked(1, 1))),
        [0x101, 0x103]
    );
    assert_eq!(marks(None, Some(exact(0x900))), [0u32; 0]);
}

#[test]
fn a_masked_mark_leaves_the_other_bits() {
    let Some(namespace) = Namespace::new() else {
        return;
    };
    let mut table = opened(&namespace);
    let mut flow = flows().remove(0);
    flow.mark = 0x1234_5678;
    table.insert(&flow).unwrap();
    set_mark(
        &mut table,
        &flow,
        MaskedMark::masked(0xffff_abcd, 0x0000_ff00),
    )
    .unwrap();
    assert_eq!(table.get(&flow).unwrap().mark, 0x1234_ab78);
}

#[test]
fn ten_thousand_marks_are_set_quickly() {
    let Some(namespace) = Namespace::new() else {
        return;
    };
    let mut table = opened(&namespace);
    let flows = many();
    let start = Instant::now();
    let inserted = table.insert_all(&flows).unwrap();
    println!("inserted 10,000 entries in {:?}", start.elapsed());
    assert!(inserted.iter().all(Result::is_ok));

    // Entries can end at any time: a missing one must not affect the others.
    table.delete(&flows[4321]).unwrap();
    let start = Instant::now();
    let marked = table
        .set_marks(flows.iter().map(|flow| (flow, exact(7))))
        .unwrap();
    let elapsed = start.elapsed();
    println!("marked 10,000 entries in {elapsed:?}");
    assert_eq!(marked.len(), flows.len());
    for (number, result) in marked.iter().enumerate() {
        match result {
            Ok(()) => assert_ne!(number, 4321),
            Err(error) => {
                assert!(matches!(error, Error::NotFound(_)), "{error}");
                assert_eq!(number, 4321);
            }
        }
    }
    // Far more than it takes, to allow for a loaded machine. One request at a time would also fit,
    // but a connection per request would not.
    assert!(elapsed < Duration::from_secs(2));

    let filter = Filter {
        mark: Some(exact(7)),
        ..Filter::default()
    };
    assert_eq!(table.list(filter).unwrap().len(), flows.len() - 1);
}

/// A UDP client of `server`, and what the server saw of it.
fn ask(client: &UdpSocket, to: SocketAddr, server: &UdpSocket) -> io::Result<SocketAddr> {
    let mut buffer = [0; 16];
    client.send_to(b"ask", to)?;
    let (_, seen) = server.recv_from(&mut buffer)?;
    server.send_to(b"answer", seen)?;
    let (length, from) = client.recv_from(&mut buffer)?;
    assert_eq!((&buffer[..length], from), (&b"answer"[..], to));
    Ok(seen)
}

fn udp(namespace: &Namespace, address: SocketAddr) -> UdpSocket {
    let socket = namespace.run(|| UdpSocket::bind(address).unwrap());
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

#[test]
fn an_identity_entry_is_not_masqueraded() {
    let Some(net) = Routed::new() else { return };
    net.router.nft(TRACK);
    net.router
        .nft("add rule inet test postrouting oifname \"server\" masquerade");
    let mut table = opened(&net.router);
    for [client, control, server, router] in [
        ["10.1.0.2:4000", "10.1.0.2:4001", "10.2.0.2:53", "10.2.0.1"],
        [
            "[fd01::2]:4000",
            "[fd01::2]:4001",
            "[fd02::2]:53",
            "fd02::1",
        ],
    ] {
        let (to, server) = (address(server), udp(&net.server, address(server)));

        let control = udp(&net.client, address(control));
        let seen = ask(&control, to, &server).unwrap();
        assert_eq!(seen.ip().to_string(), router, "the rule works");

        // Even for a flow that nobody has answered yet: an existing entry no longer meets the
        // rules.
        let original = Tuple::udp(address(client), to);
        let client = udp(&net.client, original.source);
        for status in [Status::SEEN_REPLY | Status::ASSURED, Status::empty()] {
            let flow = Flow {
                status,
                ..Flow::identity(original, MINUTES)
            };
            table.insert(&flow).unwrap();
            let seen = ask(&client, to, &server).unwrap();
            assert_eq!(seen, original.source);
            assert!(!table.get(original).unwrap().is_snat());
            table.delete(original).unwrap();
        }
    }
}

#[test]
fn a_query_is_translated_with_its_identifier() {
    let Some(namespace) = Namespace::new() else {
        return;
    };
    let mut table = opened(&namespace);
    for (original, source, destination) in [
        (flows()[5].original, "203.0.113.1:0", "203.0.113.2:0"),
        (flows()[6].original, "[fd03::1]:0", "[fd03::2]:0"),
    ] {
        let mut flow = Flow::identity(original, MINUTES);
        flow.reply.destination = address(source);
        if let Protocol::Icmp { id, .. } | Protocol::Icmpv6 { id, .. } = &mut flow.reply.protocol {
            *id = 1234;
        }
        for reply_source in [flow.reply.source, address(destination)] {
            flow.reply.source = reply_source;
            table.insert(&flow).unwrap();
            let read = table.get(original).unwrap();
            assert_eq!((read.original, read.reply), (flow.original, flow.reply));
            table.delete(original).unwrap();
        }
    }
}

#[test]
fn a_translation_needs_a_chain_of_type_nat() {
    let Some(net) = Routed::new() else { return };
    net.router.nft(
        "table inet test {
            chain forward { type filter hook forward priority 0; ct state invalid drop; }
        }",
    );
    let mut table = opened(&net.router);
    let (client, server) = (
        udp(&net.client, address("10.1.0.2:4000")),
        udp(&net.server, address("10.2.0.2:53")),
    );
    let original = Tuple::udp(address("10.1.0.2:4000"), address("10.2.0.2:53"));
    let flow = Flow {
        reply: Tuple::udp(original.destination, address("10.2.0.1:6000")),
        ..Flow::identity(original, MINUTES)
    };
    table.insert(&flow).unwrap();
    assert!(table.get(original).unwrap().is_snat());
    // Only in this direction: the answer to an untranslated packet would be a new flow that takes
    // the entry's tuple, and would be dropped for that.
    client.send_to(b"ask", original.destination).unwrap();
    let (_, seen) = server.recv_from(&mut [0; 16]).unwrap();
    assert_eq!(seen, original.source);

    net.router
        .nft("add chain inet test nat { type nat hook postrouting priority srcnat; }");
    let seen = ask(&client, original.destination, &server).unwrap();
    assert_eq!(seen, flow.reply.destination);
}

#[test]
fn an_inserted_translation_translates_packets() {
    let Some(net) = Routed::new() else { return };
    net.router.nft(TRACK);
    let mut table = opened(&net.router);
    for [client, published, container, outside] in [
        [
            "10.1.0.2:4000",
            "10.1.0.1:80",
            "10.2.0.2:8080",
            "10.2.0.1:6000",
        ],
        [
            "[fd01::2]:4000",
            "[fd01::1]:80",
            "[fd02::2]:8080",
            "[fd02::1]:6000",
        ],
    ] {
        let [client, published, container, outside] =
            [client, published, container, outside].map(address);
        let server = udp(&net.server, container);
        let client = udp(&net.client, client);
        let original = Tuple::udp(client.local_addr().unwrap(), published);

        // The destination only, then the source as well.
        for source in [original.source, outside] {
            let flow = Flow {
                reply: Tuple::udp(container, source),
                mark: 3,
                ..Flow::identity(original, MINUTES)
            };
            table.insert(&flow).unwrap();
            let read = table.get(original).unwrap();
            assert_eq!(read.reply, flow.reply);
            assert!(read.status.contains(Status::DST_NAT));
            assert_eq!(
                read.status.contains(Status::SRC_NAT),
                source != original.source
            );
            assert_eq!(ask(&client, published, &server).unwrap(), source);
            table.delete(original).unwrap();
        }

        // The source only.
        let original = Tuple::udp(client.local_addr().unwrap(), container);
        let flow = Flow {
            reply: Tuple::udp(container, outside),
            ..Flow::identity(original, MINUTES)
        };
        table.insert(&flow).unwrap();
        assert_eq!(ask(&client, container, &server).unwrap(), outside);
        let read = table.get(original).unwrap();
        assert!(read.is_snat() && !read.is_dnat());
        assert_eq!(read.original, original);
        table.delete(original).unwrap();
    }
}

/// A TCP connection through the router.
struct Connection {
    client: TcpStream,
    server: TcpStream,
}

impl Connection {
    fn open(net: &Routed, to: SocketAddr, listen: SocketAddr) -> Self {
        let listener = net.server.run(|| TcpListener::bind(listen).unwrap());
        let client = net
            .client
            .run(|| TcpStream::connect_timeout(&to, PATIENCE).unwrap());
        let (server, _) = listener.accept().unwrap();
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.set_nodelay(true).unwrap();
        }
        Self { client, server }
    }

    /// Sends more than a window's worth both ways and checks every byte.
    fn check(&self) {
        let data: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
        for (mut from, mut to) in [(&self.client, &self.server), (&self.server, &self.client)] {
            std::thread::scope(|scope| {
                scope.spawn(|| from.write_all(&data).unwrap());
                let mut received = vec![0; data.len()];
                to.read_exact(&mut received).unwrap();
                assert_eq!(received, data);
            });
        }
    }
}

/// Publishes the server's ports 8080 as the router's ports 80 and masquerades the client.
const PUBLISH: &str = "
    add rule inet test prerouting ip daddr 10.1.0.1 tcp dport 80 dnat ip to 10.2.0.2:8080
    add rule inet test prerouting ip6 daddr fd01::1 tcp dport 80 dnat ip6 to [fd02::2]:8080
    add rule inet test postrouting oifname \"server\" masquerade
";

#[test]
fn a_translated_connection_goes_on_through_an_entry_made_from_its_listing() {
    let Some(net) = Routed::new() else { return };
    net.router.nft(TRACK);
    net.router.nft(PUBLISH);
    let mut table = opened(&net.router);
    let connections = [
        ("10.1.0.1:80", "10.2.0.2:8080"),
        ("[fd01::1]:80", "[fd02::2]:8080"),
    ]
    .map(|(to, listen)| Connection::open(&net, address(to), address(listen)));
    connections.iter().for_each(Connection::check);

    // As between two hosts: listed and shipped, without the rules that made the flows.
    let listed: Vec<Flow> = table
        .list(Filter::default())
        .unwrap()
        .into_iter()
        .filter(|flow| flow.original.protocol == Protocol::Tcp)
        .collect();
    assert_eq!(listed.len(), 2);
    assert!(listed.iter().all(|flow| flow.is_snat() && flow.is_dnat()));
    let shipped = serde_json::to_string(&listed).unwrap();
    net.router.nft("flush chain inet test prerouting");
    net.router.nft("flush chain inet test postrouting");
    for flow in &listed {
        table.delete(flow).unwrap();
    }
    let shipped: Vec<Flow> = serde_json::from_str(&shipped).unwrap();
    for result in table.insert_all(&shipped).unwrap() {
        result.unwrap();
    }

    connections.iter().for_each(Connection::check);
    for flow in &shipped {
        let read = table.get(flow).unwrap();
        assert_eq!((read.original, read.reply), (flow.original, flow.reply));
        assert!(read.status.contains(Status::SRC_NAT | Status::DST_NAT));
    }
}

#[test]
fn a_connection_is_judged_liberally_from_now_on() {
    let Some(net) = Routed::new() else { return };
    net.router.nft(TRACK);
    net.router.nft(PUBLISH);
    let mut table = opened(&net.router);
    let connection = Connection::open(&net, address("10.1.0.1:80"), address("10.2.0.2:8080"));
    let client = connection.client.local_addr().unwrap();
    let original = Tuple::tcp(client, address("10.1.0.1:80"));
    let flags = |tcp: conntrack::Tcp| [tcp.original.flags, tcp.reply.flags];
    let liberal = |flags: TcpFlags| flags.contains(TcpFlags::BE_LIBERAL);
    let before = table.get(original).unwrap().tcp.unwrap();
    assert!(!flags(before).into_iter().any(liberal));

    assert!(table.disable_window_checks([original]).unwrap()[0].is_ok());
    let after = table.get(original).unwrap().tcp.unwrap();
    assert!(flags(after).into_iter().all(liberal));
    assert_eq!(after.state, before.state);
    assert_eq!(after.reply.window_scale, before.reply.window_scale);
    connection.check();
}

#[test]
fn a_mark_changes_in_place_under_traffic() {
    let Some(net) = Routed::new() else { return };
    net.router.nft(TRACK);
    net.router.nft(PUBLISH);
    let mut table = opened(&net.router);
    let connection = Connection::open(&net, address("10.1.0.1:80"), address("10.2.0.2:8080"));
    let original = Tuple::tcp(
        connection.client.local_addr().unwrap(),
        address("10.1.0.1:80"),
    );
    let before = table.get(original).unwrap();

    // Rules see the new mark at once, in both directions.
    net.router.nft(
        "add chain inet test count { type filter hook forward priority 10; }
         add counter inet test marked
         add rule inet test count ct mark 0x42 counter name marked",
    );
    std::thread::scope(|scope| {
        let traffic = scope.spawn(|| (0..20).for_each(|_| connection.check()));
        for mark in (0..1000).chain([0x42]) {
            set_mark(&mut table, original, exact(mark)).unwrap();
        }
        traffic.join().unwrap();
    });
    connection.check();

    let after = table.get(original).unwrap();
    assert_eq!(after.mark, 0x42);
    assert_eq!((after.reply, after.id), (before.reply, before.id));
    assert!(after.status.contains(Status::SRC_NAT | Status::DST_NAT));
    assert!(after.is_snat() && after.is_dnat());
    let counted = net.router.run(|| {
        std::process::Command::new("nft")
            .args(["list", "counter", "inet", "test", "marked"])
            .output()
            .unwrap()
    });
    let counted = String::from_utf8(counted.stdout).unwrap();
    assert!(!counted.contains("packets 0 "), "{counted}");
}
