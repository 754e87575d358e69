//! Network interfaces that the host or a running VM uses: with an address or a route, or
//! below a bridge, a bond, a team, a VLAN or a macvtap.

use core::net::IpAddr;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
};

use super::{
    function::Function,
    need::Need,
    place,
    routes::{self, Route},
    storage::RemoteUse,
};
use crate::{
    device::{Sysfs, at, list, optional, read},
    model::PciAddress,
};

const CLASS: &str = "/sys/class/net";

/// The host's use of its network interfaces.
#[derive(Debug, Default)]
pub(super) struct Network {
    /// The interfaces of each PCI function, with their directories.
    interfaces: BTreeMap<PciAddress, Vec<(String, String)>>,
    /// The interfaces directly above each one.
    above: BTreeMap<String, Vec<String>>,
    /// The use of each interface by itself, in words.
    uses: BTreeMap<String, Vec<String>>,
    /// The storage that comes through each interface.
    storage: BTreeMap<String, Vec<Vec<String>>>,
    unread: Vec<String>,
}

impl Network {
    /// Reads it. `servers` are those that the host has storage from.
    pub(super) fn read(sysfs: &dyn Sysfs, servers: &[RemoteUse]) -> Self {
        let mut network = Self::default();
        network.note(|network| network.read_interfaces(sysfs));
        network.note(|network| network.read_addresses(sysfs));
        network.note(|network| network.read_pppoe(sysfs));
        network.note(|network| network.read_promiscuous(sysfs));
        network.note(|network| {
            let routes = routes::all(sysfs)?;
            network.add_routes(&routes);
            network.add_servers(&routes, servers);
            Ok(())
        });
        network
    }

    fn note(&mut self, act: impl FnOnce(&mut Self) -> io::Result<()>) {
        if let Err(error) = act(self) {
            self.unread.push(error.to_string());
        }
    }

    fn read_interfaces(&mut self, sysfs: &dyn Sysfs) -> io::Result<()> {
        let mut waiting = VecDeque::new();
        let mut paths = BTreeMap::new();
        for (name, path) in place::of_class(sysfs, "net")? {
            let directory = place::parent(place::parent(&path)).to_owned();
            let functions = place::functions(&directory);
            if !functions.is_empty() {
                waiting.push_back(name.clone());
            }
            for function in functions {
                let interface = (name.clone(), directory.clone());
                self.interfaces.entry(function).or_default().push(interface);
            }
            paths.insert(name, path);
        }
        // Only what stands on hardware is looked at: a host with many VMs has many more.
        let mut seen: BTreeSet<String> = waiting.iter().cloned().collect();
        while let Some(name) = waiting.pop_front() {
            let Some(path) = paths.get(&name) else {
                continue;
            };
            match list(sysfs, path) {
                Ok(entries) => {
                    let above = entries
                        .iter()
                        .filter_map(|entry| entry.strip_prefix("upper_"));
                    let above: Vec<String> = above.map(str::to_owned).collect();
                    for next in &above {
                        if seen.insert(next.clone()) {
                            waiting.push_back(next.clone());
                        }
                    }
                    self.above.insert(name, above);
                }
                Err(error) if place::is_gone(&error) => {}
                Err(error) => self.unread.push(error.to_string()),
            }
        }
        Ok(())
    }

    /// Interfaces that receive everything: below a macvlan or a bridge in another network
    /// namespace, which has no link here, or read by a program.
    fn read_promiscuous(&mut self, sysfs: &dyn Sysfs) -> io::Result<()> {
        /// `IFF_PROMISC` and `IFF_ALLMULTI`.
        const ALL: u32 = 0x100 | 0x200;
        let names: Vec<String> = self.above.keys().cloned().collect();
        for name in names {
            let text = optional(read(sysfs, &format!("{CLASS}/{name}/flags")))?;
            let flags = text.and_then(|text| {
                let digits = text.strip_prefix("0x")?.to_owned();
                u32::from_str_radix(&digits, 16).ok()
            });
            if flags.is_some_and(|flags| flags & ALL != 0) {
                self.use_of(&name, "receives everything (promiscuous)".to_owned());
            }
        }
        Ok(())
    }

    fn use_of(&mut self, interface: &str, label: String) {
        let uses = self.uses.entry(interface.to_owned()).or_default();
        if !uses.contains(&label) {
            uses.push(label);
        }
    }

    fn read_addresses(&mut self, sysfs: &dyn Sysfs) -> io::Result<()> {
        let ipv4 = sysfs.ipv4_addresses()?;
        for found in ipv4 {
            // The label of an address can follow the name: `eth0:1`.
            let name = found.interface.split(':').next().unwrap_or_default();
            self.use_of(name, format!("address {}", found.address));
        }
        for (name, address) in routes::ipv6_addresses(sysfs)? {
            self.use_of(&name, format!("address {address}"));
        }
        Ok(())
    }

    /// Sessions of PPPoE, which has no link to the interface below it.
    fn read_pppoe(&mut self, sysfs: &dyn Sysfs) -> io::Result<()> {
        const SESSIONS: &str = "/proc/net/pppoe";
        let text = optional(read(sysfs, SESSIONS))?.unwrap_or_default();
        for line in text.lines().skip(1) {
            let interface = line.split_ascii_whitespace().last();
            let wrong = || io::Error::new(io::ErrorKind::InvalidData, "a line is empty");
            let interface = interface.ok_or_else(|| at(SESSIONS, &wrong()))?;
            self.use_of(interface, "PPPoE".to_owned());
        }
        Ok(())
    }

    fn add_routes(&mut self, routes: &[Route]) {
        for route in routes {
            let known = self.uses.get(&route.interface);
            // The network of an address needs no words of its own.
            if route.is_default() || known.is_none() {
                self.use_of(&route.interface, route.in_words());
            }
        }
    }

    fn add_servers(&mut self, routes: &[Route], servers: &[RemoteUse]) {
        for server in servers {
            let address = server.address.trim_matches(['[', ']']);
            // Of a link-local address the interface is a part: `fe80::1%eth1`.
            let (address, scope) = match address.split_once('%') {
                Some((address, scope)) => (address, Some(scope)),
                None => (address, None),
            };
            let address = address.parse::<IpAddr>().ok();
            let by_route = || routes::interface_to(routes, address?);
            let interface = scope.or_else(by_route);
            // Without a route there is no interface that would have no address or route.
            if let Some(interface) = interface {
                let storage = self.storage.entry(interface.to_owned()).or_default();
                storage.push(server.names.clone());
            }
        }
    }

    /// Why the host needs the interfaces of a function.
    pub(super) fn needs(&self, sysfs: &dyn Sysfs, function: &Function, needs: &mut Vec<Need>) {
        let interfaces = self.interfaces.get(&function.address);
        let mut chains = Vec::new();
        for (interface, directory) in interfaces.into_iter().flatten() {
            let mut start = place::steps(directory, function.address);
            // The driver's own bus below the function says nothing here.
            start.retain(|step| !place::is_numbered(step, "virtio"));
            self.add_chains(sysfs, interface, &start, &mut chains);
        }
        let is_network = function.base() == 0x02;
        needs.extend(
            chains
                .into_iter()
                .map(|rest| Need::used(function.address, rest)),
        );
        if interfaces.is_some() || is_network {
            let unread = self.unread.iter();
            needs.extend(unread.map(|why| Need::unread(function.address, why)));
        }
        if interfaces.is_none() && is_network {
            self.add_elsewhere(sysfs, function, needs);
        }
    }

    /// The ways from an interface to all uses of it and of those above it.
    fn add_chains(
        &self,
        sysfs: &dyn Sysfs,
        interface: &str,
        start: &[String],
        chains: &mut Vec<Vec<String>>,
    ) {
        let longer = |chain: &[String], name: &str| {
            let mut chain = chain.to_vec();
            chain.push(name.to_owned());
            chain
        };
        let mut seen = BTreeSet::from([interface.to_owned()]);
        let mut waiting = VecDeque::from([(interface.to_owned(), longer(start, interface))]);
        while let Some((name, chain)) = waiting.pop_front() {
            for storage in self.storage.get(&name).into_iter().flatten() {
                let mut chain = chain.clone();
                chain.extend(storage.iter().cloned());
                chains.push(chain);
            }
            let uses = self.uses.get(&name);
            if let Some(uses) = uses {
                chains.push(longer(&chain, &in_words(uses)));
            }
            let above = self.above.get(&name).map(Vec::as_slice).unwrap_or_default();
            if above.is_empty() && uses.is_none() && name != interface {
                chains.push(longer(&chain, kind(sysfs, &name)));
            }
            for next in above {
                if seen.insert(next.clone()) {
                    waiting.push_back((next.clone(), longer(&chain, next)));
                }
            }
        }
    }

    /// An interface in another network namespace is not shown, but its directory is.
    fn add_elsewhere(&self, sysfs: &dyn Sysfs, function: &Function, needs: &mut Vec<Need>) {
        let address = function.address;
        match optional(list(sysfs, &format!("{}/net", function.directory()))) {
            Ok(None) => {}
            Ok(Some(names)) if names.is_empty() => {
                let use_ = "network interface in another network namespace".to_owned();
                needs.push(Need::used(address, vec![use_]));
            }
            // Made while this was read.
            Ok(Some(names)) => {
                let why = format!("{CLASS}: {} is new", names.join(", "));
                needs.push(Need::unread(address, &why));
            }
            Err(error) => needs.push(Need::unread(address, &error.to_string())),
        }
    }

    /// Whether the function has an interface that can be seen.
    pub(super) fn has_interface(&self, function: PciAddress) -> bool {
        self.interfaces.contains_key(&function)
    }
}

/// The first uses of an interface; one with a hundred addresses is needed no more.
fn in_words(uses: &[String]) -> String {
    const NAMED: usize = 3;
    let named: Vec<&str> = uses.iter().take(NAMED).map(String::as_str).collect();
    match uses.len().saturating_sub(NAMED) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

/// What an interface without an address is.
fn kind(sysfs: &dyn Sysfs, name: &str) -> &'static str {
    let text = sysfs.read(&format!("{CLASS}/{name}/uevent"));
    let text = text.unwrap_or_default();
    let mut lines = text.lines();
    match lines.find_map(|line| line.strip_prefix("DEVTYPE=")) {
        Some("bridge") => "bridge",
        Some("bond") => "bond",
        Some("team") => "team",
        Some("vlan") => "VLAN",
        Some("macvlan") => "macvlan",
        Some("macvtap") => "macvtap",
        _ => "interface in use",
    }
}
