//! The real programs, over loopback.

mod checker;
mod programs;
mod workloads;
