//! The host as the checks see it: files that are missing are told from files that cannot be
//! read, and what several checks need is read once.

use std::{
    cell::{OnceCell, RefCell},
    collections::BTreeMap,
    io,
};

use super::{Outside, Trouble, Versions, outside::Silence};
use crate::{
    allocate::Look,
    config::Pool,
    device::{PCI_DEVICES, Sysfs, at, link_name, optional, pci, readiness},
    host::Host,
    kind::Subject,
    model::PciAddress,
    plan::AllPools,
};

/// The boot's parameters.
pub const COMMAND_LINE: &str = "/proc/cmdline";

/// The kernel's release.
const RELEASE: &str = "/proc/sys/kernel/osrelease";

/// The host, and what was read of it.
pub struct View<'a> {
    pub host: &'a Host,
    pub outside: &'a dyn Outside,
    pub look: Look<'a>,
    versions: OnceCell<Result<Versions, Silence>>,
    processes: OnceCell<Vec<(u32, String)>>,
    /// Programs that have failed, with the reason.
    failed: RefCell<BTreeMap<String, String>>,
}

/// The entries of a file or directory that does not exist: none.
fn missing(error: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory)
}

impl<'a> View<'a> {
    pub fn new(host: &'a Host, outside: &'a dyn Outside) -> Self {
        Self {
            host,
            outside,
            look: Look::new(host),
            versions: OnceCell::new(),
            processes: OnceCell::new(),
            failed: RefCell::default(),
        }
    }

    /// A file's text; None if there is no such file.
    pub fn read(&self, path: &str) -> io::Result<Option<String>> {
        match self.host.read(path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if missing(&error) => Ok(None),
            Err(error) => Err(at(path, &error)),
        }
    }

    /// The names in a directory; none if there is no such directory.
    pub fn list(&self, path: &str) -> io::Result<Vec<String>> {
        match self.host.list(path) {
            Ok(names) => Ok(names),
            Err(error) if missing(&error) => Ok(Vec::new()),
            Err(error) => Err(at(path, &error)),
        }
    }

    pub fn exists(&self, path: &str) -> bool {
        self.host.exists(path)
    }

    /// A number in a file; None if there is no such file.
    pub fn number(&self, path: &str) -> io::Result<Option<u64>> {
        let Some(text) = self.read(path)? else {
            return Ok(None);
        };
        let number = text.trim().parse().map_err(|_| {
            let what = format!("{path}: '{text}' is not a number");
            io::Error::new(io::ErrorKind::InvalidData, what)
        });
        number.map(Some)
    }

    /// All PCI functions.
    pub fn functions(&self) -> io::Result<Vec<PciAddress>> {
        let functions = pci::functions(self.host)?;
        Ok(functions.into_iter().map(|(address, _)| address).collect())
    }

    /// NVIDIA's GPUs, whichever driver they have.
    pub fn gpus(&self) -> io::Result<Vec<PciAddress>> {
        let mut functions = self.functions()?;
        functions.retain(|&function| readiness::is_gpu(self.host, function));
        Ok(functions)
    }

    /// The driver of a function.
    pub fn driver(&self, function: PciAddress) -> io::Result<Option<String>> {
        optional(link_name(self.host, &attribute(function, "driver")))
    }

    /// The parameters that the kernel was booted with.
    pub fn command_line(&self) -> io::Result<Vec<String>> {
        let text = self.read(COMMAND_LINE)?.unwrap_or_default();
        Ok(text.split_ascii_whitespace().map(str::to_owned).collect())
    }

    /// The kernel's release, `6.12.9-amd64`.
    pub fn release(&self) -> io::Result<Option<String>> {
        self.read(RELEASE)
    }

    /// Whether a module is loaded or built in.
    pub fn is_loaded(&self, module: &str) -> bool {
        self.exists(&format!("/sys/module/{module}"))
    }

    /// The processes of that name, which the kernel cuts after 15 characters.
    pub fn processes(&self, name: &str) -> Vec<u32> {
        const LONGEST: usize = 15;
        let all = self.processes.get_or_init(|| {
            let names = self.host.list("/proc").unwrap_or_default();
            let pids = names.iter().filter_map(|name| name.parse().ok());
            let named = |pid: u32| Some((pid, self.host.read(&format!("/proc/{pid}/comm")).ok()?));
            pids.filter_map(named).collect()
        });
        let short = name.get(..LONGEST).unwrap_or(name);
        let of_it = all.iter().filter(|(_, comm)| comm == short);
        of_it.map(|(pid, _)| *pid).collect()
    }

    /// The pools that can be used.
    pub fn pools(&self) -> &[Pool] {
        self.look.all_pools()
    }

    /// Whether this host is meant to make vGPUs: it has a GPU of NVIDIA, and a pool of devices
    /// that are made, or NVIDIA's vGPU software.
    pub fn makes_vgpus(&self) -> io::Result<bool> {
        const SOFTWARE: [&str; 3] = [
            "/usr/lib/nvidia/sriov-manage",
            "/usr/bin/nvidia-vgpu-mgr",
            "/usr/bin/nvidia-vgpud",
        ];
        let mut pools = self.pools().iter();
        let is_meant = pools.any(|pool| pool.kind.subject() != Subject::Function)
            || SOFTWARE.iter().any(|path| self.exists(path));
        Ok(is_meant && !self.gpus()?.is_empty())
    }

    /// NVIDIA's GPUs on a host that is meant to make vGPUs; else none.
    pub fn vgpu_gpus(&self) -> io::Result<Vec<PciAddress>> {
        match self.makes_vgpus()? {
            true => self.gpus(),
            false => Ok(Vec::new()),
        }
    }

    /// The versions of libvirt and QEMU.
    pub fn versions(&self) -> Result<Versions, Silence> {
        let asked = self.versions.get_or_init(|| self.outside.versions());
        asked.clone()
    }

    /// What a program prints. One that has failed is not run again: it may hang, and each run
    /// would take as long.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String, Trouble> {
        if let Some(reason) = self.failed.borrow().get(program) {
            return Err(Trouble::NotAsked(reason.clone()));
        }
        self.outside.run(program, arguments).map_err(|reason| {
            let mut failed = self.failed.borrow_mut();
            failed.insert(program.to_owned(), reason.clone());
            Trouble::NotAsked(reason)
        })
    }
}

/// The path of an attribute of a PCI function.
pub fn attribute(function: PciAddress, name: &str) -> String {
    format!("{PCI_DEVICES}/{function}/{name}")
}

/// What a file says, as evidence.
pub fn says(path: &str, text: impl std::fmt::Display) -> String {
    format!("{path}: {text}")
}

/// That a file is missing, as evidence.
pub fn lacks(path: &str) -> String {
    format!("{path} does not exist")
}

/// A list for people that is not too long.
pub fn some<T: std::fmt::Display>(all: &[T]) -> String {
    const MOST: usize = 8;
    let shown: Vec<String> = all.iter().take(MOST).map(ToString::to_string).collect();
    let more = match all.len().saturating_sub(MOST) {
        0 => String::new(),
        count => format!(" and {count} more"),
    };
    shown.join(", ") + &more
}
