//! Pools with their free capacity, claims with their state, and everything that an
//! administrator should look at.

use std::time::Duration;

use anyhow::Context;
use serde::Serialize;

use super::{
    DaemonNotes,
    foreign::{self, Foreign, Taken},
    guests::{self, Guest},
    tokens::{self, GuestDisc},
};
use crate::{
    allocate::{self, Look},
    claims::{self, Claim, DEFAULT_GRACE, Liveness, State},
    config::{self, Pool},
    device::{maintenance, mdev::Offer},
    gpu_setup::{Due, PATIENCE_FOR_DUE, Survey, When, due},
    host::{Deadline, Host, Processes},
    model::{DeviceName, DomainName, DomainUuid, MdevTypeId, MdevUuid, ParentName, PoolName},
    plan::{Detail, HostSupply, Idle, Placeholder, Rejection, Standing},
    rule::Verdict,
};

/// Pools with their free capacity, claims with their state, and problems.
#[derive(Debug, Serialize)]
pub struct StatusReport {
    /// In the order of their names.
    pub pools: Vec<PoolReport>,
    /// In the order of the domains' UUIDs.
    pub claims: Vec<ClaimReport>,
    /// Problems for the administrator, a line each.
    pub problems: Vec<String>,
    /// Devices of others on the pools' devices.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub foreign: Vec<Foreign>,
    /// Whether there are pool files, usable or not.
    #[serde(skip)]
    pub has_pool_files: bool,
}

/// A pool and its free capacity.
#[derive(Debug, Serialize)]
pub struct PoolReport {
    /// Its name.
    pub name: PoolName,
    /// The type that it hands out.
    #[serde(rename = "type")]
    pub device_type: String,
    /// Devices that its rules take.
    pub parents: usize,
    /// Devices that claims hold.
    pub in_use: u32,
    /// How many more the pool can hand out as things stand.
    pub free: u32,
    /// Whether so many will fit; else there may be fewer.
    pub exact: bool,
    /// The pool's own limit, 0 for none.
    pub instances: u32,
}

/// A domain's claim.
#[derive(Debug, Serialize)]
pub struct ClaimReport {
    /// The domain.
    pub domain: DomainName,
    /// Its UUID.
    pub domain_uuid: DomainUuid,
    /// How the claim stands.
    pub state: ClaimState,
    /// Why it stands so.
    pub reason: String,
    /// Its devices.
    pub devices: Vec<DeviceReport>,
    /// The image of guest drivers lent to it, or why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_driver: Option<String>,
    /// The disc of a driver set that is that image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_disc: Option<GuestDisc>,
}

/// How a claim stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClaimState {
    /// The domain runs.
    InUse,
    /// It is being started.
    Starting,
    /// It has ended, and its devices are about to go.
    Ending,
    /// The domain is not running, but still holds devices.
    Stale,
    /// Nobody can tell.
    Unknown,
}

/// A device that a domain holds.
#[derive(Debug, Serialize)]
pub struct DeviceReport {
    /// Its name in the domain.
    pub name: DeviceName,
    /// Its pool.
    pub pool: PoolName,
    /// The UUID of the request; a mediated device's own.
    pub uuid: MdevUuid,
    /// The parent it was made on, or the virtual function that it is.
    pub parent: ParentName,
    /// Its type's id.
    #[serde(rename = "type")]
    pub type_id: MdevTypeId,
    /// Whether the host has it as claimed.
    pub present: bool,
    /// Whether that cannot be told: its driver does not answer.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unknown: bool,
    /// Parameters that keep the VM from being saved and migrated.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub against_migration: Vec<String>,
    /// NVIDIA's driver in the guest, where the host's driver tells of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest: Option<Guest>,
}

/// How long to wait for a start or a stop that is under way.
const PATIENCE: Duration = Duration::from_secs(25);

/// Reads the whole state. It takes no lock, so that no start waits for it. A problem may be
/// a start or a stop in progress: then it reads again after that.
///
/// # Errors
/// When claims, processes or devices cannot be read at all.
pub fn status(host: &Host) -> anyhow::Result<StatusReport> {
    let mut report = settled(host)?;
    // Last, and once: it is slow, and nothing depends on it.
    guests::add(host, &mut report.claims, &mut report.problems);
    Ok(report)
}

fn settled(host: &Host) -> anyhow::Result<StatusReport> {
    let report = claims::while_settled(host, || look(host))?;
    if report.is_in_order() {
        return Ok(report);
    }
    let was_busy = claims::wait_for_work(host, Deadline::after(PATIENCE));
    if was_busy.context("cannot read the claims")? {
        return claims::while_settled(host, || look(host));
    }
    Ok(report)
}

impl StatusReport {
    /// Whether every claim is of a domain that runs or starts, and has its devices.
    fn is_in_order(&self) -> bool {
        let mut claims = self.claims.iter();
        claims.all(|claim| {
            claim.state != ClaimState::Stale && claim.devices.iter().all(|device| device.present)
        })
    }
}

fn look(host: &Host) -> anyhow::Result<StatusReport> {
    let (claims, damaged) = claims::load_all(host).context("cannot read the claims")?;
    let processes = Processes::scan(host).context("cannot look at the processes")?;
    let mut problems: Vec<String> = damaged.iter().map(ToString::to_string).collect();
    let (pools, foreign, has_pool_files) =
        pools(host, (&claims, !damaged.is_empty()), &mut problems)?;
    let survey = Survey::read(host)?;
    problems.extend(survey.conflicts());
    problems.extend(instance_problems(host, &survey));
    problems.extend(maintenance_problem(host));
    problems.extend(daemon_problems(host));
    let claims = claims
        .iter()
        .map(|claim| claim_report(host, claim, &processes, &mut problems))
        .collect();
    Ok(StatusReport {
        pools,
        claims,
        problems,
        foreign,
        has_pool_files,
    })
}

/// A sentence about GPUs in maintenance.
fn maintenance_problem(host: &Host) -> Option<String> {
    match maintenance::read(host) {
        Ok(noted) => noted.map(|noted| {
            let gpus: Vec<String> = noted.gpus.iter().map(ToString::to_string).collect();
            format!(
                "in maintenance, and kept from VMs: {}; 'virt-vgpu maintenance status' tells how it \
                 stands",
                gpus.join(", ")
            )
        }),
        Err(error) => Some(error.to_string()),
    }
}

/// GPUs that are not divided as their pools want it, and what that waits for.
fn instance_problems(host: &Host, survey: &Survey) -> Vec<String> {
    let found = match due(host, survey, Deadline::after(PATIENCE_FOR_DUE)) {
        Ok(found) => found,
        Err(error) => return vec![format!("GPU instances are not looked at: {error}")],
    };
    let told = found.into_iter().filter_map(|Due { gpu, when }| match when {
        When::Now => Some(format!(
            "{gpu} is not divided into GPU instances as its pools want it; 'virt-vgpu host apply \
             {gpu}' does it"
        )),
        // The next start may use them, and otherwise the daemon gives them back.
        When::Idle(_) => None,
        When::Later(why) | When::Never(why) => Some(format!("{gpu}: {why}")),
    });
    told.collect()
}

fn pools(
    host: &Host,
    known: (&[Claim], bool),
    problems: &mut Vec<String>,
) -> anyhow::Result<(Vec<PoolReport>, Vec<Foreign>, bool)> {
    let look = Look::new(host);
    let supply = look
        .free_supply(Detail::default(), None)
        .context("cannot look for devices")?;
    for one in claims::quarantined(host).context("cannot read the quarantine")? {
        let words = one.in_words(host);
        problems.push(format!("{} is quarantined: {words}", one.function));
    }
    let loaded = config::load_all(host);
    problems.extend(
        loaded
            .ignored
            .iter()
            .map(|file| format!("{}: {}", file.path.display(), file.reason)),
    );
    let has_pool_files = !(loaded.pools.is_empty() && loaded.ignored.is_empty());
    let usable = loaded.pools.values().flatten();
    problems.extend(tokens::problems(host, usable));
    let (mut reports, mut taken) = (Vec::new(), Taken::new());
    for pool in loaded.pools.into_values() {
        match pool {
            Ok(pool) => {
                reports.push(pool_report(&pool, &supply, known, &mut taken, problems));
                problems.extend(media_problem(host, &pool));
            }
            Err(error) => problems.push(error.to_string()),
        }
    }
    let foreign = foreign::find(host, &supply, taken, known, problems);
    Ok((reports, foreign, has_pool_files))
}

fn pool_report(
    pool: &Pool,
    supply: &HostSupply<'_>,
    (claims, in_doubt): (&[Claim], bool),
    taken: &mut Taken,
    problems: &mut Vec<String>,
) -> PoolReport {
    let standings = supply.standings(pool).unwrap_or_else(|error| {
        problems.push(format!(
            "pool '{}': cannot look for devices: {error}",
            pool.name
        ));
        Vec::new()
    });
    let mut rooms = Vec::new();
    for Standing { parent, verdict } in &standings {
        if matches!(verdict, Verdict::NoMatch { .. }) {
            continue;
        }
        let pools = taken.entry(parent.name.clone()).or_default();
        pools.insert(pool.name.clone());
        let (offer, is_exact) = supply.room(pool, parent);
        if let Offer::Unreadable(error) = &offer {
            problems.push(format!("pool '{}': {}: {error}", pool.name, parent.name));
        }
        rooms.push((parent, offer, is_exact));
    }
    let parents = rooms.len();
    let claimed = claims
        .iter()
        .flat_map(|claim| &claim.devices)
        .filter(|d| d.pool == pool.name)
        .count();
    let in_use = u32::try_from(claimed).unwrap_or(u32::MAX);
    let is_without = |(_, offer, _): &(_, Offer, _)| matches!(offer, Offer::NoSuchType);
    let has_no_type = !rooms.is_empty() && rooms.iter().all(is_without);
    let free = supply.free(pool, in_use, rooms);
    // An unreadable claim may contain devices of the pool.
    let is_exact = free.is_exact() && !(in_doubt && pool.instances > 0);
    let without = free.most() == 0 && in_use == 0;
    for Idle {
        rejection,
        is_unready,
    } in supply.idle(pool, &Placeholder::Any)
    {
        if is_unready || without {
            let Rejection { candidate, reason } = rejection;
            problems.push(format!("pool '{}': {candidate}: {reason}", pool.name));
        }
    }
    if has_no_type {
        problems.push(format!(
            "pool '{}': none of its devices has {}; 'virt-vgpu devices --pool={}' lists what they \
             have",
            pool.name,
            pool.type_in_words(),
            pool.name
        ));
    }
    PoolReport {
        name: pool.name.clone(),
        device_type: pool.type_name().to_owned(),
        parents,
        in_use,
        free: free.most(),
        exact: is_exact,
        instances: pool.instances,
    }
}

/// The problems that virt-vgpud could not solve, or a text that it has died. A daemon that
/// was not started since boot is not a problem, because nothing depends on it.
fn daemon_problems(host: &Host) -> Vec<String> {
    let notes = match DaemonNotes::read(host) {
        Ok(Some(notes)) => notes,
        Ok(None) => return Vec::new(),
        Err(error) => {
            let next = "see 'systemctl status virt-vgpud' for whether it runs";
            return vec![format!("{error}; {next}")];
        }
    };
    if !notes.is_current(host) {
        return vec![
            "virt-vgpud is no longer running, so nobody looks after domains; see 'systemctl status \
             virt-vgpud'"
                .to_owned(),
        ];
    }
    let unconnected = "virt-vgpud has no connection to libvirt; see 'journalctl -t virt-vgpud'";
    let unconnected = (!notes.connected).then(|| unconnected.to_owned());
    unconnected.into_iter().chain(notes.problems).collect()
}

fn media_problem(host: &Host, pool: &Pool) -> Option<String> {
    let problem = allocate::check_guest_driver(host, pool).err()?;
    Some(format!("pool '{}': guest-driver: {problem}", pool.name))
}

fn claim_report(
    host: &Host,
    claim: &Claim,
    processes: &Processes,
    problems: &mut Vec<String>,
) -> ClaimReport {
    let (state, reason) = match claim.liveness(host, processes, DEFAULT_GRACE) {
        Liveness::InUse(why) => (ClaimState::InUse, why),
        Liveness::Unknown(doubt @ claims::Doubt::Starting) => {
            (ClaimState::Starting, doubt.to_string())
        }
        Liveness::Unknown(doubt @ claims::Doubt::Ending) => (ClaimState::Ending, doubt.to_string()),
        Liveness::Unknown(doubt) => (ClaimState::Unknown, doubt.to_string()),
        Liveness::Stale => (ClaimState::Stale, "the domain is not running".to_owned()),
    };
    let name = &claim.domain_name;
    if state == ClaimState::Stale {
        problems.push(format!(
            "domain '{name}' is not running but holds devices; run 'virt-vgpu reconcile'"
        ));
    }
    let mut devices = Vec::new();
    for device in &claim.devices {
        let (present, unknown) = match device.is_there(host) {
            Ok(present) => (present, None),
            Err(error) => (false, Some(error)),
        };
        if let Some(error) = &unknown {
            problems.push(format!(
                "domain '{name}': whether device '{}' ({}) is there cannot be told: {error}",
                device.name, device.handle
            ));
        } else if !present && claim.state == State::Committed {
            let next = match state {
                ClaimState::Stale => "'virt-vgpu reconcile' forgets it",
                _ => "shut the domain down and start it again",
            };
            problems.push(format!(
                "domain '{name}': device '{}' ({}) is not on {} as claimed; {next}",
                device.name, device.handle, device.parent
            ));
        }
        devices.push(DeviceReport {
            name: device.name.clone(),
            pool: device.pool.clone(),
            uuid: device.uuid,
            parent: device.parent.clone(),
            type_id: device.type_id.clone(),
            present,
            unknown: unknown.is_some(),
            against_migration: device.against_migration.clone(),
            guest: None,
        });
    }
    let guest_driver = claim.media.as_ref().map(|media| match &media.problem {
        Some(problem) => {
            problems.push(format!(
                "domain '{name}': its guest-driver CD-ROM is empty: {problem}"
            ));
            format!("none: {problem}")
        }
        None => media.image.display().to_string(),
    });
    ClaimReport {
        domain: name.clone(),
        domain_uuid: claim.domain,
        state,
        reason,
        devices,
        guest_driver,
        guest_disc: claim.media.as_ref().and_then(GuestDisc::of),
    }
}
