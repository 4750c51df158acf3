//! A client of Tenantry's streaming service: single reads, a watch that goes on across connections,
//! and a tenant's configuration in memory, always the newest.
//!
//! ```no_run
//! # async fn example(token: &str) -> Result<(), Box<dyn std::error::Error>> {
//! use config_client::{Client, Filter, Options, Start, StaticToken};
//!
//! let options = Options::new("http://127.0.0.1:50051", StaticToken::new(token));
//! let client = Client::connect(options)?;
//!
//! // One read.
//! let limits = client.get("tenant_config_limits").await?;
//!
//! // In memory: reading does not wait, and sees each change a moment after its commit.
//! let config = client.live(Filter::all().prefix("param_config_db/"));
//! config.ready().await?;
//! let host = config.get("param_config_db/primary/host");
//!
//! // Event by event.
//! let mut watch = client.watch(Filter::all(), Start::Snapshot);
//! while let Some(event) = watch.next().await {
//!     // Store the position, to go on from there: `Start::After(position.parse()?)`.
//!     let position = event?.position().to_string();
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The example `config-watch` is a whole program.
//!
//! | module | knows |
//! | --- | --- |
//! | `client` | unary calls: deadline, attempts, pages |
//! | `watch` | connects, listens, connects again |
//! | `watch::tracker` | where a watch is; lets through what comes next, whole and once |
//! | `live` | applies events to the state in memory |
//! | `transport` | what all calls share |
//! | `channels` `token` `backoff` | which endpoint, which token, which pause |

mod backoff;
mod channels;
mod client;
mod entry;
mod error;
mod live;
mod options;
mod token;
mod transport;
mod watch;

#[cfg(test)]
mod tests;

pub use tonic::{
    Code, Status,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

pub use self::{
    backoff::Backoff,
    client::{Batch, Client, Read},
    entry::{Entry, Value},
    error::{BoxError, Error},
    live::{LiveConfig, View},
    options::Options,
    token::{StaticToken, TokenSource},
    watch::{
        Change, Event, Filter, Heartbeat, Operation, ParsePositionError, Position, Snapshot, Start, Update, Watch,
    },
};
