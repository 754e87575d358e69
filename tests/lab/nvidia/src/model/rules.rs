//! The rules: which types can be created, how many of them, and the place of a new
//! vGPU.

use nix::errno::Errno;

use super::{Dialect, Gpu, Parent, Result, Vgpu, placement::Slots};
use crate::boards::{self, VgpuType};

/// vGPUs on a GPU: with MIG mode off, on, and in one GPU instance.
const MOST: usize = boards::MOST as usize;
const MOST_WITH_MIG: usize = 48;
const MOST_PER_GI: usize = 12;

/// Why a type cannot be created. NVIDIA's driver does not distinguish these reasons.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The table has no such type.
    Unknown,
    /// vGPUs of another size or type prevent it.
    Other,
    /// It does not fit, types are not loaded, or the GPU is in the wrong mode.
    NoRoom,
}

impl Refusal {
    /// The errno of a write.
    pub fn errno(self, dialect: Dialect) -> Errno {
        match (dialect, self) {
            (Dialect::Kmod, _) => Errno::EIO,
            (Dialect::Rfc, Self::Unknown) => Errno::ENODEV,
            (Dialect::Rfc, Self::Other) => Errno::EINVAL,
            (Dialect::Rfc, Self::NoRoom) => Errno::ENOSPC,
        }
    }
}

/// The place of a new vGPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    pub gi: Option<u32>,
    pub placement: Option<u32>,
}

impl Gpu {
    fn most(&self) -> usize {
        if self.mig.current {
            MOST_WITH_MIG
        } else {
            MOST
        }
    }

    fn free_vfs(&self) -> usize {
        let there = self.vfs.iter().filter(|vf| !vf.gone).count();
        there.saturating_sub(self.vgpus.len() + self.forgotten.len())
    }

    /// How many more vGPUs of any type.
    fn room_for_any(&self) -> usize {
        let room = self.most().saturating_sub(self.vgpus.len());
        if self.is_sriov() {
            room.min(self.free_vfs())
        } else {
            room
        }
    }

    /// With one size at a time: whether an existing vGPU excludes the type.
    fn is_excluded(&self, kind: &VgpuType) -> bool {
        let mixed = self.board.features.mixed_series && self.switches.mixed_series;
        self.vgpus.iter().any(|vgpu| {
            vgpu.kind.framebuffer_mib != kind.framebuffer_mib || !mixed && vgpu.kind.id != kind.id
        })
    }

    /// The place that a vGPU of the type would get now.
    pub(super) fn room(&self, kind: &VgpuType) -> std::result::Result<Room, Refusal> {
        let fits_mode = kind.gi_profile.is_some() == self.mig.current;
        if !self.loaded || !fits_mode || self.room_for_any() == 0 {
            return Err(Refusal::NoRoom);
        }
        if kind.gi_profile.is_some() {
            let mut rooms = self
                .gis
                .keys()
                .filter_map(|gi| self.gi_room(*gi, kind, None));
            return rooms.next().ok_or(Refusal::NoRoom);
        }
        let placement = self.slots().lowest_free(&self.places(kind), kind.slots);
        let gi = None;
        if self.hetero {
            placement.ok_or(Refusal::NoRoom)?;
        } else if self.is_excluded(kind) {
            return Err(Refusal::Other);
        } else if self.vgpus.len() >= most_of(kind.max_instances) {
            return Err(Refusal::NoRoom);
        }
        Ok(Room { gi, placement })
    }

    /// The place that a vGPU of the type would get within the GPU instance; the vGPU
    /// `but` is ignored.
    pub(super) fn gi_room(&self, gi: u32, kind: &VgpuType, but: Option<u32>) -> Option<Room> {
        let instance = self.gis.get(&gi)?;
        if Some(instance.profile) != kind.gi_profile || self.gi_places_left(gi, kind, but) == 0 {
            return None;
        }
        let free = self.gi_slots(gi, but);
        let placement = free.lowest_free(&self.gi_places(gi, kind), kind.slots);
        if instance.hetero {
            placement?;
        }
        Some(Room {
            gi: Some(gi),
            placement,
        })
    }

    /// How many more of the type fit by number and size, ignoring placements.
    fn gi_places_left(&self, gi: u32, kind: &VgpuType, but: Option<u32>) -> usize {
        let inside = || {
            let all = self.vgpus.iter();
            all.filter(move |vgpu| vgpu.gi == Some(gi) && Some(vgpu.id) != but)
        };
        let hetero = self.gis.get(&gi).is_some_and(|instance| instance.hetero);
        if !hetero && !self.is_gi_of_one_size(gi, kind, but) {
            return 0;
        }
        let most = if self.board.features.mig_timeslicing {
            most_of(kind.max_per_gi.unwrap_or(0)).min(MOST_PER_GI)
        } else {
            1
        };
        most.saturating_sub(inside().count())
    }

    /// Whether all vGPUs in the GPU instance have the type's size.
    fn is_gi_of_one_size(&self, gi: u32, kind: &VgpuType, but: Option<u32>) -> bool {
        let inside = self.vgpus.iter();
        let mut inside = inside.filter(|vgpu| vgpu.gi == Some(gi) && Some(vgpu.id) != but);
        inside.all(|vgpu| vgpu.kind.framebuffer_mib == kind.framebuffer_mib)
    }

    fn gi_available(&self, gi: u32, kind: &VgpuType) -> usize {
        if self.gi_room(gi, kind, None).is_none() {
            return 0;
        }
        let left = self.gi_places_left(gi, kind, None);
        if self.gis.get(&gi).is_some_and(|instance| instance.hetero) {
            let slots = self.gi_slots(gi, None);
            left.min(slots.fitting(&self.gi_places(gi, kind), kind.slots))
        } else {
            left
        }
    }

    /// How many more vGPUs of the type fit on the GPU.
    pub fn available(&self, kind: &VgpuType) -> usize {
        if self.room(kind).is_err() {
            return 0;
        }
        let count = if kind.gi_profile.is_some() {
            let gis = self.gis.keys();
            gis.map(|gi| self.gi_available(*gi, kind)).sum()
        } else if self.hetero {
            self.slots().fitting(&self.places(kind), kind.slots)
        } else {
            most_of(kind.max_instances).saturating_sub(self.vgpus.len())
        };
        count.min(self.room_for_any())
    }

    /// How many more vGPUs of the type sysfs says fit on the GPU: in heterogeneous modes
    /// it goes on counting as if sizes were equal, although more can be made.
    pub fn listed(&self, kind: &VgpuType) -> usize {
        let is_listed = if kind.gi_profile.is_some() {
            let mut gis = self.gis.keys();
            gis.any(|gi| {
                self.gi_room(*gi, kind, None).is_some() && self.is_gi_of_one_size(*gi, kind, None)
            })
        } else {
            !self.hetero || self.vgpus.len() < most_of(kind.max_instances)
        };
        if is_listed { self.available(kind) } else { 0 }
    }

    /// How many more vGPUs of the type fit on this parent, as sysfs says.
    ///
    /// # Errors
    /// `ENOENT`: no such parent.
    pub fn available_at(&self, parent: Parent, kind: &VgpuType) -> Result<usize> {
        let available = self.listed(kind);
        match parent {
            Parent::Pf if self.is_sriov() => Err(Errno::ENOENT),
            Parent::Pf => Ok(available),
            Parent::Vf(number) => {
                self.vf(number)?;
                let free = usize::from(self.is_free(number));
                Ok(available.min(free))
            }
        }
    }

    /// Types that can be created, with how many, in the table's order.
    pub fn creatable(&self) -> Vec<(&'static VgpuType, usize)> {
        let counted = self
            .board
            .types
            .iter()
            .map(|kind| (kind, self.available(kind)));
        counted.filter(|(_, count)| *count > 0).collect()
    }

    /// Makes a vGPU on an existing and free parent.
    pub(super) fn make(
        &mut self,
        parent: Parent,
        uuid: Option<String>,
        type_id: u32,
    ) -> std::result::Result<(), Refusal> {
        let kind = self.board.vgpu_type(type_id).ok_or(Refusal::Unknown)?;
        let room = self.room(kind)?;
        self.vgpus.push(Vgpu {
            id: self.next_instance,
            kind,
            placement: room.placement,
            gi: room.gi,
            parent,
            uuid,
            params: Vec::new(),
            opener: None,
            exits_at: self.now,
        });
        self.next_instance = self.next_instance.saturating_add(1);
        Ok(())
    }

    /// Slots that vGPUs outside of GPU instances have.
    fn slots(&self) -> Slots {
        let outside = self.vgpus.iter().filter(|vgpu| vgpu.gi.is_none());
        outside.filter_map(Vgpu::slots).collect()
    }
}

fn most_of(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}
