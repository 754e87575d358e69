//! Loads another driver: services stopped, virtual functions removed, the modules unloaded, the
//! driver of a set installed and loaded, services started, GPUs set up for their pools. If a step
//! fails, the former driver comes back where that is possible.

use std::{collections::BTreeSet, fmt, time::Duration};

use anyhow::{Context, anyhow, bail};
use serde::Serialize;

use super::{
    Holders, Installer, PURPOSE, Work,
    driver::{self, loaded_driver, loaded_modules},
    holders, services,
};
use crate::{
    device::{
        Sysfs, firmware, iommu,
        maintenance::{Load, LoadStep, Maintenance},
        readiness,
    },
    driver_set::{self, DriverSet},
    events,
    gpu_setup::{Asked, Job, JobReport, JobResult, Survey, Surveyed, carry_out, remove_functions},
    host::{
        Deadline, DriverLock, Host, complain, gpu_openers, libvirt::Libvirt, patience,
        refuse_interrupts,
    },
    model::{DriverSetName, PciAddress},
};

/// How long others may use NVIDIA's driver as a whole.
const OTHERS: Duration = Duration::from_secs(300);

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
    back: Option<Installer>,
    /// GPUs that cannot be set up for their pools as they are: that the new driver cannot either is
    /// no reason to go back.
    #[serde(skip)]
    unfit: BTreeSet<PciAddress>,
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
fn with_functions(host: &Host, gpus: &[PciAddress]) -> anyhow::Result<Vec<PciAddress>> {
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

/// What came of a change of the driver.
#[derive(Debug, Serialize)]
pub struct LoadReport {
    /// The driver set.
    pub set: DriverSetName,
    /// Whether its driver is loaded, and all steps were done.
    pub is_loaded: bool,
    /// The steps that were tried, in their order.
    pub steps: Vec<StepDone>,
    /// The step that failed, with the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// In which state the host is.
    pub state: String,
    /// The GPUs as they were set up.
    pub gpus: Vec<JobReport>,
    /// Problems that did not stop it.
    pub problems: Vec<String>,
}

/// A step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StepDone {
    /// Which.
    pub step: LoadStep,
    /// Whether it was done.
    pub done: bool,
}

/// Carries the plan out.
///
/// # Errors
/// When not even its beginning can be noted; then nothing has changed. A step that fails is in the
/// report.
pub fn load(work: &mut Work<'_>, set: &DriverSet, plan: &LoadPlan) -> anyhow::Result<LoadReport> {
    plan.file.check(work.host, set)?;
    refuse_interrupts()?;
    complain("virt-vgpu: from here on neither Ctrl-C nor a lost connection stops the change");
    work.change(|noted| {
        noted.load = Some(Load {
            set: plan.set.clone(),
            from: plan.from.clone(),
            from_set: plan.from_set.clone(),
            step: LoadStep::StopServices,
            failed: None,
        });
    })?;
    let mut run = Run {
        work,
        plan,
        steps: Vec::new(),
        gpus: Vec::new(),
        problems: Vec::new(),
        driver: None,
    };
    let failure = run.forward().err();
    let failed = failure.as_ref().map(Failure::to_string);
    let state = match &failure {
        None => format!("driver {} is loaded", plan.version),
        Some(failure) => {
            complain(&format!("virt-vgpu: {failure}"));
            run.back(failure.step)
        }
    };
    run.driver = None;
    let (is_back, state) = match state_in_words(run.work.host) {
        Ok((version, words)) if failure.is_some() => {
            (version == plan.from, format!("{state}; {words}"))
        }
        Ok(_) => (true, state),
        Err(error) => (false, format!("{state}; {}", events::one_line(&error))),
    };
    let told = failed
        .as_deref()
        .map_or_else(|| state.clone(), |why| format!("{why}; {state}"));
    events::log_driver_load(&plan.set, &told, failure.is_some());
    let ends = match is_back {
        true => LoadStep::Done,
        false => LoadStep::GoBack,
    };
    let noted = run.work.change(|noted| {
        if let Some(load) = &mut noted.load {
            load.step = ends;
            load.failed.clone_from(&failed);
        }
    });
    if let Err(error) = noted {
        run.problems.push(events::one_line(&error));
    }
    Ok(LoadReport {
        set: plan.set.clone(),
        is_loaded: failure.is_none(),
        steps: run.steps,
        failed,
        state,
        gpus: run.gpus,
        problems: run.problems,
    })
}

/// Which driver is loaded, and that in words.
fn state_in_words(host: &Host) -> anyhow::Result<(Option<String>, String)> {
    Ok(match loaded_driver(host)? {
        None => (None, "no driver of NVIDIA is loaded".to_owned()),
        Some(driver) => {
            let version = driver.version;
            let words = match &version {
                Some(version) => format!("driver {version} is loaded"),
                None => "a driver is loaded that does not tell its version".to_owned(),
            };
            (version, words)
        }
    })
}

/// A step that was not done.
#[derive(Debug)]
struct Failure {
    step: LoadStep,
    why: anyhow::Error,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}", self.step, events::one_line(&self.why))
    }
}

struct Run<'r, 'a> {
    work: &'r mut Work<'a>,
    plan: &'r LoadPlan,
    steps: Vec<StepDone>,
    gpus: Vec<JobReport>,
    problems: Vec<String>,
    /// While the modules change, nothing of ours asks the driver.
    driver: Option<DriverLock>,
}

impl Run<'_, '_> {
    fn forward(&mut self) -> Result<(), Failure> {
        let plan = self.plan;
        self.step(LoadStep::StopServices, Self::stop_services)?;
        self.step(LoadStep::RemoveFunctions, Self::remove_functions)?;
        self.step(LoadStep::Unload, |run| {
            run.driver = Some(run.driver_alone()?);
            driver::unload(run.work.host)
        })?;
        self.step(LoadStep::Install, |run| plan.file.run(run.work.host))?;
        self.step(LoadStep::Load, |run| {
            driver::load(run.work.host, Some(&plan.version))
        })?;
        self.step(LoadStep::StartServices, Self::start_services)?;
        self.driver = None;
        self.step(LoadStep::SetUp, Self::set_up)
    }

    fn step(
        &mut self,
        step: LoadStep,
        act: impl FnOnce(&mut Self) -> anyhow::Result<()>,
    ) -> Result<(), Failure> {
        complain(&format!(
            "virt-vgpu: step {} of {}: {step}{}",
            self.steps.len() + 1,
            LoadStep::FORWARD,
            match step {
                LoadStep::Install => ", which may take some minutes",
                _ => "",
            }
        ));
        events::log_driver_load(&self.plan.set, &step.to_string(), false);
        let noted = self.work.change(|noted| {
            if let Some(load) = &mut noted.load {
                load.step = step;
            }
        });
        let done = noted.and_then(|()| act(self));
        self.steps.push(StepDone {
            step,
            done: done.is_ok(),
        });
        done.map_err(|why| Failure { step, why })
    }

    fn driver_alone(&self) -> anyhow::Result<DriverLock> {
        let deadline = Deadline::after(OTHERS);
        Ok(DriverLock::acquire(self.work.host, PURPOSE, deadline)?)
    }

    fn stop_services(&mut self) -> anyhow::Result<()> {
        let host = self.work.host;
        let running = services::running(host)?;
        self.work.change(|noted| {
            for service in &running {
                if !noted.services.contains(service) {
                    noted.services.push(service.clone());
                }
            }
        })?;
        running
            .iter()
            .try_for_each(|service| services::stop(host, service))
    }

    fn remove_functions(&mut self) -> anyhow::Result<()> {
        let host = self.work.host;
        // Without a driver they are of no use, and nobody removes them.
        if loaded_driver(host)?.is_none() {
            return Ok(());
        }
        let gpus = readiness::all(host).context("cannot look for GPUs")?;
        for gpu in with_functions(host, &gpus)? {
            remove_functions(host, gpu).map_err(|why| anyhow!("{gpu}: {why}"))?;
        }
        Ok(())
    }

    fn start_services(&mut self) -> anyhow::Result<()> {
        let stopped = self.work.noted().map(|noted| noted.services.clone());
        let restarted = services::restart(self.work.host, &stopped.unwrap_or_default());
        // Those that do not run yet are started at the end of maintenance.
        self.work.change(|noted| {
            let failed = |name: &String| {
                let mut failed = restarted.failed.iter();
                failed.any(|one| one.service.name == name)
            };
            noted.services.retain(failed);
        })?;
        for one in restarted.failed {
            if one.service.is_vital {
                return Err(one.why);
            }
            self.problems.push(events::one_line(&one.why));
        }
        Ok(())
    }

    fn set_up(&mut self) -> anyhow::Result<()> {
        let gpus = self.work.noted().map(|noted| noted.gpus.clone());
        let gpus = gpus.unwrap_or_default();
        let (gpus, problems) = set_up(self.work.host, &gpus)?;
        let has_failed = |gpu: &&JobReport| {
            gpu.result == JobResult::Failed && !self.plan.unfit.contains(&gpu.gpu)
        };
        let failed = gpus.iter().find(has_failed);
        let failed = failed.map(|gpu| {
            let why = gpu.reason.as_deref().unwrap_or_default();
            anyhow!("{}: {why}", gpu.gpu)
        });
        self.gpus = gpus;
        self.problems.extend(problems);
        failed.map_or(Ok(()), Err)
    }

    /// Goes back after a step has failed. Returns what came of it.
    fn back(&mut self, failed: LoadStep) -> String {
        let plan = self.plan;
        complain(&format!("virt-vgpu: {}", LoadStep::GoBack));
        // Also with a full disk it is worth a try.
        let noted = self.work.change(|noted| {
            if let Some(load) = &mut noted.load {
                load.step = LoadStep::GoBack;
            }
        });
        if let Err(error) = noted {
            self.problems.push(events::one_line(&error));
        }
        let result = self.former_driver(failed);
        self.steps.push(StepDone {
            step: LoadStep::GoBack,
            done: result.is_ok(),
        });
        let has_driver = matches!(loaded_driver(self.work.host), Ok(Some(_)));
        if has_driver {
            if let Err(error) = self.start_services() {
                self.problems.push(events::one_line(&error));
            }
            self.driver = None;
            if let Err(error) = self.set_up() {
                self.problems.push(events::one_line(&error));
            }
        }
        match (result, &plan.from) {
            (Ok(()), Some(_)) => "the former driver is back".to_owned(),
            (Ok(()), None) => "there was no driver before".to_owned(),
            (Err(error), _) => format!(
                "going back to the former driver failed: {}",
                events::one_line(&error)
            ),
        }
    }

    /// Makes the former driver the loaded one.
    fn former_driver(&mut self, failed: LoadStep) -> anyhow::Result<()> {
        let (host, plan) = (self.work.host, self.plan);
        if failed < LoadStep::Unload {
            return Ok(());
        }
        if self.driver.is_none() {
            self.driver = Some(self.driver_alone()?);
        }
        let Some(from) = plan.from.as_deref() else {
            return match failed < LoadStep::Install {
                true => Ok(()),
                false => driver::unload(host),
            };
        };
        if failed < LoadStep::Install {
            return driver::load(host, Some(from));
        }
        // They may have come up with the new driver.
        self.stop_services()?;
        if failed == LoadStep::SetUp {
            self.driver = None;
            self.remove_functions()?;
            self.driver = Some(self.driver_alone()?);
        }
        driver::unload(host)?;
        let installed = plan.back.as_ref().map(|back| back.run(host)).transpose();
        // Where nothing could be installed, it may be as it was.
        let loaded = driver::load(host, Some(from));
        if let (Ok(()), Err(error)) = (&loaded, &installed) {
            self.problems.push(format!(
                "driver {from} could not be installed again, only loaded: {}",
                events::one_line(error)
            ));
        }
        loaded.map_err(|error| match (installed, &plan.back) {
            (Err(why), _) => anyhow!("{why:#}; {error:#}"),
            (Ok(_), Some(_)) => error,
            (Ok(_), None) => anyhow!(
                "{error:#}; driver {from} is in no driver set, so it cannot be installed again: \
                 install it by hand, or store its bundle ('virt-vgpu driver add') and run \
                 'virt-vgpu driver load'"
            ),
        })
    }
}

/// Sets up GPUs for their pools, as at boot. Returns what came of it, and problems that are
/// not of one GPU.
///
/// # Errors
/// When it cannot be told what pools want.
pub fn set_up(
    host: &Host,
    gpus: &BTreeSet<PciAddress>,
) -> anyhow::Result<(Vec<JobReport>, Vec<String>)> {
    const WAIT: Duration = Duration::from_secs(60);
    // Without an answer for a minute of the driver, the next question is another one.
    host.be_patient_again();
    let survey = Survey::read_alone(host)?;
    let is_meant = |one: &&Surveyed| gpus.contains(&one.gpu) && !matches!(one.wanted, Ok(None));
    let wanted = survey.gpus.iter().filter(is_meant);
    let mut jobs: Vec<Job> = wanted.map(Job::new).collect();
    let asked = Asked {
        wait: WAIT,
        renew: false,
    };
    let mut problems = survey.problems.clone();
    problems.extend(carry_out(host, &survey, &mut jobs, asked));
    Ok((jobs.into_iter().map(|job| job.report).collect(), problems))
}
