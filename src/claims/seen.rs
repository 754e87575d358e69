//! The facts from the claims of all domains at one moment that a plan needs.
//!
//! A claim announces a device before the device is made. The next plan has to count this
//! device, although the host does not show it yet. The claims are first read without a
//! lock. Under the host lock no device can be announced, and [`Seen::is_current`] tells
//! whether the claims are still the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    time::Duration,
};

use serde::Deserialize;

use super::{
    DIRECTORY, Damaged, State, VERSION, addresses_in, damaged, domain_of, former,
    milliseconds_since_boot, understood,
};
use crate::{
    capacity::Placement,
    host::{DirectoryStamp, Host},
    model::{
        DeviceName, DomainName, DomainUuid, Handle, MdevTypeId, MdevUuid, ParentName, PciAddress,
        PoolName,
    },
};

/// The questions to the claims.
#[derive(Debug, Default)]
pub struct Interest<'a> {
    /// Pools whose devices are counted.
    pub pools: BTreeSet<&'a PoolName>,
    /// Whether the plan needs virtual functions.
    pub functions: bool,
    /// The domain of the plan, if announced devices of other domains matter to it.
    pub announced: Option<DomainUuid>,
    /// A domain whose functions do not count, because it is starting and has given back its
    /// devices.
    pub except: Option<DomainUuid>,
    /// Whether unreadable claims are skipped. This is for commands that only show, and that
    /// report these claims elsewhere.
    pub tolerant: bool,
}

/// The answers of the claims.
#[derive(Debug, Default)]
pub struct Seen {
    /// The number of devices of each requested pool, including devices that are leaving.
    pub in_use: BTreeMap<PoolName, u32>,
    /// The virtual functions that claims name, with their domains.
    pub functions: BTreeMap<PciAddress, DomainName>,
    /// Devices that are being made or removed.
    pub announced: Vec<MovingDevice>,
    stamp: Option<DirectoryStamp>,
}

impl Seen {
    /// Reads all claims. Devices of claims that were changed after `since` ([`begin_look`])
    /// count as being made, because a look at the host that began then may have missed them.
    ///
    /// # Errors
    /// When the claims cannot be listed, or when an unreadable claim may contain a requested
    /// device: the number of devices is then unknown.
    pub fn read(host: &Host, interest: &Interest<'_>, since: Option<Duration>) -> io::Result<Self> {
        let mut seen = Self {
            in_use: interest
                .pools
                .iter()
                .map(|&pool| (pool.clone(), 0))
                .collect(),
            stamp: host.directory_stamp(DIRECTORY),
            ..Self::default()
        };
        let is_claim = |name: &str| domain_of(name).is_some();
        host.read_each(DIRECTORY, is_claim, |name, text| {
            let Some(domain) = domain_of(name) else {
                return Ok(());
            };
            match text {
                Ok(text) => seen.note(domain, text, interest, since),
                Err(_) if interest.tolerant => Ok(()),
                Err(error) => Err(io::Error::other(damaged(domain, error.to_string()))),
            }
        })?;
        Ok(seen)
    }

    /// Whether no claim has been written since. Must be called under the host lock.
    #[must_use]
    pub fn is_current(&self, host: &Host) -> bool {
        let stamp = self.stamp.as_ref();
        stamp.is_some_and(|stamp| !host.has_changed_since(DIRECTORY, stamp))
    }

    fn note(
        &mut self,
        domain: DomainUuid,
        text: &str,
        interest: &Interest<'_>,
        since: Option<Duration>,
    ) -> io::Result<()> {
        // Most claims do not matter here. A search in the text costs less than parsing it.
        let mut pools = interest.pools.iter();
        let is_of_pools = !interest.pools.is_empty()
            && (!text.ends_with("}\n") || pools.any(|pool| text.contains(pool.as_str())));
        let is_of_functions = interest.functions && interest.except != Some(domain);
        let is_of_announced =
            interest.announced.is_some_and(|own| own != domain) && is_moving(text, since);
        if !is_of_pools && !is_of_functions && !is_of_announced {
            return Ok(());
        }
        let claim = match Brief::of(domain, text) {
            Ok(claim) => claim,
            Err(damaged) if is_of_pools => return Err(io::Error::other(damaged)),
            Err(_) if is_of_functions => {
                let name: DomainName = domain.to_string().parse().map_err(io::Error::other)?;
                self.functions
                    .extend(addresses_in(text).map(|one| (one, name.clone())));
                return Ok(());
            }
            Err(_) => return Ok(()),
        };
        for device in &claim.devices {
            if let Some(count) = self.in_use.get_mut(&device.pool) {
                *count = count.saturating_add(1);
            }
        }
        if is_of_functions {
            let functions = claim.devices.iter().flat_map(|one| {
                let own = one.handle.pci().into_iter();
                own.chain(one.along.iter().copied())
            });
            let functions = functions.map(|one| (one, claim.domain_name.clone()));
            self.functions.extend(functions);
        }
        if is_of_announced {
            let is_new = since.is_some_and(|since| claim.since_boot() >= since);
            let is_all = claim.state == State::Intent || is_new;
            let mut devices = claim.devices;
            devices.retain(|one| is_all || claim.leaving.contains(&one.name));
            self.announced.append(&mut devices);
        }
        Ok(())
    }

    /// The announced devices that the host does not show yet. The other ones are counted as
    /// existing devices.
    #[must_use]
    pub fn not_among(&self, there: &BTreeSet<MdevUuid>) -> Vec<&MovingDevice> {
        let is_hidden = |device: &&MovingDevice| {
            let uuid = device.handle.mdev();
            uuid.is_none_or(|uuid| !there.contains(&uuid))
        };
        self.announced.iter().filter(is_hidden).collect()
    }
}

/// The needed part of a claim. Parsing it costs a fraction of parsing the whole claim.
#[derive(Deserialize)]
struct Brief {
    version: u32,
    domain: DomainUuid,
    domain_name: DomainName,
    state: State,
    since_boot_ms: u64,
    devices: Vec<MovingDevice>,
    #[serde(default)]
    leaving: Vec<DeviceName>,
}

/// A device that is being made or removed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "former::Placed")]
pub struct MovingDevice {
    /// The request's name in its domain.
    pub name: DeviceName,
    /// Its pool.
    pub pool: PoolName,
    /// Its present or future handle.
    pub handle: Handle,
    /// Its parent.
    pub parent: ParentName,
    /// The parent's board.
    pub board: ParentName,
    /// Other PCI functions that it takes along.
    pub along: Vec<PciAddress>,
    /// Its type.
    pub type_id: MdevTypeId,
    /// Its place in the memory of its board, if the plan has chosen one.
    pub placement: Option<Placement>,
}

impl Brief {
    fn of(domain: DomainUuid, text: &str) -> Result<Self, Damaged> {
        match serde_json::from_str::<Self>(text) {
            Ok(claim) if claim.version == VERSION && claim.domain == domain => Ok(claim),
            // Parsing the whole claim gives the error.
            _ => match understood(domain, text) {
                Err(damaged) => Err(damaged),
                Ok(_) => Err(damaged(
                    domain,
                    "it cannot be understood in part".to_owned(),
                )),
            },
        }
    }

    fn since_boot(&self) -> Duration {
        Duration::from_millis(self.since_boot_ms)
    }
}

/// Whether any device of a claim may be moving. It looks at the text that [`super::save`]
/// writes.
fn is_moving(text: &str, since: Option<Duration>) -> bool {
    if text.contains("\"state\": \"intent\"") || text.contains("\"leaving\": [") {
        return true;
    }
    let Some(since) = since else { return false };
    const WRITTEN: &str = "\"since_boot_ms\": ";
    let number = text.split_once(WRITTEN).and_then(|(_, rest)| {
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
        digits.parse().ok().map(Duration::from_millis)
    });
    number.is_none_or(|written| written >= since)
}

/// The present time for [`Seen::read`], when a look begins. Claims record whole
/// milliseconds.
#[must_use]
pub fn begin_look() -> Duration {
    Duration::from_millis(milliseconds_since_boot())
}
