//! Failures that leave only lines in the journal. They may be repaired since, so that none of
//! them is an error.

use super::{Check, Findings, Looks, Severity, Trouble, view::View};

/// Lines of the journal that tell of a failure.
#[derive(Debug)]
pub struct Lines {
    /// journalctl's arguments for where they are.
    source: &'static [&'static str],
    /// The pattern for journalctl's `--grep`.
    pattern: &'static str,
    /// Whether only hosts that make vGPUs have them.
    is_of_vgpus: bool,
    what: &'static str,
    advice: &'static str,
    commands: &'static [&'static str],
}

const KERNEL: &[&str] = &["-k"];
const MANAGER: &[&str] = &["-u", "nvidia-vgpu-mgr.service"];
const EVERYWHERE: &[&str] = &[];

impl Lines {
    pub(super) fn look_for(&self, view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
        if self.is_of_vgpus && !view.makes_vgpus()? {
            return Ok(());
        }
        let common = ["-b", "-q", "--no-pager", "-o", "short-iso", "-n", "300"];
        let mut words = common.to_vec();
        words.extend(self.source);
        words.extend(["-g", self.pattern]);
        let text = view.run("/usr/bin/journalctl", &words)?;
        let lines: Vec<&str> = text
            .lines()
            .filter(|line| !line.trim().is_empty())
            .collect();
        let Some(last) = lines.last() else {
            return Ok(());
        };
        let where_from = match self.source {
            ["-k"] => "journal of the kernel".to_owned(),
            [_, unit] => format!("journal of {unit}"),
            _ => "journal".to_owned(),
        };
        let count = match lines.len() {
            1 => "one line since boot".to_owned(),
            count => format!("{count} lines since boot, the last one"),
        };
        found.add(
            self.what,
            [format!("{where_from}, {count}: {last}")],
            self.advice,
            self.commands.iter().map(|&command| command.to_owned()),
        );
        Ok(())
    }
}

pub const DENIALS: Check = Check {
    id: "security-denials",
    severity: Severity::Warning,
    about: "AppArmor or SELinux has denied something to virt-vgpu",
    explanation: "virt-vgpu's hook runs as a child of libvirt. With AppArmor it has to be a link \
        from libvirt's hooks' directory to /usr/sbin/virt-vgpu-hook: then it runs unconfined. \
        With SELinux libvirt's domain may only read sysfs, so the hook needs a policy of its own. \
        A denial means that a device could not be made or taken back.",
    look: Looks::ForLines(&Lines {
        source: EVERYWHERE,
        pattern: r#"(apparmor="DENIED"|avc: +denied).*virt-vgpu"#,
        is_of_vgpus: false,
        what: "AppArmor or SELinux has denied something to virt-vgpu",
        advice: "with AppArmor, make sure that the hook is a link to /usr/sbin/virt-vgpu-hook; with \
                 SELinux, restore the labels, and see which rule is missing",
        commands: &[
            "ls -l /etc/libvirt/hooks/qemu.d /usr/sbin/virt-vgpu-hook",
            "restorecon -v /usr/sbin/virt-vgpu-hook",
            "ausearch -m avc -c virt-vgpu-hook",
        ],
    }),
};

pub const SRIOV_REFUSED: Check = Check {
    id: "sriov-refused",
    severity: Severity::Warning,
    about: "the kernel could not enable virtual functions",
    explanation: "The kernel has said that there is no memory space ('not enough MMIO resources for \
        SR-IOV') or no bus numbers ('out of range') for a card's virtual functions. In the \
        firmware's setup 'Above 4G Decoding', SR-IOV and ARI must be on; 'pci=realloc' and \
        'pci=assign-busses' on the kernel's command line let the kernel place the devices again.",
    look: Looks::ForLines(&Lines {
        source: KERNEL,
        pattern: "not enough MMIO resources for SR-IOV|can't enable .* VFs|SR-IOV: bus number out of range",
        is_of_vgpus: false,
        what: "the kernel could not enable virtual functions",
        advice: "turn on 'Above 4G Decoding', SR-IOV and ARI in the firmware's setup; if they are on, \
                 boot with 'pci=realloc'",
        commands: &[],
    }),
};

pub const NO_INTERRUPTS: Check = Check {
    id: "vfio-refused-interrupts",
    severity: Severity::Warning,
    about: "VFIO has refused a device because interrupts are not remapped",
    explanation: "The kernel says 'No interrupt remapping support' when a VM wants a device and the \
        IOMMU does not remap interrupts. Turn interrupt remapping (often together with x2APIC) on \
        in the firmware's setup. The option 'allow_unsafe_interrupts' would allow it, but then a \
        VM can attack the host.",
    look: Looks::ForLines(&Lines {
        source: KERNEL,
        pattern: "No interrupt remapping",
        is_of_vgpus: false,
        what: "VFIO has refused a device because the host does not remap interrupts",
        advice: "turn interrupt remapping on in the firmware's setup (VT-d or AMD-Vi, x2APIC)",
        commands: &["journalctl -k -b -g 'remapping'"],
    }),
};

pub const UNBIND_LOCK: Check = Check {
    id: "nvidia-unbind-lock",
    severity: Severity::Warning,
    about: "a program has kept NVIDIA's GPU busy while its functions were to be made",
    explanation: "sriov-manage creates a GPU's virtual functions only while no program has the GPU \
        open. It says 'Cannot obtain unbindLock' otherwise. Every program that uses NVML keeps all \
        GPUs open: dcgm, nv-hostengine, exporters for monitoring, nvidia-persistenced. Stop them, \
        apply the settings, and start them again.",
    look: Looks::ForLines(&Lines {
        source: EVERYWHERE,
        pattern: "Cannot obtain unbindLock",
        is_of_vgpus: true,
        what: "a program had a GPU open when its virtual functions were to be created",
        advice: "stop monitoring programs of NVIDIA's GPUs, then apply the settings again",
        commands: &["fuser -v /dev/nvidia*", "virt-vgpu host apply --all"],
    }),
};

pub const NO_INSTANCE: Check = Check {
    id: "nvidia-no-gpu-instance",
    severity: Severity::Warning,
    about: "NVIDIA's driver has refused vGPUs because GPU instances (MIG) are missing",
    explanation: "The driver's code 0x38 means that the operation does not fit the GPU's mode: MIG \
        mode is on and there is no GPU instance for the vGPU. sriov-manage destroys all GPU \
        instances. Without MIG pools, turn MIG mode off; else create the instances again, after \
        the virtual functions.",
    look: Looks::ForLines(&Lines {
        source: KERNEL,
        pattern: "NVRM.*0x38",
        is_of_vgpus: true,
        what: "NVIDIA's driver has refused a vGPU: MIG mode is on, but no GPU instance fits (0x38)",
        advice: "see whether MIG mode is on; turn it off for pools without MIG, while no VM uses the \
                 GPU",
        commands: &[
            "nvidia-smi mig -lgi",
            "nvidia-smi --query-gpu=pci.bus_id,mig.mode.current --format=csv",
        ],
    }),
};

pub const PLUGIN_FAILED: Check = Check {
    id: "nvidia-plugin-failed",
    severity: Severity::Warning,
    about: "NVIDIA's vGPU plugin has failed for a VM",
    explanation: "QEMU says 'error getting device from group: Input/output error', and the kernel \
        'start failed. status: 0x1'. The reason is in the log of nvidia-vgpu-mgr, in the lines \
        before 'init_device_instance failed': a wrong parameter, no memory, a duplicate UUID, or \
        a service that was restarted while VMs ran. Restart nvidia-vgpu-mgr only while no VM has \
        a vGPU.",
    look: Looks::ForLines(&Lines {
        source: EVERYWHERE,
        pattern: r"init_device_instance failed|start failed\. status: 0x1",
        is_of_vgpus: true,
        what: "NVIDIA's vGPU plugin has failed for a VM",
        advice: "read the reason in the lines before it",
        commands: &["journalctl -b -u nvidia-vgpu-mgr.service -n 100"],
    }),
};

pub const NO_UUID: Check = Check {
    id: "nvidia-vm-without-uuid",
    severity: Severity::Warning,
    about: "a QEMU without a UUID has opened a vGPU",
    explanation: "NVIDIA's plugin takes the VM's UUID from QEMU's command line. libvirt always \
        gives one; a QEMU that was started by hand or by a wrapper does not, and fails with \
        'Failed to get VM UUID from QEMU command-line'.",
    look: Looks::ForLines(&Lines {
        source: EVERYWHERE,
        pattern: "Failed to get VM UUID from QEMU command-line",
        is_of_vgpus: true,
        what: "a QEMU without '-uuid' has opened a vGPU",
        advice: "start the VM with libvirt, or give QEMU the option '-uuid'",
        commands: &[],
    }),
};

pub const NO_TYPE: Check = Check {
    id: "nvidia-function-without-type",
    severity: Severity::Warning,
    about: "a VM was started on a virtual function that is no vGPU",
    explanation: "The driver says 'current_vgpu_type of VF not configured' when a VM opens a virtual \
        function that has no vGPU type. virt-vgpu's hook sets the type before the start. So the \
        hook did not run, the domain names a function that it has not asked for, or the driver was \
        loaded again meanwhile.",
    look: Looks::ForLines(&Lines {
        source: KERNEL,
        pattern: "current_vgpu_type of VF not configured",
        is_of_vgpus: true,
        what: "a VM has opened a virtual function that had no vGPU type",
        advice: "see whether libvirt runs the hook, and which domains name functions without a \
                 request",
        commands: &[
            "journalctl -b -t virt-vgpu-hook -n 50",
            "virt-vgpu sync --all",
        ],
    }),
};

pub const NO_CORE: Check = Check {
    id: "nvidia-function-rebound",
    severity: Severity::Warning,
    about: "a virtual function was taken away from NVIDIA's driver",
    explanation: "A virtual function that makes a vGPU must stay with NVIDIA's driver. If it is bound \
        to another driver and back, it has lost its VFIO device ('vfio_pci_core_device not \
        found'). The usual reason is managed='yes' in a domain's XML: libvirt then binds the \
        function to vfio-pci. virt-vgpu's own placeholders say managed='no'. Recreating the \
        GPU's functions repairs it.",
    look: Looks::ForLines(&Lines {
        source: KERNEL,
        pattern: "vfio_pci_core_device not found",
        is_of_vgpus: true,
        what: "a virtual function was bound to another driver and has lost its VFIO device",
        advice: "say managed='no' in the domains' XML; when no VM uses the GPU, recreate its functions \
                 with 'virt-vgpu host apply --renew ADDRESS'",
        commands: &["grep -l \"managed='yes'\" /etc/libvirt/qemu/*.xml"],
    }),
};

pub const GUEST_DRIVER: Check = Check {
    id: "nvidia-guest-driver",
    severity: Severity::Warning,
    about: "a guest's NVIDIA driver does not fit the host's",
    explanation: "The driver in the guest must be of the host's release or of the one before it \
        (for long-term branches, of the previous long-term branch), and it must be the vGPU \
        ('-grid') driver, not the one for GeForce or data centers. Else the guest has no GPU, and \
        nvidia-vgpu-mgr says 'Incompatible Guest/Host drivers'. A pool's 'guest-driver' can lend \
        the right one to VMs as a CD-ROM.",
    look: Looks::ForLines(&Lines {
        source: MANAGER,
        pattern: "Incompatible Guest/Host drivers",
        is_of_vgpus: true,
        what: "the NVIDIA driver in a guest does not fit the host's",
        advice: "install the guest driver of the host's release; 'guest-driver' in the pool's file \
                 lends it to VMs as a CD-ROM",
        commands: &["cat /sys/module/nvidia/version"],
    }),
};

pub const UNLICENSED: Check = Check {
    id: "nvidia-guest-unlicensed",
    severity: Severity::Note,
    about: "a guest has run a vGPU without a licence",
    explanation: "A vGPU works at first without a licence, later it is slowed down. The guest needs \
        a token file in /etc/nvidia/ClientConfigToken (Linux) or vGPU Licensing\\ClientConfigToken \
        (Windows), the right FeatureType, a correct clock, and a way to the licence server. A \
        guest that has just started is unlicensed for a moment; that is no fault.",
    look: Looks::ForLines(&Lines {
        source: MANAGER,
        pattern: r"license state: Unlicensed \(Restricted\)",
        is_of_vgpus: true,
        what: "a guest's vGPU is slowed down because it has no licence",
        advice: "check token, clock and network in the guest ('nvidia-smi -q | grep License' there)",
        commands: &["nvidia-smi vgpu -q | grep -E 'VM Name|License'"],
    }),
};
