//! The program `virt-vgpu-nvml` of a machine in memory: a script that sends its
//! question here, where the twins are. The answer describes the present state.

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

/// Answers until it is dropped.
#[derive(Debug)]
pub struct NvmlServer {
    port: u16,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl NvmlServer {
    /// Puts the program below `root` and answers its questions.
    pub fn install(kernel: &Kernel, root: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let program = root.join(NVML_PROGRAM.trim_start_matches('/'));
        fs::create_dir_all(program.parent().unwrap()).unwrap();
        // A link: a script that was just written might not be executable yet, because a
        // process that another thread has forked may have it open (ETXTBSY).
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/virt-vgpu-nvml");
        symlink(script, &program).unwrap();
        fs::write(
            root.join(format!("{}.port", NVML_PROGRAM.trim_start_matches('/'))),
            format!("{port}\n"),
        )
        .unwrap();
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
    let question: Question = serde_json::from_str(&line).unwrap();
    let answer = serde_json::to_string(&kernel.answer(&question)).unwrap();
    let _ = stream.write_all(format!("{answer}\n").as_bytes());
    let _ = stream.shutdown(Shutdown::Both);
}
