//! Gives the application a moment to read what the kernel already holds for it.
//!
//! Datagrams in a UDP socket's receive queue are not in CRIU's images, and connections waiting to
//! be accepted make its dump fail. Once the network namespace is quarantined nothing new arrives,
//! so both only shrink while the application still runs.
//!
//! CRIU could leave out connections waiting to be accepted, but then they would be reset. So the
//! application gets time to accept them before the outage begins, and if it does not, the migration
//! does not happen.

use std::time::{Duration, Instant};

/// How long the application may go without reading; after that it is not going to read.
const IDLE_LIMIT: Duration = Duration::from_millis(50);

/// Longest time it gets, however much it reads.
const LIMIT: Duration = Duration::from_millis(500);

/// Longest that connections may wait to be accepted before the outage begins.
const ACCEPT_LIMIT: Duration = Duration::from_secs(5);

/// Longest that connections which the application has closed may take to send the rest.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// Waits until the application has accepted all connections that wait for it, while it runs as
/// usual. Returns how many it has not accepted. Blocks the calling thread.
pub fn wait_accepted(pid: i32) -> u64 {
    let begun = Instant::now();
    loop {
        let left = unaccepted(pid);
        if left == 0 || begun.elapsed() > ACCEPT_LIMIT {
            return left;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until no connection that the application has closed has anything left to send, while it runs
/// as usual. Returns how many still have. Blocks the calling thread.
pub fn wait_sent(pid: i32) -> usize {
    let begun = Instant::now();
    loop {
        let left = closed_unsent(pid);
        if left == 0 || begun.elapsed() > CLOSE_LIMIT {
            return left;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// How many connections in the network namespace of `pid` belong to no process any more, but have data
/// that their other end has not confirmed. CRIU does not see them, and what they have left is lost.
pub fn closed_unsent(pid: i32) -> usize {
    let tables = ["tcp", "tcp6"].into_iter();
    let tables =
        tables.filter_map(|t| std::fs::read_to_string(format!("/proc/{pid}/net/{t}")).ok());
    tables.map(|table| orphans(&table)).sum()
}

/// Connections without an inode, in a state in which the kernel still sends (FIN_WAIT1, LAST_ACK,
/// CLOSING; include/net/tcp_states.h).
fn orphans(table: &str) -> usize {
    let orphaned = |line: &&str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let [state, queues] = [3, 4].map(|column| columns.get(column).copied().unwrap_or_default());
        let unsent = queues.split(':').next().unwrap_or_default();
        let unsent = u64::from_str_radix(unsent, 16).unwrap_or(0);
        matches!(state, "04" | "09" | "0B") && unsent > 0 && columns.get(9) == Some(&"0")
    };
    table.lines().skip(1).filter(orphaned).count()
}

/// How many connections wait to be accepted in the network namespace of `pid`.
pub fn unaccepted(pid: i32) -> u64 {
    held(pid, &["tcp", "tcp6"])
}

/// Waits until the sockets in the network namespace of `pid` hold nothing that a checkpoint loses,
/// or the application stops reading. Returns whether nothing was left. Blocks the calling thread.
pub fn drain(pid: i32) -> bool {
    let begun = Instant::now();
    let (mut least, mut since) = (u64::MAX, begun);
    loop {
        let left = waiting(pid);
        if left == 0 {
            return true;
        }
        if left < least {
            (least, since) = (left, Instant::now());
        }
        if since.elapsed() > IDLE_LIMIT || begun.elapsed() > LIMIT {
            return false;
        }
        std::thread::sleep(Duration::from_micros(500));
    }
}

/// How much the sockets in the network namespace of `pid` hold that a checkpoint loses: bytes of
/// datagrams, and connections to be accepted.
pub fn waiting(pid: i32) -> u64 {
    held(pid, &["udp", "udp6", "tcp", "tcp6"])
}

fn held(pid: i32, protocols: &[&str]) -> u64 {
    protocols
        .iter()
        .filter_map(|protocol| {
            let table = std::fs::read_to_string(format!("/proc/{pid}/net/{protocol}")).ok()?;
            Some(lost_input(&table, protocol.starts_with("tcp")))
        })
        .sum()
}

/// Most unread bytes in any one UDP socket in the calling thread's network namespace.
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

/// What the sockets hold that a checkpoint loses. For a listening TCP socket (state 0A) that is
/// connections to be accepted; unread bytes of an established connection are dumped.
fn lost_input(table: &str, tcp: bool) -> u64 {
    inputs(table)
        .filter(|(state, _)| !tcp || *state == "0A")
        .map(|(_, waiting)| waiting)
        .sum()
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
    fn only_connections_that_nobody_holds_count_as_closed() {
        let line = |state: &str, queues: &str, inode: u32| {
            format!(
                "{HEAD}   0: 0100007F:1F90 0100007F:C350 {state} {queues} 01:00000014 00000000 0 0 \
                 {inode} 2 0000000000000000 20 4 0 10 -1\n"
            )
        };
        assert_eq!(orphans(&line("04", "00000300:00000000", 0)), 1);
        assert_eq!(orphans(&line("09", "00000001:00000000", 0)), 1);
        assert_eq!(orphans(&line("04", "00000300:00000000", 4711)), 0);
        // A closed one that waits for the other end to close (FIN_WAIT2).
        assert_eq!(orphans(&line("05", "00000000:00000000", 0)), 0);
        assert_eq!(orphans(&line("06", "00000000:00000000", 0)), 0);
        assert_eq!(orphans(HEAD), 0);
    }

    #[test]
    fn unread_datagrams_and_unaccepted_connections_count() {
        assert_eq!(lost_input(&table("07", "00000000:00000300"), false), 0x300);
        assert_eq!(lost_input(&table("07", "00000300:00000000"), false), 0);
        assert_eq!(lost_input(&table("0A", "00000000:00000001"), true), 1);
        // Unread bytes of an established connection are in the images.
        assert_eq!(lost_input(&table("01", "00000000:00000100"), true), 0);
        assert_eq!(lost_input(HEAD, false), 0);
    }
}
