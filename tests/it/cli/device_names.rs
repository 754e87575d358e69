//! `virt-vgpu devices --kind pci` for people: names, and a GPU with its companions.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::plain_tree::Tree;

const PCI_IDS: &str = "10de  NVIDIA Corporation\n\t2684  AD102 [GeForce RTX 4090]\n\
    \t22ba  AD102 High Definition Audio Controller\n\
    8086  Intel Corporation\n\t1533  I210 Gigabit Network Connection\n\
    C 02  Network controller\n\t00  Ethernet controller\n\
    C 03  Display controller\n\t00  VGA compatible controller\n\
    C 04  Multimedia controller\n\t03  Audio device\n\
    C 0c  Serial bus controller\n";

impl Tree {
    /// With the IOMMU group of a function that shares it with none.
    fn alone(self, address: &str, group: u32) -> Self {
        let at = format!("/sys/devices/pci0000:00/{address}");
        let groups = "kernel/iommu_groups";
        let link = format!("../../../{groups}/{group}");
        self.with_link(&format!("{at}/iommu_group"), &link)
            .with_link(
                &format!("/sys/{groups}/{group}/devices/{address}"),
                &format!("../../../../devices/pci0000:00/{address}"),
            )
    }
}

/// A card with a GPU, audio and USB, with a network card after it.
fn with_card() -> Tree {
    Tree::new()
        .with("/usr/share/misc/pci.ids", PCI_IDS)
        .pci("0000:01:00.0", "10de", "2684", "030000", None)
        .pci(
            "0000:01:00.1",
            "10de",
            "22ba",
            "040300",
            Some("snd_hda_intel"),
        )
        .pci("0000:01:00.3", "10de", "1ad8", "0c0330", Some("xhci_hcd"))
        .alone("0000:01:00.0", 1)
        .alone("0000:01:00.1", 2)
        .alone("0000:01:00.3", 3)
        .pci("0000:04:00.0", "8086", "1533", "020000", Some("igb"))
}

fn listed(tree: &Tree, more: &[&str]) -> Value {
    let arguments = [&["devices", "--kind", "pci", "--json"], more].concat();
    serde_json::from_str::<Value>(&tree.shown(&arguments)).unwrap()["devices"].take()
}

fn column(devices: &Value, name: &str) -> Value {
    let devices = devices.as_array().unwrap().iter();
    devices
        .map(|device| json!([device["address"], device[name]]))
        .collect()
}

#[test]
fn a_gpu_s_companions_stand_below_it() {
    let tree = with_card();
    insta::assert_snapshot!(tree.shown(&["devices", "--kind", "pci"]), @r"
    ADDRESS         CLASS    ID         DRIVER         GROUP  NODE  RESET  LINK  POOLS  USER  NAME
    0000:01:00.0    gpu      10de:2684  -              1      0     -      -     -      -     NVIDIA Corporation AD102 [GeForce RTX 4090]
      0000:01:00.1  audio    10de:22ba  snd_hda_intel  2      0     -      -     -      -     NVIDIA Corporation AD102 High Definition Audio Controller
      0000:01:00.3  usb      10de:1ad8  xhci_hcd       3      0     -      -     -      host  NVIDIA Corporation (Serial bus controller)
    0000:04:00.0    network  8086:1533  igb            -      0     -      -     -      -     Intel Corporation I210 Gigabit Network Connection

    0000:01:00.0, 0000:01:00.1: the kernel knows no way to reset it: it may not work for a second VM until the host reboots
    0000:01:00.3: it is not known whether the host needs it: /proc/bus/input/devices: No such file or directory (os error 2)
    0000:04:00.0: it has no IOMMU group, so VFIO cannot isolate it
    ");
    let wanted = json!([
        ["0000:01:00.0", ["0000:01:00.1", "0000:01:00.3"]],
        ["0000:01:00.1", []],
        ["0000:01:00.3", []],
        ["0000:04:00.0", []],
    ]);
    assert_eq!(column(&listed(&tree, &[]), "companions"), wanted);
}

#[test]
fn companions_that_were_not_asked_for_stand_below_the_gpu_too() {
    let tree = with_card().pool(
        "cards",
        "kind = 'pci'\n[[rule]]\nwhere = [{ field = 'class', op = 'equal', value = 'gpu' }]\n",
    );
    insta::assert_snapshot!(tree.shown(&["devices", "--pool", "cards"]), @r"
    ADDRESS         CLASS  ID         DRIVER         GROUP  NODE  RESET  LINK  POOLS  USER  NAME
    0000:01:00.0    gpu    10de:2684  -              1      0     -      -     cards  -     NVIDIA Corporation AD102 [GeForce RTX 4090]
      0000:01:00.1  audio  10de:22ba  snd_hda_intel  2      0     -      -     -      -     NVIDIA Corporation AD102 High Definition Audio Controller
      0000:01:00.3  usb    10de:1ad8  xhci_hcd       3      0     -      -     -      host  NVIDIA Corporation (Serial bus controller)

    0000:01:00.0, 0000:01:00.1: the kernel knows no way to reset it: it may not work for a second VM until the host reboots
    0000:01:00.3: it is not known whether the host needs it: /proc/bus/input/devices: No such file or directory (os error 2)
    ");
    let gpu = tree.shown(&["devices", "--kind", "pci", "01:00.0"]);
    assert_eq!(gpu, tree.shown(&["devices", "--pool", "cards"]));
    // A companion alone is a device like another.
    insta::assert_snapshot!(tree.shown(&["devices", "--kind", "pci", "01:00.1"]), @r"
    ADDRESS       CLASS  ID         DRIVER         GROUP  NODE  RESET  LINK  POOLS  USER  NAME
    0000:01:00.1  audio  10de:22ba  snd_hda_intel  2      0     -      -     -      -     NVIDIA Corporation AD102 High Definition Audio Controller

    0000:01:00.1: the kernel knows no way to reset it: it may not work for a second VM until the host reboots
    ");
    // The network card has no IOMMU group. That the host may need the USB controller is said.
    assert_eq!(
        tree.shown(&["devices", "--kind", "pci", "--free"]),
        tree.shown(&["devices", "--pool", "cards"])
    );
    // Programs have what they ask for.
    let wanted = json!([["0000:01:00.0", ["0000:01:00.1", "0000:01:00.3"]]]);
    assert_eq!(column(&listed(&tree, &["01:00.0"]), "companions"), wanted);
}

#[test]
fn functions_of_a_slot_that_are_no_companions() {
    // Virtual functions with addresses of the board's slot, and a second head.
    let tree = Tree::with_devices()
        .pci("0000:3b:00.1", "10de", "22ba", "040300", None)
        .pci("0000:06:00.0", "1002", "5b60", "030000", None)
        .pci("0000:06:00.1", "1002", "5b70", "038000", None);
    let wanted = json!([
        ["0000:04:00.0", []],
        ["0000:06:00.0", ["0000:06:00.1"]],
        ["0000:06:00.1", []],
        ["0000:3b:00.0", ["0000:3b:00.1"]],
        ["0000:3b:00.1", []],
        ["0000:3b:00.4", []],
        ["0000:3b:00.5", []],
    ]);
    assert_eq!(column(&listed(&tree, &[]), "companions"), wanted);
}

#[test]
fn a_class_has_the_name_that_the_list_of_ids_has() {
    let wanted = json!([
        ["0000:01:00.0", "VGA compatible controller"],
        ["0000:01:00.1", "Audio device"],
        ["0000:01:00.3", "Serial bus controller"],
        ["0000:04:00.0", "Ethernet controller"],
    ]);
    assert_eq!(column(&listed(&with_card(), &[]), "class_name"), wanted);
}

/// Each name from udev's hardware database, or from `pci.ids` where it has none; properties
/// from udev's own. All that the command sees of the machine is in a mount namespace.
#[test]
fn udev_knows_names_and_properties_of_the_machine_s_devices() {
    let at = |function: &str| format!("/sys/devices/pci0000:00/0000:{function}");
    let mut tree = with_card()
        .with(
            "/etc/udev/hwdb.d/20-names.hwdb",
            "pci:v000010DE*\n ID_VENDOR_FROM_DATABASE=NVIDIA\n\n\
             pci:v000010DEd00002684*\n ID_MODEL_FROM_DATABASE=AD102\n\n\
             pci:v000010DEd00002684sv00001462sd00005103*\n \
             ID_MODEL_FROM_DATABASE=AD102 (Gaming X)\n\n\
             pci:v*d*sv*sd*bc03*\n ID_PCI_CLASS_FROM_DATABASE=Display\n\n\
             pci:v*d*sv*sd*bc03sc00*\n ID_PCI_SUBCLASS_FROM_DATABASE=VGA\n",
        )
        .with(
            "/run/udev/data/+pci:0000:01:00.0",
            "I:1\nE:ID_VIRT_VGPU_POOLS=cad\nE:OTHER=1\n",
        );
    for (function, modalias) in [
        (
            "01:00.0",
            "pci:v000010DEd00002684sv00001462sd00005103bc03sc00i00",
        ),
        (
            "01:00.1",
            "pci:v000010DEd000022BAsv00001462sd00005103bc04sc03i00",
        ),
        (
            "04:00.0",
            "pci:v00008086d00001533sv00008086sd00000001bc02sc00i00",
        ),
    ] {
        tree = tree
            .with(
                &format!("{}/modalias", at(function)),
                &format!("{modalias}\n"),
            )
            .with(&format!("{}/uevent", at(function)), "PCI_CLASS=1\n")
            .with_link(&format!("{}/subsystem", at(function)), "../../../bus/pci");
    }
    let built = Command::new("systemd-hwdb")
        .args(["update", "--root"])
        .arg(tree.root())
        .status();
    let built = built.expect("systemd-hwdb is not installed; run: apt-get install udev");
    assert!(built.success());
    let script = "set -e; cd \"$1\"; mount --bind sys /sys; mount --bind etc /etc; \
                  mount --bind run /run; mount --bind usr/share /usr/share; \
                  exec \"$2\" devices --kind pci --json";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script, "sh"])
        .arg(tree.root())
        .arg(env!("CARGO_BIN_EXE_virt-vgpu"))
        .env_remove("VIRT_VGPU_ROOT")
        // Below /sys it wants to see the kernel's own file system.
        .env("SYSTEMD_DEVICE_VERIFY_SYSFS", "0")
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    let devices: Value = serde_json::from_slice(&output.stdout).unwrap();
    let devices = &devices["devices"];
    for (name, wanted) in [
        ("vendor", ["NVIDIA", "NVIDIA", "Intel Corporation"]),
        (
            "device",
            [
                "AD102 (Gaming X)",
                "AD102 High Definition Audio Controller",
                "I210 Gigabit Network Connection",
            ],
        ),
        ("class_name", ["VGA", "Audio device", "Ethernet controller"]),
    ] {
        let [gpu, audio, nic] = wanted;
        let found = column(devices, name);
        assert_eq!(found[0], json!(["0000:01:00.0", gpu]));
        assert_eq!(found[1], json!(["0000:01:00.1", audio]));
        assert_eq!(found[3], json!(["0000:04:00.0", nic]));
    }
    let wanted = json!([
        ["0000:01:00.0", { "ID_VIRT_VGPU_POOLS": "cad" }],
        ["0000:01:00.1", null],
        ["0000:01:00.3", null],
        ["0000:04:00.0", null],
    ]);
    assert_eq!(column(devices, "properties"), wanted);
}
