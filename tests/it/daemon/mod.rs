//! `virt-vgpud`, and the events that it gets from libvirt.

mod definitions;
mod device_events;
mod events;
