//! Changes the guest-driver disc of running domains. The path in the domain stays the same, and
//! libvirt changes nothing while it does: the disc is taken out, the path is made to lead to the
//! other disc, and that is put in.
//!
//! A crash leaves at worst an empty drive, which the next run fills.

use std::{
    io,
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow};

use super::live;
use crate::{
    allocate,
    claims::{self, Claim, ClaimedMedia, State},
    config::Pool,
    definition,
    domain::{self, DomainDef, cdrom_with, find_cdrom, media_path},
    host::{
        ClaimLock, Deadline, Host,
        libvirt::{Domain, Libvirt},
    },
};

/// The next step where a drive is empty.
const AGAIN: &str = "mend the cause, then run this again";

/// How a domain's disc stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiscState {
    /// It has the disc that it gets from its pool today.
    Current,
    /// It has another one, or none; this is what it gets.
    Outdated(PathBuf),
    /// It does not run any more, or has no drive of ours, or somebody has put another disc into it.
    NoDrive,
}

/// Compares the disc of a domain with the one that its pool lends today. Nothing is changed.
///
/// # Errors
/// Why it cannot have that disc, or that libvirt cannot tell.
pub fn disc_state(
    host: &Host,
    libvirt: &Libvirt,
    claim: &Claim,
    pool: &Pool,
) -> anyhow::Result<DiscState> {
    let Some((_, def)) = running(libvirt, claim)? else {
        return Ok(DiscState::NoDrive);
    };
    state(host, &def, claim, pool)
}

/// Gives a running domain the disc that its pool lends today. With `force` also when the guest
/// has locked the drive.
///
/// # Errors
/// Why it has still the former one.
pub fn change_disc(
    host: &Host,
    libvirt: &Libvirt,
    claim: &Claim,
    pool: &Pool,
    force: bool,
) -> anyhow::Result<DiscState> {
    let _edits = definition::edit_lock(host, claim.domain)?;
    let Some((domain, def)) = running(libvirt, claim)? else {
        return Ok(DiscState::NoDrive);
    };
    let found = state(host, &def, claim, pool)?;
    let (DiscState::Outdated(_), Some(drive)) = (&found, find_cdrom(&def)) else {
        return Ok(found);
    };
    let path = media_path(claim.domain);
    let full = cdrom_with(drive, Some(&path));
    if drive.source.is_some() {
        let empty = cdrom_with(drive, None);
        let taken_out = domain.change_medium(&empty, force, "take the guest-driver disc out");
        taken_out.map_err(|error| {
            let or_force = if force { "" } else { ", or try again with --force" };
            anyhow!(
                "{error}; it keeps its disc; if the guest has locked the drive, eject the disc in the \
                 guest and run this again{or_force}"
            )
        })?;
    }
    let put_in = || domain.change_medium(&full, force, "put the guest-driver disc in");
    let former = match swap(host, claim, |now| allocate::medium(host, now.domain, pool)) {
        Ok(former) => former,
        Err(error) => {
            // The path still leads to the former disc, if it had one.
            return Err(match drive.source.as_ref().map(|_| put_in()) {
                None => error,
                Some(Ok(())) => anyhow!("{error:#}; it has its former disc again"),
                Some(Err(undo)) => anyhow!("{error:#}; the drive is empty now: {undo}; {AGAIN}"),
            });
        }
    };
    let Err(error) = put_in() else {
        return Ok(found);
    };
    let had_disc = former.problem.is_none();
    let undone = swap(host, claim, |_| former).and_then(|_| match had_disc {
        true => Ok(put_in()?),
        false => Ok(()),
    });
    Err(match (undone, had_disc) {
        (Ok(()), true) => anyhow!("{error}; it has its former disc again"),
        (Ok(()), false) => anyhow!("{error}; the drive is still empty; {AGAIN}"),
        (Err(undo), _) => anyhow!(
            "{error}; the drive is empty now, and the former disc cannot be put in either: {undo:#}; \
             {AGAIN}"
        ),
    })
}

/// The domain and its XML, while it runs.
fn running(libvirt: &Libvirt, claim: &Claim) -> anyhow::Result<Option<(Domain, DomainDef)>> {
    match libvirt.domain_by_uuid(claim.domain)? {
        Some(domain) if domain.is_active()? => {
            let def = live::definition(&domain)?;
            Ok(Some((domain, def)))
        }
        _ => Ok(None),
    }
}

fn state(host: &Host, def: &DomainDef, claim: &Claim, pool: &Pool) -> anyhow::Result<DiscState> {
    let (Some(drive), Some(media)) = (find_cdrom(def), &claim.media) else {
        return Ok(DiscState::NoDrive);
    };
    let path = media_path(claim.domain);
    if drive.source.as_ref().is_some_and(|source| *source != path) {
        return Ok(DiscState::NoDrive);
    }
    let wanted = allocate::medium(host, claim.domain, pool);
    if let Some(problem) = wanted.problem {
        return Err(anyhow!(problem));
    }
    let is_same = media.problem.is_none()
        && media.image == wanted.image
        && media.inode == wanted.inode
        && wanted.inode.is_some();
    Ok(match is_same && drive.source.is_some() {
        true => DiscState::Current,
        false => DiscState::Outdated(wanted.image),
    })
}

/// Makes the domain's path lead to another medium, and writes that into its claim. Returns the
/// former one. libvirt is not called meanwhile: a hook may wait for the lock.
fn swap(
    host: &Host,
    seen: &Claim,
    choose: impl FnOnce(&Claim) -> ClaimedMedia,
) -> anyhow::Result<ClaimedMedia> {
    let deadline = Deadline::after(allocate::PATIENCE);
    let purpose = format!("another guest-driver disc for domain {}", seen.domain_name);
    let lock = ClaimLock::acquire(host, seen.domain, &purpose, deadline)?;
    let done = exchange(host, &lock, seen, choose);
    claims::unlock(host, lock);
    done
}

fn exchange(
    host: &Host,
    lock: &ClaimLock<'_>,
    seen: &Claim,
    choose: impl FnOnce(&Claim) -> ClaimedMedia,
) -> anyhow::Result<ClaimedMedia> {
    let now = claims::load(host, seen.domain)?;
    let is_meant = |now: &Claim| now.is_of_run(seen) && now.state == State::Committed;
    let now = now
        .filter(is_meant)
        .context("the domain is stopping, or was started again")?;
    let media = choose(&now);
    let former = now.media.clone().unwrap_or_else(|| media.clone());
    let path = media_path(now.domain);
    let lead = |media: &ClaimedMedia| -> io::Result<()> {
        let usable = media.problem.is_none();
        match usable.then_some(&media.image) {
            Some(image) => host
                .make_directory(domain::MEDIA_DIRECTORY, 0o755)
                .and_then(|()| host.replace_link(&path, Path::new(image))),
            None => host.remove_link(&path),
        }
    };
    lead(&media).with_context(|| format!("cannot change {path}"))?;
    let changed = Claim {
        media: Some(media),
        ..now
    };
    if let Err(error) = claims::save(host, lock, &changed) {
        // Its own error would say no more.
        let _ = lead(&former);
        return Err(error.into());
    }
    Ok(former)
}
