//! Deletes expired items now and then: the engine does so only when told, and then reads every
//! table from its beginning to its end.
//!
//! So it is told only once an expired item was found. They are looked for a few items at a time:
//! what that takes does not depend on how much the tables hold, only how soon one is found does.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use dynoxide::Database;
use dynoxide::actions::describe_time_to_live::DescribeTimeToLiveRequest;
use dynoxide::actions::list_tables::ListTablesRequest;
use dynoxide::actions::scan::ScanRequest;
use dynoxide::errors::DynoxideError;
use dynoxide::types::AttributeValue;
use time::OffsetDateTime;

use crate::shutdown::Shutdown;

/// How often some items are looked at. AWS takes up to two days; a short time shows expiry while
/// developing.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How many items are looked at then.
const LOOKED_AT: usize = 250;
/// How much longer than a deletion the pause after it is, at least.
const REST: u32 = 100;

/// How far the search for expired items has come.
#[derive(Debug, Default)]
struct Search {
    /// The table; those before it in the order of names are done.
    table: Option<String>,
    /// The last item looked at. None: all items of the table are done.
    item: Option<HashMap<String, AttributeValue>>,
}

impl Search {
    /// Whether one of the next items has expired. Stops at the end of all tables, and goes on from
    /// their beginning the next time.
    fn step(&mut self, database: &Database) -> Result<bool, DynoxideError> {
        let mut left = LOOKED_AT;
        while left > 0 {
            if self.item.is_none() && !self.next_table(database)? {
                return Ok(false);
            }
            let Some(table) = self.table.clone() else { return Ok(false) };
            let described = DescribeTimeToLiveRequest { table_name: table.clone() };
            // A table that was deleted in between has none.
            let described = database.describe_time_to_live(described).ok();
            let Some(attribute) = described.and_then(|described| described.time_to_live_description.attribute_name)
            else {
                self.item = None;
                continue;
            };
            let number = |number: i64| AttributeValue::N(number.to_string());
            let answer = database.scan(ScanRequest {
                table_name: table,
                filter_expression: Some("#expires BETWEEN :begin AND :end".to_owned()),
                projection_expression: Some("#expires".to_owned()),
                expression_attribute_names: Some([("#expires".to_owned(), attribute)].into()),
                expression_attribute_values: Some(
                    [
                        (":begin".to_owned(), number(0)),
                        (":end".to_owned(), number(OffsetDateTime::now_utc().unix_timestamp() - 1)),
                    ]
                    .into(),
                ),
                limit: Some(left),
                exclusive_start_key: self.item.take(),
                ..ScanRequest::default()
            })?;
            left -= answer.scanned_count.clamp(1, left);
            self.item = answer.last_evaluated_key;
            if answer.count > 0 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Goes on with the next table; with none after the last one.
    fn next_table(&mut self, database: &Database) -> Result<bool, DynoxideError> {
        let request = ListTablesRequest { exclusive_start_table_name: self.table.take(), limit: Some(1) };
        self.table = database.list_tables(request)?.table_names.pop();
        Ok(self.table.is_some())
    }
}

/// Deletes expired items until `shutdown` says so.
pub(super) async fn delete_expired(database: Database, shutdown: Shutdown) {
    let mut search = Search::default();
    let mut pause = LOOK_EVERY;
    loop {
        tokio::select! {
            () = shutdown.requested() => return,
            () = tokio::time::sleep(pause) => {}
        }
        let database = database.clone();
        // The engine waits for requests that want the database, so this must not hold up a worker
        // that serves them.
        let looked = tokio::task::spawn_blocking(move || {
            let found = search.step(&database);
            let begun = Instant::now();
            let deleted = match found {
                Ok(true) => database.sweep_ttl().map(drop),
                Ok(false) => Ok(()),
                Err(error) => Err(error),
            };
            (search, deleted, begun.elapsed())
        });
        match looked.await {
            Ok((on, deleted, took)) => {
                search = on;
                pause = LOOK_EVERY.max(took * REST);
                if let Err(error) = deleted {
                    tracing::warn!(%error, "expired items could not be deleted");
                }
            }
            Err(error) => {
                search = Search::default();
                tracing::warn!(%error, "expired items could not be deleted");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn request<T: serde::de::DeserializeOwned>(request: Value) -> T {
        serde_json::from_value(request).expect("a request")
    }

    fn table(database: &Database, name: &str) {
        let created = database.create_table(request(json!({
            "TableName": name,
            "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}],
            "AttributeDefinitions": [{"AttributeName": "pk", "AttributeType": "S"}],
            "BillingMode": "PAY_PER_REQUEST",
        })));
        created.expect("a table");
    }

    fn put(database: &Database, table: &str, key: usize, expires: i64) {
        let item = json!({"pk": {"S": key.to_string()}, "expires": {"N": expires.to_string()}});
        database.put_item(request(json!({"TableName": table, "Item": item}))).expect("an item");
    }

    /// Promise: an item that has expired is found, wherever it lies, and what a step takes does not
    /// depend on how much there is. Tables and items that do not expire stand in nobody's way.
    #[test]
    fn expired_items_are_found_a_few_items_at_a_time() {
        let database = Database::memory().expect("in memory");
        for name in ["before", "expiring", "without"] {
            table(&database, name);
        }
        let specification = json!({"Enabled": true, "AttributeName": "expires"});
        let enabled = request(json!({"TableName": "expiring", "TimeToLiveSpecification": specification}));
        database.update_time_to_live(enabled).expect("a time to live");
        let later = OffsetDateTime::now_utc().unix_timestamp() + 3_600;
        for key in 0..=2 * LOOKED_AT {
            put(&database, "expiring", key, later);
        }
        put(&database, "before", 0, 1);
        let mut search = Search::default();
        for round in 0..2 {
            for step in 0..2 {
                assert!(!search.step(&database).expect("a step"), "nothing has expired");
                assert!(search.item.is_some(), "step {step} of round {round} looked at everything");
            }
            assert!(!search.step(&database).expect("a step"), "nothing has expired");
            assert_eq!(search.table, None, "the end is reached");
        }
        put(&database, "expiring", 77, 1);
        let found = (0..3).filter(|_| search.step(&database).expect("a step")).count();
        assert_eq!(found, 1, "one has expired");
        assert_eq!(database.sweep_ttl().expect("a sweep"), 1);
    }
}
