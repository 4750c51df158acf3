//! Single items, queries and batches: conditions, limits, pages.

use std::collections::{BTreeSet, HashMap};

use aws_sdk_dynamodb::types::{
    AttributeValue, KeysAndAttributes, PutRequest, ReturnValue, ReturnValuesOnConditionCheckFailure, WriteRequest,
};
use futures_util::{StreamExt as _, future::join_all, stream};

use super::{Item, get, item, key, put_once};
use crate::clients::{Failure, Outcome, code, holds, number, same, text};
use crate::conformance::{Aws, Server, cases};

cases! {
    a_conditional_put_creates_once: [],
    a_failed_condition_can_return_the_old_item: [],
    one_of_many_concurrent_conditional_writes_wins: [Moto: "checks and writes are not one step: several writers win"],
    a_conditional_update_counts_every_writer: [],
    an_item_has_at_most_400_kb: [Moto: "refuses items from 405,000 bytes on"],
    a_query_goes_by_sort_key_and_pages: [],
    a_query_goes_backwards: [],
    a_query_page_has_at_most_1_mb: [],
    a_batch_get_finds_what_is_there: [],
    a_batch_get_takes_at_most_100_keys: [],
    a_batch_get_answers_at_most_16_mb: [Ministack: "answers without a limit"],
    a_missing_table_is_named: [],
    an_empty_key_is_refused: [],
    a_request_has_no_empty_names_or_values: [Moto: "takes empty ones in some operations", Ministack: "takes empty ones in a scan"],
    a_number_keeps_38_digits: [Moto: "takes any number of digits"],
}

async fn fill(aws: &Aws, table: &str, count: usize, bytes: usize) -> Outcome {
    let numbers: Vec<usize> = (0..count).collect();
    for chunk in numbers.chunks(25) {
        let mut requests = Vec::new();
        for number in chunk {
            let mut item = item("a", &format!("{number:04}"), number);
            item.insert("v".to_owned(), text("x".repeat(bytes)));
            requests
                .push(WriteRequest::builder().put_request(PutRequest::builder().set_item(Some(item)).build()?).build());
        }
        let answer = aws.dynamodb.batch_write_item().request_items(table, requests).send().await?;
        holds("all written", answer.unprocessed_items().is_none_or(HashMap::is_empty))?;
    }
    Ok(())
}

fn sort_keys(items: &[Item]) -> Vec<&str> {
    items.iter().filter_map(|item| item.get("sk")?.as_s().ok()).map(String::as_str).collect()
}

async fn batch_get(aws: &Aws, table: &str, keys: Vec<Item>) -> Result<(usize, usize), Failure> {
    let keys = KeysAndAttributes::builder().set_keys(Some(keys)).consistent_read(true).build()?;
    let answer = aws.dynamodb.batch_get_item().request_items(table, keys).send().await?;
    let found = answer.responses().and_then(|tables| tables.get(table)).map_or(0, Vec::len);
    let left = answer.unprocessed_keys().and_then(|tables| tables.get(table)).map_or(0, |keys| keys.keys().len());
    Ok((found, left))
}

/// Guards: of two writers who both want to create an item, the second is told.
async fn a_conditional_put_creates_once(aws: &Aws) -> Outcome {
    let table = aws.own_table().await?;
    same!("first", put_once(aws, &table, item("a", "1", 1)).await, "ok",)?;
    same!("second", put_once(aws, &table, item("a", "1", 2)).await, "ConditionalCheckFailedException",)?;
    same!("value", get(aws, &table, "a", "1").await?, Some(number(1)))
}

/// Guards: `ReturnValuesOnConditionCheckFailure=ALL_OLD` shows what stood in the way.
async fn a_failed_condition_can_return_the_old_item(aws: &Aws) -> Outcome {
    let table = aws.own_table().await?;
    put_once(aws, &table, item("a", "1", 7)).await;
    let second = aws
        .dynamodb
        .put_item()
        .table_name(&table)
        .set_item(Some(item("a", "1", 8)))
        .condition_expression("n = :n")
        .expression_attribute_values(":n", number(6))
        .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
    let Err(error) = second.send().await else {
        return Err(Failure("the condition held".to_owned()));
    };
    let error = error.into_service_error();
    let aws_sdk_dynamodb::operation::put_item::PutItemError::ConditionalCheckFailedException(failed) = error else {
        return Err(error.into());
    };
    same!("old", failed.item().and_then(|item| item.get("n")), Some(&number(7)),)
}

/// Guards: a condition is checked and its write done as one: exactly one of 32 wins.
async fn one_of_many_concurrent_conditional_writes_wins(aws: &Aws) -> Outcome {
    let table = aws.own_table().await?;
    // Moto's gap between check and write grows with the item; a long one shows it every time.
    let length = if aws.server == Server::Moto { 3_000 } else { 30 };
    let long = AttributeValue::L(vec![text("x"); length]);
    for round in 0..20 {
        let writers = (0..32).map(|writer| {
            let mut item = item("a", &round.to_string(), writer);
            item.insert("long".to_owned(), long.clone());
            put_once(aws, &table, item)
        });
        let results = join_all(writers).await;
        same!("winners", results.iter().filter(|result| *result == "ok").count(), 1,)?;
    }
    Ok(())
}

/// Guards: an unconditional counter loses no step.
async fn a_conditional_update_counts_every_writer(aws: &Aws) -> Outcome {
    let table = aws.own_table().await?;
    let add = || {
        aws.dynamodb
            .update_item()
            .table_name(&table)
            .set_key(Some(key("a", "1")))
            .update_expression("ADD n :one")
            .expression_attribute_values(":one", number(1))
            .return_values(ReturnValue::UpdatedNew)
            .send()
    };
    let mut seen = BTreeSet::new();
    // Moto's updates are no single step: now and then two of concurrent ones see the same count.
    let at_once = if aws.server == Server::Moto { 1 } else { 16 };
    for result in stream::iter((0..16).map(|_| add())).buffer_unordered(at_once).collect::<Vec<_>>().await {
        seen.extend(result?.attributes().and_then(|new| new.get("n")).and_then(|n| n.as_n().ok()).cloned());
    }
    same!("different counts", seen.len(), 16)?;
    same!("sum", get(aws, &table, "a", "1").await?, Some(number(16)))
}

/// Guards: 400 KB an item, names included.
async fn an_item_has_at_most_400_kb(aws: &Aws) -> Outcome {
    let table = aws.own_table().await?;
    for (bytes, expected) in [(400 * 1024 - 100, "ok"), (400 * 1024, "ValidationException")] {
        let mut item = key("a", "1");
        item.insert("v".to_owned(), text("x".repeat(bytes)));
        let put = aws.dynamodb.put_item().table_name(&table).set_item(Some(item)).send();
        same!("size", (bytes, code(put).await.as_str()), (bytes, expected))?;
    }
    Ok(())
}

/// Guards: items come by sort key, a page holds what was asked for, and the next one goes on where
/// it ended.
async fn a_query_goes_by_sort_key_and_pages(aws: &Aws) -> Outcome {
    let table = aws.own_table().await?;
    fill(aws, &table, 10, 1).await?;
    let query = aws
        .dynamodb
        .query()
        .table_name(&table)
        .key_condition_expression("pk = :pk AND sk BETWEEN :from AND :to")
        .expression_attribute_values(":pk", text("a"))
        .expression_attribute_values(":from", text("0002"))
        .expression_attribute_values(":to", text("0007"))
        .limit(4)
        .consistent_read(true);
    let first = query.clone().send().await?;
    same!("first page", sort_keys(first.items()), ["0002", "0003", "0004", "0005"],)?;
    let second = query.set_exclusive_start_key(first.last_evaluated_key().cloned()).send().await?;
    same!("second page", sort_keys(second.items()), ["0006", "0007"])?;
    holds("the last page says so", second.last_evaluated_key().is_none())
}

/// Guards: `ScanIndexForward=false` turns the order round; the start key is excluded.
async fn a_query_goes_backwards(aws: &Aws) -> Outcome {
    let table = aws.own_table().await?;
    fill(aws, &table, 5, 1).await?;
    let query = aws
        .dynamodb
        .query()
        .table_name(&table)
        .key_condition_expression("pk = :pk AND begins_with(sk, :prefix)")
        .expression_attribute_values(":pk", text("a"))
        .expression_attribute_values(":prefix", text("000"))
        .scan_index_forward(false)
        .set_exclusive_start_key(Some(key("a", "0003")));
    same!("items", sort_keys(query.send().await?.items()), ["0002", "0001", "0000"],)
}

/// Guards: a page ends at 1 MB, and says where.
async fn a_query_page_has_at_most_1_mb(aws: &Aws) -> Outcome {
    let table = aws.own_table().await?;
    fill(aws, &table, 12, 100 * 1024).await?;
    let query = aws
        .dynamodb
        .query()
        .table_name(&table)
        .key_condition_expression("pk = :pk")
        .expression_attribute_values(":pk", text("a"));
    let answer = query.send().await?;
    holds("fewer than all", answer.count() < 12)?;
    holds("and more to come", answer.last_evaluated_key().is_some())
}

/// Guards: what is missing is left out without an error.
async fn a_batch_get_finds_what_is_there(aws: &Aws) -> Outcome {
    let table = aws.own_table().await?;
    fill(aws, &table, 3, 1).await?;
    let keys = ["0000", "0002", "0009"].map(|sk| key("a", sk)).to_vec();
    same!("found and left", batch_get(aws, &table, keys).await?, (2, 0),)
}

/// Guards: 100 keys a call (API reference).
async fn a_batch_get_takes_at_most_100_keys(aws: &Aws) -> Outcome {
    let table = aws.own_table().await?;
    let keys = |count: usize| (0..count).map(|n| key("a", &format!("{n:04}"))).collect::<Vec<_>>();
    same!("a hundred", batch_get(aws, &table, keys(100)).await?, (0, 0),)?;
    let keys = KeysAndAttributes::builder().set_keys(Some(keys(101))).build()?;
    let call = aws.dynamodb.batch_get_item().request_items(&table, keys).send();
    same!("one more", code(call).await, "ValidationException")
}

/// Guards: an answer ends at 16 MB and names the keys that are left.
async fn a_batch_get_answers_at_most_16_mb(aws: &Aws) -> Outcome {
    let table = aws.own_table().await?;
    fill(aws, &table, 50, 390 * 1024).await?;
    let keys = (0..50).map(|n| key("a", &format!("{n:04}"))).collect();
    let (found, left) = batch_get(aws, &table, keys).await?;
    same!("together", found + left, 50)?;
    holds("some are left", left > 0)
}

/// Guards: the error for a table that is not there.
async fn a_missing_table_is_named(aws: &Aws) -> Outcome {
    let get = aws.dynamodb.get_item().table_name("no-such-table").set_key(Some(key("a", "1"))).send();
    same!("code", code(get).await, "ResourceNotFoundException")
}

/// Guards: a key cannot be empty text.
async fn an_empty_key_is_refused(aws: &Aws) -> Outcome {
    let table = aws.own_table().await?;
    let put = aws.dynamodb.put_item().table_name(&table).set_item(Some(item("", "1", 1))).send();
    same!("code", code(put).await, "ValidationException")
}

/// Guards: names and values of expressions are left out where there are none.
async fn a_request_has_no_empty_names_or_values(aws: &Aws) -> Outcome {
    let table = aws.own_table().await?;
    let dynamodb = &aws.dynamodb;
    let refused = "ValidationException";
    for (names, values, expected) in
        [(None, None, "ok"), (Some(HashMap::new()), None, refused), (None, Some(HashMap::new()), refused)]
    {
        macro_rules! call {
            ($operation:ident, $call:expr) => {
                let call = $call.table_name(&table).set_expression_attribute_names(names.clone());
                let call = call.set_expression_attribute_values(values.clone());
                same!(stringify!($operation), code(call.send()).await, expected)?;
            };
        }
        let (item, key, condition) = (Some(item("a", "put", 1)), Some(key("a", "1")), "attribute_not_exists(pk)");
        call!(PutItem, dynamodb.put_item().set_item(item).condition_expression(condition));
        call!(DeleteItem, dynamodb.delete_item().set_key(key.clone()).condition_expression(condition));
        call!(UpdateItem, dynamodb.update_item().set_key(key.clone()).update_expression("REMOVE n"));
        call!(Scan, dynamodb.scan().filter_expression(condition));
        let expected = if names.is_some() { refused } else { "ok" };
        let get = dynamodb.get_item().table_name(&table).set_key(key.clone()).projection_expression("n");
        same!("GetItem", code(get.set_expression_attribute_names(names.clone()).send()).await, expected)?;
        let keys = KeysAndAttributes::builder().set_keys(key.map(|key| vec![key])).projection_expression("n");
        let keys = keys.set_expression_attribute_names(names).build()?;
        same!("BatchGetItem", code(dynamodb.batch_get_item().request_items(&table, keys).send()).await, expected)?;
    }
    Ok(())
}

/// Guards: numbers keep 38 digits, and more are refused.
async fn a_number_keeps_38_digits(aws: &Aws) -> Outcome {
    let table = aws.own_table().await?;
    let digits = "12345678901234567890123456789012345678";
    let put = |n: &str| aws.dynamodb.put_item().table_name(&table).set_item(Some(item("a", "1", n))).send();
    same!("38", code(put(digits)).await, "ok")?;
    same!("kept", get(aws, &table, "a", "1").await?, Some(number(digits)),)?;
    same!("39", code(put(&format!("{digits}9"))).await, "ValidationException",)
}
