//! Where log events go: to the journal with fields, and for people who set
//! `RUST_LOG` to stderr too.

use tracing_subscriber::{
    EnvFilter, Layer, filter::LevelFilter, layer::SubscriberExt, registry, util::SubscriberInitExt,
};

use super::{Host, terminal::LogLines};

/// Sends events to the journal under `identifier`, from `info` up. Without a
/// journal (a container, a test's root directory) they are dropped: logging
/// never stands in the way of a VM. The first call counts.
pub fn start_logging(host: &Host, identifier: &str) {
    if tracing::dispatcher::has_been_set() {
        return;
    }
    let journal = host
        .is_real()
        .then(|| tracing_journald::layer().ok())
        .flatten()
        .map(|layer| {
            // No prefix: MESSAGE_ID and DOMAIN_UUID are the names that
            // journalctl and other programs look for.
            layer
                .with_field_prefix(None)
                .with_syslog_identifier(identifier.to_owned())
                .with_filter(LevelFilter::INFO)
        });
    let people = EnvFilter::try_from_default_env().ok().map(|filter| {
        tracing_subscriber::fmt::layer()
            .with_writer(|| LogLines)
            .with_filter(filter)
    });
    // Fails only when another thread was faster.
    let _ = registry().with(journal).with(people).try_init();
}
