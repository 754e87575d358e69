//! Small bundles: names and layout are those of NVIDIA's, and so are the first bytes.

use std::io::{Cursor, Write};

use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

pub const HOST: &str = "NVIDIA-Linux-x86_64-580.65.05-vgpu-kvm.run";
pub const LINUX: &str = "NVIDIA-Linux-x86_64-580.65.06-grid.run";
pub const LINUX_DEB: &str = "nvidia-linux-grid-580_580.65.06_amd64.deb";
pub const LINUX_RPM: &str = "nvidia-linux-grid-580-580.65.06-1.x86_64.rpm";
pub const WINDOWS: &str = "580.88_grid_win10_win11_server2022_dch_64bit_international.exe";

/// A driver of that name: its first bytes, and some that belong to no format.
pub fn driver(file: &str) -> Vec<u8> {
    let mut bytes = match file.rsplit('.').next().unwrap() {
        "run" => format!(
            "#!/bin/sh\n# This script was generated using Makeself\nlabel=\"NVIDIA Accelerated \
             Graphics Driver for Linux-x86_64 {}\"\n",
            version(file)
        )
        .into_bytes(),
        "deb" => {
            b"!<arch>\ndebian-binary   1700000000  0     0     100644  4         `\n2.0\n".to_vec()
        }
        "rpm" => {
            let mut lead = b"\xed\xab\xee\xdb\x03\x00\x00\x00\x00\x01".to_vec();
            lead.extend_from_slice(file.trim_end_matches(".x86_64.rpm").as_bytes());
            lead.resize(96, 0);
            lead
        }
        "exe" => {
            let mut program = b"MZ".to_vec();
            program.resize(0x3c, 0);
            program.extend_from_slice(&0x80_u32.to_le_bytes());
            program.resize(0x80, 0);
            program.extend_from_slice(b"PE\0\0");
            program
        }
        _ => Vec::new(),
    };
    // As incompressible as a driver.
    let mut state = 1_u32;
    bytes.extend((0..4096).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24).to_le_bytes()[0]
    }));
    bytes
}

fn version(file: &str) -> &str {
    let rest = file.trim_start_matches("NVIDIA-Linux-x86_64-");
    rest.split('-').next().unwrap()
}

/// An archive in the making.
pub struct Archive {
    zip: ZipWriter<Cursor<Vec<u8>>>,
}

impl Archive {
    pub fn new() -> Self {
        Self {
            zip: ZipWriter::new(Cursor::new(Vec::new())),
        }
    }

    /// As NVIDIA packs it.
    pub fn of_nvidia() -> Self {
        let mut archive = Self::new().with(&format!("Host_Drivers/{HOST}"), driver(HOST));
        for file in [LINUX, LINUX_DEB, LINUX_RPM, WINDOWS] {
            archive = archive.with(&format!("Guest_Drivers/{file}"), driver(file));
        }
        archive.with("Signing_Keys/readme.txt", "keys").with(
            "580.65.05-580.65.06-580.88-grid-vgpu-user-guide.pdf",
            "%PDF-1.7",
        )
    }

    pub fn with(self, name: &str, bytes: impl AsRef<[u8]>) -> Self {
        let plain = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
        self.with_options(name, bytes, plain)
    }

    pub fn with_options(
        mut self,
        name: &str,
        bytes: impl AsRef<[u8]>,
        options: SimpleFileOptions,
    ) -> Self {
        self.zip.start_file(name, options).unwrap();
        self.zip.write_all(bytes.as_ref()).unwrap();
        self
    }

    pub fn with_link(mut self, name: &str, target: &str) -> Self {
        let plain = SimpleFileOptions::default();
        self.zip.add_symlink(name, target, plain).unwrap();
        self
    }

    pub fn bytes(self) -> Vec<u8> {
        self.zip.finish().unwrap().into_inner()
    }
}
