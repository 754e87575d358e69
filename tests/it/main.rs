//! The integration tests of virt-vgpu, all in one program: the library and the model of
//! a machine are linked only once. `README.md` says where a test belongs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says what is wrong by panicking"
)]
#![cfg_attr(
    not(all(feature = "cli", feature = "faults", feature = "nvml")),
    allow(dead_code, reason = "the tests that use it are left out")
)]

mod benchmark;
#[cfg(feature = "cli")]
mod cli;
mod contract;
#[cfg(feature = "faults")]
mod crash;
#[cfg(feature = "cli")]
mod daemon;
mod dependency_rule;
#[cfg(feature = "cli")]
mod doctor;
mod driver;
#[cfg(feature = "cli")]
mod driver_set;
mod hook;
mod host_needs;
mod kinds;
#[cfg(all(feature = "cli", feature = "faults"))]
mod maintenance;
#[cfg(feature = "nvml")]
mod nvml;
#[cfg(feature = "cli")]
mod placement;
mod support;
#[cfg(feature = "cli")]
mod udev;
