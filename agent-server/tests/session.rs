//! The protocol from end to end over an in-memory pipe.
//!
//! The client's end is written by hand, frame by frame, so that it can also send what no real
//! client would.

mod double;

use std::net::SocketAddr;
use std::time::Duration;

use agent_server::session::Session;
use common::container::ContainerFacts;
use common::host::HostFacts;
use common::net::flows::decide::MovedFlow;
use common::net::tunnel::agreement::{Offer, PublicKey};
use common::protocol::frame::{MAX_FRAME_BYTES, MAX_UNPAIRED_FRAME_BYTES};
use common::protocol::version::{CURRENT, Versions};
use common::protocol::{
    Fate, MigrationId, RefusalCode, Refused, Reply, Request, State, StreamDigest, StreamKind,
};
use conntrack::Tuple;
use double::{Host, Plan, failure};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;
use trust::{Admission, Fingerprint, Invites, Peer, PeerIdentity, Peers, Secret};

/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(20);

const STATES: [State; 12] = [
    State::Greeting,
    State::Unpaired,
    State::Idle,
    State::Begun,
    State::TunnelOpen,
    State::Connected,
    State::ReceivingPreparation,
    State::Staged,
    State::ReceivingFiles,
    State::ReceivingCheckpoint,
    State::Loaded,
    State::Restored,
];

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, work).await.expect("in time")
}

// --- Requests -----------------------------------------------------------------------------------

fn hello_with(oldest: u32, newest: u32) -> Request {
    Request::Hello {
        versions: Versions { oldest, newest },
        software: "test".into(),
        host: "source".into(),
    }
}

fn hello() -> Request {
    hello_with(Versions::OURS.oldest, Versions::OURS.newest)
}

fn pair(secret: &Secret) -> Request {
    Request::Pair {
        secret: secret.clone(),
        name: "source".into(),
    }
}

fn check() -> Request {
    Request::Check {
        container: Box::new(container()),
        source: Box::new(source()),
        forward_new: false,
    }
}

fn begin() -> Request {
    Request::Begin {
        migration: MigrationId::random(),
        container: Box::new(container()),
        source: Box::new(source()),
    }
}

fn fate() -> Request {
    Request::Fate {
        migration: MigrationId::random(),
    }
}

fn open_tunnel() -> Request {
    Request::OpenTunnel {
        offer: Offer {
            public_key: PublicKey("a".into()),
            port: 51820,
            prefixes: vec![],
            ipv6: false,
            tunnels: vec![],
        },
    }
}

fn receive(stream: u32, kind: StreamKind) -> Request {
    Request::Receive { stream, kind }
}

fn stream_end(bytes: u64) -> Request {
    Request::StreamEnd {
        digest: StreamDigest {
            bytes,
            blake3: [0; 32],
        },
    }
}

fn memory_end(bytes: u64) -> Request {
    Request::MemoryEnd {
        digest: StreamDigest {
            bytes,
            blake3: [0; 32],
        },
    }
}

fn flows() -> Request {
    let address = |last| SocketAddr::from(([192, 0, 2, last], 80));
    Request::Flows {
        flows: vec![MovedFlow {
            original: Tuple::tcp(address(1), address(2)),
            outgoing: false,
            timeout_s: 60,
            answered: true,
            tcp: None,
        }],
    }
}

fn abort() -> Request {
    Request::Abort {
        reason: "changed my mind".into(),
    }
}

fn container() -> ContainerFacts {
    ContainerFacts {
        id: "c0".repeat(32),
        name: "web".into(),
        state: "running".into(),
        image_id: "1a".repeat(32),
        image_name: "web".into(),
        image_bytes: 0,
        image_layers: vec![],
        runtime: "runc".into(),
        memory_bytes: 0,
        network_mode: "bridge".into(),
        networks: vec![],
        ports: vec![],
        volumes: vec![],
        devices: vec![],
        pod: None,
        dependencies: vec![],
        exec_sessions: 0,
        terminal: false,
        user_namespace: false,
        init: None,
        overlay: true,
        ..Default::default()
    }
}

fn source() -> HostFacts {
    HostFacts {
        name: "source".into(),
        kernel: "6.12".into(),
        architecture: "x86_64".into(),
        podman: None,
        criu: None,
        runtimes: Default::default(),
        cpu_flags: Default::default(),
        ..Default::default()
    }
}

/// Everything a source ever asks of a destination, in order; passes through every state of a paired
/// peer.
fn whole_way() -> Vec<Request> {
    vec![
        hello(),
        check(),
        begin(),
        open_tunnel(),
        Request::ProveTunnel,
        receive(1, StreamKind::Image),
        stream_end(1000),
        receive(20, StreamKind::Volumes),
        stream_end(1500),
        receive(9, StreamKind::Memory),
        receive(2, StreamKind::Skeleton),
        stream_end(2000),
        Request::Stage,
        receive(4, StreamKind::Files),
        stream_end(4000),
        flows(),
        receive(3, StreamKind::Checkpoint),
        Request::Redirect,
        flows(),
        stream_end(3000),
        memory_end(9000),
        flows(),
        Request::Restore,
        Request::Commit,
    ]
}

/// The first part of the whole way, up to `state`.
fn way_to(state: State) -> Vec<Request> {
    if state == State::Unpaired {
        return vec![hello()];
    }
    let mut now = State::Greeting;
    let mut way = Vec::new();
    for request in whole_way() {
        if now == state {
            return way;
        }
        now = now.after(&request).unwrap();
        way.push(request);
    }
    panic!("{state:?} is not on the way");
}

/// The steps that may be interrupted while they run, each with the way to it. `Begin` is the first.
fn interruptible_steps() -> Vec<(Vec<Request>, Request)> {
    let begin = 2;
    let restore = whole_way().len() - 2;
    (begin..=restore)
        .map(|index| {
            let mut way = whole_way();
            way.truncate(index + 1);
            let step = way.pop().unwrap();
            (way, step)
        })
        .collect()
}

/// One request of every kind.
fn every_request(secret: &Secret) -> Vec<Request> {
    vec![
        hello(),
        pair(secret),
        check(),
        begin(),
        open_tunnel(),
        Request::ProveTunnel,
        receive(7, StreamKind::Image),
        receive(7, StreamKind::Volumes),
        receive(7, StreamKind::Skeleton),
        receive(7, StreamKind::Files),
        receive(7, StreamKind::Checkpoint),
        receive(7, StreamKind::Memory),
        memory_end(0),
        stream_end(0),
        Request::Stage,
        flows(),
        Request::Redirect,
        Request::Restore,
        Request::Commit,
        abort(),
        fate(),
    ]
}

// --- Server and client --------------------------------------------------------------------------

/// What the sessions of one server share.
struct Server {
    host: Host,
    peers: Peers,
    invites: Invites,
    _dir: TempDir,
}

impl Server {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Server {
            host: Host::default(),
            peers: Peers::open(dir.path()).unwrap(),
            invites: Invites::open(dir.path()).unwrap(),
            _dir: dir,
        }
    }

    fn invite(&self) -> Secret {
        let token = self.invites.create(LIMIT * 60, key()).unwrap();
        token.secret
    }

    fn connect(&self, peer: PeerIdentity) -> Client {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let admission = Admission::new(self.peers.clone(), self.invites.clone());
        let host = self.host.clone();
        let address = SocketAddr::from(([192, 0, 2, 9], 4711));
        let session = tokio::spawn(async move {
            Session::new(theirs, peer, address, &admission, &host)
                .serve()
                .await;
        });
        Client {
            stream: ours,
            session,
        }
    }

    fn connect_paired(&self) -> Client {
        let peer = Peer::new("source", key(), None).unwrap();
        self.connect(PeerIdentity::Paired(peer))
    }

    fn connect_unpaired(&self) -> Client {
        self.connect(PeerIdentity::Unpaired(key()))
    }

    /// A connection in `state`.
    async fn connect_in(&self, state: State) -> Client {
        let mut client = match state {
            State::Unpaired => self.connect_unpaired(),
            _ => self.connect_paired(),
        };
        client.go(way_to(state)).await;
        client
    }

    fn roll_backs(&self) -> usize {
        self.host.count("roll_back")
    }
}

fn key() -> Fingerprint {
    "ab".repeat(32).parse().unwrap()
}

struct Client {
    stream: DuplexStream,
    session: JoinHandle<()>,
}

impl Client {
    async fn send(&mut self, request: &Request) {
        let json = serde_json::to_vec(request).unwrap();
        self.stream.write_all(&frame(&json)).await.unwrap();
    }

    /// The next reply; none if the session has ended.
    async fn receive(&mut self) -> Option<Reply> {
        within(async {
            let length = self.stream.read_u32().await.ok()?;
            let mut json = vec![0; length as usize];
            self.stream.read_exact(&mut json).await.unwrap();
            Some(serde_json::from_slice(&json).unwrap())
        })
        .await
    }

    async fn ask(&mut self, request: &Request) -> Reply {
        self.send(request).await;
        self.receive().await.expect("a reply")
    }

    async fn ask_refused(&mut self, request: &Request) -> Refused {
        refused(self.ask(request).await)
    }

    /// Sends these requests, all of which must succeed.
    async fn go(&mut self, way: Vec<Request>) {
        for request in way {
            let reply = self.ask(&request).await;
            assert!(!matches!(reply, Reply::Refused(_)), "{reply:?}");
        }
    }

    /// Sends `request`, for which `host` gets `plan`, and waits until it is running.
    async fn set_to_work(&mut self, host: &Host, request: &Request, plan: Plan) {
        let calls = host.calls().len();
        host.plan(request.name(), plan);
        self.send(request).await;
        within(host.until_called(calls + 1)).await;
    }

    /// The server must end the session without another word.
    async fn expect_end(mut self) {
        let reply = self.receive().await;
        assert!(reply.is_none(), "{reply:?}");
        within(self.session).await.expect("no panic");
    }

    /// The connection is lost.
    async fn vanish(self) {
        drop(self.stream);
        within(self.session).await.expect("no panic");
    }
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap();
    [&length.to_be_bytes(), payload].concat()
}

fn refused(reply: Reply) -> Refused {
    match reply {
        Reply::Refused(refused) => refused,
        other => panic!("not refused: {other:?}"),
    }
}

fn leftovers(reply: Reply) -> Vec<String> {
    match reply {
        Reply::Aborted { leftovers } => leftovers,
        other => panic!("not aborted: {other:?}"),
    }
}

/// A reply's name on the wire.
fn name(reply: &Reply) -> String {
    let json = serde_json::to_value(reply).unwrap();
    json["reply"].as_str().unwrap().to_owned()
}

// --- The way that is meant ----------------------------------------------------------------------

#[tokio::test]
async fn the_whole_way() {
    let server = Server::new();
    let mut client = server.connect_paired();
    let mut replies = Vec::new();
    for request in whole_way() {
        replies.push(name(&client.ask(&request).await));
    }
    assert_eq!(
        replies,
        [
            "welcome",
            "checked",
            "begun",
            "tunnel_opened",
            "tunnel_proven",
            // The image, the volumes, memory, and the skeleton.
            "receiving",
            "received",
            "receiving",
            "received",
            "receiving",
            "receiving",
            "received",
            "staged",
            "receiving",
            "received",
            "flows_installed",
            "receiving",
            "redirected",
            "flows_installed",
            // The checkpoint and the memory.
            "received",
            "received",
            "flows_installed",
            "restored",
            "committed",
        ]
    );
    client.vanish().await;
    assert_eq!(
        server.host.calls(),
        [
            "check web",
            "begin web from source at 192.0.2.9:4711",
            "open_tunnel 51820",
            "prove_tunnel",
            "receive 1 Image",
            "stream_end 1000",
            "receive 20 Volumes",
            "stream_end 1500",
            "receive 9 Memory",
            "receive 2 Skeleton",
            "stream_end 2000",
            "stage",
            "receive 4 Files",
            "stream_end 4000",
            "flows 1",
            "receive 3 Checkpoint",
            "redirect",
            "flows 1",
            "stream_end 3000",
            "memory_end 9000",
            "flows 1",
            "restore",
            "commit",
            "finish_outage",
        ]
    );
}

/// By then all that came with the container is on disk, which is what the source waits for.
#[tokio::test]
async fn a_question_behind_the_commit_is_answered_when_nothing_is_left_to_do() {
    let server = Server::new();
    let mut client = server.connect_paired();
    client.go(whole_way()).await;
    let told = client.ask(&fate()).await;
    assert!(matches!(told, Reply::Fate { .. }), "{told:?}");
    let calls = server.host.calls();
    let [.., commit, finished, asked] = &calls[..] else {
        panic!("{calls:?}");
    };
    assert_eq!([commit, finished], ["commit", "finish_outage"]);
    assert!(asked.starts_with("fate"), "{asked}");
}

#[tokio::test]
async fn a_connection_is_good_for_a_second_migration() {
    let server = Server::new();
    let mut client = server.connect_paired();
    client.go(whole_way()).await;
    client.go(whole_way().split_off(1)).await;
    client.vanish().await;
    assert_eq!(server.host.count("commit"), 2);
    assert_eq!(server.roll_backs(), 0);
}

#[tokio::test]
async fn the_outcome_is_told() {
    let server = Server::new();
    let mut client = server.connect_in(State::Idle).await;
    assert!(matches!(
        client.ask(&fate()).await,
        Reply::Fate {
            fate: Fate::Committed
        }
    ));
}

/// However long: time passes by itself here while nothing else happens.
#[tokio::test(start_paused = true)]
async fn a_peer_is_not_waited_for_for_ever() {
    let server = Server::new();
    for state in STATES {
        let client = server.connect_in(state).await;
        let ended = tokio::time::timeout(LIMIT * 60, client.session).await;
        // As long as a stream comes there is nothing to be said.
        let receiving = matches!(
            state,
            State::ReceivingPreparation | State::ReceivingFiles | State::ReceivingCheckpoint
        );
        assert_eq!(ended.is_err(), receiving, "{state:?}");
    }
    let migrating = STATES.iter().filter(|state| state.migrating()).count();
    assert!(server.roll_backs() >= migrating - 3);
}

// --- Versions and pairing -----------------------------------------------------------------------

#[tokio::test]
async fn the_highest_common_version_is_spoken() {
    let mut client = Server::new().connect_paired();
    match client.ask(&hello_with(1, CURRENT + 7)).await {
        Reply::Welcome {
            version, paired, ..
        } => assert_eq!((version, paired), (CURRENT, true)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn without_a_common_version_nothing_is_spoken() {
    for (oldest, newest) in [(CURRENT + 1, CURRENT + 2), (0, 0), (CURRENT + 1, CURRENT)] {
        let mut client = Server::new().connect_paired();
        let refused = client.ask_refused(&hello_with(oldest, newest)).await;
        assert_eq!(refused.code, RefusalCode::Version);
        assert!(refused.message.contains("install the same version"));
        client.expect_end().await;
    }
}

#[tokio::test]
async fn the_right_invitation_pairs_once() {
    let server = Server::new();
    let secret = server.invite();
    let mut client = server.connect_unpaired();
    assert!(matches!(
        client.ask(&hello()).await,
        Reply::Welcome { paired: false, .. }
    ));
    assert!(matches!(client.ask(&pair(&secret)).await, Reply::Paired));
    client.expect_end().await;
    let peer = server.peers.find(key()).unwrap().expect("a peer");
    assert_eq!(peer.name, "source");

    let mut second = server.connect_in(State::Unpaired).await;
    let refused = second.ask_refused(&pair(&secret)).await;
    assert_eq!(refused.code, RefusalCode::NotPaired);
    assert!(refused.message.contains("has been used"));
    second.expect_end().await;
}

#[tokio::test]
async fn a_wrong_invitation_does_not_pair() {
    let server = Server::new();
    let good = server.invite();
    let of_another_host = Server::new().invite();
    let mut client = server.connect_in(State::Unpaired).await;
    let refused = client.ask_refused(&pair(&of_another_host)).await;
    assert_eq!(refused.code, RefusalCode::NotPaired);
    client.expect_end().await;
    assert!(server.peers.list().unwrap().is_empty());

    let mut client = server.connect_in(State::Unpaired).await;
    assert!(matches!(client.ask(&pair(&good)).await, Reply::Paired));
}

#[tokio::test]
async fn an_impossible_name_uses_up_no_invitation() {
    let server = Server::new();
    let secret = server.invite();
    let mut client = server.connect_in(State::Unpaired).await;
    let nameless = Request::Pair {
        secret: secret.clone(),
        name: "a\u{1b}[2J".into(),
    };
    let refused = client.ask_refused(&nameless).await;
    assert_eq!(refused.code, RefusalCode::NotPaired);
    client.expect_end().await;

    let mut client = server.connect_in(State::Unpaired).await;
    assert!(matches!(client.ask(&pair(&secret)).await, Reply::Paired));
}

// --- Requests out of order ----------------------------------------------------------------------

#[tokio::test]
async fn every_request_in_every_state_is_met_or_refused_as_the_state_says() {
    let count = every_request(&Server::new().invite()).len();
    for state in STATES {
        for index in 0..count {
            let server = Server::new();
            let request = every_request(&server.invite()).swap_remove(index);
            let case = format!("{} in {state:?}", request.name());
            let mut client = server.connect_in(state).await;
            let before = server.host.calls();
            let reply = client.ask(&request).await;
            match state.after(&request) {
                Ok(_) => {
                    assert!(!matches!(reply, Reply::Refused(_)), "{case}: {reply:?}");
                    client.vanish().await;
                }
                Err(illegal) => {
                    let refused = refused(reply);
                    assert_eq!(refused.code, RefusalCode::Protocol, "{case}");
                    assert_eq!(refused.message, illegal.to_string());
                    client.expect_end().await;
                    let mut expected = before;
                    if state.migrating() {
                        expected.push(format!("roll_back {illegal}"));
                    }
                    assert_eq!(server.host.calls(), expected, "{case}");
                }
            }
            let open = server.host.count("begin") - server.host.count("commit");
            assert_eq!(server.roll_backs(), open, "{case}");
        }
    }
}

#[tokio::test]
async fn a_request_before_the_last_answer_ends_the_session() {
    let server = Server::new();
    let mut client = server.connect_in(State::Connected).await;
    client
        .set_to_work(&server.host, &Request::Stage, Plan::Wait)
        .await;
    let before = server.host.calls().len();
    let refused = client.ask_refused(&fate()).await;
    assert_eq!(refused.code, RefusalCode::Protocol);
    assert_eq!(refused.message, "`fate` came before the last answer");
    client.expect_end().await;
    assert_eq!(
        server.host.calls()[before..],
        [
            "cancelled stage",
            "roll_back `fate` came before the last answer"
        ]
    );
}

// --- Failing steps ------------------------------------------------------------------------------

#[tokio::test]
async fn a_failing_step_is_told_at_once_and_undone_when_asked_for() {
    for index in 1..whole_way().len() {
        let server = Server::new();
        let mut way = whole_way();
        way.truncate(index + 1);
        let step = way.pop().unwrap();
        let mut client = server.connect_paired();
        client.go(way).await;
        let open = server.host.count("begin");

        server.host.plan(step.name(), Plan::Fail);
        assert_eq!(client.ask_refused(&step).await, failure(step.name()));
        // The source thaws the container before it asks for the undo, which takes long. Whoever asks for
        // the fate of a commit asks on another connection.
        if open > 0 && step.name() != "commit" {
            assert_eq!(server.roll_backs(), 0, "{}", step.name());
            assert!(leftovers(client.ask(&abort()).await).is_empty());
        }
        assert_eq!(server.roll_backs(), open, "{}", step.name());

        client.go(whole_way().split_off(1)).await;
        client.vanish().await;
        assert_eq!(server.roll_backs(), open, "{}", step.name());
    }
}

#[tokio::test]
async fn a_failing_question_changes_nothing() {
    for question in [check(), fate()] {
        let server = Server::new();
        let mut client = server.connect_in(State::Idle).await;
        server.host.plan(question.name(), Plan::Fail);
        let refused = client.ask_refused(&question).await;
        assert_eq!(refused, failure(question.name()));
        client.go(vec![question, begin()]).await;
        assert_eq!(server.roll_backs(), 0);
    }
}

#[tokio::test]
async fn after_a_failing_step_only_its_undoing_is_legal() {
    let server = Server::new();
    let mut client = server.connect_in(State::Loaded).await;
    server.host.plan("restore", Plan::Fail);
    client.ask_refused(&Request::Restore).await;
    let illegal = client.ask_refused(&Request::Restore).await;
    assert_eq!(illegal.code, RefusalCode::Protocol);
    client.expect_end().await;
    assert_eq!(server.roll_backs(), 1);

    // Also if nobody asks for the undo.
    let mut client = server.connect_in(State::Loaded).await;
    server.host.plan("restore", Plan::Fail);
    client.ask_refused(&Request::Restore).await;
    client.vanish().await;
    assert_eq!(server.roll_backs(), 2);
}

#[tokio::test]
async fn what_could_not_be_undone_is_told() {
    let suffix = "; could not be undone on the destination: tunnel; flows";
    let server = Server::new();
    server.host.leave_over(&["tunnel", "flows"]);

    let mut client = server.connect_in(State::Staged).await;
    server.host.plan("receive", Plan::Fail);
    let failed = client
        .ask_refused(&receive(3, StreamKind::Checkpoint))
        .await;
    assert_eq!(failed.message, "receive went wrong");
    assert_eq!(leftovers(client.ask(&abort()).await), ["tunnel", "flows"]);
    client.vanish().await;

    let mut client = server.connect_in(State::Staged).await;
    let illegal = client.ask_refused(&Request::Commit).await;
    assert!(illegal.message.ends_with(suffix), "{illegal}");
    client.expect_end().await;

    let mut client = server.connect_in(State::Connected).await;
    client
        .set_to_work(&server.host, &Request::Stage, Plan::Wait)
        .await;
    let early = client.ask_refused(&Request::Commit).await;
    assert!(early.message.ends_with(suffix), "{early}");
    client.expect_end().await;
}

// --- Abort --------------------------------------------------------------------------------------

#[tokio::test]
async fn abort_undoes_a_migration_in_every_state() {
    for state in STATES.into_iter().filter(|state| state.migrating()) {
        let server = Server::new();
        server.host.leave_over(&["tunnel"]);
        let mut client = server.connect_in(state).await;
        assert_eq!(leftovers(client.ask(&abort()).await), ["tunnel"]);
        let calls = server.host.calls();
        assert_eq!(calls.last().unwrap(), "roll_back changed my mind");

        client.go(whole_way().split_off(1)).await;
        client.vanish().await;
        assert_eq!(server.roll_backs(), 1, "{state:?}");
    }
}

#[tokio::test]
async fn abort_cancels_the_step_at_work_and_waits_for_it() {
    for (way, step) in interruptible_steps() {
        let server = Server::new();
        let mut client = server.connect_paired();
        client.go(way).await;
        client.set_to_work(&server.host, &step, Plan::Wait).await;
        let before = server.host.calls().len();
        assert!(leftovers(client.ask(&abort()).await).is_empty());

        let mut expected = vec![format!("cancelled {}", step.name())];
        // What has not begun is not undone.
        if step.name() != "begin" {
            expected.push("roll_back changed my mind".into());
        }
        assert_eq!(server.host.calls()[before..], expected);

        client.go(whole_way().split_off(1)).await;
        client.vanish().await;
        assert_eq!(server.roll_backs(), expected.len() - 1);
    }
}

#[tokio::test]
async fn a_step_that_succeeds_after_the_abort_is_undone_as_well() {
    for (way, step) in interruptible_steps() {
        let server = Server::new();
        let mut client = server.connect_paired();
        client.go(way).await;
        client.set_to_work(&server.host, &step, Plan::TooLate).await;
        assert!(leftovers(client.ask(&abort()).await).is_empty());
        client.vanish().await;
        assert_eq!(server.roll_backs(), 1, "{}", step.name());
    }
}

#[tokio::test]
async fn abort_comes_too_late_for_a_commit_at_work() {
    let server = Server::new();
    let mut client = server.connect_in(State::Restored).await;
    client
        .set_to_work(&server.host, &Request::Commit, Plan::Wait)
        .await;
    client.send(&abort()).await;
    server.host.release();
    assert!(matches!(client.receive().await, Some(Reply::Committed)));
    let refused = refused(client.receive().await.expect("a reply"));
    assert_eq!(refused.code, RefusalCode::Protocol);
    client.expect_end().await;
    assert_eq!(server.roll_backs(), 0);
    assert_eq!(server.host.count("cancelled"), 0);
}

// --- A lost connection --------------------------------------------------------------------------

#[tokio::test]
async fn a_connection_lost_between_steps_undoes_the_migration() {
    for state in STATES {
        let server = Server::new();
        server.connect_in(state).await.vanish().await;
        assert_eq!(
            server.roll_backs(),
            usize::from(state.migrating()),
            "{state:?}"
        );
    }
}

#[tokio::test]
async fn a_connection_lost_during_a_step_cancels_it_and_undoes_the_migration() {
    for plan in [Plan::Wait, Plan::TooLate] {
        for (way, step) in interruptible_steps() {
            let server = Server::new();
            let mut client = server.connect_paired();
            client.go(way).await;
            client.set_to_work(&server.host, &step, plan).await;
            let before = server.host.calls().len();
            client.vanish().await;

            let mut expected = Vec::new();
            if matches!(plan, Plan::Wait) {
                expected.push(format!("cancelled {}", step.name()));
            }
            if step.name() != "begin" || matches!(plan, Plan::TooLate) {
                expected.push("roll_back the peer closed the connection".into());
            }
            assert_eq!(server.host.calls()[before..], expected);
        }
    }
}

#[tokio::test]
async fn a_connection_lost_during_the_commit_undoes_nothing() {
    let server = Server::new();
    let mut client = server.connect_in(State::Restored).await;
    client
        .set_to_work(&server.host, &Request::Commit, Plan::Wait)
        .await;
    drop(client.stream);
    // Gives a session that listens the time to hear it.
    tokio::time::sleep(Duration::from_millis(20)).await;
    server.host.release();
    within(client.session).await.unwrap();
    let calls = server.host.calls();
    assert_eq!(calls[calls.len() - 2..], ["commit", "finish_outage"]);
    assert_eq!(server.roll_backs(), 0);
}

#[tokio::test]
async fn a_commit_counts_though_its_sender_is_gone() {
    let server = Server::new();
    let mut client = server.connect_in(State::Restored).await;
    client.send(&Request::Commit).await;
    client.vanish().await;
    assert_eq!(server.host.count("commit"), 1);
    assert_eq!(server.roll_backs(), 0);
}

// --- Frames that are none -----------------------------------------------------------------------

/// Bytes that no client sends, and whether the connection must be closed for them to be noticed.
fn bad_frames() -> Vec<(&'static str, Vec<u8>, bool)> {
    let too_long = u32::try_from(MAX_FRAME_BYTES + 1).unwrap();
    let commit = frame(br#"{"request":"commit"}"#);
    let mut lists_all = serde_json::to_value(check()).unwrap();
    lists_all["container"]["image_id"] = "--all".into();
    let lists_all = serde_json::to_vec(&lists_all).unwrap();
    let mut unit = serde_json::to_value(begin()).unwrap();
    unit["container"]["id"] = "ssh.service".into();
    let unit = serde_json::to_vec(&unit).unwrap();
    let unsafe_id = br#"{"request":"fate","migration":"../../../../x"}"#;
    vec![
        ("no JSON", frame(b"\xff\x00{"), false),
        ("an empty frame", frame(b""), false),
        ("no request", frame(br#"{"request":"format"}"#), false),
        ("a path for an id", frame(unsafe_id), false),
        ("an option for an image", frame(&lists_all), false),
        ("a unit for a container", frame(&unit), false),
        ("a reply", frame(br#"{"reply":"committed"}"#), false),
        ("too long", too_long.to_be_bytes().to_vec(), false),
        ("longest", u32::MAX.to_be_bytes().to_vec(), false),
        ("cut in its length", vec![0, 0], true),
        ("cut short", vec![0, 0, 0, 9, b'"'], true),
        (
            "a commit cut short",
            commit[..commit.len() - 1].to_vec(),
            true,
        ),
    ]
}

async fn send_bad(mut client: Client, bytes: &[u8], close: bool) {
    client.stream.write_all(bytes).await.unwrap();
    if close {
        client.vanish().await;
    } else {
        client.expect_end().await;
    }
}

#[tokio::test]
async fn a_bad_frame_ends_the_session_and_undoes_the_migration() {
    for state in STATES {
        for (what, bytes, close) in bad_frames() {
            let server = Server::new();
            let client = server.connect_in(state).await;
            send_bad(client, &bytes, close).await;
            assert_eq!(
                server.roll_backs(),
                usize::from(state.migrating()),
                "{what} in {state:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_bad_frame_during_a_step_cancels_it() {
    for (what, bytes, close) in bad_frames() {
        let server = Server::new();
        let mut client = server.connect_in(State::Connected).await;
        client
            .set_to_work(&server.host, &Request::Stage, Plan::Wait)
            .await;
        send_bad(client, &bytes, close).await;
        assert_eq!(server.host.count("cancelled"), 1, "{what}");
        assert_eq!(server.roll_backs(), 1, "{what}");
    }
}

#[tokio::test]
async fn a_stranger_may_send_shorter_frames_than_a_peer() {
    let server = Server::new();
    for (limit, mut fits, mut exceeds) in [
        (
            MAX_FRAME_BYTES,
            server.connect_paired(),
            server.connect_paired(),
        ),
        (
            MAX_UNPAIRED_FRAME_BYTES,
            server.connect_unpaired(),
            server.connect_unpaired(),
        ),
    ] {
        let mut padded = serde_json::to_vec(&hello()).unwrap();
        padded.resize(limit, b' ');
        fits.stream.write_all(&frame(&padded)).await.unwrap();
        assert!(matches!(fits.receive().await, Some(Reply::Welcome { .. })));

        // The length alone is enough: the server does not wait for that many bytes.
        let length = u32::try_from(limit + 1).unwrap();
        exceeds.stream.write_u32(length).await.unwrap();
        exceeds.expect_end().await;
    }
}
