//! The option ROM of a PCI function.

/// What a guest's firmware sees of a PCI function's option ROM (`<rom>` in domain XML).
/// libvirt's and QEMU's defaults hold where it says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rom {
    /// Whether the firmware sees it.
    pub bar: Option<bool>,
    /// Absolute path of a file whose contents it sees instead.
    pub file: Option<String>,
}
