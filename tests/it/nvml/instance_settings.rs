//! Heterogeneous mode, scheduler and free places of single GPU instances, as the program
//! reads and sets them.

use lab_nvidia::model::{Attribute, VgpuHandle};
use virt_vgpu::device::nvml::{
    Answer, FailureKind, GpuInstance, InstancePlace, InstancePlacements, Question, Scheduler,
    SchedulerPolicy,
};

use super::{
    BEST_EFFORT, Driver, SLICES, STRICT, failed, gpu,
    mig::{create, destroy, instance_facts, place, set_mig},
    one, open_on_vf,
};

/// Two GPU instances of profile `1g.24gb+gfx`.
const LEFT: InstancePlace = InstancePlace {
    profile: 47,
    start: 0,
    size: 3,
};
const RIGHT: InstancePlace = InstancePlace { start: 3, ..LEFT };

/// The calls of NVML for single GPU instances, which drivers before R575 lack.
const HETEROGENEOUS: [&str; 2] = [
    "nvmlGpuInstanceGetVgpuHeterogeneousMode",
    "nvmlGpuInstanceSetVgpuHeterogeneousMode",
];
const SCHEDULER: [&str; 2] = [
    "nvmlGpuInstanceGetVgpuSchedulerState",
    "nvmlGpuInstanceSetVgpuSchedulerState",
];
const SCHEDULER_V2: [&str; 2] = [
    "nvmlGpuInstanceGetVgpuSchedulerState_v2",
    "nvmlGpuInstanceSetVgpuSchedulerState_v2",
];

/// A GPU whose GPU instances hold several vGPUs, with two of them.
fn divided() -> Driver {
    with_two(Driver::with(&["rtx-pro-6000"]))
}

fn with_two(driver: Driver) -> Driver {
    assert_eq!(set_mig(&driver, true), Answer::Done);
    for place in [LEFT, RIGHT] {
        assert_eq!(create(&driver, place), Answer::Done);
    }
    driver
}

fn set_heterogeneous(driver: &Driver, place: InstancePlace, on: bool) -> Answer {
    let gpu = gpu(0);
    driver.ask(&Question::SetInstanceHeterogeneous { gpu, place, on })
}

fn set_scheduler(driver: &Driver, place: InstancePlace, scheduler: Scheduler) -> Answer {
    driver.ask(&Question::SetInstanceScheduler {
        gpu: gpu(0),
        place,
        scheduler,
    })
}

fn instance(driver: &Driver, place: InstancePlace) -> GpuInstance {
    let mut found = instance_facts(driver).instances.into_iter();
    found.find(|one| one.place() == place).unwrap()
}

fn heterogeneous(driver: &Driver) -> [Option<bool>; 2] {
    [LEFT, RIGHT].map(|place| instance(driver, place).heterogeneous)
}

fn schedulers(driver: &Driver) -> [Option<Scheduler>; 2] {
    [LEFT, RIGHT].map(|place| instance(driver, place).scheduler)
}

/// Makes a vGPU of this type in a GPU instance, without a VM: NVML does not list it.
fn make_in(driver: &Driver, vf: u32, place: InstancePlace, type_id: u32) {
    let id = instance(driver, place).id;
    let vgpu_handle = VgpuHandle::Vf(vf);
    for (attribute, value) in [
        (Attribute::CurrentVgpuType, type_id),
        (Attribute::GpuInstanceId, id),
    ] {
        let gpu = &mut driver.twins().gpus[0];
        gpu.write(&vgpu_handle, attribute, &value.to_string())
            .unwrap();
    }
}

fn cannot_switch(kind: FailureKind, why: &str) -> Answer {
    let what = "cannot switch heterogeneous mode on in the GPU instance of 0000:3b:00.0: profile \
                47, 3 slots from 3";
    failed(kind, &format!("{what}: {why}"))
}

fn cannot_set(kind: FailureKind, why: &str) -> Answer {
    let what = "cannot set the scheduler of the GPU instance of 0000:3b:00.0: profile 47, 3 slots \
                from 3";
    failed(kind, &format!("{what}: {why}"))
}

#[test]
fn heterogeneous_mode_is_set_in_one_instance() {
    let driver = divided();
    assert_eq!(heterogeneous(&driver), [Some(false); 2]);
    for on in [true, false] {
        assert_eq!(set_heterogeneous(&driver, RIGHT, on), Answer::Done);
        assert_eq!(heterogeneous(&driver), [Some(false), Some(on)]);
        // Once more there is nothing to do.
        driver.twins().refuses_changes = true;
        assert_eq!(set_heterogeneous(&driver, RIGHT, on), Answer::Done);
        driver.twins().refuses_changes = false;
    }
}

#[test]
fn heterogeneous_mode_of_an_instance_is_refused_for_what_it_is() {
    let driver = divided();
    driver.twins().refuses_changes = true;
    assert_eq!(
        set_heterogeneous(&driver, RIGHT, true),
        cannot_switch(FailureKind::NoPermission, "Insufficient Permissions")
    );
    driver.twins().refuses_changes = false;
    driver.twins().only_claims = true;
    assert_eq!(
        set_heterogeneous(&driver, RIGHT, true),
        cannot_switch(
            FailureKind::Other,
            "the driver says that it is done, but the mode has not changed"
        )
    );
    driver.twins().only_claims = false;
    make_in(&driver, 0, RIGHT, 1558);
    assert_eq!(
        set_heterogeneous(&driver, RIGHT, true),
        cannot_switch(FailureKind::InUse, "In use by another client")
    );
    // There is nothing to do, so nothing conflicts; and the other one is empty.
    assert_eq!(set_heterogeneous(&driver, RIGHT, false), Answer::Done);
    assert_eq!(set_heterogeneous(&driver, LEFT, true), Answer::Done);
    assert_eq!(heterogeneous(&driver), [Some(true), Some(false)]);
}

#[test]
fn schedulers_are_set_in_one_instance() {
    let driver = divided();
    assert_eq!(schedulers(&driver), [Some(BEST_EFFORT); 2]);
    let default = Scheduler {
        policy: SchedulerPolicy::EqualShare,
        ..BEST_EFFORT
    };
    for scheduler in [STRICT, SLICES, default, BEST_EFFORT] {
        assert_eq!(set_scheduler(&driver, RIGHT, scheduler), Answer::Done);
        assert_eq!(schedulers(&driver), [Some(BEST_EFFORT), Some(scheduler)]);
    }
}

#[test]
fn schedulers_of_an_instance_are_refused_for_what_they_are() {
    let driver = divided();
    let fast = Scheduler {
        frequency: Some(961),
        ..STRICT
    };
    assert_eq!(
        set_scheduler(&driver, RIGHT, fast),
        cannot_set(
            FailureKind::Invalid,
            "frequency 961 Hz, but the card accepts 63 to 960"
        )
    );
    driver.twins().only_claims = true;
    assert_eq!(
        set_scheduler(&driver, RIGHT, STRICT),
        cannot_set(
            FailureKind::Other,
            "set to equal-share, with strict round robin, averaging factor 33, 480 Hz, but the \
             driver reports best-effort"
        )
    );
    driver.twins().only_claims = false;
    driver.twins().refuses_changes = true;
    assert_eq!(
        set_scheduler(&driver, RIGHT, STRICT),
        cannot_set(FailureKind::NoPermission, "Insufficient Permissions")
    );
    driver.twins().refuses_changes = false;
    assert_eq!(set_heterogeneous(&driver, RIGHT, true), Answer::Done);
    assert_eq!(
        set_scheduler(&driver, RIGHT, SLICES),
        cannot_set(
            FailureKind::Invalid,
            "fixed share does not work in heterogeneous mode"
        )
    );
    assert_eq!(set_scheduler(&driver, LEFT, SLICES), Answer::Done);
    assert_eq!(set_scheduler(&driver, RIGHT, STRICT), Answer::Done);
    make_in(&driver, 0, RIGHT, 1558);
    assert_eq!(
        set_scheduler(&driver, RIGHT, BEST_EFFORT),
        cannot_set(FailureKind::InUse, "there are vGPUs in it")
    );
    // It is already in place; and the other one is empty.
    assert_eq!(set_scheduler(&driver, RIGHT, STRICT), Answer::Done);
    assert_eq!(set_scheduler(&driver, LEFT, BEST_EFFORT), Answer::Done);
    assert_eq!(schedulers(&driver), [Some(BEST_EFFORT), Some(STRICT)]);
}

/// The driver gives one answer for both. A vGPU is the reason only if the GPU hosts vGPUs.
#[test]
fn a_scheduler_is_in_use_only_on_a_gpu_that_is_known_to_host_vgpus() {
    let driver =
        with_two(Driver::with(&["rtx-pro-6000"]).without(&["nvmlDeviceGetVirtualizationMode"]));
    make_in(&driver, 0, RIGHT, 1558);
    assert_eq!(
        set_scheduler(&driver, RIGHT, STRICT),
        cannot_set(FailureKind::NotSupported, "Not Supported")
    );
}

#[test]
fn settings_need_their_instance() {
    let missing = "there is no such GPU instance";
    let driver = divided();
    assert_eq!(destroy(&driver, RIGHT), Answer::Done);
    let refused = |driver: &Driver| {
        [
            set_heterogeneous(driver, RIGHT, true),
            set_scheduler(driver, RIGHT, STRICT),
        ]
    };
    let no_instance = [
        cannot_switch(FailureKind::Other, missing),
        cannot_set(FailureKind::Other, missing),
    ];
    assert_eq!(refused(&driver), no_instance);
    // Another profile is at that place.
    assert_eq!(create(&driver, place(14, 3, 3)), Answer::Done);
    assert_eq!(refused(&driver), no_instance);
    // MIG mode is off.
    assert_eq!(refused(&Driver::with(&["rtx-pro-6000"])), no_instance);
    let no_mig = "cannot read the MIG mode of 0000:3b:00.0: Not Supported";
    let no_mig = failed(FailureKind::NotSupported, no_mig);
    assert_eq!(
        refused(&Driver::with(&["l40s"])),
        [no_mig.clone(), no_mig.clone()]
    );
}

#[test]
fn settings_are_gone_with_their_instance() {
    let driver = divided();
    assert_eq!(set_heterogeneous(&driver, RIGHT, true), Answer::Done);
    assert_eq!(set_scheduler(&driver, RIGHT, STRICT), Answer::Done);
    assert_eq!(destroy(&driver, RIGHT), Answer::Done);
    assert_eq!(create(&driver, RIGHT), Answer::Done);
    assert_eq!(heterogeneous(&driver), [Some(false); 2]);
    assert_eq!(schedulers(&driver), [Some(BEST_EFFORT); 2]);
}

/// Its GPU instances hold one vGPU each.
#[test]
fn some_boards_have_no_settings_of_instances() {
    let driver = Driver::with(&["h100"]);
    assert_eq!(set_mig(&driver, true), Answer::Done);
    let small = place(19, 2, 1);
    assert_eq!(create(&driver, small), Answer::Done);
    let found = instance(&driver, small);
    assert_eq!((found.heterogeneous, found.scheduler), (None, None));
    assert_eq!(
        set_heterogeneous(&driver, small, true),
        failed(
            FailureKind::NotSupported,
            "cannot switch heterogeneous mode on in the GPU instance of 0000:3b:00.0: profile 19, \
             1 slots from 2: Not Supported"
        )
    );
    assert_eq!(
        set_scheduler(&driver, small, STRICT),
        failed(
            FailureKind::NotSupported,
            "cannot set the scheduler of the GPU instance of 0000:3b:00.0: profile 19, 1 slots \
             from 2: Not Supported"
        )
    );
}

#[test]
fn without_the_first_interface_the_second_sets_schedulers() {
    let driver = with_two(Driver::with(&["rtx-pro-6000"]).without(&SCHEDULER));
    assert_eq!(set_scheduler(&driver, RIGHT, STRICT), Answer::Done);
    assert_eq!(schedulers(&driver), [Some(BEST_EFFORT), Some(STRICT)]);
    assert_eq!(
        set_scheduler(&driver, RIGHT, SLICES),
        cannot_set(
            FailureKind::NotSupported,
            "this driver no longer has time slices"
        )
    );
    make_in(&driver, 0, RIGHT, 1558);
    assert_eq!(
        set_scheduler(&driver, RIGHT, BEST_EFFORT),
        cannot_set(FailureKind::InUse, "there are vGPUs in it")
    );
}

#[test]
fn older_libraries_have_no_settings_of_instances() {
    let placements = ["nvmlGpuInstanceGetVgpuTypeCreatablePlacements"];
    let lacking = [&HETEROGENEOUS[..], &SCHEDULER, &SCHEDULER_V2, &placements].concat();
    let driver = with_two(Driver::with(&["rtx-pro-6000"]).without(&lacking));
    assert_eq!(heterogeneous(&driver), [None; 2]);
    assert_eq!(schedulers(&driver), [None; 2]);
    for (answer, what, symbol) in [
        (
            set_heterogeneous(&driver, RIGHT, true),
            "cannot switch heterogeneous mode on in the GPU instance of 0000:3b:00.0: profile 47, \
             3 slots from 3: libnvidia-ml.so.1 lacks it: ",
            HETEROGENEOUS[1],
        ),
        (
            set_scheduler(&driver, RIGHT, SLICES),
            "cannot set the scheduler of the GPU instance of 0000:3b:00.0: profile 47, 3 slots \
             from 3: libnvidia-ml.so.1 lacks it: ",
            SCHEDULER[1],
        ),
    ] {
        let Answer::Failed(failure) = answer else {
            panic!("there is no way to set it");
        };
        assert_eq!(failure.kind, FailureKind::NoSymbol);
        let message = &failure.message;
        assert!(message.starts_with(what), "{message}");
        let symbol = format!("undefined symbol: {symbol}");
        assert!(message.ends_with(&symbol), "{message}");
    }
}

/// The free places of a type in the GPU instances.
fn free(driver: &Driver, type_id: u32) -> Vec<InstancePlacements> {
    let facts = one(driver);
    let id = type_id.to_string();
    let mut types = facts.types.value().unwrap().iter();
    let kind = types.find(|kind| kind.id.to_string() == id).unwrap();
    kind.instance_placements.clone()
}

#[test]
fn instances_that_mix_sizes_have_free_places() {
    let driver = divided();
    let (left, right) = (instance(&driver, LEFT).id, instance(&driver, RIGHT).id);
    let in_instance = |instance, size, creatable: &[u32]| InstancePlacements {
        instance,
        size,
        creatable: creatable.to_vec(),
    };
    assert_eq!(free(&driver, 1558), []);
    assert_eq!(set_heterogeneous(&driver, RIGHT, true), Answer::Done);
    assert_eq!(free(&driver, 1558), [in_instance(right, 12, &[0, 12])]);
    // A type of another profile, and one of the whole GPU.
    assert_eq!(free(&driver, 1573), []);
    assert_eq!(free(&driver, whole_gpu()), []);
    make_in(&driver, 0, RIGHT, 1558);
    assert_eq!(free(&driver, 1558), [in_instance(right, 12, &[12])]);
    assert_eq!(free(&driver, 1555), [in_instance(right, 8, &[16])]);
    assert_eq!(free(&driver, 1561), [in_instance(right, 24, &[])]);
    assert_eq!(set_heterogeneous(&driver, LEFT, true), Answer::Done);
    assert!(left < right);
    assert_eq!(
        free(&driver, 1558),
        [
            in_instance(left, 12, &[0, 12]),
            in_instance(right, 12, &[12])
        ]
    );
    let lacking = ["nvmlGpuInstanceGetVgpuTypeCreatablePlacements"];
    let driver = with_two(Driver::with(&["rtx-pro-6000"]).without(&lacking));
    assert_eq!(set_heterogeneous(&driver, RIGHT, true), Answer::Done);
    assert_eq!(free(&driver, 1558), []);
}

/// The number of a type without a profile.
fn whole_gpu() -> u32 {
    let board = lab_nvidia::boards::find("rtx-pro-6000").unwrap();
    let mut types = board.types.iter();
    types.find(|kind| kind.gi_profile.is_none()).unwrap().id
}

/// The driver tells the place of a vGPU within its GPU instance only where that mixes sizes.
#[test]
fn a_running_vgpu_is_placed_in_its_instance() {
    let driver = divided();
    let placements = |driver: &Driver| -> Vec<Option<u32>> {
        let facts = one(driver);
        let vgpus = facts.vgpus.value().unwrap().iter();
        vgpus.map(|vgpu| vgpu.placement).collect()
    };
    assert_eq!(set_heterogeneous(&driver, LEFT, true), Answer::Done);
    open_on_vf(&driver, 0, 1558);
    open_on_vf(&driver, 1, 1558);
    open_on_vf(&driver, 2, 1558);
    assert_eq!(placements(&driver), [Some(0), Some(12), None]);
}
