//! `explain --xml` on directories that replace a host: plain files, no libvirt, no
//! root.

use std::{
    fs,
    io::Write,
    os::unix::fs::symlink,
    process::{Command, Stdio},
};

use tempfile::TempDir;
use virt_vgpu::model::MdevUuid;

const UUID: &str = "aaaaaaaa-0000-4000-8000-000000000001";

/// A host with two boards on two NUMA nodes. The first has a foreign device on it, and
/// a third parent is of another type.
struct Tree(TempDir);

impl Tree {
    fn new() -> Self {
        let tree = Self(crate::support::root());
        for (parent, vendor, node, type_id, available) in [
            ("0000:3b:00.0", "0x10de", 0, "nvidia-558", 3),
            ("0000:5e:00.0", "0x10de", 1, "nvidia-558", 1),
            ("0000:86:00.0", "0x10de", 1, "nvidia-600", 4),
            ("0000:00:02.0", "0x8086", 0, "i915-GVTg_V5_4", 2),
        ] {
            let device = format!("sys/class/mdev_bus/{parent}");
            let mdev_type = format!("{device}/mdev_supported_types/{type_id}");
            tree.write(&format!("{device}/vendor"), vendor);
            tree.write(&format!("{device}/numa_node"), &node.to_string());
            tree.write(&format!("{mdev_type}/name"), "NVIDIA L40S-12Q");
            tree.write(
                &format!("{mdev_type}/available_instances"),
                &available.to_string(),
            );
        }
        for (node, distances) in [(0, "10 21"), (1, "21 10")] {
            let node_dir = format!("sys/devices/system/node/node{node}");
            tree.write(
                &format!("{node_dir}/cpulist"),
                &format!("{}-{}", node * 8, node * 8 + 7),
            );
            tree.write(&format!("{node_dir}/distance"), distances);
        }
        tree.mdev(
            "ffffffff-0000-4000-8000-000000000001",
            "0000:3b:00.0",
            "nvidia-558",
        );
        tree.pool("cad", "type = 'nvidia-558'\ninstances = 3");
        tree
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{text}\n")).unwrap();
    }

    fn pool(&self, name: &str, text: &str) {
        let rule = "[[rule]]\nwhere = [{ field = 'vendor-id', op = 'equal', value = '10de' }]";
        let text = format!("kind = 'mdev'\n{text}\n{rule}");
        self.write(&format!("etc/virt-vgpu/pools.d/{name}.toml"), &text);
    }

    fn mdev(&self, uuid: &str, parent: &str, type_id: &str) {
        let device = self.0.path().join(format!("sys/devices/{parent}/{uuid}"));
        fs::create_dir_all(&device).unwrap();
        symlink(format!("../types/{type_id}"), device.join("mdev_type")).unwrap();
        let bus = self.0.path().join("sys/bus/mdev/devices");
        fs::create_dir_all(&bus).unwrap();
        symlink(format!("../../../devices/{parent}/{uuid}"), bus.join(uuid)).unwrap();
    }

    fn claim(&self, domain: &str, name: &str, device: &str, parent: &str) {
        let uuid = MdevUuid::for_device(domain.parse().unwrap(), &device.parse().unwrap());
        let claim = serde_json::json!({
            "version": 1, "domain": domain, "domain_name": name, "state": "committed",
            "origin": "prepare", "launched": true, "boot_id": null, "since_boot_ms": 0,
            "daemon": null, "devices": [{"name": device, "pool": "cad", "kind": "mdev",
                "uuid": uuid, "parent": parent, "type": "nvidia-558"}],
        });
        self.write(
            &format!("run/virt-vgpu/claims/{domain}.json"),
            &claim.to_string(),
        );
        self.mdev(&uuid.to_string(), parent, "nvidia-558");
    }

    /// A process that looks like the domain's QEMU.
    fn runs(&self, domain: &str) {
        self.write("proc/77/cmdline", &format!("qemu\0-uuid\0{domain}\0"));
        self.write("proc/77/status", "Uid:\t0\t0\t0\t0\n");
        fs::create_dir_all(self.0.path().join("proc/77/fd")).unwrap();
    }

    fn files(&self) -> Vec<String> {
        let listed = Command::new("find").arg(self.0.path()).output().unwrap();
        let mut files: Vec<String> = String::from_utf8(listed.stdout)
            .unwrap()
            .lines()
            .map(ToOwned::to_owned)
            .collect();
        files.sort();
        files
    }

    fn feed(&self, program: &str, arguments: &[&str], input: &str) -> (i32, String, String) {
        let mut child = Command::new(program)
            .args(arguments)
            .env("VIRT_VGPU_ROOT", self.0.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(input.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let code = output.status.code().unwrap();
        (code, text(output.stdout), text(output.stderr))
    }

    /// Exit code and output; checks that the tree is unchanged.
    fn explain(&self, xml: &str) -> (i32, String) {
        let before = self.files();
        let program = env!("CARGO_BIN_EXE_virt-vgpu");
        let (code, out, error) = self.feed(program, &["explain", "--xml", "-"], xml);
        assert_eq!(error, "");
        assert_eq!(self.files(), before);
        (code, out)
    }

    /// The hook's message for the same domain.
    fn hook(&self, xml: &str) -> String {
        let program = env!("CARGO_BIN_EXE_virt-vgpu-hook");
        let (code, _, error) = self.feed(program, &["ws7", "prepare", "begin", "-"], xml);
        assert_eq!(code, 1);
        error.trim_end().to_owned()
    }
}

fn uuid(device: &str) -> String {
    MdevUuid::for_device(UUID.parse().unwrap(), &device.parse().unwrap()).to_string()
}

/// A domain that asks for devices, `NAME POOL` each. Those that begin with '-' have no
/// hostdev.
fn domain(devices: &[&str], more: &str) -> String {
    let (mut requests, mut hostdevs) = (String::new(), String::new());
    for device in devices {
        let (name, pool) = device.trim_start_matches('-').split_once(' ').unwrap();
        requests += &format!("<v:device name='{name}' pool='{pool}'/>");
        if !device.starts_with('-') {
            hostdevs += &format!(
                "<hostdev mode='subsystem' type='mdev'><source><address uuid='{}'/></source></hostdev>",
                uuid(name)
            );
        }
    }
    format!(
        "<domain><name>ws7</name><uuid>{UUID}</uuid>\
         <metadata><v:devices xmlns:v='urn:virt-vgpu:devices:1'>{requests}</v:devices></metadata>\
         {more}<devices>{hostdevs}</devices></domain>"
    )
}

const CANDIDATES: &str = "
pool cad: nvidia-558, pack, 0 in use of at most 3, 3 free
  PARENT        BOARD         NODE  IN USE  ROOM
  0000:3b:00.0  0000:3b:00.0  0     1       3 of nvidia-558 left
  0000:5e:00.0  0000:5e:00.0  1     0       1 of nvidia-558 left
  0000:86:00.0  0000:86:00.0  1     0       has no mdev type 'nvidia-558'
";

#[test]
fn a_domain_that_would_be_served() {
    let (code, out) = Tree::new().explain(&domain(&["gpu0 cad"], ""));
    let wanted = format!(
        "domain 'ws7' would be served

gpu0 from pool cad
  uuid    {}
  parent  0000:3b:00.0
  type    nvidia-558
  why     pack: 1 in use on 0000:3b:00.0, 3 of nvidia-558 left
{CANDIDATES}",
        uuid("gpu0")
    );
    assert_eq!((code, out), (0, wanted));
}

#[test]
fn nearness_is_explained() {
    let tree = Tree::new();
    tree.pool("cad", "type = 'NVIDIA L40S-12Q'\nplacement = 'spread'");
    let bound = "<numatune><memory mode='strict' nodeset='1'/></numatune>";
    let (code, out) = tree.explain(&domain(&["gpu0 cad", "gpu1 cad"], bound));
    let wanted = format!(
        "domain 'ws7' would be served

gpu0 from pool cad
  uuid    {}
  parent  0000:5e:00.0
  type    nvidia-558
  why     spread: 0 in use on 0000:5e:00.0, NUMA node 1 at distance 10, 1 of nvidia-558 left

gpu1 from pool cad
  uuid    {}
  parent  0000:86:00.0
  type    nvidia-600
  why     spread: 0 in use on 0000:86:00.0, NUMA node 1 at distance 10, 4 of nvidia-600 left

pool cad: NVIDIA L40S-12Q, spread, 0 in use, 8 free
  PARENT        BOARD         NODE  IN USE  ROOM
  0000:5e:00.0  0000:5e:00.0  1     0       1 of nvidia-558 left
  0000:86:00.0  0000:86:00.0  1     0       4 of nvidia-600 left
  0000:3b:00.0  0000:3b:00.0  0     1       3 of nvidia-558 left
",
        uuid("gpu0"),
        uuid("gpu1")
    );
    assert_eq!((code, out), (0, wanted));
}

/// Whole devices are not counted: QEMU sets their limit.
#[test]
fn a_vm_with_more_than_16_devices() {
    let tree = Tree::new();
    tree.pool("cad", "type = 'nvidia-558'");
    tree.write(
        "etc/virt-vgpu/pools.d/disks.toml",
        "kind = 'pci'\n[[rule]]\nwhere = [{ field = 'class', op = 'equal', value = 'storage' }]",
    );
    let asking = |pool: &str, count: usize| {
        let devices: Vec<String> = (0..count).map(|n| format!("dev{n} {pool}")).collect();
        let devices: Vec<&str> = devices.iter().map(String::as_str).collect();
        let mut xml = domain(&devices, "");
        if pool == "disks" {
            for number in 0..count {
                xml = xml.replace(
                    &format!(
                        "type='mdev'><source><address uuid='{}'/>",
                        uuid(&format!("dev{number}"))
                    ),
                    &format!(
                        "type='pci'><alias name='ua-vgpu-dev{number}'/><source><address \
                         domain='0' bus='{}' slot='0' function='0'/>",
                        number + 1
                    ),
                );
            }
        }
        let (code, out) = tree.explain(&xml);
        assert_eq!(code, 1, "{out}");
        out.lines().nth(1).unwrap().trim().to_owned()
    };
    assert_eq!(
        asking("cad", 17),
        "virt-vgpu: domain 'ws7': one VM can have at most 16 vGPUs and other mediated devices, \
         not 17; remove some from the XML"
    );
    assert_eq!(
        asking("disks", 17),
        "virt-vgpu: pool 'disks' has no free PCI device for domain 'ws7': its XML names \
         0000:01:00.0: this host has no such PCI device (see 'virt-vgpu devices'); \
         'virt-vgpu start ws7' looks for another"
    );
    assert_eq!(
        asking("disks", 65),
        "virt-vgpu: domain 'ws7': line 1: <v:device name='dev64'>: more than 64 devices, the most \
         that a domain can ask for; correct it in the XML"
    );
}

#[test]
fn a_refusal_is_the_hooks_own_line() {
    let full = "has no mdev type 'nvidia-9'";
    for (pool, devices, line) in [
        ("type = 'nvidia-9'", &["gpu0 cad"][..], format!("pool 'cad' has no free nvidia-9 for domain 'ws7': 0000:3b:00.0, 0000:5e:00.0, 0000:86:00.0: {full}; see 'virt-vgpu explain ws7'")),
        ("type = 'nvidia-558'\ninstances = 1", &["gpu0 cad", "gpu1 cad"], "pool 'cad' has no free nvidia-558 for domain 'ws7': 0 of at most 1 instances are in use and it asks for 2; see 'virt-vgpu status'".to_owned()),
        ("type = 5", &["gpu0 cad"], "domain 'ws7' asks for a device of pool 'cad': /etc/virt-vgpu/pools.d/cad.toml:2: key 'type': ".to_owned()),
        ("type = 'nvidia-558'", &["gpu0 none"], "domain 'ws7' asks for a device of pool 'none': there is no pool 'none'; see 'virt-vgpu pool list'".to_owned()),
        ("type = 'nvidia-558'", &["gpu0 cad", "-gpu1 cad"], format!("domain 'ws7' asks for device 'gpu1' in its metadata but has no <hostdev> with UUID {}; virt-vgpud adds it a moment after the domain is defined, 'virt-vgpu create' when it creates a transient one", uuid("gpu1"))),
        ("type = 'nvidia-558'", &["gpu0 cad", "gpu0 cad"], "domain 'ws7': line 1: <v:device name='gpu0'>: a second device of this name; names are unique in a domain; correct it in the XML".to_owned()),
    ] {
        let tree = Tree::new();
        tree.pool("cad", pool);
        let xml = domain(devices, "");
        let (code, out) = tree.explain(&xml);
        let said = out.lines().nth(1).unwrap().trim_start();
        assert_eq!(code, 1, "{out}");
        assert!(out.starts_with("domain 'ws7' would be refused\n"), "{out}");
        assert!(said.starts_with(&format!("virt-vgpu: {line}")), "{said}\n{line}");
        // The XML need not belong to a defined domain, which 'virsh edit' would find.
        let hook = tree.hook(&xml);
        let advice = said
            .replace("correct it in the XML", "correct it with 'virsh edit ws7'")
            .replace(
                "is defined, 'virt-vgpu create' when it creates a transient one",
                "is defined, 'virt-vgpu sync ws7' by hand; then start it again",
            );
        assert_eq!(advice, hook);
        assert!(!said.contains("virsh edit"), "{said}");
    }
}

#[test]
fn a_device_without_room_says_who_is_in_the_way() {
    let tree = Tree::new();
    tree.claim(
        "bbbbbbbb-0000-4000-8000-000000000002",
        "left",
        "gpu0",
        "0000:5e:00.0",
    );
    for parent in ["0000:3b:00.0", "0000:5e:00.0"] {
        let path = format!("sys/class/mdev_bus/{parent}/mdev_supported_types/nvidia-558");
        tree.write(&format!("{path}/available_instances"), "0");
    }
    let (code, out) = tree.explain(&domain(&["gpu0 cad"], ""));
    let wanted = format!(
        "domain 'ws7' would be refused
  virt-vgpu: pool 'cad' has no free nvidia-558 for domain 'ws7': 0000:3b:00.0, 0000:5e:00.0: no \
nvidia-558 left; 0000:86:00.0: has no mdev type 'nvidia-558'; see 'virt-vgpu explain ws7'

gpu0 from pool cad
  uuid    {}

pool cad: nvidia-558, pack, 1 in use of at most 3, 0 free
  PARENT        BOARD         NODE  IN USE  ROOM
  0000:3b:00.0  0000:3b:00.0  0     1       no nvidia-558 left
  0000:5e:00.0  0000:5e:00.0  1     1       no nvidia-558 left
  0000:86:00.0  0000:86:00.0  1     0       has no mdev type 'nvidia-558'

note: 'left' is not running but holds devices, which the hook frees before it refuses; run \
'virt-vgpu reconcile' and ask again
",
        uuid("gpu0")
    );
    assert_eq!((code, out), (1, wanted));
}

#[test]
fn a_running_domain_shows_what_it_has() {
    let tree = Tree::new();
    tree.claim(UUID, "ws7", "gpu0", "0000:5e:00.0");
    tree.runs(UUID);
    let (code, out) = tree.explain(&domain(&["gpu0 cad"], ""));
    let wanted = format!(
        "domain 'ws7' has its devices

gpu0 from pool cad
  uuid    {}
  parent  0000:5e:00.0
  type    nvidia-558

the domain holds now (domain 'ws7' is running):
  gpu0: nvidia-558 on 0000:5e:00.0, pool cad
",
        uuid("gpu0")
    );
    assert_eq!(code, 0);
    assert!(out.starts_with(&wanted), "{out}");
}

#[test]
fn a_foreign_device_of_its_uuid_is_named() {
    let tree = Tree::new();
    tree.mdev(&uuid("gpu0"), "0000:86:00.0", "nvidia-600");
    let xml = domain(&["gpu0 cad"], "");
    let (code, out) = tree.explain(&xml);
    assert_eq!(code, 1);
    let said = out.lines().nth(1).unwrap().trim_start();
    assert!(
        said.contains("but a mediated device on 0000:86:00.0 that is not ours has it"),
        "{said}"
    );
    assert_eq!(said, tree.hook(&xml));
}

#[test]
fn a_domain_that_asks_for_nothing_and_one_that_can_wait() {
    let tree = Tree::new();
    let plain = format!("<domain><name>ws7</name><uuid>{UUID}</uuid></domain>");
    let nothing = "domain 'ws7' asks for no devices: the hook does nothing\n";
    assert_eq!(tree.explain(&plain), (0, nothing.to_owned()));
    let xml = domain(&["-gpu0 cad"], "").replace("pool='cad'", "pool='cad' optional='yes'");
    let (code, out) = tree.explain(&xml);
    let start = "domain 'ws7' starts without devices: all that it asks for are optional and plugged \
                 in later\n\ngpu0 from pool cad\n";
    assert_eq!(code, 0);
    assert!(out.starts_with(start), "{out}");
}

#[test]
fn json_has_all_of_it() {
    let tree = Tree::new();
    let program = env!("CARGO_BIN_EXE_virt-vgpu");
    let xml = domain(&["gpu0 cad"], "");
    let (code, out, _) = tree.feed(program, &["explain", "--xml", "-", "--json"], &xml);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    let candidate = |parent: &str, node: u32, in_use: u32, available: u32, room: &str| {
        serde_json::json!({"parent": parent, "board": parent, "numa_node": node,
            "in_use": in_use, "available": available, "room": room})
    };
    let wanted = serde_json::json!({
        "domain": "ws7", "domain_uuid": UUID, "outcome": "served", "notes": [],
        "devices": [{"name": "gpu0", "pool": "cad", "uuid": uuid("gpu0"), "placeholder": true,
            "place": {"parent": "0000:3b:00.0", "type": "nvidia-558",
                "reason": "pack: 1 in use on 0000:3b:00.0, 3 of nvidia-558 left"}}],
        "pools": [{"name": "cad", "type": "nvidia-558", "placement": "pack", "instances": 3,
            "in_use": 0, "free": 3, "exact": true, "candidates": [
                candidate("0000:3b:00.0", 0, 1, 3, "3 of nvidia-558 left"),
                candidate("0000:5e:00.0", 1, 0, 1, "1 of nvidia-558 left"),
                candidate("0000:86:00.0", 1, 0, 0, "has no mdev type 'nvidia-558'")]}],
    });
    assert_eq!((code, report), (0, wanted));
}

#[test]
fn what_is_no_domain_is_an_error() {
    let tree = Tree::new();
    let program = env!("CARGO_BIN_EXE_virt-vgpu");
    for (xml, wanted) in [
        (
            "",
            "virt-vgpu: standard input: the domain XML cannot be used: the input holds no XML element\n",
        ),
        (
            "<network/>",
            "virt-vgpu: standard input: the domain XML cannot be used: line 1: the root element is <network>, not <domain>\n",
        ),
    ] {
        let answer = tree.feed(program, &["explain", "--xml", "-"], xml);
        assert_eq!(answer, (1, String::new(), wanted.to_owned()));
    }
    let (code, _, error) = tree.feed(program, &["explain", "--xml", "/none"], "");
    let wanted = "virt-vgpu: cannot read /none: No such file or directory (os error 2)\n";
    assert_eq!((code, error.as_str()), (1, wanted));
    assert_eq!(tree.feed(program, &["explain"], "").0, 2);
}

#[test]
fn xml_that_no_domain_has_yet_needs_no_uuid() {
    let tree = Tree::new();
    let xml = domain(&["-gpu0 cad"], "").replace(&format!("<uuid>{UUID}</uuid>"), "");
    let (code, out) = tree.explain(&xml);
    let wanted = format!(
        "domain 'ws7' would be served

gpu0 from pool cad
  parent  0000:3b:00.0
  type    nvidia-558
  why     pack: 1 in use on 0000:3b:00.0, 3 of nvidia-558 left
{CANDIDATES}
note: the XML has no <uuid>: libvirt makes one up when the domain is defined, and virt-vgpud adds \
the hostdevs then; 'virt-vgpu create' does both
"
    );
    assert_eq!((code, out), (0, wanted));
    let program = env!("CARGO_BIN_EXE_virt-vgpu");
    let (_, out, _) = tree.feed(program, &["explain", "--xml", "-", "--json"], &xml);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report.get("domain_uuid"), None);
    assert_eq!(report["devices"][0].get("uuid"), None);
    // A pool may say that its devices are optional.
    tree.pool("cad", "type = 'nvidia-558'\n[defaults]\noptional = true");
    let (code, out) = tree.explain(&xml);
    assert!(
        out.starts_with("domain 'ws7' starts without devices"),
        "{out}"
    );
    assert_eq!(code, 0);
}

#[test]
fn xml_is_read_as_libvirt_reads_it() {
    let tree = Tree::new();
    let xml = domain(&["gpu0 cad"], "");
    let plain = tree.explain(&xml);
    assert!(plain.1.starts_with("domain 'ws7' would be served\n"));
    for other in [
        xml.replace(UUID, &UUID.replace('-', "")),
        xml.replace(&uuid("gpu0"), &uuid("gpu0").replace('-', "").to_uppercase()),
        xml.replace("urn:virt-vgpu", "urn&#58;virt-vgpu"),
        xml.replace("urn:virt-vgpu", "urn&#x3a;virt-vgpu"),
    ] {
        assert_ne!(other, xml);
        assert_eq!(tree.explain(&other), plain, "{other}");
    }
    // XML that is broken in parts that we do not read is refused too.
    for (broken, what) in [
        ("<clock offset=utc/>", "<clock>: "),
        ("<a b='1' b='2'/>", "<a>: attribute b is given twice"),
        (
            "<description>a &nbsp; b</description>",
            "unknown entity '&nbsp;'",
        ),
    ] {
        let start = format!(
            "domain 'ws7' would be refused\n  virt-vgpu: domain 'ws7': line 2: not well-formed XML: \
             {what}"
        );
        for devices in [&["gpu0 cad"][..], &[]] {
            let (code, out) = tree.explain(&domain(devices, &format!("\n{broken}")));
            assert!(out.starts_with(&start), "{out}");
            assert!(out.ends_with("; correct it in the XML\n"), "{out}");
            assert_eq!(code, 1);
        }
    }
}

#[test]
fn too_much_input_is_no_domain() {
    let tree = Tree::new();
    let program = env!("CARGO_BIN_EXE_virt-vgpu");
    let start = domain(&["gpu0 cad"], "<!--");
    let (start, end) = start.split_once("<!--").unwrap();
    let long = |bytes: usize| {
        let fill = bytes - start.len() - end.len() - 7;
        format!("{start}<!--{}-->{end}", "x".repeat(fill))
    };
    let most = 8 << 20;
    assert_eq!(tree.explain(&long(most)).0, 0);
    let wanted = "is longer than 8 MiB, which is more than any domain's XML\n";
    tree.write("long.xml", &long(most));
    let file = tree.0.path().join("long.xml");
    let file = file.to_str().unwrap();
    for (verb, place) in [
        (&["explain", "--xml", file][..], file),
        (&["create", file], file),
    ] {
        let answer = tree.feed(program, verb, "");
        let wanted = format!("virt-vgpu: {place} {wanted}");
        assert_eq!(answer, (1, String::new(), wanted), "{verb:?}");
    }
    let mut child = Command::new(program)
        .args(["explain", "--xml", "-"])
        .env("VIRT_VGPU_ROOT", tree.0.path())
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The program may end before it has read everything.
    let _ = child
        .stdin
        .take()
        .unwrap()
        .write_all(long(most + 1).as_bytes());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(said, format!("virt-vgpu: standard input {wanted}"));
}

#[test]
fn what_asks_for_nothing_and_was_meant_to_is_told() {
    let tree = Tree::new();
    let xml = domain(&["gpu0 cad"], "").replace("<metadata>", "\n<metadata>");
    let ours = "xmlns:v='urn:virt-vgpu:devices:1'";
    let undeclared = xml.replace(&format!(" {ours}"), "");
    let mistyped = xml.replace("urn:virt-vgpu:devices:1", "urn:virt-vgpu:devices");
    for (xml, note) in [
        (
            undeclared,
            format!(
                "line 2: <v:devices> asks for nothing: its namespace is not declared, and libvirt \
                 drops it silently; write <v:devices {ours}>, in <metadata>"
            ),
        ),
        (
            mistyped,
            format!(
                "line 2: <v:devices> asks for nothing: its namespace is 'urn:virt-vgpu:devices'; \
                 write {ours}"
            ),
        ),
    ] {
        let wanted =
            format!("domain 'ws7' asks for no devices: the hook does nothing\n\nnote: {note}\n");
        assert_eq!(tree.explain(&xml), (0, wanted));
        tree.write("ws7.xml", &xml);
        let file = tree.0.path().join("ws7.xml");
        let file = file.to_str().unwrap();
        let program = env!("CARGO_BIN_EXE_virt-vgpu");
        let answer = tree.feed(program, &["create", file, "--dry-run"], "");
        let wanted = format!("virt-vgpu: {file}: {note}\n");
        assert_eq!(answer, (1, String::new(), wanted));
    }
}
