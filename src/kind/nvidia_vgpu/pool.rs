//! A pool of NVIDIA's vGPUs: its rules apply to GPUs, whichever of a GPU's functions
//! makes the vGPUs.

use std::{collections::BTreeMap, rc::Rc};

use super::{
    functions,
    in_instances::{self, InInstances},
    mediated, mixed,
};
use crate::{
    capacity::{Placement, mig},
    device::{
        gpu_fields::GpuFields,
        mdev::{self, Offer, Parent},
        nvml::Scheduler,
        step::Step,
    },
    kind::{
        Board, Candidate, Devices, FieldSources, GpuInstances, GpuSettings, HostView, Idle, MadeAs,
        MigSettings, Named, Placeholder, PlacementChoice, ToMake, board,
    },
    model::{MdevTypeId, TypeSelector},
    rule::{Rule, Verdict},
};

/// The settings of a pool of NVIDIA's vGPUs: its profile and the settings of its GPUs.
#[derive(Debug)]
pub(super) struct NvidiaVgpuPool {
    /// The profile of the vGPUs.
    pub(super) profile: TypeSelector,
    /// The settings of whole GPUs.
    pub(super) settings: GpuSettings,
}

impl NvidiaVgpuPool {
    /// What it wants of GPU instances that are made for it.
    pub(super) fn in_instances(&self, settings: MigSettings) -> InInstances<'_> {
        InInstances {
            profile: &self.profile,
            settings,
            mixes_sizes: self.settings.heterogeneous,
            scheduler: self.settings.scheduler.as_ref().map(Scheduler::from),
        }
    }
}

impl Devices for NvidiaVgpuPool {
    fn type_name(&self) -> &str {
        self.profile.as_str()
    }

    fn selector(&self) -> Option<&TypeSelector> {
        Some(&self.profile)
    }

    fn type_in_words(&self) -> String {
        format!("profile '{}'", self.profile)
    }

    fn gpu_settings(&self) -> Option<&GpuSettings> {
        Some(&self.settings)
    }

    /// Those that differ from what pools have without them.
    fn settings(&self) -> BTreeMap<&'static str, serde_json::Value> {
        let mut settings = BTreeMap::new();
        if let GpuInstances::Made(its) = self.settings.gpu_instances {
            let vgpus = its.vgpus_per_instance.map_or(0, Into::into);
            settings.insert("mig.gpu-instances", its.gpu_instances.into());
            settings.insert("mig.mode", its.mode.as_str().into());
            settings.insert("mig.vgpus-per-instance", serde_json::Value::from(vgpus));
        }
        if self.settings.heterogeneous {
            settings.insert("heterogeneous", true.into());
        }
        if let Some(scheduler) = &self.settings.scheduler {
            settings.insert("scheduler.policy", scheduler.policy.as_str().into());
        }
        settings
    }

    fn verdict(&self, sources: FieldSources<'_>, rules: &[Rule], gpu: &Parent) -> Verdict {
        let fields = GpuFields {
            nvml: sources.nvml,
            profile: Some(&self.profile),
        };
        sources.verdict(rules, gpu, Some(fields))
    }

    fn named(&self, view: &HostView<'_>, text: &str) -> Result<Named, String> {
        self.gpu_named(view, text)
    }

    fn doubt(&self, view: &HostView<'_>) -> Option<(&'static str, String)> {
        let unknown = self.unknown_profile(view)?;
        Some(("profile", unknown))
    }

    fn candidates(
        &self,
        view: &HostView<'_>,
        placeholder: &Placeholder,
    ) -> Result<Vec<Candidate>, String> {
        match placeholder {
            Placeholder::Function(function) => functions::one(view, *function),
            Placeholder::Functions => functions::all(view),
            Placeholder::Mdev => mediated::parents(view),
            Placeholder::Any => {
                let mut candidates = mediated::parents(view)?;
                candidates.extend(functions::all(view)?);
                Ok(candidates)
            }
        }
    }

    fn subject_of(&self, view: &HostView<'_>, candidate: &Candidate) -> Parent {
        mdev::pci_function(view.board(&candidate.parent))
    }

    fn offer(&self, view: &HostView<'_>, candidate: &Candidate) -> Offer {
        let offer = match candidate.function() {
            None => view.mdev().offer(&candidate.parent, &self.profile),
            Some(function) => functions::offer(view, &self.profile, function),
        };
        match self.settings.gpu_instances {
            GpuInstances::Made(its) => {
                in_instances::offer(view, &self.in_instances(its), candidate, offer)
            }
            _ if self.settings.heterogeneous && !matches!(offer, Offer::Unreadable(_)) => {
                mixed::offer(view, &self.profile, candidate, offer)
            }
            GpuInstances::None | GpuInstances::MadeByOthers => offer,
        }
    }

    fn cost(&self, view: &HostView<'_>, candidate: &Candidate) -> Option<mig::Cost> {
        let GpuInstances::Made(its) = self.settings.gpu_instances else {
            return None;
        };
        in_instances::cost(view, &self.in_instances(its), candidate)
    }

    fn is_free(&self, view: &HostView<'_>, candidate: &Candidate) -> Option<bool> {
        let function = candidate.function()?;
        Some(!functions::is_spoken_for(view, function))
    }

    fn steps(
        &self,
        _: &HostView<'_>,
        candidate: &Candidate,
        made: &ToMake<'_>,
    ) -> Result<Vec<Step>, String> {
        Ok(match candidate.function() {
            None => crate::kind::mdev::mediated(candidate, made),
            Some(function) => functions::steps(function, self.profile.as_str(), made),
        })
    }

    fn made_as(&self, candidate: &Candidate) -> MadeAs {
        match candidate.function() {
            None => crate::kind::mdev::rests_on_parent(&candidate.parent.name),
            Some(function) => functions::made_as(function),
        }
    }

    fn room(&self, view: &HostView<'_>, gpu: &Parent) -> (Offer, bool) {
        self.room_on(view, gpu)
    }

    fn board(&self, view: &HostView<'_>, candidate: &Candidate) -> Option<Rc<dyn Board>> {
        // What fits into GPU instances that do not exist yet, their number tells.
        if let GpuInstances::Made(its) = self.settings.gpu_instances {
            if self.in_instances(its).counts_new(view) {
                return None;
            }
        }
        board::gpu_of(view, candidate)
    }

    fn wants_one_board_type(&self) -> bool {
        true
    }

    fn holds_one(&self, candidate: &Candidate, id: &MdevTypeId) -> bool {
        board::is_function(candidate, id)
    }

    fn functions_hold_one(&self) -> bool {
        true
    }

    fn place(
        &self,
        view: &HostView<'_>,
        candidate: &Candidate,
        taken: &[Placement],
    ) -> PlacementChoice {
        match self.settings.gpu_instances {
            GpuInstances::Made(its) => {
                in_instances::place(view, &self.in_instances(its), candidate, taken)
            }
            _ if self.settings.heterogeneous => mixed::place(view, &self.profile, candidate, taken),
            GpuInstances::None | GpuInstances::MadeByOthers => PlacementChoice::Anywhere,
        }
    }

    fn idle(
        &self,
        view: &HostView<'_>,
        placeholder: &Placeholder,
        takes: &dyn Fn(&Parent) -> bool,
    ) -> Vec<Idle> {
        self.idle_gpus(view, placeholder, takes)
    }
}
