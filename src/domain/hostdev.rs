//! The `<hostdev>` of a device that a pool can hand out: how one is read, and how the
//! placeholder of a request is written. Attaching it is done elsewhere.

use super::{DomainDef, GuestPlace};
use crate::model::{DeviceName, Handle, MdevModel, MdevUuid, PciAddress, Rom};

/// The prefix of the aliases of our devices. libvirt accepts aliases from users only if
/// they begin with `ua-`.
pub const ALIAS_PREFIX: &str = "ua-vgpu-";

/// The alias of a request's device.
#[must_use]
pub fn alias(name: &DeviceName) -> String {
    format!("{ALIAS_PREFIX}{name}")
}

/// A `<hostdev mode='subsystem'>` of a mediated device or of a PCI function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hostdev {
    /// The device in its source.
    pub handle: Handle,
    /// Its alias: the user's, or the one that libvirt generated at start.
    pub alias: Option<String>,
    /// How QEMU presents a mediated device, as written: see [`MdevModel`].
    pub model: Option<String>,
    /// Whether libvirt itself binds a function to `vfio-pci` (`managed='yes'`). The
    /// function of a vGPU must stay with the driver that has made the vGPU.
    pub managed: bool,
    /// Whether it is the guest's display (`display`; for functions since libvirt 10.3).
    pub display: Option<bool>,
    /// The option ROM of a function, as the guest's firmware sees it.
    pub rom: Rom,
    /// Its place in the guest, if it is on a PCI bus and the XML says which.
    pub guest: Option<GuestPlace>,
}

impl Hostdev {
    /// The placeholder of a request, until a start makes the device.
    #[must_use]
    pub fn placeholder(handle: impl Into<Handle>, name: &DeviceName) -> Self {
        let hostdev = Self::bare(handle.into());
        Self {
            alias: Some(alias(name)),
            display: hostdev.handle.mdev().map(|_| false),
            ..hostdev
        }
    }

    /// The same with that option ROM, if it is a function.
    #[must_use]
    pub fn with_rom(self, rom: &Rom) -> Self {
        Self {
            rom: self.handle.pci().map(|_| rom.clone()).unwrap_or_default(),
            ..self
        }
    }

    /// The placeholder of a mediated device of that model.
    #[must_use]
    pub fn mdev_placeholder(uuid: MdevUuid, name: &DeviceName, model: MdevModel) -> Self {
        Self {
            model: Some(model.to_string()),
            // libvirt accepts `display` for PCI devices only.
            display: (model == MdevModel::VfioPci).then_some(false),
            ..Self::placeholder(uuid, name)
        }
    }

    /// A hostdev with only a source. It is enough to detach the device, because libvirt
    /// compares the source alone (`virDomainHostdevMatchSubsysMediatedDev`,
    /// `virDomainHostdevMatchSubsysPCI`).
    #[must_use]
    pub fn bare(handle: Handle) -> Self {
        Self {
            handle,
            alias: None,
            model: handle.mdev().map(|_| MdevModel::VfioPci.to_string()),
            managed: false,
            display: None,
            rom: Rom::default(),
            guest: None,
        }
    }

    /// Whether it has the alias of that request.
    #[must_use]
    pub fn is_named(&self, name: &DeviceName) -> bool {
        let named = self
            .alias
            .as_deref()
            .and_then(|it| it.strip_prefix(ALIAS_PREFIX));
        named == Some(name.as_str())
    }

    /// Whether it is the guest's display.
    #[must_use]
    pub fn is_display(&self) -> bool {
        self.display == Some(true)
    }

    /// The XML element.
    #[must_use]
    pub fn to_xml(&self) -> String {
        let mut attributes = match self.handle {
            Handle::Mdev(_) => "type='mdev'".to_owned(),
            Handle::Pci(_) => format!("type='pci' managed='{}'", yes_no(self.managed)),
        };
        if let Some(model) = &self.model {
            attributes += &format!(" model='{}'", escaped(model));
        }
        if let Some(display) = self.display {
            attributes += if display {
                " display='on'"
            } else {
                " display='off'"
            };
        }
        let alias = self.alias.as_ref().map_or(String::new(), |alias| {
            format!("\n  <alias name='{}'/>", escaped(alias))
        });
        format!(
            "<hostdev mode='subsystem' {attributes}>\n  \
               <source>\n    \
                 {}\n  \
               </source>{alias}{}{}\n\
             </hostdev>",
            source_address(self.handle),
            rom_element(&self.rom),
            self.guest
                .map_or(String::new(), |place| format!("\n  {place}"))
        )
    }
}

/// The `<rom>` of a function; empty if there is nothing to say.
fn rom_element(rom: &Rom) -> String {
    if *rom == Rom::default() {
        return String::new();
    }
    let bar = rom.bar.map_or(String::new(), |is_on| {
        format!(" bar='{}'", if is_on { "on" } else { "off" })
    });
    let file = rom
        .file
        .as_ref()
        .map_or(String::new(), |file| format!(" file='{}'", escaped(file)));
    format!("\n  <rom{bar}{file}/>")
}

fn yes_no(is_so: bool) -> &'static str {
    if is_so { "yes" } else { "no" }
}

fn escaped(text: &str) -> std::borrow::Cow<'_, str> {
    quick_xml::escape::escape(text)
}

/// The `<address>` in the source of a hostdev, as libvirt writes it.
pub(super) fn source_address(handle: Handle) -> String {
    match handle {
        Handle::Mdev(uuid) => format!("<address uuid='{uuid}'/>"),
        Handle::Pci(function) => {
            let (domain, bus, slot, function) = function.parts();
            format!(
                "<address domain='0x{domain:04x}' bus='0x{bus:02x}' slot='0x{slot:02x}' function='0x{function:x}'/>"
            )
        }
    }
}

impl DomainDef {
    /// The hostdev of the mediated device with that UUID.
    #[must_use]
    pub fn mdev(&self, uuid: MdevUuid) -> Option<&Hostdev> {
        self.hostdevs.iter().find(|one| one.handle == uuid.into())
    }

    /// The domain's PCI functions, whoever wrote them.
    pub fn functions(&self) -> impl Iterator<Item = PciAddress> {
        self.hostdevs.iter().filter_map(|one| one.handle.pci())
    }

    /// The PCI hostdev of a request. It is found by its alias, because its address
    /// changes when the domain's devices are replanned.
    #[must_use]
    pub fn function_of(&self, request: &DeviceName) -> Option<&Hostdev> {
        let mut functions = self
            .hostdevs
            .iter()
            .filter(|one| one.handle.pci().is_some());
        functions.find(|one| one.is_named(request))
    }

    /// The placeholder of a request: the mediated device with the fixed UUID of the
    /// request, or the function with the request's alias.
    #[must_use]
    pub fn placeholder_of(&self, request: &DeviceName) -> Option<&Hostdev> {
        let uuid = MdevUuid::for_device(self.uuid, request);
        self.mdev(uuid).or_else(|| self.function_of(request))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::{GuestSlot, parse};

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
        let placeholder = Hostdev::placeholder(uuid, &name);
        assert_eq!(
            placeholder.to_xml(),
            "<hostdev mode='subsystem' type='mdev' model='vfio-pci' display='off'>
  <source>
    <address uuid='614bc606-2078-5444-8c9c-4f8e98ae4dcc'/>
  </source>
  <alias name='ua-vgpu-gpu0'/>
</hostdev>"
        );
        assert_eq!(
            Hostdev::bare(uuid.into()).to_xml(),
            "<hostdev mode='subsystem' type='mdev' model='vfio-pci'>
  <source>
    <address uuid='614bc606-2078-5444-8c9c-4f8e98ae4dcc'/>
  </source>
</hostdev>"
        );
        let of_model = |model| Hostdev::mdev_placeholder(uuid, &name, model).to_xml();
        assert_eq!(of_model(MdevModel::VfioPci), placeholder.to_xml());
        assert_eq!(
            of_model(MdevModel::VfioAp),
            "<hostdev mode='subsystem' type='mdev' model='vfio-ap'>
  <source>
    <address uuid='614bc606-2078-5444-8c9c-4f8e98ae4dcc'/>
  </source>
  <alias name='ua-vgpu-gpu0'/>
</hostdev>"
        );
        let read = domain(&placeholder.to_xml());
        assert_eq!(read.hostdevs, [placeholder]);
        assert!(read.aliases.contains("ua-vgpu-gpu0"));
    }

    #[test]
    fn a_function_reads_back_as_what_it_is() {
        let name: DeviceName = "gpu1".parse().unwrap();
        let function: PciAddress = "0000:3b:01.7".parse().unwrap();
        let placeholder = Hostdev::placeholder(function, &name);
        assert_eq!(
            placeholder.to_xml(),
            "<hostdev mode='subsystem' type='pci' managed='no'>
  <source>
    <address domain='0x0000' bus='0x3b' slot='0x01' function='0x7'/>
  </source>
  <alias name='ua-vgpu-gpu1'/>
</hostdev>"
        );
        assert_eq!(
            Hostdev::bare(function.into()).to_xml(),
            "<hostdev mode='subsystem' type='pci' managed='no'>
  <source>
    <address domain='0x0000' bus='0x3b' slot='0x01' function='0x7'/>
  </source>
</hostdev>"
        );
        let read = domain(&placeholder.to_xml());
        assert_eq!(read.placeholder_of(&name), Some(&placeholder));
        assert_eq!(read.hostdevs, [placeholder]);
        assert!(read.aliases.contains("ua-vgpu-gpu1"));
        // The guest address is a different address, and numbers may be decimal.
        let other = "<hostdev mode='subsystem' type='pci' managed='yes'>
            <source><address domain='0' bus='59' slot='1'/></source>
            <address type='pci' domain='0x0000' bus='0x06' slot='0x00' function='0x0'/></hostdev>";
        let read = &domain(other).hostdevs[0];
        assert_eq!(read.handle.pci(), "0000:3b:01.0".parse().ok());
        assert!(read.managed);
    }

    #[test]
    fn a_request_has_the_device_of_its_uuid_or_the_function_of_its_name() {
        let name: DeviceName = "gpu0".parse().unwrap();
        let uuid = MdevUuid::for_device(
            "aaaaaaaa-0000-4000-8000-000000000001".parse().unwrap(),
            &name,
        );
        let other: MdevUuid = "614bc606-2078-5444-8c9c-4f8e98ae4dcc".parse().unwrap();
        let function: PciAddress = "0000:3b:01.7".parse().unwrap();
        let its = |hostdevs: &[Hostdev]| {
            let all: String = hostdevs.iter().map(Hostdev::to_xml).collect();
            domain(&all).placeholder_of(&name).map(|one| one.handle)
        };
        let elsewhere: DeviceName = "x".parse().unwrap();
        let on_function = Hostdev::placeholder(function, &name);
        let mdev = Hostdev::placeholder(uuid, &elsewhere);
        assert_eq!(its(&[on_function.clone(), mdev]), Some(uuid.into()));
        let foreign = Hostdev::placeholder(other, &name);
        assert_eq!(its(&[foreign.clone(), on_function]), Some(function.into()));
        let another = Hostdev::placeholder(function, &elsewhere);
        assert_eq!(its(&[foreign, another]), None);
    }

    fn any_hostdev() -> impl Strategy<Value = Hostdev> {
        let mdev = any::<u128>().prop_map(|bits| {
            let uuid = uuid::Uuid::from_u128(bits).to_string();
            Handle::Mdev(uuid.parse().unwrap())
        });
        let address = (any::<u32>(), any::<u8>(), 0u8..32, 0u8..8);
        let function = address.prop_map(|(domain, bus, slot, function)| {
            Handle::Pci(PciAddress::new(domain, bus, slot, function).unwrap())
        });
        let place = (any::<u8>(), 0u8..32, 0u8..8, any::<bool>()).prop_map(
            |(bus, slot, function, multifunction)| GuestPlace {
                at: GuestSlot { bus, slot },
                function,
                multifunction,
            },
        );
        let text = || prop::option::of("[a-z0-9<&'\" -]{0,12}");
        (
            prop_oneof![mdev, function],
            text(),
            text(),
            any::<bool>(),
            any::<Option<bool>>(),
            (any::<Option<bool>>(), text()),
            prop::option::of(place),
        )
            .prop_map(
                |(handle, alias, model, managed, display, (bar, file), guest)| Hostdev {
                    handle,
                    alias,
                    model: model.filter(|_| handle.mdev().is_some()),
                    managed: managed && handle.pci().is_some(),
                    display,
                    rom: match handle {
                        Handle::Pci(_) => Rom { bar, file },
                        Handle::Mdev(_) => Rom::default(),
                    },
                    guest,
                },
            )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(hostdev in any_hostdev()) {
            prop_assert_eq!(&domain(&hostdev.to_xml()).hostdevs, &[hostdev]);
        }
    }
}
