//! NVIDIA's driver in the model passes the same contract as the lab's kernel module and
//! its twin (`tests/lab/nvidia/src/contract`): the lists of operations with their
//! answers, and random ones next to a twin.

use std::{collections::BTreeMap, fs, io, path::PathBuf, time::Duration};

use lab_nvidia::{
    boards,
    contract::{
        Answer, Op, Setup, Subject, Twin, comparable, list,
        op::{uuid, vgpu_handle, vm_uuid},
        random,
    },
    model::{Dialect, Framework, Parent, Switches, VgpuHandle, Vm},
};
use nix::errno::Errno;
use virt_vgpu::{apply::Acts, device::step::Attribute, host};

use crate::support::{
    kernel::Kernel,
    machine::{Gpu, Machine},
    mount::Mount,
    side_by_side::each,
};

const GPU: &str = "0000:3b:00.0";

/// A machine with one GPU, and how its files are reached.
struct Modelled {
    kernel: Kernel,
    setup: Setup,
    /// The directory where it is mounted; None: in memory.
    mounted: Option<PathBuf>,
    pids: u32,
    open: BTreeMap<u32, u32>,
}

fn errno(error: io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap())
}

impl Modelled {
    fn new(setup: Setup) -> Self {
        let gpu = Gpu::new(&setup.board.model, setup.framework(), GPU);
        let gpu = gpu.speaks(setup.switches.dialect);
        Self {
            kernel: Kernel::new(Machine::of_gpus([gpu])),
            setup,
            mounted: None,
            pids: 1000,
            open: BTreeMap::new(),
        }
    }

    fn read(&self, path: &str) -> Answer {
        let text = match &self.mounted {
            Some(sys) => fs::read_to_string(sys.join(path.strip_prefix("/sys/").unwrap())),
            None => self.kernel.text(path),
        };
        text.map_err(errno)
    }

    fn write(&self, path: String, value: &str) -> Answer {
        let value = value.to_owned();
        let attribute = Attribute { path, value };
        let written = match &self.mounted {
            Some(sys) => {
                let path = sys.join(attribute.path.strip_prefix("/sys/").unwrap());
                host::write_attribute(&path, &attribute.value)
            }
            None => self.kernel.write(&attribute, None),
        };
        written.map(|()| String::new()).map_err(errno)
    }

    fn mdev_type(&self, parent: Parent, kind: u32, name: &str) -> String {
        let parent = match parent {
            Parent::Pf => String::new(),
            Parent::Vf(number) => format!("/virtfn{number}"),
        };
        format!("/sys/bus/pci/devices/{GPU}{parent}/mdev_supported_types/nvidia-{kind}/{name}")
    }

    fn attribute(&self, number: u32, name: &str) -> String {
        match vgpu_handle(self.setup.framework(), number) {
            VgpuHandle::Vf(_) => format!("/sys/bus/pci/devices/{GPU}/virtfn{number}/nvidia/{name}"),
            VgpuHandle::Mdev(uuid) => format!("/sys/bus/mdev/devices/{uuid}/nvidia/{name}"),
        }
    }

    fn address(&self, number: u32) -> String {
        self.kernel.with_gpu(GPU, |gpu| gpu.vf_address(number))
    }

    fn open(&mut self, number: u32, name: Option<&String>) -> Answer {
        self.pids += 1;
        let vm = Vm {
            pid: self.pids,
            uuid: name.map(|_| vm_uuid(number)),
            name: name.cloned(),
        };
        let at = match self.setup.framework() {
            Framework::VendorVfio => self.address(number),
            _ => uuid(number),
        };
        self.kernel.open(&at, vm)?;
        self.open.insert(number, self.pids);
        Ok(String::new())
    }

    fn close(&mut self, number: u32, killed: bool) -> Answer {
        let pid = self.open.remove(&number).ok_or(Errno::EBADF)?;
        self.kernel.close_all(pid, killed);
        Ok(String::new())
    }

    fn state(&self) -> String {
        let name = |address: &str| {
            let all = self.kernel.functions(GPU);
            let number = all.iter().position(|function| function == address);
            number.map_or_else(
                || address.replace(GPU, "pf"),
                |number| format!("vf{number}"),
            )
        };
        let text = self.kernel.with_gpu(GPU, |gpu| gpu.describe());
        comparable(&text, name)
    }

    /// Settings for which sysfs has no file.
    fn set(&self, op: &Op) -> bool {
        let milliseconds = |ms: &u32| Duration::from_millis(u64::from(*ms));
        self.kernel.with_gpu(GPU, |gpu| {
            match op {
                Op::Client(on) => gpu.set_clients(u32::from(*on)),
                Op::Manager(on) => gpu.set_manager(*on),
                Op::PluginExit(ms) => gpu.set_plugin_exit(milliseconds(ms)),
                Op::Init(ms) => gpu.set_init(milliseconds(ms)),
                Op::Wait(ms) => gpu.wait(milliseconds(ms)),
                _ => return false,
            }
            true
        })
    }

    /// Questions for which sysfs has no file.
    fn ask(&self, op: &Op) -> Answer {
        let done = |()| String::new();
        self.kernel.with_gpu(GPU, |gpu| match op {
            Op::Vfs(on) => gpu.set_vfs(*on).map(done),
            Op::Rebind(number) => gpu.rebind_vf(*number).map(done),
            Op::Reload => gpu.reload().map(done),
            Op::Wedged => {
                let numbers = gpu.wedged().into_iter();
                Ok(numbers.map(|number| format!("{number}\n")).collect())
            }
            Op::Control(line) => {
                let (command, words) = line.split_once(' ').unwrap_or((line, ""));
                gpu.command(&format!("{command} {GPU} {words}"))
            }
            other => panic!("{other} is a file's business"),
        })
    }
}

impl Subject for Modelled {
    fn setup(&self) -> Setup {
        self.setup
    }

    fn perform(&mut self, op: &Op) -> Answer {
        match &op.lowered(self.setup.framework()) {
            Op::MdevCreate(parent, kind, text) => {
                self.write(self.mdev_type(*parent, *kind, "create"), text)
            }
            Op::MdevRemove(uuid, text) => {
                self.write(format!("/sys/bus/mdev/devices/{uuid}/remove"), text)
            }
            Op::MdevType(parent, kind, name) => self.read(&self.mdev_type(*parent, *kind, name)),
            Op::Read(number, attribute) => self.read(&self.attribute(*number, attribute.name())),
            Op::Write(number, attribute, text) => {
                self.write(self.attribute(*number, attribute.name()), text)
            }
            Op::Open(number, name) => self.open(*number, name.as_ref()),
            Op::Close(number) => self.close(*number, false),
            Op::Kill(number) => self.close(*number, true),
            Op::CloseAll => {
                for number in self.open.clone().into_keys() {
                    self.close(number, false)?;
                }
                Ok(String::new())
            }
            Op::State => Ok(self.state()),
            other if self.set(other) => Ok(String::new()),
            other => self.ask(other),
        }
    }
}

fn setup(model: &str, framework: Framework, dialect: Dialect) -> Setup {
    let switches = Switches {
        framework,
        dialect,
        ..Switches::default()
    };
    Setup {
        board: boards::find(model).unwrap(),
        switches,
    }
}

/// Runs all lists that fit, beside a twin.
fn passes(subject: &mut Modelled) {
    let setup = subject.setup();
    let (mut runs, mut wrong) = (0, Vec::new());
    for sequence in list::all().filter(|sequence| sequence.needs.fit(&setup)) {
        runs += 1;
        let ran = sequence.run(subject, Some(&mut Twin::new(setup)));
        wrong.extend(ran.err().map(|disagreement| disagreement.to_string()));
    }
    assert!(runs > 0, "no list for {}", setup.board.model);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn setups() -> Vec<Setup> {
    use {
        Dialect::{Kmod, Rfc},
        Framework::{LegacyMdev, SriovMdev, VendorVfio},
    };
    vec![
        setup("l40s", VendorVfio, Kmod),
        setup("l40s", VendorVfio, Rfc),
        setup("l40s", SriovMdev, Kmod),
        setup("t4", LegacyMdev, Kmod),
        setup("rtx-pro-6000", VendorVfio, Kmod),
    ]
}

fn name(setup: &Setup) -> String {
    format!("{} {:?}", setup.board.model, setup.switches)
}

#[test]
fn the_model_passes_the_labs_lists() {
    each(&setups(), name, |setup| {
        passes(&mut Modelled::new(*setup));
    });
}

#[test]
fn the_mounted_model_passes_the_labs_lists() {
    let mut subject = Modelled::new(setups()[0]);
    let directory = tempfile::tempdir().unwrap();
    let _mount = Mount::new(&subject.kernel, directory.path());
    subject.mounted = Some(directory.path().to_owned());
    passes(&mut subject);
}

#[test]
fn random_operations_agree_with_the_twin() {
    const SEED: u64 = 20_250_131;
    each(&setups(), name, |setup| {
        let tally = random::run(&mut Modelled::new(*setup), SEED, 200).unwrap();
        assert_eq!(tally.done + tally.refused, 201, "{tally:?}");
    });
}
