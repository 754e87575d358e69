//! Which functions are chosen, on a GPU of three.

use std::{fs, os::unix::fs::symlink, path::Path};

use tempfile::TempDir;

use super::*;
use crate::model::Handle;

const FUNCTIONS: [&str; 3] = ["0000:41:00.4", "0000:41:00.5", "0000:41:00.6"];

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn pci(root: &Path, address: &str) -> String {
    let devices = "sys/bus/pci/devices";
    let at = format!("{devices}/{address}");
    write(root, &format!("{at}/vendor"), "0x10de\n");
    write(root, &format!("{at}/class"), "0x030200\n");
    write(root, &format!("{at}/device"), "0x26b9\n");
    let driver = "sys/bus/pci/drivers/nvidia";
    fs::create_dir_all(root.join(driver)).unwrap();
    symlink("../../drivers/nvidia", root.join(&at).join("driver")).unwrap();
    symlink(
        format!("../../devices/{address}"),
        root.join(driver).join(address),
    )
    .unwrap();
    at
}

/// An L40S that holds four 12Q, without NVML.
fn host() -> (TempDir, Host) {
    let dir = TempDir::new().unwrap();
    let root = dir.path();
    pci(root, "0000:41:00.0");
    for function in FUNCTIONS {
        let at = pci(root, function);
        symlink("../0000:41:00.0", root.join(&at).join("physfn")).unwrap();
        write(root, &format!("{at}/nvidia/current_vgpu_type"), "0\n");
        write(
            root,
            &format!("{at}/nvidia/creatable_vgpu_types"),
            "ID    : vGPU Name\n1153  : NVIDIA L40S-12Q\n",
        );
    }
    let host = Host::new(root);
    (dir, host)
}

fn pool() -> Pool {
    let text = "kind = 'nvidia-vgpu'\nprofile = 'L40S-12Q'\n[[rule]]\n\
                where = [{ field = 'vendor-id', op = 'equal', value = '10de' }]";
    config::parse("cad".parse().unwrap(), "cad.toml".as_ref(), text).unwrap()
}

/// Each named by as many domains as it is listed.
fn reserved(functions: &[&str]) -> Reserved {
    let mut reserved = Reserved::default();
    for at in functions {
        reserved.add(at.parse().unwrap(), &"other".parse().unwrap());
    }
    reserved
}

/// The functions for one device of each name, or the error.
fn chosen(host: &Host, reserved: &Reserved, names: &[&str]) -> String {
    let def = domain::parse(
        "<domain><name>d</name><uuid>aaaaaaaa-0000-4000-8000-000000000001</uuid></domain>",
    );
    let names: Vec<DeviceName> = names.iter().map(|name| name.parse().unwrap()).collect();
    let pool = pool();
    match choose(host, reserved, &def.unwrap(), &pool, &names) {
        Ok(chosen) => chosen
            .iter()
            .map(|card| match card.first.handle {
                Handle::Mdev(_) => "mdev ".to_owned(),
                Handle::Pci(function) => format!("{function} "),
            })
            .collect(),
        Err(error) => format!("{error:#}"),
    }
}

#[test]
fn functions_that_no_other_domain_names_come_first() {
    let [first, second, third] = FUNCTIONS;
    let (_dir, host) = host();
    let chosen = |taken: &[&str], names: &[&str]| chosen(&host, &reserved(taken), names);
    assert_eq!(chosen(&[], &["gpu0"]), format!("{first} "));
    assert_eq!(chosen(&[], &["gpu0", "gpu1"]), format!("{first} {second} "));
    // A second domain gets another one.
    assert_eq!(chosen(&[first], &["gpu0"]), format!("{second} "));
    assert_eq!(chosen(&[first, third], &["gpu0"]), format!("{second} "));
    // More domains than functions share them, as evenly as can be: the first one that
    // starts gets the function.
    assert_eq!(chosen(&FUNCTIONS, &["gpu0"]), format!("{first} "));
    let unevenly = [first, second, third, first, third];
    assert_eq!(chosen(&unevenly, &["gpu0"]), format!("{second} "));
    assert_eq!(
        chosen(&unevenly, &["gpu0", "gpu1"]),
        format!("{first} {second} ")
    );
    let unevenly = [&unevenly[..], &[second, first]].concat();
    assert_eq!(
        chosen(&unevenly, &["gpu0", "gpu1"]),
        format!("{second} {third} ")
    );
    assert_eq!(
        chosen(&[], &["a", "b", "c", "d"]),
        "pool 'cad' has only 3 devices that domain 'd' does not have already"
    );
}

#[test]
fn functions_with_a_type_come_last() {
    let [first, second, third] = FUNCTIONS;
    let (dir, host) = host();
    let is_vgpu = |function: &str| {
        let nvidia = format!("sys/bus/pci/devices/{function}/nvidia");
        write(dir.path(), &format!("{nvidia}/current_vgpu_type"), "1153\n");
        write(dir.path(), &format!("{nvidia}/creatable_vgpu_types"), "");
    };
    is_vgpu(first);
    assert_eq!(
        chosen(&host, &reserved(&[]), &["gpu0"]),
        format!("{second} ")
    );
    // A free and reserved function comes before a taken one.
    is_vgpu(third);
    assert_eq!(
        chosen(&host, &reserved(&[second]), &["gpu0"]),
        format!("{second} ")
    );
    assert_eq!(
        chosen(&host, &reserved(&[second, second, first]), &["gpu0"]),
        format!("{second} ")
    );
    // Nothing is free now, but may be when the domain starts.
    is_vgpu(second);
    assert_eq!(
        chosen(&host, &reserved(&[first]), &["gpu0"]),
        format!("{second} ")
    );
}

#[test]
fn a_mediated_device_is_to_qemu_what_its_type_is() {
    let dir = TempDir::new().unwrap();
    let parent = "sys/class/mdev_bus/matrix";
    let pool = "kind = 'mdev'\ntype = 'VFIO AP Passthrough Device'\n[[rule]]\n\
                where = [{ field = 'address', op = 'equal', value = 'matrix' }]";
    let pool = config::parse("cad".parse().unwrap(), "cad.toml".as_ref(), pool).unwrap();
    let def = domain::parse(
        "<domain><name>d</name><uuid>aaaaaaaa-0000-4000-8000-000000000001</uuid></domain>",
    );
    let (def, names) = (def.unwrap(), ["gpu0".parse().unwrap()]);
    let host = Host::new(dir.path());
    let chosen = || choose(&host, &Reserved::default(), &def, &pool, &names);
    let mdevs = |model| mdev_placeholders(def.uuid, &names, model);
    // A missing device cannot be asked.
    assert_eq!(chosen().unwrap(), mdevs(MdevModel::VfioPci));
    let of_type = format!("{parent}/mdev_supported_types/vfio_ap-passthrough");
    write(
        dir.path(),
        &format!("{of_type}/name"),
        "VFIO AP Passthrough Device\n",
    );
    write(dir.path(), &format!("{of_type}/available_instances"), "1\n");
    write(dir.path(), &format!("{of_type}/device_api"), "vfio-ap\n");
    assert_eq!(chosen().unwrap(), mdevs(MdevModel::VfioAp));
    write(dir.path(), &format!("{of_type}/device_api"), "vfio-amba\n");
    let error = format!("{:#}", chosen().unwrap_err());
    assert_eq!(
        error,
        "pool 'cad': /sys/class/mdev_bus/matrix/mdev_supported_types/vfio_ap-passthrough/device_api: \
         'vfio-amba' is not an interface by which libvirt gives mediated devices to VMs \
         (vfio-pci, vfio-ccw, vfio-ap)"
    );
}
