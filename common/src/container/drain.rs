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

/// Reads the table format of proc_pid_net(5): state in column 3, `tx_queue:rx_queue` in column 4.
/// For a TCP socket that listens (state 0A), rx_queue counts connections to be accepted.
fn holds_input(table: &str, tcp: bool) -> bool {
    table.lines().skip(1).any(|line| {
        let mut columns = line.split_whitespace().skip(3);
        let (Some(state), Some(queues)) = (columns.next(), columns.next()) else {
            return false;
        };
        let input = queues
            .split_once(':')
            .and_then(|(_, rx)| u64::from_str_radix(rx, 16).ok())
            .unwrap_or(0);
        input > 0 && (!tcp || state == "0A")
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
