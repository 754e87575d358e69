//! Tests of the library against drivers, without running our programs.

use virt_vgpu::device::pci::PciNames;

mod capacity;
mod settled;
mod several;
mod together;
mod vendor_vfio;
mod whole;

/// No vendor names: the rules here compare numbers.
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
