//! Computes what must change in a domain's definition for it to have the wanted
//! devices: requests, placeholder hostdevs, the CD-ROM with guest drivers. This is a
//! function of the definition; it calls neither libvirt nor the host.

use anyhow::{bail, ensure};
use serde::Serialize;

use super::{
    change::{Change, Device},
    target::Definition,
};
use crate::{
    allocate::number_allowed,
    config::Pool,
    domain::{self, Card, DomainDef, Hostdev, MAX_REQUESTS, Request, alias},
    model::{DeviceName, MdevUuid, PciAddress, PoolName, Together},
};

/// The wanted devices.
#[derive(Debug)]
pub struct AttachRequest<'a> {
    pub pool: &'a Pool,
    pub name: Option<&'a DeviceName>,
    pub count: usize,
    pub guest_drivers: bool,
    pub together: Option<Together>,
}

/// The changes, and their result for each device.
#[derive(Debug)]
pub struct Attachment {
    pub changes: Vec<Change>,
    pub devices: Vec<FilledDevice>,
    /// The requests of the devices after the changes.
    pub requests: Vec<Request>,
    pub cdrom: Option<CdRomOutcome>,
}

/// A requested device.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct FilledDevice {
    pub name: DeviceName,
    pub uuid: MdevUuid,
    pub pool: PoolName,
    pub request: RequestChange,
    pub hostdev: HostdevChange,
    /// Its virtual function, if the XML names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function: Option<PciAddress>,
    /// The other functions that come along on the same slot of the guest.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub along: Vec<PciAddress>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum RequestChange {
    Unchanged,
    Added,
    /// The request now asks for guest drivers, says that the device is optional, or says
    /// what it should share with others.
    Changed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostdevChange {
    Unchanged,
    Added,
    /// The hostdev had the UUID of another domain's device, for example after cloning.
    Mended,
    /// The hostdev had another model than the type of its pool.
    Remodelled,
    /// The hostdevs of its card were not those that its pool hands out together.
    Completed,
    /// The device is optional: it gets no hostdev until it is plugged in.
    Later,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "change", content = "target", rename_all = "kebab-case")]
pub enum CdRomOutcome {
    Added(String),
    /// The CD-ROM had the path of another domain.
    Mended(String),
}

/// A function, with what comes along.
pub(super) fn with_others(function: PciAddress, along: &[PciAddress]) -> String {
    let others: Vec<String> = along.iter().map(ToString::to_string).collect();
    match others.as_slice() {
        [] => function.to_string(),
        others => format!("{function} with {}", others.join(", ")),
    }
}

impl FilledDevice {
    /// Its functions, otherwise its UUID.
    pub fn source(&self) -> String {
        match self.function {
            Some(function) => with_others(function, &self.along),
            None => format!("uuid {}", self.uuid),
        }
    }

    pub fn is_unchanged(&self) -> bool {
        self.request == RequestChange::Unchanged
            && matches!(
                self.hostdev,
                HostdevChange::Unchanged | HostdevChange::Later
            )
    }
}

impl Attachment {
    /// Computes the changes for the request.
    ///
    /// # Errors
    /// When something in the definition conflicts, or `choose` finds no placeholders
    /// for the devices.
    pub fn work_out(
        definition: &Definition,
        to_attach: &AttachRequest<'_>,
        choose: impl FnOnce(&[DeviceName]) -> anyhow::Result<Vec<Card>>,
    ) -> anyhow::Result<Self> {
        let def = &definition.def;
        if to_attach.guest_drivers && to_attach.pool.guest_driver.is_none() {
            bail!(
                "pool '{}' has no guest drivers; set 'guest-driver' in {}",
                to_attach.pool.name,
                to_attach.pool.origin.display()
            );
        }
        let mut asked = Asked {
            element: definition.element.clone(),
            requests: def.requests.clone(),
        };
        let (mut devices, mut hostdevs) = (Vec::new(), Vec::new());
        let mut settled = Vec::new();
        for name in names(def, to_attach)? {
            let uuid = MdevUuid::for_device(def.uuid, &name);
            let present = hostdev_of(def, &name, uuid)?;
            let request = asked.settle(&name, to_attach, present.is_some())?;
            settled.push((name, uuid, present, request));
        }
        check_limit(def, &asked.requests, to_attach.pool)?;
        let lacks = |present: &Option<&Hostdev>, name: &DeviceName| {
            present.is_none() && !asked.is_optional(name)
        };
        let lacking = settled
            .iter()
            .filter(|(name, _, present, _)| lacks(present, name));
        let lacking: Vec<DeviceName> = lacking.map(|(name, ..)| name.clone()).collect();
        let mut chosen = choose(&lacking)?.into_iter();
        let mut planned = def.clone();
        for (name, uuid, present, request) in settled {
            let (mut function, mut along) = (None, Vec::new());
            let hostdev = match present {
                Some(old) if is_of_another(old, uuid) => {
                    hostdevs.extend(mend(definition, &name, old, uuid)?);
                    HostdevChange::Mended
                }
                Some(hostdev) => {
                    function = hostdev.handle.pci();
                    let others = def.others_of_card(&name);
                    along.extend(others.filter_map(|one| one.handle.pci()));
                    HostdevChange::Unchanged
                }
                None if asked.is_optional(&name) => HostdevChange::Later,
                None => {
                    let card = chosen.next();
                    let card = card.unwrap_or_else(|| Hostdev::placeholder(uuid, &name).into());
                    function = card.first.handle.pci();
                    along.clone_from(&card.others);
                    hostdevs.extend(placed(&mut planned, &name, &card)?);
                    HostdevChange::Added
                }
            };
            devices.push(FilledDevice {
                name,
                uuid,
                pool: to_attach.pool.name.clone(),
                request,
                hostdev,
                function,
                along,
            });
        }
        // The request is added first. With the request alone, the hook refuses a start
        // and says what is missing. With the hostdev alone, libvirt would refuse it
        // with an error about a missing device.
        let (before, after) = (definition.element.as_deref(), asked.element.as_deref());
        let mut changes = Vec::from_iter(Change::metadata(before, after)?);
        changes.extend(hostdevs);
        let guest_drivers = |request: &Request| request.guest_drivers == Some(true);
        let mut cdrom = None;
        if asked.requests.iter().any(guest_drivers) {
            cdrom = provide_cdrom(definition, &mut changes)?;
        }
        let is_named = |request: &Request| devices.iter().any(|one| one.name == request.name);
        asked.requests.retain(is_named);
        Ok(Self {
            changes,
            devices,
            requests: asked.requests,
            cdrom,
        })
    }

    /// The change that adds the requests to the running domain too.
    ///
    /// # Errors
    /// When the running domain has a request of that name for another pool.
    pub fn live_requests(&self, live: &Definition) -> anyhow::Result<Option<Change>> {
        let mut element = live.element.clone();
        for request in &self.requests {
            let mut present = live.def.requests.iter();
            let present = present.find(|one| one.name == request.name);
            ensure!(
                present.is_none_or(|one| one.pool == request.pool),
                "the running domain has a device '{}' of another pool; choose another name, or \
                 detach that one with '--live' first",
                request.name
            );
            element = match (present, element) {
                (Some(one), element) if one == request => element,
                (Some(_), Some(old)) => Some(domain::replace_request(&old, request)?),
                (_, element) => Some(domain::add_request(element.as_deref(), request)?),
            };
        }
        Change::live_metadata(live.element.as_deref(), element.as_deref())
    }
}

/// The names of the devices that the domain will have.
fn names(def: &DomainDef, to_attach: &AttachRequest<'_>) -> anyhow::Result<Vec<DeviceName>> {
    if let Some(name) = to_attach.name {
        let numbered = |number: usize| format!("{name}-{number}").parse();
        return match to_attach.count {
            1 => Ok(vec![name.clone()]),
            count => Ok((0..count).map(numbered).collect::<Result<_, _>>()?),
        };
    }
    let of_pool = |request: &&Request| request.pool == to_attach.pool.name;
    let mut names: Vec<DeviceName> = def
        .requests
        .iter()
        .filter(of_pool)
        .map(|request| request.name.clone())
        .collect();
    let word = to_attach.pool.kind.name_of_devices();
    let mut number = 0;
    while names.len() < to_attach.count {
        let name: DeviceName = format!("{word}{number}").parse()?;
        number += 1;
        // A hostdev of ours without its request gets one; another device with that
        // alias is left alone.
        let uuid = MdevUuid::for_device(def.uuid, &name);
        let free = def.requests.iter().all(|request| request.name != name)
            && hostdev_of(def, &name, uuid).is_ok();
        if free {
            names.push(name);
        }
    }
    Ok(names)
}

/// The requests after the change, as plain data and as metadata.
struct Asked {
    requests: Vec<Request>,
    element: Option<String>,
}

impl Asked {
    /// Adds or changes the request of that name.
    fn settle(
        &mut self,
        name: &DeviceName,
        to_attach: &AttachRequest<'_>,
        has_hostdev: bool,
    ) -> anyhow::Result<RequestChange> {
        // A hostdev without a device would fail the start, so an optional device has no
        // hostdev.
        let later = |says| !has_hostdev && to_attach.pool.makes_optional(says);
        let Some(request) = self.requests.iter_mut().find(|one| one.name == *name) else {
            let mut request = Request::new(name.clone(), to_attach.pool.name.clone());
            request.guest_drivers = to_attach.guest_drivers.then_some(true);
            request.optional = later(None).then_some(true);
            request.together = to_attach.together;
            ensure!(
                self.requests.len() < MAX_REQUESTS,
                "the domain would have more than {MAX_REQUESTS} devices, the most that it can ask for"
            );
            self.element = Some(domain::add_request(self.element.as_deref(), &request)?);
            self.requests.push(request);
            return Ok(RequestChange::Added);
        };
        ensure!(
            request.pool == to_attach.pool.name,
            "the domain has a device '{name}' of pool '{}'; detach it or choose another name",
            request.pool
        );
        let before = request.clone();
        if to_attach.guest_drivers {
            request.guest_drivers = Some(true);
        }
        request.together = to_attach.together.or(request.together);
        if later(request.optional) {
            request.optional = Some(true);
        }
        let Some(old) = self.element.as_deref().filter(|_| *request != before) else {
            return Ok(RequestChange::Unchanged);
        };
        self.element = Some(domain::replace_request(old, request)?);
        Ok(RequestChange::Changed)
    }

    fn is_optional(&self, name: &DeviceName) -> bool {
        let mut requests = self.requests.iter();
        requests.any(|request| request.name == *name && request.optional == Some(true))
    }
}

/// The hostdev for a name: its placeholder, or a mediated device with its alias and the
/// UUID of another domain's device ([`is_of_another`]).
pub(super) fn hostdev_of<'d>(
    def: &'d DomainDef,
    name: &DeviceName,
    uuid: MdevUuid,
) -> anyhow::Result<Option<&'d Hostdev>> {
    let alias = alias(name);
    ensure!(
        alias != domain::CDROM_ALIAS,
        "the name '{name}' is reserved for the CD-ROM with guest drivers; choose another name"
    );
    if let Some(hostdev) = def.placeholder_of(name) {
        let of_another = hostdev
            .alias
            .as_deref()
            .filter(|other| other.starts_with(domain::ALIAS_PREFIX) && *other != alias);
        if let Some(other) = of_another {
            bail!("the UUID {uuid} of device '{name}' belongs to the hostdev with alias '{other}'");
        }
        return Ok(Some(hostdev));
    }
    match def.hostdevs.iter().find(|hostdev| hostdev.is_named(name)) {
        None if def.aliases.contains(&alias) => {
            bail!("another device of the domain has the alias '{alias}'; choose another name")
        }
        found => Ok(found),
    }
}

/// Whether it is a mediated device with another UUID, for example after cloning.
pub(super) fn is_of_another(hostdev: &Hostdev, uuid: MdevUuid) -> bool {
    hostdev.handle.mdev().is_some_and(|has| has != uuid)
}

/// The changes that add a device to the definition; its hostdevs are added to `planned`.
pub(super) fn placed(
    planned: &mut DomainDef,
    name: &DeviceName,
    card: &Card,
) -> anyhow::Result<Vec<Change>> {
    let hostdevs = card.hostdevs(name, planned.free_slot())?;
    for hostdev in &hostdevs {
        planned.slots.extend(hostdev.guest.map(|place| place.at));
    }
    let changes = hostdevs.iter().map(|one| Change::Attach(device(name, one)));
    let changes = changes.collect();
    planned.hostdevs.extend(hostdevs);
    Ok(changes)
}

/// A hostdev, as the device of an edit.
pub fn device(name: &DeviceName, hostdev: &Hostdev) -> Device {
    Device {
        what: format!("hostdev '{}'", domain::name_on_card(name, hostdev)),
        whole: hostdev.to_xml(),
        key: Hostdev::bare(hostdev.handle).to_xml(),
    }
}

/// A hostdev of the definition, exactly as written there.
pub fn existing(
    definition: &Definition,
    name: &DeviceName,
    hostdev: &Hostdev,
) -> anyhow::Result<Device> {
    let mut device = device(name, hostdev);
    if let Some(text) = domain::hostdev_text(&definition.xml, hostdev)? {
        device.whole = text;
    }
    Ok(device)
}

/// Corrects the UUID and keeps the rest of the hostdev, especially its guest address: a
/// guest treats a device at another address as a new one.
pub(super) fn mend(
    definition: &Definition,
    name: &DeviceName,
    old: &Hostdev,
    uuid: MdevUuid,
) -> anyhow::Result<[Change; 2]> {
    let former = existing(definition, name, old)?;
    let whole = former
        .whole
        .replace(&old.handle.to_string(), &uuid.to_string());
    let mended = Device {
        whole,
        ..device(name, &Hostdev::placeholder(uuid, name))
    };
    Ok([Change::Detach(former), Change::Attach(mended)])
}

/// Gives the hostdev the model of its type, and removes what libvirt refuses with that
/// model: `display` and a PCI address.
pub(super) fn remodel(
    definition: &Definition,
    name: &DeviceName,
    old: &Hostdev,
    new: &Hostdev,
) -> anyhow::Result<[Change; 2]> {
    let former = existing(definition, name, old)?;
    Ok([Change::Detach(former), Change::Attach(device(name, new))])
}

const CDROM: &str = "the CD-ROM with guest drivers";

pub(super) fn provide_cdrom(
    definition: &Definition,
    changes: &mut Vec<Change>,
) -> anyhow::Result<Option<CdRomOutcome>> {
    let path = domain::media_path(definition.def.uuid);
    let Some(disk) = domain::find_cdrom(&definition.def) else {
        let cdrom = domain::cdrom(&definition.def, &path)?;
        changes.push(Change::Attach(Device {
            what: CDROM.to_owned(),
            key: cdrom.xml.clone(),
            whole: cdrom.xml,
        }));
        return Ok(Some(CdRomOutcome::Added(cdrom.target)));
    };
    // An empty drive is one whose medium was ejected.
    let Some(source) = disk.source.as_ref().filter(|source| **source != path) else {
        return Ok(None);
    };
    let Some(former) = existing_cdrom(definition)? else {
        return Ok(None);
    };
    let escaped = |text: &str| quick_xml::escape::escape(text).into_owned();
    let mended = Device {
        whole: former.whole.replace(&escaped(source), &escaped(&path)),
        ..former.clone()
    };
    changes.extend([Change::Detach(former), Change::Attach(mended)]);
    Ok(Some(CdRomOutcome::Mended(disk.target.clone())))
}

/// Our CD-ROM as written in the definition.
pub fn existing_cdrom(definition: &Definition) -> anyhow::Result<Option<Device>> {
    let Some((disk, key)) =
        domain::find_cdrom(&definition.def).zip(domain::detach_cdrom(&definition.def))
    else {
        return Ok(None);
    };
    let text = domain::disk_text(&definition.xml, &disk.target)?;
    Ok(Some(Device {
        what: CDROM.to_owned(),
        whole: text.unwrap_or_else(|| key.clone()),
        key,
    }))
}

/// A definition that could never start is refused now, not at its start.
fn check_limit(def: &DomainDef, requests: &[Request], pool: &Pool) -> anyhow::Result<()> {
    let of_pool = requests.iter().filter(|one| one.pool == pool.name).count();
    let limit = usize::try_from(pool.instances).unwrap_or(usize::MAX);
    ensure!(
        limit == 0 || of_pool <= limit,
        "domain '{}' would have {of_pool} devices of pool '{}', which hands out at most {limit} \
         to all domains together; see 'instances' in {}",
        def.name,
        pool.name,
        pool.origin.display()
    );
    number_allowed(std::iter::repeat_n(pool, of_pool)).map_err(anyhow::Error::msg)
}

#[cfg(test)]
#[path = "attachment_tests.rs"]
mod tests;
