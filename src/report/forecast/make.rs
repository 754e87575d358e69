//! The forecast for a domain that asks for devices: the hook's own steps, on the host as it
//! is.

use std::collections::BTreeSet;

use super::{
    CandidateForecast, Device, Forecast, ForecastResult, Held, HeldDevice, HeldState,
    PlannedDevice, PoolForecast, XmlOf, line, together,
};
use crate::{
    allocate::{AllocateError, Demand, Look, PlacedRequest, devices_wanted, nearness_of},
    capacity::Fit,
    claims::{self, Claim, DEFAULT_GRACE, Doubt, Liveness},
    config::{self, Pool},
    device::mdev::Offer,
    domain::{DomainDef, Request},
    host::{Host, Processes},
    model::{DomainUuid, MdevUuid, PoolName},
    plan::{Detail, HostSupply, Idle, Placeholder, RefusalKind, Standing, Surveyed, survey},
    rule::Verdict,
};

impl Forecast {
    /// Looks at the host and foretells.
    pub(super) fn make(host: &Host, domain: &DomainDef, xml_of: XmlOf) -> Self {
        let has_uuid = xml_of != XmlOf::FileWithoutUuid;
        let mut forecast = Self::nothing(domain.name.clone(), has_uuid.then_some(domain.uuid));
        forecast.devices = domain
            .requests
            .iter()
            .map(|request| device(domain, request, has_uuid))
            .collect();
        if !has_uuid {
            forecast.notes.push(
                "the XML has no <uuid>: libvirt makes one up when the domain is defined, and \
                 virt-vgpud adds the hostdevs then; 'virt-vgpu create' does both"
                    .to_owned(),
            );
        }
        forecast.survey_pools(host, domain);
        match forecast.foretell(host, domain, xml_of) {
            Ok(outcome) => forecast.outcome = outcome,
            Err(error) => {
                forecast.outcome = ForecastResult::Refused;
                forecast.refusal = Some(line(&error, xml_of));
                forecast.note_stale_claims(host, domain.uuid, &error);
            }
        }
        if forecast.outcome != ForecastResult::Refused {
            forecast.together = together::all(host, &domain.requests, &forecast.devices);
        }
        forecast
    }

    /// The hook's way, in the hook's order.
    fn foretell(
        &mut self,
        host: &Host,
        domain: &DomainDef,
        xml_of: XmlOf,
    ) -> Result<ForecastResult, AllocateError> {
        let former = match xml_of {
            XmlOf::FileWithoutUuid => None,
            XmlOf::Domain | XmlOf::File => claims::load(host, domain.uuid)?,
        };
        if let Some(claim) = &former {
            let held = held(host, claim);
            let state = held.state;
            let why = held.reason.clone();
            self.holds = Some(held);
            match state {
                HeldState::InUse | HeldState::Starting => {
                    self.show_held();
                    return Ok(ForecastResult::Running);
                }
                HeldState::Unknown => {
                    let domain = domain.name.to_string();
                    return Err(AllocateError::StillHeld { domain, why });
                }
                HeldState::Stale => self.notes.push(
                    "its devices of an earlier run are freed first; that space is not counted here"
                        .to_owned(),
                ),
            }
        }
        let wanted = match xml_of {
            XmlOf::FileWithoutUuid => devices_to_come(host, domain),
            XmlOf::Domain | XmlOf::File => {
                devices_wanted(domain).map_err(|error| error.with_pool(host))?
            }
        };
        if wanted.is_empty() {
            return Ok(ForecastResult::NothingWanted);
        }
        let demand = Demand::load(host, domain, wanted)?;
        demand.check_uuids_are_free(host, former.as_ref())?;
        let plan = demand.plan_to_make(host)?;
        for assignment in plan.assignments {
            let device = self
                .devices
                .iter_mut()
                .find(|device| device.name == assignment.device);
            if let Some(device) = device {
                let pool = demand.pools.get(&assignment.pool);
                let resets =
                    pool.and_then(|pool| pool.devices.reset_methods(host, assignment.handle));
                device.place = Some(PlannedDevice {
                    along: assignment.along,
                    reset_methods: resets,
                    from_host: assignment.from_host,
                    parent: assignment.parent,
                    type_id: assignment.type_id,
                    against_migration: assignment
                        .against_migration
                        .into_iter()
                        .map(ToOwned::to_owned)
                        .collect(),
                    reason: assignment.reason,
                });
            }
        }
        Ok(ForecastResult::Served)
    }

    fn show_held(&mut self) {
        let held = self.holds.iter().flat_map(|held| &held.devices);
        for one in held {
            let mut devices = self.devices.iter_mut();
            if let Some(device) = devices.find(|other| other.uuid == Some(one.uuid)) {
                device.place = Some(PlannedDevice {
                    parent: one.parent.clone(),
                    along: one.along.clone(),
                    reset_methods: None,
                    from_host: None,
                    type_id: one.type_id.clone(),
                    against_migration: one.against_migration.clone(),
                    reason: String::new(),
                });
            }
        }
    }

    /// Every pool that is named and can be used; what is wrong with another the
    /// hook's own line says.
    fn survey_pools(&mut self, host: &Host, domain: &DomainDef) {
        let look = Look::new(host);
        let nearness = nearness_of(domain, host).unwrap_or_default();
        let detail = Detail {
            nodes: true,
            boards: true,
            ..Detail::default()
        };
        let supply = match look.free_supply(detail, Some(domain.uuid)) {
            Ok(supply) => supply,
            Err(error) => {
                self.notes
                    .push(format!("cannot look for mdev parents: {error}"));
                return;
            }
        };
        let pools: BTreeSet<&PoolName> = domain.requests.iter().map(|one| &one.pool).collect();
        for pool in pools
            .into_iter()
            .filter_map(|name| config::load_pool(host, name).ok())
        {
            let candidates = match survey(&domain.name, &pool, &supply, &nearness) {
                Ok(candidates) => candidates,
                Err(error) => {
                    self.notes.push(format!("pool '{}': {error}", pool.name));
                    continue;
                }
            };
            let in_use = claims::pool_in_use(host, &pool.name).unwrap_or_else(|error| {
                self.notes.push(format!("pool '{}': {error}", pool.name));
                0
            });
            let free = free(&supply, &pool, in_use);
            self.pools.push(PoolForecast {
                in_use,
                free: free.most(),
                exact: free.is_exact(),
                candidates: candidates
                    .into_iter()
                    .map(|one| candidate(one, &pool))
                    .chain(supply.idle(&pool, &Placeholder::Any).into_iter().map(idle))
                    .collect(),
                device_type: pool.type_name().to_owned(),
                placement: pool.placement.to_string(),
                instances: pool.instances,
                name: pool.name,
            });
        }
    }

    /// Where nothing is free the hook frees what crashes left behind and tries
    /// again; what that brings cannot be told without doing it.
    fn note_stale_claims(&mut self, host: &Host, own: DomainUuid, error: &AllocateError) {
        let no_room = matches!(error, AllocateError::Refused(refusal)
            if !matches!(refusal.kind, RefusalKind::Unreadable { .. }));
        if !no_room {
            return;
        }
        let Ok((claims, _)) = claims::load_all(host) else {
            return;
        };
        let stale: Vec<String> = claims
            .iter()
            .filter(|claim| claim.domain != own)
            .filter(|claim| held(host, claim).state == HeldState::Stale)
            .map(|claim| format!("'{}'", claim.domain_name))
            .collect();
        if !stale.is_empty() {
            self.notes.push(format!(
                "{} is not running but holds devices, which the hook frees before it refuses; \
                 run 'virt-vgpu reconcile' and ask again",
                stale.join(", ")
            ));
        }
        let Ok(processes) = Processes::scan(host) else {
            return;
        };
        let has_unused = |claim: &&Claim| !claim.unused(host, &processes, DEFAULT_GRACE).is_empty();
        let others = claims.iter().filter(|claim| claim.domain != own);
        let lax: Vec<String> = others
            .filter(has_unused)
            .map(|claim| format!("'{}'", claim.domain_name))
            .collect();
        if !lax.is_empty() {
            self.notes.push(format!(
                "{} is running but has lost some of its devices; the hook frees them before it \
                 refuses; run 'virt-vgpu reconcile' and ask again",
                lax.join(", ")
            ));
        }
    }
}

/// The number of further devices that the pool's devices make together. An unreadable
/// device counts as none.
fn free(supply: &HostSupply<'_>, pool: &Pool, in_use: u32) -> Fit {
    let mut rooms = Vec::new();
    let standings = supply.standings(pool).unwrap_or_default();
    for Standing { parent, verdict } in &standings {
        if matches!(verdict, Verdict::Match { .. }) {
            let (offer, exact) = supply.room(pool, parent);
            rooms.push((parent, offer, exact));
        }
    }
    supply.free(pool, in_use, rooms)
}

/// The requests of a domain without hostdevs, each for any device of its pool. Optional
/// requests are left out.
fn devices_to_come<'d>(host: &Host, domain: &'d DomainDef) -> Vec<PlacedRequest<'d>> {
    let is_optional = |request: &Request| {
        let by_pool = || {
            let pool = config::load_pool(host, &request.pool).ok();
            pool.and_then(|pool| pool.defaults.optional)
        };
        request.optional.or_else(by_pool) == Some(true)
    };
    let placed = |request: &'d Request| {
        let function = domain.function_of(&request.name);
        PlacedRequest {
            request,
            uuid: MdevUuid::for_device(domain.uuid, &request.name),
            placeholder: function.map_or(Placeholder::Any, |one| one.handle.into()),
        }
    };
    let requests = domain.requests.iter();
    requests
        .filter(|request| !is_optional(request))
        .map(placed)
        .collect()
}

fn device(domain: &DomainDef, request: &Request, has_uuid: bool) -> Device {
    let uuid = MdevUuid::for_device(domain.uuid, &request.name);
    Device {
        name: request.name.clone(),
        pool: request.pool.clone(),
        uuid: has_uuid.then_some(uuid),
        placeholder: domain.placeholder_of(&request.name).is_some(),
        place: None,
    }
}

/// A GPU that the pool's rules take and that makes nothing now.
fn idle(idle: Idle) -> CandidateForecast {
    let gpu = idle.rejection;
    CandidateForecast {
        parent: gpu.candidate.clone(),
        board: gpu.candidate,
        numa_node: None,
        in_use: 0,
        available: 0,
        room: gpu.reason,
    }
}

fn candidate(surveyed: Surveyed, pool: &Pool) -> CandidateForecast {
    let (available, room) = match surveyed.offer {
        Offer::Type { id, available: 0 } => (0, format!("no {id} left")),
        Offer::Type { id, available } => (available, format!("{available} of {id} left")),
        Offer::NoSuchType => (0, format!("has no {}", pool.type_in_words())),
        Offer::Unreadable(why) | Offer::Taken(why) | Offer::NoRoom(why) => (0, why),
    };
    CandidateForecast {
        parent: surveyed.candidate.parent.name,
        board: surveyed.candidate.board,
        numa_node: surveyed.candidate.node,
        in_use: surveyed.candidate.in_use,
        available,
        room,
    }
}

fn held(host: &Host, claim: &Claim) -> Held {
    let (state, reason) = match Processes::scan(host) {
        Err(error) => (
            HeldState::Unknown,
            format!("cannot look at the processes: {error}"),
        ),
        Ok(processes) => match claim.liveness(host, &processes, DEFAULT_GRACE) {
            Liveness::InUse(why) => (HeldState::InUse, why),
            Liveness::Unknown(doubt @ Doubt::Starting) => (HeldState::Starting, doubt.to_string()),
            Liveness::Unknown(doubt) => (HeldState::Unknown, doubt.to_string()),
            Liveness::Stale => (HeldState::Stale, "the domain is not running".to_owned()),
        },
    };
    let device = |device: &claims::ClaimedDevice| HeldDevice {
        against_migration: device.against_migration.clone(),
        name: device.name.clone(),
        pool: device.pool.clone(),
        uuid: device.uuid,
        parent: device.parent.clone(),
        along: device.along.clone(),
        type_id: device.type_id.clone(),
    };
    Held {
        state,
        reason,
        devices: claim.devices.iter().map(device).collect(),
    }
}
