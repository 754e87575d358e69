//! Elements that look like our requests but are not. libvirt drops an element without a
//! namespace, keeps one of another namespace, and reports neither. The VM then starts
//! without its device.

use std::fmt;

use super::{
    NAMESPACE, PREFIX,
    error::{DomainError, one_line, shown},
    reader::{Item, Scanner, Space, Tag, TagNamespace},
};
use crate::model::slips;

/// An element that asks for nothing, and what was probably meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NearMiss {
    /// Its line in the text, from 1.
    pub line: usize,
    element: String,
    problem: Problem,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Problem {
    /// Its prefix is not declared, or it has neither prefix nor namespace.
    NoNamespace {
        /// What to write instead.
        meant: String,
    },
    /// It is in a namespace whose name is nearly ours.
    OtherNamespace {
        found: String,
        /// The declaration to write.
        meant: String,
    },
    /// It is ours, outside of `<metadata>`.
    Misplaced { parent: String },
}

impl fmt::Display for NearMiss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let element = &self.element;
        match &self.problem {
            Problem::NoNamespace { meant } => write!(
                f,
                "<{element}> asks for nothing: its namespace is not declared, and libvirt drops it \
                 silently; write {meant}"
            ),
            Problem::OtherNamespace { found, meant } => write!(
                f,
                "<{element}> asks for nothing: its namespace is '{found}'; write {meant}"
            ),
            Problem::Misplaced { parent } => write!(
                f,
                "<{element}> asks for nothing in <{parent}>, and libvirt drops it there silently; \
                 it belongs in <metadata>"
            ),
        }
    }
}

/// The near misses in a whole domain's XML.
///
/// # Errors
/// When the text is not well-formed.
pub fn near_misses(xml: &str) -> Result<Vec<NearMiss>, DomainError> {
    let mut scanner = Scanner::new(xml)?;
    let mut found = Vec::new();
    // The open child of the root; "" for an element that is not libvirt's.
    let mut child = "";
    loop {
        match scanner.next()? {
            Item::Start(tag) => {
                let parent = match scanner.depth() {
                    2 => "domain",
                    3 => child,
                    _ => "",
                };
                if scanner.depth() == 2 {
                    child = match tag.space {
                        Space::None => tag.local,
                        Space::Ours | Space::Other => "",
                    };
                }
                if let Some(problem) = problem(&scanner, &tag, parent) {
                    found.push(NearMiss {
                        line: scanner.line(tag.span.start),
                        element: one_line(tag.name),
                        problem,
                    });
                }
            }
            Item::End(_) | Item::Text(_) | Item::Aside => {}
            Item::Eof => return Ok(found),
        }
    }
}

fn problem(scanner: &Scanner<'_>, tag: &Tag<'_>, parent: &str) -> Option<Problem> {
    let in_metadata = parent == "metadata";
    let prefix = tag.prefix().trim_end_matches(':');
    let declaration = match prefix {
        "" => format!("xmlns='{NAMESPACE}'"),
        prefix => format!("xmlns:{}='{NAMESPACE}'", one_line(prefix)),
    };
    match scanner.namespace(tag) {
        TagNamespace::None if in_metadata && tag.local == "devices" => Some(Problem::NoNamespace {
            meant: format!("<{PREFIX}:devices xmlns:{PREFIX}='{NAMESPACE}'>"),
        }),
        TagNamespace::Undeclared
            if in_metadata && (tag.local == "devices" || prefix == PREFIX)
                || matches!(parent, "domain" | "devices") && prefix == PREFIX =>
        {
            Some(Problem::NoNamespace {
                meant: format!("<{} {declaration}>, in <metadata>", one_line(tag.name)),
            })
        }
        TagNamespace::Of(uri) if uri == NAMESPACE => {
            let is_libvirts = matches!(parent, "domain" | "devices");
            is_libvirts.then(|| Problem::Misplaced {
                parent: parent.to_owned(),
            })
        }
        TagNamespace::Of(uri) if in_metadata && is_near(&uri) => Some(Problem::OtherNamespace {
            found: shown(&uri),
            meant: declaration,
        }),
        TagNamespace::None | TagNamespace::Undeclared | TagNamespace::Of(_) => None,
    }
}

/// Whether a namespace is probably meant to be ours.
fn is_near(uri: &str) -> bool {
    const SLIPS: usize = 5;
    const LONGEST: usize = 64;
    let uri = uri.to_lowercase();
    uri.contains("virt-vgpu") || uri.len() <= LONGEST && slips(&uri, NAMESPACE) <= SLIPS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::parse;
    use proptest::prelude::*;

    fn domain(rest: &str) -> String {
        format!(
            "<domain xmlns:o='http://other' xmlns:v='{NAMESPACE}'>\n<name>d</name>\
             <uuid>aaaaaaaa-0000-4000-8000-000000000001</uuid>\n{rest}</domain>"
        )
    }

    fn said(rest: &str) -> Vec<String> {
        let found = near_misses(&domain(rest)).unwrap();
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_was_meant_is_told() {
        let dropped = "its namespace is not declared, and libvirt drops it silently; write";
        let ours = "urn:virt-vgpu:devices:1";
        for (metadata, wanted) in [
            (
                "<vgpu:devices><vgpu:device name='a' pool='p'/></vgpu:devices>",
                format!(
                    "<vgpu:devices> asks for nothing: {dropped} <vgpu:devices xmlns:vgpu='{ours}'>, \
                     in <metadata>"
                ),
            ),
            (
                "<devices><device name='a' pool='p'/></devices>",
                format!("<devices> asks for nothing: {dropped} <vgpu:devices xmlns:vgpu='{ours}'>"),
            ),
            (
                "<x:devices/>",
                format!(
                    "<x:devices> asks for nothing: {dropped} <x:devices xmlns:x='{ours}'>, in \
                     <metadata>"
                ),
            ),
            (
                "<x:devices xmlns:x='urn:virt-vgpu:devices'/>",
                format!(
                    "<x:devices> asks for nothing: its namespace is 'urn:virt-vgpu:devices'; write \
                     xmlns:x='{ours}'"
                ),
            ),
            (
                "<devices xmlns='urn:vrit-vgpu:device:1'/>",
                format!(
                    "<devices> asks for nothing: its namespace is 'urn:vrit-vgpu:device:1'; write \
                     xmlns='{ours}'"
                ),
            ),
            (
                "<x:devices xmlns:x='http://virt-vgpu.org/1'/>",
                format!(
                    "<x:devices> asks for nothing: its namespace is 'http://virt-vgpu.org/1'; write \
                     xmlns:x='{ours}'"
                ),
            ),
        ] {
            let xml = format!("<metadata>\n{metadata}</metadata>");
            assert_eq!(said(&xml), [wanted], "{metadata}");
            assert_eq!(near_misses(&domain(&xml)).unwrap()[0].line, 4);
            assert_eq!(parse(&domain(&xml)).unwrap().requests, [], "{metadata}");
        }
        for parent in ["domain", "devices"] {
            let element = "<v:devices><v:device name='a' pool='p'/></v:devices>";
            let xml = match parent {
                "devices" => format!("<devices>{element}</devices>"),
                _ => element.to_owned(),
            };
            let wanted = format!(
                "<v:devices> asks for nothing in <{parent}>, and libvirt drops it there silently; \
                 it belongs in <metadata>"
            );
            assert_eq!(said(&xml), [wanted]);
        }
    }

    #[test]
    fn what_is_right_or_anothers_is_no_near_miss() {
        for rest in [
            "<metadata><v:devices><v:device name='a' pool='p'/></v:devices></metadata>",
            "<metadata><v:devices xmlns:v='urn:virt-vgpu:devices&#58;1'/></metadata>",
            "<metadata><o:devices/><o:x><v:devices/></o:x></metadata>",
            "<metadata><l:libosinfo xmlns:l='http://libosinfo.org/xmlns/libvirt/domain/1.0'/></metadata>",
            "<devices><disk><v:devices/></disk></devices>",
            "<metadata><x:thing/></metadata>",
            "<description>&lt;vgpu:devices&gt;</description>",
            "",
        ] {
            assert_eq!(said(rest), [""; 0], "{rest}");
        }
    }

    proptest! {
        #[test]
        fn one_slip_in_the_namespace_is_seen(at in 0..NAMESPACE.len(), with in "[a-z:]{0,1}") {
            let mut uri = NAMESPACE.to_owned();
            uri.replace_range(at..=at, &with);
            let xml = format!("<metadata><x:devices xmlns:x='{uri}'/></metadata>");
            let seen = said(&xml).len();
            prop_assert_eq!(seen, usize::from(uri != NAMESPACE));
        }

        #[test]
        fn no_text_panics(text in "(<|>|/|:|'|=| |vgpu|devices|metadata|domain|xmlns|x){0,40}") {
            let _ = near_misses(&text);
        }
    }
}
