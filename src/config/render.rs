//! The text of a new pool file, as `pool create` writes it: one rule for each
//! device, and comments for the person who edits it next.

use std::path::Path;

use super::{Class, Placement, Pool, parse};
use crate::{
    document::ConfigError,
    kind::{Kind, MigMode, NewDevice},
    model::{PciAddress, PoolName, TypeSelector},
};

/// A pool to be written.
#[derive(Debug, Clone)]
pub struct NewPool {
    /// The kind of its devices.
    pub kind: &'static dyn Kind,
    /// What they are made as, where they are made.
    pub device_type: Option<TypeSelector>,
    /// The devices, a rule for each.
    pub devices: Vec<NewDevice>,
    /// A note.
    pub description: Option<String>,
    /// A label.
    pub class: Option<Class>,
    /// The most devices at once; 0 = as many as fit.
    pub instances: u32,
    /// How devices are spread over the parents.
    pub placement: Placement,
    /// Absolute path of an ISO file.
    pub guest_driver: Option<String>,
    /// GPU instances for vGPUs that live in some.
    pub gpu_instances: Option<NewInstances>,
}

/// The GPU instances of a new pool.
#[derive(Debug, Clone, Copy)]
pub struct NewInstances {
    /// How many on each GPU.
    pub on_each_gpu: u32,
    /// How many vGPUs in each; 0 = as many as fit.
    pub vgpus: u32,
    /// When they are made.
    pub mode: MigMode,
}

impl NewPool {
    /// The pool of the rendered text. This checks the text before it is written.
    ///
    /// # Errors
    /// When a value is not accepted in a pool file.
    pub fn check(&self, name: PoolName, origin: &Path) -> Result<Pool, ConfigError> {
        parse(name, origin, &render(self))
    }
}

/// The text of the pool's file.
#[must_use]
pub fn render(pool: &NewPool) -> String {
    let mut text = String::from("# Written by 'virt-vgpu pool create'; made to be edited.\n\n");
    let mut line = |key: &str, value: &str, comment: &str| {
        let setting = format!("{key:<12} = {value}");
        if comment.is_empty() {
            text.push_str(&setting);
        } else {
            text.push_str(&format!("{setting:<39} # {comment}"));
        }
        text.push('\n');
    };
    line("kind", &quoted(pool.kind.name()), pool.kind.about());
    if let Some(description) = &pool.description {
        line("description", &quoted(description), "");
    }
    if let Some(class) = pool.class {
        line("class", &quoted(class.as_str()), "a label to sort by");
    }
    if let (Some(key), Some(made_as)) = (pool.kind.keys().type_key, &pool.device_type) {
        line(key.name, &quoted(made_as.as_str()), key.about);
    }
    let instances = pool.instances.to_string();
    line(
        "instances",
        &instances,
        "most devices at once; 0 = as many as fit",
    );
    let placement = quoted(pool.placement.as_str());
    line("placement", &placement, "pack | spread");
    if let Some(path) = &pool.guest_driver {
        line(
            "guest-driver",
            &quoted(path),
            "drivers for the guests: an ISO, or a driver set",
        );
    }
    if let Some(NewInstances {
        on_each_gpu,
        vgpus,
        mode,
    }) = pool.gpu_instances
    {
        let mode = quoted(mode.as_str());
        text.push_str(&format!(
            "\n[mig]\ngpu-instances      = {on_each_gpu:<18} # on each GPU of the pool\n\
             vgpus-per-instance = {vgpus:<18} # 0 = as many as fit\n\
             mode               = {mode:<18} # at-boot | on-demand: starts of VMs make more\n"
        ));
    }
    if !pool.devices.is_empty() {
        text.push_str(
            "\n# A device is in the pool when any rule matches; a rule matches when all\n\
             # its filters hold. 'virt-vgpu pool preview' shows the outcome.\n",
        );
    }
    for device in &pool.devices {
        text.push_str(&rule(device));
    }
    text
}

fn rule(device: &NewDevice) -> String {
    let (noun, field, written) = match device {
        NewDevice::Itself(name) => ("device", "address", name),
        NewDevice::VirtualFunctionsOf(name) => ("virtual functions of", "physical-function", name),
    };
    let address = written
        .parse::<PciAddress>()
        .map_or_else(|_| written.to_owned(), |address| address.to_string());
    let name = quoted(&format!("{noun} {address}"));
    let value = quoted(&address);
    format!(
        "\n[[rule]]\nname  = {name}\nwhere = [\n  \
         {{ field = \"{field}\", op = \"equal\", value = {value} }},\n]\n"
    )
}

/// A TOML string, in quotes and escaped.
fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}
