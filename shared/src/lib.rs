//! Tenantry: every tenant's configuration behind one interface, each key on the store that suits
//! it.
//!
//! Modules stand on floors, and import from the floors below them alone; a test holds it
//! (`dev/local/tests/it/layers.rs`). From the ground up:
//!
//! | floor | modules |
//! | --- | --- |
//! | words | [`model`], [`clock`], `redact` |
//! | ground | `backoff`, [`telemetry`], [`limit`] |
//! | who | [`auth`] |
//! | AWS | [`aws`] |
//! | data | [`ledger`], [`store`], [`event`] |
//! | memory | [`cache`] |
//! | backend | [`backend`]: what all use cases need |
//! | use cases | `outbox`, `import`, [`read`], [`write`], [`tail`], `reconcile`, [`refresh`] |
//! | edge | `http`, `function` (both with the feature `lambda`), [`process`] |
//! | top | [`settings`] |

pub mod auth;
pub mod aws;
pub mod backend;
mod backoff;
pub mod cache;
pub mod clock;
pub mod event;
#[cfg(test)]
mod fixture;
#[cfg(feature = "lambda")]
pub mod function;
#[cfg(feature = "lambda")]
pub mod http;
mod import;
pub mod ledger;
pub mod limit;
pub mod model;
mod outbox;
pub mod process;
#[cfg(test)]
mod protocol_model;
pub mod read;
mod reconcile;
#[cfg(feature = "lambda")]
mod redact;
pub mod refresh;
pub mod settings;
pub mod store;
pub mod tail;
pub mod telemetry;
pub mod write;
