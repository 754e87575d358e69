//! Virtual functions that become vGPUs: reading them, and the steps that set and remove
//! types, on the model of the driver.

use std::time::Duration;

use lab_nvidia::model::{Dialect, Framework, Vm};
use nix::errno::Errno;
use virt_vgpu::{
    apply::{Failure, apply, take_back},
    device::{
        Sysfs,
        parameters::Parameters,
        step::{Step, Undo},
        vendor_vfio,
    },
    model::{MdevTypeId, PciAddress},
};

use crate::support::{
    kernel::{Fault, Kernel, Target, Vgpu},
    machine::{Function, Gpu, Machine, profile},
    making,
};

const FIRST: &str = "0000:41:00.4";
const SECOND: &str = "0000:41:00.5";
const PARAMETERS: Parameters = Parameters {
    frame_rate_limit: Some(0),
    console_vnc: None,
    unified_memory: None,
    debuggers: None,
    profilers: None,
};

/// An L40S with four functions.
fn card() -> Gpu {
    Gpu::l40s("0000:41:00.0").functions(4)
}

fn kernel() -> Kernel {
    Kernel::new(Machine::of_gpus([card()]))
}

fn name(function: &str) -> PciAddress {
    function.parse().unwrap()
}

fn id(profile_name: &str) -> MdevTypeId {
    profile(profile_name).id.to_string().parse().unwrap()
}

/// The steps that make a vGPU with parameters.
fn steps(function: &str, profile_name: &str) -> Vec<Step> {
    let type_id = &id(profile_name);
    let name = &profile(profile_name).name;
    making::function(name, type_id, function.parse().unwrap(), &PARAMETERS)
}

/// What frees a function again.
fn release(function: &str) -> Undo {
    steps(function, "L40S-12Q")[0].undo.clone().unwrap()
}

fn vgpu(profile_name: &str, parameters: &str, placement: u32) -> Vgpu {
    Vgpu {
        type_id: profile(profile_name).id,
        profile: profile_name.to_owned(),
        parameters: parameters.to_owned(),
        placement: Some(placement),
    }
}

fn attribute(function: &str, attribute: &str) -> String {
    format!("/sys/bus/pci/devices/{function}/nvidia/{attribute}")
}

/// The values written so far that belong to the function's type.
fn types_written(kernel: &Kernel) -> Vec<String> {
    let writes = kernel.writes().into_iter();
    let numbers = writes.filter(|write| write.value.trim().parse::<u32>().is_ok());
    numbers.map(|write| write.value).collect()
}

fn vm(pid: u32) -> Vm {
    Vm {
        pid,
        uuid: Some("aaaaaaaa-0000-4000-8000-000000000001".to_owned()),
        name: Some("vm1".to_owned()),
    }
}

#[test]
fn functions_are_told_from_all_else() {
    let mut machine = Machine::of_gpus([
        card().on_node(1),
        Gpu::new("a40", Framework::SriovMdev, "0000:51:00.0").functions(2),
        Gpu::new("t4", Framework::LegacyMdev, "0000:61:00.0"),
    ]);
    machine.functions.push(Function::board("0000:3b:00.0"));
    let kernel = Kernel::new(machine);
    let gpu = "0000:41:00.0".parse().unwrap();
    let all: Vec<_> = kernel.functions("0000:41:00.0");
    assert_eq!(all, [FIRST, SECOND, "0000:41:00.6", "0000:41:00.7"]);
    let wanted: Vec<_> = all.iter().map(|at| (at.parse().unwrap(), gpu)).collect();
    assert_eq!(vendor_vfio::all_functions(&kernel).unwrap(), wanted);
    let read = |path: &str| kernel.read(&format!("/sys/bus/pci/devices/{path}"));
    for (path, text) in [
        ("0000:41:00.0/sriov_totalvfs", "4"),
        ("0000:41:00.0/sriov_numvfs", "4"),
        ("0000:41:00.0/device", "0x26b9"),
        ("0000:41:00.4/device", "0x26b9"),
        ("0000:41:00.4/numa_node", "1"),
        ("0000:41:00.0/virtfn1/nvidia/current_vgpu_type", "0"),
    ] {
        assert_eq!(read(path).unwrap(), text, "{path}");
    }
    assert!(!kernel.exists("/sys/bus/pci/devices/0000:41:00.0/nvidia"));
    let nodes = vendor_vfio::nodes(&kernel, name(SECOND)).unwrap();
    assert_eq!(nodes, kernel.nodes(SECOND));
    assert_ne!(nodes, kernel.nodes(FIRST));
}

#[test]
fn what_can_be_had_follows_what_is_there() {
    let kernel = kernel();
    let names = |function: &str| -> Vec<String> {
        let creatable = vendor_vfio::creatable(&kernel, name(function)).unwrap();
        creatable.into_iter().map(|one| one.name).collect()
    };
    assert_eq!(names(FIRST).len(), 30);
    kernel.set_type(FIRST, "L40S-24Q");
    assert_eq!(names(FIRST), Vec::<String>::new());
    assert_eq!(
        names(SECOND),
        ["NVIDIA L40S-24Q", "NVIDIA L40S-24A", "NVIDIA L40S-24C"]
    );
    let current = |function: &str| vendor_vfio::current(&kernel, name(function)).unwrap();
    assert_eq!(
        current(FIRST).map(|id| id.to_string()),
        Some("1155".to_owned())
    );
    assert_eq!(current(SECOND), None);
    kernel.set_type(SECOND, "L40S-24C");
    assert_eq!(names("0000:41:00.6"), Vec::<String>::new());
    kernel.release(FIRST);
    assert_eq!(names("0000:41:00.6").len(), 3);
}

#[test]
fn a_vgpu_is_made_and_taken_back() {
    for dialect in [Dialect::Kmod, Dialect::Rfc] {
        let kernel = Kernel::new(Machine::of_gpus([card().speaks(dialect)]));
        let read = |name: &str| kernel.read(&attribute(FIRST, name));
        for name in ["placement_id", "gpu_instance_id", "vgpu_params"] {
            let errno = read(name).unwrap_err().raw_os_error();
            assert_eq!(errno, Some(Errno::ENXIO as i32), "{name}");
        }
        apply(&steps(FIRST, "L40S-12Q"), &kernel).unwrap();
        assert_eq!(
            kernel.vgpus().into_iter().collect::<Vec<_>>(),
            [(
                FIRST.to_owned(),
                vgpu("L40S-12Q", "frame_rate_limiter=0", 0)
            )]
        );
        assert_eq!(read("placement_id").unwrap(), "0");
        assert_eq!(read("gpu_instance_id").unwrap(), "Not Applicable");
        take_back(&release(FIRST), &kernel).unwrap();
        assert!(kernel.vgpus().is_empty());
        assert_eq!(types_written(&kernel), ["1153\n", "0\n"]);
        // Parameters go with the vGPU, and freeing what is free writes nothing:
        // NVIDIA's driver would answer EPERM.
        take_back(&release(FIRST), &kernel).unwrap();
        assert_eq!(types_written(&kernel).len(), 2);
        kernel.set_type(FIRST, "L40S-12Q");
        assert_eq!(read("vgpu_params").unwrap(), "");
    }
}

fn fails(kernel: &Kernel, steps: &[Step]) -> Failure {
    apply(steps, kernel).unwrap_err()
}

/// The driver may refuse at either write, with any errno.
#[test]
fn a_refusal_at_any_write_leaves_nothing() {
    let all = [steps(FIRST, "L40S-12Q"), steps(SECOND, "L40S-12Q")].concat();
    for errno in [Errno::EIO, Errno::EBUSY, Errno::EINVAL, Errno::ENOSPC] {
        for (step, (target, function)) in [
            (Target::SetType, FIRST),
            (Target::Parameters, FIRST),
            (Target::SetType, SECOND),
            (Target::Parameters, SECOND),
        ]
        .into_iter()
        .enumerate()
        {
            let kernel = kernel();
            kernel.inject(Fault::errno(target, errno).on(function));
            let failure = fails(&kernel, &all);
            assert_eq!(failure.step, step, "{errno} at {target:?} of {function}");
            assert!(failure.refused_by_driver);
            assert!(failure.left_behind.is_empty(), "{failure:?}");
            assert!(kernel.vgpus().is_empty(), "{failure:?}");
            // A function that was refused was not freed either.
            let freed = types_written(&kernel)
                .iter()
                .filter(|text| *text == "0\n")
                .count();
            assert_eq!(freed, step.div_ceil(2), "{errno} at {step}");
        }
    }
}

/// The driver's answer for a function that has a type, or is open.
#[test]
fn a_function_that_may_not_be_typed_now_is_refused_by_its_driver() {
    let kernel = kernel();
    kernel.inject(Fault::errno(Target::SetType, Errno::EPERM).on(FIRST));
    let failure = fails(&kernel, &steps(FIRST, "L40S-12Q"));
    assert!(failure.refused_by_driver, "{failure:?}");
    assert!(kernel.vgpus().is_empty());
    // If a parameter is forbidden, another function would not accept it either.
    kernel.inject(Fault::errno(Target::Parameters, Errno::EPERM).on(SECOND));
    let failure = fails(&kernel, &steps(SECOND, "L40S-12Q"));
    assert!(!failure.refused_by_driver, "{failure:?}");
    assert!(kernel.vgpus().is_empty());
}

/// If a function was free and now has the type that we wrote, we have set it.
#[test]
fn what_the_driver_has_done_and_denies_is_taken_back() {
    for errno in [Errno::EIO, Errno::EPERM, Errno::EINVAL] {
        let kernel = kernel();
        kernel.inject(Fault::done_with(Target::SetType, errno).times(1));
        let failure = fails(&kernel, &steps(FIRST, "L40S-12Q"));
        assert!(failure.refused_by_driver);
        assert!(failure.left_behind.is_empty(), "{failure:?}");
        assert!(kernel.vgpus().is_empty(), "{failure:?}");
    }
}

/// The rules of the driver itself.
#[test]
fn a_gpu_without_room_refuses() {
    for (dialect, text) in [
        (Dialect::Kmod, "Input/output error (os error 5)"),
        (Dialect::Rfc, "Invalid argument (os error 22)"),
    ] {
        let machine = Machine::of_gpus([card().speaks(dialect)]).with_vgpu(SECOND, "L40S-24Q");
        let kernel = Kernel::new(machine);
        let failure = fails(&kernel, &steps(FIRST, "L40S-12Q"));
        let path = attribute(FIRST, "current_vgpu_type");
        assert_eq!(failure.cause, format!("{path}: {text}"));
        assert_eq!(kernel.vgpus().len(), 1);
    }
}

#[test]
fn success_without_effect_is_seen() {
    let kernel = kernel();
    kernel.inject(Fault::pretended(Target::SetType).times(1));
    let failure = fails(&kernel, &steps(FIRST, "L40S-12Q"));
    let path = attribute(FIRST, "current_vgpu_type");
    assert_eq!(
        failure.cause,
        format!("make {FIRST} a NVIDIA L40S-12Q (type 1153): {path} reads '0', not '1153'")
    );
    assert!(kernel.vgpus().is_empty());

    kernel.inject(Fault::pretended(Target::Parameters).times(1));
    let failure = fails(&kernel, &steps(FIRST, "L40S-12Q"));
    let path = attribute(FIRST, "vgpu_params");
    assert_eq!(
        failure.cause,
        format!("set frame_rate_limiter=0: {path} reads '', not 'frame_rate_limiter=0'")
    );
    assert!(kernel.vgpus().is_empty());

    apply(&steps(FIRST, "L40S-12Q"), &kernel).unwrap();
    kernel.inject(Fault::pretended(Target::ReleaseType).times(1));
    let release = release(FIRST);
    let path = attribute(FIRST, "current_vgpu_type");
    assert_eq!(
        take_back(&release, &kernel).unwrap_err().to_string(),
        format!("{path} still reads 1153 after writing to it")
    );
    take_back(&release, &kernel).unwrap();
}

#[test]
fn what_cannot_be_undone_is_named() {
    let kernel = kernel();
    kernel.inject(Fault::errno(Target::Parameters, Errno::EIO));
    kernel.inject(Fault::errno(Target::ReleaseType, Errno::EBUSY));
    let failure = fails(&kernel, &steps(FIRST, "L40S-12Q"));
    let path = attribute(FIRST, "current_vgpu_type");
    let why = format!("{path}: Device or resource busy (os error 16)");
    assert_eq!(failure.left_behind, [(0, why)]);
    assert_eq!(kernel.vgpus()[FIRST], vgpu("L40S-12Q", "", 0));
}

#[test]
fn what_somebody_else_has_stays() {
    let machine = Machine::of_gpus([card()]).with_vgpu(FIRST, "L40S-12Q");
    let kernel = Kernel::new(machine);
    let failure = fails(&kernel, &steps(FIRST, "L40S-12Q"));
    let path = attribute(FIRST, "current_vgpu_type");
    assert_eq!(
        failure.cause,
        format!("{path} already reads 1153 and is not ours")
    );
    assert!(!failure.refused_by_driver);
    assert_eq!(kernel.writes(), []);
    assert_eq!(kernel.vgpus()[FIRST], vgpu("L40S-12Q", "", 0));
}

#[test]
fn what_a_vm_has_open_stays_until_it_is_closed() {
    let kernel = kernel();
    let release = release(FIRST);
    apply(&steps(FIRST, "L40S-12Q"), &kernel).unwrap();
    kernel.open(FIRST, vm(4711)).unwrap();
    let path = attribute(FIRST, "current_vgpu_type");
    let errno = |text: &str| format!("{path}: {text}");
    assert_eq!(
        take_back(&release, &kernel).unwrap_err().to_string(),
        errno("Operation not permitted (os error 1)")
    );
    // Nor can it be given other parameters.
    let step = steps(FIRST, "L40S-12Q").remove(1);
    let failure = fails(&kernel, &[step]);
    assert_eq!(
        failure.cause,
        format!(
            "{}: Operation not permitted (os error 1)",
            attribute(FIRST, "vgpu_params")
        )
    );
    // The driver's plugin takes longer to end than the driver waits.
    let late = Duration::from_secs(9);
    kernel.with_gpu(FIRST, |gpu| gpu.set_plugin_exit(late));
    kernel.close_all(4711, false);
    assert_eq!(
        take_back(&release, &kernel).unwrap_err().to_string(),
        errno("Device or resource busy (os error 16)")
    );
    take_back(&release, &kernel).unwrap();
    assert!(kernel.vgpus().is_empty());
    let errno = kernel.open(FIRST, vm(4712)).unwrap_err();
    assert_eq!(errno, Errno::ENODEV, "without a type");
}

#[test]
fn a_function_or_gpu_that_falls_off_the_bus() {
    let kernel = kernel();
    let release = |function: &str| take_back(&release(function), &kernel);
    apply(&steps(FIRST, "L40S-12Q"), &kernel).unwrap();
    apply(&steps(SECOND, "L40S-12Q"), &kernel).unwrap();
    kernel.remove_parent(FIRST);
    assert_eq!(kernel.functions("0000:41:00.0").len(), 3);
    assert_eq!(kernel.vgpus().into_keys().collect::<Vec<_>>(), [SECOND]);
    release(FIRST).unwrap();
    let failure = fails(&kernel, &steps(FIRST, "L40S-12Q"));
    assert_eq!(
        failure.cause,
        format!(
            "{}: No such file or directory (os error 2)",
            attribute(FIRST, "current_vgpu_type")
        )
    );
    kernel.remove_parent("0000:41:00.0");
    assert_eq!(vendor_vfio::all_functions(&kernel).unwrap(), []);
    release(SECOND).unwrap();
    assert!(kernel.vgpus().is_empty());
}

/// The functions of an SR-IOV board on mdev hosts hold as many devices as its rules
/// allow.
#[test]
fn mediated_devices_of_functions_follow_the_same_rules() {
    let uuid = |number: u32| format!("f0e1c000-0000-4000-8000-{number:012}");
    let gpu = Gpu::new("l40s", Framework::SriovMdev, "0000:41:00.0").functions(4);
    let kernel = Kernel::new(Machine::of_gpus([gpu]).with_mdev(&uuid(1), FIRST, "nvidia-1155"));
    let available = |function: &str, kind: &str| {
        let types = format!("/sys/class/mdev_bus/{function}/mdev_supported_types");
        kernel
            .read(&format!("{types}/{kind}/available_instances"))
            .unwrap()
    };
    assert_eq!(available(FIRST, "nvidia-1155"), "0");
    assert_eq!(available(SECOND, "nvidia-1155"), "1");
    assert_eq!(available(SECOND, "nvidia-1153"), "0");
    kernel.make(&uuid(2), SECOND, "nvidia-1172");
    assert_eq!(available("0000:41:00.6", "nvidia-1155"), "0");
    let mdev = format!("/sys/bus/mdev/devices/{}", uuid(2));
    assert_eq!(
        kernel.read(&format!("{mdev}/nvidia/placement_id")).unwrap(),
        "24"
    );
    kernel.remove_parent(FIRST);
    assert_eq!(kernel.mdevs().into_keys().collect::<Vec<_>>(), [uuid(2)]);
}
