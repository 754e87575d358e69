//! vGPU types, placements, schedulers, and vGPUs with VMs.

use std::ptr::null_mut;

use nvml_wrapper_sys::bindings::{
    nvmlVgpuLicenseInfo_t, nvmlVgpuMetadata_t, nvmlVgpuPgpuCompatibility_t, nvmlVgpuPgpuMetadata_t,
    nvmlVgpuPlacementId_v1_t, nvmlVgpuPlacementList_v1_t, nvmlVgpuPlacementList_v2_t,
    nvmlVgpuSchedulerGetState_t, nvmlVgpuSchedulerParams_t,
    nvmlVgpuSchedulerParams_t__bindgen_ty_1, nvmlVgpuSchedulerSetParams_t,
    nvmlVgpuSchedulerSetParams_t__bindgen_ty_1, nvmlVgpuSchedulerSetState_t,
};

use super::*;
use crate::{
    abi::version,
    instances::*,
    metadata::*,
    scheduler::*,
    structs::{GiSchedulerSet, GiSchedulerState, MaxPerGi, SchedulerSetV2, SchedulerStateV2},
    vgpu_types::*,
};

#[test]
fn types_are_listed_and_described() {
    library(&[("creatable 0000:41:00.0", Ok("1150 1\n1155 0\n1160 2\n"))]);
    let all = ids(|count, ids| nvmlDeviceGetSupportedVgpus(device(0), count, ids));
    assert_eq!((all.len(), all[0]), (30, 1145));
    let none = ids(|count, ids| nvmlDeviceGetSupportedVgpus(device(2), count, ids));
    assert_eq!(none, [], "nvidia-vgpud has not run");
    let creatable = ids(|count, ids| nvmlDeviceGetCreatableVgpus(device(0), count, ids));
    assert_eq!(creatable, [1150, 1160]);

    let mut size = 96;
    let name = text(|name| nvmlVgpuTypeGetName(1155, name.into(), (&mut size).into()));
    assert_eq!((name.unwrap().as_str(), size), ("NVIDIA L40S-24Q", 16));
    assert_eq!(
        out(|bytes| nvmlVgpuTypeGetFramebufferSize(1155, bytes)),
        Ok(24 << 30)
    );
    assert_eq!(
        out(|id| nvmlVgpuTypeGetGpuInstanceProfileId(1155, id)),
        Ok(u32::MAX)
    );
    assert_eq!(
        out(|id| nvmlVgpuTypeGetGpuInstanceProfileId(1561, id)),
        Ok(47)
    );
    assert_eq!(
        out(|id| nvmlVgpuTypeGetGpuInstanceProfileId(99999, id)),
        Err(2)
    );
    let mut per_gi = MaxPerGi {
        version: version::<MaxPerGi>(1),
        type_id: 1561,
        max: 0,
    };
    assert_eq!(
        nvmlVgpuTypeGetMaxInstancesPerGpuInstance((&mut per_gi).into()),
        0
    );
    assert_eq!(per_gi.max, 1);
    per_gi.type_id = 1155;
    assert_eq!(
        nvmlVgpuTypeGetMaxInstancesPerGpuInstance((&mut per_gi).into()),
        3
    );
}

#[test]
fn placements_have_two_versions_and_two_modes() {
    library(&[("placements 0000:41:00.0 1154", Ok("0\n32\n"))]);
    let mut ids = [u32::MAX; 4];
    let mut list = nvmlVgpuPlacementList_v2_t {
        version: version::<nvmlVgpuPlacementList_v2_t>(2),
        placementSize: 0,
        count: 0,
        placementIds: null_mut(),
        mode: 1,
    };
    let supported = |list: &mut nvmlVgpuPlacementList_v2_t| {
        nvmlDeviceGetVgpuTypeSupportedPlacements(device(0), 1154, Ptr::from(list).cast())
    };
    assert_eq!(supported(&mut list), 7);
    assert_eq!((list.count, list.placementSize), (3, 16));
    list.placementIds = ids.as_mut_ptr();
    assert_eq!(supported(&mut list), 0);
    assert_eq!(ids, [0, 16, 32, u32::MAX]);
    list.mode = 0;
    assert_eq!(supported(&mut list), 0);
    assert_eq!((list.count, ids), (2, [0, 32, 32, u32::MAX]));

    let mut first = nvmlVgpuPlacementList_v1_t {
        version: version::<nvmlVgpuPlacementList_v1_t>(1),
        placementSize: 0,
        count: 4,
        placementIds: ids.as_mut_ptr(),
    };
    let creatable = |gpu, id, list: &mut nvmlVgpuPlacementList_v1_t| {
        nvmlDeviceGetVgpuTypeCreatablePlacements(device(gpu), id, Ptr::from(list).cast())
    };
    assert_eq!(creatable(0, 1154, &mut first), 0);
    assert_eq!(
        (first.count, first.placementSize, &ids[..2]),
        (2, 16, &[0, 32][..])
    );
    assert_eq!(creatable(1, 1519, &mut first), 3, "MIG is on");
    first.version = version::<nvmlVgpuPlacementList_v1_t>(3);
    assert_eq!(creatable(0, 1154, &mut first), 25);
}

#[test]
fn heterogeneous_modes_are_read_and_set() {
    library(&[
        ("hetero 0000:41:00.0 1", Err(Errno::EBUSY)),
        ("gi-hetero 0000:81:00.0 3 1", Ok("")),
    ]);
    let mut mode = nvmlVgpuHeterogeneousMode_v1_t {
        version: version::<nvmlVgpuHeterogeneousMode_v1_t>(1),
        mode: 5,
    };
    let at = Ptr::from(&mut mode);
    assert_eq!(nvmlDeviceGetVgpuHeterogeneousMode(device(0), at), 0);
    assert_eq!(at.read().unwrap().mode, 1);
    assert_eq!(
        nvmlDeviceGetVgpuHeterogeneousMode(device(1), at),
        3,
        "MIG is on"
    );
    assert_eq!(nvmlDeviceGetVgpuHeterogeneousMode(device(2), at), 3);
    assert_eq!(nvmlDeviceSetVgpuHeterogeneousMode(device(0), at), 19);
    assert_eq!(nvmlGpuInstanceSetVgpuHeterogeneousMode(gi(1, 3), at), 0);
    assert_eq!(nvmlGpuInstanceGetVgpuHeterogeneousMode(gi(1, 2), at), 0);
    assert_eq!(mode.mode, 1);
    mode.mode = 2;
    assert_eq!(
        nvmlDeviceSetVgpuHeterogeneousMode(device(0), (&mut mode).into()),
        2
    );
}

#[test]
fn heterogeneous_modes_of_gpu_instances_are_refused_for_what_they_are() {
    library(&[
        ("gi-hetero 0000:81:00.0 3 1", Err(Errno::EBUSY)),
        ("gi-hetero 0000:81:00.0 2 1", Err(Errno::ENOENT)),
    ]);
    let mut mode = nvmlVgpuHeterogeneousMode_v1_t {
        version: version::<nvmlVgpuHeterogeneousMode_v1_t>(1),
        mode: 1,
    };
    let at = Ptr::from(&mut mode);
    assert_eq!(nvmlGpuInstanceSetVgpuHeterogeneousMode(gi(1, 3), at), 19);
    let gone = gi(1, 2);
    assert_eq!(nvmlGpuInstanceSetVgpuHeterogeneousMode(gone, at), 6);
    let mut mode = nvmlVgpuHeterogeneousMode_v1_t { mode: 2, ..mode };
    let at = Ptr::from(&mut mode);
    assert_eq!(nvmlGpuInstanceSetVgpuHeterogeneousMode(gi(1, 3), at), 2);
    let mut mode = nvmlVgpuHeterogeneousMode_v1_t {
        version: 1,
        mode: 1,
    };
    let at = Ptr::from(&mut mode);
    assert_eq!(nvmlGpuInstanceSetVgpuHeterogeneousMode(gi(1, 3), at), 25);
    assert_eq!(nvmlGpuInstanceGetVgpuHeterogeneousMode(gi(1, 3), at), 25);
}

#[test]
fn a_gpu_instance_with_one_vgpu_has_no_settings() {
    library(&[
        (GPUS.0, Ok("0000:81:00.0 h100\n")),
        (
            RTX,
            Ok(
                "model h100\nframework vendor-vfio\nnode 0\nvfs 16\nloaded 1\nmig 1 1\n\
                hetero 0\nscheduler 1 0 0 0 0\ngi 1 9 0 4 0\n",
            ),
        ),
        ("gi-hetero 0000:81:00.0 1 1", Err(Errno::EOPNOTSUPP)),
        (
            "gi-scheduler 0000:81:00.0 1 2 0 0 0 0",
            Err(Errno::EOPNOTSUPP),
        ),
    ]);
    let mut mode = nvmlVgpuHeterogeneousMode_v1_t {
        version: version::<nvmlVgpuHeterogeneousMode_v1_t>(1),
        mode: 1,
    };
    let at = Ptr::from(&mut mode);
    assert_eq!(nvmlGpuInstanceGetVgpuHeterogeneousMode(gi(0, 1), at), 3);
    assert_eq!(nvmlGpuInstanceSetVgpuHeterogeneousMode(gi(0, 1), at), 3);
    let mut state = SchedulerStateV2 {
        engine: 1,
        policy: 0,
        factor: 0,
        slice: 0,
    };
    let at = Ptr::from(&mut state);
    assert_eq!(nvmlGpuInstanceGetVgpuSchedulerState_v2(gi(0, 1), at), 3);
    let mut set = SchedulerSetV2 {
        engine: 1,
        policy: 2,
        factor: 0,
        frequency: 0,
    };
    let at = Ptr::from(&mut set);
    assert_eq!(nvmlGpuInstanceSetVgpuSchedulerState_v2(gi(0, 1), at), 3);
}

#[test]
fn a_scheduler_is_read_and_set_in_both_interfaces() {
    library(&[
        ("scheduler 0000:41:00.0 2 2 33 480 0", Ok("")),
        (
            "scheduler 0000:41:00.0 3 1 0 0 2000000",
            Err(Errno::EOPNOTSUPP),
        ),
        ("scheduler 0000:41:00.0 1 0 0 0 0", Ok("")),
    ]);
    let mut state = nvmlVgpuSchedulerSetState_t {
        schedulerPolicy: 2,
        enableARRMode: 2,
        schedulerParams: nvmlVgpuSchedulerSetParams_t {
            vgpuSchedDataWithARR: nvmlVgpuSchedulerSetParams_t__bindgen_ty_1 {
                avgFactor: 33,
                frequency: 480,
            },
        },
    };
    assert_eq!(
        nvmlDeviceSetVgpuSchedulerState(device(0), (&mut state).into()),
        0
    );
    state.schedulerPolicy = 3;
    state.enableARRMode = 1;
    state.schedulerParams.vgpuSchedData.timeslice = 2_000_000;
    assert_eq!(
        nvmlDeviceSetVgpuSchedulerState(device(0), (&mut state).into()),
        3
    );
    let mut second = SchedulerSetV2 {
        engine: 1,
        policy: 2,
        factor: 33,
        frequency: 480,
    };
    assert_eq!(
        nvmlDeviceSetVgpuSchedulerState_v2(device(0), (&mut second).into()),
        0
    );
    second = SchedulerSetV2 {
        engine: 1,
        policy: 1,
        factor: 0,
        frequency: 0,
    };
    assert_eq!(
        nvmlDeviceSetVgpuSchedulerState_v2(device(0), (&mut second).into()),
        0
    );
    second.engine = 2;
    assert_eq!(
        nvmlDeviceSetVgpuSchedulerState_v2(device(0), (&mut second).into()),
        2
    );

    let state: nvmlVgpuSchedulerGetState_t =
        out(|state| nvmlDeviceGetVgpuSchedulerState(device(2), state)).unwrap();
    assert_eq!((state.schedulerPolicy, state.arrMode), (2, 2));
    // SAFETY: All of the union was written, and any value is a number.
    let nvmlVgpuSchedulerParams_t__bindgen_ty_1 {
        avgFactor,
        timeslice,
    } = unsafe { state.schedulerParams.vgpuSchedDataWithARR };
    assert_eq!((avgFactor, timeslice), (33, 2_000_000));
    let mut state = SchedulerStateV2 {
        engine: 1,
        policy: 0,
        factor: 0,
        slice: 0,
    };
    assert_eq!(
        nvmlDeviceGetVgpuSchedulerState_v2(device(2), (&mut state).into()),
        0
    );
    assert_eq!(
        (state.policy, state.factor, state.slice),
        (2, 33, 2_000_000)
    );
    assert_eq!(
        nvmlDeviceGetVgpuSchedulerState_v2(device(1), (&mut state).into()),
        3
    );
}

#[test]
fn a_gpu_instance_has_a_scheduler_in_both_interfaces() {
    library(&[
        ("gi-scheduler 0000:81:00.0 3 2 2 33 480 0", Ok("")),
        (
            "gi-scheduler 0000:81:00.0 3 3 1 0 0 2000000",
            Err(Errno::EOPNOTSUPP),
        ),
    ]);
    let mut set = GiSchedulerSet {
        version: version::<GiSchedulerSet>(1),
        engine: 1,
        policy: 2,
        arr: 2,
        parameters: nvmlVgpuSchedulerSetParams_t {
            vgpuSchedDataWithARR: nvmlVgpuSchedulerSetParams_t__bindgen_ty_1 {
                avgFactor: 33,
                frequency: 480,
            },
        },
    };
    let at = Ptr::from(&mut set);
    assert_eq!(nvmlGpuInstanceSetVgpuSchedulerState(gi(1, 3), at), 0);
    (set.policy, set.arr) = (3, 1);
    set.parameters.vgpuSchedData.timeslice = 2_000_000;
    let at = Ptr::from(&mut set);
    assert_eq!(nvmlGpuInstanceSetVgpuSchedulerState(gi(1, 3), at), 3);
    set.engine = 2;
    let at = Ptr::from(&mut set);
    assert_eq!(nvmlGpuInstanceSetVgpuSchedulerState(gi(1, 3), at), 2);
    let mut second = SchedulerSetV2 {
        engine: 1,
        policy: 2,
        factor: 33,
        frequency: 480,
    };
    let at = Ptr::from(&mut second);
    assert_eq!(nvmlGpuInstanceSetVgpuSchedulerState_v2(gi(1, 3), at), 0);
    let mut state = SchedulerStateV2 {
        engine: 1,
        policy: 0,
        factor: 0,
        slice: 0,
    };
    let at = Ptr::from(&mut state);
    assert_eq!(nvmlGpuInstanceGetVgpuSchedulerState_v2(gi(1, 2), at), 0);
    assert_eq!((state.policy, state.factor, state.slice), (3, 0, 2_000_000));
    let at = Ptr::from(&mut state);
    assert_eq!(nvmlGpuInstanceGetVgpuSchedulerState_v2(gi(1, 3), at), 0);
    assert_eq!(state.policy, 1);
}

#[test]
fn the_first_interface_tells_the_scheduler_of_a_gpu_instance() {
    library(&[]);
    let mut state = GiSchedulerState {
        version: version::<GiSchedulerState>(1),
        engine: 1,
        policy: 0,
        arr: 0,
        parameters: nvmlVgpuSchedulerParams_t {
            vgpuSchedDataWithARR: nvmlVgpuSchedulerParams_t__bindgen_ty_1 {
                avgFactor: 9,
                timeslice: 9,
            },
        },
    };
    let at = Ptr::from(&mut state);
    assert_eq!(nvmlGpuInstanceGetVgpuSchedulerState(gi(1, 2), at), 0);
    assert_eq!((state.policy, state.arr), (3, 1));
    // SAFETY: Both forms of the union are numbers, and the library has written both.
    let slice = unsafe { state.parameters.vgpuSchedData.timeslice };
    assert_eq!(slice, 2_000_000);
    state.engine = 2;
    let at = Ptr::from(&mut state);
    assert_eq!(nvmlGpuInstanceGetVgpuSchedulerState(gi(1, 2), at), 2);
    state.version = version::<GiSchedulerState>(2);
    let at = Ptr::from(&mut state);
    assert_eq!(nvmlGpuInstanceGetVgpuSchedulerState(gi(1, 2), at), 25);
}

#[test]
fn a_guest_is_told_of_while_its_driver_runs() {
    const LOADED: &str = "model l40s\nframework vendor-vfio\nnode 1\nvfs 32\nloaded 1\nmig 0 0\n\
        hetero 0\nscheduler 1 0 0 0 0\n\
        vgpu 7 1155 - - 0000:41:00.4 - 4711 a0ad5ef2-15f0-4a8b-8d2b-4a1f3a1b9d10 ws\n\
        guest 7 580.65.06 5 2 2030 1 31 9 8 7\n\
        vgpu 8 1155 - - 0000:41:00.5 - 4712 f1e3a6a0-0c9e-4d19-9d53-d3c6e3f1d001 other\n";
    library(&[(L40S, Ok(LOADED))]);
    let driver =
        |id, size| text(|driver| nvmlVgpuInstanceGetVmDriverVersion(id, driver.into(), size));
    let place = |id| {
        let mut size = 96;
        text(|place| nvmlVgpuInstanceGetGpuPciId(id, place.into(), (&mut size).into()))
    };
    let info =
        |id| out::<nvmlVgpuLicenseInfo_t>(|info| nvmlVgpuInstanceGetLicenseInfo_v2(id, info));
    assert_eq!(driver(7, 80).unwrap(), "580.65.06");
    assert_eq!(place(7).unwrap(), "00000000:07:00.0");
    let licence = info(7).unwrap();
    assert_eq!((licence.isLicensed, licence.currentState), (1, 5));
    let until = licence.licenseExpiry;
    assert_eq!((until.year, until.month, until.day), (2030, 1, 31));
    assert_eq!((until.hour, until.min, until.sec), (9, 8, 7));
    assert_eq!(until.status, 2);
    assert_eq!(
        out(|licensed| nvmlVgpuInstanceGetLicenseStatus(7, licensed)),
        Ok(1)
    );
    // No driver there.
    assert_eq!(driver(8, 80).unwrap(), "Not Available");
    assert_eq!(place(8).unwrap(), "00000000:00:00.0");
    assert_eq!(info(8).err(), Some(9));
    assert_eq!(
        out(|licensed| nvmlVgpuInstanceGetLicenseStatus(8, licensed)),
        Err(9)
    );
    // Refusals.
    assert_eq!(driver(7, 9), Err(7), "its NUL does not fit");
    assert_eq!((driver(9, 80), driver(0, 80)), (Err(6), Err(2)));
    assert_eq!((info(9).err(), info(0).err()), (Some(6), Some(2)));
    assert_eq!(nvmlVgpuInstanceGetLicenseInfo_v2(7, Ptr::NULL), 2);
}

#[test]
fn only_open_vgpus_are_instances() {
    library(&[]);
    assert_eq!(
        ids(|count, ids| nvmlDeviceGetActiveVgpus(device(0), count, ids)),
        [3251634176]
    );
    let id = 3251634176;
    let mut kind = 0;
    let uuid = text(|uuid| nvmlVgpuInstanceGetVmID(id, uuid.into(), 80, (&mut kind).into()));
    assert_eq!(
        (uuid.unwrap().as_str(), kind),
        ("a0ad5ef2-15f0-4a8b-8d2b-4a1f3a1b9d10", 1)
    );
    let driver = text(|driver| nvmlVgpuInstanceGetVmDriverVersion(id, driver.into(), 80));
    assert_eq!(driver.unwrap(), "Not Available");
    let mut size = 96;
    let place = text(|place| nvmlVgpuInstanceGetGpuPciId(id, place.into(), (&mut size).into()));
    assert_eq!((place.unwrap().as_str(), size), ("00000000:00:00.0", 17));
    let placement = |id| {
        let version = version::<nvmlVgpuPlacementId_v1_t>(1);
        let mut placement = nvmlVgpuPlacementId_v1_t {
            version,
            placementId: 0,
        };
        let code = nvmlVgpuInstanceGetPlacementId(id, (&mut placement).into());
        (code, placement.placementId)
    };
    assert_eq!(placement(id), (0, 24));
    assert_eq!(placement(3251634180), (0, 0xffff));
    assert_eq!(
        out(|gi| nvmlVgpuInstanceGetGpuInstanceId(3251634180, gi)),
        Ok(3)
    );
    assert_eq!(
        out(|gi| nvmlVgpuInstanceGetGpuInstanceId(id, gi)),
        Ok(u32::MAX)
    );
    assert_eq!(
        text(|uuid| nvmlVgpuInstanceGetMdevUUID(id, uuid.into(), 80)),
        Err(3)
    );
    let mdev = text(|uuid| nvmlVgpuInstanceGetMdevUUID(3251634190, uuid.into(), 80));
    assert_eq!(mdev.unwrap(), "5c2e92c2-33a4-4f6c-9be6-4d7b7e3c9b11");
    assert_eq!(
        out(|type_id| nvmlVgpuInstanceGetType(3251634177, type_id)),
        Err(6),
        "not open"
    );
    assert_eq!(out(|type_id| nvmlVgpuInstanceGetType(0, type_id)), Err(2));
}

#[test]
fn a_lost_gpu_does_not_hide_the_others_vgpus() {
    library(&[(L40S, Err(Errno::ENODEV))]);
    assert_eq!(
        out(|type_id| nvmlVgpuInstanceGetType(3251634180, type_id)),
        Ok(1561)
    );
    assert_eq!(out(|count| nvmlDeviceGetCount_v2(count)), Ok(3));
    assert_eq!(
        out(|device| nvmlDeviceGetHandleByIndex_v2(0, device)),
        Err(15)
    );
}

#[test]
fn metadata_tells_boards_apart() {
    library(&[]);
    let mut size = 0;
    let code = nvmlDeviceGetVgpuMetadata(device(0), Ptr::NULL, (&mut size).into());
    assert_eq!(
        (code, size as usize),
        (7, size_of::<nvmlVgpuPgpuMetadata_t>())
    );
    let gpu = |index| {
        let mut size = 1000;
        out(|gpu| nvmlDeviceGetVgpuMetadata(device(index), gpu, (&mut size).into())).unwrap()
    };
    let mut size = 1000;
    let mut vgpu: nvmlVgpuMetadata_t =
        out(|vgpu| nvmlVgpuInstanceGetMetadata(3251634176, vgpu, (&mut size).into())).unwrap();
    let mut compatible = |mut gpu: nvmlVgpuPgpuMetadata_t| {
        let result: nvmlVgpuPgpuCompatibility_t =
            out(|result| nvmlGetVgpuCompatibility((&mut vgpu).into(), (&mut gpu).into(), result))
                .unwrap();
        (result.vgpuVmCompatibility, result.compatibilityLimitCode)
    };
    assert_eq!(compatible(gpu(0)), (9, 0));
    assert_eq!(compatible(gpu(1)), (0, 4));
}
