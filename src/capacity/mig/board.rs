//! What a GPU can be divided into, as NVML tells it.

use std::fmt;

use crate::device::nvml::{self, Engines};

/// A number that NVML gives; `NVML_GPU_INSTANCE` calls use all ones for "none", and 0 is
/// as good as any other.
macro_rules! nvml_number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u32);

        impl $name {
            /// None for 0xFFFFFFFF, which is NVML's "none".
            #[must_use]
            pub fn new(number: u32) -> Option<Self> {
                (number != u32::MAX).then_some(Self(number))
            }

            /// As NVML's calls take it.
            #[must_use]
            pub fn number(self) -> u32 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

nvml_number! {
    /// The id of a GPU instance profile. It means something on one GPU only: 14 is `2g` on
    /// an A100 and `1g` on an A30.
    ProfileId
}

nvml_number! {
    /// The id of a GPU instance. Ids come back for other instances, and say nothing of
    /// where an instance lies.
    InstanceId
}

/// Memory slots that lie side by side: what `nvmlGpuInstancePlacement_t` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slots {
    start: u32,
    size: u32,
}

impl Slots {
    /// The most slots of a GPU that can be dealt with. NVIDIA's have 4 to 12.
    pub const MOST: u32 = u64::BITS;

    /// None if there is no slot, or one beyond [`Self::MOST`].
    #[must_use]
    pub fn new(start: u32, size: u32) -> Option<Self> {
        let end = start.checked_add(size)?;
        (size > 0 && end <= Self::MOST).then_some(Self { start, size })
    }

    /// The first slot.
    #[must_use]
    pub fn start(self) -> u32 {
        self.start
    }

    /// How many they are.
    #[must_use]
    pub fn size(self) -> u32 {
        self.size
    }

    /// One bit for each slot.
    #[must_use]
    pub fn bits(self) -> u64 {
        (u64::MAX >> (Self::MOST - self.size)) << self.start
    }
}

impl fmt::Display for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.size {
            1 => write!(f, "{}", self.start),
            size => write!(f, "{}-{}", self.start, self.start + size - 1),
        }
    }
}

/// In the order of the fields. An engine that NVML does not tell of is 0, and limits nothing.
pub(super) fn engine_counts(engines: Engines) -> [u32; 4] {
    let Engines {
        decoders,
        encoders,
        jpeg,
        optical_flow,
    } = engines;
    [decoders, encoders, jpeg, optical_flow]
}

/// A GPU instance profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceProfile {
    /// What NVML's calls take.
    pub id: ProfileId,
    /// `3g.20gb`.
    pub name: String,
    /// How many memory slots an instance covers.
    pub size: u32,
    /// The slots that one may start at, in ascending order.
    pub starts: Vec<u32>,
    /// The most of them on the GPU.
    pub most: u32,
    /// The engines of one.
    pub engines: Engines,
}

/// What a GPU can be divided into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Board {
    /// Large ones first, then by id: the order in which instances are created.
    profiles: Vec<InstanceProfile>,
    /// For each profile, the slots of each start.
    places: Vec<Vec<Slots>>,
    /// For each profile, whether `most` says more than the slots do.
    limited: Vec<bool>,
    /// The engines of which instances that have enough slots could need more than there are.
    scarce: Vec<(usize, u32)>,
    slots: u32,
    compute_instances: bool,
}

/// A table that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadBoard {
    /// A profile has the number that means none.
    #[error("a GPU instance profile has no id")]
    NoId,
    /// Two profiles have the id.
    #[error("the GPU instance profile {0} is listed twice")]
    Twice(ProfileId),
    /// A profile has a size or start that no GPU has.
    #[error("the GPU instance profile {name} covers {size} memory slots from {start} on")]
    Slots {
        /// The profile.
        name: String,
        /// Its size.
        size: u32,
        /// The start.
        start: u32,
    },
    /// More than [`Board::MOST_PROFILES`].
    #[error("the GPU has {0} GPU instance profiles, more than can be dealt with")]
    Profiles(usize),
}

/// For drivers that tell no names: as NVIDIA builds them.
fn nameless(profile: &nvml::InstanceProfile) -> String {
    let gigabytes = profile.memory_mib.div_ceil(1024);
    format!("{}g.{gigabytes}gb", profile.compute_slices)
}

impl Board {
    /// The most profiles. NVML has names for 18.
    pub const MOST_PROFILES: usize = 32;

    /// Reads NVML's table. `compute_instances`: whether the host has to create a compute
    /// instance in each GPU instance; usually the guest's driver does it.
    ///
    /// # Errors
    /// When the table makes no sense.
    pub fn new(
        mut profiles: Vec<InstanceProfile>,
        compute_instances: bool,
    ) -> Result<Self, BadBoard> {
        if profiles.len() > Self::MOST_PROFILES {
            return Err(BadBoard::Profiles(profiles.len()));
        }
        profiles.sort_by_key(|profile| (std::cmp::Reverse(profile.size), profile.id));
        let mut places = Vec::new();
        let mut slots = 0;
        for profile in &mut profiles {
            profile.starts.sort_unstable();
            profile.starts.dedup();
            let its = places_of(profile)?;
            let ends = its.iter().map(|place| place.start() + place.size());
            slots = ends.fold(slots, u32::max);
            places.push(its);
        }
        let mut ids: Vec<ProfileId> = profiles.iter().map(|profile| profile.id).collect();
        ids.sort_unstable();
        if let Some(pair) = ids.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(BadBoard::Twice(pair[0]));
        }
        let side_by_side = |places: &[Slots]| greedily(0, places);
        let limited = profiles.iter().zip(&places);
        let limited = limited.map(|(profile, places)| profile.most < side_by_side(places));
        let limited = limited.collect();
        let engines = engines_of(&profiles).into_iter().enumerate();
        let scarce = engines
            .filter(|(engine, there)| most_needed(&profiles, *engine, slots) > u64::from(*there));
        let scarce = scarce.collect();
        Ok(Self {
            profiles,
            places,
            limited,
            scarce,
            slots,
            compute_instances,
        })
    }

    /// Reads NVML's table as it was told, for guests that create the compute instances.
    ///
    /// # Errors
    /// When the table makes no sense.
    pub fn told(profiles: &[nvml::InstanceProfile]) -> Result<Self, BadBoard> {
        let profiles = profiles.iter().map(|one| {
            Ok(InstanceProfile {
                id: ProfileId::new(one.id).ok_or(BadBoard::NoId)?,
                name: one.name.clone().unwrap_or_else(|| nameless(one)),
                size: one.size,
                starts: one.starts.clone(),
                most: one.most,
                engines: one.engines,
            })
        });
        Self::new(profiles.collect::<Result<_, _>>()?, false)
    }

    /// The profiles, large ones first.
    #[must_use]
    pub fn profiles(&self) -> &[InstanceProfile] {
        &self.profiles
    }

    /// How many memory slots it has.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// Whether the host has to create a compute instance in each GPU instance.
    #[must_use]
    pub fn compute_instances(&self) -> bool {
        self.compute_instances
    }

    /// The profile with that id.
    #[must_use]
    pub fn profile(&self, id: ProfileId) -> Option<&InstanceProfile> {
        self.profiles.iter().find(|profile| profile.id == id)
    }

    /// Where the profile is in the list.
    pub(super) fn index(&self, id: ProfileId) -> Option<usize> {
        self.profiles.iter().position(|profile| profile.id == id)
    }

    /// The places of the profile, in ascending order.
    pub(super) fn places(&self, profile: usize) -> &[Slots] {
        self.places.get(profile).map_or(&[], Vec::as_slice)
    }

    pub(super) fn is_limited(&self, profile: usize) -> bool {
        self.limited.get(profile).copied().unwrap_or(false)
    }

    /// The engines that can get scarce: their place in [`engine_counts`] and number.
    pub(super) fn scarce_engines(&self) -> &[(usize, u32)] {
        &self.scarce
    }

    /// The profile's name, or its number if the GPU has no such profile (any more).
    #[must_use]
    pub fn name(&self, id: ProfileId) -> String {
        match self.profile(id) {
            Some(profile) => profile.name.clone(),
            None => format!("profile {id}"),
        }
    }
}

fn places_of(profile: &InstanceProfile) -> Result<Vec<Slots>, BadBoard> {
    let places = profile.starts.iter().map(|&start| {
        Slots::new(start, profile.size).ok_or_else(|| BadBoard::Slots {
            name: profile.name.clone(),
            size: profile.size,
            start,
        })
    });
    places.collect()
}

/// How many of the places fit beside each other in what `taken` leaves. They have one size
/// and are in ascending order, so taking the lowest again and again gives the most.
pub(super) fn greedily(mut taken: u64, places: &[Slots]) -> u32 {
    let mut found = 0;
    for place in places {
        if taken & place.bits() == 0 {
            taken |= place.bits();
            found += 1;
        }
    }
    found
}

/// The GPU's engines. NVML tells them for profiles only: the GPU has at least as many as all
/// instances of any one profile together have.
fn engines_of(profiles: &[InstanceProfile]) -> [u32; 4] {
    let mut engines = [0; 4];
    for profile in profiles {
        for (most, one) in engines.iter_mut().zip(engine_counts(profile.engines)) {
            *most = (*most).max(one.saturating_mul(profile.most));
        }
    }
    engines
}

/// An upper bound of how many of an engine instances on that many slots can need: the slots
/// go to the profiles with the most engines for a slot.
fn most_needed(profiles: &[InstanceProfile], engine: usize, slots: u32) -> u64 {
    let mut by_need: Vec<(u64, u64, u64)> = profiles
        .iter()
        .map(|profile| {
            let engines = u64::from(engine_counts(profile.engines)[engine]);
            (engines, u64::from(profile.size), u64::from(profile.most))
        })
        .collect();
    by_need.sort_by(|one, other| (other.0 * one.1).cmp(&(one.0 * other.1)));
    let mut left = u64::from(slots);
    let mut needed = 0;
    for (engines, size, most) in by_need {
        let slots = left.min(size.saturating_mul(most));
        needed += (engines * slots).div_ceil(size);
        left -= slots;
    }
    needed
}
