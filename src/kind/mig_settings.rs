//! `[mig]` of a pool file: how many GPU instances each GPU of the pool has for it, and how many
//! vGPUs share one. Which instance profile that is, and how many vGPUs fit, only the driver
//! knows.

use std::num::NonZeroU32;

use crate::{
    document::{ConfigError, Node, Table},
    model::ProfileName,
    rule::{labels::labels, spelling::did_you_mean, spelling::shown},
};

/// Where the vGPUs of a pool live.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum GpuInstances {
    /// In none: they share the time of the whole GPU.
    #[default]
    None,
    /// In GPU instances that somebody else makes: a profile of MIG without `[mig]`.
    MadeByOthers,
    /// In GPU instances that are made for the pool.
    Made(MigSettings),
}

/// `[mig]`, validated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MigSettings {
    /// How many GPU instances each GPU of the pool has for it before any VM starts; 0 only where
    /// they are made on demand.
    pub gpu_instances: u32,
    /// When they are made.
    pub mode: MigMode,
    /// How many vGPUs share one; None: as many as fit.
    pub vgpus_per_instance: Option<NonZeroU32>,
}

labels!(
    /// When GPU instances are made.
    MigMode, "a mode of MIG";
    /// Before any VM starts.
    AtBoot "at-boot",
    /// Further ones when a VM starts that needs one.
    OnDemand "on-demand",
);

/// The keys of `[mig]`.
pub(super) const MIG: &[&str] = &["gpu-instances", "vgpus-per-instance", "mode"];

/// More GPU instances than any GPU has: NVIDIA's have up to seven.
const MOST_INSTANCES: u32 = 64;

impl GpuInstances {
    /// Reads `[mig]` at the top of a pool file, for vGPUs of that profile.
    pub(super) fn read(top: &Table<'_, '_>, profile: &ProfileName) -> Result<Self, ConfigError> {
        let parts = profile.parts();
        let is_time_sliced = parts.is_some_and(|parts| parts.slices.is_none());
        let Some(node) = top.get("mig") else {
            let in_instances = parts.is_some_and(|parts| parts.slices.is_some());
            return Ok(match in_instances {
                true => Self::MadeByOthers,
                false => Self::None,
            });
        };
        if is_time_sliced {
            let what = format!(
                "is for profiles in GPU instances (as in DC-2-12Q), and '{profile}' is none: its \
                 vGPUs share the whole GPU; take [mig] out, or choose another profile"
            );
            return Err(node.refuse(&what, &[]));
        }
        MigSettings::read(node).map(Self::Made)
    }

    /// Whether starts of VMs make GPU instances.
    #[must_use]
    pub fn are_made_on_demand(self) -> bool {
        matches!(self, Self::Made(its) if its.are_made_on_demand())
    }

    /// Whether the vGPUs live in GPU instances.
    #[must_use]
    pub fn are_used(self) -> bool {
        self != Self::None
    }
}

impl MigSettings {
    fn read(node: &Node<'_, '_>) -> Result<Self, ConfigError> {
        let table = node.table("a table, [mig]")?;
        table.check_keys(MIG, |_| None)?;
        let mode = match table.get("mode") {
            Some(node) => read_mode(node)?,
            None => MigMode::AtBoot,
        };
        let gpu_instances = match (table.get("gpu-instances"), mode) {
            (Some(node), _) => read_number(node, mode)?,
            (None, MigMode::OnDemand) => 0,
            (None, MigMode::AtBoot) => return Err(table.missing("gpu-instances", &[])),
        };
        Ok(Self {
            gpu_instances,
            mode,
            vgpus_per_instance: table
                .number("vgpus-per-instance")?
                .and_then(NonZeroU32::new),
        })
    }

    /// Whether starts of VMs make further GPU instances.
    #[must_use]
    pub fn are_made_on_demand(self) -> bool {
        self.mode == MigMode::OnDemand
    }
}

fn read_number(node: &Node<'_, '_>, mode: MigMode) -> Result<u32, ConfigError> {
    let number = node.number()?;
    let what = match (number, mode) {
        (1..=MOST_INSTANCES, _) | (0, MigMode::OnDemand) => return Ok(number),
        (_, MigMode::OnDemand) => {
            format!("wants 0 to {MOST_INSTANCES}: so many are made on each GPU ahead of VMs")
        }
        (0, MigMode::AtBoot) => format!(
            "wants 1 to {MOST_INSTANCES}: so many are made on each GPU; 0 goes with mode = \
             \"on-demand\", where starts of VMs make them"
        ),
        (_, MigMode::AtBoot) => {
            format!("wants 1 to {MOST_INSTANCES}: so many are made on each GPU")
        }
    };
    Err(node.refuse(&what, &[]))
}

fn read_mode(node: &Node<'_, '_>) -> Result<MigMode, ConfigError> {
    let written = node.text()?;
    written.value.parse().map_err(|_| {
        let meant = did_you_mean(&written.value, MigMode::NAMES);
        let what = format!("unknown mode '{}'{meant}", shown(&written.value));
        node.refuse(&what, MigMode::NAMES)
    })
}
