//! Opens a VFIO device as QEMU does, and keeps it open until its standard input ends.
//! The first argument is the device's directory in sysfs. The other arguments are for
//! the driver, which reads them from the command line: `-uuid UUID -name guest=NAME`.
//! Prints `open`, or the name of the errno, on one line.

use std::{
    env,
    ffi::CString,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
    process::ExitCode,
};

use nix::{errno::Errno, libc, request_code_none};

const VFIO_TYPE: u8 = b';';
const VFIO_TYPE1_IOMMU: libc::c_int = 1;

nix::ioctl_write_int_bad!(
    /// `VFIO_SET_IOMMU`: what kind of IOMMU the container has.
    vfio_set_iommu,
    request_code_none!(VFIO_TYPE, 102)
);
nix::ioctl_write_ptr_bad!(
    /// `VFIO_GROUP_SET_CONTAINER`: puts the group into the container.
    vfio_group_set_container,
    request_code_none!(VFIO_TYPE, 104),
    libc::c_int
);
nix::ioctl_write_ptr_bad!(
    /// `VFIO_GROUP_GET_DEVICE_FD`: opens the device with this name.
    vfio_group_get_device_fd,
    request_code_none!(VFIO_TYPE, 106),
    libc::c_char
);

/// The files that must stay open.
struct Device {
    _container: File,
    _group: File,
    _device: OwnedFd,
}

fn read_write(path: impl AsRef<Path>) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

fn open(device: &Path) -> io::Result<Device> {
    let number = fs::read_link(device.join("iommu_group"))?;
    let number = number.file_name().ok_or(Errno::ENODEV)?;
    let real = fs::canonicalize(device)?;
    let name = real.file_name().ok_or(Errno::ENODEV)?;
    let name = CString::new(name.as_bytes())?;

    let group = read_write(Path::new("/dev/vfio").join(number))?;
    let container = read_write("/dev/vfio/vfio")?;
    let container_fd = container.as_raw_fd();
    // SAFETY: the argument is a pointer to an int that lives until the call returns.
    unsafe { vfio_group_set_container(group.as_raw_fd(), &raw const container_fd) }?;
    // SAFETY: the argument is a number.
    unsafe { vfio_set_iommu(container_fd, VFIO_TYPE1_IOMMU) }?;
    // SAFETY: the argument is a string that ends with 0 and lives until the call returns.
    let fd = unsafe { vfio_group_get_device_fd(group.as_raw_fd(), name.as_ptr()) }?;
    // SAFETY: the call has succeeded, so this is a new descriptor that nothing else owns.
    let device = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok(Device {
        _container: container,
        _group: group,
        _device: device,
    })
}

fn main() -> ExitCode {
    let Some(device) = env::args_os().nth(1) else {
        eprintln!("usage: vfio-opener DEVICE-FOLDER [-uuid UUID] [-name guest=NAME]");
        return ExitCode::from(2);
    };
    let opened = open(Path::new(&device));
    let answer = match &opened {
        Ok(_) => "open".to_owned(),
        Err(error) => {
            let errno = error.raw_os_error().map(Errno::from_raw);
            errno.map_or_else(|| error.to_string(), |errno| format!("{errno:?}"))
        }
    };
    if writeln!(io::stdout(), "{answer}").is_err() || opened.is_err() {
        return ExitCode::FAILURE;
    }
    // Any end of the input counts, including an error.
    _ = io::stdin().read_to_end(&mut Vec::new());
    ExitCode::SUCCESS
}
