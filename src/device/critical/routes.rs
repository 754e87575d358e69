//! The kernel's routes and IPv6 addresses. Formats: `fib_route_seq_show`, `rt6_info_route`
//! and `if6_seq_show`.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::io;

use crate::device::{Sysfs, at, optional, read};

/// One route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) interface: String,
    destination: IpAddr,
    prefix: u32,
}

impl Route {
    /// Whether it is the way to all networks.
    pub(super) fn is_default(&self) -> bool {
        self.prefix == 0
    }

    /// In words: `default route`, `route to 192.0.2.0/24`.
    pub(super) fn in_words(&self) -> String {
        if self.is_default() {
            "default route".to_owned()
        } else {
            format!("route to {}/{}", self.destination, self.prefix)
        }
    }

    fn covers(&self, address: IpAddr) -> bool {
        match (self.destination, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - self.prefix.min(32)).unwrap_or(0);
                network.to_bits() & mask == address.to_bits() & mask
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let mask = u128::MAX
                    .checked_shl(128 - self.prefix.min(128))
                    .unwrap_or(0);
                network.to_bits() & mask == address.to_bits() & mask
            }
            _ => false,
        }
    }
}

/// The interface of the most special route to an address.
pub(super) fn interface_to(routes: &[Route], address: IpAddr) -> Option<&str> {
    let covering = routes.iter().filter(|route| route.covers(address));
    let best = covering.max_by_key(|route| route.prefix);
    best.map(|route| route.interface.as_str())
}

/// All routes except those that each interface has from the moment it is up: multicast and
/// link-local.
///
/// # Errors
/// When a table cannot be read, or has another form.
pub(super) fn all(sysfs: &dyn Sysfs) -> io::Result<Vec<Route>> {
    const IPV4: &str = "/proc/net/route";
    const IPV6: &str = "/proc/net/ipv6_route";
    let text = read(sysfs, IPV4)?;
    let lines = text.lines().skip(1);
    let mut routes = parsed(IPV4, lines, route4)?;
    // A kernel without IPv6 has no such file.
    let text = optional(read(sysfs, IPV6))?.unwrap_or_default();
    let routes6 = parsed(IPV6, text.lines(), route6)?;
    routes.extend(routes6.into_iter().flatten());
    Ok(routes)
}

/// The IPv6 addresses, each with its interface. Link-local ones are left out: an interface
/// has one from the moment it is up.
///
/// # Errors
/// When they cannot be read.
pub(super) fn ipv6_addresses(sysfs: &dyn Sysfs) -> io::Result<Vec<(String, Ipv6Addr)>> {
    const ADDRESSES: &str = "/proc/net/if_inet6";
    let text = optional(read(sysfs, ADDRESSES))?.unwrap_or_default();
    let addresses = parsed(ADDRESSES, text.lines(), |line| {
        let mut words = line.split_ascii_whitespace();
        let address = ipv6(words.next()?)?;
        Some((words.last()?.to_owned(), address))
    })?;
    let addresses = addresses.into_iter();
    Ok(addresses
        .filter(|(_, address)| !is_link_local(*address))
        .collect())
}

fn parsed<'a, T>(
    path: &str,
    lines: impl Iterator<Item = &'a str>,
    parse: impl Fn(&str) -> Option<T>,
) -> io::Result<Vec<T>> {
    let wrong = |number: usize| {
        let text = format!("entry {number} has another form");
        at(path, &io::Error::new(io::ErrorKind::InvalidData, text))
    };
    let lines = lines.filter(|line| !line.trim().is_empty());
    let parse = |(number, line)| parse(line).ok_or_else(|| wrong(number + 1));
    lines.enumerate().map(parse).collect()
}

/// `eth0 000200C0 00000000 0001 0 0 0 00FFFFFF 0 0 0`: addresses as they lie in memory.
fn route4(line: &str) -> Option<Route> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let address = |text: &str| {
        let bits = u32::from_str_radix(text, 16).ok()?;
        Some(Ipv4Addr::from_bits(u32::from_be(bits)))
    };
    let mask = address(words.get(7)?)?;
    Some(Route {
        interface: (*words.first()?).to_owned(),
        destination: IpAddr::V4(address(words.get(1)?)?),
        prefix: mask.to_bits().leading_ones(),
    })
}

/// `DESTINATION PREFIX SOURCE PREFIX NEXT METRIC REFERENCES USE FLAGS INTERFACE`. The inner
/// None: a route that says nothing.
fn route6(line: &str) -> Option<Option<Route>> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let destination = ipv6(words.first()?)?;
    let prefix = u32::from_str_radix(words.get(1)?, 16).ok()?;
    let interface = (*words.get(9)?).to_owned();
    let says_nothing = destination.is_multicast() || is_link_local(destination);
    let route = Route {
        interface,
        destination: IpAddr::V6(destination),
        prefix,
    };
    Some((!says_nothing).then_some(route))
}

fn ipv6(text: &str) -> Option<Ipv6Addr> {
    let bits = (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok())?;
    bits.map(Ipv6Addr::from_bits)
}

fn is_link_local(address: Ipv6Addr) -> bool {
    address.to_bits() >> 118 == 0xfe80 >> 6
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_most_special_route_wins() {
        let text = "\
eth0 00000000 010200C0 0003 0 0 0 00000000 0 0 0
eth1 000200C0 00000000 0001 0 0 0 00FFFFFF 0 0 0";
        let routes: Vec<Route> = text.lines().filter_map(route4).collect();
        let words: Vec<String> = routes.iter().map(Route::in_words).collect();
        assert_eq!(words, ["default route", "route to 192.0.2.0/24"]);
        let to = |address: &str| interface_to(&routes, address.parse().unwrap());
        assert_eq!(to("192.0.2.7"), Some("eth1"));
        assert_eq!(to("198.51.100.1"), Some("eth0"));
        assert_eq!(to("2001:db8::1"), None);
    }

    #[test]
    fn what_every_interface_has_is_no_route() {
        let link = "fe800000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0";
        let all = "ff000000000000000000000000000000 08 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0";
        assert_eq!(route6(link), Some(None));
        assert_eq!(route6(all), Some(None));
        let real = "20010db8000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0";
        assert_eq!(
            route6(real).unwrap().unwrap().in_words(),
            "route to 2001:db8::/64"
        );
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String, prefix: u32, address: u32) {
            let _ = (route4(&text), route6(&text), ipv6(&text));
            let destination = IpAddr::V4(Ipv4Addr::from_bits(address));
            let route = Route { interface: text, destination, prefix };
            let _ = (route.covers(destination), route.in_words());
        }
    }
}
