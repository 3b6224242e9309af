//! A userfaultfd of another process's memory: made in that process by one of its own threads, which is stopped for less than a
//! millisecond and made to call userfaultfd(2) and close(2).
//!
//! Nothing is written into the process: only a thread's registers change, and they point to a `syscall` instruction that is there
//! already. While they are changed, nobody but their tracer can put them back. So that is a process of its own, in its own
//! session, which finishes even if this one is killed, and ends then; the userfaultfd ends with it.
//!
//! The thread notices at most what a stop by the freezer shows too: calls like epoll_wait(2) may return `EINTR`
//! (signal(7), "Interruption of system calls and library functions by stop signals"). Calls that go on after a stop, go on.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use crate::process::{Process, Status};
use crate::reader::Reader;

/// Why a process's memory cannot be followed by a userfaultfd.
#[derive(Debug, thiserror::Error)]
pub enum InjectError {
    /// It is stopped, traced or not in an ordinary state, and is left alone.
    #[error("it is stopped or traced")]
    LeftAlone,
    /// No instruction was found that calls the kernel.
    #[error("it has no system call instruction")]
    NoInstruction,
    /// No thread could be stopped at a safe place.
    #[error("none of its threads could be stopped safely")]
    NoThread,
    /// A system call failed.
    #[error("{what}: {source}")]
    Call {
        /// Which.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// How long the answer may take: it comes within a millisecond, unless the process is frozen meanwhile.
const PATIENCE: Duration = Duration::from_secs(2);

/// Threads that are tried.
const MOST_THREADS: usize = 8;

/// Of the executable memory, so much is searched for an instruction.
const SEARCHED_BYTES: usize = 64 * 1024;

/// Makes a userfaultfd of the memory of `process`, which it does not keep.
pub(super) fn userfaultfd(process: &Process) -> Result<OwnedFd, InjectError> {
    let status = Status::read(process.pid).ok_or(InjectError::LeftAlone)?;
    if status.tracer != 0 || !matches!(status.state, 'R' | 'S' | 'D') || !process.exists() {
        return Err(InjectError::LeftAlone);
    }
    let target = helper::Target {
        instruction: instruction(process)?,
        process: process.handle().as_raw_fd(),
        pid: process.pid,
        filtered: status.filtered,
    };
    let threads = threads(process.pid);
    let (ours, theirs) = sockets()?;
    // SAFETY: the child calls nothing but system calls; in particular it allocates nothing, since another thread of this
    // process may have held the allocator's lock.
    let child = unsafe { libc::fork() };
    if child == 0 {
        helper::run(&target, &threads, theirs.as_raw_fd(), ours.as_raw_fd());
    }
    let child = positive("fork", i64::from(child))? as i32;
    drop(theirs);
    let answer = answer(ours.as_raw_fd());
    let taken = match answer {
        Some(helper::Answer { fd, .. }) if fd >= 0 => Some(take(child, fd)),
        _ => None,
    };
    // It waits for the end of this socket.
    drop(ours);
    // It may have to wait for the process to be thawed.
    std::thread::spawn(move || {
        // SAFETY: a null pointer is allowed.
        unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
    });
    match (taken, answer) {
        (Some(taken), _) => taken,
        (None, Some(answer)) if answer.error != 0 => Err(InjectError::Call {
            what: answer.call(),
            source: io::Error::from_raw_os_error(answer.error),
        }),
        _ => Err(InjectError::NoThread),
    }
}

fn positive(what: &'static str, result: i64) -> Result<i64, InjectError> {
    match result {
        0.. => Ok(result),
        _ => Err(InjectError::Call {
            what,
            source: io::Error::last_os_error(),
        }),
    }
}

fn sockets() -> Result<(OwnedFd, OwnedFd), InjectError> {
    let mut pair = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: the array has room for two.
    let made = unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, pair.as_mut_ptr()) };
    positive("socketpair", made.into())?;
    // SAFETY: both were just made and belong to nobody else.
    Ok(unsafe { (OwnedFd::from_raw_fd(pair[0]), OwnedFd::from_raw_fd(pair[1])) })
}

/// What the helper says, or nothing if it does not.
fn answer(socket: RawFd) -> Option<helper::Answer> {
    let mut poll = libc::pollfd {
        fd: socket,
        events: libc::POLLIN,
        revents: 0,
    };
    let mut answer = helper::Answer::default();
    // SAFETY: one structure, and as many bytes as the answer has.
    let received = unsafe {
        libc::poll(&mut poll, 1, PATIENCE.as_millis() as i32);
        libc::recv(
            socket,
            (&raw mut answer).cast(),
            size_of_val(&answer),
            libc::MSG_DONTWAIT,
        )
    };
    (received == size_of_val(&answer) as isize).then_some(answer)
}

/// A copy of descriptor `fd` of the process `pid`, a child of this one.
fn take(pid: i32, fd: RawFd) -> Result<OwnedFd, InjectError> {
    // SAFETY: no pointers are passed, and each descriptor is new.
    unsafe {
        let handle = positive("pidfd_open", libc::syscall(libc::SYS_pidfd_open, pid, 0))?;
        let handle = OwnedFd::from_raw_fd(handle as RawFd);
        let copy = libc::syscall(libc::SYS_pidfd_getfd, handle.as_raw_fd(), fd, 0);
        Ok(OwnedFd::from_raw_fd(positive("pidfd_getfd", copy)? as RawFd))
    }
}

/// The threads to try: those that wait in a system call first, because one that computes may be at a place where it must not be
/// stopped.
fn threads(pid: i32) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    let mut threads: Vec<(bool, i32)> = tasks
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .take(256)
        .map(|tid| {
            let call = fs::read_to_string(format!("/proc/{pid}/task/{tid}/syscall"));
            (call.is_ok_and(|call| call.starts_with("running")), tid)
        })
        .collect();
    threads.sort_unstable();
    threads
        .into_iter()
        .map(|(_, tid)| tid)
        .take(MOST_THREADS)
        .collect()
}

/// Where the process has a `syscall` instruction: in the kernel's own vdso, else in a program or library.
fn instruction(process: &Process) -> Result<u64, InjectError> {
    let maps = fs::read_to_string(process.file("maps")).map_err(|_| InjectError::LeftAlone)?;
    let executable = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let (begin, end) = fields.next()?.split_once('-')?;
        let permissions = fields.next()?;
        let address = |text| u64::from_str_radix(text, 16).ok();
        let name = fields.nth(3).unwrap_or_default().to_owned();
        (permissions.starts_with("r-x") && name != "[vsyscall]").then_some((
            name != "[vdso]",
            address(begin)?,
            address(end)?,
        ))
    };
    let mut executables: Vec<_> = maps.lines().filter_map(executable).collect();
    executables.sort_unstable();
    let mut reader = Reader::new(process);
    for (_, begin, end) in executables {
        let mut code = vec![0; SEARCHED_BYTES.min((end - begin) as usize)];
        let read = reader.read(begin, &mut code).unwrap_or(0);
        if let Some(at) = code[..read]
            .windows(2)
            .position(|two| two == helper::SYSCALL)
        {
            return Ok(begin + at as u64);
        }
    }
    Err(InjectError::NoInstruction)
}

/// What runs in the process that traces. Nothing here may allocate or take a lock.
mod helper {
    use std::mem::MaybeUninit;
    use std::os::fd::RawFd;
    use std::ptr::null_mut;

    // linux/ptrace.h; not all of them are in libc.
    const PTRACE_SEIZE: u32 = 0x4206;
    const PTRACE_INTERRUPT: u32 = 0x4207;
    const PTRACE_GETSIGMASK: u32 = 0x420a;
    const PTRACE_SETSIGMASK: u32 = 0x420b;
    const PTRACE_GET_SYSCALL_INFO: u32 = 0x420e;
    const PTRACE_GET_RSEQ_CONFIGURATION: u32 = 0x420f;
    const PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG: u32 = 0x4211;
    const PTRACE_EVENT_STOP: i32 = 128;
    const SYSCALL_INFO_EXIT: u8 = 2;
    /// Faults of the kernel's own are handed to nobody here, and a container may ask for nothing else.
    const UFFD_USER_MODE_ONLY: u64 = 1;
    /// The code segment of 64-bit programs.
    const USER_CS: u64 = 0x33;

    /// The instruction.
    pub(super) const SYSCALL: [u8; 2] = [0x0f, 0x05];

    /// Polls until a thread has stopped: 200 ms.
    const POLLS: u32 = 2000;
    const POLL_NS: i64 = 100_000;

    /// Whom to stop, and what there is to know of it.
    pub(super) struct Target {
        pub(super) instruction: u64,
        /// A pidfd.
        pub(super) process: RawFd,
        pub(super) pid: i32,
        pub(super) filtered: bool,
    }

    /// The helper's descriptor of the userfaultfd, or the error and the call that failed.
    #[repr(C)]
    #[derive(Clone, Copy, Debug)]
    pub(super) struct Answer {
        pub(super) fd: RawFd,
        pub(super) error: i32,
        pub(super) call: i32,
    }

    impl Default for Answer {
        fn default() -> Self {
            Answer {
                fd: -1,
                error: 0,
                call: 0,
            }
        }
    }

    const CALLS: [&str; 5] = [
        "ptrace",
        "userfaultfd",
        "pidfd_getfd",
        "close of the userfaultfd",
        "restoring the registers",
    ];

    impl Answer {
        fn failed(call: i32, error: i32) -> Answer {
            Answer {
                fd: -1,
                error,
                call,
            }
        }

        pub(super) fn call(&self) -> &'static str {
            CALLS.get(self.call as usize).unwrap_or(&"helper")
        }
    }

    /// Does it, tells through `socket`, of which the agent has the other end, and ends.
    pub(super) fn run(target: &Target, threads: &[i32], socket: RawFd, agents: RawFd) -> ! {
        let mut answer = Answer::default();
        // SAFETY: system calls with valid pointers or none.
        unsafe {
            // Else it would wait for itself.
            libc::close(agents);
            // Out of reach of what a terminal sends to the agent's group. The mask keeps its handlers from running here.
            libc::setsid();
            let mut all = MaybeUninit::<libc::sigset_t>::uninit();
            libc::sigfillset(all.as_mut_ptr());
            libc::sigprocmask(libc::SIG_BLOCK, all.as_ptr(), null_mut());
            for tid in threads {
                match attempt(target, *tid) {
                    Attempt::Done(done) => {
                        answer = done;
                        break;
                    }
                    Attempt::NotHere => {}
                }
            }
            libc::send(
                socket,
                (&raw const answer).cast(),
                size_of_val(&answer),
                libc::MSG_NOSIGNAL,
            );
            if answer.fd >= 0 {
                // Until it was taken, or the agent is gone.
                let mut byte = 0_u8;
                libc::shutdown(socket, libc::SHUT_WR);
                libc::recv(socket, (&raw mut byte).cast(), 1, 0);
            }
            libc::_exit(0)
        }
    }

    enum Attempt {
        Done(Answer),
        /// Another thread may be at a better place.
        NotHere,
    }

    fn errno() -> i32 {
        // SAFETY: the location is this thread's own.
        unsafe { *libc::__errno_location() }
    }

    /// # Safety
    /// `address` and `data` must be what the request expects.
    unsafe fn ptrace(request: u32, tid: i32, address: usize, data: usize) -> i64 {
        // SAFETY: the caller's promise. Not libc's function, which interprets results of some requests.
        unsafe { libc::syscall(libc::SYS_ptrace, request, tid, address, data) }
    }

    /// How a thread was found.
    #[derive(PartialEq, Eq)]
    enum Stop {
        /// By our interruption, on its way back to the program, before signals are looked at.
        Interrupted,
        /// At the end of a system call.
        CallEnded,
        /// On its way to something else that does not matter here.
        Other,
        /// By a stop signal to its process.
        Group,
        /// A signal is to be delivered.
        Signal(i32),
        Gone,
        NotYet,
    }

    /// Waits for the next stop.
    unsafe fn wait(tid: i32, patient: bool) -> Stop {
        let mut polls = 0;
        loop {
            let mut status = 0;
            // SAFETY: the status lives.
            let waited = unsafe { libc::waitpid(tid, &mut status, libc::__WALL | libc::WNOHANG) };
            if waited == tid {
                if !libc::WIFSTOPPED(status) {
                    return Stop::Gone;
                }
                let (signal, event) = (libc::WSTOPSIG(status), status >> 16);
                return match (signal, event) {
                    (libc::SIGTRAP, PTRACE_EVENT_STOP) => Stop::Interrupted,
                    (_, PTRACE_EVENT_STOP) => Stop::Group,
                    // SAFETY: it has stopped.
                    _ if signal == libc::SIGTRAP | 0x80 => match unsafe { call_ended(tid) } {
                        true => Stop::CallEnded,
                        false => Stop::Other,
                    },
                    (_, 0) => Stop::Signal(signal),
                    _ => Stop::Other,
                };
            }
            if waited < 0 {
                return Stop::Gone;
            }
            polls += 1;
            if polls > POLLS && !patient {
                return Stop::NotYet;
            }
            let pause = libc::timespec {
                tv_sec: 0,
                tv_nsec: POLL_NS,
            };
            // SAFETY: a null pointer is allowed for the rest.
            unsafe { libc::nanosleep(&pause, null_mut()) };
        }
    }

    /// Whether a stop at a system call is the one at its end.
    unsafe fn call_ended(tid: i32) -> bool {
        let mut information = [0_u8; 88];
        // SAFETY: the buffer's size is passed.
        unsafe {
            ptrace(
                PTRACE_GET_SYSCALL_INFO,
                tid,
                information.len(),
                information.as_mut_ptr() as usize,
            )
        };
        information[0] == SYSCALL_INFO_EXIT
    }

    unsafe fn registers(tid: i32) -> Option<libc::user_regs_struct> {
        let mut registers = MaybeUninit::<libc::user_regs_struct>::zeroed();
        // SAFETY: the structure is the one that the request fills.
        unsafe {
            let got = ptrace(
                libc::PTRACE_GETREGS,
                tid,
                0,
                registers.as_mut_ptr() as usize,
            );
            (got == 0).then(|| registers.assume_init())
        }
    }

    unsafe fn set_registers(tid: i32, registers: &libc::user_regs_struct) -> bool {
        // SAFETY: the structure is the one that the request reads.
        unsafe { ptrace(libc::PTRACE_SETREGS, tid, 0, &raw const *registers as usize) == 0 }
    }

    /// Whether a program that was not in a system call may be in a restartable sequence (rseq(2)), which must not be left in
    /// the middle, or dispatches its own system calls (prctl(2), `PR_SET_SYSCALL_USER_DISPATCH`).
    unsafe fn unsafe_place(target: &Target, tid: i32, in_call: bool) -> bool {
        let mut dispatch = [0_u64; 4];
        // SAFETY: each buffer's size is passed.
        unsafe {
            let size = size_of_val(&dispatch);
            let got = ptrace(
                PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG,
                tid,
                size,
                dispatch.as_mut_ptr() as usize,
            );
            if got >= 0 && dispatch[0] != 0 {
                return true;
            }
            if in_call {
                return false;
            }
            // struct ptrace_rseq_configuration: pointer, size, signature, flags, padding.
            let mut configuration = [0_u64; 3];
            let size = size_of_val(&configuration);
            let got = ptrace(
                PTRACE_GET_RSEQ_CONFIGURATION,
                tid,
                size,
                configuration.as_mut_ptr() as usize,
            );
            if got < 0 {
                return true;
            }
            if configuration[0] == 0 {
                return false;
            }
            // The pointer to the sequence that it is in: 8 bytes into struct rseq.
            let mut sequence = 0_u64;
            let local = libc::iovec {
                iov_base: (&raw mut sequence).cast(),
                iov_len: 8,
            };
            let remote = libc::iovec {
                iov_base: (configuration[0] + 8) as *mut libc::c_void,
                iov_len: 8,
            };
            libc::process_vm_readv(target.pid, &local, 1, &remote, 1, 0) != 8 || sequence != 0
        }
    }

    /// Stops a thread, makes it call, and lets it go as it was.
    unsafe fn attempt(target: &Target, tid: i32) -> Attempt {
        let mut options = libc::PTRACE_O_TRACESYSGOOD;
        if target.filtered {
            // A filter could kill the process for a call that it does not know.
            options |= libc::PTRACE_O_SUSPEND_SECCOMP;
        }
        // SAFETY: requests with the arguments that ptrace(2) names.
        unsafe {
            if ptrace(PTRACE_SEIZE, tid, 0, options as usize) < 0 {
                return match errno() {
                    libc::ESRCH => Attempt::NotHere,
                    error => Attempt::Done(Answer::failed(0, error)),
                };
            }
            if ptrace(PTRACE_INTERRUPT, tid, 0, 0) < 0 {
                return Attempt::NotHere;
            }
            loop {
                match wait(tid, false) {
                    Stop::Interrupted => break,
                    // Delivered as if nobody were here.
                    Stop::Signal(signal) => {
                        ptrace(libc::PTRACE_CONT, tid, 0, signal as usize);
                    }
                    Stop::Other | Stop::CallEnded => {
                        ptrace(libc::PTRACE_CONT, tid, 0, 0);
                    }
                    Stop::Group => {
                        ptrace(libc::PTRACE_DETACH, tid, 0, 0);
                        return Attempt::NotHere;
                    }
                    // It is let go when this process ends.
                    Stop::Gone | Stop::NotYet => return Attempt::NotHere,
                }
            }
            let saved = registers(tid);
            let mut mask = 0_u64;
            let masked = ptrace(PTRACE_GETSIGMASK, tid, 8, &raw mut mask as usize);
            let Some(saved) = saved.filter(|saved| {
                masked >= 0
                    && saved.cs == USER_CS
                    && is_still_there(target)
                    && !unsafe_place(target, tid, saved.orig_rax as i64 >= 0)
            }) else {
                ptrace(libc::PTRACE_DETACH, tid, 0, 0);
                return Attempt::NotHere;
            };
            // No handler of the program may begin while the registers are not its own.
            let all = u64::MAX;
            ptrace(PTRACE_SETSIGMASK, tid, 8, &raw const all as usize);
            let answer = calls(target, tid, &saved);
            // At a place where the kernel has not yet decided whether an interrupted call goes on: it does so with these.
            ptrace(PTRACE_INTERRUPT, tid, 0, 0);
            ptrace(libc::PTRACE_CONT, tid, 0, 0);
            loop {
                match wait(tid, true) {
                    // All signals are blocked: one that comes is about the call, and goes no further.
                    Stop::Interrupted | Stop::Group | Stop::Signal(_) => break,
                    Stop::Gone => return Attempt::Done(answer),
                    _ => {
                        ptrace(libc::PTRACE_CONT, tid, 0, 0);
                    }
                }
            }
            let restored = set_registers(tid, &saved);
            ptrace(PTRACE_SETSIGMASK, tid, 8, &raw const mask as usize);
            ptrace(libc::PTRACE_DETACH, tid, 0, 0);
            Attempt::Done(match restored {
                true => answer,
                false => Answer::failed(4, errno()),
            })
        }
    }

    /// Whether the instruction is where it was found: the program may have replaced itself since. Now that a thread is stopped it
    /// cannot without ending that thread.
    unsafe fn is_still_there(target: &Target) -> bool {
        let mut bytes = [0_u8; 2];
        let local = libc::iovec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: bytes.len(),
        };
        let remote = libc::iovec {
            iov_base: target.instruction as *mut libc::c_void,
            iov_len: bytes.len(),
        };
        // SAFETY: two bytes have room for two.
        let read = unsafe { libc::process_vm_readv(target.pid, &local, 1, &remote, 1, 0) };
        read == 2 && bytes == SYSCALL
    }

    unsafe fn calls(target: &Target, tid: i32, saved: &libc::user_regs_struct) -> Answer {
        let flags = libc::O_CLOEXEC as u64 | libc::O_NONBLOCK as u64 | UFFD_USER_MODE_ONLY;
        // SAFETY: the thread has stopped, and its registers and mask are saved.
        unsafe {
            let theirs = call(target, tid, saved, libc::SYS_userfaultfd, flags);
            if theirs < 0 {
                return Answer::failed(1, -theirs as i32);
            }
            let ours = libc::syscall(libc::SYS_pidfd_getfd, target.process, theirs as i32, 0);
            let error = errno();
            let closed = call(target, tid, saved, libc::SYS_close, theirs as u64);
            if ours < 0 {
                return Answer::failed(2, error);
            }
            if closed < 0 {
                libc::close(ours as RawFd);
                return Answer::failed(3, -closed as i32);
            }
            Answer {
                fd: ours as RawFd,
                error: 0,
                call: 0,
            }
        }
    }

    /// Makes the stopped thread call `number` with one argument, and returns the result, or an error as a negative number.
    unsafe fn call(
        target: &Target,
        tid: i32,
        saved: &libc::user_regs_struct,
        number: i64,
        argument: u64,
    ) -> i64 {
        let failed = -i64::from(libc::EIO);
        let mut registers_of_call = *saved;
        registers_of_call.rip = target.instruction;
        registers_of_call.rax = number as u64;
        registers_of_call.rdi = argument;
        registers_of_call.rsi = 0;
        registers_of_call.rdx = 0;
        // There is no interrupted call that the kernel could resume.
        registers_of_call.orig_rax = u64::MAX;
        // SAFETY: the thread has stopped.
        unsafe {
            if !set_registers(tid, &registers_of_call) {
                return failed;
            }
            loop {
                if ptrace(libc::PTRACE_SYSCALL, tid, 0, 0) < 0 {
                    return failed;
                }
                match wait(tid, true) {
                    Stop::CallEnded => break,
                    Stop::Gone | Stop::Signal(_) => return failed,
                    _ => {}
                }
            }
            registers(tid).map_or(failed, |registers| registers.rax as i64)
        }
    }
}
