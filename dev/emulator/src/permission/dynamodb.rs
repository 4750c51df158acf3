//! What calls of `DynamoDB` need: on which table, index or stream, and with which keys.
//!
//! Condition keys as in "Using IAM policy conditions for fine-grained access control" in the
//! `DynamoDB` developer guide.

use std::collections::HashMap;
use std::sync::Arc;

use dynoxide::actions::get_shard_iterator::decode_shard_iterator;
use serde_json::Value;

use super::{key_condition, partiql};
use crate::account::Account;
use crate::dynamodb::TableKeys;
use crate::iam::Need;

const LEADING_KEYS: &str = "dynamodb:LeadingKeys";

/// The tables whose keys must be known to say what a call needs.
pub(crate) fn tables(operation: &str, body: &[u8]) -> Vec<String> {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    match operation {
        "TransactWriteItems" | "TransactGetItems" => {
            transacted(&body).filter_map(|(_, item)| Some(item["TableName"].as_str()?.to_owned())).collect()
        }
        "BatchGetItem" | "BatchWriteItem" => batched(&body).map(|(table, _)| table.clone()).collect(),
        "GetRecords" => iterated(&body).into_iter().collect(),
        "GetItem" | "PutItem" | "UpdateItem" | "DeleteItem" | "Query" => {
            body["TableName"].as_str().map(str::to_owned).into_iter().collect()
        }
        _ => Vec::new(),
    }
}

pub(super) fn needs(
    account: &Account,
    operation: &str,
    body: &Value,
    tables: &HashMap<String, Arc<TableKeys>>,
) -> Vec<Need> {
    let need = |action: &str, resource: String| Need::new(format!("dynamodb:{action}"), resource);
    let keys = |table: &str| tables.get(table).map(Arc::as_ref);
    let partition = |table: &str| keys(table)?.partition.as_deref();
    match operation {
        "GetItem" | "UpdateItem" | "DeleteItem" | "PutItem" => {
            let table = body["TableName"].as_str();
            let key = table.and_then(partition);
            let item = if operation == "PutItem" { &body["Item"] } else { &body["Key"] };
            vec![need(operation, resource(account, table)).with_all(LEADING_KEYS, leading(key, [item]))]
        }
        "Query" | "Scan" => {
            let (table, index) = (body["TableName"].as_str(), body["IndexName"].as_str());
            let mut resource = resource(account, table);
            if let Some(index) = index.filter(|_| table.is_some()) {
                resource = format!("{resource}/index/{index}");
            }
            let mut need = need(operation, resource).with("dynamodb:Select", body["Select"].as_str());
            if operation == "Query" {
                let key = table.and_then(|table| match index {
                    Some(index) => keys(table)?.indexes.get(index).map(String::as_str),
                    None => partition(table),
                });
                let value = key.and_then(|key| text(key_condition::partition_value(body, key)?));
                need = need.with_all(LEADING_KEYS, value);
            }
            vec![need]
        }
        "TransactWriteItems" | "TransactGetItems" => {
            // The engine reads a list instead of an object by the order of its members. That must
            // not go past the policies.
            let items = body["TransactItems"].as_array().into_iter().flatten();
            let lists = items.filter(|item| !item.is_object()).map(|_| need(operation, all()));
            let needs = transacted(body).map(|(kind, item)| {
                let action = match kind.as_str() {
                    "ConditionCheck" => "ConditionCheckItem".to_owned(),
                    kind => format!("{kind}Item"),
                };
                let table = item["TableName"].as_str();
                let keyed = if kind == "Put" { &item["Item"] } else { &item["Key"] };
                need(&action, resource(account, table))
                    .with_all(LEADING_KEYS, leading(table.and_then(partition), [keyed]))
                    .with("dynamodb:EnclosingOperation", Some(operation))
            });
            lists.chain(needs).collect()
        }
        "BatchGetItem" | "BatchWriteItem" => {
            let needs = batched(body).map(|(table, asked)| {
                let asked = if operation == "BatchGetItem" { &asked["Keys"] } else { asked };
                let items = asked.as_array().into_iter().flatten().map(|one| match operation {
                    "BatchGetItem" => one,
                    _ => written(one),
                });
                need(operation, resource(account, Some(table))).with_all(LEADING_KEYS, leading(partition(table), items))
            });
            needs.collect()
        }
        "ExecuteStatement" | "BatchExecuteStatement" | "ExecuteTransaction" => {
            let several = |member: &str| body[member].as_array().into_iter().flatten().collect();
            let statements: Vec<&Value> = match operation {
                "BatchExecuteStatement" => several("Statements"),
                "ExecuteTransaction" => several("TransactStatements"),
                _ => vec![body],
            };
            let texts = statements.into_iter().map(|one| one["Statement"].as_str().unwrap_or_default());
            texts.flat_map(|text| statement(account, text)).collect()
        }
        "DescribeStream" | "GetShardIterator" => {
            vec![need(operation, body["StreamArn"].as_str().map_or_else(all, |arn| own(account, arn)))]
        }
        "GetRecords" => {
            let stream = iterated(body).and_then(|table| {
                let stream = keys(&table)?.stream.as_ref()?;
                Some(account.arn("dynamodb", &format!("table/{table}/stream/{stream}")))
            });
            vec![need(operation, stream.unwrap_or_else(all))]
        }
        "TagResource" | "UntagResource" | "ListTagsOfResource" => {
            vec![need(operation, body["ResourceArn"].as_str().map_or_else(all, |arn| own(account, arn)))]
        }
        "ListTables" | "ListStreams" => vec![need(operation, all())],
        _ => vec![need(operation, resource(account, body["TableName"].as_str()))],
    }
}

fn all() -> String {
    "*".to_owned()
}

/// A table may be named by its ARN.
fn resource(account: &Account, table: Option<&str>) -> String {
    match table {
        None => all(),
        Some(arn) if arn.starts_with("arn:") => arn.to_owned(),
        Some(name) => account.arn("dynamodb", &format!("table/{name}")),
    }
}

/// The engine has a region and an account of its own in the ARNs that it gives out.
fn own(account: &Account, arn: &str) -> String {
    arn.splitn(6, ':').nth(5).map_or_else(all, |resource| account.arn("dynamodb", resource))
}

fn transacted(body: &Value) -> impl Iterator<Item = (&String, &Value)> {
    body["TransactItems"].as_array().into_iter().flatten().filter_map(Value::as_object).flatten()
}

fn batched(body: &Value) -> impl Iterator<Item = (&String, &Value)> {
    body["RequestItems"].as_object().into_iter().flatten()
}

/// The table whose stream is read.
fn iterated(body: &Value) -> Option<String> {
    decode_shard_iterator(body["ShardIterator"].as_str()?).map(|(table, _, _)| table)
}

/// What a write of a batch names: an item, or its key.
fn written(request: &Value) -> &Value {
    match (&request["PutRequest"]["Item"], &request["DeleteRequest"]["Key"]) {
        (item, Value::Null) => item,
        (Value::Null, key) => key,
        // The service refuses both at once.
        _ => &Value::Null,
    }
}

/// The values of the partition key in all of these; none at all if one has none.
fn leading<'a>(key: Option<&str>, items: impl IntoIterator<Item = &'a Value>) -> Vec<String> {
    let values = items.into_iter().map(|item| text(&item[key?]));
    values.collect::<Option<Vec<_>>>().unwrap_or_default()
}

/// A key's value: text, a number as it is written, or binary in Base64.
fn text(value: &Value) -> Option<String> {
    let value = value.as_object().filter(|value| value.len() == 1)?;
    let (kind, value) = value.iter().next()?;
    matches!(kind.as_str(), "S" | "N" | "B").then(|| value.as_str().map(str::to_owned))?
}

fn statement(account: &Account, text: &str) -> Vec<Need> {
    let partiql::Statement { actions, table } = partiql::read(text);
    let resource = table.map_or_else(all, |table| {
        let resource = resource(account, Some(&table.name));
        table.index.map_or(resource.clone(), |index| format!("{resource}/index/{index}"))
    });
    actions.iter().map(|action| Need::new(format!("dynamodb:{action}"), resource.as_str())).collect()
}
