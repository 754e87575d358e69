//! The tables: all boards, with their vGPU types, placements and GPU instance profiles.
//! One file per model in `boards/`; the kernel module is built from the same files. The
//! format is in `README.md`.

use std::{collections::BTreeMap, num::ParseIntError, sync::LazyLock};

/// A board, or one GPU of a board with several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Board {
    /// The file's name, and the word of the module's `boards=`.
    pub model: String,
    /// Its name in NVML.
    pub name: String,
    /// PCI device id; the vendor is 10de.
    pub device: u16,
    /// PCI subsystem device id.
    pub subsystem: u16,
    /// PCI revision.
    pub revision: u8,
    /// Framebuffer in MiB, as NVML reports it.
    pub memory_mib: u32,
    /// How many VFs it can have; 0: no SR-IOV, vGPUs are mdevs of the PF.
    pub vfs: u32,
    /// Placement slots; 0: vGPUs have no placement.
    pub slots: u32,
    /// Slots that a time-sliced vGPU of so many GB occupies, where those are not as many.
    pub sizes: BTreeMap<u32, u32>,
    /// Its features.
    pub features: Features,
    /// Placement ids by size in slots, when sizes are mixed.
    pub mixed: BTreeMap<u32, Vec<u32>>,
    /// GPU instance profiles, in the file's order.
    pub gi_profiles: Vec<GiProfile>,
    /// vGPU types, in the file's order.
    pub types: Vec<VgpuType>,
}

/// The words after `has`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "independent capabilities")]
pub struct Features {
    /// Types of one framebuffer size but different series share the GPU.
    pub mixed_series: bool,
    /// Heterogeneous time-slice sizes.
    pub hetero: bool,
    /// vGPUs of one size have placement ids, too.
    pub homogeneous_placements: bool,
    /// Multi-instance GPU.
    pub mig: bool,
    /// To change the MIG mode needs a reset; it outlives the driver and a reboot.
    pub mig_reset: bool,
    /// More than one vGPU per GPU instance.
    pub mig_timeslicing: bool,
    /// Adaptive round robin.
    pub arr: bool,
}

/// A GPU instance profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GiProfile {
    /// The id that NVML's calls take.
    pub id: u32,
    /// `NVML_GPU_INSTANCE_PROFILE_*`, under which NVML finds it.
    pub index: u32,
    /// As `nvidia-smi` prints it: `3g.40gb`.
    pub name: String,
    /// Nominal memory.
    pub memory_mib: u32,
    /// Compute slices.
    pub compute_slices: u32,
    /// Memory slots that one occupies.
    pub memory_slots: u32,
    /// How many the GPU can have.
    pub max_instances: u32,
    /// It can do graphics.
    pub gfx: bool,
    /// It has media engines of its own.
    pub media: bool,
    /// Memory slots that one may start at.
    pub starts: Vec<u32>,
}

/// A vGPU type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VgpuType {
    /// The driver's number.
    pub id: u32,
    /// Full name: `NVIDIA L40S-24Q`.
    pub name: String,
    /// Framebuffer, the "profile size".
    pub framebuffer_mib: u32,
    /// Placement slots that one occupies: mostly a slot is 1 GB.
    pub slots: u32,
    /// How many the GPU can have.
    pub max_instances: u32,
    /// The GPU instance profile it lives on; none: time-sliced.
    pub gi_profile: Option<u32>,
    /// How many a GPU instance can have.
    pub max_per_gi: Option<u32>,
    /// Display heads.
    pub heads: u32,
    /// Frame rate limit, frames per second.
    pub frame_rate_limit: u32,
    /// Largest display.
    pub resolution: (u32, u32),
}

/// How many time-sliced vGPUs a GPU takes.
pub const MOST: u32 = 32;

/// An error in a table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("boards/{model}, line {line}: {what}")]
pub struct BadTable {
    /// Which file.
    pub model: String,
    /// Counted from 1; one past the end if something is missing in the file.
    pub line: usize,
    /// What was expected.
    pub what: String,
}

macro_rules! files {
    ($($model:literal),* $(,)?) => { [$(($model, include_str!(concat!("../boards/", $model)))),*] };
}

const FILES: [(&str, &str); 14] = files![
    "a100-40",
    "a100-80",
    "a16",
    "a2",
    "a30",
    "a40",
    "b200",
    "h100",
    "h200",
    "l4",
    "l40s",
    "rtx-pro-6000",
    "t4",
    "v100",
];

static ALL: LazyLock<Result<Vec<Board>, BadTable>> = LazyLock::new(|| {
    FILES
        .iter()
        .map(|(model, text)| parse(model, text))
        .collect()
});

/// All boards, by model.
///
/// # Errors
/// When one of the files is wrong.
pub fn all() -> Result<&'static [Board], BadTable> {
    match &*ALL {
        Ok(boards) => Ok(boards),
        Err(error) => Err(error.clone()),
    }
}

/// The board of a model.
pub fn find(model: &str) -> Option<&'static Board> {
    all().ok()?.iter().find(|board| board.model == model)
}

impl Board {
    /// The type with this id.
    pub fn vgpu_type(&self, id: u32) -> Option<&VgpuType> {
        self.types.iter().find(|vgpu_type| vgpu_type.id == id)
    }

    /// The GPU instance profile with this id.
    pub fn gi_profile(&self, id: u32) -> Option<&GiProfile> {
        self.gi_profiles.iter().find(|profile| profile.id == id)
    }

    /// How many of the profile's size the memory of the whole GPU is; at least 1.
    pub fn gi_fraction(&self, profile: &GiProfile) -> u32 {
        let slots = self.gi_profiles.iter().map(|profile| profile.memory_slots);
        let whole = slots.max().unwrap_or(0);
        whole.checked_div(profile.memory_slots).unwrap_or(1).max(1)
    }
}

impl VgpuType {
    /// The name without the product: `L40S-24Q`.
    pub fn short_name(&self) -> &str {
        self.name.rsplit(' ').next().unwrap_or(&self.name)
    }

    /// The part of the GPU's slots with places for vGPUs of one size: as many as there may
    /// be of the type, unless that is what a GPU takes at all.
    pub fn region(&self, slots: u32) -> u32 {
        if self.max_instances >= MOST {
            return slots;
        }
        slots.min(self.slots.saturating_mul(self.max_instances))
    }

    /// The letter of its series: `Q`, `B`, `A` or `C`.
    pub fn series(&self) -> char {
        let sizes = self.short_name().trim_end_matches("ME");
        sizes.chars().next_back().unwrap_or('?')
    }
}

/// Reads a table.
///
/// # Errors
/// The first line that does not follow the format, or what is missing in the file.
pub fn parse(model: &str, text: &str) -> Result<Board, BadTable> {
    let bad = |line: usize, what: String| BadTable {
        model: model.to_owned(),
        line,
        what,
    };
    let mut board = Board {
        model: model.to_owned(),
        name: String::new(),
        device: 0,
        subsystem: 0,
        revision: 0,
        memory_mib: 0,
        vfs: 0,
        slots: 0,
        sizes: BTreeMap::new(),
        features: Features::default(),
        mixed: BTreeMap::new(),
        gi_profiles: Vec::new(),
        types: Vec::new(),
    };
    for (number, line) in text.lines().enumerate() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let Some((&keyword, words)) = words.split_first() else {
            continue;
        };
        if keyword.starts_with('#') {
            continue;
        }
        board
            .take(keyword, words)
            .map_err(|what| bad(number + 1, what))?;
    }
    board
        .check()
        .map_err(|what| bad(text.lines().count() + 1, what))?;
    Ok(board)
}

fn decimal(word: &str) -> Result<u32, String> {
    word.parse()
        .map_err(|_: ParseIntError| format!("'{word}' is not a number"))
}

fn decimals(words: &[&str]) -> Result<Vec<u32>, String> {
    words.iter().map(|word| decimal(word)).collect()
}

fn optional(word: &str) -> Result<Option<u32>, String> {
    if word == "-" {
        Ok(None)
    } else {
        decimal(word).map(Some)
    }
}

fn hex(word: &str) -> Result<u16, String> {
    u16::from_str_radix(word, 16).map_err(|_| format!("'{word}' is not a hexadecimal number"))
}

impl Board {
    fn take(&mut self, keyword: &str, words: &[&str]) -> Result<(), String> {
        match (keyword, words) {
            ("name", [_, ..]) => self.name = words.join(" "),
            ("device", [device, subsystem, revision]) => {
                self.device = hex(device)?;
                self.subsystem = hex(subsystem)?;
                self.revision = u8::try_from(hex(revision)?)
                    .map_err(|_| format!("revision '{revision}' is more than a byte"))?;
            }
            ("memory", [mib]) => self.memory_mib = decimal(mib)?,
            ("vfs", [count]) => self.vfs = decimal(count)?,
            ("slots", [count]) => self.slots = decimal(count)?,
            ("size", [gb, slots]) => {
                self.sizes.insert(decimal(gb)?, decimal(slots)?);
            }
            ("has", features) => {
                for feature in features {
                    self.features.add(feature)?;
                }
            }
            ("mixed", [size, ids @ ..]) if !ids.is_empty() => {
                self.mixed.insert(decimal(size)?, decimals(ids)?);
            }
            ("gi", [id, index, name, mib, compute, memory, max, further @ ..]) => {
                self.gi_profiles.push(GiProfile {
                    id: decimal(id)?,
                    index: decimal(index)?,
                    name: (*name).to_owned(),
                    memory_mib: decimal(mib)?,
                    compute_slices: decimal(compute)?,
                    memory_slots: decimal(memory)?,
                    max_instances: decimal(max)?,
                    gfx: further.contains(&"gfx"),
                    media: further.contains(&"me"),
                    starts: Vec::new(),
                });
            }
            ("gi-at", [id, starts @ ..]) if !starts.is_empty() => {
                let id = decimal(id)?;
                let profile = self.gi_profiles.iter_mut().find(|profile| profile.id == id);
                profile
                    .ok_or_else(|| format!("no profile {id} above"))?
                    .starts = decimals(starts)?;
            }
            ("type", [id, mib, max, gi, per_gi, heads, limit, resolution, _, ..]) => {
                let (width, height) = resolution
                    .split_once('x')
                    .ok_or_else(|| format!("'{resolution}' is not WIDTHxHEIGHT"))?;
                let (framebuffer_mib, gi_profile) = (decimal(mib)?, optional(gi)?);
                let gb = framebuffer_mib / 1024;
                let other = self.sizes.get(&gb).filter(|_| gi_profile.is_none());
                self.types.push(VgpuType {
                    id: decimal(id)?,
                    name: words[8..].join(" "),
                    framebuffer_mib,
                    slots: other.copied().unwrap_or(gb),
                    max_instances: decimal(max)?,
                    gi_profile,
                    max_per_gi: optional(per_gi)?,
                    heads: decimal(heads)?,
                    frame_rate_limit: decimal(limit)?,
                    resolution: (decimal(width)?, decimal(height)?),
                });
            }
            _ => {
                return Err(format!(
                    "'{keyword}' with {} words is not known",
                    words.len()
                ));
            }
        }
        Ok(())
    }

    /// Checks that need more than one line.
    fn check(&self) -> Result<(), String> {
        if self.name.is_empty() || self.device == 0 || self.memory_mib == 0 || self.types.is_empty()
        {
            return Err("name, device, memory or types are missing".to_owned());
        }
        if self.vfs > 64 {
            return Err(format!("{} VFs: the driver knows 64", self.vfs));
        }
        if self.types.len() > 128 {
            return Err(format!("{} types: the driver knows 128", self.types.len()));
        }
        if let Some(profile) = self
            .gi_profiles
            .iter()
            .find(|profile| profile.starts.is_empty())
        {
            return Err(format!("no gi-at for profile {}", profile.id));
        }
        for vgpu_type in &self.types {
            let on_gi = vgpu_type.gi_profile.is_some();
            if on_gi != vgpu_type.max_per_gi.is_some() {
                return Err(format!(
                    "type {}: GI profile without number per GI",
                    vgpu_type.id
                ));
            }
            if vgpu_type
                .gi_profile
                .is_some_and(|id| self.gi_profile(id).is_none())
            {
                return Err(format!("type {}: no such GI profile", vgpu_type.id));
            }
            if self.features.hetero && !on_gi && !self.mixed.contains_key(&vgpu_type.slots) {
                return Err(format!(
                    "type {}: no mixed placements of its size",
                    vgpu_type.id
                ));
            }
            if self
                .types
                .iter()
                .filter(|other| other.id == vgpu_type.id)
                .count()
                > 1
            {
                return Err(format!("type {}: twice", vgpu_type.id));
            }
        }
        Ok(())
    }
}

impl Features {
    fn add(&mut self, word: &str) -> Result<(), String> {
        let feature = match word {
            "mixed-series" => &mut self.mixed_series,
            "hetero" => &mut self.hetero,
            "homogeneous-placements" => &mut self.homogeneous_placements,
            "mig" => &mut self.mig,
            "mig-reset" => &mut self.mig_reset,
            "mig-timeslicing" => &mut self.mig_timeslicing,
            "arr" => &mut self.arr,
            _ => return Err(format!("no feature '{word}'")),
        };
        *feature = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
