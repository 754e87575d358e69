//! Which vGPU profiles the GPUs have, and how many more fit.

use std::{collections::BTreeSet, io};

use anyhow::{Context, anyhow};
use serde::Serialize;

use crate::{
    capacity::{Fit, more_of},
    claims,
    config::{self, Pool},
    device::{
        gpu::{self, Framework, Functions, GpuState, VgpuType},
        mdev, near,
        nvml::{Failure, GpuFacts, Nvml, Told},
        readiness, vendor_vfio,
    },
    host::{Host, PciIds},
    kind::FieldSources,
    model::{MdevTypeId, PciAddress, PoolName, ProfileParts, VgpuTypeId, short_name},
    rule::{Verdict, spelling},
};

/// All of it.
#[derive(Debug, Serialize)]
pub struct ProfileList {
    /// The GPUs, in ascending order.
    pub gpus: Vec<GpuReport>,
    /// The facts that could not be read.
    pub problems: Vec<String>,
}

/// A GPU; unknown facts are null.
#[derive(Debug, Serialize)]
pub struct GpuReport {
    /// Its address.
    pub address: PciAddress,
    /// NVIDIA's name for it.
    pub name: Option<String>,
    /// null while its driver makes no vGPUs.
    pub framework: Option<Framework>,
    /// null where vGPUs are made without.
    pub functions: Option<Functions>,
    /// All existing vGPUs, ours or not; null if they cannot be counted.
    pub vgpus: Option<usize>,
    /// Whether it holds vGPUs of several sizes at once.
    pub heterogeneous: Option<bool>,
    /// Whether it is divided into GPU instances.
    pub mig: Option<bool>,
    /// Series by series, the smallest first.
    pub profiles: Vec<ProfileReport>,
    /// Why something is missing.
    pub notes: Vec<String>,
    /// Whether profiles were left out, so that none says nothing.
    #[serde(skip)]
    pub is_partial: bool,
}

/// A profile on a GPU.
#[derive(Debug, Serialize)]
pub struct ProfileReport {
    /// The driver's number.
    pub id: VgpuTypeId,
    /// `L40S-12Q`.
    pub profile: String,
    /// `NVIDIA L40S-12Q`.
    pub name: String,
    /// Memory of one.
    pub framebuffer_mib: Option<u64>,
    /// Displays of one.
    pub displays: Option<u32>,
    /// Of its largest display.
    pub max_resolution: Option<String>,
    /// Frames per second.
    pub frame_rate_limit: Option<u32>,
    /// The most that the GPU holds.
    pub maximum: Option<u32>,
    /// The GPU instance (MIG) that each is in; None: time-sliced, or not told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu_instance: Option<InstanceReport>,
    /// How many more fit now.
    pub fits: u32,
    /// false: `fits` is an upper bound.
    pub fits_exactly: bool,
    /// Pools that hand it out on this GPU.
    pub pools: Vec<PoolName>,
}

/// What a vGPU's GPU instance is like.
#[derive(Debug, Serialize)]
pub struct InstanceReport {
    /// The number of its profile, which differs between GPUs; 0 is one like any other.
    pub profile_id: u32,
    /// The name of its profile, `2g.48gb+gfx`; None: not told.
    pub profile: Option<String>,
    /// How many vGPUs of this profile alone it holds; None: not told.
    pub most_vgpus: Option<u32>,
}

impl InstanceReport {
    fn of(one: &VgpuType, facts: Option<&GpuFacts>) -> Option<Self> {
        let profile_id = one.gpu_instance_profile?;
        let told = facts.and_then(|facts| facts.instances.value());
        let mut profiles = told.into_iter().flat_map(|told| &told.profiles);
        let profile = profiles.find(|profile| profile.id == profile_id);
        Some(Self {
            profile_id,
            profile: profile.and_then(|profile| profile.name.clone()),
            most_vgpus: one.most_per_instance,
        })
    }
}

/// Looks at the profiles of one GPU, or of all; with `creatable`, only at those of which
/// one more can be created now.
///
/// # Errors
/// When GPUs cannot be listed, or the text names none.
pub fn profiles(host: &Host, gpu: Option<&str>, creatable: bool) -> anyhow::Result<ProfileList> {
    let mut problems = Vec::new();
    let all = gpu::all(host).context("cannot list PCI functions")?;
    let gpus = match gpu {
        Some(text) => vec![named(host, &all, text)?],
        None => all,
    };
    let facts = if gpus.is_empty() {
        Vec::new()
    } else {
        facts(host, gpu.is_some().then(|| gpus[0]), &mut problems)
    };
    let pools = Pools::load(host, &facts, &mut problems);
    let withheld = withheld(host, &mut problems)?;
    let report = |&gpu: &PciAddress| {
        let facts = facts.iter().find(|facts| facts.address == gpu);
        let mut report = match gpu::read(host, gpu, facts, &withheld) {
            Ok(state) => gpu_report(host, &state, facts, &pools),
            Err(error) => GpuReport::unreadable(gpu, facts, &error),
        };
        report.is_partial = creatable;
        if creatable {
            report.profiles.retain(|profile| profile.fits > 0);
        }
        report
    };
    Ok(ProfileList {
        gpus: gpus.iter().map(report).collect(),
        problems,
    })
}

/// The GPU that a text names.
fn named(host: &Host, all: &[PciAddress], text: &str) -> anyhow::Result<PciAddress> {
    let address = text.parse::<PciAddress>().ok();
    if let Some(gpu) = address.filter(|address| all.contains(address)) {
        return Ok(gpu);
    }
    let function = address.and_then(|address| vendor_vfio::gpu(host, address).ok()?);
    if let Some(gpu) = function {
        return Err(anyhow!(
            "{} is a virtual function: profiles are those of its GPU; ask for {gpu}",
            near::canonical(text)
        ));
    }
    let have: Vec<String> = all.iter().map(ToString::to_string).collect();
    Err(anyhow!(
        "there is no GPU '{}' of the driver 'nvidia': {}; 'virt-vgpu profiles' shows all",
        spelling::shown(text),
        near::what_there_is(&near::canonical(text), &have)
    ))
}

/// NVML's facts about one GPU or all GPUs; empty if NVML cannot be asked.
fn facts(host: &Host, one: Option<PciAddress>, problems: &mut Vec<String>) -> Vec<GpuFacts> {
    let nvml = host.nvml();
    let answer = match one {
        Some(gpu) => nvml.gpu(gpu).map(|facts| vec![facts]),
        None => nvml.gpus(),
    };
    answer.unwrap_or_else(|Failure { message, .. }| {
        problems.push(format!("{message}; shown is what sysfs tells"));
        Vec::new()
    })
}

/// Virtual functions that no start gets: those that claims name, although they may
/// be without a vGPU for a moment yet, and those in quarantine.
fn withheld(host: &Host, problems: &mut Vec<String>) -> anyhow::Result<BTreeSet<PciAddress>> {
    let (claims, damaged) = claims::load_all(host).context("cannot read the claims")?;
    problems.extend(damaged.iter().map(ToString::to_string));
    let quarantined = claims::quarantined(host).context("cannot read the quarantine")?;
    let devices = claims.iter().flat_map(|claim| &claim.devices);
    let functions = devices.filter_map(|device| device.parent.pci());
    let functions = functions.chain(quarantined.iter().map(|one| one.function));
    Ok(functions.collect())
}

fn gpu_report(
    host: &Host,
    state: &GpuState,
    facts: Option<&GpuFacts>,
    pools: &Pools<'_>,
) -> GpuReport {
    let mut types: Vec<&VgpuType> = state.types.iter().collect();
    types.sort_by(|a, b| order(a).cmp(&order(b)));
    let pools = pools.that_take(host, state);
    let profile = |one: &VgpuType| {
        let of_type = pools.iter().filter(|pool| is_of(pool, one));
        let pools = of_type.map(|pool| pool.name.clone()).collect();
        let instance = InstanceReport::of(one, facts);
        profile_report(one, more_of(state, one.id), instance, pools)
    };
    GpuReport {
        address: state.address,
        name: facts.and_then(|facts| facts.name.value().cloned()),
        framework: state.framework,
        functions: state.functions,
        vgpus: vgpus(host, state),
        heterogeneous: state.heterogeneous,
        mig: state.mig,
        profiles: types.into_iter().map(profile).collect(),
        notes: notes(state, facts),
        is_partial: false,
    }
}

/// How many vGPUs there are. A GPU that shows no types now may have some of before.
fn vgpus(host: &Host, state: &GpuState) -> Option<usize> {
    match state.framework {
        Some(_) => Some(state.vgpus.len()),
        None => readiness::vgpus(host, state.address)
            .ok()
            .map(|vgpus| vgpus.len()),
    }
}

/// Time-sliced ones before those in GPU instances, series by series, the smallest
/// first; the driver's numbers have no order.
fn order(one: &VgpuType) -> impl Ord + '_ {
    let parts = ProfileParts::of(&one.name);
    let key = parts.map(|parts| (parts.slices, parts.series, parts.gigabytes));
    (key, one.name.as_str(), one.id)
}

fn profile_report(
    one: &VgpuType,
    fit: Fit,
    gpu_instance: Option<InstanceReport>,
    pools: Vec<PoolName>,
) -> ProfileReport {
    let resolution = |(width, height)| format!("{width}x{height}");
    ProfileReport {
        id: one.id,
        profile: short_name(&one.name).to_owned(),
        name: one.name.clone(),
        framebuffer_mib: one.framebuffer_mib,
        displays: one.heads,
        max_resolution: one.max_resolution.map(resolution),
        frame_rate_limit: one.frame_rate_limit,
        maximum: one.max_instances,
        gpu_instance,
        fits: fit.most(),
        fits_exactly: fit.is_exact(),
        pools,
    }
}

/// Why something is missing.
fn notes(state: &GpuState, facts: Option<&GpuFacts>) -> Vec<String> {
    let mut notes = Vec::new();
    match (state.framework, state.functions) {
        (None, Some(functions)) if functions.total == 0 => notes.push(format!(
            "its virtual functions are not enabled; enable them with \
             '/usr/lib/nvidia/sriov-manage -e {}'",
            state.address
        )),
        (None, _) => notes.push(
            "its driver makes no vGPUs of it now; is NVIDIA's vGPU manager installed, and has \
             nvidia-vgpud run?"
                .to_owned(),
        ),
        (Some(_), _) => {}
    }
    match facts.map(|facts| &facts.types) {
        Some(Told::Value(_)) => {}
        Some(Told::Unavailable(failure)) => {
            notes.push(format!("NVML does not tell its types: {}", failure.message));
        }
        None if state.framework == Some(Framework::VendorVfio) => notes.push(
            "without NVML only profiles that can be created now are known, by name alone"
                .to_owned(),
        ),
        None => {}
    }
    notes
}

/// The pools of the host that can have vGPUs.
struct Pools<'a> {
    pools: Vec<Pool>,
    names: PciIds<'a>,
    /// NVML's facts.
    facts: &'a Vec<GpuFacts>,
}

impl<'a> Pools<'a> {
    fn load(host: &'a Host, facts: &'a Vec<GpuFacts>, problems: &mut Vec<String>) -> Self {
        let mut pools = Vec::new();
        for (name, pool) in config::load_all(host).pools {
            match pool {
                Ok(pool) => pools.push(pool),
                Err(error) => problems.push(format!("pool '{name}' cannot be used: {error}")),
            }
        }
        Self {
            pools,
            names: PciIds::new(host),
            facts,
        }
    }

    /// Those whose rules take the GPU: pools of profiles by the GPU itself, pools
    /// of mdev types by the functions that make mediated devices.
    fn that_take(&self, host: &Host, state: &GpuState) -> Vec<&Pool> {
        let parents = match state.framework {
            Some(Framework::LegacyMdev) => vec![state.address],
            Some(Framework::SriovMdev) => gpu::functions(host, state.address).unwrap_or_default(),
            _ => Vec::new(),
        };
        let takes = |pool: &&Pool| match pool.is_of_gpus() {
            true => self.takes(host, pool, state.address),
            false => parents.iter().any(|&parent| self.takes(host, pool, parent)),
        };
        self.pools.iter().filter(takes).collect()
    }

    fn takes(&self, host: &Host, pool: &Pool, function: PciAddress) -> bool {
        let sources = FieldSources {
            sysfs: host,
            names: &self.names,
            nvml: Some(self.facts),
        };
        let device = mdev::pci_function(function);
        let verdict = pool.devices.verdict(sources, &pool.rules, &device);
        matches!(verdict, Verdict::Match { .. })
    }
}

fn is_of(pool: &Pool, one: &VgpuType) -> bool {
    let by_id = |id: MdevTypeId| id.as_str() == format!("nvidia-{}", one.id);
    pool.devices.selector().is_some_and(|selector| {
        selector.means_name(&one.name) || selector.as_id().is_some_and(by_id)
    })
}

impl GpuReport {
    fn unreadable(address: PciAddress, facts: Option<&GpuFacts>, error: &io::Error) -> Self {
        Self {
            address,
            name: facts.and_then(|facts| facts.name.value().cloned()),
            framework: None,
            functions: None,
            vgpus: None,
            heterogeneous: None,
            mig: None,
            profiles: Vec::new(),
            notes: vec![format!("cannot be read: {error}")],
            is_partial: false,
        }
    }
}

#[cfg(test)]
mod tests;
