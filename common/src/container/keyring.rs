//! The kernel's keyring of a container (session-keyring(7)). CRIU does not know of keys: what it restores has the
//! session keyring of whoever has started it.

use std::ffi::CString;
use std::io;

/// How many keys are in the session keyring of container `id`, which its runtime has made and named after it: runc
/// `_ses.ID`, crun `ID`.
pub fn keys(id: &str) -> u32 {
    let table = std::fs::read_to_string("/proc/keys").unwrap_or_default();
    count(&table, id)
}

/// Gives this process and those that it starts the session keyring of container `id`, as runc does for one that it
/// starts. Otherwise a restored container would have that of this agent, with the keys of root's login in it.
///
/// Undone by the end of these processes.
///
/// # Errors
/// If the kernel has no room for one more. A kernel without keyrings needs none.
pub fn join(id: &str) -> io::Result<()> {
    let name = CString::new(format!("_ses.{id}"))?;
    let command = libc::KEYCTL_JOIN_SESSION_KEYRING;
    // SAFETY: the kernel reads the name, which ends with a zero.
    let joined = unsafe { libc::syscall(libc::SYS_keyctl, command, name.as_ptr()) };
    match io::Error::last_os_error() {
        _ if joined >= 0 => Ok(()),
        error if error.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        error => Err(error),
    }
}

/// By proc_keys(5).
fn count(table: &str, id: &str) -> u32 {
    let keyrings = table.lines().filter_map(|line| {
        let (_, described) = line.split_once(" keyring ")?;
        let (name, keys) = described.trim().rsplit_once(": ")?;
        let named = name == id || name.strip_prefix("_ses.") == Some(id);
        // An empty one has a word there.
        named.then(|| keys.parse::<u32>().unwrap_or_default())
    });
    keyrings.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keyring_is_found_by_its_name() {
        let table = "11af6f84 I--Q---     2 perm 1f3f0000     0 65534 keyring   _uid.0: 5\n\
                     13a5bf7b I--Q---     3 perm 3f1b0000     0     0 keyring   _ses.abc: 2\n\
                     13a5bf7c I--Q---     3 perm 3f1b0000     0     0 keyring   def: 1\n\
                     13a5bf7d I--Q---     3 perm 3f1b0000     0     0 keyring   ghi: empty\n\
                     13a5bf7e I--Q---     3 perm 3f010000     0     0 user      abc: 9\n";
        let counts = ["abc", "def", "ghi", "none"].map(|id| count(table, id));
        assert_eq!(counts, [2, 1, 0, 0]);
    }
}
