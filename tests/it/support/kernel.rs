//! The kernel's mdev core with a driver like NVIDIA's, in memory. Sources: kernel
//! `drivers/vfio/mdev/mdev_{core,sysfs}.c` (6.12) for the core's checks and their
//! order, `fs/kernfs/{dir,file}.c` for sysfs's refusals; the driver's rules are those
//! of NVIDIA's `kernel_vgpu_mgr.c`: a board holds types of one framebuffer size at a
//! time, a virtual function holds one device.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::Duration,
};

use lab_nvidia::model::{Attribute, VgpuHandle};
use nix::errno::Errno;
use virt_vgpu::{
    apply::Acts,
    device::{
        Sysfs,
        nvml::{Answer, Failure, Question},
        step,
    },
};

use super::{
    machine::{Function, Machine, Type},
    tree::{Entry, OnWrite, Tree},
};

mod card;
mod card_files;
mod fault;
mod files;
mod nvml;
mod pci;

pub use card::Vgpu;
pub use fault::{Fault, Meanwhile, Target};
pub use pci::Bound;

/// The machine; clones refer to the same machine.
#[derive(Debug, Clone)]
pub struct Kernel {
    state: Arc<Mutex<State>>,
    /// Signalled when a process has closed something, or a driver has finished.
    closed: Arc<Condvar>,
}

#[derive(Debug)]
struct State {
    machine: Machine,
    cards: Vec<card::Card>,
    pci: pci::Bus,
    mdevs: BTreeMap<String, Mdev>,
    /// Processes with the functions and mediated devices that they have open.
    opened: Vec<(u32, String)>,
    next_group: u32,
    /// Parents and virtual functions whose devices are unknown to VFIO.
    without_vfio: Vec<String>,
    faults: Vec<Fault>,
    /// How often the drivers were told to work again; what hangs, hangs until then.
    healed: usize,
    writes: Vec<Write>,
    /// How often NVML was asked about guests.
    guests_asked: usize,
    /// Writes that have waited for others to be in progress too.
    together: usize,
    under_way: usize,
    most_at_once: usize,
    /// Written again after each change.
    tree: Option<Arc<Tree>>,
}

/// A mediated device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mdev {
    pub parent: String,
    pub type_id: String,
    pub iommu_group: u32,
    /// Whether its driver has finished making it. Until then it is visible, without its
    /// type's link, and refuses to be removed.
    pub whole: bool,
    /// Whether it still has its `remove`: a write before it is complete removes the
    /// attribute.
    pub removable: bool,
    /// It was removed and waits for the process that has it open: only its directory is
    /// left.
    pub leaving: bool,
    /// The parameters that were written to NVIDIA's driver.
    pub parameters: String,
}

/// A write to an attribute that does something, and its result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    pub what: OnWrite,
    pub value: String,
    pub result: Result<usize, Errno>,
}

impl Kernel {
    /// # Panics
    /// When the machine's own vGPUs do not fit on it.
    pub fn new(mut machine: Machine) -> Self {
        let existing = std::mem::take(&mut machine.mdevs);
        let typed = std::mem::take(&mut machine.vgpus);
        let gpus = machine.gpus.iter().enumerate();
        let state = State {
            cards: gpus
                .map(|(number, gpu)| card::Card::new(gpu, number))
                .collect(),
            pci: pci::Bus::new(&machine),
            machine,
            mdevs: BTreeMap::new(),
            opened: Vec::new(),
            next_group: 100,
            without_vfio: Vec::new(),
            faults: Vec::new(),
            healed: 0,
            writes: Vec::new(),
            guests_asked: 0,
            together: 0,
            under_way: 0,
            most_at_once: 0,
            tree: None,
        };
        let kernel = Self {
            state: Arc::new(Mutex::new(state)),
            closed: Arc::default(),
        };
        for mdev in existing {
            kernel.make(&mdev.uuid, &mdev.parent, &mdev.type_id);
        }
        for vgpu in typed {
            kernel.set_type(&vgpu.function, &vgpu.profile);
            if let Some(placement) = vgpu.placement {
                kernel.place(&vgpu.function, placement);
            }
        }
        kernel
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A test that panics elsewhere must not hide its own message.
        self.state
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
    }

    /// Makes a mediated device for somebody else.
    pub fn make(&self, uuid: &str, parent: &str, type_id: &str) {
        let made = self.state().create(parent, type_id, uuid.as_bytes());
        assert_eq!(made, Ok(uuid.len()), "{type_id} {uuid} on {parent}");
    }

    /// All mediated devices by UUID.
    pub fn mdevs(&self) -> BTreeMap<String, Mdev> {
        self.state().mdevs.clone()
    }

    /// Every write so far that reached the mdev core or a driver.
    pub fn writes(&self) -> Vec<Write> {
        self.state().writes.clone()
    }

    pub fn inject(&self, fault: Fault) {
        self.state().faults.push(fault);
    }

    /// Devices on that parent, or of that function, become unknown to VFIO.
    pub fn lose_vfio(&self, parent: &str) {
        let mut state = self.state();
        state.without_vfio.push(parent.to_owned());
        state.tree = None;
    }

    /// The drivers work again.
    pub fn heal(&self) {
        let mut state = self.state();
        state.faults.clear();
        state.healed += 1;
        self.closed.notify_all();
    }

    /// A function disappears from the bus, a physical one with its virtual ones, and
    /// their mediated devices with them (`mdev_unregister_parent`).
    pub fn remove_parent(&self, address: &str) {
        let mut state = self.state();
        state.machine.functions.retain(|f| f.address != address);
        state.pci.remove(address);
        state.remove_from_cards(address);
        state.forget_mdevs();
        self.closed.notify_all();
    }

    /// Removes a type from every parent, as a driver update may.
    pub fn remove_type(&self, type_id: &str) {
        let mut state = self.state();
        for function in &mut state.machine.functions {
            function.types.retain(|id| id != type_id);
        }
        state.tree = None;
    }

    /// The files as they are now.
    pub fn tree(&self) -> Arc<Tree> {
        let mut state = self.state();
        if state.tree.is_none() {
            state.tree = Some(Arc::new(state.files()));
        }
        state.tree.clone().unwrap_or_default()
    }

    /// One `write` to the target of an attribute; sleeps as long as an injected fault
    /// says, without blocking others.
    pub fn perform(&self, what: &OnWrite, value: &[u8]) -> Result<usize, Errno> {
        {
            let mut state = self.state();
            state.under_way += 1;
            state.most_at_once = state.most_at_once.max(state.under_way);
        }
        let result = self.perform_one(what, value);
        self.state().under_way -= 1;
        result
    }

    fn perform_one(&self, what: &OnWrite, value: &[u8]) -> Result<usize, Errno> {
        if pci::is_of_bus(what) {
            let result = self.perform_on_bus(what, value);
            self.note(what, value, result);
            return result;
        }
        let fault = self.state().next_fault(what, value);
        let errno = fault.as_ref().and_then(|fault| fault.errno);
        let has = |what: fn(&Fault) -> bool| fault.as_ref().is_some_and(what);
        let works = || self.works(fault.as_ref());
        let result = match (errno, what) {
            (Some(errno), _) => {
                works();
                if has(|fault| fault.does) {
                    self.state().carry_out(what, value)?;
                }
                Err(errno)
            }
            _ if has(|fault| fault.pretends) => Ok(value.len()),
            (None, OnWrite::Create { parent, type_id }) if has(Fault::takes_time) => {
                self.create_slowly((parent, type_id, value), works)
            }
            (None, OnWrite::Remove { uuid }) => {
                works();
                self.remove(uuid, value)
            }
            (None, _) => {
                works();
                self.state().carry_out(what, value)
            }
        };
        self.note(what, value, result);
        result
    }

    fn note(&self, what: &OnWrite, value: &[u8], result: Result<usize, Errno>) {
        self.state().writes.push(Write {
            what: what.clone(),
            value: String::from_utf8_lossy(value).into_owned(),
            result,
        });
    }

    /// Writes on which a driver is working.
    pub fn under_way(&self) -> usize {
        self.state().under_way
    }

    /// The highest number of writes at the same time.
    pub fn most_at_once(&self) -> usize {
        self.state().most_at_once
    }

    /// The time that the driver takes.
    fn works(&self, fault: Option<&Fault>) {
        let Some(fault) = fault else { return };
        std::thread::sleep(fault.delay);
        self.wait_for_others(fault.together);
        if fault.hangs {
            let state = self.state();
            let healed = state.healed;
            let hangs = |state: &mut State| state.healed == healed;
            let waited = self.closed.wait_while(state, hangs);
            drop(waited.unwrap_or_else(|poison| poison.into_inner()));
        }
    }

    /// Waits until that many writes are here at once.
    fn wait_for_others(&self, writes: usize) {
        /// Longer than anybody waits for a driver.
        const LONGEST: Duration = Duration::from_secs(60);
        if writes == 0 {
            return;
        }
        let mut state = self.state();
        state.together += 1;
        self.closed.notify_all();
        let is_alone = |state: &mut State| state.together < writes;
        let met = self.closed.wait_timeout_while(state, LONGEST, is_alone);
        drop(met.unwrap_or_else(|poison| poison.into_inner()));
    }

    /// `mdev_device_create` with a slow driver: the device is in the core's list and in
    /// sysfs before its driver's `probe` has returned.
    fn create_slowly(
        &self,
        (parent, type_id, value): (&str, &str, &[u8]),
        works: impl FnOnce(),
    ) -> Result<usize, Errno> {
        let before: Vec<String> = self.state().mdevs.keys().cloned().collect();
        let result = self.state().create(parent, type_id, value);
        let is_new = |uuid: &String| !before.contains(uuid);
        let set_whole = |whole: bool| {
            let mut state = self.state();
            let new = state.mdevs.iter_mut().filter(|(uuid, _)| is_new(uuid));
            new.for_each(|(_, mdev)| mdev.whole = whole);
            state.tree = None;
        };
        if result.is_ok() {
            set_whole(false);
            works();
            set_whole(true);
        }
        result
    }

    /// `mdev_device_remove` waits until no process has the device open.
    fn remove(&self, uuid: &str, value: &[u8]) -> Result<usize, Errno> {
        let mut state = self.state();
        while state.removal(value)? && state.is_open(uuid) {
            let mdev = state.mdevs.get_mut(uuid).ok_or(Errno::ENODEV)?;
            mdev.leaving = true;
            state.tree = None;
            let woken = self.closed.wait(state);
            state = woken.unwrap_or_else(|poison| poison.into_inner());
        }
        state.remove(uuid, value)
    }
}

impl State {
    fn carry_out(&mut self, what: &OnWrite, value: &[u8]) -> Result<usize, Errno> {
        match what {
            OnWrite::Create { parent, type_id } => self.create(parent, type_id, value),
            OnWrite::Remove { uuid } => self.remove(uuid, value),
            OnWrite::Parameters { uuid } if self.vgpu_handle(uuid).is_none() => {
                self.set_parameters(uuid, value)
            }
            OnWrite::Parameters { uuid } => self.write_vgpu(uuid, Attribute::VgpuParams, value),
            OnWrite::Vgpu { at, attribute } => self.write_vgpu(at, *attribute, value),
            OnWrite::Unbind { .. }
            | OnWrite::Bind { .. }
            | OnWrite::Probe
            | OnWrite::Override { .. } => panic!("{what:?} is carried out by the bus"),
        }
    }

    /// `create_store` and `mdev_device_create`.
    fn create(&mut self, parent: &str, type_id: &str, value: &[u8]) -> Result<usize, Errno> {
        const UUID_LENGTH: usize = 36;
        if value.len() != UUID_LENGTH && value.len() != UUID_LENGTH + 1 {
            return Err(Errno::EINVAL);
        }
        // `guid_parse` looks at the first 36 bytes and no further.
        let uuid = std::str::from_utf8(&value[..UUID_LENGTH])
            .ok()
            .filter(|text| is_uuid(text));
        let uuid = uuid.ok_or(Errno::EINVAL)?.to_ascii_lowercase();
        if self.mdevs.contains_key(&uuid) {
            return Err(Errno::EEXIST);
        }
        // The parent disappeared during the write.
        if self.board_of(parent).is_none() {
            return Err(Errno::ENODEV);
        }
        if let Some((index, at)) = self.card(parent) {
            let kind = self.mdev_type(index, type_id).ok_or(Errno::ENODEV)?;
            let twin = &mut self.cards[index].twin;
            twin.mdev_create(at, kind.id, &uuid)?;
        } else if self.available(parent, type_id) == 0 {
            // NVIDIA's driver has one answer for everything that its resource manager
            // refuses.
            return Err(Errno::EIO);
        }
        let mdev = Mdev {
            parent: parent.to_owned(),
            type_id: type_id.to_owned(),
            iommu_group: self.next_group,
            whole: true,
            removable: true,
            leaving: false,
            parameters: String::new(),
        };
        self.next_group += 1;
        self.mdevs.insert(uuid, mdev);
        self.tree = None;
        Ok(value.len())
    }

    /// NVIDIA's driver takes the last byte for a newline, whatever it is.
    fn set_parameters(&mut self, uuid: &str, value: &[u8]) -> Result<usize, Errno> {
        const MOST: usize = 1024;
        let mdev = self.mdevs.get_mut(uuid).ok_or(Errno::ENXIO)?;
        if value.len() > MOST {
            return Err(Errno::E2BIG);
        }
        let kept = value.split_last().map_or(value, |(_, kept)| kept);
        mdev.parameters = String::from_utf8_lossy(kept).into_owned();
        self.tree = None;
        Ok(value.len())
    }

    /// `remove_store`: a number other than 0 removes the device, 0 does nothing.
    fn removal(&self, value: &[u8]) -> Result<bool, Errno> {
        let text = std::str::from_utf8(value).map_err(|_| Errno::EINVAL)?;
        Ok(kstrtoul(text).ok_or(Errno::EINVAL)? != 0)
    }

    fn remove(&mut self, uuid: &str, value: &[u8]) -> Result<usize, Errno> {
        if self.removal(value)? {
            // The file is gone with its device, and an open one gives this answer.
            let vgpu_handle = self.vgpu_handle(uuid);
            let mdev = self.mdevs.get_mut(uuid).ok_or(Errno::ENODEV)?;
            self.tree = None;
            if !mdev.whole {
                mdev.removable = false;
                return Err(Errno::EAGAIN);
            }
            if let Some((index, VgpuHandle::Mdev(uuid))) = vgpu_handle {
                self.cards[index].twin.mdev_remove(&uuid, "1")?;
            }
            self.mdevs.remove(uuid);
        }
        Ok(value.len())
    }

    /// The function of that address: the physical function, and whether the address is
    /// that of a virtual one.
    fn function(&self, address: &str) -> Option<(&Function, bool)> {
        let functions = &self.machine.functions;
        if let Some(function) = functions.iter().find(|f| f.address == address) {
            return Some((function, false));
        }
        let physical = functions
            .iter()
            .find(|f| f.virtual_functions.iter().any(|vf| vf == address))?;
        Some((physical, true))
    }

    fn type_of(&self, id: &str) -> Option<&Type> {
        self.machine.types.iter().find(|known| known.id == id)
    }

    /// `get_available` of the driver.
    fn available(&self, parent: &str, type_id: &str) -> usize {
        let (Some((function, is_virtual)), Some(wanted)) =
            (self.function(parent), self.type_of(type_id))
        else {
            return 0;
        };
        let on_board: Vec<&Mdev> = self
            .mdevs
            .values()
            .filter(|mdev| {
                self.function(&mdev.parent)
                    .is_some_and(|(board, _)| board.address == function.address)
            })
            .collect();
        let other_size = on_board.iter().any(|mdev| {
            self.type_of(&mdev.type_id)
                .is_none_or(|other| other.framebuffer != wanted.framebuffer)
        });
        if other_size {
            return 0;
        }
        let left = wanted.max.saturating_sub(on_board.len());
        if !is_virtual {
            return left;
        }
        let used = on_board.iter().any(|mdev| mdev.parent == parent);
        if used { 0 } else { left.min(1) }
    }
}

fn is_uuid(text: &str) -> bool {
    text.bytes().enumerate().all(|(place, byte)| match place {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    })
}

/// `kstrtoul(text, 0, …)`: one sign `+`, a base by prefix, one newline behind.
fn kstrtoul(text: &str) -> Option<u64> {
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_prefix('+').unwrap_or(text);
    let (digits, base) = match text.as_bytes() {
        [b'0', b'x' | b'X', ..] => (&text[2..], 16),
        [b'0', _, ..] => (&text[1..], 8),
        _ => (text, 10),
    };
    let good = digits.starts_with(|c: char| c.is_digit(base));
    good.then(|| u64::from_str_radix(digits, base).ok())
        .flatten()
}

/// Paths of the host without `/sys` in front.
fn below_sys(path: &str) -> Result<&str, Errno> {
    path.strip_prefix("/sys").ok_or(Errno::ENOENT)
}

impl Kernel {
    fn entry(&self, path: &str, follow: bool) -> io::Result<Entry> {
        let tree = self.tree();
        let path = tree.resolve(below_sys(path)?, follow)?;
        tree.get(&path).cloned().ok_or_else(|| Errno::ENOENT.into())
    }
}

impl Kernel {
    /// An attribute's text as the kernel gives it, with its newline.
    ///
    /// # Errors
    /// The kernel's errno.
    pub fn text(&self, path: &str) -> io::Result<String> {
        self.wait_for_lock_of(path);
        match self.entry(path, true)? {
            Entry::Attribute(attribute) => Ok(attribute.text.ok_or(Errno::EACCES)??),
            Entry::Binary(bytes) => {
                let text = String::from_utf8(bytes);
                text.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
            }
            Entry::Directory(_) => Err(Errno::EISDIR.into()),
            Entry::Link(_) => Err(Errno::ELOOP.into()),
        }
    }
}

impl Sysfs for Kernel {
    fn read(&self, path: &str) -> io::Result<String> {
        Ok(self.text(path)?.trim_end().to_owned())
    }

    fn read_bytes(&self, path: &str, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = match self.entry(path, true)? {
            Entry::Binary(bytes) => bytes,
            _ => self.text(path)?.into_bytes(),
        };
        bytes.truncate(length);
        Ok(bytes)
    }

    fn is_group_open(&self, node: &str) -> bool {
        let group = node.strip_prefix("/dev/vfio").unwrap_or_default();
        self.may_open_group(group) == Err(Errno::EBUSY)
    }

    fn read_link(&self, path: &str) -> io::Result<String> {
        match self.entry(path, false)? {
            Entry::Link(target) => Ok(target),
            Entry::Directory(_) | Entry::Attribute(_) | Entry::Binary(_) => {
                Err(Errno::EINVAL.into())
            }
        }
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        match self.entry(path, true)? {
            Entry::Directory(names) => Ok(names.into_iter().collect()),
            Entry::Attribute(_) | Entry::Link(_) | Entry::Binary(_) => Err(Errno::ENOTDIR.into()),
        }
    }

    fn exists(&self, path: &str) -> bool {
        self.entry(path, false).is_ok()
    }
}

impl Acts for Kernel {
    fn write(
        &self,
        attribute: &step::Attribute,
        _undo: Option<&step::Attribute>,
    ) -> io::Result<()> {
        match self.entry(&attribute.path, true)? {
            Entry::Attribute(found) => {
                let what = found.on_write.ok_or(Errno::EACCES)?;
                // The file is opened, but nothing reaches the driver.
                if attribute.value.is_empty() {
                    return Ok(());
                }
                self.perform(&what, attribute.value.as_bytes())?;
                Ok(())
            }
            Entry::Directory(_) | Entry::Link(_) => Err(Errno::EISDIR.into()),
            Entry::Binary(_) => Err(Errno::EACCES.into()),
        }
    }

    fn change_gpu(&self, change: &Question, _undo: Option<&Question>) -> Result<(), Failure> {
        match self.answer(change) {
            Answer::Done => Ok(()),
            Answer::Failed(failure) => Err(failure),
            Answer::Gpus(_) | Answer::Guests(_) => panic!("{change:?} changes nothing"),
        }
    }
}
