//! The `/sys` files of the machine: its nodes, functions, types and mediated devices as
//! directories, links and attributes.

use super::{Function, Mdev, OnWrite, State, Tree};
use crate::support::machine::Bridge;

impl State {
    pub(super) fn files(&self) -> Tree {
        let mut tree = Tree::default();
        for directory in [
            "",
            "/bus/pci/devices",
            "/bus/mdev/devices",
            "/class/block",
            "/class/net",
            "/devices/system/node",
        ] {
            tree.directory(directory);
        }
        for (number, node) in self.machine.nodes.iter().enumerate() {
            let path = format!("/devices/system/node/node{number}");
            tree.text(&format!("{path}/cpulist"), &node.cpus);
            tree.text(&format!("{path}/distance"), &node.distance);
        }
        for function in &self.machine.functions {
            self.add_function(&mut tree, function, &function.address);
            for (number, address) in (0..).zip(&function.virtual_functions) {
                self.add_function(&mut tree, function, address);
                add_virtual_function(&mut tree, &function.address, number, address);
            }
        }
        self.pci.add_to(&mut tree);
        for card in &self.cards {
            card.add_to(&mut tree, &self.without_vfio);
        }
        for (uuid, mdev) in &self.mdevs {
            let has_group = !self.without_vfio.contains(&mdev.parent);
            add_mdev(&mut tree, (uuid, mdev), has_group);
            if let Some((index, vgpu_handle)) = self.vgpu_handle(uuid) {
                self.cards[index].add_mdev_files(&mut tree, mdev, &vgpu_handle);
            }
        }
        match self.machine.bridges.as_slice() {
            [] => tree,
            bridges => tree.with_paths(|path| behind(bridges, path)),
        }
    }

    fn add_function(&self, tree: &mut Tree, function: &Function, address: &str) {
        let path = place(address);
        add_pci(
            tree,
            address,
            &Pci {
                vendor: function.vendor,
                device: function.device,
                class: function.class,
                subsystem_vendor: function.subsystem_vendor,
                subsystem_device: function.subsystem_device,
                numa_node: function.numa_node,
                driver: Some(&function.driver),
            },
        );
        let is_virtual = address != function.address;
        if function.types.is_empty() || (!is_virtual && !function.virtual_functions.is_empty()) {
            return;
        }
        tree.link(
            &format!("/class/mdev_bus/{address}"),
            &format!("../..{path}"),
        );
        for id in &function.types {
            let Some(kind) = self.type_of(id) else {
                continue;
            };
            let path = format!("{path}/mdev_supported_types/{id}");
            tree.text(&format!("{path}/name"), &kind.name);
            let description = format!(
                "num_heads=4, frl_config=60, framebuffer={}M, max_resolution=7680x4320, max_instance={}",
                kind.framebuffer, kind.max
            );
            tree.text(&format!("{path}/description"), description);
            tree.text(&format!("{path}/device_api"), &kind.device_api);
            let available = self.available(address, id);
            tree.text(&format!("{path}/available_instances"), available);
            tree.directory(&format!("{path}/devices"));
            let create = OnWrite::Create {
                parent: address.to_owned(),
                type_id: id.clone(),
            };
            tree.order(&format!("{path}/create"), create);
        }
    }
}

/// The files that every PCI function has.
pub(super) struct Pci<'a> {
    pub vendor: u16,
    pub device: u16,
    pub class: u32,
    pub subsystem_vendor: u16,
    pub subsystem_device: u16,
    pub numa_node: i32,
    pub driver: Option<&'a str>,
}

pub(super) fn add_pci(tree: &mut Tree, address: &str, pci: &Pci<'_>) {
    let path = place(address);
    let from_bus = format!("../../..{path}");
    tree.link(&format!("/bus/pci/devices/{address}"), &from_bus);
    let hexadecimal = |id: u16| format!("0x{id:04x}");
    for (name, text) in [
        ("vendor", hexadecimal(pci.vendor)),
        ("device", hexadecimal(pci.device)),
        ("class", format!("0x{:06x}", pci.class)),
        ("subsystem_vendor", hexadecimal(pci.subsystem_vendor)),
        ("subsystem_device", hexadecimal(pci.subsystem_device)),
        ("numa_node", pci.numa_node.to_string()),
    ] {
        tree.text(&format!("{path}/{name}"), text);
    }
    let Some(name) = pci.driver else { return };
    let driver = format!("/bus/pci/drivers/{name}");
    tree.link(&format!("{path}/driver"), &format!("../../..{driver}"));
    tree.link(
        &format!("{driver}/module"),
        &format!("../../../../module/{name}"),
    );
    tree.link(
        &format!("{driver}/{address}"),
        &format!("../../../..{path}"),
    );
}

pub(super) fn add_virtual_function(tree: &mut Tree, physical: &str, number: u32, address: &str) {
    tree.link(
        &format!("{}/physfn", place(address)),
        &format!("../{physical}"),
    );
    tree.link(
        &format!("{}/virtfn{number}", place(physical)),
        &format!("../{address}"),
    );
}

/// A function's directory.
pub(super) fn place(address: &str) -> String {
    let root = address.rsplit_once(':').map_or(address, |(bus, _)| bus);
    format!("/devices/pci{root}/{address}")
}

/// The path of a function, or of something below it, with the bridges above the function.
fn behind(bridges: &[Bridge], path: &str) -> String {
    let function = path.strip_prefix("/devices/pci");
    let Some((bus, rest)) = function.and_then(|path| path.split_once('/')) else {
        return path.to_owned();
    };
    match bridges.iter().find(|bridge| bridge.bus == bus) {
        Some(bridge) => format!("{}/{rest}", behind(bridges, &place(&bridge.address))),
        None => path.to_owned(),
    }
}

fn add_mdev(tree: &mut Tree, (uuid, mdev): (&str, &Mdev), has_group: bool) {
    let parent = place(&mdev.parent);
    let path = format!("{parent}/{uuid}");
    let group = format!("/kernel/iommu_groups/{}", mdev.iommu_group);
    let type_path = format!("mdev_supported_types/{}", mdev.type_id);
    if mdev.leaving {
        tree.directory(&path);
        return;
    }
    tree.link(
        &format!("/bus/mdev/devices/{uuid}"),
        &format!("../../..{path}"),
    );
    if mdev.removable {
        let remove = OnWrite::Remove {
            uuid: uuid.to_owned(),
        };
        tree.order(&format!("{path}/remove"), remove);
    }
    if !mdev.whole {
        tree.directory(&path);
        return;
    }
    tree.link(&format!("{path}/mdev_type"), &format!("../{type_path}"));
    if mdev.type_id.starts_with("nvidia-") {
        let set = OnWrite::Parameters {
            uuid: uuid.to_owned(),
        };
        let attribute = format!("{path}/nvidia/vgpu_params");
        tree.setting(&attribute, &mdev.parameters, set);
    }
    if has_group {
        tree.link(
            &format!("{path}/iommu_group"),
            &format!("../../../..{group}"),
        );
        tree.directory(&format!("{group}/devices"));
    }
    tree.link(
        &format!("{parent}/{type_path}/devices/{uuid}"),
        &format!("../../../{uuid}"),
    );
}
