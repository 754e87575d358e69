//! What the library knows of NVIDIA's driver, without a process of ours.

mod capacity;
mod several;
mod vendor_vfio;
