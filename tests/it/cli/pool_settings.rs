//! The settings of a pool of whole devices, and the mistakes in its file and in requests for its
//! devices, as the commands show them.

use crate::support::{
    domain::Domain,
    machine::{Machine, Plain},
    process::Program,
    refused::on_host,
    scene::Scene,
};

const NIC: &str = "0000:04:00.0";

fn scene() -> Scene {
    Scene::new(Machine::of_pci([Plain::nic(NIC, 4)]))
}

/// What the command prints, on both of its outputs.
fn said(scene: &Scene, arguments: &str) -> String {
    let outcome = Program::command(scene.root(), arguments).run();
    let text = format!("{}{}", outcome.stdout, outcome.stderr);
    on_host(scene, &text)
}

/// What `pool check` says of pools with these keys.
fn checked(scene: &Scene, all: &[&str]) -> String {
    let check = |keys: &&str| {
        scene.pci_pool_with("cards", keys);
        said(scene, "pool check")
    };
    all.iter().map(check).collect()
}

fn rule(field: &str, op: &str, value: &str) -> String {
    format!("[[rule]]\nwhere = [{{ field = '{field}', op = '{op}', value = '{value}' }}]\n")
}

/// The part of `pool show` about the settings.
fn shown(scene: &Scene) -> String {
    let text = said(scene, "pool show cards");
    let (_, rest) = text.split_once("guest-driver      none\n").unwrap();
    let (settings, _) = rest.split_once("\nfor requests").unwrap();
    settings.trim().to_owned()
}

#[test]
fn a_pool_is_shown_with_the_settings_of_its_kind() {
    let scene = scene();
    scene.pci_pool("cards");
    insta::assert_snapshot!(shown(&scene), @r"
    settings of kind 'pci':
      keep-bound        no
      multifunction     yes
      placeholder       address
      rom               as libvirt has it
      rom-file          as libvirt has it
    ");
    let keys = "[pci]\nkeep-bound = true\nrom = 'on'\nrom-file = '/srv/vbios.rom'\n\
                placeholder = 'hotplug'\n";
    scene.pci_pool_with("cards", keys);
    insta::assert_snapshot!(shown(&scene), @r"
    settings of kind 'pci':
      keep-bound        yes
      multifunction     no
      placeholder       hotplug
      rom               on
      rom-file          /srv/vbios.rom
    ");
    let json: serde_json::Value =
        serde_json::from_str(&said(&scene, "pool show cards --json")).unwrap();
    insta::assert_snapshot!(json["settings"], @r#"{"keep-bound":true,"multifunction":false,"placeholder":"hotplug","rom":"on","rom-file":"/srv/vbios.rom"}"#);
}

#[test]
fn a_default_that_the_placeholder_forbids_has_its_line() {
    let keys = "[pci]\nplaceholder = \"hotplug\"\n[defaults]\noptional = false\n";
    insta::assert_snapshot!(checked(&scene(), &[keys]), @r"
    error: /etc/virt-vgpu/pools.d/cards.toml:5: key 'defaults.optional': is false, but the pool's devices are plugged in when the VM has started: leave it out, or choose another placeholder
    1 pool checked: 1 error, 0 warnings
    ");
}

/// A device that stays bound to vfio-pci has no other driver again.
#[test]
fn a_rule_that_loses_its_devices_to_the_driver_for_vms_is_warned_of() {
    let bound = |kept: bool, op: &str, driver: &str| {
        format!("[pci]\nkeep-bound = {kept}\n{}", rule("driver", op, driver))
    };
    let files = [
        bound(true, "equal", "igb"),
        bound(true, "not-equal", "vfio-pci"),
        bound(true, "equal", "vfio-pci"),
        bound(true, "not-equal", "nouveau"),
        bound(false, "equal", "igb"),
    ];
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    insta::assert_snapshot!(checked(&scene(), &files), @r"
    warning: /etc/virt-vgpu/pools.d/cards.toml: rule 1 tests 'driver', but with keep-bound = true the driver of a device is vfio-pci from its first VM on, also between VMs: the rule does not take it any more; test 'vendor-id' and 'device-id', or 'address', instead
    1 pool checked: 0 errors, 1 warning
    warning: /etc/virt-vgpu/pools.d/cards.toml: rule 1 tests 'driver', but with keep-bound = true the driver of a device is vfio-pci from its first VM on, also between VMs: the rule does not take it any more; test 'vendor-id' and 'device-id', or 'address', instead
    1 pool checked: 0 errors, 1 warning
    1 pool checked: 0 errors, 0 warnings
    1 pool checked: 0 errors, 0 warnings
    1 pool checked: 0 errors, 0 warnings
    ");
}

#[test]
fn an_option_rom_that_cannot_be_had_is_named() {
    let scene = scene();
    scene.file("srv/vbios.rom", "ROM");
    let said = checked(
        &scene,
        &[
            "[pci]\nrom = 'off'\nrom-file = '/srv/vbios.rom'\n",
            "[pci]\nrom = true\n",
            "[pci]\nplaceholder = 1\n",
            "[pci]\nrom-file = '/srv/none.rom'\n",
            "[pci]\nrom-file = '/srv'\n",
            "[pci]\nrom = 'on'\nrom-file = '/srv/vbios.rom'\n",
        ],
    );
    insta::assert_snapshot!(said, @r#"
    error: /etc/virt-vgpu/pools.d/cards.toml:4: key 'pci.rom-file': has no effect with rom = "off": the guest's firmware would see no ROM; leave one of the two out
    1 pool checked: 1 error, 0 warnings
    error: /etc/virt-vgpu/pools.d/cards.toml:3: key 'pci.rom': wants a text in quotes, found true; accepted: on, off
    1 pool checked: 1 error, 0 warnings
    error: /etc/virt-vgpu/pools.d/cards.toml:3: key 'pci.placeholder': wants a text in quotes, found the number 1; accepted: address, hotplug
    1 pool checked: 1 error, 0 warnings
    warning: /etc/virt-vgpu/pools.d/cards.toml: the file of 'rom-file', /srv/none.rom, cannot be found: No such file or directory (os error 2); VMs that are given it with a device do not start
    1 pool checked: 0 errors, 1 warning
    warning: /etc/virt-vgpu/pools.d/cards.toml: the file of 'rom-file', /srv, is no regular file; VMs that are given it with a device do not start
    1 pool checked: 0 errors, 1 warning
    1 pool checked: 0 errors, 0 warnings
    "#);
}

#[test]
fn values_that_no_device_can_have_are_refused() {
    let files = [
        rule("class-id", "equal", "0108"),
        rule("class-id", "equal", "010802"),
        rule("address", "equal", "41:00"),
        rule("address", "equal", "0000:41:00"),
        rule("address", "equal", "41:00.0"),
    ];
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    insta::assert_snapshot!(checked(&scene(), &files), @r"
    error: /etc/virt-vgpu/pools.d/cards.toml:3: key 'rule.where.value': '0108' has 4 digits, and a class-id has 6 (as in 030200); did you mean 'begins-with'?
    1 pool checked: 1 error, 0 warnings
    1 pool checked: 0 errors, 0 warnings
    error: /etc/virt-vgpu/pools.d/cards.toml:3: key 'rule.where.value': '41:00' is not a whole PCI address (as in 0000:3b:00.0); did you mean 'contains'?
    1 pool checked: 1 error, 0 warnings
    error: /etc/virt-vgpu/pools.d/cards.toml:3: key 'rule.where.value': '0000:41:00' is not a whole PCI address (as in 0000:3b:00.0); did you mean 'begins-with'?
    1 pool checked: 1 error, 0 warnings
    1 pool checked: 0 errors, 0 warnings
    ");
}

/// What `explain` says first of a domain with that XML.
fn explained(scene: &Scene, xml: String) -> String {
    scene.file("vm1.xml", xml);
    let path = scene.path("vm1.xml");
    let text = said(scene, &format!("explain --xml {}", path.display()));
    let lines: Vec<&str> = text.lines().map(str::trim).take(2).collect();
    lines.join("\n")
}

#[test]
fn a_request_for_a_whole_device_has_no_parameters_of_vgpus() {
    let scene = scene();
    scene.pci_pool("cards");
    let mut all = String::new();
    for parameter in [
        "frame-rate-limit='60'",
        "console-vnc='no'",
        "unified-memory='yes'",
        "debuggers='no'",
        "profilers='yes'",
        "guest-drivers='no'",
    ] {
        let attributes = format!("pool='cards' {parameter}");
        let domain = Domain::new(1).request_on("dev0", &attributes, NIC);
        let text = explained(&scene, domain.xml());
        all.push_str(&format!("{parameter}: {text}\n"));
        let outcome = scene.prepare(&domain);
        match outcome.code {
            Some(0) => scene.stop(&domain),
            _ => all.push_str(&format!("{}\n", on_host(&scene, outcome.refusal()))),
        }
    }
    insta::assert_snapshot!(all, @r"
    frame-rate-limit='60': domain 'vm1' would be refused
    virt-vgpu: device 'dev0' of domain 'vm1' has 'frame-rate-limit', which is not for kind 'pci' of pool 'cards'; remove it from the request in the XML
    device 'dev0' of domain 'vm1' has 'frame-rate-limit', which is not for kind 'pci' of pool 'cards'; remove it from the request with 'virsh edit vm1'
    console-vnc='no': domain 'vm1' would be refused
    virt-vgpu: device 'dev0' of domain 'vm1' has 'console-vnc', which is not for kind 'pci' of pool 'cards'; remove it from the request in the XML
    device 'dev0' of domain 'vm1' has 'console-vnc', which is not for kind 'pci' of pool 'cards'; remove it from the request with 'virsh edit vm1'
    unified-memory='yes': domain 'vm1' would be refused
    virt-vgpu: device 'dev0' of domain 'vm1' has 'unified-memory', which is not for kind 'pci' of pool 'cards'; remove it from the request in the XML
    device 'dev0' of domain 'vm1' has 'unified-memory', which is not for kind 'pci' of pool 'cards'; remove it from the request with 'virsh edit vm1'
    debuggers='no': domain 'vm1' would be refused
    virt-vgpu: device 'dev0' of domain 'vm1' has 'debuggers', which is not for kind 'pci' of pool 'cards'; remove it from the request in the XML
    device 'dev0' of domain 'vm1' has 'debuggers', which is not for kind 'pci' of pool 'cards'; remove it from the request with 'virsh edit vm1'
    profilers='yes': domain 'vm1' would be refused
    virt-vgpu: device 'dev0' of domain 'vm1' has 'profilers', which is not for kind 'pci' of pool 'cards'; remove it from the request in the XML
    device 'dev0' of domain 'vm1' has 'profilers', which is not for kind 'pci' of pool 'cards'; remove it from the request with 'virsh edit vm1'
    guest-drivers='no': domain 'vm1' would be served
    ");
}

#[test]
fn a_hostdev_that_libvirt_would_rebind_is_explained() {
    let scene = scene();
    scene.pci_pool("cards");
    let domain = Domain::new(1).function("dev0", "cards", NIC);
    let xml = domain.xml().replace("managed='no'", "managed='yes'");
    insta::assert_snapshot!(explained(&scene, xml), @r"
    domain 'vm1' would be refused
    virt-vgpu: device 'dev0' of domain 'vm1': its hostdev has managed='yes', so libvirt would unbind the function from the driver that it needs; set managed='no' in the XML
    ");
}
