//! `nvidia-smi -mig` and `nvidia-smi mig`.

use lab_nvidia_smi::raw::{Answer, Code, Gi, Raw};
use nvml_wrapper_sys::bindings::nvmlGpuInstanceProfileInfo_v2_t as Profile;

use crate::{Gpu, Smi, args::Mig};

/// `-mig`
pub fn set_mode(smi: &Smi<'_>, on: bool) -> Answer<()> {
    let (verb, state) = if on {
        ("Enabled", "enable")
    } else {
        ("Disabled", "disable")
    };
    for gpu in smi.gpus()? {
        let bus = &gpu.bus;
        let answer = gpu.device.set_mig_mode(on).map_err(Code::from);
        let status = smi.failed(&format!("Unable to {state} MIG Mode for GPU {bus}"), answer)?;
        if status == 0 {
            println!("{verb} MIG Mode for GPU {bus}");
        } else {
            let why = smi.raw.describe(Code(status));
            println!("Warning: MIG mode is in pending {state} state for GPU {bus}:{why}");
        }
    }
    println!("All done.");
    Ok(())
}

pub fn run(smi: &Smi<'_>, action: &Mig) -> Answer<()> {
    let mut gpus = smi.gpus()?;
    // Without -i the command applies to all GPUs that support it.
    if smi.line.gpu.is_none() {
        gpus.retain(|gpu| smi.raw.mig_mode(&gpu.device).is_ok());
    }
    if gpus.is_empty() {
        println!("No MIG-enabled devices found.");
        return Err(Code(crate::NOT_FOUND));
    }
    match action {
        Mig::Instances => instances(smi, &gpus),
        Mig::Profiles => profiles(smi, &gpus),
        Mig::Create { profiles, compute } => each(&gpus, |gpu| {
            profiles
                .iter()
                .try_for_each(|profile| create(smi, gpu, profile, *compute))
        }),
        Mig::Destroy => each(&gpus, |gpu| destroy(smi, gpu)),
        Mig::DestroyCompute => each(&gpus, |gpu| destroy_compute(smi, gpu)),
    }
}

fn each(gpus: &[Gpu<'_>], act: impl FnMut(&Gpu<'_>) -> Answer<()>) -> Answer<()> {
    gpus.iter().try_for_each(act)
}

/// All GPU instances, or the one of `-gi`, with their profiles' names.
fn found(smi: &Smi<'_>, gpu: &Gpu<'_>) -> Answer<Vec<(Gi, String)>> {
    let mut found = Vec::new();
    for profile in smi.raw.profiles(&gpu.device)? {
        for gi in smi
            .raw
            .gis(&gpu.device, profile.id, profile.instanceCount)?
        {
            if smi.line.gi.is_none_or(|id| id == gi.id) {
                found.push((gi, Raw::profile_name(&profile)));
            }
        }
    }
    found.sort_by_key(|(gi, _)| gi.id);
    Ok(found)
}

fn instances(smi: &Smi<'_>, gpus: &[Gpu<'_>]) -> Answer<()> {
    let mut lines = Vec::new();
    for gpu in gpus {
        // A GPU without MIG mode has no instances.
        for (gi, name) in found(smi, gpu).unwrap_or_default() {
            let place = format!("{}:{}", gi.start, gi.size);
            let index = gpu.index;
            lines.push(format!(
                "| {index:>3}  {name:<20} {:>4} {:>8} {place:>13}   |",
                gi.profile, gi.id
            ));
        }
    }
    if lines.is_empty() {
        println!("No GPU instances found: Not Found");
        return Err(Code(crate::NOT_FOUND));
    }
    let rule = "+---------------------------------------------------------+";
    println!("{rule}");
    println!("| GPU instances:                                          |");
    println!("| GPU   Name               Profile  Instance   Placement  |");
    println!("|                            ID       ID       Start:Size |");
    println!("|=========================================================|");
    for line in lines {
        println!("{line}");
        println!("{rule}");
    }
    Ok(())
}

fn profiles(smi: &Smi<'_>, gpus: &[Gpu<'_>]) -> Answer<()> {
    let rule = "+-----------------------------------------------------------------+";
    println!("{rule}");
    println!("| GPU instance profiles:                                          |");
    println!("| GPU   Name                  ID    Instances   Memory     SM  CE |");
    println!("|                                   Free/Total   GiB              |");
    println!("|=================================================================|");
    for gpu in gpus {
        for profile in smi.raw.profiles(&gpu.device)? {
            // With MIG mode off there is nothing to count.
            let free = smi.raw.remaining(&gpu.device, profile.id).unwrap_or(0);
            let instances = format!("{free}/{}", profile.instanceCount);
            // Rounded as nvidia-smi does it.
            let hundredths = profile.memorySizeMB * 100 / 1024;
            let memory = format!("{}.{:02}", hundredths / 100, hundredths % 100);
            println!(
                "| {:>3}  {:<20} {:>4} {instances:>10} {memory:>10} {:>7} {:>3} |",
                gpu.index,
                Raw::profile_name(&profile),
                profile.id,
                profile.multiprocessorCount,
                profile.copyEngineCount,
            );
        }
    }
    println!("{rule}");
    Ok(())
}

/// `ID`, `NAME` or either with `:START`.
fn create(smi: &Smi<'_>, gpu: &Gpu<'_>, wanted: &str, compute: bool) -> Answer<()> {
    let index = gpu.index;
    let failure =
        format!("Unable to create a GPU instance on GPU {index:>2} using profile {wanted}");
    let (name, start) = match wanted.split_once(':') {
        Some((name, start)) => {
            let start = start.parse().map_err(|_| Code(crate::INVALID_ARGUMENT));
            (name, Some(smi.failed(&failure, start)?))
        }
        None => (wanted, None),
    };
    let profiles = smi.failed(&failure, smi.raw.profiles(&gpu.device))?;
    let profile = profiles.iter().find(|profile| is_called(profile, name));
    let profile = smi.failed(&failure, profile.ok_or(Code(crate::INVALID_ARGUMENT)))?;
    let gi = smi.failed(&failure, smi.raw.create_gi(&gpu.device, profile.id, start))?;
    let (id, name) = (gi.id, Raw::profile_name(profile));
    println!(
        "Successfully created GPU instance ID {id:>2} on GPU {index:>2} using profile {name} \
         (ID {:>2})",
        profile.id
    );
    if !compute {
        return Ok(());
    }
    let failure =
        format!("Unable to create a compute instance on GPU {index:>2} GPU instance {id:>2}");
    let widest = smi.raw.compute_profiles(gi).and_then(|profiles| {
        let widest = profiles.into_iter().max_by_key(|(_, slices)| *slices);
        widest.ok_or(Code(crate::NOT_FOUND))
    });
    let (ci_profile, _) = smi.failed(&failure, widest)?;
    let ci = smi.failed(&failure, smi.raw.create_ci(gi, ci_profile))?;
    println!(
        "Successfully created compute instance ID {ci:>2} on GPU {index:>2} GPU instance ID {id:>2} \
         using profile {name} (ID {ci_profile:>2})"
    );
    Ok(())
}

fn is_called(profile: &Profile, name: &str) -> bool {
    let full = Raw::profile_name(profile);
    name.parse() == Ok(profile.id) || full == name || full.strip_prefix("MIG ") == Some(name)
}

fn destroy(smi: &Smi<'_>, gpu: &Gpu<'_>) -> Answer<()> {
    for (gi, _) in wanted(smi, gpu)? {
        let (id, index) = (gi.id, gpu.index);
        let failure = format!("Unable to destroy GPU instance ID {id:>2} from GPU {index:>2}");
        smi.failed(&failure, smi.raw.destroy_gi(gi))?;
        println!("Successfully destroyed GPU instance ID {id:>2} from GPU {index:>2}");
    }
    Ok(())
}

fn destroy_compute(smi: &Smi<'_>, gpu: &Gpu<'_>) -> Answer<()> {
    for (gi, _) in wanted(smi, gpu)? {
        let mut cis = Vec::new();
        for (profile, _) in smi.raw.compute_profiles(gi)? {
            cis.extend(smi.raw.cis(gi, profile)?);
        }
        for ci in cis {
            let (id, index) = (smi.raw.ci_id(ci)?, gpu.index);
            let of = format!("from GPU {index:>2} GPU instance ID {:>2}", gi.id);
            let failure = format!("Unable to destroy compute instance ID {id:>2} {of}");
            smi.failed(&failure, smi.raw.destroy_ci(ci))?;
            println!("Successfully destroyed compute instance ID {id:>2} {of}");
        }
    }
    Ok(())
}

fn wanted(smi: &Smi<'_>, gpu: &Gpu<'_>) -> Answer<Vec<(Gi, String)>> {
    let gis = found(smi, gpu);
    let gis = smi.failed(
        &format!("Unable to find GPU instances on GPU {:>2}", gpu.index),
        gis,
    )?;
    if gis.is_empty() {
        println!("No GPU instances found: Not Found");
        return Err(Code(crate::NOT_FOUND));
    }
    Ok(gis)
}
