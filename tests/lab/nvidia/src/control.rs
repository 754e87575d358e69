//! Client of the kernel module's `/dev/nvidiactl`: commands as text, and the state of a
//! GPU read from the answer. The commands are in `README.md`; their meaning for callers
//! of NVML is not known here.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    path::Path,
};

use nix::errno::Errno;

use crate::model::{Guest, Scheduler};

/// Where the kernel module listens.
pub const PATH: &str = "/dev/nvidiactl";

/// Something that carries out commands: the device, or a test's list of answers.
pub trait Control {
    /// Carries out one command and returns the text of its answer.
    ///
    /// # Errors
    /// The status with which the module refused it.
    fn command(&mut self, line: &str) -> Result<String, Errno>;
}

/// The open device. While it is open, `sriov-manage` does not get its lock.
#[derive(Debug)]
pub struct Device(File);

impl Device {
    /// Opens the device at `path`, which is [`PATH`] except in tests.
    ///
    /// # Errors
    /// The errno of `open`; `ENOENT` when the module is not loaded.
    pub fn open(path: &Path) -> Result<Self, Errno> {
        let file = OpenOptions::new().read(true).write(true).open(path);
        Ok(Self(file.map_err(|error| errno(&error))?))
    }
}

impl Control for Device {
    fn command(&mut self, line: &str) -> Result<String, Errno> {
        // One write is one command, so a short one must not be continued.
        let written = self.0.write(line.as_bytes());
        if written.map_err(|error| errno(&error))? != line.len() {
            return Err(Errno::EIO);
        }
        let mut answer = Vec::new();
        self.0
            .read_to_end(&mut answer)
            .map_err(|error| errno(&error))?;
        String::from_utf8(answer).map_err(|_| Errno::EILSEQ)
    }
}

pub(crate) fn errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// A line of `gpus`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// PCI address as in sysfs.
    pub address: String,
    /// Its table.
    pub model: String,
}

/// The answer to `gpu ADDRESS`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// Its table.
    pub model: String,
    /// `legacy-mdev`, `sriov-mdev` or `vendor-vfio`.
    pub framework: String,
    /// NUMA node; -1 for none.
    pub node: i32,
    /// How many VFs there are now.
    pub vfs: u32,
    /// `nvidia-vgpud` has loaded the types.
    pub loaded: bool,
    /// MIG mode in effect.
    pub mig: bool,
    /// MIG mode after the next bind.
    pub mig_pending: bool,
    /// Heterogeneous mode.
    pub hetero: bool,
    /// Scheduler.
    pub scheduler: Scheduler,
    /// GPU instances.
    pub gis: Vec<Gi>,
    /// Compute instances.
    pub cis: Vec<Ci>,
    /// vGPUs, with or without a running VM.
    pub vgpus: Vec<Vgpu>,
}

/// A GPU instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gi {
    /// From the range of its size; 0 is the whole GPU.
    pub id: u32,
    /// Profile id.
    pub profile: u32,
    /// First memory slot.
    pub start: u32,
    /// Memory slots.
    pub size: u32,
    /// Its own heterogeneous mode.
    pub hetero: bool,
    /// Its own scheduler; the default where it has none.
    pub scheduler: Scheduler,
}

/// A compute instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ci {
    /// The GPU instance it is in.
    pub gi: u32,
    /// From 0 within it.
    pub id: u32,
    /// Compute slices.
    pub slices: u32,
}

/// A vGPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vgpu {
    /// NVML's instance id.
    pub id: u32,
    /// Type id.
    pub type_id: u32,
    /// Placement id, where it is shown.
    pub placement: Option<u32>,
    /// GPU instance it is in.
    pub gi: Option<u32>,
    /// Address of the VF, or of the PF with legacy mdev.
    pub place: String,
    /// UUID of the mdev.
    pub mdev: Option<String>,
    /// Process that has it open.
    pub opener: Option<u32>,
    /// The VM's UUID.
    pub vm_uuid: Option<String>,
    /// The VM's name.
    pub vm_name: Option<String>,
    /// NVIDIA's driver in the guest; None: it is not loaded.
    pub guest: Option<Guest>,
}

/// All GPUs, by address.
///
/// # Errors
/// The module's status, or `EBADMSG` for an answer of another form.
pub fn gpus(control: &mut dyn Control) -> Result<Vec<Listed>, Errno> {
    let answer = control.command("gpus")?;
    let lines = answer.lines().map(|line| {
        let (address, model) = line.split_once(' ').ok_or(Errno::EBADMSG)?;
        Ok(Listed {
            address: address.to_owned(),
            model: model.to_owned(),
        })
    });
    lines.collect()
}

/// The state of one GPU.
///
/// # Errors
/// The module's status, or `EBADMSG` for an answer of another form.
pub fn gpu(control: &mut dyn Control, address: &str) -> Result<State, Errno> {
    let answer = control.command(&format!("gpu {address}"))?;
    parse(&answer).ok_or(Errno::EBADMSG)
}

/// Lines of one or more numbers, as `creatable` and the placements answer.
///
/// # Errors
/// The module's status, or `EBADMSG` for an answer of another form.
pub fn numbers<const N: usize>(
    control: &mut dyn Control,
    command: &str,
) -> Result<Vec<[u32; N]>, Errno> {
    let answer = control.command(command)?;
    let lines = answer.lines().map(numbers_of);
    lines.collect::<Option<_>>().ok_or(Errno::EBADMSG)
}

/// The number with which a command answers.
///
/// # Errors
/// The module's status, or `EBADMSG` for an answer of another form.
pub fn number(control: &mut dyn Control, command: &str) -> Result<u32, Errno> {
    let answer = control.command(command)?;
    answer.trim().parse().map_err(|_| Errno::EBADMSG)
}

fn numbers_of<const N: usize>(words: &str) -> Option<[u32; N]> {
    let words = words.split_whitespace().map(|word| word.parse().ok());
    words.collect::<Option<Vec<u32>>>()?.try_into().ok()
}

fn switch(word: &str) -> Option<bool> {
    match word {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    }
}

fn parse(text: &str) -> Option<State> {
    let mut state = State {
        node: -1,
        ..State::default()
    };
    for line in text.lines() {
        let (keyword, words) = line.split_once(' ')?;
        match keyword {
            "model" => words.clone_into(&mut state.model),
            "framework" => words.clone_into(&mut state.framework),
            "node" => state.node = words.parse().ok()?,
            "vfs" => state.vfs = words.parse().ok()?,
            "loaded" => state.loaded = switch(words)?,
            "mig" => {
                let (current, pending) = words.split_once(' ')?;
                state.mig = switch(current)?;
                state.mig_pending = switch(pending)?;
            }
            "hetero" => state.hetero = switch(words)?,
            "scheduler" => state.scheduler = scheduler(numbers_of(words)?),
            "gi-scheduler" => {
                let [id, words @ ..]: [u32; 6] = numbers_of(words)?;
                let mut gis = state.gis.iter_mut();
                gis.find(|gi| gi.id == id)?.scheduler = scheduler(words);
            }
            "gi" => {
                let [id, profile, start, size, hetero] = numbers_of(words)?;
                state.gis.push(Gi {
                    id,
                    profile,
                    start,
                    size,
                    hetero: hetero != 0,
                    scheduler: Scheduler::default(),
                });
            }
            "ci" => {
                let [gi, id, slices] = numbers_of(words)?;
                state.cis.push(Ci { gi, id, slices });
            }
            "vgpu" => state.vgpus.push(vgpu(words)?),
            "guest" => {
                let (id, guest) = words.split_once(' ')?;
                let id: u32 = id.parse().ok()?;
                let mut vgpus = state.vgpus.iter_mut();
                vgpus.find(|vgpu| vgpu.id == id)?.guest = Some(guest.parse().ok()?);
            }
            // A newer module may report more.
            _ => {}
        }
    }
    (!state.model.is_empty()).then_some(state)
}

fn scheduler([policy, arr, factor, frequency, slice_ns]: [u32; 5]) -> Scheduler {
    Scheduler {
        policy,
        arr,
        factor,
        frequency,
        slice_ns,
    }
}

fn vgpu(words: &str) -> Option<Vgpu> {
    // The VM's name comes last because it may have spaces.
    let mut words = words.splitn(9, ' ');
    let mut next = || words.next();
    let (id, type_id) = (next()?.parse().ok()?, next()?.parse().ok()?);
    let (placement, gi) = (number_or_none(next()?)?, number_or_none(next()?)?);
    Some(Vgpu {
        id,
        type_id,
        placement,
        gi,
        place: next()?.to_owned(),
        mdev: word_or_none(next()?),
        opener: number_or_none(next()?)?,
        vm_uuid: word_or_none(next()?),
        vm_name: word_or_none(next()?),
        guest: None,
    })
}

fn word_or_none(word: &str) -> Option<String> {
    (word != "-").then(|| word.to_owned())
}

/// None if the word is neither a number nor the word for none.
#[allow(clippy::option_option, reason = "a number, none, or neither")]
fn number_or_none(word: &str) -> Option<Option<u32>> {
    match word {
        "-" => Some(None),
        _ => word.parse().ok().map(Some),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says what is wrong by panicking")]

    use super::*;

    /// Answers one command.
    struct Fake(&'static str);

    impl Control for Fake {
        fn command(&mut self, _: &str) -> Result<String, Errno> {
            Ok(self.0.to_owned())
        }
    }

    const L40S: &str = "model l40s\nframework vendor-vfio\nnode 1\nvfs 32\nloaded 1\nmig 0 1\n\
        hetero 1\nscheduler 2 2 33 480 0\ngi 4 47 3 3 1\ngi-scheduler 4 3 1 0 0 2000000\nci 4 0 1\n\
        vgpu 3251634176 1155 24 - 0000:41:00.4 - 4711 a0ad5ef2-15f0-4a8b-8d2b-4a1f3a1b9d10 my guest\n\
        guest 3251634176 580.65.06 5 2 2030 1 31 9 8 7\n\
        vgpu 3251634177 1155 - 4 0000:41:00.5 - - - -\n";

    #[test]
    fn a_state_has_all_its_lines() {
        let state = gpu(&mut Fake(L40S), "0000:41:00.0").unwrap();
        assert_eq!((state.node, state.vfs, state.loaded), (1, 32, true));
        assert_eq!(
            (state.mig, state.mig_pending, state.hetero),
            (false, true, true)
        );
        assert_eq!(
            (state.scheduler.factor, state.scheduler.frequency),
            (33, 480)
        );
        assert_eq!((state.gis[0].start, state.gis[0].hetero), (3, true));
        let scheduler = state.gis[0].scheduler;
        assert_eq!((scheduler.policy, scheduler.slice_ns), (3, 2_000_000));
        assert_eq!(state.cis[0].slices, 1);
        let [active, idle] = &state.vgpus[..] else {
            unreachable!("two lines")
        };
        assert_eq!((active.placement, active.gi), (Some(24), None));
        assert_eq!(
            (active.opener, active.vm_name.as_deref()),
            (Some(4711), Some("my guest"))
        );
        let guest = active.guest.as_ref().unwrap();
        assert_eq!((guest.driver.as_str(), guest.licence), ("580.65.06", 5));
        assert_eq!((guest.expiry, guest.until), (2, [2030, 1, 31, 9, 8, 7]));
        assert_eq!(
            (idle.placement, idle.gi, &idle.vm_name, &idle.guest),
            (None, Some(4), &None, &None)
        );
    }

    #[test]
    fn an_answer_of_another_form_is_no_state() {
        for text in [
            "",
            "model\n",
            "framework x\n",
            "model l4\nvgpu 1 2 3\n",
            "model l4\nmig 2 0\n",
            "model l4\ngi-scheduler 1 1 0 0 0 0\n",
            "model l4\nguest 1 580.88 5 0 0 0 0 0 0 0\n",
        ] {
            assert_eq!(gpu(&mut Fake(text), "x"), Err(Errno::EBADMSG), "{text:?}");
        }
    }

    #[test]
    fn numbers_are_lines_of_so_many() {
        assert_eq!(
            numbers(&mut Fake("1155 2\n1156 1\n"), "").unwrap(),
            [[1155, 2], [1156, 1]]
        );
        assert_eq!(numbers::<1>(&mut Fake("1 2\n"), ""), Err(Errno::EBADMSG));
        assert_eq!(number(&mut Fake("19\n"), ""), Ok(19));
    }

    #[test]
    fn without_the_module_there_is_no_device() {
        let error = Device::open(Path::new("/nonexistent/nvidiactl")).unwrap_err();
        assert_eq!(error, Errno::ENOENT);
    }
}
