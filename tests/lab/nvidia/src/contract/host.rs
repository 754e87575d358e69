//! A lab host as a subject: its files, `/dev/nvidiactl`, `sriov-manage`, and processes
//! that open VFIO devices. Every operation is one system call on an existing file; no
//! file is created. With `LAB_NVIDIA_LIBRARY=PROGRAM` commands for `/dev/nvidiactl` go
//! to that program, which uses NVML.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use nix::errno::Errno;

use self::{client::Client, library::Library, opener::Opener};
use super::{Answer, Op, Setup, Subject, op, state};
use crate::{
    boards,
    model::{Attribute, Framework, Parent, Switches, VgpuHandle, framework_of},
};

mod client;
mod library;
mod opener;

const DEVICES: &str = "/sys/bus/pci/devices";
const DRIVER: &str = "/sys/bus/pci/drivers/nvidia";
const MDEVS: &str = "/sys/bus/mdev/devices";
const PARAMETERS: &str = "/sys/module/virt_vgpu_sim/parameters";
const DEBUG: &str = "/sys/kernel/debug/virt_vgpu_sim";
const SRIOV_MANAGE: &str = "/usr/lib/nvidia/sriov-manage";
const MANAGER: &str = "nvidia-vgpu-mgr.service";
const VGPUD: &str = "nvidia-vgpud.service";
const MODULE: &str = "virt_vgpu_sim";
const LIBRARY_VARIABLE: &str = "LAB_NVIDIA_LIBRARY";

/// How long virtual functions may take until they have their files.
const PATIENCE: Duration = Duration::from_secs(20);

/// One GPU of this host.
#[derive(Debug)]
pub struct Host {
    address: String,
    setup: Setup,
    client: Option<File>,
    library: Option<Library>,
    openers: BTreeMap<u32, Opener>,
}

/// The kernel's errno; an error without an errno does not come from the kernel.
fn errno(error: &io::Error) -> Errno {
    error
        .raw_os_error()
        .map_or(Errno::UnknownErrno, Errno::from_raw)
}

fn read(path: impl AsRef<Path>) -> Answer {
    fs::read_to_string(path).map_err(|error| errno(&error))
}

/// One write(2).
fn write(path: impl AsRef<Path>, text: &str) -> Answer {
    let open = OpenOptions::new().write(true).open(path);
    let written = open.and_then(|mut file| file.write(text.as_bytes()));
    match written {
        Ok(count) if count == text.len() => Ok(String::new()),
        Ok(_) => Err(Errno::UnknownErrno),
        Err(error) => Err(errno(&error)),
    }
}

fn succeeds(command: &mut Command) -> Answer {
    match command.status() {
        Ok(status) if status.success() => Ok(String::new()),
        Ok(_) => Err(Errno::UnknownErrno),
        Err(error) => Err(errno(&error)),
    }
}

fn parameter(name: &str) -> Result<String, String> {
    let text = read(Path::new(PARAMETERS).join(name));
    let text = text.map_err(|errno| format!("parameter {name}: {errno}"))?;
    Ok(text.trim().to_owned())
}

fn switches() -> Result<Switches, String> {
    let on = |name: &str| Ok::<_, String>(parameter(name)? == "Y");
    Ok(Switches {
        framework: parameter("framework")?.parse()?,
        dialect: parameter("dialect")?.parse()?,
        mixed_series: on("mixed_series")?,
        fine_placements: on("fine_placements")?,
        need_vgpud: on("need_vgpud")?,
        need_manager: on("need_manager")?,
        rebind_again: on("rebind_again")?,
    })
}

impl Host {
    /// The GPU with this address, in its present state.
    ///
    /// # Errors
    /// When it does not exist, the module reports something that this crate does not
    /// know, or the program that uses NVML cannot be started.
    pub fn new(address: &str) -> Result<Self, String> {
        let client = Client::open().map_err(|errno| format!("/dev/nvidiactl: {errno}"))?;
        let state = client.ask(&format!("gpu {address}"));
        let state = state.map_err(|errno| format!("{address}: {errno}"))?;
        let value = |name: &str| {
            let mut lines = state.lines();
            let found = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            found.ok_or_else(|| format!("{address}: no '{name}' in its state"))
        };
        let model = value("model")?;
        let board = boards::find(model).ok_or_else(|| format!("no table of model '{model}'"))?;
        let switches = switches()?;
        let framework: Framework = value("framework")?.parse()?;
        if framework != framework_of(board, &switches) {
            return Err(format!("{address} is {framework}"));
        }
        let library = env::var_os(LIBRARY_VARIABLE).map(|program| {
            let started = Library::start(&program);
            started.map_err(|error| format!("{program:?}: {error}"))
        });
        Ok(Self {
            address: address.to_owned(),
            setup: Setup { board, switches },
            client: None,
            library: library.transpose()?,
            openers: BTreeMap::new(),
        })
    }

    fn function(&self) -> PathBuf {
        Path::new(DEVICES).join(&self.address)
    }

    fn vf(&self, number: u32) -> PathBuf {
        self.function().join(format!("virtfn{number}"))
    }

    fn parent(&self, parent: Parent) -> PathBuf {
        match parent {
            Parent::Pf => self.function(),
            Parent::Vf(number) => self.vf(number),
        }
    }

    fn mdev_type(&self, parent: Parent, type_id: u32, name: &str) -> PathBuf {
        let types = self.parent(parent).join("mdev_supported_types");
        types.join(format!("nvidia-{type_id}")).join(name)
    }

    /// The device of a vGPU.
    fn device(&self, number: u32) -> PathBuf {
        match op::vgpu_handle(self.setup.framework(), number) {
            VgpuHandle::Vf(number) => self.vf(number),
            VgpuHandle::Mdev(uuid) => Path::new(MDEVS).join(uuid),
        }
    }

    fn attribute(&self, number: u32, attribute: Attribute) -> PathBuf {
        self.device(number).join("nvidia").join(attribute.name())
    }

    fn debug(&self, name: &str) -> PathBuf {
        Path::new(DEBUG).join(name)
    }

    fn sriov_manage(&self, on: bool) -> Answer {
        let switch = if on { "-e" } else { "-d" };
        let output = Command::new(SRIOV_MANAGE)
            .args([switch, &self.address])
            .output()
            .map_err(|error| errno(&error))?;
        let text = String::from_utf8_lossy(&output.stderr);
        if text.contains("Cannot obtain unbindLock") {
            return Err(Errno::EBUSY);
        }
        if !output.status.success() {
            eprintln!("sriov-manage {switch} {}: {text}", self.address);
            return Err(Errno::UnknownErrno);
        }
        // Such a GPU is passed over without a word.
        if !self.setup.is_sriov() && output.stdout.is_empty() && text.is_empty() {
            return Err(Errno::ENOENT);
        }
        if on {
            self.wait_for_vfs()
        } else {
            Ok(String::new())
        }
    }

    /// The driver may bind functions some time after they appear.
    fn wait_for_vfs(&self) -> Answer {
        let file = match self.setup.framework() {
            Framework::VendorVfio => "nvidia/current_vgpu_type",
            Framework::LegacyMdev | Framework::SriovMdev => "mdev_supported_types",
        };
        let last = self.vf(self.setup.board.vfs - 1).join(file);
        let begin = Instant::now();
        while !last.exists() {
            if begin.elapsed() > PATIENCE {
                return Err(Errno::ETIMEDOUT);
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(String::new())
    }

    fn rebind(&self, number: u32) -> Answer {
        let function = fs::read_link(self.vf(number)).map_err(|error| errno(&error))?;
        let name = function.file_name().and_then(|name| name.to_str());
        let name = name.ok_or(Errno::UnknownErrno)?;
        write(Path::new(DRIVER).join("unbind"), name)?;
        write(Path::new(DRIVER).join("bind"), name)
    }

    /// With the same parameters, and what belongs to the driver.
    fn reload(&self) -> Answer {
        let mut load = Command::new("modprobe");
        load.arg(MODULE);
        for parameter in fs::read_dir(PARAMETERS).map_err(|error| errno(&error))? {
            let path = parameter.map_err(|error| errno(&error))?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let name = name.ok_or(Errno::UnknownErrno)?;
            load.arg(format!("{name}={}", read(&path)?.trim()));
        }
        succeeds(Command::new("systemctl").args(["stop", MANAGER]))?;
        if succeeds(Command::new("modprobe").args(["-r", MODULE])).is_err() {
            // Somebody has a device open.
            succeeds(Command::new("systemctl").args(["start", MANAGER]))?;
            return Err(Errno::EBUSY);
        }
        succeeds(&mut load)?;
        succeeds(Command::new("systemctl").args(["restart", VGPUD, MANAGER]))
    }

    fn set_client(&mut self, on: bool) -> Answer {
        self.client = if on {
            Some(Client::open()?.into_file())
        } else {
            None
        };
        Ok(String::new())
    }

    fn set_manager(&self, on: bool) -> Answer {
        if !self.setup.switches.need_manager {
            return Ok(String::new());
        }
        let verb = if on { "start" } else { "stop" };
        succeeds(Command::new("systemctl").args([verb, MANAGER]))
    }

    fn open(&mut self, number: u32, name: Option<&String>) -> Answer {
        if let Some(opener) = self.openers.get(&number) {
            // A second process would open it: it gets the answer and ends.
            return opener.again();
        }
        let uuid = name.map(|_| op::vm_uuid(number));
        let device = self.device(number);
        let opener = Opener::start(&device, uuid.as_deref(), name.map(String::as_str))?;
        self.openers.insert(number, opener);
        Ok(String::new())
    }

    fn close(&mut self, number: u32, killed: bool) -> Answer {
        let opener = self.openers.remove(&number);
        opener.ok_or(Errno::EBADF)?.end(killed)
    }

    /// A command with the address put in.
    fn addressed(&self, line: &str) -> String {
        let (command, words) = line.split_once(' ').unwrap_or((line, ""));
        let line = format!("{command} {} {words}", self.address);
        line.trim_end().to_owned()
    }

    fn control(&mut self, line: &str) -> Answer {
        // NVML has no call for a reset: nvidia-smi asks the driver.
        let asks_driver = line == "reset";
        let line = self.addressed(line);
        match &mut self.library {
            Some(library) if !asks_driver => library.ask(&line),
            _ => Client::open()?.ask(&line),
        }
    }

    /// Names of functions by address.
    fn names(&self) -> BTreeMap<String, String> {
        let mut names = BTreeMap::from([(self.address.clone(), "pf".to_owned())]);
        for number in 0..self.setup.board.vfs {
            let link = fs::read_link(self.vf(number)).ok();
            let address = link.as_ref().and_then(|link| link.file_name()?.to_str());
            if let Some(address) = address {
                names.insert(address.to_owned(), format!("vf{number}"));
            }
        }
        names
    }

    /// The module's state text. NVML cannot show all of it.
    fn state(&self) -> Answer {
        let text = Client::open()?.ask(&self.addressed("gpu"))?;
        Ok(self.comparable(&text))
    }

    fn comparable(&self, text: &str) -> String {
        let names = self.names();
        let name = |address: &str| {
            names
                .get(address)
                .map_or(address, String::as_str)
                .to_owned()
        };
        state::comparable(text, name)
    }

    fn wedged(&self) -> Answer {
        let text = read(self.debug(&format!("boards/{}/wedged", self.address)))?;
        let names = self.names();
        let numbers = text.lines().map(|address| {
            let number = names.get(address).and_then(|name| name.strip_prefix("vf"));
            number.unwrap_or(address)
        });
        Ok(numbers.map(|number| format!("{number}\n")).collect())
    }
}

impl Subject for Host {
    fn setup(&self) -> Setup {
        self.setup
    }

    fn library_state(&mut self) -> Option<Answer> {
        let line = self.addressed("state");
        let answer = self.library.as_mut()?.ask(&line);
        Some(answer.map(|text| self.comparable(&text)))
    }

    fn perform(&mut self, op: &Op) -> Answer {
        match &op.lowered(self.setup.framework()) {
            Op::Vfs(on) => self.sriov_manage(*on),
            Op::Client(on) => self.set_client(*on),
            Op::Manager(on) => self.set_manager(*on),
            Op::Rebind(number) => self.rebind(*number),
            Op::Reload => self.reload(),
            Op::MdevCreate(parent, kind, text) => {
                write(self.mdev_type(*parent, *kind, "create"), text)
            }
            Op::MdevRemove(uuid, text) => write(Path::new(MDEVS).join(uuid).join("remove"), text),
            Op::MdevType(parent, kind, name) => read(self.mdev_type(*parent, *kind, name)),
            Op::Read(number, attribute) => read(self.attribute(*number, *attribute)),
            Op::Write(number, attribute, text) => write(self.attribute(*number, *attribute), text),
            Op::Open(number, name) => self.open(*number, name.as_ref()),
            Op::Close(number) => self.close(*number, false),
            Op::Kill(number) => self.close(*number, true),
            Op::CloseAll => {
                self.openers.clear();
                Ok(String::new())
            }
            Op::Control(line) => self.control(line),
            Op::State => self.state(),
            Op::Wedged => self.wedged(),
            Op::PluginExit(ms) => write(self.debug("plugin_exit_ms"), &format!("{ms}\n")),
            Op::Init(ms) => write(self.debug("init_ms"), &format!("{ms}\n")),
            Op::Wait(ms) => {
                thread::sleep(Duration::from_millis(u64::from(*ms)));
                Ok(String::new())
            }
            Op::Create(..) | Op::Release(_) => Err(Errno::ENOSYS),
        }
    }
}
