//! `DynamoDB`: conditions, transactions, pages, batches.

use std::collections::{BTreeSet, HashMap};

use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::{
    AttributeValue, ConditionCheck, Delete, KeysAndAttributes, Put, PutRequest, ReturnValue,
    ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update, WriteRequest,
};
use futures_util::future::join_all;

use super::{Aws, Server, cases};
use crate::clients::{Failure, Outcome, code, holds, number, same, text};

cases! {
    a_conditional_put_creates_once: [],
    a_failed_condition_can_return_the_old_item: [],
    one_of_many_concurrent_conditional_writes_wins: [Moto: "checks and writes are not one step: several writers win"],
    a_conditional_update_counts_every_writer: [],
    a_transaction_is_all_or_nothing: [],
    cancellation_reasons_come_in_order: [],
    a_cancelled_transaction_can_return_the_old_item: [],
    a_request_token_applies_a_transaction_once: [Moto: "applies the transaction again"],
    a_request_token_with_another_request_is_refused: [Moto: "does not look at the token"],
    a_transaction_touches_an_item_once: [],
    a_transaction_has_at_most_100_actions: [],
    an_item_has_at_most_400_kb: [Moto: "refuses items from 405,000 bytes on"],
    a_query_goes_by_sort_key_and_pages: [],
    a_query_goes_backwards: [],
    a_query_page_has_at_most_1_mb: [],
    a_batch_get_finds_what_is_there: [],
    a_batch_get_takes_at_most_100_keys: [],
    a_batch_get_answers_at_most_16_mb: [Ministack: "answers without a limit"],
    a_missing_table_is_named: [],
    an_empty_key_is_refused: [],
    a_number_keeps_38_digits: [Moto: "takes any number of digits"],
}

type Item = HashMap<String, AttributeValue>;

fn key(pk: &str, sk: &str) -> Item {
    HashMap::from([("pk".to_owned(), text(pk)), ("sk".to_owned(), text(sk))])
}

fn item(pk: &str, sk: &str, value: impl ToString + Copy) -> Item {
    let mut item = key(pk, sk);
    item.insert("n".to_owned(), number(value));
    item
}

fn put(table: &str, item: Item, condition: Option<&str>) -> Result<TransactWriteItem, Failure> {
    let put = Put::builder()
        .table_name(table)
        .set_item(Some(item))
        .set_condition_expression(condition.map(str::to_owned))
        .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
        .build()?;
    Ok(TransactWriteItem::builder().put(put).build())
}

async fn get(
    aws: &Aws,
    table: &str,
    pk: &str,
    sk: &str,
) -> Result<Option<AttributeValue>, Failure> {
    let get = aws
        .dynamodb
        .get_item()
        .table_name(table)
        .set_key(Some(key(pk, sk)))
        .consistent_read(true);
    Ok(get
        .send()
        .await?
        .item()
        .and_then(|item| item.get("n").cloned()))
}

async fn put_once(aws: &Aws, table: &str, item: Item) -> String {
    let put = aws
        .dynamodb
        .put_item()
        .table_name(table)
        .set_item(Some(item));
    code(put.condition_expression("attribute_not_exists(pk)").send()).await
}

/// Guards: of two writers who both want to create an item, the second is told.
async fn a_conditional_put_creates_once(aws: &Aws) -> Outcome {
    let table = aws.own_table().await?;
    same!(
        "first",
        put_once(aws, &table, item("a", "1", 1)).await,
        "ok",
    )?;
    same!(
        "second",
        put_once(aws, &table, item("a", "1", 2)).await,
        "ConditionalCheckFailedException",
    )?;
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
    let aws_sdk_dynamodb::operation::put_item::PutItemError::ConditionalCheckFailedException(
        failed,
    ) = error
    else {
        return Err(error.into());
    };
    same!(
        "old",
        failed.item().and_then(|item| item.get("n")),
        Some(&number(7)),
    )
}

/// Guards: a condition is checked and its write done as one: exactly one of 32 wins.
async fn one_of_many_concurrent_conditional_writes_wins(aws: &Aws) -> Outcome {
    let table = aws.own_table().await?;
    // Moto's gap between check and write grows with the item; a long one shows it every time.
    let length = if aws.server == Server::Moto {
        3_000
    } else {
        30
    };
    let long = AttributeValue::L(vec![text("x"); length]);
    for round in 0..20 {
        let writers = (0..32).map(|writer| {
            let mut item = item("a", &round.to_string(), writer);
            item.insert("long".to_owned(), long.clone());
            put_once(aws, &table, item)
        });
        let results = join_all(writers).await;
        same!(
            "winners",
            results.iter().filter(|result| *result == "ok").count(),
            1,
        )?;
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
    for result in join_all((0..16).map(|_| add())).await {
        seen.extend(
            result?
                .attributes()
                .and_then(|new| new.get("n"))
                .and_then(|n| n.as_n().ok())
                .cloned(),
        );
    }
    same!("different counts", seen.len(), 16)?;
    same!("sum", get(aws, &table, "a", "1").await?, Some(number(16)))
}

/// Guards: a transaction with one condition that does not hold changes nothing at all.
async fn a_transaction_is_all_or_nothing(aws: &Aws) -> Outcome {
    let table = aws.own_table().await?;
    put_once(aws, &table, item("a", "1", 1)).await;
    let transaction = aws
        .dynamodb
        .transact_write_items()
        .transact_items(put(&table, item("a", "2", 2), None)?)
        .transact_items(put(
            &table,
            item("a", "1", 2),
            Some("attribute_not_exists(pk)"),
        )?);
    same!(
        "cancelled",
        code(transaction.send()).await,
        "TransactionCanceledException",
    )?;
    same!("other item", get(aws, &table, "a", "2").await?, None)?;
    let transaction = aws
        .dynamodb
        .transact_write_items()
        .transact_items(put(
            &table,
            item("a", "2", 2),
            Some("attribute_not_exists(pk)"),
        )?)
        .transact_items(put(
            &table,
            item("a", "1", 2),
            Some("attribute_exists(pk)"),
        )?);
    transaction.send().await?;
    same!("first", get(aws, &table, "a", "1").await?, Some(number(2)))?;
    same!("second", get(aws, &table, "a", "2").await?, Some(number(2)))
}

async fn reasons(
    aws: &Aws,
    items: Vec<TransactWriteItem>,
) -> Result<Vec<(Option<String>, Option<Item>)>, Failure> {
    let Err(error) = aws
        .dynamodb
        .transact_write_items()
        .set_transact_items(Some(items))
        .send()
        .await
    else {
        return Err(Failure("the transaction went through".to_owned()));
    };
    match error.into_service_error() {
        TransactWriteItemsError::TransactionCanceledException(cancelled) => Ok(cancelled
            .cancellation_reasons()
            .iter()
            .map(|reason| (reason.code().map(str::to_owned), reason.item().cloned()))
            .collect()),
        error => Err(error.into()),
    }
}

/// Guards: one reason an action, in the order of the request, with the literal `None` for those that were well.
async fn cancellation_reasons_come_in_order(aws: &Aws) -> Outcome {
    let table = aws.own_table().await?;
    put_once(aws, &table, item("a", "1", 1)).await;
    let check = ConditionCheck::builder()
        .table_name(&table)
        .set_key(Some(key("a", "9")))
        .condition_expression("attribute_exists(pk)")
        .build()?;
    let delete = Delete::builder()
        .table_name(&table)
        .set_key(Some(key("a", "3")))
        .build()?;
    let items = vec![
        put(&table, item("a", "2", 1), None)?,
        put(&table, item("a", "1", 1), Some("attribute_not_exists(pk)"))?,
        TransactWriteItem::builder().delete(delete).build(),
        TransactWriteItem::builder().condition_check(check).build(),
    ];
    let codes: Vec<_> = reasons(aws, items)
        .await?
        .into_iter()
        .map(|(code, _)| code.unwrap_or_default())
        .collect();
    same!(
        "codes",
        codes,
        [
            "None",
            "ConditionalCheckFailed",
            "None",
            "ConditionalCheckFailed",
        ],
    )
}

/// Guards: a reason holds the old item when the action asked for it.
async fn a_cancelled_transaction_can_return_the_old_item(aws: &Aws) -> Outcome {
    let table = aws.own_table().await?;
    put_once(aws, &table, item("a", "1", 5)).await;
    let reasons = reasons(
        aws,
        vec![put(
            &table,
            item("a", "1", 6),
            Some("attribute_not_exists(pk)"),
        )?],
    )
    .await?;
    let old = reasons
        .first()
        .and_then(|(_, item)| item.as_ref())
        .and_then(|item| item.get("n").cloned());
    same!("old item", old, Some(number(5)))
}

fn add_one(table: &str, by: i32) -> Result<TransactWriteItem, Failure> {
    let update = Update::builder()
        .table_name(table)
        .set_key(Some(key("a", "1")))
        .update_expression("ADD n :by")
        .expression_attribute_values(":by", number(by))
        .build()?;
    Ok(TransactWriteItem::builder().update(update).build())
}

/// Guards: the same request with the same `ClientRequestToken` is applied once and answered well each time.
async fn a_request_token_applies_a_transaction_once(aws: &Aws) -> Outcome {
    let table = aws.own_table().await?;
    for _ in 0..2 {
        let transaction = aws
            .dynamodb
            .transact_write_items()
            .client_request_token("one");
        transaction
            .transact_items(add_one(&table, 1)?)
            .send()
            .await?;
    }
    same!("count", get(aws, &table, "a", "1").await?, Some(number(1)))
}

/// Guards: a `ClientRequestToken` belongs to its request.
async fn a_request_token_with_another_request_is_refused(aws: &Aws) -> Outcome {
    let table = aws.own_table().await?;
    let send = |by: i32| {
        let transaction = aws
            .dynamodb
            .transact_write_items()
            .client_request_token("two");
        Ok::<_, Failure>(transaction.transact_items(add_one(&table, by)?).send())
    };
    same!("first", code(send(1)?).await, "ok")?;
    same!(
        "other",
        code(send(2)?).await,
        "IdempotentParameterMismatchException",
    )
}

/// Guards: two actions of one transaction cannot have the same item.
async fn a_transaction_touches_an_item_once(aws: &Aws) -> Outcome {
    let table = aws.own_table().await?;
    let twice = aws
        .dynamodb
        .transact_write_items()
        .transact_items(put(&table, item("a", "1", 1), None)?)
        .transact_items(add_one(&table, 1)?);
    same!("twice", code(twice.send()).await, "ValidationException")
}

/// Guards: "up to 100 distinct actions" (developer guide).
async fn a_transaction_has_at_most_100_actions(aws: &Aws) -> Outcome {
    let table = aws.own_table().await?;
    for (count, expected) in [(100, "ok"), (101, "ValidationException")] {
        let items: Result<Vec<_>, _> = (0..count)
            .map(|n| put(&table, item("a", &n.to_string(), n), None))
            .collect();
        let transaction = aws
            .dynamodb
            .transact_write_items()
            .set_transact_items(Some(items?));
        same!(
            "actions",
            (count, code(transaction.send()).await.as_str()),
            (count, expected),
        )?;
    }
    Ok(())
}

/// Guards: 400 KB an item, names included.
async fn an_item_has_at_most_400_kb(aws: &Aws) -> Outcome {
    let table = aws.own_table().await?;
    for (bytes, expected) in [
        (400 * 1024 - 100, "ok"),
        (400 * 1024, "ValidationException"),
    ] {
        let mut item = key("a", "1");
        item.insert("v".to_owned(), text("x".repeat(bytes)));
        let put = aws
            .dynamodb
            .put_item()
            .table_name(&table)
            .set_item(Some(item))
            .send();
        same!("size", (bytes, code(put).await.as_str()), (bytes, expected))?;
    }
    Ok(())
}

async fn fill(aws: &Aws, table: &str, count: usize, bytes: usize) -> Outcome {
    let numbers: Vec<usize> = (0..count).collect();
    for chunk in numbers.chunks(25) {
        let mut requests = Vec::new();
        for number in chunk {
            let mut item = item("a", &format!("{number:04}"), number);
            item.insert("v".to_owned(), text("x".repeat(bytes)));
            requests.push(
                WriteRequest::builder()
                    .put_request(PutRequest::builder().set_item(Some(item)).build()?)
                    .build(),
            );
        }
        let answer = aws
            .dynamodb
            .batch_write_item()
            .request_items(table, requests)
            .send()
            .await?;
        holds(
            "all written",
            answer.unprocessed_items().is_none_or(HashMap::is_empty),
        )?;
    }
    Ok(())
}

fn sort_keys(items: &[Item]) -> Vec<&str> {
    items
        .iter()
        .filter_map(|item| item.get("sk")?.as_s().ok())
        .map(String::as_str)
        .collect()
}

/// Guards: items come by sort key, a page holds what was asked for, and the next one goes on where it ended.
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
    same!(
        "first page",
        sort_keys(first.items()),
        ["0002", "0003", "0004", "0005"],
    )?;
    let second = query
        .set_exclusive_start_key(first.last_evaluated_key().cloned())
        .send()
        .await?;
    same!("second page", sort_keys(second.items()), ["0006", "0007"])?;
    holds(
        "the last page says so",
        second.last_evaluated_key().is_none(),
    )
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
    same!(
        "items",
        sort_keys(query.send().await?.items()),
        ["0002", "0001", "0000"],
    )
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

async fn batch_get(aws: &Aws, table: &str, keys: Vec<Item>) -> Result<(usize, usize), Failure> {
    let keys = KeysAndAttributes::builder()
        .set_keys(Some(keys))
        .consistent_read(true)
        .build()?;
    let answer = aws
        .dynamodb
        .batch_get_item()
        .request_items(table, keys)
        .send()
        .await?;
    let found = answer
        .responses()
        .and_then(|tables| tables.get(table))
        .map_or(0, Vec::len);
    let left = answer
        .unprocessed_keys()
        .and_then(|tables| tables.get(table))
        .map_or(0, |keys| keys.keys().len());
    Ok((found, left))
}

/// Guards: what is missing is left out without an error.
async fn a_batch_get_finds_what_is_there(aws: &Aws) -> Outcome {
    let table = aws.own_table().await?;
    fill(aws, &table, 3, 1).await?;
    let keys = ["0000", "0002", "0009"].map(|sk| key("a", sk)).to_vec();
    same!(
        "found and left",
        batch_get(aws, &table, keys).await?,
        (2, 0),
    )
}

/// Guards: 100 keys a call (API reference).
async fn a_batch_get_takes_at_most_100_keys(aws: &Aws) -> Outcome {
    let table = aws.own_table().await?;
    let keys = |count: usize| {
        (0..count)
            .map(|n| key("a", &format!("{n:04}")))
            .collect::<Vec<_>>()
    };
    same!(
        "a hundred",
        batch_get(aws, &table, keys(100)).await?,
        (0, 0),
    )?;
    let keys = KeysAndAttributes::builder()
        .set_keys(Some(keys(101)))
        .build()?;
    let call = aws
        .dynamodb
        .batch_get_item()
        .request_items(&table, keys)
        .send();
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
    let get = aws
        .dynamodb
        .get_item()
        .table_name("no-such-table")
        .set_key(Some(key("a", "1")))
        .send();
    same!("code", code(get).await, "ResourceNotFoundException")
}

/// Guards: a key cannot be empty text.
async fn an_empty_key_is_refused(aws: &Aws) -> Outcome {
    let table = aws.own_table().await?;
    let put = aws
        .dynamodb
        .put_item()
        .table_name(&table)
        .set_item(Some(item("", "1", 1)))
        .send();
    same!("code", code(put).await, "ValidationException")
}

/// Guards: numbers keep 38 digits, and more are refused.
async fn a_number_keeps_38_digits(aws: &Aws) -> Outcome {
    let table = aws.own_table().await?;
    let digits = "12345678901234567890123456789012345678";
    let put = |n: &str| {
        aws.dynamodb
            .put_item()
            .table_name(&table)
            .set_item(Some(item("a", "1", n)))
            .send()
    };
    same!("38", code(put(digits)).await, "ok")?;
    same!(
        "kept",
        get(aws, &table, "a", "1").await?,
        Some(number(digits)),
    )?;
    same!(
        "39",
        code(put(&format!("{digits}9"))).await,
        "ValidationException",
    )
}
