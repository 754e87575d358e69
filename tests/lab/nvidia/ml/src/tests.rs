//! Calls as a C program makes them, with a module that answers from a list.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test says what is wrong by panicking"
)]

use std::{
    collections::HashMap,
    ffi::{CStr, c_char, c_uint},
};

use lab_nvidia::control::Control;
use nix::errno::Errno;
use nvml_wrapper_sys::bindings::{nvmlMemory_t, nvmlPciInfo_t, nvmlVgpuHeterogeneousMode_v1_t};

use crate::{
    abi::Ptr,
    device::*,
    gpu::{Address, Device, GpuInstance},
    mig::*,
    placements::*,
    session,
    system::*,
};

mod mig;
mod vgpus;

/// The answers by command. A missing command is a mistake of the test.
struct Fake(HashMap<&'static str, Result<&'static str, Errno>>);

impl Control for Fake {
    fn command(&mut self, line: &str) -> Result<String, Errno> {
        let answer = self.0.get(line);
        let answer = answer.unwrap_or_else(|| panic!("unexpected command '{line}'"));
        answer.map(str::to_owned)
    }
}

const GPUS: (&str, &str) = (
    "gpus",
    "0000:41:00.0 l40s\n0000:81:00.0 rtx-pro-6000\n0000:c1:00.0 t4\n",
);

const L40S: &str = "gpu 0000:41:00.0";
const L40S_STATE: &str = "model l40s\nframework vendor-vfio\nnode 1\nvfs 32\nloaded 1\nmig 0 0\n\
    hetero 1\nscheduler 1 0 0 0 0\n\
    vgpu 3251634176 1155 24 - 0000:41:00.4 - 4711 a0ad5ef2-15f0-4a8b-8d2b-4a1f3a1b9d10 my guest\n\
    vgpu 3251634177 1154 0 - 0000:41:00.5 - - - -\n";

const RTX: &str = "gpu 0000:81:00.0";
const RTX_STATE: &str = "model rtx-pro-6000\nframework vendor-vfio\nnode 0\nvfs 48\nloaded 1\n\
    mig 1 1\nhetero 0\nscheduler 1 0 0 0 0\ngi 2 35 6 6 1\ngi 3 47 0 3 0\ngi-scheduler 2 3 1 0 0 2000000\nci 2 0 1\nci 2 1 1\n\
    vgpu 3251634180 1561 - 3 0000:81:00.4 - 99 f1e3a6a0-0c9e-4d19-9d53-d3c6e3f1d001 b\n";

const T4: &str = "gpu 0000:c1:00.0";
const T4_STATE: &str = "model t4\nframework legacy-mdev\nnode -1\nvfs 0\nloaded 0\nmig 0 0\n\
    hetero 0\nscheduler 2 2 33 500 0\n\
    vgpu 3251634190 222 - - 0000:c1:00.0 5c2e92c2-33a4-4f6c-9be6-4d7b7e3c9b11 7 - -\n";

/// A library that talks to a module with these answers in addition to the three GPUs.
fn library(answers: &[(&'static str, Result<&'static str, Errno>)]) {
    let mut all = HashMap::from([
        (GPUS.0, Ok(GPUS.1)),
        (L40S, Ok(L40S_STATE)),
        (RTX, Ok(RTX_STATE)),
        (T4, Ok(T4_STATE)),
    ]);
    all.extend(answers.iter().copied());
    session::init_with(|| Ok(Box::new(Fake(all)))).unwrap();
}

fn device(index: c_uint) -> Device {
    out(|device| nvmlDeviceGetHandleByIndex_v2(index, device)).unwrap()
}

fn gi(index: c_uint, id: c_uint) -> GpuInstance {
    out(|gi| nvmlDeviceGetGpuInstanceById(device(index), id, gi)).unwrap()
}

/// The value that a call returns through one pointer.
fn out<T: Copy>(call: impl FnOnce(Ptr<T>) -> c_uint) -> Result<T, c_uint> {
    let mut value = std::mem::MaybeUninit::<T>::zeroed();
    let code = call(Ptr::found(value.as_mut_ptr()));
    if code == 0 {
        // SAFETY: Every type asked for here is made of numbers and pointers, which zero is.
        Ok(unsafe { value.assume_init() })
    } else {
        Err(code)
    }
}

fn text(call: impl FnOnce(&mut [c_char]) -> c_uint) -> Result<String, c_uint> {
    let mut buffer = [1; 96];
    match call(&mut buffer) {
        0 => Ok(string(&buffer)),
        code => Err(code),
    }
}

fn string(buffer: &[c_char]) -> String {
    let bytes: Vec<u8> = buffer.iter().map(|byte| byte.to_ne_bytes()[0]).collect();
    let text = CStr::from_bytes_until_nul(&bytes).unwrap();
    text.to_str().unwrap().to_owned()
}

fn ids(call: impl Fn(Ptr<c_uint>, Ptr<c_uint>) -> c_uint) -> Vec<c_uint> {
    let mut count = 0;
    let code = call((&mut count).into(), Ptr::NULL);
    assert_eq!(code, if count == 0 { 0 } else { 7 });
    let mut ids = vec![0; count as usize];
    assert_eq!(call((&mut count).into(), ids[..].as_mut().into()), 0);
    ids
}

#[test]
fn nothing_works_before_init_and_after_the_last_shutdown() {
    assert_eq!(out(|count| nvmlDeviceGetCount_v2(count)), Err(1));
    assert_eq!(nvmlShutdown(), 1);
    library(&[]);
    library(&[]);
    assert_eq!(nvmlShutdown(), 0);
    assert_eq!(out(|count| nvmlDeviceGetCount_v2(count)), Ok(3));
    assert_eq!(nvmlShutdown(), 0);
    assert_eq!(out(|count| nvmlDeviceGetCount(count)), Err(1));
}

#[test]
fn the_modules_errors_become_nvmls() {
    let table = [
        (Errno::EPERM, 4),
        (Errno::EINVAL, 2),
        (Errno::EOPNOTSUPP, 3),
        (Errno::ENOENT, 6),
        (Errno::EBUSY, 19),
        (Errno::ENOSPC, 23),
        (Errno::ENODEV, 15),
        (Errno::EIO, 999),
    ];
    for (errno, code) in table {
        library(&[("gpu 0000:41:00.0", Err(errno))]);
        assert_eq!(
            out(|device| nvmlDeviceGetHandleByIndex(0, device)),
            Err(code)
        );
        assert_eq!(nvmlShutdown(), 0);
    }
}

#[test]
fn a_panic_does_not_reach_the_caller() {
    library(&[]);
    let code = nvmlDeviceSetMigMode(device(0), 1, (&mut 0).into());
    assert_eq!(code, 999, "the fake panics at the command");
    assert_eq!(out(|count| nvmlDeviceGetCount_v2(count)), Ok(3));
}

#[test]
fn devices_are_found_by_index_address_and_uuid() {
    library(&[]);
    let first = device(0);
    assert_eq!(out(|found| nvmlDeviceGetHandleByIndex(3, found)), Err(2));
    for address in [
        c"0000:41:00.0",
        c"00000000:41:00.0",
        c"41:00",
        c"0000:41:00.0",
    ] {
        assert_eq!(
            out(|found| nvmlDeviceGetHandleByPciBusId_v2(address.into(), found)),
            Ok(first)
        );
    }
    assert_eq!(
        out(|found| nvmlDeviceGetHandleByPciBusId(c"41:01.0".into(), found)),
        Err(6)
    );
    assert_eq!(
        out(|found| nvmlDeviceGetHandleByPciBusId(c"x".into(), found)),
        Err(2)
    );
    let uuid = text(|uuid| nvmlDeviceGetUUID(first, uuid.into(), 96)).unwrap();
    assert_eq!(uuid.len(), "GPU-".len() + 36);
    let other = text(|uuid| nvmlDeviceGetUUID(device(1), uuid.into(), 96)).unwrap();
    assert_ne!(uuid, other);
    let leaked: &'static CStr = Box::leak(std::ffi::CString::new(uuid).unwrap().into_boxed_c_str());
    assert_eq!(
        out(|found| nvmlDeviceGetHandleByUUID(leaked.into(), found)),
        Ok(first)
    );
    assert_eq!(out(|index| nvmlDeviceGetIndex(device(2), index)), Ok(2));
}

#[test]
fn addresses_have_two_forms() {
    let address: Address = "0001:8c:1f.7".parse().unwrap();
    assert_eq!(address.to_string(), "0001:8c:1f.7");
    assert_eq!(address.nvml(), "00000001:8C:1F.7");
    assert_eq!("00000001:8C:1f.7".parse(), Ok(address));
    for wrong in [
        "",
        "1:2:3:4",
        "00:20.0",
        "00:00.8",
        "+1:00.0",
        "10000:00:00.0",
        "00:zz.0",
    ] {
        assert_eq!(wrong.parse::<Address>(), Err(()), "{wrong}");
    }
}

#[test]
fn pointers_and_sizes_are_checked() {
    library(&[]);
    assert_eq!(nvmlDeviceGetCount_v2(Ptr::NULL), 2);
    assert_eq!(
        text(|name| nvmlDeviceGetName(device(0), name.into(), 11)),
        Err(7)
    );
    assert_eq!(
        text(|name| nvmlDeviceGetName(device(0), name.into(), 12)).unwrap(),
        "NVIDIA L40S"
    );
    let instance = gi(1, 3).raw().addr();
    let wrong = |device: Ptr<Device>| device.cast().write(instance).map_or(2, |()| 0);
    let wrong = out(wrong).unwrap();
    assert_eq!(
        text(|name| nvmlDeviceGetName(wrong, name.into(), 96)),
        Err(2),
        "a GPU instance's handle is no device's"
    );
    let mode = &mut nvmlVgpuHeterogeneousMode_v1_t {
        version: 2,
        mode: 0,
    };
    assert_eq!(
        nvmlDeviceGetVgpuHeterogeneousMode(device(0), mode.into()),
        25
    );
}

#[test]
fn a_device_is_described() {
    library(&[]);
    let pci: nvmlPciInfo_t = out(|pci| nvmlDeviceGetPciInfo_v3(device(0), pci)).unwrap();
    assert_eq!(pci.pciDeviceId, 0x26b9_10de);
    assert_eq!((pci.domain, pci.bus, pci.device), (0, 0x41, 0));
    assert_eq!(string(&pci.busId), "00000000:41:00.0");
    assert_eq!(string(&pci.busIdLegacy), "0000:41:00.0");
    let memory: nvmlMemory_t = out(|memory| nvmlDeviceGetMemoryInfo(device(0), memory)).unwrap();
    assert_eq!(
        (memory.total >> 20, memory.used >> 20),
        (46068, 24576 + 16384)
    );
    assert_eq!(
        out(|mode| nvmlDeviceGetVirtualizationMode(device(0), mode)),
        Ok(3)
    );
    assert_eq!(
        out(|mode| nvmlDeviceGetHostVgpuMode(device(0), mode)),
        Ok(1)
    );
    assert_eq!(
        out(|mode| nvmlDeviceGetHostVgpuMode(device(2), mode)),
        Ok(0)
    );
    let architectures = [0, 1, 2].map(|index| {
        out(|architecture| nvmlDeviceGetArchitecture(device(index), architecture)).unwrap()
    });
    assert_eq!(architectures, [8, 10, 6]);
    assert_eq!(out(|node| nvmlDeviceGetNumaNodeId(device(2), node)), Err(3));
    let capability =
        |gpu, number| out(|has| nvmlDeviceGetVgpuCapabilities(device(gpu), number, has));
    assert_eq!(capability(0, 2), Ok(1));
    assert_eq!(capability(2, 2), Ok(0));
    assert_eq!((capability(0, 5), capability(2, 5)), (Ok(1), Ok(0)));
    assert_eq!((capability(0, 8), capability(1, 8)), (Ok(1), Ok(0)));
    assert_eq!(capability(0, 9), Ok(1));
    assert_eq!((capability(0, 11), capability(1, 11)), (Ok(0), Ok(1)));
    assert_eq!(capability(1, 12), Err(2));
}
