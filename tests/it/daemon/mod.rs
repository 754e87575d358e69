//! `virt-vgpud`, and what it hears from libvirt.

mod definitions;
mod events;
