//! Whether a text that a person wrote is well-formed XML, also in the parts that we do
//! not read: libvirt's parser accepts the whole text or nothing. XML that libvirt
//! itself returns is not checked.

use std::collections::BTreeSet;

use quick_xml::{Reader, events::BytesStart, events::Event};

use super::{
    error::{DomainError, Problem, one_line, shown},
    reader::{MAX_BYTES, as_offset},
};

/// Checks the whole text, but not its namespaces: libvirt accepts an undeclared prefix.
///
/// # Errors
/// The first position that is not well-formed, with its line.
pub fn check_well_formed(xml: &str) -> Result<(), DomainError> {
    if xml.len() > MAX_BYTES {
        return Err(DomainError::new(Problem::TooLarge { limit: MAX_BYTES }));
    }
    let xml = xml.strip_prefix('\u{feff}').unwrap_or(xml);
    check(xml).map_err(|(offset, what)| {
        let before = xml.as_bytes().get(..offset).unwrap_or(xml.as_bytes());
        let newlines = before.iter().filter(|byte| **byte == b'\n').count();
        DomainError::new(Problem::Syntax(one_line(&what))).at(newlines + 1)
    })
}

/// The position and what is wrong there.
type Fault = (usize, String);

fn check(xml: &str) -> Result<(), Fault> {
    if let Some((place, found)) = xml.char_indices().find(|(_, c)| !is_xml(*c)) {
        return Err((
            place,
            format!("the character {found:?} is not allowed in XML"),
        ));
    }
    let mut reader = Reader::from_str(xml);
    let config = reader.config_mut();
    config.check_comments = true;
    config.allow_dangling_amp = false;
    loop {
        let start = as_offset(reader.buffer_position());
        let event = reader
            .read_event()
            .map_err(|error| (as_offset(reader.error_position()), error.to_string()))?;
        let end = as_offset(reader.buffer_position());
        let fault = |what: String| (start, what);
        match event {
            Event::Start(tag) | Event::Empty(tag) => check_tag(&tag).map_err(fault)?,
            Event::Text(_) => {
                let raw = xml.get(start..end).unwrap_or_default();
                if let Some(place) = raw.find("]]>") {
                    return Err((start + place, "']]>' in text".to_owned()));
                }
            }
            Event::GeneralRef(entity) => {
                let name = String::from_utf8_lossy(&entity).into_owned();
                check_reference(&name).map_err(fault)?;
            }
            Event::Decl(_) if start > 0 => {
                return Err(fault("an XML declaration that is not at the start".into()));
            }
            Event::PI(instruction) => {
                let target = String::from_utf8_lossy(instruction.target()).into_owned();
                if !is_name(&target) || target.eq_ignore_ascii_case("xml") {
                    let shown = shown(&target);
                    return Err(fault(format!("a processing instruction named '{shown}'")));
                }
            }
            Event::End(_)
            | Event::CData(_)
            | Event::Comment(_)
            | Event::Decl(_)
            | Event::DocType(_) => {}
            Event::Eof => return Ok(()),
        }
    }
}

fn check_tag(tag: &BytesStart<'_>) -> Result<(), String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let name = text(tag.name().as_ref());
    if !is_name(&name) {
        return Err(format!("'{}' is not an element name", shown(&name)));
    }
    let raw = text(tag.attributes_raw());
    let mut seen = BTreeSet::new();
    let mut attributes = tag.attributes();
    // The library's own search for repeated attributes takes quadratic time.
    for attribute in attributes.with_checks(false) {
        let attribute = attribute.map_err(|error| format!("<{}>: {error}", one_line(&name)))?;
        let key = text(attribute.key.as_ref());
        let in_tag = |what: String| format!("<{}>: {what}", one_line(&name));
        if !is_name(&key) {
            return Err(in_tag(format!(
                "'{}' is not an attribute name",
                shown(&key)
            )));
        }
        let value = text(&attribute.value);
        if value.contains('<') {
            return Err(in_tag(format!("'<' in the value of {}", shown(&key))));
        }
        check_references(&value).map_err(in_tag)?;
        if !seen.insert(key.clone()) {
            return Err(in_tag(format!("attribute {} is given twice", shown(&key))));
        }
    }
    if follows_without_space(&raw) {
        return Err(format!(
            "<{}>: no white space between two attributes",
            one_line(&name)
        ));
    }
    Ok(())
}

/// Whether an attribute begins directly after the quote that ends another.
fn follows_without_space(raw: &str) -> bool {
    let mut open: Option<char> = None;
    let mut closed = false;
    for character in raw.chars() {
        match open {
            Some(quote) => {
                closed = character == quote;
                if closed {
                    open = None;
                }
            }
            None => {
                if closed && !character.is_ascii_whitespace() && character != '/' {
                    return true;
                }
                closed = false;
                if matches!(character, '"' | '\'') {
                    open = Some(character);
                }
            }
        }
    }
    false
}

/// The references in an attribute's value.
fn check_references(value: &str) -> Result<(), String> {
    for piece in value.split('&').skip(1) {
        let Some((name, _)) = piece.split_once(';') else {
            return Err("'&' without an entity".to_owned());
        };
        check_reference(name)?;
    }
    Ok(())
}

/// An entity's name between `&` and `;`. Without a DOCTYPE only XML's own entities
/// exist.
fn check_reference(name: &str) -> Result<(), String> {
    let known = match name.strip_prefix('#') {
        Some(number) => {
            let code = match number.strip_prefix('x') {
                Some(digits) => u32::from_str_radix(digits, 16),
                None => number.parse(),
            };
            let is_plain = number.bytes().all(|byte| byte.is_ascii_alphanumeric());
            let character = code.ok().and_then(char::from_u32);
            is_plain && character.is_some_and(is_xml)
        }
        None => matches!(name, "lt" | "gt" | "amp" | "apos" | "quot"),
    };
    if known {
        Ok(())
    } else {
        Err(format!("unknown entity '&{};'", shown(name)))
    }
}

/// `Char` of XML 1.0.
fn is_xml(character: char) -> bool {
    matches!(character,
        '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

/// `Name` of XML 1.0.
fn is_name(text: &str) -> bool {
    let starts = |c: char| {
        matches!(c, ':' | '_' | 'A'..='Z' | 'a'..='z' | '\u{c0}'..='\u{d6}' | '\u{d8}'..='\u{f6}'
            | '\u{f8}'..='\u{2ff}' | '\u{370}'..='\u{37d}' | '\u{37f}'..='\u{1fff}'
            | '\u{200c}' | '\u{200d}' | '\u{2070}'..='\u{218f}' | '\u{2c00}'..='\u{2fef}'
            | '\u{3001}'..='\u{d7ff}' | '\u{f900}'..='\u{fdcf}' | '\u{fdf0}'..='\u{fffd}'
            | '\u{10000}'..='\u{effff}')
    };
    let goes_on = |c: char| {
        starts(c)
            || matches!(c, '-' | '.' | '0'..='9' | '\u{b7}' | '\u{300}'..='\u{36f}'
                | '\u{203f}' | '\u{2040}')
    };
    text.starts_with(starts) && text.chars().all(goes_on)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_libvirts_parser_refuses_is_refused_with_its_line() {
        for (bad, wanted) in [
            ("<a b=c/>", "line 2: not well-formed XML: <a>: "),
            ("<a b/>", "line 2: not well-formed XML: <a>: "),
            (
                "<a b='1' b='2'/>",
                "line 2: not well-formed XML: <a>: attribute b is given twice",
            ),
            (
                "<a b='1'c='2'/>",
                "line 2: not well-formed XML: <a>: no white space between two attributes",
            ),
            (
                "<a b='<'/>",
                "line 2: not well-formed XML: <a>: '<' in the value of b",
            ),
            (
                "<a b='&x;'/>",
                "line 2: not well-formed XML: <a>: unknown entity '&x;'",
            ),
            (
                "<a b='a & b'/>",
                "line 2: not well-formed XML: <a>: '&' without an entity",
            ),
            (
                "<a>&nbsp;</a>",
                "line 2: not well-formed XML: unknown entity '&nbsp;'",
            ),
            (
                "<a>\n&#0;</a>",
                "line 3: not well-formed XML: unknown entity '&#0;'",
            ),
            ("<a>a & b</a>", "line 2: not well-formed XML: "),
            ("<a>]]></a>", "line 2: not well-formed XML: ']]>' in text"),
            (
                "<1/>",
                "line 2: not well-formed XML: '1' is not an element name",
            ),
            (
                "<a 1='2'/>",
                "line 2: not well-formed XML: <a>: '1' is not an attribute name",
            ),
            ("<!-- a -- b -->", "line 2: not well-formed XML: "),
            ("<a></b>", "line 2: not well-formed XML: "),
            (
                "<a>\u{1}</a>",
                "line 2: not well-formed XML: the character '\\u{1}' is not allowed in XML",
            ),
            (
                "<?xml version='1.0'?>",
                "line 2: not well-formed XML: an XML declaration that is not at the start",
            ),
        ] {
            let error = check_well_formed(&format!("<r>\n{bad}</r>"));
            let error = error.expect_err(bad).to_string();
            assert!(error.starts_with(wanted), "{bad:?}: {error}");
        }
    }

    #[test]
    fn what_libvirts_parser_takes_is_taken() {
        for good in [
            "<?xml version='1.0' encoding='UTF-8'?>\n<r/>",
            "<r a='1' b=\"2\"\n c = '>' d='&lt;&#58;&#x3a;'/>",
            "<r><!-- a - b --><?pi x?><![CDATA[<&]]>&amp;&#10;</r >",
            "<r><q:c x:y='undeclared'/></r>",
            "\u{feff}<r>büro 中</r>\n",
            "<r a=''/>",
        ] {
            assert_eq!(check_well_formed(good), Ok(()), "{good:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String) {
            let _ = check_well_formed(&text);
            let _ = check_well_formed(&format!("<r>{text}</r>"));
            let _ = check_well_formed(&format!("<r {text}/>"));
        }

        #[test]
        fn any_text_that_is_escaped_is_taken(text in "[ -~\\u{a1}-\\u{2fff}]{0,20}") {
            let escaped = quick_xml::escape::escape(text);
            let xml = format!("<r a=\"{escaped}\">{escaped}</r>");
            prop_assert_eq!(check_well_formed(&xml), Ok(()));
        }
    }
}
