//! A machine as plain data: PCI functions, their mdev types, NUMA nodes and the
//! mediated devices that exist from the start. Tests build it in code or read it from a
//! `host.toml`.

use std::str::FromStr;

use lab_nvidia::{
    boards::{self, VgpuType},
    model::{Dialect, Framework},
};
use serde::{Deserialize, Deserializer, de::Error as _};

/// The initial state of the model.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Machine {
    /// NUMA nodes; their numbers are their positions.
    #[serde(default, rename = "node")]
    pub nodes: Vec<Node>,
    /// All mdev types that any function may have.
    #[serde(default, rename = "type")]
    pub types: Vec<Type>,
    /// PCI functions.
    #[serde(default, rename = "function")]
    pub functions: Vec<Function>,
    /// NVIDIA's GPUs, by the tables of the lab.
    #[serde(default, rename = "gpu")]
    pub gpus: Vec<Gpu>,
    /// Mediated devices that somebody else made.
    #[serde(default, rename = "mdev")]
    pub mdevs: Vec<Existing>,
    /// Virtual functions that somebody else has given a type.
    #[serde(default, rename = "vgpu")]
    pub vgpus: Vec<Typed>,
    /// Drivers of plain functions, in the order in which they were loaded.
    #[serde(default, rename = "driver")]
    pub drivers: Vec<Driver>,
    /// PCI functions that make nothing, with the kernel's driver core.
    #[serde(default, rename = "pci")]
    pub plain: Vec<Plain>,
    /// Root ports and ports of switches. Buses that are behind none are root complexes.
    #[serde(default, rename = "bridge")]
    pub bridges: Vec<Bridge>,
}

/// A port with a bus behind it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Bridge {
    pub address: String,
    /// The bus: `0000:21`.
    pub bus: String,
}

/// A driver of plain functions. The one named `vfio-pci` is the kernel's.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Driver {
    pub name: String,
    /// Vendor and device of the functions that it knows: `8086:1533`.
    #[serde(default)]
    pub ids: Vec<String>,
}

/// A PCI function that makes nothing: a NIC, a drive, a bridge.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Plain {
    pub address: String,
    #[serde(default = "intel")]
    pub vendor: u16,
    #[serde(default = "i210")]
    pub device: u16,
    #[serde(default = "ethernet_controller")]
    pub class: u32,
    #[serde(default)]
    pub subsystem_vendor: u16,
    #[serde(default)]
    pub subsystem_device: u16,
    /// `-1`: none.
    #[serde(default = "no_node")]
    pub numa_node: i32,
    /// Its driver at first; None: none.
    #[serde(default)]
    pub driver: Option<String>,
    #[serde(default)]
    pub driver_override: Option<String>,
    /// Its IOMMU group.
    #[serde(default)]
    pub group: Option<u32>,
    #[serde(default)]
    pub reset_method: Option<String>,
    /// Whether the firmware has used it as the display; None: it is no display.
    #[serde(default)]
    pub boot_vga: Option<bool>,
    /// How many virtual functions it has; None: it cannot have any.
    #[serde(default)]
    pub numvfs: Option<u32>,
    /// The physical function of a virtual one.
    #[serde(default)]
    pub physfn: Option<String>,
    /// The number of the card, in its extended capabilities.
    #[serde(default)]
    pub card_number: Option<u64>,
    /// The manufacturer's serial number, in the vital product data.
    #[serde(default)]
    pub product_serial: Option<String>,
    /// The firmware's label.
    #[serde(default)]
    pub label: Option<String>,
}

/// A NUMA node.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Node {
    pub cpus: String,
    pub distance: String,
}

/// An mdev type as NVIDIA's driver describes it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Type {
    /// Directory name, as in `nvidia-558`.
    pub id: String,
    pub name: String,
    /// In MiB.
    pub framebuffer: u32,
    /// The most on one board.
    pub max: usize,
    #[serde(default = "vfio_pci")]
    pub device_api: String,
}

/// A PCI function.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Function {
    pub address: String,
    #[serde(default = "nvidia")]
    pub vendor: u16,
    #[serde(default = "tesla_t4")]
    pub device: u16,
    #[serde(default = "controller_3d")]
    pub class: u32,
    #[serde(default = "nvidia")]
    pub subsystem_vendor: u16,
    #[serde(default)]
    pub subsystem_device: u16,
    /// `-1`: none.
    #[serde(default = "no_node")]
    pub numa_node: i32,
    #[serde(default = "nvidia_driver")]
    pub driver: String,
    /// Ids of its types. If it has virtual functions, the types belong to them: an
    /// SR-IOV physical function is no parent.
    #[serde(default)]
    pub types: Vec<String>,
    /// Addresses of its virtual functions; each holds one mediated device.
    #[serde(default)]
    pub virtual_functions: Vec<String>,
}

/// A GPU that follows one of the lab's tables (`tests/lab/nvidia/boards`) and the rules
/// of NVIDIA's driver. A GPU with SR-IOV has its virtual functions from the start.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Gpu {
    /// The table: `l40s`.
    pub board: String,
    /// How its vGPUs appear: `legacy-mdev`, `sriov-mdev` or `vendor-vfio`.
    #[serde(deserialize_with = "from_word")]
    pub framework: Framework,
    /// The source of the errnos of `current_vgpu_type`: `kmod` or `rfc`.
    #[serde(default = "kmod", deserialize_with = "from_word")]
    pub dialect: Dialect,
    /// Its physical function.
    pub address: String,
    /// Another PCI device id than the table's: a board that only shares its types.
    #[serde(default)]
    pub device: Option<u16>,
    /// `-1`: none.
    #[serde(default = "no_node")]
    pub numa_node: i32,
    /// How many virtual functions; None: as many as the table says.
    #[serde(default)]
    pub functions: Option<u32>,
    /// Whether they exist.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Whether sizes may be mixed.
    #[serde(default)]
    pub heterogeneous: bool,
}

/// A virtual function that has a type already.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Typed {
    pub function: String,
    /// The type's name without the product: `L40S-12Q`.
    pub profile: String,
    /// None: the driver chooses.
    #[serde(default)]
    pub placement: Option<u32>,
}

/// A mediated device that is there already.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Existing {
    pub uuid: String,
    pub parent: String,
    #[serde(rename = "type")]
    pub type_id: String,
}

fn from_word<'de, D: Deserializer<'de>, T: FromStr<Err = String>>(
    deserializer: D,
) -> Result<T, D::Error> {
    let word = String::deserialize(deserializer)?;
    word.parse().map_err(D::Error::custom)
}
fn kmod() -> Dialect {
    Dialect::Kmod
}
fn yes() -> bool {
    true
}
fn vfio_pci() -> String {
    "vfio-pci".to_owned()
}
fn nvidia() -> u16 {
    0x10de
}
fn tesla_t4() -> u16 {
    0x1eb8
}
fn controller_3d() -> u32 {
    0x03_02_00
}
fn intel() -> u16 {
    0x8086
}
fn i210() -> u16 {
    0x1533
}
fn ethernet_controller() -> u32 {
    0x02_00_00
}
fn no_node() -> i32 {
    -1
}
fn nvidia_driver() -> String {
    "nvidia".to_owned()
}

/// Two types of one size and one of twice that size, on a 16 GiB board.
pub const SMALL: &str = "nvidia-231";
pub const SMALL_OTHER: &str = "nvidia-226";
pub const LARGE: &str = "nvidia-232";

impl Function {
    /// A graphics board that is a parent itself.
    pub fn board(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            vendor: nvidia(),
            device: tesla_t4(),
            class: controller_3d(),
            subsystem_vendor: nvidia(),
            subsystem_device: 0x12a2,
            numa_node: no_node(),
            driver: nvidia_driver(),
            types: vec![SMALL.into(), SMALL_OTHER.into(), LARGE.into()],
            virtual_functions: Vec::new(),
        }
    }

    /// A board with `count` virtual functions, as NVIDIA's since Ampere.
    pub fn sriov_board(bus: &str, count: usize) -> Self {
        let virtual_functions = (0..count)
            .map(|n| format!("0000:{bus}:{:02x}.{}", (n + 4) / 8, (n + 4) % 8))
            .collect();
        Self {
            device: 0x2235,
            virtual_functions,
            ..Self::board(&format!("0000:{bus}:00.0"))
        }
    }
}

impl Bridge {
    /// Those above the buses 11, behind a root port, and 23 and 24, behind one switch.
    pub fn of_a_port_and_a_switch() -> Vec<Self> {
        let bridges = [
            ("0000:10:01.0", "0000:11"),
            ("0000:20:01.0", "0000:21"),
            ("0000:21:00.0", "0000:22"),
            ("0000:22:00.0", "0000:23"),
            ("0000:22:01.0", "0000:24"),
        ];
        bridges.map(|(port, bus)| Self::new(port, bus)).to_vec()
    }

    pub fn new(address: &str, bus: &str) -> Self {
        Self {
            address: address.to_owned(),
            bus: bus.to_owned(),
        }
    }
}

impl Driver {
    pub fn new(name: &str, ids: &[&str]) -> Self {
        Self {
            name: name.to_owned(),
            ids: ids.iter().map(|&id| id.to_owned()).collect(),
        }
    }
}

impl Plain {
    /// A network card of the driver `igb`, in that IOMMU group.
    pub fn nic(address: &str, group: u32) -> Self {
        Self {
            address: address.to_owned(),
            vendor: intel(),
            device: i210(),
            class: ethernet_controller(),
            subsystem_vendor: 0,
            subsystem_device: 0,
            numa_node: no_node(),
            driver: Some("igb".to_owned()),
            driver_override: None,
            group: Some(group),
            reset_method: Some("flr bus".to_owned()),
            boot_vga: None,
            numvfs: None,
            physfn: None,
            card_number: None,
            product_serial: None,
            label: None,
        }
    }

    /// An NVMe drive.
    pub fn drive(address: &str, group: u32) -> Self {
        Self {
            device: 0x0953,
            class: 0x01_08_02,
            driver: Some("nvme".to_owned()),
            ..Self::nic(address, group)
        }
    }

    /// A root port.
    pub fn bridge(address: &str, group: u32) -> Self {
        Self {
            device: 0xa340,
            class: 0x06_04_00,
            driver: Some("pcieport".to_owned()),
            ..Self::nic(address, group)
        }
    }

    pub fn with_driver(self, driver: Option<&str>) -> Self {
        let driver = driver.map(str::to_owned);
        Self { driver, ..self }
    }

    pub fn reserved_for(self, driver: &str) -> Self {
        let driver_override = Some(driver.to_owned());
        Self {
            driver_override,
            ..self
        }
    }
}

/// A type of the lab's tables by its name without the product, `L40S-12Q`.
pub fn profile(name: &str) -> &'static VgpuType {
    let types = boards::all().unwrap().iter().flat_map(|board| &board.types);
    let mut found = types.filter(|kind| kind.short_name() == name);
    found.next().unwrap_or_else(|| panic!("no type {name}"))
}

impl Gpu {
    pub fn new(board: &str, framework: Framework, address: &str) -> Self {
        Self {
            board: board.to_owned(),
            framework,
            dialect: kmod(),
            address: address.to_owned(),
            device: None,
            numa_node: no_node(),
            functions: None,
            enabled: true,
            heterogeneous: false,
        }
    }

    /// An L40S with virtual functions that become vGPUs.
    pub fn l40s(address: &str) -> Self {
        Self::new("l40s", Framework::VendorVfio, address)
    }

    /// With so many virtual functions.
    pub fn functions(self, functions: u32) -> Self {
        let functions = Some(functions);
        Self { functions, ..self }
    }

    pub fn on_node(self, numa_node: i32) -> Self {
        Self { numa_node, ..self }
    }

    pub fn speaks(self, dialect: Dialect) -> Self {
        Self { dialect, ..self }
    }

    /// With sizes mixed.
    pub fn heterogeneous(self) -> Self {
        let heterogeneous = true;
        Self {
            heterogeneous,
            ..self
        }
    }
}

impl Machine {
    /// GPUs and nothing else.
    pub fn of_gpus(gpus: impl IntoIterator<Item = Gpu>) -> Self {
        Self {
            gpus: gpus.into_iter().collect(),
            ..Self::default()
        }
    }

    /// The machine with a virtual function that somebody else has given a type.
    pub fn with_vgpu(mut self, function: &str, profile: &str) -> Self {
        self.vgpus.push(Typed {
            function: function.to_owned(),
            profile: profile.to_owned(),
            placement: None,
        });
        self
    }

    /// Boards of the usual types.
    pub fn with(functions: impl IntoIterator<Item = Function>) -> Self {
        Self {
            types: usual_types(),
            functions: functions.into_iter().collect(),
            ..Self::default()
        }
    }

    /// Two boards with six virtual functions each, which hold four × [`SMALL`], and the
    /// first `there` functions of each taken by somebody else.
    pub fn of_sriov_boards(there: usize) -> Self {
        let buses = ["41", "61"];
        let mut machine = Self::with(buses.map(|bus| Function::sriov_board(bus, 6)));
        for (board, bus) in buses.iter().enumerate() {
            for number in 0..there {
                let uuid = format!("f0e1c000-0000-4000-8000-0000000000{board}{number}");
                machine = machine.with_mdev(&uuid, &format!("0000:{bus}:00.{}", number + 4), SMALL);
            }
        }
        machine
    }

    /// Two L40S with six virtual functions each, and one `L40S-12Q` left on each.
    pub fn of_l40s_with_one_left() -> Self {
        let buses = ["41", "61"];
        let gpu = |bus| Gpu::l40s(&format!("0000:{bus}:00.0")).functions(6);
        let mut machine = Self::of_gpus(buses.map(gpu));
        for bus in buses {
            for number in 4..7 {
                machine = machine.with_vgpu(&format!("0000:{bus}:00.{number}"), "L40S-12Q");
            }
        }
        machine
    }

    /// Plain functions, with the drivers for them and `vfio-pci`.
    pub fn of_pci(plain: impl IntoIterator<Item = Plain>) -> Self {
        Self {
            drivers: vec![
                Driver::new("pcieport", &["8086:a340"]),
                Driver::new("igb", &["8086:1533"]),
                // Knows the same cards, but was loaded later.
                Driver::new("e1000e", &["8086:1533"]),
                Driver::new("nvme", &["8086:0953"]),
                Driver::new("vfio-pci", &[]),
            ],
            plain: plain.into_iter().collect(),
            ..Self::default()
        }
    }

    /// `boards` boards, each of which holds 4 × [`SMALL`] or 2 × [`LARGE`].
    pub fn of_boards(boards: usize) -> Self {
        Self::with((0..boards).map(|n| Function::board(&format!("0000:{:02x}:00.0", 0x3b + n))))
    }

    /// The machine with a mediated device of somebody else.
    pub fn with_mdev(mut self, uuid: &str, parent: &str, type_id: &str) -> Self {
        self.mdevs.push(Existing {
            uuid: uuid.to_owned(),
            parent: parent.to_owned(),
            type_id: type_id.to_owned(),
        });
        self
    }
}

fn usual_types() -> Vec<Type> {
    let of = |id: &str, name: &str, framebuffer, max| Type {
        id: id.to_owned(),
        name: name.to_owned(),
        framebuffer,
        max,
        device_api: vfio_pci(),
    };
    vec![
        of(SMALL, "GRID T4-4Q", 4096, 4),
        of(SMALL_OTHER, "GRID T4-4C", 4096, 4),
        of(LARGE, "GRID T4-8Q", 8192, 2),
    ]
}
