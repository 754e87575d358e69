//! vGPUs of NVIDIA's driver, by their profile, whichever of its three frameworks the
//! driver has for them: mediated devices of a GPU, mediated devices of its virtual
//! functions (both in `mediated`), or virtual functions that become vGPUs themselves
//! (`functions`).

use std::{io, sync::Arc};

use super::{
    Devices, GpuSettings, HostView, Keys, Kind, NVIDIA_PARAMETERS, PCI_FIELDS, Part, Subject,
    TypeKey, Words, read_type,
};
use crate::{
    device::{
        Sysfs, gpu,
        mdev::{self, Parent},
        readiness, vendor_vfio,
    },
    document::ConfigError,
    model::{ParentName, PciAddress, TypeSelector},
    rule::Field,
};

mod functions;
mod idle;
mod mediated;
mod mixed;
mod pool;
mod room;
mod unbound;

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

    fn words(&self) -> Words {
        Words {
            subjects: "GPUs of NVIDIA's driver",
            subject: "GPU that NVIDIA's driver has",
            none: "no GPUs",
            host_has_none: "this host has no NVIDIA GPU",
            none_bound: "no GPU is bound to nvidia",
            host_has_none_bound: "no GPU of this host is bound to nvidia",
            unbound: "not bound to nvidia, so in no pool of vGPUs",
        }
    }

    fn keys(&self) -> Keys {
        Keys {
            type_key: Some(TypeKey {
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
        let profile = TypeSelector::Profile(read_type(part, wants, self)?);
        let settings = GpuSettings::read(part.top)?;
        Ok(Arc::new(pool::NvidiaVgpuPool { profile, settings }))
    }

    fn subjects(&self, view: &HostView<'_>) -> io::Result<Vec<Parent>> {
        let gpus = gpu::all(view.sysfs())?;
        Ok(gpus.into_iter().map(mdev::pci_function).collect())
    }

    fn subject_named(&self, sysfs: &dyn Sysfs, name: &ParentName) -> Option<Parent> {
        let function = name.pci()?;
        let gpu = vendor_vfio::gpu(sysfs, function).ok()?.unwrap_or(function);
        readiness::is_gpu(sysfs, gpu).then(|| mdev::pci_function(gpu))
    }

    fn unbound(&self, view: &HostView<'_>) -> Vec<(PciAddress, String)> {
        unbound::all(view)
    }
}
