//! Transactions: all or nothing, and once.

use std::collections::HashMap;

use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::builders::{ConditionCheckBuilder, DeleteBuilder, PutBuilder, UpdateBuilder};
use aws_sdk_dynamodb::types::{
    ConditionCheck, Delete, Get, Put, ReturnValuesOnConditionCheckFailure, TransactGetItem, TransactWriteItem, Update,
};

use super::{Item, get, item, key, put_once};
use crate::clients::{Failure, Outcome, code, number, same};
use crate::conformance::{Aws, cases};

cases! {
    a_transaction_is_all_or_nothing: [],
    cancellation_reasons_come_in_order: [],
    a_cancelled_transaction_can_return_the_old_item: [],
    a_request_token_applies_a_transaction_once: [Moto: "applies the transaction again"],
    a_request_token_with_another_request_is_refused: [Moto: "does not look at the token"],
    a_transaction_touches_an_item_once: [],
    a_transaction_has_at_most_100_actions: [],
    an_action_has_no_empty_names_or_values: [Moto: "takes empty ones", Ministack: "takes empty ones"],
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

async fn reasons(aws: &Aws, items: Vec<TransactWriteItem>) -> Result<Vec<(Option<String>, Option<Item>)>, Failure> {
    let Err(error) = aws.dynamodb.transact_write_items().set_transact_items(Some(items)).send().await else {
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

fn add_one(table: &str, by: i32) -> Result<TransactWriteItem, Failure> {
    let update = Update::builder()
        .table_name(table)
        .set_key(Some(key("a", "1")))
        .update_expression("ADD n :by")
        .expression_attribute_values(":by", number(by))
        .build()?;
    Ok(TransactWriteItem::builder().update(update).build())
}

/// Guards: a transaction with one condition that does not hold changes nothing at all.
async fn a_transaction_is_all_or_nothing(aws: &Aws) -> Outcome {
    let table = aws.own_table().await?;
    put_once(aws, &table, item("a", "1", 1)).await;
    let transaction = aws
        .dynamodb
        .transact_write_items()
        .transact_items(put(&table, item("a", "2", 2), None)?)
        .transact_items(put(&table, item("a", "1", 2), Some("attribute_not_exists(pk)"))?);
    same!("cancelled", code(transaction.send()).await, "TransactionCanceledException",)?;
    same!("other item", get(aws, &table, "a", "2").await?, None)?;
    let transaction = aws
        .dynamodb
        .transact_write_items()
        .transact_items(put(&table, item("a", "2", 2), Some("attribute_not_exists(pk)"))?)
        .transact_items(put(&table, item("a", "1", 2), Some("attribute_exists(pk)"))?);
    transaction.send().await?;
    same!("first", get(aws, &table, "a", "1").await?, Some(number(2)))?;
    same!("second", get(aws, &table, "a", "2").await?, Some(number(2)))
}

/// Guards: one reason an action, in the order of the request, with the literal `None` for those
/// that were well.
async fn cancellation_reasons_come_in_order(aws: &Aws) -> Outcome {
    let table = aws.own_table().await?;
    put_once(aws, &table, item("a", "1", 1)).await;
    let check = ConditionCheck::builder()
        .table_name(&table)
        .set_key(Some(key("a", "9")))
        .condition_expression("attribute_exists(pk)")
        .build()?;
    let delete = Delete::builder().table_name(&table).set_key(Some(key("a", "3"))).build()?;
    let items = vec![
        put(&table, item("a", "2", 1), None)?,
        put(&table, item("a", "1", 1), Some("attribute_not_exists(pk)"))?,
        TransactWriteItem::builder().delete(delete).build(),
        TransactWriteItem::builder().condition_check(check).build(),
    ];
    let codes: Vec<_> = reasons(aws, items).await?.into_iter().map(|(code, _)| code.unwrap_or_default()).collect();
    same!("codes", codes, ["None", "ConditionalCheckFailed", "None", "ConditionalCheckFailed",],)
}

/// Guards: a reason holds the old item when the action asked for it.
async fn a_cancelled_transaction_can_return_the_old_item(aws: &Aws) -> Outcome {
    let table = aws.own_table().await?;
    put_once(aws, &table, item("a", "1", 5)).await;
    let reasons = reasons(aws, vec![put(&table, item("a", "1", 6), Some("attribute_not_exists(pk)"))?]).await?;
    let old = reasons.first().and_then(|(_, item)| item.as_ref()).and_then(|item| item.get("n").cloned());
    same!("old item", old, Some(number(5)))
}

/// Guards: the same request with the same `ClientRequestToken` is applied once and answered well
/// each time.
async fn a_request_token_applies_a_transaction_once(aws: &Aws) -> Outcome {
    let table = aws.own_table().await?;
    for _ in 0..2 {
        let transaction = aws.dynamodb.transact_write_items().client_request_token("one");
        transaction.transact_items(add_one(&table, 1)?).send().await?;
    }
    same!("count", get(aws, &table, "a", "1").await?, Some(number(1)))
}

/// Guards: a `ClientRequestToken` belongs to its request.
async fn a_request_token_with_another_request_is_refused(aws: &Aws) -> Outcome {
    let table = aws.own_table().await?;
    let send = |by: i32| {
        let transaction = aws.dynamodb.transact_write_items().client_request_token("two");
        Ok::<_, Failure>(transaction.transact_items(add_one(&table, by)?).send())
    };
    same!("first", code(send(1)?).await, "ok")?;
    same!("other", code(send(2)?).await, "IdempotentParameterMismatchException",)
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
        let items: Result<Vec<_>, _> = (0..count).map(|n| put(&table, item("a", &n.to_string(), n), None)).collect();
        let transaction = aws.dynamodb.transact_write_items().set_transact_items(Some(items?));
        same!("actions", (count, code(transaction.send()).await.as_str()), (count, expected),)?;
    }
    Ok(())
}

/// Guards: "`ExpressionAttributeValues` must not be empty", and so the names, in whichever action
/// of a transaction.
async fn an_action_has_no_empty_names_or_values(aws: &Aws) -> Outcome {
    let table = aws.own_table().await?;
    let refused = "ValidationException";
    for (names, values, expected) in
        [(None, None, "ok"), (Some(HashMap::new()), None, refused), (None, Some(HashMap::new()), refused)]
    {
        macro_rules! action {
            ($kind:ident, $member:ident, $with:expr) => {{
                let action = $kind::builder().table_name(&table).set_expression_attribute_values(values.clone());
                let action = action.set_expression_attribute_names(names.clone());
                let action = TransactWriteItem::builder().$member($with(action).build()?).build();
                let sent = aws.dynamodb.transact_write_items().transact_items(action).send();
                same!(stringify!($kind), code(sent).await, expected)?;
            }};
        }
        let condition = "attribute_not_exists(pk)";
        action!(Put, put, |action: PutBuilder| action
            .set_item(Some(item("a", "put", 1)))
            .condition_expression(condition));
        action!(Update, update, |action: UpdateBuilder| action
            .set_key(Some(key("a", "update")))
            .update_expression("REMOVE n"));
        action!(Delete, delete, |action: DeleteBuilder| action
            .set_key(Some(key("a", "delete")))
            .condition_expression(condition));
        action!(ConditionCheck, condition_check, |action: ConditionCheckBuilder| action
            .set_key(Some(key("a", "check")))
            .condition_expression(condition));
        let get = Get::builder().table_name(&table).set_key(Some(key("a", "1"))).projection_expression("n");
        let get = TransactGetItem::builder().get(get.set_expression_attribute_names(names.clone()).build()?).build();
        let expected = if names.is_some() { expected } else { "ok" };
        same!("Get", code(aws.dynamodb.transact_get_items().transact_items(get).send()).await, expected)?;
    }
    Ok(())
}
