//! The answers of the kernel's mdev core, as one list of operations that the model in
//! memory, the model behind a mount and a real kernel all pass. The list uses a
//! parent's own types, so that it works with any driver.
//!
//! With `VIRT_VGPU_CONTRACT_SYS=/sys` and `VIRT_VGPU_CONTRACT_PARENT=ADDRESS` it
//! runs against that parent, which must be free of mediated devices.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use nix::errno::Errno;
use virt_vgpu::{
    apply::Acts,
    device::{
        Sysfs,
        mdev::{self, MdevHost, MdevType, Parent},
        nvml::{Failure, FailureKind, Question},
        step::Attribute,
    },
};

/// Access through plain files below a root, like the hook's but without its child
/// process: nothing between the test and the kernel.
struct Files(PathBuf);

impl Files {
    fn path(&self, path: &str) -> PathBuf {
        self.0.join(path.strip_prefix("/sys/").unwrap())
    }
}

impl Sysfs for Files {
    fn read(&self, path: &str) -> io::Result<String> {
        Ok(fs::read_to_string(self.path(path))?.trim_end().to_owned())
    }

    fn read_link(&self, path: &str) -> io::Result<String> {
        Ok(fs::read_link(self.path(path))?.to_str().unwrap().to_owned())
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let entries = fs::read_dir(self.path(path))?;
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        Ok(names)
    }

    fn exists(&self, path: &str) -> bool {
        self.path(path).symlink_metadata().is_ok()
    }
}

impl Acts for Files {
    fn write(&self, attribute: &Attribute, _undo: Option<&Attribute>) -> io::Result<()> {
        virt_vgpu::host::write_attribute(&self.path(&attribute.path), &attribute.value)
    }

    fn change_gpu(&self, _: &Question, _: Option<&Question>) -> Result<(), Failure> {
        Err(Failure {
            kind: FailureKind::NoLibrary,
            message: "these are files".to_owned(),
        })
    }
}

/// One parent on which the list is run.
struct Subject<'a> {
    sysfs: &'a dyn Sysfs,
    attributes: &'a dyn Acts,
    parent: Parent,
    /// Whether the exact answers of the driver are known, not only those of the core.
    is_model: bool,
    /// Whether it is a virtual function: one device at most.
    holds_one: bool,
}

fn uuid(number: usize) -> String {
    format!("c0417ac7-0000-4000-8000-{number:012x}")
}

impl Subject<'_> {
    fn types(&self) -> Vec<MdevType> {
        let host = MdevHost::discover(self.sysfs).unwrap();
        host.types(&self.parent).unwrap()
    }

    fn available(&self, id: &str) -> usize {
        let found = self.types().into_iter().find(|kind| kind.id.as_str() == id);
        found.unwrap().available as usize
    }

    fn write(&self, path: String, value: &str) -> Result<(), Errno> {
        let value = value.to_owned();
        let attribute = Attribute { path, value };
        let errno = |error: io::Error| Errno::from_raw(error.raw_os_error().unwrap());
        self.attributes.write(&attribute, None).map_err(errno)
    }

    fn attribute(&self, id: &str, name: &str) -> String {
        format!("{}/mdev_supported_types/{id}/{name}", self.parent.path())
    }

    fn create(&self, id: &str, value: &str) -> Result<(), Errno> {
        self.write(self.attribute(id, "create"), value)
    }

    fn remove(&self, uuid: &str, value: &str) -> Result<(), Errno> {
        self.write(format!("/sys/bus/mdev/devices/{uuid}/remove"), value)
    }

    /// A driver's own refusal: the errno is the driver's choice.
    fn is_refused(&self, result: Result<(), Errno>) {
        let accepted = if self.is_model {
            &[Errno::EIO][..]
        } else {
            &[Errno::EIO, Errno::EINVAL, Errno::ENOSPC, Errno::EUSERS][..]
        };
        assert!(accepted.contains(&result.unwrap_err()), "{result:?}");
    }

    fn is_there(&self, uuid: &str, id: &str) {
        let found = mdev::find(self.sysfs, uuid.parse().unwrap()).unwrap();
        let found = found.unwrap_or_else(|| panic!("{uuid} is not there"));
        assert_eq!(found.parent, self.parent.name);
        assert_eq!(found.type_id.as_str(), id);
        let nodes = mdev::nodes(self.sysfs, uuid.parse().unwrap()).unwrap();
        assert!(nodes[0].starts_with("/dev/vfio/"), "{nodes:?}");
        let listed = self.sysfs.list(&self.attribute(id, "devices")).unwrap();
        assert!(listed.contains(&uuid.to_owned()), "{listed:?}");
    }

    fn is_gone(&self, uuid: &str) {
        assert_eq!(mdev::find(self.sysfs, uuid.parse().unwrap()).unwrap(), None);
        assert!(!self.sysfs.exists(&mdev::path(uuid.parse().unwrap())));
    }

    fn passes(&self) {
        let types = self.types();
        assert!(!types.is_empty(), "{} has no types", self.parent.name);
        self.devices_come_and_go(types[0].id.as_str());
        self.only_uuids_are_taken(types[0].id.as_str());
        for kind in &types {
            self.holds_as_many_as_it_says(kind);
        }
        self.one_size_at_a_time(&types);
        self.attributes_are_as_they_are(types[0].id.as_str());
        assert_eq!(self.types(), types, "the parent is as it was");
    }

    fn devices_come_and_go(&self, id: &str) {
        let before = self.available(id);
        assert!(before > 0);
        let (one, two) = (uuid(1), uuid(2));
        assert_eq!(self.create(id, &one), Ok(()));
        self.is_there(&one, id);
        assert_eq!(self.available(id), before - 1);
        assert_eq!(self.create(id, &one), Err(Errno::EEXIST));
        assert_eq!(self.create(id, &one.to_uppercase()), Err(Errno::EEXIST));
        if before > 1 {
            assert_eq!(self.create(id, &format!("{two}\n")), Ok(()));
            self.is_there(&two, id);
            assert_eq!(self.remove(&two, "1\n"), Ok(()));
            self.is_gone(&two);
        }
        for (value, answer) in [
            ("0", Ok(())),
            ("0x0", Ok(())),
            ("x", Err(Errno::EINVAL)),
            ("-1", Err(Errno::EINVAL)),
            ("1 2", Err(Errno::EINVAL)),
            (" 1", Err(Errno::EINVAL)),
        ] {
            assert_eq!(self.remove(&one, value), answer, "{value:?}");
            self.is_there(&one, id);
        }
        assert_eq!(self.remove(&one, "1"), Ok(()));
        self.is_gone(&one);
        assert_eq!(self.remove(&one, "1"), Err(Errno::ENOENT));
        assert_eq!(self.available(id), before);
        // The UUID is free again, and any number but 0 removes.
        assert_eq!(self.create(id, &one), Ok(()));
        assert_eq!(self.remove(&one, "0x2"), Ok(()));
        self.is_gone(&one);
    }

    fn only_uuids_are_taken(&self, id: &str) {
        let good = uuid(1);
        for bad in [
            "1",
            &good[..35],
            &format!("{good}\n\n"),
            &format!("{{{}}}", &good[..34]),
            &good.replace('-', "a"),
            &good.replace('c', "g"),
            &format!(" {}", &good[..35]),
            "c0417ac70000-4000-8000-0000000000011",
        ] {
            assert_eq!(self.create(id, bad), Err(Errno::EINVAL), "{bad:?}");
        }
        // The kernel ignores the 37th character.
        assert_eq!(self.create(id, &format!("{good}x")), Ok(()));
        self.is_there(&good, id);
        assert_eq!(self.remove(&good, "1"), Ok(()));
    }

    fn holds_as_many_as_it_says(&self, kind: &MdevType) {
        let id = kind.id.as_str();
        let room = self.available(id);
        assert!(!self.holds_one || room == 1);
        for number in 0..room {
            assert_eq!(self.available(id), room - number);
            assert_eq!(self.create(id, &uuid(number)), Ok(()));
        }
        assert_eq!(self.available(id), 0);
        self.is_refused(self.create(id, &uuid(room)));
        self.is_gone(&uuid(room));
        // A duplicate UUID is reported before the lack of space.
        assert_eq!(self.create(id, &uuid(0)), Err(Errno::EEXIST));
        for number in 0..room {
            assert_eq!(self.remove(&uuid(number), "1"), Ok(()));
        }
        assert_eq!(self.available(id), room);
    }

    /// The homogeneous rule: while a board holds one size of framebuffer, other sizes
    /// do not fit. A driver without that rule passes.
    fn one_size_at_a_time(&self, types: &[MdevType]) {
        let size = |kind: &MdevType| {
            let text = kind.description.clone().unwrap_or_default();
            let (_, rest) = text.split_once("framebuffer=")?;
            Some(rest.split(',').next()?.to_owned())
        };
        let first = &types[0];
        assert_eq!(self.create(first.id.as_str(), &uuid(1)), Ok(()));
        for other in &types[1..] {
            let id = other.id.as_str();
            if size(other) != size(first) {
                assert_eq!(self.available(id), 0, "{id}");
                self.is_refused(self.create(id, &uuid(2)));
                self.is_gone(&uuid(2));
            } else if self.is_model && !self.holds_one {
                assert_eq!(self.create(id, &uuid(2)), Ok(()));
                self.is_there(&uuid(2), id);
                assert_eq!(self.remove(&uuid(2), "1"), Ok(()));
            }
        }
        assert_eq!(self.remove(&uuid(1), "1"), Ok(()));
    }

    fn attributes_are_as_they_are(&self, id: &str) {
        assert_eq!(self.create(id, &uuid(1)), Ok(()));
        for name in ["name", "available_instances", "device_api", "description"] {
            let path = self.attribute(id, name);
            if self.sysfs.exists(&path) {
                assert_eq!(self.write(path, "1"), Err(Errno::EACCES), "{name}");
            }
        }
        let errno = |error: io::Error| Errno::from_raw(error.raw_os_error().unwrap());
        let read = |path: &str| self.sysfs.read(path).map_err(errno);
        let device = mdev::path(uuid(1).parse().unwrap());
        assert_eq!(read(&self.attribute(id, "create")), Err(Errno::EACCES));
        assert_eq!(read(&format!("{device}/remove")), Err(Errno::EACCES));
        assert_eq!(read(&device), Err(Errno::EISDIR));
        assert_eq!(self.write(device.clone(), "1"), Err(Errno::EISDIR));
        for absent in [
            self.attribute(id, "invented"),
            self.attribute("nvidia-0", "create"),
            mdev::path(uuid(2).parse().unwrap()) + "/remove",
        ] {
            assert_eq!(self.write(absent.clone(), "1"), Err(Errno::ENOENT));
            assert_eq!(read(&absent), Err(Errno::ENOENT));
        }
        let link = self.sysfs.read_link(&self.attribute(id, "name"));
        assert_eq!(link.map_err(errno), Err(Errno::EINVAL));
        assert_eq!(self.remove(&uuid(1), "1"), Ok(()));
    }
}

/// Answers that only a file system gives.
fn sysfs_takes_no_files(sys: &Path, parent: &Parent, id: &str) {
    let errno = |error: io::Error| Errno::from_raw(error.raw_os_error().unwrap());
    let parent = sys.join(parent.path().strip_prefix("/sys/").unwrap());
    let kind = parent.join("mdev_supported_types").join(id);
    let absent = kind.join("invented");
    assert_eq!(fs::write(&absent, "1").map_err(errno), Err(Errno::EACCES));
    assert_eq!(fs::create_dir(&absent).map_err(errno), Err(Errno::EPERM));
    assert_eq!(
        std::os::unix::fs::symlink("a", &absent).map_err(errno),
        Err(Errno::EPERM)
    );
    let name = kind.join("name");
    assert_eq!(fs::remove_file(&name).map_err(errno), Err(Errno::EPERM));
    assert_eq!(fs::rename(&name, &absent).map_err(errno), Err(Errno::EPERM));
    // A shell's `>`: truncating and creating are accepted if the attribute exists.
    let opened = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(kind.join("create"));
    assert_eq!(
        opened.unwrap().write(b"1").map_err(errno),
        Err(Errno::EINVAL)
    );
    // Each read from the start gives the present state.
    let mut file = fs::File::open(kind.join("available_instances")).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert!(text.ends_with('\n'), "{text:?}");
    assert_eq!(name.metadata().unwrap().permissions().mode() & 0o777, 0o444);
    let create = kind.join("create").metadata().unwrap();
    assert_eq!(create.permissions().mode() & 0o777, 0o200);
}

use std::os::unix::fs::PermissionsExt;

use crate::support::{
    kernel::Kernel,
    machine::{Function, Machine},
    mount::Mount,
};

fn machine() -> Machine {
    Machine::with([
        Function::board("0000:3b:00.0"),
        Function::sriov_board("41", 4),
    ])
}

fn parents(sysfs: &dyn Sysfs) -> Vec<Parent> {
    MdevHost::discover(sysfs).unwrap().parents().to_vec()
}

#[test]
fn the_model_in_memory_passes() {
    let kernel = Kernel::new(machine());
    let parents = parents(&kernel);
    let names: Vec<String> = parents
        .iter()
        .map(|parent| parent.name.to_string())
        .collect();
    assert_eq!(
        names,
        [
            "0000:3b:00.0",
            "0000:41:00.4",
            "0000:41:00.5",
            "0000:41:00.6",
            "0000:41:00.7"
        ]
    );
    for (number, parent) in parents.into_iter().enumerate() {
        Subject {
            sysfs: &kernel,
            attributes: &kernel,
            parent,
            is_model: true,
            holds_one: number > 0,
        }
        .passes();
    }
}

#[test]
fn the_mounted_model_passes() {
    let kernel = Kernel::new(machine());
    let directory = tempfile::tempdir().unwrap();
    let _mount = Mount::new(&kernel, directory.path());
    let files = Files(directory.path().to_owned());
    for (number, parent) in parents(&files).into_iter().take(2).enumerate() {
        let subject = Subject {
            sysfs: &files,
            attributes: &files,
            parent: parent.clone(),
            is_model: true,
            holds_one: number > 0,
        };
        subject.passes();
        let id = subject.types()[0].id.clone();
        sysfs_takes_no_files(directory.path(), &parent, id.as_str());
    }
}

/// Virtual functions of a board share its framebuffer.
#[test]
fn a_board_is_one_whatever_its_functions() {
    let kernel = Kernel::new(machine());
    let id = |n: usize| uuid(n);
    let at = |function: &str, kind: &str| {
        format!("/sys/bus/pci/devices/{function}/mdev_supported_types/{kind}/available_instances")
    };
    use crate::support::machine::{LARGE, SMALL};
    kernel.make(&id(1), "0000:41:00.4", LARGE);
    assert_eq!(kernel.read(&at("0000:41:00.5", SMALL)).unwrap(), "0");
    assert_eq!(kernel.read(&at("0000:41:00.5", LARGE)).unwrap(), "1");
    kernel.make(&id(2), "0000:41:00.5", LARGE);
    // Two functions are free, the board is full.
    assert_eq!(kernel.read(&at("0000:41:00.6", LARGE)).unwrap(), "0");
    assert_eq!(kernel.read(&at("0000:3b:00.0", SMALL)).unwrap(), "4");
}

#[test]
fn a_real_kernel_passes() {
    let Some(sys) = std::env::var_os("VIRT_VGPU_CONTRACT_SYS") else {
        return;
    };
    let name = std::env::var("VIRT_VGPU_CONTRACT_PARENT").expect("the parent's address");
    let files = Files(sys.clone().into());
    let parent = parents(&files)
        .into_iter()
        .find(|parent| parent.name.to_string() == name)
        .expect("a registered parent");
    let path = format!("{}/physfn", parent.path());
    let subject = Subject {
        sysfs: &files,
        attributes: &files,
        holds_one: files.exists(&path),
        parent: parent.clone(),
        is_model: false,
    };
    subject.passes();
    let id = subject.types()[0].id.clone();
    sysfs_takes_no_files(Path::new(&sys), &parent, id.as_str());
}
