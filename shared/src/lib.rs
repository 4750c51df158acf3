//! Tenantry: the rules that the functions share.
pub mod http;
pub mod settings;
