//! The kernel's mdev core with a driver like NVIDIA's behind it, in memory.
//! Sources: kernel `drivers/vfio/mdev/mdev_{core,sysfs}.c` (6.12) for what the
//! core checks and in which order, `fs/kernfs/{dir,file}.c` for what sysfs
//! refuses; the driver's rules are those of NVIDIA's `kernel_vgpu_mgr.c`: a board
//! holds types of one framebuffer size at a time, a virtual function holds one.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use nix::errno::Errno;
use virt_vgpu::{
    apply::Attributes,
    device::{Sysfs, step},
};

use super::{
    machine::{Function, Machine, Type},
    tree::{Entry, OnWrite, Tree},
};

mod files;

/// The machine; clones are the same one.
#[derive(Debug, Clone)]
pub struct Kernel(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    machine: Machine,
    mdevs: BTreeMap<String, Mdev>,
    next_group: u32,
    faults: Vec<Fault>,
    writes: Vec<Write>,
    /// Made anew after each change.
    tree: Option<Arc<Tree>>,
}

/// A mediated device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mdev {
    pub parent: String,
    pub type_id: String,
    pub iommu_group: u32,
    /// Whether its driver has done with making it. Until then it shows, without
    /// its type's link, and takes no removal.
    pub whole: bool,
    /// Whether it still has its `remove`: a write before it is whole costs it.
    pub removable: bool,
    /// What NVIDIA's driver was told beyond the type.
    pub parameters: String,
}

/// A write to an attribute that does something, and what it came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    pub what: OnWrite,
    pub value: String,
    pub result: Result<usize, Errno>,
}

/// Which writes are to go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Create,
    Remove,
    Parameters,
}

/// A driver that misbehaves.
#[derive(Debug, Clone)]
pub struct Fault {
    pub target: Target,
    /// Only this parent, if one is named.
    pub parent: Option<String>,
    /// Passed before the driver does anything.
    pub delay: Duration,
    /// What it answers instead of doing it.
    pub errno: Option<Errno>,
    /// How many more writes are concerned.
    pub times: usize,
}

impl Fault {
    /// Every such write fails.
    pub fn errno(target: Target, errno: Errno) -> Self {
        Self {
            target,
            parent: None,
            delay: Duration::ZERO,
            errno: Some(errno),
            times: usize::MAX,
        }
    }

    /// Every such write works, but late.
    pub fn delay(target: Target, delay: Duration) -> Self {
        Self {
            delay,
            errno: None,
            ..Self::errno(target, Errno::UnknownErrno)
        }
    }

    pub fn on(self, parent: &str) -> Self {
        let parent = Some(parent.to_owned());
        Self { parent, ..self }
    }

    pub fn times(self, times: usize) -> Self {
        Self { times, ..self }
    }
}

impl Kernel {
    /// # Panics
    /// When the machine's own mediated devices do not fit on it.
    pub fn new(mut machine: Machine) -> Self {
        let existing = std::mem::take(&mut machine.mdevs);
        let state = State {
            machine,
            mdevs: BTreeMap::new(),
            next_group: 100,
            faults: Vec::new(),
            writes: Vec::new(),
            tree: None,
        };
        let kernel = Self(Arc::new(Mutex::new(state)));
        for mdev in existing {
            kernel.make(&mdev.uuid, &mdev.parent, &mdev.type_id);
        }
        kernel
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A test that panics elsewhere must not hide its own message.
        self.0.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// Makes a mediated device as somebody else would.
    pub fn make(&self, uuid: &str, parent: &str, type_id: &str) {
        let made = self.state().create(parent, type_id, uuid.as_bytes());
        assert_eq!(made, Ok(uuid.len()), "{type_id} {uuid} on {parent}");
    }

    /// All mediated devices by UUID.
    pub fn mdevs(&self) -> BTreeMap<String, Mdev> {
        self.state().mdevs.clone()
    }

    /// Every write so far that reached the mdev core.
    pub fn writes(&self) -> Vec<Write> {
        self.state().writes.clone()
    }

    pub fn inject(&self, fault: Fault) {
        self.state().faults.push(fault);
    }

    /// The drivers behave again.
    pub fn heal(&self) {
        self.state().faults.clear();
    }

    /// Unbinds a function's driver: its mediated devices go with it
    /// (`mdev_unregister_parent`).
    pub fn remove_parent(&self, address: &str) {
        let mut state = self.state();
        state.machine.functions.retain(|f| f.address != address);
        state.mdevs.retain(|_, mdev| mdev.parent != address);
        state.tree = None;
    }

    /// Takes a type from every parent, as a driver update may.
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

    /// One `write` to what an attribute leads to; sleeps for as long as an
    /// injected fault says, without keeping others from anything.
    pub fn perform(&self, what: &OnWrite, value: &[u8]) -> Result<usize, Errno> {
        let fault = self.state().next_fault(what);
        let (delay, errno) = fault.unwrap_or((Duration::ZERO, None));
        match (errno, what) {
            (None, OnWrite::Create { parent, type_id }) if !delay.is_zero() => {
                return self.create_slowly(what, (parent, type_id, value), delay);
            }
            _ => {}
        }
        std::thread::sleep(delay);
        let mut state = self.state();
        let result = match (errno, what) {
            (Some(errno), _) => Err(errno),
            (None, OnWrite::Create { parent, type_id }) => state.create(parent, type_id, value),
            (None, OnWrite::Remove { uuid }) => state.remove(uuid, value),
            (None, OnWrite::Parameters { uuid }) => state.set_parameters(uuid, value),
        };
        state.writes.push(Write {
            what: what.clone(),
            value: String::from_utf8_lossy(value).into_owned(),
            result,
        });
        result
    }
}

impl Kernel {
    /// `mdev_device_create` with a driver that takes its time: the device is in
    /// the core's list and in sysfs before its driver's `probe` has returned.
    fn create_slowly(
        &self,
        what: &OnWrite,
        (parent, type_id, value): (&str, &str, &[u8]),
        delay: Duration,
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
            std::thread::sleep(delay);
            set_whole(true);
        }
        self.state().writes.push(Write {
            what: what.clone(),
            value: String::from_utf8_lossy(value).into_owned(),
            result,
        });
        result
    }
}

impl State {
    fn concerns(&self, fault: &Fault, what: &OnWrite) -> bool {
        let (target, parent) = match what {
            OnWrite::Create { parent, .. } => (Target::Create, Some(parent)),
            OnWrite::Remove { uuid } => (Target::Remove, self.parent_of(uuid)),
            OnWrite::Parameters { uuid } => (Target::Parameters, self.parent_of(uuid)),
        };
        fault.times > 0
            && fault.target == target
            && (fault.parent.is_none() || fault.parent.as_ref() == parent)
    }

    fn parent_of(&self, uuid: &str) -> Option<&String> {
        self.mdevs.get(uuid).map(|mdev| &mdev.parent)
    }

    fn next_fault(&mut self, what: &OnWrite) -> Option<(Duration, Option<Errno>)> {
        let position = { self.faults.iter() }.position(|fault| self.concerns(fault, what))?;
        let fault = &mut self.faults[position];
        fault.times -= 1;
        Some((fault.delay, fault.errno))
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
        // The parent went while the write was on its way.
        if self.function(parent).is_none() {
            return Err(Errno::ENODEV);
        }
        // NVIDIA's driver has one answer for everything that its resource
        // manager refuses.
        if self.available(parent, type_id) == 0 {
            return Err(Errno::EIO);
        }
        let mdev = Mdev {
            parent: parent.to_owned(),
            type_id: type_id.to_owned(),
            iommu_group: self.next_group,
            whole: true,
            removable: true,
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
    fn remove(&mut self, uuid: &str, value: &[u8]) -> Result<usize, Errno> {
        let text = std::str::from_utf8(value).map_err(|_| Errno::EINVAL)?;
        let number = kstrtoul(text).ok_or(Errno::EINVAL)?;
        if number != 0 {
            // The file is gone with its device, and an open one answers so.
            let mdev = self.mdevs.get_mut(uuid).ok_or(Errno::ENODEV)?;
            self.tree = None;
            if !mdev.whole {
                mdev.removable = false;
                return Err(Errno::EAGAIN);
            }
            self.mdevs.remove(uuid);
        }
        Ok(value.len())
    }

    /// The function of that address: physical or virtual, and in the latter case
    /// the physical one behind it.
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

impl Sysfs for Kernel {
    fn read(&self, path: &str) -> io::Result<String> {
        match self.entry(path, true)? {
            Entry::Attribute(attribute) => {
                let text = attribute.text.ok_or(Errno::EACCES)?;
                Ok(text.trim_end().to_owned())
            }
            Entry::Directory(_) => Err(Errno::EISDIR.into()),
            Entry::Link(_) => Err(Errno::ELOOP.into()),
        }
    }

    fn read_link(&self, path: &str) -> io::Result<String> {
        match self.entry(path, false)? {
            Entry::Link(target) => Ok(target),
            Entry::Directory(_) | Entry::Attribute(_) => Err(Errno::EINVAL.into()),
        }
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        match self.entry(path, true)? {
            Entry::Directory(names) => Ok(names.into_iter().collect()),
            Entry::Attribute(_) | Entry::Link(_) => Err(Errno::ENOTDIR.into()),
        }
    }

    fn exists(&self, path: &str) -> bool {
        self.entry(path, false).is_ok()
    }
}

impl Attributes for Kernel {
    fn write(
        &self,
        attribute: &step::Attribute,
        _undo: Option<&step::Attribute>,
    ) -> io::Result<()> {
        match self.entry(&attribute.path, true)? {
            Entry::Attribute(found) => {
                let what = found.on_write.ok_or(Errno::EACCES)?;
                self.perform(&what, attribute.value.as_bytes())?;
                Ok(())
            }
            Entry::Directory(_) | Entry::Link(_) => Err(Errno::EISDIR.into()),
        }
    }
}
