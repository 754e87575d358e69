//! The placeholder hostdev that a request has in the domain XML, and the text by
//! which libvirt finds it again to detach it. Text only; who attaches it is not
//! its concern.

use crate::model::{DeviceName, MdevUuid};

/// What the alias of each of our devices begins with. libvirt takes aliases
/// from users only with `ua-` in front.
pub const ALIAS_PREFIX: &str = "ua-vgpu-";

/// The alias of a request's device.
#[must_use]
pub fn alias(name: &DeviceName) -> String {
    format!("{ALIAS_PREFIX}{name}")
}

/// The hostdev that stands for the device until a start makes it.
#[must_use]
pub fn placeholder(uuid: MdevUuid, name: &DeviceName) -> String {
    format!(
        "<hostdev mode='subsystem' type='mdev' model='vfio-pci' display='off'>\n  \
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{MdevHostdev, parse};

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
        let domain = |device: &str| {
            let xml = format!(
                "<domain><name>d</name><uuid>aaaaaaaa-0000-4000-8000-000000000001</uuid>\
                 <devices>{device}</devices></domain>"
            );
            parse(&xml).unwrap()
        };
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
}
