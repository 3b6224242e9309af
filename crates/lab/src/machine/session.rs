//! Runs one command in a session of its own, like a login over ssh: PAM registers it with systemd,
//! which gives it a scope and, for as long as it lasts, gives root a runtime directory and a service
//! manager.

use std::ffi::{CStr, CString, OsStr, OsString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command};
use std::{io, mem, ptr};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};

use super::keeper::not_started;
use crate::enter::HANDED_IN;

/// The name of the rules in `/etc/pam.d`, and the rules: Debian's for ssh, except for who may log in and
/// what is said to them.
pub(super) const SERVICE: &str = "lab";
pub(super) const RULES: &str = "\
session required pam_loginuid.so
session optional pam_keyinit.so force revoke
@include common-session
session required pam_limits.so
session required pam_env.so
";

const LIBRARY: &CStr = c"libpam.so.0";

/// For `pam_set_item` and `pam_setcred`, from security/_pam_types.h.
const TTY: c_int = 3;
const RHOST: c_int = 4;
const ESTABLISH_CRED: c_int = 2;
const SUCCESS: c_int = 0;
const CONV_ERR: c_int = 19;

/// Runs a command as root in a session, with this process's input, output and environment; forwards
/// signals to it. Returns the status to exit with, as the keeper of a command in any host would.
pub(crate) fn run(argv: &[OsString]) -> Result<u8> {
    let mut waited_for: SigSet = HANDED_IN.into_iter().collect();
    waited_for.add(Signal::SIGCHLD);
    let mut before = SigSet::empty();
    // Before loading a library that might start a thread.
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&waited_for), Some(&mut before))?;
    let session = Session::open()?;

    let (program, arguments) = argv.split_first().context("no command given")?;
    let mut command = Command::new(program);
    command.args(arguments);
    let as_sshd = [("LOGNAME", "root"), ("SHELL", "/bin/bash")];
    let as_sshd = as_sshd.map(|(name, value)| (name.into(), value.into()));
    for (name, value) in as_sshd.into_iter().chain(session.environment()) {
        // Variables that were asked for take precedence.
        if std::env::var_os(&name).is_none() {
            command.env(name, value);
        }
    }
    let become_command = move || {
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None)?;
        Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?)
    };
    // SAFETY: it makes only system calls and allocates nothing.
    unsafe { command.pre_exec(become_command) };
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return Ok(not_started(&error)),
    };
    let status = wait(&mut child, &waited_for)?;
    let code = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ok(code as u8)
}

/// Waits for the command, forwarding signals to it.
fn wait(child: &mut Child, waited_for: &SigSet) -> io::Result<std::process::ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        // SAFETY: all-zero is a valid siginfo_t to be filled in.
        let mut info: libc::siginfo_t = unsafe { mem::zeroed() };
        // SAFETY: both point to live values of the right type.
        let signal = unsafe { libc::sigwaitinfo(waited_for.as_ref(), &mut info) };
        // Sent by a process. A signal from a terminal (si_code > 0) reached the command as well.
        if signal > 0 && signal != libc::SIGCHLD && info.si_code <= 0 {
            // SAFETY: the command has not been waited for, so the number is still its own.
            unsafe { libc::kill(child.id().cast_signed(), signal) };
        }
    }
}

/// A function by which PAM asks the user questions. Here there is no user to ask.
type Converse = extern "C" fn(c_int, *const *const c_void, *mut *mut c_void, *mut c_void) -> c_int;

extern "C" fn say_nothing(
    _: c_int,
    _: *const *const c_void,
    _: *mut *mut c_void,
    _: *mut c_void,
) -> c_int {
    CONV_ERR
}

#[repr(C)]
struct Conversation {
    converse: Converse,
    data: *mut c_void,
}

/// An open session. Ends when dropped: systemd then stops what only sessions need.
struct Session {
    library: Library,
    handle: *mut c_void,
    /// PAM keeps a pointer to it.
    _conversation: Box<Conversation>,
}

impl Session {
    fn open() -> Result<Self> {
        let library = Library::open()?;
        let conversation = Box::new(Conversation {
            converse: say_nothing,
            data: ptr::null_mut(),
        });
        let service = CString::new(SERVICE)?;
        let mut handle = ptr::null_mut();
        // SAFETY: the function has this type in security/pam_appl.h; all pointers are to live values,
        // and the conversation lives as long as the handle.
        let status = unsafe {
            type Start = unsafe extern "C" fn(
                *const c_char,
                *const c_char,
                *const Conversation,
                *mut *mut c_void,
            ) -> c_int;
            let start: Start = mem::transmute(library.function(c"pam_start")?);
            start(
                service.as_ptr(),
                c"root".as_ptr(),
                &raw const *conversation,
                &raw mut handle,
            )
        };
        ensure!(status == SUCCESS, "pam_start: error {status}");
        let session = Self {
            library,
            handle,
            _conversation: conversation,
        };
        // With the same settings as sshd: they affect what PAM makes of a session.
        session.set(TTY, c"ssh")?;
        session.set(RHOST, c"198.51.100.254")?;
        session.call(c"pam_setcred", ESTABLISH_CRED)?;
        session.call(c"pam_open_session", 0)?;
        Ok(session)
    }

    fn set(&self, item: c_int, value: &CStr) -> Result<()> {
        type SetItem = unsafe extern "C" fn(*mut c_void, c_int, *const c_void) -> c_int;
        // SAFETY: the function has this type; it copies the value.
        let status = unsafe {
            let set: SetItem = mem::transmute(self.library.function(c"pam_set_item")?);
            set(self.handle, item, value.as_ptr().cast())
        };
        ensure!(status == SUCCESS, "pam_set_item: error {status}");
        Ok(())
    }

    /// Calls a function of the session and of flags.
    fn call(&self, name: &CStr, flags: c_int) -> Result<()> {
        type Call = unsafe extern "C" fn(*mut c_void, c_int) -> c_int;
        // SAFETY: all functions that this is called for have this type.
        let status = unsafe {
            let call: Call = mem::transmute(self.library.function(name)?);
            call(self.handle, flags)
        };
        ensure!(
            status == SUCCESS,
            "{}: error {status}",
            name.to_string_lossy()
        );
        Ok(())
    }

    /// The environment variables that PAM wants a login to have.
    fn environment(&self) -> Vec<(OsString, OsString)> {
        type List = unsafe extern "C" fn(*mut c_void) -> *mut *mut c_char;
        let Ok(function) = self.library.function(c"pam_getenvlist") else {
            return Vec::new();
        };
        let mut variables = Vec::new();
        // SAFETY: the function has this type. It returns null or a list of strings that ends with null;
        // both are the caller's, who only reads them and then ends.
        unsafe {
            let list: List = mem::transmute(function);
            let mut next = list(self.handle);
            while !next.is_null() && !(*next).is_null() {
                let text = CStr::from_ptr(*next).to_bytes();
                if let Some(equals) = text.iter().position(|byte| *byte == b'=') {
                    let part = |bytes| OsStr::from_bytes(bytes).to_owned();
                    variables.push((part(&text[..equals]), part(&text[equals + 1..])));
                }
                next = next.add(1);
            }
        }
        variables
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Its descriptor ends with this process anyway, which systemd also takes for the session's
        // end.
        let _ = self.call(c"pam_close_session", 0);
        let _ = self.call(c"pam_end", SUCCESS);
    }
}

/// The host's own library: the machine that builds this program need not have it.
struct Library(*mut c_void);

impl Library {
    fn open() -> Result<Self> {
        // SAFETY: a library of the system; its initialisation has no requirements.
        let library = unsafe { libc::dlopen(LIBRARY.as_ptr(), libc::RTLD_NOW) };
        ensure!(
            !library.is_null(),
            "cannot load {}",
            LIBRARY.to_string_lossy()
        );
        Ok(Self(library))
    }

    fn function(&self, name: &CStr) -> Result<*mut c_void> {
        // SAFETY: the library is never unloaded.
        let function = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        ensure!(!function.is_null(), "no {}", name.to_string_lossy());
        Ok(function)
    }
}
