//! Loads another driver: services stopped, virtual functions removed, the modules unloaded, the
//! driver of a set installed and loaded, services started, GPUs set up for their pools. If a step
//! fails, the former driver comes back where that is possible.

use std::{collections::BTreeSet, fmt, time::Duration};

use anyhow::{Context, anyhow};
use serde::Serialize;

use super::{
    PURPOSE, Work,
    driver::{self, loaded_driver},
    plan::{LoadPlan, with_functions},
    services,
};
use crate::{
    device::{
        maintenance::{Load, LoadStep},
        readiness,
    },
    driver_set::DriverSet,
    events,
    gpu_setup::{Asked, Job, JobReport, JobResult, Survey, Surveyed, carry_out, remove_functions},
    host::{Deadline, DriverLock, Host, complain, refuse_interrupts},
    model::{DriverSetName, PciAddress},
};

/// How long others may use NVIDIA's driver as a whole.
const OTHERS: Duration = Duration::from_secs(300);

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

/// Carries the plan out. Its notes, the steps and what fails are told on stderr while it goes on.
///
/// # Errors
/// When not even its beginning can be noted; then nothing has changed. A step that fails is in the
/// report.
pub fn load(work: &mut Work<'_>, set: &DriverSet, plan: &LoadPlan) -> anyhow::Result<LoadReport> {
    plan.file.check(work.host, set)?;
    refuse_interrupts()?;
    for note in &plan.notes {
        complain(&format!("virt-vgpu: note: {note}"));
    }
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
