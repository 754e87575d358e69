//! Completes the XML of a domain that is to be created from it: adds what its requests
//! need and changes nothing else.

use std::collections::BTreeMap;

use anyhow::Context;

use super::{
    CdRomOutcome, FilledDevice, HostdevChange, RequestChange,
    attachment::{hostdev_of, is_of_another},
    placeholder::{self, whole_card},
    replan::Elsewhere,
};
use crate::{
    config::{self, Pool},
    domain::{self, Card, DomainDef, DomainError, ExchangeError, Hostdev, Request},
    host::Host,
    model::{DeviceName, MdevModel, MdevUuid, PoolName},
};

/// The XML with everything that its requests need.
#[derive(Debug)]
pub struct Filled {
    pub xml: String,
    pub def: DomainDef,
    pub devices: Vec<FilledDevice>,
    pub cdrom: Option<CdRomOutcome>,
}

/// Adds missing hostdevs and the CD-ROM, and corrects those that belong to another
/// domain. `choose` finds placeholders for devices of a pool.
///
/// # Errors
/// When something in the XML conflicts, a pool cannot be used, or no placeholder is
/// found for a device.
pub fn fill(
    host: &Host,
    xml: &str,
    choose: impl Fn(&DomainDef, &Pool, &[DeviceName]) -> anyhow::Result<Vec<Card>>,
) -> anyhow::Result<Filled> {
    let def = domain::parse(xml)?;
    let mut filled = Filled {
        xml: xml.to_owned(),
        devices: Vec::new(),
        cdrom: None,
        def,
    };
    let mut lacking: BTreeMap<PoolName, Vec<DeviceName>> = BTreeMap::new();
    for request in filled.def.requests.clone() {
        let outcome = filled.settle(host, &request)?;
        if outcome.hostdev == HostdevChange::Added {
            let names = lacking.entry(request.pool.clone()).or_default();
            names.push(request.name.clone());
        }
        filled.devices.push(outcome);
    }
    for (pool, names) in lacking {
        let pool = load_pool(host, &pool)?;
        let cards = choose(&filled.def, &pool, &names)?;
        for (name, card) in names.iter().zip(&cards) {
            filled.place(name, card)?;
        }
    }
    filled.provide_cdrom()?;
    Ok(filled)
}

/// The XML with the device's new source.
///
/// # Errors
/// When the XML cannot be read, or the guest has no slot for the device's functions.
pub fn with_elsewhere(xml: &str, other: &Elsewhere) -> Result<String, ExchangeError> {
    let def = domain::parse(xml)?;
    domain::with_card(xml, &def, &other.device, &other.from, &other.to)
}

fn load_pool(host: &Host, name: &PoolName) -> anyhow::Result<Pool> {
    config::load_pool(host, name).with_context(|| format!("pool '{name}' cannot be used"))
}

/// The model that a device's hostdev should have but does not have.
fn model_meant(
    host: &Host,
    pool: Option<Pool>,
    hostdev: &Hostdev,
) -> anyhow::Result<Option<MdevModel>> {
    let Some(has) = hostdev.model.as_deref() else {
        return Ok(None);
    };
    let Some(pool) = pool.filter(|pool| !pool.is_chosen_ahead()) else {
        return Ok(None);
    };
    let wanted = placeholder::model(host, &pool)?;
    Ok(wanted.filter(|model| model.as_str() != has))
}

impl Filled {
    fn edit(&mut self, xml: String) -> Result<(), DomainError> {
        self.def = domain::parse(&xml)?;
        self.xml = xml;
        Ok(())
    }

    /// Completes one request. If it has no hostdev yet, none is returned.
    fn settle(&mut self, host: &Host, request: &Request) -> anyhow::Result<FilledDevice> {
        let name = &request.name;
        let uuid = MdevUuid::for_device(self.def.uuid, name);
        let mut outcome = FilledDevice {
            name: name.clone(),
            uuid,
            pool: request.pool.clone(),
            request: RequestChange::Unchanged,
            hostdev: HostdevChange::Unchanged,
            function: None,
            along: Vec::new(),
        };
        match hostdev_of(&self.def, name, uuid)? {
            Some(old) if is_of_another(old, uuid) => {
                let mended = domain::with_source(&self.xml, old, uuid.into())?;
                if let Some(xml) = mended {
                    self.edit(xml)?;
                }
                outcome.hostdev = HostdevChange::Mended;
            }
            Some(old) => {
                outcome.function = old.handle.pci();
                // The hook reports a pool that cannot be used.
                let pool = config::load_pool(host, &request.pool).ok();
                let card = pool.as_ref().and_then(|pool| whole_card(host, pool, old));
                if let Some(card) = card {
                    let xml = domain::with_card(&self.xml, &self.def, name, old, &card)?;
                    outcome.along = card.others;
                    if xml != self.xml {
                        outcome.hostdev = HostdevChange::Completed;
                    }
                    self.edit(xml)?;
                } else if let Some(model) = model_meant(host, pool, old)? {
                    let new = Hostdev::mdev_placeholder(uuid, name, model);
                    if let Some(xml) = domain::with_hostdev(&self.xml, old, &new)? {
                        self.edit(xml)?;
                    }
                    outcome.hostdev = HostdevChange::Remodelled;
                }
            }
            None if request.optional == Some(true) => {
                outcome.hostdev = HostdevChange::Later;
            }
            None => {
                let pool = load_pool(host, &request.pool)?;
                outcome.hostdev = HostdevChange::Added;
                if pool.makes_optional(request.optional) {
                    // The hook reads only requests, not the pools' defaults.
                    let mut asking = request.clone();
                    asking.optional = Some(true);
                    self.edit(domain::with_request(&self.xml, &asking)?)?;
                    outcome.request = RequestChange::Changed;
                    outcome.hostdev = HostdevChange::Later;
                }
            }
        }
        Ok(outcome)
    }

    fn place(&mut self, name: &DeviceName, card: &Card) -> anyhow::Result<()> {
        for hostdev in card.hostdevs(name, self.def.free_slot())? {
            self.edit(domain::with_device(&self.xml, &hostdev.to_xml())?)?;
        }
        let mut outcomes = self.devices.iter_mut();
        if let Some(outcome) = outcomes.find(|outcome| outcome.name == *name) {
            outcome.function = card.first.handle.pci();
            outcome.along.clone_from(&card.others);
        }
        Ok(())
    }

    fn provide_cdrom(&mut self) -> anyhow::Result<()> {
        let mut requests = self.def.requests.iter();
        if !requests.any(|request| request.guest_drivers == Some(true)) {
            return Ok(());
        }
        let path = domain::media_path(self.def.uuid);
        let Some(disk) = domain::find_cdrom(&self.def) else {
            let cdrom = domain::cdrom(&self.def, &path)?;
            self.edit(domain::with_device(&self.xml, &cdrom.xml)?)?;
            self.cdrom = Some(CdRomOutcome::Added(cdrom.target));
            return Ok(());
        };
        // An empty drive is one whose medium was ejected.
        if disk.source.as_ref().is_none_or(|source| *source == path) {
            return Ok(());
        }
        let target = disk.target.clone();
        if let Some(xml) = domain::with_medium(&self.xml, &target, &path)? {
            self.edit(xml)?;
            self.cdrom = Some(CdRomOutcome::Mended(target));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::PciAddress;

    const UUID: &str = "aaaaaaaa-0000-4000-8000-000000000001";

    fn host() -> (tempfile::TempDir, Host) {
        let root = tempfile::TempDir::new().unwrap();
        let pools = root.path().join("etc/virt-vgpu/pools.d");
        std::fs::create_dir_all(&pools).unwrap();
        for (name, more) in [("cad", ""), ("spare", "[defaults]\noptional = true\n")] {
            let text = format!("kind = 'mdev'\ntype = 'nvidia-558'\n{more}");
            std::fs::write(pools.join(format!("{name}.toml")), text).unwrap();
        }
        let host = Host::new(root.path());
        (root, host)
    }

    fn xml(requests: &str, devices: &str) -> String {
        format!(
            "<domain type='kvm'>\n  <name>d</name>\n  <uuid>{UUID}</uuid>\n  <metadata>\n    \
             <v:devices xmlns:v='urn:virt-vgpu:devices:1'>{requests}</v:devices>\n  </metadata>\n  \
             <os><type arch='x86_64' machine='q35'>hvm</type></os>\n  <devices>\n    <disk/>{devices}\n  \
             </devices>\n</domain>\n"
        )
    }

    fn filled(xml: &str, chosen: &[Hostdev]) -> anyhow::Result<Filled> {
        let (_root, host) = host();
        fill(&host, xml, |_, _, names| {
            let chosen = chosen[..names.len()].iter().cloned();
            Ok(chosen.map(Card::from).collect())
        })
    }

    fn mdev(name: &str) -> MdevUuid {
        uuid(name).parse().unwrap()
    }

    fn uuid(name: &str) -> String {
        let uuid = MdevUuid::for_device(UUID.parse().unwrap(), &name.parse().unwrap());
        uuid.to_string()
    }

    #[test]
    fn what_is_whole_stays_as_it_is() {
        let name = "gpu0".parse().unwrap();
        let device = Hostdev::placeholder(mdev("gpu0"), &name).to_xml();
        for whole in [
            xml("", ""),
            xml("<v:device name='gpu0' pool='cad'/>", &device),
            xml("<v:device name='gpu0' pool='cad' optional='yes'/>", ""),
        ] {
            assert_eq!(filled(&whole, &[]).unwrap().xml, whole);
        }
    }

    #[test]
    fn what_is_missing_is_put_in() {
        let asking = "<v:device name='a' pool='cad' guest-drivers='yes'/><v:device name='b' pool='cad'/>\
                      <v:device name='c' pool='spare'/>";
        let function: PciAddress = "0000:3b:00.4".parse().unwrap();
        let chosen = [
            Hostdev::placeholder(mdev("a"), &"a".parse().unwrap()),
            Hostdev::placeholder(function, &"b".parse().unwrap()),
        ];
        let filled = filled(&xml(asking, ""), &chosen).unwrap();
        let text = filled
            .xml
            .replace(UUID, "UUID")
            .replace(&uuid("a"), "UUID-A");
        let wanted = "
    <disk/>
    <hostdev mode='subsystem' type='mdev' model='vfio-pci' display='off'>
      <source>
        <address uuid='UUID-A'/>
      </source>
      <alias name='ua-vgpu-a'/>
    </hostdev>
    <hostdev mode='subsystem' type='pci' managed='no'>
      <source>
        <address domain='0x0000' bus='0x3b' slot='0x00' function='0x4'/>
      </source>
      <alias name='ua-vgpu-b'/>
    </hostdev>
    <disk type='file' device='cdrom'>
      <driver name='qemu' type='raw'/>
      <source file='/var/lib/virt-vgpu/media/UUID.iso' startupPolicy='optional'>
        <seclabel model='dac' relabel='no'/>
      </source>
      <target dev='sda' bus='sata'/>
      <readonly/>
      <alias name='ua-vgpu-guest-drivers'/>
      <address type='drive' controller='0' bus='0' target='0' unit='0'/>
    </disk>
  </devices>
";
        let (_, devices) = text.split_once("<devices>").unwrap();
        assert_eq!(devices, format!("{wanted}</domain>\n"));
        assert!(text.contains("<v:device name='c' pool='spare' optional='yes'/></v:devices>"));
        let outcomes: Vec<_> = filled
            .devices
            .iter()
            .map(|one| (one.request, one.hostdev, one.function))
            .collect();
        use {HostdevChange::*, RequestChange::Changed};
        let unchanged = RequestChange::Unchanged;
        assert_eq!(
            outcomes,
            [
                (unchanged, Added, None),
                (unchanged, Added, Some(function)),
                (Changed, Later, None)
            ]
        );
        assert_eq!(filled.cdrom, Some(CdRomOutcome::Added("sda".to_owned())));
        // A second run changes nothing.
        let again = super::tests::filled(&filled.xml, &[]).unwrap();
        assert_eq!((again.xml, again.cdrom), (filled.xml, None));
    }

    #[test]
    fn what_is_another_domains_is_mended() {
        let old = "11111111-2222-5333-8444-555555555555";
        let devices = |uuid: &str, iso: &str| {
            format!(
                "<hostdev mode='subsystem' type='mdev' model='vfio-pci'><source><address uuid='{uuid}'/>\
                 </source><alias name='ua-vgpu-a'/><address type='pci' slot='0x09'/></hostdev>\
                 <disk device='cdrom'><source file='/var/lib/virt-vgpu/media/{iso}.iso'/>\
                 <target dev='sdb' bus='sata'/><alias name='ua-vgpu-guest-drivers'/></disk>"
            )
        };
        let asking = "<v:device name='a' pool='cad' guest-drivers='yes'/>";
        let filled = filled(&xml(asking, &devices(old, "old")), &[]).unwrap();
        assert_eq!(filled.xml, xml(asking, &devices(&uuid("a"), UUID)));
        assert_eq!(filled.devices[0].hostdev, HostdevChange::Mended);
        assert_eq!(filled.cdrom, Some(CdRomOutcome::Mended("sdb".to_owned())));
    }

    #[test]
    fn a_device_goes_to_its_other_source() {
        let name: DeviceName = "a".parse().unwrap();
        let function = |text: &str| {
            let function: PciAddress = text.parse().unwrap();
            Hostdev::placeholder(function, &name)
        };
        let (old, new) = (function("0000:3b:00.4"), function("0000:3b:00.5"));
        let mdev = Hostdev::placeholder(mdev("a"), &name);
        let asking = "<v:device name='a' pool='cad'/>";
        let on = |hostdev: &Hostdev| {
            let hostdev = hostdev.to_xml().replace('\n', "\n    ");
            xml(asking, &format!("\n    {hostdev}"))
        };
        for (from, to) in [(&old, &new), (&old, &mdev), (&mdev, &new)] {
            let other = Elsewhere {
                device: name.clone(),
                from: from.clone(),
                to: to.clone().into(),
                reason: String::new(),
            };
            assert_eq!(with_elsewhere(&on(from), &other).unwrap(), on(to));
        }
    }

    #[test]
    fn a_hostdev_gets_the_model_of_its_type() {
        let (root, host) = host();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write(
            "etc/virt-vgpu/pools.d/crypto.toml",
            "kind = 'mdev'\ntype = 'vfio_ap-passthrough'\n[[rule]]\n\
             where = [{ field = 'address', op = 'equal', value = 'matrix' }]",
        );
        let of_type = "sys/class/mdev_bus/matrix/mdev_supported_types/vfio_ap-passthrough";
        write(&format!("{of_type}/available_instances"), "1\n");
        write(&format!("{of_type}/device_api"), "vfio-ap\n");
        let name = "a".parse().unwrap();
        let asking = "<v:device name='a' pool='crypto'/>";
        let of = |model| {
            let hostdev = Hostdev::mdev_placeholder(mdev("a"), &name, model).to_xml();
            xml(
                asking,
                &format!("\n    {}", hostdev.replace('\n', "\n    ")),
            )
        };
        let right = of(MdevModel::VfioAp);
        for (before, wanted) in [
            (of(MdevModel::VfioPci), HostdevChange::Remodelled),
            (right.clone(), HostdevChange::Unchanged),
        ] {
            let filled = fill(&host, &before, |_, _, _| Ok(Vec::new())).unwrap();
            assert_eq!(filled.xml, right);
            assert_eq!(filled.devices[0].hostdev, wanted);
        }
    }

    #[test]
    fn what_is_in_the_way_is_said() {
        let asking = "<v:device name='a' pool='none'/>";
        let error = format!("{:#}", filled(&xml(asking, ""), &[]).unwrap_err());
        assert_eq!(
            error,
            "pool 'none' cannot be used: there is no pool 'none'; see 'virt-vgpu pool list'"
        );
        let taken = "<input type='tablet'><alias name='ua-vgpu-a'/></input>";
        let error = filled(&xml(asking, taken), &[]).unwrap_err().to_string();
        assert_eq!(
            error,
            "another device of the domain has the alias 'ua-vgpu-a'; choose another name"
        );
    }
}
