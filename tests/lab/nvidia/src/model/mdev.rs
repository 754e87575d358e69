//! Mediated devices: the answers of the kernel's mdev core and the driver to `create`
//! and `remove`.

use nix::errno::Errno;

use super::{Framework, Gpu, Parent, Result, VgpuHandle, attributes::number};

const UUID_LENGTH: usize = 36;

/// The UUID as the kernel accepts it: 36 characters, and one more of any kind.
fn uuid(text: &str) -> Result<String> {
    let bytes = text.as_bytes();
    if bytes.len() < UUID_LENGTH || bytes.len() > UUID_LENGTH + 1 {
        return Err(Errno::EINVAL);
    }
    let well_formed = |(index, byte): (usize, &u8)| match index {
        8 | 13 | 18 | 23 => *byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    };
    let uuid = bytes.get(..UUID_LENGTH).ok_or(Errno::EINVAL)?;
    if !uuid.iter().enumerate().all(well_formed) {
        return Err(Errno::EINVAL);
    }
    let uuid = std::str::from_utf8(uuid).map_err(|_| Errno::EINVAL)?;
    Ok(uuid.to_lowercase())
}

impl Gpu {
    /// Whether the parent has `mdev_supported_types`, with this type.
    pub(super) fn has_mdev_type(&self, parent: Parent, type_id: u32) -> Result<()> {
        match (self.framework(), parent) {
            (Framework::LegacyMdev, Parent::Pf) => {}
            (Framework::SriovMdev, Parent::Vf(number)) => drop(self.vf(number)?),
            _ => return Err(Errno::ENOENT),
        }
        let known = self.loaded && self.board.vgpu_type(type_id).is_some();
        if known { Ok(()) } else { Err(Errno::ENOENT) }
    }

    /// Writes the type's `create`.
    ///
    /// # Errors
    /// `ENOENT`: no such file. `EINVAL`: not a UUID. `EEXIST`: taken. `EIO`: the
    /// resource manager refuses.
    pub fn mdev_create(&mut self, parent: Parent, type_id: u32, text: &str) -> Result<()> {
        self.has_mdev_type(parent, type_id)?;
        if text.is_empty() {
            return Ok(());
        }
        let uuid = uuid(text)?;
        if self.at(&VgpuHandle::Mdev(uuid.clone())) != Err(Errno::ENOENT) {
            return Err(Errno::EEXIST);
        }
        if let Parent::Vf(number) = parent {
            if !self.is_free(number) {
                return Err(Errno::EIO);
            }
        }
        self.make(parent, Some(uuid), type_id)
            .map_err(|_| Errno::EIO)
    }

    /// Writes the device's `remove`, and waits for the plugin.
    ///
    /// # Errors
    /// `ENOENT`: no such file. `EINVAL`: not a number. `EAGAIN`: a VM has it, and the
    /// kernel's write would not return before the VM has ended.
    pub fn mdev_remove(&mut self, uuid: &str, text: &str) -> Result<()> {
        let vgpu_handle = VgpuHandle::Mdev(uuid.to_owned());
        let forgotten = self.is_forgotten(&vgpu_handle);
        let index = self.at(&vgpu_handle);
        if !forgotten {
            index?;
        }
        if text.is_empty() || number(text).map_err(|_| Errno::EINVAL)? == 0 {
            return Ok(());
        }
        if forgotten {
            let uuid = Some(uuid.to_lowercase());
            self.forgotten.retain(|one| one.uuid != uuid);
            return Ok(());
        }
        let index = index?;
        let vgpu = self.vgpus.get(index).ok_or(Errno::ENOENT)?;
        if vgpu.opener.is_some() {
            return Err(Errno::EAGAIN);
        }
        self.now = self.now.max(vgpu.exits_at);
        self.vgpus.remove(index);
        Ok(())
    }

    /// Reads an attribute of a type under `mdev_supported_types`.
    ///
    /// # Errors
    /// `ENOENT`: no such file.
    pub fn read_mdev_type(&self, parent: Parent, type_id: u32, name: &str) -> Result<String> {
        self.has_mdev_type(parent, type_id)?;
        let kind = self.board.vgpu_type(type_id).ok_or(Errno::ENOENT)?;
        let (width, height) = kind.resolution;
        match name {
            "name" => Ok(format!("{}\n", kind.name)),
            "device_api" => Ok("vfio-pci\n".to_owned()),
            "available_instances" => Ok(format!("{}\n", self.available_at(parent, kind)?)),
            "description" => Ok(format!(
                "num_heads={}, frl_config={}, framebuffer={}M, max_resolution={width}x{height}, \
                 max_instance={}\n",
                kind.heads, kind.frame_rate_limit, kind.framebuffer_mib, kind.max_instances,
            )),
            _ => Err(Errno::ENOENT),
        }
    }
}
