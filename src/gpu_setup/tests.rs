//! What pools want and the steps that lead there, on settings in memory.

use std::path::Path;

use proptest::prelude::*;

use super::{
    scheduler::InWords,
    steps::{Actual, NamedPlace, SetupStep, setup_plan, undo_of},
    wanted::{WantedMig, WantedSettings, wanted_settings},
};
use crate::{
    config::Pool,
    device::{
        nvml::{
            Failure, FailureKind, GpuFacts, Heterogeneous, InstancePlace, Question, Scheduler,
            SchedulerPolicy, Told,
        },
        readiness::{Driver, Functions},
    },
    model::PciAddress,
    plan::pools_taking,
    rule::{Field, FieldValue, Fields, evaluate},
};

/// A GPU of that address and nothing else.
struct At(&'static str);

impl Fields for At {
    fn field(&self, field: Field) -> Option<FieldValue> {
        (field == Field::Address).then(|| FieldValue::Text(self.0.to_owned()))
    }
}

const GPU: &str = "0000:3b:00.0";

fn pool(name: &str, text: &str) -> Pool {
    let rule =
        format!("[[rule]]\nwhere = [{{ field = 'address', op = 'equal', value = '{GPU}' }}]");
    parsed(
        name,
        &format!("kind = 'nvidia-vgpu'\nprofile = 'L40S-12Q'\n{text}\n{rule}"),
    )
}

fn parsed(name: &str, text: &str) -> Pool {
    let origin = format!("/etc/virt-vgpu/pools.d/{name}.toml");
    crate::config::parse(name.parse().unwrap(), Path::new(&origin), text).unwrap()
}

#[test]
fn only_pools_of_vgpus_whose_rules_match_take_a_gpu() {
    let rule = "[[rule]]\nwhere = [{ field = 'address', op = 'contains', value = ':' }]";
    let mdev = parsed("mdev", &format!("kind = 'mdev'\ntype = 'x'\n{rule}"));
    let pools = [pool("a", ""), mdev, pool("b", "")];
    let names = |gpu: &'static str| -> Vec<String> {
        let taking = pools_taking(&pools, |pool| evaluate(&pool.rules, &At(gpu)));
        taking.iter().map(|pool| pool.name.to_string()).collect()
    };
    assert_eq!(names(GPU), ["a", "b"]);
    assert!(names("0000:5e:00.0").is_empty());
}

#[test]
fn a_pool_without_a_scheduler_has_no_opinion() {
    let (quiet, fixed) = (pool("a", ""), pool("b", "scheduler.policy = 'fixed-share'"));
    assert_eq!(wanted_settings(&[]), Ok(None));
    let settings = wanted_settings(&[&quiet, &fixed]).unwrap().unwrap();
    let (scheduler, from) = settings.scheduler.unwrap();
    assert_eq!(scheduler.policy, SchedulerPolicy::FixedShare);
    assert_eq!((from.as_str(), settings.heterogeneous), ("b", false));
    assert_eq!(wanted_settings(&[&quiet]).unwrap().unwrap().scheduler, None);
}

const SETTINGS: [&str; 5] = [
    "",
    "heterogeneous = true",
    "scheduler.policy = 'best-effort'",
    "heterogeneous = true\nscheduler.policy = 'equal-share'",
    "scheduler.policy = 'fixed-share'",
];

proptest! {
    /// Pools conflict exactly when two of them do, in whatever order they come.
    #[test]
    fn pools_agree_when_each_two_do(chosen in proptest::collection::vec(0..SETTINGS.len(), 1..5)) {
        let pools: Vec<Pool> = chosen.iter().enumerate()
            .map(|(index, settings)| pool(&format!("p{index}"), SETTINGS[*settings]))
            .collect();
        let all: Vec<&Pool> = pools.iter().collect();
        let reversed: Vec<&Pool> = pools.iter().rev().collect();
        let mut pairs = all.iter().flat_map(|a| all.iter().map(move |b| wanted_settings(&[a, b])));
        let agree = pairs.all(|settings| settings.is_ok());
        prop_assert_eq!(wanted_settings(&all).is_ok(), agree);
        prop_assert_eq!(wanted_settings(&reversed).is_ok(), agree);
        if let (Ok(Some(one)), Ok(Some(other))) = (wanted_settings(&all), wanted_settings(&reversed)) {
            prop_assert_eq!(one.heterogeneous, other.heterogeneous);
            let scheduler = |wanted: WantedSettings| wanted.scheduler.map(|(scheduler, _)| scheduler);
            prop_assert_eq!(scheduler(one), scheduler(other));
        }
    }
}

fn told<T>() -> Told<T> {
    Told::Unavailable(failure())
}

fn failure() -> Failure {
    Failure {
        kind: FailureKind::NotSupported,
        message: "Not Supported".to_owned(),
    }
}

fn equal_share() -> Scheduler {
    Scheduler {
        policy: SchedulerPolicy::EqualShare,
        strict_round_robin: Some(true),
        averaging_factor: Some(33),
        frequency: Some(480),
        time_slice_ns: None,
    }
}

/// A GPU that is set up, with mixed sizes off and that scheduler.
fn actual(scheduler: Told<Scheduler>) -> Actual {
    Actual {
        driver: Driver::Nvidia,
        functions: Functions {
            total: 32,
            enabled: 32,
            unready: Vec::new(),
        },
        facts: Some(Ok(GpuFacts {
            address: GPU.parse().unwrap(),
            name: told(),
            uuid: told(),
            memory_mib: told(),
            hosts_vgpus: told(),
            mig: told(),
            instances: told(),
            heterogeneous: Told::Value(Heterogeneous {
                supported: true,
                enabled: false,
            }),
            heterogeneous_multi_vgpu: told(),
            scheduler,
            scheduler_limits: told(),
            types: told(),
            vgpus: told(),
        })),
        mig: None,
        in_use: false,
        loaded_with_scheduler: false,
    }
}

fn wanted(heterogeneous: bool, scheduler: Option<Scheduler>) -> WantedSettings {
    WantedSettings {
        pools: vec!["cad".parse().unwrap()],
        mig: WantedMig::Off,
        heterogeneous,
        scheduler: scheduler.map(|scheduler| (scheduler, "cad".parse().unwrap())),
    }
}

fn steps(wanted: &WantedSettings, actual: &Actual) -> Vec<SetupStep> {
    let plan = setup_plan(GPU.parse().unwrap(), wanted, actual);
    assert!(plan.obstacles.is_empty(), "{:?}", plan.obstacles);
    plan.steps.into_iter().map(|planned| planned.step).collect()
}

#[test]
fn schedulers_are_compared_by_what_is_wanted_and_told() {
    let wanted = wanted(false, Some(equal_share()));
    let is = |scheduler: Scheduler| steps(&wanted, &actual(Told::Value(scheduler)));
    let set = vec![SetupStep::SetScheduler(equal_share())];
    assert_eq!(is(equal_share()), []);
    let more = Scheduler {
        time_slice_ns: Some(2_000_000),
        ..equal_share()
    };
    assert_eq!(is(more), []);
    let other = Scheduler {
        frequency: Some(960),
        ..equal_share()
    };
    assert_eq!(is(other), set);
    let other = Scheduler {
        policy: SchedulerPolicy::FixedShare,
        ..equal_share()
    };
    assert_eq!(is(other), set);
    let untold = Scheduler {
        frequency: None,
        ..equal_share()
    };
    assert_eq!(is(untold), set);
    let in_use = Actual {
        in_use: true,
        ..actual(Told::Value(untold))
    };
    assert_eq!(steps(&wanted, &in_use), []);
    assert_eq!(steps(&wanted, &actual(told())), set);
    let loaded = Actual {
        loaded_with_scheduler: true,
        ..actual(told())
    };
    assert_eq!(steps(&wanted, &loaded), []);
}

#[test]
fn settings_come_after_what_undoes_them() {
    let fresh = Actual {
        driver: Driver::None,
        functions: Functions {
            total: 32,
            enabled: 0,
            unready: Vec::new(),
        },
        facts: None,
        ..actual(told())
    };
    let mixed = wanted(true, Some(equal_share()));
    assert_eq!(
        steps(&mixed, &fresh),
        [
            SetupStep::AwaitDriver,
            SetupStep::EnableFunctions,
            SetupStep::AwaitTypes,
            SetupStep::SetHeterogeneous(true),
            SetupStep::SetScheduler(equal_share()),
        ]
    );
    let best_effort = Scheduler {
        policy: SchedulerPolicy::BestEffort,
        strict_round_robin: None,
        averaging_factor: None,
        frequency: None,
        time_slice_ns: None,
    };
    let plain = wanted(false, Some(best_effort));
    assert_eq!(
        steps(&plain, &fresh),
        [
            SetupStep::AwaitDriver,
            SetupStep::EnableFunctions,
            SetupStep::AwaitTypes
        ]
    );
}

#[test]
fn nobody_needs_nvml_to_leave_a_gpu_as_it_is() {
    let mute = Actual {
        facts: Some(Err(failure())),
        ..actual(told())
    };
    assert_eq!(steps(&wanted(false, None), &mute), []);
    let plan = setup_plan(GPU.parse().unwrap(), &wanted(true, None), &mute);
    assert_eq!(
        plan.obstacles,
        ["whether it mixes sizes cannot be told: Not Supported; see whether 'nvidia-smi' works"]
    );
}

#[test]
fn schedulers_in_words() {
    let words = |scheduler| InWords(&scheduler).to_string();
    assert_eq!(
        words(equal_share()),
        "equal-share, strict round robin, averaging factor 33, 480 Hz"
    );
    let sliced = Scheduler {
        policy: SchedulerPolicy::FixedShare,
        strict_round_robin: Some(false),
        averaging_factor: None,
        frequency: None,
        time_slice_ns: Some(2_500_000),
    };
    assert_eq!(
        words(sliced),
        "fixed-share, no strict round robin, time slice 2.5 ms"
    );
}

#[test]
fn every_step_has_an_undo_or_a_reason_for_none() {
    let gpu: PciAddress = GPU.parse().unwrap();
    let facts = actual(Told::Value(equal_share()));
    let untold = Actual {
        facts: None,
        ..actual(Told::Value(equal_share()))
    };
    let on = SetupStep::SetHeterogeneous(true);
    let best_effort = SetupStep::SetScheduler(Scheduler {
        policy: SchedulerPolicy::BestEffort,
        ..equal_share()
    });
    let off = Question::SetHeterogeneous { gpu, on: false };
    let scheduler = equal_share();
    let before = Question::SetScheduler { gpu, scheduler };
    assert_eq!(undo_of(gpu, &on, &facts), Ok(off));
    assert_eq!(undo_of(gpu, &best_effort, &facts), Ok(before));
    for step in [&on, &best_effort] {
        let why = "the driver does not tell how it was before";
        assert_eq!(undo_of(gpu, step, &untold), Err(why));
    }
    let place = InstancePlace {
        profile: 0,
        start: 6,
        size: 3,
    };
    let named = NamedPlace {
        name: "1g.24gb+gfx".to_owned(),
        place,
    };
    let (create, destroy) = (
        Question::CreateInstance { gpu, place },
        Question::DestroyInstance { gpu, place },
    );
    let mixing = |on| Question::SetInstanceHeterogeneous { gpu, place, on };
    for (step, undo) in [
        (SetupStep::SetMig(true), Question::SetMig { gpu, on: false }),
        (SetupStep::SetMig(false), Question::SetMig { gpu, on: true }),
        (SetupStep::CreateInstance(named.clone()), destroy),
        (SetupStep::DestroyInstance(named.clone()), create),
        (
            SetupStep::SetInstanceHeterogeneous(named.clone(), true),
            mixing(false),
        ),
    ] {
        assert_eq!(undo_of(gpu, &step, &untold), Ok(undo));
    }
    let why = "the driver does not tell how it was before";
    let of_instance = SetupStep::SetInstanceScheduler(named, equal_share());
    assert_eq!(undo_of(gpu, &of_instance, &untold), Err(why));
    let why = "a later step creates them again";
    assert_eq!(undo_of(gpu, &SetupStep::RemoveFunctions, &facts), Err(why));
    for step in [SetupStep::AwaitDriver, SetupStep::AwaitTypes] {
        assert_eq!(undo_of(gpu, &step, &facts), Err("it only waits"));
    }
    for step in [SetupStep::EnableFunctions, SetupStep::RenewFunctions] {
        let why = "functions that are there are as wanted, and the next run goes on from them";
        assert_eq!(undo_of(gpu, &step, &facts), Err(why));
    }
}
