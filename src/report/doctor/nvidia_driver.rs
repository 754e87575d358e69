//! NVIDIA's driver on hosts that are meant to make vGPUs: whether it is there, loaded, the right
//! one, and allowed by Secure Boot.

use super::{
    Check, Findings, Looks, Severity, Trouble, pools,
    sriov::driver_link,
    view::{View, lacks, says, some},
};
use crate::{
    device::{
        PCI_DEVICES,
        firmware::{SECURE_BOOT, secure_boot},
        readiness,
    },
    kind::Subject,
    model::{ParentName, PciAddress},
};

pub const NOUVEAU: Check = Check {
    id: "nouveau-loaded",
    severity: Severity::Error,
    about: "nouveau has GPUs of NVIDIA or is loaded beside NVIDIA's driver",
    explanation: "nouveau is the kernel's own driver for NVIDIA's GPUs. It makes no vGPUs, and \
        NVIDIA's driver cannot have a GPU that nouveau has. Blacklist it, make the initramfs \
        again, and reboot.",
    look: Looks::At(nouveau),
};

fn nouveau(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    const MODULE: &str = "/sys/module/nouveau";
    let gpus = view.vgpu_gpus()?;
    if gpus.is_empty() || !view.is_loaded("nouveau") {
        return Ok(());
    }
    let mut taken = Vec::new();
    for gpu in gpus {
        if view.driver(gpu)?.as_deref() == Some("nouveau") {
            taken.push(gpu);
        }
    }
    let mut evidence = vec![format!("{MODULE} exists")];
    for &gpu in &taken {
        evidence.push(driver_link(view, gpu)?);
    }
    let what = match taken.is_empty() {
        true => "nouveau is loaded on a host that makes vGPUs".to_owned(),
        false => format!("nouveau has {}, which then makes no vGPUs", some(&taken)),
    };
    found.add(
        what,
        evidence,
        "blacklist nouveau and reboot the host",
        [
            "printf 'blacklist nouveau\\noptions nouveau modeset=0\\n' > \
             /etc/modprobe.d/blacklist-nouveau.conf"
                .to_owned(),
            "update-initramfs -u || dracut -f".to_owned(),
        ],
    );
    Ok(())
}

pub const NOT_BUILT: Check = Check {
    id: "nvidia-module-missing",
    severity: Severity::Error,
    about: "the running kernel has no module of NVIDIA's driver",
    explanation: "NVIDIA's driver is built for each kernel, by DKMS. After an upgrade of the kernel \
        it is missing if the kernel's headers are not installed, or if the driver is too old for \
        the kernel. Install the headers and let DKMS build it.",
    look: Looks::At(not_built),
};

/// The GPUs without a driver, where vGPUs are meant to be made and NVIDIA's module is not
/// loaded.
fn undriven(view: &View<'_>) -> Result<Vec<PciAddress>, Trouble> {
    if view.is_loaded("nvidia") {
        return Ok(Vec::new());
    }
    let mut gpus = Vec::new();
    for gpu in view.vgpu_gpus()? {
        if view.driver(gpu)?.is_none() {
            gpus.push(gpu);
        }
    }
    Ok(gpus)
}

/// The list of the running kernel's modules.
fn modules(view: &View<'_>) -> Result<Option<(String, String)>, Trouble> {
    let Some(release) = view.release()? else {
        return Ok(None);
    };
    let path = format!("/lib/modules/{release}/modules.dep");
    Ok(view.read(&path)?.map(|text| (path, text)))
}

fn has_nvidia(list: &str) -> bool {
    let mut lines = list.lines();
    lines.any(|line| {
        let file = line.split(':').next().unwrap_or_default();
        let name = file.rsplit('/').next().unwrap_or_default();
        name.starts_with("nvidia.ko")
    })
}

fn not_built(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    let gpus = undriven(view)?;
    let Some((path, list)) = modules(view)? else {
        return Ok(());
    };
    if gpus.is_empty() || has_nvidia(&list) {
        return Ok(());
    }
    found.add(
        format!(
            "the running kernel has no NVIDIA driver for {}",
            some(&gpus)
        ),
        [
            lacks("/sys/module/nvidia"),
            says(&path, "does not list nvidia.ko"),
        ],
        "install the kernel's headers, and build the driver for it",
        [
            "apt-get install \"linux-headers-$(uname -r)\" || dnf install \"kernel-devel-$(uname \
             -r)\""
                .to_owned(),
            "dkms autoinstall".to_owned(),
            "modprobe nvidia".to_owned(),
        ],
    );
    Ok(())
}

pub const NOT_LOADED: Check = Check {
    id: "nvidia-module-not-loaded",
    severity: Severity::Error,
    about: "NVIDIA's driver is installed but not loaded",
    explanation: "The driver's module exists for the running kernel, but is not loaded, so the GPUs \
        have no driver. Loading it by hand shows the kernel's reason.",
    look: Looks::At(not_loaded),
};

fn not_loaded(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    let gpus = undriven(view)?;
    let Some((path, list)) = modules(view)? else {
        return Ok(());
    };
    if gpus.is_empty() || !has_nvidia(&list) {
        return Ok(());
    }
    found.add(
        format!("NVIDIA's driver is not loaded for {}", some(&gpus)),
        [lacks("/sys/module/nvidia"), says(&path, "lists nvidia.ko")],
        "load it, and see what the kernel says",
        [
            "modprobe nvidia".to_owned(),
            "journalctl -k -b -g 'nvidia|NVRM'".to_owned(),
        ],
    );
    Ok(())
}

pub const UNSIGNED: Check = Check {
    id: "secure-boot-unsigned",
    severity: Severity::Error,
    about: "Secure Boot keeps the kernel from loading NVIDIA's unsigned driver",
    explanation: "With Secure Boot the kernel is locked down and loads only modules that are signed \
        with a key that the firmware or the machine's owner (MOK) has enrolled. A driver that was \
        built on this host has to be signed with such a key: DKMS makes one in /var/lib/dkms, \
        which is enrolled with mokutil and confirmed at the next boot.",
    look: Looks::At(unsigned),
};

fn unsigned(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    const LOCKDOWN: &str = "/sys/kernel/security/lockdown";
    let gpus = undriven(view)?;
    if gpus.is_empty() || secure_boot(view.host)? != Some(true) {
        return Ok(());
    }
    let lockdown = view.read(LOCKDOWN)?;
    if lockdown
        .as_ref()
        .is_some_and(|text| text.contains("[none]"))
    {
        return Ok(());
    }
    if !modules(view)?.is_some_and(|(_, list)| has_nvidia(&list)) {
        return Ok(());
    }
    let signer = view.run("/usr/sbin/modinfo", &["-F", "signer", "nvidia"])?;
    let signer = signer.trim();
    let (what, signed_by) = match signer {
        "" => (
            "NVIDIA's driver is not signed, and Secure Boot is on",
            "no signer".to_owned(),
        ),
        // It may be that the key is not enrolled; only the kernel knows.
        signer => (
            "NVIDIA's driver is not loaded and Secure Boot is on: its key may not be enrolled",
            format!("signed by {signer}"),
        ),
    };
    let mut evidence = vec![
        says(SECURE_BOOT, 1),
        format!("modinfo -F signer nvidia: {signed_by}"),
    ];
    evidence.extend(lockdown.map(|text| says(LOCKDOWN, text)));
    found.add(
        what,
        evidence,
        "enroll the key that DKMS signs with, sign the driver, and confirm the key at the next boot; \
         or turn Secure Boot off in the firmware's setup",
        [
            "mokutil --import /var/lib/dkms/mok.pub".to_owned(),
            "dkms autoinstall --force".to_owned(),
        ],
    );
    Ok(())
}

pub const WRONG_DRIVER: Check = Check {
    id: "nvidia-wrong-driver",
    severity: Severity::Error,
    about: "NVIDIA's driver is loaded, but it is not the one that makes vGPUs",
    explanation: "NVIDIA has several drivers of one name. Only the vGPU manager for KVM \
        (NVIDIA-Linux-…-vgpu-kvm.run, nvidia-vgpu-ubuntu, NVIDIA-vGPU-rhel) makes vGPUs; its \
        module nvidia_vgpu_vfio is loaded beside 'nvidia'. The drivers for data centers, for \
        GeForce and for guests ('-grid') make none.",
    look: Looks::At(wrong_driver),
};

/// The GPUs that NVIDIA's driver has, with the state of their functions.
fn driven(view: &View<'_>) -> Result<Vec<(PciAddress, readiness::Functions)>, Trouble> {
    let mut found = Vec::new();
    for gpu in view.vgpu_gpus()? {
        if readiness::driver(view.host, gpu)? == readiness::Driver::Nvidia {
            found.push((gpu, readiness::functions(view.host, gpu)?));
        }
    }
    Ok(found)
}

/// Whether some GPU lists vGPU types already.
fn is_ready(functions: &readiness::Functions) -> bool {
    functions.unready.is_empty() && !functions.are_missing()
}

fn wrong_driver(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    const MANAGER: &str = "/sys/module/nvidia_vgpu_vfio";
    let gpus = driven(view)?;
    let is_right = view.exists(MANAGER) || gpus.iter().any(|(_, its)| is_ready(its));
    if gpus.is_empty() || is_right {
        return Ok(());
    }
    let version = view.read("/sys/module/nvidia/version")?;
    let mut evidence = vec![lacks(MANAGER)];
    evidence.extend(version.map(|version| says("/sys/module/nvidia/version", version)));
    let gpus: Vec<PciAddress> = gpus.into_iter().map(|(gpu, _)| gpu).collect();
    found.add(
        format!("the driver of {} makes no vGPUs", some(&gpus)),
        evidence,
        "install NVIDIA's vGPU manager for KVM instead; if it is installed, load its module",
        ["modprobe nvidia_vgpu_vfio".to_owned()],
    );
    Ok(())
}

pub const MANAGER_DOWN: Check = Check {
    id: "nvidia-manager-down",
    severity: Severity::Error,
    about: "nvidia-vgpu-mgr is not running",
    explanation: "nvidia-vgpu-mgr runs the host's part of every vGPU; without it VMs with vGPUs fail \
        with 'Input/output error'. nvidia-vgpud tells the driver the vGPU types at boot and then \
        ends; that it is inactive is normal. Start nvidia-vgpu-mgr, but restart it only while no \
        VM has a vGPU.",
    look: Looks::At(manager_down),
};

fn manager_down(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    let is_wanted = view.is_loaded("nvidia_vgpu_vfio") && !driven(view)?.is_empty();
    if !is_wanted || !view.processes("nvidia-vgpu-mgr").is_empty() {
        return Ok(());
    }
    found.add(
        "nvidia-vgpu-mgr is not running, so VMs with vGPUs do not start",
        ["/proc/*/comm: no nvidia-vgpu-mgr".to_owned()],
        "start it, and see why it has ended",
        [
            "systemctl enable --now nvidia-vgpu-mgr.service".to_owned(),
            "journalctl -b -u nvidia-vgpu-mgr.service -n 50".to_owned(),
        ],
    );
    Ok(())
}

pub const NO_FUNCTIONS: Check = Check {
    id: "nvidia-functions-missing",
    severity: Severity::Error,
    about: "the virtual functions of a GPU are not enabled",
    explanation: "These GPUs make vGPUs on virtual functions, which do not exist after a boot or \
        after the driver was loaded. NVIDIA's sriov-manage creates them; 'virt-vgpu host apply' \
        runs it with the right order and waits for the types. virt-vgpu-host.service does so at \
        boot.",
    look: Looks::At(no_functions),
};

/// Whether pools take the GPU, or may take its functions once they exist.
pub fn is_wanted(view: &View<'_>, gpu: PciAddress) -> Result<bool, Trouble> {
    let mut pools = view.pools().iter();
    if pools.any(|pool| pool.kind.subject() == Subject::Parent) {
        return Ok(true);
    }
    Ok(pools::taken(view)?.contains_key(&ParentName::from(gpu)))
}

fn no_functions(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    for (gpu, functions) in driven(view)? {
        if functions.are_missing() && is_wanted(view, gpu)? {
            found.add(
                format!(
                    "{gpu} has none of its {} virtual functions",
                    functions.total
                ),
                [says(&super::view::attribute(gpu, "sriov_numvfs"), 0)],
                "create them; the second command tells why it did not work at boot",
                [
                    format!("virt-vgpu host apply {gpu}"),
                    "journalctl -b -u virt-vgpu-host.service".to_owned(),
                ],
            );
        }
    }
    Ok(())
}

pub const UNREADY: Check = Check {
    id: "nvidia-no-types",
    severity: Severity::Warning,
    about: "a GPU, or its virtual functions, list no vGPU types",
    explanation: "The types appear after nvidia-vgpud has told them to the driver. If they stay away, \
        nvidia-vgpud has failed, the functions were bound by another driver, the GPU is in a mode \
        without vGPUs (workstation boards need 'displaymodeselector --gpumode compute'), or the \
        driver does not support the GPU on this kernel.",
    look: Looks::At(unready),
};

fn unready(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    for (gpu, functions) in driven(view)? {
        if !functions.unready.is_empty() && !functions.are_missing() {
            let first = functions.unready[0];
            found.add(
                format!("{gpu}: {}", functions.unready_in_words()),
                [format!(
                    "{PCI_DEVICES}/{first} has neither mdev_supported_types nor \
                     nvidia/current_vgpu_type"
                )],
                "see whether nvidia-vgpud has worked, and start it again while no VM has a vGPU",
                [
                    "journalctl -b -u nvidia-vgpud.service".to_owned(),
                    "systemctl restart nvidia-vgpud.service".to_owned(),
                ],
            );
        }
    }
    Ok(())
}
