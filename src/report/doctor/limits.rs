//! What VMs with devices need of the host's memory.

use super::{
    Check, Findings, Looks, Severity, Trouble,
    hooks::DAEMONS,
    view::{View, says},
};

const MEMORY: &str = "/proc/meminfo";

/// A value of `/proc/meminfo`.
fn memory(text: &str, name: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

pub const LOCKED: Check = Check {
    id: "memory-lock-limit",
    severity: Severity::Error,
    about: "libvirt may not lock enough memory for VMs with devices",
    explanation: "A VM with a device has all of its memory locked in RAM. libvirt raises the limit \
        of each QEMU for that. It may do so with the capability CAP_SYS_RESOURCE, which it has as \
        a service of the system. In a container it may lack it; then its own limit has to be \
        high enough for the largest VM, or the start fails with 'cannot limit locked memory' or \
        'VFIO_MAP_DMA failed: Cannot allocate memory'.",
    look: Looks::At(locked),
};

fn locked(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    const SYS_RESOURCE: u64 = 1 << 24;
    const KIB: u64 = 1024;
    let text = view.read(MEMORY)?.unwrap_or_default();
    let Some(total) = memory(&text, "MemTotal") else {
        return Ok(());
    };
    for daemon in DAEMONS {
        for pid in view.processes(daemon) {
            let status = view.read(&format!("/proc/{pid}/status"))?;
            let status = status.unwrap_or_default();
            let capabilities = status
                .lines()
                .find_map(|line| line.strip_prefix("CapEff:"))
                .and_then(|text| u64::from_str_radix(text.trim(), 16).ok());
            // Without a word about it, it counts as allowed.
            if capabilities.is_none_or(|mask| mask & SYS_RESOURCE != 0) {
                continue;
            }
            let path = format!("/proc/{pid}/limits");
            let limits = view.read(&path)?.unwrap_or_default();
            let line = limits
                .lines()
                .find_map(|line| line.strip_prefix("Max locked memory"));
            let hard = line.and_then(|line| line.split_ascii_whitespace().nth(1));
            let Some(hard) = hard.and_then(|text| text.parse::<u64>().ok()) else {
                // Unlimited.
                continue;
            };
            if hard / KIB < total {
                found.add(
                    format!(
                        "{daemon} may lock only {} MiB of memory for VMs",
                        hard / KIB / KIB
                    ),
                    [
                        says(&path, format!("Max locked memory {hard} bytes")),
                        says(
                            &format!("/proc/{pid}/status"),
                            "CapEff has no CAP_SYS_RESOURCE",
                        ),
                    ],
                    "give the service an unlimited limit, or the capability",
                    [
                        format!("mkdir -p /etc/systemd/system/{daemon}.service.d"),
                        format!(
                            "printf '[Service]\\nLimitMEMLOCK=infinity\\n' > \
                             /etc/systemd/system/{daemon}.service.d/memlock.conf"
                        ),
                        "systemctl daemon-reload".to_owned(),
                        format!("systemctl restart {daemon}.service"),
                    ],
                );
            }
        }
    }
    Ok(())
}

pub const HUGE_PAGES: Check = Check {
    id: "hugepages-none-free",
    severity: Severity::Note,
    about: "hugepages are reserved, but none is free",
    explanation: "A domain with <hugepages/> gets its memory from the pool of hugepages. If none is \
        free, its start fails with 'unable to map backing store for guest RAM: Cannot allocate \
        memory', after its devices were made. On a host whose VMs use all of them nothing is \
        wrong.",
    look: Looks::At(huge_pages),
};

fn huge_pages(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    let text = view.read(MEMORY)?.unwrap_or_default();
    let value = |name| memory(&text, name).unwrap_or_default();
    let (total, free, promised) = (
        value("HugePages_Total"),
        value("HugePages_Free"),
        value("HugePages_Rsvd"),
    );
    if total > 0 && free <= promised {
        found.add(
            format!("all {total} hugepages of the host are in use"),
            [says(
                MEMORY,
                format!(
                    "HugePages_Total {total}, HugePages_Free {free}, HugePages_Rsvd {promised}"
                ),
            )],
            "if a domain with hugepages has to start, reserve more, as in this command",
            [format!(
                "sysctl vm.nr_hugepages={}",
                total.saturating_add(total / 4 + 1)
            )],
        );
    }
    Ok(())
}
