//! What a pool file changes of the pool of that name as it is installed, and what each change
//! needs until it takes effect.

use std::{collections::BTreeSet, path::Path};

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::{
    allocate::Look,
    config::{self, Absent, ConfigFiles, Effect, KeyEffect, Pool, PoolError, effect_of},
    device::{driver_option, readiness},
    gpu_setup::users,
    host::Host,
    kind::GpuInstances,
    model::{DomainName, PciAddress, PoolName},
    plan::{Detail, Standing},
    rule::Verdict,
};

/// A key whose value differs from the installed file's.
#[derive(Debug, Serialize)]
pub struct Change {
    /// The pool.
    pub pool: PoolName,
    /// The key, with the tables that it is in: `mig.mode`.
    pub key: &'static str,
    /// The installed value; null for none. Of keys of rules, the values of all rules.
    pub from: Value,
    /// The new value.
    pub to: Value,
    /// What the change needs.
    #[serde(serialize_with = "by_name")]
    pub effect: Effect,
    /// What the change does.
    pub about: &'static str,
    /// The GPUs that it is about, for changes of GPUs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gpus: Vec<ChangedGpu>,
}

/// A GPU that a change is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChangedGpu {
    /// The physical function.
    pub gpu: PciAddress,
    /// The VMs that have vGPUs on it.
    pub domains: Vec<DomainName>,
    /// Whether there are vGPUs on it, of those VMs or of others.
    pub in_use: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn by_name<S: Serializer>(effect: &Effect, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(effect.name())
}

/// The installed pool of the file's name; None if there is none.
///
/// # Errors
/// Why it cannot be compared with.
pub(super) fn installed(host: &Host, name: &PoolName) -> Result<Option<Pool>, PoolError> {
    match config::load_pool(host, name) {
        Ok(pool) => Ok(Some(pool)),
        Err(PoolError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Both files of a pool.
#[derive(Debug)]
pub(super) struct Both<'p> {
    /// The installed one.
    pub(super) before: &'p Pool,
    /// The file that is checked; a path of the user's.
    pub(super) after: &'p Pool,
}

impl Both<'_> {
    /// The changes, in the order of the table of keys; None if one of the files has just been
    /// changed or cannot be read any more.
    pub(super) fn changes(&self, host: &Host) -> Option<Vec<Change>> {
        let before = Values::of(&read(host, &self.before.origin)?)?;
        let after = std::path::absolute(&self.after.origin).ok()?;
        let after = Values::of(&read(&Host::new("/"), &after)?)?;
        let differs = |row: &&KeyEffect| !is_same(&before.get(row), &after.get(row));
        let mut rows: Vec<&KeyEffect> = config::EFFECTS.iter().filter(differs).collect();
        // Keys of one kind say nothing of a pool of another.
        if rows.iter().any(|row| row.key == "kind") {
            rows.retain(|row| row.key == "kind");
        }
        let gpus = Gpus::of(host, self);
        let change = |row: &&KeyEffect| {
            let effect = self.effect(row, &gpus);
            Change {
                pool: self.after.name.clone(),
                key: row.key,
                from: before.get(row),
                to: after.get(row),
                effect,
                about: row.about,
                gpus: match effect {
                    Effect::Instances | Effect::FreeGpu | Effect::DriverLoad => {
                        gpus.concerned(host, row)
                    }
                    _ => Vec::new(),
                },
            }
        };
        Some(rows.iter().map(change).collect())
    }

    /// Of the table, and of what the two files and this host are.
    fn effect(&self, row: &KeyEffect, gpus: &Gpus) -> Effect {
        let (before, after) = (has_mig(self.before), has_mig(self.after));
        if row.key == "rule.where" {
            let is_set_up = is_set_up(self.before) || is_set_up(self.after);
            let moves = is_set_up && !gpus.moved.is_empty();
            return match moves || gpus.lack_functions {
                true => Effect::FreeGpu,
                false => row.effect,
            };
        }
        if row.in_instances == Effect::Instances && before != after {
            // MIG mode is switched.
            return Effect::FreeGpu;
        }
        if before && after {
            return row.in_instances;
        }
        if row.key.starts_with("scheduler.") {
            return match () {
                // Nobody wants another one.
                () if scheduler(self.after).is_none() => Effect::None,
                () if gpus.loads_scheduler => Effect::DriverLoad,
                () => row.effect,
            };
        }
        row.effect
    }
}

fn scheduler(pool: &Pool) -> Option<&crate::kind::SchedulerSettings> {
    pool.devices.gpu_settings()?.scheduler.as_ref()
}

fn has_mig(pool: &Pool) -> bool {
    let settings = pool.devices.gpu_settings();
    settings.is_some_and(|its| matches!(its.gpu_instances, GpuInstances::Made(_)))
}

/// Whether the pool wants something of whole GPUs.
fn is_set_up(pool: &Pool) -> bool {
    has_mig(pool) || pool.mixes_sizes() || scheduler(pool).is_some()
}

fn is_rule(row: &KeyEffect) -> bool {
    row.key.starts_with("rule.")
}

/// Who has a pool's GPUs.
#[derive(Debug, Default)]
struct Gpus {
    /// Those of both files.
    all: BTreeSet<PciAddress>,
    /// Those of one of them only.
    moved: BTreeSet<PciAddress>,
    /// Whether one that comes into the pool has no virtual functions yet.
    lack_functions: bool,
    /// Whether the driver takes their scheduler only when it is loaded.
    loads_scheduler: bool,
}

impl Gpus {
    fn of(host: &Host, both: &Both<'_>) -> Self {
        if !both.before.is_of_gpus() && !both.after.is_of_gpus() {
            return Self::default();
        }
        let look = Look::new(host);
        let Ok(supply) = look.supply(Detail::default()) else {
            return Self::default();
        };
        let gpus = |pool: &Pool| -> BTreeSet<PciAddress> {
            let is_of_gpus = pool.is_of_gpus();
            let standings = supply.standings(pool).unwrap_or_default();
            let taken = |one: Standing| {
                let is_taken = is_of_gpus && !matches!(one.verdict, Verdict::NoMatch { .. });
                one.parent.name.pci().filter(|_| is_taken)
            };
            standings.into_iter().filter_map(taken).collect()
        };
        let (before, after) = (gpus(both.before), gpus(both.after));
        let options = host.read_file(driver_option::FILE).ok();
        let options = options.and_then(|text| driver_option::read(&text));
        let loads = |gpu: &PciAddress| options.as_ref().is_some_and(|all| all.contains_key(gpu));
        Self {
            all: before.union(&after).copied().collect(),
            moved: before.symmetric_difference(&after).copied().collect(),
            lack_functions: after
                .difference(&before)
                .any(|gpu| readiness::lacks_functions(host, *gpu)),
            loads_scheduler: after.iter().any(loads),
        }
    }

    /// Those that the change is about, with their VMs.
    fn concerned(&self, host: &Host, row: &KeyEffect) -> Vec<ChangedGpu> {
        let those = if is_rule(row) { &self.moved } else { &self.all };
        let found = those.iter().map(|gpu| {
            // What cannot be told counts as in use, as for 'host apply'.
            let Ok(users) = users(host, *gpu) else {
                return ChangedGpu {
                    gpu: *gpu,
                    domains: Vec::new(),
                    in_use: true,
                };
            };
            let domains: BTreeSet<&DomainName> = users
                .iter()
                .filter_map(|user| user.domain.as_ref())
                .collect();
            ChangedGpu {
                gpu: *gpu,
                domains: domains.into_iter().cloned().collect(),
                in_use: !users.is_empty(),
            }
        });
        found.collect()
    }
}

fn read(host: &Host, path: &Path) -> Option<String> {
    host.read(path).ok()
}

/// The values of a file by key.
#[derive(Debug)]
struct Values(Map<String, Value>);

impl Values {
    fn of(text: &str) -> Option<Self> {
        let table: toml::Table = toml::from_str(text).ok()?;
        let Ok(Value::Object(top)) = serde_json::to_value(table) else {
            return None;
        };
        let mut values = Map::new();
        for (key, value) in top {
            match value {
                Value::Object(inner) => values.extend(
                    inner
                        .into_iter()
                        .map(|(inner, value)| (format!("{key}.{inner}"), value)),
                ),
                Value::Array(rules) if key == "rule" => {
                    for column in ["name", "where", "allow-critical"] {
                        let name = format!("{key}.{column}");
                        values.insert(name.clone(), column_of(&rules, &name, column));
                    }
                }
                value => _ = values.insert(key, value),
            }
        }
        Some(Self(values))
    }

    /// The value that the file has, or what it means to leave it out.
    fn get(&self, row: &KeyEffect) -> Value {
        if let Some(value) = self.0.get(row.key) {
            return value.clone();
        }
        match row.absent {
            Absent::TrueUnless(other, text) => {
                Value::from(self.0.get(other).and_then(Value::as_str) != Some(text))
            }
            _ if is_rule(row) => Value::Array(Vec::new()),
            absent => missing(absent),
        }
    }
}

/// What each rule has there.
fn column_of(rules: &[Value], key: &str, column: &str) -> Value {
    let absent = effect_of(key).map_or(Absent::None, |row| row.absent);
    let value = |rule: &Value| rule.get(column).cloned().unwrap_or_else(|| missing(absent));
    Value::Array(rules.iter().map(value).collect())
}

fn missing(absent: Absent) -> Value {
    match absent {
        Absent::Is(text) => serde_json::from_str(text).unwrap_or_default(),
        Absent::None | Absent::TrueUnless(..) => Value::Null,
    }
}

/// `2` and `2.0` are one number.
fn is_same(one: &Value, other: &Value) -> bool {
    match (one.as_f64(), other.as_f64()) {
        (Some(one), Some(other)) => one.to_bits() == other.to_bits(),
        _ => one == other,
    }
}
