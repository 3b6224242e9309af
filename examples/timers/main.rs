//! One timer of each kind, and whether all of them go on.

use std::os::fd::AsFd;
use std::ptr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigEvent, SigSet, SigevNotify, Signal};
use nix::sys::time::{TimeSpec, TimeValLike};
use nix::sys::timer::{Expiration as TimerExpiration, Timer, TimerSetTimeFlags as TimerFlags};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags as FdFlags, TimerSetTimeFlags};
use nix::time::{ClockId as Clock, clock_gettime};
use workloads::process::Stop;

/// The period of all timers: much shorter than any freeze.
const PERIOD: Duration = Duration::from_millis(20);
/// How long expirations are counted.
const WINDOW: Duration = Duration::from_millis(500);
/// Time between two looks. A look that takes longer than [`LONG`] contains a freeze, or the processor
/// was busy.
const LOOK: Duration = Duration::from_millis(5);
const LONG: Duration = Duration::from_millis(100);

/// Something that expires.
enum Kind {
    /// Read after it has expired.
    Descriptor(TimerFd),
    /// The same, and then set again to its next period, by absolute time.
    Again(TimerFd),
    /// A signal that is pending after it has expired. The timer of timer_create(2) ends when its
    /// value is dropped.
    Signal {
        signal: Signal,
        _timer: Option<Timer>,
    },
    /// The same, and then set again.
    SignalAgain(Signal, Timer),
}

struct Watched {
    name: &'static str,
    kind: Kind,
    /// Whether it has been turned off.
    off: bool,
    count: u64,
}

fn main() -> Result<()> {
    // Before any thread exists that could receive them.
    let signals = [Signal::SIGALRM, Signal::SIGUSR1, Signal::SIGUSR2];
    SigSet::from_iter(signals).thread_block()?;
    let stop = Stop::on_signals()?;
    let mut timers = start()?;
    let mut total = vec![0; timers.len()];
    while !stop.is_set() {
        let whole = count(&mut timers)?;
        let mut line = String::from("expired:");
        for (timer, total) in timers.iter().zip(&mut total) {
            *total += timer.count;
            line += &format!(" {} {total}", timer.name);
        }
        println!("{line}");
        for timer in &timers {
            if let Some(what) = timer.broken(whole) {
                println!("BROKEN {} {what}", timer.name);
            }
        }
    }
    Ok(())
}

fn start() -> Result<Vec<Watched>> {
    let period = TimeSpec::from_duration(PERIOD);
    let descriptor = |clock, absolute: Option<Clock>| -> Result<TimerFd> {
        let timer = TimerFd::new(clock, FdFlags::TFD_NONBLOCK)?;
        let (first, flags) = match absolute {
            None => (period, TimerSetTimeFlags::empty()),
            Some(clock) => (
                clock_gettime(clock)? + period,
                TimerSetTimeFlags::TFD_TIMER_ABSTIME,
            ),
        };
        timer.set(Expiration::IntervalDelayed(first, period), flags)?;
        Ok(timer)
    };
    let again = TimerFd::new(ClockId::CLOCK_MONOTONIC, FdFlags::TFD_NONBLOCK)?;
    set_again(&again)?;
    let off = descriptor(ClockId::CLOCK_MONOTONIC, None)?;
    turn_off(&off)?;

    let timer = |signal, expiration| -> Result<Timer> {
        let event = SigEvent::new(SigevNotify::SigevSignal {
            signal,
            si_value: 0,
        });
        let mut timer = Timer::new(Clock::CLOCK_MONOTONIC, event)?;
        timer.set(expiration, TimerFlags::empty())?;
        Ok(timer)
    };
    let periodic = timer(Signal::SIGUSR1, TimerExpiration::Interval(period))?;
    let once = timer(Signal::SIGUSR2, TimerExpiration::OneShot(period))?;
    set_interval_timer()?;

    let kinds = [
        (
            "monotonic",
            Kind::Descriptor(descriptor(ClockId::CLOCK_MONOTONIC, None)?),
        ),
        (
            "realtime",
            Kind::Descriptor(descriptor(ClockId::CLOCK_REALTIME, None)?),
        ),
        (
            "boottime",
            Kind::Descriptor(descriptor(ClockId::CLOCK_BOOTTIME, None)?),
        ),
        (
            "absolute",
            Kind::Descriptor(descriptor(
                ClockId::CLOCK_MONOTONIC,
                Some(Clock::CLOCK_MONOTONIC),
            )?),
        ),
        (
            "absolute-realtime",
            Kind::Descriptor(descriptor(
                ClockId::CLOCK_REALTIME,
                Some(Clock::CLOCK_REALTIME),
            )?),
        ),
        ("again", Kind::Again(again)),
        ("off", Kind::Descriptor(off)),
        (
            "posix",
            Kind::Signal {
                signal: Signal::SIGUSR1,
                _timer: Some(periodic),
            },
        ),
        ("posix-again", Kind::SignalAgain(Signal::SIGUSR2, once)),
        (
            "interval",
            Kind::Signal {
                signal: Signal::SIGALRM,
                _timer: None,
            },
        ),
    ];
    let watched = kinds.into_iter().map(|(name, kind)| Watched {
        name,
        kind,
        off: name == "off",
        count: 0,
    });
    Ok(watched.collect())
}

/// Counts expirations for a while. Returns whether nothing, such as a freeze, interrupted it.
fn count(timers: &mut [Watched]) -> Result<bool> {
    for timer in timers.iter_mut() {
        timer.count = 0;
    }
    let mut whole = true;
    let mut last = Instant::now();
    // By number of looks, not by time: a freeze contains none.
    for _ in 0..WINDOW.as_millis() / LOOK.as_millis() {
        thread::sleep(LOOK);
        whole &= last.elapsed() < LONG;
        last = Instant::now();
        for timer in timers.iter_mut() {
            timer.count += timer.kind.expired()?;
        }
    }
    Ok(whole)
}

impl Watched {
    fn broken(&self, whole: bool) -> Option<&'static str> {
        // A look takes somewhat longer than the sleep.
        let expected = (WINDOW.as_millis() / PERIOD.as_millis()) as u64;
        match (self.off, self.count) {
            (true, 0) => None,
            (true, _) => Some("expires although it is off"),
            (false, 0) => Some("does not expire any more"),
            (false, count) if whole && count > 3 * expected => Some("expires too often"),
            _ => None,
        }
    }
}

impl Kind {
    /// How often it has expired since the last call.
    fn expired(&mut self) -> Result<u64> {
        match self {
            Kind::Descriptor(timer) => read(timer),
            Kind::Again(timer) => {
                let expired = read(timer)?;
                if expired > 0 {
                    set_again(timer)?;
                }
                Ok(expired)
            }
            Kind::Signal { signal, .. } => take(*signal),
            Kind::SignalAgain(signal, timer) => {
                let expired = take(*signal)?;
                if expired > 0 {
                    let next = TimerExpiration::OneShot(TimeSpec::from_duration(PERIOD));
                    timer.set(next, TimerFlags::empty())?;
                }
                Ok(expired)
            }
        }
    }
}

fn read(timer: &TimerFd) -> Result<u64> {
    let mut count = [0; 8];
    match nix::unistd::read(timer.as_fd(), &mut count) {
        Ok(8) => Ok(u64::from_ne_bytes(count)),
        Err(Errno::EAGAIN) => Ok(0),
        other => bail!("a timer answers {other:?}"),
    }
}

fn set_again(timer: &TimerFd) -> Result<()> {
    let next = clock_gettime(Clock::CLOCK_MONOTONIC)? + TimeSpec::from_duration(PERIOD);
    let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME;
    Ok(timer.set(Expiration::OneShot(next), flags)?)
}

/// Keeps the period, because only the time to the next expiration turns a timer off.
fn turn_off(timer: &TimerFd) -> Result<()> {
    let period = TimeSpec::from_duration(PERIOD);
    let off = Expiration::IntervalDelayed(TimeSpec::nanoseconds(0), period);
    Ok(timer.set(off, TimerSetTimeFlags::empty())?)
}

/// A SIGALRM every [`PERIOD`].
fn set_interval_timer() -> Result<()> {
    let period = libc::timeval {
        tv_sec: 0,
        tv_usec: PERIOD.as_micros() as _,
    };
    let both = libc::itimerval {
        it_interval: period,
        it_value: period,
    };
    // SAFETY: the value lives until the call returns, and the old one is not requested.
    let set = unsafe { libc::setitimer(libc::ITIMER_REAL, &both, ptr::null_mut()) };
    Errno::result(set)?;
    Ok(())
}

/// Receives a blocked signal if it is pending.
fn take(signal: Signal) -> Result<u64> {
    let set = SigSet::from(signal);
    let now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: both values live until the call returns, and no other information about the signal is
    // requested.
    match unsafe { libc::sigtimedwait(set.as_ref(), ptr::null_mut(), &now) } {
        -1 if matches!(Errno::last(), Errno::EAGAIN | Errno::EINTR) => Ok(0),
        -1 => bail!("waiting for {signal}: {}", Errno::last()),
        _ => Ok(1),
    }
}
