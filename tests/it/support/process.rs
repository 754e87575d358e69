//! The programs as processes; the hook is started the way libvirt starts it.

use std::{
    fs::File,
    io::{Read, Seek, Write},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use virt_vgpu::host::Host;

/// A program to be run: what it gets as arguments and on stdin.
#[derive(Debug)]
pub struct Program {
    command: Command,
    input: Vec<u8>,
}

/// A program that runs.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: File,
    stderr: File,
    started: Instant,
}

/// A program that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// `None` when a signal ended it.
    pub code: Option<i32>,
    pub signal: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Program {
    /// The hook with libvirt's arguments (`prepare begin -`) below `root`.
    pub fn hook(root: &Path, domain: &str, arguments: &str, input: impl Into<Vec<u8>>) -> Self {
        let mut hook = Self::new(env!("CARGO_BIN_EXE_virt-vgpu-hook"), root, input.into());
        hook.command.arg(domain).args(arguments.split_whitespace());
        hook
    }

    /// The administrator's command below `root`.
    #[cfg(feature = "cli")]
    pub fn command(root: &Path, arguments: &str) -> Self {
        let mut program = Self::new(env!("CARGO_BIN_EXE_virt-vgpu"), root, Vec::new());
        program.command.args(arguments.split_whitespace());
        program
    }

    fn new(program: &str, root: &Path, input: Vec<u8>) -> Self {
        let mut command = Command::new(program);
        // The only variables that libvirt keeps (`virCommandAddEnvPassCommon`).
        command.env_clear();
        for (name, value) in [
            ("LC_ALL", "C"),
            ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
            ("HOME", "/root"),
            ("USER", "root"),
            ("LOGNAME", "root"),
        ] {
            command.env(name, value);
        }
        command.env(Host::ROOT_VARIABLE, root);
        Self { command, input }
    }

    /// Kills the child that writes attributes after that write; only one child.
    pub fn child_fault(mut self, number: usize, once: &std::path::Path) -> Self {
        let fault = format!("child:{number}");
        self.command
            .env("VIRT_VGPU_FAULT", fault)
            .env("VIRT_VGPU_FAULT_ONCE", once);
        self
    }

    /// Kills or fails the process at one of its effects (see `host::fault`).
    pub fn fault(mut self, fault: &str) -> Self {
        self.command.env("VIRT_VGPU_FAULT", fault);
        self
    }

    /// Leaves out the program's pauses.
    pub fn without_pauses(mut self) -> Self {
        self.command.env("VIRT_VGPU_FAULT_PAUSES", "none");
        self
    }

    /// Prints log messages of level error on stderr.
    pub fn logging(self) -> Self {
        self.logging_at("error")
    }

    /// Like [`Self::logging`], from another level on.
    pub fn logging_at(mut self, level: &str) -> Self {
        self.command.env("RUST_LOG", level);
        self
    }

    /// Lists the effects in a file.
    pub fn trace(mut self, file: &Path) -> Self {
        self.command.env("VIRT_VGPU_FAULT_TRACE", file);
        self
    }

    pub fn start(mut self) -> Running {
        let mut stdin = tempfile::tempfile().unwrap();
        stdin.write_all(&self.input).unwrap();
        stdin.rewind().unwrap();
        let (stdout, stderr) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        self.command
            .stdin(stdin)
            .stdout(stdout.try_clone().unwrap())
            .stderr(stderr.try_clone().unwrap());
        Running {
            started: Instant::now(),
            child: self.command.spawn().unwrap(),
            stdout,
            stderr,
        }
    }

    pub fn run(self) -> Outcome {
        self.start().wait()
    }

    /// Runs it with pipes for its output, as libvirt does, and returns when both are
    /// closed: a process left behind must not keep them open.
    pub fn run_on_pipes(mut self) -> Outcome {
        let mut stdin = tempfile::tempfile().unwrap();
        stdin.write_all(&self.input).unwrap();
        stdin.rewind().unwrap();
        let child = self
            .command
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, ended) = mpsc::channel();
        std::thread::spawn(move || sender.send(child.wait_with_output()));
        let output = ended.recv_timeout(Running::PATIENCE);
        let output = output.expect("its output is closed").unwrap();
        Outcome {
            code: output.status.code(),
            signal: output.status.signal(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Running {
    /// Far longer than the hook's own deadline: a test that reaches this has failed.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// Ends the process as a crash would.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let process = nix::unistd::Pid::from_raw(self.child.id().try_into().unwrap());
        nix::sys::signal::kill(process, signal).unwrap();
    }

    /// Waits until it, or a program that it has started, reads from the pipe. That goes on until
    /// the result is dropped.
    pub fn reads(&mut self, pipe: &Path) -> File {
        use std::os::unix::fs::OpenOptionsExt;
        loop {
            // Without a reader it cannot be opened.
            let mut open = File::options();
            let open = open.write(true).custom_flags(nix::libc::O_NONBLOCK);
            if let Ok(pipe) = open.open(pipe) {
                return pipe;
            }
            let ended = self.child.try_wait().unwrap();
            assert_eq!(ended, None, "{}", read(&mut self.stderr));
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until it has the file open.
    pub fn opens(&mut self, path: &Path) {
        let descriptors = format!("/proc/{}/fd", self.child.id());
        let is_it = |entry: std::io::Result<std::fs::DirEntry>| {
            let target = entry.and_then(|entry| std::fs::read_link(entry.path()));
            target.is_ok_and(|target| target == path)
        };
        let has_it = || {
            let mut entries = std::fs::read_dir(&descriptors).into_iter().flatten();
            entries.any(is_it)
        };
        while !has_it() {
            let ended = self.child.try_wait().unwrap();
            assert_eq!(ended, None, "{}", read(&mut self.stderr));
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    pub fn wait(mut self) -> Outcome {
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if self.started.elapsed() > Self::PATIENCE {
                self.kill();
                panic!("the hook did not end: {}", read(&mut self.stderr));
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        Outcome {
            code: status.code(),
            signal: status.signal(),
            stdout: read(&mut self.stdout),
            stderr: read(&mut self.stderr),
        }
    }
}

fn read(file: &mut File) -> String {
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    text
}

impl Outcome {
    pub fn succeeded(&self) -> bool {
        self.code == Some(0)
    }

    /// Panics unless it succeeded without complaints.
    #[track_caller]
    pub fn succeeds(&self) {
        assert_eq!((self.code, self.stderr.as_str()), (Some(0), ""), "{self:?}");
    }

    /// Panics unless it succeeded without any output.
    #[track_caller]
    pub fn ends_well(self) -> Self {
        self.succeeds();
        assert_eq!(self.stdout, "");
        self
    }

    /// Panics unless it refused with one line for the user; returns the line without
    /// the program's name.
    #[track_caller]
    pub fn refusal(&self) -> &str {
        assert_eq!(self.code, Some(1), "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        let line = self.stderr.strip_suffix('\n').unwrap_or_default();
        assert!(!line.contains('\n'), "more than a line: {self:?}");
        line.strip_prefix("virt-vgpu: ")
            .unwrap_or_else(|| panic!("not one line of ours: {self:?}"))
    }
}
