//! Socket options as bytes: getsockopt(2), setsockopt(2).

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Reads an option into `value`, whose content some options take as a question, and returns how many bytes
/// of it are the answer.
///
/// # Errors
/// If the kernel, or a socket of this kind, does not have the option.
pub(super) fn read(
    socket: BorrowedFd<'_>,
    level: i32,
    name: i32,
    value: &mut [u8],
) -> io::Result<usize> {
    let mut length = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    // SAFETY: `value` is as long as `length` says, and the kernel writes no more than that.
    let result = unsafe {
        let value = value.as_mut_ptr().cast();
        libc::getsockopt(socket.as_raw_fd(), level, name, value, &raw mut length)
    };
    match result {
        0 => Ok(value.len().min(length as usize)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sets an option. Undone by setting what it was before.
///
/// # Errors
/// The kernel's.
pub(super) fn set(socket: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let length = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    // SAFETY: `value` is as long as `length` says, and the kernel only reads it.
    let result = unsafe {
        let value = value.as_ptr().cast();
        libc::setsockopt(socket.as_raw_fd(), level, name, value, length)
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// An option that is a number.
pub(super) fn number(socket: BorrowedFd<'_>, level: i32, name: i32) -> Option<i32> {
    let mut value = [0; size_of::<i32>()];
    let length = read(socket, level, name, &mut value).ok()?;
    (length == value.len()).then_some(i32::from_ne_bytes(value))
}
