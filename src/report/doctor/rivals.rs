//! Other programs that make or take the devices of our pools.

use super::{
    Check, Findings, Looks, Severity, Trouble, hooks, pools,
    view::{View, says, some},
};
use crate::{
    config::mdevctl::{self, Start},
    device::board_of,
    model::{ParentName, quoted},
};

pub const HOOK: Check = Check {
    id: "hook-takes-devices",
    severity: Severity::Warning,
    about: "another hook of libvirt makes or binds devices too",
    explanation: "A hook script that binds devices to vfio-pci, makes mediated devices or sets vGPU \
        types does the same work as virt-vgpu, on the same devices. Whichever runs last wins, and \
        a device that one of them takes away may be in use by a domain of the other. Remove what \
        it does for devices that are in a pool.",
    look: Looks::At(hook),
};

fn hook(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    const SIGNS: [&str; 10] = [
        "driver_override",
        "new_id",
        "mdev_supported_types",
        "mdevctl",
        "nodedev-detach",
        "nodedev-reattach",
        "nodedev-create",
        "current_vgpu_type",
        "sriov-manage",
        "vfio-pci",
    ];
    for hook in hooks::hooks(view)? {
        if hooks::is_ours(view, &hook) || !hooks::is_run(view, &hook)? {
            continue;
        }
        let text = match view.read(&hook) {
            Ok(text) => text.unwrap_or_default(),
            // A program; what it does is not known.
            Err(error) if error.kind() == std::io::ErrorKind::InvalidData => continue,
            Err(error) => return Err(error.into()),
        };
        let sign = text.lines().enumerate().find_map(|(number, line)| {
            let code = !line.trim_start().starts_with('#');
            let sign = SIGNS.iter().find(|sign| code && line.contains(*sign))?;
            Some((number + 1, line.trim(), *sign))
        });
        if let Some((number, line, sign)) = sign {
            found.add(
                format!("{hook} works on devices itself ({sign})"),
                [says(&format!("{hook}:{number}"), line)],
                "remove from it what concerns devices of pools; to turn all of it off, make it not \
                 executable",
                [format!("chmod a-x {}", quoted(&hook))],
            );
        }
    }
    Ok(())
}

pub const KUBEVIRT: Check = Check {
    id: "kubevirt-present",
    severity: Severity::Warning,
    about: "KubeVirt runs on this host",
    explanation: "KubeVirt hands out PCI devices and vGPUs as well: every device that its \
        configuration lists under 'permittedHostDevices', and every virtual function that has a \
        vGPU type. Neither knows of the other's VMs. Give KubeVirt and the pools different \
        devices, by address or by GPU.",
    look: Looks::At(kubevirt),
};

fn kubevirt(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    const FILES: [&str; 2] = [
        "/run/kubevirt",
        "/var/lib/kubelet/device-plugins/kubevirt-kvm.sock",
    ];
    let files = FILES.iter().filter(|path| view.exists(path));
    let mut evidence: Vec<String> = files.map(|path| format!("{path} exists")).collect();
    let processes = view.processes("virt-handler");
    evidence.extend(
        processes
            .iter()
            .map(|pid| says(&format!("/proc/{pid}/comm"), "virt-handler")),
    );
    if evidence.is_empty() || view.pools().is_empty() {
        return Ok(());
    }
    found.add(
        "KubeVirt runs on this host, and may hand out devices of the pools",
        evidence,
        "exclude the pools' devices from KubeVirt's permittedHostDevices, or KubeVirt's from the \
         rules of the pools",
        ["kubectl get kubevirt -A -o jsonpath='{..permittedHostDevices}'".to_owned()],
    );
    Ok(())
}

pub const DEVICE_MANAGER: Check = Check {
    id: "vgpu-device-manager-present",
    severity: Severity::Warning,
    about: "NVIDIA's vgpu-device-manager runs on this host",
    explanation: "NVIDIA's vgpu-device-manager (part of the GPU operator) creates vGPUs ahead of \
        time, until the GPUs are full. No space is left for the pools then. Turn it off on hosts \
        whose GPUs are in pools.",
    look: Looks::At(device_manager),
};

fn device_manager(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    const NAMES: [&str; 2] = ["nvidia-vgpu-dm", "nvidia-k8s-vgpu-dm"];
    taker(view, found, &NAMES, None, |_| {
        (
            "NVIDIA's vgpu-device-manager runs, and makes vGPUs on the pools' GPUs".to_owned(),
            "turn it off for this host".to_owned(),
            vec![
                "kubectl label node \"$(hostname)\" nvidia.com/gpu.deploy.vgpu-device-manager=false \
                 --overwrite"
                    .to_owned(),
            ],
        )
    })
}

pub const MIG_MANAGER: Check = Check {
    id: "mig-manager-present",
    severity: Severity::Warning,
    about: "NVIDIA's MIG manager (mig-parted) changes GPUs of pools",
    explanation: "mig-parted applies a layout of GPU instances at boot or on request. It judges a \
        GPU by its compute instances, so it removes GPU instances that were made for vGPUs, and \
        may turn MIG mode on for a GPU whose pool shares it without MIG. A GPU needs one owner.",
    look: Looks::At(mig_manager),
};

fn mig_manager(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    const NAMES: [&str; 3] = ["nvidia-mig-manager", "nvidia-mig-parted", "mig-parted"];
    const WANTS: &str = "/etc/systemd/system/multi-user.target.wants/nvidia-mig-manager.service";
    taker(view, found, &NAMES, Some(WANTS), |_| {
        (
            "NVIDIA's MIG manager runs on this host, and changes the GPUs of pools".to_owned(),
            "turn it off for this host".to_owned(),
            vec!["systemctl disable --now nvidia-mig-manager.service".to_owned()],
        )
    })
}

/// A program that takes GPUs, by its processes or the file that starts it.
fn taker(
    view: &View<'_>,
    found: &mut Findings,
    names: &[&str],
    file: Option<&str>,
    words: impl FnOnce(&[String]) -> (String, String, Vec<String>),
) -> Result<(), Trouble> {
    if !view.makes_vgpus()? {
        return Ok(());
    }
    let mut evidence: Vec<String> = Vec::new();
    for name in names {
        let processes = view.processes(name);
        evidence.extend(
            processes
                .iter()
                .map(|pid| says(&format!("/proc/{pid}/comm"), name)),
        );
    }
    evidence.extend(
        file.filter(|path| view.exists(path))
            .map(|path| format!("{path} exists")),
    );
    if !evidence.is_empty() {
        let (what, advice, commands) = words(&evidence);
        found.add(what, evidence, advice, commands);
    }
    Ok(())
}

pub const MDEVCTL: Check = Check {
    id: "mdevctl-autostart",
    severity: Severity::Warning,
    about: "mdevctl makes devices on the pools' parents at boot",
    explanation: "mdevctl makes each mediated device that is defined with autostart as soon as its \
        parent appears, before a domain starts. It takes space that the pools count on. virt-vgpu \
        needs no definitions: it makes the devices itself.",
    look: Looks::At(autostart),
};

fn autostart(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    const DIRECTORY: &str = "/etc/mdevctl.d";
    let names = view.list(DIRECTORY)?;
    if names.is_empty() {
        return Ok(());
    }
    let taken = pools::taken(view)?;
    for parent in names
        .iter()
        .filter_map(|name| name.parse::<ParentName>().ok())
    {
        let board = board_of(view.host, &parent);
        let Some(pools) = taken.get(&parent).or_else(|| taken.get(&board)) else {
            continue;
        };
        let (defined, wrong) = mdevctl::definitions(view.host, &parent);
        let automatic: Vec<_> = defined
            .iter()
            .filter(|one| one.start == Start::Auto)
            .collect();
        if !automatic.is_empty() {
            let uuids: Vec<_> = automatic.iter().map(|one| one.uuid).collect();
            found.add(
                format!(
                    "mdevctl makes {} on {parent} at boot, which is in pool {}",
                    some(&uuids),
                    some(pools)
                ),
                automatic.iter().map(|one| {
                    let path = format!("{DIRECTORY}/{parent}/{}", one.uuid);
                    says(&path, format!("\"start\": \"auto\", type {}", one.type_id))
                }),
                "let mdevctl make it only on request, or remove the definition",
                uuids
                    .iter()
                    .map(|uuid| format!("mdevctl modify --uuid {uuid} --manual")),
            );
        }
        for line in wrong {
            found.add(
                format!("a definition of mdevctl for {parent} cannot be used"),
                [line],
                "correct or remove the file",
                [],
            );
        }
    }
    Ok(())
}
