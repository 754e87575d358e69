//! NVIDIA's driver for virt-vgpu-nvml: the lab's library, which talks to twins of GPUs
//! in this process.

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        Arc, Mutex, MutexGuard,
        mpsc::{self, Receiver, Sender},
    },
    thread,
};

use lab_nvidia::{
    boards,
    control::Control,
    model::{Gpu, Switches},
    socket,
};
use nix::errno::Errno;
use tempfile::TempDir;
use virt_vgpu::{
    device::nvml::{Answer, Question},
    host::{Host, NVML_PROGRAM},
};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_virt-vgpu-nvml");

/// The addresses of the GPUs, in order.
pub const ADDRESSES: [&str; 4] = [
    "0000:3b:00.0",
    "0000:5e:00.0",
    "0000:86:00.0",
    "0000:af:00.0",
];

/// The state of the kernel module, and its faults.
pub struct Twins {
    pub gpus: Vec<Gpu>,
    /// The caller is not root.
    pub refuses_changes: bool,
    /// Changes report success but do nothing.
    pub only_claims: bool,
    /// A GPU that has disappeared from the bus.
    pub lost: Option<&'static str>,
    /// Commands wait for this.
    pub hangs_until: Option<Receiver<()>>,
}

impl Control for Twins {
    fn command(&mut self, line: &str) -> Result<String, Errno> {
        if let Some(end) = &self.hangs_until {
            // The sender is dropped at the end.
            let _ = end.recv();
            self.hangs_until = None;
        }
        let mut words = line.split(' ');
        let name = words.next().unwrap_or_default();
        if name == "gpus" {
            let lines = self.gpus.iter_mut().map(|gpu| gpu.command(line));
            return lines.collect();
        }
        let address = words.next().unwrap_or_default();
        if self.lost == Some(address) {
            return Err(Errno::ENODEV);
        }
        let asks = matches!(name, "gpu" | "creatable" | "placements" | "gi-placements");
        if !asks && self.refuses_changes {
            return Err(Errno::EPERM);
        }
        if !asks && self.only_claims {
            return Ok(String::new());
        }
        let gpu = self.gpus.iter_mut().find(|gpu| gpu.address() == address);
        gpu.ok_or(Errno::ENOENT)?.command(line)
    }
}

/// Counts the commands of one library.
struct Counting<'a>(&'a Mutex<Twins>, usize);

impl Control for Counting<'_> {
    fn command(&mut self, line: &str) -> Result<String, Errno> {
        self.1 += 1;
        self.0.lock().unwrap().command(line)
    }
}

/// The driver, and a root directory with the program in it.
pub struct Driver {
    root: TempDir,
    twins: Arc<Mutex<Twins>>,
    /// One for each library that has closed: how many commands it gave.
    pub closed: Receiver<usize>,
}

impl Driver {
    /// With GPUs of these models, their VFs and types.
    pub fn with(models: &[&str]) -> Self {
        let gpus = models.iter().zip(ADDRESSES).map(|(model, address)| {
            let board = boards::find(model).unwrap();
            let mut gpu = Gpu::new(board, address, Switches::default());
            gpu.load_types();
            gpu.set_manager(true);
            // ENOENT where there is no SR-IOV.
            let _ = gpu.set_vfs(true);
            gpu
        });
        let twins = Arc::new(Mutex::new(Twins {
            gpus: gpus.collect(),
            refuses_changes: false,
            only_claims: false,
            lost: None,
            hangs_until: None,
        }));
        let root = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(root.path().join("nvidiactl")).unwrap();
        let (sender, closed) = mpsc::channel();
        let driver = Self {
            root,
            twins: Arc::clone(&twins),
            closed,
        };
        thread::spawn(move || serve(&listener, &twins, &sender));
        driver.install_library(&fs::read(library()).unwrap());
        driver
    }

    /// Removes functions from the library, as in older ones. Their names are changed in
    /// place: the linker finds the old name's hash, but another name.
    pub fn without(self, symbols: &[&str]) -> Self {
        let mut bytes = fs::read(library()).unwrap();
        for symbol in symbols {
            let name = format!("\0{symbol}\0");
            let at = find(&bytes, name.as_bytes());
            bytes[at.unwrap_or_else(|| panic!("no {symbol}")) + 1] = b'x';
        }
        self.install_library(&bytes);
        self
    }

    pub fn install_library(&self, bytes: &[u8]) {
        fs::create_dir_all(self.path("lib")).unwrap();
        fs::write(self.path("lib/libnvidia-ml.so.1"), bytes).unwrap();
    }

    /// Nothing answers the library any more.
    pub fn unload_module(&self) {
        fs::remove_file(self.path("nvidiactl")).unwrap();
    }

    /// The state of the kernel module.
    pub fn twins(&self) -> MutexGuard<'_, Twins> {
        self.twins.lock().unwrap()
    }

    /// From now on commands wait until the returned value is dropped.
    pub fn hang(&self) -> Sender<()> {
        let (end, until) = mpsc::channel();
        self.twins().hangs_until = Some(until);
        end
    }

    /// Runs the program with this question until it ends.
    pub fn run(&self, question: &str) -> Output {
        let child = self.start(question, Stdio::piped());
        child.wait_with_output().unwrap()
    }

    /// The program, which has read this.
    fn start(&self, questions: &str, answer: Stdio) -> Child {
        let mut child = Command::new(PROGRAM)
            .env("LD_LIBRARY_PATH", self.path("lib"))
            .env(socket::VARIABLE, self.path("nvidiactl"))
            .stdin(Stdio::piped())
            .stdout(answer)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut input = child.stdin.take().unwrap();
        io::Write::write_all(&mut input, questions.as_bytes()).unwrap();
        child
    }

    /// The program, asked this by somebody who does not wait for the answer, and ended.
    pub fn run_unheard(&self, questions: &[&Question]) -> ExitStatus {
        let (reader, writer) = UnixStream::pair().unwrap();
        drop(reader);
        let line = |question: &&Question| serde_json::to_string(question).unwrap() + "\n";
        let lines: String = questions.iter().map(line).collect();
        let child = self.start(&lines, OwnedFd::from(writer).into());
        child.wait_with_output().unwrap().status
    }

    /// The program's answer.
    pub fn ask(&self, question: &Question) -> Answer {
        let output = self.run(&serde_json::to_string(question).unwrap());
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// A machine on which the program uses this driver.
    pub fn host(&self) -> Host {
        let (library, socket) = (self.path("lib"), self.path("nvidiactl"));
        self.host_with(&format!(
            "LD_LIBRARY_PATH='{}' {}='{}' exec '{PROGRAM}'",
            library.display(),
            socket::VARIABLE,
            socket.display()
        ))
    }

    /// A machine with a shell script for the program.
    pub fn host_with(&self, script: &str) -> Host {
        let program = self.path(NVML_PROGRAM.trim_start_matches('/'));
        fs::create_dir_all(program.parent().unwrap()).unwrap();
        // Written by another process: a file that this process has open, or that a
        // child of another thread has inherited, cannot be run (ETXTBSY).
        let mut writer = Command::new("/bin/sh")
            .args(["-c", "cat > \"$0\" && chmod 755 \"$0\""])
            .arg(&program)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let text = format!("#!/bin/sh\n{script}\n");
        let mut input = writer.stdin.take().unwrap();
        io::Write::write_all(&mut input, text.as_bytes()).unwrap();
        drop(input);
        assert!(writer.wait().unwrap().success());
        Host::new(self.root.path())
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }
}

fn serve(listener: &UnixListener, twins: &Mutex<Twins>, closed: &Sender<usize>) {
    loop {
        let mut control = Counting(twins, 0);
        // If the library is killed, the answer cannot be sent.
        let _ = socket::serve_one(listener, &mut control);
        if closed.send(control.1).is_err() {
            return;
        }
    }
}

/// The lab's library: cargo puts it next to the tests of packages that depend on it.
fn library() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let library = test.parent().map(|folder| folder.join("libnvidia_ml.so"));
    library.filter(|path| Path::exists(path)).unwrap()
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|part| part == wanted)
}
