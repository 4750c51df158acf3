//! What a commit still owes when it is made: its value's way to the tag's store.

pub(crate) mod refusal;
pub(crate) mod replicate;
