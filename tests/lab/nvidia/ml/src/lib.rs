//! NVML for the simulated host: the C interface of `libnvidia-ml.so.1`, answered from
//! the kernel module's state and the boards' tables. Between two calls it only keeps
//! `/dev/nvidiactl` open, which blocks `sriov-manage` as the real library does.
//!
//! Temperatures, clocks and similar values are invented, but constant. No vGPU ever has
//! a licence: only the guest's driver could get one, and there is none.
#![allow(non_snake_case, reason = "the names of the C interface")]

mod abi;
mod code;
mod gpu;
mod session;
mod structs;

mod compute;
mod device;
mod instances;
mod metadata;
mod mig;
mod placements;
mod scheduler;
mod system;
mod utilization;
mod vgpu_types;

#[cfg(test)]
mod tests;
