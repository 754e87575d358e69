//! `virt-vgpu`, a module for each verb: what it prints, what it writes, what it refuses.

mod attach;
mod attach_vgpu;
mod card;
mod device_names;
mod devices;
mod doctor;
mod explain;
mod guests;
mod help;
mod host;
mod host_mig;
mod idle_gpus;
mod live;
mod pool;
mod pool_changes;
mod pool_files;
mod pool_settings;
mod profiles;
mod reconcile;
mod shared_room;
mod start;
mod status;
mod terminal;
mod together;
mod trust;
mod whole_pool;
