//! Reading the memory of a process from outside, while it runs or frozen.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::PAGE_BYTES;
use crate::process::Process;
use crate::ranges;

/// The memory of one process.
pub(crate) struct Reader<'a> {
    process: &'a Process,
    /// For what process_vm_readv(2) cannot read: memory that the process itself may not read. Opened when it is needed.
    file: Option<File>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(process: &'a Process) -> Reader<'a> {
        Reader {
            process,
            file: None,
        }
    }

    /// Reads pages from `address` on and returns how many bytes there were: a multiple of a page, and less than asked for if a
    /// page has vanished or the process has ended.
    pub(crate) fn read(&mut self, address: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut done = self.read_by_number(address, buffer);
        while done < buffer.len() {
            let page = &mut buffer[done..done + PAGE_BYTES];
            if !self.read_from_file(address + done as u64, page)? {
                break;
            }
            done += PAGE_BYTES;
            done += self.read_by_number(address + done as u64, &mut buffer[done..]);
        }
        // Only now is it certain that the number meant this process.
        Ok(if self.process.exists() { done } else { 0 })
    }

    fn read_by_number(&self, address: u64, buffer: &mut [u8]) -> usize {
        let local = libc::iovec {
            iov_base: buffer.as_mut_ptr().cast(),
            iov_len: buffer.len(),
        };
        let remote = libc::iovec {
            iov_base: address as *mut libc::c_void,
            iov_len: buffer.len(),
        };
        // SAFETY: the kernel writes at most the buffer's length into it; the other addresses are of another process.
        let read = unsafe { libc::process_vm_readv(self.process.pid, &local, 1, &remote, 1, 0) };
        let read = usize::try_from(read).unwrap_or(0);
        read - read % PAGE_BYTES
    }

    fn read_from_file(&mut self, address: u64, page: &mut [u8]) -> io::Result<bool> {
        let file = match &self.file {
            Some(file) => file,
            None => match File::open(self.process.file("mem")) {
                Ok(file) => self.file.insert(file),
                Err(error) if ranges::is_gone(&error) => return Ok(false),
                Err(error) => return Err(error),
            },
        };
        match file.read_exact_at(page, address) {
            Ok(()) => Ok(true),
            // Not mapped any more, a guard page, or the process has ended.
            Err(error)
                if error.kind() == io::ErrorKind::UnexpectedEof
                    || matches!(error.raw_os_error(), Some(libc::EIO | libc::EFAULT)) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}
