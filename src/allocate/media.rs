//! The guest-driver CD-ROM of a domain: a link at a fixed path that points to the
//! pool's ISO while the domain runs. A missing medium never stops a VM: the drive in
//! the XML is optional and stays empty.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use super::{PlacedRequest, QemuUser};
use crate::{
    claims::{Claim, ClaimedMedia},
    config::{GuestDriver, Pool},
    device::Sysfs,
    domain::{MEDIA_DIRECTORY, media_path},
    events,
    host::{FileState, Host, is_root},
    model::{DomainUuid, DriverSetName, PoolName, SetDisc, TokenScope, proposed},
};

/// Why an image cannot be given to a VM.
#[derive(Debug, thiserror::Error)]
pub enum MediaProblem {
    /// It cannot be checked.
    #[error("{}: {cause}", path.display())]
    Io {
        /// The image or a directory on its path.
        path: PathBuf,
        /// The errno.
        cause: io::Error,
    },
    /// It is not a file.
    #[error("{} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// QEMU's own user cannot read it.
    #[error(
        "{} is not readable for QEMU's user; run {}",
        path.display(),
        proposed(&format!("chmod o+{needed}"), path.display())
    )]
    NotReadable {
        /// The image or a directory on its path.
        path: PathBuf,
        /// The missing permission, `r` or `x`.
        needed: char,
    },
}

/// Whether QEMU can read the image. QEMU is neither root nor in a group that we know,
/// so the file must be readable and every directory searchable for others.
///
/// # Errors
/// The first obstacle.
pub fn check_image(host: &Host, image: &Path) -> Result<(), MediaProblem> {
    const OTHERS_READ: u32 = 0o4;
    let found = reached(host, image)?;
    if found.permissions & OTHERS_READ == 0 {
        return Err(MediaProblem::NotReadable {
            path: image.to_owned(),
            needed: 'r',
        });
    }
    Ok(())
}

/// A regular file to which others can get.
fn reached(host: &Host, image: &Path) -> Result<FileState, MediaProblem> {
    const OTHERS_PASS: u32 = 0o1;
    let look = |path: &Path| {
        let found = host.file_state(&path.to_string_lossy());
        found.map_err(|cause| MediaProblem::Io {
            path: path.to_owned(),
            cause,
        })
    };
    for directory in image
        .ancestors()
        .skip(1)
        .filter(|d| host.is_real() || d.parent().is_some())
    {
        if look(directory)?.permissions & OTHERS_PASS == 0 {
            return Err(MediaProblem::NotReadable {
                path: directory.to_owned(),
                needed: 'x',
            });
        }
    }
    let found = look(image)?;
    match found.is_file {
        true => Ok(found),
        false => Err(MediaProblem::NotAFile(image.to_owned())),
    }
}

/// Whether QEMU alone can read a disc with a licence token, and the disc has the token of today.
///
/// # Errors
/// The first obstacle, with the next step.
pub fn check_token_disc(
    host: &Host,
    set: &DriverSetName,
    scope: &TokenScope,
) -> Result<(), String> {
    const OWNER_READS: u32 = 0o400;
    let image = scope.disc(set);
    let mend = proposed("virt-vgpu driver iso", set);
    if !host.exists(&image) {
        return Err(format!(
            "driver set '{set}' has no disc with the licence token of {scope}; {mend} makes it"
        ));
    }
    let disc = reached(host, Path::new(&image)).map_err(|problem| problem.to_string())?;
    let token = host.file_state(&scope.path());
    let token = token.map_err(|error| format!("{}: {error}", scope.path()))?;
    if !is_of_token(&disc, &token) {
        return Err(format!(
            "the disc of driver set '{set}' has an earlier licence token of {scope}; {mend} makes it \
             again"
        ));
    }
    let user = QemuUser::of(host)?;
    if disc.owner == user.uid && disc.permissions == OWNER_READS {
        return Ok(());
    }
    Err(format!(
        "{image}, which has a licence token, is not readable for QEMU's user {user} alone; {mend} \
         makes it again"
    ))
}

/// Whether a disc was made with that token: it has the token's date, whatever the clock says of
/// which is older.
#[must_use]
pub fn is_of_token(disc: &FileState, token: &FileState) -> bool {
    let ((its, its_part), (seconds, part)) = (disc.modified, token.modified);
    // Some file systems keep whole seconds only.
    its == seconds && (its_part == part || its_part == 0)
}

/// Whose licence token a VM gets with a disc of its pool; None: there is none for it.
///
/// # Errors
/// When the tokens cannot be looked for: a whole message.
pub fn token_for(
    host: &Host,
    domain: Option<DomainUuid>,
    pool: &PoolName,
) -> Result<Option<TokenScope>, String> {
    for scope in TokenScope::of(domain, pool) {
        match host.link_state(&scope.path()) {
            Ok(_) => return Ok(Some(scope)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("{}: {error}", scope.path())),
        }
    }
    Ok(None)
}

/// Whether guests can get the drivers of a pool that has some, with their licence token.
///
/// # Errors
/// The first obstacle, with the next step.
pub fn check_guest_driver(host: &Host, pool: &Pool) -> Result<(), String> {
    let Some(driver) = &pool.guest_driver else {
        return Ok(());
    };
    // Only root may look for tokens.
    let token = match is_root() || !host.exists(TokenScope::DIRECTORY) {
        true => token_for(host, None, &pool.name)?,
        false => None,
    };
    check_driver(host, driver, token.as_ref())
}

fn check_driver(
    host: &Host,
    driver: &GuestDriver,
    token: Option<&TokenScope>,
) -> Result<(), String> {
    let image = driver.image();
    if let GuestDriver::Image(path) = driver {
        refuse_token_disc(host, path)?;
    }
    if let GuestDriver::Set(name) = driver {
        if !host.exists(&name.directory()) {
            return Err(format!(
                "there is no driver set '{name}'; 'virt-vgpu driver add' stores one, 'virt-vgpu \
                 driver list' lists those that there are"
            ));
        }
        if let Some(scope) = token {
            return check_token_disc(host, name, scope);
        }
        if !host.exists(&image) {
            return Err(format!(
                "driver set '{name}' has no disc; 'virt-vgpu driver iso {name}' makes it"
            ));
        }
    }
    check_image(host, Path::new(&image)).map_err(|problem| problem.to_string())
}

/// Refuses an image that is a disc with a licence token: as an image of its own, any pool would
/// lend it, and the next step would be to let others read it.
fn refuse_token_disc(host: &Host, image: &str) -> Result<(), String> {
    let places = [PathBuf::from(image), host.place_of(image)];
    let disc = places.iter().find_map(|place| SetDisc::at(place));
    match disc.and_then(|disc| Some((disc.token?, disc.set))) {
        None => Ok(()),
        Some((scope, set)) => Err(format!(
            "{image} has the licence token of {scope}, and is lent by virt-vgpu to its VMs alone; \
             write guest-driver = \"{set}\" instead"
        )),
    }
}

/// The medium for the requests: that of the first request that wants guest drivers from
/// a pool that has them.
pub(crate) fn choose(
    host: &Host,
    domain: DomainUuid,
    wanted: &[PlacedRequest<'_>],
    pools: &BTreeMap<PoolName, Pool>,
) -> Option<ClaimedMedia> {
    let placed = wanted
        .iter()
        .find(|placed| placed.request.guest_drivers == Some(true))?;
    let pool = pools.get(&placed.request.pool)?;
    Some(medium(host, domain, pool))
}

/// The medium that a domain gets from a pool. A VM that has a licence token gets the disc with
/// it, or none: not a disc with another token, and not one without.
pub(crate) fn medium(host: &Host, domain: DomainUuid, pool: &Pool) -> ClaimedMedia {
    let without = |problem: String| ClaimedMedia {
        pool: pool.name.clone(),
        image: PathBuf::new(),
        inode: None,
        problem: Some(problem),
    };
    let Some(driver) = &pool.guest_driver else {
        return without(format!("pool '{}' has no guest-driver", pool.name));
    };
    let (token, image) = match driver {
        GuestDriver::Image(path) => (None, path.clone()),
        GuestDriver::Set(set) => match token_for(host, Some(domain), &pool.name) {
            Ok(Some(scope)) => {
                let disc = scope.disc(set);
                (Some(scope), disc)
            }
            Ok(None) => (None, set.disc()),
            Err(problem) => return without(problem),
        },
    };
    ClaimedMedia {
        pool: pool.name.clone(),
        inode: host.inode(&image).ok(),
        image: image.into(),
        problem: check_driver(host, driver, token.as_ref()).err(),
    }
}

/// Makes the domain's path point to its medium. If the medium cannot be used, the path
/// is removed: a link to an image that QEMU cannot open would stop the VM.
pub(crate) fn provide(host: &Host, claim: &Claim) {
    let Some(media) = &claim.media else { return };
    let path = media_path(claim.domain);
    let result = match &media.problem {
        Some(problem) => {
            events::log_media_problem(&claim.domain_name, claim.domain, &media.pool, problem);
            host.remove_link(&path)
        }
        None => host
            .make_directory(MEDIA_DIRECTORY, 0o755)
            .and_then(|()| host.replace_link(&path, &media.image)),
    };
    if let Err(error) = result {
        events::log_media_problem(
            &claim.domain_name,
            claim.domain,
            &media.pool,
            &format!("{path}: {error}"),
        );
    }
}
