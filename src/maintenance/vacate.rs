//! Gets running VMs off GPUs in maintenance.

use std::time::Duration;

use serde::Serialize;

use super::{Holder, Work};
use crate::{
    claims,
    device::maintenance::ShutDown,
    events,
    host::{
        Deadline, complain,
        libvirt::{Destination, Libvirt},
    },
    model::DomainName,
};

/// A domain that still has its devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Left {
    /// Its name.
    pub domain: DomainName,
    /// Why, with the next step.
    pub why: String,
}

/// How often it is told who is waited for.
const OFTEN: Duration = Duration::from_secs(2);

/// How long a hook may take to give devices back.
const GIVING_BACK: Duration = Duration::from_secs(60);

/// Asks all of them to shut down, and waits until their devices are given back. Returns those
/// that have not ended in time, and transient ones, of which nothing would be left; they go on
/// running.
///
/// # Errors
/// When it cannot be noted whom that was asked of: then nobody was.
pub fn shut_down(
    work: &mut Work<'_>,
    libvirt: &Libvirt,
    holders: &[Holder],
    timeout: Duration,
) -> anyhow::Result<Vec<Left>> {
    let (transient, holders): (Vec<&Holder>, Vec<&Holder>) =
        holders.iter().partition(|one| is_transient(libvirt, one));
    work.change(|noted| {
        for &one in &holders {
            let known = noted.shut_down.iter();
            if known.clone().all(|its| its.uuid != one.domain_uuid) {
                noted.shut_down.push(ShutDown {
                    uuid: one.domain_uuid,
                    name: one.domain.clone(),
                });
            }
        }
    })?;
    let mut left: Vec<Left> = transient.into_iter().map(would_be_lost).collect();
    let mut waiting = Vec::new();
    for one in holders {
        let asked = libvirt.domain_by_uuid(one.domain_uuid);
        match asked.and_then(|domain| domain.map(|it| it.shut_down()).transpose()) {
            Ok(_) => waiting.push(one),
            // It has ended by itself meanwhile.
            Err(_) if !is_there(work, libvirt, one) => {}
            Err(error) => left.push(Left {
                domain: one.domain.clone(),
                why: events::one_line(&error.into()),
            }),
        }
    }
    let deadline = Deadline::after(timeout);
    let mut next = Deadline::after(OFTEN);
    let in_time = |waiting: &mut Vec<&Holder>, deadline: Deadline, next: &mut Deadline| {
        deadline.wait_until(|| {
            waiting.retain(|one| is_there(work, libvirt, one));
            if next.has_passed() && !waiting.is_empty() {
                *next = Deadline::after(OFTEN);
                let names: Vec<&str> = waiting.iter().map(|one| one.domain.as_str()).collect();
                let (names, left) = (names.join(", "), deadline.left().as_secs());
                complain(&format!(
                    "virt-vgpu: waiting for {names} to shut down, {left} s left"
                ));
            }
            waiting.is_empty()
        })
    };
    if !in_time(&mut waiting, deadline, &mut next) {
        // What has ended by now still gives its devices back.
        waiting.retain(|one| {
            let runs = runs(libvirt, one);
            if runs {
                let domain = &one.domain;
                left.push(Left {
                    domain: domain.clone(),
                    why: format!(
                        "it has not shut down in {} s; see what keeps its guest, or end it with \
                         'virsh destroy {domain}'",
                        timeout.as_secs()
                    ),
                });
            }
            !runs
        });
        in_time(&mut waiting, Deadline::after(GIVING_BACK), &mut next);
        left.extend(waiting.into_iter().map(|one| {
            Left {
            domain: one.domain.clone(),
            why: "it has ended, and its devices are not given back; 'virt-vgpu reconcile' says why"
                .to_owned(),
        }
        }));
    }
    Ok(left)
}

/// Moves all of them to another host, one after the other. Returns those that stay; they
/// go on running here.
pub fn migrate(
    work: &Work<'_>,
    libvirt: &Libvirt,
    holders: &[Holder],
    to: &Destination,
) -> Vec<Left> {
    let mut left = Vec::new();
    for (number, one) in holders.iter().enumerate() {
        let name = &one.domain;
        complain(&format!(
            "virt-vgpu: migrating domain '{name}' to {} ({} of {})",
            to.libvirt.uri(),
            number + 1,
            holders.len()
        ));
        let found = libvirt.domain_by_uuid(one.domain_uuid);
        let moved = found.and_then(|domain| domain.map(|it| it.migrate_to(to)).transpose());
        match moved {
            Ok(_) => {
                let given_back =
                    Deadline::after(GIVING_BACK).wait_until(|| !is_there(work, libvirt, one));
                if !given_back {
                    left.push(Left {
                        domain: name.clone(),
                        why: "it has gone, and its devices are not given back; 'virt-vgpu \
                              reconcile' says why"
                            .to_owned(),
                    });
                }
            }
            Err(_) if !is_there(work, libvirt, one) => {}
            Err(error) => left.push(Left {
                domain: name.clone(),
                why: events::one_line(&error.into()),
            }),
        }
    }
    left
}

/// Whether libvirt forgets it when it ends. One that has gone is none.
fn is_transient(libvirt: &Libvirt, one: &Holder) -> bool {
    let found = libvirt.domain_by_uuid(one.domain_uuid);
    let persistent = found.and_then(|domain| domain.map(|it| it.is_persistent()).transpose());
    matches!(persistent, Ok(Some(false)))
}

fn would_be_lost(one: &Holder) -> Left {
    let domain = &one.domain;
    Left {
        domain: domain.clone(),
        why: format!(
            "it is transient: libvirt forgets its XML when it ends, so it was not shut down; move it \
             with '--migrate URI', or save its XML ('virsh dumpxml {domain}') and end it with 'virsh \
             shutdown {domain}'"
        ),
    }
}

/// Whether it runs, or a claim of it is left. What cannot be told counts as yes.
fn is_there(work: &Work<'_>, libvirt: &Libvirt, one: &Holder) -> bool {
    runs(libvirt, one) || claims::load(work.host, one.domain_uuid).map_or(true, |it| it.is_some())
}

fn runs(libvirt: &Libvirt, one: &Holder) -> bool {
    let found = libvirt.domain_by_uuid(one.domain_uuid);
    let active = found.and_then(|domain| domain.map(|it| it.is_active()).transpose());
    active.map_or(true, |active| active.unwrap_or(false))
}
