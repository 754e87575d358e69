//! Carries out the steps. Each phase is done for all GPUs before the next phase begins,
//! because NVML must not be in use while `sriov-manage` runs, and so that all GPUs are
//! waited for together.

use std::{collections::BTreeSet, io, time::Duration};

use super::{
    instances::{self, MigState},
    job::Job,
    module_options::ModuleOptions,
    sriov::{Alone, NotDone, make_functions, sriov_manage, who_has_it_open},
    state,
    steps::{Actual, NamedPlace, PlannedStep, SetupPlan, SetupStep, setup_plan, undo_of},
    survey::Survey,
    users,
    wanted::{WantedMig, WantedSettings},
};
use crate::{
    apply::Acts,
    claims,
    device::{
        driver_option::{self, FILE},
        gpu,
        nvml::{Failure, FailureKind, Question, Scheduler},
        our_instances::{self, OurInstances},
        readiness::{self, Driver},
    },
    host::{Deadline, DriverLock, GpuLock, Host, boot_id},
    model::PciAddress,
};

/// The purpose of the locks, for messages.
pub(super) const PURPOSE: &str = "virt-vgpu host apply";

/// How long to wait for another run on the same GPU. That run may wait for the driver and
/// for types, and run `sriov-manage` twice.
pub(super) const OTHERS: Duration = Duration::from_secs(300);

/// The options of the run.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    /// How long to wait for the driver, and again for the functions' types.
    pub wait: Duration,
    /// Whether all virtual functions are recreated.
    pub renew: bool,
}

/// Carries out all jobs. Returns the problems that do not belong to one GPU.
pub fn carry_out(host: &Host, survey: &Survey, jobs: &mut [Job], asked: Asked) -> Vec<String> {
    let others = Deadline::after(OTHERS);
    for job in jobs.iter_mut().filter(|job| job.wanted.is_some()) {
        match GpuLock::acquire(host, job.report.gpu, PURPOSE, others) {
            Ok(lock) => job.lock = Some(lock),
            Err(error) => job.fail(error.to_string()),
        }
    }
    await_drivers(host, jobs, asked.wait);
    for job in jobs.iter_mut() {
        switch_mode(host, job);
        if asked.renew {
            renew_functions(host, job);
        } else {
            enable_functions(host, job);
        }
    }
    await_types(host, jobs, asked.wait);
    let mut options = OptionUse::default();
    for job in jobs.iter_mut() {
        if asked.renew {
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
            .wanted
            .as_ref()
            .map(|wanted| setup_plan(job.report.gpu, wanted, &actual).obstacles)
            .unwrap_or_default();
        if let Some(obstacle) = obstacles.into_iter().next() {
            job.refuse(obstacle);
        } else if let Some(planned) = job.step(&actual, |step| *step == SetupStep::AwaitDriver) {
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
                 shows its messages",
                wait.as_secs()
            ));
        }
    }
}

/// Switches MIG mode, which comes before the virtual functions. A mode that stays pending ends
/// the job: nothing of what its pools want can be made.
fn switch_mode(host: &Host, job: &mut Job) {
    let gpu = job.report.gpu;
    if !state::needs_mode(host, gpu, job.wanted.as_ref()) {
        return;
    }
    let Some((wanted, actual)) = known(host, job) else {
        return;
    };
    let SetupPlan {
        steps,
        obstacles,
        pending,
        ..
    } = setup_plan(gpu, &wanted, &actual);
    if let Some(pending) = pending.filter(|_| steps.is_empty()) {
        return job.refuse(pending);
    }
    if let Some(obstacle) = obstacles.into_iter().next() {
        return job.fail(obstacle);
    }
    let is_mode = |planned: &PlannedStep| matches!(planned.step, SetupStep::SetMig(_));
    let Some(last) = steps.iter().position(is_mode) else {
        return;
    };
    // Without pools nothing comes later.
    let last = match wanted.pools.is_empty() {
        true => steps.len() - 1,
        false => last,
    };
    for planned in &steps[..=last] {
        let done = match &planned.step {
            SetupStep::EnableFunctions => make_functions(host, gpu).map(|()| TakesEffect::Now),
            SetupStep::RemoveFunctions => {
                take_functions_away(host, gpu, actual.functions.enabled).map(|()| TakesEffect::Now)
            }
            step => set_one(host, gpu, step, undo_of(gpu, step, &actual).ok().as_ref()),
        };
        job.note(planned, done.is_ok());
        if let Err(why) = done {
            return job.stop(why);
        }
    }
}

/// What is wanted of the GPU, and how it is, NVML's facts included; a job that cannot tell ends.
fn known(host: &Host, job: &mut Job) -> Option<(WantedSettings, Actual)> {
    let (actual, wanted) = (job.look(host)?, job.wanted.clone()?);
    let gpu = job.report.gpu;
    let users = match users::users(host, gpu) {
        Ok(users) => users,
        Err(error) => {
            job.refuse(format!("{error:#}"));
            return None;
        }
    };
    match DriverLock::acquire(host, PURPOSE, Deadline::after(OTHERS)) {
        Ok(_driver) => {
            let actual = state::complete(host, gpu, Some(&wanted), &users, actual);
            Some((wanted, actual))
        }
        Err(error) => {
            job.fail(error.to_string());
            None
        }
    }
}

fn enable_functions(host: &Host, job: &mut Job) {
    let Some(actual) = job.look(host) else { return };
    let Some(planned) = job.step(&actual, |step| *step == SetupStep::EnableFunctions) else {
        return;
    };
    let gpu = job.report.gpu;
    // For pools with GPU instances that was told with the mode.
    let is_looked_at = state::needs_mode(host, gpu, job.wanted.as_ref());
    let foreign = match is_looked_at {
        true => Ok(()),
        false => refuse_foreign_instances(host, gpu),
    };
    let done = foreign.and_then(|()| make_functions(host, gpu));
    job.note(&planned, done.is_ok());
    if let Err(why) = done {
        job.stop(why);
    }
}

fn renew_functions(host: &Host, job: &mut Job) {
    let Some(actual) = job.look(host) else { return };
    let gpu = job.report.gpu;
    if actual.functions.total == 0 {
        return job.refuse("it has no virtual functions that could be renewed".to_owned());
    }
    let done = refuse_foreign_instances(host, gpu)
        .and_then(|()| take_functions_away(host, gpu, actual.functions.enabled))
        .and_then(|()| make_functions(host, gpu));
    let planned = PlannedStep {
        step: SetupStep::RenewFunctions,
        why: "asked for by --renew".to_owned(),
    };
    job.note(&planned, done.is_ok());
    if let Err(why) = done {
        job.stop(why);
    }
}

/// New virtual functions cost a GPU all its GPU instances; ours are made again.
fn refuse_foreign_instances(host: &Host, gpu: PciAddress) -> Result<(), NotDone> {
    // Without MIG, or without NVML, there are none that could be told.
    let Ok(mig) = read_instances(host, gpu) else {
        return Ok(());
    };
    let foreign: Vec<String> = mig.foreign().map(|one| one.to_string()).collect();
    match foreign.is_empty() {
        true => Ok(()),
        false => Err(NotDone::Refused(format!(
            "GPU instances that virt-vgpu has not created would be lost: {}; destroy them \
             ('nvidia-smi mig -dgi -i {gpu}') when nobody needs them",
            foreign.join(", ")
        ))),
    }
}

/// Removes the virtual functions. No vGPU can be made on them meanwhile: a start that has
/// planned one waits for the GPU's lock, and then finds that the function has gone.
fn take_functions_away(host: &Host, gpu: PciAddress, enabled: u32) -> Result<(), NotDone> {
    let alone = Alone::with(host, gpu)?;
    refuse_in_use(host, gpu)?;
    if enabled > 0 {
        sriov_manage(host, "-d", gpu, &alone)?;
    }
    Ok(())
}

/// Removes the virtual functions of a GPU, if it has some, before its driver is unloaded.
///
/// # Errors
/// Why they stay, with the next step.
pub fn remove_functions(host: &Host, gpu: PciAddress) -> Result<(), String> {
    let functions = readiness::functions(host, gpu).map_err(|error| error.to_string())?;
    let lock = GpuLock::acquire(host, gpu, PURPOSE, Deadline::after(OTHERS));
    let _set_up = lock.map_err(|error| error.to_string())?;
    take_functions_away(host, gpu, functions.enabled).map_err(NotDone::why)
}

fn refuse_in_use(host: &Host, gpu: PciAddress) -> Result<(), NotDone> {
    let users = users::users(host, gpu).map_err(|error| NotDone::Refused(format!("{error:#}")))?;
    users::refusal(gpu, &users).map_or(Ok(()), |refusal| Err(NotDone::Refused(refusal)))
}

fn await_types(host: &Host, jobs: &mut [Job], wait: Duration) {
    let unready = |gpu| match readiness::functions(host, gpu) {
        Ok(functions) => Some(functions).filter(|functions| !functions.unready.is_empty()),
        // Functions that appear or disappear at this moment.
        Err(_) => None,
    };
    let mut waiting = Vec::new();
    for job in jobs.iter_mut() {
        let Some(actual) = job.look(host) else {
            continue;
        };
        if let Some(planned) = job.step(&actual, |step| *step == SetupStep::AwaitTypes) {
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
            _ => format!("'virt-vgpu host apply --renew {gpu}' recreates the functions"),
        };
        job.fail(format!(
            "{} after {} s; 'systemctl status nvidia-vgpud' shows whether NVIDIA's types were \
             loaded; {renew}",
            left.unready_in_words(),
            wait.as_secs()
        ));
    }
}

/// Ends the quarantine of the recreated functions.
fn end_quarantine(host: &Host, job: &mut Job) {
    if job.wanted.is_none() {
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

/// How GPUs got their schedulers.
#[derive(Debug, Default)]
struct OptionUse {
    /// GPUs whose driver accepts a scheduler only when it is loaded.
    needing: BTreeSet<PciAddress>,
    /// GPUs whose scheduler was set in this run.
    took: BTreeSet<PciAddress>,
}

fn set(host: &Host, job: &mut Job, options: &mut OptionUse) {
    let gpu = job.report.gpu;
    let Some((wanted, actual)) = known(host, job) else {
        return;
    };
    if let Some(Ok(mig)) = &actual.mig {
        if let Err(why) = forget_lost(host, gpu, mig) {
            return job.stop(why);
        }
    }
    let plan = setup_plan(gpu, &wanted, &actual);
    for planned in &plan.steps {
        let undo = undo_of(gpu, &planned.step, &actual).ok();
        match set_one(host, gpu, &planned.step, undo.as_ref()) {
            Ok(TakesEffect::Now) => {
                job.note(planned, true);
                if matches!(planned.step, SetupStep::SetScheduler(_)) {
                    options.took.insert(gpu);
                }
            }
            Ok(TakesEffect::AtLoad) => {
                options.needing.insert(gpu);
            }
            // A start uses it again.
            Err(NotDone::Refused(why)) if actual.gives_back(&planned.step) => {
                job.report.notes.push(why);
            }
            Err(why) => {
                job.note(planned, false);
                job.stop(why);
                return;
            }
        }
    }
    job.report.layout = plan.layout;
    job.report.notes.extend(plan.notes);
    job.report.notes.extend(plan.stays);
    if let Some(obstacle) = plan.obstacles.into_iter().next() {
        return job.fail(obstacle);
    }
    if let Err(why) = note_instances(host, gpu, &wanted, &actual, &plan.steps) {
        return job.stop(why);
    }
    if let Some(pending) = plan.pending {
        job.refuse(pending);
    }
}

/// Notes which GPU instances there are for which pools: starts of VMs go by the note. The driver
/// is asked again unless nothing was changed.
fn note_instances(
    host: &Host,
    gpu: PciAddress,
    wanted: &WantedSettings,
    before: &Actual,
    done: &[PlannedStep],
) -> Result<(), NotDone> {
    let read =
        || our_instances::read(host, gpu).map_err(|error| NotDone::Failed(error.to_string()));
    match &wanted.mig {
        WantedMig::On(pools) => {
            // A start may note what it makes for itself.
            let _alone = Alone::with(host, gpu)?;
            let noted = read()?;
            let mig = match &before.mig {
                Some(Ok(mig)) if done.is_empty() && mig.noted == noted => mig,
                _ => &read_instances_alone(host, gpu)?,
            };
            let needs = mig.needs(pools).map_err(NotDone::Failed)?;
            let note = mig.note(&needs.instances, pools, boot_id(host));
            if note != noted {
                write_note(host, gpu, &note)?;
            }
            claimed(mig, done).map_or(Ok(()), |why| Err(NotDone::Failed(why)))
        }
        WantedMig::Off => {
            let is_off = matches!(&before.mig, Some(Ok(mig)) if !mig.on && !mig.pending);
            let noted = read()?;
            let note = OurInstances {
                switched_on: noted.switched_on && !is_off,
                ..OurInstances::default()
            };
            match note == noted {
                true => Ok(()),
                false => write_note(host, gpu, &note),
            }
        }
        WantedMig::ByOthers => Ok(()),
    }
}

/// A GPU instance that the driver has created or destroyed by its own account alone.
fn claimed(mig: &MigState, done: &[PlannedStep]) -> Option<String> {
    done.iter().find_map(|planned| match &planned.step {
        SetupStep::CreateInstance(its) if !mig.is_there(its.place) => Some(format!(
            "the driver said that it has created GPU instance {its}, and it is not there; \
             'journalctl -k -g NVRM' shows its messages"
        )),
        SetupStep::DestroyInstance(its)
            if mig.is_there(its.place) && mig.users_at(its.place).is_empty() =>
        {
            Some(format!(
                "the driver said that it has destroyed GPU instance {its}, and it is still there; \
                 'journalctl -k -g NVRM' shows its messages"
            ))
        }
        _ => None,
    })
}

/// MIG's part of the GPU as it is now.
fn read_instances(host: &Host, gpu: PciAddress) -> Result<MigState, NotDone> {
    let driver = DriverLock::acquire(host, PURPOSE, Deadline::after(OTHERS));
    let _driver = driver.map_err(|error| NotDone::Failed(error.to_string()))?;
    read_instances_alone(host, gpu)
}

/// The same for who has the driver's lock already.
fn read_instances_alone(host: &Host, gpu: PciAddress) -> Result<MigState, NotDone> {
    let users = users::users(host, gpu).map_err(|error| NotDone::Refused(format!("{error:#}")))?;
    instances::read(host, gpu, &state::facts(host, gpu), &users)
        .map_err(|why| NotDone::Failed(format!("its GPU instances cannot be told: {why}")))
}

pub(super) fn write_note(host: &Host, gpu: PciAddress, note: &OurInstances) -> Result<(), NotDone> {
    const DIRECTORY_MODE: u32 = 0o755;
    const FILE_MODE: u32 = 0o644;
    let path = our_instances::path(gpu);
    let failed = |error: io::Error| {
        NotDone::Failed(format!(
            "cannot write {path}: {error}; see whether the disk is full or read-only, then try again"
        ))
    };
    if *note == OurInstances::default() {
        return host.remove_file(&path).map_err(failed);
    }
    let text = serde_json::to_vec_pretty(note).map_err(|error| failed(error.into()))?;
    host.make_directory(our_instances::DIRECTORY, DIRECTORY_MODE)
        .and_then(|()| host.replace_file(&path, &text, FILE_MODE))
        .map_err(failed)
}

/// Changes the note before the GPU is changed: what a power cut leaves is then known as ours.
fn note_ahead(host: &Host, gpu: PciAddress, step: &SetupStep) -> Result<(), NotDone> {
    let failed = |error: io::Error| NotDone::Failed(error.to_string());
    let noted = our_instances::read(host, gpu).map_err(failed)?;
    let mut note = noted.clone();
    match step {
        SetupStep::SetMig(true) => note.switched_on = true,
        SetupStep::CreateInstance(its) => {
            note.boot = boot_id(host);
            if !note.made.contains(&its.place) {
                note.made.push(its.place);
            }
        }
        // No start plans a vGPU there any more.
        SetupStep::DestroyInstance(its) => note.used.retain(|used| used.place != its.place),
        _ => {}
    }
    match note == noted {
        true => Ok(()),
        false => write_note(host, gpu, &note),
    }
}

/// When a setting takes effect.
enum TakesEffect {
    Now,
    AtLoad,
}

/// Makes one change. The locks are held from the check of the users to the end of the
/// change, so that no vGPU is made in between.
fn set_one(
    host: &Host,
    gpu: PciAddress,
    step: &SetupStep,
    undo: Option<&Question>,
) -> Result<TakesEffect, NotDone> {
    let question = question(gpu, step)?;
    let alone = Alone::with(host, gpu)?;
    change(host, gpu, (step, &question), undo, &alone)
}

/// The question to NVML that makes the change.
fn question(gpu: PciAddress, step: &SetupStep) -> Result<Question, NotDone> {
    Ok(match step {
        SetupStep::SetHeterogeneous(on) => Question::SetHeterogeneous { gpu, on: *on },
        SetupStep::SetScheduler(scheduler) => Question::SetScheduler {
            gpu,
            scheduler: *scheduler,
        },
        SetupStep::SetMig(on) => Question::SetMig { gpu, on: *on },
        SetupStep::CreateInstance(its) => Question::CreateInstance {
            gpu,
            place: its.place,
        },
        SetupStep::DestroyInstance(its) => Question::DestroyInstance {
            gpu,
            place: its.place,
        },
        SetupStep::SetInstanceHeterogeneous(its, on) => Question::SetInstanceHeterogeneous {
            gpu,
            place: its.place,
            on: *on,
        },
        SetupStep::SetInstanceScheduler(its, scheduler) => Question::SetInstanceScheduler {
            gpu,
            place: its.place,
            scheduler: *scheduler,
        },
        // Earlier phases have done these steps, so the GPU has lost its driver or its
        // functions since then.
        SetupStep::AwaitDriver
        | SetupStep::RemoveFunctions
        | SetupStep::EnableFunctions
        | SetupStep::RenewFunctions
        | SetupStep::AwaitTypes => {
            let lost = "it has lost its driver or its virtual functions meanwhile; try again";
            return Err(NotDone::Failed(lost.to_owned()));
        }
    })
}

fn change(
    host: &Host,
    gpu: PciAddress,
    (step, question): (&SetupStep, &Question),
    undo: Option<&Question>,
    _alone: &Alone,
) -> Result<TakesEffect, NotDone> {
    if step.needs_free_gpu() {
        refuse_in_use(host, gpu)?;
    }
    if let Some(its) = step.needs_free_instance() {
        refuse_used_instance(host, gpu, its)?;
    }
    note_ahead(host, gpu, step)?;
    match host.change_gpu(question, undo) {
        Ok(()) => Ok(TakesEffect::Now),
        Err(failure) => {
            forget_what_is_not_there(host, gpu, step);
            refused_by_nvml(host, gpu, step, failure)
        }
    }
}

/// A place whose GPU instance was not created is not ours: somebody else may create one there.
/// What cannot be told stays noted.
fn forget_what_is_not_there(host: &Host, gpu: PciAddress, step: &SetupStep) {
    let SetupStep::CreateInstance(its) = step else {
        return;
    };
    let (Ok(facts), Ok(mut note)) = (state::facts(host, gpu), our_instances::read(host, gpu))
    else {
        return;
    };
    let told = facts.instances.value().map(|told| &told.instances);
    let is_gone = told.is_some_and(|told| told.iter().all(|one| one.place() != its.place));
    if is_gone {
        note.made.retain(|place| *place != its.place);
        // The next run forgets it otherwise.
        let _ = write_note(host, gpu, &note);
    }
}

/// Forgets GPU instances that are not there any more: others may create some in their places.
fn forget_lost(host: &Host, gpu: PciAddress, mig: &MigState) -> Result<(), NotDone> {
    if mig.noted.made.iter().all(|place| mig.is_there(*place)) {
        return Ok(());
    }
    // A start may note what it makes for itself.
    let _alone = Alone::with(host, gpu)?;
    let mig = read_instances_alone(host, gpu)?;
    let mut note = mig.noted.clone();
    note.made.retain(|place| mig.is_there(*place));
    write_note(host, gpu, &note)
}

/// Makes one change for a start.
pub(super) fn change_for_start(
    host: &Host,
    gpu: PciAddress,
    step: &SetupStep,
    undo: Option<&Question>,
    alone: &Alone,
) -> Result<(), NotDone> {
    let question = question(gpu, step)?;
    change(host, gpu, (step, &question), undo, alone).map(|_| ())
}

/// The driver itself destroys a GPU instance whose vGPUs do not run.
fn refuse_used_instance(host: &Host, gpu: PciAddress, its: &NamedPlace) -> Result<(), NotDone> {
    match read_instances_alone(host, gpu)?.users_at(its.place) {
        [] => Ok(()),
        users => Err(NotDone::Refused(format!(
            "GPU instance {its} is in use by {}; shut it down, then run 'virt-vgpu host apply \
             {gpu}'",
            users.join(", ")
        ))),
    }
}

fn refused_by_nvml(
    host: &Host,
    gpu: PciAddress,
    step: &SetupStep,
    failure: Failure,
) -> Result<TakesEffect, NotDone> {
    let Failure { kind, message } = failure;
    match (step, kind) {
        // There is no vGPU, so the driver does not support the change.
        (SetupStep::SetScheduler(scheduler), FailureKind::NotSupported | FailureKind::NoSymbol) => {
            encodable(scheduler, &message).map(|()| TakesEffect::AtLoad)
        }
        (SetupStep::SetMig(_), FailureKind::Pending | FailureKind::InUse) => {
            Err(NotDone::Refused(format!(
                "{message}; {}; then run 'virt-vgpu host apply {gpu}'. If nobody has it open, reset \
                 it ('nvidia-smi -r -i {gpu}') or reboot the host",
                who_has_it_open(host)
            )))
        }
        (_, FailureKind::InUse) => Err(NotDone::Refused(format!(
            "in use, says its driver: {message}; 'nvidia-smi vgpu' shows by whom"
        ))),
        (_, FailureKind::NoGpu) => Err(NotDone::Failed(format!(
            "{message}; 'journalctl -k -g NVRM' shows its messages"
        ))),
        (_, FailureKind::NoLibrary) => Err(NotDone::Failed(format!(
            "{message}; check that NVIDIA's driver and its library are of one version"
        ))),
        _ => Err(NotDone::Failed(format!(
            "{message}; 'virt-vgpu host show' tells what the GPU takes"
        ))),
    }
}

fn encodable(scheduler: &Scheduler, message: &str) -> Result<(), NotDone> {
    match driver_option::encode(scheduler) {
        Ok(_) => Ok(()),
        Err(why) => Err(NotDone::Failed(format!(
            "{message}; and as an option of the driver it cannot be written: {why}; change the \
             pool's [scheduler]"
        ))),
    }
}

/// Updates the modprobe file, and adds a note to each GPU that needs it.
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
                    "the scheduler waits in {FILE} until the driver is loaded again: reboot, after \
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
