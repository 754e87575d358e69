//! The administrator's command; see `virt_vgpu::cli`.

fn main() {}
