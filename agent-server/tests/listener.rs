//! Who gets through to a server on whose port others press, and how sessions end. On loopback.

#[allow(dead_code, reason = "another test plans its steps")]
mod double;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use agent_server::listener::take_calls;
use agent_server::metrics::Metrics;
use common::protocol::frame::{Frames, MAX_FRAME_BYTES};
use common::protocol::version::Versions;
use common::protocol::{Fate, MigrationId, Reply, Request};
use double::Host;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use trust::{Acceptor, Admission, Identity, Invites, Peer, Peers, Standing, TlsStream};

/// How long a peer may wait for its answer.
const LIMIT: Duration = Duration::from_secs(5);

/// How long an ended server may take.
const STOP_LIMIT: Duration = Duration::from_secs(2);

type Connection = Frames<TlsStream<TcpStream>, Reply, Request>;

struct Server {
    address: SocketAddr,
    identity: Identity,
    client: Identity,
    peers: Peers,
    stop: CancellationToken,
    calls: JoinHandle<()>,
    host: Host,
    _dirs: [TempDir; 2],
}

impl Server {
    async fn start() -> Self {
        let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let identity = Identity::load_or_create(dirs[0].path(), "server").unwrap();
        let client = Identity::load_or_create(dirs[1].path(), "client").unwrap();
        let peers = Peers::open(dirs[0].path()).unwrap();
        peers
            .add(Peer::new("client", client.fingerprint(), None).unwrap())
            .unwrap();
        let admission = Admission::new(peers.clone(), Invites::open(dirs[0].path()).unwrap());
        let acceptor = Acceptor::new(&identity, admission.clone());
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener: TcpListener = socket.listen(1024).unwrap();
        let (stop, host) = (CancellationToken::new(), Host::default());
        Server {
            address: listener.local_addr().unwrap(),
            identity,
            client,
            peers,
            calls: tokio::spawn(take_calls(
                listener,
                acceptor,
                admission,
                Arc::new(host.clone()),
                Metrics::default(),
                stop.clone(),
            )),
            stop,
            host,
            _dirs: dirs,
        }
    }

    /// A greeted connection of the peer.
    async fn connect(&self) -> Connection {
        let (host, server) = (self.address.to_string(), self.identity.fingerprint());
        let stream = trust::connect(&self.client, &host, server, Standing::Paired);
        let mut frames = Frames::new(stream.await.expect("it gets through"), MAX_FRAME_BYTES);
        let hello = Request::Hello {
            versions: Versions::OURS,
            software: "test".into(),
            host: "client".into(),
        };
        frames.send(hello).await.unwrap();
        assert!(matches!(
            frames.receive().await,
            Ok(Reply::Welcome { paired: true, .. })
        ));
        frames
    }

    async fn ask_fate(&self) {
        let asked = async {
            let mut frames = self.connect().await;
            let migration = MigrationId::random();
            frames.send(Request::Fate { migration }).await.unwrap();
            let fate = Fate::Committed;
            assert!(
                matches!(frames.receive().await, Ok(Reply::Fate { fate: told }) if told == fate)
            );
        };
        tokio::time::timeout(LIMIT, asked)
            .await
            .expect("an answer in time");
    }

    /// As SIGTERM does.
    async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(STOP_LIMIT, self.calls)
            .await
            .expect("it ends at once")
            .unwrap();
    }
}

/// Raises the limit of descriptors, and says how many connections there can be.
fn most_connections() -> usize {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let limit = hard.min(12_000);
    setrlimit(Resource::RLIMIT_NOFILE, limit, hard).unwrap();
    10_000.min(limit as usize - 1000)
}

/// Connects from this address and says nothing.
async fn press(from: IpAddr, to: SocketAddr) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().ok()?;
    socket.bind(SocketAddr::new(from, 0)).ok()?;
    tokio::time::timeout(LIMIT, socket.connect(to))
        .await
        .ok()?
        .ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_that_say_nothing_keep_nobody_out() {
    let server = Server::start().await;
    let address = server.address;
    let mut silent = Vec::new();
    for number in 0..most_connections() {
        // Half of them from where the peer is, too.
        let from = match number % 2 {
            0 => IpAddr::from([127, 0, 0, 1]),
            _ => IpAddr::from([127, 0, 1 + (number / 500) as u8, (number % 250) as u8 + 1]),
        };
        silent.extend(press(from, address).await);
    }
    println!("{} connections say nothing", silent.len());
    // And more all the time.
    let (done, still) = (CancellationToken::new(), CancellationToken::new());
    let pressing = tokio::spawn({
        let done = done.clone();
        async move {
            let _still = still.drop_guard();
            for number in 0_u32.. {
                if done.is_cancelled() {
                    return;
                }
                let from = IpAddr::from([127, 1, (number % 200) as u8, 1]);
                drop(press(from, address).await);
            }
        }
    });
    for _ in 0..20 {
        server.ask_fate().await;
    }
    done.cancel();
    pressing.await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn idle_peers_do_not_hold_up_the_end() {
    let server = Server::start().await;
    let mut idle = Vec::new();
    for _ in 0..30 {
        idle.push(server.connect().await);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_removed_peer_loses_its_open_sessions() {
    let server = Server::start().await;
    let mut frames = server.connect().await;
    server.ask_fate().await;
    server.peers.remove("client").unwrap();
    let ended = tokio::time::timeout(LIMIT, frames.receive()).await;
    assert!(ended.expect("it ends").is_err());
    assert_eq!(server.host.count("fate"), 1);
    server.stop().await;
}
