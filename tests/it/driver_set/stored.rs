//! Sets that are stored, listed and removed.

use std::os::unix::fs::PermissionsExt;

use super::*;

#[test]
fn a_bundle_becomes_a_set() {
    let place = Place::new();
    place.given("bundle.zip", Archive::of_nvidia().bytes());
    insta::assert_snapshot!(place.works("list"), @"no driver sets; 'virt-vgpu driver add BUNDLE.zip' stores one");
    let before = place.everything();
    insta::assert_snapshot!(place.works("add @bundle.zip --dry-run"), @"
    would store driver set 'nvidia-580.65.05' (20 KiB) in /var/lib/virt-vgpu/drivers/nvidia-580.65.05

      FOR                  VERSION    FILE
      host (.run)          580.65.05  NVIDIA-Linux-x86_64-580.65.05-vgpu-kvm.run
      Linux guests (.run)  580.65.06  NVIDIA-Linux-x86_64-580.65.06-grid.run
      Linux guests (.deb)  580.65.06  nvidia-linux-grid-580_580.65.06_amd64.deb
      Linux guests (.rpm)  580.65.06  nvidia-linux-grid-580-580.65.06-1.x86_64.rpm
      Windows guests       580.88     580.88_grid_win10_win11_server2022_dch_64bit_international.exe

    note: no drivers, and left out: Signing_Keys/readme.txt, 580.65.05-580.65.06-580.88-grid-vgpu-user-guide.pdf
    ");
    assert_eq!(place.everything(), before);
    insta::assert_snapshot!(place.works("add @bundle.zip"), @"
    stored driver set 'nvidia-580.65.05' (20 KiB) in /var/lib/virt-vgpu/drivers/nvidia-580.65.05

      FOR                  VERSION    FILE
      host (.run)          580.65.05  NVIDIA-Linux-x86_64-580.65.05-vgpu-kvm.run
      Linux guests (.run)  580.65.06  NVIDIA-Linux-x86_64-580.65.06-grid.run
      Linux guests (.deb)  580.65.06  nvidia-linux-grid-580_580.65.06_amd64.deb
      Linux guests (.rpm)  580.65.06  nvidia-linux-grid-580-580.65.06-1.x86_64.rpm
      Windows guests       580.88     580.88_grid_win10_win11_server2022_dch_64bit_international.exe

    note: no drivers, and left out: Signing_Keys/readme.txt, 580.65.05-580.65.06-580.88-grid-vgpu-user-guide.pdf
    note: there is no disc for guests: /usr/bin/xorriso is not installed, which makes discs; install xorriso ('apt-get install xorriso'); 'virt-vgpu driver iso nvidia-580.65.05' makes it
    ");
    insta::assert_snapshot!(place.works("list"), @"
    NAME              RELEASE  HOST       GUESTS                                           SUPPORTED  DISC  POOLS  SIZE
    nvidia-580.65.05  19       580.65.05  Linux 580.65.06 (run, deb, rpm), Windows 580.88  yes        no    -      20 KiB
    ");
    for (file, mode) in [
        (format!("host/{HOST}"), 0o755),
        (format!("guest/{LINUX}"), 0o755),
        (format!("guest/{LINUX_DEB}"), 0o644),
        (format!("guest/{WINDOWS}"), 0o644),
    ] {
        let path = place.path(&format!(
            "var/lib/virt-vgpu/drivers/nvidia-580.65.05/{file}"
        ));
        assert_eq!(
            fs::read(&path).unwrap(),
            driver(file.split('/').next_back().unwrap()),
            "{file}"
        );
        assert_eq!(
            path.metadata().unwrap().permissions().mode() & 0o7777,
            mode,
            "{file}"
        );
    }
    insta::assert_snapshot!(place.refused("add @bundle.zip"), @"virt-vgpu: nothing was stored: there is a driver set 'nvidia-580.65.05' already; choose another name with --name, or remove it first ('virt-vgpu driver remove nvidia-580.65.05')");
    insta::assert_snapshot!(place.works("add @bundle.zip --name second"), @"
    stored driver set 'second' (20 KiB) in /var/lib/virt-vgpu/drivers/second

      FOR                  VERSION    FILE
      host (.run)          580.65.05  NVIDIA-Linux-x86_64-580.65.05-vgpu-kvm.run
      Linux guests (.run)  580.65.06  NVIDIA-Linux-x86_64-580.65.06-grid.run
      Linux guests (.deb)  580.65.06  nvidia-linux-grid-580_580.65.06_amd64.deb
      Linux guests (.rpm)  580.65.06  nvidia-linux-grid-580-580.65.06-1.x86_64.rpm
      Windows guests       580.88     580.88_grid_win10_win11_server2022_dch_64bit_international.exe

    note: no drivers, and left out: Signing_Keys/readme.txt, 580.65.05-580.65.06-580.88-grid-vgpu-user-guide.pdf
    note: there is no disc for guests: /usr/bin/xorriso is not installed, which makes discs; install xorriso ('apt-get install xorriso'); 'virt-vgpu driver iso second' makes it
    ");
    insta::assert_snapshot!(place.works("remove second --dry-run"), @"would remove /var/lib/virt-vgpu/drivers/second (20 KiB)");
    insta::assert_snapshot!(place.refused("remove second"), @"virt-vgpu: driver set 'second' was not removed: there is no terminal to ask on; pass --yes");
    insta::assert_snapshot!(place.works("remove second --yes"), @"removed /var/lib/virt-vgpu/drivers/second (20 KiB)");
    insta::assert_snapshot!(place.refused("remove second --yes"), @"virt-vgpu: there is no driver set 'second'; 'virt-vgpu driver list' lists them");
    let json: serde_json::Value = serde_json::from_str(&place.works("list --json")).unwrap();
    assert_eq!(json["sets"][0]["guests"][0]["supported"], true);
    assert_eq!(json["sets"][0]["release"], 19);
}

/// A folder as the archive unpacks to, one with the drivers themselves, and single files.
#[test]
fn folders_and_files_are_bundles_too() {
    let place = Place::new();
    place.given(&format!("unpacked/Host_Drivers/{HOST}"), driver(HOST));
    place.given(
        &format!("unpacked/Guest_Drivers/{WINDOWS}"),
        driver(WINDOWS),
    );
    place.given("unpacked/guide.pdf", "%PDF");
    insta::assert_snapshot!(place.works("add @unpacked"), @"
    stored driver set 'nvidia-580.65.05' (8 KiB) in /var/lib/virt-vgpu/drivers/nvidia-580.65.05

      FOR             VERSION    FILE
      host (.run)     580.65.05  NVIDIA-Linux-x86_64-580.65.05-vgpu-kvm.run
      Windows guests  580.88     580.88_grid_win10_win11_server2022_dch_64bit_international.exe

    note: no drivers, and left out: unpacked/guide.pdf
    note: there is no disc for guests: /usr/bin/xorriso is not installed, which makes discs; install xorriso ('apt-get install xorriso'); 'virt-vgpu driver iso nvidia-580.65.05' makes it
    ");
    place.given(&format!("guests/{LINUX}"), driver(LINUX));
    insta::assert_snapshot!(place.works("add @guests"), @"
    stored driver set 'nvidia-580.65.06' (4 KiB) in /var/lib/virt-vgpu/drivers/nvidia-580.65.06

      FOR                  VERSION    FILE
      Linux guests (.run)  580.65.06  NVIDIA-Linux-x86_64-580.65.06-grid.run
    note: there is no disc for guests: /usr/bin/xorriso is not installed, which makes discs; install xorriso ('apt-get install xorriso'); 'virt-vgpu driver iso nvidia-580.65.06' makes it
    ");
    insta::assert_snapshot!(place.works(&format!("add @guests/{LINUX} @unpacked/Guest_Drivers/{WINDOWS} --name both")), @"
    stored driver set 'both' (8 KiB) in /var/lib/virt-vgpu/drivers/both

      FOR                  VERSION    FILE
      Linux guests (.run)  580.65.06  NVIDIA-Linux-x86_64-580.65.06-grid.run
      Windows guests       580.88     580.88_grid_win10_win11_server2022_dch_64bit_international.exe
    note: there is no disc for guests: /usr/bin/xorriso is not installed, which makes discs; install xorriso ('apt-get install xorriso'); 'virt-vgpu driver iso both' makes it
    ");
    insta::assert_snapshot!(place.works("list"), @"
    NAME              RELEASE  HOST       GUESTS                                 SUPPORTED  DISC  POOLS  SIZE
    both              19       -          Linux 580.65.06 (run), Windows 580.88  -          no    -      8 KiB
    nvidia-580.65.05  19       580.65.05  Windows 580.88                         yes        no    -      8 KiB
    nvidia-580.65.06  19       -          Linux 580.65.06 (run)                  -          no    -      4 KiB
    ");
}

#[test]
fn what_cannot_be_read_is_told() {
    let place = Place::new();
    place.given("bundle.zip", Archive::of_nvidia().bytes());
    place.works("add @bundle.zip");
    let set = place.path("var/lib/virt-vgpu/drivers/nvidia-580.65.05/set.json");
    fs::write(&set, "{").unwrap();
    fs::create_dir(place.path("var/lib/virt-vgpu/drivers/empty")).unwrap();
    let outcome = place.run("list");
    assert_eq!(outcome.code, Some(1));
    insta::assert_snapshot!(place.plain(&outcome.stdout), @"
    no driver sets; 'virt-vgpu driver add BUNDLE.zip' stores one

    problem: /var/lib/virt-vgpu/drivers/empty has no set.json: it is no driver set

    problem: /var/lib/virt-vgpu/drivers/nvidia-580.65.05/set.json: EOF while parsing an object at line 1 column 1; remove the directory /var/lib/virt-vgpu/drivers/nvidia-580.65.05 and add the set again
    ");
}

/// Killed or failed at any effect: there is no set, or the whole one, and the next run removes
/// what was left.
#[cfg(feature = "faults")]
#[test]
fn a_set_is_stored_whole_or_not_at_all() {
    let place = Place::new();
    place.given("bundle.zip", Archive::of_nvidia().bytes());
    let trace = place.path("trace");
    let run = place.program("add @bundle.zip").trace(&trace);
    run.run().succeeds();
    let effects = fs::read_to_string(&trace).unwrap();
    let whole = place.everything();
    let add = "add @bundle.zip";
    for number in 1..=effects.lines().count() {
        for fault in [format!("kill:{number}"), format!("28:{number}")] {
            let place = Place::new();
            place.given("bundle.zip", Archive::of_nvidia().bytes());
            let outcome = place.program(add).fault(&fault).run();
            let is_there = place
                .path("var/lib/virt-vgpu/drivers/nvidia-580.65.05")
                .exists();
            if fault.starts_with("28") {
                assert_eq!(outcome.code, Some(1), "{fault}: {outcome:?}\n{effects}");
            }
            if is_there {
                place.works("list");
            } else {
                place.works(add);
            }
            let mut all = place.everything();
            all.retain(|(path, _)| path != "trace");
            let mut wanted = whole.clone();
            wanted.retain(|(path, _)| path != "trace");
            assert_eq!(all, wanted, "{fault}\n{effects}");
        }
    }
}
