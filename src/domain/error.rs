//! What can be wrong with a domain's XML, as one line that names the line, the
//! element and the attribute. It knows nothing of how the XML is read.

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

/// What is wrong, without the place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// More input than any domain has.
    #[error("the domain XML is larger than {} MiB", limit >> 20)]
    TooLarge {
        /// The most that is read, in bytes.
        limit: usize,
    },
    /// Deeper nesting than any domain has.
    #[error("elements are nested deeper than {limit}")]
    TooDeep {
        /// The most levels that are read.
        limit: usize,
    },
    /// More namespaces than any domain has.
    #[error("more than {limit} namespace declarations")]
    TooManyNamespaces {
        /// The most that are read.
        limit: usize,
    },
    /// A document type declaration, the way to entity bombs.
    #[error("a DOCTYPE is refused; libvirt never writes one")]
    Doctype,
    /// Not XML.
    #[error("not well-formed XML: {0}")]
    Syntax(String),
    /// The end came too early.
    #[error("the XML ends inside <{0}>")]
    Truncated(String),
    /// No element at all.
    #[error("the input holds no XML element")]
    Empty,
    /// The root element is another one.
    #[error("the root element is <{found}>, not <{wanted}>")]
    WrongRoot {
        /// The root's name as written.
        found: String,
        /// What it should be.
        wanted: &'static str,
    },
    /// An element that must be there is not.
    #[error("<{0}> is missing")]
    MissingElement(&'static str),
    /// An element that may be there once is there again.
    #[error("a second element of this name; there may be one")]
    Repeated,
    /// An element or attribute of libvirt's with a value of the wrong form.
    #[error("{0}")]
    Value(InvalidName),
    /// An attribute of a request that the registry does not have.
    #[error("unknown attribute '{name}'; accepted: {}", accepted_attributes(), name = .0)]
    UnknownAttribute(String),
    /// An attribute on an element that has none.
    #[error("unknown attribute '{0}'; accepted: none")]
    NoAttributes(String),
    /// An attribute that every request has.
    #[error("attribute '{0}' is missing")]
    MissingAttribute(&'static str),
    /// An attribute that is there twice.
    #[error("attribute '{0}' is given twice")]
    RepeatedAttribute(String),
    /// An attribute of a request with a value of the wrong form.
    #[error("attribute '{name}': {wrong}")]
    AttributeValue {
        /// The attribute.
        name: &'static str,
        /// What was wanted and what was found.
        wrong: InvalidName,
    },
    /// An element of our namespace that does not belong where it is.
    #[error("unknown element; accepted here: {0}")]
    UnknownElement(&'static str),
    /// A name that stands for something else.
    #[error("the name is reserved for the CD-ROM with guest drivers")]
    ReservedName,
    /// Two requests of one name.
    #[error("a second device of this name; names are unique in a domain")]
    DuplicateName,
    /// More requests than a VM can have.
    #[error("more than {MAX_REQUESTS} devices; NVIDIA supports {MAX_REQUESTS} vGPUs in a VM")]
    TooMany,
    /// To be replaced, but not there.
    #[error("no device of this name")]
    NoSuchDevice,
    /// An element that libvirt's metadata call would pull into our namespace,
    /// or push out of it.
    #[error("this element's namespace cannot be kept by virDomainSetMetadata; edit the domain XML")]
    NamespaceLost,
    /// The domain has the CD-ROM already.
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

    /// For errors in a piece of XML whose lines are not those of the domain.
    pub(super) fn without_line(mut self) -> Self {
        self.line = None;
        self
    }

    /// The line in the XML, from 1, where it is known.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        self.line
    }

    /// What is wrong, without the place.
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

/// A piece of the input, fit for an error message: short, with nothing hidden
/// in it.
pub(super) fn shown(text: &str) -> String {
    InvalidName::new("", text).found
}

/// A longer piece, such as another parser's message, on one line.
pub(super) fn one_line(text: &str) -> String {
    const LONGEST: usize = 200;
    let text: String = text.chars().take(LONGEST).collect();
    visible(&text).into_owned()
}
