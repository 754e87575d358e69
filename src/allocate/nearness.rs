//! Where a domain's memory and CPUs are on the host, for placement.

use std::io;

use crate::{
    device::{Sysfs, numa::NumaTopology},
    domain::DomainDef,
    model::NumaNode,
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
    Ok(Nearness { nodes, topology })
}
