//! The twin: one GPU of the simulated host in memory, with the same rules as the kernel
//! module (`README.md`, "Rules of the resource manager"). It knows no file and no
//! clock: time passes when the caller says so. Results are the errnos of the host's
//! files.

use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

use nix::errno::Errno;

use crate::boards::{Board, VgpuType};

mod attributes;
mod binding;
mod control;
mod describe;
mod mdev;
mod mig;
mod opening;
mod placement;
mod rules;
mod scheduler;

pub use attributes::Attribute;
pub use mig::{GpuInstance, Mig};
pub use opening::{Guest, Vm};
pub use rules::Refusal;
pub use scheduler::Scheduler;

/// The result of an operation.
pub type Result<T> = std::result::Result<T, Errno>;

/// Instance ids count from here, as NVIDIA's do.
const FIRST_INSTANCE: u32 = 3_251_634_176;

/// How vGPUs appear in sysfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framework {
    /// Mediated devices of the physical function.
    LegacyMdev,
    /// Mediated devices of virtual functions, one each.
    SriovMdev,
    /// Virtual functions with a type.
    VendorVfio,
}

/// The source of the errnos of `current_vgpu_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// NVIDIA's driver.
    Kmod,
    /// The driver proposed for the kernel.
    Rfc,
}

/// The module's parameters that affect the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "independent switches")]
pub struct Switches {
    /// For boards with SR-IOV; other boards have legacy mdev.
    pub framework: Framework,
    /// Errnos of `current_vgpu_type`.
    pub dialect: Dialect,
    /// Off: no board shares types of one size but different series.
    pub mixed_series: bool,
    /// Mixed sizes can be placed at any multiple of the size.
    pub fine_placements: bool,
    /// Types exist only after `nvidia-vgpud` has loaded them.
    pub need_vgpud: bool,
    /// A vGPU opens only while `nvidia-vgpu-mgr` runs.
    pub need_manager: bool,
    /// `sriov-manage` binds a GPU again whose functions are as wanted already.
    pub rebind_again: bool,
}

impl Default for Switches {
    fn default() -> Self {
        Self {
            framework: Framework::VendorVfio,
            dialect: Dialect::Kmod,
            mixed_series: true,
            fine_placements: false,
            need_vgpud: true,
            need_manager: true,
            rebind_again: true,
        }
    }
}

/// A virtual function.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Vf {
    /// Bound again by hand: without a VFIO device.
    rebound: bool,
    /// Its plugin was killed while it started.
    wedged: bool,
    /// It has disappeared from the bus.
    gone: bool,
}

/// The parent of a vGPU, which lists its types.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Parent {
    /// The physical function.
    Pf,
    /// The virtual function with this number.
    Vf(u32),
}

/// The directory of a vGPU's attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VgpuHandle {
    /// Under the virtual function with this number.
    Vf(u32),
    /// Under the mediated device with this UUID.
    Mdev(String),
}

/// A vGPU, running or not.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Vgpu {
    id: u32,
    kind: &'static VgpuType,
    /// First slot: of the GPU, or of the GPU instance when it is in one.
    placement: Option<u32>,
    /// The id of the GPU instance, which may be gone; none with a time-sliced type, and
    /// when the GPU was bound again.
    gi: Option<u32>,
    parent: Parent,
    uuid: Option<String>,
    params: Vec<u8>,
    opener: Option<opening::Opener>,
    /// Until then the plugin of the last VM still runs.
    exits_at: Duration,
}

/// What a function, or its mediated device, still shows of a vGPU that the resource
/// manager has forgotten.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Forgotten {
    kind: &'static VgpuType,
    parent: Parent,
    uuid: Option<String>,
}

/// A GPU with all its contents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    board: &'static Board,
    address: String,
    node: u32,
    switches: Switches,
    loaded: bool,
    manager: bool,
    clients: u32,
    now: Duration,
    plugin_exit: Duration,
    init: Duration,
    next_instance: u32,
    vfs: Vec<Vf>,
    vgpus: Vec<Vgpu>,
    forgotten: Vec<Forgotten>,
    mig: Mig,
    hetero: bool,
    scheduler: Scheduler,
    gis: BTreeMap<u32, GpuInstance>,
}

impl Gpu {
    /// The GPU as the module creates it: empty, no virtual functions, types not loaded,
    /// no manager.
    pub fn new(board: &'static Board, address: &str, switches: Switches) -> Self {
        Self {
            board,
            address: address.to_owned(),
            node: 0,
            switches,
            loaded: !switches.need_vgpud,
            manager: false,
            clients: 0,
            now: Duration::ZERO,
            plugin_exit: Duration::ZERO,
            init: Duration::from_secs(3),
            next_instance: FIRST_INSTANCE,
            vfs: Vec::new(),
            vgpus: Vec::new(),
            forgotten: Vec::new(),
            mig: Mig::default(),
            hetero: false,
            scheduler: Scheduler::default(),
            gis: BTreeMap::new(),
        }
    }

    /// Its table.
    pub fn board(&self) -> &'static Board {
        self.board
    }

    /// Its PCI address.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The switches it was made with.
    pub fn switches(&self) -> &Switches {
        &self.switches
    }

    /// The framework of its vGPUs.
    pub fn framework(&self) -> Framework {
        framework_of(self.board, &self.switches)
    }

    /// The present number of virtual functions, including those that have disappeared
    /// from the bus.
    pub fn vf_count(&self) -> u32 {
        u32::try_from(self.vfs.len()).unwrap_or(u32::MAX)
    }

    /// Whether the virtual function with this number exists.
    pub fn has_vf(&self, number: u32) -> bool {
        self.vf(number).is_ok()
    }

    /// Whether the virtual function with this number has a VFIO device.
    pub fn has_vfio_device(&self, number: u32) -> bool {
        self.vf(number).is_ok_and(|vf| !vf.rebound)
    }

    /// `nvidia-vgpud` has run.
    pub fn load_types(&mut self) {
        self.loaded = true;
    }

    /// `nvidia-vgpu-mgr` starts or ends.
    pub fn set_manager(&mut self, running: bool) {
        self.manager = running;
    }

    /// How many processes have `/dev/nvidiactl` open.
    pub fn set_clients(&mut self, clients: u32) {
        self.clients = clients;
    }

    /// How long the plugin takes to exit after a VM.
    pub fn set_plugin_exit(&mut self, time: Duration) {
        self.plugin_exit = time;
    }

    /// How long after opening a SIGKILL wedges.
    pub fn set_init(&mut self, time: Duration) {
        self.init = time;
    }

    /// Time passes.
    pub fn wait(&mut self, time: Duration) {
        self.now += time;
    }

    fn is_sriov(&self) -> bool {
        self.board.vfs > 0
    }

    fn vf(&self, number: u32) -> Result<Vf> {
        let found = usize::try_from(number).ok().and_then(|n| self.vfs.get(n));
        let there = found.filter(|vf| !vf.gone);
        there.copied().ok_or(Errno::ENOENT)
    }

    fn on_vf(&self, number: u32) -> Option<usize> {
        let parent = Parent::Vf(number);
        self.vgpus.iter().position(|vgpu| vgpu.parent == parent)
    }

    /// The vGPU that the virtual function shows, although the resource manager has
    /// forgotten it.
    fn forgotten_on(&self, number: u32) -> Option<&Forgotten> {
        let parent = Parent::Vf(number);
        self.forgotten.iter().find(|one| one.parent == parent)
    }

    /// Whether the virtual function with this number shows no vGPU.
    pub fn is_free(&self, number: u32) -> bool {
        self.on_vf(number).is_none() && self.forgotten_on(number).is_none()
    }

    fn is_forgotten(&self, vgpu_handle: &VgpuHandle) -> bool {
        match vgpu_handle {
            VgpuHandle::Vf(number) => {
                self.framework() == Framework::VendorVfio && self.forgotten_on(*number).is_some()
            }
            VgpuHandle::Mdev(uuid) => {
                let uuid = Some(uuid.to_lowercase());
                self.forgotten.iter().any(|one| one.uuid == uuid)
            }
        }
    }

    /// The vGPU with these attributes: `ENOENT` without the directory, `ENXIO` without
    /// a vGPU.
    fn at(&self, vgpu_handle: &VgpuHandle) -> Result<usize> {
        match vgpu_handle {
            VgpuHandle::Vf(number) if self.framework() == Framework::VendorVfio => {
                self.vf(*number)?;
                self.on_vf(*number).ok_or(Errno::ENXIO)
            }
            VgpuHandle::Vf(_) => Err(Errno::ENOENT),
            VgpuHandle::Mdev(_) if self.is_forgotten(vgpu_handle) => Err(Errno::ENXIO),
            VgpuHandle::Mdev(uuid) => {
                let uuid = uuid.to_lowercase();
                let mut vgpus = self.vgpus.iter();
                vgpus
                    .position(|vgpu| vgpu.uuid.as_ref() == Some(&uuid))
                    .ok_or(Errno::ENOENT)
            }
        }
    }

    fn vgpu(&self, vgpu_handle: &VgpuHandle) -> Result<&Vgpu> {
        self.vgpus.get(self.at(vgpu_handle)?).ok_or(Errno::ENXIO)
    }

    fn vgpu_mut(&mut self, vgpu_handle: &VgpuHandle) -> Result<&mut Vgpu> {
        let index = self.at(vgpu_handle)?;
        self.vgpus.get_mut(index).ok_or(Errno::ENXIO)
    }
}

/// The framework of a board's vGPUs.
pub fn framework_of(board: &Board, switches: &Switches) -> Framework {
    if board.vfs == 0 {
        Framework::LegacyMdev
    } else {
        switches.framework
    }
}

impl fmt::Display for Framework {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LegacyMdev => "legacy-mdev",
            Self::SriovMdev => "sriov-mdev",
            Self::VendorVfio => "vendor-vfio",
        })
    }
}

impl FromStr for Framework {
    type Err = String;

    fn from_str(word: &str) -> std::result::Result<Self, String> {
        let all = [Self::LegacyMdev, Self::SriovMdev, Self::VendorVfio];
        let found = all.into_iter().find(|one| one.to_string() == word);
        found.ok_or_else(|| format!("no framework '{word}'"))
    }
}

impl FromStr for Dialect {
    type Err = String;

    fn from_str(word: &str) -> std::result::Result<Self, String> {
        match word {
            "kmod" => Ok(Self::Kmod),
            "rfc" => Ok(Self::Rfc),
            _ => Err(format!("no dialect '{word}'")),
        }
    }
}

#[cfg(test)]
mod tests;
