//! The capacity that the parents of one board share: the arithmetic for several devices
//! that are planned at once.

use std::rc::Rc;

use super::{Candidate, HostView};
use crate::{
    capacity::{Fit, Placement, more_beside, more_of},
    device::gpu::{self, GpuState},
    model::{MdevTypeId, ParentName, VgpuTypeId},
};

/// A board with known capacity.
pub trait Board {
    /// How many more of a type fit on the board; None for an unknown type.
    fn left(&self, id: &MdevTypeId) -> Option<u32>;

    /// Like [`Self::left`], if these devices are made on the board first.
    fn left_beside(&self, made: &[(MdevTypeId, Option<Placement>)], id: &MdevTypeId)
    -> Option<u32>;
}

impl Board for GpuState {
    fn left(&self, id: &MdevTypeId) -> Option<u32> {
        Some(more_of(self, number(id)?).most())
    }

    fn left_beside(
        &self,
        made: &[(MdevTypeId, Option<Placement>)],
        id: &MdevTypeId,
    ) -> Option<u32> {
        let id = number(id)?;
        self.vgpu_type(id)?;
        let made = made
            .iter()
            .filter_map(|(id, place)| Some((number(id)?, *place)));
        Some(more_beside(self, made, id).most())
    }
}

/// NVIDIA's number for a type, of a mediated device or of a virtual function.
pub(super) fn number(id: &MdevTypeId) -> Option<VgpuTypeId> {
    gpu::number(id.as_str()).or_else(|| id.as_str().parse().ok())
}

/// The GPU that the candidate is or belongs to. None if nothing is known about the
/// board as a whole. That is the case for every driver except NVIDIA's.
pub(super) fn gpu_of(view: &HostView<'_>, candidate: &Candidate) -> Option<Rc<dyn Board>> {
    // Types of mediated devices say how many of them a GPU holds. Types of functions
    // have only a name.
    let is_needed = candidate.device.is_some();
    let gpu = view.gpu(&view.board_of(candidate), is_needed || view.has_facts())?;
    Some(gpu)
}

/// Whether the candidate is a virtual function of an NVIDIA GPU, which holds one device
/// whatever its type.
pub(super) fn is_function(candidate: &Candidate, id: &MdevTypeId) -> bool {
    let on_a_board = candidate.board != candidate.parent.name;
    candidate.device.is_some() || (on_a_board && number(id).is_some())
}

/// How many more of a type of mediated devices fit on an NVIDIA GPU, over all its
/// functions; None for other boards. A GPU that offers any of the type has space for at
/// least one.
pub(super) fn left_on_gpu(view: &HostView<'_>, board: &ParentName, id: &MdevTypeId) -> Option<Fit> {
    let number = gpu::number(id.as_str())?;
    let state = view.gpu(board, true)?;
    state.vgpu_type(number)?;
    Some(match more_of(&state, number) {
        Fit::Exactly(0) => Fit::Exactly(1),
        fit => fit,
    })
}
