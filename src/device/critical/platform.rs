//! Functions that are parts of the machine itself: bridges, the chipset's controllers, the
//! devices of the TPM and of the management controller (BMC).

use std::{collections::BTreeMap, io};

use super::{function::Function, need::Need, place};
use crate::{device::Sysfs, model::PciAddress};

/// Makers of chipsets: Intel, AMD, Hygon, Zhaoxin.
const CHIPSETS: &[u16] = &[0x8086, 0x1022, 0x1d94, 0x1d17];

/// What the machine itself needs.
#[derive(Debug, Default)]
pub(super) struct Platform {
    /// Functions with a TPM below them, and the rest of the chain.
    tpms: BTreeMap<PciAddress, Vec<String>>,
    unread: Option<String>,
}

impl Platform {
    /// Reads it.
    pub(super) fn read(sysfs: &dyn Sysfs) -> Self {
        let mut platform = Self::default();
        if let Err(error) = platform.read_tpms(sysfs) {
            platform.unread = Some(error.to_string());
        }
        platform
    }

    fn read_tpms(&mut self, sysfs: &dyn Sysfs) -> io::Result<()> {
        for (name, path) in place::of_class(sysfs, "tpm")? {
            for function in place::functions(&path) {
                self.tpms.insert(function, vec![name.clone()]);
            }
        }
        Ok(())
    }

    /// Why a function is a part of the machine.
    pub(super) fn needs(&self, sysfs: &dyn Sysfs, function: &Function, needs: &mut Vec<Need>) {
        let address = function.address;
        if let Some(rest) = self.tpms.get(&address) {
            needs.push(Need::used(address, rest.clone()));
        }
        if let Some(part) = part(sysfs, function) {
            needs.push(Need::used(address, vec![part.to_owned()]));
        }
        // A TPM hangs on a serial bus, a chipset's controller or the processor's own security.
        let may_have = matches!(function.class, 0x0601 | 0x0c80 | 0x1080 | 0x1180);
        if let (Some(why), true) = (&self.unread, may_have) {
            needs.push(Need::unread(address, why));
        }
    }
}

/// Its part in the machine.
fn part(sysfs: &dyn Sysfs, function: &Function) -> Option<&'static str> {
    const NVIDIA: u16 = 0x10de;
    let is_chipset = || CHIPSETS.contains(&function.vendor) && function.is_integrated(sysfs);
    let is = |driver: &str| {
        let found = function.driver(sysfs);
        found.is_ok_and(|found| found.as_deref() == Some(driver))
    };
    if let Some(part) = management(function) {
        return Some(part);
    }
    Some(match function.class {
        0x0600 => "host bridge",
        0x0601 => "ISA bridge",
        0x0604 => "PCI bridge",
        // NVSwitch is of this class, and whole boards go to VMs with it.
        0x0680 if function.vendor == NVIDIA => return None,
        0x0602 | 0x0603 | 0x0605..=0x06ff => "bridge",
        0x0800..=0x0804 | 0x0806 => "system controller",
        0x0807 => "event collector of the root complex",
        0x0502 => "memory of the host (CXL)",
        0x0c05 => "SMBus controller",
        0x0c07 => "IPMI interface of the management controller",
        0x0780 if is("mei_me") => "management engine",
        0x0780
            if is_chipset() && function.vendor == 0x8086 && function.address.parts().2 == 0x16 =>
        {
            "management engine"
        }
        0x1080 if function.vendor == 0x1022 => "secure processor (TPM)",
        0x0880 if (is("idxd") || is("ioatdma")) => return None,
        0x0500 | 0x0580 | 0x0880 | 0x0c80 | 0x1101 | 0x1180 if is_chipset() => {
            "controller of the chipset"
        }
        _ => return None,
    })
}

/// Functions that a management controller (BMC) shows to the host.
fn management(function: &Function) -> Option<&'static str> {
    let is_theirs = match (function.vendor, function.device) {
        // ASPEED; Huawei's iBMC; XGI; Silicon Motion's servers.
        (0x1a03 | 0x18ca, _) | (0x19e5, 0x1710 | 0x1711) => true,
        // Matrox G200 in its versions for servers; HPE's iLO.
        (0x102b, 0x0522 | 0x0530..=0x0538) | (0x103c, 0x3300..=0x3307) => true,
        _ => false,
    };
    is_theirs.then_some("management controller (BMC)")
}
