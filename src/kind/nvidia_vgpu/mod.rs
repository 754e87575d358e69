//! vGPUs of NVIDIA's driver, by their profile, whichever of its three frameworks the
//! driver has for them: mediated devices of a GPU, mediated devices of its virtual
//! functions (both in `mediated`), or virtual functions that become vGPUs themselves
//! (`functions`).

use std::{io, sync::Arc};

use super::{
    Devices, GpuSettings, HostView, Keys, Kind, NVIDIA_PARAMETERS, PCI_FIELDS, Part, Subject,
    TypeKey, TypeOption, UnboundWords, Words, gpu_settings, mig_settings, read_type,
};
use crate::{
    device::{
        Sysfs, gpu, gpu_fields,
        mdev::{self, Parent},
        readiness, vendor_vfio,
    },
    document::ConfigError,
    model::{ParentName, PciAddress, TypeSelector},
    rule::Field,
};

mod functions;
mod idle;
mod in_instances;
mod mediated;
mod mixed;
mod named;
mod new_instances;
mod pool;
mod room;
mod unbound;

pub(super) use functions::{WORD as FUNCTIONS_WORD, assignment, made_as as function_made_as};

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
            absent: "it is not a virtual function of this host",
            lists: "virt-vgpu host show",
            not_taken: "the pool's rules do not take its GPU",
            unbound: Some(UnboundWords {
                none_bound: "no GPU is bound to nvidia",
                host_has_none_bound: "no GPU of this host is bound to nvidia",
                heading: "not bound to nvidia, so in no pool of vGPUs",
            }),
        }
    }

    fn keys(&self) -> Keys {
        Keys {
            type_key: Some(TypeKey {
                name: "profile",
                about: "name of the vGPU profile",
                option: TypeOption {
                    value_name: "PROFILE",
                    help: "The vGPU profile that the pool hands out, as in L40S-12Q",
                    creates: "With --profile it is a pool of NVIDIA's vGPUs, whichever interface \
                              the driver has for them, and its devices are GPUs.",
                    parse: |text| text.parse().map(TypeSelector::Profile),
                },
            }),
            settings: &["guest-driver", "mig", "heterogeneous", "scheduler"],
            tables: &[
                ("mig", mig_settings::MIG),
                ("scheduler", gpu_settings::SCHEDULER),
            ],
            defaults: NVIDIA_PARAMETERS,
        }
    }

    fn fields(&self) -> Vec<Field> {
        [PCI_FIELDS, gpu_fields::OF_NVML].concat()
    }

    fn parse(&self, part: &Part<'_>) -> Result<Arc<dyn Devices>, ConfigError> {
        let wants = ("profile", "a profile (as in L40S-12Q)");
        let profile = read_type(part, wants, self)?;
        let settings = GpuSettings::read(part.top, &profile)?;
        let profile = TypeSelector::Profile(profile);
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

    fn keeps_its_driver(&self) -> bool {
        true
    }

    /// libvirt before 9.7 accepts `managed='no'` only for functions bound to `vfio-pci`
    /// (`virHostdevPreparePCIDevicesImpl`), and NVIDIA's functions must not be bound to
    /// it.
    fn check_libvirt(&self, version: u32) -> Result<(), String> {
        const FIRST: u32 = 9_007_000;
        let (major, minor, patch) = (version / 1_000_000, version / 1000 % 1000, version % 1000);
        if version >= FIRST {
            return Ok(());
        }
        Err(format!(
            "on this host vGPUs are virtual functions of NVIDIA's own VFIO driver, which libvirt \
             supports since 9.7; this is libvirt {major}.{minor}.{patch}: upgrade it"
        ))
    }

    fn lacking(&self, sysfs: &dyn Sysfs) -> io::Result<Option<String>> {
        let gpus = gpu::all(sysfs)?;
        let lacks = |gpu: &&PciAddress| readiness::lacks_functions(sysfs, **gpu);
        Ok(gpus.iter().find(lacks).map(|gpu| {
            format!(
                "the virtual functions of {gpu} do not exist yet, 'virt-vgpu host apply' creates \
                 them"
            )
        }))
    }

    fn unbound(&self, view: &HostView<'_>) -> Vec<(PciAddress, String)> {
        unbound::all(view)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_libvirt_that_takes_variant_drivers_is_9_7() {
        for good in [9_007_000, 9_010_000, 11_003_000] {
            assert_eq!(NvidiaVgpu.check_libvirt(good), Ok(()), "{good}");
        }
        let text = NvidiaVgpu.check_libvirt(9_006_002).unwrap_err();
        assert!(
            text.ends_with("this is libvirt 9.6.2: upgrade it"),
            "{text}"
        );
    }
}
