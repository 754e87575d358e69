//! Whether a function is taken is never guessed.

use std::{fs, os::unix::fs::symlink};

use tempfile::TempDir;

use super::*;
use crate::claims::{Claim, DIRECTORY, QUARANTINE};

const GPU: &str = "/sys/bus/pci/devices/0000:41:00.0";
const FUNCTION: &str = "/sys/bus/pci/devices/0000:41:00.4";
const OTHER: &str = "bbbbbbbb-0000-4000-8000-000000000002";

fn host() -> (TempDir, Host) {
    let root = TempDir::new().unwrap();
    let host = Host::new(root.path());
    (root, host)
}

fn put(host: &Host, path: &str, text: &str) {
    let path = host.path(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// A free function of an L40S, and a pool that takes it.
fn with_function() -> (TempDir, Host) {
    let (root, host) = host();
    for function in [GPU, FUNCTION] {
        put(&host, &format!("{function}/vendor"), "0x10de\n");
        put(&host, &format!("{function}/device"), "0x26b9\n");
        put(&host, &format!("{function}/class"), "0x030200\n");
    }
    symlink("../0000:41:00.0", host.path(&format!("{FUNCTION}/physfn"))).unwrap();
    let nvidia = format!("{FUNCTION}/nvidia");
    put(&host, &format!("{nvidia}/current_vgpu_type"), "0\n");
    let list = "ID    : vGPU Name\n1153  : NVIDIA L40S-12Q\n";
    put(&host, &format!("{nvidia}/creatable_vgpu_types"), list);
    let pool = "kind = 'nvidia-vgpu'\nprofile = 'L40S-12Q'\n[[rule]]\n\
                where = [{ field = 'vendor-id', op = 'equal', value = '10de' }]\n";
    put(&host, "/etc/virt-vgpu/pools.d/cad.toml", pool);
    (root, host)
}

fn domain() -> DomainDef {
    let hostdev =
        Hostdev::placeholder("0000:41:00.4".parse::<PciAddress>().unwrap(), &name()).to_xml();
    domain::parse(&format!(
        "<domain><name>d</name><uuid>aaaaaaaa-0000-4000-8000-000000000001</uuid><metadata>\
         <v:devices xmlns:v='urn:virt-vgpu:devices:1'><v:device name='gpu0' pool='cad'/>\
         </v:devices></metadata><devices>{hostdev}</devices></domain>"
    ))
    .unwrap()
}

fn name() -> DeviceName {
    "gpu0".parse().unwrap()
}

fn taken(host: &Host) -> Result<bool, String> {
    let function = Placeholder::Function("0000:41:00.4".parse().unwrap());
    let taken = is_taken(host, &domain(), &function);
    taken.map_err(|error| format!("{error:#}"))
}

#[test]
fn what_cannot_be_read_is_not_taken_for_free() {
    let (_root, host) = with_function();
    assert_eq!(taken(&host), Ok(false));
    let current = format!("{FUNCTION}/nvidia/current_vgpu_type");
    put(&host, &current, "1153\n");
    assert_eq!(taken(&host), Ok(true));
    fs::remove_file(host.path(&current)).unwrap();
    // It is gone, so it belongs to nobody.
    assert_eq!(taken(&host), Ok(false));
    fs::create_dir(host.path(&current)).unwrap();
    let why = format!("{current}: Is a directory (os error 21)");
    assert_eq!(taken(&host), Err(why));
    fs::remove_dir(host.path(&current)).unwrap();

    put(&host, DIRECTORY, "");
    let why = format!("cannot read the claims: {DIRECTORY}: Not a directory (os error 20)");
    assert_eq!(taken(&host), Err(why));
    fs::remove_file(host.path(DIRECTORY)).unwrap();
    let claim = Claim::path(OTHER.parse().unwrap());
    put(
        &host,
        &claim,
        "{\"devices\": [{\"parent\": \"0000:41:00.4\"",
    );
    assert_eq!(taken(&host), Ok(true));
    fs::remove_file(host.path(&claim)).unwrap();

    put(&host, QUARANTINE, "");
    let why = format!("cannot read the quarantine: {QUARANTINE}: Not a directory (os error 20)");
    assert_eq!(taken(&host), Err(why));
    fs::remove_file(host.path(QUARANTINE)).unwrap();
    put(&host, &format!("{QUARANTINE}/0000:41:00.4.json"), "");
    assert_eq!(taken(&host), Ok(true));
}

#[test]
fn a_plan_that_cannot_be_made_is_no_sign_that_all_is_well() {
    let (_root, host) = with_function();
    let def = domain();
    let order = &devices_wanted(&def).unwrap()[0];
    let refused = || {
        let refusal = refusal(&host, &def, order).map_err(|error| format!("{error:#}"));
        refusal.map(|found| found.map(|blocked| blocked.reason))
    };
    assert_eq!(refused(), Ok(None));
    put(&host, QUARANTINE, "");
    let why = format!("cannot read the claims: {QUARANTINE}: Not a directory (os error 20)");
    assert_eq!(refused(), Err(why));
}
