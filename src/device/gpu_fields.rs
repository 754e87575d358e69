//! Fields of a GPU in addition to those of its PCI function. Each is read only when a
//! rule names it: the driver's own text costs a file, NVML a process.

use std::{cell::OnceCell, collections::BTreeSet};

use super::{
    Sysfs, gpu,
    nvml::{Failure, GpuFacts, Nvml},
};
use crate::{
    model::{PciAddress, TypeSelector},
    rule::{Field, FieldValue},
};

/// These fields. The driver's text has some of them; NVML has all.
pub const OF_NVML: &[Field] = &[
    Field::GpuName,
    Field::GpuUuid,
    Field::GpuMemoryMib,
    Field::ProfileId,
];

/// A source of NVML's facts about GPUs.
pub trait GpuSource {
    /// NVML's facts about a GPU; None if there are none.
    fn facts_of(&self, gpu: PciAddress) -> Option<&GpuFacts>;
}

/// NVML, asked once for all GPUs, and only if needed.
pub struct AskedOnce<'a> {
    nvml: &'a dyn Nvml,
    facts: OnceCell<Result<Vec<GpuFacts>, Failure>>,
}

impl std::fmt::Debug for AskedOnce<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AskedOnce")
            .field("facts", &self.facts)
            .finish_non_exhaustive()
    }
}

impl<'a> AskedOnce<'a> {
    /// Nothing has been asked yet.
    #[must_use]
    pub fn new(nvml: &'a dyn Nvml) -> Self {
        Self {
            nvml,
            facts: OnceCell::new(),
        }
    }
}

impl GpuSource for AskedOnce<'_> {
    fn facts_of(&self, gpu: PciAddress) -> Option<&GpuFacts> {
        let facts = self.facts.get_or_init(|| self.nvml.gpus());
        facts.iter().flatten().find(|one| one.address == gpu)
    }
}

impl GpuSource for Vec<GpuFacts> {
    fn facts_of(&self, gpu: PciAddress) -> Option<&GpuFacts> {
        self.iter().find(|one| one.address == gpu)
    }
}

/// A GPU as rules of vGPU pools see it.
#[derive(Clone, Copy, Default)]
pub struct GpuFields<'a> {
    /// The source of NVML's facts; None if NVML must not be asked.
    pub nvml: Option<&'a dyn GpuSource>,
    /// The profile of the pool whose rule asks.
    pub profile: Option<&'a TypeSelector>,
}

impl std::fmt::Debug for GpuFields<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GpuFields")
            .field("profile", &self.profile)
            .finish_non_exhaustive()
    }
}

impl GpuFields<'_> {
    /// The GPU's value for one of the GPU's own fields; None for all other fields.
    pub(super) fn field(
        &self,
        sysfs: &dyn Sysfs,
        gpu: PciAddress,
        field: Field,
    ) -> Option<FieldValue> {
        match field {
            Field::GpuName => {
                let name = information(sysfs, gpu, "Model");
                let name = name.or_else(|| self.facts(gpu)?.name.value().cloned());
                name.map(FieldValue::Text)
            }
            Field::GpuUuid => {
                // The driver shows question marks until the GPU has been opened.
                let uuid = information(sysfs, gpu, "GPU UUID").filter(|text| !text.contains('?'));
                let uuid = uuid.or_else(|| self.facts(gpu)?.uuid.value().cloned());
                uuid.map(FieldValue::Text)
            }
            Field::GpuMemoryMib => {
                let mib = *self.facts(gpu)?.memory_mib.value()?;
                i64::try_from(mib).ok().map(FieldValue::Number)
            }
            Field::ProfileId => self.profile_id(sysfs, gpu).map(FieldValue::Number),
            _ => None,
        }
    }

    fn facts(&self, gpu: PciAddress) -> Option<&GpuFacts> {
        self.nvml?.facts_of(gpu)
    }

    /// The number of the pool's profile on the GPU. Lists in sysfs may hold only types
    /// that can be created now.
    fn profile_id(&self, sysfs: &dyn Sysfs, gpu: PciAddress) -> Option<i64> {
        let profile = self.profile?;
        let listed = gpu::read(sysfs, gpu, None, &BTreeSet::new()).ok();
        let mut listed = listed.into_iter().flat_map(|state| state.types);
        let number = listed
            .find(|one| profile.means_name(&one.name))
            .map(|one| one.id);
        let told = || {
            let types = self.facts(gpu)?.types.value()?;
            let mut types = types.iter();
            Some(types.find(|one| profile.means_name(&one.name))?.id)
        };
        number.or_else(told)?.to_string().parse().ok()
    }
}

/// A line of the driver's text about a GPU (`nv_procfs_read_gpu_info` of NVIDIA's open
/// modules): a name, a colon, white space, the value.
fn information(sysfs: &dyn Sysfs, gpu: PciAddress, name: &str) -> Option<String> {
    let path = format!("/proc/driver/nvidia/gpus/{gpu}/information");
    let text = sysfs.read(&path).ok()?;
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = lines.find(|(key, _)| key.trim() == name)?;
    let value = value.trim();
    (!value.is_empty()).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use std::{
        cell::{Cell, RefCell},
        collections::BTreeMap,
        io,
    };

    use super::*;
    use crate::{
        device::nvml::{FailureKind, Told},
        rule::{Fields, Rule, Verdict, evaluate},
    };

    const GPU: &str = "0000:3b:00.0";

    /// Files, and a record of those that were read.
    #[derive(Default)]
    struct Files {
        texts: BTreeMap<String, String>,
        seen: RefCell<Vec<String>>,
    }

    impl Sysfs for Files {
        fn read(&self, path: &str) -> io::Result<String> {
            self.seen.borrow_mut().push(path.to_owned());
            let text = self.texts.get(path).cloned();
            text.ok_or_else(|| io::ErrorKind::NotFound.into())
        }

        fn read_link(&self, _: &str) -> io::Result<String> {
            Err(io::ErrorKind::NotFound.into())
        }

        fn list(&self, _: &str) -> io::Result<Vec<String>> {
            Err(io::ErrorKind::NotFound.into())
        }

        fn exists(&self, _: &str) -> bool {
            false
        }
    }

    /// NVML, and a count of the questions.
    struct Asked(Option<GpuFacts>, Cell<u32>);

    impl Nvml for Asked {
        fn gpus(&self) -> Result<Vec<GpuFacts>, Failure> {
            self.1.set(self.1.get() + 1);
            self.0.clone().map(|facts| vec![facts]).ok_or_else(silent)
        }

        fn gpu(&self, _: PciAddress) -> Result<GpuFacts, Failure> {
            Err(silent())
        }
    }

    fn silent() -> Failure {
        Failure {
            kind: FailureKind::NoLibrary,
            message: "no library".to_owned(),
        }
    }

    fn facts() -> GpuFacts {
        GpuFacts {
            address: GPU.parse().unwrap(),
            name: Told::Value("NVIDIA L40S".to_owned()),
            uuid: Told::Value("GPU-1".to_owned()),
            memory_mib: Told::Value(46_068),
            hosts_vgpus: Told::Unavailable(silent()),
            mig: Told::Unavailable(silent()),
            instances: Told::Unavailable(silent()),
            heterogeneous: Told::Unavailable(silent()),
            heterogeneous_multi_vgpu: Told::Unavailable(silent()),
            scheduler: Told::Unavailable(silent()),
            scheduler_limits: Told::Unavailable(silent()),
            types: Told::Unavailable(silent()),
            vgpus: Told::Unavailable(silent()),
        }
    }

    /// The value, how often NVML was asked for it, and which files were read.
    fn read(information: Option<&str>, told: bool, field: Field) -> (Option<String>, u32, usize) {
        let mut files = Files::default();
        let path = format!("/proc/driver/nvidia/gpus/{GPU}/information");
        files
            .texts
            .extend(information.map(|text| (path, text.to_owned())));
        let asked = Asked(told.then(facts), Cell::new(0));
        let nvml = AskedOnce::new(&asked);
        let gpu = GpuFields {
            nvml: Some(&nvml),
            profile: None,
        };
        let address = GPU.parse().unwrap();
        let value = gpu.field(&files, address, field);
        // The second read asks nothing again.
        assert_eq!(gpu.field(&files, address, field), value);
        let value = value.map(|value| field.info().value_type.print(&value));
        let seen = files.seen.borrow().len() / 2;
        (value, asked.1.get(), seen)
    }

    const INFORMATION: &str = "Model: \t\t NVIDIA L40\nIRQ:   \t\t 86\nGPU UUID: \t GPU-0\n\
                               Bus Location: \t 0000:3b:00.0\n";

    #[test]
    fn the_drivers_own_text_comes_first_and_nvml_where_it_says_nothing() {
        let some = |text: &str| Some(text.to_owned());
        let uninitialised = INFORMATION.replace("GPU-0", "GPU-????????-????");
        let (name, uuid) = (Field::GpuName, Field::GpuUuid);
        for (information, told, field, wanted) in [
            (Some(INFORMATION), true, name, (some("NVIDIA L40"), 0, 1)),
            (Some(INFORMATION), true, uuid, (some("GPU-0"), 0, 1)),
            (Some(&uninitialised), true, uuid, (some("GPU-1"), 1, 1)),
            (Some("Model:\n"), true, name, (some("NVIDIA L40S"), 1, 1)),
            (None, true, name, (some("NVIDIA L40S"), 1, 1)),
            (None, false, name, (None, 1, 1)),
            (
                Some(INFORMATION),
                true,
                Field::GpuMemoryMib,
                (some("46068"), 1, 0),
            ),
            (Some(INFORMATION), false, Field::GpuMemoryMib, (None, 1, 0)),
            (Some(INFORMATION), true, Field::Address, (None, 0, 0)),
        ] {
            assert_eq!(read(information, told, field), wanted, "{field}");
        }
    }

    /// A device with the test's other fields.
    struct Device<'a>(&'a Files, GpuFields<'a>);

    impl Fields for Device<'_> {
        fn field(&self, field: Field) -> Option<FieldValue> {
            match field {
                Field::Address => Some(FieldValue::Text(GPU.to_owned())),
                field => self.1.field(self.0, GPU.parse().unwrap(), field),
            }
        }
    }

    #[test]
    fn rules_that_name_none_of_them_cost_nothing() {
        let files = Files::default();
        let asked = Asked(Some(facts()), Cell::new(0));
        let nvml = AskedOnce::new(&asked);
        let gpu = GpuFields {
            nvml: Some(&nvml),
            profile: None,
        };
        let rule = |filters: &[(&str, &str)]| Rule {
            name: None,
            filters: filters
                .iter()
                .map(|(field, value)| crate::rule::Filter::new(field, "equal", value).unwrap())
                .collect(),
            allow_critical: false,
        };
        let device = Device(&files, gpu);
        let matches = |rules: &[Rule]| matches!(evaluate(rules, &device), Verdict::Match { .. });
        assert!(matches(&[rule(&[("address", GPU)])]));
        // A filter after one that does not hold is not read either.
        assert!(!matches(&[rule(&[
            ("address", "0000:99:00.0"),
            ("gpu-memory-mib", "46068")
        ])]));
        assert_eq!((asked.1.get(), files.seen.borrow().len()), (0, 0));
        assert!(matches(&[rule(&[
            ("address", GPU),
            ("gpu-memory-mib", "46068")
        ])]));
        assert_eq!((asked.1.get(), files.seen.borrow().len()), (1, 0));
    }
}
