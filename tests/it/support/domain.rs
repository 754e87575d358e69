//! Domain XML as libvirt passes it to the hook: identity, requests in the metadata, and
//! a placeholder for each.

use virt_vgpu::{
    domain::{Hostdev, MEDIA_DIRECTORY, NAMESPACE},
    model::{DeviceName, DomainUuid, MdevUuid, PciAddress},
};

/// A domain and what it asks for.
#[derive(Debug, Clone)]
pub struct Domain {
    pub name: String,
    pub uuid: DomainUuid,
    devices: Vec<Device>,
    /// Hostdevs without a request of their own.
    more: String,
    /// Elements between the name and the metadata.
    body: String,
}

#[derive(Debug, Clone)]
struct Device {
    name: DeviceName,
    /// Attributes after the name, as in ` pool='cad'`.
    attributes: String,
    has_placeholder: bool,
    /// The placeholder names this virtual function.
    function: Option<PciAddress>,
}

impl Domain {
    /// The domain of that number, without requests.
    pub fn new(number: usize) -> Self {
        Self {
            name: format!("vm{number}"),
            uuid: format!("aaaaaaaa-0000-4000-8000-{number:012x}")
                .parse()
                .unwrap(),
            devices: Vec::new(),
            more: String::new(),
            body: String::new(),
        }
    }

    /// The domain of that number with one device `gpu0` of a pool.
    pub fn with_one(number: usize, pool: &str) -> Self {
        Self::new(number).device("gpu0", pool)
    }

    pub fn device(self, name: &str, pool: &str) -> Self {
        self.request(name, &format!("pool='{pool}'"), true)
    }

    /// A request with any attributes, and with or without a placeholder.
    pub fn request(mut self, name: &str, attributes: &str, has_placeholder: bool) -> Self {
        self.devices.push(Device {
            name: name.parse().unwrap(),
            attributes: format!(" {attributes}"),
            has_placeholder,
            function: None,
        });
        self
    }

    /// A request whose placeholder names a virtual function.
    pub fn function(self, name: &str, pool: &str, function: &str) -> Self {
        self.request_on(name, &format!("pool='{pool}'"), function)
    }

    /// As [`Self::function`], with any attributes.
    pub fn request_on(self, name: &str, attributes: &str, function: &str) -> Self {
        let mut domain = self.request(name, attributes, true);
        let device = domain.devices.last_mut().unwrap();
        device.function = Some(function.parse().unwrap());
        domain
    }

    /// With a function under that alias and no request.
    pub fn passing(mut self, alias: &str, function: &str) -> Self {
        let hostdev = Hostdev {
            alias: Some(alias.to_owned()),
            ..Hostdev::bare(function.parse::<PciAddress>().unwrap().into())
        };
        self.more.push_str(&hostdev.to_xml());
        self
    }

    /// With more elements, such as `<numatune>`.
    pub fn with(mut self, elements: &str) -> Self {
        self.body.push_str(elements);
        self
    }

    /// The UUIDs of the devices, in the order of the requests.
    pub fn mdevs(&self) -> Vec<String> {
        let uuid = |device: &Device| MdevUuid::for_device(self.uuid, &device.name).to_string();
        self.devices.iter().map(uuid).collect()
    }

    /// The path of the domain's guest-driver CD-ROM.
    pub fn media(&self) -> String {
        format!("{MEDIA_DIRECTORY}/{}.iso", self.uuid)
    }

    pub fn xml(&self) -> String {
        let mut metadata = String::new();
        let mut hostdevs = String::new();
        for device in &self.devices {
            let Device {
                name, attributes, ..
            } = device;
            metadata.push_str(&format!("      <vgpu:device name='{name}'{attributes}/>\n"));
            if device.has_placeholder {
                let uuid = MdevUuid::for_device(self.uuid, name);
                let hostdev = match device.function {
                    Some(function) => Hostdev::placeholder(function, name),
                    None => Hostdev::placeholder(uuid, name),
                };
                hostdevs.push_str(&hostdev.to_xml());
            }
        }
        if !metadata.is_empty() {
            metadata = format!(
                "  <metadata>\n    <vgpu:devices xmlns:vgpu='{NAMESPACE}'>\n{metadata}    </vgpu:devices>\n  </metadata>\n"
            );
        }
        format!(
            "<domain type='kvm' id='7'>\n  <name>{}</name>\n  <uuid>{}</uuid>\n{metadata}{}  <devices>\n{hostdevs}{}  </devices>\n</domain>\n",
            self.name, self.uuid, self.body, self.more
        )
    }
}
