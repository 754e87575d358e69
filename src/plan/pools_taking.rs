//! Which pools take a GPU.

use crate::{config::Pool, rule::Verdict};

/// Those of the pools that take the GPU: pools of vGPUs whose rules match its
/// physical function. `verdict` is of a pool's rules on the GPU.
pub fn pools_taking<'p>(
    pools: impl IntoIterator<Item = &'p Pool>,
    verdict: impl Fn(&Pool) -> Verdict,
) -> Vec<&'p Pool> {
    let takes = |pool: &&Pool| pool.is_of_gpus() && matches!(verdict(pool), Verdict::Match { .. });
    pools.into_iter().filter(takes).collect()
}
