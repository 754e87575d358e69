//! The calls of libvirt that `virt` does not wrap: its events, the loop that delivers them, and
//! what the agent in a guest tells. With `nvml/raw` the only place of virt-vgpu with unsafe code; nothing here knows
//! what an event is good for. Numbers are those of libvirt's headers.

mod callback;
mod event;
mod event_loop;
mod guest_info;
mod subscription;

pub use event::{CloseReason, Event, Lifecycle, NodeDeviceChange};
pub use event_loop::{EventLoop, LoopError};
pub use guest_info::{GuestDevice, guest_devices};
pub use subscription::Subscription;

#[cfg(test)]
mod tests;
