use proptest::prelude::*;

use super::*;
use crate::{
    domain::{NAMESPACE, excerpt::with_source, parse, request::tests::any_request},
    model::{MdevUuid, PciAddress},
};

const UUID: &str = "aaaaaaaa-0000-4000-8000-000000000001";

fn uuid() -> DomainUuid {
    UUID.parse().unwrap()
}

fn mdev(last: u8) -> MdevUuid {
    format!("614bc606-2078-5444-8c9c-4f8e98ae4d{last:02x}")
        .parse()
        .unwrap()
}

#[test]
fn a_uuid_goes_behind_the_name_and_only_where_there_is_none() {
    for (before, after) in [
        (
            "<domain>\n  <!-- <uuid/> -->\n  <name>a</name>\n  <memory/>\n</domain>\n",
            "<domain>\n  <!-- <uuid/> -->\n  <name>a</name>\n  <uuid>UUID</uuid>\n  <memory/>\n</domain>\n",
        ),
        (
            "<domain><metadata><uuid>x</uuid></metadata><name>a</name></domain>",
            "<domain><metadata><uuid>x</uuid></metadata><name>a</name><uuid>UUID</uuid></domain>",
        ),
        (
            "<domain>\r\n\t<name\r\n>a</name ></domain>",
            "<domain>\r\n\t<name\r\n>a</name >\r\n\t<uuid>UUID</uuid></domain>",
        ),
    ] {
        let filled = with_uuid(before, uuid()).unwrap();
        assert_eq!(filled, Some(after.replace("UUID", UUID)));
        assert_eq!(with_uuid(&filled.unwrap(), uuid()).unwrap(), None);
    }
    let error = with_uuid("<domain/>", uuid()).unwrap_err().to_string();
    assert_eq!(error, "<name> is missing");
    assert!(with_uuid("<domain>", uuid()).is_err());
}

#[test]
fn a_device_goes_behind_the_others_as_far_in_as_they_are() {
    for (before, after) in [
        (
            "<domain>\n  <devices>\n    <disk/>\n    <!-- last -->\n  </devices>\n</domain>",
            "<domain>\n  <devices>\n    <disk/>\n    <h>\n      <i/>\n    </h>\n    <!-- last -->\n  </devices>\n</domain>",
        ),
        (
            "<domain>\n  <devices>\n  </devices>\n</domain>",
            "<domain>\n  <devices>\n    <h>\n      <i/>\n    </h>\n  </devices>\n</domain>",
        ),
        (
            "<domain>\n  <devices />\n</domain>",
            "<domain>\n  <devices>\n    <h>\n      <i/>\n    </h>\n  </devices>\n</domain>",
        ),
        (
            "<domain>\n  <name>a</name>\n</domain>",
            "<domain>\n  <name>a</name>\n  <devices>\n    <h>\n      <i/>\n    </h>\n  </devices>\n</domain>",
        ),
        (
            "<domain><x><devices><a/></devices></x><devices><disk></disk></devices></domain>",
            "<domain><x><devices><a/></devices></x><devices><disk></disk><h>\n  <i/>\n</h></devices></domain>",
        ),
        (
            "<domain><devices/></domain>",
            "<domain><devices><h>\n  <i/>\n</h></devices></domain>",
        ),
        (
            "<domain></domain>",
            "<domain><devices><h>\n  <i/>\n</h></devices></domain>",
        ),
    ] {
        assert_eq!(with_device(before, "<h>\n  <i/>\n</h>").unwrap(), after);
    }
}

#[test]
fn what_a_device_leads_to_is_changed_alone() {
    let (gpu0, gpu1) = ("gpu0".parse().unwrap(), "gpu1".parse().unwrap());
    let function: PciAddress = "0000:3b:00.4".parse().unwrap();
    let domain = |devices: &str| format!("<domain><devices>\n  {devices}\n</devices></domain>");
    let its_mdev = Hostdev::placeholder(mdev(1), &gpu0);
    let its_function = Hostdev::placeholder(function, &gpu1);
    let on = |one: &Hostdev| one.to_xml().replace('\n', "\n  ");
    let before = domain(&(on(&its_mdev) + &on(&its_function)));
    let with_mdev = |old: &Hostdev| with_source(&before, old, mdev(2).into()).unwrap();
    assert_eq!(
        with_mdev(&its_mdev),
        Some(before.replace(&mdev(1).to_string(), &mdev(2).to_string()))
    );
    assert_eq!(with_mdev(&its_function), None);
    let other = Hostdev::bare(mdev(3).into());
    let with_other = |old: &Hostdev| with_hostdev(&before, old, &other).unwrap();
    assert_eq!(
        with_other(&its_function),
        Some(domain(&(on(&its_mdev) + &other.to_xml())))
    );
    assert_eq!(
        with_other(&its_mdev),
        Some(domain(&(on(&other) + &on(&its_function))))
    );
    assert_eq!(with_other(&Hostdev::placeholder(mdev(1), &gpu1)), None);

    let disk = |file: &str| {
        domain(&format!(
            "<disk device='cdrom'><source startupPolicy='optional' file=\"{file}\"/>\
             <target dev='sda'/></disk>"
        ))
    };
    assert_eq!(
        with_medium(&disk("/old"), "sda", "/a&b").unwrap(),
        Some(disk("/a&amp;b"))
    );
    assert_eq!(with_medium(&disk("/old"), "sdb", "/new").unwrap(), None);
    let empty = domain("<disk device='cdrom'><target dev='sda'/></disk>");
    assert_eq!(with_medium(&empty, "sda", "/new").unwrap(), None);
}

/// A document with requests, between elements that look like requests.
fn some_domain() -> impl Strategy<Value = (String, Vec<Request>)> {
    let filler = prop::sample::select(vec![
        "",
        "\n  ",
        "<!-- <v:device name='a'/> -->",
        "<o:x xmlns:o='o'/>",
        "\r\n\t",
    ]);
    let outside = any::<bool>();
    let parts = (
        prop::collection::vec((any_request(), filler.clone()), 1..5),
        filler,
        outside,
    );
    parts.prop_map(|(devices, filler, outside)| {
        let mut requests: Vec<Request> = Vec::new();
        let mut text = String::new();
        for (request, filler) in devices {
            text.push_str(filler);
            if requests.iter().all(|one| one.name != request.name) {
                text.push_str(&request.to_xml("v:device"));
                requests.push(request);
            }
        }
        let declaration = format!(" xmlns:v='{NAMESPACE}'");
        let (on_root, on_own) = match outside {
            true => (declaration.as_str(), ""),
            false => ("", declaration.as_str()),
        };
        let xml = format!(
            "<?xml version='1.0'?>\n<domain{on_root}>{filler}<name>a</name><metadata>{filler}\
             <v:devices{on_own}>{text}</v:devices></metadata>{filler}<devices>{filler}<disk>\
             <target dev='a'/></disk>{filler}</devices></domain>"
        );
        (xml, requests)
    })
}

/// Whether `long` becomes `short` when all extra copies of `part` are removed.
fn is_longer_by(long: &str, short: &str, part: &str) -> bool {
    let mut places = long.match_indices(part.trim());
    places.any(|(place, _)| {
        let before = long[..place].trim_end();
        let after = &long[place + part.trim().len()..];
        short.starts_with(before)
            && short.ends_with(after)
            && before.len() + after.len() <= short.len()
    })
}

proptest! {
    #[test]
    fn a_request_is_changed_and_nothing_else((xml, requests) in some_domain(), new in any_request(), which: prop::sample::Index) {
        let xml = with_uuid(&xml, uuid()).unwrap().unwrap();
        let at = which.index(requests.len());
        let mut wanted = requests.clone();
        wanted[at] = Request { name: requests[at].name.clone(), ..new };
        let changed = with_request(&xml, &wanted[at]).unwrap();
        prop_assert_eq!(&parse(&changed).unwrap().requests, &wanted);
        prop_assert_eq!(with_request(&xml, &requests[at]).unwrap(), xml.as_str());
        let (before, after) = xml.split_once(&requests[at].to_xml("v:device")).unwrap();
        prop_assert!(changed.starts_with(before) && changed.ends_with(after));
    }

    #[test]
    fn what_is_put_in_is_there_and_the_rest_as_it_was((xml, requests) in some_domain(), last: u8) {
        let named = with_uuid(&xml, uuid()).unwrap().unwrap();
        let element = format!("<uuid>{UUID}</uuid>");
        prop_assert!(is_longer_by(&named, &xml, &element));
        let device = Hostdev::placeholder(mdev(last), &requests[0].name);
        let filled = with_device(&named, &device.to_xml()).unwrap();
        let def = parse(&filled).unwrap();
        prop_assert_eq!(def.uuid, uuid());
        prop_assert_eq!(&def.hostdevs, std::slice::from_ref(&device));
        prop_assert_eq!(&def.requests, &requests);
        let other = Hostdev::bare(mdev(last.wrapping_add(1)).into());
        let exchanged = with_hostdev(&filled, &device, &other).unwrap().unwrap();
        prop_assert_eq!(exchanged, with_device(&named, &other.to_xml()).unwrap());
    }

    #[test]
    fn no_text_panics(text: String, request in any_request()) {
        let _ = with_uuid(&text, uuid());
        let _ = with_device(&text, "<a/>");
        let hostdev = Hostdev::bare(mdev(0).into());
        let _ = with_source(&text, &hostdev, mdev(1).into());
        let _ = with_hostdev(&text, &hostdev, &hostdev);
        let _ = with_medium(&text, "a", "b");
        let _ = with_request(&text, &request);
    }
}
