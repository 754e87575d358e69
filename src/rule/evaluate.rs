//! The verdict on a device: whether one of a pool's rules matches it and, if none does,
//! why each rule did not. A field is read only when a filter asks for it, and at most
//! once, because reading may cost a system call.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use super::{Field, FieldValue, Filter, spelling::shown};

/// A device that rules are applied to.
pub trait Fields {
    /// The device's value for the field; None when it has no such field.
    fn field(&self, field: Field) -> Option<FieldValue>;
}

/// A rule: it matches when all its filters hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The administrator's name for it.
    pub name: Option<String>,
    /// The conditions, in written order.
    pub filters: Vec<Filter>,
    /// Whether it may take a critical device, one that the host itself needs.
    pub allow_critical: bool,
}

impl Rule {
    /// The rule's name in messages: its own name, otherwise its number in the file.
    /// `index` counts from 0, the message from 1.
    #[must_use]
    pub fn label(&self, index: usize) -> String {
        match &self.name {
            Some(name) => format!("rule '{}'", shown(name)),
            None => format!("rule {}", index.saturating_add(1)),
        }
    }
}

/// Whether a device is in a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The device is in the pool.
    Match {
        /// The first rule that matches, as in `rule 'L40S in slot 3b'`.
        rule: String,
    },
    /// The device is not in the pool.
    NoMatch {
        /// For each rule, its first filter that does not hold.
        reasons: Vec<String>,
    },
}

/// The verdict of the rules on a device.
#[must_use]
pub fn evaluate(rules: &[Rule], device: &dyn Fields) -> Verdict {
    match matching_rule(rules, device) {
        Ok((index, rule)) => Verdict::Match {
            rule: rule.label(index),
        },
        Err(reasons) => Verdict::NoMatch { reasons },
    }
}

/// The first rule that matches a device, with its index in the list.
///
/// # Errors
/// When no rule matches: for each rule, the first filter that does not hold.
pub fn matching_rule<'r>(
    rules: &'r [Rule],
    device: &dyn Fields,
) -> Result<(usize, &'r Rule), Vec<String>> {
    let device = Remembered {
        device,
        seen: RefCell::default(),
    };
    let mut reasons = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        match first_miss(rule, &device) {
            None => return Ok((index, rule)),
            Some(reason) => reasons.push(format!("{}: {reason}", rule.label(index))),
        }
    }
    if rules.is_empty() {
        reasons.push("the pool has no rules".to_owned());
    }
    Err(reasons)
}

fn first_miss(rule: &Rule, device: &Remembered<'_>) -> Option<String> {
    if rule.filters.is_empty() {
        // The parser refuses such a rule. A rule without filters that is made in code
        // must not match all devices.
        return Some("it has no filters".to_owned());
    }
    rule.filters.iter().find_map(|filter| {
        let is_read = filter.field().info().is_read;
        let found = is_read.then(|| device.field(filter.field())).flatten();
        filter.check(found.as_ref()).err()
    })
}

/// The fields that the rules ask for.
#[must_use]
pub fn fields_used(rules: &[Rule]) -> BTreeSet<Field> {
    let filters = rules.iter().flat_map(|rule| &rule.filters);
    filters.map(Filter::field).collect()
}

/// A device whose fields are read only once.
struct Remembered<'d> {
    device: &'d dyn Fields,
    seen: RefCell<BTreeMap<Field, Option<FieldValue>>>,
}

impl Remembered<'_> {
    fn field(&self, field: Field) -> Option<FieldValue> {
        let mut seen = self.seen.borrow_mut();
        let value = seen.entry(field);
        value.or_insert_with(|| self.device.field(field)).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device that records which of its fields were read.
    struct Card {
        fields: Vec<(Field, &'static str)>,
        read: RefCell<Vec<Field>>,
    }

    impl Card {
        fn new(fields: &[(Field, &'static str)]) -> Self {
            Self {
                fields: fields.to_vec(),
                read: RefCell::default(),
            }
        }
    }

    impl Fields for Card {
        fn field(&self, field: Field) -> Option<FieldValue> {
            self.read.borrow_mut().push(field);
            let (_, text) = self.fields.iter().find(|(have, _)| *have == field)?;
            field.info().value_type.read(text)
        }
    }

    fn rule(name: Option<&str>, filters: &[(&str, &str, &str)]) -> Rule {
        let filter = |(field, op, value): &(&str, &str, &str)| Filter::new(field, op, value);
        Rule {
            name: name.map(str::to_owned),
            filters: filters.iter().map(|f| filter(f).unwrap()).collect(),
            allow_critical: false,
        }
    }

    fn l40s() -> Card {
        Card::new(&[
            (Field::Address, "0000:5e:00.0"),
            (Field::VendorId, "0x10de"),
            (Field::NumaNode, "1"),
        ])
    }

    #[test]
    fn each_rule_says_what_it_missed() {
        let rules = [
            rule(
                Some("L40S in slot 3b"),
                &[
                    ("vendor-id", "equal", "0x10DE"),
                    ("address", "begins-with", "0000:3b:"),
                ],
            ),
            rule(None, &[("numa-node", "less-than", "1")]),
            rule(Some("old"), &[("driver", "equal", "nvidia")]),
            rule(Some("ahead"), &[("mac", "contains", "L40S")]),
        ];
        assert_eq!(
            evaluate(&rules, &l40s()),
            Verdict::NoMatch {
                reasons: vec![
                    "rule 'L40S in slot 3b': address is 0000:5e:00.0, wanted begins-with 0000:3b:"
                        .to_owned(),
                    "rule 2: numa-node is 1, wanted less-than 1".to_owned(),
                    "rule 'old': driver: no such field on this device".to_owned(),
                    "rule 'ahead': mac: not read by this version".to_owned(),
                ]
            }
        );
    }

    #[test]
    fn the_first_matching_rule_wins() {
        let rules = [
            rule(Some("a"), &[("numa-node", "equal", "0")]),
            rule(Some("b"), &[("numa-node", "equal", "1")]),
            rule(Some("c"), &[("vendor-id", "equal", "10de")]),
        ];
        let card = l40s();
        assert_eq!(
            evaluate(&rules, &card),
            Verdict::Match {
                rule: "rule 'b'".to_owned()
            }
        );
        assert_eq!(matching_rule(&rules, &card).unwrap().0, 1);
    }

    #[test]
    fn fields_are_read_in_written_order_once_and_only_when_needed() {
        let rules = [
            rule(
                None,
                &[
                    ("numa-node", "equal", "0"),
                    ("driver", "equal", "nvidia"), // not reached
                ],
            ),
            rule(
                None,
                &[
                    ("vendor-id", "equal", "10de"),
                    ("numa-node", "equal", "1"),
                    ("mac", "equal", "x"), // not read by this version
                ],
            ),
        ];
        let card = l40s();
        assert!(matches!(evaluate(&rules, &card), Verdict::NoMatch { .. }));
        assert_eq!(*card.read.borrow(), [Field::NumaNode, Field::VendorId]);
        let used: Vec<_> = fields_used(&rules).into_iter().collect();
        assert_eq!(
            used,
            [Field::VendorId, Field::Driver, Field::NumaNode, Field::Mac]
        );
    }

    #[test]
    fn no_rules_and_empty_rules_match_nothing() {
        let reasons = |rules: &[Rule]| match evaluate(rules, &l40s()) {
            Verdict::NoMatch { reasons } => reasons,
            Verdict::Match { rule } => panic!("{rule} matched"),
        };
        assert_eq!(reasons(&[]), ["the pool has no rules"]);
        assert_eq!(reasons(&[rule(None, &[])]), ["rule 1: it has no filters"]);
    }
}
