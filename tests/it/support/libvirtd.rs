//! A libvirtd for the tests alone, with an emulating QEMU: it needs root, but no
//! systemd, no KVM and no running libvirt, and does not touch the machine's own
//! libvirt.

use std::{
    env,
    path::Path,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use virt_vgpu::host::Host;

const PACKAGES: &str =
    "libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients qemu-system-x86 util-linux";

/// Where we keep what outlives a boot.
const STATE: &str = "/var/lib/virt-vgpu";

/// A daemon. It ends when it is dropped, or with the process.
pub struct Libvirtd {
    pub uri: String,
    /// Holds the pipe that tells the daemon about the end.
    keeper: Child,
}

impl Libvirtd {
    /// A module whose tests share a daemon has it in a `static LIBVIRTD`. Modules do
    /// not share it, because they use the same names and UUIDs of domains.
    pub fn start() -> Self {
        for program in ["libvirtd", "virsh", "qemu-system-x86_64", "unshare"] {
            assert!(
                is_installed(program),
                "{program} is not installed; run: apt-get install --no-install-recommends {PACKAGES}"
            );
        }
        let root = nix::unistd::geteuid().is_root();
        assert!(
            root,
            "run this test as root: it starts a libvirtd in its own mount namespace"
        );
        // The daemon removes it, because a static is never dropped.
        let dir = tempfile::Builder::new()
            .prefix("virt-vgpu-libvirtd-")
            .tempdir()
            .unwrap()
            .keep();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/libvirtd.sh");
        let keeper = Command::new("unshare")
            .args(["--mount", "--pid", "--fork", "--mount-proc", "bash"])
            .arg(script)
            .arg(&dir)
            .env("PATH", path())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let socket = dir.join("run/libvirt-sock");
        let daemon = Self {
            uri: format!("qemu+unix:///system?socket={}", socket.display()),
            keeper,
        };
        let started = Instant::now();
        while !daemon.try_virsh(&["version"]).status.success() {
            let log = || std::fs::read_to_string(dir.join("libvirtd.log")).unwrap_or_default();
            let patience = Duration::from_secs(60);
            assert!(
                started.elapsed() < patience,
                "libvirtd does not answer:\n{}",
                log()
            );
            thread::sleep(Duration::from_millis(100));
        }
        daemon
    }

    /// From now on its VMs find that root's `/var/lib/virt-vgpu` at its own path.
    pub fn sees_state_of(&self, root: &Path) {
        std::fs::create_dir_all(STATE).unwrap();
        let state = root.join(STATE.trim_start_matches('/'));
        self.mounts(&["mount", "--bind", state.to_str().unwrap(), STATE]);
    }

    /// From now on they find it empty.
    pub fn sees_no_state(&self) {
        self.mounts(&["mount", "-t", "tmpfs", "none", STATE]);
    }

    fn mounts(&self, command: &[&str]) {
        let process = self.keeper.id().to_string();
        let mut nsenter = Command::new("nsenter");
        nsenter
            .args(["--mount", "--target", &process])
            .args(command);
        assert!(nsenter.status().unwrap().success(), "{command:?}");
    }

    fn try_virsh(&self, arguments: &[&str]) -> Output {
        let mut virsh = Command::new("virsh");
        virsh
            .args(["--quiet", "--connect", &self.uri])
            .args(arguments);
        virsh.env("LC_ALL", "C").output().unwrap()
    }

    /// What `virt-vgpu` does below that root with this libvirt: its exit code, its standard
    /// output and its standard error.
    pub fn virt_vgpu(&self, root: &Path, arguments: &[&str]) -> (i32, String, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_virt-vgpu"))
            .args(arguments)
            .env(Host::ROOT_VARIABLE, root)
            .env("VIRSH_DEFAULT_CONNECT_URI", &self.uri)
            .output()
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let code = output.status.code().unwrap();
        (code, text(output.stdout), text(output.stderr))
    }

    /// What virsh prints; it must succeed.
    pub fn virsh(&self, arguments: &[&str]) -> String {
        let output = self.try_virsh(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "virsh {arguments:?}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Defines, or with `create` starts, a domain from its XML.
    pub fn make(&self, how: &str, xml: &str) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, xml).unwrap();
        self.virsh(&[how, file.path().to_str().unwrap()]);
    }

    /// The persistent definition.
    pub fn definition(&self, domain: &str) -> String {
        self.virsh(&["dumpxml", "--inactive", domain])
    }
}

/// libvirtd is in a directory outside of users' PATH.
fn path() -> String {
    format!("{}:/usr/sbin:/sbin", env::var("PATH").unwrap_or_default())
}

fn is_installed(program: &str) -> bool {
    path()
        .split(':')
        .any(|directory| Path::new(directory).join(program).is_file())
}
