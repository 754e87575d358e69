//! NVML for the simulated host: the C interface of `libnvidia-ml.so.1`, answered from the
//! kernel module's state and the boards' tables. Nothing is kept between two calls except
//! the open file of `/dev/nvidiactl`, which blocks `sriov-manage` as the real library does.
//!
//! Temperatures, clocks and the like are made up, but always the same. No vGPU ever has a
//! licence: that is the guest driver's business, and there is none.
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
