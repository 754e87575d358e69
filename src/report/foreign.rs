//! Devices of others on the devices of our pools: mediated devices and vGPUs that no claim
//! names, and the devices that mdevctl will make at the next boot or on request. They must not be touched, but they take space, so they are reported.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use serde::Serialize;

use crate::{
    claims::Claim,
    config::mdevctl::{self, Start},
    device::{
        mdev::{self, Mdev},
        vendor_vfio,
    },
    host::Host,
    model::{Handle, MdevTypeId, MdevUuid, ParentName, PciAddress, PoolName},
    plan::HostSupply,
};

/// The devices that pools take, with the pools.
pub(super) type Taken = BTreeMap<ParentName, BTreeSet<PoolName>>;

/// A device of others on a device of our pools.
#[derive(Debug, Serialize)]
pub struct Foreign {
    /// The parent or GPU that it is on.
    pub parent: ParentName,
    /// The pools whose space it takes.
    pub pools: BTreeSet<PoolName>,
    /// It, and what mdevctl may make there.
    pub devices: Vec<ForeignDevice>,
    /// Whether some claims cannot be read: some of it may be ours.
    #[serde(skip)]
    pub in_doubt: bool,
}

/// A device that is not ours.
#[derive(Debug, Clone, Serialize)]
pub struct ForeignDevice {
    /// None: a virtual function that was given a type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<MdevUuid>,
    /// Its parent, or the function itself.
    pub parent: ParentName,
    /// Its type's id.
    #[serde(rename = "type")]
    pub type_id: MdevTypeId,
    /// Whether it is there; else mdevctl makes it, when `mdevctl` says.
    pub active: bool,
    /// How mdevctl has it defined: `auto` at the next boot, `manual` by hand only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mdevctl: Option<Start>,
}

/// Looks for devices of others. An unreadable one becomes a problem.
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
    found: BTreeMap<ParentName, Vec<ForeignDevice>>,
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
            let there = mdevs.iter().map(|mdev| ForeignDevice {
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
                .map(|one| ForeignDevice {
                    uuid: Some(one.uuid),
                    parent: parent.clone(),
                    type_id: one.type_id.clone(),
                    active: false,
                    mdevctl: Some(one.start),
                });
            let devices: Vec<ForeignDevice> = there.chain(not_there).collect();
            self.add(subjects, &devices);
        }
        Ok(())
    }

    /// The virtual functions of the pools' GPUs that have a type.
    fn functions(&mut self) -> io::Result<()> {
        for (function, gpu) in vendor_vfio::all_functions(self.host)? {
            let subjects = self.subjects([&gpu.into(), &function.into()]);
            if subjects.is_empty() || self.is_claimed(function) {
                continue;
            }
            // A parent that cannot be read is reported where free space is counted.
            let Ok(Some(id)) = vendor_vfio::current(self.host, function) else {
                continue;
            };
            let Ok(type_id) = id.to_string().parse() else {
                continue;
            };
            let device = ForeignDevice {
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

    fn add(&mut self, subjects: Vec<ParentName>, devices: &[ForeignDevice]) {
        for subject in subjects.into_iter().filter(|_| !devices.is_empty()) {
            let found = self.found.entry(subject).or_default();
            found.extend_from_slice(devices);
        }
    }

    fn is_ours(&self, mdev: &Mdev) -> bool {
        let mut devices = self.claims.iter().flat_map(|claim| &claim.devices);
        devices.any(|device| {
            device.handle == Handle::Mdev(mdev.uuid)
                && device.parent == mdev.parent
                && device.type_id == mdev.type_id
        })
    }

    fn is_claimed(&self, function: PciAddress) -> bool {
        let mut devices = self.claims.iter().flat_map(|claim| &claim.devices);
        devices.any(|device| device.handle == Handle::Pci(function))
    }
}
