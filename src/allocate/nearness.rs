//! Where a domain's memory, its CPUs and its devices are on the host, for placement.

use std::io;

use crate::{
    device::{Sysfs, numa::NumaTopology, topology::Place},
    domain::DomainDef,
    model::{DeviceName, NumaNode, ParentName, Together},
    plan::Nearness,
};

/// The nodes that the domain is bound to: those of its memory (`<numatune>`),
/// else those of its CPUs (`<vcpu cpuset>`, `<vcpupin>`). The host's layout is
/// read only for a domain that is bound.
///
/// # Errors
/// When the layout cannot be read.
pub fn nearness_of(domain: &DomainDef, sysfs: &dyn Sysfs) -> io::Result<Nearness> {
    if domain.memory_nodes.is_empty() && domain.cpus.is_empty() {
        return Ok(Nearness::default());
    }
    let topology = NumaTopology::read(sysfs)?;
    let nodes = if domain.memory_nodes.is_empty() {
        topology.nodes_of(&domain.cpus)
    } else {
        domain.memory_nodes.iter().map(NumaNode).collect()
    };
    Ok(Nearness {
        nodes,
        topology,
        beside: Vec::new(),
    })
}

/// The places of the domain's devices with which others should share something. `devices`
/// are their names and parents.
pub fn places_beside<'d>(
    domain: &DomainDef,
    sysfs: &dyn Sysfs,
    devices: impl IntoIterator<Item = (&'d DeviceName, ParentName)>,
) -> Vec<(Together, Place)> {
    let place = |(name, parent): (&DeviceName, ParentName)| {
        let mut requests = domain.requests.iter();
        let request = requests.find(|request| request.name == *name)?;
        Some((request.together?, Place::of(sysfs, &parent)))
    };
    devices.into_iter().filter_map(place).collect()
}
