//! The streaming service of Tenantry: tenants' configuration read from memory, and watched as it
//! changes, over gRPC.
//!
//! A call travels [`service`] → [`memory`] → [`tenant`], and where memory does not do, on to
//! `tenantry`'s services. [`follower`] keeps memory fresh; [`watch`] tells watchers of it. The
//! interface is described in `clients/proto/tenantry/config/v1/config.proto`.

mod answer;
mod connections;
mod disk;
mod follower;
mod hints;
pub mod memory;
pub mod metrics;
pub mod pages;
mod refusals;
mod routes;
mod server;
mod service;
pub mod settings;
pub mod signals;
pub mod tenant;
pub mod wake;
mod watch;

pub use connections::{Cut, UnusableCertificate};
pub use server::{StartError, Stream};
