//! What the library knows of NVIDIA's driver, without a process of ours.

use virt_vgpu::device::pci::PciNames;

mod capacity;
mod settled;
mod several;
mod vendor_vfio;

/// No names of vendors: the rules here compare numbers.
#[derive(Debug)]
struct NoNames;

impl PciNames for NoNames {
    fn vendor(&self, _: u16) -> Option<String> {
        None
    }

    fn device(&self, _: u16, _: u16) -> Option<String> {
        None
    }

    fn host(&self) -> Option<String> {
        None
    }
}
