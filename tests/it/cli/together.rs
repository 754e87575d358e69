//! Devices that should be behind one PCIe bridge or on one NUMA node: which addresses the
//! commands write into a definition, against a real libvirt, and what `explain` says.

use std::sync::LazyLock;

use serde_json::json;
use virt_vgpu::{
    allocate::{Demand, devices_wanted},
    domain::{self, Hostdev, NAMESPACE},
    model::PciAddress,
    plan::Failed,
};

use crate::support::{
    domain::Domain,
    libvirtd::Libvirtd,
    machine::{Bridge, Machine, Node, Plain},
    process::Program,
    refused::on_host,
    scene::Scene,
};

static LIBVIRTD: LazyLock<Libvirtd> = LazyLock::new(Libvirtd::start);

const ALONE: &str = "0000:11:00.0";
/// Behind one switch.
const LEFT: &str = "0000:23:00.0";
const RIGHT: &str = "0000:24:00.0";
/// Behind root ports of their own.
const FAR: &str = "0000:a1:00.0";
const FARTHER: &str = "0000:a2:00.0";
/// Behind another switch.
const OTHER_LEFT: &str = "0000:c3:00.0";
const OTHER_RIGHT: &str = "0000:c4:00.0";

/// Network cards, and drives on the same ports.
fn machine() -> Machine {
    let others = [
        ("0000:a0:01.0", "0000:a1"),
        ("0000:a0:02.0", "0000:a2"),
        ("0000:c0:01.0", "0000:c1"),
        ("0000:c1:00.0", "0000:c2"),
        ("0000:c2:00.0", "0000:c3"),
        ("0000:c2:01.0", "0000:c4"),
    ];
    let cards = [
        (ALONE, 1),
        (LEFT, 0),
        (RIGHT, 0),
        (FAR, 1),
        (FARTHER, 1),
        (OTHER_LEFT, 0),
        (OTHER_RIGHT, 0),
    ];
    let numbered = (100..).zip(cards);
    let cards = numbered.map(|(group, (address, numa_node))| Plain {
        numa_node,
        ..Plain::nic(address, group)
    });
    let drive = Plain {
        numa_node: 0,
        ..Plain::drive("0000:24:01.0", 200)
    };
    let of_pci = Machine::of_pci(cards.chain([drive]));
    let node = |cpus: &str, distance: &str| Node {
        cpus: cpus.to_owned(),
        distance: distance.to_owned(),
    };
    Machine {
        nodes: vec![node("0-3", "10 21"), node("4-7", "21 10")],
        bridges: Bridge::of_a_port_and_a_switch()
            .into_iter()
            .chain(others.map(|(port, bus)| Bridge::new(port, bus)))
            .collect(),
        ..of_pci
    }
}

fn scene() -> Scene {
    let scene = Scene::new(machine());
    for (name, device) in [("cards", "1533"), ("drives", "0953")] {
        let text = format!(
            "kind = \"pci\"\n[[rule]]\n\
             where = [{{ field = \"device-id\", op = \"equal\", value = \"{device}\" }}]\n"
        );
        scene.file(&format!("etc/virt-vgpu/pools.d/{name}.toml"), text);
    }
    scene
}

/// Defines a stopped domain with those requests, as `name pool together`; of those with an
/// address behind that, the placeholder is there.
fn define(number: u8, requests: &[&str]) -> String {
    let name = format!("near{number}");
    let (mut metadata, mut devices) = (String::new(), String::new());
    for request in requests {
        let words: Vec<&str> = request.split(' ').collect();
        let [name, pool, together, rest @ ..] = words.as_slice() else {
            panic!("{request}");
        };
        let together = match *together {
            "-" => String::new(),
            together => format!(" together='{together}'"),
        };
        metadata.push_str(&format!(
            "<v:device name='{name}' pool='{pool}'{together}/>"
        ));
        for function in rest {
            let function: PciAddress = function.parse().unwrap();
            let hostdev = Hostdev::placeholder(function, &name.parse().unwrap());
            devices.push_str(&hostdev.to_xml());
        }
    }
    if !metadata.is_empty() {
        metadata = format!("<v:devices xmlns:v='{NAMESPACE}'>{metadata}</v:devices>");
    }
    LIBVIRTD.make(
        "define",
        &format!(
            "<domain type='qemu'><name>{name}</name>\
             <uuid>cccccccc-0000-4000-8000-0000000000{number:02}</uuid>\
             <metadata>{metadata}</metadata><memory unit='MiB'>32</memory><vcpu>1</vcpu>\
             <os><type arch='x86_64' machine='pc'>hvm</type></os>\
             <devices>{devices}</devices></domain>"
        ),
    );
    name
}

/// What the command prints, on both of its outputs. libvirt may have other domains, so
/// names of theirs are not in it.
fn said(scene: &Scene, arguments: &[&str]) -> String {
    let (_, out, err) = LIBVIRTD.virt_vgpu(scene.root(), arguments);
    on_host(scene, &format!("{out}{err}"))
}

fn undefine(domain: &str) {
    LIBVIRTD.virsh(&["undefine", domain]);
}

/// One test, because functions that another definition names come last.
#[test]
fn addresses_are_chosen_near_each_other() {
    let scene = scene();
    let attach = |domain: &str, more: &[&str]| {
        let words = [&["attach", domain, "--pool", "cards"], more].concat();
        said(&scene, &words)
    };

    // Without the preference, and with it.
    let domain = define(1, &[]);
    insta::assert_snapshot!(attach(&domain, &["--count", "2"]), @r"
    attached pci0 (0000:11:00.0) from pool cards to near1; takes effect at the next start
    attached pci1 (0000:23:00.0) from pool cards to near1; takes effect at the next start
    ");
    undefine(&domain);
    let domain = define(1, &[]);
    let pcie_root = ["--count", "2", "--together", "pcie-root"];
    insta::assert_snapshot!(attach(&domain, &pcie_root), @r"
    attached pci0 (0000:23:00.0) from pool cards to near1; takes effect at the next start
    attached pci1 (0000:24:00.0) from pool cards to near1; takes effect at the next start
    ");
    insta::assert_snapshot!(attach(&domain, &pcie_root), @"nothing to do: near1 has pci0, pci1 from pool cards");
    insta::assert_snapshot!(said(&scene, &["explain", &domain]), @r"
    domain 'near1' would be served

    pci0 from pool cards
      uuid    be1f9d7d-98ef-5a5f-b6a3-0e36cb512d5c
      parent  0000:23:00.0
      type    8086:1533
      reset   flr, bus
      why     pack: 0 in use on 0000:23:00.0, 1 of 8086:1533 left

    pci1 from pool cards
      uuid    e61f3d65-23fc-5f09-96b4-45903cf7f8f3
      parent  0000:24:00.0
      type    8086:1533
      reset   flr, bus
      why     pack: 0 in use on 0000:24:00.0, 1 of 8086:1533 left

    together: pcie-root wanted by pci0 and pci1, had: behind 0000:21:00.0

    pool cards: PCI device, pack, 0 in use, 7 free
      PARENT        BOARD         NODE  IN USE  ROOM
      0000:11:00.0  0000:11:00.0  1     0       1 of 8086:1533 left
      0000:23:00.0  0000:23:00.0  0     0       1 of 8086:1533 left
      0000:24:00.0  0000:24:00.0  0     0       1 of 8086:1533 left
      0000:a1:00.0  0000:a1:00.0  1     0       1 of 8086:1533 left
      0000:a2:00.0  0000:a2:00.0  1     0       1 of 8086:1533 left
      0000:c3:00.0  0000:c3:00.0  0     0       1 of 8086:1533 left
      0000:c4:00.0  0000:c4:00.0  0     0       1 of 8086:1533 left
    ");
    // The next one is near those that are there.
    insta::assert_snapshot!(attach(&domain, &["--name", "third", "--together", "numa"]), @"attached third (0000:11:00.0) from pool cards to near1; takes effect at the next start");
    insta::assert_snapshot!(attach(&domain, &["--name", "fourth", "--together", "numa"]), @"attached fourth (0000:a1:00.0) from pool cards to near1; takes effect at the next start");
    undefine(&domain);

    // A card and a drive, of which the host has only one: whoever is chosen first knows of
    // the other.
    let domain = define(2, &["nic0 cards pcie-root", "disk0 drives pcie-root"]);
    insta::assert_snapshot!(said(&scene, &["sync", &domain]), @r"
    near2: attached nic0 (0000:23:00.0) from pool cards
    near2: attached disk0 (0000:24:01.0) from pool drives
    ");
    undefine(&domain);
    let domain = define(2, &["disk0 drives numa", "nic0 cards numa"]);
    insta::assert_snapshot!(said(&scene, &["sync", &domain]), @r"
    near2: attached disk0 (0000:24:01.0) from pool drives
    near2: attached nic0 (0000:23:00.0) from pool cards
    ");
    undefine(&domain);

    // Both functions of the definition are taken: two others are chosen together.
    let other = Domain::new(1)
        .function("a", "cards", LEFT)
        .function("b", "cards", RIGHT);
    scene.starts(77, &other, &[LEFT, RIGHT]);
    let left = format!("a cards pcie-root {LEFT}");
    let right = format!("b cards pcie-root {RIGHT}");
    let domain = define(3, &[&left, &right]);
    insta::assert_snapshot!(said(&scene, &["start", &domain, "--dry-run"]), @r"
    nothing is changed yet; without --dry-run:
    a of near3: 0000:c3:00.0 instead of 0000:23:00.0: domain 'vm1' has it
    b of near3: 0000:c4:00.0 instead of 0000:24:00.0: domain 'vm1' has it
    near3 would be started
    ");
    insta::assert_snapshot!(said(&scene, &["sync", &domain]), @r"
    near3: a gets 0000:c3:00.0 instead of 0000:23:00.0: domain 'vm1' has it
    near3: b gets 0000:c4:00.0 instead of 0000:24:00.0: domain 'vm1' has it
    ");
    undefine(&domain);
    // Also where the XML of a saved state is changed.
    let moved = |together: &str| {
        let attributes = format!("pool='cards' {together}");
        let domain = Domain::new(2).request_on("a", &attributes, LEFT);
        let domain = domain.request_on("b", &attributes, RIGHT);
        let def = domain::parse(&domain.xml()).unwrap();
        let host = scene.host();
        let wanted = devices_wanted(&def).unwrap();
        let mut demand = Demand::load(&host, &def, wanted).unwrap();
        let plan = demand.replan(&host, &Failed::default()).unwrap();
        let parents = plan.assignments.iter().map(|one| one.parent.to_string());
        parents.collect::<Vec<_>>()
    };
    assert_eq!(moved(""), [ALONE, FAR]);
    assert_eq!(moved("together='pcie-root'"), [OTHER_LEFT, OTHER_RIGHT]);
    // One of them stays, and there is none near it.
    let alone = format!("a cards pcie-root {ALONE}");
    let domain = define(4, &[&alone, &right]);
    insta::assert_snapshot!(said(&scene, &["start", &domain, "--dry-run"]), @r"
    nothing is changed yet; without --dry-run:
    b of near4: 0000:a1:00.0 instead of 0000:24:00.0: domain 'vm1' has it
    near4 would be started
    ");
    undefine(&domain);
    // What could be had stays, though others would be nearer.
    let far = format!("b cards pcie-root {OTHER_LEFT}");
    let domain = define(5, &[&alone, &far]);
    insta::assert_snapshot!(said(&scene, &["sync", &domain]), @"nothing to do");
    insta::assert_snapshot!(said(&scene, &["start", &domain, "--dry-run"]), @r"
    nothing is changed yet; without --dry-run:
    near5 would be started
    ");
    undefine(&domain);
}

/// What `explain` says of the preference.
fn explained(scene: &Scene, domain: &Domain) -> String {
    scene.file("vm.xml", domain.xml());
    let path = scene.path("vm.xml");
    let said = Program::command(scene.root(), &format!("explain --xml {}", path.display())).run();
    assert_eq!(said.stderr, "");
    let first = said.stdout.lines().next().unwrap_or_default();
    let lines = said.stdout.lines();
    let lines = lines.filter(|line| line.starts_with("together: "));
    let lines: Vec<&str> = [first].into_iter().chain(lines).collect();
    lines.join("\n")
}

#[test]
fn what_was_had_is_explained() {
    let scene = scene();
    let two = |together: &str, one: &str, other: &str| {
        let attributes = format!("pool='cards' together='{together}'");
        Domain::new(2)
            .request_on("nic0", &attributes, one)
            .request_on("nic1", &attributes, other)
    };
    let mut all = String::new();
    for (together, one, other) in [
        ("pcie-root", LEFT, RIGHT),
        ("pcie-root", LEFT, OTHER_RIGHT),
        ("pcie-root", FAR, FARTHER),
        ("pcie-root", LEFT, FAR),
        ("numa", LEFT, RIGHT),
        ("numa", LEFT, FAR),
    ] {
        let domain = two(together, one, other);
        all.push_str(&format!("{}\n", explained(&scene, &domain)));
    }
    let single = Domain::new(2)
        .request_on("nic0", "pool='cards' together='numa'", LEFT)
        .function("nic1", "cards", RIGHT);
    all.push_str(&format!("{}\n", explained(&scene, &single)));
    let later = Domain::new(2)
        .request_on("nic0", "pool='cards' together='pcie-root'", LEFT)
        .request(
            "nic1",
            "pool='cards' together='pcie-root' optional='yes'",
            false,
        );
    all.push_str(&format!("{}\n", explained(&scene, &later)));
    insta::assert_snapshot!(all, @r"
    domain 'vm2' would be served
    together: pcie-root wanted by nic0 and nic1, had: behind 0000:21:00.0
    domain 'vm2' would be served
    together: pcie-root wanted by nic0 and nic1, had: NUMA node 0
    domain 'vm2' would be served
    together: pcie-root wanted by nic0 and nic1, had: NUMA node 1
    domain 'vm2' would be served
    together: pcie-root wanted by nic0 and nic1, had: neither (0000:23:00.0 is on node 0, 0000:a1:00.0 on node 1)
    domain 'vm2' would be served
    together: numa wanted by nic0 and nic1, had: NUMA node 0
    domain 'vm2' would be served
    together: numa wanted by nic0 and nic1, had: not one node (0000:23:00.0 is on node 0, 0000:a1:00.0 on node 1)
    domain 'vm2' would be served
    together: numa wanted by nic0 alone; there is no other device to be near
    domain 'vm2' would be served
    together: pcie-root wanted by nic0 and nic1; nic1 has no device yet
    ");

    // Also for a domain that runs.
    let domain = two("pcie-root", LEFT, RIGHT);
    scene.starts(78, &domain, &[LEFT, RIGHT]);
    insta::assert_snapshot!(explained(&scene, &domain), @r"
    domain 'vm2' has its devices
    together: pcie-root wanted by nic0 and nic1, had: behind 0000:21:00.0
    ");
    let path = scene.path("vm.xml");
    let words = format!("explain --xml {} --json", path.display());
    let said = Program::command(scene.root(), &words).run();
    let report: serde_json::Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(
        report["together"],
        json!([{
            "wanted": "pcie-root", "had": "pcie-root", "behind": "0000:21:00.0", "numa_node": 0,
            "devices": [
                { "name": "nic0", "parent": LEFT, "numa_node": 0 },
                { "name": "nic1", "parent": RIGHT, "numa_node": 0 },
            ],
        }])
    );
    scene.ends(78);
    scene.stop(&domain);
    // A domain that is refused has nothing.
    let other = Domain::new(1).function("a", "cards", LEFT);
    scene.prepare(&other).ends_well();
    insta::assert_snapshot!(explained(&scene, &domain), @"domain 'vm2' would be refused");
    scene.stop(&other);
    // Without the preference nothing is said.
    let plain = Domain::new(2)
        .function("nic0", "cards", LEFT)
        .function("nic1", "cards", RIGHT);
    insta::assert_snapshot!(explained(&scene, &plain), @"domain 'vm2' would be served");
}

#[test]
fn a_preference_that_does_not_exist_is_refused() {
    let scene = scene();
    let refused = said(
        &scene,
        &["attach", "x", "--pool", "cards", "--together", "pcie"],
    );
    insta::assert_snapshot!(refused, @r"
    error: invalid value 'pcie' for '--together <WHAT>'
      [possible values: pcie-root, numa]

      tip: a similar value exists: 'pcie-root'

    For more information, try '--help'.
    ");
}
