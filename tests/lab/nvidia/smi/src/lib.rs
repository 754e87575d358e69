//! The shared part of the programs: NVML's calls, through any `libnvidia-ml.so.1` that
//! the dynamic linker finds.

pub mod raw;

/// The library's name.
pub const LIBRARY: &str = "libnvidia-ml.so.1";
