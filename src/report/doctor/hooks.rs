//! libvirt's hooks: ours, whether libvirt runs it, and those of others that run before it.

use super::{
    Check, Findings, Looks, Severity, Trouble,
    view::{View, lacks, says, some},
};
use crate::{
    device::{Sysfs, at},
    model::quoted,
};

/// The script that libvirt runs before those of [`DIRECTORY`].
pub const SINGLE: &str = "/etc/libvirt/hooks/qemu";
/// The scripts that libvirt runs in the order of their names.
pub const DIRECTORY: &str = "/etc/libvirt/hooks/qemu.d";
/// Our program.
const PROGRAM: &str = "virt-vgpu-hook";
/// Our link, as the package has it.
const OURS: &str = "50-virt-vgpu";
/// libvirt's daemons that run hooks for QEMU.
pub const DAEMONS: [&str; 2] = ["libvirtd", "virtqemud"];

/// The file that a hook's path leads to. An absolute link counts from the host's root.
fn target(view: &View<'_>, path: &str) -> String {
    match view.host.read_link(path) {
        Ok(target) if target.starts_with('/') => target,
        Ok(target) => format!("{DIRECTORY}/{target}"),
        Err(_) => path.to_owned(),
    }
}

/// All hooks for QEMU in libvirt's order.
pub fn hooks(view: &View<'_>) -> Result<Vec<String>, Trouble> {
    let single = view.exists(SINGLE).then(|| SINGLE.to_owned());
    let names = view.list(DIRECTORY)?;
    let of_directory = names.iter().map(|name| format!("{DIRECTORY}/{name}"));
    Ok(single.into_iter().chain(of_directory).collect())
}

/// Whether the hook is ours.
pub fn is_ours(view: &View<'_>, hook: &str) -> bool {
    hook.ends_with(OURS) || target(view, hook).ends_with(PROGRAM)
}

/// Whether libvirt runs it.
pub fn is_run(view: &View<'_>, hook: &str) -> Result<bool, Trouble> {
    let target = target(view, hook);
    match view.host.file_state(&target) {
        Ok(state) => Ok(state.is_file && state.is_executable),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(at(&target, &error).into()),
    }
}

fn ours(view: &View<'_>) -> Result<Option<String>, Trouble> {
    Ok(hooks(view)?.into_iter().find(|hook| is_ours(view, hook)))
}

/// The command that makes libvirt look for hooks again, for the daemons that run.
fn reload(view: &View<'_>) -> Vec<String> {
    let running = DAEMONS
        .iter()
        .filter(|daemon| !view.processes(daemon).is_empty());
    running
        .map(|daemon| format!("systemctl reload {daemon}.service"))
        .collect()
}

pub const MISSING: Check = Check {
    id: "hook-missing",
    severity: Severity::Error,
    about: "libvirt has no hook of virt-vgpu",
    explanation: "libvirt runs /etc/libvirt/hooks/qemu.d/50-virt-vgpu before each start and after \
        each stop of a domain; this hook makes the devices and takes them back. Without it a \
        domain that asks for a device does not start, or starts with a device that nobody has \
        prepared. The hook is a link to /usr/sbin/virt-vgpu-hook. It has to be a link: AppArmor \
        lets libvirt run programs in /usr/sbin without confinement, but confines copies in the \
        hooks' directory.",
    look: Looks::At(missing),
};

fn missing(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    let has_libvirt = view.exists("/etc/libvirt") || !view.pools().is_empty();
    if !has_libvirt || ours(view)?.is_some() {
        return Ok(());
    }
    let link = format!("{DIRECTORY}/{OURS}");
    let mut commands = vec![
        format!("mkdir -p {DIRECTORY}"),
        format!("ln -s /usr/sbin/{PROGRAM} {link}"),
    ];
    commands.extend(reload(view));
    found.add(
        "libvirt has no hook of virt-vgpu, so no domain gets a device",
        [lacks(&link)],
        "make the link, and let libvirt look for hooks again",
        commands,
    );
    Ok(())
}

pub const NOT_EXECUTABLE: Check = Check {
    id: "hook-not-executable",
    severity: Severity::Error,
    about: "libvirt cannot run the hook of virt-vgpu",
    explanation: "libvirt ignores hooks that are not executable files, without a message. The \
        link in /etc/libvirt/hooks/qemu.d must lead to virt-vgpu-hook, and that must be \
        executable.",
    look: Looks::At(not_executable),
};

fn not_executable(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    let Some(hook) = ours(view)? else {
        return Ok(());
    };
    if is_run(view, &hook)? {
        return Ok(());
    }
    let target = target(view, &hook);
    match view.exists(&target) {
        true => found.add(
            format!("{target} is not an executable file, so libvirt does not run it"),
            [says(&hook, format!("leads to {target}"))],
            "make it executable",
            [format!("chmod 755 {}", quoted(&target))],
        ),
        false => found.add(
            format!("{hook} leads nowhere"),
            [lacks(&target)],
            "install virt-vgpu again",
            [],
        ),
    }
    Ok(())
}

pub const UNSEEN: Check = Check {
    id: "hook-unseen",
    severity: Severity::Error,
    about: "libvirt was started before it had a hook, and does not know of it",
    explanation: "libvirt looks for hooks only when it starts or is reloaded, and remembers \
        whether there were any. If it found none, it runs none, although one was added later: \
        domains start without their devices. A reload makes it look again, and does no harm to \
        running domains. virt-vgpu's package reloads libvirt; a hook that was linked by hand, or \
        a libvirt that was down at that moment, needs it once more.",
    look: Looks::At(unseen),
};

fn unseen(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    if ours(view)?.is_none() {
        return Ok(());
    }
    for daemon in DAEMONS {
        for pid in view.processes(daemon) {
            unseen_by(view, found, (daemon, pid))?;
        }
    }
    Ok(())
}

fn unseen_by(
    view: &View<'_>,
    found: &mut Findings,
    (daemon, pid): (&str, u32),
) -> Result<(), Trouble> {
    let Some(started) = started(view, pid)? else {
        return Ok(());
    };
    let mut first: Option<(u64, String)> = None;
    for hook in hooks(view)? {
        if is_run(view, &hook)? {
            let state = view.host.link_state(&hook);
            let changed = state.map_err(|error| at(&hook, &error))?.changed;
            if first
                .as_ref()
                .is_none_or(|(earliest, _)| changed < *earliest)
            {
                first = Some((changed, hook));
            }
        }
    }
    let Some((changed, hook)) = first.filter(|(changed, _)| *changed > started) else {
        return Ok(());
    };
    // Only the journal knows of reloads, and of runs of the hook.
    let unit = format!("{daemon}.service");
    let is_known = was_logged(view, &["-u", &unit, "-g", "Reloaded"], changed)?
        || was_logged(view, &["-t", PROGRAM, "-g", "."], changed)?;
    if is_known {
        return Ok(());
    }
    found.add(
        format!("{daemon} has not looked for hooks since the first one was added"),
        [
            says(
                &format!("/proc/{pid}/stat"),
                format!("started at {started} s"),
            ),
            says(&hook, format!("changed at {changed} s")),
            format!("journal of {unit}: no reload since then"),
            format!("journal of {PROGRAM}: no line since then"),
        ],
        "let it look again; running domains are not affected",
        [format!("systemctl reload {unit}")],
    );
    Ok(())
}

/// Whether the journal has such a line at that second or later.
fn was_logged(view: &View<'_>, wanted: &[&str], at: u64) -> Result<bool, Trouble> {
    const COMMON: [&str; 5] = ["-b", "-q", "--no-pager", "-o", "short-unix"];
    let text = view.run("/usr/bin/journalctl", &[&COMMON, wanted].concat())?;
    let second = |line: &str| {
        let time = line.split_ascii_whitespace().next()?;
        time.split('.').next()?.parse::<u64>().ok()
    };
    Ok(text.lines().filter_map(second).any(|second| second >= at))
}

/// When a process started, in seconds of the clock's time.
fn started(view: &View<'_>, pid: u32) -> Result<Option<u64>, Trouble> {
    /// `USER_HZ`, the unit of the times in /proc.
    const TICKS: u64 = 100;
    let process = crate::host::ProcessId::of(view.host, pid)?;
    let stat = view.read("/proc/stat")?.unwrap_or_default();
    let booted = stat.lines().find_map(|line| line.strip_prefix("btime "));
    let booted: Option<u64> = booted.and_then(|text| text.trim().parse().ok());
    Ok(process
        .zip(booted)
        .map(|(process, booted)| booted.saturating_add(process.start_time / TICKS)))
}

pub const AFTER_OTHERS: Check = Check {
    id: "hook-after-others",
    severity: Severity::Note,
    about: "other hooks run before virt-vgpu's",
    explanation: "libvirt runs /etc/libvirt/hooks/qemu first, then the scripts in qemu.d in the \
        order of their names. All of them run even if one fails. At migrations and restores the \
        output of one is the input of the next. A script that runs before virt-vgpu's therefore \
        sees a domain whose devices do not exist yet. That is right for most scripts; one that \
        needs the devices has to run later: in qemu.d with a name after '50-virt-vgpu'.",
    look: Looks::At(after_others),
};

fn after_others(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    if ours(view)?.is_none() {
        return Ok(());
    }
    let mut before = Vec::new();
    for hook in hooks(view)? {
        if is_ours(view, &hook) {
            break;
        }
        if is_run(view, &hook)? {
            before.push(hook);
        }
    }
    if !before.is_empty() {
        found.add(
            format!("hooks that run before that of virt-vgpu: {}", some(&before)),
            before.iter().map(|hook| says(hook, "is executable")),
            "nothing, unless a script needs the domain's devices: move that one after ours, as in \
             this command",
            before.iter().take(1).map(|hook| {
                let name = hook.rsplit('/').next().unwrap_or_default();
                let later = format!("{DIRECTORY}/60-{name}");
                format!("mv {} {}", quoted(hook), quoted(&later))
            }),
        );
    }
    Ok(())
}

pub const LEFTOVER: Check = Check {
    id: "hook-leftover",
    severity: Severity::Warning,
    about: "libvirt runs hidden files and backups in the hooks' directory",
    explanation: "libvirt runs every executable file in qemu.d, whatever its name: hidden files, an \
        editor's backup, what a package manager has left (.dpkg-old, .rpmsave). An old version of \
        a script then runs beside the new one.",
    look: Looks::At(leftover),
};

fn leftover(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    const ENDS: [&str; 8] = [
        "~",
        ".bak",
        ".orig",
        ".dpkg-old",
        ".dpkg-dist",
        ".dpkg-new",
        ".rpmsave",
        ".rpmnew",
    ];
    for name in view.list(DIRECTORY)? {
        let path = format!("{DIRECTORY}/{name}");
        let is_leftover = name.starts_with('.') || ENDS.iter().any(|end| name.ends_with(end));
        if is_leftover && is_run(view, &path)? {
            found.add(
                format!("libvirt runs {path}, which looks like a leftover"),
                [says(&path, "is executable")],
                "move it away; a name does not keep libvirt from running it",
                [format!("mv {} /root/", quoted(&path))],
            );
        }
    }
    Ok(())
}
