//! `virt-vgpud`, and the events that it gets from libvirt and the kernel.

mod definitions;
mod device_events;
mod events;
