//! `DynamoDB`: tables, indexes, streams, statements, and the partition keys of whatever is read or
//! written. After "Actions, resources, and condition keys for Amazon `DynamoDB`" in the Service
//! Authorization Reference, and "Using IAM policy conditions for fine-grained access control" in
//! the developer guide.

use std::collections::HashMap;
use std::sync::Arc;

use dynoxide::actions::get_shard_iterator::encode_shard_iterator;
use serde_json::{Value, json};

use super::{Expected, check, expect};
use crate::Service;
use crate::dynamodb::TableKeys;
use crate::permission::{Stored, dynamodb, key_condition, partiql};

fn table(rest: &str) -> String {
    format!("arn:aws:dynamodb:eu-central-1:1:table/{rest}")
}

/// The table `t` with the partition key `pk`, its index `i` with `ipk`, its index `many` with
/// several; and the table `u` with `id`.
fn stored() -> Stored {
    let keys = |partition: &str, indexes: &[(&str, &str)], stream: Option<&str>| {
        Arc::new(TableKeys {
            partition: Some(partition.to_owned()),
            indexes: indexes.iter().map(|(index, key)| ((*index).to_owned(), (*key).to_owned())).collect(),
            stream: stream.map(str::to_owned),
        })
    };
    let tables = [("t", keys("pk", &[("i", "ipk")], Some("now"))), ("u", keys("id", &[], None))];
    Stored { tables: tables.map(|(name, keys)| (name.to_owned(), keys)).into(), ..Stored::default() }
}

const LEADING: &str = "dynamodb:LeadingKeys";
const ENCLOSING: &str = "dynamodb:EnclosingOperation";

fn key(value: &str) -> Value {
    json!({ "pk": { "S": value }, "sk": { "S": "x" } })
}

/// Checks calls, with all that is stored and with what is looked up for them.
fn check_all(cases: impl IntoIterator<Item = (&'static str, Value, Vec<Expected>)>) {
    for (operation, body, expected) in cases {
        check(Service::DynamoDb, operation, &body, &stored(), &expected);
        let looked_up: HashMap<_, _> = dynamodb::tables(operation, body.to_string().as_bytes())
            .into_iter()
            .filter_map(|name| Some((name.clone(), Arc::clone(stored().tables.get(&name)?))))
            .collect();
        check(Service::DynamoDb, operation, &body, &Stored { tables: looked_up, ..Stored::default() }, &expected);
    }
}

/// Promise: a read or write of one item needs its table, with the item's partition key as
/// `dynamodb:LeadingKeys`; an item that has none, or several, or cannot be read, has no such key at
/// all.
#[test]
fn items_need_their_table_and_key() {
    check_all([
        (
            "GetItem",
            json!({ "TableName": "t", "Key": key("a") }),
            vec![expect("dynamodb:GetItem", &table("t"), &[(LEADING, &["a"])])],
        ),
        // The index has no meaning here, and must not stand for the table.
        (
            "GetItem",
            json!({ "TableName": "t", "IndexName": "i", "Key": key("a"), "Item": key("b") }),
            vec![expect("dynamodb:GetItem", &table("t"), &[(LEADING, &["a"])])],
        ),
        (
            "UpdateItem",
            json!({ "TableName": "u", "Key": { "id": { "N": "7.0" } } }),
            vec![expect("dynamodb:UpdateItem", &table("u"), &[(LEADING, &["7.0"])])],
        ),
        (
            "DeleteItem",
            json!({ "TableName": "u", "Key": { "id": { "B": "YQ==" } } }),
            vec![expect("dynamodb:DeleteItem", &table("u"), &[(LEADING, &["YQ=="])])],
        ),
        (
            "PutItem",
            json!({ "TableName": "t", "Item": key("a"), "Key": key("b") }),
            vec![expect("dynamodb:PutItem", &table("t"), &[(LEADING, &["a"])])],
        ),
        ("PutItem", json!({ "TableName": "t" }), vec![expect("dynamodb:PutItem", &table("t"), &[])]),
        (
            "PutItem",
            json!({ "TableName": "t", "Item": { "pk": { "S": "a", "N": "1" } } }),
            vec![expect("dynamodb:PutItem", &table("t"), &[])],
        ),
        (
            "PutItem",
            json!({ "TableName": "t", "Item": { "pk": { "SS": ["a"] } } }),
            vec![expect("dynamodb:PutItem", &table("t"), &[])],
        ),
        (
            "GetItem",
            json!({ "TableName": "nowhere", "Key": key("a") }),
            vec![expect("dynamodb:GetItem", &table("nowhere"), &[])],
        ),
        (
            "GetItem",
            json!({ "TableName": "arn:aws:dynamodb:eu-central-1:2:table/t", "Key": key("a") }),
            vec![expect("dynamodb:GetItem", "arn:aws:dynamodb:eu-central-1:2:table/t", &[])],
        ),
        ("GetItem", json!({ "Key": key("a") }), vec![expect("dynamodb:GetItem", "*", &[])]),
    ]);
}

/// Promise: a query needs its table or index, with the partition key of that; a scan has none.
#[test]
fn queries_need_their_table_or_index() {
    let query = |extra: Value| {
        let mut body = json!({
            "TableName": "t",
            "KeyConditionExpression": "pk = :p",
            "ExpressionAttributeValues": { ":p": { "S": "a" } }
        });
        for (name, value) in extra.as_object().into_iter().flatten() {
            body[name.as_str()] = value.clone();
        }
        body
    };
    check_all([
        ("Query", query(json!({})), vec![expect("dynamodb:Query", &table("t"), &[(LEADING, &["a"])])]),
        (
            "Query",
            query(json!({ "Select": "COUNT" })),
            vec![expect("dynamodb:Query", &table("t"), &[("dynamodb:Select", &["COUNT"]), (LEADING, &["a"])])],
        ),
        // An index has a partition key of its own.
        ("Query", query(json!({ "IndexName": "i" })), vec![expect("dynamodb:Query", &table("t/index/i"), &[])]),
        (
            "Query",
            query(json!({ "IndexName": "i", "KeyConditionExpression": "ipk = :p" })),
            vec![expect("dynamodb:Query", &table("t/index/i"), &[(LEADING, &["a"])])],
        ),
        (
            "Query",
            query(json!({ "IndexName": "nowhere" })),
            vec![expect("dynamodb:Query", &table("t/index/nowhere"), &[])],
        ),
        ("Scan", query(json!({ "IndexName": "i" })), vec![expect("dynamodb:Scan", &table("t/index/i"), &[])]),
        ("Scan", query(json!({})), vec![expect("dynamodb:Scan", &table("t"), &[])]),
    ]);
}

/// Promise: batches need each table, with all keys; transactions need what their items need, each
/// with its own key.
#[test]
fn batches_and_transactions_need_every_item() {
    check_all([
        (
            "BatchGetItem",
            json!({ "RequestItems": { "t": { "Keys": [key("a"), key("b"), key("a")] }, "u": { "Keys": [] } } }),
            vec![
                expect("dynamodb:BatchGetItem", &table("t"), &[(LEADING, &["a", "b", "a"])]),
                expect("dynamodb:BatchGetItem", &table("u"), &[]),
            ],
        ),
        // One that cannot be read leaves none.
        (
            "BatchGetItem",
            json!({ "RequestItems": { "t": { "Keys": [key("a"), { "sk": { "S": "x" } }] } } }),
            vec![expect("dynamodb:BatchGetItem", &table("t"), &[])],
        ),
        (
            "BatchWriteItem",
            json!({ "RequestItems": { "t": [
                { "PutRequest": { "Item": key("a") } },
                { "DeleteRequest": { "Key": key("b") } }
            ] } }),
            vec![expect("dynamodb:BatchWriteItem", &table("t"), &[(LEADING, &["a", "b"])])],
        ),
        (
            "BatchWriteItem",
            json!({ "RequestItems": { "t": [
                { "PutRequest": { "Item": key("a") }, "DeleteRequest": { "Key": key("b") } }
            ] } }),
            vec![expect("dynamodb:BatchWriteItem", &table("t"), &[])],
        ),
        (
            "TransactWriteItems",
            json!({ "TransactItems": [
                { "Put": { "TableName": "t", "Item": key("a"), "Key": key("z") } },
                { "Update": { "TableName": "t", "Key": key("b"), "Item": key("z") } },
                { "Delete": { "TableName": "u", "Key": { "id": { "S": "c" } } } },
                { "ConditionCheck": { "TableName": "t", "Key": key("d") } }
            ] }),
            [("Put", "t", "a"), ("Update", "t", "b"), ("Delete", "u", "c"), ("ConditionCheck", "t", "d")]
                .map(|(action, name, value)| {
                    let action = format!("dynamodb:{action}Item");
                    expect(&action, &table(name), &[(LEADING, &[value]), (ENCLOSING, &["TransactWriteItems"])])
                })
                .to_vec(),
        ),
        // Lists are read by order elsewhere; here they take leave for everything.
        (
            "TransactGetItems",
            json!({ "TransactItems": [[{ "TableName": "t", "Key": key("a") }], { "Get": ["t", key("a")] }] }),
            vec![
                expect("dynamodb:TransactGetItems", "*", &[]),
                expect("dynamodb:GetItem", "*", &[(ENCLOSING, &["TransactGetItems"])]),
            ],
        ),
        // More than one in an item: the service refuses it, and each counts.
        (
            "TransactGetItems",
            json!({ "TransactItems": [{ "Get": { "TableName": "t", "Key": key("a") }, "Put": { "TableName": "t" } }] }),
            vec![
                expect("dynamodb:GetItem", &table("t"), &[(LEADING, &["a"]), (ENCLOSING, &["TransactGetItems"])]),
                expect("dynamodb:PutItem", &table("t"), &[(ENCLOSING, &["TransactGetItems"])]),
            ],
        ),
    ]);
}

/// Promise: statements need their kind of permission on their table, and have no leading keys.
#[test]
fn statements_need_their_table() {
    check_all([
        (
            "ExecuteStatement",
            json!({ "TableName": "mine", "Statement": "SELECT * FROM \"t\".\"i\" WHERE pk = 'a'" }),
            vec![expect("dynamodb:PartiQLSelect", &table("t/index/i"), &[])],
        ),
        (
            "BatchExecuteStatement",
            json!({ "Statements": [{ "Statement": "INSERT INTO t VALUE {'pk': 'a'}" }, { "Statement": "DELETE FROM u" }] }),
            vec![
                expect("dynamodb:PartiQLInsert", &table("t"), &[]),
                expect("dynamodb:PartiQLDelete", &table("u"), &[]),
            ],
        ),
        (
            "ExecuteTransaction",
            json!({ "TransactStatements": [{ "Statement": "UPDATE t SET a = 1" }, { "Statement": "EXISTS(SELECT * FROM t)" }] }),
            [("Update", table("t")), ("Select", all()), ("Insert", all()), ("Update", all()), ("Delete", all())]
                .map(|(action, resource)| expect(&format!("dynamodb:PartiQL{action}"), &resource, &[]))
                .to_vec(),
        ),
    ]);
}

/// Promise: streams, tables and lists need what they are about.
#[test]
fn streams_and_tables_need_themselves() {
    let iterator = |table: &str| json!({ "ShardIterator": encode_shard_iterator(table, "shard", 0) });
    check_all([
        (
            "DescribeStream",
            json!({ "StreamArn": "arn:aws:dynamodb:us-east-1:000000000000:table/t/stream/now" }),
            vec![expect("dynamodb:DescribeStream", &table("t/stream/now"), &[])],
        ),
        (
            "GetShardIterator",
            json!({ "StreamArn": "table/t", "TableName": "mine" }),
            vec![expect("dynamodb:GetShardIterator", "*", &[])],
        ),
        ("GetRecords", iterator("t"), vec![expect("dynamodb:GetRecords", &table("t/stream/now"), &[])]),
        ("GetRecords", iterator("u"), vec![expect("dynamodb:GetRecords", "*", &[])]),
        ("GetRecords", json!({ "ShardIterator": "?" }), vec![expect("dynamodb:GetRecords", "*", &[])]),
        ("ListStreams", json!({ "TableName": "t" }), vec![expect("dynamodb:ListStreams", "*", &[])]),
        ("ListTables", json!({}), vec![expect("dynamodb:ListTables", "*", &[])]),
        (
            "TagResource",
            json!({ "ResourceArn": "arn:aws:dynamodb:us-east-1:000000000000:table/t", "TableName": "mine" }),
            vec![expect("dynamodb:TagResource", &table("t"), &[])],
        ),
        ("CreateTable", json!({ "TableName": "t" }), vec![expect("dynamodb:CreateTable", &table("t"), &[])]),
        ("Unknown", json!({ "TableName": "t" }), vec![expect("dynamodb:Unknown", &table("t"), &[])]),
        ("DescribeLimits", json!({}), vec![expect("dynamodb:DescribeLimits", "*", &[])]),
    ]);
}

fn all() -> String {
    "*".to_owned()
}

/// Promise: of a key condition the partition key is found, and nothing else is taken for it; what
/// is not read has none.
#[test]
fn key_conditions_are_read_or_left() {
    let values = json!({ ":p": { "S": "a" }, ":q": { "S": "b" }, ":s": { "S": "x AND pk = :q" }, ":t": { "S": "pk" } });
    let names = json!({ "#p": "pk", "#s": "sk", "#d": "a.b", "#1": "pk" });
    for (expression, expected) in [
        ("pk = :p", Some("a")),
        ("pk=:p", Some("a")),
        (" \t\npk\n=\t:p ", Some("a")),
        ("(pk = :p)", Some("a")),
        ("( ( pk = :p ) )", Some("a")),
        ("#p = :p", Some("a")),
        ("#1 = :p", Some("a")),
        ("pk = :p AND sk = :s", Some("a")),
        ("pk = :p and sk = :s", Some("a")),
        ("sk = :s AND pk = :p", Some("a")),
        ("#s = :s AnD #p = :p", Some("a")),
        ("(sk > :s) AND (pk = :p)", Some("a")),
        ("(sk > :s AND pk = :p)", Some("a")),
        ("begins_with(sk, :s) AND pk = :p", Some("a")),
        ("begins_with ( #s , :s ) AND #p = :p", Some("a")),
        ("sk BETWEEN :s AND :t AND pk = :p", Some("a")),
        ("pk = :p AND sk BETWEEN :s AND :t", Some("a")),
        ("pk = :p AND sk between :q and :t", Some("a")),
        (":p = pk", Some("a")),
        (":s < sk AND :p = #p", Some("a")),
        (":p < pk", None),
        (":p = :q", None),
        (":p BETWEEN pk AND :q", None),
        (":p = pk AND pk = :q", None),
        // The value looks like a condition; it is none.
        ("pk = :p AND sk = :t", Some("a")),
        ("sk = :s", None),
        ("sk = :p AND #s = :q", None),
        // Not equal to one value.
        ("pk > :p", None),
        ("pk <= :p AND sk = :s", None),
        ("pk <> :p", None),
        ("begins_with(pk, :p)", None),
        ("pk BETWEEN :p AND :q", None),
        ("pk IN (:p)", None),
        // Twice, so that it depends on the reader which counts.
        ("pk = :p AND pk = :q", None),
        ("#p = :p AND pk = :q", None),
        ("pk = :p AND #1 = :p", None),
        ("pk = :p AND sk = :s AND sk = :t", None),
        // What key conditions are not made of.
        ("", None),
        ("pk = ", None),
        ("pk :p", None),
        ("= :p", None),
        ("pk = sk", None),
        ("pk = :p OR sk = :s", None),
        ("NOT pk = :p", None),
        ("pk = :p AND", None),
        ("AND pk = :p", None),
        ("pk = :p sk = :s", None),
        ("(pk = :p", None),
        ("pk = :p)", None),
        ("size(pk) = :p", None),
        ("pk.a = :p", None),
        ("pk[0] = :p", None),
        ("pk = :unknown", None),
        ("#unknown = :p", None),
        ("pk = :p;", None),
        ("pk = 'a'", None),
        ("ｐk = :p", None),
        ("pk\u{a0}= :p", None),
        ("1pk = :p", None),
        ("pk = : p", None),
        ("AND = :p", None),
    ] {
        let request = json!({
            "KeyConditionExpression": expression,
            "ExpressionAttributeNames": names,
            "ExpressionAttributeValues": values,
        });
        let found = key_condition::partition_value(&request, "pk");
        assert_eq!(found, expected.map(|value| json!({ "S": value })).as_ref(), "{expression}");
    }
    let deep = format!("{}pk = :p{}", "(".repeat(100_000), ")".repeat(100_000));
    let request = json!({ "KeyConditionExpression": deep, "ExpressionAttributeValues": values });
    assert_eq!(key_condition::partition_value(&request, "pk"), None);
}

/// Promise: the older form of key conditions is read as well, and both forms at once are not.
#[test]
fn older_key_conditions_are_read() {
    let a = json!({ "S": "a" });
    let equals = |values: Value| json!({ "ComparisonOperator": "EQ", "AttributeValueList": values });
    for (request, expected) in [
        (json!({ "KeyConditions": { "pk": equals(json!([a])), "sk": equals(json!([{ "S": "x" }])) } }), Some(&a)),
        (json!({ "KeyConditions": { "sk": equals(json!([a])) } }), None),
        (json!({ "KeyConditions": { "pk": equals(json!([a, a])) } }), None),
        (json!({ "KeyConditions": { "pk": equals(json!([])) } }), None),
        (json!({ "KeyConditions": { "pk": { "ComparisonOperator": "GT", "AttributeValueList": [a] } } }), None),
        (json!({ "KeyConditions": { "pk": { "AttributeValueList": [a] } } }), None),
        (
            json!({
                "KeyConditions": { "pk": equals(json!([a])) },
                "KeyConditionExpression": "pk = :p",
                "ExpressionAttributeValues": { ":p": a }
            }),
            None,
        ),
        (json!({}), None),
    ] {
        assert_eq!(key_condition::partition_value(&request, "pk"), expected, "{request}");
    }
}

/// Promise: a statement needs its kind of permission on its own table or index ("IAM policies with
/// `PartiQL` for `DynamoDB`"); one whose table is not sure names none, and so needs leave for all.
#[test]
fn statements_name_their_table() {
    for (text, actions, expected) in [
        ("SELECT * FROM t", "Select", Some("t")),
        ("select pk, \"from\" from t where a = 'b'", "Select", Some("t")),
        ("SELECT * FROM \"t-1.x\" WHERE a = 'FROM u'", "Select", Some("t-1.x")),
        ("SELECT * FROM \"t\".\"i\"", "Select", Some("t/i")),
        ("SELECT * FROM t.i;", "Select", Some("t/i")),
        ("SELECT * FROM \"a\"\"b\"", "Select", Some("a\"b")),
        ("INSERT INTO t VALUE {'pk': 'FROM u'}", "Insert", Some("t")),
        ("UPDATE \"t\" SET a = 'x' WHERE pk = 'a'", "Update", Some("t")),
        ("DELETE FROM t WHERE pk = 'a'", "Delete", Some("t")),
        ("\n DELETE\tFROM t", "Delete", Some("t")),
        // Of these the table is not sure.
        ("SELECT", "Select", None),
        ("SELECT * FROM", "Select", None),
        ("SELECT * FROM 't'", "Select", None),
        ("SELECT * FROM t-1", "Select", None),
        ("SELECT * FROM \"\"", "Select", None),
        ("SELECT * FROM t.\"\"", "Select", None),
        ("SELECT * FROM t[0]", "Select", None),
        ("SELECT * FROM t.a.b", "Select", None),
        ("SELECT a.FROM t FROM u", "Select", None),
        ("SELECT * FROM ?", "Select", None),
        ("INSERT t VALUE {}", "Insert", None),
        ("DELETE t", "Delete", None),
        ("UPDATE", "Update", None),
        // And of these not even what they do.
        ("", "Select Insert Update Delete", None),
        ("FROM t SET a = 1", "Select Insert Update Delete", None),
        ("EXISTS(SELECT * FROM t)", "Select Insert Update Delete", None),
        ("SELECT * FROM /* t */ u", "Select Insert Update Delete", None),
        ("SELECT * -- FROM t\n FROM u", "Select Insert Update Delete", None),
        ("SELECT `FROM` FROM t", "Select Insert Update Delete", None),
        ("SELECT * FROM \"t", "Select Insert Update Delete", None),
        ("\"SELECT\" * FROM t", "Select Insert Update Delete", None),
    ] {
        let found = partiql::read(text);
        let kinds: Vec<_> = found.actions.iter().map(|action| action.trim_start_matches("PartiQL")).collect();
        assert_eq!(kinds.join(" "), actions, "{text}");
        let named = found.table.map(|table| match table.index {
            Some(index) => format!("{}/{index}", table.name),
            None => table.name,
        });
        assert_eq!(named.as_deref(), expected, "{text}");
    }
}
