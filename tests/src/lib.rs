//! What the tests of whole migrations have in common.
//!
//! A test makes a [`Fixture`]: a lab with its agents paired. It looks at the hosts before, starts a
//! container and, on another host, a client that checks every byte it gets; migrates; and asks the
//! client and both hosts afterwards. Nothing is taken from inside the agents but what they print.
//!
//! With `LAB_KIND=vm` in the environment, the hosts that containers run on are virtual machines, and
//! all limits are as much longer as those are slower. Not every test passes so: some count on the
//! time that things take. `scripts/test --vm` runs those that are meant to.
//!
//! With the name of a distribution in it, such as `LAB_KIND=trixie`, they are virtual machines with that
//! distribution's defaults, where `agent-server` is a service of systemd: `scripts/test --systemd`.
//!
//! A test must end whatever happens: all that runs in a host is a [`Job`] with a limit, and all
//! waiting goes through [`eventually`].

mod artifacts;
mod errors;
mod fixture;
mod job;
mod kind;
mod load;
mod migration;
mod unit;

use std::thread::sleep;
use std::time::{Duration, Instant};

pub use errors::Errors;
pub use fixture::{Fixture, LOGIN, Setup};
pub use job::Job;
pub use kind::kind;
pub use load::Load;
pub use migration::Migration;

/// Asks again and again until the answer is `Ok`, or the time is up: `limit`, or more if the hosts are
/// virtual machines.
///
/// # Panics
/// With the last answer, if the time is up.
#[track_caller]
pub fn eventually<T>(limit: Duration, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let limit = kind::patience(limit);
    let deadline = Instant::now() + limit;
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(why) if Instant::now() > deadline => panic!("after {limit:?} still: {why}"),
            Err(_) => sleep(Duration::from_millis(50)),
        }
    }
}

/// Waits: for nothing in particular, but for things to go on while nobody looks.
pub fn pause(milliseconds: u64) {
    sleep(Duration::from_millis(milliseconds));
}
