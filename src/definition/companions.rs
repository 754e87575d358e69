//! The devices of a domain near which new ones should be: those whose requests say the
//! same about what they should share.

use crate::{
    claims,
    config::{self, Pool},
    domain::{DomainDef, Request},
    host::Host,
    model::{DeviceName, Handle, ParentName, Together},
};

/// The companions of devices that are to be chosen.
#[derive(Debug, Default)]
pub(super) struct Companions {
    /// Those whose parents are known: functions in the definition, and mediated devices of
    /// a running domain.
    pub(super) present: Vec<(DeviceName, ParentName)>,
    /// The others, with their pools. They are chosen later.
    pub(super) to_come: Vec<(DeviceName, Pool)>,
}

/// What the device should share with others of the domain.
pub(super) fn together(def: &DomainDef, name: &DeviceName) -> Option<Together> {
    let mut requests = def.requests.iter();
    requests.find(|request| request.name == *name)?.together
}

impl Companions {
    /// The companions of the named devices.
    ///
    /// # Errors
    /// When the domain's claim cannot be read.
    pub(super) fn of(host: &Host, def: &DomainDef, names: &[DeviceName]) -> anyhow::Result<Self> {
        let is_companion = |request: &&Request| {
            let mut names_with_it = names.iter().filter(|name| {
                request.together.is_some() && together(def, name) == request.together
            });
            !names.contains(&request.name) && names_with_it.next().is_some()
        };
        let requests: Vec<&Request> = def.requests.iter().filter(is_companion).collect();
        let mut companions = Self::default();
        if requests.is_empty() {
            return Ok(companions);
        }
        let claim = claims::load(host, def.uuid)?;
        let held = claim.map(|claim| claim.devices).unwrap_or_default();
        for request in requests {
            let name = &request.name;
            let named = def.placeholder_of(name).map(|hostdev| hostdev.handle);
            let parent = match named {
                Some(Handle::Pci(function)) => Some(function.into()),
                Some(Handle::Mdev(_)) => {
                    let device = held.iter().find(|device| device.name == *name);
                    device.map(|device| device.parent.clone())
                }
                None => None,
            };
            if let Some(parent) = parent {
                companions.present.push((name.clone(), parent));
            } else if request.optional != Some(true) {
                // A pool that cannot be used is reported where its device is chosen.
                let pool = config::load_pool(host, &request.pool).ok();
                companions
                    .to_come
                    .extend(pool.map(|pool| (name.clone(), pool)));
            }
        }
        Ok(companions)
    }
}
