//! Requests, reduced to what matters here, and the real requests they represent.

use std::sync::LazyLock;

use common::container::ContainerFacts;
use common::host::HostFacts;
use common::net::tunnel::agreement::{Offer, PublicKey};
use common::protocol::version::Versions;
use common::protocol::{MigrationId, Request, StreamDigest, StreamKind};

/// A request. Migrations are identified by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Message {
    /// `Hello`.
    Hello,
    /// `Begin`.
    Begin(usize),
    /// `OpenTunnel`.
    OpenTunnel,
    /// `ProveTunnel`.
    ProveTunnel,
    /// `Receive` of the skeleton.
    ReceiveSkeleton,
    /// `Receive` of the files.
    ReceiveFiles,
    /// `Receive` of memory.
    ReceiveMemory,
    /// `MemoryEnd`.
    MemoryEnd,
    /// `Receive` of the checkpoint.
    ReceiveCheckpoint,
    /// `StreamEnd`.
    StreamEnd,
    /// `Stage`.
    Stage,
    /// `Flows`.
    Flows,
    /// `Redirect`.
    Redirect,
    /// `Restore`.
    Restore,
    /// `Commit`.
    Commit,
    /// `Abort`.
    Abort,
    /// `Fate`.
    Fate(usize),
}

impl Message {
    /// The request on the wire, for [`common::protocol::State::after`] to judge.
    pub fn request(self) -> &'static Request {
        static HELLO: LazyLock<Request> = LazyLock::new(|| Request::Hello {
            versions: Versions::OURS,
            software: String::new(),
            host: String::new(),
        });
        static BEGIN: LazyLock<Request> = LazyLock::new(|| Request::Begin {
            migration: MigrationId::random(),
            container: Box::new(container()),
            source: Box::new(host()),
        });
        static OPEN_TUNNEL: LazyLock<Request> = LazyLock::new(|| Request::OpenTunnel {
            offer: Offer {
                public_key: PublicKey(String::new()),
                port: 51820,
                prefixes: vec![],
                ipv6: false,
                tunnels: vec![],
            },
        });
        static ABORT: LazyLock<Request> = LazyLock::new(|| Request::Abort {
            reason: String::new(),
        });
        static FATE: LazyLock<Request> = LazyLock::new(|| Request::Fate {
            migration: MigrationId::random(),
        });
        static FLOWS: Request = Request::Flows { flows: vec![] };
        match self {
            Message::Hello => &HELLO,
            Message::Begin(_) => &BEGIN,
            Message::OpenTunnel => &OPEN_TUNNEL,
            Message::ProveTunnel => &Request::ProveTunnel,
            Message::ReceiveSkeleton => &Request::Receive {
                stream: 1,
                kind: StreamKind::Skeleton,
            },
            Message::ReceiveFiles => &Request::Receive {
                stream: 4,
                kind: StreamKind::Files,
            },
            Message::ReceiveMemory => &Request::Receive {
                stream: 20,
                kind: StreamKind::Memory,
            },
            Message::MemoryEnd => &Request::MemoryEnd {
                digest: StreamDigest {
                    bytes: 0,
                    blake3: [0; 32],
                },
            },
            Message::ReceiveCheckpoint => &Request::Receive {
                stream: 2,
                kind: StreamKind::Checkpoint,
            },
            Message::StreamEnd => &Request::StreamEnd {
                digest: StreamDigest {
                    bytes: 0,
                    blake3: [0; 32],
                },
            },
            Message::Stage => &Request::Stage,
            Message::Flows => &FLOWS,
            Message::Redirect => &Request::Redirect,
            Message::Restore => &Request::Restore,
            Message::Commit => &Request::Commit,
            Message::Abort => &ABORT,
            Message::Fate(_) => &FATE,
        }
    }
}

fn container() -> ContainerFacts {
    ContainerFacts {
        id: "c0ffee".into(),
        name: "web".into(),
        state: "running".into(),
        image_id: "1".into(),
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

fn host() -> HostFacts {
    HostFacts {
        name: "source".into(),
        kernel: String::new(),
        architecture: String::new(),
        podman: None,
        criu: None,
        runtimes: Default::default(),
        cpu_flags: Default::default(),
        ..Default::default()
    }
}
