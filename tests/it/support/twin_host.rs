//! A host with one simulated GPU in memory: sysfs and NVML as the product uses them,
//! answered by the twin.

use std::{cell::RefCell, collections::BTreeMap, io};

use lab_nvidia::{
    boards::{Board, VgpuType},
    contract::{Op, Setup, Subject, Twin, op},
    control::{self, Control},
    model::{Attribute, Framework, Gpu, Parent, Switches, VgpuHandle},
};
use nix::errno::Errno;
use virt_vgpu::{
    device::{
        Sysfs,
        nvml::{
            Failure, FailureKind, GpuFacts, GpuInstance, Heterogeneous, InstanceFacts, Nvml,
            Placements, Told, TypeFacts,
        },
    },
    model::{PciAddress, VgpuTypeId},
};

/// The GPU and its environment.
#[derive(Debug, Clone)]
pub struct TwinHost {
    twin: Twin,
    setup: Setup,
}

/// A vGPU as the driver describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub type_id: u32,
    pub placement: Option<u32>,
    /// The function of the vGPU.
    at: String,
    mdev: Option<String>,
}

impl TwinHost {
    /// An empty GPU with virtual functions enabled.
    pub fn new(board: &'static Board, switches: Switches) -> Self {
        let setup = Setup { board, switches };
        Self {
            twin: Twin::new(setup),
            setup,
        }
    }

    pub fn gpu(&self) -> &Gpu {
        self.twin.gpu()
    }

    pub fn board(&self) -> &'static Board {
        self.setup.board
    }

    pub fn address(&self) -> PciAddress {
        self.gpu().address().parse().unwrap()
    }

    /// A command of the driver, as NVML's library would send it.
    pub fn command(&mut self, line: &str) -> bool {
        self.twin.perform(&Op::Control(line.to_owned())).is_ok()
    }

    /// Switches MIG mode on, before there are functions.
    pub fn with_mig(mut self) -> Self {
        for op in [
            Op::Vfs(false),
            Op::Control("mig 1".to_owned()),
            Op::Vfs(true),
        ] {
            self.twin.perform(&op).unwrap();
        }
        self
    }

    /// Makes a vGPU the way the product does: the type, then its place. Returns whether
    /// the driver makes it; a place that it refuses after that is our mistake.
    pub fn create(&mut self, vgpu_handle: u32, type_id: u32, place: Option<u32>) -> bool {
        if self
            .twin
            .perform(&Op::Create(vgpu_handle, type_id))
            .is_err()
        {
            return false;
        }
        if let Some(place) = place {
            let attribute = Attribute::PlacementId;
            let write = Op::Write(vgpu_handle, attribute, format!("{place}\n"));
            self.twin.perform(&write).unwrap();
            let read = self.twin.perform(&Op::Read(vgpu_handle, attribute));
            assert_eq!(read.unwrap(), format!("{place}\n"));
        }
        true
    }

    pub fn release(&mut self, vgpu_handle: u32) {
        self.twin.perform(&Op::Release(vgpu_handle)).unwrap();
    }

    /// The numbers of functions for a vGPU: those that have one, or those that do not.
    pub fn vgpu_handles(&self, taken: bool) -> Vec<u32> {
        // A board without virtual functions can have any number.
        let count = match self.board().vfs {
            0 => 34,
            count => count,
        };
        let is_taken = |number: &u32| {
            let vgpu_handle = op::vgpu_handle(self.setup.framework(), *number);
            self.gpu().read(&vgpu_handle, Attribute::VgpuParams).is_ok() == taken
        };
        (0..count).filter(is_taken).collect()
    }

    /// The vGPUs that exist.
    pub fn vgpus(&self) -> Vec<Line> {
        let text = self.gpu().describe();
        let number = |word: &str| word.parse().ok();
        let vgpu = |line: &str| match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["vgpu", _, type_id, placement, _, at, mdev, ..] => Some(Line {
                type_id: number(type_id)?,
                placement: number(placement),
                at: at.to_owned(),
                mdev: (mdev != "-").then(|| mdev.to_owned()),
            }),
            _ => None,
        };
        text.lines().filter_map(vgpu).collect()
    }

    fn is_on(&self, mode: &str) -> bool {
        let text = self.gpu().describe();
        text.lines()
            .any(|line| line.starts_with(&format!("{mode} 1")))
    }

    /// NVML's facts about it.
    pub fn facts(&self) -> GpuFacts {
        let board = self.board();
        let (mig, hetero) = (self.is_on("mig"), self.is_on("hetero"));
        let creatable = self.gpu().creatable();
        let is_creatable = |id: u32| creatable.iter().any(|(kind, _)| kind.id == id);
        // Types of one size and mode have the same places, and reading them is slow.
        let asked = RefCell::new(BTreeMap::new());
        let placements = |kind: &VgpuType| {
            if !board.features.hetero || mig || !hetero {
                return None;
            }
            let key = (kind.slots, kind.gi_profile.is_some());
            let ask = || Placements {
                size: kind.slots,
                supported: board.mixed.get(&kind.slots).cloned().unwrap_or_default(),
                creatable: self.gpu().placements(kind.id).unwrap(),
            };
            Some(asked.borrow_mut().entry(key).or_insert_with(ask).clone())
        };
        let type_facts = |kind: &VgpuType| TypeFacts {
            id: VgpuTypeId::new(kind.id).unwrap(),
            name: kind.name.clone(),
            framebuffer_mib: kind.framebuffer_mib.into(),
            heads: Some(kind.heads),
            max_resolution: Some(kind.resolution),
            frame_rate_limit: Some(kind.frame_rate_limit),
            max_instances: kind.max_instances,
            max_per_vm: Some(16),
            gpu_instance_profile: kind.gi_profile,
            most_per_instance: kind.max_per_gi,
            creatable: is_creatable(kind.id),
            placements: placements(kind),
            instance_placements: Vec::new(),
        };
        let mut types: Vec<TypeFacts> = board.types.iter().map(type_facts).collect();
        types.sort_by_key(|one| one.id);
        let can = board.features;
        let heterogeneous = Heterogeneous {
            supported: can.hetero,
            enabled: hetero,
        };
        GpuFacts {
            address: self.address(),
            name: Told::Value(board.name.clone()),
            uuid: untold(),
            memory_mib: Told::Value(board.memory_mib.into()),
            hosts_vgpus: Told::Value(true),
            mig: if can.mig { Told::Value(mig) } else { untold() },
            instances: match can.mig {
                true => Told::Value(self.instances()),
                false => untold(),
            },
            heterogeneous: if can.hetero && !mig {
                Told::Value(heterogeneous)
            } else {
                untold()
            },
            heterogeneous_multi_vgpu: Told::Value(can.hetero),
            scheduler: untold(),
            scheduler_limits: untold(),
            types: Told::Value(types),
            // NVML lists only vGPUs that VMs have open, and there are no VMs.
            vgpus: Told::Value(Vec::new()),
        }
    }

    /// The GPU instances that there are.
    fn instances(&self) -> InstanceFacts {
        struct Described(String);
        impl Control for Described {
            fn command(&mut self, _: &str) -> Result<String, Errno> {
                Ok(self.0.clone())
            }
        }
        let known = control::gpu(&mut Described(self.gpu().describe()), "").unwrap();
        let has_several = self.board().features.mig_timeslicing;
        let instances = known.gis.iter().map(|gi| GpuInstance {
            id: gi.id,
            profile: gi.profile,
            start: gi.start,
            size: gi.size,
            compute_instances: 0,
            heterogeneous: has_several.then_some(gi.hetero),
            scheduler: None,
        });
        InstanceFacts {
            pending: known.mig_pending,
            // What fits depends on the GPU instances that there are.
            profiles: Vec::new(),
            instances: instances.collect(),
        }
    }

    fn function(&self, address: &str) -> Option<Parent> {
        if address == self.gpu().address() {
            return Some(Parent::Pf);
        }
        let mut numbers = 0..self.gpu().vf_count();
        let number = numbers.find(|number| self.gpu().vf_address(*number) == address);
        number.map(Parent::Vf)
    }

    /// A path below `/sys/bus/pci/devices`: the function and the rest.
    fn split<'p>(&self, path: &'p str) -> io::Result<(&'p str, Parent, Vec<&'p str>)> {
        let rest = path.strip_prefix("/sys/bus/pci/devices/");
        let mut words = rest.ok_or(io::ErrorKind::NotFound)?.split('/');
        let address = words.next().unwrap_or_default();
        let function = self.function(address).ok_or(io::ErrorKind::NotFound)?;
        Ok((address, function, words.collect()))
    }

    /// Whether mediated devices are made on the function.
    fn makes_mdevs(&self, function: Parent) -> bool {
        match self.setup.framework() {
            Framework::LegacyMdev => function == Parent::Pf,
            Framework::SriovMdev => function != Parent::Pf,
            Framework::VendorVfio => false,
        }
    }
}

fn untold<T>() -> Told<T> {
    Told::Unavailable(Failure {
        kind: FailureKind::NotSupported,
        message: "not supported".to_owned(),
    })
}

impl Nvml for TwinHost {
    fn gpus(&self) -> Result<Vec<GpuFacts>, Failure> {
        Ok(vec![self.facts()])
    }

    fn gpu(&self, _: PciAddress) -> Result<GpuFacts, Failure> {
        Ok(self.facts())
    }
}

fn type_number(word: &str) -> io::Result<u32> {
    let number = word.strip_prefix("nvidia-").and_then(|id| id.parse().ok());
    number.ok_or_else(|| io::ErrorKind::NotFound.into())
}

impl Sysfs for TwinHost {
    fn read(&self, path: &str) -> io::Result<String> {
        let (_, function, rest) = self.split(path)?;
        let attribute = |name: &str| {
            let mut all = Attribute::ALL.into_iter();
            let found = all.find(|one| one.name() == name);
            found.ok_or(io::Error::from(io::ErrorKind::NotFound))
        };
        let text = match (function, &rest[..]) {
            (Parent::Pf, ["sriov_totalvfs"]) if self.board().vfs > 0 => {
                Ok(self.board().vfs.to_string())
            }
            (_, ["mdev_supported_types", id, name]) => {
                self.gpu().read_mdev_type(function, type_number(id)?, name)
            }
            (Parent::Vf(number), ["nvidia", name]) => {
                self.gpu().read(&VgpuHandle::Vf(number), attribute(name)?)
            }
            (_, [uuid, "nvidia", name]) => {
                let vgpu_handle = VgpuHandle::Mdev((*uuid).to_owned());
                self.gpu().read(&vgpu_handle, attribute(name)?)
            }
            _ => return Err(io::ErrorKind::NotFound.into()),
        };
        let text = text.map_err(|errno| io::Error::from_raw_os_error(errno as i32))?;
        Ok(text.trim_end().to_owned())
    }

    fn read_link(&self, path: &str) -> io::Result<String> {
        let (address, function, rest) = self.split(path)?;
        match (function, &rest[..]) {
            (Parent::Vf(_), ["physfn"]) => Ok(format!("../{}", self.gpu().address())),
            (Parent::Pf, [link]) => {
                let number = link
                    .strip_prefix("virtfn")
                    .and_then(|text| text.parse().ok());
                let number: u32 = number.ok_or(io::ErrorKind::NotFound)?;
                Ok(format!("../{}", self.gpu().vf_address(number)))
            }
            (_, [uuid, "mdev_type"]) => {
                let vgpus = self.vgpus();
                let mut here = vgpus.iter().filter(|vgpu| vgpu.at == address);
                let found = here.find(|vgpu| vgpu.mdev.as_deref() == Some(*uuid));
                let vgpu = found.ok_or(io::ErrorKind::NotFound)?;
                Ok(format!("../mdev_supported_types/nvidia-{}", vgpu.type_id))
            }
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let (address, function, rest) = self.split(path)?;
        let mut names: Vec<String> = match &rest[..] {
            [] => {
                let virtual_functions = match function {
                    Parent::Pf => 0..self.gpu().vf_count(),
                    Parent::Vf(_) => 0..0,
                };
                let links = virtual_functions.map(|number| format!("virtfn{number}"));
                let here = self.vgpus().into_iter().filter(|vgpu| vgpu.at == address);
                links.chain(here.filter_map(|vgpu| vgpu.mdev)).collect()
            }
            ["mdev_supported_types"] if self.makes_mdevs(function) => {
                let types = self.board().types.iter();
                types.map(|kind| format!("nvidia-{}", kind.id)).collect()
            }
            _ => return Err(io::ErrorKind::NotFound.into()),
        };
        names.sort_unstable();
        Ok(names)
    }

    fn exists(&self, path: &str) -> bool {
        let Ok((_, function, rest)) = self.split(path) else {
            return false;
        };
        match &rest[..] {
            ["mdev_supported_types"] => self.makes_mdevs(function),
            _ => self.read(path).is_ok() || self.read_link(path).is_ok(),
        }
    }
}
