//! Names and values of expressions that a request has, but without any: `DynamoDB` refuses them.
//! The engine does so, too, but for those of the actions of a transaction.

use serde_json::Value;

use crate::wire::AwsError;

const MAPS: [&str; 2] = ["ExpressionAttributeNames", "ExpressionAttributeValues"];

/// Refuses a transaction of which an action has an empty map.
pub(super) fn check(operation: &str, body: &[u8]) -> Result<(), AwsError> {
    if !operation.starts_with("Transact") {
        return Ok(());
    }
    // What cannot be read is left for the engine to refuse.
    let request: Value = serde_json::from_slice(body).unwrap_or_default();
    let items = request["TransactItems"].as_array().into_iter().flatten();
    for action in items.filter_map(Value::as_object).flat_map(|item| item.values()) {
        for name in MAPS {
            if action[name].as_object().is_some_and(serde_json::Map::is_empty) {
                return Err(AwsError::validation(format!("{name} must not be empty")));
            }
        }
    }
    Ok(())
}
