use std::pin::pin;
use std::task::{Context, Poll, Waker};

use common::fuzzing::{self, round_trip};
use common::host::HostFacts;
use common::preflight::{DestinationFacts, destination, source};
use common::protocol::frame::{Frames, MAX_FRAME_BYTES, MAX_UNPAIRED_FRAME_BYTES};
use common::protocol::version::Versions;
use common::protocol::{Reply, Request, State};
use common::ticket::Ticket;
use trust::{Fingerprint, Secret, Token};

/// Runs what never has to wait.
fn now<T>(work: impl Future<Output = T>) -> T {
    match pin!(work).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => panic!("waits for something"),
    }
}

pub(super) fn frames(input: &[u8]) {
    for limit in [MAX_UNPAIRED_FRAME_BYTES, MAX_FRAME_BYTES] {
        let stream = tokio::io::join(input, tokio::io::sink());
        let mut frames: Frames<_, Request, Reply> = Frames::new(stream, limit);
        let mut state = State::Greeting;
        while let Ok(request) = now(frames.receive()) {
            state = state.after(&request).unwrap_or(State::Idle);
        }
    }
}

pub(super) fn requests(input: &[u8]) {
    let Some(request) = round_trip::<Request>(input) else {
        return;
    };
    for state in [State::Greeting, State::Idle, State::Begun, State::Staged] {
        let _ = state.after(&request);
    }
    match &request {
        Request::Hello { versions, .. } => {
            if let Some(version) = Versions::OURS.negotiate(*versions) {
                assert_eq!(versions.negotiate(Versions::OURS), Some(version));
            }
        }
        Request::Check {
            container,
            source: host,
            ..
        }
        | Request::Begin {
            container,
            source: host,
            ..
        } => {
            source(container, host);
            let here = HostFacts::default();
            destination(container, host, &here, &DestinationFacts::default());
            destination(container, host, host, &DestinationFacts::default());
            common::net::flows::port_forward::Forward::of(container);
        }
        _ => {}
    }
}

pub(super) fn replies(input: &[u8]) {
    round_trip::<Reply>(input);
}

pub(super) fn preambles(input: &[u8]) {
    let Some((number, rest)) = input.split_first_chunk() else {
        return;
    };
    let Some((secret, presented)) = rest.split_first_chunk::<32>() else {
        return;
    };
    let ticket: Ticket = serde_json::from_value(encoded(secret)).expect("32 bytes are a ticket");
    let stream = u32::from_be_bytes(*number);
    let right = [&secret[..], &number[..]].concat();
    assert_eq!(
        fuzzing::preamble(presented, &ticket, stream),
        presented.starts_with(&right)
    );
}

/// A ticket as it travels.
fn encoded(secret: &[u8; 32]) -> serde_json::Value {
    use base64::{Engine, engine::general_purpose::STANDARD_NO_PAD};
    STANDARD_NO_PAD.encode(secret).into()
}

pub(super) fn tokens(input: &[u8]) {
    if let Ok(text) = std::str::from_utf8(input) {
        if let Ok(token) = text.parse::<Token>() {
            let again: Token = token
                .reveal()
                .parse()
                .expect("a token reads as it is shown");
            assert_eq!(again.reveal(), token.reveal());
            let _ = token.seems_expired();
        }
        if let Ok(fingerprint) = text.parse::<Fingerprint>() {
            assert_eq!(fingerprint.to_string().parse(), Ok(fingerprint));
        }
    }
    round_trip::<Secret>(input);
    round_trip::<Fingerprint>(input);
}
