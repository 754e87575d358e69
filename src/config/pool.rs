//! A validated pool, as the rest of the program uses it. Every value has been checked,
//! and missing values have their defaults.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Class, MAX_FILE_BYTES,
    fragment::{FilterFragment, PoolFragment, RuleFragment},
};
use crate::{
    document::{ConfigError, LineEnds, Position, TomlText, Written},
    kind::{Devices, Kind, Subject},
    model::{DriverSetName, PoolName},
    rule::{
        Filter, FilterPart, Operator, Rule, labels::labels, spelling::did_you_mean, spelling::shown,
    },
};

/// The most rules of a pool and the most filters of a rule: far more than any real file
/// has, but few enough that evaluating them takes no noticeable time.
const MAX_RULES: usize = 1024;
const MAX_FILTERS: usize = 64;
/// The most patterns of a pool. Compiling a large one takes about 10 ms, and the hook
/// has a deadline.
const MAX_PATTERNS: usize = 64;

/// A pool of devices.
#[derive(Debug, Clone)]
pub struct Pool {
    /// Its name: that of its file.
    pub name: PoolName,
    /// The kind of its devices.
    pub kind: &'static dyn Kind,
    /// The administrator's note.
    pub description: Option<String>,
    /// A label to sort by.
    pub class: Option<Class>,
    /// The kind's own part of the file.
    pub devices: Arc<dyn Devices>,
    /// The most devices at once; 0 = as many as fit.
    pub instances: u32,
    /// How devices are spread over the parents.
    pub placement: Placement,
    /// Absolute path of the ISO file with the guest's driver.
    pub guest_driver: Option<GuestDriver>,
    /// Values for requests that do not set them.
    pub defaults: Defaults,
    /// A device is in the pool when any of them matches.
    pub rules: Vec<Rule>,
    /// The file that it was read from.
    pub origin: PathBuf,
}

impl Pool {
    /// The type of its devices, in one word.
    #[must_use]
    pub fn type_name(&self) -> &str {
        self.devices.type_name()
    }

    /// The type in words: "mdev type 'nvidia-558'".
    #[must_use]
    pub fn type_in_words(&self) -> String {
        self.devices.type_in_words()
    }

    /// Whether the devices of both are of one type.
    #[must_use]
    pub fn is_of_one_type_with(&self, other: &Self) -> bool {
        self.kind == other.kind && self.type_name() == other.type_name()
    }

    /// Whether its rules are about whole GPUs.
    #[must_use]
    pub fn is_of_gpus(&self) -> bool {
        self.kind.subject() == Subject::Gpu
    }

    /// Whether a request of the pool is optional if it says that of itself: it is always where
    /// the pool's devices are plugged in when the VM has started.
    #[must_use]
    pub fn makes_optional(&self, says: Option<bool>) -> bool {
        self.devices.is_plugged_in_later() || says.or(self.defaults.optional) == Some(true)
    }

    /// Whether the domain XML names a device that must be chosen before the start.
    #[must_use]
    pub fn is_chosen_ahead(&self) -> bool {
        self.kind.is_chosen_ahead()
    }

    /// Whether its GPUs hold devices of several sizes at once.
    #[must_use]
    pub fn mixes_sizes(&self) -> bool {
        let settings = self.devices.gpu_settings();
        settings.is_some_and(|settings| settings.heterogeneous)
    }

    /// Accepted settings that are probably mistakes, one line each.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        if self.rules.is_empty() {
            return vec!["the pool has no rules, so no device is in it".to_owned()];
        }
        let mut warnings = Vec::new();
        for (index, rule) in self.rules.iter().enumerate() {
            let mut fields = rule.filters.iter().map(Filter::field);
            if let Some(field) = fields.find(|field| !self.kind.reads(*field)) {
                let (rule, kind) = (rule.label(index), self.kind);
                warnings.push(format!(
                    "{rule} never matches: this version reads no '{field}' for kind '{kind}'"
                ));
            }
            if let Some(doubt) = self.devices.doubt_about(rule) {
                warnings.push(format!("{} {doubt}", rule.label(index)));
            }
        }
        warnings
    }
}

labels!(
    /// How devices are spread over the parents of a pool.
    #[derive(Default)]
    Placement, "a placement";
    /// Fill one parent before the next: keeps whole parents free.
    #[default]
    Pack "pack",
    /// Take the emptiest parent: gives each device more of its parent.
    Spread "spread",
);

/// Parameters of a device whose request does not set them. All but `optional` are
/// parameters of NVIDIA's driver: a pool of kind `mdev` applies them to types of that
/// driver only.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Defaults {
    /// Frames per second; 0 = off.
    pub frame_rate_limit: Option<u32>,
    /// Whether the driver shows the display to VNC consoles.
    pub console_vnc: Option<bool>,
    /// Whether CUDA's unified memory works.
    pub unified_memory: Option<bool>,
    /// Whether CUDA debuggers work.
    pub debuggers: Option<bool>,
    /// Whether CUDA profilers work.
    pub profilers: Option<bool>,
    /// Whether a domain starts without the device when none is free.
    pub optional: Option<bool>,
}

/// Reads a pool file's text.
///
/// # Errors
/// The first mistake, with its line and key.
pub fn parse(name: PoolName, origin: &Path, text: &str) -> Result<Pool, ConfigError> {
    if text.len() > MAX_FILE_BYTES {
        return Err(ConfigError {
            file: origin.to_owned(),
            line: 1,
            key: None,
            message: format!("is larger than {MAX_FILE_BYTES} bytes"),
        });
    }
    let fragment = PoolFragment::read(TomlText {
        file: origin,
        text,
        line_ends: &LineEnds::of(text),
    })?;
    Ok(Pool {
        name,
        kind: fragment.kind.value,
        description: fragment.description.map(|text| text.value),
        class: checked(origin, fragment.class, class)?,
        instances: fragment.instances.unwrap_or_default(),
        placement: checked(origin, fragment.placement, placement)?.unwrap_or_default(),
        guest_driver: checked(origin, fragment.guest_driver, guest_driver)?,
        defaults: defaults(
            origin,
            fragment.defaults,
            fragment.optional_at,
            &*fragment.devices,
        )?,
        devices: fragment.devices,
        rules: rules(origin, fragment.kind.value, &fragment.rules)?,
        origin: origin.to_owned(),
    })
}

/// A VM whose device is plugged in later starts without it.
fn defaults(
    file: &Path,
    written: Defaults,
    optional_at: Option<Position>,
    devices: &dyn Devices,
) -> Result<Defaults, ConfigError> {
    if !devices.is_plugged_in_later() {
        return Ok(written);
    }
    if let (Some(false), Some(at)) = (written.optional, optional_at) {
        let what = "is false, but the pool's devices are plugged in when the VM has started: \
                    leave it out, or choose another placeholder";
        return Err(at.refuse(file, what, &[]));
    }
    Ok(Defaults {
        optional: Some(true),
        ..written
    })
}

/// What a check found wrong, and which values it accepts.
type Refusal = (String, &'static [&'static str]);

fn checked<T>(
    file: &Path,
    written: Option<Written<String>>,
    check: impl FnOnce(&str) -> Result<T, Refusal>,
) -> Result<Option<T>, ConfigError> {
    let Some(Written { value, at }) = written else {
        return Ok(None);
    };
    let refuse = |(what, accepted): Refusal| at.refuse(file, &what, accepted);
    check(&value).map(Some).map_err(refuse)
}

fn class(text: &str) -> Result<Class, Refusal> {
    Class::parse(text).map_err(|what| (what, Class::NAMES))
}

fn placement(text: &str) -> Result<Placement, Refusal> {
    text.parse().map_err(|_| {
        let meant = did_you_mean(text, Placement::NAMES);
        let what = format!("unknown placement '{}'{meant}", shown(text));
        (what, Placement::NAMES)
    })
}

/// The drivers that a pool lends to guests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestDriver {
    /// The absolute path of an ISO image.
    Image(String),
    /// The disc of a driver set.
    Set(DriverSetName),
}

impl GuestDriver {
    /// The path of the image.
    #[must_use]
    pub fn image(&self) -> String {
        match self {
            Self::Image(path) => path.clone(),
            Self::Set(name) => name.disc(),
        }
    }
}

/// As it is written in the file.
impl fmt::Display for GuestDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(path) => f.write_str(path),
            Self::Set(name) => name.fmt(f),
        }
    }
}

fn guest_driver(text: &str) -> Result<GuestDriver, Refusal> {
    let is_iso = text.ends_with(".iso") || text.ends_with(".ISO");
    if is_iso && text.starts_with('/') {
        return Ok(GuestDriver::Image(text.to_owned()));
    }
    if is_iso || text.contains('/') {
        let text = shown(text);
        let what = format!("'{text}' is not the absolute path of an .iso file");
        return Err((what, &[]));
    }
    text.parse().map(GuestDriver::Set).map_err(|bad| {
        let accepted = &[
            "the absolute path of an .iso file",
            "the name of a driver set",
        ][..];
        (bad.to_string(), accepted)
    })
}

fn rules(
    file: &Path,
    kind: &dyn Kind,
    fragments: &[RuleFragment],
) -> Result<Vec<Rule>, ConfigError> {
    if let Some(excess) = fragments.get(MAX_RULES) {
        let what = format!("is in a pool of more than {MAX_RULES} rules");
        return Err(excess.at.refuse(file, &what, &[]));
    }
    let filters = fragments.iter().flat_map(|fragment| &fragment.filters);
    let mut patterns = filters.filter(|filter| filter.op.value == Operator::Regex.info().name);
    if let Some(excess) = patterns.nth(MAX_PATTERNS) {
        let what = format!("is in a pool of more than {MAX_PATTERNS} regex filters");
        return Err(excess.op.at.refuse(file, &what, &[]));
    }
    fragments
        .iter()
        .map(|fragment| rule(file, kind, fragment))
        .collect()
}

fn rule(file: &Path, kind: &dyn Kind, fragment: &RuleFragment) -> Result<Rule, ConfigError> {
    let refuse = |what: &str| fragment.at.refuse(file, what, &[]);
    if fragment.filters.is_empty() {
        return Err(refuse("is empty, which would match every device"));
    }
    if fragment.filters.len() > MAX_FILTERS {
        return Err(refuse(&format!("has more than {MAX_FILTERS} filters")));
    }
    let written = fragment.filters.iter();
    let filters = written.map(|written| filter(file, kind, written));
    Ok(Rule {
        name: fragment.name.as_ref().map(|name| name.value.clone()),
        filters: filters.collect::<Result<_, _>>()?,
        allow_critical: fragment.allow_critical,
    })
}

fn filter(file: &Path, kind: &dyn Kind, written: &FilterFragment) -> Result<Filter, ConfigError> {
    let FilterFragment { field, op, value } = written;
    let filter = Filter::new(&field.value, &op.value, &value.value).map_err(|error| {
        let part = match error.part {
            FilterPart::Field => field,
            FilterPart::Operator => op,
            FilterPart::Value => value,
        };
        part.at.refuse(file, &error.what, &error.accepted)
    })?;
    // Parents of mediated devices have names of any form.
    match filter.is_no_pci_address() {
        Some(what) if kind.subject() != Subject::Parent => Err(value.at.refuse(file, &what, &[])),
        _ => Ok(filter),
    }
}
