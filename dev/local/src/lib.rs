//! The whole suite in one process, no account needed: the functions behind a stand-in of API
//! Gateway, a token issuer, and the emulator of the AWS services that they call.
//!
//! What is started, and how it hangs together, comes from `template.yaml` alone. Tests start the
//! same [`Suite`] on free ports with its data in memory.

mod account;
pub mod cli;
pub mod data;
mod event_source;
mod functions;
pub mod gateway;
pub mod issuer;
pub mod ready;
mod schedule;
mod server;
pub mod suite;
pub mod table;
pub mod template;
pub mod token;
pub mod welcome;

pub use functions::{Environment, FunctionError};
pub use suite::{Options, StartError, Suite};
