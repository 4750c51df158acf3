//! Where the suite seems to run.

/// The region that the suite seems to run in.
pub const REGION: &str = "us-east-1";
/// The account that it seems to run in.
pub const ACCOUNT: &str = "000000000000";
/// Access key id and secret; the emulator takes any.
pub const CREDENTIALS: &str = "local";
