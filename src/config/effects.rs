//! When a change of a pool file takes effect, key by key: one table, from which
//! `virt-vgpu pool check` and the man page speak. A key that the parser accepts and that is not
//! in the table fails a test.

/// What has to happen until a changed key takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// Nothing depends on it.
    None,
    /// A VM starts.
    NextStart,
    /// A device is attached: devices that VMs have already keep what they have.
    Attach,
    /// A definition is changed to match, and then a VM starts.
    Definitions,
    /// `virt-vgpu host apply` changes GPU instances; only those that VMs use have to wait.
    Instances,
    /// A GPU is free, and `virt-vgpu host apply` sets it up.
    FreeGpu,
    /// NVIDIA's driver is loaded again, and `virt-vgpu host apply` has written down what it is
    /// loaded with. No key needs this everywhere: only some drivers do.
    DriverLoad,
}

/// What a file means that does not have the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absent {
    /// No value.
    None,
    /// This value, as JSON.
    Is(&'static str),
    /// True, unless the other key has that text.
    TrueUnless(&'static str, &'static str),
}

/// A key of pool files.
#[derive(Debug, Clone, Copy)]
pub struct KeyEffect {
    /// Its name with the tables that it is in: `mig.mode`.
    pub key: &'static str,
    /// What a change of it needs.
    pub effect: Effect,
    /// What it needs in a pool that has `[mig]` before and after the change.
    pub in_instances: Effect,
    /// What the change does, for people.
    pub about: &'static str,
    /// What leaving it out means.
    pub absent: Absent,
}

const fn key(key: &'static str, effect: Effect, absent: Absent, about: &'static str) -> KeyEffect {
    KeyEffect {
        key,
        effect,
        in_instances: effect,
        about,
        absent,
    }
}

/// A setting of whole GPUs, or of GPU instances.
const fn of_gpus(name: &'static str, absent: Absent, about: &'static str) -> KeyEffect {
    KeyEffect {
        in_instances: Effect::Instances,
        ..key(name, Effect::FreeGpu, absent, about)
    }
}

const RULES: &str = "VMs get devices by the new rules";
const MIG: &str = "MIG mode is switched on free GPUs, once; GPU instances come and go beside \
                   running VMs";
const SCHEDULER: &str = "the GPU or the GPU instances share their time in another way";
const DEFAULT: &str = "it is a parameter that a vGPU is made with";
const ROM: &str = "it stands in the placeholder";

/// Every key of every kind of pool.
pub const EFFECTS: &[KeyEffect] = &[
    key(
        "kind",
        Effect::Attach,
        Absent::None,
        "the placeholders of one kind do not serve another",
    ),
    key(
        "description",
        Effect::None,
        Absent::None,
        "it is for people",
    ),
    key("class", Effect::None, Absent::None, "it is for people"),
    KeyEffect {
        in_instances: Effect::Instances,
        ..key(
            "profile",
            Effect::NextStart,
            Absent::None,
            "new vGPUs are of it",
        )
    },
    key(
        "type",
        Effect::NextStart,
        Absent::None,
        "new devices are of it",
    ),
    key(
        "instances",
        Effect::NextStart,
        Absent::Is("0"),
        "VMs keep what they have, also where it is more than the new limit",
    ),
    key(
        "placement",
        Effect::NextStart,
        Absent::Is("\"pack\""),
        "it chooses the place of new devices",
    ),
    key(
        "guest-driver",
        Effect::NextStart,
        Absent::None,
        "VMs get the medium when they start",
    ),
    of_gpus(
        "heterogeneous",
        Absent::Is("false"),
        "GPUs, or GPU instances, change between one size and several",
    ),
    of_gpus("mig.gpu-instances", Absent::Is("0"), MIG),
    of_gpus("mig.vgpus-per-instance", Absent::Is("0"), MIG),
    of_gpus("mig.mode", Absent::Is("\"at-boot\""), MIG),
    of_gpus("scheduler.policy", Absent::None, SCHEDULER),
    of_gpus("scheduler.strict-round-robin", Absent::None, SCHEDULER),
    of_gpus("scheduler.averaging-factor", Absent::None, SCHEDULER),
    of_gpus("scheduler.frequency", Absent::None, SCHEDULER),
    of_gpus("scheduler.time-slice-ms", Absent::None, SCHEDULER),
    key(
        "pci.multifunction",
        Effect::Definitions,
        Absent::TrueUnless("pci.placeholder", "hotplug"),
        "each function of a card has a placeholder",
    ),
    key(
        "pci.keep-bound",
        Effect::NextStart,
        Absent::Is("false"),
        "the driver that a device comes back to is chosen when its VM starts",
    ),
    key("pci.rom", Effect::Attach, Absent::None, ROM),
    key("pci.rom-file", Effect::Attach, Absent::None, ROM),
    key(
        "pci.placeholder",
        Effect::Attach,
        Absent::Is("\"address\""),
        "the XML has a placeholder, or has none",
    ),
    key(
        "defaults.frame-rate-limit",
        Effect::NextStart,
        Absent::None,
        DEFAULT,
    ),
    key(
        "defaults.console-vnc",
        Effect::NextStart,
        Absent::None,
        DEFAULT,
    ),
    key(
        "defaults.unified-memory",
        Effect::NextStart,
        Absent::None,
        DEFAULT,
    ),
    key(
        "defaults.debuggers",
        Effect::NextStart,
        Absent::None,
        DEFAULT,
    ),
    key(
        "defaults.profilers",
        Effect::NextStart,
        Absent::None,
        DEFAULT,
    ),
    key(
        "defaults.optional",
        Effect::Attach,
        Absent::Is("false"),
        "it goes into the request",
    ),
    key("rule.name", Effect::None, Absent::None, "it is for people"),
    key("rule.where", Effect::NextStart, Absent::None, RULES),
    key(
        "rule.allow-critical",
        Effect::NextStart,
        Absent::Is("false"),
        "VMs get, or no longer get, devices that the host needs itself",
    ),
];

impl Effect {
    /// For programs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::NextStart => "next-start",
            Self::Attach => "attach",
            Self::Definitions => "definitions",
            Self::Instances => "gpu-instances",
            Self::FreeGpu => "free-gpu",
            Self::DriverLoad => "driver-load",
        }
    }

    /// What has to be done, as a sentence without its end.
    #[must_use]
    pub fn in_words(self) -> &'static str {
        match self {
            Self::None => "nothing has to be done",
            Self::NextStart => "each VM has it from its next start on",
            Self::Attach => {
                "devices that are attached from now on have it; take the others off with \
                 'virt-vgpu detach' and attach them again"
            }
            Self::Definitions => {
                "'virt-vgpu sync --all' changes the definitions of the VMs, which have it from \
                 their next start on"
            }
            Self::Instances => {
                "run 'virt-vgpu host apply --all': running VMs go on, and GPU instances that they \
                 use change when they have stopped"
            }
            Self::FreeGpu => {
                "it needs a free GPU: shut down the VMs that use it, then run 'virt-vgpu host \
                 apply --all'"
            }
            Self::DriverLoad => {
                "run 'virt-vgpu host apply --all', and reboot when it suits: this driver takes it \
                 only when it is loaded"
            }
        }
    }
}

/// The row of a key.
#[must_use]
pub fn effect_of(key: &str) -> Option<&'static KeyEffect> {
    EFFECTS.iter().find(|row| row.key == key)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::{config::keys, kind::KINDS};

    /// Every key that the parser accepts, with the tables that it is in.
    fn accepted() -> BTreeSet<String> {
        let mut accepted = BTreeSet::new();
        for kind in KINDS {
            let tables = kind.keys().tables;
            for key in keys::pool(*kind) {
                let within: Vec<&str> = match key {
                    "rule" => keys::RULE.to_vec(),
                    "defaults" => keys::defaults(*kind),
                    _ => match tables.iter().find(|(table, _)| *table == key) {
                        Some((_, keys)) => keys.to_vec(),
                        None => {
                            accepted.insert(key.to_owned());
                            continue;
                        }
                    },
                };
                accepted.extend(within.iter().map(|inner| format!("{key}.{inner}")));
            }
        }
        accepted
    }

    #[test]
    fn every_key_of_the_parser_has_one_row_and_no_other_has() {
        let rows: Vec<String> = EFFECTS.iter().map(|row| row.key.to_owned()).collect();
        let different: BTreeSet<String> = rows.iter().cloned().collect();
        assert_eq!(different.len(), rows.len(), "{rows:?}");
        assert_eq!(different, accepted());
    }

    #[test]
    fn what_a_missing_key_means_is_json() {
        for row in EFFECTS {
            match row.absent {
                Absent::None => {}
                Absent::Is(text) => {
                    let value: Result<serde_json::Value, _> = serde_json::from_str(text);
                    assert!(value.is_ok(), "{}", row.key);
                }
                Absent::TrueUnless(other, _) => assert!(effect_of(other).is_some(), "{other}"),
            }
        }
    }

    /// A reload of the driver disturbs every VM with a vGPU: whether a driver needs it, only
    /// the host tells.
    #[test]
    fn no_key_needs_the_driver_loaded_again_by_itself() {
        for row in EFFECTS {
            assert_ne!(row.effect, Effect::DriverLoad, "{}", row.key);
            assert_ne!(row.in_instances, Effect::DriverLoad, "{}", row.key);
        }
    }
}
