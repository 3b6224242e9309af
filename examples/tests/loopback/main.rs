//! The programs as they are run, over loopback.

mod checker;
mod programs;
mod workloads;
