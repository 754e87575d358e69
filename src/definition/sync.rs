//! Changes a definition to match the requests in its metadata, whoever wrote them: the
//! metadata says what is wanted, and the placeholders follow. Everything else in the
//! definition stays unchanged.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context;
use serde::Serialize;

use super::{
    Change, Definition, Move, Named, Stuck, Target,
    attachment::{
        CdRomOutcome, existing, existing_cdrom, hostdev_of, is_of_another, mend, placed,
        provide_cdrom, remodel, with_others,
    },
    placeholder, redo,
    replan::{self, Held},
};
use crate::{
    claims,
    config::{self, Pool, PoolError},
    domain::{self, ALIAS_PREFIX, Card, DomainDef, Hostdev, Request},
    host::{
        Host,
        libvirt::{Domain, Libvirt},
    },
    model::{
        DeviceName, DomainName, DomainUuid, Handle, MdevModel, MdevUuid, PciAddress, PoolName,
    },
};

/// The changes that were made, or would be made, for one domain.
#[derive(Debug, Serialize)]
pub struct Synced {
    pub domain: DomainName,
    pub domain_uuid: DomainUuid,
    pub done: Vec<Done>,
    /// Devices whose function another domain has, and for which no other is free now.
    pub stuck: Vec<Stuck>,
    /// The reasons why devices cannot be had.
    pub problems: Vec<String>,
}

impl Synced {
    /// All problems, one line each.
    pub fn complaints(&self) -> Vec<String> {
        let stuck = self.stuck.iter().map(ToString::to_string);
        self.problems.iter().cloned().chain(stuck).collect()
    }
}

/// One correction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum Done {
    /// A missing placeholder was added.
    Added {
        device: DeviceName,
        pool: PoolName,
        #[serde(skip_serializing_if = "Option::is_none")]
        function: Option<PciAddress>,
        /// The other functions that come along on the same slot of the guest.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        along: Vec<PciAddress>,
    },
    /// A placeholder of another domain's device was corrected, for example after
    /// cloning.
    Mended { device: DeviceName },
    /// A placeholder got the model of the pool's type.
    Remodelled {
        device: DeviceName,
        model: &'static str,
    },
    /// A device got the functions of its card that go together, and no other.
    Completed {
        device: DeviceName,
        functions: Vec<PciAddress>,
    },
    /// A placeholder that no request asks for was removed.
    Removed { device: DeviceName },
    /// The placeholder of an optional device was removed.
    Later { device: DeviceName },
    /// A request now says that its device is optional, as its pool does.
    Optional { device: DeviceName },
    /// The CD-ROM with guest drivers was added for a request.
    CdRomAdded { target: String },
    /// The CD-ROM pointed to another domain's medium and was corrected.
    CdRomMended { target: String },
    /// The CD-ROM was removed because no request asks for it.
    CdRomRemoved,
    /// A device got another function.
    Moved(Move),
    /// A device was added again that a killed program had removed in order to exchange
    /// it.
    PutBack { what: String },
}

/// Options for correcting domains.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// Nothing is changed; functions are checked as they are now.
    pub dry_run: bool,
    /// A running domain's definition gets the functions with which it is running.
    pub follow: bool,
    /// A stopped domain gets other functions if it could not have its own now.
    pub moves: bool,
    /// How long to wait for another process that edits the domain.
    pub patience: Duration,
}

/// Corrects the persistent definition of a domain: first its placeholders, then
/// functions that cannot serve any more.
///
/// # Errors
/// When the definition cannot be read or edited; it is unchanged then.
pub fn sync(
    host: &Host,
    libvirt: &Libvirt,
    domain: &Domain,
    named: &mut Named,
    manner: Manner,
) -> anyhow::Result<Synced> {
    let dry_run = manner.dry_run;
    let name = domain.name()?;
    let mut target = Target::read_within(host, domain.clone(), &name, manner.patience)?;
    let put_back = match dry_run {
        true => Vec::new(),
        false => redo::redo(host, &mut target)?,
    };
    named.note(&target.definition.def);
    let def = &target.definition.def;
    let mut synced = Synced {
        domain: def.name.clone(),
        domain_uuid: def.uuid,
        done: Vec::new(),
        stuck: Vec::new(),
        problems: Vec::new(),
    };
    let cannot = |name: &DomainName| format!("cannot correct domain '{name}'");
    let pools = Pools::load(host, def);
    let mut reserved = None;
    let choose = |planned: &DomainDef, pool: &Pool, names: &[DeviceName]| {
        if pool.is_chosen_ahead() && reserved.is_none() {
            // Other definitions may have changed since they were read. Writing a
            // definition is rare, so they are read again.
            *named = Named::read(libvirt)?;
            reserved = Some(named.reserved(def.uuid));
        }
        let none = placeholder::Reserved::default();
        let reserved = reserved.as_ref().unwrap_or(&none);
        placeholder::placeholders_beside(host, libvirt, reserved, planned, pool, names)
    };
    let work = work_out(&target.definition, &pools, choose).with_context(|| cannot(&def.name))?;
    let writes_metadata = work.writes_metadata();
    synced.done = put_back
        .into_iter()
        .map(|what| Done::PutBack { what })
        .chain(work.done)
        .collect();
    synced.problems = work.problems;
    synced
        .problems
        .extend(asks_for_nothing(&target.definition.xml));
    if !dry_run && !work.changes.is_empty() {
        if writes_metadata {
            let now = target.domain.inactive_xml()?;
            is_unchanged(&target.definition, &now).with_context(|| cannot(&synced.domain))?;
        }
        redo::carry_out_noted(host, &target, &work.changes)
            .with_context(|| cannot(&synced.domain))?;
        target.read_again()?;
        named.note(&target.definition.def);
    }
    // A device that is not yet in the definition cannot be replanned.
    let has_functions = target.definition.def.functions().next().is_some();
    if has_functions && work.has_all_devices {
        let all_there = !dry_run || work.changes.is_empty();
        if all_there {
            move_functions(host, libvirt, &mut target, named, manner, &mut synced)?;
        }
    }
    Ok(synced)
}

/// The elements of a domain's XML that were probably meant as requests, one line each.
#[must_use]
pub fn asks_for_nothing(xml: &str) -> Vec<String> {
    let near_misses = domain::near_misses(xml).unwrap_or_default();
    near_misses.iter().map(ToString::to_string).collect()
}

fn move_functions(
    host: &Host,
    libvirt: &Libvirt,
    target: &mut Target,
    named: &mut Named,
    manner: Manner,
    synced: &mut Synced,
) -> anyhow::Result<()> {
    let cannot = || format!("cannot replan domain '{}'", synced.domain);
    let replanned = match (target.running, manner.follow) {
        (true, true) => replan::follow(host, target, &functions_held(host, synced.domain_uuid)?),
        (true, false) => return Ok(()),
        (false, _) if !manner.moves => return Ok(()),
        (false, _) => replan::replan(host, libvirt, target, named),
    };
    let replanned = replanned.with_context(cannot)?;
    if !manner.dry_run && !replanned.changes.is_empty() {
        redo::carry_out_noted(host, target, &replanned.changes).with_context(cannot)?;
        target.read_again()?;
        named.note(&target.definition.def);
    }
    synced
        .done
        .extend(replanned.moves.into_iter().map(Done::Moved));
    synced.stuck = replanned.stuck;
    Ok(())
}

/// The functions with which the domain is running.
fn functions_held(host: &Host, domain: DomainUuid) -> anyhow::Result<Vec<Held>> {
    let Some(claim) = claims::load(host, domain)? else {
        return Ok(Vec::new());
    };
    Ok(claim
        .functions()
        .map(|(device, function)| Held {
            function,
            name: device.name.clone(),
            pool: device.pool.clone(),
        })
        .collect())
}

/// The pools that requests name, or why one cannot be used.
#[derive(Default)]
struct Pools {
    pools: BTreeMap<PoolName, Result<Pool, PoolError>>,
    /// How QEMU presents the devices of each pool of mediated devices, if this host
    /// says so.
    models: BTreeMap<PoolName, MdevModel>,
    /// The functions that the definition names, each with what comes along on this host.
    cards: BTreeMap<DeviceName, Card>,
}

impl Pools {
    fn load(host: &Host, def: &DomainDef) -> Self {
        let mut all = Self::default();
        for Request { pool: name, .. } in &def.requests {
            if all.pools.contains_key(name) {
                continue;
            }
            let pool = config::load_pool(host, name);
            if let Some(pool) = pool.as_ref().ok().filter(|pool| !pool.is_chosen_ahead()) {
                // A model that libvirt does not support is reported where a device is
                // requested.
                let model = placeholder::model(host, pool).ok().flatten();
                all.models.extend(model.map(|model| (name.clone(), model)));
            }
            all.pools.insert(name.clone(), pool);
        }
        for request in &def.requests {
            let pool = all.pools.get(&request.pool);
            let pool = pool.and_then(|pool| pool.as_ref().ok());
            let first = def.function_of(&request.name);
            let card = pool
                .zip(first)
                .and_then(|(pool, first)| placeholder::whole_card(host, pool, first));
            all.cards
                .extend(card.map(|card| (request.name.clone(), card)));
        }
        all
    }
}

#[derive(Debug, Default)]
struct Work {
    changes: Vec<Change>,
    done: Vec<Done>,
    problems: Vec<String>,
    /// Whether the definition then has a placeholder for each device that needs one.
    has_all_devices: bool,
}

/// Computes the changes of the definition. `choose` finds placeholders for the new
/// devices of one pool, given a definition that already has those of the earlier pools.
fn work_out(
    definition: &Definition,
    pools: &Pools,
    mut choose: impl FnMut(&DomainDef, &Pool, &[DeviceName]) -> anyhow::Result<Vec<Card>>,
) -> anyhow::Result<Work> {
    let mut work = Work::default();
    let Surplus { kept, removed } = surplus(definition)?;
    for (device, change) in removed {
        work.changes.push(change);
        work.done.push(Done::Removed { device });
    }
    let mut element = definition.element.clone();
    let mut lacking: Vec<(&Pool, Vec<DeviceName>)> = Vec::new();
    for request in &definition.def.requests {
        let name = &request.name;
        let uuid = MdevUuid::for_device(definition.def.uuid, name);
        match hostdev_of(&definition.def, name, uuid)? {
            // A placeholder without a device would fail the start, so an optional
            // device has none and is plugged in later.
            Some(hostdev) if request.optional == Some(true) => {
                let all = definition.def.others_of_card(name).chain([hostdev]);
                for one in all {
                    let former = existing(definition, name, one)?;
                    work.changes.push(Change::Detach(former));
                }
                work.done.push(Done::Later {
                    device: name.clone(),
                });
            }
            Some(old) if is_of_another(old, uuid) => {
                work.changes.extend(mend(definition, name, old, uuid)?);
                work.done.push(Done::Mended {
                    device: name.clone(),
                });
            }
            Some(old) if old.handle.pci().is_some() => {
                if let Some(card) = pools.cards.get(name) {
                    let changes = replan::exchange_card(definition, name, old, card)?;
                    if !changes.is_empty() {
                        work.done.push(Done::Completed {
                            device: name.clone(),
                            functions: card.functions(),
                        });
                    }
                    work.changes.extend(changes);
                }
            }
            Some(old) => {
                let wanted = pools.models.get(&request.pool).copied();
                if let (Some(has), Some(model)) = (&old.model, wanted) {
                    if has != model.as_str() {
                        let new = Hostdev::mdev_placeholder(uuid, name, model);
                        work.changes.extend(remodel(definition, name, old, &new)?);
                        work.done.push(Done::Remodelled {
                            device: name.clone(),
                            model: model.as_str(),
                        });
                    }
                }
            }
            None if request.optional == Some(true) => {}
            None => match pools.pools.get(&request.pool) {
                Some(Ok(pool)) if pool.makes_optional(request.optional) => {
                    if let Some(old) = element.as_deref() {
                        let mut request = request.clone();
                        request.optional = Some(true);
                        element = Some(domain::replace_request(old, &request)?);
                        work.done.push(Done::Optional {
                            device: name.clone(),
                        });
                    }
                }
                Some(Ok(pool)) => match lacking.iter_mut().find(|(of, _)| of.name == pool.name) {
                    Some((_, names)) => names.push(name.clone()),
                    None => lacking.push((pool, vec![name.clone()])),
                },
                Some(Err(error)) => work.problems.push(error.to_string()),
                None => {}
            },
        }
    }
    let mut planned = DomainDef {
        hostdevs: kept,
        ..definition.def.clone()
    };
    for (pool, names) in lacking {
        match choose(&planned, pool, &names) {
            Ok(cards) => work.add(&mut planned, pool, &names, &cards)?,
            Err(error) => work.problems.push(format!("{error:#}")),
        }
    }
    // Requests that ask for less come first, so that a start between two edits is not
    // refused.
    let metadata = Change::metadata(definition.element.as_deref(), element.as_deref())?;
    work.changes.splice(0..0, metadata);
    work.has_all_devices = work.problems.is_empty();
    // A domain runs without guest drivers too.
    if let Err(error) = work.settle_cdrom(definition) {
        let problem = format!("cannot provide the CD-ROM with guest drivers: {error:#}");
        work.problems.push(problem);
    }
    Ok(work)
}

/// Refuses to overwrite a request that another program has made meanwhile: libvirt
/// replaces our element as a whole, and has no call that compares it first. A short
/// moment between this check and the call remains.
fn is_unchanged(read: &Definition, now: &str) -> anyhow::Result<()> {
    anyhow::ensure!(
        domain::metadata_element(now)? == read.element,
        "somebody has changed its requests meanwhile, and nothing was done; try again"
    );
    Ok(())
}

impl Work {
    fn writes_metadata(&self) -> bool {
        self.changes
            .iter()
            .any(|change| matches!(change, Change::Metadata { .. }))
    }

    fn add(
        &mut self,
        planned: &mut DomainDef,
        pool: &Pool,
        names: &[DeviceName],
        cards: &[Card],
    ) -> anyhow::Result<()> {
        for (name, card) in names.iter().zip(cards) {
            self.changes.extend(placed(planned, name, card)?);
            self.done.push(Done::Added {
                device: name.clone(),
                pool: pool.name.clone(),
                function: card.first.handle.pci(),
                along: card.others.clone(),
            });
        }
        Ok(())
    }

    fn settle_cdrom(&mut self, definition: &Definition) -> anyhow::Result<()> {
        let mut requests = definition.def.requests.iter();
        if requests.any(|request| request.guest_drivers == Some(true)) {
            let outcome = provide_cdrom(definition, &mut self.changes)?;
            self.done.extend(outcome.map(|outcome| match outcome {
                CdRomOutcome::Added(target) => Done::CdRomAdded { target },
                CdRomOutcome::Mended(target) => Done::CdRomMended { target },
            }));
        } else if let Some(cdrom) = existing_cdrom(definition)? {
            self.changes.push(Change::Detach(cdrom));
            self.done.push(Done::CdRomRemoved);
        }
        Ok(())
    }
}

/// Placeholders without a request, and hostdevs that stay.
struct Surplus {
    kept: Vec<Hostdev>,
    removed: Vec<(DeviceName, Change)>,
}

/// Finds surplus hostdevs, but only those that are certainly ours: a mediated device
/// with the UUID for its alias in this domain, or a function with an alias of ours and
/// `managed='no'`.
fn surplus(definition: &Definition) -> anyhow::Result<Surplus> {
    let def = &definition.def;
    if !asks_for_nothing(&definition.xml).is_empty() {
        // If the requests are invalid, their author must correct them. Without its
        // hostdevs the domain would start without its devices.
        return Ok(Surplus {
            kept: def.hostdevs.clone(),
            removed: Vec::new(),
        });
    }
    let unasked = |hostdev: &Hostdev| {
        let alias = hostdev.alias.as_deref()?;
        let other = domain::other_of_card(alias);
        let name = match &other {
            Some((name, _)) => name.clone(),
            None => alias
                .strip_prefix(ALIAS_PREFIX)?
                .parse::<DeviceName>()
                .ok()?,
        };
        let asked = def.requests.iter().any(|request| request.name == name);
        let is_ours = match hostdev.handle {
            Handle::Mdev(_) if other.is_some() => false,
            Handle::Mdev(uuid) => uuid == MdevUuid::for_device(def.uuid, &name),
            Handle::Pci(_) => !hostdev.managed,
        };
        (is_ours && !asked).then_some(name)
    };
    let (mut kept, mut removed) = (Vec::new(), Vec::new());
    for hostdev in &def.hostdevs {
        match unasked(hostdev) {
            Some(name) => {
                let device = existing(definition, &name, hostdev)?;
                removed.push((name, Change::Detach(device)));
            }
            None => kept.push(hostdev.clone()),
        }
    }
    Ok(Surplus { kept, removed })
}

impl std::fmt::Display for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Added {
                device,
                pool,
                function: Some(function),
                along,
            } => {
                let source = with_others(*function, along);
                write!(f, "attached {device} ({source}) from pool {pool}")
            }
            Self::Added { device, pool, .. } => write!(f, "attached {device} from pool {pool}"),
            Self::Mended { device } => {
                write!(
                    f,
                    "corrected the hostdev of {device}, which belonged to another domain"
                )
            }
            Self::Remodelled { device, model } => write!(
                f,
                "gave the hostdev of {device} model='{model}', which its type needs"
            ),
            Self::Completed { device, functions } => {
                let all: Vec<String> = functions.iter().map(ToString::to_string).collect();
                write!(
                    f,
                    "{device} gets the functions {} on one slot",
                    all.join(", ")
                )
            }
            Self::Removed { device } => {
                write!(
                    f,
                    "removed the hostdev of {device}, which no request asks for"
                )
            }
            Self::Later { device } => {
                write!(
                    f,
                    "removed the hostdev of {device}, which is optional and is plugged in later"
                )
            }
            Self::Optional { device } => write!(f, "{device} is optional, as its pool says"),
            Self::CdRomAdded { target } => write!(f, "added the guest-driver CD-ROM {target}"),
            Self::CdRomMended { target } => write!(
                f,
                "corrected the guest-driver CD-ROM {target}, which belonged to another domain"
            ),
            Self::PutBack { what } => {
                write!(f, "restored {what}, which an interrupted edit had removed")
            }
            Self::CdRomRemoved => f.write_str("removed the guest-driver CD-ROM"),
            Self::Moved(Move {
                device,
                from,
                to,
                reason,
            }) => {
                let shown = |address: &Option<PciAddress>| match address {
                    Some(address) => address.to_string(),
                    None => "a mediated device".to_owned(),
                };
                let (to, from) = (shown(to), shown(from));
                write!(f, "{device} gets {to} instead of {from}: {reason}")
            }
        }
    }
}

#[cfg(test)]
#[path = "sync_tests.rs"]
mod tests;
