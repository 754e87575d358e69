use proptest::prelude::*;

use super::*;
use crate::{domain::parse, model::Rom};

const NAME: &str = "gpu0";

fn name() -> DeviceName {
    NAME.parse().unwrap()
}

fn function(number: u8) -> PciAddress {
    PciAddress::new(0, 0x3b, 0, number).unwrap()
}

fn elsewhere(number: u8) -> PciAddress {
    PciAddress::new(0, 0xaf, 0, number).unwrap()
}

fn card(first: PciAddress, others: &[PciAddress]) -> Card {
    Card {
        first: Hostdev::placeholder(first, &name()),
        others: others.to_vec(),
    }
}

fn xml(machine: &str, devices: &str) -> String {
    format!(
        "<domain>\n  <name>d</name>\n  <uuid>aaaaaaaa-0000-4000-8000-000000000001</uuid>\n  \
         <os><type arch='x86_64' machine='{machine}'>hvm</type></os>\n  <devices>{devices}\n  \
         </devices>\n</domain>\n"
    )
}

fn hostdev(alias: &str, address: PciAddress, guest: &str) -> String {
    let (_, bus, slot, function) = address.parts();
    format!(
        "\n    <hostdev mode='subsystem' type='pci' managed='no'>\n      <source>\n        \
         <address domain='0x0000' bus='0x{bus:02x}' slot='0x{slot:02x}' function='0x{function}'/>\n      \
         </source>\n      <alias name='{alias}'/>\n      \
         <address type='pci' domain='0x0000' {guest}/>\n    </hostdev>"
    )
}

const FIRST: &str = "bus='0x05' slot='0x00' function='0x0' multifunction='on'";
const SECOND: &str = "bus='0x05' slot='0x00' function='0x1'";
const THIRD: &str = "bus='0x05' slot='0x00' function='0x2'";

fn after(xml: &str, to: &Card) -> String {
    let def = parse(xml).unwrap();
    let from = def.function_of(&name()).unwrap();
    with_card(xml, &def, &name(), from, to).unwrap()
}

#[test]
fn a_device_gets_its_other_functions_on_its_slot() {
    let alone = "bus='0x05' slot='0x00' function='0x0'";
    let before = xml("q35", &hostdev("ua-vgpu-gpu0", function(0), alone));
    let whole = xml(
        "q35",
        &[
            hostdev("ua-vgpu-gpu0", function(0), FIRST),
            hostdev("ua-vgpu-gpu0_1", function(1), SECOND),
            hostdev("ua-vgpu-gpu0_2", function(2), THIRD),
        ]
        .concat(),
    );
    let to = card(function(0), &[function(1), function(2)]);
    assert_eq!(after(&before, &to), whole);
    // A second time nothing changes.
    assert_eq!(after(&whole, &to), whole);
}

#[test]
fn a_device_that_shares_its_slot_with_another_gets_a_slot_of_its_own() {
    let third = "bus='0x05' slot='0x00' function='0x2'";
    let before = xml("q35", &hostdev("ua-vgpu-gpu0", function(0), third));
    let whole = xml(
        "q35",
        &[
            hostdev("ua-vgpu-gpu0", function(0), &FIRST.replace("05", "06")),
            hostdev("ua-vgpu-gpu0_1", function(1), &SECOND.replace("05", "06")),
        ]
        .concat(),
    );
    assert_eq!(after(&before, &card(function(0), &[function(1)])), whole);
}

#[test]
fn a_device_moves_with_all_its_functions() {
    let of = |at: fn(u8) -> PciAddress, count: u8| {
        let places = [FIRST, SECOND, THIRD];
        let aliases = ["ua-vgpu-gpu0", "ua-vgpu-gpu0_1", "ua-vgpu-gpu0_2"];
        let all =
            (0..count).map(|n| hostdev(aliases[usize::from(n)], at(n), places[usize::from(n)]));
        xml("q35", &all.collect::<String>())
    };
    let to = |count: u8| {
        let others: Vec<_> = (1..count).map(elsewhere).collect();
        card(elsewhere(0), &others)
    };
    assert_eq!(after(&of(function, 2), &to(2)), of(elsewhere, 2));
    assert_eq!(after(&of(function, 2), &to(3)), of(elsewhere, 3));
    assert_eq!(after(&of(function, 3), &to(2)), of(elsewhere, 2));
    assert_eq!(after(&of(function, 3), &to(1)), of(elsewhere, 1));
}

#[test]
fn what_is_exchanged_is_named() {
    let before = xml(
        "q35",
        &[
            hostdev("ua-vgpu-gpu0", function(0), FIRST),
            hostdev("ua-vgpu-gpu0_1", function(1), SECOND),
            hostdev("ua-vgpu-gpu0_2", function(2), THIRD),
        ]
        .concat(),
    );
    let def = parse(&before).unwrap();
    let from = def.function_of(&name()).unwrap();
    let to = card(function(0), &[function(1), function(3)]);
    let found = exchanges(&before, &def, &name(), from, &to).unwrap();
    let said: Vec<_> = found
        .iter()
        .map(|one| {
            let handle = |side: &Option<(Hostdev, String)>| {
                side.as_ref().map(|(one, _)| one.handle.to_string())
            };
            let (hostdev, _) = one.after.as_ref().or(one.before.as_ref()).unwrap();
            let what = name_on_card(&name(), hostdev);
            (what, handle(&one.before), handle(&one.after))
        })
        .collect();
    let (third, fourth) = (function(2).to_string(), function(3).to_string());
    assert_eq!(
        said,
        [
            ("gpu0_3".to_owned(), None, Some(fourth)),
            ("gpu0_2".to_owned(), Some(third), None)
        ]
    );
}

#[test]
fn a_new_card_needs_a_slot() {
    let card = card(function(0), &[function(1)]);
    let at = GuestSlot { bus: 5, slot: 0 };
    let text: Vec<_> = card.hostdevs(&name(), Some(at)).unwrap();
    assert_eq!(
        text[1].to_xml(),
        "<hostdev mode='subsystem' type='pci' managed='no'>
  <source>
    <address domain='0x0000' bus='0x3b' slot='0x00' function='0x1'/>
  </source>
  <alias name='ua-vgpu-gpu0_1'/>
  <address type='pci' domain='0x0000' bus='0x05' slot='0x00' function='0x1'/>
</hostdev>"
    );
    assert_eq!(
        card.hostdevs(&name(), None).unwrap_err().to_string(),
        "the guest has no free PCI slot for the functions of device 'gpu0'; take another device \
         out of its definition"
    );
    // A single function gets its place from libvirt.
    let alone = Card::from(card.first.clone());
    assert_eq!(alone.hostdevs(&name(), None).unwrap(), [card.first]);
}

#[test]
fn the_option_rom_belongs_to_the_first_function() {
    let rom = Rom {
        bar: Some(false),
        file: None,
    };
    let card = Card {
        first: Hostdev::placeholder(function(0), &name()).with_rom(&rom),
        others: vec![function(1)],
    };
    let all = card.hostdevs(&name(), Some(GuestSlot { bus: 1, slot: 0 }));
    let roms: Vec<_> = all.unwrap().into_iter().map(|one| one.rom.bar).collect();
    assert_eq!(roms, [Some(false), None]);
}

#[test]
fn a_free_slot_is_one_that_no_device_has() {
    let slot = |machine: &str, devices: &str| {
        let def = parse(&xml(machine, devices)).unwrap();
        def.free_slot().map(|at| (at.bus, at.slot))
    };
    let port =
        |index: u8| format!("<controller type='pci' index='{index}' model='pcie-root-port'/>");
    assert_eq!(slot("pc-q35-10.0", ""), Some((1, 0)));
    assert_eq!(slot("pc-q35-10.0", &port(7)), Some((8, 0)));
    let device = "<video><address type='pci' domain='0x0000' bus='0x09' slot='0x01'/></video>";
    assert_eq!(slot("pc-q35-10.0", &(port(7) + device)), Some((10, 0)));
    assert_eq!(slot("pc-q35-10.0", &port(255)), None);
    assert_eq!(slot("virt-10.0", ""), Some((1, 0)));
    // A machine with PCI slots.
    assert_eq!(slot("pc-i440fx-10.0", ""), Some((0, 0x1f)));
    let last = "<hostdev mode='subsystem' type='pci'><source><address bus='1' slot='0x1e'/></source>\
                <address type='pci' bus='0x00' slot='0x1f'/></hostdev>";
    assert_eq!(slot("pc-i440fx-10.0", last), Some((0, 0x1e)));
    let on_other_buses =
        "<disk><target dev='sda'/><address type='drive' bus='0' slot='0x1f'/></disk>";
    assert_eq!(slot("pc", on_other_buses), Some((0, 0x1f)));
    let full: String = (0..32)
        .map(|n| format!("<rng><address type='pci' bus='0' slot='{n}'/></rng>"))
        .collect();
    assert_eq!(slot("pc", &full), None);
    let s390 = xml("s390-ccw-virtio", "").replace("x86_64", "s390x");
    assert_eq!(parse(&s390).unwrap().free_slot(), None);
}

#[test]
fn aliases_of_other_functions_are_told_from_those_of_requests() {
    let other = |alias| other_of_card(alias).map(|(name, number)| (name.to_string(), number));
    assert_eq!(other("ua-vgpu-gpu0_1"), Some(("gpu0".to_owned(), 1)));
    for alias in [
        "ua-vgpu-gpu0",
        "ua-vgpu-gpu0_",
        "ua-vgpu-_1",
        "ua-gpu0_1",
        "ua-vgpu-a_b_1",
        "hostdev0",
    ] {
        assert_eq!(other(alias), None, "{alias}");
    }
    let domain = |managed: &str| {
        let devices = [
            hostdev("ua-vgpu-gpu0", function(0), FIRST),
            hostdev("ua-vgpu-gpu0_1", function(1), SECOND).replace("'no'", managed),
            hostdev("ua-vgpu-gpu01_1", function(2), THIRD),
        ];
        parse(&xml("q35", &devices.concat())).unwrap()
    };
    let def = domain("'no'");
    let others: Vec<_> = def.others_of_card(&name()).map(|one| one.handle).collect();
    assert_eq!(others, [function(1).into()]);
}

proptest! {
    /// Whatever the cards have, the document then has exactly the functions of the new one,
    /// on one slot, and is otherwise the same.
    #[test]
    fn every_move_ends_with_the_functions_of_the_new_card(
        before in prop::collection::btree_set(1u8..8, 0..7),
        next in prop::collection::btree_set(1u8..8, 0..7),
        stays: bool,
    ) {
        let slot = Some(GuestSlot { bus: 5, slot: 0 });
        let others = |numbers: &std::collections::BTreeSet<u8>, at: fn(u8) -> PciAddress| {
            numbers.iter().copied().map(at).collect::<Vec<_>>()
        };
        let from = card(function(0), &others(&before, function));
        let at = if stays { function } else { elsewhere };
        let to = card(at(0), &others(&next, at));
        let text = |card: &Card| {
            let all = card.hostdevs(&name(), slot).unwrap();
            all.iter().map(|one| format!("\n    {}", one.to_xml().replace('\n', "\n    "))).collect::<String>()
        };
        let kept = "\n    <disk type='file'><target dev='vda'/></disk>";
        let start = xml("q35", &(kept.to_owned() + &text(&from)));
        let end = after(&start, &to);
        let def = parse(&end).unwrap();
        let mut has: Vec<_> = def.functions().collect();
        has.sort();
        prop_assert_eq!(has, to.functions());
        let slots: std::collections::BTreeSet<_> =
            def.hostdevs.iter().filter_map(|one| one.guest).map(|one| one.at).collect();
        prop_assert!(slots.len() <= 1);
        prop_assert!(end.contains(kept));
        prop_assert_eq!(after(&end, &to), end.clone());
        let back = after(&end, &from);
        let mut has: Vec<_> = parse(&back).unwrap().functions().collect();
        has.sort();
        prop_assert_eq!(has, from.functions());
    }
}
