//! What the claims of all domains say at one moment, as far as a plan needs it.
//!
//! A device is announced in a claim before it is made, and who plans next has to count
//! it although the host does not show it yet. It is read without a lock first; under the
//! host lock, where nothing new can be announced, [`Seen::is_current`] tells whether it
//! still holds.

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

/// What is asked of the claims.
#[derive(Debug, Default)]
pub struct Interest<'a> {
    /// Pools whose devices are counted.
    pub pools: BTreeSet<&'a PoolName>,
    /// Whether virtual functions are planned for.
    pub functions: bool,
    /// For which domain something is planned that devices which are being made for others
    /// could be in the way of.
    pub announced: Option<DomainUuid>,
    /// A domain whose functions do not count: it starts, and has given back what it had.
    pub except: Option<DomainUuid>,
    /// Whether claims that cannot be read are passed over: who only looks tells them
    /// anyway.
    pub tolerant: bool,
}

/// What they say.
#[derive(Debug, Default)]
pub struct Seen {
    /// Devices of each pool that was asked about, those that are leaving among them.
    pub in_use: BTreeMap<PoolName, u32>,
    /// The virtual functions that claims name, with their domains.
    pub functions: BTreeMap<PciAddress, DomainName>,
    /// Devices that are being made, or taken back.
    pub announced: Vec<MovingDevice>,
    stamp: Option<DirectoryStamp>,
}

impl Seen {
    /// Reads all claims. Devices of claims that were changed since `since`, on the clock of
    /// [`begin_look`], count as being made: a look at the host that began then may have
    /// missed them.
    ///
    /// # Errors
    /// When the claims cannot be listed, or one of them cannot be read or understood and
    /// may hold what was asked about: nobody can say then how many there are.
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

    /// Whether no claim has been written since. To be asked under the host lock.
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
        // Most claims are about other things, and to see that costs less than to understand
        // them.
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
            let functions = claim.devices.iter().filter_map(|one| one.handle.pci());
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

    /// Those of the devices that are being made which the host does not show: the others
    /// are counted where they show.
    #[must_use]
    pub fn not_among(&self, there: &BTreeSet<MdevUuid>) -> Vec<&MovingDevice> {
        let is_hidden = |device: &&MovingDevice| {
            let uuid = device.handle.mdev();
            uuid.is_none_or(|uuid| !there.contains(&uuid))
        };
        self.announced.iter().filter(is_hidden).collect()
    }
}

/// What of a claim is asked about, which costs a fraction of understanding all of it.
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
    /// What it is, or will be.
    pub handle: Handle,
    /// Where it is made.
    pub parent: ParentName,
    /// The parent's board.
    pub board: ParentName,
    /// As what.
    pub type_id: MdevTypeId,
    /// Where in the memory of its board, if somebody has chosen that.
    pub placement: Option<Placement>,
}

impl Brief {
    fn of(domain: DomainUuid, text: &str) -> Result<Self, Damaged> {
        match serde_json::from_str::<Self>(text) {
            Ok(claim) if claim.version == VERSION && claim.domain == domain => Ok(claim),
            // What is wrong with it says who reads all of it.
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

/// Whether any of a claim's devices may be: seen in the text as [`super::save`] writes it.
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

/// The moment to hand to [`Seen::read`] for a look that begins now. Claims count in whole
/// milliseconds.
#[must_use]
pub fn begin_look() -> Duration {
    Duration::from_millis(milliseconds_since_boot())
}
