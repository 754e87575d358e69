//! The vGPUs on a GPU, and their domains.

use anyhow::Context;
use serde::Serialize;

use crate::{
    claims,
    device::{gpu, readiness},
    host::Host,
    model::{DomainName, Handle, ParentName, PciAddress},
};

/// A vGPU, or the promise of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct User {
    /// The mediated device or the virtual function.
    pub device: Handle,
    /// The domain; None: no claim of ours names it.
    pub domain: Option<DomainName>,
    /// The GPU instance that was chosen for it, if one was.
    #[serde(skip)]
    pub instance: Option<u32>,
}

/// The existing vGPUs, and the vGPUs that a domain is about to get.
///
/// # Errors
/// When that cannot be told: the GPU then counts as in use.
pub fn users(host: &Host, gpu: PciAddress) -> anyhow::Result<Vec<User>> {
    let cannot = || format!("cannot tell whether {gpu} is in use");
    let vgpus = readiness::vgpus(host, gpu).with_context(cannot)?;
    let functions = gpu::functions(host, gpu).with_context(cannot)?;
    let (claims, damaged) = claims::load_all(host).with_context(cannot)?;
    if let Some(damaged) = damaged.into_iter().next() {
        return Err(damaged).with_context(cannot);
    }
    let is_here = |parent: &ParentName| {
        let parent = parent.pci();
        parent.is_some_and(|parent| parent == gpu || functions.contains(&parent))
    };
    let mut users = Vec::new();
    for claim in &claims {
        for device in &claim.devices {
            if is_here(&device.parent) {
                users.push(User {
                    device: device.handle,
                    domain: Some(claim.domain_name.clone()),
                    instance: device.placement.and_then(|place| place.instance),
                });
            }
        }
    }
    for vgpu in vgpus {
        if users.iter().all(|user| user.device != vgpu.device) {
            users.push(User {
                device: vgpu.device,
                domain: None,
                instance: None,
            });
        }
    }
    Ok(users)
}

/// Why a GPU with users stays as it is, and what to do; None without users.
pub(super) fn refusal(gpu: PciAddress, users: &[User]) -> Option<String> {
    let first = users.first()?;
    let others = match users.len() {
        1 => String::new(),
        more => format!(" and {} more", more - 1),
    };
    Some(match &first.domain {
        Some(domain) => format!(
            "in use: domain '{domain}' has vGPU {}{others}; shut it down, then run 'virt-vgpu host \
             apply {gpu}'",
            first.device
        ),
        None => format!(
            "in use: vGPU {}{others}, which no domain has from us; when whoever made it has removed \
             it, run 'virt-vgpu host apply {gpu}'",
            first.device
        ),
    })
}
