//! The demand of a starting domain: its requests, their pools, and the plan for them on
//! the present host. This module only reads: the hook makes the planned devices, and
//! `explain` prints the plan.

use std::{collections::BTreeMap, io, time::Duration};

use super::{AllocateError, Look, io_error, nearness_of, places_beside, unbinding};
use crate::{
    claims::{Claim, ClaimedDevice, Interest, Seen},
    config::{self, Pool},
    device::{mdev, parameters::Parameters},
    domain::{DomainDef, Request},
    host::{Deadline, Host},
    model::{DeviceName, DomainName, MdevUuid, ParentName, PciAddress, PoolName},
    plan::{self, Announced, Detail, Failed, Placeholder, Plan, PlanRequest, Refusal, RefusalKind},
};

/// The requests that the hook serves. An optional request without a placeholder is left
/// out: its device is plugged in later.
///
/// # Errors
/// When a request that must be served has no placeholder.
pub fn devices_wanted(domain: &DomainDef) -> Result<Vec<PlacedRequest<'_>>, AllocateError> {
    let mut wanted = Vec::new();
    for request in &domain.requests {
        let uuid = MdevUuid::for_device(domain.uuid, &request.name);
        if let Some(hostdev) = domain.placeholder_of(&request.name) {
            wanted.push(PlacedRequest {
                request,
                uuid,
                placeholder: hostdev.handle.into(),
            });
        } else if request.optional != Some(true) {
            return Err(AllocateError::NoPlaceholder {
                domain: domain.name.to_string(),
                device: request.name.to_string(),
                pool: request.pool.clone(),
                lacks: format!("has no <hostdev> with UUID {uuid}"),
            });
        }
    }
    Ok(wanted)
}

/// A request, and its placeholder in the XML.
#[derive(Debug, Clone)]
pub struct PlacedRequest<'a> {
    /// The request.
    pub request: &'a Request,
    /// The UUID that it always has.
    pub uuid: MdevUuid,
    /// Its placeholder.
    pub placeholder: Placeholder,
}

impl PlacedRequest<'_> {
    /// The device's parameters: those of the request, else those of the pool.
    #[must_use]
    pub fn parameters(&self, pool: &Pool) -> Parameters {
        let (request, defaults) = (self.request, &pool.defaults);
        Parameters {
            frame_rate_limit: request.frame_rate_limit.or(defaults.frame_rate_limit),
            console_vnc: request.console_vnc.or(defaults.console_vnc),
            unified_memory: request.unified_memory.or(defaults.unified_memory),
            debuggers: request.debuggers.or(defaults.debuggers),
            profilers: request.profilers.or(defaults.profilers),
        }
    }
}

/// The GPU instances that a plan may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Instances {
    /// Those that there are.
    Existing,
    /// Also those that the start would make.
    New,
}

/// The demand of a domain.
#[derive(Debug)]
pub struct Demand<'a> {
    /// The domain.
    pub domain: &'a DomainDef,
    /// The requests to be served, with their placeholders.
    pub wanted: Vec<PlacedRequest<'a>>,
    /// The pools that they name.
    pub pools: BTreeMap<PoolName, Pool>,
    /// For a running domain: the pools and the parents of its present devices.
    pub beside: Option<Vec<(Pool, ParentName)>>,
    /// For a running domain: the names and the parents of its present devices.
    pub present: Vec<(DeviceName, ParentName)>,
    /// Devices in the claim that no longer exist and are being replaced: they take no space.
    pub replaced: Vec<ClaimedDevice>,
}

impl<'a> Demand<'a> {
    /// Loads the pools of the domain's requests ([`devices_wanted`]).
    ///
    /// # Errors
    /// When a pool cannot be used.
    pub fn load(
        host: &Host,
        domain: &'a DomainDef,
        wanted: Vec<PlacedRequest<'a>>,
    ) -> Result<Self, AllocateError> {
        let mut pools = BTreeMap::new();
        for PlacedRequest { request, .. } in &wanted {
            if !pools.contains_key(&request.pool) {
                let pool = config::load_pool(host, &request.pool).map_err(|cause| {
                    AllocateError::Pool {
                        domain: domain.name.to_string(),
                        pool: request.pool.clone(),
                        cause: Box::new(cause),
                    }
                })?;
                pools.insert(request.pool.clone(), pool);
            }
        }
        Ok(Self {
            domain,
            wanted,
            pools,
            beside: None,
            present: Vec::new(),
            replaced: Vec::new(),
        })
    }

    /// Checks that the UUIDs are free. Devices of the domain's own `former` claim may have
    /// them.
    ///
    /// # Errors
    /// The first UUID that is taken.
    pub fn check_uuids_are_free(
        &self,
        host: &Host,
        former: Option<&Claim>,
    ) -> Result<(), AllocateError> {
        for PlacedRequest {
            request,
            uuid,
            placeholder,
        } in &self.wanted
        {
            if *placeholder != Placeholder::Mdev {
                continue;
            }
            let own = former.is_some_and(|claim| claim.devices.iter().any(|d| d.uuid == *uuid));
            if own {
                continue;
            }
            let found = mdev::find(host, *uuid)
                .map_err(|cause| io_error("cannot look for mediated devices", cause))?;
            if let Some(found) = found {
                return Err(AllocateError::ForeignUuid {
                    domain: self.domain.name.to_string(),
                    device: request.name.to_string(),
                    uuid: *uuid,
                    parent: found.parent.to_string(),
                });
            }
        }
        Ok(())
    }

    /// The questions to other claims.
    fn interest(&self) -> Interest<'_> {
        let limited = self.pools.values().filter(|pool| pool.instances != 0);
        Interest {
            pools: limited.map(|pool| &pool.name).collect(),
            functions: self.wants_functions(),
            announced: Some(self.domain.uuid),
            // A starting domain has given back its devices; a running domain has them.
            except: self.beside.is_none().then_some(self.domain.uuid),
            tolerant: false,
        }
    }

    fn wants_functions(&self) -> bool {
        self.wanted
            .iter()
            .any(|placed| placed.placeholder != Placeholder::Mdev)
    }

    /// Reads the claims for this demand. Changes after the beginning of the look may not show
    /// in the look, so they count as being made.
    ///
    /// # Errors
    /// When the claims cannot be read.
    pub fn see_claims(&self, look: &Look<'_>) -> Result<Seen, AllocateError> {
        Seen::read(look.host, &self.interest(), Some(look.began))
            .map_err(|cause| io_error("cannot count what other domains have", cause))
    }

    /// Plans a device for each request on the present host.
    ///
    /// # Errors
    /// A refusal, or what of the host cannot be read.
    pub fn plan(&self, host: &Host, failed: &Failed) -> Result<Plan, AllocateError> {
        let look = Look::new(host);
        let seen = self.see_claims(&look)?;
        self.plan_from(&look, &seen, failed)
    }

    /// The plan that a start would carry out now: without devices that the host needs only
    /// together with others of the plan, and without those that a process has open.
    ///
    /// # Errors
    /// A refusal, or what of the host cannot be read.
    pub fn plan_to_make(&self, host: &Host) -> Result<Plan, AllocateError> {
        /// More devices than any pool has are in use.
        const MOST: u32 = 64;
        let mut failed = Failed::default();
        for _ in 0..MOST {
            let plan = self.plan(host, &failed)?;
            match unbinding::in_use(host, &plan, Deadline::after(Duration::ZERO)) {
                None => return Ok(plan),
                Some((number, why)) => failed.note(&plan, number, &why),
            }
        }
        self.plan(host, &failed)
    }

    /// Plans a device for each request from that look and those claims. GPU instances that
    /// would have to be made first are the last resort ([`Plan::needs_new_instance`]).
    ///
    /// # Errors
    /// A refusal, or what of the host cannot be read.
    pub fn plan_from(
        &self,
        look: &Look<'_>,
        seen: &Seen,
        failed: &Failed,
    ) -> Result<Plan, AllocateError> {
        let planned = self.plan_on(look, seen, failed, Instances::Existing);
        match planned {
            Err(AllocateError::Refused(_)) if self.makes_instances() => {
                self.plan_on(look, seen, failed, Instances::New)
            }
            planned => planned,
        }
    }

    /// The plan with the GPU instances that there are.
    ///
    /// # Errors
    /// As [`Self::plan_from`].
    pub(super) fn plan_in_existing_instances(
        &self,
        look: &Look<'_>,
        seen: &Seen,
        failed: &Failed,
    ) -> Result<Plan, AllocateError> {
        self.plan_on(look, seen, failed, Instances::Existing)
    }

    /// Whether a start may make GPU instances for it.
    fn makes_instances(&self) -> bool {
        self.pools.values().any(|pool| {
            let settings = pool.devices.gpu_settings();
            settings.is_some_and(|its| its.gpu_instances.are_made_on_demand())
        })
    }

    fn plan_on(
        &self,
        look: &Look<'_>,
        seen: &Seen,
        failed: &Failed,
        instances: Instances,
    ) -> Result<Plan, AllocateError> {
        let had_missed = look.has_missed();
        let bring_together = self.can_be_together();
        let plan = self.plan_once(look, seen, failed, (bring_together, instances));
        if bring_together && look.has_missed() && !had_missed {
            // A preference is no reason to wait for a driver.
            look.forget_missed();
            return self.plan_once(look, seen, failed, (false, instances));
        }
        plan
    }

    /// Whether two devices should share something.
    fn can_be_together(&self) -> bool {
        let wants = |name: &DeviceName| {
            let mut requests = self.domain.requests.iter();
            requests.any(|request| request.name == *name && request.together.is_some())
        };
        let wanted = self.wanted.iter().map(|placed| &placed.request.name);
        let present = self.present.iter().map(|(name, _)| name);
        wanted.chain(present).filter(|name| wants(name)).count() > 1
    }

    fn plan_once(
        &self,
        look: &Look<'_>,
        seen: &Seen,
        failed: &Failed,
        (bring_together, instances): (bool, Instances),
    ) -> Result<Plan, AllocateError> {
        let mut nearness = nearness_of(self.domain, &look.sysfs)
            .map_err(|cause| io_error("cannot read the NUMA layout", cause))?;
        if bring_together {
            let present = self
                .present
                .iter()
                .map(|(name, parent)| (name, parent.clone()));
            nearness.beside = places_beside(self.domain, &look.sysfs, present);
        }
        let detail = Detail {
            ahead: look.ahead(),
            is_settled: look.asks_no_driver(),
            existing_instances_only: instances == Instances::Existing,
            nodes: bring_together || !nearness.nodes.is_empty(),
            boards: self.wanted.len() > 1 || !failed.is_empty(),
            functions_only: self.wanted.iter().all(|placed| {
                matches!(
                    placed.placeholder,
                    Placeholder::Function(_) | Placeholder::Functions
                )
            }),
        };
        let mut view = look
            .view(detail)
            .map_err(|cause| io_error("cannot look for mdev parents", cause))?
            .with_beside(self.parent_beside());
        if self.wants_functions() {
            let held = self.less_replaced(seen.functions.clone());
            view = look
                .without(view, held)
                .map_err(|cause| io_error("cannot read the claims", cause))?;
        }
        let announced = self
            .announced(look, seen)
            .map_err(|cause| io_error("cannot list mediated devices", cause))?;
        let supply = look.supply_of(view.with_announced(announced));
        self.check_rules(&supply)?;
        let mut requests = Vec::with_capacity(self.wanted.len());
        for placed in &self.wanted {
            let pool = &self.pools[&placed.request.pool];
            requests.push(PlanRequest {
                device: &placed.request.name,
                uuid: placed.uuid,
                placeholder: placed.placeholder.clone(),
                pool,
                pool_in_use: self.pool_in_use(seen, pool),
                parameters: placed.parameters(pool),
                together: placed.request.together.filter(|_| bring_together),
            });
        }
        let domain = &self.domain.name;
        let plan = plan::plan(domain, &requests, &supply, &nearness, failed)?;
        self.check_models(&look.sysfs, &plan)?;
        self.check_cards(&plan)?;
        Ok(plan)
    }

    /// Devices of other domains that are being made and that the look does not show.
    fn announced(&self, look: &Look<'_>, seen: &Seen) -> io::Result<Vec<Announced>> {
        if seen.announced.is_empty() {
            return Ok(Vec::new());
        }
        let there = mdev::uuids(&look.sysfs)?;
        let hidden = seen.not_among(&there).into_iter();
        Ok(hidden
            .map(|device| Announced {
                parent: device.parent.clone(),
                board: device.board.clone(),
                type_id: device.type_id.clone(),
                placement: device.placement,
            })
            .collect())
    }

    /// Plans for an XML that can still be changed. If a named function is not free, any free
    /// function is used for that device.
    ///
    /// # Errors
    /// As [`Self::plan`], but no refusal of a named function.
    pub fn replan(&mut self, host: &Host, failed: &Failed) -> Result<Plan, AllocateError> {
        let look = Look::new(host);
        let seen = self.see_claims(&look)?;
        self.replan_from(&look, &seen, failed)
    }

    /// The same from that look and those claims.
    ///
    /// # Errors
    /// As [`Self::plan_from`], but no refusal of a named function.
    pub fn replan_from(
        &mut self,
        look: &Look<'_>,
        seen: &Seen,
        failed: &Failed,
    ) -> Result<Plan, AllocateError> {
        loop {
            let device = match self.plan_from(look, seen, failed) {
                // A missing answer of a driver is not a reason to give up the function.
                Err(AllocateError::Refused(Refusal {
                    kind: RefusalKind::Function { .. },
                    device,
                    ..
                })) if !look.has_missed() => device,
                other => return other,
            };
            let mut placed_requests = self.wanted.iter_mut();
            if let Some(placed) = placed_requests.find(|placed| placed.request.name == device) {
                // This request is never refused again because of one function.
                placed.placeholder = Placeholder::Functions;
            }
        }
    }

    /// The number of claimed devices of the pool, including devices that are leaving and
    /// no longer exist.
    fn pool_in_use(&self, seen: &Seen, pool: &Pool) -> u32 {
        let claimed = seen.in_use.get(&pool.name).copied().unwrap_or_default();
        let replaced = self
            .replaced
            .iter()
            .filter(|device| device.pool == pool.name);
        claimed.saturating_sub(u32::try_from(replaced.count()).unwrap_or(u32::MAX))
    }

    /// The parent of a device of the running domain whose kind needs one type of board.
    fn parent_beside(&self) -> Option<ParentName> {
        let mut beside = self.beside.iter().flatten();
        let (_, parent) = beside.find(|(pool, _)| pool.devices.wants_one_board_type())?;
        Some(parent.clone())
    }

    fn less_replaced(
        &self,
        mut held: BTreeMap<PciAddress, DomainName>,
    ) -> BTreeMap<PciAddress, DomainName> {
        let own = &self.domain.name;
        let is_replaced = |function: &PciAddress| {
            let mut replaced = self.replaced.iter();
            replaced.any(|device| device.functions().any(|one| one == *function))
        };
        held.retain(|function, domain| domain != own || !is_replaced(function));
        held
    }
}
