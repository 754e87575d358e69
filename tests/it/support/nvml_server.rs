//! The programs `virt-vgpu-nvml` and `sriov-manage` of a machine in memory: scripts that send
//! their question here, where the twins are. The answer describes the present state.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{Shutdown, TcpListener, TcpStream},
    os::unix::fs::symlink,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use virt_vgpu::{device::nvml::Question, host::NVML_PROGRAM};

use super::kernel::Kernel;

/// NVIDIA's program that makes and takes away virtual functions.
const SRIOV_MANAGE: &str = "usr/lib/nvidia/sriov-manage";

/// Answers until it is dropped.
#[derive(Debug)]
pub struct NvmlServer {
    port: u16,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl NvmlServer {
    /// Puts the programs below `root` and answers their questions.
    pub fn install(kernel: &Kernel, root: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        for place in [NVML_PROGRAM.trim_start_matches('/'), SRIOV_MANAGE] {
            let program = root.join(place);
            fs::create_dir_all(program.parent().unwrap()).unwrap();
            // A link: a script that was just written might not be executable yet, because a
            // process that another thread has forked may have it open (ETXTBSY).
            let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support");
            symlink(scripts.join(program.file_name().unwrap()), &program).unwrap();
            fs::write(root.join(format!("{place}.port")), format!("{port}\n")).unwrap();
        }
        let ends = Arc::new(AtomicBool::new(false));
        let (kernel, ended) = (kernel.clone(), ends.clone());
        let serve = move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    break;
                }
                let kernel = kernel.clone();
                // A hanging driver does not block others.
                std::thread::spawn(move || converse(&kernel, &stream.unwrap()));
            }
        };
        Self {
            port,
            ends,
            thread: Some(std::thread::spawn(serve)),
        }
    }
}

impl Drop for NvmlServer {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        // Wakes the listener.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The caller may be gone before the answer.
fn converse(kernel: &Kernel, mut stream: &TcpStream) {
    let mut line = String::new();
    if BufReader::new(stream).read_line(&mut line).is_err() {
        return;
    }
    if let Some(arguments) = line.strip_prefix("sriov-manage ") {
        let answer = kernel.sriov_manage(arguments.trim_end());
        let _ = stream.write_all(format!("{answer}\n").as_bytes());
        let _ = stream.shutdown(Shutdown::Both);
        return;
    }
    let question: Question = serde_json::from_str(&line).unwrap();
    let answer = serde_json::to_string(&kernel.answer(&question)).unwrap();
    let _ = stream.write_all(format!("{answer}\n").as_bytes());
    let _ = stream.shutdown(Shutdown::Both);
}
