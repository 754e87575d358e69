//! A `/sys` for the benchmark: plain files on a tmpfs, as fast as sysfs itself. Only
//! `create`, `remove`, `current_vgpu_type` and what gives a function its driver lead into a
//! small FUSE file system, which changes the files as the kernel would.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fmt::Write as _,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyWrite, Request, WriteFlags,
};

/// Types of each parent.
pub const TYPES: usize = 25;

/// How long it takes to make a mediated device, in milliseconds.
pub static CREATION: AtomicU64 = AtomicU64::new(0);

/// How the boards' virtual functions provide vGPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framework {
    /// Each makes a mediated device.
    Mdev,
    /// Each becomes a vGPU.
    VendorVfio,
}

/// The number of boards in most tables.
pub const BOARDS: usize = 8;
const VIRTUAL_FUNCTIONS: usize = 32;

/// A parent's address.
pub fn address(board: usize, function: usize) -> String {
    format!(
        "0000:{:02x}:{:02x}.{}",
        0x20 + board,
        function / 8,
        function % 8
    )
}

fn device(address: &str) -> PathBuf {
    Path::new("/sys/devices/pci0000:00").join(address)
}

/// The file that tells and takes the GPU instance of a function's vGPU.
pub fn instance(address: &str) -> String {
    format!("/sys/bus/pci/devices/{address}/nvidia/gpu_instance_id")
}

/// The file that a function's type is written to.
pub fn current_type(address: &str) -> String {
    format!("/sys/bus/pci/devices/{address}/nvidia/current_vgpu_type")
}

/// Fills `/sys`, which must be an empty tmpfs.
pub fn fill(framework: Framework, boards: usize) {
    if framework == Framework::Mdev {
        fs::create_dir_all("/sys/class/mdev_bus").unwrap();
    }
    fs::create_dir_all("/sys/bus/pci/devices").unwrap();
    fs::create_dir_all("/sys/bus/pci/drivers/nvidia").unwrap();
    fs::create_dir_all("/sys/bus/mdev/devices").unwrap();
    fs::create_dir_all("/sys/fuse").unwrap();
    for board in 0..boards {
        for function in 0..=VIRTUAL_FUNCTIONS {
            let address = address(board, function);
            let path = device(&address);
            fs::create_dir_all(&path).unwrap();
            for (name, text) in [
                ("vendor", "0x10de\n"),
                ("device", "0x26b9\n"),
                ("class", "0x030200\n"),
                ("numa_node", "0\n"),
            ] {
                fs::write(path.join(name), text).unwrap();
            }
            symlink(
                format!("../../../devices/pci0000:00/{address}"),
                format!("/sys/bus/pci/devices/{address}"),
            )
            .unwrap();
            symlink("../../../bus/pci/drivers/nvidia", path.join("driver")).unwrap();
            symlink(
                format!("../../../../devices/pci0000:00/{address}"),
                format!("/sys/bus/pci/drivers/nvidia/{address}"),
            )
            .unwrap();
            if function > 0 {
                let link = device(&self::address(board, 0)).join(format!("virtfn{}", function - 1));
                symlink(format!("../{address}"), link).unwrap();
                symlink(
                    format!("../{}", self::address(board, 0)),
                    path.join("physfn"),
                )
                .unwrap();
                match framework {
                    Framework::Mdev => {
                        symlink(
                            format!("../../devices/pci0000:00/{address}"),
                            format!("/sys/class/mdev_bus/{address}"),
                        )
                        .unwrap();
                        fill_types(&address, &path);
                    }
                    Framework::VendorVfio => fill_vgpu(&address, &path),
                }
            }
        }
    }
}

/// The whole functions of a host with nothing else.
pub const WHOLE: usize = 8;

/// What they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whole {
    /// Accelerator cards.
    Card,
    /// NVMe drives, each with a disk.
    Drive,
}

/// The address of a whole function.
pub fn whole(number: usize) -> String {
    format!("0000:{:02x}:00.0", 0x40 + number)
}

/// Fills `/sys`, which must be an empty tmpfs, with whole functions that the driver `host` has.
/// Each has an IOMMU group of its own.
pub fn fill_whole(what: Whole) {
    for driver in ["host", "vfio-pci"] {
        let directory = format!("/sys/bus/pci/drivers/{driver}");
        fs::create_dir_all(&directory).unwrap();
        for verb in ["bind", "unbind"] {
            let file = format!("/sys/fuse/{verb} {driver}");
            symlink(file, format!("{directory}/{verb}")).unwrap();
        }
    }
    for directory in ["/sys/bus/pci/devices", "/sys/class/block", "/sys/fuse"] {
        fs::create_dir_all(directory).unwrap();
    }
    symlink("/sys/fuse/probe", "/sys/bus/pci/drivers_probe").unwrap();
    fill_mounted();
    for number in 0..WHOLE {
        let address = whole(number);
        let path = device(&address);
        fs::create_dir_all(&path).unwrap();
        let class = match what {
            Whole::Card => "0x120000\n",
            Whole::Drive => "0x010802\n",
        };
        for (name, text) in [
            ("vendor", "0x144d\n"),
            ("device", "0xa808\n"),
            ("class", class),
            ("numa_node", "0\n"),
            ("reset_method", "flr bus\n"),
            ("config", "a header that answers"),
        ] {
            fs::write(path.join(name), text).unwrap();
        }
        let at = format!("devices/pci0000:00/{address}");
        if what == Whole::Drive {
            let disk = format!("nvme/nvme{number}/nvme{number}n1");
            fs::create_dir_all(path.join(&disk)).unwrap();
            fs::write(path.join(&disk).join("dev"), format!("259:{number}\n")).unwrap();
            let link = format!("/sys/class/block/nvme{number}n1");
            symlink(format!("../../{at}/{disk}"), link).unwrap();
        }
        let file = format!("/sys/fuse/override {address}");
        symlink(file, path.join("driver_override")).unwrap();
        let link = format!("/sys/bus/pci/devices/{address}");
        symlink(format!("../../../{at}"), link).unwrap();
        let group = format!("kernel/iommu_groups/{number}");
        let members = format!("/sys/{group}/devices");
        fs::create_dir_all(&members).unwrap();
        symlink(format!("../../../../{at}"), format!("{members}/{address}")).unwrap();
        symlink(format!("../../../{group}"), path.join("iommu_group")).unwrap();
        attach_driver(&address, "host").unwrap();
    }
}

/// The disks under this machine's mounts, all on one controller: the host needs it, and the
/// hook follows each.
fn fill_mounted() {
    fs::create_dir_all("/sys/dev/block").unwrap();
    let controller = "0000:00:01.0";
    let disks = "devices/pci0000:00/0000:00:01.0/block";
    fs::create_dir_all(format!("/sys/{disks}")).unwrap();
    for (name, text) in [("vendor", "0x1af4\n"), ("class", "0x010000\n")] {
        fs::write(device(controller).join(name), text).unwrap();
    }
    symlink(
        format!("../../../devices/pci0000:00/{controller}"),
        format!("/sys/bus/pci/devices/{controller}"),
    )
    .unwrap();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let numbers = mounts.lines().filter_map(|line| line.split(' ').nth(2));
    for number in numbers.filter(|number| !number.starts_with("0:")) {
        let name = format!("bench{}", number.replace(':', "-"));
        let path = format!("/sys/{disks}/{name}");
        if Path::new(&path).exists() {
            continue;
        }
        fs::create_dir_all(&path).unwrap();
        fs::write(format!("{path}/dev"), format!("{number}\n")).unwrap();
        for link in [format!("class/block/{name}"), format!("dev/block/{number}")] {
            symlink(format!("../../{disks}/{name}"), format!("/sys/{link}")).unwrap();
        }
    }
}

/// The driver has the function.
fn attach_driver(address: &str, driver: &str) -> Option<()> {
    symlink(
        format!("../../../bus/pci/drivers/{driver}"),
        device(address).join("driver"),
    )
    .ok()?;
    symlink(
        format!("../../../../devices/pci0000:00/{address}"),
        format!("/sys/bus/pci/drivers/{driver}/{address}"),
    )
    .ok()
}

/// The driver gives the function up (`unbind_store`: another driver's is refused).
fn unbind(driver: &str, address: &str) -> Option<()> {
    fs::remove_file(format!("/sys/bus/pci/drivers/{driver}/{address}")).ok()?;
    fs::remove_file(device(address).join("driver")).ok()
}

/// The IOMMU group with which QEMU opens a device. Nobody opens one here, so all are in
/// the same group.
const GROUP: &str = "../../../kernel/iommu_groups/7";

/// The type of vGPUs in GPU instances.
pub const IN_INSTANCE: u32 = 600;

const HEADER: &str = "ID    : vGPU Name\n";

fn creatable() -> String {
    let mut text = HEADER.to_owned();
    for number in 0..TYPES {
        let _ = writeln!(text, "{:<5} : NVIDIA L40S-{number}Q", 500 + number);
    }
    let _ = writeln!(text, "{IN_INSTANCE:<5} : NVIDIA L40S-1-12Q");
    text
}

fn fill_vgpu(address: &str, path: &Path) {
    symlink(GROUP, path.join("iommu_group")).unwrap();
    let directory = path.join("nvidia");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("creatable_vgpu_types"), creatable()).unwrap();
    for name in ["vgpu_params", "placement_id", "gpu_instance_id"] {
        fs::write(directory.join(name), "").unwrap();
    }
    symlink(
        format!("/sys/fuse/type {address}"),
        directory.join("current_vgpu_type"),
    )
    .unwrap();
}

fn fill_types(address: &str, path: &Path) {
    for number in 0..TYPES {
        let id = format!("nvidia-{}", 500 + number);
        let directory = path.join("mdev_supported_types").join(&id);
        fs::create_dir_all(&directory).unwrap();
        for (name, text) in [
            ("name", format!("NVIDIA L40S-{number}Q\n")),
            (
                "description",
                "num_heads=4, frl_config=60, framebuffer=2048M, max_instance=24\n".to_owned(),
            ),
            ("available_instances", "1\n".to_owned()),
            ("device_api", "vfio-pci\n".to_owned()),
        ] {
            fs::write(directory.join(name), text).unwrap();
        }
        symlink(
            format!("/sys/fuse/create {address} {id}"),
            directory.join("create"),
        )
        .unwrap();
    }
}

/// The files that react to writes. A name is `create PARENT TYPE`, `remove UUID`,
/// `type FUNCTION`, `override FUNCTION`, `unbind DRIVER`, `bind DRIVER` or `probe`.
#[derive(Default)]
struct Reactor {
    names: Mutex<Vec<String>>,
    /// Types of functions by their addresses, if one was written.
    types: Mutex<BTreeMap<String, String>>,
    /// The drivers that functions are reserved for, by their addresses.
    overrides: Mutex<BTreeMap<String, String>>,
}

impl Reactor {
    const TTL: Duration = Duration::from_secs(3600);

    fn attributes(inode: INodeNo) -> FileAttr {
        let directory = inode == INodeNo::ROOT;
        FileAttr {
            ino: inode,
            size: 4096,
            blocks: 0,
            atime: SystemTime::UNIX_EPOCH,
            mtime: SystemTime::UNIX_EPOCH,
            ctime: SystemTime::UNIX_EPOCH,
            crtime: SystemTime::UNIX_EPOCH,
            kind: if directory {
                FileType::Directory
            } else {
                FileType::RegularFile
            },
            perm: if directory { 0o755 } else { 0o600 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    fn name(&self, inode: INodeNo) -> String {
        self.names.lock().unwrap()[usize::try_from(inode.0).unwrap() - 2].clone()
    }

    fn react(&self, name: &str, text: &str) -> Option<()> {
        let words: Vec<&str> = name.split(' ').collect();
        match words[..] {
            ["create", parent, id] => create(text.trim(), parent, id),
            ["remove", uuid] => remove(uuid),
            ["type", function] => self.set_type(function, text.trim()),
            ["override", function] => {
                let mut overrides = self.overrides.lock().unwrap();
                match text.trim() {
                    "" => overrides.remove(function),
                    driver => overrides.insert(function.to_owned(), driver.to_owned()),
                };
                Some(())
            }
            ["unbind", driver] => unbind(driver, text.trim()),
            ["bind", driver] => attach_driver(text.trim(), driver),
            ["probe"] => {
                let overrides = self.overrides.lock().unwrap();
                let driver = overrides.get(text.trim()).map_or("host", String::as_str);
                attach_driver(text.trim(), driver)
            }
            _ => None,
        }
    }

    /// A free function accepts a type; a function with a type accepts 0.
    fn set_type(&self, function: &str, id: &str) -> Option<()> {
        let mut types = self.types.lock().unwrap();
        let is_free = types.get(function).is_none_or(|current| current == "0");
        if is_free == (id == "0") {
            return None;
        }
        let list = device(function).join("nvidia/creatable_vgpu_types");
        fs::write(
            list,
            if is_free {
                HEADER.to_owned()
            } else {
                creatable()
            },
        )
        .ok()?;
        types.insert(function.to_owned(), id.to_owned());
        Some(())
    }
}

fn create(uuid: &str, parent: &str, id: &str) -> Option<()> {
    let path = device(parent).join(uuid);
    fs::create_dir(&path).ok()?;
    symlink(
        format!("../mdev_supported_types/{id}"),
        path.join("mdev_type"),
    )
    .ok()?;
    symlink(format!("/sys/fuse/remove {uuid}"), path.join("remove")).ok()?;
    symlink(GROUP, path.join("iommu_group")).ok()?;
    set_available(parent, "0\n");
    let link = format!("../../../devices/pci0000:00/{parent}/{uuid}");
    symlink(link, format!("/sys/bus/mdev/devices/{uuid}")).ok()
}

fn remove(uuid: &str) -> Option<()> {
    let link = PathBuf::from("/sys/bus/mdev/devices").join(uuid);
    let path = fs::canonicalize(&link).ok()?;
    let parent = path.parent()?.file_name()?.to_str()?.to_owned();
    fs::remove_file(link).ok()?;
    fs::remove_dir_all(path).ok()?;
    set_available(&parent, "1\n");
    Some(())
}

/// A virtual function holds one device of any type.
fn set_available(parent: &str, text: &str) {
    for number in 0..TYPES {
        let id = format!("nvidia-{}", 500 + number);
        let path = device(parent)
            .join("mdev_supported_types")
            .join(id)
            .join("available_instances");
        fs::write(path, text).unwrap();
    }
}

impl Filesystem for Reactor {
    fn lookup(&self, _request: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let Some(name) = name.to_str() else {
            return reply.error(Errno::ENOENT);
        };
        let mut names = self.names.lock().unwrap();
        let position = names
            .iter()
            .position(|known| known == name)
            .unwrap_or_else(|| {
                names.push(name.to_owned());
                names.len() - 1
            });
        let inode = INodeNo(position as u64 + 2);
        reply.entry(&Self::TTL, &Self::attributes(inode), Generation(0));
    }

    fn getattr(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        reply.attr(&Self::TTL, &Self::attributes(inode));
    }

    fn open(&self, _request: &Request, _inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn setattr(
        &self,
        _request: &Request,
        inode: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<fuser::TimeOrNow>,
        _mtime: Option<fuser::TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        // Python and the shell truncate files that they open for writing.
        reply.attr(&Self::TTL, &Self::attributes(inode));
    }

    fn flush(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn read(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        _size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let name = self.name(inode);
        let known = |all: &Mutex<BTreeMap<String, String>>, function: &str, none: &str| {
            let all = all.lock().unwrap();
            all.get(function).map_or(none, String::as_str).to_owned() + "\n"
        };
        let text = match name.split_once(' ') {
            Some(("type", function)) => known(&self.types, function, "0"),
            Some(("override", function)) => known(&self.overrides, function, "(null)"),
            _ => return reply.error(Errno::EACCES),
        };
        let start = usize::try_from(offset).unwrap().min(text.len());
        reply.data(&text.as_bytes()[start..]);
    }

    fn write(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        _offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let name = self.name(inode);
        let text = std::str::from_utf8(data).unwrap_or_default().to_owned();
        let length = u32::try_from(data.len()).unwrap();
        let answer = move |done: Option<()>| match done {
            Some(()) => reply.written(length),
            None => reply.error(Errno::EIO),
        };
        let creation = Duration::from_millis(CREATION.load(Ordering::SeqCst));
        let words: Vec<String> = name.split(' ').map(ToOwned::to_owned).collect();
        match words.as_slice() {
            // Boards do not wait for each other.
            [what, parent, id] if what == "create" && !creation.is_zero() => {
                let (parent, id) = (parent.clone(), id.clone());
                std::thread::spawn(move || {
                    std::thread::sleep(creation);
                    answer(create(text.trim(), &parent, &id));
                });
            }
            _ => answer(self.react(&name, &text)),
        }
    }
}

/// Handles writes until it is dropped.
pub fn react() -> BackgroundSession {
    let mut config = Config::default();
    config.mount_options = vec![fuser::MountOption::FSName("sysfs-bench".to_owned())];
    fuser::spawn_mount(Reactor::default(), "/sys/fuse", &config)
        .expect("mount FUSE (is /dev/fuse there?)")
}
