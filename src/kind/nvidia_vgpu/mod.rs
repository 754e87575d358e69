//! vGPUs of NVIDIA's driver, by their profile, whichever of its three frameworks the
//! driver has for them: mediated devices of a GPU, mediated devices of its virtual
//! functions, or virtual functions that become vGPUs themselves.

use std::sync::Arc;

use super::{
    Devices, GpuSettings, Keys, Kind, NVIDIA_PARAMETERS, PCI_FIELDS, Part, Subject, TypeKey,
    made_as,
};
use crate::{document::ConfigError, model::TypeSelector, rule::Field};

/// The row in the registry.
#[derive(Debug)]
pub(super) struct NvidiaVgpu;

impl Kind for NvidiaVgpu {
    fn name(&self) -> &'static str {
        "nvidia-vgpu"
    }

    fn about(&self) -> &'static str {
        "vGPUs of NVIDIA's driver"
    }

    fn subject(&self) -> Subject {
        Subject::Gpu
    }

    fn subjects_in_words(&self) -> &'static str {
        "GPUs of NVIDIA's driver"
    }

    fn keys(&self) -> Keys {
        Keys {
            made_as: Some(TypeKey {
                name: "profile",
                about: "name of the vGPU profile",
            }),
            settings: &["guest-driver", "mig", "heterogeneous", "scheduler"],
            defaults: NVIDIA_PARAMETERS,
        }
    }

    fn fields(&self) -> Vec<Field> {
        const OF_GPUS: &[Field] = &[
            Field::GpuName,
            Field::GpuUuid,
            Field::GpuMemoryMib,
            Field::ProfileId,
        ];
        [PCI_FIELDS, OF_GPUS].concat()
    }

    fn parse(&self, part: &Part<'_>) -> Result<Arc<dyn Devices>, ConfigError> {
        // A MIG profile would otherwise be handed out without what it stands on.
        if let Some(node) = part.top.get("mig") {
            return Err(node.refuse("is not supported by this version", &[]));
        }
        let wants = ("profile", "a profile (as in L40S-12Q)");
        let profile = TypeSelector::Profile(made_as(part, wants, self)?);
        let settings = GpuSettings::read(part.top)?;
        Ok(Arc::new(NvidiaVgpuPool { profile, settings }))
    }
}

/// What a pool of NVIDIA's vGPUs hands out, and how its GPUs are to be set for that.
#[derive(Debug, PartialEq, Eq)]
struct NvidiaVgpuPool {
    profile: TypeSelector,
    settings: GpuSettings,
}

impl Devices for NvidiaVgpuPool {
    fn made_as(&self) -> &TypeSelector {
        &self.profile
    }

    fn type_in_words(&self) -> String {
        format!("profile '{}'", self.profile)
    }

    fn gpu_settings(&self) -> Option<&GpuSettings> {
        Some(&self.settings)
    }
}
