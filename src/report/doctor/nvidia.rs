//! NVIDIA's GPUs on hosts that are meant to make vGPUs: their functions, their users, their modes,
//! and whether all of it comes back at the next boot.

use super::{
    Check, Findings, Looks, Severity, Trouble,
    nvidia_driver::is_wanted,
    pools,
    sriov::driver_link,
    view::{View, attribute, says, some},
};
use crate::{
    device::{PCI_DEVICES, gpu, nvml::Told, readiness, vendor_vfio},
    gpu_setup::{Survey, WantedMig},
    host::gpu_openers,
    kind::Subject,
    model::ParentName,
};

pub const OPENERS: Check = Check {
    id: "nvidia-gpu-clients",
    severity: Severity::Warning,
    about: "programs keep GPUs open whose virtual functions are missing",
    explanation: "A GPU's virtual functions can be created only while no program has the GPU open. \
        Every program that uses NVML opens all GPUs: dcgm, nv-hostengine, exporters for \
        monitoring, nvidia-persistenced, an X server.",
    look: Looks::At(openers),
};

fn openers(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    let mut gpus = Vec::new();
    for gpu in view.vgpu_gpus()? {
        if readiness::lacks_functions(view.host, gpu) && is_wanted(view, gpu)? {
            gpus.push(gpu);
        }
    }
    if gpus.is_empty() {
        return Ok(());
    }
    let openers = gpu_openers(view.host);
    if openers.is_empty() {
        return Ok(());
    }
    let names = openers.iter().map(ToString::to_string);
    let names: Vec<String> = names.collect();
    found.add(
        format!(
            "GPUs are open in {}, so the virtual functions of {} cannot be created",
            some(&names),
            some(&gpus)
        ),
        openers.iter().map(|one| {
            says(
                &format!("/proc/{}/fd", one.pid),
                "has a GPU of /dev/nvidia* open",
            )
        }),
        "stop these programs, create the functions, then start the programs again",
        ["virt-vgpu host apply --all".to_owned()],
    );
    Ok(())
}

pub const REBOUND: Check = Check {
    id: "nvidia-function-elsewhere",
    severity: Severity::Error,
    about: "a virtual function of a GPU is bound to another driver than NVIDIA's",
    explanation: "vGPUs are made on virtual functions that NVIDIA's driver has. A function that was \
        bound to vfio-pci, by managed='yes' in a domain's XML or by driverctl, makes none, and \
        does not work again when it is bound back: the GPU's functions have to be recreated.",
    look: Looks::At(rebound),
};

fn rebound(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    for board in view.vgpu_gpus()? {
        let functions = gpu::functions(view.host, board)?;
        let mut wrong = Vec::new();
        for function in functions {
            let driver = view.driver(function)?;
            if driver.is_some_and(|driver| driver != readiness::DRIVER) {
                wrong.push(function);
            }
        }
        let Some(&first) = wrong.first() else {
            continue;
        };
        found.add(
            format!("{} of {board} is not with NVIDIA's driver", some(&wrong)),
            [driver_link(view, first)?],
            "say managed='no' in the domains' XML; when no VM uses the GPU, recreate its functions",
            [
                "grep -l \"managed='yes'\" /etc/libvirt/qemu/*.xml".to_owned(),
                format!("virt-vgpu host apply --renew {board}"),
            ],
        );
    }
    Ok(())
}

pub const MIG_ON: Check = Check {
    id: "nvidia-mig-on",
    severity: Severity::Error,
    about: "MIG mode is on for a GPU whose pools hand out vGPUs without MIG",
    explanation: "In MIG mode a GPU is cut into instances, and vGPUs that share the whole GPU cannot \
        be made: their types disappear. 'virt-vgpu host apply' turns the mode off if virt-vgpu \
        turned it on for pools that are gone; a mode that others turned on it leaves alone. On \
        Ampere the mode survives a reboot. It is turned off while nothing uses the GPU; Ampere \
        needs a reset of the GPU or a reboot.",
    look: Looks::At(mig_on),
};

fn mig_on(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    let gpus = view.vgpu_gpus()?;
    if gpus.is_empty() || !view.exists("/sys/bus/pci/drivers/nvidia") {
        return Ok(());
    }
    let taken = pools::taken(view)?;
    let survey =
        Survey::read(view.host).map_err(|error| Trouble::NotAsked(format!("{error:#}")))?;
    let is_time_sliced = |gpu| {
        let mut known = survey.gpus.iter().filter(|known| known.gpu == gpu);
        known.any(|known| matches!(&known.wanted, Ok(Some(wanted)) if wanted.mig == WantedMig::Off))
    };
    let facts = view.outside.facts().map_err(Trouble::NotAsked)?;
    for one in facts.iter().filter(|one| is_time_sliced(one.address)) {
        let pools = taken.get(&ParentName::from(one.address));
        if let (Told::Value(true), Some(pools)) = (&one.mig, pools) {
            found.add(
                format!(
                    "MIG mode of {} is on, but {} hands out vGPUs without MIG",
                    one.address,
                    some(pools)
                ),
                [format!("NVML: MIG mode of {} is on", one.address)],
                "turn it off while no VM uses the GPU, then create the functions again",
                [
                    format!("nvidia-smi -i {} -mig 0", one.address),
                    format!("virt-vgpu host apply {}", one.address),
                ],
            );
        }
    }
    Ok(())
}

pub const BOOT_UNIT: Check = Check {
    id: "boot-unit-off",
    severity: Severity::Warning,
    about: "virt-vgpu-host.service is off, so GPUs are not set up at the next boot",
    explanation: "Virtual functions, mixed sizes and schedulers of GPUs are gone after a reboot. \
        virt-vgpu-host.service makes them again, before libvirt starts domains. If it is disabled \
        or masked, domains that start at boot find no devices.",
    look: Looks::At(boot_unit),
};

fn boot_unit(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    const UNIT: &str = "virt-vgpu-host.service";
    const PLACES: [&str; 2] = ["/usr/lib/systemd/system", "/lib/systemd/system"];
    let is_installed = PLACES
        .iter()
        .any(|place| view.exists(&format!("{place}/{UNIT}")));
    let wants = format!("/etc/systemd/system/multi-user.target.wants/{UNIT}");
    let mut pools = view.pools().iter();
    let has_pool = pools.any(|pool| pool.kind.subject() == Subject::Gpu);
    if !is_installed || !has_pool || view.exists(&wants) {
        return Ok(());
    }
    let needs = |&gpu: &_| {
        let total = view.number(&attribute(gpu, "sriov_totalvfs"));
        total.is_ok_and(|total| total.is_some_and(|total| total > 0))
    };
    let gpus: Vec<_> = view.vgpu_gpus()?.into_iter().filter(needs).collect();
    if gpus.is_empty() {
        return Ok(());
    }
    found.add(
        format!(
            "{UNIT} is off: {} has no virtual functions after a reboot",
            some(&gpus)
        ),
        [super::view::lacks(&wants)],
        "enable it",
        [
            format!("systemctl unmask {UNIT}"),
            format!("systemctl enable {UNIT}"),
        ],
    );
    Ok(())
}

pub const FOREIGN_TYPE: Check = Check {
    id: "nvidia-functions-of-others",
    severity: Severity::Note,
    about: "virtual functions are vGPUs, but no domain of virt-vgpu has them",
    explanation: "Somebody has given a vGPU type to a virtual function: another program, an \
        administrator, or a virt-vgpu whose claims are gone. It takes space on the GPU until the \
        type is set to 0. KubeVirt takes every function that has a type for its own.",
    look: Looks::At(foreign_type),
};

fn foreign_type(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    if !view.makes_vgpus()? {
        return Ok(());
    }
    let (claims, damaged) = crate::claims::load_all(view.host)?;
    // The owner of a function is not known then; another check tells.
    if !damaged.is_empty() {
        return Ok(());
    }
    let is_claimed = |function| {
        let mut devices = claims.iter().flat_map(|claim| &claim.devices);
        devices.any(|device| device.handle == crate::model::Handle::Pci(function))
    };
    let mut others = Vec::new();
    for (function, _) in vendor_vfio::all_functions(view.host)? {
        let id = vendor_vfio::current(view.host, function)?;
        if let Some(id) = id.filter(|_| !is_claimed(function)) {
            others.push((function, id));
        }
    }
    let Some((first, _)) = others.first() else {
        return Ok(());
    };
    let path = |function| format!("{PCI_DEVICES}/{function}/nvidia/current_vgpu_type");
    let names: Vec<_> = others.iter().map(|(function, _)| *function).collect();
    found.add(
        format!("somebody else has made vGPUs on {}", some(&names)),
        others
            .iter()
            .take(8)
            .map(|(function, id)| says(&path(*function), id)),
        "nothing, if it is in use; else this command gives its space back",
        [format!("echo 0 > {}", path(*first))],
    );
    Ok(())
}
