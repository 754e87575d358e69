//! The work on one GPU: its wanted settings and its result.

use serde::Serialize;

use super::{
    sriov::NotDone,
    state,
    steps::{Actual, PlannedStep, SetupStep, setup_plan, step_in_words},
    survey::Surveyed,
    users,
    wanted::WantedSettings,
};
use crate::{
    device::maintenance::Maintenance,
    host::{GpuLock, Host},
    kind::{self, Subject},
    model::{PciAddress, PoolName},
};

/// The result for a GPU.
#[derive(Debug, Serialize)]
pub struct JobReport {
    /// The GPU.
    pub gpu: PciAddress,
    /// The pools that take it.
    pub pools: Vec<PoolName>,
    /// How it ended.
    pub result: JobResult,
    /// The steps in their order, done or not.
    pub steps: Vec<StepReport>,
    /// The reason of a refusal or failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The GPU instances afterwards, drawn in one line: `=` stays, `+` is new, `!` stays
    /// although no pool needs it, `.` is free.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layout: Option<String>,
    /// Further notes.
    pub notes: Vec<String>,
}

/// How the work on a GPU ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobResult {
    /// It is as wanted.
    NothingToDo,
    /// Nothing was done, as was asked for.
    WouldBeSet,
    /// It is now as wanted.
    Set,
    /// Not touched as long as it is in maintenance.
    InMaintenance,
    /// Not touched, or not any further.
    Refused,
    /// A step failed.
    Failed,
}

/// A step of the work on a GPU.
#[derive(Debug, Serialize)]
pub struct StepReport {
    /// What it does, in words.
    pub what: String,
    /// What was not as wanted.
    pub why: String,
    /// Whether it was done.
    pub done: bool,
}

/// A GPU at work.
#[derive(Debug)]
pub struct Job {
    /// None: there is nothing to do but to say why.
    pub(super) wanted: Option<WantedSettings>,
    /// What came of it so far.
    pub report: JobReport,
    pub(super) lock: Option<GpuLock>,
}

impl Job {
    /// The job for a GPU; one for which nothing can be done ends at once.
    #[must_use]
    pub fn new(surveyed: &Surveyed) -> Self {
        let mut job = Self {
            wanted: None,
            report: JobReport {
                gpu: surveyed.gpu,
                pools: Vec::new(),
                result: JobResult::NothingToDo,
                steps: Vec::new(),
                reason: None,
                layout: None,
                notes: Vec::new(),
            },
            lock: None,
        };
        match &surveyed.wanted {
            Ok(Some(wanted)) => {
                job.report.pools.clone_from(&wanted.pools);
                job.wanted = Some(wanted.clone());
            }
            Ok(None) => job.refuse(format!(
                "no pool of kind {} takes it, so nothing is known of how it should be; 'virt-vgpu \
                 pool preview POOL' tells why a pool does not",
                kind::names_about(Subject::Gpu)
            )),
            Err(conflict) => job.refuse(conflict.to_string()),
        }
        job
    }

    pub(super) fn refuse(&mut self, reason: String) {
        self.end(JobResult::Refused, reason);
    }

    /// Ends it if its GPU is in maintenance.
    pub fn spare(&mut self, maintenance: &Maintenance) {
        if maintenance.gpus.contains(&self.report.gpu) {
            self.end(
                JobResult::InMaintenance,
                "'virt-vgpu maintenance leave' sets it up".to_owned(),
            );
        }
    }

    pub(super) fn fail(&mut self, reason: String) {
        self.end(JobResult::Failed, reason);
    }

    /// The first reason counts; later steps are not tried.
    fn end(&mut self, result: JobResult, reason: String) {
        self.report.result = result;
        self.report.reason = Some(reason);
        self.wanted = None;
        self.lock = None;
    }

    /// Ends it for what kept a step from being done.
    pub(super) fn stop(&mut self, why: NotDone) {
        match why {
            NotDone::Refused(reason) => self.refuse(reason),
            NotDone::Failed(reason) => self.fail(reason),
        }
    }

    pub(super) fn note(&mut self, planned: &PlannedStep, done: bool) {
        let what = step_in_words(self.report.gpu, &planned.step);
        self.note_as(what, planned.why.clone(), done);
    }

    pub(super) fn note_as(&mut self, what: String, why: String, done: bool) {
        if done {
            self.report.result = JobResult::Set;
        }
        self.report.steps.push(StepReport { what, why, done });
    }

    /// The step that `is_meant` picks, while the job goes on.
    pub(super) fn step(
        &self,
        actual: &Actual,
        is_meant: impl Fn(&SetupStep) -> bool,
    ) -> Option<PlannedStep> {
        let plan = setup_plan(self.report.gpu, self.wanted.as_ref()?, actual);
        let mut steps = plan.steps.into_iter();
        steps.find(|planned| is_meant(&planned.step))
    }

    /// How the GPU is; a job whose GPU cannot be looked at ends.
    pub(super) fn look(&mut self, host: &Host) -> Option<Actual> {
        self.wanted.as_ref()?;
        match state::of(host, self.report.gpu) {
            Ok(actual) => Some(actual),
            Err(error) => {
                self.fail(format!("{error:#}"));
                None
            }
        }
    }

    /// Finds out what would be done, and does nothing.
    pub fn foresee(&mut self, host: &Host, renew: bool) {
        let Some(wanted) = self.wanted.clone() else {
            return;
        };
        let gpu = self.report.gpu;
        let seen = state::of(host, gpu).and_then(|actual| Ok((actual, users::users(host, gpu)?)));
        let (mut actual, users) = match seen {
            Ok(seen) => seen,
            Err(error) => return self.fail(format!("{error:#}")),
        };
        if renew {
            let why = "asked for by --renew".to_owned();
            self.note_foreseen(&SetupStep::RenewFunctions, why);
            // As it is afterwards.
            actual.functions.unready.clear();
        } else {
            actual = state::complete(host, gpu, Some(&wanted), &users, actual);
        }
        let plan = setup_plan(gpu, &wanted, &actual);
        let touches = renew
            || plan
                .steps
                .iter()
                .any(|planned| planned.step.needs_free_gpu());
        self.report.layout = plan.layout;
        self.report.notes.extend(plan.notes);
        self.report.notes.extend(plan.stays);
        for planned in plan.steps {
            self.note_foreseen(&planned.step, planned.why);
        }
        if let Some(pending) = plan.pending {
            return self.refuse(pending);
        }
        if let Some(obstacle) = plan.obstacles.into_iter().next() {
            return self.fail(obstacle);
        }
        if let Some(refusal) = users::refusal(gpu, &users).filter(|_| touches) {
            self.refuse(refusal);
        }
    }

    fn note_foreseen(&mut self, step: &SetupStep, why: String) {
        self.report.result = JobResult::WouldBeSet;
        self.report.steps.push(StepReport {
            what: step_in_words(self.report.gpu, step),
            why,
            done: false,
        });
    }
}
