//! `nvidia-smi vgpu`: active vGPUs, types, heterogeneous mode.

use lab_nvidia_smi::raw::{Answer, Code, Gi, Placements, VgpuNumber, VgpuText};
use nvml_wrapper::vgpu::VgpuType;

use crate::{Gpu, Smi, args::Vgpu, field, heading, or_na, query::mig_mode};

const MIB: u64 = 1 << 20;
const INVALID_PLACEMENT: u32 = 0xffff;

pub fn run(smi: &Smi<'_>, action: &Vgpu) -> Answer<()> {
    let gpus = smi.gpus()?;
    if gpus.is_empty() {
        println!("No supported devices in vGPU mode");
        return Err(Code(crate::NOT_FOUND));
    }
    if *action == Vgpu::Table {
        return table(smi, &gpus);
    }
    for gpu in &gpus {
        let gi = smi.line.gi.map(|id| {
            let gi = smi.raw.gi_by_id(&gpu.device, id);
            smi.failed(&format!("Unable to find GPU instance {id}"), gi)
        });
        let gi = gi.transpose()?;
        match action {
            Vgpu::Table => {}
            Vgpu::Query => query(smi, gpu, gi)?,
            Vgpu::Supported { verbose } => {
                types(
                    smi,
                    gpu,
                    &gpu.device.vgpu_supported_types()?,
                    *verbose,
                    false,
                )?;
            }
            Vgpu::Creatable { verbose } => {
                types(smi, gpu, &creatable(smi, gpu, gi)?, *verbose, true)?;
            }
            Vgpu::SetHeterogeneous(on) => set_heterogeneous(smi, gpu, gi, *on)?,
            Vgpu::ShowHeterogeneous => {
                heading(0, &format!("GPU {}", gpu.bus));
                let mode = match gi {
                    Some(gi) => smi.raw.gi_heterogeneous(gi),
                    None => smi.raw.heterogeneous(&gpu.device),
                };
                field(1, "vGPU Heterogeneous Mode", &mig_mode(mode));
            }
        }
    }
    Ok(())
}

fn table(smi: &Smi<'_>, gpus: &[Gpu<'_>]) -> Answer<()> {
    let driver = smi.nvml.sys_driver_version()?;
    let rule = "+---------------------------------------+--------------------------------------+";
    println!("{rule}");
    println!("| NVIDIA-SMI {driver:<27} Driver Version: {driver:<21}|");
    println!("|{}", &rule[1..]);
    println!("| GPU  Name                             | Bus-Id                               |");
    println!("|      vGPU ID     Name                 | VM ID                                |");
    println!("|=======================================+======================================|");
    for gpu in gpus {
        let name = gpu.device.name()?;
        println!("| {:>3}  {name:<33.33}| {:<37}|", gpu.index, gpu.bus);
        for id in gpu.device.active_vgpus()? {
            let name = type_of(smi, gpu, id)?.name()?;
            let short = name
                .rsplit_once(' ')
                .map_or(name.as_str(), |(_, short)| short);
            let vm = or_na(smi.raw.vgpu_text(VgpuText::Vm, id));
            println!("|      {id:<12}{short:<21}| {vm:<37}|");
        }
    }
    println!("{rule}");
    Ok(())
}

fn type_of<'a>(smi: &Smi<'_>, gpu: &'a Gpu<'_>, id: u32) -> Answer<VgpuType<'a>> {
    let type_id = smi.raw.vgpu_number(VgpuNumber::Type, id)?;
    Ok(VgpuType::new(&gpu.device, type_id))
}

fn query(smi: &Smi<'_>, gpu: &Gpu<'_>, gi: Option<Gi>) -> Answer<()> {
    let active = match gi {
        Some(gi) => smi.raw.gi_active(gi)?,
        None => gpu.device.active_vgpus()?,
    };
    heading(0, &format!("GPU {}", gpu.bus));
    field(1, "Active vGPUs", &active.len().to_string());
    for id in active {
        let raw = &smi.raw;
        let text = |what| or_na(raw.vgpu_text(what, id));
        let vgpu_type = type_of(smi, gpu, id)?;
        let total = vgpu_type.framebuffer_size()? / MIB;
        let used = raw.vgpu_used(id)? / MIB;
        field(1, "vGPU ID", &id.to_string());
        field(2, "VM UUID", &text(VgpuText::Vm));
        field(2, "vGPU Name", &vgpu_type.name()?);
        field(2, "vGPU Type", &vgpu_type.id().to_string());
        field(2, "vGPU UUID", &text(VgpuText::Uuid));
        field(2, "MDEV UUID", &text(VgpuText::Mdev));
        field(2, "Guest Driver Version", &text(VgpuText::Driver));
        let licence = raw.vgpu_licensed(id);
        let licence = licence.map(|is| if is { "Licensed" } else { "Unlicensed" });
        field(2, "License Status", &or_na(licence));
        let gi = raw.vgpu_number(VgpuNumber::Gi, id);
        field(2, "GPU Instance ID", &or_na(gi.and_then(some(u32::MAX))));
        let placement = raw.vgpu_placement(id);
        field(
            2,
            "Placement ID",
            &or_na(placement.and_then(some(INVALID_PLACEMENT))),
        );
        let limit = raw.vgpu_number(VgpuNumber::FrameRate, id);
        field(
            2,
            "Frame Rate Limit",
            &or_na(limit.map(|limit| format!("{limit} FPS"))),
        );
        heading(2, "PCI");
        field(3, "Bus Id", &text(VgpuText::Bus));
        heading(2, "FB Memory Usage");
        field(3, "Total", &format!("{total} MiB"));
        field(3, "Used", &format!("{used} MiB"));
        field(3, "Free", &format!("{} MiB", total.saturating_sub(used)));
    }
    Ok(())
}

/// NVML's number for none is none.
fn some(none: u32) -> impl Fn(u32) -> Answer<u32> {
    move |number| {
        if number == none {
            Err(Code(crate::NOT_FOUND))
        } else {
            Ok(number)
        }
    }
}

fn creatable<'a>(smi: &Smi<'_>, gpu: &'a Gpu<'_>, gi: Option<Gi>) -> Answer<Vec<VgpuType<'a>>> {
    let Some(gi) = gi else {
        return Ok(gpu.device.vgpu_creatable_types()?);
    };
    let ids = smi.raw.gi_creatable(gi)?.into_iter();
    Ok(ids.map(|id| VgpuType::new(&gpu.device, id)).collect())
}

fn types(
    smi: &Smi<'_>,
    gpu: &Gpu<'_>,
    types: &[VgpuType<'_>],
    verbose: bool,
    creatable: bool,
) -> Answer<()> {
    heading(0, &format!("GPU {}", gpu.bus));
    if types.is_empty() {
        heading(1, "N/A");
    }
    for vgpu_type in types {
        if verbose {
            about(smi, gpu, vgpu_type, creatable)?;
        } else {
            heading(1, &vgpu_type.name()?);
        }
    }
    Ok(())
}

fn about(smi: &Smi<'_>, gpu: &Gpu<'_>, vgpu_type: &VgpuType<'_>, creatable: bool) -> Answer<()> {
    let id = vgpu_type.id();
    field(1, "vGPU Type ID", &format!("{id:#x}"));
    field(2, "Name", &vgpu_type.name()?);
    field(2, "Class", &vgpu_type.class_name()?);
    let profile = vgpu_type.instance_profile_id()?;
    field(
        2,
        "GPU Instance Profile ID",
        &or_na(some(u32::MAX)(profile)),
    );
    field(2, "Max Instances", &vgpu_type.max_instances()?.to_string());
    field(
        2,
        "Max Instances Per VM",
        &vgpu_type.max_instances_per_vm()?.to_string(),
    );
    field(2, "Max Instances Per GI", &or_na(smi.raw.max_per_gi(id)));
    let (device, subsystem) = vgpu_type.device_id()?;
    field(2, "Sub System ID", &format!("{subsystem:#x}"));
    field(2, "Device ID", &format!("{device:#x}"));
    field(
        2,
        "FB Memory",
        &format!("{} MiB", vgpu_type.framebuffer_size()? / MIB),
    );
    field(
        2,
        "Display Heads",
        &vgpu_type.num_display_heads()?.to_string(),
    );
    let (width, height) = vgpu_type.resolution(0)?;
    field(2, "Maximum X Resolution", &width.to_string());
    field(2, "Maximum Y Resolution", &height.to_string());
    field(
        2,
        "Frame Rate Limit",
        &format!("{} FPS", vgpu_type.frame_rate_limit()?),
    );
    field(2, "GRID License", &vgpu_type.license()?);
    let placements = if creatable {
        smi.raw.creatable_placements(&gpu.device, id)
    } else {
        let mixed = smi.raw.heterogeneous(&gpu.device).unwrap_or(false);
        smi.raw.supported_placements(&gpu.device, id, mixed)
    };
    let size = placements.as_ref().map(|found| found.size);
    field(2, "Placement Size", &or_na(size.map_err(|code| *code)));
    field(
        2,
        "Placement IDs",
        &or_na(placements.as_ref().map(listed).map_err(|code| *code)),
    );
    Ok(())
}

fn listed(placements: &Placements) -> String {
    let ids = placements.ids.iter().map(u32::to_string);
    ids.collect::<Vec<_>>().join(",")
}

fn set_heterogeneous(smi: &Smi<'_>, gpu: &Gpu<'_>, gi: Option<Gi>, on: bool) -> Answer<()> {
    let (answer, what) = match gi {
        Some(gi) => (
            smi.raw.set_gi_heterogeneous(gi, on),
            format!("GPU instance ID {} on GPU {}", gi.id, gpu.bus),
        ),
        None => (
            smi.raw.set_heterogeneous(&gpu.device, on),
            format!("GPU {}", gpu.bus),
        ),
    };
    smi.failed(
        &format!("Unable to set vGPU heterogeneous mode for {what}"),
        answer,
    )?;
    let done = if on { "Enabled" } else { "Disabled" };
    println!("{done} vGPU heterogeneous mode for {what}");
    Ok(())
}
