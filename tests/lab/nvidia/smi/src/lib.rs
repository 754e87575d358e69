//! What the programs have in common: NVML's calls, by whichever `libnvidia-ml.so.1` the dynamic
//! linker finds.

pub mod raw;

/// The library's name.
pub const LIBRARY: &str = "libnvidia-ml.so.1";
