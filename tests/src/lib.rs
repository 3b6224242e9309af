//! What the tests of whole migrations have in common.
//!
//! A test creates a [`Fixture`]: a lab with its agents paired. It looks at the hosts, starts a
//! container and, on another host, a client that checks every byte it gets; migrates; and then asks
//! the client and both hosts. From the agents it takes nothing but what they print.
//!
//! With `LAB_KIND=vm` in the environment, the hosts that run containers are virtual machines, and
//! all limits are longer to match. Not every test passes like that: some depend on how long things
//! take. `scripts/test --vm` runs those that are meant to.
//!
//! With the name of a distribution instead, such as `LAB_KIND=trixie`, they are virtual machines with
//! that distribution's defaults, where `agent-server` is a systemd service: `scripts/test --systemd`.
//!
//! A test must end whatever happens: everything that runs in a host is a [`Job`] with a limit, and
//! all waiting is done by [`eventually`].

mod artifacts;
mod errors;
mod fixture;
mod job;
mod kind;
mod limits;
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

/// Asks repeatedly until the answer is `Ok` or the time is up: `limit`, or more if the hosts are
/// virtual machines.
///
/// # Panics
/// If the time is up; the message has the last answer.
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

/// Waits for nothing in particular: lets things go on undisturbed.
pub fn pause(milliseconds: u64) {
    sleep(Duration::from_millis(milliseconds));
}
