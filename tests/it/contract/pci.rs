//! The contract of the kernel's driver core for PCI functions, as this program relies on it,
//! on the model of it.

use nix::errno::Errno;
use virt_vgpu::{
    apply::Acts,
    device::{Sysfs, step::Attribute},
};

use crate::support::{
    kernel::{Bound, Fault, Kernel, Meanwhile, Target},
    machine::{Machine, Plain},
};
use lab_nvidia::model::Vm;

const NIC: &str = "0000:04:00.0";
const DRIVE: &str = "0000:05:00.0";
const BRIDGE: &str = "0000:00:01.0";

fn kernel() -> Kernel {
    let bridge = Plain::bridge(BRIDGE, 1);
    let alone = Plain {
        group: None,
        ..Plain::nic("0000:06:00.0", 0)
    };
    let with_functions = Plain {
        numvfs: Some(2),
        ..Plain::nic("0000:07:00.0", 7)
    };
    Kernel::new(Machine::of_pci([
        bridge,
        Plain::nic(NIC, 4),
        Plain::drive(DRIVE, 5),
        alone,
        with_functions,
    ]))
}

fn write(kernel: &Kernel, path: &str, value: &str) -> Result<(), Errno> {
    let attribute = Attribute {
        path: format!("/sys/bus/pci/{path}"),
        value: value.to_owned(),
    };
    let written = kernel.write(&attribute, None);
    written.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap()))
}

fn bound(kernel: &Kernel, at: &str) -> (Option<String>, Option<String>) {
    let Bound { driver, reserved } = kernel.bound()[at].clone();
    (driver, reserved)
}

fn driver(kernel: &Kernel, at: &str) -> Option<String> {
    let there = kernel.read_link(&format!("/sys/bus/pci/devices/{at}/driver"));
    let name = there.ok()?.rsplit('/').next()?.to_owned();
    assert_eq!(bound(kernel, at).0.as_ref(), Some(&name));
    Some(name)
}

fn reserve(kernel: &Kernel, at: &str, value: &str) -> Result<(), Errno> {
    write(kernel, &format!("devices/{at}/driver_override"), value)
}

fn reserved(kernel: &Kernel, at: &str) -> String {
    kernel
        .text(&format!("/sys/bus/pci/devices/{at}/driver_override"))
        .unwrap()
}

fn vm(pid: u32) -> Vm {
    Vm {
        pid,
        uuid: None,
        name: None,
    }
}

#[test]
fn a_driver_gives_up_only_what_it_has() {
    let kernel = kernel();
    let unbind =
        |driver: &str, value: &str| write(&kernel, &format!("drivers/{driver}/unbind"), value);
    assert_eq!(unbind("igb", DRIVE), Err(Errno::ENODEV), "another's");
    assert_eq!(unbind("igb", "0000:99:00.0"), Err(Errno::ENODEV), "nobody");
    assert_eq!(unbind("igb", &format!("{NIC}\n\n")), Err(Errno::ENODEV));
    assert_eq!(unbind("ixgbe", NIC), Err(Errno::ENOENT), "not loaded");
    assert_eq!(driver(&kernel, NIC).as_deref(), Some("igb"));
    assert_eq!(unbind("igb", &format!("{NIC}\n")), Ok(()));
    assert_eq!(driver(&kernel, NIC), None);
    assert_eq!(unbind("igb", NIC), Err(Errno::ENODEV), "again");
}

#[test]
fn a_driver_takes_only_what_it_matches() {
    let kernel = kernel();
    let bind = |driver: &str| write(&kernel, &format!("drivers/{driver}/bind"), NIC);
    assert_eq!(bind("nvme"), Err(Errno::ENODEV), "no id");
    assert_eq!(bind("vfio-pci"), Err(Errno::ENODEV), "override only");
    assert_eq!(bind("igb"), Err(Errno::EBUSY), "has it");
    assert_eq!(write(&kernel, "drivers/igb/unbind", NIC), Ok(()));
    assert_eq!(reserve(&kernel, NIC, "nvme"), Ok(()));
    assert_eq!(bind("igb"), Err(Errno::ENODEV), "reserved for another");
    assert_eq!(bind("nvme"), Err(Errno::ENODEV), "does not know it");
    assert_eq!(reserve(&kernel, NIC, "vfio-pci"), Ok(()));
    assert_eq!(bind("vfio-pci"), Ok(()));
    assert_eq!(driver(&kernel, NIC).as_deref(), Some("vfio-pci"));
}

#[test]
fn a_probe_takes_the_first_driver_that_will() {
    let kernel = kernel();
    let probe = |at: &str| write(&kernel, "drivers_probe", at);
    assert_eq!(probe("0000:99:00.0"), Err(Errno::ENODEV));
    assert_eq!(probe(NIC), Ok(()), "nothing to do");
    write(&kernel, "drivers/igb/unbind", NIC).unwrap();
    kernel.inject(Fault::errno(Target::Probe, Errno::EIO).on("igb"));
    assert_eq!(probe(NIC), Ok(()));
    assert_eq!(driver(&kernel, NIC).as_deref(), Some("e1000e"));
    write(&kernel, "drivers/e1000e/unbind", NIC).unwrap();
    reserve(&kernel, NIC, "igb").unwrap();
    assert_eq!(probe(NIC), Ok(()), "the write succeeds all the same");
    assert_eq!(driver(&kernel, NIC), None);
    assert_eq!(write(&kernel, "drivers/igb/bind", NIC), Err(Errno::EIO));
    reserve(&kernel, NIC, "no-such-driver").unwrap();
    assert_eq!(probe(NIC), Ok(()));
    assert_eq!(driver(&kernel, NIC), None);
}

#[test]
fn an_override_is_one_line_shorter_than_a_page() {
    let kernel = kernel();
    assert_eq!(reserved(&kernel, NIC), "(null)\n");
    for (written, read) in [
        ("vfio-pci", "vfio-pci\n"),
        ("igb\n", "igb\n"),
        ("igb\nnvme\n", "igb\n"),
        ("\n", "(null)\n"),
        ("igb\0\0", "igb\n"),
        ("\0", "(null)\n"),
    ] {
        assert_eq!(reserve(&kernel, NIC, written), Ok(()), "{written:?}");
        assert_eq!(reserved(&kernel, NIC), read, "{written:?}");
    }
    assert_eq!(reserve(&kernel, NIC, &"x".repeat(4094)), Ok(()));
    assert_eq!(reserve(&kernel, NIC, &"x".repeat(4095)), Err(Errno::EINVAL));
    assert_eq!(reserved(&kernel, NIC).len(), 4095);
}

#[test]
fn vfio_refuses_what_it_cannot_isolate_or_hand_out() {
    let kernel = kernel();
    for (at, driver, errno) in [
        (BRIDGE, "pcieport", Errno::EINVAL),
        ("0000:06:00.0", "igb", Errno::EINVAL),
        ("0000:07:00.0", "igb", Errno::EBUSY),
    ] {
        write(&kernel, &format!("drivers/{driver}/unbind"), at).unwrap();
        reserve(&kernel, at, "vfio-pci").unwrap();
        assert_eq!(
            write(&kernel, "drivers/vfio-pci/bind", at),
            Err(errno),
            "{at}"
        );
    }
}

#[test]
fn a_group_is_open_once_and_only_without_drivers_of_the_host() {
    let beside = "0000:04:00.1";
    let kernel = Kernel::new(Machine::of_pci([
        Plain::bridge(BRIDGE, 4),
        Plain::nic(NIC, 4),
        Plain::nic(beside, 4),
    ]));
    assert!(!kernel.is_group_open("/dev/vfio/4"));
    assert_eq!(kernel.may_open_group("/4"), Err(Errno::ENODEV));
    for at in [NIC, beside] {
        assert_eq!(
            kernel.open(NIC, vm(1)),
            Err(if at == NIC {
                Errno::ENODEV
            } else {
                Errno::EPERM
            })
        );
        write(&kernel, "drivers/igb/unbind", at).unwrap();
        reserve(&kernel, at, "vfio-pci").unwrap();
        write(&kernel, "drivers_probe", at).unwrap();
    }
    assert_eq!(kernel.open(NIC, vm(1)), Ok(()), "the bridge may stay");
    assert_eq!(kernel.open(beside, vm(1)), Ok(()));
    assert_eq!(kernel.open(NIC, vm(2)), Err(Errno::EBUSY));
    assert!(kernel.is_group_open("/dev/vfio/4"));
    // The driver waits until the process has closed it.
    let unbinding = {
        let kernel = kernel.clone();
        std::thread::spawn(move || write(&kernel, "drivers/vfio-pci/unbind", beside))
    };
    while driver(&kernel, beside).is_some() {
        std::thread::yield_now();
    }
    assert!(!unbinding.is_finished());
    assert_eq!(bound(&kernel, beside).0.as_deref(), Some("vfio-pci"));
    kernel.close_all(1, true);
    assert_eq!(unbinding.join().unwrap(), Ok(()));
    assert_eq!(bound(&kernel, beside).0, None);
    // No driver of the host takes a function of a group that a VM has.
    assert_eq!(kernel.open(NIC, vm(1)), Ok(()));
    reserve(&kernel, beside, "\n").unwrap();
    assert_eq!(
        write(&kernel, "drivers/igb/bind", beside),
        Err(Errno::EBUSY)
    );
    kernel.close_all(1, false);
    assert_eq!(write(&kernel, "drivers/igb/bind", beside), Ok(()));
}

#[test]
fn a_driver_that_hangs_holds_the_functions_lock() {
    let kernel = kernel();
    kernel.inject(Fault::hanging(Target::Unbind).on(NIC));
    let hanging = {
        let kernel = kernel.clone();
        std::thread::spawn(move || write(&kernel, "drivers/igb/unbind", NIC))
    };
    // The link goes first.
    while driver(&kernel, NIC).is_some() {
        std::thread::yield_now();
    }
    assert!(kernel.is_locked_for(&format!("/bus/pci/devices/{NIC}/driver_override")));
    let reading = {
        let kernel = kernel.clone();
        std::thread::spawn(move || reserved(&kernel, NIC))
    };
    // Others go on.
    assert_eq!(reserved(&kernel, DRIVE), "(null)\n");
    assert!(!reading.is_finished());
    kernel.heal();
    assert_eq!(hanging.join().unwrap(), Ok(()));
    assert_eq!(reading.join().unwrap(), "(null)\n");
    assert_eq!(driver(&kernel, NIC), None);
}

#[test]
fn what_others_do_meanwhile() {
    let kernel = kernel();
    kernel.inject(Fault::then(Target::Unbind, Meanwhile::IsProbed).on(NIC));
    write(&kernel, "drivers/igb/unbind", NIC).unwrap();
    assert_eq!(driver(&kernel, NIC).as_deref(), Some("igb"));
    let config = || kernel.read_bytes(&format!("/sys/bus/pci/devices/{NIC}/config"), 64);
    assert_eq!(config().unwrap()[..4], [0x86, 0x80, 0x33, 0x15]);
    kernel.inject(Fault::then(Target::Probe, Meanwhile::Dies).on(NIC));
    write(&kernel, "drivers/igb/unbind", NIC).unwrap();
    write(&kernel, "drivers_probe", NIC).unwrap();
    assert_eq!(config().unwrap(), [0xff; 64]);
    kernel.inject(Fault::then(Target::Unbind, Meanwhile::Vanishes).on(NIC));
    write(&kernel, "drivers/igb/unbind", NIC).unwrap();
    assert!(!kernel.exists(&format!("/sys/bus/pci/devices/{NIC}")));
    assert_eq!(write(&kernel, "drivers_probe", NIC), Err(Errno::ENODEV));
}
