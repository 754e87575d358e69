//! The placeholder hostdev that a request has in the domain XML, and the text by
//! which libvirt finds it again to detach it. Text only; who attaches it is not
//! its concern.

use crate::model::{DeviceName, MdevModel, MdevUuid, PciAddress};

/// What the alias of each of our devices begins with. libvirt takes aliases
/// from users only with `ua-` in front.
pub const ALIAS_PREFIX: &str = "ua-vgpu-";

/// The alias of a request's device.
#[must_use]
pub fn alias(name: &DeviceName) -> String {
    format!("{ALIAS_PREFIX}{name}")
}

/// The hostdev that stands for a PCI device until a start makes it.
#[must_use]
pub fn placeholder(uuid: MdevUuid, name: &DeviceName) -> String {
    placeholder_of(uuid, name, MdevModel::VfioPci)
}

/// The hostdev that stands for a device of that model.
#[must_use]
pub fn placeholder_of(uuid: MdevUuid, name: &DeviceName, model: MdevModel) -> String {
    // libvirt takes `display` for PCI devices only.
    let display = match model {
        MdevModel::VfioPci => " display='off'",
        MdevModel::VfioCcw | MdevModel::VfioAp => "",
    };
    format!(
        "<hostdev mode='subsystem' type='mdev' model='{model}'{display}>\n  \
           <source>\n    \
             <address uuid='{uuid}'/>\n  \
           </source>\n  \
           <alias name='{ALIAS_PREFIX}{name}'/>\n\
         </hostdev>"
    )
}

/// The hostdev as detaching wants it: libvirt compares the UUID alone
/// (`virDomainHostdevMatchSubsysMediatedDev`).
#[must_use]
pub fn detachable(uuid: MdevUuid) -> String {
    format!(
        "<hostdev mode='subsystem' type='mdev' model='vfio-pci'>\n  \
           <source>\n    \
             <address uuid='{uuid}'/>\n  \
           </source>\n\
         </hostdev>"
    )
}

/// The hostdev that names a virtual function whose driver is a vGPU's own.
/// `managed='no'` always: with `yes` libvirt would take the function from that
/// driver and bind it to `vfio-pci`.
#[must_use]
pub fn function_placeholder(function: PciAddress, name: &DeviceName) -> String {
    format!(
        "<hostdev mode='subsystem' type='pci' managed='no'>\n  \
           <source>\n    \
             {}\n  \
           </source>\n  \
           <alias name='{ALIAS_PREFIX}{name}'/>\n\
         </hostdev>",
        address_element(function)
    )
}

/// The same as detaching wants it: libvirt compares the source's address alone
/// (`virDomainHostdevMatchSubsysPCI`).
#[must_use]
pub fn detachable_function(function: PciAddress) -> String {
    format!(
        "<hostdev mode='subsystem' type='pci' managed='no'>\n  \
           <source>\n    \
             {}\n  \
           </source>\n\
         </hostdev>",
        address_element(function)
    )
}

/// `<address>` of a PCI function as libvirt writes it.
pub(super) fn address_element(function: PciAddress) -> String {
    let (domain, bus, slot, function) = function.parts();
    format!(
        "<address domain='0x{domain:04x}' bus='0x{bus:02x}' slot='0x{slot:02x}' function='0x{function:x}'/>"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{DomainDef, MdevHostdev, PciHostdev, parse};

    fn domain(device: &str) -> DomainDef {
        let xml = format!(
            "<domain><name>d</name><uuid>aaaaaaaa-0000-4000-8000-000000000001</uuid>\
             <devices>{device}</devices></domain>"
        );
        parse(&xml).unwrap()
    }

    #[test]
    fn a_placeholder_reads_back_as_what_it_stands_for() {
        let uuid: MdevUuid = "614bc606-2078-5444-8c9c-4f8e98ae4dcc".parse().unwrap();
        let name: DeviceName = "gpu0".parse().unwrap();
        let text = placeholder(uuid, &name);
        assert_eq!(
            text,
            "<hostdev mode='subsystem' type='mdev' model='vfio-pci' display='off'>
  <source>
    <address uuid='614bc606-2078-5444-8c9c-4f8e98ae4dcc'/>
  </source>
  <alias name='ua-vgpu-gpu0'/>
</hostdev>"
        );
        let read = domain(&text);
        let wanted = MdevHostdev {
            uuid,
            alias: Some(alias(&name)),
            model: Some("vfio-pci".to_owned()),
            display: false,
        };
        assert_eq!(read.hostdevs, [wanted]);
        assert!(read.aliases.contains("ua-vgpu-gpu0"));
        assert_eq!(domain(&detachable(uuid)).hostdevs[0].uuid, uuid);
    }

    #[test]
    fn a_function_reads_back_as_what_it_is() {
        let name: DeviceName = "gpu1".parse().unwrap();
        let function: PciAddress = "0000:3b:01.7".parse().unwrap();
        let text = function_placeholder(function, &name);
        assert_eq!(
            text,
            "<hostdev mode='subsystem' type='pci' managed='no'>
  <source>
    <address domain='0x0000' bus='0x3b' slot='0x01' function='0x7'/>
  </source>
  <alias name='ua-vgpu-gpu1'/>
</hostdev>"
        );
        let read = domain(&text);
        let wanted = PciHostdev {
            address: function,
            alias: Some(alias(&name)),
            managed: false,
            display: false,
        };
        assert_eq!(read.pci_hostdevs, [wanted]);
        assert!(read.aliases.contains("ua-vgpu-gpu1"));
        let detached = domain(&detachable_function(function));
        assert_eq!(detached.pci_hostdevs[0].address, function);
        // The guest's own address is another thing, and numbers may be decimal.
        let other = "<hostdev mode='subsystem' type='pci' managed='yes'>
            <source><address domain='0' bus='59' slot='1'/></source>
            <address type='pci' domain='0x0000' bus='0x06' slot='0x00' function='0x0'/></hostdev>";
        let read = &domain(other).pci_hostdevs[0];
        assert_eq!(read.address, "0000:3b:01.0".parse().unwrap());
        assert!(read.managed);
    }
}
