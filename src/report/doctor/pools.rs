//! Pools, claims and the quarantine: what virt-vgpu itself has or has not.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Check, Findings, Looks, Severity, Trouble,
    view::{View, says, some},
};
use crate::{
    claims, config,
    config::PoolError,
    device::mdev::Offer,
    gpu_setup::{ModuleOptions, Survey, gpu_settings},
    model::{ParentName, PoolName, quoted},
    plan::{Detail, HostSupply, Standing},
    report::DaemonNotes,
    rule::Verdict,
};

/// The devices that pools take, each with its pools.
pub fn taken(view: &View<'_>) -> Result<BTreeMap<ParentName, Vec<PoolName>>, Trouble> {
    let mut taken: BTreeMap<ParentName, Vec<PoolName>> = BTreeMap::new();
    if view.pools().is_empty() {
        return Ok(taken);
    }
    let supply = view.look.supply(Detail::default())?;
    for pool in view.pools() {
        for standing in matching(&supply, pool)? {
            let pools = taken.entry(standing.parent.name).or_default();
            pools.push(pool.name.clone());
        }
    }
    Ok(taken)
}

/// The devices that a pool's rules take.
fn matching(supply: &HostSupply<'_>, pool: &config::Pool) -> Result<Vec<Standing>, Trouble> {
    let mut standings = supply.standings(pool)?;
    standings.retain(|one| matches!(one.verdict, Verdict::Match { .. }));
    Ok(standings)
}

pub const UNUSABLE: Check = Check {
    id: "pool-file-unusable",
    severity: Severity::Error,
    about: "a pool's file has a mistake or cannot be read",
    explanation: "A pool whose file has a mistake hands out nothing: starts that ask for it are \
        refused. Files that other users than root can write are not used either. 'virt-vgpu pool \
        check' tells file, line and key of each mistake.",
    look: Looks::At(unusable),
};

fn unusable(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    let loaded = config::load_all(view.host);
    for (name, pool) in loaded.pools {
        let Err(error) = pool else {
            continue;
        };
        let commands = match &error {
            PoolError::Untrusted { path, .. } => {
                let path = quoted(&path.to_string_lossy());
                vec![
                    format!("ls -ld {path}"),
                    format!("chown root:root {path} && chmod 644 {path}"),
                ]
            }
            _ => vec![format!("virt-vgpu pool check {name}")],
        };
        found.add(
            format!("pool '{name}' cannot be used"),
            [error.to_string()],
            "correct the file",
            commands,
        );
    }
    for file in loaded.ignored {
        found.add(
            format!("{} is no pool", file.path.display()),
            [format!("{}: {}", file.path.display(), file.reason)],
            "rename or remove it",
            [],
        );
    }
    Ok(())
}

pub const RIVALS: Check = Check {
    id: "pools-share-device",
    severity: Severity::Error,
    about: "one pool hands out a device whole, another one parts of it",
    explanation: "A device is either given to one VM whole, or cut into parts for several. If the \
        rules of two pools take the same device for both, virt-vgpu hands it out from neither. \
        Change the rules of one of the two.",
    look: Looks::At(rivals),
};

fn rivals(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    if view.pools().len() < 2 {
        return Ok(());
    }
    let supply = view.look.supply(Detail::default())?;
    for pool in view.pools() {
        if !pool.kind.is_of_whole_functions() {
            continue;
        }
        for (name, (rival, devices)) in supply.rivals(pool)? {
            found.add(
                format!(
                    "pool '{}' hands out {} whole, and pool '{name}' parts of it",
                    pool.name,
                    some(&devices)
                ),
                [&pool.origin, &rival.origin]
                    .map(|file| format!("{}: a rule takes it", file.display())),
                "change the rules of one of the two pools",
                [
                    format!("virt-vgpu pool preview {}", pool.name),
                    format!("virt-vgpu pool preview {name}"),
                ],
            );
        }
    }
    Ok(())
}

pub const SHADOWED: Check = Check {
    id: "pool-shadowed",
    severity: Severity::Note,
    about: "all devices of a pool are also in another pool of the same kind",
    explanation: "Two pools may take the same whole devices. Then a start from one leaves less for \
        the other, and a pool all of whose devices are in another one can be emptied by it. If \
        that is not meant, exclude the devices by rules.",
    look: Looks::At(shadowed),
};

fn shadowed(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    if view.pools().len() < 2 {
        return Ok(());
    }
    let supply = view.look.supply(Detail::default())?;
    let mut devices: Vec<(&config::Pool, BTreeSet<ParentName>)> = Vec::new();
    for pool in view.pools() {
        // Vgpus of several sizes on the same GPUs are the ordinary case.
        if pool.kind.is_of_whole_functions() {
            let names = matching(&supply, pool)?;
            devices.push((pool, names.into_iter().map(|one| one.parent.name).collect()));
        }
    }
    for (number, (pool, its)) in devices.iter().enumerate() {
        let other = devices.iter().enumerate().find(|(other, (_, theirs))| {
            let is_larger = its.is_subset(theirs);
            // Of two equal pools the later one is named.
            *other != number && is_larger && (theirs.len() > its.len() || *other < number)
        });
        let Some((_, (other, _))) = other.filter(|_| !its.is_empty()) else {
            continue;
        };
        let names: Vec<&ParentName> = its.iter().collect();
        found.add(
            format!(
                "all devices of pool '{}' are in pool '{}' too: {}",
                pool.name,
                other.name,
                some(&names)
            ),
            [&pool.origin, &other.origin].map(|file| format!("{}: takes them", file.display())),
            "nothing, if it is meant; else exclude the devices by a rule of one pool",
            [
                format!("virt-vgpu pool preview {}", pool.name),
                format!("virt-vgpu pool preview {}", other.name),
            ],
        );
    }
    Ok(())
}

pub const NO_TYPE: Check = Check {
    id: "pool-type-missing",
    severity: Severity::Warning,
    about: "no device of a pool has the type that it hands out",
    explanation: "The pool's rules take devices, but none of them has the pool's type or profile. \
        The name may be misspelt, or of another board; NVIDIA's bundles of the driver differ in \
        the series (A, B, C, Q) that they offer; and a GPU in MIG mode has other profiles.",
    look: Looks::At(no_type),
};

fn no_type(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    if view.pools().is_empty() {
        return Ok(());
    }
    let supply = view.look.supply(Detail::default())?;
    for pool in view.pools() {
        let standings = matching(&supply, pool)?;
        let lacks = |one: &Standing| matches!(supply.room(pool, &one.parent).0, Offer::NoSuchType);
        if standings.is_empty() || !standings.iter().all(lacks) {
            continue;
        }
        let names: Vec<ParentName> = standings.into_iter().map(|one| one.parent.name).collect();
        found.add(
            format!(
                "no device of pool '{}' has {}",
                pool.name,
                pool.type_in_words()
            ),
            [
                format!("{}: {}", pool.origin.display(), pool.type_in_words()),
                format!("devices of the pool: {}", some(&names)),
            ],
            "see which types they have, and correct the pool's file",
            [format!("virt-vgpu devices --pool={}", pool.name)],
        );
    }
    Ok(())
}

pub const SETTINGS: Check = Check {
    id: "gpu-settings-conflict",
    severity: Severity::Error,
    about: "pools want different settings of one GPU",
    explanation: "MIG mode, mixed sizes and the scheduler are settings of a whole GPU. If two pools \
        take the same GPU and want different ones, or one has vGPUs in GPU instances and the other \
        time-sliced ones, 'virt-vgpu host apply' changes nothing on it. Let the pools agree, or \
        take different GPUs.",
    look: Looks::At(settings),
};

fn settings(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    if view.pools().len() < 2 || view.gpus()?.is_empty() {
        return Ok(());
    }
    let survey =
        Survey::read(view.host).map_err(|error| Trouble::NotAsked(format!("{error:#}")))?;
    for conflict in survey.conflicts() {
        found.add(
            "pools want different settings of one GPU",
            [conflict],
            "let the pools agree",
            ["virt-vgpu host show".to_owned()],
        );
    }
    Ok(())
}

pub const DIFFER: Check = Check {
    id: "gpu-settings-differ",
    severity: Severity::Warning,
    about: "a GPU is not set up as its pools want it",
    explanation: "Mixed sizes (heterogeneous mode) and the scheduler of a GPU are lost when the \
        driver is loaded again, when the host reboots, and mixed sizes also when sriov-manage \
        creates the virtual functions. Without mixed sizes all vGPUs on a GPU have one size. \
        virt-vgpu-host.service applies the settings at boot; 'virt-vgpu host apply' does it now, \
        while no vGPU is on the GPU. GPU instances (MIG) are lost at the same times, and are made \
        again; they come and go beside vGPUs in others. What has to wait for VMs is made by \
        virt-vgpud when these have stopped.",
    look: Looks::At(differ),
};

fn differ(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    if view.vgpu_gpus()?.is_empty() {
        return Ok(());
    }
    let not_told = |error: anyhow::Error| Trouble::NotAsked(format!("{error:#}"));
    let survey = Survey::read(view.host).map_err(not_told)?;
    let options = ModuleOptions::read(view.host).map_err(not_told)?;
    for surveyed in survey
        .gpus
        .iter()
        .filter(|one| matches!(one.wanted, Ok(Some(_))))
    {
        let settings = gpu_settings(view.host, surveyed, &options).map_err(not_told)?;
        // Without driver or functions nothing can be set, which other checks tell.
        let has_functions = settings.virtual_functions.actual != Some(0)
            || settings.virtual_functions.wanted == Some(0);
        if settings.driver.is_none() || !has_functions || settings.differences.is_empty() {
            continue;
        }
        found.add(
            format!(
                "{} is not set up as {} wants it",
                settings.gpu,
                some(&settings.pools)
            ),
            settings.differences,
            "apply the settings while no vGPU is on the GPU",
            [
                "virt-vgpu host show".to_owned(),
                format!("virt-vgpu host apply {}", settings.gpu),
            ],
        );
    }
    Ok(())
}

pub const QUARANTINED: Check = Check {
    id: "function-quarantined",
    severity: Severity::Warning,
    about: "a device is quarantined and not handed out",
    explanation: "virt-vgpu has quarantined a device because it may be broken: the QEMU that had it \
        was killed while its vGPU still started, it did not come back after a VM, or it does not \
        answer. It is handed out again when it is repaired; a reboot repairs most of them.",
    look: Looks::At(quarantined),
};

fn quarantined(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    for one in claims::quarantined(view.host)? {
        let words = one.in_words(view.host);
        let reason = &one.reason;
        let advice = words.strip_prefix(reason.as_str());
        let advice = advice.map_or("reboot the host", |rest| rest.trim_start_matches("; "));
        found.add(
            format!("{} is quarantined: {reason}", one.function),
            [says(
                &format!("{}/{}.json", claims::QUARANTINE, one.function),
                "exists",
            )],
            advice,
            [],
        );
    }
    Ok(())
}

pub const CLAIMS: Check = Check {
    id: "claim-unreadable",
    severity: Severity::Error,
    about: "a claim cannot be read, so it is not known who has which device",
    explanation: "A claim says which devices a domain has. While one cannot be read, virt-vgpu does \
        not know whose devices they are, and takes nothing back on suspicion. When that domain no \
        longer runs, the file can be removed.",
    look: Looks::At(unreadable),
};

fn unreadable(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    let (_, damaged) = claims::load_all(view.host)?;
    for one in damaged {
        let name = one.path.rsplit('/').next().unwrap_or_default();
        let uuid = name.trim_end_matches(".json");
        found.add(
            "a claim cannot be read, so it is not known who has its devices",
            [one.to_string()],
            "see whether that domain runs; when it does not, remove the file",
            [
                // A pasted command must not remove the claim of a domain that runs, nor one
                // whose domain may run because libvirt does not answer.
                format!(
                    "running=$(virsh -c qemu:///system list --uuid) && case \"$running\" in \
                     *{}*) echo 'it runs, the claim stays' ;; *) rm {} ;; esac",
                    quoted(uuid),
                    quoted(&one.path)
                ),
                "virt-vgpu reconcile".to_owned(),
            ],
        );
    }
    Ok(())
}

pub const DAEMON: Check = Check {
    id: "daemon-down",
    severity: Severity::Warning,
    about: "virt-vgpud has ended, or has no connection to libvirt",
    explanation: "virt-vgpud gives each domain a placeholder for what it asks for, plugs in devices, \
        and takes back what a crash leaves behind. Starts work without it, but definitions are \
        not kept right. A host on which it was never started since boot has no such finding.",
    look: Looks::At(daemon),
};

fn daemon(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    const NOTES: &str = "/run/virt-vgpu/daemon.json";
    let Some(notes) = DaemonNotes::read(view.host)? else {
        return Ok(());
    };
    let what = match (notes.is_current(view.host), notes.connected) {
        (true, true) => return Ok(()),
        (true, false) => "virt-vgpud has no connection to libvirt",
        (false, _) => "virt-vgpud has ended",
    };
    found.add(
        what,
        [says(NOTES, what)],
        "start it again, and see why it has ended",
        [
            "systemctl restart virt-vgpud.service".to_owned(),
            "journalctl -b -t virt-vgpud -n 50".to_owned(),
        ],
    );
    Ok(())
}
