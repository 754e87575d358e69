use super::*;
use crate::{
    domain::{self, Hostdev},
    model::PciAddress,
};

fn domain(requests: &str, devices: &str) -> DomainDef {
    domain::parse(&format!(
        "<domain><name>d</name><uuid>aaaaaaaa-0000-4000-8000-000000000001</uuid><metadata>\
         <v:devices xmlns:v='urn:virt-vgpu:devices:1'>{requests}</v:devices></metadata>\
         <devices>{devices}</devices></domain>"
    ))
    .unwrap()
}

#[test]
fn optional_devices_are_those_without_a_hostdev() {
    let name = |text: &str| text.parse::<DeviceName>().unwrap();
    let uuid = MdevUuid::for_device(domain("", "").uuid, &name("b"));
    let def = domain(
        "<v:device name='a' pool='p' optional='yes'/><v:device name='b' pool='p' optional='yes'/>\
         <v:device name='c' pool='p'/><v:device name='d' pool='p' optional='yes'/>",
        &(Hostdev::placeholder(uuid, &name("b")).to_xml()
            + &Hostdev::placeholder("0000:3b:00.4".parse::<PciAddress>().unwrap(), &name("d"))
                .to_xml()),
    );
    assert_eq!(optional(&def).collect::<Vec<_>>(), [&name("a")]);
    let missing = |names: &[&str]| {
        let names: Vec<_> = names.iter().map(|text| name(text)).collect();
        let found = super::missing(&def, &names);
        found.map(|found| found.into_iter().map(|one| one.name).collect::<Vec<_>>())
    };
    assert_eq!(
        missing(&["a", "b", "c", "d"]).unwrap(),
        [name("a"), name("c")]
    );
    assert_eq!(
        missing(&["x"]).unwrap_err().to_string(),
        "domain 'd' runs without a request for device 'x'; 'virt-vgpu attach d --live' makes one"
    );
}

/// A pulled device is plugged in again. A device that was only partly made, or is being
/// removed, did not belong to the guest.
#[test]
fn a_domain_lacks_what_was_pulled_and_not_what_is_leaving() {
    let directory = tempfile::tempdir().unwrap();
    let host = Host::new(directory.path());
    let def = domain(
        "<v:device name='a' pool='p'/><v:device name='b' pool='p'/>\
         <v:device name='c' pool='p' optional='yes'/>",
        "",
    );
    let name = |text: &str| text.parse::<DeviceName>().unwrap();
    assert_eq!(lacking(&host, &def, None), [name("c")]);
    let mut claim = Claim::of_running(&host, (def.uuid, def.name.clone()));
    let device = |text: &str| -> ClaimedDevice {
        let written = serde_json::json!({
            "name": text, "pool": "p", "kind": "mdev", "parent": "0000:3b:00.0",
            "uuid": MdevUuid::for_device(def.uuid, &name(text)), "type": "nvidia-558",
        });
        serde_json::from_value(written).unwrap()
    };
    claim.devices = vec![device("a"), device("b")];
    claim.leaving = vec![name("b")];
    assert_eq!(lacking(&host, &def, Some(&claim)), [name("a"), name("c")]);
}

#[test]
fn what_could_not_be_undone_is_said_whatever_the_error() {
    let cause = || Attach::Other(anyhow!("not XML").context("its hostdev cannot be read"));
    let hint = |_: &LibvirtError| String::new();
    let text = |failures: &[&str]| {
        let failures = failures.iter().map(ToString::to_string).collect();
        cause().with(hint, failures).to_string()
    };
    assert_eq!(text(&[]), "its hostdev cannot be read: not XML");
    assert_eq!(
        text(&["a is busy", "b too"]),
        "its hostdev cannot be read: not XML; undoing the earlier changes failed too: \
         a is busy; b too"
    );
}

#[test]
fn a_pool_beside_that_cannot_be_read_is_not_passed_over() {
    let directory = tempfile::tempdir().unwrap();
    let host = Host::new(directory.path());
    let def = domain("", "");
    let written = serde_json::json!({
        "name": "a", "pool": "p", "kind": "vendor-vfio", "parent": "0000:41:00.4",
        "uuid": MdevUuid::for_device(def.uuid, &"a".parse().unwrap()), "type": "1153",
    });
    let held: [ClaimedDevice; 1] = [serde_json::from_value(written).unwrap()];
    let beside = || {
        let pools = pools(&host, &def, &held).map_err(|error| error.to_string());
        pools.map(|pools| pools.len())
    };
    // The pool was deleted.
    assert_eq!(beside(), Ok(0));
    let file = host.path("/etc/virt-vgpu/pools.d/p.toml");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    let good = "kind = 'nvidia-vgpu'\nprofile = 'L40S-12Q'\n[[rule]]\n\
                where = [{ field = 'vendor-id', op = 'equal', value = '10de' }]\n";
    std::fs::write(&file, good).unwrap();
    assert_eq!(beside(), Ok(1));
    std::fs::write(&file, good.replace("profile", "profil")).unwrap();
    let error = beside().unwrap_err();
    let start = "domain 'd' asks for a device of pool 'p': /etc/virt-vgpu/pools.d/p.toml:";
    assert!(error.starts_with(start), "{error}");
}
