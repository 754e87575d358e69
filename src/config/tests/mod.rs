mod bad_files;
mod loading;
mod pools;

use std::path::Path;

use super::*;
use crate::{
    document::ConfigError,
    kind::{self, GpuSettings, SchedulerPolicy, SchedulerSettings},
};

const FILE: &str = "/etc/virt-vgpu/pools.d/cad.toml";

fn read(text: &str) -> Result<Pool, ConfigError> {
    parse("cad".parse().unwrap(), Path::new(FILE), text)
}
