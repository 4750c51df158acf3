//! Tenantry: every tenant's configuration behind one interface, each key on the store that suits
//! it.
//!
//! A request travels [`function`] → [`http`] → [`auth`] → [`service`] → [`ledger`] and [`store`].
//! What is decided where is in ARCHITECTURE.md.

pub mod auth;
pub mod aws;
pub mod cache;
pub mod clock;
pub mod comment;
pub mod entry;
pub mod event;
pub mod function;
pub mod http;
pub mod key;
pub mod ledger;
pub mod limit;
mod redact;
pub mod refusal;
pub mod routing;
pub mod service;
pub mod settings;
pub mod store;
pub mod telemetry;
pub mod tenant;
pub mod value;
