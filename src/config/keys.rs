//! The keys of a pool file: one table for each place in the file, with the kinds
//! of pool that a key is for. The parser, the man page and the error messages
//! read them.

use crate::rule::{Kind, spelling::did_you_mean, spelling::shown};

/// A key's entry in the registry.
#[derive(Debug)]
pub(super) struct KeyInfo {
    pub(super) name: &'static str,
    pub(super) kinds: &'static [Kind],
}

const fn key(name: &'static str, kinds: &'static [Kind]) -> KeyInfo {
    KeyInfo { name, kinds }
}

const ANY: &[Kind] = Kind::ALL;
const VGPU: &[Kind] = &[Kind::NvidiaVgpu, Kind::Mdev];

/// The top of the file.
pub(super) const POOL: &[KeyInfo] = &[
    key("kind", ANY),
    key("description", ANY),
    key("class", ANY),
    key("profile", &[Kind::NvidiaVgpu]),
    key("type", &[Kind::Mdev]),
    key("instances", ANY),
    key("placement", ANY),
    key("guest-driver", VGPU),
    key("mig", &[Kind::NvidiaVgpu]),
    key("heterogeneous", &[Kind::NvidiaVgpu]),
    key("scheduler", &[Kind::NvidiaVgpu]),
    key("sriov-nic", &[Kind::SriovNic]),
    key("usb", &[Kind::Usb]),
    key("defaults", ANY),
    key("rule", ANY),
];

/// `[defaults]`. The first five are parameters of NVIDIA's driver, which may be
/// behind an mdev type too; other drivers have no place to put them.
pub(super) const DEFAULTS: &[KeyInfo] = &[
    key("frame-rate-limit", VGPU),
    key("console-vnc", VGPU),
    key("unified-memory", VGPU),
    key("debuggers", VGPU),
    key("profilers", VGPU),
    key("optional", ANY),
];

/// `[scheduler]`: a setting of the GPU, not of a vGPU.
pub(super) const SCHEDULER: &[KeyInfo] = &[
    key("policy", ANY),
    key("strict-round-robin", ANY),
    key("averaging-factor", ANY),
    key("frequency", ANY),
    key("time-slice-ms", ANY),
];

/// `[[rule]]`.
pub(super) const RULE: &[KeyInfo] = &[
    key("name", ANY),
    key("where", ANY),
    key("allow-critical", ANY),
];

/// An element of a rule's `where`.
pub(super) const FILTER: &[KeyInfo] = &[key("field", ANY), key("op", ANY), key("value", ANY)];

/// The names of a place's keys that are for pools of that kind.
pub(super) fn accepted(place: &[KeyInfo], kind: Kind) -> Vec<&'static str> {
    let keys = place.iter().filter(|key| key.kinds.contains(&kind));
    keys.map(|key| key.name).collect()
}

/// What is wrong with a key at that place of a pool of that kind, if anything.
pub(super) fn refusal(place: &[KeyInfo], kind: Kind, name: &str) -> Option<String> {
    match place.iter().find(|key| key.name == name) {
        Some(key) if key.kinds.contains(&kind) => None,
        Some(_) => Some(format!("not for kind '{kind}'")),
        None => {
            let accepted = accepted(place, kind);
            Some(format!(
                "unknown key{}",
                did_you_mean(&shown(name), &accepted)
            ))
        }
    }
}
