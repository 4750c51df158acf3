//! The streaming service of Tenantry: tenants' configuration read from memory, and watched as it
//! changes, over gRPC.
//!
//! A call travels [`service`] → [`memory`] → [`tenant`], and on to `tenantry`'s services where
//! memory is not enough. [`poller`] keeps memory fresh; [`watch`] tells watchers what changes. The
//! interface is described in `clients/proto/tenantry/config/v1/config.proto`.

mod answer;
mod connection_waker;
mod connections;
mod disk;
mod frames;
mod hints;
pub mod memory;
pub mod metrics;
pub mod pages;
mod poller;
mod refusals;
mod routes;
mod server;
mod service;
pub mod settings;
pub mod signals;
pub mod tenant;
pub mod waker;
mod watch;
mod watch_body;

pub use connections::{AbortFlag, UnusableCertificate};
pub use server::{StartError, Stream};
