//! Two hosts, or a host and somebody else, at the two ends of a connection.

use std::{
    fs,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{
    ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
    sign::{CertifiedKey, SingleCertAndKey},
    version::{TLS12, TLS13},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use trust::{
    AcceptError, Acceptor, Admission, ConnectError, Error, Fingerprint, Identity, Invites, Peer,
    PeerIdentity, Peers, Refusal, Standing, TlsStream, Token, connect, connect_over,
};

const HOUR: Duration = Duration::from_secs(3600);
const HOST: &str = "server.test:50051";

type Accepted<S> = Result<(TlsStream<S>, PeerIdentity), AcceptError>;
type Connected = Result<TlsStream<DuplexStream>, ConnectError>;

/// A host with its own directory; it can be a client and a server.
struct Host {
    dir: TempDir,
    identity: Identity,
    peers: Peers,
    invites: Invites,
    admission: Admission,
    acceptor: Acceptor,
}

impl Host {
    fn new(name: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let identity = Identity::load_or_create(dir.path(), name).unwrap();
        let peers = Peers::open(dir.path()).unwrap();
        let invites = Invites::open(dir.path()).unwrap();
        let admission = Admission::new(peers.clone(), invites.clone());
        let acceptor = Acceptor::new(&identity, admission.clone());
        Self {
            dir,
            identity,
            peers,
            invites,
            admission,
            acceptor,
        }
    }

    fn fingerprint(&self) -> Fingerprint {
        self.identity.fingerprint()
    }

    fn invite(&self, ttl: Duration) -> Token {
        let token = self.invites.create(ttl, self.fingerprint()).unwrap();
        token.reveal().parse().unwrap()
    }

    fn let_in(&self, client: &Host) {
        let peer = Peer::new(client.identity.name(), client.fingerprint(), None).unwrap();
        self.peers.add(peer).unwrap();
    }

    fn accept(&self, stream: DuplexStream) -> JoinHandle<Accepted<DuplexStream>> {
        let acceptor = self.acceptor.clone();
        tokio::spawn(async move { acceptor.accept(stream, caller()).await })
    }
}

fn caller() -> SocketAddr {
    "192.0.2.1:40000".parse().unwrap()
}

/// `client` calls `server`, believing its key to be `pinned`.
async fn call_pinned(
    client: &Host,
    server: &Host,
    pinned: Fingerprint,
    wanted: Standing,
) -> (Connected, Accepted<DuplexStream>) {
    let (near, far) = duplex(16 * 1024);
    let accepted = server.accept(far);
    let connected = connect_over(near, &client.identity, HOST, pinned, wanted).await;
    (connected, accepted.await.unwrap())
}

async fn call(
    client: &Host,
    server: &Host,
    wanted: Standing,
) -> (Connected, Accepted<DuplexStream>) {
    call_pinned(client, server, server.fingerprint(), wanted).await
}

/// What arrives at one end of what the other end says.
async fn said(mut from: TlsStream<DuplexStream>, mut to: TlsStream<DuplexStream>) -> Vec<u8> {
    from.write_all(b"hello").await.unwrap();
    from.shutdown().await.unwrap();
    let mut heard = Vec::new();
    to.read_to_end(&mut heard).await.unwrap();
    heard
}

#[tokio::test]
async fn an_invitation_pairs_two_hosts() {
    let (client, server) = (Host::new("client"), Host::new("server"));
    let token = server.invite(HOUR);
    assert_eq!(token.server, server.fingerprint());

    let (connected, accepted) = call(&client, &server, Standing::Unpaired).await;
    let (stream, peer) = accepted.unwrap();
    assert_eq!(said(connected.unwrap(), stream).await, b"hello");
    let PeerIdentity::Unpaired(fingerprint) = peer else {
        panic!("{peer:?}");
    };
    assert_eq!(fingerprint, client.fingerprint());
    let paired = server.admission.pair(fingerprint, "client", &token.secret);
    assert_eq!(server.peers.list().unwrap(), [paired.unwrap()]);

    let (connected, accepted) = call(&client, &server, Standing::Paired).await;
    let (stream, peer) = accepted.unwrap();
    assert!(matches!(peer, PeerIdentity::Paired(peer) if peer.name == "client"));
    assert_eq!(said(stream, connected.unwrap()).await, b"hello");
}

#[tokio::test]
async fn a_wrong_used_or_expired_invitation_pairs_nobody() {
    let (client, server) = (Host::new("client"), Host::new("server"));
    let elsewhere = Host::new("elsewhere").invite(HOUR);
    let expired = server.invite(Duration::ZERO);
    let open = server.invite(HOUR);
    let refusal =
        |token: &Token| match server
            .admission
            .pair(client.fingerprint(), "x", &token.secret)
        {
            Err(Error::Refused(refusal)) => refusal,
            other => panic!("{other:?}"),
        };
    assert_eq!(refusal(&elsewhere), Refusal::Unknown);
    assert_eq!(refusal(&expired), Refusal::Expired);
    server.invites.redeem(&open.secret).unwrap();
    assert_eq!(refusal(&open), Refusal::Used);
    assert_eq!(server.peers.list().unwrap(), []);

    // With no invitation open, a stranger does not even get past the handshake.
    let (connected, accepted) = call(&client, &server, Standing::Unpaired).await;
    let error = connected.unwrap_err();
    assert!(matches!(error, ConnectError::NotInvited { .. }), "{error}");
    let error = accepted.unwrap_err();
    assert!(matches!(error, AcceptError::UnknownClient { .. }));
}

#[tokio::test]
async fn an_impossible_name_does_not_use_up_the_invitation() {
    let (client, server) = (Host::new("client"), Host::new("server"));
    let token = server.invite(HOUR);
    let bad = server
        .admission
        .pair(client.fingerprint(), "\u{1b}[2J", &token.secret);
    assert!(matches!(bad, Err(Error::Name { .. })));
    server
        .admission
        .pair(client.fingerprint(), "good", &token.secret)
        .unwrap();
}

#[tokio::test]
async fn an_unknown_client_is_refused_and_both_sides_say_why() {
    let (client, server) = (Host::new("client"), Host::new("server"));
    let (connected, accepted) = call(&client, &server, Standing::Paired).await;
    let error = connected.unwrap_err();
    assert!(matches!(error, ConnectError::NotPaired { .. }), "{error}");
    let message = error.to_string();
    assert!(message.contains(HOST) && message.contains("agent-server invite"));

    let message = accepted.unwrap_err().to_string();
    assert!(message.contains(&client.fingerprint().to_string()));
    assert!(message.contains(&caller().to_string()));
}

#[tokio::test]
async fn an_invitation_for_another_is_no_way_in() {
    let (client, server) = (Host::new("client"), Host::new("server"));
    server.invite(HOUR);
    let (connected, accepted) = call(&client, &server, Standing::Paired).await;
    let error = connected.unwrap_err();
    assert!(matches!(error, ConnectError::NotPaired { .. }), "{error}");
    assert!(matches!(accepted.unwrap().1, PeerIdentity::Unpaired(_)));
}

#[tokio::test]
async fn a_removed_peer_is_refused_at_its_next_connection() {
    let (client, server) = (Host::new("client"), Host::new("server"));
    server.let_in(&client);
    let (connected, accepted) = call(&client, &server, Standing::Paired).await;
    connected.unwrap();
    accepted.unwrap();

    server.peers.remove("client").unwrap();
    let (connected, accepted) = call(&client, &server, Standing::Paired).await;
    let error = connected.unwrap_err();
    assert!(matches!(error, ConnectError::NotPaired { .. }), "{error}");
    let error = accepted.unwrap_err();
    assert!(matches!(error, AcceptError::UnknownClient { .. }));
}

#[tokio::test]
async fn a_changed_server_key_is_refused_with_both_keys_named() {
    let (client, before, after) = (Host::new("client"), Host::new("old"), Host::new("new"));
    after.let_in(&client);
    let pinned = before.fingerprint();
    let (connected, accepted) = call_pinned(&client, &after, pinned, Standing::Paired).await;
    let error = connected.unwrap_err();
    assert!(
        matches!(error, ConnectError::KeyChanged { expected, actual, .. }
            if expected == pinned && actual == after.fingerprint()),
        "{error}"
    );
    let message = error.to_string();
    assert!(message.contains(&pinned.to_string()) && message.contains("pair again"));
    let error = accepted.unwrap_err();
    assert!(matches!(error, AcceptError::KeyRejected { .. }), "{error}");
}

#[tokio::test]
async fn a_damaged_list_of_peers_lets_nobody_in() {
    let (client, server) = (Host::new("client"), Host::new("server"));
    server.let_in(&client);
    let path = server.dir.path().join("peers.json");
    fs::write(&path, "]").unwrap();
    let (connected, accepted) = call(&client, &server, Standing::Paired).await;
    let error = connected.unwrap_err();
    assert!(matches!(error, ConnectError::BrokenOff { .. }), "{error}");
    let error = accepted.unwrap_err();
    assert!(matches!(error, AcceptError::Unsure { .. }), "{error}");
    assert!(error.to_string().contains("peers.json"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "]");
}

/// Whoever is refused over TCP must be able to read the reason, and not find the connection reset.
#[tokio::test]
async fn a_refusal_is_not_lost_on_the_way() {
    let (client, server) = (Host::new("client"), Host::new("server"));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let began = Instant::now();
    for _ in 0..50 {
        let wanted = Standing::Paired;
        let (connected, accepted) = tokio::join!(
            connect(&client.identity, &host, server.fingerprint(), wanted),
            async {
                let (stream, from) = listener.accept().await.unwrap();
                server.acceptor.accept(stream, from).await
            }
        );
        let error = connected.unwrap_err();
        assert!(matches!(error, ConnectError::NotPaired { .. }), "{error}");
        let error = accepted.map(|(_, peer)| peer).unwrap_err();
        assert!(matches!(error, AcceptError::UnknownClient { .. }));
    }
    assert!(began.elapsed() < Duration::from_secs(20), "nobody lingers");
}

/// A certificate is public; only the key behind it counts.
mod impostors {
    use super::*;

    /// The certificate of `victim`, which anyone has who has talked to it, with another key.
    fn forged(certificate: CertificateDer<'static>) -> Arc<SingleCertAndKey> {
        let key = rcgen::KeyPair::generate().unwrap().serialize_der();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key));
        let key = provider().key_provider.load_private_key(key).unwrap();
        let certified = CertifiedKey::new(vec![certificate], key);
        Arc::new(SingleCertAndKey::from(certified))
    }

    fn certificate_of(stream: &TlsStream<DuplexStream>) -> CertificateDer<'static> {
        stream.get_ref().1.peer_certificates().unwrap()[0].clone()
    }

    #[tokio::test]
    async fn a_client_with_a_copied_certificate_is_refused() {
        let (client, server) = (Host::new("client"), Host::new("server"));
        server.let_in(&client);
        let (_connected, accepted) = call(&client, &server, Standing::Paired).await;
        let certificate = certificate_of(&accepted.unwrap().0);

        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Credulous))
            .with_client_cert_resolver(forged(certificate));
        let (connected, accepted) = call_as(config, &server).await;
        assert!(connected.is_err());
        let error = accepted.unwrap_err();
        assert!(
            format!("{error:?}").contains("InvalidCertificate(BadSignature"),
            "{error:?}"
        );
    }

    #[tokio::test]
    async fn a_server_with_a_copied_certificate_is_refused() {
        let (client, server) = (Host::new("client"), Host::new("server"));
        server.let_in(&client);
        let (connected, _accepted) = call(&client, &server, Standing::Paired).await;
        let certificate = certificate_of(&connected.unwrap());

        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(forged(certificate));
        let error = call_to(config, &client, server.fingerprint()).await;
        assert!(
            format!("{error:?}").contains("InvalidCertificate(BadSignature"),
            "{error:?}"
        );
    }
}

/// Peers that speak another version of TLS.
mod other_tls {
    use super::*;

    #[tokio::test]
    async fn a_client_of_tls_1_2_is_refused() {
        let server = Host::new("server");
        server.invite(HOUR);
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS12])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Credulous))
            .with_no_client_auth();
        let (connected, accepted) = call_as(config, &server).await;
        assert!(connected.is_err());
        let error = accepted.unwrap_err();
        assert!(matches!(error, AcceptError::Incompatible { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_server_of_tls_1_2_is_refused() {
        let client = Host::new("client");
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap();
        let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der());
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS12])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key.into())
            .unwrap();
        let error = call_to(config, &client, client.fingerprint()).await;
        assert!(
            matches!(error, ConnectError::Incompatible { .. }),
            "{error:?}"
        );
    }

    #[tokio::test]
    async fn a_client_without_a_certificate_is_refused() {
        let server = Host::new("server");
        server.invite(HOUR);
        let config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Credulous))
            .with_no_client_auth();
        let (connected, accepted) = call_as(config, &server).await;
        assert!(connected.is_err());
        let error = accepted.unwrap_err();
        assert!(
            matches!(error, AcceptError::NoCertificate { .. }),
            "{error}"
        );
    }
}

/// Peers that do not speak TLS, or do not speak at all.
mod strangers {
    use super::*;

    /// What `connect` makes of a listener that says `words` and hangs up.
    async fn connect_to_one_that_says(words: &'static [u8]) -> ConnectError {
        let client = Host::new("client");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut hello = [0; 5];
                stream.read_exact(&mut hello).await.unwrap();
                stream.write_all(words).await.unwrap();
            }
        });
        let pinned = client.fingerprint();
        connect(&client.identity, &host, pinned, Standing::Paired)
            .await
            .unwrap_err()
    }

    /// What `accept` makes of a caller that says `words` and waits for the answer.
    async fn accept_one_that_says(words: &[u8]) -> AcceptError {
        let server = Host::new("server");
        let (mut near, far) = duplex(16 * 1024);
        let accepted = server.accept(far);
        near.write_all(words).await.unwrap();
        near.shutdown().await.unwrap();
        let mut answer = Vec::new();
        near.read_to_end(&mut answer).await.unwrap();
        accepted.await.unwrap().map(|(_, peer)| peer).unwrap_err()
    }

    #[tokio::test]
    async fn a_server_of_another_protocol_is_recognised() {
        let ssh = b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n";
        let http = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n";
        for words in [&ssh[..], &http[..]] {
            let error = connect_to_one_that_says(words).await;
            assert!(matches!(error, ConnectError::NotTls { .. }), "{error:?}");
        }
        let error = connect_to_one_that_says(b"").await;
        assert!(matches!(error, ConnectError::Closed { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn a_handshake_that_is_cut_off_is_tried_again() {
        let (client, server) = (Host::new("client"), Host::new("server"));
        server.let_in(&client);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let acceptor = server.acceptor.clone();
        tokio::spawn(async move {
            for _ in 0..3 {
                drop(listener.accept().await.unwrap());
            }
            let (stream, from) = listener.accept().await.unwrap();
            acceptor.accept(stream, from).await.map(|_| ()).unwrap();
        });
        let key = server.fingerprint();
        let connected = connect(&client.identity, &host, key, Standing::Paired).await;
        connected.unwrap();
    }

    #[tokio::test]
    async fn a_client_of_another_protocol_is_recognised() {
        let error = accept_one_that_says(b"GET / HTTP/1.1\r\nHost: server\r\n\r\n").await;
        assert!(matches!(error, AcceptError::NotTls { .. }), "{error:?}");
        let error = accept_one_that_says(b"").await;
        assert!(matches!(error, AcceptError::Closed { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn a_port_where_nothing_listens() {
        let client = Host::new("client");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        drop(listener);
        let pinned = client.fingerprint();
        let error = connect(&client.identity, &host, pinned, Standing::Paired)
            .await
            .unwrap_err();
        assert!(matches!(error, ConnectError::Refused { .. }), "{error:?}");
        assert!(error.to_string().contains(&host));
    }

    #[tokio::test]
    async fn an_address_without_a_port() {
        let client = Host::new("client");
        let pinned = client.fingerprint();
        let error = connect(&client.identity, "127.0.0.1", pinned, Standing::Paired)
            .await
            .unwrap_err();
        assert!(matches!(error, ConnectError::Unresolved { .. }));
        assert!(error.to_string().contains("HOST:PORT"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_server_is_given_up() {
        let client = Host::new("client");
        let (near, _far) = duplex(16 * 1024);
        let pinned = client.fingerprint();
        let error = connect_over(near, &client.identity, HOST, pinned, Standing::Paired)
            .await
            .unwrap_err();
        assert!(matches!(error, ConnectError::Silent { .. }), "{error:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_given_up() {
        let server = Host::new("server");
        let (_near, far) = duplex(16 * 1024);
        let error = server.accept(far).await.unwrap().unwrap_err();
        assert!(matches!(error, AcceptError::TimedOut { .. }), "{error:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_client_that_does_not_hang_up_is_not_waited_for() {
        let server = Host::new("server");
        let (mut near, far) = duplex(16 * 1024);
        near.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let error = server.accept(far).await.unwrap().unwrap_err();
        assert!(matches!(error, AcceptError::NotTls { .. }), "{error:?}");
    }

    /// A reset would discard the reason that is still under way.
    #[tokio::test]
    async fn a_refused_caller_with_more_to_say_is_not_reset() {
        let server = Host::new("server");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut caller = TcpStream::connect(address).await.unwrap();
        caller.write_all(&[b'x'; 256 * 1024]).await.unwrap();
        let accept = async {
            let (stream, from) = listener.accept().await.unwrap();
            server.acceptor.accept(stream, from).await.unwrap_err()
        };
        let read = async move {
            let mut answer = Vec::new();
            caller.read_to_end(&mut answer).await.map(|_| answer)
        };
        let (error, answer) = tokio::join!(accept, read);
        assert!(matches!(error, AcceptError::NotTls { .. }), "{error:?}");
        assert!(!answer.unwrap().is_empty(), "an alert");
    }

    #[tokio::test]
    async fn a_caller_that_resets_the_connection() {
        let server = Host::new("server");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let caller = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        caller.set_zero_linger().unwrap();
        drop(caller);
        let (stream, from) = listener.accept().await.unwrap();
        let error = server.acceptor.accept(stream, from).await.unwrap_err();
        assert!(matches!(error, AcceptError::Closed { .. }), "{error:?}");
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// A client with this TLS configuration calls `server` and waits for its first byte.
async fn call_as(
    config: ClientConfig,
    server: &Host,
) -> (std::io::Result<u8>, Accepted<DuplexStream>) {
    let (near, far) = duplex(16 * 1024);
    let accepted = server.accept(far);
    let name = ServerName::try_from("any.test").unwrap();
    let connected = async {
        let mut stream = TlsConnector::from(Arc::new(config))
            .connect(name, near)
            .await?;
        stream.read_u8().await
    };
    (connected.await, accepted.await.unwrap())
}

/// What `client` makes of a server with this TLS configuration.
async fn call_to(config: ServerConfig, client: &Host, pinned: Fingerprint) -> ConnectError {
    let (near, far) = duplex(16 * 1024);
    let server = tokio::spawn(
        TlsAcceptor::from(Arc::new(config))
            .accept(far)
            .into_fallible(),
    );
    let error = connect_over(near, &client.identity, HOST, pinned, Standing::Paired)
        .await
        .unwrap_err();
    assert!(server.await.unwrap().is_err());
    error
}

/// Accepts every certificate.
#[derive(Debug)]
struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
