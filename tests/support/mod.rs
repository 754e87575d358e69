//! A stand-in for the machine: the kernel's mdev core and NVIDIA's driver in memory,
//! a mount that shows them to real processes, and a directory with pools, domains and claims
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
pub mod nvml_server;
pub mod process;
pub mod refused;
pub mod scene;
pub mod tree;
