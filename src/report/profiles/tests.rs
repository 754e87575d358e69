//! Which pools use a profile.

use std::{fs, path::Path};

use super::*;
use crate::device::gpu::Functions;

const GPU: &str = "0000:3b:00.0";

/// A pool whose rules take the GPU alone.
fn pool(name: &str, what: &str) -> Pool {
    let text = format!(
        "{what}\n[[rule]]\nwhere = [{{ field = 'address', op = 'equal', value \
         = '{GPU}' }}]\n"
    );
    config::parse(name.parse().unwrap(), Path::new("x"), &text).unwrap()
}

fn profile(name: &str, wanted: &str) -> Pool {
    pool(name, &format!("kind = 'nvidia-vgpu'\nprofile = '{wanted}'"))
}

fn mdev_type(name: &str, wanted: &str) -> Pool {
    pool(name, &format!("kind = 'mdev'\ntype = '{wanted}'"))
}

fn state(address: &str, framework: Framework) -> GpuState {
    let id = "1155".parse().unwrap();
    GpuState {
        address: address.parse().unwrap(),
        framework: Some(framework),
        functions: Some(Functions { total: 1, free: 1 }),
        heterogeneous: None,
        mig: None,
        types: vec![VgpuType::named(id, "NVIDIA L40S-24Q".to_owned(), true)],
        vgpus: Vec::new(),
        instances: None,
    }
}

#[test]
fn pools_of_profiles_go_by_the_gpu_and_of_mdev_types_by_their_parents() {
    let root = tempfile::tempdir().unwrap();
    for gpu in [GPU, "0000:5e:00.0"] {
        let at = root.path().join("sys/bus/pci/devices").join(gpu);
        fs::create_dir_all(at).unwrap();
    }
    let host = Host::new(root.path().to_owned());
    let pools = Pools {
        pools: vec![
            profile("short", "L40S-24Q"),
            profile("full", "NVIDIA L40S-24Q"),
            profile("other", "L40S-24C"),
            mdev_type("id", "nvidia-1155"),
            mdev_type("name", "NVIDIA L40S-24Q"),
            mdev_type("other-id", "nvidia-1156"),
        ],
        names: PciIds::new(&host),
        facts: &Vec::new(),
    };
    let using = |address: &str, framework: Framework| {
        let report = gpu_report(&host, &state(address, framework), None, &pools);
        let [profile] = &report.profiles[..] else {
            unreachable!("one type, one profile");
        };
        let names = profile.pools.iter().map(ToString::to_string);
        names.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(using(GPU, Framework::VendorVfio), "short full");
    assert_eq!(using(GPU, Framework::LegacyMdev), "short full id name");
    // Its rules take the GPU, but mediated devices are made on its functions.
    assert_eq!(using(GPU, Framework::SriovMdev), "short full");
    assert_eq!(using("0000:5e:00.0", Framework::LegacyMdev), "");
}
