//! A view of sysfs that reads nothing twice.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    io,
};

use super::{InterfaceAddress, Sysfs};

/// Everything that was read once is answered from memory: for programs that look at a
/// host once, from several sides, and then end. The answers can be as old as the first
/// read.
pub struct Remembered<'a> {
    sysfs: &'a dyn Sysfs,
    texts: Known<String>,
    links: Known<String>,
    lists: Known<Vec<String>>,
    there: RefCell<HashMap<String, bool>>,
    addresses: Known<Vec<InterfaceAddress>>,
    asks_no_driver: Cell<bool>,
    has_missed: Cell<bool>,
}

type Known<T> = RefCell<HashMap<String, Result<T, Failed>>>;

/// An error that can be returned again.
#[derive(Debug, Clone)]
struct Failed {
    kind: io::ErrorKind,
    number: Option<i32>,
    message: String,
}

impl Failed {
    fn of(error: &io::Error) -> Self {
        Self {
            kind: error.kind(),
            number: error.raw_os_error(),
            message: error.to_string(),
        }
    }

    fn again(self) -> io::Error {
        match self.number {
            Some(number) => io::Error::from_raw_os_error(number),
            None => io::Error::new(self.kind, self.message),
        }
    }
}

impl std::fmt::Debug for Remembered<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remembered").finish_non_exhaustive()
    }
}

impl<'a> Remembered<'a> {
    /// Nothing is remembered yet.
    #[must_use]
    pub fn new(sysfs: &'a dyn Sysfs) -> Self {
        Self {
            sysfs,
            texts: RefCell::default(),
            links: RefCell::default(),
            lists: RefCell::default(),
            there: RefCell::default(),
            addresses: RefCell::default(),
            asks_no_driver: Cell::new(false),
            has_missed: Cell::new(false),
        }
    }

    /// From now on no driver is asked: what was not read before cannot be read
    /// ([`Self::has_missed`]).
    pub fn ask_no_driver_any_more(&self) {
        self.asks_no_driver.set(true);
    }

    /// Reverses [`Self::ask_no_driver_any_more`].
    pub fn ask_drivers_again(&self) {
        self.asks_no_driver.set(false);
        self.has_missed.set(false);
    }

    /// Forgets that something could not be read: it can be done without.
    pub fn forget_missed(&self) {
        self.has_missed.set(false);
    }

    /// Whether anything could not be read because no driver may be asked.
    #[must_use]
    pub fn has_missed(&self) -> bool {
        self.has_missed.get()
    }
}

fn known<T: Clone>(
    known: &Known<T>,
    path: &str,
    ask: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    if let Some(answer) = known.borrow().get(path) {
        return answer.clone().map_err(Failed::again);
    }
    let answer = ask();
    let kept = answer.as_ref().map(T::clone).map_err(Failed::of);
    known.borrow_mut().insert(path.to_owned(), kept);
    answer
}

impl Sysfs for Remembered<'_> {
    fn read(&self, path: &str) -> io::Result<String> {
        let is_too_late = self.asks_no_driver.get() && self.sysfs.is_of_driver(path);
        if is_too_late && !self.texts.borrow().contains_key(path) {
            self.has_missed.set(true);
            return Err(io::ErrorKind::WouldBlock.into());
        }
        known(&self.texts, path, || self.sysfs.read(path))
    }

    fn read_each(&self, paths: &[String]) -> Vec<io::Result<String>> {
        if !self.asks_no_driver.get() {
            let unknown: Vec<String> = {
                let texts = self.texts.borrow();
                let unknown = paths.iter().filter(|path| !texts.contains_key(*path));
                unknown.cloned().collect()
            };
            let answers = self.sysfs.read_each(&unknown);
            let mut texts = self.texts.borrow_mut();
            for (path, answer) in unknown.into_iter().zip(answers) {
                texts.insert(path, answer.map_err(|error| Failed::of(&error)));
            }
        }
        paths.iter().map(|path| self.read(path)).collect()
    }

    fn read_lossily(&self, path: &str) -> io::Result<String> {
        // Lists of the kernel, which each look reads once.
        self.sysfs.read_lossily(path)
    }

    fn read_bytes(&self, path: &str, length: usize) -> io::Result<Vec<u8>> {
        // The bytes of a device change; nobody reads them twice.
        self.sysfs.read_bytes(path, length)
    }

    fn is_group_open(&self, node: &str) -> bool {
        self.sysfs.is_group_open(node)
    }

    fn read_link(&self, path: &str) -> io::Result<String> {
        known(&self.links, path, || self.sysfs.read_link(path))
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        known(&self.lists, path, || self.sysfs.list(path))
    }

    fn exists(&self, path: &str) -> bool {
        if let Some(there) = self.there.borrow().get(path) {
            return *there;
        }
        let there = self.sysfs.exists(path);
        self.there.borrow_mut().insert(path.to_owned(), there);
        there
    }

    fn is_of_driver(&self, path: &str) -> bool {
        self.sysfs.is_of_driver(path)
    }

    fn is_too_late(&self) -> bool {
        self.has_missed()
    }

    fn ipv4_addresses(&self) -> io::Result<Vec<InterfaceAddress>> {
        known(&self.addresses, "", || self.sysfs.ipv4_addresses())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Counts the reads; has one of each kind, and refuses all others.
    #[derive(Default)]
    struct Counts(Cell<u32>);

    impl Counts {
        fn answer<T>(&self, path: &str, good: T) -> io::Result<T> {
            self.0.set(self.0.get() + 1);
            match path {
                "/there" => Ok(good),
                "/busy" => Err(io::Error::from_raw_os_error(16)),
                _ => Err(io::Error::new(io::ErrorKind::InvalidData, "not UTF-8")),
            }
        }
    }

    impl Sysfs for Counts {
        fn read(&self, path: &str) -> io::Result<String> {
            self.answer(path, "text".to_owned())
        }

        fn read_link(&self, path: &str) -> io::Result<String> {
            self.answer(path, "link".to_owned())
        }

        fn list(&self, path: &str) -> io::Result<Vec<String>> {
            self.answer(path, vec!["name".to_owned()])
        }

        fn exists(&self, path: &str) -> bool {
            self.answer(path, ()).is_ok()
        }

        fn ipv4_addresses(&self) -> io::Result<Vec<InterfaceAddress>> {
            let interface = "eth0".to_owned();
            let address = [192, 0, 2, 10].into();
            self.answer("/there", vec![InterfaceAddress { interface, address }])
        }
    }

    #[test]
    fn the_addresses_are_asked_for_once_and_passed_on() {
        let counts = Counts::default();
        let sysfs = Remembered::new(&counts);
        for _ in 0..3 {
            let addresses = sysfs.ipv4_addresses().unwrap();
            assert_eq!(addresses, Counts::default().ipv4_addresses().unwrap());
        }
        assert_eq!(counts.0.get(), 1);
    }

    #[test]
    fn each_question_is_asked_once_and_answered_alike() {
        let counts = Counts::default();
        let sysfs = Remembered::new(&counts);
        for path in ["/there", "/busy", "/odd"] {
            let before = counts.0.get();
            for _ in 0..3 {
                let same = |ours: io::Result<String>, theirs: io::Result<String>| {
                    let of =
                        |error: io::Error| (error.kind(), error.raw_os_error(), error.to_string());
                    assert_eq!(ours.map_err(of), theirs.map_err(of), "{path}");
                };
                let reference = Counts::default();
                same(sysfs.read(path), reference.read(path));
                same(sysfs.read_link(path), reference.read_link(path));
                same(
                    sysfs.list(path).map(|names| names.join("/")),
                    reference.list(path).map(|names| names.join("/")),
                );
                assert_eq!(sysfs.exists(path), reference.exists(path));
            }
            assert_eq!(counts.0.get() - before, 4, "{path}");
        }
    }
}
