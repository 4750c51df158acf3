//! Items and attribute values as the SDK has them: what keys, items and expressions are made of.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;

use crate::model::entry::IntentId;

/// An item as the SDK gives and takes it.
pub(super) type Item = HashMap<String, AttributeValue>;

pub(super) fn s(text: impl Into<String>) -> AttributeValue {
    AttributeValue::S(text.into())
}

pub(super) fn n(number: u64) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

pub(super) fn id_set(ids: &[IntentId]) -> AttributeValue {
    AttributeValue::Ss(ids.iter().map(|id| id.as_str().to_owned()).collect())
}
