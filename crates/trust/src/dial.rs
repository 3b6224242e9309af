//! Connects to whichever of a name's addresses answers.

use std::{future::Future, io, net::SocketAddr, time::Duration};

use tokio::{task::JoinSet, time::sleep};

/// How long an address may delay the next one: "Connection Attempt Delay" of RFC 8305, as
/// recommended in its section 8.
const HEAD_START: Duration = Duration::from_millis(250);

/// Connects with `connect` to the first of `addresses` that answers. They are tried one after the
/// other, without waiting for those that do not answer. The other attempts are abandoned.
///
/// # Errors
/// If none is reached: the most telling error.
pub(crate) async fn first<T, F>(
    addresses: Vec<SocketAddr>,
    connect: impl Fn(SocketAddr) -> F,
) -> io::Result<T>
where
    T: Send + 'static,
    F: Future<Output = io::Result<T>> + Send + 'static,
{
    let mut waiting = in_turns(addresses).into_iter();
    let mut attempts = JoinSet::new();
    let mut worst = None;
    loop {
        let next = waiting.next();
        let last = next.is_none();
        if let Some(address) = next {
            attempts.spawn(connect(address));
        }
        tokio::select! {
            ended = attempts.join_next() => match ended {
                Some(Ok(Ok(connected))) => return Ok(connected),
                Some(Ok(Err(error))) => worst = Some(more_telling(worst, error)),
                Some(Err(panicked)) => worst = Some(io::Error::other(panicked)),
                None => return Err(worst.unwrap_or_else(nowhere)),
            },
            () = sleep(HEAD_START), if !last => {}
        }
    }
}

/// Alternates between the families, starting with that of the first address, which the resolver
/// prefers (section 4).
fn in_turns(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let preferred = addresses.first().map(SocketAddr::is_ipv6);
    let (mut one, mut other): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| Some(address.is_ipv6()) == preferred);
    one.reverse();
    other.reverse();
    let mut turns = Vec::new();
    while !one.is_empty() || !other.is_empty() {
        turns.extend(one.pop());
        turns.extend(other.pop());
    }
    turns
}

/// A host that refuses is known to be there; about the others nothing is known.
fn more_telling(before: Option<io::Error>, error: io::Error) -> io::Error {
    match before {
        Some(before) if before.kind() == io::ErrorKind::ConnectionRefused => before,
        _ => error,
    }
}

fn nowhere() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the name has no address")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use tokio::time::Instant;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// The result of an attempt, by the last digit of the port.
    async fn attempt(to: SocketAddr) -> io::Result<SocketAddr> {
        match to.port() % 10 {
            0 => std::future::pending().await,
            1 => Err(io::ErrorKind::ConnectionRefused.into()),
            2 => Err(io::ErrorKind::HostUnreachable.into()),
            _ => Ok(to),
        }
    }

    async fn go(addresses: &[&str]) -> (io::Result<SocketAddr>, Duration) {
        let began = Instant::now();
        let addresses = addresses.iter().map(|text| address(text)).collect();
        (first(addresses, attempt).await, began.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_address_costs_a_quarter_of_a_second() {
        let (reached, took) = go(&["[2001:db8::1]:10", "192.0.2.1:13"]).await;
        assert_eq!(reached.unwrap(), address("192.0.2.1:13"));
        assert_eq!(took, HEAD_START);
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_refuses_costs_nothing() {
        for refused in ["[2001:db8::1]:11", "[2001:db8::1]:12"] {
            let (reached, took) = go(&[refused, "192.0.2.1:13"]).await;
            assert_eq!(reached.unwrap(), address("192.0.2.1:13"));
            assert_eq!(took, Duration::ZERO);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_other_family_is_tried_second() {
        let tried = Arc::new(Mutex::new(Vec::new()));
        let all = [
            "[2001:db8::1]:10",
            "[2001:db8::2]:10",
            "192.0.2.1:10",
            "192.0.2.2:13",
        ];
        let seen = tried.clone();
        let reached = first(all.map(address).to_vec(), move |to| {
            seen.lock().unwrap().push(to);
            attempt(to)
        });
        assert_eq!(reached.await.unwrap(), address("192.0.2.2:13"));
        let order = [
            "[2001:db8::1]:10",
            "192.0.2.1:10",
            "[2001:db8::2]:10",
            "192.0.2.2:13",
        ];
        assert_eq!(*tried.lock().unwrap(), order.map(address));
    }

    #[tokio::test(start_paused = true)]
    async fn the_most_telling_error_is_told() {
        let kind = |(reached, _): (io::Result<SocketAddr>, _)| reached.unwrap_err().kind();
        let refused = io::ErrorKind::ConnectionRefused;
        assert_eq!(
            kind(go(&["192.0.2.1:11", "[2001:db8::1]:12"]).await),
            refused
        );
        assert_eq!(
            kind(go(&["192.0.2.1:12", "[2001:db8::1]:11"]).await),
            refused
        );
        assert_eq!(kind(go(&[]).await), io::ErrorKind::NotFound);
    }
}
