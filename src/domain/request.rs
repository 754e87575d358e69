//! A request for a device, and the registry of its attributes: one table that the
//! parser, the writer, error messages, help and the man page use. This module knows
//! attributes as names and values, not the XML around them.

use std::fmt::Write as _;

use super::error::Problem;
use crate::model::{DeviceName, InvalidName, PoolName, Together};

/// The most requests in a domain: more than any host has devices for. What one VM may have
/// of a kind is checked when it is known which kinds the pools have.
pub const MAX_REQUESTS: usize = 64;

/// One `<vgpu:device>`: a device wanted from a pool. `None` means that the pool's
/// default applies.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Request {
    /// The device's name, unique in the domain.
    pub name: DeviceName,
    /// The pool it comes from.
    pub pool: PoolName,
    /// Whether a CD-ROM with the pool's guest drivers is wanted.
    pub guest_drivers: Option<bool>,
    /// Whether the VM may start without the device.
    pub optional: Option<bool>,
    /// What it should share with the domain's other devices that say the same.
    pub together: Option<Together>,
    /// The maximum number of frames per second; 0 switches the limiter off.
    pub frame_rate_limit: Option<u32>,
    /// Whether the vGPU has a console that VNC can show.
    pub console_vnc: Option<bool>,
    /// Whether CUDA unified memory is on.
    pub unified_memory: Option<bool>,
    /// Whether CUDA debuggers may be used.
    pub debuggers: Option<bool>,
    /// Whether CUDA profilers may be used.
    pub profilers: Option<bool>,
}

/// One row of the registry.
#[derive(Debug, Clone, Copy)]
pub struct Attribute {
    /// The attribute's name in the XML.
    pub name: &'static str,
    /// The form of its value, for help.
    pub value: &'static str,
    /// What it does, for help.
    pub help: &'static str,
    /// Whether every request has it.
    pub required: bool,
    slot: Slot,
}

/// The field of a [`Request`] that holds an attribute's value.
#[derive(Debug, Clone, Copy)]
enum Slot {
    Name,
    Pool,
    Flag(fn(&mut Request) -> &mut Option<bool>),
    Number(fn(&mut Request) -> &mut Option<u32>),
    Together(fn(&mut Request) -> &mut Option<Together>),
}

const YES_OR_NO: &str = "yes or no";
const NUMBER: &str = "a whole number, 0 or more";

const fn flag(
    name: &'static str,
    help: &'static str,
    slot: fn(&mut Request) -> &mut Option<bool>,
) -> Attribute {
    Attribute {
        name,
        value: YES_OR_NO,
        help,
        required: false,
        slot: Slot::Flag(slot),
    }
}

/// Every attribute of a request, in the order in which we write them.
pub const ATTRIBUTES: &[Attribute] = &[
    Attribute {
        name: "name",
        value: "1 to 32 of a-z, 0-9 and '-'",
        help: "name of the device, unique in the domain",
        required: true,
        slot: Slot::Name,
    },
    Attribute {
        name: "pool",
        value: "1 to 64 of a-z, 0-9 and '-'",
        help: "pool that the device comes from",
        required: true,
        slot: Slot::Pool,
    },
    flag(
        "guest-drivers",
        "attach a CD-ROM with the pool's guest drivers",
        |request| &mut request.guest_drivers,
    ),
    flag(
        "optional",
        "start the VM without the device when none is free",
        |request| &mut request.optional,
    ),
    Attribute {
        name: "together",
        value: Together::FORM,
        help: "prefer a place near the domain's other devices with the same value: behind one \
               PCIe switch or root port, else on one NUMA node (pcie-root), or on one NUMA node \
               (numa)",
        required: false,
        slot: Slot::Together(|request| &mut request.together),
    },
    Attribute {
        name: "frame-rate-limit",
        value: NUMBER,
        help: "frames a second at most; 0 switches the limiter off",
        required: false,
        slot: Slot::Number(|request| &mut request.frame_rate_limit),
    },
    flag(
        "console-vnc",
        "give the vGPU a console that VNC can show",
        |request| &mut request.console_vnc,
    ),
    flag("unified-memory", "allow CUDA unified memory", |request| {
        &mut request.unified_memory
    }),
    flag("debuggers", "allow CUDA debuggers", |request| {
        &mut request.debuggers
    }),
    flag("profilers", "allow CUDA profilers", |request| {
        &mut request.profilers
    }),
];

/// The names of all attributes, comma-separated.
#[must_use]
pub fn accepted_attributes() -> String {
    let names: Vec<_> = ATTRIBUTES.iter().map(|attribute| attribute.name).collect();
    names.join(", ")
}

impl Attribute {
    /// The row of that name.
    #[must_use]
    pub fn find(name: &str) -> Option<&'static Self> {
        ATTRIBUTES.iter().find(|attribute| attribute.name == name)
    }

    /// Puts the value into the request.
    pub(super) fn set(&self, request: &mut Request, value: &str) -> Result<(), Problem> {
        let wrong = |wrong| Problem::AttributeValue {
            name: self.name,
            wrong,
        };
        match self.slot {
            Slot::Name => request.name = value.parse().map_err(wrong)?,
            Slot::Pool => request.pool = value.parse().map_err(wrong)?,
            Slot::Flag(slot) => *slot(request) = Some(parse_flag(value).map_err(wrong)?),
            Slot::Number(slot) => *slot(request) = Some(parse_number(value).map_err(wrong)?),
            Slot::Together(slot) => *slot(request) = Some(value.parse().map_err(wrong)?),
        }
        Ok(())
    }

    /// The value as we write it; `None` if the request does not have it.
    #[must_use]
    pub fn text(&self, request: &Request) -> Option<String> {
        // The slots need a mutable request; writing is rare enough for a copy.
        let mut copy = request.clone();
        match self.slot {
            Slot::Name => Some(copy.name.to_string()),
            Slot::Pool => Some(copy.pool.to_string()),
            Slot::Flag(slot) => (*slot(&mut copy)).map(|yes| if yes { "yes" } else { "no" }.into()),
            Slot::Number(slot) => slot(&mut copy).map(|number| number.to_string()),
            Slot::Together(slot) => slot(&mut copy).map(|one| one.to_string()),
        }
    }
}

impl Request {
    /// A request that uses the pool's defaults for everything else.
    #[must_use]
    pub fn new(name: DeviceName, pool: PoolName) -> Self {
        Self {
            name,
            pool,
            guest_drivers: None,
            optional: None,
            together: None,
            frame_rate_limit: None,
            console_vnc: None,
            unified_memory: None,
            debuggers: None,
            profilers: None,
        }
    }

    /// The request as an empty element with the given qualified name.
    pub(super) fn to_xml(&self, element: &str) -> String {
        let mut xml = format!("<{element}");
        for attribute in ATTRIBUTES {
            if let Some(value) = attribute.text(self) {
                // No value has a character that XML would need to escape.
                let _ = write!(xml, " {}='{value}'", attribute.name);
            }
        }
        xml.push_str("/>");
        xml
    }
}

fn parse_flag(text: &str) -> Result<bool, InvalidName> {
    match text {
        "yes" | "true" | "on" | "1" => Ok(true),
        "no" | "false" | "off" | "0" => Ok(false),
        _ => Err(InvalidName::new(YES_OR_NO, text)),
    }
}

fn parse_number(text: &str) -> Result<u32, InvalidName> {
    // The parser of u32 would also accept a plus sign.
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits
        .then(|| text.parse().ok())
        .flatten()
        .ok_or_else(|| InvalidName::new(NUMBER, text))
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::{option, prelude::*, sample};

    use super::*;

    prop_compose! {
        /// Any request.
        pub fn any_request()(
            name in "[a-z0-9-]{1,32}".prop_filter("reserved", |name| name != "guest-drivers"),
            pool in "[a-z0-9-]{1,64}",
            guest_drivers: Option<bool>,
            optional: Option<bool>,
            together in option::of(sample::select(Together::ALL.to_vec())),
            frame_rate_limit in option::of(any::<u32>()),
            console_vnc: Option<bool>,
            unified_memory: Option<bool>,
            debuggers: Option<bool>,
            profilers: Option<bool>,
        ) -> Request {
            Request {
                name: name.parse().unwrap(),
                pool: pool.parse().unwrap(),
                guest_drivers, optional, together, frame_rate_limit, console_vnc,
                unified_memory, debuggers, profilers,
            }
        }
    }

    #[test]
    fn the_registry_is_complete_and_its_names_are_unique() {
        assert_eq!(
            accepted_attributes(),
            "name, pool, guest-drivers, optional, together, frame-rate-limit, console-vnc, \
             unified-memory, debuggers, profilers"
        );
        for (index, attribute) in ATTRIBUTES.iter().enumerate() {
            assert!(
                ATTRIBUTES[..index]
                    .iter()
                    .all(|other| other.name != attribute.name)
            );
            assert!(!attribute.help.is_empty());
        }
    }

    #[test]
    fn each_attribute_sets_its_own_field_only() {
        let plain = Request::new("a".parse().unwrap(), "p".parse().unwrap());
        for attribute in ATTRIBUTES.iter().filter(|row| !row.required) {
            let mut request = plain.clone();
            let value = match attribute.slot {
                Slot::Together(_) => "numa",
                _ => "1",
            };
            attribute.set(&mut request, value).unwrap();
            let set: Vec<_> = ATTRIBUTES
                .iter()
                .filter(|row| !row.required && row.text(&request).is_some())
                .map(|row| row.name)
                .collect();
            assert_eq!(set, [attribute.name]);
        }
    }

    #[test]
    fn flags_and_numbers() {
        for (text, value) in [
            ("yes", Some(true)),
            ("true", Some(true)),
            ("on", Some(true)),
            ("1", Some(true)),
            ("no", Some(false)),
            ("false", Some(false)),
            ("off", Some(false)),
            ("0", Some(false)),
            ("", None),
            ("Yes", None),
            (" yes", None),
            ("2", None),
        ] {
            assert_eq!(parse_flag(text).ok(), value, "{text:?}");
        }
        for (text, value) in [
            ("0", Some(0)),
            ("060", Some(60)),
            ("4294967295", Some(u32::MAX)),
            ("4294967296", None),
            ("-1", None),
            ("+1", None),
            ("1.5", None),
            ("", None),
        ] {
            assert_eq!(parse_number(text).ok(), value, "{text:?}");
        }
    }
}
