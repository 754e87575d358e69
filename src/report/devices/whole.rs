//! What matters about a PCI function to those who hand it out whole: what shares its IOMMU
//! group, how it can be reset, its link, who has it, and whether the host needs it.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use anyhow::Context;
use serde::Serialize;

use crate::{
    allocate::Look,
    claims,
    config::Pool,
    device::{PCI_DEVICES, Sysfs, group_needs::GroupNeeds, iommu, mdev, optional, pci, read},
    host::Host,
    kind::Kind,
    model::{DomainName, NumaNode, PciAddress, PoolName},
    plan::{AllPools, HostSupply},
    rule::Verdict,
};

/// A PCI function, for those who hand it out whole.
#[derive(Debug, Clone, Serialize)]
pub struct WholeFunction {
    /// Its IOMMU group; null without an IOMMU.
    pub iommu_group: Option<String>,
    /// The other endpoints of its group: they go to the same VM, or to nobody.
    pub shares_group_with: Vec<PciAddress>,
    /// The NUMA node that it is attached to.
    pub numa_node: Option<NumaNode>,
    /// How the kernel can reset it between two VMs, best first (`reset_method`).
    pub reset_methods: Vec<String>,
    /// Its PCI Express link.
    pub link: Option<Link>,
    /// The pools whose rules take it.
    pub pools: Vec<PoolName>,
    /// Whether a VM could have it.
    pub free: bool,
    /// The domain whose claim names it, or another function of its group.
    pub user: Option<DomainName>,
    /// Why it is quarantined.
    pub quarantined: Option<String>,
    /// What else keeps it from being handed out.
    pub unavailable: Option<String>,
    /// Whether it is a bridge, which is never handed out.
    pub is_bridge: bool,
    /// Why the host needs it.
    pub critical: Vec<String>,
    /// The pools that take it all the same, by a rule with `allow-critical`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub taken_from_host_by: Vec<PoolName>,
    /// For a GPU, the other functions of its card: audio, USB.
    pub companions: Vec<PciAddress>,
}

/// A PCI Express link: what it runs at, and what the device can do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Link {
    /// The present speed, as in "8.0 GT/s PCIe".
    pub speed: String,
    /// The present number of lanes.
    pub width: String,
    /// The highest speed.
    pub max_speed: String,
    /// The most lanes.
    pub max_width: String,
}

impl Link {
    /// Whether the device could be faster.
    #[must_use]
    pub fn is_reduced(&self) -> bool {
        self.speed != self.max_speed || self.width != self.max_width
    }
}

impl WholeFunction {
    /// Whether its IOMMU group holds several devices; bridges do not count.
    #[must_use]
    pub fn is_in_shared_group(&self) -> bool {
        self.shares_group_with.len() > usize::from(self.is_bridge)
    }
}

/// One look at all functions.
pub(super) struct WholeFunctions<'a> {
    host: &'a Host,
    kind: &'a dyn Kind,
    supply: &'a HostSupply<'a>,
    pools: Vec<&'a Pool>,
    needs: GroupNeeds,
    /// The endpoints of the groups that were read, by number.
    groups: RefCell<BTreeMap<String, Rc<Vec<PciAddress>>>>,
    users: BTreeMap<PciAddress, DomainName>,
    quarantined: BTreeMap<PciAddress, String>,
}

impl<'a> WholeFunctions<'a> {
    pub(super) fn look(
        host: &'a Host,
        kind: &'a dyn Kind,
        look: &'a Look<'_>,
        supply: &'a HostSupply<'a>,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            host,
            kind,
            supply,
            pools: look.all_pools().iter().collect(),
            needs: GroupNeeds::read(host),
            groups: RefCell::default(),
            users: claims::known_functions(host, None).context("cannot list the claims")?,
            quarantined: claims::quarantine_reasons(host).context("cannot read the quarantine")?,
        })
    }

    pub(super) fn of(&self, function: PciAddress) -> WholeFunction {
        let group = iommu::group_of(self.host, function).unwrap_or_default();
        let members = group.as_ref().map(|group| self.endpoints(group));
        let members = members.unwrap_or_default();
        let is_bridge = pci::is_bridge(self.host, function).unwrap_or_default();
        let needs = match is_bridge {
            true => Vec::new(),
            false => self.needs.all(self.host, function),
        };
        let with_group: Vec<PciAddress> = [function]
            .into_iter()
            .chain(
                members
                    .iter()
                    .copied()
                    .filter(|one| *one != function && !is_bridge),
            )
            .collect();
        let user = with_group.iter().find_map(|one| self.users.get(one));
        let quarantined = self.quarantined.get(&function);
        let subject = mdev::pci_function(function);
        let unavailable = || {
            let withheld = self.kind.withheld(self.supply.view(), function);
            withheld.or_else(|| self.supply.handed_out_in_parts(&subject))
        };
        let is_open = user.is_none() && quarantined.is_none() && !is_bridge;
        let takes_it = |pool: &&&Pool| self.supply.may_be_critical(pool, &subject);
        let taking = self.pools.iter().filter(|_| !needs.is_empty());
        let taking = taking.filter(takes_it).map(|pool| pool.name.clone());
        let mut whole = WholeFunction {
            free: false,
            unavailable: is_open.then(unavailable).flatten(),
            taken_from_host_by: taking.collect(),
            iommu_group: group,
            shares_group_with: members
                .iter()
                .copied()
                .filter(|one| *one != function)
                .collect(),
            numa_node: self
                .text(function, "numa_node")
                .and_then(|text| NumaNode::from_sysfs(&text).ok()?),
            reset_methods: pci::reset_methods(self.host, function).unwrap_or_default(),
            link: self.link(function),
            pools: self.pools_of(function),
            user: user.cloned(),
            quarantined: quarantined.cloned(),
            is_bridge,
            critical: needs.iter().map(ToString::to_string).collect(),
            companions: self.companions(function),
        };
        whole.free = whole.user.is_none()
            && whole.quarantined.is_none()
            && whole.unavailable.is_none()
            && !whole.is_bridge
            && (whole.critical.is_empty() || !whole.taken_from_host_by.is_empty());
        whole
    }

    /// The endpoints of a group; none if they cannot be read.
    fn endpoints(&self, group: &str) -> Rc<Vec<PciAddress>> {
        if let Some(known) = self.groups.borrow().get(group) {
            return Rc::clone(known);
        }
        let endpoints = iommu::endpoints(self.host, group).unwrap_or_default();
        let endpoints = Rc::new(endpoints);
        let mut groups = self.groups.borrow_mut();
        groups.insert(group.to_owned(), Rc::clone(&endpoints));
        endpoints
    }

    /// The other functions of a GPU's slot. Virtual functions may have addresses of the same
    /// slot and are devices of their own; of two GPUs in a slot, the second belongs to the
    /// first.
    fn companions(&self, function: PciAddress) -> Vec<PciAddress> {
        let (domain, bus, slot, number) = function.parts();
        let is_virtual = |one: PciAddress| pci::is_virtual(self.host, one);
        if is_virtual(function) || !self.is_display(function) {
            return Vec::new();
        }
        let others = (0..8).filter(|other| *other != number);
        let others = others.filter_map(|other| PciAddress::new(domain, bus, slot, other));
        let is_there = |one: &PciAddress| self.host.exists(&format!("{PCI_DEVICES}/{one}"));
        let others: Vec<PciAddress> = others
            .filter(|one| is_there(one) && !is_virtual(*one))
            .collect();
        let is_second = |one: &&PciAddress| **one < function && self.is_display(**one);
        match others.iter().find(is_second) {
            Some(_) => Vec::new(),
            None => others,
        }
    }

    fn is_display(&self, function: PciAddress) -> bool {
        const DISPLAY: &str = "0x03";
        let class = self.text(function, "class");
        class.is_some_and(|class| class.starts_with(DISPLAY))
    }

    fn pools_of(&self, function: PciAddress) -> Vec<PoolName> {
        let subject = mdev::pci_function(function);
        let takes = |pool: &&&Pool| {
            let its = pool.kind.subject_named(self.host, &subject.name);
            let verdict = its.map(|its| self.supply.verdict_on(pool, &its));
            matches!(verdict, Some(Verdict::Match { .. }))
        };
        let pools = self.pools.iter().filter(takes);
        pools.map(|pool| pool.name.clone()).collect()
    }

    /// None without PCI Express, and while the link is down: the kernel calls its speed then
    /// "Unknown" (`pci_speed_string`).
    fn link(&self, function: PciAddress) -> Option<Link> {
        let speed = self.text(function, "current_link_speed")?;
        if speed.starts_with("Unknown") {
            return None;
        }
        Some(Link {
            speed,
            width: self.text(function, "current_link_width")?,
            max_speed: self.text(function, "max_link_speed")?,
            max_width: self.text(function, "max_link_width")?,
        })
    }

    fn text(&self, function: PciAddress, attribute: &str) -> Option<String> {
        let path = format!("{PCI_DEVICES}/{function}/{attribute}");
        optional(read(self.host, &path)).ok().flatten()
    }
}
