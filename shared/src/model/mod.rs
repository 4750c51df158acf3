//! The words: what is a tenant, a key, a tag, a value, a version, a revision. Parsed once, at the
//! edge. Knows nothing of AWS or HTTP.

pub mod comment;
pub mod entry;
pub mod key;
pub mod refusal;
pub mod routing;
pub mod tenant;
pub mod value;
