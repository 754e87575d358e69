//! Placements: the first slots that a type may have, which of them are free, and the
//! attribute `placement_id`.

use std::ops::Range;

use nix::errno::Errno;

use super::{Gpu, Result, Vgpu, VgpuHandle};
use crate::boards::VgpuType;

/// Slots that are taken.
#[derive(Debug, Default)]
pub(super) struct Slots(Vec<Range<u32>>);

impl FromIterator<Range<u32>> for Slots {
    fn from_iter<T: IntoIterator<Item = Range<u32>>>(taken: T) -> Self {
        Self(taken.into_iter().collect())
    }
}

impl Slots {
    fn is_free(&self, wanted: &Range<u32>) -> bool {
        let mut taken = self.0.iter();
        taken.all(|other| wanted.end <= other.start || other.end <= wanted.start)
    }

    /// The free ones among the places, ascending.
    pub fn free(&self, places: &[u32], size: u32) -> Vec<u32> {
        let free = |place: &u32| self.is_free(&(*place..*place + size));
        places.iter().copied().filter(free).collect()
    }

    pub fn lowest_free(&self, places: &[u32], size: u32) -> Option<u32> {
        self.free(places, size).first().copied()
    }

    /// How many fit beside each other, taken from the lowest on.
    pub fn fitting(&self, places: &[u32], size: u32) -> usize {
        let (mut count, mut end) = (0, 0);
        for place in self.free(places, size) {
            if place >= end {
                count += 1;
                end = place + size;
            }
        }
        count
    }
}

impl Vgpu {
    pub(super) fn slots(&self) -> Option<Range<u32>> {
        let first = self.placement?;
        Some(first..first + self.kind.slots)
    }
}

/// The multiples of the size at which one fits.
fn multiples(size: u32, slots: u32) -> Vec<u32> {
    match slots.checked_div(size) {
        Some(count) => (0..count).map(|number| number * size).collect(),
        None => Vec::new(),
    }
}

impl Gpu {
    /// Placement ids of a type in the present mode; a type for GPU instances has none
    /// outside of them.
    pub(super) fn places(&self, kind: &VgpuType) -> Vec<u32> {
        if kind.gi_profile.is_some() {
            Vec::new()
        } else if self.hetero && !self.switches.fine_placements {
            let mixed = self.board.mixed.get(&kind.slots);
            mixed.cloned().unwrap_or_default()
        } else {
            multiples(kind.slots, kind.region(self.board.slots))
        }
    }

    /// Placement ids of a type within a GPU instance, counted from its start, whether
    /// sizes may differ or not; none where it has one vGPU only.
    pub(super) fn gi_places(&self, gi: u32, kind: &VgpuType) -> Vec<u32> {
        let has_several = self.board.features.mig_timeslicing;
        let instance = self.gis.get(&gi).filter(|_| has_several);
        let profile = instance.and_then(|instance| self.board.gi_profile(instance.profile));
        match profile {
            Some(profile) if kind.gi_profile == Some(profile.id) => {
                multiples(kind.slots, profile.memory_mib / 1024)
            }
            _ => Vec::new(),
        }
    }

    /// Slots of vGPUs in a GPU instance; the vGPU `but` is ignored.
    pub(super) fn gi_slots(&self, gi: u32, but: Option<u32>) -> Slots {
        let all = self.vgpus.iter();
        let inside = all.filter(|vgpu| vgpu.gi == Some(gi) && Some(vgpu.id) != but);
        inside.filter_map(Vgpu::slots).collect()
    }

    /// Whether placements are used outside of GPU instances.
    fn has_placements(&self) -> bool {
        let features = &self.board.features;
        !self.mig.current
            && self.board.slots > 0
            && (self.hetero || features.homogeneous_placements)
    }

    /// The visible placement of a vGPU, if there is one.
    pub(super) fn shown_placement(&self, vgpu: &Vgpu) -> Option<u32> {
        let in_gi = vgpu.kind.gi_profile.is_some();
        if in_gi || self.hetero || self.board.features.homogeneous_placements {
            vgpu.placement
        } else {
            None
        }
    }

    /// Free placement ids of a type: those where a vGPU would not overlap another.
    ///
    /// # Errors
    /// `EOPNOTSUPP`: MIG mode is on. `EINVAL`: no such type.
    pub fn placements(&self, type_id: u32) -> Result<Vec<u32>> {
        if self.mig.current {
            return Err(Errno::EOPNOTSUPP);
        }
        let kind = self.board.vgpu_type(type_id).ok_or(Errno::EINVAL)?;
        let taken: Slots = self.vgpus.iter().filter_map(Vgpu::slots).collect();
        Ok(taken.free(&self.places(kind), kind.slots))
    }

    /// Free placement ids of a type within a GPU instance.
    ///
    /// # Errors
    /// `ENOENT`: no such GPU instance. `EINVAL`: no such type.
    pub fn gi_placements(&self, gi: u32, type_id: u32) -> Result<Vec<u32>> {
        self.gis.get(&gi).ok_or(Errno::ENOENT)?;
        let kind = self.board.vgpu_type(type_id).ok_or(Errno::EINVAL)?;
        let places = self.gi_places(gi, kind);
        Ok(self.gi_slots(gi, None).free(&places, kind.slots))
    }

    /// Moves a vGPU to a place of its choice, before a VM has it.
    pub(super) fn place(&mut self, vgpu_handle: &VgpuHandle, place: u32) -> Result<()> {
        let vgpu = self.vgpu(vgpu_handle)?;
        let (places, taken) = match vgpu.gi {
            Some(gi) => (
                self.gi_places(gi, vgpu.kind),
                self.gi_slots(gi, Some(vgpu.id)),
            ),
            None if self.has_placements() => {
                let others = self.vgpus.iter().filter(|other| other.id != vgpu.id);
                let taken = others.filter_map(Vgpu::slots).collect();
                (self.places(vgpu.kind), taken)
            }
            None => return Err(Errno::EIO),
        };
        if !taken.free(&places, vgpu.kind.slots).contains(&place) {
            return Err(Errno::EIO);
        }
        self.vgpu_mut(vgpu_handle)?.placement = Some(place);
        Ok(())
    }
}
