//! Whole migrations between lab hosts, seen from outside.
//!
//! One program, so that tests of all kinds share the processors.

mod attributes;
mod binds;
mod cancelled;
mod chains;
mod evacuate;
mod failures;
mod firewalls;
mod floods;
mod flows;
mod forwards;
mod growth;
mod history;
mod hooks;
mod images;
mod inits;
mod journeys;
mod kinds;
mod memory;
mod metrics;
mod neighbours;
mod outages;
mod ports;
mod power;
mod questions;
mod readings;
mod refusals;
mod removed;
mod segments;
mod series;
mod services;
mod settings;
mod strangers;
mod supervision;
mod timers;
mod trespasses;
mod trust;
mod workloads;
