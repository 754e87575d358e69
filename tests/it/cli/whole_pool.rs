//! A pool of whole PCI functions, from its creation to the reason why a domain gets none of
//! them, as the commands show it.

use crate::support::{
    domain::Domain,
    kernel::Bound,
    machine::{Machine, Plain},
    process::Program,
    refused::on_host,
    scene::Scene,
};

const NIC: &str = "0000:04:00.0";
const FRONT: &str = "0000:05:00.0";
const BESIDE: &str = "0000:05:00.1";

/// A card alone, two that share a group with a bridge, one with virtual functions.
fn machine() -> Machine {
    Machine::of_pci([
        Plain::bridge("0000:00:01.0", 5),
        Plain {
            card_number: Some(0x001b_21ff_ffa2_0410),
            ..Plain::nic(NIC, 4)
        },
        Plain::nic(FRONT, 5),
        Plain {
            reset_method: None,
            ..Plain::nic(BESIDE, 5)
        },
        Plain {
            numvfs: Some(2),
            ..Plain::drive("0000:06:00.0", 6)
        },
    ])
}

fn scene() -> Scene {
    let scene = Scene::new(machine());
    scene.file("etc/hostname", "node1\n");
    scene
}

/// What the command prints, on both of its outputs.
fn said(scene: &Scene, arguments: &str) -> String {
    let outcome = Program::command(scene.root(), arguments).run();
    let text = format!("{}{}", outcome.stdout, outcome.stderr);
    on_host(scene, &text)
}

fn with_pool() -> Scene {
    let scene = scene();
    scene.pci_pool("cards");
    scene
}

#[test]
fn a_pool_is_created_from_addresses() {
    let scene = scene();
    insta::assert_snapshot!(said(&scene, "pool create cards --kind pci --device 0000:04:00.0 --device 0000:05:00.1"), @r"
    wrote /etc/virt-vgpu/pools.d/cards.toml
    note: 0000:05:00.1 goes with 0000:05:00.0, the first function of its card; the rule takes that; 0000:05:00.0 shares IOMMU group 5 with 0000:05:00.1: while a VM has one of them, the host has none

    DEVICE        TAKEN BY                    AVAILABLE  ALSO IN POOL
    0000:04:00.0  rule 'device 0000:04:00.0'  1          -
    0000:05:00.0  rule 'device 0000:05:00.0'  1          -
    ");
    let text = std::fs::read_to_string(scene.path("etc/virt-vgpu/pools.d/cards.toml")).unwrap();
    insta::assert_snapshot!(text, @r#"
    # Written by 'virt-vgpu pool create'; made to be edited.

    kind         = "pci"                    # whole PCI devices
    instances    = 0                        # most devices at once; 0 = as many as fit
    placement    = "pack"                   # pack | spread

    # A device is in the pool when any rule matches; a rule matches when all
    # its filters hold. 'virt-vgpu pool preview' shows the outcome.

    [[rule]]
    name  = "device 0000:04:00.0"
    where = [
      { field = "address", op = "equal", value = "0000:04:00.0" },
    ]

    [[rule]]
    name  = "device 0000:05:00.0"
    where = [
      { field = "address", op = "equal", value = "0000:05:00.0" },
    ]
    "#);
    insta::assert_snapshot!(said(&scene, "pool check"), @"1 pool checked: 0 errors, 0 warnings");
}

#[test]
fn what_cannot_be_in_a_pool_is_refused() {
    let scene = scene();
    let mut all = String::new();
    for device in [
        "0000:00:01.0",
        "0000:04:00.1",
        "04:00.0",
        "eth0",
        "0000:06:00.0",
    ] {
        let refused = said(
            &scene,
            &format!("pool create cards --kind pci --device {device} --dry-run"),
        );
        all.push_str(&refused);
    }
    insta::assert_snapshot!(all, @r#"
    virt-vgpu: pool 'cards' was not created: 0000:00:01.0 is a bridge, which cannot be passed to a VM
    virt-vgpu: pool 'cards' was not created: there is no PCI device '0000:04:00.1': the nearest are 0000:04:00.0, 0000:05:00.1, 0000:05:00.0 and 0000:06:00.0; 'virt-vgpu devices' lists all
    # Written by 'virt-vgpu pool create'; made to be edited.

    kind         = "pci"                    # whole PCI devices
    instances    = 0                        # most devices at once; 0 = as many as fit
    placement    = "pack"                   # pack | spread

    # A device is in the pool when any rule matches; a rule matches when all
    # its filters hold. 'virt-vgpu pool preview' shows the outcome.

    [[rule]]
    name  = "device 0000:04:00.0"
    where = [
      { field = "address", op = "equal", value = "0000:04:00.0" },
    ]
    virt-vgpu: pool 'cards' was not created: there is no PCI device 'eth0': the nearest are 0000:00:01.0, 0000:04:00.0, 0000:05:00.0 and 0000:05:00.1; 'virt-vgpu devices' lists all
    # Written by 'virt-vgpu pool create'; made to be edited.

    kind         = "pci"                    # whole PCI devices
    instances    = 0                        # most devices at once; 0 = as many as fit
    placement    = "pack"                   # pack | spread

    # A device is in the pool when any rule matches; a rule matches when all
    # its filters hold. 'virt-vgpu pool preview' shows the outcome.

    [[rule]]
    name  = "device 0000:06:00.0"
    where = [
      { field = "address", op = "equal", value = "0000:06:00.0" },
    ]
    virt-vgpu: note: 0000:06:00.0 cannot be handed out now: it has 2 virtual functions, which would vanish; 'echo 0 > /sys/bus/pci/devices/0000:06:00.0/sriov_numvfs' removes them when nobody uses them
    "#);
}

#[test]
fn the_pool_is_shown_with_what_cannot_be_had() {
    let scene = with_pool();
    insta::assert_snapshot!(said(&scene, "pool preview cards"), @r"
    pool 'cards' (type 'PCI device'), /etc/virt-vgpu/pools.d/cards.toml

    in the pool (5 of 5):
      DEVICE        TAKEN BY  AVAILABLE                                                                                                                                     ALSO IN POOL
      0000:00:01.0  rule 1    it is a bridge, which cannot be passed to a VM                                                                                                -
      0000:04:00.0  rule 1    1                                                                                                                                             -
      0000:05:00.0  rule 1    1                                                                                                                                             -
      0000:05:00.1  rule 1    it goes with 0000:05:00.0, the first function of its card (multifunction)                                                                     -
      0000:06:00.0  rule 1    it has 2 virtual functions, which would vanish; 'echo 0 > /sys/bus/pci/devices/0000:06:00.0/sriov_numvfs' removes them when nobody uses them  -
    ");
    let (one, two) = (
        Domain::new(1).function("dev0", "cards", FRONT),
        Domain::new(2).function("dev0", "cards", FRONT),
    );
    scene.prepare(&one).ends_well();
    insta::assert_snapshot!(said(&scene, "pool show cards"), @r"
    pool 'cards'
      file              /etc/virt-vgpu/pools.d/cards.toml
      kind              pci
      description       none
      class             none
      type              PCI device
      instances         as many as fit
      placement         pack
      guest-driver      none

    settings of kind 'pci':
      keep-bound        no
      multifunction     yes
      placeholder       address
      rom               as libvirt has it
      rom-file          as libvirt has it

    for requests that do not say otherwise:
      optional          no

    rules (a device is in the pool when any of them takes it):
      rule 1 takes devices whose
        vendor-id is '8086'

    devices (1 in use, 1 free):
      DEVICE        TAKEN BY  AVAILABLE                                                                                                                                     ALSO IN POOL
      0000:00:01.0  rule 1    it is a bridge, which cannot be passed to a VM                                                                                                -
      0000:04:00.0  rule 1    1                                                                                                                                             -
      0000:05:00.0  rule 1    domain 'vm1' has it                                                                                                                           -
      0000:05:00.1  rule 1    it goes with 0000:05:00.0, the first function of its card (multifunction)                                                                     -
      0000:06:00.0  rule 1    it has 2 virtual functions, which would vanish; 'echo 0 > /sys/bus/pci/devices/0000:06:00.0/sriov_numvfs' removes them when nobody uses them  -
    ");
    insta::assert_snapshot!(said(&scene, "pool list"), @r"
    POOL   TYPE        PLACEMENT  LIMIT  RULES  DEVICES  FILE
    cards  PCI device  pack       -      1      5        /etc/virt-vgpu/pools.d/cards.toml
    ");
    scene.file("vm2.xml", two.xml());
    let path = scene.path("vm2.xml");
    let explained = said(&scene, &format!("explain --xml {}", path.display()));
    insta::assert_snapshot!(explained, @r"
    domain 'vm2' would be refused
      virt-vgpu: pool 'cards' has no free PCI device for domain 'vm2': its XML names 0000:05:00.0: domain 'vm1' has it; 'virt-vgpu start vm2' looks for another

    dev0 from pool cards
      uuid    e2416e4a-5cc6-5b44-a24e-a656f504d9a5

    pool cards: PCI device, pack, 1 in use, 1 free
      PARENT        BOARD         NODE  IN USE  ROOM
      0000:00:01.0  0000:00:01.0  -     0       it is a bridge, which cannot be passed to a VM
      0000:04:00.0  0000:04:00.0  -     0       1 of 8086:1533 left
      0000:05:00.0  0000:05:00.0  -     0       domain 'vm1' has it
      0000:05:00.1  0000:05:00.1  -     0       it goes with 0000:05:00.0, the first function of its card (multifunction)
      0000:06:00.0  0000:06:00.0  -     0       it has 2 virtual functions, which would vanish; 'echo 0 > /sys/bus/pci/devices/0000:06:00.0/sriov_numvfs' removes them when nobody uses them

    note: 'vm1' is not running but holds devices, which the hook frees before it refuses; run 'virt-vgpu reconcile' and ask again
    ");
    scene.stop(&one);
    let explained = said(&scene, &format!("explain --xml {}", path.display()));
    insta::assert_snapshot!(explained, @r"
    domain 'vm2' would be served

    dev0 from pool cards
      uuid    e2416e4a-5cc6-5b44-a24e-a656f504d9a5
      parent  0000:05:00.0
      type    8086:1533
      along   0000:05:00.1
      reset   flr, bus
      why     pack: 0 in use on 0000:05:00.0, 1 of 8086:1533 left

    pool cards: PCI device, pack, 0 in use, 2 free
      PARENT        BOARD         NODE  IN USE  ROOM
      0000:00:01.0  0000:00:01.0  -     0       it is a bridge, which cannot be passed to a VM
      0000:04:00.0  0000:04:00.0  -     0       1 of 8086:1533 left
      0000:05:00.0  0000:05:00.0  -     0       1 of 8086:1533 left
      0000:05:00.1  0000:05:00.1  -     0       it goes with 0000:05:00.0, the first function of its card (multifunction)
      0000:06:00.0  0000:06:00.0  -     0       it has 2 virtual functions, which would vanish; 'echo 0 > /sys/bus/pci/devices/0000:06:00.0/sriov_numvfs' removes them when nobody uses them
    ");
    let text = "[pci]\nmultifunction = false\n";
    scene.pci_pool_with("cards", text);
    let alone = Domain::new(2).function("dev0", "cards", BESIDE);
    scene.file("vm2.xml", alone.xml());
    let explained = said(&scene, &format!("explain --xml {}", path.display()));
    insta::assert_snapshot!(explained.split("\n\n").nth(1).unwrap(), @r"
    dev0 from pool cards
      uuid    e2416e4a-5cc6-5b44-a24e-a656f504d9a5
      parent  0000:05:00.1
      type    8086:1533
      along   0000:05:00.0
      reset   the kernel knows no way to reset it: it may not work for a second VM until the host reboots
      why     pack: 0 in use on 0000:05:00.1, 1 of 8086:1533 left
    ");
}

#[test]
fn a_host_without_iommu_says_so() {
    let alone = Plain {
        group: None,
        ..Plain::nic(NIC, 4)
    };
    let scene = Scene::new(Machine::of_pci([alone]));
    scene.pci_pool("cards");
    insta::assert_snapshot!(said(&scene, "pool preview cards"), @r"
    pool 'cards' (type 'PCI device'), /etc/virt-vgpu/pools.d/cards.toml

    in the pool (1 of 1):
      DEVICE        TAKEN BY  AVAILABLE                                                                                                                 ALSO IN POOL
      0000:04:00.0  rule 1    this host has no IOMMU groups; enable the IOMMU in the firmware and in the kernel, then 'dmesg | grep -i iommu' shows it  -
    ");
    insta::assert_snapshot!(said(&scene, "pool check"), @"1 pool checked: 0 errors, 0 warnings");
}

/// Also if the driver for VMs was never loaded.
#[test]
fn a_host_without_the_driver_for_vms_says_so() {
    let scene = with_pool();
    scene.kernel.unload("vfio-pci");
    insta::assert_snapshot!(said(&scene, "pool preview cards"), @r"
    pool 'cards' (type 'PCI device'), /etc/virt-vgpu/pools.d/cards.toml

    in the pool (5 of 5):
      DEVICE        TAKEN BY  AVAILABLE                                                                                                                                     ALSO IN POOL
      0000:00:01.0  rule 1    it is a bridge, which cannot be passed to a VM                                                                                                -
      0000:04:00.0  rule 1    the driver vfio-pci is not loaded; 'modprobe vfio-pci' loads it                                                                               -
      0000:05:00.0  rule 1    the driver vfio-pci is not loaded; 'modprobe vfio-pci' loads it                                                                               -
      0000:05:00.1  rule 1    it goes with 0000:05:00.0, the first function of its card (multifunction)                                                                     -
      0000:06:00.0  rule 1    it has 2 virtual functions, which would vanish; 'echo 0 > /sys/bus/pci/devices/0000:06:00.0/sriov_numvfs' removes them when nobody uses them  -
    ");
}

#[test]
fn keys_of_the_pool_file_are_checked() {
    let scene = scene();
    let mut all = String::new();
    for keys in [
        "[pci]\nkeep-bond = true\n",
        "[pci]\nkeep-bound = 'yes'\n",
        "pci = true\n",
        "profile = 'L40S-12Q'\n",
        "type = 'x'\n",
        "heterogeneous = true\n",
        "[defaults]\nframe-rate-limit = 0\n",
    ] {
        scene.pci_pool_with("cards", keys);
        all.push_str(&said(&scene, "pool check"));
    }
    insta::assert_snapshot!(all, @r"
    error: /etc/virt-vgpu/pools.d/cards.toml:3: key 'pci.keep-bond': unknown key (did you mean 'keep-bound'?); accepted: multifunction, keep-bound, rom, rom-file, placeholder
    1 pool checked: 1 error, 0 warnings
    error: /etc/virt-vgpu/pools.d/cards.toml:3: key 'pci.keep-bound': wants true or false, found the text 'yes'
    1 pool checked: 1 error, 0 warnings
    error: /etc/virt-vgpu/pools.d/cards.toml:2: key 'pci': wants a table, [pci], found true
    1 pool checked: 1 error, 0 warnings
    error: /etc/virt-vgpu/pools.d/cards.toml:2: key 'profile': not for kind 'pci'; accepted: kind, description, class, instances, placement, guest-driver, pci, defaults, rule
    1 pool checked: 1 error, 0 warnings
    error: /etc/virt-vgpu/pools.d/cards.toml:2: key 'type': not for kind 'pci'; accepted: kind, description, class, instances, placement, guest-driver, pci, defaults, rule
    1 pool checked: 1 error, 0 warnings
    error: /etc/virt-vgpu/pools.d/cards.toml:2: key 'heterogeneous': not for kind 'pci'; accepted: kind, description, class, instances, placement, guest-driver, pci, defaults, rule
    1 pool checked: 1 error, 0 warnings
    error: /etc/virt-vgpu/pools.d/cards.toml:3: key 'defaults.frame-rate-limit': not for kind 'pci'; accepted: optional
    1 pool checked: 1 error, 0 warnings
    ");
}

#[test]
fn devices_are_shown_as_they_are() {
    let scene = with_pool();
    insta::assert_snapshot!(said(&scene, "devices --kind pci"), @r"
    ADDRESS       CLASS    ID         DRIVER    GROUP  NODE  RESET    LINK  POOLS  USER    NAME
    0000:00:01.0  pci      8086:a340  pcieport  5*     -     flr bus  -     cards  bridge  -
    0000:04:00.0  network  8086:1533  igb       4      -     flr bus  -     cards  -       -
    0000:05:00.0  network  8086:1533  igb       5*     -     flr bus  -     cards  -       -
    0000:05:00.1  network  8086:1533  igb       5*     -     -        -     cards  -       -
    0000:06:00.0  storage  8086:0953  nvme      6      -     flr bus  -     cards  -       -

    IOMMU group 5: 0000:00:01.0, 0000:05:00.0, 0000:05:00.1
    0000:05:00.1: the kernel knows no way to reset it: it may not work for a second VM until the host reboots
    0000:06:00.0: it has 2 virtual functions, which would vanish; 'echo 0 > /sys/bus/pci/devices/0000:06:00.0/sriov_numvfs' removes them when nobody uses them
    ");
    insta::assert_snapshot!(said(&scene, "devices --fields --kind pci 0000:04:00.0"), @r"
    0000:04:00.0
      FIELD              VALUE
      host               node1
      address            0000:04:00.0
      slot-label         -
      class              network
      class-id           020000
      vendor             -
      vendor-id          8086
      device             -
      device-id          1533
      subsystem-id       0000:0000
      driver             igb
      serial             00-1b-21-ff-ff-a2-04-10
      numa-node          -
      iommu-group        4
      virtual-function   no
      physical-function  -
    ");
}

#[test]
fn no_command_that_shows_changes_a_driver() {
    let scene = with_pool();
    let before: Vec<(String, Bound)> = scene.kernel.bound().into_iter().collect();
    for words in [
        "status",
        "devices",
        "pool preview cards",
        "pool show cards",
        "pool check",
    ] {
        said(&scene, words);
    }
    let after: Vec<(String, Bound)> = scene.kernel.bound().into_iter().collect();
    assert_eq!(after, before);
    assert_eq!(scene.kernel.writes(), []);
}

/// What keeps a function from VMs is below the list, each reason once, and `--free` leaves it
/// out.
#[test]
fn what_no_vm_could_have_is_not_free() {
    let scene = with_pool();
    assert_eq!(
        said(&scene, "devices --free --pool cards 0000:04:00.0"),
        said(&scene, "devices --pool cards 0000:04:00.0")
    );
    let note = r#"{"function": "0000:05:00.1", "domain": null, "reason": "it broke", "made": null,
        "before": {"function": "0000:05:00.1", "driver": "igb", "driver_override": null}}"#;
    scene.file("run/virt-vgpu/quarantine/0000:05:00.1.json", note);
    insta::assert_snapshot!(said(&scene, "devices"), @r"
    ADDRESS       CLASS    ID         DRIVER    GROUP  NODE  RESET    LINK  POOLS  USER    NAME
    0000:00:01.0  pci      8086:a340  pcieport  5*     -     flr bus  -     cards  bridge  -
    0000:04:00.0  network  8086:1533  igb       4      -     flr bus  -     cards  -       -
    0000:05:00.0  network  8086:1533  igb       5*     -     flr bus  -     cards  -       -
    0000:05:00.1  network  8086:1533  igb       5*     -     -        -     cards  -       -
    0000:06:00.0  storage  8086:0953  nvme      6      -     flr bus  -     cards  -       -

    IOMMU group 5: 0000:00:01.0, 0000:05:00.0, 0000:05:00.1
    0000:05:00.1: the kernel knows no way to reset it: it may not work for a second VM until the host reboots
    0000:06:00.0: it has 2 virtual functions, which would vanish; 'echo 0 > /sys/bus/pci/devices/0000:06:00.0/sriov_numvfs' removes them when nobody uses them
    ");
    scene.kernel.unload("vfio-pci");
    insta::assert_snapshot!(said(&scene, "devices --free"), @r"
    none of the 5 is free; the list without --free says why
    ");
    insta::assert_snapshot!(said(&scene, "devices 0000:04:00.0 0000:05:00.0"), @r"
    ADDRESS       CLASS    ID         DRIVER  GROUP  NODE  RESET    LINK  POOLS  USER  NAME
    0000:04:00.0  network  8086:1533  igb     4      -     flr bus  -     cards  -     -
    0000:05:00.0  network  8086:1533  igb     5*     -     flr bus  -     cards  -     -

    IOMMU group 5: 0000:05:00.0, 0000:05:00.1
    0000:04:00.0, 0000:05:00.0: the driver vfio-pci is not loaded; 'modprobe vfio-pci' loads it
    ");
}

/// A pool is made of what the host needs, and gets it only by `allow-critical`.
#[test]
fn what_the_host_needs_is_told_of_when_a_pool_is_made_of_it() {
    let root = crate::support::machines::machine("desktop");
    let said = |arguments: &str| {
        let outcome = Program::command(root.path(), arguments).run();
        format!("{}{}", outcome.stdout, outcome.stderr)
    };
    insta::assert_snapshot!(said("pool create disks --kind pci --device 0000:00:17.0 --dry-run"), @r#"
    # Written by 'virt-vgpu pool create'; made to be edited.

    kind         = "pci"                    # whole PCI devices
    instances    = 0                        # most devices at once; 0 = as many as fit
    placement    = "pack"                   # pack | spread

    # A device is in the pool when any rule matches; a rule matches when all
    # its filters hold. 'virt-vgpu pool preview' shows the outcome.

    [[rule]]
    name  = "device 0000:00:17.0"
    where = [
      { field = "address", op = "equal", value = "0000:00:17.0" },
    ]
    virt-vgpu: note: 0000:00:17.0 is not handed out: the host needs it: 0000:00:17.0 → ata1 → sda → sda2 → /; 'allow-critical = true' in its rule overrides that; 0000:00:17.0: the kernel knows no way to reset it: it may not work for a second VM until the host reboots
    "#);
    insta::assert_snapshot!(said("devices --free 0000:00:17.0"), @r"
    it is not free; the list without --free says why
    ");
    let pools = root.path().join("etc/virt-vgpu/pools.d");
    std::fs::create_dir_all(&pools).unwrap();
    let pool = "kind = 'pci'\n[[rule]]\nallow-critical = true\n\
                where = [{ field = 'address', op = 'equal', value = '0000:00:17.0' }]\n";
    std::fs::write(pools.join("disks.toml"), pool).unwrap();
    insta::assert_snapshot!(said("devices --free --pool disks"), @r"
    ADDRESS       CLASS    ID         DRIVER  GROUP  NODE  RESET  LINK  POOLS  USER  NAME
    0000:00:17.0  storage  8086:a352  ahci    6      -     -      -     disks  host  -

    0000:00:17.0: the host needs it: 0000:00:17.0 → ata1 → sda → sda2 → /
    0000:00:17.0: the host needs it: 0000:00:17.0 → ata1 → sda → sda1 → /boot/efi
    0000:00:17.0: the host needs it: 0000:00:17.0 → ata1 → sda → sda3 → swap
    0000:00:17.0: pool 'disks' takes it all the same (allow-critical)
    0000:00:17.0: the kernel knows no way to reset it: it may not work for a second VM until the host reboots
    ");
}

/// A whole function is found by its alias; a device that is plugged in later has no
/// placeholder.
#[test]
fn a_request_without_placeholder_is_told_what_its_pool_needs() {
    let scene = with_pool();
    scene.pci_pool_with("later", "[pci]\nplaceholder = 'hotplug'");
    let refusal = |pool: &str| {
        let domain = Domain::new(1).request("pci0", &format!("pool='{pool}'"), false);
        on_host(&scene, scene.prepare(&domain).refusal())
    };
    insta::assert_snapshot!(["cards", "later", "none"].map(refusal).join("\n"), @r"
    domain 'vm1' asks for device 'pci0' in its metadata but has no <hostdev> with alias 'ua-vgpu-pci0'; virt-vgpud adds it a moment after the domain is defined, 'virt-vgpu sync vm1' by hand; then start it again
    domain 'vm1' asks for device 'pci0' in its metadata but its request has no optional='yes', which this pool needs; virt-vgpud adds it a moment after the domain is defined, 'virt-vgpu sync vm1' by hand; then start it again
    domain 'vm1' asks for a device of pool 'none': there is no pool 'none'; see 'virt-vgpu pool list'
    ");
}
