//! NVML
