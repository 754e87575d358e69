//! What whole GPUs need before anything of them can be handed out: virtual functions,
//! mixed sizes, the scheduler. What pools want is compared with what is, and the steps
//! between the two are carried out. All of it is gone when the driver is loaded again.
//! [`crate::capacity::mig`] computes which GPU instances a GPU is to have, [`mig_plan`] makes steps
//! of it.
//!
//! # Order of the locks
//!
//! | lock | held for | by |
//! |---|---|---|
//! | a GPU's set-up | all that is done to it | `host apply` |
//! | the driver's | one run of `sriov-manage`, one question to NVML; a GPU instance for a start | `host apply`, hooks |
//! | the GPU's | one run of `sriov-manage`, one change of a setting; one vGPU made or removed; a GPU instance that goes for a start | `host apply`, hooks |
//!
//! In that order. Waiting takes longer than a hook's patience, so the GPU's own lock is not
//! held then: a GPU without functions makes no vGPU that a hook could get in between. Once
//! its functions have types, a start may be
//! faster than the setting; the setting is then refused like any other on a GPU
//! in use, and names the domain. At boot no daemon starts a VM before all is set.
//!
//! [`make_instance`] is the one piece that starts of VMs use: it is given a deadline, and takes
//! the same locks.

mod due;
mod instances;
mod job;
mod mig_plan;
mod module_options;
mod on_demand;
mod scheduler;
mod settings;
mod sriov;
mod state;
mod steps;
mod survey;
mod users;
mod wanted;
mod work;

pub use due::{Due, PATIENCE as PATIENCE_FOR_DUE, When, due, uses_mig};
pub use instances::InstanceReport;
pub use job::{Job, JobReport, JobResult};
pub use module_options::ModuleOptions;
pub use on_demand::{
    Demanded, Made, NotMade, forget_lost_instances, make_instance, start_has_ended,
};
pub use scheduler::InWords as SchedulerInWords;
pub use settings::{GpuSettings, gpu_settings};
pub use survey::{Survey, Surveyed};
pub use users::{User, users};
pub use wanted::{MigPool, WantedMig};
pub use work::{Asked, carry_out};

#[cfg(test)]
mod tests;
