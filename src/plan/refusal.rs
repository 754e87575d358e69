//! Why a domain gets no device: the line on the user's terminal, and the text for
//! `explain`.

use std::fmt;

use serde::Serialize;

use super::{PlanRequest, Rejection};
use crate::model::{DeviceName, DomainName, ParentName, PciAddress, PoolName, proposed};

/// Why a function cannot serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// It belongs to somebody, is not there, or the pool does not take it.
    Itself,
    /// Its board is full.
    Board,
    /// Its driver has not answered, so that it may be free.
    Unknown,
}

/// The reason of a refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "why")]
pub enum RefusalKind {
    /// The pool's own `instances`.
    Limit {
        /// The limit.
        limit: u32,
        /// Devices of the pool that other claims hold.
        in_use: u32,
        /// How many the domain asks for.
        wanted: u32,
    },
    /// No candidate could serve; the list is empty when the rules take no device.
    NoCandidate {
        /// Every candidate.
        candidates: Vec<Rejection>,
    },
    /// The virtual function in the XML cannot serve; another one may.
    Function {
        /// The function.
        function: PciAddress,
        /// Why it cannot.
        reason: String,
        /// What that means for the other functions of its board.
        #[serde(skip)]
        obstacle: Obstacle,
    },
    /// The host could not be read.
    Unreadable {
        /// What was tried and what the result was.
        reason: String,
    },
}

/// A refused request. It prints as one line, without a prefix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// The domain that asked.
    pub domain: DomainName,
    /// The request that could not be served.
    pub device: DeviceName,
    /// Its pool.
    pub pool: PoolName,
    /// The type that the pool hands out.
    #[serde(rename = "type")]
    pub device_type: String,
    /// Why.
    #[serde(flatten)]
    pub kind: RefusalKind,
}

impl Refusal {
    /// How many candidates the line names; the others are counted.
    const NAMED: usize = 8;

    pub(super) fn new(domain: &DomainName, wanted: &PlanRequest<'_>, kind: RefusalKind) -> Self {
        Self {
            domain: domain.clone(),
            device: wanted.device.clone(),
            pool: wanted.pool.name.clone(),
            device_type: wanted.pool.type_name().to_owned(),
            kind,
        }
    }
}

impl std::error::Error for Refusal {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            domain,
            pool,
            device_type,
            ..
        } = self;
        write!(
            f,
            "pool '{pool}' has no free {device_type} for domain '{domain}': "
        )?;
        match &self.kind {
            RefusalKind::Limit {
                limit,
                in_use,
                wanted,
            } => {
                write!(f, "{in_use} of at most {limit} instances are in use")?;
                if *wanted > 1 {
                    write!(f, " and it asks for {wanted}")?;
                }
                f.write_str("; see 'virt-vgpu status'")
            }
            RefusalKind::Unreadable { reason } => {
                write!(
                    f,
                    "{reason}; see {}",
                    proposed("virt-vgpu pool preview", pool)
                )
            }
            RefusalKind::Function {
                function, reason, ..
            } => write!(
                f,
                "its XML names {function}: {reason}; {} looks for another",
                proposed("virt-vgpu start", domain)
            ),
            RefusalKind::NoCandidate { candidates } if candidates.is_empty() => {
                write!(
                    f,
                    "no device on this host matches its rules; see {}",
                    proposed("virt-vgpu pool preview", pool)
                )
            }
            RefusalKind::NoCandidate { candidates } => {
                write_grouped(f, candidates)?;
                write!(f, "; see {}", proposed("virt-vgpu explain", domain))
            }
        }
    }
}

/// Candidates with the same reason are named together: 32 full VFs need one mention.
fn write_grouped(f: &mut fmt::Formatter<'_>, rejections: &[Rejection]) -> fmt::Result {
    let mut groups: Vec<(&str, Vec<&ParentName>)> = Vec::new();
    for Rejection { candidate, reason } in rejections {
        match groups.iter_mut().find(|(known, _)| known == reason) {
            Some((_, names)) => names.push(candidate),
            None => groups.push((reason, vec![candidate])),
        }
    }
    for (number, (reason, names)) in groups.iter().enumerate() {
        if number > 0 {
            f.write_str("; ")?;
        }
        for (place, name) in names.iter().take(Refusal::NAMED).enumerate() {
            write!(f, "{}{name}", if place == 0 { "" } else { ", " })?;
        }
        if let more @ 1.. = names.len().saturating_sub(Refusal::NAMED) {
            write!(f, " and {more} more")?;
        }
        write!(f, ": {reason}")?;
    }
    Ok(())
}
