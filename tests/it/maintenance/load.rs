//! Changes of the driver: what is done in which order, what comes back, and where a power cut
//! leaves it.

use super::*;

/// Who runs now, and what is loaded.
fn state(place: &Place) -> String {
    let functions = |gpu| place.read(&format!("sys/bus/pci/devices/{gpu}/sriov_numvfs"));
    format!(
        "{} mgr {} functions {} {}",
        place.read("sys/module/nvidia/version").trim(),
        place.read("services/nvidia-vgpu-mgr.service").trim(),
        functions(A).trim(),
        functions(B).trim()
    )
}

/// With a pool, so that the GPUs are set up at the end.
fn with_pool() -> Place {
    let place = Place::new();
    place.write(
        "etc/virt-vgpu/pools.d/cad.toml",
        "kind = \"nvidia-vgpu\"\nprofile = \"L40S-12Q\"\n[[rule]]\nwhere = [{ field = \
         \"vendor-id\", op = \"equal\", value = \"10de\" }]",
    );
    place
}

#[test]
fn a_driver_is_loaded() {
    let place = with_pool();
    insta::assert_snapshot!(place.refused("driver load nvidia-580.65.05 --yes"), @"virt-vgpu: the driver of set 'nvidia-580.65.05' was not loaded: the host's driver is changed in maintenance only; 'virt-vgpu maintenance enter' keeps its GPUs from starts of VMs");
    place.works(&format!("maintenance enter {A}"));
    insta::assert_snapshot!(place.refused("driver load nvidia-580.65.05 --yes"), @"virt-vgpu: the driver of set 'nvidia-580.65.05' was not loaded: all GPUs have the same driver, and some are not in maintenance: 0000:5e:00.0; 'virt-vgpu maintenance enter' takes them all");
    place.works("maintenance enter");
    insta::assert_snapshot!(place.works("driver load nvidia-580.65.05 --dry-run"), @"
    driver set 'nvidia-580.65.05': from 570.172.07 to 580.65.05
      1. stop nvidia-vgpu-mgr.service
      2. remove the virtual functions of 0000:3b:00.0, 0000:5e:00.0
      3. unload nvidia
      4. install /var/lib/virt-vgpu/drivers/nvidia-580.65.05/host/nvidia-vgpu-ubuntu-580_580.65.05_amd64.deb
      5. load the driver, version 580.65.05
      6. start the driver's services
      7. set up the GPUs for their pools, as at boot
    ");
    assert_eq!(place.read("calls"), "");
    insta::assert_snapshot!(place.refused("driver load nvidia-580.65.05"), @"virt-vgpu: the driver of set 'nvidia-580.65.05' was not loaded: there is no terminal to ask on; pass --yes");
    let loaded = place.command("driver load nvidia-580.65.05 --yes");
    assert_eq!(loaded.code, Some(0), "{loaded:?}");
    insta::assert_snapshot!(loaded.stdout, @"
      done:   stop services
      done:   remove virtual functions
      done:   unload the driver
      done:   install the driver
      done:   load the driver
      done:   start services
      done:   set up GPUs
    0000:3b:00.0: set
      done: /usr/lib/nvidia/sriov-manage -e 0000:3b:00.0 (0 of 2 virtual functions are there)
    0000:5e:00.0: set
      done: /usr/lib/nvidia/sriov-manage -e 0000:5e:00.0 (0 of 2 virtual functions are there)
    driver 580.65.05 is loaded; 'virt-vgpu maintenance leave' lets VMs have the GPUs again
    ");
    insta::assert_snapshot!(loaded.stderr, @"
    virt-vgpu: from here on neither Ctrl-C nor a lost connection stops the change
    virt-vgpu: step 1 of 7: stop services
    virt-vgpu: step 2 of 7: remove virtual functions
    virt-vgpu: step 3 of 7: unload the driver
    virt-vgpu: step 4 of 7: install the driver, which may take some minutes
    virt-vgpu: step 5 of 7: load the driver
    virt-vgpu: step 6 of 7: start services
    virt-vgpu: step 7 of 7: set up GPUs
    ");
    insta::assert_snapshot!(place.read("calls"), @"
    systemctl stop nvidia-vgpu-mgr.service
    sriov-manage -d 0000:3b:00.0
    sriov-manage -d 0000:5e:00.0
    modprobe -r nvidia
    dpkg --remove --force-remove-reinstreq --force-hold nvidia-vgpu-ubuntu-570
    apt-get install --yes --allow-downgrades --allow-change-held-packages --reinstall -o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold /var/lib/virt-vgpu/drivers/nvidia-580.65.05/host/nvidia-vgpu-ubuntu-580_580.65.05_amd64.deb
    modprobe nvidia
    modprobe nvidia_vgpu_vfio
    systemctl start nvidia-vgpud.service
    systemctl start nvidia-vgpu-mgr.service
    sriov-manage -e 0000:3b:00.0
    sriov-manage -e 0000:5e:00.0
    ");
    assert_eq!(state(&place), "580.65.05 mgr active functions 2 2");
    insta::assert_snapshot!(place.works("maintenance status"), @"
    in maintenance since DATE: 0000:3b:00.0, 0000:5e:00.0
    nobody uses them
    driver: 580.65.05
    driver set 'nvidia-580.65.05' was loaded
    next: 'virt-vgpu driver load NAME' changes the driver; 'virt-vgpu maintenance leave' lets VMs have the GPUs again
    ");
    insta::assert_snapshot!(place.works("driver load nvidia-580.65.05"), @"driver 580.65.05 of set 'nvidia-580.65.05' is loaded already; --again installs it once more");
    insta::assert_snapshot!(place.works("maintenance leave"), @"
    0000:3b:00.0: nothing to do
    0000:5e:00.0: nothing to do
    VMs can have them again: 0000:3b:00.0, 0000:5e:00.0
    ");
}

#[test]
fn what_makes_it_impossible_is_said_before() {
    let place = Place::new();
    place.works("maintenance enter");
    let why = |place: &Place| place.refused("driver load nvidia-580.65.05 --yes");
    fs::create_dir(place.path("sys/module/nouveau")).unwrap();
    insta::assert_snapshot!(why(&place), @"virt-vgpu: the driver of set 'nvidia-580.65.05' was not loaded: nouveau is loaded, the kernel's own driver, and NVIDIA's cannot have a GPU beside it; this takes a reboot: put 'blacklist nouveau' into /etc/modprobe.d/blacklist-nouveau.conf, make the initramfs again ('update-initramfs -u' or 'dracut -f'), and reboot");
    fs::remove_dir(place.path("sys/module/nouveau")).unwrap();
    fs::remove_dir(place.path("lib/modules/6.1.0/build")).unwrap();
    insta::assert_snapshot!(why(&place), @"virt-vgpu: the driver of set 'nvidia-580.65.05' was not loaded: the headers of this kernel are missing, which the driver is built with; install linux-headers-6.1.0 (Debian, Ubuntu) or kernel-devel-6.1.0 (Red Hat)");
    fs::create_dir(place.path("lib/modules/6.1.0/build")).unwrap();
    let function = "sys/bus/pci/devices/0000:3b:00.1/nvidia/current_vgpu_type";
    place.write(function, "1155");
    insta::assert_snapshot!(why(&place), @"virt-vgpu: the driver of set 'nvidia-580.65.05' was not loaded: the GPUs are in use: vGPU 0000:3b:00.1 on 0000:3b:00.0, which no domain has; 'virt-vgpu maintenance enter --shutdown' shuts VMs down, '--migrate URI' moves them");
    place.write(function, "0");
    insta::assert_snapshot!(place.refused("driver load nvidia-1.2 --yes"), @"virt-vgpu: there is no driver set 'nvidia-1.2'; 'virt-vgpu driver list' lists them");
    let file = "var/lib/virt-vgpu/drivers/nvidia-580.65.05/host/nvidia-vgpu-ubuntu-580_580.65.05_amd64.deb";
    place.write(file, "other bytes");
    insta::assert_snapshot!(why(&place), @"virt-vgpu: the driver of set 'nvidia-580.65.05' was not loaded: /var/lib/virt-vgpu/drivers/nvidia-580.65.05/host/nvidia-vgpu-ubuntu-580_580.65.05_amd64.deb is not as it was stored; remove the set ('virt-vgpu driver remove nvidia-580.65.05') and add its bundle again");
    assert_eq!(place.read("calls"), "");
    assert_eq!(
        place.json("maintenance status")["load"],
        serde_json::Value::Null
    );
    assert_eq!(state(&place), "570.172.07 mgr active functions 2 2");
}

/// The installer of NVIDIA, where there is no package for the host's distribution.
#[test]
fn an_installer_is_run() {
    let place = Place::new();
    place.works("maintenance enter");
    place.set("550.163.02", "NVIDIA-Linux-x86_64-550.163.02-vgpu-kvm.run");
    place.works("driver load nvidia-550.163.02 --yes");
    assert_eq!(state(&place), "550.163.02 mgr active functions 0 0");
    assert!(place.read("calls").contains(
        "\nsh /var/lib/virt-vgpu/drivers/nvidia-550.163.02/host/NVIDIA-Linux-x86_64-550.163.02-vgpu-kvm.run --silent\n"
    ));
}

#[test]
fn a_driver_that_does_not_build_or_load_gives_way_to_the_former() {
    for bad in ["builds-not", "loads-not"] {
        let place = with_pool();
        place.write(&format!("bad/{NEW}"), bad);
        place.works("maintenance enter");
        let loaded = place.command("driver load nvidia-580.65.05 --yes");
        assert_eq!(loaded.code, Some(1), "{loaded:?}");
        insta::assert_snapshot!(format!("{bad}-stdout"), place.plain(&loaded.stdout));
        assert_eq!(
            state(&place),
            "570.172.07 mgr active functions 2 2",
            "{bad}"
        );
        insta::assert_snapshot!(format!("{bad}-status"), place.works("maintenance status"));
        place.works("maintenance leave");
    }
}

#[test]
fn without_the_former_driver_in_a_set_the_state_is_told() {
    let place = with_pool();
    place.works("driver remove nvidia-570.172.07 --yes");
    place.write(&format!("bad/{NEW}"), "loads-not");
    place.works("maintenance enter");
    let loaded = place.command("driver load nvidia-580.65.05 --yes");
    assert_eq!(loaded.code, Some(1), "{loaded:?}");
    insta::assert_snapshot!(loaded.stdout, @"
      done:   stop services
      done:   remove virtual functions
      done:   unload the driver
      done:   install the driver
      FAILED: load the driver
      FAILED: go back to the former driver
    driver set 'nvidia-580.65.05' was not loaded: cannot load the driver: 'modprobe nvidia' failed (exit status: 1): modprobe: ERROR: could not insert 'nvidia': Exec format error; 'journalctl -k -g NVRM' shows the driver's messages; going back to the former driver failed: 'modprobe nvidia' failed (exit status: 1): modprobe: ERROR: could not insert 'nvidia': Exec format error; 'journalctl -k -g NVRM' shows the driver's messages; driver 570.172.07 is in no driver set, so it cannot be installed again: install it by hand, or store its bundle ('virt-vgpu driver add') and run 'virt-vgpu driver load'; no driver of NVIDIA is loaded
    ");
    insta::assert_snapshot!(place.works("maintenance status"), @"
    in maintenance since DATE: 0000:3b:00.0, 0000:5e:00.0
    nobody uses them
    driver: not loaded
    driver set 'nvidia-580.65.05' was not loaded: cannot load the driver: 'modprobe nvidia' failed (exit status: 1): modprobe: ERROR: could not insert 'nvidia': Exec format error; 'journalctl -k -g NVRM' shows the driver's messages; nor did going back succeed
    stopped services: nvidia-vgpu-mgr.service
    next: run 'virt-vgpu driver load nvidia-580.65.05' again: the change was cut off at 'go back to the former driver'
    ");
    insta::assert_snapshot!(place.refused("maintenance leave"), @"virt-vgpu: the GPUs stay in maintenance: 'virt-vgpu driver load nvidia-580.65.05' stopped at 'go back to the former driver', and no driver is loaded now; run it again, or load another driver set, or pass --force");
    place.set(OLD, "nvidia-vgpu-ubuntu-570_570.172.07_amd64.deb");
    place.works("driver load nvidia-570.172.07 --yes");
    assert_eq!(state(&place), "570.172.07 mgr active functions 2 2");
    place.works("maintenance leave");
}

/// Somebody keeps the module, or a service does not stop.
#[test]
fn a_driver_that_cannot_be_unloaded_stays() {
    let place = with_pool();
    place.write("held", "");
    place.works("maintenance enter");
    let loaded = place
        .program("driver load nvidia-580.65.05 --yes")
        .without_pauses()
        .run();
    assert_eq!(loaded.code, Some(1), "{loaded:?}");
    insta::assert_snapshot!(loaded.stdout, @"
      done:   stop services
      done:   remove virtual functions
      FAILED: unload the driver
      done:   go back to the former driver
    0000:3b:00.0: set
      done: /usr/lib/nvidia/sriov-manage -e 0000:3b:00.0 (0 of 2 virtual functions are there)
    0000:5e:00.0: set
      done: /usr/lib/nvidia/sriov-manage -e 0000:5e:00.0 (0 of 2 virtual functions are there)
    driver set 'nvidia-580.65.05' was not loaded: cannot unload the driver: nvidia cannot be unloaded: 'modprobe -r nvidia' failed (exit status: 1): modprobe: FATAL: Module nvidia is in use.; stop what uses the driver (nvidia-smi, DCGM, exporters), then try again; the former driver is back; driver 570.172.07 is loaded
    ");
    assert_eq!(state(&place), "570.172.07 mgr active functions 2 2");
    place.works("maintenance leave");
}

/// At any effect: the next command knows where it has stopped, and running it again completes it.
#[test]
fn a_power_cut_anywhere_is_found_again() {
    let mut stops = std::collections::BTreeSet::new();
    let before = with_pool();
    before.works("maintenance enter");
    // Each step has several effects; that many are stepped over, because of the time.
    const STRIDE: usize = 3;
    for effect in (1..).step_by(STRIDE) {
        let place = before.copy();
        let cut = place
            .program("driver load nvidia-580.65.05 --yes")
            .fault(&format!("kill:{effect}"))
            .run();
        if cut.signal.is_none() {
            assert_eq!(cut.code, Some(0), "{cut:?}");
            assert!(effect > 20, "{effect}");
            break;
        }
        let status = place.json("maintenance status");
        assert_eq!(status["in_maintenance"], true, "{effect}");
        if let Some(step) = status["load"]["step"].as_str() {
            stops.insert(step.to_owned());
            if step != "done" {
                let refused = place.refused("maintenance leave");
                assert!(refused.contains("stopped at"), "{effect}: {refused}");
            }
        }
        let again = place.command("driver load nvidia-580.65.05 --yes");
        assert_eq!(again.code, Some(0), "{effect}: {again:?}");
        assert_eq!(
            state(&place),
            "580.65.05 mgr active functions 2 2",
            "{effect}"
        );
        place.works("maintenance leave");
        assert!(!place.path("var/lib/virt-vgpu/maintenance.json").exists());
    }
    let all = [
        "done",
        "install",
        "load",
        "remove-functions",
        "set-up",
        "start-services",
        "stop-services",
        "unload",
    ];
    assert_eq!(stops.iter().map(String::as_str).collect::<Vec<_>>(), all);
}

/// A full disk, or a program that cannot be run, at any effect: one of the two drivers is loaded
/// afterwards, or the status says what is.
#[test]
fn an_error_anywhere_leaves_a_known_state() {
    const ENOSPC: i32 = 28;
    let before = with_pool();
    before.works("maintenance enter");
    for effect in 1.. {
        let place = before.copy();
        let failed = place
            .program("driver load nvidia-580.65.05 --yes")
            .fault(&format!("{ENOSPC}:{effect}"))
            .run();
        if failed.code == Some(0) && failed.stdout.ends_with("have the GPUs again\n") {
            // An error in what is only noted does no harm; none at all is the end.
            if !failed.stdout.contains("problem:") {
                assert!(effect > 20, "{effect}: {failed:?}");
                break;
            }
            continue;
        }
        assert_eq!(failed.code, Some(1), "{effect}: {failed:?}");
        assert_eq!(
            state(&place),
            "570.172.07 mgr active functions 2 2",
            "{effect}: {failed:?}"
        );
        place.works("maintenance leave");
    }
}

/// Without a reader of what it says, apt would end in the middle.
#[test]
fn neither_an_interrupt_nor_a_lost_connection_stops_it() {
    use nix::sys::{
        signal::Signal::{SIGHUP, SIGINT},
        stat::Mode,
    };
    let place = with_pool();
    place.works("maintenance enter");
    let wait = place.path("wait");
    nix::unistd::mkfifo(&wait, Mode::S_IRWXU).unwrap();
    let mut running = place.program("driver load nvidia-580.65.05 --yes").start();
    let installing = running.reads(&wait);
    running.signal(SIGINT);
    running.signal(SIGHUP);
    drop(installing);
    let loaded = running.wait();
    assert_eq!((loaded.code, loaded.signal), (Some(0), None), "{loaded:?}");
    assert_eq!(state(&place), "580.65.05 mgr active functions 2 2");
    place.works("maintenance leave");
}

/// Another program installs something: the former driver is installed as before, and has only to be
/// loaded.
#[test]
fn a_driver_that_cannot_be_installed_again_is_loaded_again() {
    let place = with_pool();
    place.works("maintenance enter");
    place.write("locked", "");
    let loaded = place.command("driver load nvidia-580.65.05 --yes");
    assert_eq!(loaded.code, Some(1), "{loaded:?}");
    insta::assert_snapshot!(place.plain(&loaded.stdout), @"
      done:   stop services
      done:   remove virtual functions
      done:   unload the driver
      FAILED: install the driver
      done:   go back to the former driver
    0000:3b:00.0: set
      done: /usr/lib/nvidia/sriov-manage -e 0000:3b:00.0 (0 of 2 virtual functions are there)
    0000:5e:00.0: set
      done: /usr/lib/nvidia/sriov-manage -e 0000:5e:00.0 (0 of 2 virtual functions are there)
    problem: driver 570.172.07 could not be installed again, only loaded: 'apt-get install ... /var/lib/virt-vgpu/drivers/nvidia-570.172.07/host/nvidia-vgpu-ubuntu-570_570.172.07_amd64.deb' failed (exit status: 100): apt-get: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 7 (unattended-upgr)
    driver set 'nvidia-580.65.05' was not loaded: cannot install the driver: 'dpkg --remove ... nvidia-vgpu-ubuntu-570' failed (exit status: 2): dpkg: Could not get lock /var/lib/dpkg/lock-frontend. It is held by process 7 (unattended-upgr); the former driver is back; driver 570.172.07 is loaded
    ");
    assert_eq!(state(&place), "570.172.07 mgr active functions 2 2");
    place.works("maintenance leave");
}

/// What would fail in the middle is told at the beginning.
#[test]
fn what_cannot_be_installed_is_not_begun() {
    let place = with_pool();
    place.works("maintenance enter");
    place.write("var/lib/dpkg/updates/0001", "");
    insta::assert_snapshot!(place.refused("driver load nvidia-580.65.05 --yes"), @"virt-vgpu: the driver of set 'nvidia-580.65.05' was not loaded: dpkg was interrupted at its work and refuses other work; complete it with 'dpkg --configure -a', then try again");
    fs::remove_file(place.path("var/lib/dpkg/updates/0001")).unwrap();
    fs::remove_file(place.path("usr/sbin/modprobe")).unwrap();
    insta::assert_snapshot!(place.refused("driver load nvidia-580.65.05 --yes"), @"virt-vgpu: the driver of set 'nvidia-580.65.05' was not loaded: there is no modprobe, which loads and unloads the driver; install kmod ('apt-get install kmod', 'dnf install kmod')");
    assert_eq!(place.read("calls"), "");
}

#[test]
fn sets_of_a_change_that_is_not_complete_stay() {
    let place = with_pool();
    place.works("maintenance enter");
    // After the first step is noted.
    let cut = place
        .program("driver load nvidia-580.65.05 --yes")
        .fault("kill:20")
        .run();
    assert_eq!(cut.signal, Some(9), "{cut:?}");
    insta::assert_snapshot!(place.refused("driver remove nvidia-570.172.07 --yes"), @"virt-vgpu: driver set 'nvidia-570.172.07' was not removed: 'virt-vgpu driver load nvidia-580.65.05' is not complete, and needs it; run it again, or end it with 'virt-vgpu maintenance leave --force'");
    insta::assert_snapshot!(place.refused("driver remove nvidia-580.65.05 --yes"), @"virt-vgpu: driver set 'nvidia-580.65.05' was not removed: 'virt-vgpu driver load nvidia-580.65.05' is not complete, and needs it; run it again, or end it with 'virt-vgpu maintenance leave --force'");
    place.works("driver load nvidia-580.65.05 --yes");
    place.works("driver remove nvidia-570.172.07 --yes");
}

/// A program that only watches the GPUs is no reason to go back.
#[test]
fn vms_depend_on_some_services_only() {
    let place = with_pool();
    for service in ["nvidia-dcgm", "dcgm-exporter", "nvidia-fabricmanager"] {
        place.write(&format!("services/{service}.service"), "active");
    }
    place.works("maintenance enter");
    place.write("fails/nvidia-dcgm.service", "");
    let loaded = place.command("driver load nvidia-580.65.05 --yes");
    assert_eq!(loaded.code, Some(0), "{loaded:?}");
    let problems = loaded.stdout.lines();
    let problems: Vec<&str> = problems.filter(|line| line.contains("problem")).collect();
    insta::assert_snapshot!(problems.join("\n"), @"problem: 'systemctl start nvidia-dcgm.service' failed (exit status: 1): systemctl: Job for nvidia-dcgm.service failed because the control process exited with error code.; 'systemctl status nvidia-dcgm.service' shows why");
    assert_eq!(
        place.read("services/dcgm-exporter.service").trim(),
        "active"
    );
    let status = place.json("maintenance status");
    assert_eq!(
        status["services"],
        serde_json::json!(["nvidia-dcgm.service"])
    );
    fs::remove_file(place.path("fails/nvidia-dcgm.service")).unwrap();
    insta::assert_snapshot!(place.works("maintenance leave"), @"
    0000:3b:00.0: nothing to do
    0000:5e:00.0: nothing to do
    started nvidia-vgpud.service, nvidia-vgpu-mgr.service, nvidia-dcgm.service
    VMs can have them again: 0000:3b:00.0, 0000:5e:00.0
    ");
    assert_eq!(place.read("services/nvidia-dcgm.service").trim(), "active");

    place.works("maintenance enter");
    place.write("fails/nvidia-fabricmanager.service", "");
    let loaded = place.command("driver load nvidia-570.172.07 --yes");
    assert_eq!(loaded.code, Some(1), "{loaded:?}");
    assert_eq!(state(&place), "580.65.05 mgr active functions 2 2");
}

/// `nvidia-smi` loads the driver if it is not loaded.
#[test]
fn a_visitor_who_loads_the_former_driver_is_in_nobodys_way() {
    let place = with_pool();
    // The same package, so that the former driver is there until it is replaced.
    place.write("package", "nvidia-vgpu-ubuntu-580");
    place.works("maintenance enter");
    place.write("visitor", "");
    place.works("driver load nvidia-580.65.05 --yes");
    assert_eq!(state(&place), "580.65.05 mgr active functions 2 2");
    assert!(!place.path("visitor").exists());
}

/// Its pool wants what its driver cannot tell, before as after.
#[test]
fn a_gpu_that_could_not_be_set_up_before_sends_no_driver_back() {
    let place = with_pool();
    let pool = place.read("etc/virt-vgpu/pools.d/cad.toml");
    let pool = pool.replace("[[rule]]", "heterogeneous = true\n[[rule]]");
    place.write("etc/virt-vgpu/pools.d/cad.toml", &pool);
    place.works("maintenance enter");
    let planned = place.works("driver load nvidia-580.65.05 --dry-run");
    assert!(planned.contains("note: 0000:3b:00.0 cannot be set up for its pools now"));
    let loaded = place.command("driver load nvidia-580.65.05 --yes");
    assert_eq!(loaded.code, Some(0), "{loaded:?}");
    assert!(loaded.stdout.contains("0000:3b:00.0: FAILED"), "{loaded:?}");
    assert_eq!(state(&place), "580.65.05 mgr active functions 2 2");
}

/// What a reboot is needed for is said before anything is done.
#[test]
fn what_a_reboot_is_needed_for_is_said_before() {
    let place = Place::new();
    place.works("maintenance enter");
    fs::remove_dir_all(place.path("sys/kernel/iommu_groups")).unwrap();
    fs::remove_dir_all(place.path("sys/module/nvidia")).unwrap();
    let variables = place.path("sys/firmware/efi/efivars");
    fs::create_dir_all(&variables).unwrap();
    let secure_boot = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
    fs::write(variables.join(secure_boot), [6, 0, 0, 0, 1]).unwrap();
    let planned = place.json("driver load nvidia-580.65.05 --dry-run");
    let notes = planned["notes"].as_array().unwrap();
    let begin =
        |one: &serde_json::Value| one.as_str().unwrap().split(':').next().unwrap().to_owned();
    let begins: Vec<String> = notes.iter().map(begin).collect();
    insta::assert_snapshot!(begins.join("\n"), @r"
    Secure Boot is on
    the IOMMU is off
    no driver is loaded now
    no pool takes 0000
    ");
    assert_eq!(place.read("calls"), "");
    // Nobody is asked with --yes; it is said all the same.
    let loaded = place.command("driver load nvidia-580.65.05 --yes");
    let said = loaded.stderr.lines();
    let said = said.map_while(|line| line.strip_prefix("virt-vgpu: note: "));
    let planned = notes.iter().filter_map(serde_json::Value::as_str);
    assert_eq!(said.collect::<Vec<_>>(), planned.collect::<Vec<_>>());
}
