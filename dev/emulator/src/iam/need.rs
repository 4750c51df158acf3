//! What a call needs permission for.

use super::context::Context;

/// An action on a resource. A call may need several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Need {
    /// For example `dynamodb:GetItem`.
    pub(crate) action: String,
    /// The resource's ARN. `*` where the action knows no resources, or it cannot be told which:
    /// only who may do it to all may.
    pub(crate) resource: String,
    /// The call's own condition keys.
    pub(crate) context: Context,
}

impl Need {
    pub(crate) fn new(action: impl Into<String>, resource: impl Into<String>) -> Self {
        Self { action: action.into(), resource: resource.into(), context: Context::default() }
    }

    pub(crate) fn with(mut self, key: &str, value: Option<&str>) -> Self {
        self.context.set_all(key, value.map(str::to_owned));
        self
    }

    pub(crate) fn with_all(mut self, key: &str, values: impl IntoIterator<Item = String>) -> Self {
        self.context.set_all(key, values);
        self
    }
}
