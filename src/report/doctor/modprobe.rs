//! Options of modprobe, and parameters of the kernel, that take devices away from their drivers
//! before virt-vgpu hands them out.

use std::collections::BTreeMap;

use super::{
    Check, Findings, Looks, Severity, Trouble,
    view::{COMMAND_LINE, View, says},
};
use crate::model::quoted;

/// The directories, the strongest first: a file hides those of its name in the later ones
/// (`modprobe.d(5)`).
const DIRECTORIES: [&str; 5] = [
    "/etc/modprobe.d",
    "/run/modprobe.d",
    "/usr/local/lib/modprobe.d",
    "/usr/lib/modprobe.d",
    "/lib/modprobe.d",
];

/// One command of a file.
struct Line {
    file: String,
    number: usize,
    words: Vec<String>,
}

impl Line {
    fn place(&self) -> String {
        format!("{}:{}", self.file, self.number)
    }

    fn text(&self) -> String {
        self.words.join(" ")
    }

    fn evidence(&self) -> String {
        says(&self.place(), self.text())
    }

    /// The command and the module that it is about, as the kernel spells it.
    fn about(&self) -> Option<(&str, String)> {
        let [command, module, ..] = self.words.as_slice() else {
            return None;
        };
        Some((command, spelt(module)))
    }

    /// A command that turns the line into a comment.
    fn out(&self) -> String {
        format!("sed -i '{}s/^/# /' {}", self.number, quoted(&self.file))
    }
}

/// A module's name as the kernel spells it.
fn spelt(module: &str) -> String {
    module.replace('-', "_")
}

/// All commands of modprobe's files.
fn lines(view: &View<'_>) -> Result<Vec<Line>, Trouble> {
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    for directory in DIRECTORIES {
        for name in view.list(directory)? {
            if name.ends_with(".conf") {
                let path = format!("{directory}/{name}");
                files.entry(name).or_insert(path);
            }
        }
    }
    let mut lines = Vec::new();
    for path in files.into_values() {
        // A link to nothing masks the name.
        let text = view.read(&path)?.unwrap_or_default();
        // A backslash at the end continues a line; the command's place is where it begins.
        let mut open: Option<(usize, String)> = None;
        for (number, line) in text.lines().enumerate() {
            let (first, mut whole) = open.take().unwrap_or((number + 1, String::new()));
            match line.strip_suffix('\\') {
                Some(part) => {
                    whole.push_str(part);
                    open = Some((first, whole));
                }
                None => {
                    whole.push_str(line);
                    lines.push((path.clone(), first, whole));
                }
            }
        }
    }
    let line = |(file, number, text): (String, usize, String)| Line {
        file,
        number,
        words: text.split_ascii_whitespace().map(str::to_owned).collect(),
    };
    let lines = lines.into_iter().map(line);
    let is_command = |line: &Line| {
        line.words
            .first()
            .is_some_and(|word| !word.starts_with('#'))
    };
    Ok(lines.filter(is_command).collect())
}

pub const IDS: Check = Check {
    id: "vfio-ids-fixed",
    severity: Severity::Warning,
    about: "vfio-pci is told to take all devices with certain ids at boot",
    explanation: "'options vfio-pci ids=…' (or 'vfio-pci.ids=…' on the kernel's command line) gives \
        every device with these ids to vfio-pci when it is loaded, whether or not a VM wants it. \
        virt-vgpu binds each device itself when a VM starts, and gives it back to its driver when \
        the VM stops. With the option the device has no driver to go back to, and devices of the \
        same model that are not in a pool are taken too. NVIDIA's GPUs then make no vGPUs.",
    look: Looks::At(ids),
};

fn ids(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    const TAKERS: [&str; 2] = ["vfio_pci", "pci_stub"];
    for line in lines(view)? {
        let Some(("options", module)) = line.about() else {
            continue;
        };
        let mut ids = line
            .words
            .iter()
            .filter_map(|word| word.strip_prefix("ids="));
        // An empty value names no device.
        let ids = ids.find(|ids| !ids.is_empty());
        if let Some(ids) = ids.filter(|_| TAKERS.contains(&module.as_str())) {
            found.add(
                format!("{module} takes all devices with the ids {ids} at boot"),
                [line.evidence()],
                "remove the option, and let a pool name the devices; then make the initramfs \
                 again and reboot the host",
                [line.out(), "update-initramfs -u || dracut -f".to_owned()],
            );
        }
    }
    for word in view.command_line()? {
        let Some((key, value)) = word.split_once(".ids=") else {
            continue;
        };
        if TAKERS.contains(&spelt(key).as_str()) && !value.is_empty() {
            found.add(
                format!("{key} takes all devices with the ids {value} at boot"),
                [says(COMMAND_LINE, &word)],
                format!("remove '{word}' from the kernel's command line, then reboot the host"),
                [],
            );
        }
    }
    Ok(())
}

pub const SOFTDEP: Check = Check {
    id: "driver-softdep",
    severity: Severity::Warning,
    about: "modprobe loads vfio-pci before a device's own driver",
    explanation: "A line 'softdep DRIVER pre: vfio-pci' loads vfio-pci first, so that it can take \
        devices before their driver does. It belongs to 'options vfio-pci ids=…'. virt-vgpu wants \
        devices to be with their own driver until a VM starts, so that it can give them back.",
    look: Looks::At(softdep),
};

fn softdep(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    for line in lines(view)? {
        let Some(("softdep", module)) = line.about() else {
            continue;
        };
        let before = line.words.iter().skip_while(|word| *word != "pre:");
        let mut before = before.skip(1).take_while(|word| *word != "post:");
        if before.any(|word| spelt(word) == "vfio_pci") {
            found.add(
                format!("modprobe loads vfio-pci before {module}"),
                [line.evidence()],
                "remove the line, then make the initramfs again and reboot the host",
                [line.out(), "update-initramfs -u || dracut -f".to_owned()],
            );
        }
    }
    Ok(())
}

/// The modules that must load as usual; the later ones only where there is a GPU of NVIDIA.
const NEEDED: &str = "vfio vfio_pci vfio_pci_core vfio_iommu_type1";
const NEEDED_BY_VGPUS: &str = "mdev nvidia nvidia_vgpu_vfio";

fn is_needed(view: &View<'_>, module: &str) -> Result<bool, Trouble> {
    let has = |names: &str| names.split(' ').any(|name| name == module);
    Ok(has(NEEDED) || (has(NEEDED_BY_VGPUS) && view.makes_vgpus()?))
}

pub const INSTALL: Check = Check {
    id: "modprobe-install",
    severity: Severity::Warning,
    about: "a modprobe.d line runs a command instead of loading a module that is needed",
    explanation: "A line 'install MODULE COMMAND' makes modprobe run the command instead of loading \
        the module. Such lines turn modules off ('/bin/false', '/bin/true'), or bind devices to \
        vfio-pci by a script. Either way virt-vgpu does not find what it expects.",
    look: Looks::At(install),
};

fn install(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    for line in lines(view)? {
        let Some(("install", module)) = line.about() else {
            continue;
        };
        if is_needed(view, &module)? {
            found.add(
                format!("modprobe runs a command instead of loading {module}"),
                [line.evidence()],
                "remove the line, then load the module",
                [line.out(), format!("modprobe {}", quoted(&module))],
            );
        }
    }
    Ok(())
}

pub const BLACKLIST: Check = Check {
    id: "module-blacklisted",
    severity: Severity::Warning,
    about: "a module that is needed is blacklisted",
    explanation: "A blacklisted module is not loaded for its devices ('blacklist' in modprobe.d, \
        'modprobe.blacklist=' on the kernel's command line), or not at all ('module_blacklist='). \
        Lists against nouveau are right on hosts with NVIDIA's driver. Lists that name vfio-pci or \
        NVIDIA's own modules keep devices from VMs.",
    look: Looks::At(blacklist),
};

fn blacklist(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    for line in lines(view)? {
        let Some(("blacklist", module)) = line.about() else {
            continue;
        };
        if is_needed(view, &module)? {
            found.add(
                format!("{module} is blacklisted"),
                [line.evidence()],
                "remove the line, then load the module",
                [line.out(), format!("modprobe {}", quoted(&module))],
            );
        }
    }
    for word in view.command_line()? {
        let Some((key @ ("modprobe.blacklist" | "module_blacklist"), names)) = word.split_once('=')
        else {
            continue;
        };
        for name in names.split(',') {
            if is_needed(view, &spelt(name))? {
                found.add(
                    format!("{name} is blacklisted by '{key}'"),
                    [says(COMMAND_LINE, &word)],
                    format!(
                        "remove {name} from '{word}' on the kernel's command line, then reboot"
                    ),
                    [],
                );
            }
        }
    }
    Ok(())
}
