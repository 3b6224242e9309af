//! A moment for the application to read what the kernel already holds for it.
//!
//! Datagrams in a UDP socket's receive queue are not in CRIU's images, and connections that wait
//! to be accepted make its dump fail. With the network namespace quarantined nothing new arrives,
//! so both only shrink while the application still runs.

use std::time::{Duration, Instant};

/// Longest that the application gets; one that does not read is not going to.
const LIMIT: Duration = Duration::from_millis(50);

/// Waits until the sockets in the network namespace of `pid` hold nothing of that kind, or the
/// time is over. Returns whether something was left. Blocks the calling thread.
pub fn drain(pid: i32) -> bool {
    let deadline = Instant::now() + LIMIT;
    loop {
        let waiting = ["udp", "udp6", "tcp", "tcp6"].iter().any(|protocol| {
            std::fs::read_to_string(format!("/proc/{pid}/net/{protocol}"))
                .is_ok_and(|table| holds_input(&table, protocol.starts_with("tcp")))
        });
        if !waiting || Instant::now() > deadline {
            return waiting;
        }
        std::thread::sleep(Duration::from_micros(500));
    }
}

/// The most that a UDP socket in the calling thread's network namespace has unread, in bytes.
pub fn most_unread_datagram_bytes() -> u64 {
    ["udp", "udp6"]
        .iter()
        .filter_map(|protocol| {
            let table =
                std::fs::read_to_string(format!("/proc/thread-self/net/{protocol}")).ok()?;
            inputs(&table).map(|(_, unread)| unread).max()
        })
        .max()
        .unwrap_or(0)
}

/// Whether a socket holds something that a checkpoint loses. For a TCP socket that listens
/// (state 0A), what waits is connections to be accepted; bytes of an established one are dumped.
fn holds_input(table: &str, tcp: bool) -> bool {
    inputs(table).any(|(state, waiting)| waiting > 0 && (!tcp || state == "0A"))
}

/// State and waiting input of each socket in a table of proc_pid_net(5): column 3, and the second
/// half of column 4, `tx_queue:rx_queue`.
fn inputs(table: &str) -> impl Iterator<Item = (&str, u64)> {
    table.lines().skip(1).filter_map(|line| {
        let mut columns = line.split_whitespace().skip(3);
        let state = columns.next()?;
        let (_, waiting) = columns.next()?.split_once(':')?;
        Some((state, u64::from_str_radix(waiting, 16).ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when\n";

    fn table(state: &str, queues: &str) -> String {
        format!("{HEAD}   0: 00000000:1F90 00000000:0000 {state} {queues} 00:00000000 00000000\n")
    }

    #[test]
    fn unread_datagrams_and_unaccepted_connections_count() {
        assert!(holds_input(&table("07", "00000000:00000300"), false));
        assert!(!holds_input(&table("07", "00000300:00000000"), false));
        assert!(holds_input(&table("0A", "00000000:00000001"), true));
        // Unread bytes of an established connection are in the images.
        assert!(!holds_input(&table("01", "00000000:00000100"), true));
        assert!(!holds_input(HEAD, false));
    }
}
