//! Placeholders for new devices in a domain's definition: a UUID with which any parent
//! can make the device, or a virtual function of a GPU, or a whole function. It is chosen here
//! and reserved by being named in a definition. The reservation ends at a start: the
//! first domain that starts gets the function.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, anyhow, bail, ensure};

use super::companions::{self, Companions};
use crate::{
    allocate::{Look, nearness_of, places_beside, profile, together},
    claims,
    config::{self, Pool},
    device::{
        mdev::{self, Offer},
        nvml::Nvml,
        parameters::Parameters,
    },
    domain::{self, Card, DomainDef, Hostdev},
    host::{Host, libvirt::Libvirt},
    model::{
        DeviceName, DomainName, DomainUuid, Handle, MdevModel, MdevUuid, PciAddress, proposed,
    },
    plan::{
        self, Assignment, Candidate, Detail, Failed, HostSupply, Nearness, Placeholder, PlanRequest,
    },
    rule::Verdict,
};

/// The definitions that name virtual functions, under any alias.
#[derive(Debug, Default)]
pub struct Named(BTreeMap<DomainUuid, DomainDef>);

impl Named {
    /// Reads those of all domains. An unreadable definition counts as naming none.
    pub fn read(libvirt: &Libvirt) -> anyhow::Result<Self> {
        let mut named = Self::default();
        for xml in libvirt.definitions()? {
            if let Ok(def) = domain::parse(&xml) {
                named.note(&def);
            }
        }
        Ok(named)
    }

    /// Reads those of all domains, but only if the XML has functions that could
    /// conflict with them.
    pub fn read_for(libvirt: &Libvirt, def: &DomainDef) -> anyhow::Result<Self> {
        if def.functions().next().is_none() {
            Ok(Self::default())
        } else {
            Self::read(libvirt)
        }
    }

    /// Records a definition as it is now.
    pub fn note(&mut self, def: &DomainDef) {
        if def.functions().next().is_none() {
            self.0.remove(&def.uuid);
        } else {
            self.0.insert(def.uuid, def.clone());
        }
    }

    /// Forgets a domain that is gone.
    pub fn forget(&mut self, domain: DomainUuid) {
        self.0.remove(&domain);
    }

    /// The definitions, as they were recorded.
    pub fn definitions(&self) -> impl Iterator<Item = &DomainDef> {
        self.0.values()
    }

    /// The definition of that domain.
    #[must_use]
    pub fn definition(&self, domain: DomainUuid) -> Option<&DomainDef> {
        self.0.get(&domain)
    }

    /// The functions that the other domains name.
    #[must_use]
    pub fn reserved(&self, except: DomainUuid) -> Reserved {
        let mut reserved = Reserved::default();
        let others = self.0.iter().filter(|(domain, _)| **domain != except);
        for (_, def) in others {
            for function in def.functions() {
                reserved.add(function, &def.name);
            }
        }
        reserved
    }
}

/// Functions that other domains' definitions name, each with one of these domains and how
/// many there are.
#[derive(Debug, Default)]
pub struct Reserved(BTreeMap<PciAddress, (DomainName, u32)>);

impl Reserved {
    /// The domain that names the function too.
    #[must_use]
    pub fn by(&self, function: PciAddress) -> Option<&DomainName> {
        self.0.get(&function).map(|(domain, _)| domain)
    }

    /// Counts a domain that names the function.
    fn add(&mut self, function: PciAddress, domain: &DomainName) {
        let (_, count) = self
            .0
            .entry(function)
            .or_insert_with(|| (domain.clone(), 0));
        *count += 1;
    }

    /// How many domains name the function.
    fn count(&self, function: PciAddress) -> u32 {
        self.0.get(&function).map_or(0, |(_, count)| *count)
    }

    /// The counts that there are, the lowest first.
    fn counts(&self) -> BTreeSet<u32> {
        self.0.values().map(|(_, count)| *count).collect()
    }

    /// The functions that at least so many domains name, together with `claimed`.
    fn with(
        &self,
        count: u32,
        claimed: &BTreeMap<PciAddress, DomainName>,
    ) -> BTreeMap<PciAddress, DomainName> {
        let named = self.0.iter().filter(|(_, (_, named))| *named >= count);
        let named = named.map(|(function, (domain, _))| (*function, domain.clone()));
        named.chain(claimed.clone()).collect()
    }
}

/// As [`choose`], but avoids the devices in other domains' definitions. libvirt is
/// asked for these only if functions must be chosen.
pub fn placeholders(
    host: &Host,
    libvirt: &Libvirt,
    def: &DomainDef,
    pool: &Pool,
    names: &[DeviceName],
) -> anyhow::Result<Vec<Card>> {
    let reserved = if pool.is_chosen_ahead() && !names.is_empty() {
        Named::read(libvirt)?.reserved(def.uuid)
    } else {
        Reserved::default()
    };
    placeholders_beside(host, libvirt, &reserved, def, pool, names)
}

/// As [`choose`], after checking that libvirt can pass the devices to VMs.
pub fn placeholders_beside(
    host: &Host,
    libvirt: &Libvirt,
    reserved: &Reserved,
    def: &DomainDef,
    pool: &Pool,
    names: &[DeviceName],
) -> anyhow::Result<Vec<Card>> {
    let chosen = choose(host, reserved, def, pool, names)?;
    if chosen.iter().any(|one| one.first.handle.pci().is_some()) {
        check_libvirt(pool, libvirt.version()?)?;
    }
    Ok(chosen)
}

/// Chooses placeholders for the named devices of a pool, for one domain. Free devices
/// come first. If none is free, any function of the pool's GPUs is chosen and may
/// become free before the start.
pub fn choose(
    host: &Host,
    reserved: &Reserved,
    def: &DomainDef,
    pool: &Pool,
    names: &[DeviceName],
) -> anyhow::Result<Vec<Card>> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    if !pool.is_chosen_ahead() {
        let model = model(host, pool)?.unwrap_or_default();
        return Ok(mdev_placeholders(def.uuid, names, model));
    }
    check_together(host, def, pool, names)?;
    let choice = Choice::new(host, def, pool, names)?;
    match choice.free(reserved)? {
        Some(chosen) => Ok(chosen),
        None => choice.any(reserved),
    }
}

/// The placeholders of mediated devices of that model.
pub fn mdev_placeholders(domain: DomainUuid, names: &[DeviceName], model: MdevModel) -> Vec<Card> {
    let one = |name| Hostdev::mdev_placeholder(MdevUuid::for_device(domain, name), name, model);
    names.iter().map(|name| one(name).into()).collect()
}

/// How QEMU presents the devices of a pool of mediated devices; None if this host has
/// none of them, or does not say.
///
/// # Errors
/// When libvirt could not pass them to a VM, or sysfs cannot be read.
pub fn model(host: &Host, pool: &Pool) -> anyhow::Result<Option<MdevModel>> {
    let look = Look::new(host);
    let supply = look.supply(Detail::default());
    let supply = supply.context("cannot look for mdev parents")?;
    let of_pool = || format!("pool '{}'", pool.name);
    for standing in supply.standings(pool).with_context(of_pool)? {
        let Verdict::Match { .. } = standing.verdict else {
            continue;
        };
        let (Offer::Type { id, .. }, _) = supply.room(pool, &standing.parent) else {
            continue;
        };
        let model = mdev::model(host, &standing.parent, &id).with_context(of_pool)?;
        if model.is_some() {
            return Ok(model);
        }
    }
    Ok(None)
}

/// Whether the domain may have these in addition to what it asks for already.
fn check_together(
    host: &Host,
    def: &DomainDef,
    pool: &Pool,
    names: &[DeviceName],
) -> anyhow::Result<()> {
    let others = def.requests.iter().filter(|one| !names.contains(&one.name));
    let mut pools: Vec<Pool> = others
        .filter_map(|request| config::load_pool(host, &request.pool).ok())
        .collect();
    pools.extend(names.iter().map(|_| pool.clone()));
    let profiles: Vec<_> = pools.iter().filter_map(profile).collect();
    let facts = match profiles.len() {
        0 | 1 => Vec::new(),
        _ => host.nvml().gpus().unwrap_or_default(),
    };
    together(&profiles, &facts)
        .map_err(|why| anyhow!("{why}; choose another pool, or detach its devices"))
}

/// The placeholder for one more device that the pool can give now; None when the pool is
/// full. Functions that no other domain names come first.
pub fn choose_free(
    host: &Host,
    reserved: &Reserved,
    def: &DomainDef,
    pool: &Pool,
    name: &DeviceName,
) -> anyhow::Result<Option<Card>> {
    let choice = Choice::new(host, def, pool, std::slice::from_ref(name))?;
    let chosen = choice.free(reserved)?;
    Ok(chosen.and_then(|chosen| chosen.into_iter().next()))
}

/// A function with what comes along; None for a mediated device, and if the host does not
/// say.
pub(super) fn whole_card(host: &Host, pool: &Pool, first: &Hostdev) -> Option<Card> {
    let function = first.handle.pci()?;
    Some(Card {
        first: first.clone(),
        others: pool.devices.passed_along(host, function)?,
    })
}

struct Choice<'a> {
    host: &'a Host,
    def: &'a DomainDef,
    pool: &'a Pool,
    names: &'a [DeviceName],
    /// The functions that the domain already has, for any purpose.
    own: Vec<PciAddress>,
    /// The functions that other domains hold.
    claimed: BTreeMap<PciAddress, DomainName>,
}

impl<'a> Choice<'a> {
    fn new(
        host: &'a Host,
        def: &'a DomainDef,
        pool: &'a Pool,
        names: &'a [DeviceName],
    ) -> anyhow::Result<Self> {
        let claimed = claims::functions(host, Some(def.uuid)).context("cannot read the claims")?;
        Ok(Self {
            host,
            def,
            pool,
            names,
            own: def.functions().collect(),
            claimed,
        })
    }

    /// The hostdevs that the pool can give now; None when it is full. Functions that no
    /// other domain names come first, then those that few of them name: when one of these
    /// domains starts, few others have to give way.
    fn free(&self, reserved: &Reserved) -> anyhow::Result<Option<Vec<Card>>> {
        let mut counts = reserved.counts().into_iter();
        let Some(fewest) = counts.next() else {
            return self.planned(self.claimed.clone());
        };
        let unnamed = self.planned(reserved.with(fewest, &self.claimed))?;
        if unnamed.is_some() {
            return Ok(unnamed);
        }
        // A full pool is looked at no more often than that.
        let any = self.planned(self.claimed.clone())?;
        for count in counts.take_while(|_| any.is_some()) {
            let chosen = self.planned(reserved.with(count, &self.claimed))?;
            if chosen.is_some() {
                return Ok(chosen);
            }
        }
        Ok(any)
    }

    fn supply<'s>(
        &self,
        look: &'s Look<'_>,
        mut taken: BTreeMap<PciAddress, DomainName>,
    ) -> anyhow::Result<HostSupply<'s>> {
        let own = self.own.iter();
        taken.extend(own.map(|&function| (function, self.def.name.clone())));
        let detail = Detail {
            nodes: true,
            boards: true,
            ..Detail::default()
        };
        let view = look.view(detail).context("cannot look for devices")?;
        let view = look
            .without(view, taken)
            .context("cannot read the quarantine")?;
        let own = self.own.iter().copied();
        let own = own.filter(|one| !self.claimed.contains_key(one)).collect();
        Ok(look.supply_of(view.with_own(own)))
    }

    /// The hostdevs that the hook's planner would choose; None when the pool is full. The
    /// devices are near their companions, also those that are chosen later, if possible.
    fn planned(
        &self,
        taken: BTreeMap<PciAddress, DomainName>,
    ) -> anyhow::Result<Option<Vec<Card>>> {
        let mut companions = Companions::of(self.host, self.def, self.names)?;
        if !companions.to_come.is_empty() {
            let planned = self.planned_beside(taken.clone(), &companions)?;
            if planned.is_some() {
                return Ok(planned);
            }
            companions.to_come.clear();
        }
        self.planned_beside(taken, &companions)
    }

    fn planned_beside(
        &self,
        taken: BTreeMap<PciAddress, DomainName>,
        companions: &Companions,
    ) -> anyhow::Result<Option<Vec<Card>>> {
        let look = Look::new(self.host);
        let supply = self.supply(&look, taken)?;
        // The pool's limit counts devices in use, not devices in a definition.
        let unlimited = |pool: &Pool| Pool {
            instances: 0,
            ..pool.clone()
        };
        let pool = unlimited(self.pool);
        let to_come = companions.to_come.iter();
        let to_come: Vec<_> = to_come.map(|(name, of)| (name, unlimited(of))).collect();
        let own = self.names.iter().map(|name| (name, &pool));
        let all = own.chain(to_come.iter().map(|(name, of)| (*name, of)));
        let wanted = all.map(|(device, pool)| PlanRequest {
            device,
            uuid: MdevUuid::for_device(self.def.uuid, device),
            placeholder: Placeholder::Any,
            pool,
            pool_in_use: 0,
            parameters: Parameters::default(),
            together: companions::together(self.def, device),
        });
        let wanted: Vec<PlanRequest<'_>> = wanted.collect();
        let nearness = nearness_of(self.def, self.host).context("cannot read the NUMA layout")?;
        let present = companions.present.iter();
        let present = present.map(|(name, parent)| (name, parent.clone()));
        let nearness = Nearness {
            beside: places_beside(self.def, self.host, present),
            ..nearness
        };
        let plan = plan::plan(
            &self.def.name,
            &wanted,
            &supply,
            &nearness,
            &Failed::default(),
        );
        let Ok(plan) = plan else { return Ok(None) };
        let placeholder = |one: &Assignment| self.card(one.handle, &one.device);
        let chosen = plan.assignments.iter().take(self.names.len());
        Ok(Some(chosen.map(placeholder).collect()))
    }

    /// Any devices that the pool's rules take, full or not; first those that no other
    /// domain holds and few name.
    fn any(&self, reserved: &Reserved) -> anyhow::Result<Vec<Card>> {
        let look = Look::new(self.host);
        let supply = self.supply(&look, BTreeMap::new())?;
        let pool = &self.pool.name;
        let candidates = supply.candidates(self.pool, &Placeholder::Any);
        let candidates = candidates.map_err(|why| anyhow!("pool '{pool}': {why}"))?;
        let in_pool = |one: &Candidate| supply.offer(self.pool, one).is_some();
        let mut found = Vec::new();
        for one in candidates.iter().filter(|one| in_pool(one)) {
            match one.function() {
                None => {
                    let model = MdevModel::VfioPci;
                    return Ok(mdev_placeholders(self.def.uuid, self.names, model));
                }
                Some(function) => found.push(function),
            }
        }
        found.retain(|function| !self.own.contains(function));
        if found.is_empty() {
            let lacking = self.pool.kind.lacking(self.host);
            let lacking = lacking.context("cannot look for GPUs")?;
            bail!(
                "no device on this host can serve pool '{pool}'{}; see \
                 {}",
                lacking.map_or(String::new(), |what| format!(": {what}")),
                proposed("virt-vgpu pool preview", pool)
            );
        }
        ensure!(
            found.len() >= self.names.len(),
            "pool '{pool}' has only {} devices that domain '{}' does not have already",
            found.len(),
            self.def.name
        );
        found.sort_by_key(|function| {
            (
                self.claimed.contains_key(function),
                reserved.count(*function),
            )
        });
        let chosen = found.into_iter().zip(self.names);
        Ok(chosen
            .map(|(function, name)| self.card(function.into(), name))
            .collect())
    }

    /// The placeholder, and what comes with it.
    fn card(&self, handle: Handle, name: &DeviceName) -> Card {
        let first = Hostdev::placeholder(handle, name).with_rom(&self.pool.devices.rom());
        whole_card(self.host, self.pool, &first).unwrap_or_else(|| first.into())
    }
}

/// Whether libvirt can pass functions of the pool to VMs.
pub fn check_libvirt(pool: &Pool, version: u32) -> anyhow::Result<()> {
    let checked = pool.kind.check_libvirt(version);
    checked.map_err(|why| anyhow!("{why}"))
}

#[cfg(test)]
#[path = "placeholder_tests.rs"]
mod choice;
