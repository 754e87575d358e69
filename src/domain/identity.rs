//! A domain's UUID and name alone, read also from XML that has errors after them:
//! devices must be given back even if the definition is damaged.

use super::{
    error::DomainError,
    reader::{Item, Scanner, Space},
};
use crate::model::{DomainName, DomainUuid};

/// Reads up to `/domain/name` and `/domain/uuid` and no further. None when one of them
/// is missing or invalid.
///
/// # Errors
/// When the text before them is not well-formed.
pub fn identity(xml: &str) -> Result<Option<(DomainUuid, DomainName)>, DomainError> {
    let mut scanner = Scanner::new(xml)?;
    let (mut name, mut uuid) = (None, None);
    let mut child = "";
    let mut text = String::new();
    while name.is_none() || uuid.is_none() {
        match scanner.next()? {
            Item::Start(tag) if scanner.depth() == 2 && tag.space == Space::None => {
                child = tag.local;
                text.clear();
            }
            Item::Text(piece) if scanner.depth() == 2 => text.push_str(&piece),
            Item::End(_) if scanner.depth() == 1 => {
                match child {
                    "name" if name.is_none() => name = Some(text.clone()),
                    "uuid" if uuid.is_none() => uuid = Some(text.clone()),
                    _ => {}
                }
                child = "";
            }
            Item::Eof => return Ok(None),
            Item::Start(_) | Item::Text(_) | Item::End(_) | Item::Aside => {}
        }
    }
    let parsed = uuid.and_then(|text| DomainUuid::from_xml(&text).ok());
    Ok(parsed.zip(name.and_then(|text| text.parse().ok())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "aaaaaaaa-0000-4000-8000-000000000001";

    fn read(xml: &str) -> Option<(String, String)> {
        let (uuid, name) = identity(xml).ok()??;
        Some((uuid.to_string(), name.to_string()))
    }

    #[test]
    fn faults_behind_the_two_do_not_matter() {
        let wanted = Some((UUID.to_owned(), "a & b".to_owned()));
        let start = format!("<domain id='1'>\n <name>a &amp; b</name><uuid>{UUID}</uuid>");
        assert_eq!(read(&start), wanted);
        assert_eq!(read(&format!("{start}<metadata><broken</domain>")), wanted);
    }

    #[test]
    fn only_the_domains_own_children_count() {
        let other = "bbbbbbbb-0000-4000-8000-000000000002";
        let xml = format!(
            "<domain><metadata><x:uuid xmlns:x='u'>{other}</x:uuid><name>no</name></metadata>\
             <name>yes</name><uuid>{UUID}</uuid></domain>"
        );
        assert_eq!(read(&xml), Some((UUID.to_owned(), "yes".to_owned())));
        for bad in [
            "",
            "<domain/>",
            "<domain><name>a</name></domain>",
            "<a",
            "text",
        ] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }
}
