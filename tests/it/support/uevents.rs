//! Events of devices as udev passes them on, in a network namespace of the test's own: the
//! machine's programs do not hear them.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::{
    sched::{CloneFlags, unshare},
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, sendto, socket,
    },
};

/// udev's group of listeners; 1 is the kernel's (`enum MonitorNetlinkGroup` of systemd).
const GROUP: u32 = 2;

/// Sends events.
pub struct Uevents(OwnedFd);

impl Uevents {
    /// Moves the calling thread, and the processes that it starts from now on, into a network
    /// namespace without other programs. Call it in a thread that is there for that.
    pub fn of_their_own() -> Self {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let kind = (AddressFamily::Netlink, SockType::Raw);
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(kind.0, kind.1, flags, SockProtocol::NetlinkKObjectUEvent);
        Self(socket.unwrap())
    }

    /// An event.
    pub fn send(&self, action: &str, subsystem: &str, path: &str) {
        self.send_raw(&message(action, (subsystem, subsystem), path));
    }

    /// Sends events of network devices, which the kernel takes for those of PCI functions,
    /// until it has no room for more, and some are lost to a listener.
    pub fn overrun(&self) {
        /// libudev asks for a buffer of 128 MiB, and takes messages of 8 KiB.
        const LONG: usize = 8000;
        let path = format!("/devices/virtual/net/{}", "x".repeat(LONG));
        let message = message("add", ("pci", "net"), &path);
        while !has_lost() {
            (0..1000).for_each(|_| self.send_raw(&message));
        }
    }

    /// Any message.
    pub fn send_raw(&self, message: &[u8]) {
        let to = NetlinkAddr::new(0, GROUP);
        // The kernel's own socket, which the message also goes to, may refuse it.
        let _ = sendto(self.0.as_raw_fd(), message, &to, MsgFlags::empty());
    }
}

/// Whether a listener of this network namespace has lost messages: the column "Drops".
fn has_lost() -> bool {
    let sockets = std::fs::read_to_string("/proc/thread-self/net/netlink").unwrap();
    let is_lost = |line: &str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        columns[3] == format!("{GROUP:08x}") && columns[8] != "0"
    };
    sockets.lines().skip(1).any(is_lost)
}

/// An event in udev's format (`struct monitor_netlink_header` of systemd), of a subsystem as
/// the kernel sees it and as udev does.
fn message(action: &str, (seen, subsystem): (&str, &str), path: &str) -> Vec<u8> {
    let properties = format!("ACTION={action}\0DEVPATH={path}\0SUBSYSTEM={subsystem}\0SEQNUM=1\0");
    let (header, length) = (40, u32::try_from(properties.len()).unwrap());
    let mut message = b"libudev\0".to_vec();
    message.extend(0xfeed_cafe_u32.to_be_bytes());
    for number in [header, header, length] {
        message.extend(number.to_ne_bytes());
    }
    message.extend(hash(seen.as_bytes()).to_be_bytes());
    message.extend([0; 12]);
    message.extend(properties.as_bytes());
    message
}

/// `MurmurHash2` without a seed: by it the kernel knows the subsystem of a message.
fn hash(text: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = u32::try_from(text.len()).unwrap();
    let chunks = text.chunks_exact(4);
    let rest = chunks.remainder();
    for chunk in chunks {
        let mut k = u32::from_ne_bytes(chunk.try_into().unwrap()).wrapping_mul(M);
        k = (k ^ (k >> 24)).wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    if !rest.is_empty() {
        for (index, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}
