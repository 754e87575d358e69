//! `attach` and `detach` with pools of NVIDIA's vGPUs, against a real libvirt and the
//! model of NVIDIA's driver. libvirt before 9.7 cannot pass such virtual functions to
//! VMs; there the refusal is tested.

use std::sync::LazyLock;

use lab_nvidia::model::Framework;
use virt_vgpu::{
    domain::{Hostdev, NAMESPACE},
    model::{MdevUuid, PciAddress},
};

use crate::support::{
    libvirtd::Libvirtd,
    machine::{Gpu, Machine},
    scene::Scene,
};

static LIBVIRTD: LazyLock<Libvirtd> = LazyLock::new(Libvirtd::start);

const GPU: &str = "0000:41:00.0";

fn scene(gpu: Gpu, profile: &str) -> Scene {
    let scene = Scene::new(Machine::of_gpus([gpu]));
    scene.vgpu_pool("cad", profile);
    scene
}

/// Defines a stopped domain; the number makes name and UUID.
fn define(number: u8, metadata: &str, devices: &str) -> String {
    let name = format!("vgpu{number}");
    LIBVIRTD.make(
        "define",
        &format!(
            "<domain type='qemu'><name>{name}</name><uuid>{}</uuid><metadata>{metadata}</metadata>\
             <memory unit='MiB'>32</memory><vcpu>1</vcpu>\
             <os><type arch='x86_64' machine='pc'>hvm</type></os>\
             <devices>{devices}</devices></domain>",
            uuid(number)
        ),
    );
    name
}

fn uuid(number: u8) -> String {
    format!("bbbbbbbb-0000-4000-8000-0000000000{number:02}")
}

/// Exit code, standard output and standard error.
fn run(scene: &Scene, verb: &str, domain: &str, arguments: &[&str]) -> (i32, String, String) {
    LIBVIRTD.virt_vgpu(scene.root(), &[&[verb, domain], arguments].concat())
}

#[track_caller]
fn done(scene: &Scene, verb: &str, domain: &str, arguments: &[&str]) -> String {
    let (code, out, error) = run(scene, verb, domain, arguments);
    assert_eq!((code, &*error), (0, ""), "{verb} {domain}: {out}");
    out
}

/// The error line of a command that fails and changes nothing.
#[track_caller]
fn refused(scene: &Scene, verb: &str, domain: &str, arguments: &[&str]) -> String {
    let before = LIBVIRTD.definition(domain);
    let (code, out, error) = run(scene, verb, domain, arguments);
    assert_eq!((code, &*out), (1, ""), "{verb} {domain}: {error}");
    assert_eq!(LIBVIRTD.definition(domain), before);
    let line = error.strip_suffix('\n').unwrap();
    assert!(!line.contains('\n'), "{line}");
    line.strip_prefix("virt-vgpu: ").unwrap().to_owned()
}

/// The version of libvirt, when it is too old for virtual functions.
fn too_old() -> Option<String> {
    let versions = LIBVIRTD.virsh(&["version"]);
    let mut lines = versions.lines();
    let version = lines.find_map(|line| line.strip_prefix("Using library: libvirt "));
    let version = version.unwrap().to_owned();
    let numbers: Vec<u32> = version.split('.').map(|n| n.parse().unwrap()).collect();
    (numbers < vec![9, 7, 0]).then_some(version)
}

#[test]
fn each_domain_is_given_a_function_of_its_own() {
    let scene = scene(Gpu::l40s(GPU).functions(4), "L40S-12Q");
    for (number, function) in [(1, "0000:41:00.4"), (2, "0000:41:00.5")] {
        let domain = define(number, "", "");
        if let Some(version) = too_old() {
            assert_eq!(
                refused(&scene, "attach", &domain, &["--pool", "cad"]),
                format!(
                    "cannot attach to domain '{domain}': on this host vGPUs are virtual functions \
                     of NVIDIA's own VFIO driver, which libvirt supports since 9.7; this is \
                     libvirt {version}: upgrade it"
                )
            );
            continue;
        }
        assert_eq!(
            done(&scene, "attach", &domain, &["--pool", "cad"]),
            format!(
                "attached gpu0 ({function}) from pool cad to {domain}; takes effect at the next \
                 start\n"
            )
        );
        let definition = LIBVIRTD.definition(&domain);
        for part in [
            "<hostdev mode='subsystem' type='pci' managed='no'>".to_owned(),
            format!("function='0x{}'/>", &function[11..]),
            "<alias name='ua-vgpu-gpu0'/>".to_owned(),
        ] {
            assert!(definition.contains(&part), "{part} is not in {definition}");
        }
    }
    scene.is_empty();
}

#[test]
fn detach_takes_the_function_out_with_its_request() {
    let scene = scene(Gpu::l40s(GPU).functions(4), "L40S-12Q");
    let function: PciAddress = "0000:41:00.4".parse().unwrap();
    let hostdev = Hostdev::placeholder(function, &"gpu0".parse().unwrap());
    let request = format!(
        "<vgpu:devices xmlns:vgpu='{NAMESPACE}'><vgpu:device name='gpu0' pool='cad'/></vgpu:devices>"
    );
    let domain = define(3, &request, &hostdev.to_xml());
    let attached = LIBVIRTD.definition(&domain);
    assert_eq!(
        done(&scene, "detach", &domain, &["--all"]),
        format!(
            "detached gpu0 (0000:41:00.4) of pool cad from {domain}; takes effect at the next \
             start\n"
        )
    );
    let wanted = replaced(&attached, ["    <hostdev ", "</hostdev>\n"], "");
    let wanted = replaced(&wanted, ["<metadata>", "</metadata>"], "<metadata/>");
    assert_eq!(LIBVIRTD.definition(&domain), wanted);
}

/// Replaces the first part of the text between `beginning` and `end`.
fn replaced(text: &str, [beginning, end]: [&str; 2], by: &str) -> String {
    let (before, rest) = text.split_once(beginning).unwrap();
    let (_, after) = rest.split_once(end).unwrap();
    format!("{before}{by}{after}")
}

#[test]
fn without_functions_there_is_nothing_to_name() {
    let gpu = Gpu::l40s(GPU).functions(4);
    let scene = scene(
        Gpu {
            enabled: false,
            ..gpu
        },
        "L40S-12Q",
    );
    let domain = define(4, "", "");
    assert_eq!(
        refused(&scene, "attach", &domain, &["--pool", "cad"]),
        format!(
            "cannot attach to domain '{domain}': no device on this host can serve pool 'cad': the \
             virtual functions of {GPU} do not exist yet, 'virt-vgpu host apply' creates them; see \
             'virt-vgpu pool preview cad'"
        )
    );
}

/// For vGPUs that are mediated devices any libvirt will do.
#[test]
fn a_vgpu_that_is_a_mediated_device_is_known_by_its_uuid() {
    let gpu = Gpu::new("a40", Framework::SriovMdev, GPU).functions(4);
    let scene = scene(gpu, "A40-12Q");
    let domain = define(5, "", "");
    let before = LIBVIRTD.definition(&domain);
    let name = "gpu0".parse().unwrap();
    let uuid = MdevUuid::for_device(uuid(5).parse().unwrap(), &name);
    assert_eq!(
        done(&scene, "attach", &domain, &["--pool", "cad"]),
        format!(
            "attached gpu0 (uuid {uuid}) from pool cad to {domain}; takes effect at the next start\n"
        )
    );
    // One VM can have vGPUs of only one series.
    scene.vgpu_pool("ai", "A40-12C");
    assert_eq!(
        refused(&scene, "attach", &domain, &["--pool", "ai"]),
        format!(
            "cannot attach to domain '{domain}': the vGPUs of one VM must have the same series, \
             but A40-12Q and A40-12C differ; choose another pool, or detach its devices"
        )
    );
    done(&scene, "detach", &domain, &["--all"]);
    assert_eq!(LIBVIRTD.definition(&domain), before);
    scene.is_empty();
}
