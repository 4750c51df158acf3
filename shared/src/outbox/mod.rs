//! Works off the outbox: replicates a key's value to its tag's store, and commits what the store
//! makes of it.

pub(crate) mod refusal;
pub(crate) mod replicate;

use std::time::Duration;

/// How many items are worked on at once: about as many as Parameter Store takes puts a second, so
/// that none waits long when the client has to slow down.
pub(crate) const AT_ONCE: usize = 4;
/// How long one item may take.
pub(crate) const ITEM_BUDGET: Duration = Duration::from_secs(10);
