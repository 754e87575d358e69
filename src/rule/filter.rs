//! One filter of a rule: a field, an operator and a value. It is checked when it is
//! made, so that evaluating it cannot fail. Filters see values, never devices.

use regex::{Regex, RegexBuilder};

use super::{
    Field, FieldType, FieldValue, Operator,
    spelling::shown,
    value::{hex, without_0x},
};
use crate::model::PciAddress;

/// The longest value of a filter, in bytes, including patterns.
const MAX_VALUE_BYTES: usize = 1024;
/// The most memory of one compiled pattern, in bytes.
const MAX_PATTERN_MEMORY: usize = 1 << 20;

/// The part of a filter that an error is about: its key in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilterPart {
    /// `field`
    Field,
    /// `op`
    Operator,
    /// `value`
    Value,
}

impl FilterPart {
    /// The key in the file.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Field => "field",
            Self::Operator => "op",
            Self::Value => "value",
        }
    }
}

/// Why a filter was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}{}", accepted_list(accepted))]
pub struct FilterError {
    /// The part that is wrong.
    pub part: FilterPart,
    /// What is wrong with it, in one line.
    pub what: String,
    /// The accepted values, if they can be listed.
    pub accepted: Vec<&'static str>,
}

/// `; accepted: a, b, c`, or nothing for an empty list.
pub(crate) fn accepted_list(accepted: &[&str]) -> String {
    if accepted.is_empty() {
        String::new()
    } else {
        format!("; accepted: {}", accepted.join(", "))
    }
}

/// A condition on one field of a device.
#[derive(Debug, Clone)]
pub struct Filter {
    field: Field,
    op: Operator,
    value: String,
    operand: Operand,
}

/// A filter's value, prepared for its operator.
#[derive(Debug, Clone)]
enum Operand {
    Number(i128),
    Bool(bool),
    Text(String),
    /// Part of a PCI address in canonical form, and as written for devices that have
    /// another kind of name.
    Address {
        pci: String,
        plain: String,
    },
    Pattern(Regex),
}

/// Two filters are equal when they are written the same way.
impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        (self.field, self.op, &self.value) == (other.field, other.op, &other.value)
    }
}

impl Eq for Filter {}

impl Filter {
    /// Checks the three texts of a filter.
    ///
    /// # Errors
    /// When the field or the operator is unknown, the operator does not work on the
    /// field, or the field cannot have the value.
    pub fn new(field: &str, op: &str, value: &str) -> Result<Self, FilterError> {
        let field = Field::parse(field).map_err(|what| FilterError {
            part: FilterPart::Field,
            what,
            accepted: Field::NAMES.to_vec(),
        })?;
        let op = Operator::parse(op).map_err(|what| FilterError {
            part: FilterPart::Operator,
            what,
            accepted: Operator::NAMES.to_vec(),
        })?;
        let value_type = field.info().value_type;
        if !op.works_on(value_type) {
            return Err(FilterError {
                part: FilterPart::Operator,
                what: format!(
                    "'{op}' does not work on the {} field '{field}'",
                    value_type.noun()
                ),
                accepted: field.operators().map(|op| op.info().name).collect(),
            });
        }
        let operand = operand(value_type, op, value)?;
        if let Some(what) = only_a_part(field, op, value) {
            return Err(FilterError {
                part: FilterPart::Value,
                what,
                accepted: Vec::new(),
            });
        }
        let filter = Self {
            field,
            op,
            value: value.to_owned(),
            operand,
        };
        // Only PCI functions have virtual ones.
        match filter.is_no_pci_address() {
            Some(what) if field == Field::PhysicalFunction => Err(FilterError {
                part: FilterPart::Value,
                what,
                accepted: Vec::new(),
            }),
            _ => Ok(filter),
        }
    }

    /// Says of a value that a device's whole name is compared with that it is no PCI address.
    /// This is a mistake unless the devices may have names of another form.
    #[must_use]
    pub fn is_no_pci_address(&self) -> Option<String> {
        let is_name = self.field.info().value_type == FieldType::Address;
        let is_whole = matches!(self.op, Operator::Equal | Operator::NotEqual);
        let is_pci = self.value.trim().parse::<PciAddress>().is_ok();
        let value = shown(&self.value);
        (is_name && is_whole && !is_pci)
            .then(|| format!("'{value}' is not a PCI address (as in 0000:3b:00.0)"))
    }

    /// The field it asks for.
    #[must_use]
    pub const fn field(&self) -> Field {
        self.field
    }

    /// How it compares.
    #[must_use]
    pub const fn op(&self) -> Operator {
        self.op
    }

    /// Its value as written.
    #[must_use]
    pub fn value(&self) -> &str {
        &self.value
    }

    /// Whether the filter holds for a device whose field has that value; if not, why
    /// not.
    ///
    /// # Errors
    /// The reason, on one line, when the filter does not hold.
    pub fn check(&self, found: Option<&FieldValue>) -> Result<(), String> {
        let Self {
            field, op, value, ..
        } = self;
        let value_type = field.info().value_type;
        if !field.info().is_read {
            return Err(format!("{field}: not read by this version"));
        }
        let Some(found) = found else {
            return Err(format!("{field}: no such field on this device"));
        };
        let Some(canonical) = value_type.canonical(found) else {
            let (text, noun) = (shown(&value_type.print(found)), value_type.noun());
            return Err(format!(
                "{field} is '{text}', which is not a valid {noun} value"
            ));
        };
        if self.holds(value_type, &canonical) {
            return Ok(());
        }
        let (text, wanted) = (shown(&value_type.print(&canonical)), shown(value));
        Err(format!("{field} is {text}, wanted {op} {wanted}"))
    }

    fn holds(&self, value_type: FieldType, found: &FieldValue) -> bool {
        match &self.operand {
            Operand::Number(wanted) => {
                number(found).is_some_and(|found| self.op.holds_for(found.cmp(wanted)))
            }
            Operand::Bool(wanted) => match found {
                FieldValue::Bool(found) => self.op.holds_for(found.cmp(wanted)),
                _ => false,
            },
            Operand::Text(wanted) => text_holds(self.op, &value_type.print(found), wanted),
            Operand::Address { pci, plain } => {
                let found = value_type.print(found);
                let is_pci = found.parse::<PciAddress>().is_ok();
                text_holds(self.op, &found, if is_pci { pci } else { plain })
            }
            Operand::Pattern(pattern) => pattern.is_match(&value_type.print(found)),
        }
    }
}

fn number(value: &FieldValue) -> Option<i128> {
    match value {
        FieldValue::Hex(id) => Some(i128::from(*id)),
        FieldValue::Number(number) | FieldValue::Hundredths(number) => Some(i128::from(*number)),
        FieldValue::Text(_) | FieldValue::Bool(_) => None,
    }
}

fn text_holds(op: Operator, found: &str, wanted: &str) -> bool {
    match op {
        Operator::BeginsWith => found.starts_with(wanted),
        Operator::EndsWith => found.ends_with(wanted),
        Operator::Contains => found.contains(wanted),
        Operator::ContainsIgnoreCase => found.to_lowercase().contains(&wanted.to_lowercase()),
        _ => op.holds_for(found.cmp(wanted)),
    }
}

/// Checks the value for its field's type and operator.
fn operand(value_type: FieldType, op: Operator, value: &str) -> Result<Operand, FilterError> {
    let refused = |what: String, accepted: &[&'static str]| FilterError {
        part: FilterPart::Value,
        what,
        accepted: accepted.to_vec(),
    };
    if value.trim().is_empty() {
        // An empty prefix or pattern would match every device.
        return Err(refused("must not be empty".to_owned(), &[]));
    }
    if value.len() > MAX_VALUE_BYTES {
        let what = format!("is longer than {MAX_VALUE_BYTES} bytes");
        return Err(refused(what, &[]));
    }
    if op == Operator::Regex {
        return pattern(value_type, value).map_err(|what| refused(what, &[]));
    }
    if !op.is_comparison() {
        return part_of_text(value_type, value).map_err(|what| refused(what, &[]));
    }
    let shown = shown(value);
    let what = match (value_type, value_type.read(value)) {
        (_, Some(FieldValue::Text(text))) => return Ok(Operand::Text(text)),
        (_, Some(FieldValue::Bool(flag))) => return Ok(Operand::Bool(flag)),
        (_, Some(FieldValue::Hex(id))) => return Ok(Operand::Number(i128::from(id))),
        (_, Some(FieldValue::Number(number) | FieldValue::Hundredths(number))) => {
            return Ok(Operand::Number(i128::from(number)));
        }
        (FieldType::Hex { digits }, None) => {
            format!("'{shown}' is not a hexadecimal id of at most {digits} digits")
        }
        (FieldType::IdPair, None) => {
            format!("'{shown}' is not a pair of hexadecimal ids (as in 10de:1851)")
        }
        (FieldType::Number, None) => format!("'{shown}' is not a whole number"),
        (FieldType::Decimal, None) => {
            format!("'{shown}' is not a number with at most two decimals")
        }
        (FieldType::Bool, None) => {
            let accepted = ["yes", "no", "true", "false"];
            return Err(refused(
                format!("'{shown}' is neither yes nor no"),
                &accepted,
            ));
        }
        (FieldType::Class, None) => {
            let what = super::Class::parse(value).err().unwrap_or_default();
            return Err(refused(what, super::Class::NAMES));
        }
        (FieldType::Text | FieldType::Address, None) => format!("'{shown}' is not a text"),
    };
    Err(refused(what, &[]))
}

/// Says of a value that a whole value is compared with, but no device can have, that it is only
/// part of one: the rule would never match, or match every device.
fn only_a_part(field: Field, op: Operator, value: &str) -> Option<String> {
    if !matches!(op, Operator::Equal | Operator::NotEqual) {
        return None;
    }
    let value = value.trim();
    let (what, meant) = match field.info().value_type {
        // Other ids are also written without their leading zeros.
        FieldType::Hex { digits } if field == Field::ClassId => {
            let found = without_0x(value).len();
            let what = format!("has {found} digits, and a {field} has {digits} (as in 030200)");
            (found < digits).then_some((what, Operator::BeginsWith))?
        }
        FieldType::Address if looks_like_pci(value) => {
            let has_domain = value.matches(':').count() > 1;
            let what = "is not a whole PCI address (as in 0000:3b:00.0)".to_owned();
            match has_domain {
                true => (what, Operator::BeginsWith),
                false => (what, Operator::Contains),
            }
        }
        _ => return None,
    };
    let meant = match op {
        Operator::Equal => format!("; did you mean '{meant}'?"),
        _ => String::new(),
    };
    Some(format!("'{}' {what}{meant}", shown(value)))
}

/// Whether it is written as a PCI address but is none. Other kernel names of devices have no
/// colon, as mtty or 0.0.0313.
fn looks_like_pci(text: &str) -> bool {
    let has_its_characters = text
        .bytes()
        .all(|b| b.is_ascii_hexdigit() || b == b':' || b == b'.');
    has_its_characters && text.contains(':') && text.parse::<PciAddress>().is_err()
}

/// The value of a text operator: part of the field's canonical form.
fn part_of_text(value_type: FieldType, value: &str) -> Result<Operand, String> {
    let shown = shown(value);
    match value_type {
        FieldType::Hex { digits } => {
            let part = without_0x(value).to_lowercase();
            // Leading zeros count here, because the canonical form has them.
            if part.len() > digits || hex(&part, digits).is_none() {
                return Err(format!(
                    "'{shown}' is not part of a hexadecimal id of {digits} digits"
                ));
            }
            Ok(Operand::Text(part))
        }
        FieldType::IdPair => {
            let part = value
                .split(':')
                .map(without_0x)
                .collect::<Vec<_>>()
                .join(":");
            let part = part.to_lowercase();
            if part.is_empty() || !part.bytes().all(|b| b == b':' || b.is_ascii_hexdigit()) {
                return Err(format!(
                    "'{shown}' is not part of a pair of ids (as in 10de:1851)"
                ));
            }
            Ok(Operand::Text(part))
        }
        FieldType::Address => Ok(Operand::Address {
            pci: canonical_part(value),
            plain: value.to_owned(),
        }),
        _ => Ok(Operand::Text(value.to_owned())),
    }
}

/// Part of a PCI address as sysfs writes it: lower case, and NVIDIA's domain of eight
/// digits cut to the usual four if only zeros are cut. A short form gets no domain
/// here: `ends-with 3b:00.0` means any domain.
fn canonical_part(value: &str) -> String {
    let whole = value.to_lowercase();
    match whole.split_once(':') {
        Some((domain, _)) if domain.len() == 8 && domain.starts_with("0000") => {
            whole.chars().skip(4).collect()
        }
        _ => whole,
    }
}

fn pattern(value_type: FieldType, value: &str) -> Result<Operand, String> {
    RegexBuilder::new(value)
        .size_limit(MAX_PATTERN_MEMORY)
        .case_insensitive(value_type.ignores_case())
        .build()
        .map(Operand::Pattern)
        .map_err(|error| match error {
            regex::Error::CompiledTooBig(limit) => {
                format!("the pattern takes more than {limit} bytes of memory")
            }
            // The regex crate prints the pattern with a caret under it, on several
            // lines; the last line has the reason.
            other => {
                let text = other.to_string();
                let reason = text.lines().last().unwrap_or_default().trim();
                let reason = reason.strip_prefix("error: ").unwrap_or(reason);
                format!("'{}' is not a regular expression: {reason}", shown(value))
            }
        })
}

#[cfg(test)]
mod tests;
