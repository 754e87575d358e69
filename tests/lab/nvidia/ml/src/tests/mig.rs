//! MIG mode, GPU instances, compute instances.

use std::ptr::null_mut;

use nvml_wrapper_sys::bindings::{
    nvmlComputeInstanceInfo_t, nvmlGpuInstanceInfo_t, nvmlGpuInstancePlacement_t,
    nvmlGpuInstanceProfileInfo_t, nvmlGpuInstanceProfileInfo_v3_t,
};

use super::*;
use crate::{
    abi::version,
    compute::*,
    gpu::ComputeInstance,
    instances::nvmlVgpuInstanceGetGpuInstanceId,
    structs::{CreatablePlacements, VgpuTypeIds},
    vgpu_types::*,
};

#[test]
fn mig_profiles_are_found_by_index() {
    library(&[]);
    let info: nvmlGpuInstanceProfileInfo_t =
        out(|info| nvmlDeviceGetGpuInstanceProfileInfo(device(1), 11, info)).unwrap();
    assert_eq!((info.id, info.sliceCount, info.instanceCount), (35, 2, 2));
    let missing: Result<nvmlGpuInstanceProfileInfo_t, _> =
        out(|info| nvmlDeviceGetGpuInstanceProfileInfo(device(1), 2, info));
    assert_eq!(missing.map(|info| info.id), Err(3));
    let mut info = nvmlGpuInstanceProfileInfo_v3_t {
        version: version::<nvmlGpuInstanceProfileInfo_v3_t>(3),
        // SAFETY: Numbers, and characters are numbers.
        ..unsafe { std::mem::zeroed() }
    };
    let profile = |info: &mut nvmlGpuInstanceProfileInfo_v3_t| {
        nvmlDeviceGetGpuInstanceProfileInfoV(device(1), 10, Ptr::from(info).cast())
    };
    assert_eq!(profile(&mut info), 0);
    assert_eq!((info.id, info.capabilities), (47, 2));
    assert_eq!(string(&info.name), "MIG 1g.24gb+gfx");
    info.version = 3;
    assert_eq!(profile(&mut info), 25);

    let mut starts = [nvmlGpuInstancePlacement_t { start: 9, size: 9 }; 2];
    let mut count = 77;
    let mut placements = |placements| {
        nvmlDeviceGetGpuInstancePossiblePlacements_v2(
            device(1),
            35,
            placements,
            Ptr::found(&raw mut count),
        )
    };
    assert_eq!(placements(starts[..].as_mut().into()), 0);
    assert_eq!(
        starts.map(|placement| (placement.start, placement.size)),
        [(0, 6), (6, 6)]
    );
    assert_eq!(count, 2);
    let capacity =
        |id| out(|count| nvmlDeviceGetGpuInstanceRemainingCapacity(device(1), id, count));
    assert_eq!(capacity(47), Ok(1), "slots 3 to 5 are free");
    assert_eq!(capacity(35), Ok(0));
    assert_eq!(capacity(48), Err(2));
}

#[test]
fn mig_mode_may_be_pending() {
    library(&[
        ("mig 0000:81:00.0 0", Ok("19\n")),
        ("mig 0000:c1:00.0 1", Err(Errno::EOPNOTSUPP)),
    ]);
    assert_eq!(
        out(|status| nvmlDeviceSetMigMode(device(1), 0, status)),
        Ok(19)
    );
    assert_eq!(
        out(|status| nvmlDeviceSetMigMode(device(2), 1, status)),
        Err(3)
    );
    assert_eq!(nvmlDeviceSetMigMode(device(1), 0, Ptr::NULL), 2);
    assert_eq!(
        nvmlDeviceGetMigMode(device(0), (&mut 0).into(), (&mut 0).into()),
        3
    );
    let (mut current, mut pending) = (0, 0);
    let code = nvmlDeviceGetMigMode(device(1), (&mut current).into(), (&mut pending).into());
    assert_eq!((code, current, pending), (0, 1, 1));
}

#[test]
fn instances_are_made_found_and_destroyed() {
    library(&[
        ("gi-create 0000:81:00.0 47", Ok("5\n")),
        ("gi-create 0000:81:00.0 47 3", Ok("4\n")),
        ("gi-create 0000:81:00.0 32", Err(Errno::ENOSPC)),
        ("gi-destroy 0000:81:00.0 2", Err(Errno::EBUSY)),
        ("ci-create 0000:81:00.0 2 2", Ok("0\n")),
        ("ci-destroy 0000:81:00.0 2 1", Ok("")),
    ]);
    assert!(out(|gi| nvmlDeviceCreateGpuInstance(device(1), 47, gi)).is_ok());
    assert_eq!(
        out(|gi| nvmlDeviceCreateGpuInstance(device(1), 32, gi)),
        Err(23)
    );
    let mut placement = nvmlGpuInstancePlacement_t { start: 3, size: 3 };
    let at = Ptr::from(&mut placement);
    let made = out(|gi| nvmlDeviceCreateGpuInstanceWithPlacement(device(1), 47, at, gi)).unwrap();
    let stale: Result<nvmlGpuInstanceInfo_t, _> = out(|info| nvmlGpuInstanceGetInfo(made, info));
    assert_eq!(
        stale.map(|info| info.id),
        Err(6),
        "the state does not have it"
    );
    let info: nvmlGpuInstanceInfo_t = out(|info| nvmlGpuInstanceGetInfo(gi(1, 2), info)).unwrap();
    assert_eq!(
        (info.device, info.id, info.profileId),
        (device(1).raw(), 2, 35)
    );
    assert_eq!((info.placement.start, info.placement.size), (6, 6));
    assert_eq!(nvmlGpuInstanceDestroy(gi(1, 2)), 19);

    let ci = |id| out(|ci| nvmlGpuInstanceGetComputeInstanceById(gi(1, 2), id, ci));
    let info: nvmlComputeInstanceInfo_t =
        out(|info| nvmlComputeInstanceGetInfo_v2(ci(1).unwrap(), info)).unwrap();
    assert_eq!((info.id, info.profileId, info.placement.start), (1, 0, 1));
    assert_eq!(ci(2), Err(6));
    assert_eq!(nvmlComputeInstanceDestroy(ci(1).unwrap()), 0);
    let made: Result<ComputeInstance, _> =
        out(|ci| nvmlGpuInstanceCreateComputeInstance(gi(1, 2), 1, ci));
    assert!(made.is_ok());
    let too_wide: Result<ComputeInstance, _> =
        out(|ci| nvmlGpuInstanceCreateComputeInstance(gi(1, 2), 2, ci));
    assert_eq!(too_wide, Err(3));
}

/// The whole GPU is the GPU instance 0, which is not none.
#[test]
fn a_gpu_instance_may_have_the_id_0() {
    library(&[
        (
            RTX,
            Ok(
                "model rtx-pro-6000\nframework vendor-vfio\nnode 0\nvfs 48\nloaded 1\nmig 1 1\n\
                hetero 0\nscheduler 1 0 0 0 0\ngi 0 32 0 12 0\nci 0 0 4\n\
                vgpu 3251634181 1582 - 0 0000:81:00.4 - 99 f1e3a6a0-0c9e-4d19-9d53-d3c6e3f1d001 b\n",
            ),
        ),
        ("gi-destroy 0000:81:00.0 0", Err(Errno::EBUSY)),
        ("ci-destroy 0000:81:00.0 0 0", Ok("")),
    ]);
    let info: nvmlGpuInstanceInfo_t = out(|info| nvmlGpuInstanceGetInfo(gi(1, 0), info)).unwrap();
    assert_eq!((info.id, info.profileId, info.placement.size), (0, 32, 12));
    assert_eq!(
        out(|gi| nvmlVgpuInstanceGetGpuInstanceId(3251634181, gi)),
        Ok(0)
    );
    let ci = out(|ci| nvmlGpuInstanceGetComputeInstanceById(gi(1, 0), 0, ci)).unwrap();
    assert_eq!(nvmlComputeInstanceDestroy(ci), 0);
    assert_eq!(nvmlGpuInstanceDestroy(gi(1, 0)), 19);
}

#[test]
fn a_gpu_instance_has_types_of_its_own() {
    library(&[
        ("creatable 0000:81:00.0", Ok("1561 3\n1564 3\n1582 2\n")),
        ("gi-placements 0000:81:00.0 2 1564", Ok("0\n24\n")),
    ]);
    let creatable = |id| {
        let mut ids = [0; 4];
        let mut info = VgpuTypeIds {
            version: version::<VgpuTypeIds>(1),
            count: 4,
            ids: ids.as_mut_ptr(),
        };
        assert_eq!(
            nvmlGpuInstanceGetCreatableVgpus(gi(1, id), (&mut info).into()),
            0
        );
        ids[..info.count as usize].to_vec()
    };
    assert_eq!(creatable(3), [], "the one vGPU there fills it");
    assert_eq!(creatable(2), [1564], "and this one has places");
    let mut placements = CreatablePlacements {
        version: version::<CreatablePlacements>(1),
        type_id: 1564,
        count: 0,
        ids: null_mut(),
        size: 0,
    };
    let at = Ptr::from(&mut placements);
    assert_eq!(
        nvmlGpuInstanceGetVgpuTypeCreatablePlacements(gi(1, 2), at),
        7
    );
    assert_eq!(placements.count, 2);
    let mut ids = [9; 3];
    (placements.count, placements.ids) = (3, ids.as_mut_ptr());
    let at = Ptr::from(&mut placements);
    let call = nvmlGpuInstanceGetVgpuTypeCreatablePlacements;
    assert_eq!(call(gi(1, 2), at), 0);
    assert_eq!((placements.count, placements.size), (2, 12));
    assert_eq!(ids, [0, 24, 9]);
    placements.type_id = 1;
    assert_eq!(call(gi(1, 2), Ptr::from(&mut placements)), 2);
    placements.version = version::<CreatablePlacements>(2);
    assert_eq!(call(gi(1, 2), Ptr::from(&mut placements)), 25);
}
