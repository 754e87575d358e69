//! Tests of what the lists of `contract` do not cover on every host: limits that boards
//! do not reach, types before `nvidia-vgpud`, time, and the exact state text.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test says what is wrong by panicking"
)]

use std::time::Duration;

use super::*;
use crate::boards;

const ADDRESS: &str = "0000:3b:00.0";

fn vm(name: &str) -> Vm {
    Vm {
        pid: 77,
        uuid: Some("5a000000-0000-4000-8000-000000000000".to_owned()),
        name: Some(name.to_owned()),
    }
}

fn uuid(number: u32) -> String {
    format!("c0417ac7-0000-4000-8000-{number:012x}")
}

fn gpu(model: &str, switches: Switches) -> Gpu {
    let mut gpu = Gpu::new(boards::find(model).unwrap(), ADDRESS, switches);
    gpu.load_types();
    gpu.set_manager(true);
    _ = gpu.set_vfs(true);
    gpu
}

fn rfc() -> Switches {
    Switches {
        dialect: Dialect::Rfc,
        ..Switches::default()
    }
}

fn kind(gpu: &Gpu, name: &str) -> &'static VgpuType {
    let mut types = gpu.board().types.iter();
    types.find(|kind| kind.short_name() == name).unwrap()
}

fn write_type(gpu: &mut Gpu, vf: u32, name: &str) -> Result<()> {
    let id = kind(gpu, name).id;
    gpu.write(
        &VgpuHandle::Vf(vf),
        Attribute::CurrentVgpuType,
        &id.to_string(),
    )
}

#[test]
fn nothing_can_be_created_before_types_are_loaded() {
    for (switches, refusal) in [(Switches::default(), Errno::EIO), (rfc(), Errno::ENOSPC)] {
        let mut gpu = Gpu::new(boards::find("l40s").unwrap(), ADDRESS, switches);
        gpu.set_vfs(true).unwrap();
        assert_eq!(gpu.creatable(), []);
        assert_eq!(write_type(&mut gpu, 0, "L40S-24Q"), Err(refusal));
        gpu.load_types();
        assert_eq!(write_type(&mut gpu, 0, "L40S-24Q"), Ok(()));
    }
    let mut gpu = Gpu::new(boards::find("t4").unwrap(), ADDRESS, Switches::default());
    let id = kind(&gpu, "T4-4Q").id;
    assert_eq!(
        gpu.mdev_create(Parent::Pf, id, &uuid(1)),
        Err(Errno::ENOENT)
    );
    gpu.load_types();
    assert_eq!(gpu.mdev_create(Parent::Pf, id, &uuid(1)), Ok(()));
}

#[test]
fn without_need_of_vgpud_types_are_there_at_once() {
    let switches = Switches {
        need_vgpud: false,
        ..Switches::default()
    };
    let gpu = Gpu::new(boards::find("t4").unwrap(), ADDRESS, switches);
    assert_eq!(gpu.available(kind(&gpu, "T4-4Q")), 4);
}

/// 48 slots, but no more than 32 vGPUs; and 17 places of 8 GB, of which 16 are used.
#[test]
fn a_gpu_takes_32_vgpus() {
    let switches = Switches {
        fine_placements: true,
        ..Switches::default()
    };
    let mut gpu = gpu("l40s", switches);
    gpu.set_hetero(true).unwrap();
    assert_eq!(gpu.available(kind(&gpu, "L40S-1Q")), 32);
    for vf in 0..32 {
        assert_eq!(write_type(&mut gpu, vf, "L40S-1Q"), Ok(()));
    }
    assert_eq!(gpu.creatable(), []);
    let free = gpu.placements(kind(&gpu, "L40S-1Q").id).unwrap();
    assert_eq!(free, (32..48).collect::<Vec<u32>>());

    let mut gpu = self::gpu("h200", switches);
    gpu.set_hetero(true).unwrap();
    let free = gpu.placements(kind(&gpu, "H200X-8C").id).unwrap();
    assert_eq!((free.len(), free.last()), (16, Some(&120)));
}

/// Four GPU instances with 12 each.
#[test]
fn a_gpu_with_mig_takes_48_vgpus() {
    for name in ["DC-1-2Q", "DC-1-2A"] {
        let mut gpu = gpu("rtx-pro-6000", Switches::default());
        assert_eq!(gpu.set_mig(true), Ok(true));
        for gi in (3..=6).rev() {
            assert_eq!(gpu.gi_create(47, None), Ok(gi));
        }
        assert_eq!(gpu.available(kind(&gpu, name)), 48);
        for vf in 0..48 {
            assert_eq!(write_type(&mut gpu, vf, name), Ok(()));
            let gi = gpu.read(&VgpuHandle::Vf(vf), Attribute::GpuInstanceId);
            assert_eq!(gi, Ok(format!("{}\n", vf / 12 + 3)));
        }
        assert_eq!(gpu.creatable(), []);
    }
}

#[test]
fn as_many_vgpus_as_virtual_functions() {
    let mut gpu = gpu("a100-80", Switches::default());
    assert_eq!(gpu.vf_count(), 20);
    assert_eq!(gpu.available(kind(&gpu, "A100D-4C")), 20);
    for vf in 0..20 {
        assert_eq!(write_type(&mut gpu, vf, "A100D-4C"), Ok(()));
    }
    assert_eq!(
        gpu.available_at(Parent::Vf(0), kind(&gpu, "A100D-4C")),
        Ok(0)
    );
    assert_eq!(
        gpu.available_at(Parent::Vf(20), kind(&gpu, "A100D-4C")),
        Err(Errno::ENOENT)
    );
    assert_eq!(
        gpu.available_at(Parent::Pf, kind(&gpu, "A100D-4C")),
        Err(Errno::ENOENT)
    );
}

#[test]
fn time_passes_while_a_plugin_exits() {
    let vgpu_handle = VgpuHandle::Vf(0);
    let release = |gpu: &mut Gpu| gpu.write(&vgpu_handle, Attribute::CurrentVgpuType, "0\n");
    for (exit, waited, answer) in [(5_000, 5_000, Ok(())), (5_001, 5_000, Err(Errno::EBUSY))] {
        let mut gpu = gpu("l40s", Switches::default());
        write_type(&mut gpu, 0, "L40S-24Q").unwrap();
        gpu.set_plugin_exit(Duration::from_millis(exit));
        gpu.open(&vgpu_handle, vm("web")).unwrap();
        gpu.close(&vgpu_handle, false).unwrap();
        assert_eq!(release(&mut gpu), answer, "{exit} ms");
        assert_eq!(gpu.now, Duration::from_millis(waited));
    }
    let mut gpu = gpu("l40s", rfc());
    write_type(&mut gpu, 0, "L40S-24Q").unwrap();
    gpu.set_plugin_exit(Duration::from_secs(60));
    gpu.open(&vgpu_handle, vm("web")).unwrap();
    gpu.close(&vgpu_handle, false).unwrap();
    assert_eq!(release(&mut gpu), Ok(()));
    assert_eq!(gpu.now, Duration::ZERO);
}

#[test]
fn an_mdev_waits_for_its_plugin_and_its_vm() {
    let mut gpu = gpu("t4", Switches::default());
    let id = kind(&gpu, "T4-4Q").id;
    gpu.mdev_create(Parent::Pf, id, &uuid(1)).unwrap();
    gpu.set_plugin_exit(Duration::from_secs(9));
    let vgpu_handle = VgpuHandle::Mdev(uuid(1));
    gpu.open(&vgpu_handle, vm("web")).unwrap();
    assert_eq!(gpu.mdev_remove(&uuid(1), "1"), Err(Errno::EAGAIN));
    gpu.close(&vgpu_handle, false).unwrap();
    assert_eq!(gpu.mdev_remove(&uuid(1), "1"), Ok(()));
    assert_eq!(gpu.now, Duration::from_secs(9));
}

#[test]
fn sigkill_wedges_only_while_the_plugin_starts() {
    for (age, killed, wedged) in [
        (0, true, vec![2]),
        (2_999, true, vec![2]),
        (3_000, true, vec![]),
        (0, false, vec![]),
    ] {
        let mut gpu = gpu("l40s", Switches::default());
        write_type(&mut gpu, 2, "L40S-24Q").unwrap();
        gpu.open(&VgpuHandle::Vf(2), vm("web")).unwrap();
        gpu.wait(Duration::from_millis(age));
        gpu.close(&VgpuHandle::Vf(2), killed).unwrap();
        assert_eq!(gpu.wedged(), wedged, "{age} ms");
    }
}

#[test]
fn the_unbind_lock_is_for_a_gpu_that_nobody_uses() {
    let mut gpu = gpu("l40s", Switches::default());
    assert!(gpu.grants_unbind());
    gpu.set_clients(1);
    assert_eq!(gpu.set_vfs(true), Err(Errno::EBUSY));
    gpu.set_clients(0);
    write_type(&mut gpu, 0, "L40S-24Q").unwrap();
    assert!(gpu.grants_unbind());
    gpu.open(&VgpuHandle::Vf(0), vm("web")).unwrap();
    assert_eq!(gpu.set_vfs(false), Err(Errno::EBUSY));
    assert_eq!(gpu.vf_count(), 32);
}

/// On a GPU that has exactly one virtual function for each vGPU.
#[test]
fn a_function_that_fell_off_takes_its_vgpu_along() {
    let mut gpu = gpu("a100-80", Switches::default());
    for vf in 0..20 {
        write_type(&mut gpu, vf, "A100D-4C").unwrap();
    }
    gpu.open(&VgpuHandle::Vf(7), vm("web")).unwrap();
    assert_eq!(gpu.vanish(7), Err(Errno::EBUSY));
    gpu.close(&VgpuHandle::Vf(7), false).unwrap();
    assert_eq!(gpu.vanish(7), Ok(()));
    assert_eq!(gpu.vanish(7), Err(Errno::ENOENT));
    assert!(!gpu.has_vf(7));
    assert_eq!(write_type(&mut gpu, 7, "A100D-4C"), Err(Errno::ENOENT));
    // Its place in the memory is free, but there is no function for it.
    assert_eq!(gpu.creatable(), []);
    assert_eq!(gpu.set_vfs(false), Ok(()));
    assert_eq!(gpu.set_vfs(true), Ok(()));
    assert!(gpu.has_vf(7));
}

#[test]
fn numbers_are_read_as_the_kernel_does() {
    let decimal = |text: &str| {
        let mut gpu = gpu("l40s", Switches::default());
        gpu.write(&VgpuHandle::Vf(0), Attribute::CurrentVgpuType, text)
    };
    for (text, answer) in [
        ("1155", Ok(())),
        ("1155\n", Ok(())),
        ("+1155", Ok(())),
        ("01155", Ok(())),
        ("1155\n\n", Err(Errno::EINVAL)),
        (" 1155", Err(Errno::EINVAL)),
        ("++1155", Err(Errno::EINVAL)),
        ("0x483", Err(Errno::EINVAL)),
        ("x", Err(Errno::EINVAL)),
        ("4294967295", Err(Errno::EIO)),
        ("4294967296", Err(Errno::ERANGE)),
        // More than 64 bits is noticed before the rest of the text, more than 32 after
        // it.
        ("4294967296x", Err(Errno::EINVAL)),
        ("18446744073709551616x", Err(Errno::ERANGE)),
    ] {
        assert_eq!(decimal(text), answer, "{text:?}");
    }
    for (text, number) in [
        ("0x10\n", Ok(16)),
        ("010", Ok(8)),
        ("0", Ok(0)),
        ("+7", Ok(7)),
        ("0x", Err(Errno::EINVAL)),
        ("08", Err(Errno::EINVAL)),
        ("-1", Err(Errno::EINVAL)),
    ] {
        assert_eq!(attributes::number(text), number, "{text:?}");
    }
}

#[test]
fn the_state_as_text() {
    let mut gpu = gpu("rtx-pro-6000", Switches::default());
    gpu.set_mig(true).unwrap();
    gpu.gi_create(35, None).unwrap();
    gpu.gi_create(47, None).unwrap();
    gpu.set_gi_hetero(1, true).unwrap();
    gpu.ci_create(6, 1).unwrap();
    write_type(&mut gpu, 5, "DC-2-24Q").unwrap();
    write_type(&mut gpu, 0, "DC-1-24Q").unwrap();
    gpu.open(&VgpuHandle::Vf(5), vm("web")).unwrap();
    assert_eq!(
        gpu.command("gpu 0000:3b:00.0").unwrap(),
        "model rtx-pro-6000\nframework vendor-vfio\nnode 0\nvfs 48\nloaded 1\nmig 1 1\n\
         hetero 0\nscheduler 1 0 0 0 0\ngi 1 35 0 6 1\ngi 6 47 9 3 0\n\
         gi-scheduler 1 1 0 0 0 0\ngi-scheduler 6 1 0 0 0 0\nci 6 0 1\n\
         vgpu 3251634176 1570 0 1 0000:3b:01.1 - 77 5a000000-0000-4000-8000-000000000000 web\n\
         vgpu 3251634177 1561 0 6 0000:3b:00.4 - - - -\n"
    );
    assert_eq!(
        gpu.command("gpus"),
        Ok("0000:3b:00.0 rtx-pro-6000\n".to_owned())
    );
    assert_eq!(gpu.command("gpu 0000:5e:00.0"), Err(Errno::ENOENT));
    assert_eq!(gpu.command("gpu"), Err(Errno::EINVAL));
    assert_eq!(gpu.command("hetero 0000:3b:00.0 2"), Err(Errno::EINVAL));
    assert_eq!(gpu.command("fan 0000:3b:00.0"), Err(Errno::EINVAL));
}

/// `sriov-manage -e` on existing functions: they show their types, and nothing else is
/// known of them.
#[test]
fn a_pending_mig_mode_takes_effect_under_types_that_stay() {
    let mut gpu = gpu("rtx-pro-6000", Switches::default());
    write_type(&mut gpu, 0, "DC-24Q").unwrap();
    assert_eq!(gpu.set_mig(true), Ok(false));
    // A mode that is already in effect is never pending.
    assert_eq!(gpu.set_mig(false), Ok(true));
    assert_eq!(gpu.set_mig(true), Ok(false));
    gpu.set_vfs(true).unwrap();
    assert_eq!(
        gpu.mig,
        Mig {
            current: true,
            pending: true
        }
    );
    gpu.gi_create(47, None).unwrap();
    assert_eq!(gpu.available(kind(&gpu, "DC-24Q")), 0);
    assert_eq!(gpu.available(kind(&gpu, "DC-1-24Q")), 1);
    let vgpu_handle = VgpuHandle::Vf(0);
    let id = format!("{}\n", kind(&gpu, "DC-24Q").id);
    assert_eq!(gpu.read(&vgpu_handle, Attribute::CurrentVgpuType), Ok(id));
    assert!(!gpu.is_free(0));
    assert_eq!(
        gpu.write(&vgpu_handle, Attribute::PlacementId, "24"),
        Err(Errno::ENXIO)
    );
    assert_eq!(
        gpu.write(&vgpu_handle, Attribute::GpuInstanceId, "6"),
        Err(Errno::ENXIO)
    );
}
