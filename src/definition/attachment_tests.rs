use super::*;
use crate::config;
use crate::definition::mdev_placeholders;
use crate::model::MdevModel;

fn pool(extra: &str) -> Pool {
    let text = format!("kind = 'mdev'\ntype = 'nvidia-558'\n{extra}");
    config::parse("cad".parse().unwrap(), "cad.toml".as_ref(), &text).unwrap()
}

fn definition(requests: &str, devices: &str) -> Definition {
    let xml = format!(
        "<domain><name>d</name><uuid>aaaaaaaa-0000-4000-8000-000000000001</uuid>\
         <metadata><v:devices xmlns:v='urn:virt-vgpu:devices:1'>{requests}</v:devices></metadata>\
         <devices>{devices}</devices></domain>"
    );
    Definition::read(xml).unwrap()
}

/// `NAME request hostdev` for each device, or the error.
fn outcome(definition: &Definition, pool: &Pool, name: Option<&str>, count: usize) -> String {
    let name = name.map(|name| name.parse().unwrap());
    let to_attach = AttachRequest {
        pool,
        name: name.as_ref(),
        count,
        guest_drivers: false,
        together: None,
    };
    let line = |one: &FilledDevice| format!("{} {:?} {:?}", one.name, one.request, one.hostdev);
    let mdevs = |names: &[DeviceName]| {
        Ok(mdev_placeholders(
            definition.def.uuid,
            names,
            MdevModel::VfioPci,
        ))
    };
    match Attachment::work_out(definition, &to_attach, mdevs) {
        Ok(attachment) => {
            let lines: Vec<String> = attachment.devices.iter().map(line).collect();
            lines.join(", ")
        }
        Err(error) => error.to_string(),
    }
}

fn hostdev(uuid: &str, alias: &str) -> String {
    format!(
        "<hostdev mode='subsystem' type='mdev' model='vfio-pci'><source><address uuid='{uuid}'/>\
         </source><alias name='{alias}'/></hostdev>"
    )
}

#[test]
fn requests_of_the_pool_count_and_new_ones_fill_the_gaps() {
    let requests = "<v:device name='gpu1' pool='cad'/><v:device name='gpu0' pool='render'/>";
    let domain = definition(requests, "");
    let cad = pool("");
    for (name, count, wanted) in [
        (None, 1, "gpu1 Unchanged Added"),
        (None, 2, "gpu1 Unchanged Added, gpu2 Added Added"),
        (Some("x"), 1, "x Added Added"),
        (Some("x"), 2, "x-0 Added Added, x-1 Added Added"),
        (Some("gpu1"), 1, "gpu1 Unchanged Added"),
        (
            Some("gpu0"),
            1,
            "the domain has a device 'gpu0' of pool 'render'; detach it or choose another name",
        ),
        (
            Some("abcdefghijklmnopqrstuvwxyz-01234"),
            2,
            "'abcdefghijklmnopqrstuvwxyz-01234-0' is not a device name (1 to 32 of a-z, 0-9 and '-')",
        ),
    ] {
        assert_eq!(outcome(&domain, &cad, name, count), wanted, "{name:?}");
    }
}

#[test]
fn hostdevs_of_ours_are_taken_up_and_others_left_alone() {
    let uuid = |name: &str| {
        let domain = "aaaaaaaa-0000-4000-8000-000000000001".parse().unwrap();
        MdevUuid::for_device(domain, &name.parse().unwrap()).to_string()
    };
    let foreign = "11111111-2222-5333-8444-555555555555";
    let cad = pool("");
    for (devices, wanted) in [
        (
            hostdev(&uuid("gpu0"), "ua-vgpu-gpu0"),
            "gpu0 Added Unchanged",
        ),
        (hostdev(&uuid("gpu0"), "ua-mine"), "gpu0 Added Unchanged"),
        (hostdev(foreign, "ua-vgpu-gpu0"), "gpu0 Added Mended"),
        // A foreign device with our alias, or our UUID under another name.
        (hostdev(&uuid("gpu0"), "ua-vgpu-x"), "gpu1 Added Added"),
        (
            "<input type='tablet' bus='usb'><alias name='ua-vgpu-gpu0'/></input>".to_owned(),
            "gpu1 Added Added",
        ),
    ] {
        let domain = definition("", &devices);
        assert_eq!(outcome(&domain, &cad, None, 1), wanted, "{devices}");
    }
}

#[test]
fn the_pools_default_makes_devices_optional_but_not_those_with_a_hostdev() {
    let spare = pool("[defaults]\noptional = true");
    for (request, wanted) in [
        ("", "gpu0 Added Later"),
        ("<v:device name='gpu0' pool='cad'/>", "gpu0 Changed Later"),
        (
            "<v:device name='gpu0' pool='cad' optional='no'/>",
            "gpu0 Unchanged Added",
        ),
        (
            "<v:device name='gpu0' pool='cad' optional='yes'/>",
            "gpu0 Unchanged Later",
        ),
    ] {
        assert_eq!(outcome(&definition(request, ""), &spare, None, 1), wanted);
    }
    let cloned = hostdev("11111111-2222-5333-8444-555555555555", "ua-vgpu-gpu0");
    let domain = definition("<v:device name='gpu0' pool='cad'/>", &cloned);
    assert_eq!(outcome(&domain, &spare, None, 1), "gpu0 Unchanged Mended");
}
