//! What the library knows of NVIDIA's driver, without a process of ours.

mod capacity;
mod vendor_vfio;
