//! What the firmware has told the kernel.

use std::io;

use super::{Sysfs, optional};

/// The variable of UEFI that says whether Secure Boot is on: four bytes of attributes, then the
/// value (`efivarfs`, UEFI Specification).
pub const SECURE_BOOT: &str =
    "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";

/// Whether Secure Boot is on; None: the firmware has none, or does not tell.
///
/// # Errors
/// The kernel's errno with the path.
pub fn secure_boot(sysfs: &dyn Sysfs) -> io::Result<Option<bool>> {
    const LENGTH: usize = 5;
    let bytes = optional(sysfs.read_bytes(SECURE_BOOT, LENGTH));
    let bytes = bytes.map_err(|error| super::at(SECURE_BOOT, &error))?;
    Ok(bytes.and_then(|bytes| Some(*bytes.get(LENGTH - 1)? == 1)))
}
