//! Reads XML once, front to back, within limits: size, depth, no DOCTYPE, one root, not
//! truncated. It returns tags with their namespace and their position in the text, and
//! knows nothing about domains.

use std::{borrow::Cow, ops::Range};

use memchr::memmem::Finder;
use quick_xml::{
    NsReader,
    events::{
        BytesStart, Event,
        attributes::{Attribute, Attributes},
    },
    name::{Namespace, PrefixDeclaration, QName, ResolveResult},
};

use super::{
    NAMESPACE,
    error::{DomainError, Problem, one_line},
};

/// The longest input that is read. libvirt's own protocol carries texts of up to 4 MiB
/// (`REMOTE_STRING_MAX`); a real domain has 2 to 10 KiB.
pub const MAX_BYTES: usize = 8 << 20;

/// The deepest nesting that is read, as in libxml2 (`xmlParserMaxDepth`).
pub(super) const MAX_DEPTH: usize = 256;

/// The most namespace declarations that are read. Each tag's name is looked up among
/// them one by one, so their number must be limited.
pub(super) const MAX_NAMESPACES: usize = 256;

/// The namespace of an element or attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Space {
    /// None: libvirt's own elements.
    None,
    /// Ours.
    Ours,
    /// Somebody else's, or a prefix that is bound to nothing.
    Other,
}

impl Space {
    fn of(resolved: &ResolveResult<'_>) -> Self {
        match resolved {
            ResolveResult::Unbound => Self::None,
            ResolveResult::Bound(Namespace(uri)) if is_ours(uri) => Self::Ours,
            ResolveResult::Bound(_) | ResolveResult::Unknown(_) => Self::Other,
        }
    }
}

/// Whether that is our namespace. People may write it with character references;
/// libvirt itself never does.
fn is_ours(uri: &[u8]) -> bool {
    uri == NAMESPACE.as_bytes() || uri.contains(&b'&') && unescaped(uri) == NAMESPACE
}

fn unescaped(uri: &[u8]) -> String {
    let text = String::from_utf8_lossy(uri);
    match quick_xml::escape::unescape(&text) {
        Ok(plain) => plain.into_owned(),
        Err(_) => text.into_owned(),
    }
}

/// The namespace of a tag's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TagNamespace {
    /// None: no prefix, and no default namespace around it.
    None,
    /// A prefix that nothing declares.
    Undeclared,
    /// This namespace.
    Of(String),
}

/// A start tag; an empty element is a start tag and an end tag of no length.
#[derive(Debug)]
pub(super) struct Tag<'x> {
    /// The name as written, with its prefix.
    pub name: &'x str,
    /// The name without its prefix.
    pub local: &'x str,
    /// The namespace of the name.
    pub space: Space,
    /// The tag's bytes in the text, from `<` to `>`.
    pub span: Range<usize>,
    start: BytesStart<'x>,
}

impl Tag<'_> {
    /// The prefix with its colon; empty where there is none.
    pub fn prefix(&self) -> &str {
        self.name.strip_suffix(self.local).unwrap_or_default()
    }

    /// The attributes, without quick-xml's search for repeated ones: its time grows
    /// with the square of their number. libvirt's XML has no repeated attributes; our
    /// own elements are checked when they are read.
    fn unchecked(&self) -> Attributes<'_> {
        let mut attributes = self.start.attributes();
        attributes.with_checks(false);
        attributes
    }
}

/// The next item in the text.
#[derive(Debug)]
pub(super) enum Item<'x> {
    Start(Tag<'x>),
    /// An end tag and its bytes; the range is empty for an empty element.
    End(Range<usize>),
    /// A piece of text, entities and CDATA resolved.
    Text(Cow<'x, str>),
    /// A comment, a processing instruction or the XML declaration.
    Aside,
    Eof,
}

/// An attribute in the text: the span of all of it, with the white space before it, and
/// the span of its value.
#[derive(Debug)]
pub(super) struct Piece {
    pub whole: Range<usize>,
    pub value: Range<usize>,
}

#[derive(Debug)]
pub(super) struct Scanner<'x> {
    xml: &'x str,
    reader: NsReader<&'x [u8]>,
    open: Vec<&'x str>,
    root_seen: bool,
    namespaces: usize,
    xmlns: Finder<'static>,
}

impl<'x> Scanner<'x> {
    pub fn new(xml: &'x str) -> Result<Self, DomainError> {
        if xml.len() > MAX_BYTES {
            return Err(DomainError::new(Problem::TooLarge { limit: MAX_BYTES }));
        }
        let xml = xml.strip_prefix('\u{feff}').unwrap_or(xml);
        let mut reader = NsReader::from_str(xml);
        reader.config_mut().expand_empty_elements = true;
        Ok(Self {
            xml,
            reader,
            open: Vec::with_capacity(16),
            root_seen: false,
            namespaces: 0,
            xmlns: Finder::new("xmlns"),
        })
    }

    /// The text without its byte order mark; all ranges refer to it.
    pub fn xml(&self) -> &'x str {
        self.xml
    }

    /// The number of elements that are open.
    pub fn depth(&self) -> usize {
        self.open.len()
    }

    /// A problem at that position.
    pub fn fail(&self, offset: usize, problem: Problem) -> DomainError {
        DomainError::new(problem).at(self.line(offset))
    }

    /// The line of that position, from 1.
    pub fn line(&self, offset: usize) -> usize {
        let before = self.xml.as_bytes().get(..offset).unwrap_or_default();
        before.iter().filter(|byte| **byte == b'\n').count() + 1
    }

    /// The namespace of the tag that was read last.
    pub fn namespace(&self, tag: &Tag<'_>) -> TagNamespace {
        let (resolved, _) = self.reader.resolve_element(QName(tag.name.as_bytes()));
        match resolved {
            ResolveResult::Unbound => TagNamespace::None,
            ResolveResult::Unknown(_) => TagNamespace::Undeclared,
            ResolveResult::Bound(Namespace(uri)) => TagNamespace::Of(unescaped(uri)),
        }
    }

    fn syntax(&self, offset: usize, what: impl ToString) -> DomainError {
        self.fail(offset, Problem::Syntax(one_line(&what.to_string())))
    }

    fn position(&self) -> usize {
        as_offset(self.reader.buffer_position())
    }

    pub fn next(&mut self) -> Result<Item<'x>, DomainError> {
        let start = self.position();
        let (space, event) = match self.reader.read_resolved_event() {
            Ok((resolved, event)) => (Space::of(&resolved), event),
            Err(error) => {
                let offset = as_offset(self.reader.error_position());
                return Err(self.syntax(offset, error));
            }
        };
        let span = start..self.position();
        match event {
            Event::Start(tag) => self.enter(tag, space, span).map(Item::Start),
            // quick-xml's own option for this, expand_empty_elements, is off.
            Event::Empty(tag) => self.enter(tag, space, span).map(Item::Start),
            Event::End(_) => {
                self.open.pop();
                Ok(Item::End(span))
            }
            Event::Text(text) => {
                let text = text.decode().map_err(|error| self.syntax(start, error))?;
                self.inside(start, text)
            }
            Event::CData(text) => {
                let text = text.decode().map_err(|error| self.syntax(start, error))?;
                if self.open.is_empty() {
                    return Err(self.syntax(start, "text outside the root element"));
                }
                self.inside(start, text)
            }
            Event::GeneralRef(entity) => {
                let name = entity.decode().map_err(|error| self.syntax(start, error))?;
                let character = entity
                    .resolve_char_ref()
                    .map_err(|error| self.syntax(start, error))?;
                let text = match character {
                    Some(character) => Cow::Owned(character.to_string()),
                    // Without a DOCTYPE only XML's own entities exist.
                    None => quick_xml::escape::resolve_predefined_entity(&name)
                        .map(Cow::Borrowed)
                        .ok_or_else(|| self.syntax(start, format!("unknown entity '&{name};'")))?,
                };
                self.inside(start, text)
            }
            Event::DocType(_) => Err(self.fail(start, Problem::Doctype)),
            Event::Comment(_) | Event::PI(_) | Event::Decl(_) => Ok(Item::Aside),
            Event::Eof => match self.open.last() {
                Some(name) => Err(self.fail(start, Problem::Truncated(one_line(name)))),
                None if self.root_seen => Ok(Item::Eof),
                None => Err(DomainError::new(Problem::Empty)),
            },
        }
    }

    fn enter(
        &mut self,
        start: BytesStart<'x>,
        space: Space,
        span: Range<usize>,
    ) -> Result<Tag<'x>, DomainError> {
        if self.open.is_empty() && self.root_seen {
            return Err(self.syntax(span.start, "a second root element"));
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(self.fail(span.start, Problem::TooDeep { limit: MAX_DEPTH }));
        }
        // Counts the word itself; a tag that has xmlns in a value counts too.
        self.namespaces += self.xmlns.find_iter(start.attributes_raw()).count();
        if self.namespaces > MAX_NAMESPACES {
            let limit = MAX_NAMESPACES;
            return Err(self.fail(span.start, Problem::TooManyNamespaces { limit }));
        }
        self.root_seen = true;
        let first = span.start + 1;
        let name = self
            .xml
            .get(first..first + start.name().as_ref().len())
            .unwrap_or_default();
        let local = name.split_once(':').map_or(name, |(_, local)| local);
        self.open.push(name);
        Ok(Tag {
            name,
            local,
            space,
            span,
            start,
        })
    }

    /// Text is only allowed in elements; outside of the root there is only white space.
    fn inside(&self, start: usize, text: Cow<'x, str>) -> Result<Item<'x>, DomainError> {
        if self.open.is_empty() && !text.trim().is_empty() {
            return Err(self.syntax(start, "text outside the root element"));
        }
        Ok(Item::Text(text))
    }

    /// The tag's attributes, namespace declarations among them, each with its
    /// unescaped value.
    pub fn attributes<'t>(
        &self,
        tag: &'t Tag<'x>,
    ) -> impl Iterator<Item = Result<(QName<'t>, Cow<'t, str>), DomainError>> {
        tag.unchecked().map(move |attribute| {
            let attribute = attribute.map_err(|error| self.syntax(tag.span.start, error))?;
            let value = attribute
                .unescape_value()
                .map_err(|error| self.syntax(tag.span.start, error))?;
            Ok((attribute.key, value))
        })
    }

    /// The value of one attribute, by its plain name.
    pub fn attribute<'t>(
        &self,
        tag: &'t Tag<'x>,
        name: &str,
    ) -> Result<Option<Cow<'t, str>>, DomainError> {
        for attribute in tag.unchecked() {
            let attribute = attribute.map_err(|error| self.syntax(tag.span.start, error))?;
            if attribute.key.as_ref() == name.as_bytes() {
                let value = attribute.unescape_value();
                return value
                    .map(Some)
                    .map_err(|error| self.syntax(tag.span.start, error));
            }
        }
        Ok(None)
    }

    /// The positions of the tag's attributes in the text.
    pub fn pieces(&self, tag: &Tag<'x>) -> Result<Vec<(String, Piece)>, DomainError> {
        let mut pieces = Vec::new();
        for attribute in tag.unchecked() {
            let attribute = attribute.map_err(|error| self.syntax(tag.span.start, error))?;
            let piece = self
                .piece(&attribute)
                .ok_or_else(|| self.syntax(tag.span.start, "an attribute without a place"))?;
            let name = String::from_utf8_lossy(attribute.key.as_ref()).into_owned();
            pieces.push((name, piece));
        }
        Ok(pieces)
    }

    fn piece(&self, attribute: &Attribute<'_>) -> Option<Piece> {
        let base = self.xml.as_ptr().addr();
        // The reader works on a str, so every part borrows from that str.
        let key = attribute.key.as_ref().as_ptr().addr().checked_sub(base)?;
        let first = attribute.value.as_ptr().addr().checked_sub(base)?;
        let value = first..first + attribute.value.len();
        let before = self
            .xml
            .get(..key)?
            .trim_end_matches([' ', '\t', '\r', '\n']);
        self.xml.get(value.clone())?;
        Some(Piece {
            whole: before.len()..value.end + 1,
            value,
        })
    }

    /// The namespace of an attribute's name.
    pub fn space_of(&self, attribute: QName<'_>) -> Space {
        Space::of(&self.reader.resolve_attribute(attribute).0)
    }

    /// The prefixes in scope and their URIs, as written; the default namespace is not
    /// among them.
    pub fn prefixes(&self) -> impl Iterator<Item = (String, String)> {
        self.reader.prefixes().filter_map(|(prefix, uri)| {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            match prefix {
                PrefixDeclaration::Named(name) => Some((text(name), text(uri.as_ref()))),
                PrefixDeclaration::Default => None,
            }
        })
    }
}

pub(super) fn as_offset(position: u64) -> usize {
    // Positions are inside a str, so they fit.
    usize::try_from(position).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_the_tags_own_bytes() {
        let xml = "\u{feff}<?xml version='1.0'?>\n<a>x&amp;y<b c = 'd'\n e=\"f\" /><!-- c --><é:g xmlns:é='h'></é:g ></a>\n";
        let mut scanner = Scanner::new(xml).unwrap();
        let mut seen = Vec::new();
        loop {
            match scanner.next().unwrap() {
                Item::Start(tag) => {
                    seen.push(scanner.xml()[tag.span.clone()].to_owned());
                    for (_, piece) in scanner.pieces(&tag).unwrap() {
                        seen.push(scanner.xml()[piece.whole].to_owned());
                        seen.push(scanner.xml()[piece.value].to_owned());
                    }
                }
                Item::End(span) => seen.push(scanner.xml()[span].to_owned()),
                Item::Text(_) | Item::Aside => {}
                Item::Eof => break,
            }
        }
        assert_eq!(
            seen,
            [
                "<a>",
                "<b c = 'd'\n e=\"f\" />",
                " c = 'd'",
                "d",
                "\n e=\"f\"",
                "f",
                "",
                "<é:g xmlns:é='h'>",
                " xmlns:é='h'",
                "h",
                "</é:g >",
                "</a>"
            ]
        );
    }
}
