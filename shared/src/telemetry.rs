//! Logs: JSON lines to standard output, one failure once, the same field names everywhere, never a value or a token.

use tracing_subscriber::{EnvFilter, fmt};

/// Sends the process's logs to standard output, at the level of `RUST_LOG`, by default `info`.
pub fn init() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // A second call, as in tests, changes nothing.
    let _ = fmt().json().flatten_event(true).with_env_filter(filter).with_current_span(false).without_time().try_init();
}
