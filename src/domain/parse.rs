//! Reads the XML of a whole domain into a [`DomainDef`] in one pass. Elements that
//! [`DomainDef`] has no field for are skipped.

use std::{borrow::Cow, str::FromStr};

use super::{
    Controller, Disk, DomainDef, DrivePosition, GuestPlace, GuestSlot, Hostdev, MAX_REQUESTS,
    Request,
    error::{DomainError, Problem, one_line},
    reader::{Item, Scanner, Space, Tag},
    tag::{check_devices_tag, described, read_request},
};
use crate::model::{
    CpuSet, DomainName, DomainUuid, Handle, InvalidName, MdevUuid, PciAddress, Rom,
};

/// Reads a domain's XML.
///
/// # Errors
/// When the text is not well-formed, is not a domain, is too large (8 MiB, 256 levels),
/// or when a request in it is invalid.
pub fn parse(xml: &str) -> Result<DomainDef, DomainError> {
    let mut scanner = Scanner::new(xml)?;
    let mut builder = Builder::default();
    let mut places: Vec<Location> = Vec::with_capacity(16);
    loop {
        match scanner.next()? {
            Item::Start(tag) => {
                let place = builder.enter(places.last().copied(), &scanner, &tag)?;
                places.push(place);
            }
            Item::End(_) => {
                if let Some(place) = places.pop() {
                    builder.leave(place, &scanner)?;
                }
            }
            Item::Text(text) => {
                if let Some(Location::Name | Location::Uuid) = places.last() {
                    builder.text.push_str(&text);
                }
            }
            Item::Aside => {}
            Item::Eof => return builder.finish(),
        }
    }
}

/// Where in the domain the reader is: an element with children of interest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Location {
    Domain,
    Name,
    Uuid,
    Metadata,
    Requests,
    Request,
    Os,
    NumaTune,
    CpuTune,
    Devices,
    /// A device of which only the alias matters.
    Device,
    Hostdev,
    HostdevSource,
    ScsiHostdev,
    Disk,
    /// Any other element, with all that is in it.
    Elsewhere,
}

#[derive(Debug, Default)]
struct Builder {
    name: Option<DomainName>,
    uuid: Option<DomainUuid>,
    requests: Vec<Request>,
    requests_seen: bool,
    hostdevs: Vec<Hostdev>,
    disks: Vec<Disk>,
    scsi_hostdevs: Vec<DrivePosition>,
    controllers: Vec<Controller>,
    aliases: std::collections::BTreeSet<String>,
    slots: std::collections::BTreeSet<GuestSlot>,
    memory_nodes: Vec<CpuSet>,
    vcpu: Option<CpuSet>,
    vcpu_pins: Vec<CpuSet>,
    machine: Option<String>,
    arch: Option<String>,
    hostdev: HostdevDraft,
    disk: Disk,
    text: String,
    text_start: usize,
}

/// A hostdev while its children are read.
#[derive(Debug, Default)]
struct HostdevDraft {
    start: usize,
    is_mdev: bool,
    handle: Option<Handle>,
    alias: Option<String>,
    model: Option<String>,
    display: Option<bool>,
    managed: bool,
    rom: Rom,
    guest: Option<GuestPlace>,
}

impl Builder {
    fn enter<'x>(
        &mut self,
        parent: Option<Location>,
        scanner: &Scanner<'x>,
        tag: &Tag<'x>,
    ) -> Result<Location, DomainError> {
        let Some(parent) = parent else {
            return match (tag.space, tag.local) {
                (Space::None, "domain") => Ok(Location::Domain),
                _ => Err(scanner.fail(
                    tag.span.start,
                    Problem::WrongRoot {
                        found: one_line(tag.name),
                        wanted: "domain",
                    },
                )),
            };
        };
        match tag.space {
            Space::Ours => self.enter_ours(parent, scanner, tag),
            Space::None => self.enter_libvirts(parent, scanner, tag),
            Space::Other => Ok(Location::Elsewhere),
        }
    }

    /// An element of our namespace. In its place it must be valid; anywhere else it is
    /// a copy that somebody made and has no meaning.
    fn enter_ours<'x>(
        &mut self,
        parent: Location,
        scanner: &Scanner<'x>,
        tag: &Tag<'x>,
    ) -> Result<Location, DomainError> {
        let fail = |problem| {
            scanner
                .fail(tag.span.start, problem)
                .element(described(tag))
        };
        match (parent, tag.local) {
            (Location::Metadata, "devices") => {
                if self.requests_seen {
                    return Err(fail(Problem::Repeated));
                }
                self.requests_seen = true;
                check_devices_tag(scanner, tag)?;
                Ok(Location::Requests)
            }
            (Location::Metadata, _) => Err(fail(Problem::UnknownElement("devices"))),
            (Location::Requests, "device") => {
                let request = read_request(scanner, tag)?;
                let fail = |problem| {
                    let element = format!("<{} name='{}'>", tag.name, request.name);
                    scanner.fail(tag.span.start, problem).element(element)
                };
                if self.requests.iter().any(|other| other.name == request.name) {
                    return Err(fail(Problem::DuplicateName));
                }
                if self.requests.len() == MAX_REQUESTS {
                    return Err(fail(Problem::TooMany));
                }
                self.requests.push(request);
                Ok(Location::Request)
            }
            (Location::Requests, _) => Err(fail(Problem::UnknownElement("device"))),
            (Location::Request, _) => Err(fail(Problem::UnknownElement("none"))),
            _ => Ok(Location::Elsewhere),
        }
    }

    fn enter_libvirts<'x>(
        &mut self,
        parent: Location,
        scanner: &Scanner<'x>,
        tag: &Tag<'x>,
    ) -> Result<Location, DomainError> {
        let get = |name| scanner.attribute(tag, name);
        let owned = |name| get(name).map(|value| value.map(Cow::into_owned));
        match (parent, tag.local) {
            (Location::Domain, "name") => return self.begin_text(Location::Name, scanner, tag),
            (Location::Domain, "uuid") => return self.begin_text(Location::Uuid, scanner, tag),
            (Location::Domain, "metadata") => return Ok(Location::Metadata),
            (Location::Domain, "os") => return Ok(Location::Os),
            (Location::Domain, "numatune") => return Ok(Location::NumaTune),
            (Location::Domain, "cputune") => return Ok(Location::CpuTune),
            (Location::Domain, "devices") => return Ok(Location::Devices),
            (Location::Domain, "vcpu") => self.vcpu = parsed(scanner, tag, get("cpuset")?)?,
            (Location::CpuTune, "vcpupin") => {
                self.vcpu_pins
                    .extend(parsed::<CpuSet>(scanner, tag, get("cpuset")?)?);
            }
            (Location::NumaTune, "memory" | "memnode") => {
                self.memory_nodes
                    .extend(parsed::<CpuSet>(scanner, tag, get("nodeset")?)?);
            }
            (Location::Os, "type") => {
                (self.arch, self.machine) = (owned("arch")?, owned("machine")?);
            }
            (Location::Devices, _) => return self.enter_device(scanner, tag),
            (
                Location::Device | Location::Hostdev | Location::ScsiHostdev | Location::Disk,
                "alias",
            ) => {
                self.alias(parent, owned("name")?);
            }
            (
                Location::Device | Location::Hostdev | Location::ScsiHostdev | Location::Disk,
                "address",
            ) if get("type")?.as_deref() == Some("pci") => {
                if let Some(place) = guest_place(scanner, tag)? {
                    self.slots.insert(place.at);
                    if parent == Location::Hostdev {
                        self.hostdev.guest = Some(place);
                    }
                }
            }
            (Location::Hostdev, "rom") if !self.hostdev.is_mdev => {
                self.hostdev.rom = Rom {
                    bar: get("bar")?.map(|word| word == "on"),
                    file: owned("file")?,
                };
            }
            (Location::Hostdev, "source") => return Ok(Location::HostdevSource),
            (Location::HostdevSource, "address") if self.hostdev.is_mdev => {
                let uuid = get("uuid")?.map(|text| MdevUuid::from_xml(&text));
                let uuid = uuid.transpose().map_err(|wrong| {
                    let problem = Problem::Value(wrong);
                    scanner
                        .fail(tag.span.start, problem)
                        .element(described(tag))
                })?;
                self.hostdev.handle = uuid.map(Handle::Mdev);
            }
            (Location::HostdevSource, "address") => {
                self.hostdev.handle = pci(scanner, tag)?.map(Handle::Pci);
            }
            (Location::Disk, "target") => {
                self.disk.target = owned("dev")?.unwrap_or_default();
                self.disk.bus = owned("bus")?;
            }
            (Location::Disk, "source") => self.disk.source = owned("file")?,
            (Location::Disk, "address") => self.disk.position = drive(scanner, tag)?,
            (Location::ScsiHostdev, "address") => self.scsi_hostdevs.extend(drive(scanner, tag)?),
            _ => {}
        }
        Ok(Location::Elsewhere)
    }

    fn enter_device<'x>(
        &mut self,
        scanner: &Scanner<'x>,
        tag: &Tag<'x>,
    ) -> Result<Location, DomainError> {
        let get = |name| scanner.attribute(tag, name);
        let owned = |name| get(name).map(|value| value.map(Cow::into_owned));
        match tag.local {
            "hostdev" if get("mode")?.as_deref() == Some("subsystem") => {
                let is_mdev = match get("type")?.as_deref() {
                    Some("mdev") => true,
                    Some("pci") => false,
                    Some("scsi") => return Ok(Location::ScsiHostdev),
                    _ => return Ok(Location::Device),
                };
                self.hostdev = HostdevDraft {
                    start: tag.span.start,
                    model: if is_mdev { owned("model")? } else { None },
                    is_mdev,
                    display: get("display")?.map(|word| word == "on"),
                    managed: !is_mdev && get("managed")?.as_deref() == Some("yes"),
                    ..HostdevDraft::default()
                };
                Ok(Location::Hostdev)
            }
            "disk" => {
                self.disk = Disk {
                    device: owned("device")?.unwrap_or_else(|| "disk".to_owned()),
                    ..Disk::default()
                };
                Ok(Location::Disk)
            }
            "controller" => {
                self.controllers.push(Controller {
                    kind: owned("type")?.unwrap_or_default(),
                    index: parsed(scanner, tag, get("index")?)?.map_or(0, |Number(index)| index),
                    model: owned("model")?,
                });
                Ok(Location::Device)
            }
            _ => Ok(Location::Device),
        }
    }

    fn alias(&mut self, parent: Location, name: Option<String>) {
        let Some(name) = name else { return };
        if name.starts_with("ua-") {
            self.aliases.insert(name.clone());
        }
        match parent {
            Location::Hostdev => self.hostdev.alias = Some(name),
            Location::Disk => self.disk.alias = Some(name),
            _ => {}
        }
    }

    /// `<name>` and `<uuid>` decide who owns the devices, so there must be exactly one
    /// of each.
    fn begin_text<'x>(
        &mut self,
        place: Location,
        scanner: &Scanner<'x>,
        tag: &Tag<'x>,
    ) -> Result<Location, DomainError> {
        let seen = match place {
            Location::Name => self.name.is_some(),
            _ => self.uuid.is_some(),
        };
        if seen {
            return Err(scanner
                .fail(tag.span.start, Problem::Repeated)
                .element(described(tag)));
        }
        self.text.clear();
        self.text_start = tag.span.start;
        Ok(place)
    }

    fn leave(&mut self, place: Location, scanner: &Scanner<'_>) -> Result<(), DomainError> {
        let value = |element: &str, start| {
            let element = element.to_owned();
            move |wrong| scanner.fail(start, Problem::Value(wrong)).element(element)
        };
        match place {
            Location::Name => {
                let name = self
                    .text
                    .parse()
                    .map_err(value("<name>", self.text_start))?;
                self.name = Some(name);
            }
            Location::Uuid => {
                let uuid = DomainUuid::from_xml(&self.text);
                self.uuid = Some(uuid.map_err(value("<uuid>", self.text_start))?);
            }
            Location::Hostdev => {
                let draft = std::mem::take(&mut self.hostdev);
                let Some(handle) = draft.handle else {
                    // libvirt accepts no PCI hostdev without an address.
                    if !draft.is_mdev {
                        return Ok(());
                    }
                    let problem = Problem::MissingElement("address uuid='…'");
                    let error = scanner.fail(draft.start, problem);
                    return Err(error.element("<hostdev type='mdev'>"));
                };
                self.hostdevs.push(Hostdev {
                    handle,
                    alias: draft.alias,
                    model: draft.model,
                    managed: draft.managed,
                    display: draft.display,
                    rom: draft.rom,
                    guest: draft.guest,
                });
            }
            Location::Disk => {
                let disk = std::mem::take(&mut self.disk);
                // libvirt accepts no disk without a target.
                if !disk.target.is_empty() {
                    self.disks.push(disk);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(self) -> Result<DomainDef, DomainError> {
        let missing = |element| DomainError::new(Problem::MissingElement(element));
        let union = |sets: &[CpuSet]| sets.iter().flat_map(CpuSet::iter).collect();
        Ok(DomainDef {
            uuid: self.uuid.ok_or_else(|| missing("uuid"))?,
            name: self.name.ok_or_else(|| missing("name"))?,
            requests: self.requests,
            hostdevs: self.hostdevs,
            disks: self.disks,
            scsi_hostdevs: self.scsi_hostdevs,
            controllers: self.controllers,
            aliases: self.aliases,
            slots: self.slots,
            memory_nodes: union(&self.memory_nodes),
            cpus: self.vcpu.unwrap_or_else(|| union(&self.vcpu_pins)),
            machine: self.machine,
            arch: self.arch,
        })
    }
}

/// An index as libvirt writes it, decimal.
struct Number(u32);

impl FromStr for Number {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        text.parse()
            .map(Self)
            .map_err(|_| InvalidName::new("an index", text))
    }
}

/// An `<address>`, if it is on a drive controller.
fn drive<'x>(scanner: &Scanner<'x>, tag: &Tag<'x>) -> Result<Option<DrivePosition>, DomainError> {
    if scanner.attribute(tag, "type")?.as_deref() != Some("drive") {
        return Ok(None);
    }
    let number = |name| -> Result<u32, DomainError> {
        let value = scanner.attribute(tag, name)?;
        Ok(parsed(scanner, tag, value)?.map_or(0, |Number(number)| number))
    };
    Ok(Some(DrivePosition {
        controller: number("controller")?,
        bus: number("bus")?,
        target: number("target")?,
        unit: number("unit")?,
    }))
}

/// The `<address>` of a PCI function. Its numbers are hexadecimal with `0x` or decimal
/// without, as in libvirt.
fn pci<'x>(scanner: &Scanner<'x>, tag: &Tag<'x>) -> Result<Option<PciAddress>, DomainError> {
    let number = |name| -> Result<Option<u32>, DomainError> {
        let value = scanner.attribute(tag, name)?;
        Ok(value.and_then(|text| match text.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        }))
    };
    let domain = number("domain")?.unwrap_or(0);
    let (Some(bus), Some(slot)) = (number("bus")?, number("slot")?) else {
        return Ok(None);
    };
    let function = number("function")?.unwrap_or(0);
    let bytes = (
        u8::try_from(bus),
        u8::try_from(slot),
        u8::try_from(function),
    );
    let (Ok(bus), Ok(slot), Ok(function)) = bytes else {
        return Ok(None);
    };
    Ok(PciAddress::new(domain, bus, slot, function))
}

/// The guest's address of a device; None outside of the guest's PCI domain 0.
fn guest_place<'x>(
    scanner: &Scanner<'x>,
    tag: &Tag<'x>,
) -> Result<Option<GuestPlace>, DomainError> {
    let Some((0, bus, slot, function)) = pci(scanner, tag)?.map(PciAddress::parts) else {
        return Ok(None);
    };
    let multifunction = scanner.attribute(tag, "multifunction")?;
    Ok(Some(GuestPlace {
        at: GuestSlot { bus, slot },
        function,
        multifunction: multifunction.as_deref() == Some("on"),
    }))
}

fn parsed<'x, T: FromStr<Err = InvalidName>>(
    scanner: &Scanner<'x>,
    tag: &Tag<'x>,
    value: Option<Cow<'_, str>>,
) -> Result<Option<T>, DomainError> {
    value.map(|text| text.parse()).transpose().map_err(|wrong| {
        scanner
            .fail(tag.span.start, Problem::Value(wrong))
            .element(described(tag))
    })
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
