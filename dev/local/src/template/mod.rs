//! What `template.yaml` says about the suite, in terms of this machine: routes, functions with
//! their environments and roles, the table, event rules and schedules, queues and the streaming
//! service. Nothing of this is written down a second time for local runs.
//!
//! Resources whose condition does not hold are not there. Those that only watch or protect (alarms,
//! dashboards, load balancers, …) have no local counterpart and are passed over; anything that
//! would carry a request or an event and cannot be run here is an error at start.

mod api;
mod intrinsics;
#[cfg(test)]
mod presence;
mod queue;
mod role;
mod stack;
mod stream;
mod yaml;

pub use api::Cors;
pub use intrinsics::{Deployment, ResolveError};
pub use queue::{EventSource, Queue};
pub use role::Role;
pub use stack::{Api, Authorizer, Function, Route, Rule, Schedule, Stack, StackError, Table, Target};
pub use stream::StreamService;
pub use yaml::YamlError;

/// The template of this workspace, as it was when this binary was built.
pub const TEMPLATE: &str = include_str!("../../../../template.yaml");
