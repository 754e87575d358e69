//! The replacement for `virt-vgpu-nvml` answers with the present state of the model's
//! GPUs, whichever way it is asked.

use std::time::Duration;

use lab_nvidia::model::{Attribute, Framework, VgpuHandle};
use nix::errno::Errno;
use virt_vgpu::{
    device::nvml::{
        Answer, FailureKind, GpuFacts, GpuInstance, InstancePlace, InstancePlacements, Nvml,
        Placements, Question, Scheduler, SchedulerPolicy, TypeFacts, VgpuFacts,
    },
    host::{Deadline, Host, NvmlChild},
    model::PciAddress,
};

use crate::support::{
    domain::Domain,
    kernel::{Fault, Target},
    machine::{Gpu, Machine, profile},
    nvml_driver::{ADDRESSES, Driver},
    scene::Scene,
};

const FIRST: &str = "0000:41:00.4";
const SECOND: &str = "0000:41:00.5";
const PATIENCE: Duration = Duration::from_secs(60);

fn gpu() -> PciAddress {
    "0000:41:00.0".parse().unwrap()
}

/// An L40S with mixed sizes and a T4.
fn scene() -> Scene {
    let l40s = Gpu::l40s("0000:41:00.0").functions(8).heterogeneous();
    let t4 = Gpu::new("t4", Framework::LegacyMdev, "0000:3b:00.0");
    Scene::new(Machine::of_gpus([l40s, t4]))
}

fn ask(host: &Host, question: &Question) -> Result<Answer, FailureKind> {
    let child = NvmlChild::new(host, Deadline::after(PATIENCE));
    child.ask(question).map_err(|failure| failure.kind)
}

fn facts(host: &Host) -> GpuFacts {
    let child = NvmlChild::new(host, Deadline::after(PATIENCE));
    child.gpu(gpu()).unwrap()
}

fn kind(facts: &GpuFacts, name: &str) -> TypeFacts {
    let types = facts.types.value().unwrap();
    let found = types.iter().find(|kind| kind.name == profile(name).name);
    found.unwrap().clone()
}

#[test]
fn the_process_and_the_model_say_the_same() {
    let scene = scene();
    let host = scene.host();
    let Ok(Answer::Gpus(gpus)) = ask(&host, &Question::Gpus) else {
        panic!("no GPUs");
    };
    let names: Vec<&str> = gpus
        .iter()
        .map(|gpu| gpu.name.value().unwrap().as_str())
        .collect();
    assert_eq!(names, ["Tesla T4", "NVIDIA L40S"]);
    assert_eq!(gpus[1], facts(&host));
    assert_eq!(gpus[1], scene.kernel.gpu(gpu()).unwrap());
    let nobody = "0000:99:00.0".parse().unwrap();
    let asked = ask(&host, &Question::Gpu { gpu: nobody });
    assert_eq!(asked, Err(FailureKind::NoGpu));
}

#[test]
fn types_are_as_the_table_has_them() {
    let facts = scene().kernel.gpu(gpu()).unwrap();
    assert_eq!(
        kind(&facts, "L40S-12Q"),
        TypeFacts {
            id: "1153".parse().unwrap(),
            name: "NVIDIA L40S-12Q".to_owned(),
            framebuffer_mib: 12288,
            heads: Some(4),
            max_resolution: Some((7680, 4320)),
            frame_rate_limit: Some(60),
            max_instances: 4,
            max_per_vm: Some(16),
            gpu_instance_profile: None,
            most_per_instance: None,
            creatable: true,
            placements: Some(Placements {
                size: 12,
                supported: vec![0, 12, 24, 36],
                creatable: vec![0, 12, 24, 36],
            }),
            instance_placements: Vec::new(),
        }
    );
    let types = facts.types.value().unwrap();
    assert!(types.is_sorted_by_key(|kind| kind.id));
}

#[test]
fn places_follow_every_write() {
    let scene = scene();
    let host = scene.host();
    let free = |name: &str| {
        let kind = kind(&facts(&host), name);
        (kind.creatable, kind.placements.unwrap().creatable)
    };
    scene.kernel.set_type(FIRST, "L40S-16Q");
    assert_eq!(free("L40S-12Q"), (true, vec![24, 36]));
    assert_eq!(free("L40S-24Q"), (true, vec![24]));
    scene.kernel.place(FIRST, 32);
    assert_eq!(free("L40S-12Q"), (true, vec![0, 12]));
    scene.kernel.set_type(SECOND, "L40S-24Q");
    assert_eq!(free("L40S-24Q"), (false, vec![]));
    assert_eq!(free("L40S-12Q"), (false, vec![]));
    assert_eq!(free("L40S-8Q"), (true, vec![24]));
    scene.kernel.release(FIRST);
    assert_eq!(free("L40S-24Q"), (true, vec![24]));
    // Only a process that has a vGPU open is listed.
    let domain = Domain::new(1);
    scene.runs_on(4711, &domain, &[SECOND]);
    let open = VgpuFacts {
        type_id: "1155".parse().unwrap(),
        vm: Some(domain.uuid),
        mdev: None,
        placement: Some(0),
    };
    assert_eq!(facts(&host).vgpus.value(), Some(&vec![open]));
    scene.ends(4711);
    assert_eq!(facts(&host).vgpus.value(), Some(&vec![]));
}

#[test]
fn modes_are_set_on_an_empty_gpu() {
    let scene = scene();
    let host = scene.host();
    let set = |on| ask(&host, &Question::SetHeterogeneous { gpu: gpu(), on });
    let mixed = || facts(&host).heterogeneous.value().unwrap().enabled;
    assert_eq!(set(false), Ok(Answer::Done));
    assert!(!mixed());
    let wanted = Scheduler {
        policy: SchedulerPolicy::FixedShare,
        strict_round_robin: Some(true),
        averaging_factor: Some(33),
        frequency: Some(480),
        time_slice_ns: None,
    };
    let question = Question::SetScheduler {
        gpu: gpu(),
        scheduler: wanted,
    };
    assert_eq!(ask(&host, &question), Ok(Answer::Done));
    assert_eq!(facts(&host).scheduler.value(), Some(&wanted));
    scene.kernel.set_type(FIRST, "L40S-12Q");
    assert_eq!(set(true), Err(FailureKind::InUse));
    assert!(!mixed());
    // A setting that is already in place is no change.
    assert_eq!(set(false), Ok(Answer::Done));
    assert_eq!(ask(&host, &question), Ok(Answer::Done));
    let other = Question::SetScheduler {
        gpu: gpu(),
        scheduler: Scheduler {
            policy: SchedulerPolicy::EqualShare,
            ..wanted
        },
    };
    assert_eq!(ask(&host, &other), Err(FailureKind::InUse));
    let t4 = "0000:3b:00.0".parse().unwrap();
    let question = Question::SetHeterogeneous { gpu: t4, on: true };
    assert_eq!(ask(&host, &question), Err(FailureKind::NotSupported));
}

#[test]
fn a_program_that_fails_or_is_not_there() {
    let scene = scene();
    let host = scene.host();
    let fault = Fault::errno(Target::Nvml, Errno::EPERM).times(1);
    scene.kernel.inject(fault);
    let asked = ask(&host, &Question::Gpus);
    assert_eq!(asked, Err(FailureKind::NoPermission));
    assert!(ask(&host, &Question::Gpus).is_ok());
    scene.without_nvml();
    let asked = ask(&host, &Question::Gpus);
    assert_eq!(asked, Err(FailureKind::NoLibrary));
}

/// A GPU whose GPU instances hold several vGPUs, once for the model and once for the program
/// and the lab's library.
struct Both {
    scene: Scene,
    driver: Driver,
}

impl Both {
    fn new() -> Self {
        let gpu = Gpu::new("rtx-pro-6000", Framework::VendorVfio, ADDRESSES[0]);
        Self {
            scene: Scene::new(Machine::of_gpus([gpu])),
            driver: Driver::with(&["rtx-pro-6000"]),
        }
    }

    fn gpu() -> PciAddress {
        ADDRESSES[0].parse().unwrap()
    }

    /// The answer that both give.
    #[track_caller]
    fn ask(&self, question: &Question) -> Result<Answer, FailureKind> {
        let answer = |answer| match answer {
            Answer::Failed(failure) => Err(failure.kind),
            answer => Ok(answer),
        };
        let model = answer(self.scene.kernel.answer(question));
        let program = answer(self.driver.ask(question));
        assert_eq!(model, program, "{question:?}");
        model
    }

    #[track_caller]
    fn create(&self, place: InstancePlace) {
        let gpu = Self::gpu();
        let question = Question::CreateInstance { gpu, place };
        assert_eq!(self.ask(&question), Ok(Answer::Done));
    }

    #[track_caller]
    fn mix(&self, place: InstancePlace, on: bool) -> Result<Answer, FailureKind> {
        let gpu = Self::gpu();
        self.ask(&Question::SetInstanceHeterogeneous { gpu, place, on })
    }

    #[track_caller]
    fn share(&self, place: InstancePlace, scheduler: Scheduler) -> Result<Answer, FailureKind> {
        self.ask(&Question::SetInstanceScheduler {
            gpu: Self::gpu(),
            place,
            scheduler,
        })
    }

    fn make(&self, vf: usize, profile_name: &str) {
        let functions = self.scene.kernel.functions(ADDRESSES[0]);
        self.scene.kernel.set_type(&functions[vf], profile_name);
        let vgpu_handle = VgpuHandle::Vf(u32::try_from(vf).unwrap());
        let gpu = &mut self.driver.twins().gpus[0];
        let id = profile(profile_name).id.to_string();
        gpu.write(&vgpu_handle, Attribute::CurrentVgpuType, &id)
            .unwrap();
    }

    /// The GPU instances and the free places in them, as both tell them.
    #[track_caller]
    fn instances(&self) -> (Vec<GpuInstance>, Vec<(String, InstancePlacements)>) {
        let told = |facts: GpuFacts| {
            let placements = |kind: &TypeFacts| {
                let each = kind.instance_placements.iter().cloned();
                let name = kind.name.clone();
                each.map(move |one| (name.clone(), one)).collect::<Vec<_>>()
            };
            let types = facts.types.value().unwrap().iter();
            let placements = types.flat_map(placements).collect::<Vec<_>>();
            (
                facts.instances.value().unwrap().instances.clone(),
                placements,
            )
        };
        let question = Question::Gpu { gpu: Self::gpu() };
        let Answer::Gpus(mut program) = self.driver.ask(&question) else {
            panic!("no GPU");
        };
        let program = told(program.remove(0));
        assert_eq!(told(self.scene.kernel.gpu(Self::gpu()).unwrap()), program);
        program
    }
}

#[test]
fn settings_of_gpu_instances_are_the_same_for_both() {
    let both = Both::new();
    let gpu = Both::gpu();
    let left = InstancePlace {
        profile: 47,
        start: 0,
        size: 3,
    };
    let right = InstancePlace { start: 3, ..left };
    let equal = Scheduler {
        policy: SchedulerPolicy::EqualShare,
        strict_round_robin: Some(false),
        averaging_factor: None,
        frequency: None,
        time_slice_ns: Some(2_000_000),
    };
    let fixed = Scheduler {
        policy: SchedulerPolicy::FixedShare,
        ..equal
    };
    assert_eq!(both.mix(left, true), Err(FailureKind::Other));
    assert_eq!(both.share(left, equal), Err(FailureKind::Other));
    let on = Question::SetMig { gpu, on: true };
    assert_eq!(both.ask(&on), Ok(Answer::Done));
    both.create(left);
    both.create(right);
    assert_eq!(both.mix(left, true), Ok(Answer::Done));
    assert_eq!(both.share(left, fixed), Err(FailureKind::Invalid));
    assert_eq!(both.share(right, fixed), Ok(Answer::Done));
    assert_eq!(both.share(left, equal), Ok(Answer::Done));
    both.make(0, "DC-1-12Q");
    assert_eq!(both.mix(left, false), Err(FailureKind::InUse));
    assert_eq!(both.share(left, fixed), Err(FailureKind::Invalid));
    let slower = Scheduler {
        time_slice_ns: Some(3_000_000),
        ..equal
    };
    assert_eq!(both.share(left, slower), Err(FailureKind::InUse));
    assert_eq!(both.mix(left, true), Ok(Answer::Done));
    assert_eq!(both.share(left, equal), Ok(Answer::Done));
    let (instances, placements) = both.instances();
    let settings = |one: &GpuInstance| (one.start, one.heterogeneous, one.scheduler);
    assert_eq!(
        instances.iter().map(settings).collect::<Vec<_>>(),
        [(0, Some(true), Some(equal)), (3, Some(false), Some(fixed))]
    );
    let of_12 = placements
        .iter()
        .filter(|(name, _)| name.ends_with("DC-1-12Q"));
    let of_12: Vec<_> = of_12.map(|(_, free)| free.creatable.clone()).collect();
    assert_eq!(of_12, [vec![12]]);
}
