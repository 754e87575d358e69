//! The guest-driver CD-ROM of a domain: a link at a fixed path that points to the
//! pool's ISO while the domain runs. A missing medium never stops a VM: the drive in
//! the XML is optional and stays empty.

use std::{
    collections::BTreeMap,
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::PlacedRequest;
use crate::{
    claims::{Claim, ClaimedMedia},
    config::{GuestDriver, Pool},
    device::Sysfs,
    domain::{MEDIA_DIRECTORY, media_path},
    events,
    host::Host,
    model::{PoolName, proposed},
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
    const OTHERS_PASS: u32 = 0o1;
    let place = |path: &Path| host.path(&path.to_string_lossy());
    let look = |path: &Path| {
        place(path).metadata().map_err(|cause| MediaProblem::Io {
            path: path.to_owned(),
            cause,
        })
    };
    for directory in image
        .ancestors()
        .skip(1)
        .filter(|d| host.is_real() || d.parent().is_some())
    {
        if look(directory)?.permissions().mode() & OTHERS_PASS == 0 {
            return Err(MediaProblem::NotReadable {
                path: directory.to_owned(),
                needed: 'x',
            });
        }
    }
    let found = look(image)?;
    if !found.is_file() {
        return Err(MediaProblem::NotAFile(image.to_owned()));
    }
    if found.permissions().mode() & OTHERS_READ == 0 {
        return Err(MediaProblem::NotReadable {
            path: image.to_owned(),
            needed: 'r',
        });
    }
    Ok(())
}

/// Whether guests can get the drivers.
///
/// # Errors
/// The first obstacle, with the next step.
pub fn check_guest_driver(host: &Host, driver: &GuestDriver) -> Result<(), String> {
    let image = driver.image();
    if let GuestDriver::Set(name) = driver {
        if !host.exists(&name.directory()) {
            return Err(format!(
                "there is no driver set '{name}'; 'virt-vgpu driver add' stores one, 'virt-vgpu \
                 driver list' lists those that there are"
            ));
        }
        if !host.exists(&image) {
            return Err(format!(
                "driver set '{name}' has no disc; 'virt-vgpu driver iso {name}' makes it"
            ));
        }
    }
    check_image(host, Path::new(&image)).map_err(|problem| problem.to_string())
}

/// The medium for the requests: that of the first request that wants guest drivers from
/// a pool that has them.
pub(crate) fn choose(
    host: &Host,
    wanted: &[PlacedRequest<'_>],
    pools: &BTreeMap<PoolName, Pool>,
) -> Option<ClaimedMedia> {
    let placed = wanted
        .iter()
        .find(|placed| placed.request.guest_drivers == Some(true))?;
    let pool = pools.get(&placed.request.pool)?;
    let Some(driver) = &pool.guest_driver else {
        let problem = format!("pool '{}' has no guest-driver", pool.name);
        return Some(ClaimedMedia {
            pool: pool.name.clone(),
            image: PathBuf::new(),
            problem: Some(problem),
        });
    };
    Some(ClaimedMedia {
        pool: pool.name.clone(),
        image: driver.image().into(),
        problem: check_guest_driver(host, driver).err(),
    })
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
