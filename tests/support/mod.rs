//! A stand-in for the machine: the kernel's mdev core in memory, a mount that
//! shows it to real processes, and a directory with pools, domains and claims
//! around it. Each test program uses a part of it.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test program compiles all of it and uses a part"
)]

pub mod domain;
pub mod kernel;
pub mod machine;
pub mod mount;
pub mod process;
pub mod refused;
pub mod scene;
pub mod tree;
