//! GPUs that follow NVIDIA's tables. The driver's rules are those of the lab's twin
//! (`tests/lab/nvidia/src/model`); this module knows which function and which mediated
//! device an answer belongs to.

use std::collections::BTreeMap;

use lab_nvidia::{
    boards::{self, Board, VgpuType},
    control::{self, Control},
    model::{self, Attribute, Framework, Parent, Switches, VgpuHandle},
};
use nix::errno::Errno;

use super::{Kernel, State};
use crate::support::machine;

/// A GPU with its twin.
#[derive(Debug)]
pub(super) struct Card {
    pub(super) twin: model::Gpu,
    pub(super) numa_node: i32,
    /// IOMMU group and VFIO device of its first function; the others follow.
    pub(super) first_group: u32,
}

/// A virtual function that is a vGPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vgpu {
    /// The driver's number.
    pub type_id: u32,
    /// The type's name without the product: `L40S-12Q`.
    pub profile: String,
    /// The text of `vgpu_params`.
    pub parameters: String,
    /// The number in `placement_id`; None: not applicable.
    pub placement: Option<u32>,
}

/// Groups of one GPU's functions: more than the driver knows functions.
const GROUPS: u32 = 100;
/// Higher than the groups of mediated devices.
const FIRST_GROUP: u32 = 10_000;

/// The table with another number of functions. Tables live as long as the program, so
/// this one does too.
fn table(gpu: &machine::Gpu) -> &'static Board {
    let found = boards::find(&gpu.board);
    let found = found.unwrap_or_else(|| panic!("no board {}", gpu.board));
    let functions = match gpu.framework {
        Framework::LegacyMdev => 0,
        _ => gpu.functions.unwrap_or(found.vfs),
    };
    let device = gpu.device.unwrap_or(found.device);
    if (functions, device) == (found.vfs, found.device) {
        return found;
    }
    Box::leak(Box::new(Board {
        vfs: functions,
        device,
        ..found.clone()
    }))
}

impl Card {
    pub(super) fn new(gpu: &machine::Gpu, number: usize) -> Self {
        let switches = Switches {
            framework: gpu.framework,
            dialect: gpu.dialect,
            ..Switches::default()
        };
        let mut twin = model::Gpu::new(table(gpu), &gpu.address, switches);
        assert_eq!(twin.framework(), gpu.framework, "{} cannot", gpu.board);
        twin.load_types();
        twin.set_manager(true);
        if gpu.framework != Framework::LegacyMdev && gpu.enabled {
            twin.set_vfs(true).unwrap();
        }
        if gpu.heterogeneous {
            twin.set_hetero(true).unwrap();
        }
        Self {
            twin,
            numa_node: gpu.numa_node,
            first_group: FIRST_GROUP + GROUPS * u32::try_from(number).unwrap(),
        }
    }

    /// The existing virtual functions, with their numbers.
    pub(super) fn functions(&self) -> impl Iterator<Item = (u32, String)> + '_ {
        let numbers = (0..self.twin.vf_count()).filter(|number| self.twin.has_vf(*number));
        numbers.map(|number| (number, self.twin.vf_address(number)))
    }

    fn function(&self, address: &str) -> Option<u32> {
        let mut functions = self.functions();
        functions.find_map(|(number, at)| (at == address).then_some(number))
    }

    /// The GPU or function at that address.
    pub(super) fn at(&self, address: &str) -> Option<Parent> {
        if self.twin.address() == address {
            return Some(Parent::Pf);
        }
        self.function(address).map(Parent::Vf)
    }

    /// The state of the driver.
    pub(super) fn known(&self) -> control::State {
        struct Described(String);
        impl Control for Described {
            fn command(&mut self, _: &str) -> Result<String, Errno> {
                Ok(self.0.clone())
            }
        }
        control::gpu(&mut Described(self.twin.describe()), "").unwrap()
    }

    fn is_open(&self, vgpu_handle: &VgpuHandle) -> bool {
        self.known().vgpus.iter().any(|vgpu| {
            let here = match vgpu_handle {
                VgpuHandle::Vf(number) => vgpu.place == self.twin.vf_address(*number),
                VgpuHandle::Mdev(uuid) => vgpu.mdev.as_ref() == Some(uuid),
            };
            here && vgpu.opener.is_some()
        })
    }
}

impl State {
    pub(super) fn card(&self, address: &str) -> Option<(usize, Parent)> {
        let mut cards = self.cards.iter().enumerate();
        cards.find_map(|(index, card)| Some((index, card.at(address)?)))
    }

    /// The GPU behind a function.
    pub(super) fn board_of(&self, address: &str) -> Option<String> {
        if let Some((index, _)) = self.card(address) {
            return Some(self.cards[index].twin.address().to_owned());
        }
        let (function, _) = self.function(address)?;
        Some(function.address.clone())
    }

    /// Where the attributes of a function or of a mediated device are.
    pub(super) fn vgpu_handle(&self, at: &str) -> Option<(usize, VgpuHandle)> {
        if let Some(mdev) = self.mdevs.get(at) {
            let (index, _) = self.card(&mdev.parent)?;
            return Some((index, VgpuHandle::Mdev(at.to_owned())));
        }
        match self.card(at)? {
            (index, Parent::Vf(number)) => Some((index, VgpuHandle::Vf(number))),
            (_, Parent::Pf) => None,
        }
    }

    pub(super) fn is_open(&self, at: &str) -> bool {
        let vgpu_handle = self.vgpu_handle(at);
        vgpu_handle.is_some_and(|(index, vgpu_handle)| self.cards[index].is_open(&vgpu_handle))
    }

    /// The type behind a directory's name in `mdev_supported_types`.
    pub(super) fn mdev_type(&self, card: usize, type_id: &str) -> Option<&'static VgpuType> {
        let number = type_id.strip_prefix("nvidia-")?.parse().ok()?;
        self.cards[card].twin.board().vgpu_type(number)
    }

    /// A write to a file in `nvidia/`.
    pub(super) fn write_vgpu(
        &mut self,
        at: &str,
        attribute: Attribute,
        value: &[u8],
    ) -> Result<usize, Errno> {
        // The function disappeared during the write.
        let (index, vgpu_handle) = self.vgpu_handle(at).ok_or(Errno::ENODEV)?;
        let twin = &mut self.cards[index].twin;
        self.tree = None;
        twin.write(&vgpu_handle, attribute, &String::from_utf8_lossy(value))?;
        if let (VgpuHandle::Mdev(uuid), Attribute::VgpuParams) = (&vgpu_handle, attribute) {
            let text = twin.read(&vgpu_handle, attribute)?;
            if let Some(mdev) = self.mdevs.get_mut(uuid) {
                text.trim_end().clone_into(&mut mdev.parameters);
            }
        }
        Ok(value.len())
    }

    fn vgpu(&self, index: usize, number: u32) -> Option<Vgpu> {
        let twin = &self.cards[index].twin;
        let read = |attribute| {
            let text = twin.read(&VgpuHandle::Vf(number), attribute).ok()?;
            Some(text.trim_end().to_owned())
        };
        let type_id = read(Attribute::CurrentVgpuType)?.parse().ok()?;
        let kind = twin.board().vgpu_type(type_id)?;
        Some(Vgpu {
            type_id,
            profile: kind.short_name().to_owned(),
            parameters: read(Attribute::VgpuParams)?,
            placement: read(Attribute::PlacementId)?.parse().ok(),
        })
    }

    /// Mediated devices disappear with their parents.
    pub(super) fn forget_mdevs(&mut self) {
        let mut mdevs = std::mem::take(&mut self.mdevs);
        mdevs.retain(|_, mdev| self.board_of(&mdev.parent).is_some());
        self.mdevs = mdevs;
        self.tree = None;
    }

    /// A function, or a GPU with all its functions, disappears from the bus.
    pub(super) fn remove_from_cards(&mut self, address: &str) {
        match self.card(address) {
            Some((index, Parent::Pf)) => drop(self.cards.remove(index)),
            Some((index, Parent::Vf(number))) => self.cards[index].twin.vanish(number).unwrap(),
            None => {}
        }
    }
}

impl Kernel {
    /// All virtual functions that are vGPUs, by address. Mediated devices are in
    /// [`Self::mdevs`].
    pub fn vgpus(&self) -> BTreeMap<String, Vgpu> {
        let state = self.state();
        let mut found = BTreeMap::new();
        for (index, card) in state.cards.iter().enumerate() {
            for (number, address) in card.functions() {
                found.extend(state.vgpu(index, number).map(|vgpu| (address, vgpu)));
            }
        }
        found
    }

    /// The existing virtual functions of a GPU.
    pub fn functions(&self, gpu: &str) -> Vec<String> {
        let state = self.state();
        let (index, _) = state.card(gpu).unwrap();
        state.cards[index].functions().map(|(_, at)| at).collect()
    }

    /// Gives a free function a type for somebody else.
    pub fn set_type(&self, function: &str, profile: &str) {
        let mut state = self.state();
        let (index, _) = state.card(function).unwrap();
        let types = &state.cards[index].twin.board().types;
        let kind = types.iter().find(|kind| kind.short_name() == profile);
        let id = kind.unwrap_or_else(|| panic!("no {profile}")).id;
        let text = format!("{id}\n");
        let written = state.write_vgpu(function, Attribute::CurrentVgpuType, text.as_bytes());
        assert_eq!(written, Ok(text.len()), "{profile} on {function}");
    }

    /// Moves a vGPU for somebody else, before a VM has it.
    pub fn place(&self, at: &str, placement: u32) {
        let text = format!("{placement}\n");
        let mut state = self.state();
        let written = state.write_vgpu(at, Attribute::PlacementId, text.as_bytes());
        assert_eq!(written, Ok(text.len()), "{at} at {placement}");
    }

    /// Frees a function for somebody else.
    pub fn release(&self, function: &str) {
        let written = self
            .state()
            .write_vgpu(function, Attribute::CurrentVgpuType, b"0\n");
        assert_eq!(written, Ok(2), "{function}");
    }

    /// Changes a GPU in ways for which there is no file: modes, services, time,
    /// functions off and on.
    pub fn with_gpu<T>(&self, gpu: &str, act: impl FnOnce(&mut model::Gpu) -> T) -> T {
        let mut state = self.state();
        let (index, _) = state.card(gpu).unwrap();
        let result = act(&mut state.cards[index].twin);
        state.forget_mdevs();
        result
    }

    /// NVIDIA's `sriov-manage` with these arguments: `ok`, or what it says before it fails.
    pub fn sriov_manage(&self, arguments: &str) -> String {
        let Some((flag @ ("-e" | "-d"), gpu)) = arguments.split_once(' ') else {
            return format!("usage: sriov-manage -e|-d GPU, not {arguments}");
        };
        match self.with_gpu(gpu, |twin| twin.set_vfs(flag == "-e")) {
            Ok(()) => "ok".to_owned(),
            Err(Errno::EBUSY) => format!("Cannot obtain unbindLock for {gpu}"),
            Err(errno) => errno.desc().to_owned(),
        }
    }

    /// The device nodes of a virtual function: its group's, and its own.
    pub fn nodes(&self, function: &str) -> [String; 2] {
        if let Some(nodes) = self.nodes_of_plain(function) {
            return nodes;
        }
        let state = self.state();
        let Some((index, Parent::Vf(number))) = state.card(function) else {
            panic!("{function} is not a virtual function");
        };
        let group = state.cards[index].first_group + number;
        [
            format!("/dev/vfio/{group}"),
            format!("/dev/vfio/devices/vfio{group}"),
        ]
    }

    /// A process opens the VFIO device of a function or mediated device. Devices
    /// without a table are never refused.
    ///
    /// # Errors
    /// The driver's errno.
    pub fn open(&self, at: &str, vm: model::Vm) -> Result<(), Errno> {
        if let Some(opened) = self.open_function(at, vm.pid) {
            return opened;
        }
        let mut state = self.state();
        let Some((index, vgpu_handle)) = state.vgpu_handle(at) else {
            let known = state.mdevs.contains_key(at);
            return if known { Ok(()) } else { Err(Errno::ENOENT) };
        };
        let pid = vm.pid;
        state.tree = None;
        state.cards[index].twin.open(&vgpu_handle, vm)?;
        state.opened.push((pid, at.to_owned()));
        Ok(())
    }

    /// The guest loads NVIDIA's driver.
    pub fn set_guest(&self, at: &str, guest: &str) {
        let mut state = self.state();
        let (index, vgpu_handle) = state.vgpu_handle(at).unwrap();
        let twin = &mut state.cards[index].twin;
        twin.set_guest(&vgpu_handle, Some(guest.parse().unwrap()))
            .unwrap();
    }

    /// The process ends and closes everything that it had open; `killed`: by SIGKILL.
    pub fn close_all(&self, pid: u32, killed: bool) {
        let mut state = self.state();
        let (ended, others) = std::mem::take(&mut state.opened)
            .into_iter()
            .partition::<Vec<_>, _>(|(owner, _)| *owner == pid);
        state.opened = others;
        state.close_groups(pid);
        state.tree = None;
        for (_, at) in ended {
            if let Some((index, vgpu_handle)) = state.vgpu_handle(&at) {
                state.cards[index].twin.close(&vgpu_handle, killed).unwrap();
            }
        }
        self.closed.notify_all();
    }
}
