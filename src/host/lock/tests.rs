use std::{path::Path, sync::Arc};

use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

/// The descriptors of this process that lead to the file.
fn descriptors(file: &Path) -> usize {
    let entries = std::fs::read_dir("/proc/self/fd").unwrap();
    entries
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter(|target| target == file)
        .count()
}

#[test]
fn waits_in_vain_do_not_gather() {
    let root = tempfile::tempdir().unwrap();
    let host = Host::new(root.path());
    let within = |span| HostLock::acquire(&host, "test", Deadline::after(span));
    let held = within(PATIENCE).unwrap();
    let path = host.path(LOCK).canonicalize().unwrap();
    for _ in 0..3 {
        // Who holds a lock does not wait for it.
        let elsewhere = std::thread::scope(|scope| {
            let waiter = scope.spawn(|| within(Duration::from_millis(30)));
            waiter.join().unwrap()
        });
        let refused = elsewhere.unwrap_err().to_string();
        let holder = format!("locked for 0 s by process {} (test);", std::process::id());
        assert!(refused.contains(&holder), "{refused}");
    }
    // The holder's, and that of a thread that may wait.
    assert!(descriptors(&path) <= 2);
    drop(held);
    within(PATIENCE).unwrap();
    assert!(Deadline::after(PATIENCE).wait_until(|| descriptors(&path) == 0));
}

/// One of them is woken by the kernel, the others ask.
#[test]
fn all_who_wait_get_the_lock() {
    let root = tempfile::tempdir().unwrap();
    let host = Arc::new(Host::new(root.path()));
    let within = |host: &Host| HostLock::acquire(host, "test", Deadline::after(PATIENCE));
    let held = within(&host).unwrap();
    let (started, waits) = mpsc::channel();
    let waiter = || {
        let (host, started) = (Arc::clone(&host), started.clone());
        std::thread::spawn(move || {
            started.send(()).unwrap();
            within(&host).map(drop)
        })
    };
    let waiters = [waiter(), waiter(), waiter()];
    for _ in &waiters {
        waits.recv().unwrap();
    }
    drop(held);
    for waiter in waiters {
        waiter.join().unwrap().unwrap();
    }
}

const DOMAIN: &str = "aaaaaaaa-0000-4000-8000-000000000001";

fn soon() -> Deadline {
    Deadline::after(PATIENCE)
}

/// What breaks the order of the locks, in words; None where it is kept.
#[cfg(debug_assertions)]
fn broken(take: impl FnOnce(&Host)) -> Option<String> {
    let root = tempfile::tempdir().unwrap();
    let host = Host::new(root.path());
    let taken = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| take(&host)));
    let said = taken.err()?.downcast::<String>().unwrap();
    Some(said.replace(&root.path().display().to_string(), ""))
}

#[cfg(debug_assertions)]
#[test]
fn locks_are_taken_in_their_order() {
    let device = |host: &Host, name: &str| {
        DeviceLock::acquire(host, &name.parse().unwrap(), "test", soon()).unwrap()
    };
    let planning = |host: &Host| HostLock::acquire(host, "test", soon()).unwrap();
    // All of them, as a start takes them.
    let kept = broken(|host| {
        let domain = DOMAIN.parse().unwrap();
        let _claim = ClaimLock::acquire(host, domain, "test", soon()).unwrap();
        let _first = device(host, "0000:3b:00.0");
        let _second = device(host, "0000:5e:00.0");
        let _planning = planning(host);
    });
    assert_eq!(kept, None);
    let host_first = broken(|host| {
        let _planning = planning(host);
        let _device = device(host, "0000:3b:00.0");
    });
    let said = "the lock /run/virt-vgpu/locks/0000:3b:00.0 is taken while /run/virt-vgpu/lock \
                is held";
    assert_eq!(host_first.as_deref(), Some(said));
    let other_way = broken(|host| {
        let _second = device(host, "0000:5e:00.0");
        let _first = device(host, "0000:3b:00.0");
    });
    let said = "the lock /run/virt-vgpu/locks/0000:3b:00.0 is taken while \
                /run/virt-vgpu/locks/0000:5e:00.0 is held";
    assert_eq!(other_way.as_deref(), Some(said));
}

#[cfg(debug_assertions)]
#[test]
fn no_driver_is_asked_while_the_host_lock_is_held() {
    use crate::{apply::Acts, device::step::Attribute};
    const TYPE: &str = "/sys/bus/pci/devices/0000:41:00.4/nvidia/current_vgpu_type";
    let planning = |host: &Host| HostLock::acquire(host, "test", soon()).unwrap();
    let said = format!("{TYPE} is asked for while the host lock is held");
    let read = broken(|host| {
        let _planning = planning(host);
        let _ = host.read(TYPE);
    });
    assert_eq!(read.as_ref(), Some(&said));
    let written = broken(|host| {
        let _planning = planning(host);
        let attribute = Attribute {
            path: TYPE.to_owned(),
            value: "0".to_owned(),
        };
        let _ = host.write(&attribute, None);
    });
    assert_eq!(written.as_ref(), Some(&said));
    // The kernel answers at once.
    let of_kernel = broken(|host| {
        let _planning = planning(host);
        let _ = host.read("/sys/bus/pci/devices/0000:41:00.4/vendor");
    });
    assert_eq!(of_kernel, None);
}

/// Who waited for a file that is gone has a lock that nobody else would meet.
#[test]
fn a_lock_whose_file_was_removed_is_taken_again() {
    let root = tempfile::tempdir().unwrap();
    let host = Arc::new(Host::new(root.path()));
    let domain = DOMAIN.parse().unwrap();
    let held = ClaimLock::acquire(&host, domain, "first", soon()).unwrap();
    let path = host.path(&claim_lock(domain));
    let waiter = {
        let (host, path) = (Arc::clone(&host), path.clone());
        std::thread::spawn(move || {
            let lock = ClaimLock::acquire(&host, domain, "second", soon()).unwrap();
            let now = path.metadata().unwrap().ino();
            let holds = lock.held._file.metadata().unwrap().ino();
            (now, holds)
        })
    };
    assert!(Deadline::after(PATIENCE).wait_until(|| descriptors(&path) >= 2));
    held.forget();
    let (now, holds) = waiter.join().unwrap();
    assert_eq!(now, holds);
}
