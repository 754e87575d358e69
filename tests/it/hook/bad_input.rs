//! Everything that can be wrong with the hook's input, through the real process: one
//! clear line and exit 1 if a domain would get its devices, no output and exit 0 if it
//! gives them back, and never a partly made device.

use std::{fs, path::Path};

use proptest::{prelude::*, test_runner::Config};
use virt_vgpu::domain::NAMESPACE;

use crate::support::{
    domain::Domain,
    refused::{is_untouched, refused, scene},
};

/// libvirt's operations, one that we do not handle, and one that does not exist.
const EVERY_OPERATION: [&str; 11] = [
    "prepare begin -",
    "migrate begin -",
    "restore begin -",
    "start begin -",
    "started begin -",
    "stopped end destroyed",
    "release end destroyed",
    "reconnect begin -",
    "attach begin -",
    "prepare end -",
    "invented begin -",
];

/// The domain has its devices. At its end the input is unusable, and the devices are
/// given back anyway.
#[track_caller]
fn gives_back_with(input: impl Fn(&Domain) -> Vec<u8>) {
    let (scene, domain) = (scene(), Domain::with_one(1, "cad"));
    scene.prepare(&domain).ends_well();
    let bad = input(&domain);
    for arguments in ["reconnect begin -", "start begin -"] {
        scene.hook_with(&domain, arguments, &*bad).run().ends_well();
        assert_eq!(scene.ours().len(), 1);
    }
    scene
        .hook_with(&domain, "release end failed", bad)
        .run()
        .ends_well();
    scene.is_empty();
}

proptest! {
    #![proptest_config(Config { cases: 16, ..Config::default() })]

    /// libvirt passes a domain's name, which is hardly restricted, in the arguments.
    #[test]
    fn no_name_of_a_domain_changes_what_an_operation_does(
        name in prop_oneof![
            "[^/\n\0]{1,40}",
            "--?[a-z-]{0,20}( [a-z]{1,9}){0,2}",
            Just("--write-attributes".to_owned()),
            Just("virt-vgpu driver child".to_owned()),
        ],
    ) {
        let (scene, mut domain) = (scene(), Domain::new(1));
        domain.name = name;
        for arguments in EVERY_OPERATION {
            scene.hook_with(&domain, arguments, "<domain/>").run().ends_well();
        }
        prop_assert_eq!(scene.kernel.writes(), []);
    }
}

#[test]
fn a_domain_without_a_request_costs_nothing() {
    let scene = scene();
    let domain = Domain::new(1);
    let before = listing(scene.root());
    for arguments in EVERY_OPERATION {
        scene.hook(&domain, arguments).run().ends_well();
        // For operations that we do not handle, the input need not even be well-formed.
        for input in ["", "<domain", "\u{0}"] {
            scene.hook_with(&domain, arguments, input).run().ends_well();
        }
    }
    assert_eq!(listing(scene.root()), before);
    assert_eq!(scene.kernel.writes(), []);
}

fn listing(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() && !path.ends_with("sys") {
            found.extend(listing(&path));
        }
        found.push(path);
    }
    found.sort();
    found
}

#[test]
fn what_is_not_libvirts_protocol_is_a_usage_error() {
    let scene = scene();
    for arguments in ["", "prepare"] {
        let outcome = scene.hook(&Domain::with_one(1, "cad"), arguments).run();
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        assert_eq!(
            outcome.stderr,
            "virt-vgpu-hook: expected DOMAIN OPERATION SUB-OPERATION [EXTRA]; \
             libvirt calls this program, people use 'virt-vgpu'\n"
        );
    }
    is_untouched(&scene);
}

/// libvirt allows every character except '/' and line feeds in a name; later versions
/// may differ.
#[test]
fn a_domain_of_another_name_than_ours_is_refused_only_what_it_asks_for() {
    let named = |name: &str, mut domain: Domain| {
        name.clone_into(&mut domain.name);
        domain
    };
    for (name, shown) in [("a\tb", "a\\tb"), ("a/b", "a/b"), ("", "")] {
        let scene = scene();
        let silent = named(name, Domain::new(1));
        for arguments in EVERY_OPERATION {
            scene.hook(&silent, arguments).run().ends_well();
        }
        let asks = named(name, Domain::with_one(1, "cad"));
        let wanted = format!(
            "'{shown}' is not a domain name that can have devices of a pool; \
             rename it with 'virsh domrename'"
        );
        refused(&scene, &asks, asks.xml(), &wanted);
        is_untouched(&scene);
    }
}

/// Proposed commands are pasted into root's shell.
#[test]
fn proposed_commands_can_be_pasted() {
    for (name, wanted) in [
        (
            "Q4OS FreeXP Debian 12",
            r#""virsh edit 'Q4OS FreeXP Debian 12'""#,
        ),
        ("it's", r#""virsh edit 'it'\''s'""#),
        ("ws9;touch x", r#""virsh edit 'ws9;touch x'""#),
        ("-x", "'virsh edit -- -x'"),
        ("a\u{202e}b", r#""virsh edit $'a\342\200\256b'""#),
    ] {
        let mut domain = Domain::with_one(1, "cad");
        name.clone_into(&mut domain.name);
        let xml = domain.xml();
        let cut = xml.find("</vgpu:devices>").unwrap();
        let outcome = scene()
            .hook_with(&domain, "prepare begin -", &xml[..cut])
            .run();
        let line = outcome.refusal();
        let end = format!("; correct it with {wanted}");
        assert!(line.ends_with(&end), "{line}");
    }
}

#[test]
fn broken_xml() {
    let domain = Domain::with_one(1, "cad");
    let xml = domain.xml();
    let cut = xml.find("</vgpu:devices>").unwrap();
    refused(
        &scene(),
        &domain,
        &xml[..cut],
        "domain 'vm1': line 7: the XML ends inside <vgpu:devices>; correct it with 'virsh edit vm1'",
    );
    let crossed = xml.replace("</metadata>", "</meta>");
    refused(
        &scene(),
        &domain,
        &crossed,
        "domain 'vm1': line 8: not well-formed XML: ill-formed document: expected `</metadata>`, \
         but `</meta>` was found; correct it with 'virsh edit vm1'",
    );
    gives_back_with(|_| crossed.clone().into_bytes());
    gives_back_with(|_| xml.as_bytes()[..cut].to_owned());
    // Only the name in libvirt's argument is left.
    gives_back_with(|_| b"<domain><name>vm".to_vec());
    gives_back_with(|_| Vec::new());
}

#[test]
fn text_that_is_not_utf8() {
    let domain = Domain::with_one(1, "cad");
    let broken = |domain: &Domain| {
        let mut bytes = domain.xml().into_bytes();
        let place = bytes.len() - 12;
        bytes[place] = 0xff;
        bytes
    };
    let place = domain.xml().len() - 12;
    refused(
        &scene(),
        &domain,
        broken(&domain),
        &format!(
            "the domain XML is not UTF-8: invalid utf-8 sequence of 1 bytes from index {place}"
        ),
    );
    gives_back_with(broken);
}

#[test]
fn more_input_than_any_domain_has() {
    let domain = Domain::with_one(1, "cad");
    let mut xml = domain.xml();
    xml.push_str(&" ".repeat(9 << 20));
    let line = "the domain XML is longer than 8 MiB";
    refused(&scene(), &domain, &xml, line);
    gives_back_with(|_| xml.clone().into_bytes());
}

#[test]
fn requests_that_do_not_parse() {
    let refuse = |domain: &Domain, wanted: &str| {
        let wanted = format!("domain 'vm1': {wanted}; correct it with 'virsh edit vm1'");
        refused(&scene(), domain, domain.xml(), &wanted);
    };
    refuse(
        &Domain::new(1).request("gpu0", "pool='cad' colour='red'", true),
        "line 6: <vgpu:device name='gpu0'>: unknown attribute 'colour'; accepted: name, pool, \
         guest-drivers, optional, together, frame-rate-limit, console-vnc, unified-memory, debuggers, profilers",
    );
    refuse(
        &Domain::new(1).request("gpu0", "", true),
        "line 6: <vgpu:device name='gpu0'>: attribute 'pool' is missing",
    );
    refuse(
        &Domain::new(1).request("gpu0", "pool='cad' optional='maybe'", true),
        "line 6: <vgpu:device name='gpu0'>: attribute 'optional': 'maybe' is not yes or no",
    );
    refuse(
        &Domain::with_one(1, "cad").device("gpu0", "cad"),
        "line 7: <vgpu:device name='gpu0'>: a second device of this name; names are unique in a domain",
    );
    gives_back_with(|domain| {
        let xml = domain.xml();
        xml.replace("pool='cad'", "pool='cad' colour='red'")
            .into_bytes()
    });
}

#[test]
fn a_request_without_its_placeholder() {
    let domain = Domain::new(1).request("gpu0", "pool='cad'", false);
    let uuid = &domain.mdevs()[0];
    refused(
        &scene(),
        &domain,
        domain.xml(),
        &format!(
            "domain 'vm1' asks for device 'gpu0' in its metadata but has no <hostdev> with UUID \
             {uuid}; virt-vgpud adds it a moment after the domain is defined, 'virt-vgpu sync vm1' by hand; then start it again"
        ),
    );
}

/// It is restored from a managed save, whose XML 'sync' never touches.
#[test]
fn a_saved_state_without_its_placeholder() {
    let scene = scene();
    scene.file("var/lib/libvirt/qemu/save/vm1.save", "");
    let domain = Domain::new(1).request("gpu0", "pool='cad'", false);
    let uuid = &domain.mdevs()[0];
    assert_eq!(
        scene.prepare(&domain).refusal(),
        format!(
            "the saved state of domain 'vm1' asks for device 'gpu0' in its metadata but has no \
             <hostdev> with UUID {uuid}; remove the request with 'virsh managedsave-edit vm1', \
             or discard the state with 'virsh managedsave-remove vm1'"
        ),
    );
    // Another domain's message does not apply here.
    let other = Domain::new(2).request("gpu0", "pool='cad'", false);
    let outcome = scene.prepare(&other);
    assert!(
        outcome.refusal().contains("'virt-vgpu sync vm2'"),
        "{outcome:?}"
    );
}

/// A foreign PCI hostdev with our alias: the function is not touched.
#[test]
fn a_placeholder_that_the_pool_never_writes() {
    let domain = Domain::new(1).request("gpu0", "pool='cad'", false);
    let hostdev = "<devices><hostdev mode='subsystem' type='pci' managed='yes'><source>\
        <address domain='0' bus='0x3b' slot='0' function='4'/></source>\
        <alias name='ua-vgpu-gpu0'/></hostdev>";
    refused(
        &scene(),
        &domain,
        domain.xml().replace("<devices>", hostdev),
        "pool 'cad' has no free nvidia-231 for domain 'vm1': its placeholder is a PCI function, \
         which a pool of kind 'mdev' never hands out; see 'virt-vgpu pool preview cad'",
    );
}

#[test]
fn pools_that_cannot_be_used() {
    let scene = scene();
    let refuse = |pool: &str, wanted: &str| {
        let domain = Domain::with_one(1, pool);
        let wanted = format!("domain 'vm1' asks for a device of pool '{pool}': {wanted}");
        refused(&scene, &domain, domain.xml(), &wanted);
    };
    refuse("none", "there is no pool 'none'; see 'virt-vgpu pool list'");
    let file = |name: &str, text: &str| {
        scene.file(&format!("etc/virt-vgpu/pools.d/{name}.toml"), text);
    };
    file("torn", "kind = \"mdev\"\ntype = \"nvidia-2");
    refuse(
        "torn",
        "/etc/virt-vgpu/pools.d/torn.toml:2: not valid TOML: invalid basic string, expected `\"`",
    );
    file(
        "typo",
        "kind = \"mdev\"\ntype = \"nvidia-231\"\nplacment = \"pack\"\n",
    );
    refuse(
        "typo",
        "/etc/virt-vgpu/pools.d/typo.toml:3: key 'placment': unknown key (did you mean 'placement'?); \
         accepted: kind, description, class, type, instances, placement, guest-driver, defaults, rule",
    );
    let mask = scene.path("etc/virt-vgpu/pools.d/off.toml");
    std::os::unix::fs::symlink("/dev/null", mask).unwrap();
    refuse(
        "off",
        "pool 'off' is masked by /etc/virt-vgpu/pools.d/off.toml; see 'virt-vgpu pool list'",
    );
    fs::create_dir(scene.path("etc/virt-vgpu/pools.d/dir.toml")).unwrap();
    refuse(
        "dir",
        "cannot read /etc/virt-vgpu/pools.d/dir.toml: not a regular file",
    );
    // The other pools still work.
    let domain = Domain::with_one(2, "cad");
    scene.prepare(&domain).ends_well();
    // Devices are given back although their pool was deleted.
    fs::remove_file(scene.path("etc/virt-vgpu/pools.d/cad.toml")).unwrap();
    scene.stop(&domain);
    scene.is_empty();
}

#[test]
fn the_namespace_alone_is_no_request() {
    let (scene, domain) = (scene(), Domain::new(1));
    let xml = domain.xml();
    let empty = format!("<metadata><v:devices xmlns:v='{NAMESPACE}'/></metadata>");
    let xml = xml.replace("<devices>", &format!("{empty}<devices>"));
    for arguments in ["prepare begin -", "stopped end -", "reconnect begin -"] {
        scene.hook_with(&domain, arguments, &*xml).run().ends_well();
    }
    is_untouched(&scene);
}
