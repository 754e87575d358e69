//! MIG mode and GPU instances, as the program reads and changes them.

use lab_nvidia::boards::{self, GiProfile};
use virt_vgpu::device::nvml::{
    Answer, Engines, FailureKind, GpuInstance, InstanceFacts, InstancePlace, InstanceProfile,
    Question, Told,
};

use super::{Driver, MODELS, all, failed, failure, gpu, one, open_on_vf};

const ADDRESS: &str = "0000:3b:00.0";

pub(super) fn set_mig(driver: &Driver, on: bool) -> Answer {
    driver.ask(&Question::SetMig { gpu: gpu(0), on })
}

pub(super) fn create(driver: &Driver, place: InstancePlace) -> Answer {
    driver.ask(&Question::CreateInstance { gpu: gpu(0), place })
}

pub(super) fn destroy(driver: &Driver, place: InstancePlace) -> Answer {
    driver.ask(&Question::DestroyInstance { gpu: gpu(0), place })
}

pub(super) fn place(profile: u32, start: u32, size: u32) -> InstancePlace {
    InstancePlace {
        profile,
        start,
        size,
    }
}

/// As the library tells them (`Engines::of`).
fn engines(profile: &GiProfile) -> Engines {
    let single = u32::from(profile.media);
    Engines {
        decoders: single.max(profile.compute_slices / 2),
        encoders: match profile.gfx {
            true => profile.compute_slices,
            false => 0,
        },
        jpeg: single,
        optical_flow: single,
    }
}

pub(super) fn instance_facts(driver: &Driver) -> InstanceFacts {
    match one(driver).instances {
        Told::Value(facts) => facts,
        other @ Told::Unavailable(_) => panic!("{other:?}"),
    }
}

/// The places of the instances that there are, in the order of their slots.
fn places(driver: &Driver) -> Vec<InstancePlace> {
    let facts = instance_facts(driver);
    let mut places: Vec<_> = facts.instances.iter().map(GpuInstance::place).collect();
    places.sort_by_key(|place| place.start);
    places
}

#[test]
fn profiles_are_those_of_the_tables_without_mig_mode() {
    let driver = Driver::with(&MODELS);
    for (model, facts) in MODELS.iter().zip(all(&driver)) {
        let board = boards::find(model).unwrap();
        let mut profiles: Vec<_> = board
            .gi_profiles
            .iter()
            .map(|profile| InstanceProfile {
                id: profile.id,
                name: Some(profile.name.clone()),
                compute_slices: profile.compute_slices,
                most: profile.max_instances,
                memory_mib: u64::from(profile.memory_mib) * 95 / 100,
                size: profile.memory_slots,
                starts: profile.starts.clone(),
                graphics: Some(profile.gfx),
                engines: engines(profile),
            })
            .collect();
        profiles.sort_by_key(|profile| profile.id);
        let told = InstanceFacts {
            pending: false,
            profiles,
            instances: Vec::new(),
        };
        let no_mig = format!(
            "cannot read the MIG mode of {}: Not Supported",
            facts.address
        );
        assert_eq!(
            facts.instances,
            if board.features.mig {
                Told::Value(told)
            } else {
                Told::Unavailable(failure(FailureKind::NotSupported, &no_mig))
            },
            "{model}"
        );
    }
}

#[test]
fn mig_mode_is_switched_and_read_back() {
    let driver = Driver::with(&["h100"]);
    // With virtual functions it is only switched on.
    driver.twins().gpus[0].set_vfs(false).unwrap();
    for on in [true, false] {
        assert_eq!(set_mig(&driver, on), Answer::Done);
        assert_eq!(one(&driver).mig, Told::Value(on));
        assert_eq!(instance_facts(&driver).pending, on);
        // Once more there is nothing to do, whoever uses the GPU.
        driver.twins().refuses_changes = true;
        assert_eq!(set_mig(&driver, on), Answer::Done);
        driver.twins().refuses_changes = false;
    }
}

#[test]
fn mig_mode_that_waits_is_told_as_pending() {
    let driver = Driver::with(&["rtx-pro-6000"]);
    let q = boards::find("rtx-pro-6000").unwrap().types.iter();
    let whole = q.clone().find(|kind| kind.gi_profile.is_none()).unwrap().id;
    open_on_vf(&driver, 0, whole);
    assert_eq!(
        set_mig(&driver, true),
        failed(
            FailureKind::Pending,
            &format!(
                "cannot switch MIG mode of {ADDRESS} on: it is pending: In use by another client"
            )
        )
    );
    assert_eq!(one(&driver).mig, Told::Value(false));
    assert!(instance_facts(&driver).pending);
    // It is taken back.
    assert_eq!(set_mig(&driver, false), Answer::Done);
    assert!(!instance_facts(&driver).pending);
}

#[test]
fn mig_mode_is_refused_for_what_it_is() {
    let driver = Driver::with(&["rtx-pro-6000"]);
    driver.twins().refuses_changes = true;
    assert_eq!(
        set_mig(&driver, true),
        failed(
            FailureKind::NoPermission,
            &format!("cannot switch MIG mode of {ADDRESS} on: Insufficient Permissions")
        )
    );
    driver.twins().refuses_changes = false;
    driver.twins().only_claims = true;
    assert_eq!(
        set_mig(&driver, true),
        failed(
            FailureKind::Other,
            &format!(
                "cannot switch MIG mode of {ADDRESS} on: the driver says that it is done, but the \
                 mode has not changed"
            )
        )
    );
    let driver = Driver::with(&["l40s"]);
    assert_eq!(
        set_mig(&driver, true),
        failed(
            FailureKind::NotSupported,
            &format!("cannot read the MIG mode of {ADDRESS}: Not Supported")
        )
    );
}

#[test]
fn instances_are_created_where_they_shall_be() {
    let driver = Driver::with(&["h100"]);
    let (large, small) = (place(9, 4, 4), place(19, 2, 1));
    assert_eq!(
        create(&driver, small),
        failed(
            FailureKind::NotSupported,
            &format!(
                "cannot create a GPU instance of {ADDRESS}: profile 19, 1 slots from 2: Not \
                 Supported"
            )
        )
    );
    assert_eq!(set_mig(&driver, true), Answer::Done);
    assert_eq!(create(&driver, large), Answer::Done);
    assert_eq!(create(&driver, small), Answer::Done);
    assert_eq!(places(&driver), [small, large]);
    // Nothing is free there, and that is no place of the profile.
    for (place, why) in [
        (place(9, 4, 4), "Insufficient Resources"),
        (place(9, 1, 4), "Invalid Argument"),
        (place(9, 0, 3), "Invalid Argument"),
        (place(77, 0, 1), "Invalid Argument"),
    ] {
        let Answer::Failed(failure) = create(&driver, place) else {
            panic!("{place} was created");
        };
        let message = format!("cannot create a GPU instance of {ADDRESS}: {place}: {why}");
        assert_eq!(failure.message, message);
    }
    assert_eq!(places(&driver), [small, large]);
}

#[test]
fn an_instance_is_destroyed_with_its_compute_instances() {
    let driver = Driver::with(&["h100"]);
    assert_eq!(set_mig(&driver, true), Answer::Done);
    let (whole, small) = (place(9, 0, 4), place(19, 6, 1));
    for place in [whole, small] {
        assert_eq!(create(&driver, place), Answer::Done);
    }
    let found = instance_facts(&driver).instances;
    let id = found.iter().find(|one| one.place() == whole).unwrap().id;
    driver.twins().gpus[0].ci_create(id, 1).unwrap();
    driver.twins().gpus[0].ci_create(id, 2).unwrap();
    let found = instance_facts(&driver).instances;
    let found = found.iter().find(|one| one.place() == whole).unwrap();
    assert_eq!(found.compute_instances, 2);
    assert_eq!(destroy(&driver, whole), Answer::Done);
    assert_eq!(places(&driver), [small]);
    // It has gone already, and so has what never was.
    assert_eq!(destroy(&driver, whole), Answer::Done);
    assert_eq!(destroy(&driver, place(19, 1, 1)), Answer::Done);
    assert_eq!(places(&driver), [small]);
}

#[test]
fn a_driver_without_placements_makes_no_instance() {
    let lacking = ["nvmlDeviceCreateGpuInstanceWithPlacement"];
    let driver = Driver::with(&["h100"]).without(&lacking);
    assert_eq!(set_mig(&driver, true), Answer::Done);
    let Answer::Failed(failure) = create(&driver, place(19, 0, 1)) else {
        panic!("it was created");
    };
    assert_eq!(failure.kind, FailureKind::NoSymbol);
    assert_eq!(places(&driver), []);
}

#[test]
fn older_libraries_have_older_calls() {
    let whole = instance_facts(&Driver::with(&["h100"]));
    let lacking = [
        "nvmlDeviceGetGpuInstanceProfileInfoV",
        "nvmlDeviceGetGpuInstancePossiblePlacements_v2",
        "nvmlVgpuTypeGetMaxInstancesPerGpuInstance",
    ];
    let driver = Driver::with(&["h100"]).without(&lacking);
    let unnamed = |profile: &InstanceProfile| InstanceProfile {
        name: None,
        graphics: None,
        ..profile.clone()
    };
    let expected = InstanceFacts {
        profiles: whole.profiles.iter().map(unnamed).collect(),
        ..whole
    };
    assert_eq!(instance_facts(&driver), expected);
    let facts = one(&driver);
    let mut types = facts.types.value().unwrap().iter();
    assert!(types.all(|kind| kind.most_per_instance.is_none()));
}
