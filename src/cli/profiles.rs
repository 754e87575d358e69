//! `virt-vgpu profiles`: which vGPU profiles the GPUs have, and how many more fit.

use std::{fmt, process::ExitCode};

use clap::Args;

use super::output::{self, Table};
use crate::{
    device::gpu::Functions,
    host::Host,
    model::PoolName,
    report::profiles::{self, GpuReport, InstanceReport, ProfileList, ProfileReport},
};

/// Show the vGPU profiles of the host's GPUs, and how many more of each fit now.
///
/// FITS is what can be created one after the other, if nothing else is made
/// meanwhile: with mixed sizes at the places that starts would choose. Where the
/// driver does not tell enough it is an upper bound. GPU INSTANCE says how many of a
/// profile a GPU instance (MIG) holds; such profiles are shown with MIG mode off too.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  virt-vgpu profiles
  virt-vgpu profiles 0000:3b:00.0         one GPU
  virt-vgpu profiles --creatable 3b:00.0  what can be had on it now
  virt-vgpu profiles --json | jq '.gpus[].profiles[] | select(.fits > 0).profile'

Exit code 0 when the GPUs were found, 1 when the GPU is unknown.")]
pub(super) struct Profiles {
    /// Only this one: its address in any notation.
    #[arg(value_name = "GPU")]
    gpu: Option<String>,

    /// Only profiles of which one more can be created now.
    #[arg(long)]
    creatable: bool,

    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Where a column is that only GPUs with MIG have.
const INSTANCE_COLUMN: usize = 7;

impl Profiles {
    pub(super) fn run(&self, host: &Host) -> anyhow::Result<ExitCode> {
        let report = profiles::profiles(host, self.gpu.as_deref(), self.creatable)?;
        output::report(self.json, &report)?;
        Ok(ExitCode::SUCCESS)
    }
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
        // Most GPUs have no MIG.
        let has_instances = self.profiles.iter().any(|one| one.gpu_instance.is_some());
        let mut columns = vec![
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
        ];
        if has_instances {
            columns.insert(INSTANCE_COLUMN, "GPU INSTANCE");
        }
        let mut table = Table::new(&columns);
        for profile in &self.profiles {
            let number = |number: Option<u32>| number.map_or_else(String::new, |n| n.to_string());
            let memory = profile.framebuffer_mib.map(|mib| format!("{mib} MiB"));
            let pools: Vec<&str> = profile.pools.iter().map(PoolName::as_str).collect();
            let mut row = vec![
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
            ];
            if has_instances {
                let instance = profile.gpu_instance.as_ref();
                let shown = instance.map(InstanceReport::to_string);
                row.insert(INSTANCE_COLUMN, shown.unwrap_or_default());
            }
            table.row(row);
        }
        table
    }
}

/// `4 in 2g.48gb+gfx`: how many of them a GPU instance of that profile holds.
impl fmt::Display for InstanceReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(most) = self.most_vgpus {
            write!(f, "{most} in ")?;
        }
        match &self.profile {
            Some(name) => f.write_str(&output::one_line(name)),
            None => write!(f, "profile {}", self.profile_id),
        }
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

impl fmt::Display for ProfileList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.gpus.is_empty() {
            writeln!(
                f,
                "no GPUs of the driver 'nvidia'; 'virt-vgpu devices' lists PCI functions"
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
