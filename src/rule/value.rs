//! Types and values of fields: how they are written, and the one canonical form that
//! comparisons use. This module reads and prints values; `filter` compares them.

use std::borrow::Cow;

use super::Class;
use crate::model::PciAddress;

/// How a field's values are written and compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldType {
    /// Any text, compared as it is.
    Text,
    /// A device's kernel name. PCI addresses compare in canonical form, any
    /// other name as it is.
    Address,
    /// One of the labels of [`Class`].
    Class,
    /// Two ids of four hexadecimal digits with a colon between them, vendor first.
    IdPair,
    /// A hexadecimal id. Number operators accept any notation. Text operators use lower
    /// case, without `0x`, with leading zeros up to `digits`.
    Hex {
        /// Digits of the canonical form, at most 16.
        digits: usize,
    },
    /// A whole number.
    Number,
    /// A number with at most two decimals.
    Decimal,
    /// Yes or no.
    Bool,
}

/// A device's field as its reader found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldValue {
    /// Text, also of addresses, classes and pairs of ids.
    Text(String),
    /// A hexadecimal id.
    Hex(u64),
    /// A whole number.
    Number(i64),
    /// A number with two decimals, times 100.
    Hundredths(i64),
    /// Yes or no.
    Bool(bool),
}

impl FieldType {
    /// Whether values can be compared as less and greater.
    pub(super) const fn is_ordered(self) -> bool {
        matches!(self, Self::Hex { .. } | Self::Number | Self::Decimal)
    }

    /// Whether the value has a beginning and an end.
    pub(super) const fn is_textual(self) -> bool {
        !matches!(self, Self::Number | Self::Decimal | Self::Bool)
    }

    /// Whether the canonical form ignores the difference between upper and lower case.
    pub(super) const fn ignores_case(self) -> bool {
        matches!(self, Self::Address | Self::IdPair | Self::Hex { .. })
    }

    /// The type's name in messages.
    #[must_use]
    pub const fn noun(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Address => "address",
            Self::Class => "class",
            Self::IdPair => "id pair",
            Self::Hex { .. } => "hexadecimal",
            Self::Number => "number",
            Self::Decimal => "decimal",
            Self::Bool => "yes/no",
        }
    }

    /// Reads a value as sysfs or people write it; white space around it is ignored.
    /// None when the text is empty or not a value of this type.
    #[must_use]
    pub fn read(self, text: &str) -> Option<FieldValue> {
        let text = text.trim();
        if text.is_empty() {
            return None;
        }
        match self {
            Self::Text => Some(FieldValue::Text(text.to_owned())),
            Self::Address => Some(FieldValue::Text(canonical_address(text).into_owned())),
            Self::Class => {
                let class: Class = text.parse().ok()?;
                Some(FieldValue::Text(class.to_string()))
            }
            Self::IdPair => canonical_pair(text).map(FieldValue::Text),
            Self::Hex { digits } => hex(text, digits).map(FieldValue::Hex),
            Self::Number => text.parse().ok().map(FieldValue::Number),
            Self::Decimal => hundredths(text).map(FieldValue::Hundredths),
            Self::Bool => yes_or_no(text).map(FieldValue::Bool),
        }
    }

    /// The value in this type's canonical form; None when it is of another type and its
    /// text is not a value of this type.
    pub(super) fn canonical(self, value: &FieldValue) -> Option<FieldValue> {
        match (self, value) {
            (_, FieldValue::Text(text)) => self.read(text),
            (Self::Hex { .. }, FieldValue::Hex(_))
            | (Self::Number, FieldValue::Number(_))
            | (Self::Decimal, FieldValue::Hundredths(_))
            | (Self::Bool, FieldValue::Bool(_)) => Some(value.clone()),
            _ => None,
        }
    }

    /// The canonical text of a value of this type.
    #[must_use]
    pub fn print(self, value: &FieldValue) -> String {
        match (self, value) {
            (Self::Hex { digits }, FieldValue::Hex(id)) => format!("{id:0digits$x}"),
            (_, FieldValue::Text(text)) => text.clone(),
            (_, FieldValue::Hex(id)) => format!("{id:x}"),
            (_, FieldValue::Number(number)) => number.to_string(),
            (_, FieldValue::Hundredths(number)) => {
                let (whole, rest) = (number.div_euclid(100), number.rem_euclid(100));
                let decimals = format!("{whole}.{rest:02}");
                decimals.strip_suffix('0').unwrap_or(&decimals).to_owned()
            }
            (_, FieldValue::Bool(flag)) => if *flag { "yes" } else { "no" }.to_owned(),
        }
    }
}

/// Without a leading `0x`.
pub(super) fn without_0x(text: &str) -> &str {
    text.strip_prefix("0x")
        .or_else(|| text.strip_prefix("0X"))
        .unwrap_or(text)
}

/// A hexadecimal number of at most `digits` digits, leading zeros not counted.
pub(super) fn hex(text: &str, digits: usize) -> Option<u64> {
    let text = without_0x(text);
    // from_str_radix would take a sign.
    let is_hex = !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
    let significant = text.trim_start_matches('0');
    (is_hex && significant.len() <= digits)
        .then(|| u64::from_str_radix(text, 16).ok())
        .flatten()
}

/// A PCI address as sysfs writes it; any other name unchanged.
fn canonical_address(text: &str) -> Cow<'_, str> {
    text.parse::<PciAddress>()
        .map_or(Cow::Borrowed(text), |address| {
            Cow::Owned(address.to_string())
        })
}

fn canonical_pair(text: &str) -> Option<String> {
    let (vendor, device) = text.split_once(':')?;
    Some(format!("{:04x}:{:04x}", hex(vendor, 4)?, hex(device, 4)?))
}

fn hundredths(text: &str) -> Option<i64> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
    let are_digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !are_digits(whole) || !are_digits(decimals) {
        return None;
    }
    let decimals = decimals.trim_end_matches('0');
    if decimals.len() > 2 {
        return None;
    }
    let rest: i64 = format!("{decimals:0<2}").parse().ok()?;
    whole
        .parse::<i64>()
        .ok()?
        .checked_mul(100)?
        .checked_add(rest)
}

fn yes_or_no(text: &str) -> Option<bool> {
    match text {
        "yes" | "true" => Some(true),
        "no" | "false" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [FieldType; 8] = [
        FieldType::Text,
        FieldType::Address,
        FieldType::Class,
        FieldType::IdPair,
        FieldType::Hex { digits: 4 },
        FieldType::Number,
        FieldType::Decimal,
        FieldType::Bool,
    ];

    #[test]
    fn values_print_in_their_canonical_form() {
        for (value_type, written, wanted) in [
            (FieldType::Text, " QEMU \n", "QEMU"),
            (FieldType::Address, "00000000:3B:00.0", "0000:3b:00.0"),
            (FieldType::Address, "mTTy", "mTTy"),
            (FieldType::Class, "gpu", "gpu"),
            (FieldType::IdPair, "0x10DE:0x51", "10de:0051"),
            (FieldType::Hex { digits: 4 }, "0x10DE\n", "10de"),
            (FieldType::Hex { digits: 6 }, "0x30200", "030200"),
            (FieldType::Hex { digits: 4 }, "00000010de", "10de"),
            (FieldType::Number, "-1", "-1"),
            (FieldType::Decimal, " 3.20", "3.2"),
            (FieldType::Decimal, "480", "480.0"),
            (FieldType::Bool, "true", "yes"),
        ] {
            let value = value_type.read(written).unwrap();
            assert_eq!(value_type.print(&value), wanted, "{written:?}");
        }
    }

    #[test]
    fn what_is_no_value_of_the_type_is_not_read() {
        for (value_type, written) in [
            (FieldType::Text, " \n"),
            (FieldType::Class, "gpus"),
            (FieldType::IdPair, "10de"),
            (FieldType::IdPair, "10de:1:2"),
            (FieldType::Hex { digits: 4 }, "0x"),
            (FieldType::Hex { digits: 4 }, "10de0"),
            (FieldType::Hex { digits: 4 }, "+1"),
            (FieldType::Hex { digits: 16 }, "10000000000000000"),
            (FieldType::Number, "two"),
            (FieldType::Number, "0x2"),
            (FieldType::Number, "9223372036854775808"),
            (FieldType::Decimal, "3."),
            (FieldType::Decimal, "1.234"),
            (FieldType::Decimal, "-1"),
            (FieldType::Decimal, "99999999999999999999"),
            (FieldType::Bool, "1"),
            (FieldType::Bool, "Yes"),
        ] {
            assert_eq!(value_type.read(written), None, "{written:?}");
        }
    }

    proptest! {
        #[test]
        fn reading_what_was_printed_changes_nothing(text: String) {
            for value_type in ALL {
                if let Some(value) = value_type.read(&text) {
                    let printed = value_type.print(&value);
                    prop_assert_eq!(value_type.read(&printed), Some(value));
                }
            }
        }

        #[test]
        fn hex_in_any_notation_is_one_number(id: u16, zeros in 0usize..6, prefix in "(0x|0X)?") {
            let zeros = "0".repeat(zeros);
            for digits in [format!("{id:x}"), format!("{id:X}")] {
                let text = format!("{prefix}{zeros}{digits}");
                prop_assert_eq!(hex(&text, 4), Some(u64::from(id)));
            }
        }
    }
}
