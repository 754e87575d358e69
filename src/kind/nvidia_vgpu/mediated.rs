//! NVIDIA's vGPUs as mediated devices: of the GPU itself if it has no virtual
//! functions, otherwise of its virtual functions, one each.

use crate::{
    device::gpu,
    kind::{Candidate, HostView},
};

/// The parents of mediated devices that NVIDIA's driver has.
pub(super) fn parents(view: &HostView<'_>) -> Result<Vec<Candidate>, String> {
    let parents = view.parents()?;
    let bound = gpu::bound(view.sysfs()).map_err(|e| format!("cannot list GPUs: {e}"))?;
    let is_nvidias = |one: &Candidate| {
        one.parent
            .name
            .pci()
            .is_some_and(|name| bound.contains(&name))
    };
    Ok(parents.into_iter().filter(is_nvidias).collect())
}
