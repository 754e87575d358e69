//! What `virt-vgpu profiles` prints.

use std::fmt;

use serde::Serialize;

use crate::{
    cli::output::{self, Table},
    device::gpu::{Framework, Functions},
    model::{PciAddress, PoolName, VgpuTypeId},
};

/// All of it.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) gpus: Vec<GpuReport>,
    pub(super) problems: Vec<String>,
}

/// A GPU; null is what nobody tells.
#[derive(Debug, Serialize)]
pub(super) struct GpuReport {
    pub(super) address: PciAddress,
    pub(super) name: Option<String>,
    /// null while its driver makes no vGPUs.
    pub(super) framework: Option<Framework>,
    /// null where vGPUs are made without.
    pub(super) functions: Option<Functions>,
    /// vGPUs that exist, whoever made them; null where they cannot be counted.
    pub(super) vgpus: Option<usize>,
    pub(super) heterogeneous: Option<bool>,
    pub(super) mig: Option<bool>,
    pub(super) profiles: Vec<ProfileReport>,
    /// Why something is missing.
    pub(super) notes: Vec<String>,
    /// Whether profiles were left out, so that none says nothing.
    #[serde(skip)]
    pub(super) is_partial: bool,
}

/// A profile on a GPU.
#[derive(Debug, Serialize)]
pub(super) struct ProfileReport {
    pub(super) id: VgpuTypeId,
    /// `L40S-12Q`.
    pub(super) profile: String,
    /// `NVIDIA L40S-12Q`.
    pub(super) name: String,
    pub(super) framebuffer_mib: Option<u64>,
    pub(super) displays: Option<u32>,
    pub(super) max_resolution: Option<String>,
    pub(super) frame_rate_limit: Option<u32>,
    /// The most that the GPU holds.
    pub(super) maximum: Option<u32>,
    /// How many more fit now.
    pub(super) fits: u32,
    /// false: `fits` is an upper bound.
    pub(super) fits_exactly: bool,
    pub(super) pools: Vec<PoolName>,
}

impl GpuReport {
    fn heading(&self) -> String {
        let mut heading = self.address.to_string();
        if let Some(name) = &self.name {
            heading = format!("{heading} {name}");
        }
        let mut said = Vec::new();
        if let Some(framework) = self.framework {
            said.push(framework.to_string());
            said.extend(self.vgpus.map(|count| match count {
                1 => "1 vGPU".to_owned(),
                count => format!("{count} vGPUs"),
            }));
        }
        if let Some(Functions { total, free }) = self.functions.filter(|all| all.total > 0) {
            said.push(format!("{free} of {total} virtual functions free"));
        }
        match (self.mig, self.heterogeneous) {
            (Some(true), _) => said.push("MIG".to_owned()),
            (_, Some(true)) => said.push("mixed sizes".to_owned()),
            (_, Some(false)) => said.push("one size at a time".to_owned()),
            _ => {}
        }
        match said.as_slice() {
            [] => heading,
            said => format!("{heading}: {}", said.join(", ")),
        }
    }

    fn table(&self) -> Table {
        let mut table = Table::new(&[
            "PROFILE",
            "ID",
            "MEMORY",
            "DISPLAYS",
            "RESOLUTION",
            "FPS",
            "MAX",
            "FITS",
            "POOLS",
            "NAME",
        ]);
        for profile in &self.profiles {
            let number = |number: Option<u32>| number.map_or_else(String::new, |n| n.to_string());
            let memory = profile.framebuffer_mib.map(|mib| format!("{mib} MiB"));
            let pools: Vec<&str> = profile.pools.iter().map(PoolName::as_str).collect();
            table.row([
                profile.profile.clone(),
                profile.id.to_string(),
                memory.unwrap_or_default(),
                number(profile.displays),
                profile.max_resolution.clone().unwrap_or_default(),
                number(profile.frame_rate_limit),
                number(profile.maximum),
                profile.fits_shown(),
                pools.join(","),
                profile.name.clone(),
            ]);
        }
        table
    }
}

impl ProfileReport {
    fn fits_shown(&self) -> String {
        if self.fits_exactly {
            self.fits.to_string()
        } else {
            format!("at most {}", self.fits)
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.gpus.is_empty() {
            writeln!(
                f,
                "no GPUs of the driver 'nvidia'; 'virt-vgpu devices --kind pci' lists PCI \
                 functions"
            )?;
        }
        for (index, gpu) in self.gpus.iter().enumerate() {
            let gap = if index > 0 { "\n" } else { "" };
            writeln!(f, "{gap}{}", output::one_line(gpu.heading()))?;
            let table = gpu.table();
            if !table.is_empty() {
                write!(f, "{}", table.indented())?;
            } else if gpu.is_partial && gpu.framework.is_some() {
                writeln!(f, "  no profile can be created now")?;
            }
            for note in &gpu.notes {
                writeln!(f, "  note: {}", output::one_line(note))?;
            }
        }
        for (index, problem) in self.problems.iter().enumerate() {
            let gap = if index == 0 { "\n" } else { "" };
            writeln!(f, "{gap}problem: {}", output::one_line(problem))?;
        }
        Ok(())
    }
}
