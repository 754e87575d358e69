//! `virt-vgpu devices` on a host of plain files.

use crate::support::plain_tree::Tree;

const OURS: &str = "614bc606-2078-5444-8c9c-4f8e98ae4dcc";
const FOREIGN: &str = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee";

fn busy() -> Tree {
    Tree::with_devices()
        .mdev(OURS, "0000:3b:00.4", "nvidia-558")
        .mdev(FOREIGN, "mtty", "mtty-1")
        .claim("ws7", "cad", OURS, "0000:3b:00.4", "nvidia-558")
}

#[test]
fn parents_are_shown_with_types_and_the_owners_of_their_devices() {
    insta::assert_snapshot!(busy().shown(&["devices", "--kind", "mdev"]), @r#"
    0000:3b:00.4 (virtual function of 0000:3b:00.0)
      TYPE        NAME             AVAILABLE  DESCRIPTION
      nvidia-558  NVIDIA L40S-12Q  2          num_heads=4, frame_rate=60
      nvidia-559  NVIDIA L40S-24Q  1          num_heads=4, frame_rate=60
      MDEV                                  TYPE        OWNER
      614bc606-2078-5444-8c9c-4f8e98ae4dcc  nvidia-558  domain 'ws7' ('gpu0' from pool 'cad')

    0000:3b:00.5 (virtual function of 0000:3b:00.0)
      TYPE        NAME             AVAILABLE  DESCRIPTION
      nvidia-558  NVIDIA L40S-12Q  2          num_heads=4, frame_rate=60
      nvidia-559  NVIDIA L40S-24Q  1          num_heads=4, frame_rate=60

    mtty
      TYPE    NAME                AVAILABLE  DESCRIPTION
      mtty-1  Single port serial  24         num_heads=4, frame_rate=60
      MDEV                                  TYPE    OWNER
      aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee  mtty-1  not ours
    "#);
}

#[test]
fn idle_virtual_functions_of_a_card_are_shown_once() {
    insta::assert_snapshot!(Tree::with_devices().shown(&["devices", "--kind", "mdev"]), @r#"
    0000:3b:00.4, 0000:3b:00.5 (virtual functions of 0000:3b:00.0), each:
      TYPE        NAME             AVAILABLE  DESCRIPTION
      nvidia-558  NVIDIA L40S-12Q  2          num_heads=4, frame_rate=60
      nvidia-559  NVIDIA L40S-24Q  1          num_heads=4, frame_rate=60

    mtty
      TYPE    NAME                AVAILABLE  DESCRIPTION
      mtty-1  Single port serial  24         num_heads=4, frame_rate=60
    "#);
}

#[test]
fn addresses_choose_parents_in_any_notation() {
    let tree = busy();
    insta::assert_snapshot!(tree.shown(&["devices", "--kind", "mdev", "00000000:3B:00.5"]), @r#"
    0000:3b:00.5 (virtual function of 0000:3b:00.0)
      TYPE        NAME             AVAILABLE  DESCRIPTION
      nvidia-558  NVIDIA L40S-12Q  2          num_heads=4, frame_rate=60
      nvidia-559  NVIDIA L40S-24Q  1          num_heads=4, frame_rate=60
    "#);
    // The address of a card selects its virtual functions.
    let card = tree.shown(&["devices", "--kind", "mdev", "3b:00.0"]);
    assert!(card.starts_with("0000:3b:00.4 (virtual function of 0000:3b:00.0)\n"));
    assert!(card.contains("\n0000:3b:00.5 (virtual function of 0000:3b:00.0)\n"));
    assert!(!card.contains("mtty"));
}

#[test]
fn unknown_addresses_are_told_what_there_is() {
    let tree = Tree::with_devices()
        .pci("0000:5e:00.0", "10de", "26b9", "030200", None)
        .pci("0000:86:00.0", "10de", "26b9", "030200", Some("nvidia"))
        .with(
            "/sys/devices/pci0000:00/0000:86:00.0/sriov_totalvfs",
            "32\n",
        )
        .with("/sys/devices/pci0000:00/0000:86:00.0/sriov_numvfs", "0\n");
    let refusals: Vec<String> = ["3c:00.4", "mty\n", "0000:04:00.0", "5e:00.0", "86:00.0"]
        .iter()
        .map(|address| tree.refused(&["devices", "--kind", "mdev", address]))
        .chain([
            tree.refused(&["devices", "--kind", "pci", "04:00.1"]),
            tree.refused(&["devices", "--kind", "pci", "mtty"]),
            Tree::new().refused(&["devices", "--kind", "mdev", "mtty"]),
        ])
        .collect();
    insta::assert_snapshot!(refusals.join("\n"), @r"
    there is no mdev parent '3c:00.4': there are 0000:3b:00.4, 0000:3b:00.5 and mtty; 'virt-vgpu devices --kind mdev' lists all
    there is no mdev parent 'mty\n': there are mtty, 0000:3b:00.4 and 0000:3b:00.5; 'virt-vgpu devices --kind mdev' lists all
    0000:04:00.0 is not an mdev parent: its driver 'igb' offers no mdev types; 'virt-vgpu devices --kind mdev' lists those that are
    0000:5e:00.0 is not an mdev parent: no driver is bound to it; 'virt-vgpu devices --kind mdev' lists those that are
    0000:86:00.0 is not an mdev parent: its virtual functions are not enabled; enable them (for NVIDIA: /usr/lib/nvidia/sriov-manage -e 0000:86:00.0)
    there is no PCI function '04:00.1': the nearest are 0000:04:00.0, 0000:3b:00.0, 0000:3b:00.4 and 0000:3b:00.5; 'virt-vgpu devices' lists all
    there is no PCI function 'mtty': the nearest are 0000:04:00.0, 0000:3b:00.0, 0000:3b:00.4 and 0000:3b:00.5; 'virt-vgpu devices' lists all
    there is no mdev parent 'mtty': this host has none; load the driver that makes mediated devices
    ");
}

#[test]
fn all_pci_functions_are_shown_with_names() {
    insta::assert_snapshot!(busy().shown(&["devices", "--kind", "pci"]), @r"
    ADDRESS       CLASS    ID         DRIVER  GROUP  NODE  RESET  LINK  POOLS  USER  NAME
    0000:04:00.0  network  8086:1533  igb     -      0     -      -     -      -     Intel Corporation I210 Gigabit Network Connection
    0000:3b:00.0  gpu      10de:26b9  nvidia  -      0     -      -     -      -     NVIDIA Corporation AD102GL [L40S]
    0000:3b:00.4  gpu      10de:26b9  nvidia  -      0     -      -     -      host  NVIDIA Corporation AD102GL [L40S]
    0000:3b:00.5  gpu      10de:26b9  nvidia  -      0     -      -     -      -     NVIDIA Corporation AD102GL [L40S]

    0000:04:00.0, 0000:3b:00.0, 0000:3b:00.5: this host has no IOMMU groups; enable the IOMMU in the firmware and in the kernel, then 'dmesg | grep -i iommu' shows it
    0000:3b:00.4: the host needs it: 0000:3b:00.4 → 614bc606-2078-5444-8c9c-4f8e98ae4dcc → mediated device

    3 devices make mediated devices: 'virt-vgpu devices --kind mdev'
    ");
}

#[test]
fn ids_that_cannot_be_read_are_unknown() {
    let at = |name: &str| format!("/sys/devices/pci0000:00/0000:04:00.0/{name}");
    let tree = Tree::with_devices().with(&at("vendor"), "\n");
    let row = |tree: &Tree| {
        tree.shown(&["devices", "04:00.0"])
            .lines()
            .nth(1)
            .unwrap()
            .to_owned()
    };
    insta::assert_snapshot!(row(&tree), @"0000:04:00.0  network  -:1533  igb     -      0     -      -     -      host  -");
    let tree = tree.with(&at("device"), "\n");
    insta::assert_snapshot!(row(&tree), @"0000:04:00.0  network  -   igb     -      0     -      -     -      host  -");
}

/// What the device could do is shown where it does less; a link that is down is none.
#[test]
fn links_are_shown_while_they_are_up() {
    let link = |tree: Tree, function: &str, values: [&str; 4]| {
        let names = ["current_link_speed", "current_link_width"];
        let names = names.iter().chain(&["max_link_speed", "max_link_width"]);
        names.zip(values).fold(tree, |tree, (name, value)| {
            let path = format!("/sys/devices/pci0000:00/{function}/{name}");
            tree.with(&path, &format!("{value}\n"))
        })
    };
    let gen4 = ["16.0 GT/s PCIe", "16", "16.0 GT/s PCIe", "16"];
    let slow = ["2.5 GT/s PCIe", "8", "16.0 GT/s PCIe", "16"];
    let down = ["Unknown", "0", "16.0 GT/s PCIe", "16"];
    let tree = link(Tree::with_devices(), "0000:04:00.0", gen4);
    let tree = link(tree, "0000:3b:00.0", slow);
    let tree = link(tree, "0000:3b:00.4", down);
    insta::assert_snapshot!(tree.shown(&["devices"]), @r"
    ADDRESS       CLASS    ID         DRIVER  GROUP  NODE  RESET  LINK                          POOLS  USER  NAME
    0000:04:00.0  network  8086:1533  igb     -      0     -      16 GT/s x16                   -      -     Intel Corporation I210 Gigabit Network Connection
    0000:3b:00.0  gpu      10de:26b9  nvidia  -      0     -      2.5 GT/s x8 (of 16 GT/s x16)  -      -     NVIDIA Corporation AD102GL [L40S]
    0000:3b:00.4  gpu      10de:26b9  nvidia  -      0     -      -                             -      -     NVIDIA Corporation AD102GL [L40S]
    0000:3b:00.5  gpu      10de:26b9  nvidia  -      0     -      -                             -      -     NVIDIA Corporation AD102GL [L40S]

    0000:04:00.0, 0000:3b:00.0, 0000:3b:00.4, 0000:3b:00.5: this host has no IOMMU groups; enable the IOMMU in the firmware and in the kernel, then 'dmesg | grep -i iommu' shows it

    3 devices make mediated devices: 'virt-vgpu devices --kind mdev'
    ");
}

/// The list without `--free` gives the reasons, unless one holds for all.
#[test]
fn a_list_of_which_nothing_is_free_says_so() {
    let tree = Tree::with_devices();
    assert_eq!(
        tree.shown(&["devices", "--free"]),
        "none is free: this host has no IOMMU groups; enable the IOMMU in the firmware and in the \
         kernel, then 'dmesg | grep -i iommu' shows it\n"
    );
    let group = |tree: Tree, function: &str, number: &str| {
        let device = format!("/sys/devices/pci0000:00/{function}");
        let groups = "/sys/kernel/iommu_groups";
        tree.with_link(&format!("{groups}/{number}/devices/{function}"), &device)
            .with_link(
                &format!("{device}/iommu_group"),
                &format!("{groups}/{number}"),
            )
    };
    let tree = group(tree, "0000:04:00.0", "1");
    assert_eq!(
        tree.shown(&["devices", "--free", "0000:3b:00.0"]),
        "it is not free; the list without --free says why\n"
    );
    assert_eq!(
        tree.shown(&["devices", "--free"]),
        "none of the 4 is free; the list without --free says why\n"
    );
    insta::assert_snapshot!(tree.shown(&["devices"]), @r"
    ADDRESS       CLASS    ID         DRIVER  GROUP  NODE  RESET  LINK  POOLS  USER  NAME
    0000:04:00.0  network  8086:1533  igb     1      0     -      -     -      host  Intel Corporation I210 Gigabit Network Connection
    0000:3b:00.0  gpu      10de:26b9  nvidia  -      0     -      -     -      -     NVIDIA Corporation AD102GL [L40S]
    0000:3b:00.4  gpu      10de:26b9  nvidia  -      0     -      -     -      -     NVIDIA Corporation AD102GL [L40S]
    0000:3b:00.5  gpu      10de:26b9  nvidia  -      0     -      -     -      -     NVIDIA Corporation AD102GL [L40S]

    0000:04:00.0: it is not known whether the host needs it: /sys/bus/pci/devices/0000:04:00.0/iommu_group/devices: No such file or directory (os error 2)
    0000:3b:00.0, 0000:3b:00.4, 0000:3b:00.5: it has no IOMMU group, so VFIO cannot isolate it

    3 devices make mediated devices: 'virt-vgpu devices --kind mdev'
    ");
}

/// A claim or a pool that cannot be read may have what seems to be free.
#[test]
fn what_cannot_be_read_is_told_of_below_the_list() {
    let tree = Tree::with_devices()
        .pool("cad", "kind = 'pci'\nodd = 1\n")
        .with(
            "/run/virt-vgpu/claims/11111111-2222-4333-8444-555555555555.json",
            "{",
        );
    insta::assert_snapshot!(tree.shown(&["devices", "04:00.0"]), @r"
    ADDRESS       CLASS    ID         DRIVER  GROUP  NODE  RESET  LINK  POOLS  USER  NAME
    0000:04:00.0  network  8086:1533  igb     -      0     -      -     -      -     Intel Corporation I210 Gigabit Network Connection

    0000:04:00.0: this host has no IOMMU groups; enable the IOMMU in the firmware and in the kernel, then 'dmesg | grep -i iommu' shows it

    problem: claim /run/virt-vgpu/claims/11111111-2222-4333-8444-555555555555.json: EOF while parsing an object at line 1 column 1; when that domain no longer runs, remove the file

    problem: the pools are not all shown: /etc/virt-vgpu/pools.d/cad.toml:2: key 'odd': unknown key; accepted: kind, description, class, instances, placement, guest-driver, pci, defaults, rule
    ");
    let without_list = tree.shown(&["devices", "04:00.0", "--free"]);
    assert_eq!(
        without_list.matches("\nproblem: ").count(),
        2,
        "{without_list}"
    );
    insta::assert_snapshot!(tree.shown(&["devices", "04:00.0", "--json"]), @r#"
    {
      "devices": [
        {
          "address": "0000:04:00.0",
          "class": "network",
          "class_name": null,
          "vendor_id": "8086",
          "device_id": "1533",
          "vendor": "Intel Corporation",
          "device": "I210 Gigabit Network Connection",
          "driver": "igb",
          "physical_function": null,
          "iommu_group": null,
          "shares_group_with": [],
          "numa_node": 0,
          "reset_methods": [],
          "link": null,
          "pools": [],
          "free": false,
          "user": null,
          "quarantined": null,
          "unavailable": "this host has no IOMMU groups; enable the IOMMU in the firmware and in the kernel, then 'dmesg | grep -i iommu' shows it",
          "is_bridge": false,
          "critical": [],
          "companions": []
        }
      ],
      "problems": [
        "claim /run/virt-vgpu/claims/11111111-2222-4333-8444-555555555555.json: EOF while parsing an object at line 1 column 1; when that domain no longer runs, remove the file",
        "the pools are not all shown: /etc/virt-vgpu/pools.d/cad.toml:2: key 'odd': unknown key; accepted: kind, description, class, instances, placement, guest-driver, pci, defaults, rule"
      ]
    }
    "#);
}

/// Without another wish, and with names of devices that are no PCI functions.
#[test]
fn one_list_is_for_all() {
    let tree = busy();
    let shown = |arguments: &[&str]| tree.shown(&[&["devices"], arguments].concat());
    assert_eq!(shown(&[]), shown(&["--kind", "pci"]));
    assert_eq!(shown(&["--free"]), shown(&["--kind", "pci", "--free"]));
    assert_eq!(shown(&["--json"]), shown(&["--kind", "pci", "--json"]));
    assert_eq!(shown(&["3b:00.4"]), shown(&["--kind", "pci", "3b:00.4"]));
    assert_eq!(shown(&["mtty"]), shown(&["--kind", "mdev", "mtty"]));
    assert_eq!(
        shown(&["mtty", "3b:00.4"]),
        shown(&["--kind", "mdev", "mtty", "3b:00.4"])
    );
    assert_eq!(
        tree.refused(&["devices", "3b:00"]),
        tree.refused(&["devices", "--kind", "pci", "3b:00"])
    );
    assert_eq!(
        tree.refused(&["devices", "--kind", "mdev", "--free"]),
        "--free is about whole PCI devices; 'virt-vgpu status' says what pools of other kinds have \
         free"
    );
}

#[test]
fn each_field_that_a_rule_can_test_is_shown() {
    let tree = busy();
    insta::assert_snapshot!(tree.shown(&["devices", "--kind", "mdev", "--fields", "3b:00.4"]), @r#"
    0000:3b:00.4 (virtual function of 0000:3b:00.0)
      FIELD              VALUE
      host               node1
      address            0000:3b:00.4
      slot-label         -
      class              gpu
      class-id           030200
      vendor             NVIDIA Corporation
      vendor-id          10de
      device             AD102GL [L40S]
      device-id          26b9
      subsystem-id       -
      driver             nvidia
      numa-node          0
      iommu-group        -
      virtual-function   yes
      physical-function  0000:3b:00.0
    "#);
    insta::assert_snapshot!(tree.shown(&["devices", "--fields", "--kind", "pci", "04:00.0"]), @r#"
    0000:04:00.0
      FIELD              VALUE
      host               node1
      address            0000:04:00.0
      slot-label         -
      class              network
      class-id           020000
      vendor             Intel Corporation
      vendor-id          8086
      device             I210 Gigabit Network Connection
      device-id          1533
      subsystem-id       -
      driver             igb
      serial             -
      numa-node          0
      iommu-group        -
      virtual-function   no
      physical-function  -
    "#);
}

#[test]
fn a_pool_chooses_what_its_rules_take() {
    let tree = busy().pool(
        "cad",
        "kind = 'mdev'\ntype = 'nvidia-558'\n[[rule]]\nwhere = [{ field = 'address', op = \
         'ends-with', value = '.5' }]\n",
    );
    let shown = tree.shown(&["devices", "--pool", "cad"]);
    assert!(shown.starts_with("0000:3b:00.5 "), "{shown}");
    assert_eq!(shown.matches("0000:3b").count(), 2, "{shown}");
    insta::assert_snapshot!(tree.refused(&["devices", "--pool", "cda"]), @r#"
    there is no pool 'cda' (did you mean 'cad'?); 'virt-vgpu pool list' shows all pools
    "#);
    insta::assert_snapshot!(tree.refused(&["devices", "--pool", "cad", "--kind", "pci"]), @r#"
    pool 'cad' has no devices of kind 'pci': it is of kind 'mdev'; leave out --kind
    "#);
}

#[test]
fn a_pool_that_takes_nothing_says_so() {
    let tree = busy().pool("cad", "kind = 'mdev'\ntype = 'nvidia-558'\n");
    assert_eq!(
        tree.shown(&["devices", "--pool", "cad"]),
        "pool 'cad' takes none; 'virt-vgpu pool preview cad' says why\n"
    );
}

#[test]
fn json_has_the_same() {
    let tree = busy();
    insta::assert_snapshot!(tree.shown(&["devices", "--kind", "mdev", "--json", "3b:00.4"]), @r#"
    {
      "devices": [
        {
          "address": "0000:3b:00.4",
          "physical_function": "0000:3b:00.0",
          "types": [
            {
              "id": "nvidia-558",
              "name": "NVIDIA L40S-12Q",
              "description": "num_heads=4,\nframe_rate=60",
              "available": 2,
              "device_api": "vfio-pci"
            },
            {
              "id": "nvidia-559",
              "name": "NVIDIA L40S-24Q",
              "description": "num_heads=4,\nframe_rate=60",
              "available": 1,
              "device_api": "vfio-pci"
            }
          ],
          "mdevs": [
            {
              "uuid": "614bc606-2078-5444-8c9c-4f8e98ae4dcc",
              "type": "nvidia-558",
              "claim": {
                "domain": "ws7",
                "device": "gpu0",
                "pool": "cad"
              }
            }
          ]
        }
      ],
      "problems": []
    }
    "#);
    insta::assert_snapshot!(tree.shown(&["devices", "--json", "--kind", "pci", "04:00.0"]), @r#"
    {
      "devices": [
        {
          "address": "0000:04:00.0",
          "class": "network",
          "class_name": null,
          "vendor_id": "8086",
          "device_id": "1533",
          "vendor": "Intel Corporation",
          "device": "I210 Gigabit Network Connection",
          "driver": "igb",
          "physical_function": null,
          "iommu_group": null,
          "shares_group_with": [],
          "numa_node": 0,
          "reset_methods": [],
          "link": null,
          "pools": [],
          "free": false,
          "user": null,
          "quarantined": null,
          "unavailable": "this host has no IOMMU groups; enable the IOMMU in the firmware and in the kernel, then 'dmesg | grep -i iommu' shows it",
          "is_bridge": false,
          "critical": [],
          "companions": []
        }
      ]
    }
    "#);
    insta::assert_snapshot!(tree.shown(&["devices", "--kind", "mdev", "--json", "--fields", "mtty"]), @r#"
    {
      "devices": [
        {
          "address": "mtty",
          "physical_function": null,
          "types": [
            {
              "id": "mtty-1",
              "name": "Single port serial",
              "description": "num_heads=4,\nframe_rate=60",
              "available": 24,
              "device_api": "vfio-pci"
            }
          ],
          "mdevs": [
            {
              "uuid": "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee",
              "type": "mtty-1",
              "claim": null
            }
          ],
          "fields": {
            "host": "node1",
            "address": "mtty",
            "slot-label": null,
            "class": "unknown",
            "class-id": null,
            "vendor": null,
            "vendor-id": null,
            "device": null,
            "device-id": null,
            "subsystem-id": null,
            "driver": null,
            "numa-node": null,
            "iommu-group": null,
            "virtual-function": "no",
            "physical-function": null
          }
        }
      ],
      "problems": []
    }
    "#);
}

#[test]
fn what_cannot_be_read_is_a_problem_and_no_end() {
    let tree = Tree::with_devices()
        .with(
            "/sys/devices/pci0000:00/mtty/mdev_supported_types/mtty-1/available_instances",
            "many\n",
        )
        .with(
            "/run/virt-vgpu/claims/11111111-2222-4333-8444-555555555555.json",
            "{",
        );
    insta::assert_snapshot!(tree.shown(&["devices", "--kind", "mdev", "mtty"]), @r#"
    mtty
      cannot read its types: /sys/class/mdev_bus/mtty/mdev_supported_types/mtty-1/available_instances: 'many' is not a number

    problem: claim /run/virt-vgpu/claims/11111111-2222-4333-8444-555555555555.json: EOF while parsing an object at line 1 column 1; when that domain no longer runs, remove the file
    "#);
}

#[test]
fn a_host_without_devices_says_so() {
    let tree = Tree::new();
    assert_eq!(
        tree.shown(&["devices", "--kind", "mdev"]),
        "no mdev parents; 'virt-vgpu devices' lists PCI functions\n"
    );
    assert_eq!(
        tree.shown(&["devices", "--kind", "pci"]),
        "no PCI devices\n"
    );
}

#[test]
fn what_cannot_be_read_is_named_with_its_path() {
    let types = "/sys/devices/pci0000:00/mtty/mdev_supported_types";
    let shown_types = "/sys/class/mdev_bus/mtty/mdev_supported_types";
    let tree = Tree::with_devices();
    std::fs::write(tree.path(&format!("{types}/mtty-1/name")), b"a\xffb\n").unwrap();
    assert_eq!(
        tree.shown(&["devices", "--kind", "mdev", "mtty"]),
        format!(
            "mtty\n  cannot read its types: {shown_types}/mtty-1/name: invalid utf-8 sequence of 1 \
             bytes from index 1\n"
        )
    );
    std::fs::remove_dir_all(tree.path(types)).unwrap();
    tree.write(types, "a file\n");
    assert_eq!(
        tree.shown(&["devices", "--kind", "mdev", "mtty"]),
        format!("mtty\n  cannot read its types: {shown_types}: Not a directory (os error 20)\n")
    );
    for (directory, wanted) in [
        ("/sys/bus/mdev/devices", "cannot list mdevs: "),
        ("/sys/class/mdev_bus", "cannot look for mdev parents: "),
    ] {
        let tree = Tree::new().with(directory, "a file\n");
        assert_eq!(
            tree.refused(&["devices", "--kind", "mdev"]),
            format!("{wanted}{directory}: Not a directory (os error 20)")
        );
    }
}
