//! NVIDIA's driver in the guests, as the program tells it.

use lab_nvidia::model::{Attribute, Parent, VgpuHandle};
use virt_vgpu::device::nvml::{
    Answer, FailureKind, GuestDriver, GuestFacts, Guests, Licence, LicenceState, LicenceTerm,
    Question,
};

use super::{Driver, MDEV, VM, failed, gpu, open_on_vf, vm};

/// The version of the lab's driver.
const HOST: &str = "580.65.05";

fn guests(driver: &Driver) -> Guests {
    match driver.ask(&Question::Guests) {
        Answer::Guests(guests) => guests,
        other => panic!("{other:?}"),
    }
}

fn set(driver: &Driver, gpu: usize, at: &VgpuHandle, guest: &str) {
    let guest = Some(guest.parse().unwrap());
    driver.twins().gpus[gpu].set_guest(at, guest).unwrap();
}

fn on_function() -> GuestFacts {
    GuestFacts {
        gpu: gpu(0),
        type_id: "1155".parse().unwrap(),
        vm: Some(VM.parse().unwrap()),
        mdev: None,
        driver: GuestDriver::NotLoaded,
        licence: None,
    }
}

#[test]
fn guests_are_those_of_open_vgpus_on_all_gpus() {
    let driver = Driver::with(&["l40s", "t4"]);
    assert_eq!(guests(&driver).vgpus, []);
    // It was made, but not opened; and a twin's ids are unique on its own GPU only.
    driver.twins().gpus[0]
        .write(&VgpuHandle::Vf(5), Attribute::CurrentVgpuType, "1155")
        .unwrap();
    open_on_vf(&driver, 4, 1155);
    {
        let t4 = &mut driver.twins().gpus[1];
        t4.mdev_create(Parent::Pf, 232, MDEV).unwrap();
        t4.open(&VgpuHandle::Mdev(MDEV.to_owned()), vm()).unwrap();
    }
    let mediated = GuestFacts {
        gpu: gpu(1),
        type_id: "232".parse().unwrap(),
        mdev: Some(MDEV.parse().unwrap()),
        ..on_function()
    };
    let wanted = Guests {
        host_driver: Some(HOST.to_owned()),
        vgpus: vec![on_function(), mediated.clone()],
    };
    assert_eq!(guests(&driver), wanted);
    // A GPU that is lost hides its own only.
    driver.twins().lost = Some("0000:3b:00.0");
    assert_eq!(guests(&driver).vgpus, [mediated]);
}

#[test]
fn licences_are_told_while_a_driver_runs_in_the_guest() {
    let driver = Driver::with(&["l40s"]);
    open_on_vf(&driver, 4, 1155);
    let until = [2030, 1, 31, 9, 8, 7];
    for (guest, state, term) in [
        (
            "5 2 2030 1 31 9 8 7",
            LicenceState::Licensed,
            LicenceTerm::Until(until),
        ),
        (
            "5 4 0 0 0 0 0 0",
            LicenceState::Licensed,
            LicenceTerm::Permanent,
        ),
        (
            "5 3 0 0 0 0 0 0",
            LicenceState::Licensed,
            LicenceTerm::Unknown,
        ),
        (
            "4 0 0 0 0 0 0 0",
            LicenceState::Unlicensed,
            LicenceTerm::Unknown,
        ),
        (
            "3 0 0 0 0 0 0 0",
            LicenceState::Restricted,
            LicenceTerm::Unknown,
        ),
        (
            "2 1 0 0 0 0 0 0",
            LicenceState::Unrestricted,
            LicenceTerm::Unknown,
        ),
        (
            "1 0 0 0 0 0 0 0",
            LicenceState::NotAskedFor,
            LicenceTerm::Unknown,
        ),
        (
            "77 0 0 0 0 0 0 0",
            LicenceState::Unknown,
            LicenceTerm::Unknown,
        ),
    ] {
        set(&driver, 0, &VgpuHandle::Vf(4), &format!("580.88 {guest}"));
        let wanted = GuestFacts {
            driver: GuestDriver::Version("580.88".to_owned()),
            licence: Some(Licence { state, term }),
            ..on_function()
        };
        assert_eq!(guests(&driver).vgpus, [wanted], "{guest}");
    }
    driver.twins().gpus[0]
        .set_guest(&VgpuHandle::Vf(4), None)
        .unwrap();
    assert_eq!(guests(&driver).vgpus, [on_function()]);
}

/// A library without the functions of newer ones still says the rest.
#[test]
fn an_older_library_says_less() {
    let driver = Driver::with(&["l40s"]).without(&[
        "nvmlVgpuInstanceGetLicenseInfo_v2",
        "nvmlSystemGetDriverVersion",
    ]);
    open_on_vf(&driver, 4, 1155);
    set(&driver, 0, &VgpuHandle::Vf(4), "580.88 5 4 0 0 0 0 0 0");
    let found = GuestFacts {
        driver: GuestDriver::Version("580.88".to_owned()),
        ..on_function()
    };
    let wanted = Guests {
        host_driver: None,
        vgpus: vec![found],
    };
    assert_eq!(guests(&driver), wanted);
    driver.unload_module();
    assert_eq!(
        driver.ask(&Question::Guests),
        failed(
            FailureKind::NoLibrary,
            "cannot start libnvidia-ml.so.1: NVIDIA driver is not loaded"
        )
    );
}
