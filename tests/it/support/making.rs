//! The steps by which the kinds of this program make devices.

use std::path::Path;

use virt_vgpu::{
    config::{self, Pool},
    device::{
        mdev::{self, Parent},
        parameters::Parameters,
        step::Step,
    },
    host::{Host, PciIds},
    kind::{Candidate, Detail, HostView, ToMake},
    model::{Handle, MdevTypeId, MdevUuid, PciAddress},
};

/// What makes a virtual function a vGPU of that profile, whose number is `type_id`.
pub fn function(
    profile: &str,
    type_id: &MdevTypeId,
    function: PciAddress,
    parameters: &Parameters,
) -> Vec<Step> {
    let pool = pool(&format!("kind = 'nvidia-vgpu'\nprofile = '{profile}'\n"));
    let candidate = candidate(mdev::pci_function(function), Some(Handle::Pci(function)));
    let made = ToMake {
        type_id,
        uuid: "00000000-0000-4000-8000-000000000000".parse().unwrap(),
        placement: None,
        parameters,
        along: &[],
    };
    steps(&pool, &candidate, &made)
}

/// What makes a mediated device of the type of that id, and no more than that.
pub fn mediated(parent: &Parent, type_id: &str, uuid: &str) -> Vec<Step> {
    let pool = pool(&format!("kind = 'mdev'\ntype = '{type_id}'\n"));
    let uuid: MdevUuid = uuid.parse().unwrap();
    let made = ToMake {
        type_id: &type_id.parse().unwrap(),
        uuid,
        placement: None,
        parameters: &Parameters::default(),
        along: &[],
    };
    steps(&pool, &candidate(parent.clone(), None), &made)
}

/// The steps of kinds that read nothing for them.
fn steps(pool: &Pool, candidate: &Candidate, made: &ToMake<'_>) -> Vec<Step> {
    let nowhere = Host::new("/nonexistent");
    let names = PciIds::new(&nowhere);
    let detail = Detail {
        functions_only: true,
        ..Detail::default()
    };
    let view = HostView::open(&nowhere, &names, detail).unwrap();
    pool.devices.steps(&view, candidate, made).unwrap()
}

fn pool(text: &str) -> Pool {
    config::parse("pool".parse().unwrap(), Path::new("/pool.toml"), text).unwrap()
}

fn candidate(parent: Parent, device: Option<Handle>) -> Candidate {
    Candidate {
        board: parent.name.clone(),
        node: None,
        in_use: 0,
        has_device: false,
        device,
        parent,
    }
}
