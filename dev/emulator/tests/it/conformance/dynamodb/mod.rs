//! `DynamoDB`: what the suite builds on.

mod items;
mod transactions;

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;

use super::Aws;
use crate::clients::{Failure, code, number, text};

type Item = HashMap<String, AttributeValue>;

fn key(pk: &str, sk: &str) -> Item {
    HashMap::from([("pk".to_owned(), text(pk)), ("sk".to_owned(), text(sk))])
}

fn item(pk: &str, sk: &str, value: impl ToString + Copy) -> Item {
    let mut item = key(pk, sk);
    item.insert("n".to_owned(), number(value));
    item
}

async fn get(aws: &Aws, table: &str, pk: &str, sk: &str) -> Result<Option<AttributeValue>, Failure> {
    let get = aws.dynamodb.get_item().table_name(table).set_key(Some(key(pk, sk))).consistent_read(true);
    Ok(get.send().await?.item().and_then(|item| item.get("n").cloned()))
}

async fn put_once(aws: &Aws, table: &str, item: Item) -> String {
    let put = aws.dynamodb.put_item().table_name(table).set_item(Some(item));
    code(put.condition_expression("attribute_not_exists(pk)").send()).await
}
