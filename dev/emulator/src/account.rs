//! The account that all resources belong to.

/// Where resources lie.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    pub(crate) region: String,
    pub(crate) id: String,
}

impl Account {
    pub(crate) fn arn(&self, service: &str, resource: &str) -> String {
        format!("arn:aws:{service}:{}:{}:{resource}", self.region, self.id)
    }
}
