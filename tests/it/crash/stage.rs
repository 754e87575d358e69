//! Hosts with a pool `cad` that has devices for exactly one domain at a time, one host
//! for each framework.

use lab_nvidia::model::Framework;

use crate::support::{
    domain::Domain,
    kernel::Vgpu,
    machine::{Gpu, LARGE, Machine, Plain, SMALL, profile},
    scene::Scene,
};

const FOREIGN: &str = "f0e1c000-0000-4000-8000-000000000001";
const FOREIGN_OTHER: &str = "f0e1c000-0000-4000-8000-000000000002";
const IMAGE: &str = "/srv/iso/guest.iso";
const GPU: &str = "0000:41:00.0";
pub const FIRST: &str = "0000:41:00.4";
pub const SECOND: &str = "0000:41:00.5";
const THIRD: &str = "0000:41:00.6";
const FOURTH: &str = "0000:41:00.7";

/// How the domain's two devices are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Mediated devices of any driver.
    Mdev,
    /// vGPUs that are mediated devices of virtual functions.
    Sriov,
    /// Virtual functions that become vGPUs.
    Functions,
    /// The same on a GPU with mixed sizes, each at its own place.
    Mixed,
    /// Whole functions, one of them in a group with a function that nobody asks for.
    Whole,
}

impl Stage {
    /// Those with NVIDIA's vGPUs.
    pub const VGPUS: [Self; 3] = [Self::Sriov, Self::Functions, Self::Mixed];

    pub fn scene(self) -> Scene {
        let scene = Scene::new(self.machine());
        let keys = format!(
            "instances = 2\nguest-driver = \"{IMAGE}\"\nheterogeneous = {}\n\
             [defaults]\nframe-rate-limit = 0",
            self == Self::Mixed
        );
        match self {
            Self::Whole => {
                let keys = format!("instances = 2\nguest-driver = \"{IMAGE}\"\n");
                scene.pci_pool_with("cad", &keys);
            }
            Self::Mdev => scene.pool_with("cad", SMALL, &keys.replace("heterogeneous = false", "")),
            Self::Sriov => scene.vgpu_pool_with("cad", "A40-12Q", &keys),
            Self::Functions | Self::Mixed => scene.vgpu_pool_with("cad", "L40S-12Q", &keys),
        }
        scene.image(IMAGE);
        scene
    }

    /// One board that fits exactly the two devices of a domain in addition to
    /// somebody else's.
    fn machine(self) -> Machine {
        let l40s = Gpu::l40s(GPU).functions(4);
        match self {
            // The host's own driver has each in another way: as the first that matches, by
            // an override, by an override of another driver.
            Self::Whole => Machine::of_pci([
                Plain::nic(FIRST, 4),
                Plain::nic(THIRD, 4).reserved_for("igb"),
                Plain::bridge(GPU, 4),
                Plain::nic(SECOND, 5)
                    .with_driver(Some("e1000e"))
                    .reserved_for("nvme"),
                Plain::nic(FOURTH, 6),
            ]),
            // A second board is full with another size.
            Self::Mdev => Machine::of_boards(2)
                .with_mdev(FOREIGN, "0000:3b:00.0", SMALL)
                .with_mdev(FOREIGN_OTHER, "0000:3b:00.0", SMALL)
                .with_mdev(
                    "f0e1c000-0000-4000-8000-000000000003",
                    "0000:3c:00.0",
                    LARGE,
                ),
            Self::Sriov => {
                let kind = format!("nvidia-{}", profile("A40-12Q").id);
                let gpu = Gpu::new("a40", Framework::SriovMdev, GPU).functions(4);
                Machine::of_gpus([gpu])
                    .with_mdev(FOREIGN, THIRD, &kind)
                    .with_mdev(FOREIGN_OTHER, FOURTH, &kind)
            }
            Self::Functions => Machine::of_gpus([l40s])
                .with_vgpu(THIRD, "L40S-12Q")
                .with_vgpu(FOURTH, "L40S-12Q"),
            Self::Mixed => Machine::of_gpus([l40s.heterogeneous()]).with_vgpu(THIRD, "L40S-24Q"),
        }
    }

    pub fn domain(self, number: usize) -> Domain {
        let domain = Domain::new(number);
        let first = "pool='cad' guest-drivers='yes'";
        match self {
            Self::Mdev | Self::Sriov => domain.request("gpu0", first, true).device("gpu1", "cad"),
            Self::Functions | Self::Mixed | Self::Whole => domain
                .request_on("gpu0", first, FIRST)
                .function("gpu1", "cad", SECOND),
        }
    }

    /// The domain has its devices with all their settings, and no other device of ours
    /// exists.
    #[track_caller]
    pub fn has_devices(self, scene: &Scene, domain: &Domain) {
        match self {
            Self::Mdev | Self::Sriov => {
                let mut mdevs = scene.kernel.mdevs();
                mdevs.retain(|uuid, _| scene.ours().contains(uuid));
                let found: Vec<_> = mdevs
                    .iter()
                    .map(|(uuid, mdev)| (uuid.as_str(), mdev.parameters.as_str()))
                    .collect();
                let mut wanted = domain.mdevs();
                wanted.sort();
                let wanted: Vec<_> = wanted
                    .iter()
                    .map(|uuid| (uuid.as_str(), "frame_rate_limiter=0"))
                    .collect();
                assert_eq!(found, wanted);
                assert!(scene.our_vgpus().is_empty());
            }
            Self::Whole => {
                let now = scene.kernel.bound().into_iter();
                let vfios = now.filter(|(_, bound)| bound.driver.as_deref() == Some("vfio-pci"));
                let vfios: Vec<String> = vfios.map(|(at, _)| at).collect();
                assert_eq!(vfios, [FIRST, SECOND, THIRD]);
            }
            Self::Functions | Self::Mixed => {
                let vgpu = |placement| Vgpu {
                    type_id: profile("L40S-12Q").id,
                    profile: "L40S-12Q".to_owned(),
                    parameters: "frame_rate_limiter=0".to_owned(),
                    placement: Some(placement),
                };
                let wanted = [(FIRST, 24), (SECOND, 36)];
                let found: Vec<_> = scene.our_vgpus().into_iter().collect();
                assert_eq!(
                    found,
                    wanted.map(|(at, place)| (at.to_owned(), vgpu(place)))
                );
                assert!(scene.ours().is_empty());
            }
        }
    }

    /// As [`Self::has_devices`], with the guest's drivers.
    #[track_caller]
    pub fn has_everything(self, scene: &Scene, domain: &Domain) {
        self.has_devices(scene, domain);
        let image = std::fs::read_link(scene.path(&domain.media())).unwrap();
        assert_eq!(image.to_str(), Some(IMAGE));
    }
}
