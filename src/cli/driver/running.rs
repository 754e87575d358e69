//! `virt-vgpu driver iso --update-running`: another disc for VMs that run.

use std::{collections::BTreeMap, fmt};

use anyhow::Context;
use serde::Serialize;

use super::{lends, pools};
use crate::{
    claims::{self, Claim, State},
    cli::target::Connection,
    config::Pool,
    host::Host,
    hotplug::{DiscState, change_disc, disc_state},
    model::{DomainName, DomainUuid, DriverSetName, PoolName},
};

/// What is to be done.
#[derive(Debug, Clone, Copy)]
pub(super) struct Update<'a> {
    pub(super) set: &'a DriverSetName,
    pub(super) force: bool,
    pub(super) dry_run: bool,
}

/// A VM that runs, with a drive for the set's disc.
#[derive(Debug, Serialize)]
pub(super) struct RunningVm {
    domain: DomainName,
    domain_uuid: DomainUuid,
    pub(super) outcome: Outcome,
    /// The disc that it gets or has.
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<String>,
    /// Why it did not get it.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Outcome {
    /// It has the disc of today already.
    Current,
    /// It has got another one.
    Changed,
    /// It would get another one.
    WouldChange,
    /// It has not got it.
    Failed,
}

impl Update<'_> {
    /// Goes through all VMs that run; one that fails does not keep the others from theirs.
    pub(super) fn run(
        self,
        host: &Host,
        connection: &Connection,
        problems: &mut Vec<String>,
    ) -> anyhow::Result<Vec<RunningVm>> {
        let (claims, damaged) = claims::load_all(host).context("cannot read the claims")?;
        problems.extend(damaged.iter().map(ToString::to_string));
        let lending = pools(host).into_iter();
        let lending = lending.filter(|pool| lends(pool, self.set));
        let lending: BTreeMap<PoolName, Pool> =
            lending.map(|pool| (pool.name.clone(), pool)).collect();
        let with_pool = |claim: &'_ Claim| {
            let media = claim.media.as_ref()?;
            let pool = lending.get(&media.pool)?;
            (claim.state == State::Committed).then_some(pool)
        };
        let meant: Vec<(&Claim, &Pool)> = claims
            .iter()
            .filter_map(|claim| Some((claim, with_pool(claim)?)))
            .collect();
        if meant.is_empty() {
            return Ok(Vec::new());
        }
        let libvirt = connection.open_served()?;
        let mut vms = Vec::new();
        for (claim, pool) in meant {
            let done = match self.dry_run {
                true => disc_state(host, &libvirt, claim, pool),
                false => change_disc(host, &libvirt, claim, pool, self.force),
            };
            let vm = |outcome, image, problem| RunningVm {
                domain: claim.domain_name.clone(),
                domain_uuid: claim.domain,
                outcome,
                image,
                problem,
            };
            vms.extend(match done {
                Ok(DiscState::NoDrive) => None,
                Ok(DiscState::Current) => {
                    let media = claim.media.as_ref();
                    let image = media.map(|media| media.image.display().to_string());
                    Some(vm(Outcome::Current, image, None))
                }
                Ok(DiscState::Outdated(image)) => {
                    let outcome = match self.dry_run {
                        true => Outcome::WouldChange,
                        false => Outcome::Changed,
                    };
                    Some(vm(outcome, Some(image.display().to_string()), None))
                }
                Err(error) => Some(vm(Outcome::Failed, None, Some(format!("{error:#}")))),
            });
        }
        Ok(vms)
    }
}

impl fmt::Display for RunningVm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let image = self.image.as_deref().unwrap_or_default();
        let verb = match self.outcome {
            Outcome::Current => "has",
            Outcome::Changed => "has now",
            Outcome::WouldChange => "would get",
            Outcome::Failed => {
                let why = self.problem.as_deref().unwrap_or_default();
                return write!(f, "problem: domain '{}': {why}", self.domain);
            }
        };
        write!(f, "domain '{}' {verb} {image}", self.domain)
    }
}
