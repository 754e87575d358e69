//! What others made on the devices of our pools: mediated devices and vGPUs that no
//! claim names, what mdevctl will make at the next boot, and what it makes when it is
//! told to. They are not ours to touch, but they take room, and this says who has it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use serde::Serialize;

use crate::{
    claims::{Claim, DeviceKind},
    config::mdevctl::{self, Start},
    device::{
        mdev::{self, Mdev},
        vendor_vfio,
    },
    host::Host,
    model::{MdevTypeId, MdevUuid, ParentName, PciAddress, PoolName},
    plan::HostSupply,
};

/// The devices that pools take, with the pools.
pub(super) type Taken = BTreeMap<ParentName, BTreeSet<PoolName>>;

/// What is on one of them and not ours.
#[derive(Debug, Serialize)]
pub(super) struct Foreign {
    parent: ParentName,
    /// The pools whose room it takes.
    pools: BTreeSet<PoolName>,
    devices: Vec<Device>,
    /// Whether some claims cannot be read: some of it may be ours.
    #[serde(skip)]
    in_doubt: bool,
}

#[derive(Debug, Clone, Serialize)]
struct Device {
    /// None: a virtual function that was given a type.
    #[serde(skip_serializing_if = "Option::is_none")]
    uuid: Option<MdevUuid>,
    /// What made it, or the function itself.
    parent: ParentName,
    #[serde(rename = "type")]
    type_id: MdevTypeId,
    /// Whether it is there; else mdevctl makes it, when `mdevctl` says.
    active: bool,
    /// How mdevctl has it defined: `auto` at the next boot, `manual` by hand only.
    #[serde(skip_serializing_if = "Option::is_none")]
    mdevctl: Option<Start>,
}

/// Looks for them. What cannot be read is a problem.
pub(super) fn find(
    host: &Host,
    supply: &HostSupply<'_>,
    taken: Taken,
    (claims, in_doubt): (&[Claim], bool),
    problems: &mut Vec<String>,
) -> Vec<Foreign> {
    let mut search = Search {
        host,
        supply,
        taken: &taken,
        claims,
        found: BTreeMap::new(),
    };
    if let Err(error) = search.mdevs(problems) {
        problems.push(format!("cannot list mediated devices: {error}"));
    }
    if let Err(error) = search.functions() {
        problems.push(format!("cannot list virtual functions: {error}"));
    }
    let mut found = search.found;
    let foreign = |(parent, pools)| {
        let devices = found.remove(&parent)?;
        Some(Foreign {
            parent,
            pools,
            devices,
            in_doubt,
        })
    };
    taken.into_iter().filter_map(foreign).collect()
}

struct Search<'a> {
    host: &'a Host,
    supply: &'a HostSupply<'a>,
    taken: &'a Taken,
    claims: &'a [Claim],
    found: BTreeMap<ParentName, Vec<Device>>,
}

impl Search<'_> {
    /// The mediated devices of the pools' parents, and what mdevctl knows of them.
    fn mdevs(&mut self, problems: &mut Vec<String>) -> io::Result<()> {
        let parents = self.supply.mdev().parents().iter();
        let parents: Vec<(ParentName, Vec<ParentName>)> = parents
            .map(|parent| {
                let board = self.supply.board(parent);
                (parent.name.clone(), self.subjects([&parent.name, &board]))
            })
            .filter(|(_, subjects)| !subjects.is_empty())
            .collect();
        let mut active: BTreeMap<ParentName, Vec<Mdev>> = BTreeMap::new();
        for (uuid, parent) in self.supply.mdev().parents_in_use()? {
            // Not whole, or gone meanwhile.
            let Some(mdev) = mdev::find(self.host, uuid)? else {
                continue;
            };
            active.entry(parent).or_default().push(mdev);
        }
        for (parent, subjects) in parents {
            let (defined, wrong) = mdevctl::definitions(self.host, &parent);
            problems.extend(wrong);
            let mut mdevs = active.remove(&parent).unwrap_or_default();
            // One of another type than its definition is not what mdevctl would make.
            let active: BTreeSet<(MdevUuid, MdevTypeId)> = mdevs
                .iter()
                .map(|mdev| (mdev.uuid, mdev.type_id.clone()))
                .collect();
            mdevs.retain(|mdev| !self.is_ours(mdev));
            let how = |mdev: &Mdev| {
                let mut defined = defined.iter();
                defined.find(|one| one.uuid == mdev.uuid && one.type_id == mdev.type_id)
            };
            let there = mdevs.iter().map(|mdev| Device {
                uuid: Some(mdev.uuid),
                parent: parent.clone(),
                type_id: mdev.type_id.clone(),
                active: true,
                mdevctl: how(mdev).map(|one| one.start),
            });
            let is_there = |wanted: &mdevctl::Definition| {
                let mut mdevs = mdevs.iter();
                mdevs.any(|mdev| mdev.uuid == wanted.uuid && mdev.type_id == wanted.type_id)
            };
            let not_there = defined
                .iter()
                .filter(|one| match one.start {
                    // Ours will meet it at the next boot.
                    Start::Auto => !is_there(one),
                    Start::Manual => !active.contains(&(one.uuid, one.type_id.clone())),
                })
                .map(|one| Device {
                    uuid: Some(one.uuid),
                    parent: parent.clone(),
                    type_id: one.type_id.clone(),
                    active: false,
                    mdevctl: Some(one.start),
                });
            let devices: Vec<Device> = there.chain(not_there).collect();
            self.add(subjects, &devices);
        }
        Ok(())
    }

    /// The virtual functions of the pools' GPUs that somebody has given a type.
    fn functions(&mut self) -> io::Result<()> {
        for (function, gpu) in vendor_vfio::all_functions(self.host)? {
            let subjects = self.subjects([&gpu.into(), &function.into()]);
            if subjects.is_empty() || self.is_claimed(function) {
                continue;
            }
            // One that cannot be read is said so where room is counted.
            let Ok(Some(id)) = vendor_vfio::current(self.host, function) else {
                continue;
            };
            let Ok(type_id) = id.to_string().parse() else {
                continue;
            };
            let device = Device {
                uuid: None,
                parent: function.into(),
                type_id,
                active: true,
                mdevctl: None,
            };
            self.add(subjects, &[device]);
        }
        Ok(())
    }

    /// Which of the two pools take: rules are about a parent or about its GPU.
    fn subjects(&self, [one, other]: [&ParentName; 2]) -> Vec<ParentName> {
        let subjects = BTreeSet::from([one, other]).into_iter();
        let taken = subjects.filter(|name| self.taken.contains_key(*name));
        taken.cloned().collect()
    }

    fn add(&mut self, subjects: Vec<ParentName>, devices: &[Device]) {
        for subject in subjects.into_iter().filter(|_| !devices.is_empty()) {
            let found = self.found.entry(subject).or_default();
            found.extend_from_slice(devices);
        }
    }

    fn is_ours(&self, mdev: &Mdev) -> bool {
        let mut devices = self.claims.iter().flat_map(|claim| &claim.devices);
        devices.any(|device| {
            device.kind == DeviceKind::Mdev && device.uuid == mdev.uuid && device.is(mdev)
        })
    }

    fn is_claimed(&self, function: PciAddress) -> bool {
        let mut devices = self.claims.iter().flat_map(|claim| &claim.devices);
        devices.any(|device| device.kind == DeviceKind::VendorVfio && device.parent == function)
    }
}

impl Foreign {
    /// In lines for people.
    pub(super) fn notes(&self) -> Vec<String> {
        let is_there = |device: &&Device| device.active;
        let mdevs: Vec<_> = self
            .devices
            .iter()
            .filter(is_there)
            .filter(|device| device.uuid.is_some())
            .collect();
        let functions: Vec<_> = self
            .devices
            .iter()
            .filter(is_there)
            .filter(|device| device.uuid.is_none())
            .collect();
        let defined = |start| -> Vec<_> {
            self.devices
                .iter()
                .filter(|device| !device.active && device.mdevctl == Some(start))
                .collect()
        };
        let (coming, by_hand) = (defined(Start::Auto), defined(Start::Manual));
        let (pools, parent) = (self.pools_in_words(), &self.parent);
        let mut notes = Vec::new();
        if !mdevs.is_empty() {
            notes.push(format!(
                "{pools}: {parent} has {} {}: {}",
                count(mdevs.len(), "mediated device"),
                self.whose(mdevs.len()),
                self.list(&mdevs)
            ));
        }
        if !functions.is_empty() {
            notes.push(format!(
                "{pools}: {parent} has {} with a vGPU type {}: {}",
                count(functions.len(), "virtual function"),
                self.whose(1),
                self.list(&functions)
            ));
        }
        if !coming.is_empty() {
            notes.push(format!(
                "{pools}: mdevctl will make {} on {parent} at the next boot: {}",
                count(coming.len(), "mediated device"),
                self.list(&coming)
            ));
        }
        if !by_hand.is_empty() {
            notes.push(format!(
                "{pools}: mdevctl has {} defined on {parent}, to be started by hand only: {}",
                count(by_hand.len(), "mediated device"),
                self.list(&by_hand)
            ));
        }
        notes
    }

    fn pools_in_words(&self) -> String {
        let names: Vec<String> = self.pools.iter().map(|name| format!("'{name}'")).collect();
        let word = if names.len() == 1 { "pool" } else { "pools" };
        format!("{word} {}", names.join(", "))
    }

    fn whose(&self, count: usize) -> &'static str {
        match (self.in_doubt, count) {
            (true, _) => "that no readable claim names",
            (false, 1) => "that is not ours",
            (false, _) => "that are not ours",
        }
    }

    fn list(&self, devices: &[&Device]) -> String {
        /// A GPU may have as many as it has virtual functions.
        const SHOWN: usize = 8;
        let shown = devices.iter().take(SHOWN);
        let mut words: Vec<String> = shown.map(|device| self.in_words(device)).collect();
        if let Some(more @ 1..) = devices.len().checked_sub(SHOWN) {
            words.push(format!("{more} more (--json has them all)"));
        }
        words.join(", ")
    }

    fn in_words(&self, device: &Device) -> String {
        let Device {
            uuid,
            parent,
            type_id,
            ..
        } = device;
        let Some(uuid) = uuid else {
            return format!("{parent} (type {type_id})");
        };
        let place = if *parent == self.parent {
            String::new()
        } else {
            format!(" on {parent}")
        };
        let defined = match device.mdevctl {
            Some(Start::Auto) if device.active => ", defined in mdevctl with autostart",
            Some(Start::Manual) if device.active => ", defined in mdevctl",
            _ => "",
        };
        format!("{uuid}{place} ({type_id}{defined})")
    }
}

fn count(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}
