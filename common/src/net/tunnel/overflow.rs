//! Whether more is sent into a tunnel than it can carry.

use std::fs;
use std::io;

use crate::net::mark::Index;

/// How many packets the kernel has dropped instead of sending them by the tunnel's interface. The interface
/// and WireGuard together queue a few thousand packets that wait to be encrypted.
///
/// # Errors
/// If there is no such interface in the network namespace of the calling thread.
pub fn dropped(index: Index) -> io::Result<u64> {
    let table = fs::read_to_string("/proc/thread-self/net/dev")?;
    sent_in_vain(&table, &index.interface()).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Column 12 after the interface's name, of a table of proc_pid_net(5).
fn sent_in_vain(table: &str, interface: &str) -> Option<u64> {
    table.lines().find_map(|line| {
        let (name, counts) = line.split_once(':')?;
        let dropped = counts.split_whitespace().nth(11)?;
        (name.trim() == interface).then(|| dropped.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leaves_in_vain_is_found() {
        let table = "Inter-|   Receive   |  Transmit\n face |bytes    packets errs drop\n\
             lmwg12: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n \
             lmwg1: 100 0 0 5 0 0 0 0 4000 40 0 77 0 0 0 0\n";
        assert_eq!(sent_in_vain(table, "lmwg1"), Some(77));
        assert_eq!(sent_in_vain(table, "lmwg12"), Some(12));
        assert_eq!(sent_in_vain(table, "lmwg2"), None);
    }
}
