//! The driver's rules for GPU instances, as far as they are known: written down a second
//! time, without any code of the layout's.

use super::*;

/// A GPU instance as the driver knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Existing {
    pub id: u32,
    pub profile: u32,
    pub start: u32,
    pub size: u32,
}

/// A GPU in MIG mode.
#[derive(Debug, Clone)]
pub struct Driver {
    profiles: Vec<InstanceProfile>,
    /// Decoders, encoders, JPEG, optical flow.
    engines: [u32; 4],
    slots: u32,
    pub instances: Vec<Existing>,
}

/// Why the driver refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    InvalidArgument,
    InsufficientResources,
    NotFound,
}

impl Driver {
    pub fn new(model: &str) -> Self {
        let board = board(model);
        let engines = match model {
            "a30" => [4, 0, 1, 1],
            "a100-40" | "a100-80" => [5, 0, 1, 1],
            "rtx-pro-6000" => [4, 4, 4, 1],
            _ => [7, 0, 7, 1],
        };
        Self {
            profiles: board.profiles().to_vec(),
            engines,
            slots: board.slots(),
            instances: Vec::new(),
        }
    }

    fn profile(&self, id: u32) -> Option<&InstanceProfile> {
        self.profiles.iter().find(|its| its.id.number() == id)
    }

    /// `nvmlDeviceCreateGpuInstanceWithPlacement`.
    pub fn create(&mut self, profile: u32, start: u32, size: u32) -> Result<u32, Refused> {
        let its = self.profile(profile).ok_or(Refused::InvalidArgument)?;
        if its.size != size || !its.starts.contains(&start) {
            return Err(Refused::InvalidArgument);
        }
        let overlaps = |one: &Existing| one.start < start + size && start < one.start + one.size;
        let alike = self.instances.iter().filter(|one| one.profile == profile);
        let is_full = alike.count() >= usize::try_from(its.most).unwrap();
        if is_full || self.instances.iter().any(overlaps) || !self.has_engines(its) {
            return Err(Refused::InsufficientResources);
        }
        // A range of ids for each part of the memory (the driver's swizzIdRange); which one
        // of it is nobody's business.
        let (first, count) = match self.slots / size {
            1 => (0, 1),
            2 => (1, 2),
            4 => (3, 4),
            _ => (7, 8),
        };
        let is_free = |id: &u32| self.instances.iter().all(|one| one.id != *id);
        let id = (first..first + count).rev().find(is_free);
        let id = id.ok_or(Refused::InsufficientResources)?;
        self.instances.push(Existing {
            id,
            profile,
            start,
            size,
        });
        Ok(id)
    }

    fn has_engines(&self, more: &InstanceProfile) -> bool {
        let all = self.instances.iter();
        let all = all
            .filter_map(|one| self.profile(one.profile))
            .chain([more]);
        let mut used = [0; 4];
        for one in all {
            let Engines {
                decoders,
                encoders,
                jpeg,
                optical_flow,
            } = one.engines;
            let its = [decoders, encoders, jpeg, optical_flow];
            for (used, its) in used.iter_mut().zip(its) {
                *used += its;
            }
        }
        used.iter()
            .zip(self.engines)
            .all(|(used, has)| *used <= has)
    }

    /// `nvmlGpuInstanceDestroy`, of the one that lies there.
    pub fn destroy(&mut self, profile: u32, start: u32) -> Result<(), Refused> {
        let is_it = |one: &Existing| one.profile == profile && one.start == start;
        let found = self.instances.iter().position(is_it);
        self.instances.remove(found.ok_or(Refused::NotFound)?);
        Ok(())
    }

    pub fn take(&mut self, step: LayoutStep) -> Result<(), Refused> {
        match step {
            LayoutStep::Destroy { profile, slots, .. } => {
                self.destroy(profile.number(), slots.start())
            }
            LayoutStep::Create { profile, slots, .. } => self
                .create(profile.number(), slots.start(), slots.size())
                .map(|_| ()),
        }
    }

    /// What is there, without ids: an instance that is created again gets another.
    pub fn lying(&self) -> Vec<(u32, u32)> {
        let instances = self.instances.iter();
        let mut lying: Vec<(u32, u32)> = instances.map(|one| (one.start, one.profile)).collect();
        lying.sort_unstable();
        lying
    }

    /// Whether so many more of each profile fit, by trying all places.
    pub fn has_space_for(&self, wanted: &[(u32, u32)]) -> bool {
        let Some(((profile, count), others)) = wanted.split_first() else {
            return true;
        };
        if *count == 0 {
            return self.has_space_for(others);
        }
        let mut rest = wanted.to_vec();
        rest[0].1 -= 1;
        let Some(its) = self.profile(*profile).cloned() else {
            return false;
        };
        if *count > its.most {
            return false;
        }
        its.starts.iter().any(|&start| {
            let mut with = self.clone();
            with.create(*profile, start, its.size).is_ok() && with.has_space_for(&rest)
        })
    }
}
