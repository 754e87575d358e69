use std::{fs, path::Path};

use proptest::{prelude::*, sample::Index};

use super::*;
use crate::{
    domain::{NAMESPACE, metadata_element, reader, request::tests::any_request},
    model::Together,
};

const UUID: &str = "aaaaaaaa-0000-4000-8000-000000000001";

/// A domain with its name and UUID on line 1 and the given rest from line 2 on.
fn domain(rest: &str) -> String {
    format!("<domain><name>d</name><uuid>{UUID}</uuid>\n{rest}</domain>")
}

fn asking(devices: &str) -> String {
    domain(&format!(
        "<metadata><vgpu:devices xmlns:vgpu='{NAMESPACE}'>\n{devices}</vgpu:devices></metadata>"
    ))
}

fn error(xml: &str) -> String {
    parse(xml).unwrap_err().to_string()
}

fn request(name: &str, pool: &str) -> Request {
    Request::new(name.parse().unwrap(), pool.parse().unwrap())
}

fn cpus(text: &str) -> CpuSet {
    text.parse().unwrap()
}

/// The XML that libvirt wrote to the standard input of hooks, in both versions.
fn samples() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/hook-stdin");
    let mut samples = Vec::new();
    for folder in fs::read_dir(root).unwrap() {
        for file in fs::read_dir(folder.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            samples.push((
                path.display().to_string(),
                fs::read_to_string(&path).unwrap(),
            ));
        }
    }
    samples.sort();
    assert_eq!(samples.len(), 51);
    samples
}

#[test]
fn all_that_libvirt_gives_to_hooks_parses() {
    for (file, xml) in samples() {
        let def = parse(&xml).unwrap_or_else(|error| panic!("{file}: {error}"));
        let vm1 = file.contains("-vm1-");
        assert_eq!(
            def.name.as_str(),
            if vm1 { "vm1" } else { "plain" },
            "{file}"
        );
        assert_eq!(def.hostdevs.len(), usize::from(vm1), "{file}");
        assert_eq!(def.requests, [], "{file}");
        assert_eq!(def.disks, [], "{file}");
        assert!(def.aliases.is_empty(), "{file}");
        assert_eq!(def.arch.as_deref(), Some("x86_64"), "{file}");
        assert_eq!(metadata_element(&xml).unwrap(), None, "{file}");
    }
}

#[test]
fn a_sample_reads_as_libvirt_wrote_it() {
    let read = |file: &str| {
        let (_, xml) = samples()
            .into_iter()
            .find(|(path, _)| path.ends_with(file))
            .unwrap();
        parse(&xml).unwrap()
    };
    let started = read("libvirt-11.3/003-vm1-started-begin.xml");
    assert_eq!(started.uuid.to_string(), UUID);
    assert_eq!(started.machine.as_deref(), Some("pc-q35-10.0"));
    let hostdev = |alias: Option<&str>| Hostdev {
        alias: alias.map(str::to_owned),
        display: Some(false),
        guest: Some(GuestPlace {
            at: GuestSlot { bus: 1, slot: 0 },
            function: 0,
            multifunction: false,
        }),
        ..Hostdev::bare("11111111-2222-3333-4444-555555555555".parse().unwrap())
    };
    assert_eq!(started.hostdevs, [hostdev(Some("hostdev0"))]);
    let kinds: Vec<_> = started
        .controllers
        .iter()
        .map(|one| (one.kind.as_str(), one.index, one.model.as_deref()))
        .collect();
    assert_eq!(
        kinds,
        [
            ("usb", 0, Some("none")),
            ("sata", 0, None),
            ("pci", 0, Some("pcie-root")),
            ("pci", 1, Some("pcie-root-port")),
            ("pci", 2, Some("pcie-root-port")),
        ]
    );
    assert!(started.memory_nodes.is_empty() && started.cpus.is_empty());

    let prepare = read("libvirt-9.0/001-vm1-prepare-begin.xml");
    assert_eq!(prepare.machine.as_deref(), Some("pc-q35-7.2"));
    assert_eq!(prepare.hostdevs, [hostdev(None)]);
}

#[test]
fn everything_of_interest_is_read() {
    let xml = domain(
        "<metadata xmlns:v='urn:virt-vgpu:devices:1'><v:devices>
          <v:device name='gpu0' pool='cad' guest-drivers='yes' frame-rate-limit='0' console-vnc='off'
                    optional='true' together='pcie-root' unified-memory='1' debuggers='no' profilers='on'/>
          <v:device name='gpu1' pool='a&#45;i'><!-- x --></v:device>
        </v:devices></metadata>
        <vcpu placement='static' cpuset='0-3,^2'>2</vcpu>
        <numatune><memory mode='strict' nodeset='1'/><memnode cellid='0' mode='strict' nodeset='0,3'/></numatune>
        <cputune><vcpupin vcpu='0' cpuset='9'/></cputune>
        <os><type arch='x86_64' machine='q35'>hvm</type></os>
        <devices>
          <disk type='file' device='cdrom'><driver name='qemu'/><source file='/a &amp; b.iso' index='1'>
            <alias name='ua-not-a-device'/></source>
            <backingStore><source file='/other'/></backingStore>
            <target dev='sda' bus='sata'/><readonly/><alias name='ua-cd'/>
            <address type='drive' controller='0' bus='0' target='0' unit='3'/></disk>
          <disk type='block'><source dev='/dev/x'/><target dev='vda' bus='virtio'/>
            <address type='pci' slot='0x03'/></disk>
          <disk/>
          <hostdev mode='subsystem' type='pci'><source><address slot='0x01'/></source></hostdev>
          <hostdev mode='subsystem' type='mdev' model='vfio-ccw' display='on'>
            <source><address uuid='AAAAAAAA-0000-4000-8000-000000000002'/></source>
            <alias name='ua-vgpu-gpu0'/><address type='pci'/></hostdev>
          <interface type='network'><alias name='net0'/></interface>
          <interface type='network'><alias name='ua-net'/></interface>
        </devices>",
    );
    let def = parse(&xml).unwrap();
    assert_eq!(
        def.requests,
        [
            Request {
                guest_drivers: Some(true),
                optional: Some(true),
                together: Some(Together::PcieRoot),
                frame_rate_limit: Some(0),
                console_vnc: Some(false),
                unified_memory: Some(true),
                debuggers: Some(false),
                profilers: Some(true),
                ..request("gpu0", "cad")
            },
            request("gpu1", "a-i"),
        ]
    );
    assert_eq!(def.cpus, cpus("0,1,3"));
    assert_eq!(def.memory_nodes, cpus("0,1,3"));
    let aliases: Vec<_> = def.aliases.iter().map(String::as_str).collect();
    assert_eq!(aliases, ["ua-cd", "ua-net", "ua-vgpu-gpu0"]);
    assert_eq!(
        def.disks,
        [
            Disk {
                device: "cdrom".to_owned(),
                bus: Some("sata".to_owned()),
                target: "sda".to_owned(),
                source: Some("/a & b.iso".to_owned()),
                alias: Some("ua-cd".to_owned()),
                position: Some(DrivePosition {
                    controller: 0,
                    bus: 0,
                    target: 0,
                    unit: 3
                }),
            },
            Disk {
                device: "disk".to_owned(),
                bus: Some("virtio".to_owned()),
                target: "vda".to_owned(),
                ..Disk::default()
            },
        ]
    );
    assert_eq!(
        def.hostdevs,
        [Hostdev {
            handle: "aaaaaaaa-0000-4000-8000-000000000002".parse().unwrap(),
            alias: Some("ua-vgpu-gpu0".to_owned()),
            model: Some("vfio-ccw".to_owned()),
            managed: false,
            display: Some(true),
            rom: Rom::default(),
            guest: None,
        }]
    );
}

#[test]
fn without_a_cpuset_the_pins_count() {
    let def = parse(&domain(
        "<vcpu>2</vcpu><cputune><vcpupin vcpu='0' cpuset='1-2'/><vcpupin vcpu='1' cpuset='5'/>\
         <emulatorpin cpuset='7'/></cputune>",
    ))
    .unwrap();
    assert_eq!(def.cpus, cpus("1,2,5"));
}

#[test]
fn any_prefix_or_none_is_ours_and_nothing_else_is() {
    let one = [request("a", "p")];
    for (metadata, wanted) in [
        (
            "<d:devices xmlns:d='urn:virt-vgpu:devices:1'><d:device name='a' pool='p'/></d:devices>",
            true,
        ),
        (
            "<devices xmlns='urn:virt-vgpu:devices:1'><device name=\"a\" pool='p'></device></devices>",
            true,
        ),
        (
            "<é:devices xmlns:é='urn:virt-vgpu:devices:1'><device xmlns='urn:virt-vgpu:devices:1' name='a' pool='p'/></é:devices>",
            true,
        ),
        (
            "<d:devices xmlns:d='urn:virt-vgpu&#58;devices:1'><d:device name='a' pool='p'/></d:devices>",
            true,
        ),
        ("<devices><device name='a' pool='p'/></devices>", false),
        (
            "<d:devices xmlns:d='urn:virt-vgpu:devices:2'><d:device name='a' pool='p'/></d:devices>",
            false,
        ),
        (
            "<x xmlns:d='urn:virt-vgpu:devices:1'><d:devices><d:device name='a' pool='p'/></d:devices></x>",
            false,
        ),
        (
            "<o:domain xmlns:o='o'><metadata><d:devices xmlns:d='urn:virt-vgpu:devices:1'><d:device/></d:devices></metadata></o:domain>",
            false,
        ),
        (
            "<d:devices xmlns:d='urn:virt-vgpu:devices:1'><o:x xmlns:o='o'><d:device name='a' pool='p'/></o:x></d:devices>",
            false,
        ),
        (
            "<!-- <d:devices xmlns:d='urn:virt-vgpu:devices:1'><d:device name='a' pool='p'/></d:devices> -->",
            false,
        ),
        (
            "<x><![CDATA[<d:devices xmlns:d='urn:virt-vgpu:devices:1'/>]]></x><?pi <d:devices?>",
            false,
        ),
    ] {
        let def = parse(&domain(&format!("<metadata>{metadata}</metadata>"))).unwrap();
        let wanted = if wanted { one.as_slice() } else { &[] };
        assert_eq!(def.requests, wanted, "{metadata}");
    }
    // In the right element, but in the wrong place.
    let element =
        "<d:devices xmlns:d='urn:virt-vgpu:devices:1'><d:device name='a' pool='p'/></d:devices>";
    for (before, after) in [
        ("", ""),
        ("<devices>", "</devices>"),
        ("<x><metadata>", "</metadata></x>"),
        ("<o:metadata xmlns:o='o'>", "</o:metadata>"),
        ("<metadata xmlns='o'>", "</metadata>"),
    ] {
        let def = parse(&domain(&format!("{before}{element}{after}"))).unwrap();
        assert_eq!(def.requests, [], "{before}");
    }
}

#[test]
fn names_are_text_however_it_is_written() {
    let xml = format!(
        "\u{feff}<?xml version='1.0'?><!-- c --><domain><uuid>\n <!-- c -->{UUID}\n</uuid>\
         <name>a&amp;b<![CDATA[<c>]]>&#x41;</name></domain>\n<!-- d -->\n"
    );
    let def = parse(&xml).unwrap();
    assert_eq!(def.name.as_str(), "a&b<c>A");
    assert_eq!(def.uuid.to_string(), UUID);
}

#[test]
fn requests_that_are_wrong_are_named() {
    for (devices, wanted) in [
        (
            "\n<vgpu:device name='gpu0' pool='p' colour='red'/>",
            "line 4: <vgpu:device name='gpu0'>: unknown attribute 'colour'; accepted: name, pool, guest-drivers, optional, together, frame-rate-limit, console-vnc, unified-memory, debuggers, profilers",
        ),
        (
            "<vgpu:device name='gpu0' pol='p'/>",
            "line 3: <vgpu:device name='gpu0'>: unknown attribute 'pol'; accepted: name, pool, guest-drivers, optional, together, frame-rate-limit, console-vnc, unified-memory, debuggers, profilers",
        ),
        (
            "<vgpu:device vgpu:name='gpu0' pool='p'/>",
            "line 3: <vgpu:device>: unknown attribute 'vgpu:name'; accepted: name, pool, guest-drivers, optional, together, frame-rate-limit, console-vnc, unified-memory, debuggers, profilers",
        ),
        (
            "<vgpu:device pool='p'/>",
            "line 3: <vgpu:device>: attribute 'name' is missing",
        ),
        (
            "<vgpu:device name='gpu0'/>",
            "line 3: <vgpu:device name='gpu0'>: attribute 'pool' is missing",
        ),
        (
            "<vgpu:device name='GPU\n0' pool='p'/>",
            "line 3: <vgpu:device name='GPU\\n0'>: attribute 'name': 'GPU\\n0' is not a device name (1 to 32 of a-z, 0-9 and '-')",
        ),
        (
            "<vgpu:device name='gpu0' pool='../p'/>",
            "line 3: <vgpu:device name='gpu0'>: attribute 'pool': '../p' is not a pool name (1 to 64 of a-z, 0-9 and '-')",
        ),
        (
            "<vgpu:device name='gpu0' pool='p' console-vnc='maybe'/>",
            "line 3: <vgpu:device name='gpu0'>: attribute 'console-vnc': 'maybe' is not yes or no",
        ),
        (
            "<vgpu:device name='gpu0' pool='p' frame-rate-limit='-1'/>",
            "line 3: <vgpu:device name='gpu0'>: attribute 'frame-rate-limit': '-1' is not a whole number, 0 or more",
        ),
        (
            "<vgpu:device name='gpu0' pool='p' together='pcie_root'/>",
            "line 3: <vgpu:device name='gpu0'>: attribute 'together': 'pcie_root' is not pcie-root or numa",
        ),
        (
            "<vgpu:device name='gpu0' pool='p' togehter='numa'/>",
            "line 3: <vgpu:device name='gpu0'>: unknown attribute 'togehter'; accepted: name, pool, guest-drivers, optional, together, frame-rate-limit, console-vnc, unified-memory, debuggers, profilers",
        ),
        (
            "<vgpu:device name='a' pool='p'/>\n<vgpu:device name='a' pool='q'/>",
            "line 4: <vgpu:device name='a'>: a second device of this name; names are unique in a domain",
        ),
        (
            "<vgpu:device name='guest-drivers' pool='p'/>",
            "line 3: <vgpu:device name='guest-drivers'>: the name is reserved for the CD-ROM with guest drivers",
        ),
        (
            "<vgpu:devise name='a' pool='p'/>",
            "line 3: <vgpu:devise>: unknown element; accepted here: device",
        ),
        (
            "<vgpu:device name='a' pool='p'><vgpu:option/></vgpu:device>",
            "line 3: <vgpu:option>: unknown element; accepted here: none",
        ),
        (
            "<vgpu:device name='a' pool='p' name='b'/>",
            "line 3: <vgpu:device>: attribute 'name' is given twice",
        ),
    ] {
        assert_eq!(error(&asking(devices)), wanted);
    }
    let metadata = |xml: &str| error(&domain(&format!("<metadata>{xml}</metadata>")));
    assert_eq!(
        metadata("<v:device xmlns:v='urn:virt-vgpu:devices:1' name='a' pool='p'/>"),
        "line 2: <v:device>: unknown element; accepted here: devices"
    );
    assert_eq!(
        metadata("<v:devices xmlns:v='urn:virt-vgpu:devices:1' pool='p'/>"),
        "line 2: <v:devices>: unknown attribute 'pool'; accepted: none"
    );
    let many = |count: usize| -> String {
        (0..count)
            .map(|number| format!("<vgpu:device name='g{number}' pool='p'/>\n"))
            .collect()
    };
    assert_eq!(parse(&asking(&many(64))).unwrap().requests.len(), 64);
    assert_eq!(
        error(&asking(&many(65))),
        "line 67: <vgpu:device name='g64'>: more than 64 devices, the most that a domain can ask for"
    );
}

#[test]
fn domains_that_are_wrong_are_named() {
    let uuid = format!("<uuid>{UUID}</uuid>");
    for (xml, wanted) in [
        (String::new(), "the input holds no XML element".to_owned()),
        (" \n".to_owned(), "the input holds no XML element".to_owned()),
        ("x".to_owned(), "line 1: not well-formed XML: text outside the root element".to_owned()),
        (
            "<domainsnapshot/>".to_owned(),
            "line 1: the root element is <domainsnapshot>, not <domain>".to_owned(),
        ),
        (
            "\n<domain xmlns='x'/>".to_owned(),
            "line 2: the root element is <domain>, not <domain>".to_owned(),
        ),
        (format!("<domain>{uuid}</domain>"), "<name> is missing".to_owned()),
        ("<domain><name>d</name></domain>".to_owned(), "<uuid> is missing".to_owned()),
        (
            "<domain>\n<name>a/b</name></domain>".to_owned(),
            "line 2: <name>: 'a/b' is not a domain name".to_owned(),
        ),
        (
            "<domain>\n<name/></domain>".to_owned(),
            "line 2: <name>: '' is not a domain name".to_owned(),
        ),
        (
            "<domain><uuid>12</uuid></domain>".to_owned(),
            "line 1: <uuid>: '12' is not a domain UUID".to_owned(),
        ),
        (
            format!("<domain>{uuid}\n{uuid}</domain>"),
            "line 2: <uuid>: a second element of this name; only one is allowed".to_owned(),
        ),
        (
            "<!DOCTYPE d [<!ENTITY a 'b'>]>\n<domain/>".to_owned(),
            "line 1: a DOCTYPE is refused; libvirt never writes one".to_owned(),
        ),
        (domain("<a>&lol;</a>"), "line 2: not well-formed XML: unknown entity '&lol;'".to_owned()),
        (
            "<domain>\n<devices>".to_owned(),
            "line 2: the XML ends inside <devices>".to_owned(),
        ),
        (
            format!("{}<domain/>", domain("")),
            "line 2: not well-formed XML: a second root element".to_owned(),
        ),
        (
            domain("<a></b>"),
            "line 2: not well-formed XML: ill-formed document: expected `</a>`, but `</b>` was found"
                .to_owned(),
        ),
        (
            domain("<vcpu cpuset='3-1'/>"),
            "line 2: <vcpu>: '3-1' is not a list of CPU or node numbers (as in 0-3,8)".to_owned(),
        ),
        (
            domain("<devices>\n<hostdev mode='subsystem' type='mdev'>\n<source/></hostdev></devices>"),
            "line 3: <hostdev type='mdev'>: <address uuid='…'> is missing".to_owned(),
        ),
        (
            domain(&"<a>".repeat(256)),
            "line 2: elements are nested deeper than 256".to_owned(),
        ),
        (
            " ".repeat(reader::MAX_BYTES + 1),
            "the domain XML is larger than 8 MiB".to_owned(),
        ),
    ] {
        let found = error(&xml);
        assert_eq!(found, wanted);
        assert!(!found.contains('\n'));
    }
    let spaces: String = (0..257).map(|n| format!(" xmlns:a{n}='u'")).collect();
    assert_eq!(
        error(&domain(&format!("<a{spaces}/>"))),
        "line 2: more than 256 namespace declarations"
    );
    let deep = domain(&format!("{}{}", "<a>".repeat(255), "</a>".repeat(255)));
    assert!(parse(&deep).is_ok());
    let large = domain(&"<a b='c'/>\n".repeat(700_000));
    assert!(large.len() > 7 << 20);
    assert!(parse(&large).is_ok());
}

#[test]
fn no_part_of_a_sample_passes_for_the_whole() {
    let (_, xml) = samples().swap_remove(0);
    for (length, _) in xml.trim_end().char_indices() {
        assert!(parse(&xml[..length]).is_err(), "{length}");
    }
}

/// A sample, or one with requests.
fn some_domain() -> impl Strategy<Value = String> {
    let mut domains: Vec<_> = samples().into_iter().map(|(_, xml)| xml).collect();
    let asking = asking("<vgpu:device name='gpu0' pool='cad' guest-drivers='yes'/><!-- c -->");
    domains.extend(std::iter::repeat_n(asking, domains.len()));
    prop::sample::select(domains)
}

fn is_one_line(error: &DomainError) -> bool {
    !error.to_string().contains(|c: char| c.is_control())
}

proptest! {
    #[test]
    fn no_text_panics(text: String) {
        if let Err(error) = parse(&text) {
            prop_assert!(is_one_line(&error));
        }
        let _ = metadata_element(&text);
    }

    #[test]
    fn no_near_xml_panics(text in r#"(<[/!?]?[a-c:]{0,4}( ?[a-cx:]{1,3}=['"][a-c&;<]{0,3}['"])?/?>|[a-c&;#\n]|<!\[CDATA\[|\]\]>|<!--|-->){0,30}"#) {
        let _ = parse(&text);
        let _ = parse(&domain(&text));
        let _ = parse(&asking(&text));
        let _ = metadata_element(&asking(&text));
    }

    #[test]
    fn no_damaged_domain_panics(
        xml in some_domain(),
        damage in prop::collection::vec((any::<Index>(), 0u8..4, any::<u8>(), any::<String>()), 1..4),
    ) {
        let mut bytes = xml.into_bytes();
        for (place, kind, byte, text) in damage {
            if bytes.is_empty() {
                break;
            }
            let place = place.index(bytes.len());
            match kind {
                0 => bytes[place] ^= byte,
                1 => bytes.truncate(place),
                2 => drop(bytes.remove(place)),
                _ => drop(bytes.splice(place..place, text.into_bytes())),
            }
        }
        let text = String::from_utf8_lossy(&bytes);
        if let Err(error) = parse(&text) {
            prop_assert!(is_one_line(&error));
        }
        let _ = metadata_element(&text);
    }

    #[test]
    fn requests_round_trip(request in any_request()) {
        let def = parse(&asking(&request.to_xml("vgpu:device"))).unwrap();
        prop_assert_eq!(def.requests, [request]);
    }
}
