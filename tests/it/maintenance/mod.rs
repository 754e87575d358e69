//! Maintenance mode and changes of the host's driver, on directories that replace a host. A
//! script replaces the programs that change the driver, and refuses what they refuse.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use tempfile::TempDir;

use crate::support::process::{Outcome, Program};

mod hook;
mod load;
mod mode;
mod vms;

const A: &str = "0000:3b:00.0";
const B: &str = "0000:5e:00.0";
const OLD: &str = "570.172.07";
const NEW: &str = "580.65.05";

/// A host with two GPUs that have two virtual functions each, the driver `OLD` from a set, and
/// the set of driver `NEW`.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(crate::support::root());
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let mut links = vec![
            (
                "usr/lib/nvidia/sriov-manage".to_owned(),
                "host-settings/sriov-manage",
            ),
            (
                "usr/sbin/virt-vgpu-nvml".to_owned(),
                "host-settings/virt-vgpu-nvml",
            ),
            ("usr/sbin/modprobe".to_owned(), "driver-host/program"),
            ("bin/sh".to_owned(), "driver-host/program"),
        ];
        for name in ["systemctl", "dpkg", "dpkg-deb", "dpkg-query", "apt-get"] {
            links.push((format!("usr/bin/{name}"), "driver-host/program"));
        }
        for (link, to) in links {
            let link = place.path(&link);
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            symlink(fixtures.join(to), link).unwrap();
        }
        for gpu in [A, B] {
            place.gpu(gpu);
        }
        fs::create_dir_all(place.path("sys/bus/pci/drivers/nvidia")).unwrap();
        place.write("sys/module/nvidia/version", OLD);
        place.write("installed", OLD);
        place.write("package", "nvidia-vgpu-ubuntu-570");
        place.write("proc/sys/kernel/osrelease", "6.1.0");
        fs::create_dir_all(place.path("lib/modules/6.1.0/build")).unwrap();
        fs::create_dir_all(place.path("sys/kernel/iommu_groups/1")).unwrap();
        place.write("services/nvidia-vgpud.service", "inactive");
        place.write("services/nvidia-vgpu-mgr.service", "active");
        for (version, branch) in [(OLD, "570"), (NEW, "580")] {
            let file = format!("nvidia-vgpu-ubuntu-{branch}_{version}_amd64.deb");
            place.set(version, &file);
        }
        place
    }

    /// Another one like it.
    fn copy(&self) -> Self {
        let copy = Self(crate::support::root());
        let copied = std::process::Command::new("cp")
            .arg("-a")
            .arg(self.path("."))
            .arg(copy.path("."))
            .status()
            .unwrap();
        assert!(copied.success());
        copy
    }

    /// Stores a driver for hosts.
    fn set(&self, version: &str, file: &str) {
        let bundle = self.path("given").join(file);
        fs::create_dir_all(bundle.parent().unwrap()).unwrap();
        fs::write(&bundle, crate::driver_set::driver(file)).unwrap();
        let added = self.command(&format!(
            "driver add {} --name nvidia-{version}",
            bundle.display()
        ));
        assert_eq!(added.code, Some(0), "{added:?}");
    }

    fn gpu(&self, gpu: &str) {
        let device = format!("sys/bus/pci/devices/{gpu}");
        self.write(&format!("{device}/vendor"), "0x10de");
        self.write(&format!("{device}/class"), "0x030200");
        self.write(&format!("{device}/sriov_totalvfs"), "2");
        self.write(&format!("{device}/sriov_numvfs"), "0");
        symlink(
            "../../../../bus/pci/drivers/nvidia",
            self.path(&device).join("driver"),
        )
        .unwrap();
        self.write(
            &format!("nvml/{gpu}"),
            "{\"failed\":{\"kind\":\"no-gpu\",\"message\":\"\"}}",
        );
        let made = std::process::Command::new(self.path("usr/lib/nvidia/sriov-manage"))
            .args(["-e", gpu])
            .status()
            .unwrap();
        assert!(made.success());
        fs::remove_file(self.path("calls")).unwrap();
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{text}\n")).unwrap();
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_default()
    }

    fn program(&self, arguments: &str) -> Program {
        Program::command(self.0.path(), arguments)
    }

    fn command(&self, arguments: &str) -> Outcome {
        self.program(arguments).run()
    }

    /// What it prints.
    #[track_caller]
    fn works(&self, arguments: &str) -> String {
        let outcome = self.command(arguments);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        self.plain(&outcome.stdout)
    }

    /// What it says.
    #[track_caller]
    fn refused(&self, arguments: &str) -> String {
        let outcome = self.command(arguments);
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        assert_eq!(outcome.stdout, "", "{outcome:?}");
        self.plain(&outcome.stderr)
    }

    fn plain(&self, text: &str) -> String {
        undated(text).replace(&self.0.path().display().to_string(), "")
    }

    fn json(&self, arguments: &str) -> serde_json::Value {
        serde_json::from_str(&self.command(&format!("{arguments} --json")).stdout).unwrap()
    }
}

/// Without the time at which maintenance began.
fn undated(text: &str) -> String {
    const DATE: usize = "2026-11-30 02:10 UTC".len();
    match text.split_once(" since ") {
        Some((before, after)) => format!("{before} since DATE{}", &after[DATE..]),
        None => text.to_owned(),
    }
}
