//! Converts our element between the domain XML and libvirt's metadata call: it is cut
//! out of the XML with all namespaces it needs to stand alone, or stripped of our
//! namespace for libvirt. This module does not read the requests in the element.

use std::ops::Range;

use super::{
    NAMESPACE, PREFIX,
    error::{DomainError, Problem, one_line},
    reader::{Item, Scanner, Space, Tag},
    tag::described,
};

/// The text of our metadata element in a whole domain's XML, byte for byte, plus the
/// namespace declarations that it inherits from outer elements. `None` when there is no
/// such element.
///
/// # Errors
/// When the text is not well-formed, is not a domain, or has two such elements.
pub fn metadata_element(xml: &str) -> Result<Option<String>, DomainError> {
    let found = find_metadata(xml)?;
    let xml = Scanner::new(xml)?.xml();
    Ok(found.and_then(|(cut, end)| cut.alone(xml, end)))
}

/// Our element in a whole domain's XML, and where it ends.
pub(super) fn find_metadata(xml: &str) -> Result<Option<(Cut, usize)>, DomainError> {
    let mut scanner = Scanner::new(xml)?;
    let mut in_metadata = false;
    let mut open: Option<Cut> = None;
    let mut found = None;
    loop {
        match scanner.next()? {
            Item::Start(tag) => match scanner.depth() {
                1 if tag.space != Space::None || tag.local != "domain" => {
                    let problem = Problem::WrongRoot {
                        found: one_line(tag.name),
                        wanted: "domain",
                    };
                    return Err(scanner.fail(tag.span.start, problem));
                }
                2 => in_metadata = tag.space == Space::None && tag.local == "metadata",
                3 if in_metadata && tag.space == Space::Ours && tag.local == "devices" => {
                    if found.is_some() {
                        return Err(scanner
                            .fail(tag.span.start, Problem::Repeated)
                            .element(described(&tag)));
                    }
                    open = Some(Cut::begin(&scanner, &tag)?);
                }
                _ => {}
            },
            // An empty element ends where its start tag did.
            Item::End(span) => {
                if let Some(cut) = open.take_if(|_| scanner.depth() == 2) {
                    found = Some((cut, span.end));
                }
            }
            Item::Text(_) | Item::Aside => {}
            Item::Eof => return Ok(found),
        }
    }
}

/// An element and the namespaces that it inherits.
pub(super) struct Cut {
    start: usize,
    name_end: usize,
    /// Prefixes that outer elements declare, with their URIs as written.
    inherited: Vec<(String, String)>,
}

impl Cut {
    fn begin<'x>(scanner: &Scanner<'x>, tag: &Tag<'x>) -> Result<Self, DomainError> {
        let mut inherited: Vec<_> = scanner.prefixes().collect();
        for (name, _) in scanner.pieces(tag)? {
            if let Some(own) = name.strip_prefix("xmlns:") {
                inherited.retain(|(prefix, _)| prefix != own);
            }
        }
        Ok(Self {
            start: tag.span.start,
            name_end: tag.span.start + 1 + tag.name.len(),
            inherited,
        })
    }

    /// The end of its name.
    pub fn name_end(&self) -> usize {
        self.name_end
    }

    /// The span of the whole element.
    pub fn place(&self, end: usize) -> Range<usize> {
        self.start..end
    }

    /// Its text, with everything it needs to stand alone.
    pub fn alone(&self, xml: &str, end: usize) -> Option<String> {
        let name = xml.get(self.start..self.name_end)?;
        let rest = xml.get(self.name_end..end)?;
        let mut element = name.to_owned();
        for (prefix, uri) in &self.inherited {
            let colon = format!("{prefix}:");
            // A superfluous declaration does no harm, so a textual search is enough.
            if name.contains(&colon) || rest.contains(&colon) {
                let quote = if uri.contains('"') { '\'' } else { '"' };
                element.push_str(&format!(" xmlns:{prefix}={quote}{uri}{quote}"));
            }
        }
        element.push_str(rest);
        Some(element)
    }
}

/// The arguments of `virDomainSetMetadata` for type `ELEMENT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetMetadata {
    /// The prefix, which libvirt calls the key.
    pub key: String,
    /// The element without our namespace.
    pub xml: String,
}

/// Prepares the element for `virDomainSetMetadata`.
///
/// libvirt declares the namespace itself, with the key as prefix, and puts every
/// element without a namespace into it (`virXMLInjectNamespace`). It fails when the
/// element already declares that prefix. An element that declares the URI under another
/// prefix would lose its namespace when it is read back. So we remove our prefix and
/// its declarations; the key keeps the prefix that the user chose.
///
/// # Errors
/// When the text is not one element `devices`, or has elements that libvirt would move
/// into our namespace or out of it.
pub fn for_set_metadata(element: &str) -> Result<SetMetadata, DomainError> {
    strip(element).map_err(DomainError::without_line)
}

fn strip(element: &str) -> Result<SetMetadata, DomainError> {
    let mut scanner = Scanner::new(element)?;
    let mut ours: Vec<Option<usize>> = Vec::new();
    let mut naked = false;
    let mut prefix = String::new();
    let mut taken: Vec<String> = Vec::new();
    let mut gone: Vec<Range<usize>> = Vec::new();
    loop {
        match scanner.next()? {
            Item::Start(tag) => {
                let parent_is_ours = match ours.last() {
                    Some(parent) => parent.is_some(),
                    None => {
                        root(&scanner, &tag)?;
                        naked = tag.space == Space::None;
                        prefix = tag.prefix().trim_end_matches(':').to_owned();
                        true
                    }
                };
                let is_ours = tag.space == Space::Ours || (naked && tag.space == Space::None);
                if tag.space != Space::Other && !(is_ours && parent_is_ours) {
                    return Err(scanner
                        .fail(tag.span.start, Problem::NamespaceLost)
                        .element(described(&tag)));
                }
                ours.push(is_ours.then_some(tag.prefix().len()));
                if !is_ours {
                    continue;
                }
                gone.push(tag.span.start + 1..tag.span.start + 1 + tag.prefix().len());
                for (name, piece) in scanner.pieces(&tag)? {
                    let uri = element_part(&scanner, piece.value);
                    let declared = name.strip_prefix("xmlns:");
                    if (declared.is_some() || name == "xmlns") && uri == NAMESPACE {
                        gone.push(piece.whole);
                    } else if let Some(declared) = declared.filter(|_| ours.len() == 1) {
                        taken.push(declared.to_owned());
                    }
                }
            }
            Item::End(span) => {
                if let Some(Some(length)) = ours.pop() {
                    if !span.is_empty() {
                        gone.push(span.start + 2..span.start + 2 + length);
                    }
                }
            }
            Item::Text(_) | Item::Aside => {}
            Item::Eof => break,
        }
    }
    if prefix.is_empty() {
        PREFIX.clone_into(&mut prefix);
    }
    while taken.contains(&prefix) {
        prefix.push('_');
    }
    Ok(SetMetadata {
        key: prefix,
        xml: without(scanner.xml(), &gone),
    })
}

/// Checks the root of a single metadata element: `devices`, in our namespace, or in
/// none, as `virDomainGetMetadata` returns it.
pub(super) fn root<'x>(scanner: &Scanner<'x>, tag: &Tag<'x>) -> Result<(), DomainError> {
    if tag.space != Space::Other && tag.local == "devices" {
        return Ok(());
    }
    let problem = Problem::WrongRoot {
        found: one_line(tag.name),
        wanted: "devices",
    };
    Err(scanner.fail(tag.span.start, problem))
}

fn element_part<'x>(scanner: &Scanner<'x>, range: Range<usize>) -> &'x str {
    scanner.xml().get(range).unwrap_or_default()
}

/// The text without those ranges, which are sorted and do not overlap.
fn without(text: &str, gone: &[Range<usize>]) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut at = 0;
    for range in gone {
        kept.push_str(text.get(at..range.start).unwrap_or_default());
        at = range.end;
    }
    kept.push_str(text.get(at..).unwrap_or_default());
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{parse, requests};

    fn domain(metadata: &str) -> String {
        format!(
            "<domain xmlns:v='{NAMESPACE}' xmlns:o='other'><name>d</name>\
             <uuid>aaaaaaaa-0000-4000-8000-000000000001</uuid>{metadata}</domain>"
        )
    }

    #[test]
    fn the_element_is_cut_out_as_it_is_and_stands_alone() {
        for (metadata, wanted) in [
            ("", None),
            ("<metadata><o:devices/></metadata>", None),
            ("<description><v:devices/></description>", None),
            ("<metadata><o:x><v:devices/></o:x></metadata>", None),
            (
                "<metadata><!-- a --><v:devices/></metadata>",
                Some("<v:devices xmlns:v=\"urn:virt-vgpu:devices:1\"/>"),
            ),
            (
                "<metadata><v:devices>\n <!-- b --><o:n/></v:devices ></metadata>",
                Some(
                    "<v:devices xmlns:v=\"urn:virt-vgpu:devices:1\" xmlns:o=\"other\">\n <!-- b --><o:n/></v:devices >",
                ),
            ),
            (
                "<metadata><w:devices xmlns:w=\"urn:virt-vgpu:devices:1\" ></w:devices></metadata>",
                Some("<w:devices xmlns:w=\"urn:virt-vgpu:devices:1\" ></w:devices>"),
            ),
            (
                "<metadata><devices xmlns='urn:virt-vgpu:devices:1'/></metadata>",
                Some("<devices xmlns='urn:virt-vgpu:devices:1'/>"),
            ),
        ] {
            let found = metadata_element(&domain(metadata)).unwrap();
            assert_eq!(found.as_deref(), wanted, "{metadata}");
            if let Some(found) = found {
                assert_eq!(requests(&found).unwrap(), []);
            }
        }
    }

    #[test]
    fn two_elements_are_refused() {
        let xml = domain("<metadata><v:devices/>\n<v:devices/></metadata>");
        let wanted = "line 2: <v:devices>: a second element of this name; only one is allowed";
        assert_eq!(metadata_element(&xml).unwrap_err().to_string(), wanted);
        assert_eq!(parse(&xml).unwrap_err().to_string(), wanted);
    }

    #[test]
    fn libvirts_call_gets_the_element_without_our_namespace() {
        for (element, key, xml) in [
            (
                "<vgpu:devices xmlns:vgpu='urn:virt-vgpu:devices:1'>\n  <!-- c -->\n  <vgpu:device name='a' pool='p' />\n</vgpu:devices >",
                "vgpu",
                "<devices>\n  <!-- c -->\n  <device name='a' pool='p' />\n</devices >",
            ),
            (
                "<g:devices xmlns:o='other' xmlns:g='urn:virt-vgpu:devices:1'><o:n g='1'/></g:devices>",
                "g",
                "<devices xmlns:o='other'><o:n g='1'/></devices>",
            ),
            (
                "<devices xmlns='urn:virt-vgpu:devices:1'><device name='a' pool='p'/></devices>",
                "vgpu",
                "<devices><device name='a' pool='p'/></devices>",
            ),
            (
                "<devices xmlns:vgpu='other'><device name='a' pool='p'/></devices>",
                "vgpu_",
                "<devices xmlns:vgpu='other'><device name='a' pool='p'/></devices>",
            ),
        ] {
            let wanted = SetMetadata {
                key: key.to_owned(),
                xml: xml.to_owned(),
            };
            assert_eq!(for_set_metadata(element).unwrap(), wanted);
            assert_eq!(for_set_metadata(xml).unwrap().xml, xml);
            assert_eq!(requests(xml).unwrap(), requests(element).unwrap());
        }
    }

    #[test]
    fn what_libvirt_would_change_is_refused() {
        for element in [
            "<v:devices xmlns:v='urn:virt-vgpu:devices:1'><n/></v:devices>",
            "<v:devices xmlns:v='urn:virt-vgpu:devices:1' xmlns:o='o'><o:n><v:n/></o:n></v:devices>",
            "<devices><n xmlns='o'><n xmlns=''/></n></devices>",
        ] {
            let error = for_set_metadata(element).unwrap_err().to_string();
            assert!(error.contains("cannot be kept"), "{error}");
        }
        assert_eq!(
            for_set_metadata("<o:devices xmlns:o='o'/>")
                .unwrap_err()
                .to_string(),
            "the root element is <o:devices>, not <devices>"
        );
    }
}
