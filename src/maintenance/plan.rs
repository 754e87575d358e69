//! What a change of the host's driver would do, and what prevents it: found out before anything
//! is touched.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, bail};
use serde::Serialize;

use super::{
    Holders, Installer,
    driver::{self, loaded_driver, loaded_modules},
    holders, services,
};
use crate::{
    device::{
        Sysfs, firmware, iommu,
        maintenance::{LoadStep, Maintenance},
        readiness,
    },
    driver_set::{self, DriverSet},
    gpu_setup::{Job, JobResult, Survey},
    host::{Host, gpu_openers, libvirt::Libvirt, patience},
    model::{DriverSetName, PciAddress},
};

/// What a change of the driver would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LoadPlan {
    /// The driver set.
    pub set: DriverSetName,
    /// The version of its driver for hosts.
    pub version: String,
    /// The version that is loaded now; None: no driver is loaded, or it does not say.
    pub from: Option<String>,
    /// A driver set with that version, which can be gone back to.
    pub from_set: Option<DriverSetName>,
    /// What is installed.
    pub file: Installer,
    /// What goes back to the former driver.
    #[serde(skip)]
    pub(super) back: Option<Installer>,
    /// GPUs that cannot be set up for their pools as they are: that the new driver cannot either is
    /// no reason to go back.
    #[serde(skip)]
    pub(super) unfit: BTreeSet<PciAddress>,
    /// The steps, in words.
    pub steps: Vec<String>,
    /// What should be known before.
    pub notes: Vec<String>,
    /// Whether this driver is loaded already, and its last change was completed.
    pub is_loaded: bool,
}

/// Finds out whether the driver can be changed now, and how.
///
/// # Errors
/// Why it cannot, with the next step; nothing was changed.
pub fn plan_load(
    host: &Host,
    libvirt: Option<&Libvirt>,
    noted: Option<&Maintenance>,
    set: &DriverSet,
) -> anyhow::Result<LoadPlan> {
    let Some(version) = set.host() else {
        bail!("it has no driver for hosts; 'virt-vgpu driver list' shows the sets that have");
    };
    let file = Installer::of(host, set)?;
    let Some(noted) = noted else {
        bail!(
            "the host's driver is changed in maintenance only; 'virt-vgpu maintenance enter' keeps \
             its GPUs from starts of VMs"
        );
    };
    let all = readiness::all(host).context("cannot look for GPUs")?;
    let outside: Vec<String> = all
        .iter()
        .filter(|gpu| !noted.gpus.contains(gpu))
        .map(ToString::to_string)
        .collect();
    if !outside.is_empty() {
        bail!(
            "all GPUs have the same driver, and some are not in maintenance: {}; 'virt-vgpu \
             maintenance enter' takes them all",
            outside.join(", ")
        );
    }
    if !driver::has_modprobe(host) {
        bail!(
            "there is no modprobe, which loads and unloads the driver; install kmod ('apt-get \
             install kmod', 'dnf install kmod')"
        );
    }
    if !services::has_systemd(host) {
        bail!("there is no systemctl, which stops and starts the driver's services");
    }
    refuse_nouveau(host)?;
    refuse_holders(&holders(host, libvirt, noted)?)?;
    refuse_clients(host)?;
    let (from, mut notes) = (loaded_driver(host)?, notes(host, libvirt)?);
    let survey = Survey::read(host)?;
    let with = with_functions(host, &all)?;
    notes.extend(lost_functions(&survey, &with));
    let version = version.to_string();
    let is_loaded = from.as_ref().and_then(|it| it.version.as_ref()) == Some(&version);
    // After a change that was cut off, the driver from before it.
    let cut_off = noted
        .load
        .as_ref()
        .filter(|load| load.step != LoadStep::Done);
    let from = match cut_off {
        Some(load) => load.from.clone(),
        None => from.and_then(|it| it.version),
    };
    let former = former(host, from.as_deref())?;
    let back = former
        .as_ref()
        .and_then(|set| Installer::of(host, set).ok());
    let mut plan = LoadPlan {
        set: set.name.clone(),
        version,
        from_set: former.map(|set| set.name),
        from,
        file,
        back,
        unfit: BTreeSet::new(),
        steps: Vec::new(),
        notes,
        is_loaded: is_loaded && cut_off.is_none(),
    };
    plan.steps = plan.steps_in_words(host, &with)?;
    for (gpu, why) in unfit(host, &survey) {
        plan.notes.push(format!(
            "{gpu} cannot be set up for its pools now, and the change does not depend on it: {why}"
        ));
        plan.unfit.insert(gpu);
    }
    if let (Some(from), None) = (&plan.from, &plan.back) {
        plan.notes.push(format!(
            "no driver set has the present driver, {from}: if the new one fails, it can only come \
             back if it is still installed; 'virt-vgpu driver add' stores its bundle"
        ));
    }
    Ok(plan)
}

/// A set with that version of the host's driver.
fn former(host: &Host, version: Option<&str>) -> anyhow::Result<Option<DriverSet>> {
    let Some(version) = version else {
        return Ok(None);
    };
    let (sets, _) = driver_set::all(host).context("cannot read the driver sets")?;
    let mut sets = sets.into_iter();
    Ok(sets.find(|set| set.host().is_some_and(|its| its.as_str() == version)))
}

fn refuse_nouveau(host: &Host) -> anyhow::Result<()> {
    if !host.exists("/sys/module/nouveau") {
        return Ok(());
    }
    bail!(
        "nouveau is loaded, the kernel's own driver, and NVIDIA's cannot have a GPU beside it; this \
         takes a reboot: put 'blacklist nouveau' into /etc/modprobe.d/blacklist-nouveau.conf, make \
         the initramfs again ('update-initramfs -u' or 'dracut -f'), and reboot"
    )
}

fn refuse_holders(holders: &Holders) -> anyhow::Result<()> {
    if holders.is_nobody() {
        return Ok(());
    }
    bail!(
        "the GPUs are in use: {}; 'virt-vgpu maintenance enter --shutdown' shuts VMs down, \
         '--migrate URI' moves them",
        holders.in_words()
    )
}

/// Who has the driver open and is none of the services that are stopped.
fn refuse_clients(host: &Host) -> anyhow::Result<()> {
    /// Somebody who only looks.
    const VISIT: Duration = Duration::from_secs(3);
    let foreign = || -> Vec<String> {
        let openers = gpu_openers(host).into_iter().filter(|opener| {
            let is_of = |unit: &String| services::SERVICES.iter().any(|its| its.name == unit);
            !opener.unit.as_ref().is_some_and(is_of)
        });
        openers.map(|opener| opener.to_string()).collect()
    };
    if patience(VISIT).wait_until(|| foreign().is_empty()) {
        return Ok(());
    }
    bail!(
        "others have the driver open, and it cannot be unloaded then: {}; stop them, then try again",
        foreign().join(", ")
    )
}

fn notes(host: &Host, libvirt: Option<&Libvirt>) -> anyhow::Result<Vec<String>> {
    let mut notes = Vec::new();
    if matches!(firmware::secure_boot(host), Ok(Some(true))) {
        notes.push(
            "Secure Boot is on: the kernel loads the driver only if its modules are signed with a \
             key that this host trusts ('mokutil --list-enrolled'); a new key takes a reboot"
                .to_owned(),
        );
    }
    let groups = host.list(iommu::GROUPS).unwrap_or_default();
    if groups.is_empty() {
        notes.push(
            "the IOMMU is off: virtual functions take a reboot with intel_iommu=on (Intel) on the \
             kernel's command line"
                .to_owned(),
        );
    }
    if loaded_driver(host)?.is_none() {
        notes.push(
            "no driver is loaded now: if this one is the first on this host and does not load, \
             another driver has claimed a resource of the GPUs, and a reboot helps"
                .to_owned(),
        );
    }
    if libvirt.is_none() && host.is_real() {
        notes.push(
            "libvirt does not answer: VMs that name a GPU themselves were not looked for"
                .to_owned(),
        );
    }
    Ok(notes)
}

impl LoadPlan {
    fn steps_in_words(&self, host: &Host, with: &[PciAddress]) -> anyhow::Result<Vec<String>> {
        let running = services::running(host)?;
        let mut steps = Vec::new();
        if !running.is_empty() {
            steps.push(format!("stop {}", running.join(", ")));
        }
        let with: Vec<String> = with.iter().map(ToString::to_string).collect();
        if !with.is_empty() {
            steps.push(format!(
                "remove the virtual functions of {}",
                with.join(", ")
            ));
        }
        let modules = loaded_modules(host);
        if !modules.is_empty() {
            steps.push(format!("unload {}", modules.join(", ")));
        }
        steps.push(format!("install {}", self.file));
        steps.push(format!("load the driver, version {}", self.version));
        steps.push("start the driver's services".to_owned());
        steps.push("set up the GPUs for their pools, as at boot".to_owned());
        Ok(steps)
    }
}

/// The GPUs that have virtual functions now.
pub(super) fn with_functions(host: &Host, gpus: &[PciAddress]) -> anyhow::Result<Vec<PciAddress>> {
    let mut with = Vec::new();
    for &gpu in gpus {
        let functions = readiness::functions(host, gpu).with_context(|| format!("{gpu}"))?;
        if functions.enabled > 0 {
            with.push(gpu);
        }
    }
    Ok(with)
}

/// The GPUs that cannot be set up for their pools as they are, each with the reason.
fn unfit(host: &Host, survey: &Survey) -> Vec<(PciAddress, String)> {
    let wanted = survey
        .gpus
        .iter()
        .filter(|one| !matches!(one.wanted, Ok(None)));
    let failing = wanted.filter_map(|surveyed| {
        let mut job = Job::new(surveyed);
        job.foresee(host, false);
        let is_unfit = matches!(job.report.result, JobResult::Failed | JobResult::Refused);
        is_unfit.then(|| (surveyed.gpu, job.report.reason.unwrap_or_default()))
    });
    failing.collect()
}

/// A sentence about virtual functions that are not made again, because no pool wants them.
fn lost_functions(survey: &Survey, with: &[PciAddress]) -> Option<String> {
    let is_wanted = |gpu: &PciAddress| {
        let mut surveyed = survey.gpus.iter();
        surveyed.any(|one| one.gpu == *gpu && !matches!(one.wanted, Ok(None)))
    };
    let lost = with.iter().filter(|gpu| !is_wanted(gpu));
    let lost: Vec<String> = lost.map(ToString::to_string).collect();
    (!lost.is_empty()).then(|| {
        format!(
            "no pool takes {}: the virtual functions are not made again by virt-vgpu",
            lost.join(", ")
        )
    })
}
