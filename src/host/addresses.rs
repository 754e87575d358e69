//! The addresses of network interfaces, which only netlink tells.

use std::io;

use crate::device::InterfaceAddress;

/// The IPv4 addresses of all interfaces of this network namespace.
pub(super) fn of_interfaces() -> io::Result<Vec<InterfaceAddress>> {
    let mut addresses = Vec::new();
    for entry in nix::ifaddrs::getifaddrs()? {
        let Some(address) = entry.address else {
            continue;
        };
        if let Some(address) = address.as_sockaddr_in() {
            addresses.push(InterfaceAddress {
                interface: entry.interface_name,
                address: address.ip(),
            });
        }
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_address_is_among_them() {
        let loopback = InterfaceAddress {
            interface: "lo".to_owned(),
            address: [127, 0, 0, 1].into(),
        };
        assert!(of_interfaces().unwrap().contains(&loopback));
    }
}
