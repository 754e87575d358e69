//! The keys of a pool file that all kinds have, one table for each part of the file.
//! Keys of single kinds are in [`crate::kind`].

use crate::kind::Kind;

/// `[[rule]]`.
pub(super) const RULE: &[&str] = &["name", "where", "allow-critical"];

/// An element of a rule's `where`.
pub(super) const FILTER: &[&str] = &["field", "op", "value"];

/// The top-level keys of a pool of that kind, in the order in which messages list them.
pub(super) fn pool(kind: &dyn Kind) -> Vec<&'static str> {
    let mut accepted = vec!["kind", "description", "class"];
    accepted.extend(kind.keys().type_key.map(|key| key.name));
    accepted.extend(["instances", "placement"]);
    accepted.extend(kind.keys().settings);
    accepted.extend(["defaults", "rule"]);
    accepted
}

/// The keys of `[defaults]`.
pub(super) fn defaults(kind: &dyn Kind) -> Vec<&'static str> {
    let mut accepted = kind.keys().defaults.to_vec();
    accepted.push("optional");
    accepted
}
