//! A host as plain files: enough of sysfs, pool files and claims for commands that
//! read. No kernel behaviour is simulated.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use assert_cmd::Command;
use tempfile::TempDir;

/// The root directory of a host that does not exist.
pub struct Tree {
    root: TempDir,
}

/// The result of a command.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    pub code: i32,
    pub out: String,
    pub err: String,
}

/// The directory of the fixture's devices; the kernel's real directory depends on the
/// bus.
const DEVICES: &str = "/sys/devices/pci0000:00";

impl Tree {
    pub fn new() -> Self {
        let root = super::root();
        super::scene::write_quiet_proc(root.path());
        for class in ["block", "net"] {
            std::fs::create_dir_all(root.path().join("sys/class").join(class)).unwrap();
        }
        let tree = Self { root };
        tree.with("/etc/hostname", "node1\n").with(
            "/usr/share/misc/pci.ids",
            "10de  NVIDIA Corporation\n\t26b9  AD102GL [L40S]\n\
                 8086  Intel Corporation\n\t1533  I210 Gigabit Network Connection\n",
        )
    }

    /// A host with a card of two virtual functions that make mediated devices, a
    /// software parent, and a network card.
    pub fn with_devices() -> Self {
        let types = &[
            ("nvidia-558", "NVIDIA L40S-12Q", 2),
            ("nvidia-559", "NVIDIA L40S-24Q", 1),
        ];
        Self::new()
            .pci("0000:3b:00.0", "10de", "26b9", "030200", Some("nvidia"))
            .virtual_function("0000:3b:00.4", "0000:3b:00.0")
            .parent("0000:3b:00.4", types)
            .virtual_function("0000:3b:00.5", "0000:3b:00.0")
            .parent("0000:3b:00.5", types)
            .pci("0000:04:00.0", "8086", "1533", "020000", Some("igb"))
            .software_parent("mtty", &[("mtty-1", "Single port serial", 24)])
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path.trim_start_matches('/'))
    }

    pub fn exists(&self, path: &str) -> bool {
        self.path(path).symlink_metadata().is_ok()
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    /// With a file of that text.
    pub fn with(self, path: &str, text: &str) -> Self {
        self.write(path, text);
        self
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// With that file executable.
    pub fn executable(self, path: &str) -> Self {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(self.path(path), fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    /// With a link that has exactly that target.
    pub fn with_link(self, path: &str, target: &str) -> Self {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
        self
    }

    /// With a PCI function; ids in hexadecimal without `0x`.
    pub fn pci(
        self,
        address: &str,
        vendor: &str,
        device: &str,
        class: &str,
        driver: Option<&str>,
    ) -> Self {
        let at = format!("{DEVICES}/{address}");
        let tree = self
            .with(&format!("{at}/vendor"), &format!("0x{vendor}\n"))
            .with(&format!("{at}/device"), &format!("0x{device}\n"))
            .with(&format!("{at}/class"), &format!("0x{class}\n"))
            .with(&format!("{at}/numa_node"), "0\n")
            .with_link(
                &format!("/sys/bus/pci/devices/{address}"),
                &format!("../../../devices/pci0000:00/{address}"),
            );
        match driver {
            Some(driver) => tree
                .with_link(
                    &format!("{at}/driver"),
                    &format!("../../../bus/pci/drivers/{driver}"),
                )
                .with_link(
                    &format!("/sys/bus/pci/drivers/{driver}/{address}"),
                    &format!("../../../../devices/pci0000:00/{address}"),
                ),
            None => tree,
        }
    }

    /// With a virtual function of a card like the one above.
    pub fn virtual_function(self, address: &str, board: &str) -> Self {
        self.pci(address, "10de", "26b9", "030200", Some("nvidia"))
            .with_link(
                &format!("{DEVICES}/{address}/physfn"),
                &format!("../{board}"),
            )
    }

    /// Makes a device a parent of types: id, name, `available_instances`.
    pub fn parent(self, name: &str, types: &[(&str, &str, u32)]) -> Self {
        let mut tree = self.with_link(
            &format!("/sys/class/mdev_bus/{name}"),
            &format!("../../devices/pci0000:00/{name}"),
        );
        for (id, label, available) in types {
            let at = format!("{DEVICES}/{name}/mdev_supported_types/{id}");
            tree = tree
                .with(&format!("{at}/name"), &format!("{label}\n"))
                .with(
                    &format!("{at}/description"),
                    "num_heads=4,\nframe_rate=60\n",
                )
                .with(&format!("{at}/device_api"), "vfio-pci\n")
                .with(
                    &format!("{at}/available_instances"),
                    &format!("{available}\n"),
                );
        }
        tree
    }

    /// With a parent that is not a PCI function.
    pub fn software_parent(self, name: &str, types: &[(&str, &str, u32)]) -> Self {
        self.with(&format!("{DEVICES}/{name}/uevent"), "")
            .parent(name, types)
    }

    /// With a mediated device.
    pub fn mdev(self, uuid: &str, parent: &str, type_id: &str) -> Self {
        self.with_link(
            &format!("{DEVICES}/{parent}/{uuid}/mdev_type"),
            &format!("../mdev_supported_types/{type_id}"),
        )
        .with_link(
            &format!("/sys/bus/mdev/devices/{uuid}"),
            &format!("../../../devices/pci0000:00/{parent}/{uuid}"),
        )
    }

    /// With the claim of a domain on one device.
    pub fn claim(self, domain: &str, pool: &str, uuid: &str, parent: &str, type_id: &str) -> Self {
        const DOMAIN: &str = "11111111-2222-4333-8444-555555555555";
        let text = format!(
            r#"{{"version": 1, "domain": "{DOMAIN}", "domain_name": "{domain}",
                "state": "committed", "origin": "prepare", "launched": true,
                "boot_id": null, "since_boot_ms": 0, "daemon": null,
                "devices": [{{"name": "gpu0", "pool": "{pool}", "kind": "mdev",
                    "uuid": "{uuid}", "parent": "{parent}", "type": "{type_id}"}}]}}"#
        );
        self.with(&format!("/run/virt-vgpu/claims/{DOMAIN}.json"), &text)
    }

    /// With a pool in `/etc`.
    pub fn pool(self, name: &str, text: &str) -> Self {
        self.with(&format!("/etc/virt-vgpu/pools.d/{name}.toml"), text)
    }

    /// Runs `virt-vgpu` on the tree. The tree's own path reads `ROOT`.
    pub fn run(&self, arguments: &[&str]) -> Outcome {
        let output = self.command(arguments).output().unwrap();
        let text = |bytes: Vec<u8>| {
            let text = String::from_utf8(bytes).unwrap();
            text.replace(self.root.path().to_str().unwrap(), "ROOT")
        };
        Outcome {
            code: output.status.code().unwrap(),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_virt-vgpu"));
        command
            .arg("--root")
            .arg(self.root.path())
            .args(arguments)
            .env_remove("RUST_LOG")
            .env_remove("VIRT_VGPU_ROOT")
            .env("COLUMNS", "80");
        command
    }

    /// The output of a command that succeeds and prints nothing on stderr.
    pub fn shown(&self, arguments: &[&str]) -> String {
        let outcome = self.run(arguments);
        assert_eq!((outcome.code, outcome.err.as_str()), (0, ""), "{outcome:?}");
        outcome.out
    }

    /// The one line on stderr of a command that is refused.
    pub fn refused(&self, arguments: &[&str]) -> String {
        let outcome = self.run(arguments);
        assert_eq!((outcome.code, outcome.out.as_str()), (1, ""), "{outcome:?}");
        let line = outcome.err.strip_suffix('\n').unwrap();
        assert!(!line.contains('\n'), "{line}");
        line.strip_prefix("virt-vgpu: ").unwrap().to_owned()
    }

    pub fn root(&self) -> &Path {
        self.root.path()
    }
}
