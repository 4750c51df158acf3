//! Reads that lag and pages that end early: what they leave out is found later, and nothing else
//! changes.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType,
    KeysAndAttributes, Projection, ProjectionType, ScalarAttributeType,
};
use aws_sdk_ssm::types::{Parameter, ParameterHistory};
use emulator::{Emulator, Fault, Options};

use crate::clients::{Clients, Failure, Outcome, code, number, start, text};

type Item = HashMap<String, AttributeValue>;

/// A table with an index by `owner`, and items `1` to `count` of one owner.
async fn start_with_items(count: usize) -> Result<(Emulator, Clients), Failure> {
    let (emulator, aws) = start(Options::default()).await;
    let attribute =
        |name: &str| AttributeDefinition::builder().attribute_name(name).attribute_type(ScalarAttributeType::S).build();
    let key = |name: &str, kind| KeySchemaElement::builder().attribute_name(name).key_type(kind).build();
    let index = GlobalSecondaryIndex::builder()
        .index_name("by-owner")
        .key_schema(key("owner", KeyType::Hash)?)
        .projection(Projection::builder().projection_type(ProjectionType::All).build());
    aws.dynamodb
        .create_table()
        .table_name("table")
        .billing_mode(BillingMode::PayPerRequest)
        .set_attribute_definitions(Some(vec![attribute("pk")?, attribute("sk")?, attribute("owner")?]))
        .set_key_schema(Some(vec![key("pk", KeyType::Hash)?, key("sk", KeyType::Range)?]))
        .global_secondary_indexes(index.build()?)
        .send()
        .await?;
    for item in 1..=count {
        let put = aws.dynamodb.put_item().table_name("table").item("pk", text("a")).item("sk", text(item.to_string()));
        put.item("owner", text("o")).item("n", number(item)).send().await?;
    }
    Ok((emulator, aws))
}

fn query(aws: &Clients) -> aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder {
    let query = aws.dynamodb.query().table_name("table").key_condition_expression("pk = :pk");
    query.expression_attribute_values(":pk", text("a")).consistent_read(true)
}

fn query_index(aws: &Clients) -> aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder {
    let query = aws.dynamodb.query().table_name("table").index_name("by-owner").key_condition_expression("#o = :o");
    query.expression_attribute_names("#o", "owner").expression_attribute_values(":o", text("o"))
}

fn keys(sks: &[&str], consistent: bool) -> Result<KeysAndAttributes, Failure> {
    let keys = sks.iter().map(|sk| Item::from([("pk".to_owned(), text("a")), ("sk".to_owned(), text(*sk))])).collect();
    Ok(KeysAndAttributes::builder().set_keys(Some(keys)).consistent_read(consistent).build()?)
}

fn sks(items: &[Item]) -> Vec<&str> {
    items.iter().filter_map(|item| item.get("sk")?.as_s().ok()).map(String::as_str).collect()
}

/// Guards: a lagging read of Parameter Store shows what was there before the newest put, and the
/// next read shows that, too.
#[tokio::test]
async fn parameter_reads_lag_by_one_put() -> Outcome {
    let (emulator, aws) = start(Options::default()).await;
    for (name, value) in [("/p/old", "1"), ("/p/old", "2"), ("/p/old", "3"), ("/p/new", "1")] {
        aws.put_parameter(name, value).await?;
    }
    let stale = |operation| emulator.faults().inject(operation, Fault::StalePage, 1);

    stale("GetParameter");
    assert_eq!(aws.value("/p/old").await?, "2");
    assert_eq!(aws.value("/p/old").await?, "3");
    stale("GetParameter");
    assert_eq!(code(aws.ssm.get_parameter().name("/p/new").send()).await, "ParameterNotFound");
    stale("GetParameter");
    assert_eq!(aws.value("/p/old:3").await?, "3");

    stale("GetParameters");
    let some = aws.ssm.get_parameters().names("/p/old").names("/p/new").names("/p/new:1").send().await?;
    let values: Vec<_> = some.parameters().iter().map(|found| (found.version(), found.selector())).collect();
    assert_eq!((values, some.invalid_parameters()), (vec![(1, Some(":1")), (2, None)], &["/p/new".to_owned()][..]));

    stale("GetParametersByPath");
    let page = aws.ssm.get_parameters_by_path().path("/p").send().await?;
    let values: Vec<_> = page.parameters().iter().map(|found| (found.name(), found.value())).collect();
    assert_eq!(values, [(Some("/p/old"), Some("2"))]);

    stale("DescribeParameters");
    let page = aws.ssm.describe_parameters().send().await?;
    let versions: Vec<_> = page.parameters().iter().map(|found| (found.name(), found.version())).collect();
    assert_eq!(versions, [(Some("/p/old"), 2)]);

    stale("GetParameterHistory");
    let history = aws.ssm.get_parameter_history().name("/p/old").send().await?;
    assert_eq!(history.parameters().iter().map(ParameterHistory::version).collect::<Vec<_>>(), [1, 2]);
    stale("GetParameterHistory");
    assert_eq!(code(aws.ssm.get_parameter_history().name("/p/new").send()).await, "ParameterNotFound");

    assert_eq!(aws.ssm.get_parameters_by_path().path("/p").send().await?.parameters().len(), 2);
    let history = aws.ssm.get_parameter_history().name("/p/old").send().await?;
    assert_eq!(history.parameters().len(), 3);
    Ok(())
}

/// Guards: a read that shows whole seconds shows the last one before the version was made, and the
/// same value; the history and the next read show the time as it is.
#[tokio::test]
async fn parameter_reads_may_show_whole_seconds() -> Outcome {
    let (emulator, aws) = start(Options::default()).await;
    aws.put_parameter("/p/a", "v").await?;
    let history = aws.ssm.get_parameter_history().name("/p/a").send().await?;
    let exact = history.parameters()[0].last_modified_date().ok_or(Failure("no date".to_owned()))?.to_millis()?;
    for operation in ["GetParameter", "GetParameters", "GetParametersByPath"] {
        emulator.faults().inject(operation, Fault::WholeSeconds, 1);
    }
    for expected in [(exact - 1) / 1_000 * 1_000, exact] {
        let one = aws.ssm.get_parameter().name("/p/a").send().await?.parameter.ok_or(Failure("none".to_owned()))?;
        let some = aws.ssm.get_parameters().names("/p/a:1").send().await?.parameters.unwrap_or_default();
        let page = aws.ssm.get_parameters_by_path().path("/p").send().await?.parameters.unwrap_or_default();
        for found in some.iter().chain(&page).chain([&one]) {
            let shown = found.last_modified_date().ok_or(Failure("no date".to_owned()))?.to_millis()?;
            assert_eq!((shown, found.value()), (expected, Some("v")));
        }
    }
    Ok(())
}

/// Guards: what is no read is executed as usual, and takes no harm.
#[tokio::test]
async fn what_is_no_read_is_executed() -> Outcome {
    let (emulator, aws) = start_with_items(1).await?;
    for fault in [Fault::StalePage, Fault::EmptyPage, Fault::WholeSeconds] {
        for operation in ["PutParameter", "PutItem", "PutEvents"] {
            emulator.faults().inject(operation, fault, 1);
        }
        aws.put_parameter("/p", "v").await?;
        let put = aws.dynamodb.put_item().table_name("table").item("pk", text("b")).item("sk", text("1"));
        put.send().await?;
        let entry = aws_sdk_eventbridge::types::PutEventsRequestEntry::builder().source("s").detail_type("t");
        let answer = aws.events.put_events().entries(entry.detail("{}").build()).send().await?;
        assert_eq!(answer.failed_entry_count(), 0);
    }
    assert_eq!(aws.ssm.get_parameter().name("/p").send().await?.parameter().map(Parameter::version), Some(3));
    Ok(())
}

/// Guards: eventually consistent reads of `DynamoDB`, every query of an index among them, may find
/// nothing yet; strongly consistent ones always find what is there.
#[tokio::test]
async fn only_eventually_consistent_reads_lag() -> Outcome {
    let (emulator, aws) = start_with_items(3).await?;
    let stale = |operation| emulator.faults().inject(operation, Fault::StalePage, 1);

    stale("Query");
    let page = query_index(&aws).limit(1).send().await?;
    assert_eq!((page.count(), page.items().len(), page.last_evaluated_key()), (0, 0, None));
    assert_eq!(query_index(&aws).send().await?.count(), 3);
    stale("Query");
    assert_eq!(query(&aws).send().await?.count(), 3);
    stale("Query");
    assert_eq!(query(&aws).consistent_read(false).send().await?.count(), 0);
    stale("Scan");
    assert_eq!(aws.dynamodb.scan().table_name("table").send().await?.count(), 0);
    stale("Scan");
    assert_eq!(aws.dynamodb.scan().table_name("table").consistent_read(true).send().await?.count(), 3);

    let get = || aws.dynamodb.get_item().table_name("table").key("pk", text("a")).key("sk", text("1"));
    stale("GetItem");
    assert!(get().send().await?.item().is_none());
    stale("GetItem");
    assert!(get().consistent_read(true).send().await?.item().is_some());

    for (consistent, expected) in [(false, 0), (true, 2)] {
        stale("BatchGetItem");
        let batch = aws.dynamodb.batch_get_item().request_items("table", keys(&["1", "2"], consistent)?).send().await?;
        let found = batch.responses().and_then(|tables| tables.get("table")).map_or(0, Vec::len);
        assert_eq!((found, batch.unprocessed_keys().map_or(0, HashMap::len)), (expected, 0));
    }

    stale("Query");
    assert_eq!(code(query_index(&aws).index_name("none").send()).await, "ValidationException");
    Ok(())
}

/// Guards: an empty page of Parameter Store leads on to what it would have shown.
#[tokio::test]
async fn empty_pages_of_parameters_lead_on() -> Outcome {
    let (emulator, aws) = start(Options::default()).await;
    for name in ["/p/1", "/p/2", "/p/3", "/p/3", "/p/3"] {
        aws.put_parameter(name, "v").await?;
    }
    macro_rules! pages {
        ($operation:literal, $call:expr) => {{
            // The second page is the empty one, and the one after that.
            let (mut pages, mut token) = (Vec::new(), None);
            loop {
                let page = $call.max_results(2).set_next_token(token).send().await?;
                pages.push(page.parameters().len());
                token = page.next_token().map(str::to_owned);
                if token.is_none() {
                    break;
                }
                if pages.len() == 1 {
                    emulator.faults().inject($operation, Fault::EmptyPage, 2);
                }
            }
            assert_eq!(pages, [2, 0, 0, 1], $operation);
            emulator.faults().inject($operation, Fault::EmptyPage, 1);
            let first = $call.send().await?;
            assert!(first.parameters().is_empty(), $operation);
            let second = $call.set_next_token(first.next_token().map(str::to_owned)).send().await?;
            assert_eq!((second.parameters().len(), second.next_token()), (3, None), $operation);
        }};
    }
    pages!("GetParametersByPath", aws.ssm.get_parameters_by_path().path("/p"));
    pages!("DescribeParameters", aws.ssm.describe_parameters());
    pages!("GetParameterHistory", aws.ssm.get_parameter_history().name("/p/3"));
    Ok(())
}

/// Guards: a query that is cut short goes on where it ended, forwards and backwards, on a table and
/// on an index; a page may be empty in the middle.
#[tokio::test]
async fn short_queries_lead_on() -> Outcome {
    let (emulator, aws) = start_with_items(4).await?;
    for (query, expected) in [
        (query(&aws), ["1", "2", "3", "4"]),
        (query(&aws).scan_index_forward(false), ["4", "3", "2", "1"]),
        (query_index(&aws), ["1", "2", "3", "4"]),
    ] {
        emulator.faults().inject("Query", Fault::EmptyPage, 2);
        let (mut pages, mut items, mut start) = (Vec::new(), Vec::new(), None);
        loop {
            let page = query.clone().limit(3).set_exclusive_start_key(start).send().await?;
            assert_eq!(usize::try_from(page.count())?, page.items().len());
            pages.push(page.items().len());
            items.extend(page.items().to_vec());
            start = page.last_evaluated_key().cloned();
            if start.is_none() {
                break;
            }
        }
        // The last is empty, as three of three leave open whether there are more.
        assert_eq!((pages, sks(&items)), (vec![1, 0, 3, 0], expected.to_vec()));
    }

    emulator.faults().inject("Query", Fault::EmptyPage, 1);
    let filtered = query(&aws).filter_expression("n > :n").expression_attribute_values(":n", number(2));
    let page = filtered.clone().send().await?;
    assert!(page.items().is_empty());
    let page = filtered.set_exclusive_start_key(page.last_evaluated_key().cloned()).send().await?;
    assert_eq!(sks(page.items()), ["3", "4"]);

    emulator.faults().inject("Scan", Fault::EmptyPage, 1);
    let page = aws.dynamodb.scan().table_name("table").select(aws_sdk_dynamodb::types::Select::Count).send().await?;
    assert_eq!((page.count(), page.last_evaluated_key().is_some()), (1, true));
    Ok(())
}

/// Guards: half of the keys of a batch come back as they were asked for; a single one is read.
#[tokio::test]
async fn half_of_a_batch_is_left() -> Outcome {
    let (emulator, aws) = start_with_items(3).await?;
    emulator.faults().inject("BatchGetItem", Fault::EmptyPage, 2);
    let batch = aws.dynamodb.batch_get_item().request_items("table", keys(&["1", "2", "3"], true)?).send().await?;
    assert_eq!(batch.responses().map(|tables| tables["table"].len()), Some(2));
    let left = batch.unprocessed_keys().cloned().unwrap_or_default();
    assert_eq!(left, HashMap::from([("table".to_owned(), keys(&["3"], true)?)]));
    let batch = aws.dynamodb.batch_get_item().set_request_items(Some(left)).send().await?;
    assert_eq!(batch.responses().map(|tables| sks(&tables["table"])), Some(vec!["3"]));
    assert_eq!(batch.unprocessed_keys().map_or(0, HashMap::len), 0);
    Ok(())
}
