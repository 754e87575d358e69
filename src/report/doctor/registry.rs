//! The table of all checks, in the order in which their findings are listed: what everything
//! else needs comes first.

use super::{
    Check, hooks, iommu, limits, logs, modprobe, nvidia, nvidia_driver, pools, rivals, sriov,
    tokens, versions,
};

/// All checks.
pub const CHECKS: &[Check] = &[
    // The hardware and the kernel.
    iommu::OFF,
    iommu::NO_REMAPPING,
    iommu::SHARED_GROUP,
    iommu::NO_VFIO_PCI,
    iommu::MODULES_GONE,
    sriov::OFF,
    sriov::FEWER,
    sriov::NO_ROOM,
    sriov::BUS_NUMBERS,
    sriov::NO_ARI,
    logs::SRIOV_REFUSED,
    logs::NO_INTERRUPTS,
    // Modules.
    modprobe::IDS,
    modprobe::SOFTDEP,
    modprobe::INSTALL,
    modprobe::BLACKLIST,
    // libvirt.
    versions::SILENT,
    versions::TOO_OLD,
    versions::MIGRATION,
    hooks::MISSING,
    hooks::NOT_EXECUTABLE,
    hooks::UNSEEN,
    hooks::AFTER_OTHERS,
    hooks::LEFTOVER,
    limits::LOCKED,
    limits::HUGE_PAGES,
    logs::DENIALS,
    // Other programs.
    rivals::HOOK,
    rivals::KUBEVIRT,
    rivals::DEVICE_MANAGER,
    rivals::MIG_MANAGER,
    rivals::MDEVCTL,
    // NVIDIA.
    nvidia_driver::NOUVEAU,
    nvidia_driver::NOT_BUILT,
    nvidia_driver::UNSIGNED,
    nvidia_driver::NOT_LOADED,
    nvidia_driver::WRONG_DRIVER,
    nvidia_driver::MANAGER_DOWN,
    nvidia_driver::NO_FUNCTIONS,
    nvidia::OPENERS,
    logs::UNBIND_LOCK,
    nvidia_driver::UNREADY,
    nvidia::REBOUND,
    nvidia::MIG_ON,
    logs::NO_INSTANCE,
    logs::PLUGIN_FAILED,
    logs::NO_UUID,
    logs::NO_TYPE,
    logs::NO_CORE,
    logs::GUEST_DRIVER,
    logs::UNLICENSED,
    nvidia::FOREIGN_TYPE,
    nvidia::BOOT_UNIT,
    // virt-vgpu itself.
    pools::UNUSABLE,
    pools::RIVALS,
    pools::SHADOWED,
    pools::NO_TYPE,
    pools::SETTINGS,
    pools::DIFFER,
    pools::QUARANTINED,
    pools::CLAIMS,
    tokens::ENDS,
    pools::DAEMON,
];

/// The check of that name.
#[must_use]
pub fn check(id: &str) -> Option<&'static Check> {
    CHECKS.iter().find(|check| check.id == id)
}
