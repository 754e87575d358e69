//! The `/sys` files of a GPU that follows a table, with the answers of its twin.

use lab_nvidia::model::{Attribute, Framework, Parent, VgpuHandle};

use super::{
    Mdev, OnWrite, Tree,
    card::Card,
    files::{Pci, add_pci, add_virtual_function, place},
};

const NVIDIA: u16 = 0x10de;
const CONTROLLER_3D: u32 = 0x03_02_00;

impl Card {
    /// VFIO's files of the functions in `without_vfio` are left out.
    pub(super) fn add_to(&self, tree: &mut Tree, without_vfio: &[String]) {
        let gpu = self.twin.address();
        self.add_pci(tree, gpu);
        if self.twin.framework() == Framework::LegacyMdev {
            self.add_types(tree, gpu, Parent::Pf);
            return;
        }
        let there = self.functions().count();
        let path = place(gpu);
        tree.text(&format!("{path}/sriov_totalvfs"), self.twin.board().vfs);
        tree.text(&format!("{path}/sriov_numvfs"), there);
        for (number, address) in self.functions() {
            self.add_pci(tree, &address);
            add_virtual_function(tree, gpu, number, &address);
            let is_vfios = !without_vfio.contains(&address);
            if is_vfios {
                self.add_iommu_group(tree, &address, self.first_group + number);
            }
            if self.twin.framework() == Framework::SriovMdev {
                self.add_types(tree, &address, Parent::Vf(number));
            } else {
                self.add_vgpu(tree, &address, number);
                if is_vfios && self.twin.has_vfio_device(number) {
                    let device = self.first_group + number;
                    tree.directory(&format!("{}/vfio-dev/vfio{device}", place(&address)));
                }
            }
        }
    }

    fn add_pci(&self, tree: &mut Tree, address: &str) {
        let board = self.twin.board();
        let pci = Pci {
            vendor: NVIDIA,
            device: board.device,
            class: CONTROLLER_3D,
            subsystem_vendor: NVIDIA,
            subsystem_device: board.subsystem,
            numa_node: self.numa_node,
            driver: Some("nvidia"),
        };
        add_pci(tree, address, &pci);
    }

    fn add_iommu_group(&self, tree: &mut Tree, address: &str, group: u32) {
        let path = place(address);
        let group = format!("/kernel/iommu_groups/{group}");
        tree.link(&format!("{path}/iommu_group"), &format!("../../..{group}"));
        tree.link(
            &format!("{group}/devices/{address}"),
            &format!("../../../..{path}"),
        );
    }

    fn add_vgpu(&self, tree: &mut Tree, address: &str, number: u32) {
        let vgpu_handle = VgpuHandle::Vf(number);
        for attribute in Attribute::ALL {
            if attribute == Attribute::VmName {
                continue;
            }
            let at = address.to_owned();
            let on_write = match attribute {
                Attribute::CreatableVgpuTypes => None,
                _ => Some(OnWrite::Vgpu { at, attribute }),
            };
            self.add_attribute(tree, &place(address), &vgpu_handle, attribute, on_write);
        }
    }

    fn add_attribute(
        &self,
        tree: &mut Tree,
        device: &str,
        vgpu_handle: &VgpuHandle,
        attribute: Attribute,
        on_write: Option<OnWrite>,
    ) {
        let path = format!("{device}/nvidia/{}", attribute.name());
        tree.attribute(&path, self.twin.read(vgpu_handle, attribute), on_write);
    }

    /// The attributes that only new drivers have beside `vgpu_params`.
    pub(super) fn add_mdev_files(&self, tree: &mut Tree, mdev: &Mdev, vgpu_handle: &VgpuHandle) {
        let (VgpuHandle::Mdev(uuid), true, false) = (vgpu_handle, mdev.whole, mdev.leaving) else {
            return;
        };
        let device = format!("{}/{uuid}", place(&mdev.parent));
        // The resource manager has forgotten the vGPU.
        if self.twin.read(vgpu_handle, Attribute::VgpuParams).is_err() {
            let on_write = Some(OnWrite::Parameters { uuid: uuid.clone() });
            let attribute = Attribute::VgpuParams;
            self.add_attribute(tree, &device, vgpu_handle, attribute, on_write);
        }
        for attribute in [Attribute::PlacementId, Attribute::GpuInstanceId] {
            let at = uuid.clone();
            let on_write = Some(OnWrite::Vgpu { at, attribute });
            self.add_attribute(tree, &device, vgpu_handle, attribute, on_write);
        }
        self.add_attribute(tree, &device, vgpu_handle, Attribute::VmName, None);
    }

    fn add_types(&self, tree: &mut Tree, address: &str, parent: Parent) {
        let path = place(address);
        tree.link(
            &format!("/class/mdev_bus/{address}"),
            &format!("../..{path}"),
        );
        for kind in &self.twin.board().types {
            let type_id = format!("nvidia-{}", kind.id);
            let path = format!("{path}/mdev_supported_types/{type_id}");
            for name in ["name", "description", "available_instances", "device_api"] {
                let text = self.twin.read_mdev_type(parent, kind.id, name);
                tree.attribute(&format!("{path}/{name}"), text, None);
            }
            tree.directory(&format!("{path}/devices"));
            let create = OnWrite::Create {
                parent: address.to_owned(),
                type_id,
            };
            tree.order(&format!("{path}/create"), create);
        }
    }
}
