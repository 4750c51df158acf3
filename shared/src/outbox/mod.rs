//! Works off the outbox: replicates a key's value to its tag's store, and commits what the store
//! makes of it.

pub(crate) mod refusal;
pub(crate) mod replicate;
