//! The operators of a filter: one table of name, family and meaning. A family
//! says which types of field an operator works on.

use std::{cmp::Ordering, fmt};

use super::{FieldType, spelling::did_you_mean};

/// What an operator requires of a field's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// Works on every type.
    Equality,
    /// Needs an order: numbers, and hexadecimal ids as numbers.
    Order,
    /// Needs text: an id has a first character that counts, a number does not.
    Text,
}

/// An operator's entry in the registry.
#[derive(Debug, Clone, Copy)]
pub struct OperatorInfo {
    /// The name in files.
    pub name: &'static str,
    /// One line for the man page.
    pub about: &'static str,
    /// The words of a sentence between the field and the value.
    pub phrase: &'static str,
    family: Family,
}

macro_rules! operators {
    ($($variant:ident $name:literal $family:ident $phrase:literal $about:literal;)+) => {
        /// How a filter compares a device's field with its value.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Operator { $(#[doc = $about] $variant),+ }

        impl Operator {
            /// Every operator, in the order in which messages list them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
            /// Their names, in the same order.
            pub const NAMES: &'static [&'static str] = &[$($name),+];

            /// The operator's entry in the registry.
            #[must_use]
            pub const fn info(self) -> &'static OperatorInfo {
                match self {
                    $(Self::$variant => &OperatorInfo {
                        name: $name,
                        about: $about,
                        phrase: $phrase,
                        family: Family::$family,
                    }),+
                }
            }
        }
    };
}

operators! {
    Equal "equal" Equality "is" "The field is the value; ids and addresses in any notation.";
    NotEqual "not-equal" Equality "is not" "The device has the field, and it is not the value.";
    LessThan "less-than" Order "is less than" "The field is below the value.";
    LessOrEqual "less-or-equal" Order "is at most" "The field is the value or below it.";
    GreaterThan "greater-than" Order "is greater than" "The field is above the value.";
    GreaterOrEqual "greater-or-equal" Order "is at least" "The field is the value or above it.";
    BeginsWith "begins-with" Text "begins with" "The field begins with the value.";
    EndsWith "ends-with" Text "ends with" "The field ends with the value.";
    Contains "contains" Text "contains" "The value occurs in the field.";
    ContainsIgnoreCase "contains-ignore-case" Text "contains, in any case," "The value occurs in the field, in any case.";
    Regex "regex" Text "matches" "The regular expression matches somewhere in the field; anchor it with ^ and $.";
}

impl Operator {
    /// The operator of that name, or an error text.
    pub(super) fn parse(name: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|op| op.info().name == name);
        found.copied().ok_or_else(|| {
            let shown = super::spelling::shown(name);
            let meant = did_you_mean(name, Self::NAMES);
            format!("unknown operator '{shown}'{meant}")
        })
    }

    /// Whether the operator works on fields of that type.
    #[must_use]
    pub fn works_on(self, field_type: FieldType) -> bool {
        match self.info().family {
            Family::Equality => true,
            Family::Order => field_type.is_ordered(),
            Family::Text => field_type.is_textual(),
        }
    }

    /// Whether the operator is one of the comparisons: equality or order.
    pub(super) fn is_comparison(self) -> bool {
        self.info().family != Family::Text
    }

    /// Whether a comparison operator holds when the field compares to the value with
    /// `order`. A text operator never holds.
    pub(super) fn holds_for(self, order: Ordering) -> bool {
        match self {
            Self::Equal => order.is_eq(),
            Self::NotEqual => order.is_ne(),
            Self::LessThan => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
            Self::GreaterThan => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
            Self::BeginsWith
            | Self::EndsWith
            | Self::Contains
            | Self::ContainsIgnoreCase
            | Self::Regex => false,
        }
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.info().name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registry_has_the_eleven_operators_once_each() {
        assert_eq!(Operator::ALL.len(), 11);
        for (op, name) in Operator::ALL.iter().zip(Operator::NAMES) {
            assert_eq!(Operator::parse(name), Ok(*op));
            assert!(op.info().about.ends_with('.'));
        }
    }

    #[test]
    fn an_unknown_operator_is_named_with_the_nearest() {
        assert_eq!(
            Operator::parse("begin-with").unwrap_err(),
            "unknown operator 'begin-with' (did you mean 'begins-with'?)"
        );
        assert_eq!(Operator::parse("=~").unwrap_err(), "unknown operator '=~'");
    }
}
