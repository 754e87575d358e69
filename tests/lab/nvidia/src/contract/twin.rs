//! The twin as a subject.

use std::time::Duration;

use nix::errno::Errno;

use super::{Answer, Op, Setup, Subject, op, state};
use crate::model::{Gpu, VgpuHandle, Vm};

const ADDRESS: &str = "0000:3b:00.0";

/// A GPU in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Twin {
    gpu: Gpu,
    setup: Setup,
    pids: u32,
}

impl Twin {
    /// An empty one, as after boot: types loaded, manager running, virtual functions
    /// enabled.
    pub fn new(setup: Setup) -> Self {
        let mut gpu = Gpu::new(setup.board, ADDRESS, setup.switches);
        gpu.load_types();
        gpu.set_manager(true);
        // Without SR-IOV there are no functions to enable.
        _ = gpu.set_vfs(true);
        Self {
            gpu,
            setup,
            pids: 1000,
        }
    }

    /// The GPU.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    fn vgpu_handle(&self, number: u32) -> VgpuHandle {
        op::vgpu_handle(self.setup.framework(), number)
    }

    fn open(&mut self, number: u32, name: Option<&String>) -> Answer {
        self.pids += 1;
        let vm = Vm {
            pid: self.pids,
            uuid: name.map(|_| op::vm_uuid(number)),
            name: name.cloned(),
        };
        self.gpu
            .open(&self.vgpu_handle(number), vm)
            .map(|()| String::new())
    }

    /// Without a process there is nothing to end, whatever has happened to the vGPU.
    fn close(&mut self, number: u32, killed: bool) -> Answer {
        let closed = self.gpu.close(&self.vgpu_handle(number), killed);
        closed.map(|()| String::new()).map_err(|_| Errno::EBADF)
    }

    fn close_all(&mut self) {
        // No list opens mediated devices with other UUIDs.
        for number in 0..64 {
            let vgpu_handle = self.vgpu_handle(number);
            _ = self.gpu.close(&vgpu_handle, false);
        }
    }

    /// Operations that can fail.
    fn ask(&mut self, op: &Op) -> Answer {
        let framework = self.setup.framework();
        let gpu = &mut self.gpu;
        let done = |()| String::new();
        match &op.lowered(framework) {
            Op::Vfs(on) => gpu.set_vfs(*on).map(done),
            Op::Rebind(number) => gpu.rebind_vf(*number).map(done),
            Op::Reload => gpu.reload().map(done),
            Op::MdevCreate(parent, kind, text) => gpu.mdev_create(*parent, *kind, text).map(done),
            Op::MdevRemove(uuid, text) => gpu.mdev_remove(uuid, text).map(done),
            Op::MdevType(parent, kind, name) => gpu.read_mdev_type(*parent, *kind, name),
            Op::Read(number, attribute) => {
                gpu.read(&op::vgpu_handle(framework, *number), *attribute)
            }
            Op::Write(number, attribute, text) => {
                let vgpu_handle = op::vgpu_handle(framework, *number);
                gpu.write(&vgpu_handle, *attribute, text).map(done)
            }
            Op::Open(number, name) => self.open(*number, name.as_ref()),
            Op::Close(number) => self.close(*number, false),
            Op::Kill(number) => self.close(*number, true),
            Op::Control(line) => {
                let (command, words) = line.split_once(' ').unwrap_or((line, ""));
                gpu.command(&format!("{command} {ADDRESS} {words}"))
            }
            Op::State => {
                let text = self.gpu.describe();
                Ok(state::comparable(&text, |address| self.name(address)))
            }
            Op::Wedged => {
                let numbers = self.gpu.wedged();
                Ok(numbers.iter().map(|number| format!("{number}\n")).collect())
            }
            _ => Err(Errno::ENOSYS),
        }
    }

    fn name(&self, address: &str) -> String {
        if address == self.gpu.address() {
            return "pf".to_owned();
        }
        let mut numbers = 0..self.gpu.vf_count();
        let number = numbers.find(|number| self.gpu.vf_address(*number) == address);
        number.map_or_else(|| address.to_owned(), |number| format!("vf{number}"))
    }
}

impl Subject for Twin {
    fn setup(&self) -> Setup {
        self.setup
    }

    fn perform(&mut self, op: &Op) -> Answer {
        let milliseconds = |ms: &u32| Duration::from_millis(u64::from(*ms));
        match op {
            Op::Client(on) => self.gpu.set_clients(u32::from(*on)),
            Op::Manager(on) => self.gpu.set_manager(*on),
            Op::CloseAll => self.close_all(),
            Op::PluginExit(ms) => self.gpu.set_plugin_exit(milliseconds(ms)),
            Op::Init(ms) => self.gpu.set_init(milliseconds(ms)),
            Op::Wait(ms) => self.gpu.wait(milliseconds(ms)),
            _ => return self.ask(op),
        }
        Ok(String::new())
    }
}
