//! The steps carried out, GPU by GPU: each phase for all of them before the next
//! one, since no question may be open to NVML while `sriov-manage` runs, and the
//! waiting for one GPU is the waiting for all.

use std::{collections::BTreeSet, time::Duration};

use super::{
    apply::{GpuReport, GpuResult, StepReport},
    module_options::ModuleOptions,
    sriov::{Trouble, held, make_functions, sriov_manage},
    state,
    survey::{Survey, Surveyed},
    users,
};
use crate::{
    claims,
    device::{
        driver_option::{self, FILE},
        gpu,
        nvml::{Failure, FailureKind, Question, Scheduler},
        readiness::{self, Driver},
    },
    host::{Deadline, DriverLock, GpuLock, Host, HostLock, NvmlChild},
    model::PciAddress,
    plan::host_settings::{Actual, Planned, Step, Wish, step_in_words, unready_in_words, way},
};

/// What the locks are held for.
pub(super) const PURPOSE: &str = "virt-vgpu host apply";

/// How long to wait for another run that is at work on the same GPU: it may wait
/// for the driver and for types, and run `sriov-manage` twice.
pub(super) const OTHERS: Duration = Duration::from_secs(300);

/// How long to wait for a hook that is at work.
const HOOKS: Duration = Duration::from_secs(25);

/// What was asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Order {
    pub(super) wait: Duration,
    pub(super) renew: bool,
}

/// A GPU at work.
#[derive(Debug)]
pub(super) struct Job {
    /// None: there is nothing to do but to say why.
    pub(super) wish: Option<Wish>,
    pub(super) report: GpuReport,
    lock: Option<GpuLock>,
}

impl Job {
    pub(super) fn new(surveyed: &Surveyed) -> Self {
        let mut job = Self {
            wish: None,
            report: GpuReport {
                gpu: surveyed.gpu,
                pools: Vec::new(),
                result: GpuResult::NothingToDo,
                steps: Vec::new(),
                reason: None,
                notes: Vec::new(),
            },
            lock: None,
        };
        match &surveyed.wish {
            Ok(Some(wish)) => {
                job.report.pools.clone_from(&wish.pools);
                job.wish = Some(wish.clone());
            }
            Ok(None) => job.refuse(
                "no pool of kind nvidia-vgpu takes it, so nothing is known of how it should be; \
                 'virt-vgpu pool preview POOL' tells why a pool does not"
                    .to_owned(),
            ),
            Err(conflict) => job.refuse(conflict.to_string()),
        }
        job
    }

    pub(super) fn refuse(&mut self, reason: String) {
        self.end(GpuResult::Refused, reason);
    }

    pub(super) fn fail(&mut self, reason: String) {
        self.end(GpuResult::Failed, reason);
    }

    /// The first reason counts; later steps are not tried.
    fn end(&mut self, result: GpuResult, reason: String) {
        self.report.result = result;
        self.report.reason = Some(reason);
        self.wish = None;
        self.lock = None;
    }

    fn stumble(&mut self, trouble: Trouble) {
        match trouble {
            Trouble::Refused(reason) => self.refuse(reason),
            Trouble::Failed(reason) => self.fail(reason),
        }
    }

    fn note(&mut self, planned: &Planned, done: bool) {
        let what = step_in_words(self.report.gpu, &planned.step);
        self.note_as(what, planned.why.clone(), done);
    }

    fn note_as(&mut self, what: String, why: String, done: bool) {
        if done {
            self.report.result = GpuResult::Set;
        }
        self.report.steps.push(StepReport { what, why, done });
    }

    /// The step of the way that `wanted` picks, while the job goes on.
    fn step(&self, actual: &Actual, wanted: impl Fn(&Step) -> bool) -> Option<Planned> {
        let way = way(self.report.gpu, self.wish.as_ref()?, actual);
        way.steps.into_iter().find(|planned| wanted(&planned.step))
    }

    /// How the GPU is; a job whose GPU cannot be looked at ends.
    fn look(&mut self, host: &Host) -> Option<Actual> {
        self.wish.as_ref()?;
        match state::of(host, self.report.gpu) {
            Ok(actual) => Some(actual),
            Err(error) => {
                self.fail(format!("{error:#}"));
                None
            }
        }
    }
}

/// Does what there is to do, and tells what concerns no single GPU.
pub(super) fn carry_out(
    host: &Host,
    survey: &Survey,
    jobs: &mut [Job],
    order: Order,
) -> Vec<String> {
    let others = Deadline::after(OTHERS);
    for job in jobs.iter_mut().filter(|job| job.wish.is_some()) {
        match GpuLock::acquire(host, job.report.gpu, PURPOSE, others) {
            Ok(lock) => job.lock = Some(lock),
            Err(error) => job.fail(error.to_string()),
        }
    }
    await_drivers(host, jobs, order.wait);
    for job in jobs.iter_mut() {
        if order.renew {
            renew_functions(host, job);
        } else {
            enable_functions(host, job);
        }
    }
    await_types(host, jobs, order.wait);
    let mut options = OptionUse::default();
    for job in jobs.iter_mut() {
        if order.renew {
            end_quarantine(host, job);
        }
        set(host, job, &mut options);
    }
    settle_options(host, survey, jobs, &options)
}

fn await_drivers(host: &Host, jobs: &mut [Job], wait: Duration) {
    let is_bound =
        |gpu| matches!(readiness::driver(host, gpu), Ok(driver) if driver != Driver::None);
    let mut waiting = Vec::new();
    for job in jobs.iter_mut() {
        let Some(actual) = job.look(host) else {
            continue;
        };
        let obstacles = job
            .wish
            .as_ref()
            .map(|wish| way(job.report.gpu, wish, &actual).obstacles)
            .unwrap_or_default();
        if let Some(obstacle) = obstacles.into_iter().next() {
            job.refuse(obstacle);
        } else if let Some(planned) = job.step(&actual, |step| *step == Step::AwaitDriver) {
            waiting.push((job, planned));
        }
    }
    Deadline::after(wait).wait_until(|| {
        let mut gpus = waiting.iter().map(|(job, _)| job.report.gpu);
        gpus.all(is_bound)
    });
    for (job, planned) in waiting {
        let bound = is_bound(job.report.gpu);
        job.note(&planned, bound);
        if !bound {
            job.fail(format!(
                "no driver has bound in {} s; 'modprobe nvidia' loads it, 'journalctl -k -g NVRM' \
                 tells what it says",
                wait.as_secs()
            ));
        }
    }
}

fn enable_functions(host: &Host, job: &mut Job) {
    let Some(actual) = job.look(host) else { return };
    let Some(planned) = job.step(&actual, |step| *step == Step::EnableFunctions) else {
        return;
    };
    let done = make_functions(host, job.report.gpu);
    job.note(&planned, done.is_ok());
    if let Err(trouble) = done {
        job.stumble(trouble);
    }
}

fn renew_functions(host: &Host, job: &mut Job) {
    let Some(actual) = job.look(host) else { return };
    let gpu = job.report.gpu;
    if actual.functions.total == 0 {
        return job.refuse("it has no virtual functions that could be renewed".to_owned());
    }
    let done = take_functions_away(host, gpu, actual.functions.enabled)
        .and_then(|()| make_functions(host, gpu));
    let planned = Planned {
        step: Step::RenewFunctions,
        why: "asked for by --renew".to_owned(),
    };
    job.note(&planned, done.is_ok());
    if let Err(trouble) = done {
        job.stumble(trouble);
    }
}

/// Holds the host lock for as long as others can wait for it without giving up:
/// by then `sriov-manage` has the GPU to itself, and nobody can make a vGPU of a
/// function that is going away.
fn take_functions_away(host: &Host, gpu: PciAddress, enabled: u32) -> Result<(), Trouble> {
    const LONGEST: Duration = Duration::from_secs(10);
    let lock = HostLock::acquire(host, PURPOSE, Deadline::after(HOOKS)).map_err(held)?;
    refuse_in_use(host, gpu)?;
    if enabled == 0 {
        return Ok(());
    }
    let longest = Deadline::after(LONGEST);
    let mut lock = Some(lock);
    sriov_manage(host, "-d", gpu, &mut || {
        if longest.has_passed() {
            lock = None;
        }
    })?;
    Ok(())
}

fn refuse_in_use(host: &Host, gpu: PciAddress) -> Result<(), Trouble> {
    let users = users::users(host, gpu).map_err(|error| Trouble::Refused(format!("{error:#}")))?;
    users::refusal(gpu, &users).map_or(Ok(()), |refusal| Err(Trouble::Refused(refusal)))
}

fn await_types(host: &Host, jobs: &mut [Job], wait: Duration) {
    let unready = |gpu| match readiness::functions(host, gpu) {
        Ok(functions) => Some(functions).filter(|functions| !functions.unready.is_empty()),
        // Functions that come and go at this moment.
        Err(_) => None,
    };
    let mut waiting = Vec::new();
    for job in jobs.iter_mut() {
        let Some(actual) = job.look(host) else {
            continue;
        };
        if let Some(planned) = job.step(&actual, |step| *step == Step::AwaitTypes) {
            waiting.push((job, planned));
        }
    }
    Deadline::after(wait).wait_until(|| {
        let mut gpus = waiting.iter().map(|(job, _)| job.report.gpu);
        gpus.all(|gpu| unready(gpu).is_none())
    });
    for (job, planned) in waiting {
        let gpu = job.report.gpu;
        let left = unready(gpu);
        job.note(&planned, left.is_none());
        let Some(left) = left else { continue };
        let renew = match left.total {
            0 => "its driver may be one without vGPUs, or not know this kernel".to_owned(),
            _ => format!("'virt-vgpu host apply --renew {gpu}' makes the functions anew"),
        };
        job.fail(format!(
            "{} after {} s; 'systemctl status nvidia-vgpud' tells whether NVIDIA's types were \
             loaded; {renew}",
            unready_in_words(left.total, &left.unready),
            wait.as_secs()
        ));
    }
}

/// New functions have nothing of the old ones.
fn end_quarantine(host: &Host, job: &mut Job) {
    if job.wish.is_none() {
        return;
    }
    let functions = gpu::functions(host, job.report.gpu).unwrap_or_default();
    for function in functions {
        let path = format!("{}/{function}.json", claims::QUARANTINE);
        if let Err(error) = host.remove_file(&path) {
            return job.fail(format!("cannot remove {path}: {error}; remove it by hand"));
        }
    }
}

/// Schedulers and the ways that they went.
#[derive(Debug, Default)]
struct OptionUse {
    /// GPUs whose driver takes one only when it is loaded.
    needing: BTreeSet<PciAddress>,
    /// GPUs that took theirs just now.
    took: BTreeSet<PciAddress>,
}

fn set(host: &Host, job: &mut Job, options: &mut OptionUse) {
    let (Some(actual), Some(wish)) = (job.look(host), job.wish.clone()) else {
        return;
    };
    let gpu = job.report.gpu;
    let users = match users::users(host, gpu) {
        Ok(users) => users,
        Err(error) => return job.refuse(format!("{error:#}")),
    };
    let actual = {
        let driver = DriverLock::acquire(host, PURPOSE, Deadline::after(OTHERS));
        match driver {
            Ok(_driver) => state::complete(host, gpu, Some(&wish), &users, actual),
            Err(error) => return job.fail(error.to_string()),
        }
    };
    let way = way(gpu, &wish, &actual);
    for planned in &way.steps {
        match set_one(host, gpu, &planned.step) {
            Ok(Done::Now) => {
                job.note(planned, true);
                if matches!(planned.step, Step::SetScheduler(_)) {
                    options.took.insert(gpu);
                }
            }
            Ok(Done::AtLoad) => {
                options.needing.insert(gpu);
            }
            Err(trouble) => {
                job.note(planned, false);
                job.stumble(trouble);
                return;
            }
        }
    }
    if let Some(obstacle) = way.obstacles.into_iter().next() {
        job.fail(obstacle);
    }
}

/// When a setting takes effect.
enum Done {
    Now,
    AtLoad,
}

/// Under the host lock from the look at who uses the GPU to the end of the change,
/// so that no hook makes a vGPU in between.
fn set_one(host: &Host, gpu: PciAddress, step: &Step) -> Result<Done, Trouble> {
    let question = match step {
        Step::SetHeterogeneous(on) => Question::SetHeterogeneous { gpu, on: *on },
        Step::SetScheduler(scheduler) => Question::SetScheduler {
            gpu,
            scheduler: *scheduler,
        },
        // Earlier phases have done what there was; a GPU that has lost its driver
        // or functions since is told as what it is.
        Step::AwaitDriver | Step::EnableFunctions | Step::RenewFunctions | Step::AwaitTypes => {
            let lost = "it has lost its driver or its virtual functions meanwhile; try again";
            return Err(Trouble::Failed(lost.to_owned()));
        }
    };
    let _driver = DriverLock::acquire(host, PURPOSE, Deadline::after(OTHERS)).map_err(held)?;
    let _lock = HostLock::acquire(host, PURPOSE, Deadline::after(HOOKS)).map_err(held)?;
    refuse_in_use(host, gpu)?;
    let nvml = NvmlChild::new(host, Deadline::after(NvmlChild::PATIENCE));
    match nvml.ask(&question) {
        Ok(_) => Ok(Done::Now),
        Err(failure) => refused_by_nvml(step, failure),
    }
}

fn refused_by_nvml(step: &Step, failure: Failure) -> Result<Done, Trouble> {
    let Failure { kind, message } = failure;
    match (step, kind) {
        // No vGPU is there, so it is the driver that cannot.
        (Step::SetScheduler(scheduler), FailureKind::NotSupported | FailureKind::NoSymbol) => {
            encodable(scheduler, &message).map(|()| Done::AtLoad)
        }
        (_, FailureKind::InUse) => Err(Trouble::Refused(format!(
            "in use, says its driver: {message}; 'nvidia-smi vgpu' shows by whom"
        ))),
        (_, FailureKind::NoGpu) => Err(Trouble::Failed(format!(
            "{message}; 'journalctl -k -g NVRM' tells what the driver says"
        ))),
        (_, FailureKind::NoLibrary) => Err(Trouble::Failed(format!(
            "{message}; check that NVIDIA's driver and its library are of one version"
        ))),
        _ => Err(Trouble::Failed(format!(
            "{message}; 'virt-vgpu host show' tells what the GPU takes"
        ))),
    }
}

fn encodable(scheduler: &Scheduler, message: &str) -> Result<(), Trouble> {
    match driver_option::encode(scheduler) {
        Ok(_) => Ok(()),
        Err(why) => Err(Trouble::Failed(format!(
            "{message}; and as an option of the driver it cannot be written: {why}; change the \
             pool's [scheduler]"
        ))),
    }
}

/// Brings the modprobe file up to date and says what it means for each GPU.
fn settle_options(
    host: &Host,
    survey: &Survey,
    jobs: &mut [Job],
    options: &OptionUse,
) -> Vec<String> {
    let changed = {
        let driver = DriverLock::acquire(host, PURPOSE, Deadline::after(OTHERS));
        let settle = |_driver| {
            ModuleOptions::read(host)?.settle(host, survey, &options.needing, &options.took)
        };
        driver.map_err(anyhow::Error::from).and_then(settle)
    };
    let mut needing = jobs
        .iter_mut()
        .filter(|job| options.needing.contains(&job.report.gpu));
    match changed {
        Ok(changed) => {
            for job in needing {
                if changed {
                    let what = format!("write its scheduler into {FILE}");
                    let why = "the driver takes it only when it is loaded".to_owned();
                    job.note_as(what, why, true);
                }
                job.report.notes.push(format!(
                    "the scheduler waits in {FILE} until the driver is loaded anew: reboot, after \
                     'update-initramfs -u' where the initramfs has the driver"
                ));
            }
            Vec::new()
        }
        Err(error) => {
            let text = format!("{error:#}");
            let Some(first) = needing.next() else {
                return vec![text];
            };
            first.fail(text.clone());
            for job in needing {
                job.fail(text.clone());
            }
            Vec::new()
        }
    }
}
