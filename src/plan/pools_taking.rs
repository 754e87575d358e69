//! Which pools take a GPU.

use crate::{config::Pool, rule::Verdict};

/// The pools that take the GPU: vGPU pools whose rules match its physical function.
/// `verdict` evaluates a pool's rules on the GPU.
pub fn pools_taking<'p>(
    pools: impl IntoIterator<Item = &'p Pool>,
    verdict: impl Fn(&Pool) -> Verdict,
) -> Vec<&'p Pool> {
    let takes = |pool: &&Pool| pool.is_of_gpus() && matches!(verdict(pool), Verdict::Match { .. });
    pools.into_iter().filter(takes).collect()
}
