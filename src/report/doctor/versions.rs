//! libvirt, QEMU and the kernel, against what the pools' devices need.

use super::{
    Check, Findings, Looks, Severity, Silence, Trouble,
    hooks::DAEMONS,
    view::{View, says, some},
};
use crate::{device::vendor_vfio, kind::Subject};

pub const SILENT: Check = Check {
    id: "libvirt-silent",
    severity: Severity::Error,
    about: "libvirt does not answer",
    explanation: "virt-vgpu hands out devices when libvirt starts a domain. Without libvirt nothing \
        starts, and neither 'virt-vgpu attach' nor virt-vgpud can change a definition. The \
        service is libvirtd, or virtqemud where each driver has its own daemon; often only its \
        socket is enabled, and the first connection starts it.",
    look: Looks::At(silent),
};

fn silent(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    match view.versions() {
        Ok(_) => Ok(()),
        Err(Silence::NotAsked(reason)) => Err(Trouble::NotAsked(reason)),
        Err(Silence::NoAnswer(why)) => {
            let processes: Vec<&str> = DAEMONS
                .into_iter()
                .filter(|daemon| !view.processes(daemon).is_empty())
                .collect();
            let seen = match processes.as_slice() {
                [] => "/proc/*/comm: neither libvirtd nor virtqemud".to_owned(),
                some_of => format!("/proc/*/comm: {}", some(some_of)),
            };
            let unit = match view.exists("/usr/sbin/libvirtd") {
                true => "libvirtd",
                false => "virtqemud",
            };
            found.add(
                "libvirt does not answer",
                [format!("connection to libvirt: {why}"), seen],
                "start it, and see why it was not running",
                [
                    format!("systemctl enable --now {unit}.socket"),
                    format!("systemctl status {unit}.service"),
                ],
            );
            Ok(())
        }
    }
}

fn asked(view: &View<'_>) -> Result<super::Versions, Trouble> {
    view.versions().map_err(|silence| match silence {
        Silence::NotAsked(reason) => Trouble::NotAsked(reason),
        Silence::NoAnswer(why) => Trouble::NotAsked(format!("libvirt does not answer: {why}")),
    })
}

fn in_words(version: u32) -> String {
    let (major, minor, patch) = (version / 1_000_000, version / 1000 % 1000, version % 1000);
    format!("{major}.{minor}.{patch}")
}

pub const TOO_OLD: Check = Check {
    id: "libvirt-too-old",
    severity: Severity::Error,
    about: "libvirt is too old for the devices of a pool",
    explanation: "Some devices need a libvirt that knows them: virtual functions with NVIDIA's own \
        VFIO driver need libvirt 9.7. An older libvirt refuses the domain, with words about a \
        device that has to be detached from the host.",
    look: Looks::At(too_old),
};

fn too_old(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    let pools = view.pools();
    if pools.is_empty() {
        return Ok(());
    }
    let version = asked(view)?.libvirt;
    let has_functions = !vendor_vfio::all_functions(view.host)?.is_empty();
    for pool in pools {
        // GPUs that make mediated devices need no such libvirt.
        let concerns = pool.kind.subject() != Subject::Gpu || has_functions;
        if let (true, Err(why)) = (concerns, pool.kind.check_libvirt(version)) {
            found.add(
                format!("pool '{}': {why}", pool.name),
                [format!("libvirt's version: {}", in_words(version))],
                "upgrade libvirt, for example from the distribution's backports",
                [],
            );
        }
    }
    Ok(())
}

pub const MIGRATION: Check = Check {
    id: "vgpu-migration-unsupported",
    severity: Severity::Note,
    about: "this host cannot migrate or save VMs with vGPUs",
    explanation: "To migrate, save or suspend a VM with a vGPU, libvirt has to be 8.6 or later, QEMU \
        8.1 or later, and the kernel 5.18 or later, on both hosts. All else works with older \
        versions. NVIDIA supports migration on some distributions only.",
    look: Looks::At(migration),
};

fn migration(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    const LIBVIRT: u32 = 8_006_000;
    const QEMU: u32 = 8_001_000;
    const KERNEL: (u32, u32) = (5, 18);
    if !view.makes_vgpus()? {
        return Ok(());
    }
    let versions = asked(view)?;
    let mut short = Vec::new();
    if versions.libvirt < LIBVIRT {
        short.push(format!(
            "libvirt {} (8.6 is needed)",
            in_words(versions.libvirt)
        ));
    }
    if let Some(qemu) = versions.qemu.filter(|&qemu| qemu < QEMU) {
        short.push(format!("QEMU {} (8.1 is needed)", in_words(qemu)));
    }
    let release = view.release()?.unwrap_or_default();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.parse().ok());
    if let (Some(major), Some(minor)) = (numbers.next(), numbers.next()) {
        if (major, minor) < KERNEL {
            short.push(format!("kernel {major}.{minor} (5.18 is needed)"));
        }
    }
    if !short.is_empty() {
        found.add(
            format!(
                "VMs with vGPUs cannot be migrated or saved here: {}",
                short.join(", ")
            ),
            [
                format!("libvirt's version: {}", in_words(versions.libvirt)),
                says("/proc/sys/kernel/osrelease", release),
            ],
            "nothing, unless VMs have to be migrated: then upgrade",
            [],
        );
    }
    Ok(())
}
