//! Feeds every parser of bytes from elsewhere with what nobody would send.
//!
//! One program for all of [`targets`]; the variable `FUZZ_TARGET` names the one to run, and the arguments
//! are libFuzzer's (<https://llvm.org/docs/LibFuzzer.html>). scripts/fuzz builds it as libFuzzer wants it,
//! with counters in every branch, which the stable compiler can do, and runs it. The corpus is beside this
//! crate, a directory per target.
//!
//! A target fails if it panics (overflows are checked), if it takes more memory than its input explains,
//! or if it takes longer than scripts/fuzz allows.

#![no_main]

mod allocator;
mod sandbox;
mod targets;

use std::sync::LazyLock;

use allocator::Counting;
use targets::{TARGETS, Target};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static TARGET: LazyLock<&'static Target> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    let found = TARGETS.iter().find(|target| target.name == name);
    found.unwrap_or_else(|| {
        for target in TARGETS {
            println!("{}\t{}", target.name, target.checks);
        }
        std::process::exit(i32::from(!name.is_empty()));
    })
});

libfuzzer_sys::fuzz_target!(
    init: { LazyLock::force(&TARGET); },
    |input: &[u8]| allocator::limited(TARGET.memory(input.len()), || (TARGET.run)(input))
);
