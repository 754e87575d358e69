//! A machine's root directory with the model mounted at `sys`: tests add pools and
//! processes, run hooks on it, and check the result against the invariants.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use lab_nvidia::model::Vm;
use tempfile::TempDir;
use virt_vgpu::{
    claims::{self, Claim, ClaimedDevice, State},
    host::{Host, NVML_PROGRAM},
    model::Handle,
};

use super::{
    domain::Domain,
    kernel::{Bound, Kernel, Mdev, Vgpu},
    machine::Machine,
    mount::Mount,
    nvml_server::NvmlServer,
    process::{Outcome, Program},
};

fn vm(pid: u32, domain: &Domain) -> Vm {
    Vm {
        pid,
        uuid: Some(domain.uuid.to_string()),
        name: Some(domain.name.clone()),
    }
}

/// A root directory that replaces a machine.
#[derive(Debug)]
pub struct Scene {
    pub kernel: Kernel,
    /// Devices that existed before us and must still exist after us.
    foreign: BTreeMap<String, Mdev>,
    foreign_vgpus: BTreeMap<String, Vgpu>,
    /// The drivers of plain functions to which each comes back.
    bound: Mutex<BTreeMap<String, Bound>>,
    /// On a machine with GPUs that follow tables.
    _nvml: Option<NvmlServer>,
    // Unmounts before the directory is removed: fields are dropped in order.
    _mount: Mount,
    /// On a machine with plain functions.
    _vfio_groups: Option<Mount>,
    root: TempDir,
}

impl Scene {
    pub fn new(machine: Machine) -> Self {
        let has_nvml = !machine.gpus.is_empty();
        let has_groups = !machine.plain.is_empty();
        let kernel = Kernel::new(machine);
        super::ordinary_umask();
        // `/run` is in memory on real hosts too.
        let memory = Path::new("/dev/shm");
        let root = if memory.is_dir() {
            TempDir::new_in(memory)
        } else {
            TempDir::new()
        }
        .unwrap();
        // As on a host: everybody may enter.
        fs::set_permissions(root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for directory in ["sys", "run", "proc", "etc/virt-vgpu/pools.d"] {
            fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        write_quiet_proc(root.path());
        let mount = Mount::new(&kernel, &root.path().join("sys"));
        let vfio_groups = has_groups.then(|| {
            let directory = root.path().join("dev/vfio");
            fs::create_dir_all(&directory).unwrap();
            Mount::of_vfio_groups(&kernel, &directory)
        });
        Self {
            foreign: kernel.mdevs(),
            foreign_vgpus: kernel.vgpus(),
            bound: Mutex::new(kernel.bound()),
            _nvml: has_nvml.then(|| NvmlServer::install(&kernel, root.path())),
            kernel,
            _mount: mount,
            _vfio_groups: vfio_groups,
            root,
        }
    }

    pub fn root(&self) -> &Path {
        self.root.path()
    }

    pub fn host(&self) -> Host {
        Host::new(self.root())
    }

    /// The path in the scene for a path of the host.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root().join(path.trim_start_matches('/'))
    }

    /// Writes a file of the host with the directories above it.
    pub fn file(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A pool of all NVIDIA functions.
    pub fn pool(&self, name: &str, type_id: &str) {
        self.pool_with(name, type_id, "");
    }

    /// The same with more keys.
    pub fn pool_with(&self, name: &str, type_id: &str, keys: &str) {
        let text = format!(
            "kind = \"mdev\"\ntype = \"{type_id}\"\n{keys}\n[[rule]]\n\
             where = [{{ field = \"vendor-id\", op = \"equal\", value = \"10de\" }}]\n"
        );
        self.file(&format!("etc/virt-vgpu/pools.d/{name}.toml"), text);
    }

    /// A pool of vGPUs on all of NVIDIA's GPUs.
    pub fn vgpu_pool(&self, name: &str, profile: &str) {
        self.vgpu_pool_with(name, profile, "");
    }

    /// The same with more keys.
    pub fn vgpu_pool_with(&self, name: &str, profile: &str, keys: &str) {
        let text = format!(
            "kind = \"nvidia-vgpu\"\nprofile = \"{profile}\"\n{keys}\n[[rule]]\n\
             where = [{{ field = \"vendor-id\", op = \"equal\", value = \"10de\" }}]\n"
        );
        self.file(&format!("etc/virt-vgpu/pools.d/{name}.toml"), text);
    }

    /// A pool of all plain functions of Intel.
    pub fn pci_pool(&self, name: &str) {
        self.pci_pool_with(name, "");
    }

    /// The same with more keys.
    pub fn pci_pool_with(&self, name: &str, keys: &str) {
        let text = format!(
            "kind = \"pci\"\n{keys}\n[[rule]]\n\
             where = [{{ field = \"vendor-id\", op = \"equal\", value = \"8086\" }}]\n"
        );
        self.file(&format!("etc/virt-vgpu/pools.d/{name}.toml"), text);
    }

    /// From now on each plain function is to come back to the driver that it has now.
    pub fn accept_drivers(&self) {
        *self.at_first() = self.kernel.bound();
    }

    fn at_first(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Bound>> {
        self.bound.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The host has no program that asks NVML.
    pub fn without_nvml(&self) {
        fs::remove_file(self.path(NVML_PROGRAM)).unwrap();
    }

    /// A guest-driver image of the host.
    pub fn image(&self, path: &str) {
        self.file(path, "ISO");
    }

    /// This test program plays the libvirt daemon and is alive: the claim of a recent
    /// start is in doubt, not stale.
    pub fn daemon_lives(&self) {
        self.process(std::process::id(), "libvirtd", &[], &[]);
        self.file("proc/sys/kernel/random/boot_id", "0b0b0b0b\n");
    }

    /// The daemon is gone again, as after a crash.
    pub fn daemon_dies(&self) {
        self.ends(std::process::id());
    }

    /// A QEMU that runs the domain.
    pub fn runs(&self, pid: u32, domain: &Domain) {
        self.runs_on(pid, domain, &[]);
    }

    /// A QEMU that runs the domain with those virtual functions.
    pub fn runs_on(&self, pid: u32, domain: &Domain, functions: &[&str]) {
        let name = format!("guest={},debug-threads=on", domain.name);
        let uuid = domain.uuid.to_string();
        let arguments = ["-name", &name, "-uuid", &uuid, "-S"];
        let nodes = functions.iter().flat_map(|at| self.kernel.nodes(at));
        let nodes: Vec<String> = nodes.collect();
        self.process(pid, "qemu-system-x86 (1)", &arguments, &nodes);
        for function in functions {
            self.kernel.open(function, vm(pid, domain)).unwrap();
        }
    }

    /// The domain's QEMU has exactly these of its devices: mediated ones by UUID,
    /// functions by address.
    pub fn has_only(&self, pid: u32, domain: &Domain, devices: &[&str]) {
        if self.path(&format!("proc/{pid}")).exists() {
            self.ends(pid);
        }
        let mdevs = self.kernel.mdevs();
        let nodes = devices.iter().flat_map(|at| match mdevs.get(*at) {
            Some(mdev) => vec![format!("/dev/vfio/{}", mdev.iommu_group)],
            None => self.kernel.nodes(at).to_vec(),
        });
        let nodes: Vec<String> = nodes.collect();
        let uuid = domain.uuid.to_string();
        self.process(pid, "qemu-system-x86", &["-uuid", &uuid], &nodes);
        for at in devices {
            self.kernel.open(at, vm(pid, domain)).unwrap();
        }
    }

    /// The domain starts, and its QEMU has these of its devices.
    #[track_caller]
    pub fn starts(&self, pid: u32, domain: &Domain, devices: &[&str]) {
        self.prepare(domain).ends_well();
        self.hook(domain, "start begin -").run().ends_well();
        self.has_only(pid, domain, devices);
        self.hook(domain, "started begin -").run().ends_well();
    }

    /// A process that has the first mediated device of the domain open.
    pub fn opens(&self, pid: u32, domain: &Domain) {
        let uuid = &domain.mdevs()[0];
        let group = self.kernel.mdevs()[uuid].iommu_group;
        let nodes = ["/dev/vfio/vfio".to_owned(), format!("/dev/vfio/{group}")];
        self.process(pid, "holder", &[], &nodes);
        self.kernel.open(uuid, vm(pid, domain)).unwrap();
    }

    /// A process that has the virtual function open but does not look like the domain's
    /// QEMU, although the driver treats it as such.
    pub fn opens_function(&self, pid: u32, domain: &Domain, function: &str) {
        let [group, device] = self.kernel.nodes(function);
        let nodes = ["/dev/vfio/vfio".to_owned(), group, device];
        self.process(pid, "holder", &[], &nodes);
        self.kernel.open(function, vm(pid, domain)).unwrap();
    }

    fn process(&self, pid: u32, name: &str, arguments: &[&str], nodes: &[String]) {
        // Fields 3 to 21, then the start time.
        let between = "S 1".to_owned() + &" 0".repeat(17);
        self.file(
            &format!("proc/{pid}/stat"),
            format!("{pid} ({name}) {between} {} 0\n", pid + 1000),
        );
        let line: Vec<&str> = [name]
            .into_iter()
            .chain(arguments.iter().copied())
            .collect();
        self.file(&format!("proc/{pid}/cmdline"), line.join("\0") + "\0");
        self.file(&format!("proc/{pid}/status"), "Uid:\t0\t0\t0\t0\n");
        let descriptors = self.path(&format!("proc/{pid}/fd"));
        fs::create_dir_all(&descriptors).unwrap();
        for (number, node) in nodes.iter().enumerate() {
            symlink(node, descriptors.join(number.to_string())).unwrap();
        }
    }

    /// An open file of the process cannot be examined, as in a confined process.
    pub fn hides(&self, pid: u32) {
        self.process(pid, "hidden", &[], &[]);
        // A plain file cannot be read as a link.
        self.file(&format!("proc/{pid}/fd/3"), "");
    }

    /// The process is gone.
    pub fn ends(&self, pid: u32) {
        self.kernel.close_all(pid, false);
        fs::remove_dir_all(self.path(&format!("proc/{pid}"))).unwrap();
    }

    /// The hook for a domain, with libvirt's arguments.
    pub fn hook(&self, domain: &Domain, arguments: &str) -> Program {
        self.hook_with(domain, arguments, domain.xml())
    }

    /// The same with another text on stdin.
    pub fn hook_with(
        &self,
        domain: &Domain,
        arguments: &str,
        input: impl Into<Vec<u8>>,
    ) -> Program {
        Program::hook(self.root(), &domain.name, arguments, input)
    }

    pub fn prepare(&self, domain: &Domain) -> Outcome {
        self.hook(domain, "prepare begin -").run()
    }

    /// Frees what crashes left behind, regardless of the time since.
    #[cfg(feature = "cli")]
    pub fn reconcile(&self) -> Outcome {
        Program::command(self.root(), "reconcile --grace 0 --json").run()
    }

    /// The calls of libvirt when a domain has ended or failed to start.
    #[track_caller]
    pub fn stop(&self, domain: &Domain) {
        for arguments in ["stopped end destroyed", "release end destroyed"] {
            self.hook(domain, arguments).run().ends_well();
        }
    }

    /// Every claim; none is damaged.
    #[track_caller]
    pub fn claims(&self) -> Vec<Claim> {
        let (claims, damaged) = claims::load_all(&self.host()).unwrap();
        assert!(damaged.is_empty(), "{damaged:?}");
        claims
    }

    /// UUIDs of the mediated devices that did not exist at first.
    pub fn ours(&self) -> BTreeSet<String> {
        let mdevs = self.kernel.mdevs().into_keys();
        mdevs
            .filter(|uuid| !self.foreign.contains_key(uuid))
            .collect()
    }

    /// The virtual functions that are vGPUs now but were not at first.
    pub fn our_vgpus(&self) -> BTreeMap<String, Vgpu> {
        let mut vgpus = self.kernel.vgpus();
        vgpus.retain(|function, _| !self.foreign_vgpus.contains_key(function));
        vgpus
    }

    /// The invariant whenever no hook runs and every start has ended or been cleaned
    /// up: each device of ours is named by exactly one committed claim and is as
    /// claimed, foreign devices are unchanged, and there is no half-written file or
    /// claim.
    #[track_caller]
    pub fn is_settled(&self) {
        self.is_sound();
        for claim in self.claims() {
            assert_eq!(claim.state, State::Committed, "{claim:?}");
        }
        assert_eq!(self.temporary_files(), Vec::<String>::new());
    }

    /// The invariant before a crashed start has been cleaned up: its claim may exist,
    /// but its devices may not serve another domain.
    #[track_caller]
    pub fn is_sound(&self) {
        self.foreign_is_untouched();
        self.plain_is_sound();
        let mut claimed = BTreeSet::new();
        for claim in self.claims() {
            for device in claim.devices.iter().filter(|one| !self.is_plain(one)) {
                if claim.state != State::Committed {
                    assert_eq!(self.there(device), None, "not committed: {claim:?}");
                    continue;
                }
                let there = self.there(device);
                let there = there.unwrap_or_else(|| panic!("not there: {device:?}"));
                assert_eq!(there.0, device.parent.to_string(), "{device:?}");
                assert_eq!(there.1, device.type_id.to_string(), "{device:?}");
                assert!(
                    claimed.insert(device.handle.to_string()),
                    "claimed twice: {device:?}"
                );
            }
        }
        let mut ours = self.ours();
        ours.extend(self.our_vgpus().into_keys());
        assert_eq!(ours, claimed, "left: there; right: claimed");
    }

    /// Plain functions in committed claims are VFIO's, and all others have the driver that
    /// they had at first, if neither a claim nor the quarantine says that they could not be
    /// given back yet.
    #[track_caller]
    fn plain_is_sound(&self) {
        let mut claimed: BTreeMap<String, String> = BTreeMap::new();
        let mut leaving = BTreeSet::new();
        let now = self.kernel.bound();
        for claim in self.claims() {
            for device in claim.devices.iter().filter(|one| self.is_plain(one)) {
                for function in device.functions().map(|one| one.to_string()) {
                    let Some(bound) = now.get(&function) else {
                        continue;
                    };
                    if claim.state == State::Releasing {
                        leaving.insert(function);
                    } else if claim.state == State::Committed {
                        assert_eq!(bound.driver.as_deref(), Some("vfio-pci"), "{function}");
                        let domain = claim.domain_name.to_string();
                        let other = claimed.insert(function, domain.clone());
                        assert!(other.is_none_or(|other| other == domain), "{claim:?}");
                    }
                }
            }
        }
        let quarantined = claims::quarantine_reasons(&self.host()).unwrap();
        leaving.extend(quarantined.keys().map(ToString::to_string));
        let first = self.at_first();
        for (function, bound) in now {
            if !claimed.contains_key(&function) && !leaving.contains(&function) {
                assert_eq!(Some(&bound), first.get(&function), "{function}");
            }
        }
    }

    fn is_plain(&self, device: &ClaimedDevice) -> bool {
        device.handle.pci().is_some() && device.kind == "pci"
    }

    /// Parent and type of the device that has the claimed device's place.
    fn there(&self, device: &ClaimedDevice) -> Option<(String, String)> {
        let at = device.handle.to_string();
        match device.handle {
            Handle::Mdev(_) => {
                let mdev = self.kernel.mdevs().remove(&at)?;
                Some((mdev.parent, mdev.type_id))
            }
            Handle::Pci(_) => {
                let vgpu = self.kernel.vgpus().remove(&at)?;
                Some((at, vgpu.type_id.to_string()))
            }
        }
    }

    /// Nothing of ours is left, and foreign devices are unchanged.
    #[track_caller]
    pub fn is_empty(&self) {
        self.is_settled();
        assert_eq!(self.claims(), []);
        assert_eq!(self.media(), Vec::<String>::new());
    }

    /// The foreign devices are unchanged, and nobody tried to change them.
    #[track_caller]
    pub fn foreign_is_untouched(&self) {
        use super::tree::OnWrite;
        let mut mdevs = self.kernel.mdevs();
        mdevs.retain(|uuid, _| self.foreign.contains_key(uuid));
        assert_eq!(mdevs, self.foreign);
        let mut vgpus = self.kernel.vgpus();
        vgpus.retain(|function, _| self.foreign_vgpus.contains_key(function));
        assert_eq!(vgpus, self.foreign_vgpus);
        for write in self.kernel.writes() {
            let is_foreign = match &write.what {
                OnWrite::Remove { uuid } => self.foreign.contains_key(uuid),
                OnWrite::Vgpu { at, .. } => {
                    self.foreign.contains_key(at) || self.foreign_vgpus.contains_key(at)
                }
                OnWrite::Create { .. }
                | OnWrite::Parameters { .. }
                | OnWrite::Unbind { .. }
                | OnWrite::Bind { .. }
                | OnWrite::Probe
                | OnWrite::Override { .. } => false,
            };
            assert!(!is_foreign, "{write:?}");
        }
    }

    /// The links of domains to their guest-driver images.
    pub fn media(&self) -> Vec<String> {
        let names = self.names("var/lib/virt-vgpu/media");
        names.into_iter().filter(|n| !n.starts_with('.')).collect()
    }

    /// Files that a crash left half-written.
    pub fn temporary_files(&self) -> Vec<String> {
        let directories = [
            "run/virt-vgpu",
            "run/virt-vgpu/claims",
            "run/virt-vgpu/quarantine",
            "var/lib/virt-vgpu/media",
        ];
        let names = directories
            .iter()
            .flat_map(|directory| self.names(directory));
        names.filter(|name| name.starts_with('.')).collect()
    }

    fn names(&self, directory: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path(directory)) else {
            return Vec::new();
        };
        let name = |entry: std::io::Result<fs::DirEntry>| {
            entry.unwrap().file_name().into_string().unwrap()
        };
        let mut names: Vec<String> = entries.map(name).collect();
        names.sort();
        names
    }
}

/// The files by which a host shows that it needs none of its PCI functions: no mounts on
/// disks, no swap, no addresses, no routes.
pub fn write_quiet_proc(root: &Path) {
    for (path, text) in [
        ("proc/1/mountinfo", "22 1 0:21 / / rw - tmpfs tmpfs rw\n"),
        ("proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n"),
        (
            "proc/net/route",
            "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n",
        ),
        ("proc/net/ipv6_route", ""),
        ("proc/net/if_inet6", ""),
        ("proc/net/if_inet", ""),
        ("proc/consoles", ""),
        ("proc/iomem", ""),
    ] {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}
