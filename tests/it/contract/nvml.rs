//! The replacement for `virt-vgpu-nvml` answers with the present state of the model's
//! GPUs, whichever way it is asked.

use std::time::Duration;

use lab_nvidia::model::Framework;
use nix::errno::Errno;
use virt_vgpu::{
    device::nvml::{
        Answer, FailureKind, GpuFacts, Nvml, Placements, Question, Scheduler, SchedulerPolicy,
        TypeFacts, VgpuFacts,
    },
    host::{Deadline, Host, NvmlChild},
    model::PciAddress,
};

use crate::support::{
    domain::Domain,
    kernel::{Fault, Target},
    machine::{Gpu, Machine, profile},
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
        function: Some(SECOND.parse().unwrap()),
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
