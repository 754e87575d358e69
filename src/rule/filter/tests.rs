use super::*;
use proptest::prelude::*;

fn filter(field: &str, op: &str, value: &str) -> Filter {
    Filter::new(field, op, value).unwrap()
}

/// Whether the filter holds on a device whose field reads `found` in sysfs.
fn holds(field: &str, op: &str, value: &str, found: &str) -> bool {
    let filter = filter(field, op, value);
    let found = filter.field().info().value_type.read(found);
    assert!(found.is_some(), "no value for {field}");
    filter.check(found.as_ref()).is_ok()
}

#[test]
fn filters_hold_as_their_names_say() {
    for (field, op, value, found, wanted) in [
        // numbers compare as numbers
        ("numa-node", "less-than", "2", "1", true),
        ("numa-node", "less-than", "10", "9", true),
        ("numa-node", "less-than", "2", "10", false),
        ("numa-node", "equal", "02", "2", true),
        ("numa-node", "greater-or-equal", "-1", "0", true),
        ("iommu-group", "not-equal", "7", "8", true),
        // ids in any notation
        ("vendor-id", "equal", "0x10DE", "0x10de\n", true),
        ("vendor-id", "equal", "10de", "0x10de", true),
        ("vendor-id", "equal", "000010de", "0x10de", true),
        ("vendor-id", "not-equal", "0X10DE", "0x10de", false),
        ("device-id", "less-than", "a000", "0x26b9", true),
        ("device-id", "greater-or-equal", "0x26B9", "0x26b9", true),
        ("class-id", "begins-with", "03", "0x030200", true),
        ("class-id", "begins-with", "0x03", "0x030200", true),
        ("class-id", "begins-with", "3", "0x030200", false),
        ("vendor-id", "ends-with", "DE", "0x10de", true),
        ("device-id", "contains", "0", "0x51", true), // 0051
        ("device-id", "contains-ignore-case", "6B", "0x26b9", true),
        ("device-id", "regex", "^26B[59]$", "0x26b9", true),
        ("subsystem-id", "equal", "0x10DE:0x51", "10de:0051", true),
        ("subsystem-id", "begins-with", "0x10DE:", "10de:1851", true),
        ("subsystem-id", "ends-with", ":1851", "10de:1851", true),
        // addresses
        ("address", "equal", "0000:3B:00.0", "00000000:3b:00.0", true),
        ("address", "equal", "3b:00.0", "0000:3b:00.0", true),
        ("address", "begins-with", "0000:3B:", "0000:3b:00.0", true),
        (
            "address",
            "begins-with",
            "00000000:3B",
            "0000:3b:00.0",
            true,
        ),
        ("address", "regex", "^0000:(3B|5E):", "0000:5e:00.0", true),
        ("address", "ends-with", ".0", "0000:3b:00.1", false),
        ("address", "ends-with", "3B:00.0", "0001:3b:00.0", true),
        ("address", "begins-with", "3b:00.0", "0000:3b:00.0", false),
        ("address", "equal", "mtty", "mtty", true),
        ("address", "equal", "MTTY", "mtty", false),
        ("address", "equal", "0.0.0313", "0.0.0313", true),
        ("address", "begins-with", "mT", "mTTY", true),
        ("address", "begins-with", "MT", "mtty", false),
        ("address", "not-equal", "mtty", "0000:3b:00.0", true),
        (
            "physical-function",
            "equal",
            "3b:00.0",
            "0000:3b:00.0",
            true,
        ),
        // text
        ("driver", "equal", "nvidia", "nvidia", true),
        ("driver", "equal", "nvidia", "NVIDIA", false),
        ("vendor", "contains", "NVIDIA C", "NVIDIA Corporation", true),
        ("vendor", "contains", "nvidia", "NVIDIA Corporation", false),
        (
            "vendor",
            "contains-ignore-case",
            "nvidia",
            "NVIDIA Corporation",
            true,
        ),
        ("vendor", "contains-ignore-case", "ÄRGER", "Ärger AG", true),
        ("device", "regex", r"L40S?\b", "AD102GL [L40S]", true),
        ("device", "regex", "^L40", "AD102GL [L40S]", false),
        ("class", "equal", "gpu", "gpu", true),
        ("class", "begins-with", "g", "gpu", true),
        // booleans
        ("virtual-function", "equal", "true", "yes", true),
        ("virtual-function", "equal", "no", "yes", false),
        ("virtual-function", "not-equal", "no", "yes", true),
    ] {
        assert_eq!(
            holds(field, op, value, found),
            wanted,
            "{field} {op} {value} on {found}"
        );
    }
}

#[test]
fn bad_filters_are_refused_with_what_is_accepted() {
    let message = |field, op, value| {
        let error = Filter::new(field, op, value).unwrap_err();
        format!("{}: {error}", error.part.key())
    };
    for (field, op, value, wanted) in [
        (
            "address",
            "less-than",
            "1",
            "op: 'less-than' does not work on the address field 'address'; accepted: equal, \
             not-equal, begins-with, ends-with, contains, contains-ignore-case, regex",
        ),
        (
            "numa-node",
            "begins-with",
            "1",
            "op: 'begins-with' does not work on the number field 'numa-node'; accepted: equal, \
             not-equal, less-than, less-or-equal, greater-than, greater-or-equal",
        ),
        (
            "virtual-function",
            "equal",
            "maybe",
            "value: 'maybe' is neither yes nor no; accepted: yes, no, true, false",
        ),
        (
            "numa-node",
            "equal",
            "two",
            "value: 'two' is not a whole number",
        ),
        (
            "vendor-id",
            "equal",
            "nvidia",
            "value: 'nvidia' is not a hexadecimal id of at most 4 digits",
        ),
        (
            "vendor-id",
            "less-than",
            "10de00",
            "value: '10de00' is not a hexadecimal id of at most 4 digits",
        ),
        (
            "vendor-id",
            "contains",
            "zz",
            "value: 'zz' is not part of a hexadecimal id of 4 digits",
        ),
        (
            "subsystem-id",
            "equal",
            "1851",
            "value: '1851' is not a pair of hexadecimal ids (as in 10de:1851)",
        ),
        (
            "class",
            "equal",
            "nic",
            "value: unknown class 'nic'; accepted: gpu, vgpu, storage, hid, usb, network, media, \
             audio, fpga, pci, unknown",
        ),
        (
            "class-id",
            "equal",
            "0108",
            "value: '0108' has 4 digits, and a class-id has 6 (as in 030200); did you mean \
             'begins-with'?",
        ),
        (
            "class-id",
            "not-equal",
            "0x10802",
            "value: '0x10802' has 5 digits, and a class-id has 6 (as in 030200)",
        ),
        (
            "address",
            "equal",
            "41:00",
            "value: '41:00' is not a whole PCI address (as in 0000:3b:00.0); did you mean \
             'contains'?",
        ),
        (
            "address",
            "equal",
            "0000:41:",
            "value: '0000:41:' is not a whole PCI address (as in 0000:3b:00.0); did you mean \
             'begins-with'?",
        ),
        (
            "physical-function",
            "not-equal",
            "0000:41:00.8",
            "value: '0000:41:00.8' is not a whole PCI address (as in 0000:3b:00.0)",
        ),
        (
            "physical-function",
            "equal",
            "banana",
            "value: 'banana' is not a PCI address (as in 0000:3b:00.0)",
        ),
        ("driver", "contains", " ", "value: must not be empty"),
        (
            "driver",
            "regex",
            "a(b",
            "value: 'a(b' is not a regular expression: unclosed group",
        ),
        (
            "driver",
            "regex",
            r"(?:\w{100}){100}",
            "value: the pattern takes more than 1048576 bytes of memory",
        ),
        (
            "usb-version",
            "less-than",
            "3.123",
            "value: '3.123' is not a number with at most two decimals",
        ),
    ] {
        assert_eq!(message(field, op, value), wanted);
    }
    let long = "a".repeat(MAX_VALUE_BYTES + 1);
    assert_eq!(
        message("driver", "equal", &long),
        "value: is longer than 1024 bytes"
    );
    let unknown = message("adress", "equal", "x");
    assert!(
        unknown.starts_with(
            "field: unknown field 'adress' (did you mean 'address'?); accepted: host, address, "
        ),
        "{unknown}"
    );
}

#[test]
fn a_field_that_is_missing_or_unreadable_never_matches() {
    for op in ["equal", "not-equal", "regex"] {
        assert_eq!(
            filter("driver", op, "x").check(None).unwrap_err(),
            "driver: no such field on this device"
        );
    }
    let odd = FieldValue::Text("0xzz\nzz".to_owned());
    assert_eq!(
        filter("vendor-id", "not-equal", "10de")
            .check(Some(&odd))
            .unwrap_err(),
        "vendor-id is '0xzz\\nzz', which is not a valid hexadecimal value"
    );
}

/// Filters on each of which exactly one of a pair of operators must hold.
const OPPOSITES: [(&str, &str); 3] = [
    ("equal", "not-equal"),
    ("less-than", "greater-or-equal"),
    ("less-or-equal", "greater-than"),
];

proptest! {
    #[test]
    fn numbers_follow_the_naive_model(found: i64, wanted: i64) {
        let text = found.to_string();
        let value = wanted.to_string();
        for (op, model) in [
            ("equal", found == wanted),
            ("not-equal", found != wanted),
            ("less-than", found < wanted),
            ("less-or-equal", found <= wanted),
            ("greater-than", found > wanted),
            ("greater-or-equal", found >= wanted),
        ] {
            prop_assert_eq!(holds("numa-node", op, &value, &text), model, "{}", op);
        }
    }

    #[test]
    fn hex_ids_follow_the_naive_model(found in 0u32..0x100_0000, wanted in 0u32..0x100_0000) {
        let text = format!("0x{found:06x}");
        for value in [format!("{wanted:06x}"), format!("0x{wanted:08X}")] {
            for (op, model) in [
                ("equal", found == wanted),
                ("less-than", found < wanted),
                ("greater-or-equal", found >= wanted),
            ] {
                prop_assert_eq!(holds("class-id", op, &value, &text), model, "{}", op);
            }
        }
        let (found, part) = (format!("{found:06x}"), format!("{wanted:x}"));
        prop_assert_eq!(holds("class-id", "begins-with", &part, &found), found.starts_with(&part));
        prop_assert_eq!(holds("class-id", "ends-with", &part, &found), found.ends_with(&part));
        prop_assert_eq!(holds("class-id", "contains", &part, &found), found.contains(&part));
    }

    #[test]
    fn of_two_opposites_exactly_one_holds(found in 0u16..40, wanted in 0u16..40) {
        for field in ["numa-node", "vendor-id"] {
            for (op, opposite) in OPPOSITES {
                let (value, text) = (wanted.to_string(), found.to_string());
                prop_assert_ne!(
                    holds(field, op, &value, &text),
                    holds(field, opposite, &value, &text)
                );
            }
        }
    }

    #[test]
    fn text_operators_imply_one_another(found in "[a-cA-C]{1,6}", wanted in "[a-cA-C]{1,3}") {
        for field in ["driver", "address"] {
            let holds = |op| holds(field, op, &wanted, &found);
            prop_assert_ne!(holds("equal"), holds("not-equal"));
            prop_assert!(!holds("equal") || (holds("begins-with") && holds("ends-with")));
            prop_assert!(!(holds("begins-with") || holds("ends-with")) || holds("contains"));
            prop_assert!(!holds("contains") || holds("contains-ignore-case"));
        }
        let escaped = regex::escape(&wanted);
        prop_assert_eq!(
            holds("driver", "regex", &escaped, &found),
            holds("driver", "contains", &wanted, &found)
        );
    }

    #[test]
    fn no_text_panics_and_every_message_is_one_line(value: String, found: String, field in 0..Field::ALL.len(), op in 0..Operator::ALL.len()) {
        let (field, op) = (Field::NAMES[field], Operator::NAMES[op]);
        let _ = Filter::new(&value, op, &found);
        let _ = Filter::new(field, &value, &found);
        let message = match Filter::new(field, op, &value) {
            Ok(filter) => filter.check(Some(&FieldValue::Text(found))).err().unwrap_or_default(),
            Err(error) => error.to_string(),
        };
        prop_assert!(!message.contains('\n'), "{}", message);
    }
}
