//! The streaming service of Tenantry: tenants' configuration read from memory, and watched as it
//! changes, over gRPC.
//!
//! A call travels [`service`] → [`memory`] → [`tenant`], and where memory does not do, on to
//! `tenantry`'s services. [`poller`] keeps memory fresh; [`watch`] tells watchers of it. The
//! interface is described in `clients/proto/tenantry/config/v1/config.proto`.

mod answer;
mod connections;
mod disk;
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

pub use connections::{Cut, UnusableCertificate};
pub use server::{StartError, Stream};
