//! The model's `/sys` as a mounted file system, so that real processes get the
//! kernel's answers from it. Nothing is cached: each process sees the state of
//! the moment.

use std::{
    collections::HashMap,
    ffi::OsStr,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use fuser::{
    AccessFlags, BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType,
    Filesystem, FopenFlags, Generation, INodeNo, LockOwner, MountOption, OpenAccMode, OpenFlags,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use super::{
    kernel::Kernel,
    tree::{Entry, Tree},
};

/// A mount; dropping it unmounts, also while a test panics.
#[derive(Debug)]
pub struct Mount {
    _session: BackgroundSession,
}

impl Mount {
    /// Shows the machine at `directory`.
    ///
    /// # Panics
    /// When FUSE cannot be used: a test that needs it must not pass without it.
    pub fn new(kernel: &Kernel, directory: &Path) -> Self {
        Self::show(kernel, directory, Part::Sys)
    }

    /// Shows the VFIO groups of the machine, `/dev/vfio`, at `directory`.
    ///
    /// # Panics
    /// As [`Self::new`].
    pub fn of_vfio_groups(kernel: &Kernel, directory: &Path) -> Self {
        Self::show(kernel, directory, Part::VfioGroups)
    }

    fn show(kernel: &Kernel, directory: &Path, part: Part) -> Self {
        let device = Path::new("/dev/fuse");
        assert!(
            device.exists(),
            "these tests mount a model of /sys: they need /dev/fuse ('modprobe fuse') and root"
        );
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName("virt-vgpu-model".to_owned()),
            MountOption::NoAtime,
        ];
        let files = Files {
            kernel: kernel.clone(),
            part,
            inodes: Mutex::new(Inodes::default()),
        };
        let session = fuser::spawn_mount(files, directory, &config).unwrap_or_else(|error| {
            panic!("cannot mount the model of /sys (root needed): {error}")
        });
        Self { _session: session }
    }
}

/// Numbers of paths. A number always stands for the same path.
#[derive(Debug, Default)]
struct Inodes {
    paths: Vec<String>,
    numbers: HashMap<String, u64>,
}

impl Inodes {
    /// The kernel's number of the root.
    const ROOT: u64 = 1;

    fn path(&self, inode: INodeNo) -> Option<String> {
        match u64::from(inode) {
            Self::ROOT => Some(String::new()),
            number => {
                let index = usize::try_from(number - Self::ROOT - 1).ok()?;
                self.paths.get(index).cloned()
            }
        }
    }

    fn number(&mut self, path: &str) -> INodeNo {
        if path.is_empty() {
            return INodeNo(Self::ROOT);
        }
        if let Some(&number) = self.numbers.get(path) {
            return INodeNo(number);
        }
        self.paths.push(path.to_owned());
        let number = Self::ROOT + self.paths.len() as u64;
        self.numbers.insert(path.to_owned(), number);
        INodeNo(number)
    }
}

/// The part of the machine that a mount shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Sys,
    VfioGroups,
}

#[derive(Debug)]
struct Files {
    kernel: Kernel,
    part: Part,
    inodes: Mutex<Inodes>,
}

/// The kernel caches nothing.
const NEVER: Duration = Duration::ZERO;

impl Files {
    fn tree(&self) -> Arc<Tree> {
        match self.part {
            Part::Sys => self.kernel.tree(),
            Part::VfioGroups => Arc::new(self.kernel.vfio_groups()),
        }
    }

    fn at(&self, inode: INodeNo) -> Result<(String, Entry), Errno> {
        let path = self.inodes.lock().unwrap().path(inode);
        let path = path.ok_or(Errno::ENOENT)?;
        let entry = self.tree().get(&path).cloned();
        Ok((path, entry.ok_or(Errno::ENOENT)?))
    }

    fn attributes(&self, path: &str, entry: &Entry) -> FileAttr {
        /// sysfs gives every attribute the size of a page.
        const PAGE: u64 = 4096;
        let (kind, perm, size) = match entry {
            Entry::Directory(_) => (FileType::Directory, 0o755, 0),
            Entry::Link(target) => (FileType::Symlink, 0o777, target.len() as u64),
            Entry::Attribute(attribute) => (FileType::RegularFile, attribute.mode(), PAGE),
            Entry::Binary(bytes) => (FileType::RegularFile, 0o444, bytes.len() as u64),
        };
        FileAttr {
            ino: self.inodes.lock().unwrap().number(path),
            size,
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    fn child(&self, parent: INodeNo, name: &OsStr) -> Result<FileAttr, Errno> {
        let (directory, _) = self.at(parent)?;
        let path = format!("{directory}/{}", name.to_str().ok_or(Errno::ENOENT)?);
        let entry = self.tree().get(&path).cloned();
        Ok(self.attributes(&path, &entry.ok_or(Errno::ENOENT)?))
    }
}

impl Filesystem for Files {
    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.child(parent, name) {
            Ok(attributes) => reply.entry(&NEVER, &attributes, Generation(0)),
            Err(errno) => reply.error(errno),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.at(ino) {
            Ok((path, entry)) => reply.attr(&NEVER, &self.attributes(&path, &entry)),
            Err(errno) => reply.error(errno),
        }
    }

    /// `O_TRUNC` on an attribute is accepted and means nothing.
    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        self.getattr(req, ino, fh, reply);
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        match self.at(ino) {
            Ok((_, Entry::Link(target))) => reply.data(target.as_bytes()),
            Ok(_) => reply.error(Errno::EINVAL),
            Err(errno) => reply.error(errno),
        }
    }

    /// `kernfs_fop_open`: even root needs the attribute's own permission bit.
    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (path, entry) = match self.at(ino) {
            Ok(found) => found,
            Err(errno) => return reply.error(errno),
        };
        if self.part == Part::VfioGroups {
            return match self.kernel.may_open_group(&path) {
                Ok(()) => reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO),
                Err(errno) => reply.error(Errno::from_i32(errno as i32)),
            };
        }
        let (readable, writable) = match entry {
            Entry::Attribute(attribute) => (attribute.text.is_some(), attribute.on_write.is_some()),
            Entry::Binary(_) => (true, false),
            Entry::Directory(_) | Entry::Link(_) => return reply.error(Errno::EISDIR),
        };
        let access = flags.acc_mode();
        let reads = access != OpenAccMode::O_WRONLY;
        let writes = access != OpenAccMode::O_RDONLY;
        if (reads && !readable) || (writes && !writable) {
            return reply.error(Errno::EACCES);
        }
        // As in sysfs, one writer does not wait for another of the same file.
        let flags = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
        reply.opened(FileHandle(0), flags);
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let range = move |length: usize| {
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(length);
            start..(start + size as usize).min(length)
        };
        match self.at(ino) {
            Ok((_, Entry::Binary(bytes))) => reply.data(&bytes[range(bytes.len())]),
            // The attribute's function takes the device's lock.
            Ok((path, Entry::Attribute(_))) if self.kernel.is_locked_for(&path) => {
                let kernel = self.kernel.clone();
                drop(std::thread::spawn(move || {
                    match kernel.text(&format!("/sys{path}")) {
                        Ok(text) => reply.data(&text.as_bytes()[range(text.len())]),
                        Err(_) => reply.error(Errno::ENODEV),
                    }
                }));
            }
            Ok((path, Entry::Attribute(attribute))) => {
                let text = match attribute.text.unwrap_or_else(|| Ok(String::new())) {
                    Ok(text) => text,
                    Err(errno) => return reply.error(Errno::from_i32(errno as i32)),
                };
                let part = text.as_bytes()[range(text.len())].to_owned();
                match self.kernel.delay_of_read(&path) {
                    Duration::ZERO => reply.data(&part),
                    // A hanging driver does not block other reads.
                    delay => drop(std::thread::spawn(move || {
                        std::thread::sleep(delay);
                        reply.data(&part);
                    })),
                }
            }
            Ok(_) => reply.error(Errno::EISDIR),
            // The file was open when its device went.
            Err(_) => reply.error(Errno::ENODEV),
        }
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let Ok((_, Entry::Attribute(attribute))) = self.at(ino) else {
            return reply.error(Errno::ENODEV);
        };
        let Some(what) = attribute.on_write else {
            return reply.error(Errno::EACCES);
        };
        let kernel = self.kernel.clone();
        let data = data.to_owned();
        let answer = move || match kernel.perform(&what, &data) {
            Ok(count) => reply.written(u32::try_from(count).unwrap_or(u32::MAX)),
            Err(errno) => reply.error(Errno::from_i32(errno as i32)),
        };
        // A hanging driver does not block reads.
        std::thread::spawn(answer);
    }

    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn readdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let (path, names) = match self.at(ino) {
            Ok((path, Entry::Directory(names))) => (path, names),
            Ok(_) => return reply.error(Errno::ENOTDIR),
            Err(errno) => return reply.error(errno),
        };
        let tree = self.tree();
        let fixed = [".", ".."].map(|name| (ino, FileType::Directory, name.to_owned()));
        let listed = names.into_iter().filter_map(|name| {
            let path = format!("{path}/{name}");
            let attributes = self.attributes(&path, tree.get(&path)?);
            Some((attributes.ino, attributes.kind, name))
        });
        let skipped = usize::try_from(offset).unwrap_or(usize::MAX);
        for (place, (ino, kind, name)) in fixed.into_iter().chain(listed).enumerate().skip(skipped)
        {
            if reply.add(ino, place as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn access(&self, _req: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        reply.ok();
    }

    /// No file can be created in sysfs: its directories have no `create`.
    fn create(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        reply.error(Errno::EACCES);
    }

    fn mknod(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EPERM);
    }

    fn mkdir(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        reply.error(Errno::EPERM);
    }

    fn unlink(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EPERM);
    }

    fn rmdir(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(Errno::EPERM);
    }

    fn rename(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _new_parent: INodeNo,
        _new_name: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EPERM);
    }
}
