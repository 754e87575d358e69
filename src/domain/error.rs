//! Errors in a domain's XML, as one line that names the line, the element and the
//! attribute. This module does not know how the XML is read.

use std::fmt;

use super::request::{MAX_REQUESTS, accepted_attributes};
use crate::model::{InvalidName, visible};

/// Domain XML that cannot be used: where, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainError {
    line: Option<usize>,
    element: Option<String>,
    problem: Problem,
}

/// What is wrong, without the position.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The input is larger than any domain.
    #[error("the domain XML is larger than {} MiB", limit >> 20)]
    TooLarge {
        /// The most that is read, in bytes.
        limit: usize,
    },
    /// The nesting is deeper than in any domain.
    #[error("elements are nested deeper than {limit}")]
    TooDeep {
        /// The most levels that are read.
        limit: usize,
    },
    /// There are more namespaces than in any domain.
    #[error("more than {limit} namespace declarations")]
    TooManyNamespaces {
        /// The most that are read.
        limit: usize,
    },
    /// A document type declaration, which allows entity bombs.
    #[error("a DOCTYPE is refused; libvirt never writes one")]
    Doctype,
    /// Not XML.
    #[error("not well-formed XML: {0}")]
    Syntax(String),
    /// The text ended too early.
    #[error("the XML ends inside <{0}>")]
    Truncated(String),
    /// There is no element.
    #[error("the input holds no XML element")]
    Empty,
    /// The root element has another name.
    #[error("the root element is <{found}>, not <{wanted}>")]
    WrongRoot {
        /// The root's name as written.
        found: String,
        /// The name that it should have.
        wanted: &'static str,
    },
    /// A required element is missing.
    #[error("<{0}> is missing")]
    MissingElement(&'static str),
    /// An element that may occur only once is repeated.
    #[error("a second element of this name; only one is allowed")]
    Repeated,
    /// One of libvirt's elements or attributes has an invalid value.
    #[error("{0}")]
    Value(InvalidName),
    /// A request has an unknown attribute.
    #[error("unknown attribute '{name}'; accepted: {}", accepted_attributes(), name = .0)]
    UnknownAttribute(String),
    /// An element that takes no attributes has one.
    #[error("unknown attribute '{0}'; accepted: none")]
    NoAttributes(String),
    /// A required attribute of a request is missing.
    #[error("attribute '{0}' is missing")]
    MissingAttribute(&'static str),
    /// An attribute is repeated.
    #[error("attribute '{0}' is given twice")]
    RepeatedAttribute(String),
    /// An attribute of a request has an invalid value.
    #[error("attribute '{name}': {wrong}")]
    AttributeValue {
        /// The attribute.
        name: &'static str,
        /// The wanted form and the value that was found.
        wrong: InvalidName,
    },
    /// An element of our namespace is in the wrong place.
    #[error("unknown element; accepted here: {0}")]
    UnknownElement(&'static str),
    /// The name is reserved.
    #[error("the name is reserved for the CD-ROM with guest drivers")]
    ReservedName,
    /// Two requests have the same name.
    #[error("a second device of this name; names are unique in a domain")]
    DuplicateName,
    /// There are more requests than a VM can have devices.
    #[error("more than {MAX_REQUESTS} devices, the most that a domain can ask for")]
    TooMany,
    /// The request to be replaced does not exist.
    #[error("no device of this name")]
    NoSuchDevice,
    /// libvirt's metadata call would move an element into our namespace, or out of it.
    #[error("this element's namespace cannot be kept by virDomainSetMetadata; edit the domain XML")]
    NamespaceLost,
    /// The domain already has the CD-ROM.
    #[error("the domain already has the CD-ROM with guest drivers, at target '{0}'")]
    CdRomPresent(String),
    /// All drive letters are in use.
    #[error("no free target for a CD-ROM on bus '{0}'")]
    NoFreeTarget(&'static str),
}

impl DomainError {
    pub(super) fn new(problem: Problem) -> Self {
        Self {
            line: None,
            element: None,
            problem,
        }
    }

    pub(super) fn at(mut self, line: usize) -> Self {
        self.line = Some(line);
        self
    }

    /// Names the element, as in `<vgpu:device name='gpu0'>`.
    pub(super) fn element(mut self, element: impl Into<String>) -> Self {
        self.element = Some(element.into());
        self
    }

    /// Removes the line: for errors in a piece of XML whose lines are not those of the
    /// domain.
    pub(super) fn without_line(mut self) -> Self {
        self.line = None;
        self
    }

    /// The line in the XML, from 1, if it is known.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        self.line
    }

    /// What is wrong, without the position.
    #[must_use]
    pub fn problem(&self) -> &Problem {
        &self.problem
    }
}

impl fmt::Display for DomainError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if let Some(element) = &self.element {
            write!(f, "{element}: ")?;
        }
        self.problem.fmt(f)
    }
}

impl std::error::Error for DomainError {}

/// A piece of the input for an error message: short, with hidden characters made
/// visible.
pub(super) fn shown(text: &str) -> String {
    InvalidName::new("", text).found
}

/// A longer piece, such as another parser's message, on one line.
pub(super) fn one_line(text: &str) -> String {
    const LONGEST: usize = 200;
    let text: String = text.chars().take(LONGEST).collect();
    visible(&text).into_owned()
}
