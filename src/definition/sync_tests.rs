//! Tests the changes of definitions as plain data: libvirt on the test machine does not
//! accept virtual functions.

use super::*;
use crate::{definition::Definition, host::Host};

const UUID: &str = "aaaaaaaa-0000-4000-8000-000000000001";

fn definition(requests: &str, devices: &str) -> Definition {
    let xml = format!(
        "<domain><name>d</name><uuid>{UUID}</uuid><metadata>\
         <v:devices xmlns:v='urn:virt-vgpu:devices:1'>{requests}</v:devices></metadata>\
         <devices>{devices}</devices></domain>"
    );
    Definition::read(xml).unwrap()
}

fn function(address: &str) -> PciAddress {
    address.parse().unwrap()
}

fn name(text: &str) -> DeviceName {
    text.parse().unwrap()
}

fn hostdev(device: &str, address: &str) -> String {
    Hostdev::placeholder(function(address), &name(device)).to_xml()
}

/// vGPU pools with those names.
fn pools(names: &[&str]) -> Pools {
    let root = tempfile::TempDir::new().unwrap();
    let files = root.path().join("etc/virt-vgpu/pools.d");
    std::fs::create_dir_all(&files).unwrap();
    let host = Host::new(root.path());
    let load = |pool: &&str| {
        let text = match *pool {
            "plugged" => "kind = 'pci'\n[pci]\nplaceholder = 'hotplug'\n",
            _ => "kind = 'nvidia-vgpu'\nprofile = 'L40S-12Q'\n",
        };
        std::fs::write(files.join(format!("{pool}.toml")), text).unwrap();
        let pool: PoolName = pool.parse().unwrap();
        (pool.clone(), config::load_pool(&host, &pool))
    };
    Pools {
        pools: names.iter().map(load).collect(),
        models: BTreeMap::new(),
        cards: BTreeMap::new(),
    }
}

/// Functions on bus `3b`, the lowest ones that are not in the planned definition.
fn next_functions(
    planned: &DomainDef,
    _: &Pool,
    names: &[DeviceName],
) -> anyhow::Result<Vec<Card>> {
    let all = (0..8).map(|number| function(&format!("0000:3b:00.{number}")));
    let is_free = |one: &PciAddress| planned.functions().all(|taken| taken != *one);
    let chosen = all.filter(is_free).zip(names);
    Ok(chosen
        .map(|(function, name)| Hostdev::placeholder(function, name).into())
        .collect())
}

fn done(work: &Work) -> Vec<String> {
    work.done.iter().map(ToString::to_string).collect()
}

#[test]
fn devices_of_several_pools_get_a_function_each() {
    let definition = definition(
        "<v:device name='a' pool='one'/><v:device name='b' pool='two'/><v:device name='c' pool='one'/>",
        &hostdev("b", "0000:3b:00.1"),
    );
    let work = work_out(&definition, &pools(&["one", "two"]), next_functions).unwrap();
    assert_eq!(
        done(&work),
        [
            "attached a (0000:3b:00.0) from pool one",
            "attached c (0000:3b:00.2) from pool one"
        ]
    );
    assert_eq!(work.changes.len(), 2);
    assert!(work.problems.is_empty());
}

#[test]
fn a_function_that_nothing_asks_for_goes_before_another_device_takes_it() {
    let definition = definition(
        "<v:device name='a' pool='one'/>",
        &(hostdev("old", "0000:3b:00.0") + &hostdev("a-hand", "0000:3b:00.3")),
    );
    let work = work_out(&definition, &pools(&["one"]), next_functions).unwrap();
    assert_eq!(
        done(&work),
        [
            "removed the hostdev of old, which no request asks for",
            "removed the hostdev of a-hand, which no request asks for",
            "attached a (0000:3b:00.0) from pool one"
        ]
    );
    let detached = |change: &Change| matches!(change, Change::Detach(_));
    assert_eq!(
        work.changes.iter().map(detached).collect::<Vec<_>>(),
        [true, true, false]
    );
}

#[test]
fn functions_of_others_and_those_that_libvirt_binds_are_left_alone() {
    let address = "<source><address domain='0' bus='0x3b' slot='0' function='0x0'/></source>";
    let plain = |managed: &str, alias: &str| {
        format!(
            "<hostdev mode='subsystem' type='pci' managed='{managed}'>{address}\
             <alias name='{alias}'/></hostdev>"
        )
    };
    let devices = plain("yes", "ua-vgpu-x") + &plain("no", "ua-y") + &plain("no", "ua-vgpu-X");
    let work = work_out(&definition("", &devices), &pools(&[]), next_functions).unwrap();
    assert!(work.changes.is_empty() && work.done.is_empty());
}

#[test]
fn a_pool_without_a_device_harms_no_other() {
    let definition = definition(
        "<v:device name='a' pool='one'/><v:device name='b' pool='two'/>",
        "",
    );
    let choose = |planned: &DomainDef, pool: &Pool, names: &[DeviceName]| {
        anyhow::ensure!(pool.name.as_str() != "one", "pool 'one' is empty");
        next_functions(planned, pool, names)
    };
    let work = work_out(&definition, &pools(&["one", "two"]), choose).unwrap();
    assert_eq!(done(&work), ["attached b (0000:3b:00.0) from pool two"]);
    assert_eq!(work.problems, ["pool 'one' is empty"]);
}

#[test]
fn a_second_look_finds_nothing_to_do() {
    let requests = "<v:device name='a' pool='one'/>";
    let devices = hostdev("a", "0000:3b:00.0");
    let work = work_out(
        &definition(requests, &devices),
        &pools(&["one"]),
        next_functions,
    )
    .unwrap();
    assert!(work.changes.is_empty() && work.done.is_empty() && work.problems.is_empty());
}

#[test]
fn a_device_that_may_be_missing_has_no_placeholder() {
    let requests = "<v:device name='a' pool='one' optional='yes'/><v:device name='b' pool='one' optional='yes'/>\
                    <v:device name='c' pool='one' optional='yes'/>";
    let own = MdevUuid::for_device(UUID.parse().unwrap(), &name("b"));
    let mdev = |uuid: MdevUuid, device: &str| Hostdev::placeholder(uuid, &name(device)).to_xml();
    let foreign = "cccccccc-0000-4000-8000-000000000001".parse().unwrap();
    let devices = hostdev("a", "0000:3b:00.0") + &mdev(own, "b") + &mdev(foreign, "c");
    let work = work_out(
        &definition(requests, &devices),
        &pools(&["one"]),
        next_functions,
    )
    .unwrap();
    let later =
        |name| format!("removed the hostdev of {name}, which is optional and is plugged in later");
    assert_eq!(done(&work), ["a", "b", "c"].map(later));
    let detached = |change: &Change| matches!(change, Change::Detach(_));
    assert!(work.changes.len() == 3 && work.changes.iter().all(detached));
}

/// Whatever the request says: the hook would refuse a start without a placeholder.
#[test]
fn a_device_that_is_plugged_in_later_is_optional() {
    let requests = "<v:device name='a' pool='plugged'/><v:device name='b' pool='plugged' optional='no'/>\
                    <v:device name='c' pool='one' optional='no'/>";
    let work = work_out(
        &definition(requests, ""),
        &pools(&["one", "plugged"]),
        next_functions,
    )
    .unwrap();
    assert_eq!(
        done(&work),
        [
            "a is optional, as its pool says",
            "b is optional, as its pool says",
            "attached c (0000:3b:00.0) from pool one",
        ]
    );
}

#[test]
fn a_cdrom_without_a_target_keeps_no_device_out() {
    let letters = || ('a'..='z').map(String::from);
    let pairs = letters().flat_map(|first| letters().map(move |second| format!("{first}{second}")));
    let disk =
        |end: String| format!("<disk device='disk'><target dev='sd{end}' bus='sata'/></disk>");
    let devices: String = letters().chain(pairs).map(disk).collect();
    let requests = "<v:device name='a' pool='one' guest-drivers='yes'/>";
    let work = work_out(
        &definition(requests, &devices),
        &pools(&["one"]),
        next_functions,
    )
    .unwrap();
    assert_eq!(done(&work), ["attached a (0000:3b:00.0) from pool one"]);
    assert_eq!(work.changes.len(), 1);
    assert!(work.has_all_devices);
    assert_eq!(
        work.problems,
        ["cannot provide the CD-ROM with guest drivers: no free target for a CD-ROM on bus 'sata'"]
    );
}

#[test]
fn requests_that_changed_meanwhile_are_not_written_over() {
    let requests = "<v:device name='a' pool='one'/>";
    let read = definition(requests, "");
    let elsewhere = definition(requests, &hostdev("a", "0000:3b:00.0"));
    assert!(is_unchanged(&read, &elsewhere.xml).is_ok());
    let wanted = "somebody has changed its requests meanwhile, and nothing was done; try again";
    for other in ["", "<v:device name='a' pool='two'/>"] {
        let changed = definition(other, "");
        let error = is_unchanged(&read, &changed.xml).unwrap_err();
        assert_eq!(error.to_string(), wanted);
    }
}

#[test]
fn a_function_that_cannot_move_says_what_to_do() {
    let synced = Synced {
        domain: "d".parse().unwrap(),
        domain_uuid: UUID.parse().unwrap(),
        done: Vec::new(),
        stuck: vec![Stuck {
            device: name("a"),
            function: function("0000:3b:00.0"),
            reason: "domain 'e' has it".to_owned(),
        }],
        problems: Vec::new(),
    };
    assert_eq!(
        synced.complaints(),
        [
            "a stays at 0000:3b:00.0, and nothing else is free: domain 'e' has it; stop a domain \
          that uses the pool, or add devices to it"
        ]
    );
}

#[test]
fn a_hostdev_gets_the_model_of_its_type() {
    let (device, uuid) = (
        name("a"),
        MdevUuid::for_device(UUID.parse().unwrap(), &name("a")),
    );
    let of = |model| Hostdev::mdev_placeholder(uuid, &device, model).to_xml();
    let mut pools = pools(&["one"]);
    pools
        .models
        .insert("one".parse().unwrap(), MdevModel::VfioAp);
    let sync = |hostdev: &str| {
        let definition = definition("<v:device name='a' pool='one'/>", hostdev);
        work_out(&definition, &pools, next_functions).unwrap()
    };
    let right = of(MdevModel::VfioAp);
    assert!(!right.contains("display"), "{right}");
    assert_eq!(done(&sync(&right)), [""; 0]);
    let work = sync(&of(MdevModel::VfioPci));
    assert_eq!(
        done(&work),
        ["gave the hostdev of a model='vfio-ap', which its type needs"]
    );
    let [Change::Detach(old), Change::Attach(new)] = work.changes.as_slice() else {
        panic!("{:?}", work.changes);
    };
    assert_eq!((&old.whole, &new.whole), (&of(MdevModel::VfioPci), &right));
}

/// A definition of a device at 0000:02:00.0, with these other functions in the XML.
fn card(others: &[u8]) -> Definition {
    let device = |alias: &str, function: u8, more: &str| {
        format!(
            "<hostdev mode='subsystem' type='pci' managed='no'><source><address bus='0x02' slot='0x00' \
             function='{function}'/></source><alias name='{alias}'/><address type='pci' bus='0x05' \
             slot='0x00' function='0x{function}'{more}/></hostdev>"
        )
    };
    let first = device(
        "ua-vgpu-a",
        0,
        if others.is_empty() {
            ""
        } else {
            " multifunction='on'"
        },
    );
    let others = others
        .iter()
        .map(|n| device(&format!("ua-vgpu-a_{n}"), *n, ""));
    definition(
        "<v:device name='a' pool='one'/>",
        &(first + &others.collect::<String>()),
    )
}

fn completed(definition: &Definition, others: &[u8]) -> Work {
    let of_card = |number: &u8| function(&format!("0000:02:00.{number}"));
    let first = definition.def.function_of(&name("a")).unwrap().clone();
    let card = Card {
        first,
        others: others.iter().map(of_card).collect(),
    };
    let pools = Pools {
        cards: BTreeMap::from([(name("a"), card)]),
        ..pools(&["one"])
    };
    work_out(definition, &pools, next_functions).unwrap()
}

#[test]
fn a_device_has_all_functions_of_its_card_and_no_other() {
    for (has, wanted, edits) in [
        (
            &[][..],
            &[1, 2][..],
            &[
                "-hostdev 'a'",
                "+hostdev 'a'",
                "+hostdev 'a_1'",
                "+hostdev 'a_2'",
            ][..],
        ),
        (&[1], &[1, 2], &["+hostdev 'a_2'"]),
        (&[1, 3], &[1], &["-hostdev 'a_3'"]),
        (&[1, 2], &[1, 2], &[]),
        (&[], &[], &[]),
    ] {
        let work = completed(&card(has), wanted);
        let said: Vec<String> = work
            .changes
            .iter()
            .map(|change| match change {
                Change::Attach(device) => format!("+{}", device.what),
                Change::Detach(device) => format!("-{}", device.what),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(said, edits, "{has:?} {wanted:?}");
        let functions: Vec<String> = [&[0], wanted]
            .concat()
            .iter()
            .map(|n| format!("0000:02:00.{n}"))
            .collect();
        let line = format!("a gets the functions {} on one slot", functions.join(", "));
        let lines = if edits.is_empty() { vec![] } else { vec![line] };
        assert_eq!(done(&work), lines);
    }
}

#[test]
fn other_functions_go_with_their_request() {
    let whole = card(&[1, 2]);
    let without = definition("", "");
    let devices = whole.xml.split_once("<devices>").unwrap().1;
    let rest = without.xml.split_once("<devices>").unwrap().0;
    let definition = Definition::read(format!("{rest}<devices>{devices}")).unwrap();
    let work = work_out(&definition, &pools(&[]), next_functions).unwrap();
    assert_eq!(work.changes.len(), 3, "{:?}", work.changes);
    assert!(
        work.changes
            .iter()
            .all(|change| matches!(change, Change::Detach(_)))
    );
}
