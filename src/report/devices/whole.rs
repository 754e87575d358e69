//! What matters about a PCI function to those who hand it out whole: what shares its IOMMU
//! group, how it can be reset, its link, who has it, and whether the host needs it.

use std::collections::BTreeMap;

use anyhow::Context;
use serde::Serialize;

use crate::{
    allocate::Look,
    claims,
    config::Pool,
    device::{PCI_DEVICES, critical::HostNeeds, iommu, mdev, optional, pci, read},
    host::Host,
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
    /// The domain whose claim names it, or another function of its group.
    pub user: Option<DomainName>,
    /// Why it is quarantined.
    pub quarantined: Option<String>,
    /// Whether it is a bridge, which is never handed out.
    pub is_bridge: bool,
    /// Why the host needs it.
    pub critical: Vec<String>,
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
    /// Whether a VM could have it.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.user.is_none()
            && self.quarantined.is_none()
            && !self.is_bridge
            && self.critical.is_empty()
            && self.iommu_group.is_some()
    }
}

/// One look at all functions.
pub(super) struct WholeFunctions<'a> {
    host: &'a Host,
    supply: &'a HostSupply<'a>,
    pools: Vec<&'a Pool>,
    needs: HostNeeds,
    users: BTreeMap<PciAddress, DomainName>,
    quarantined: BTreeMap<PciAddress, String>,
}

impl<'a> WholeFunctions<'a> {
    pub(super) fn look(
        host: &'a Host,
        look: &'a Look<'_>,
        supply: &'a HostSupply<'a>,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            host,
            supply,
            pools: look.all_pools().iter().collect(),
            needs: HostNeeds::read(host),
            users: claims::known_functions(host, None).context("cannot list the claims")?,
            quarantined: claims::quarantine_reasons(host).context("cannot read the quarantine")?,
        })
    }

    pub(super) fn of(&self, function: PciAddress) -> WholeFunction {
        let group = iommu::group_of(self.host, function).unwrap_or_default();
        let members = group
            .as_ref()
            .map(|group| iommu::endpoints(self.host, group));
        let members = members.and_then(Result::ok).unwrap_or_default();
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
        let quarantined = with_group.iter().find_map(|one| self.quarantined.get(one));
        WholeFunction {
            iommu_group: group,
            shares_group_with: members.into_iter().filter(|one| *one != function).collect(),
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
        }
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

    fn link(&self, function: PciAddress) -> Option<Link> {
        Some(Link {
            speed: self.text(function, "current_link_speed")?,
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
