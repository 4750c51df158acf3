//! What the tables' keys are called, remembered until a table changes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dynoxide::Database;
use dynoxide::actions::describe_table::DescribeTableRequest;
use serde_json::Value;

/// What a table's keys are called, and its stream. Where a key has several partition key
/// attributes, none is named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TableKeys {
    pub(crate) partition: Option<String>,
    /// By the name of the index.
    pub(crate) indexes: HashMap<String, String>,
    /// What stands behind `stream/` in its stream's ARN.
    pub(crate) stream: Option<String>,
}

/// The keys of tables that were asked for.
#[derive(Debug, Default)]
pub(super) struct KnownKeys(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    tables: HashMap<String, Arc<TableKeys>>,
    /// Counts what may have changed a table: what was read before is not to be remembered after.
    changes: u64,
}

impl KnownKeys {
    /// A table's keys, if they were asked for before.
    pub(super) fn known(&self, table: &str) -> Option<Arc<TableKeys>> {
        self.lock().tables.get(table).cloned()
    }

    /// A table's keys; none if there is no such table. Waits for the database.
    pub(super) fn look_up(&self, database: &Database, table: &str) -> Option<Arc<TableKeys>> {
        let before = self.lock().changes;
        let mut request = DescribeTableRequest::default();
        table.clone_into(&mut request.table_name);
        let described = database.describe_table(request).ok()?;
        let keys = Arc::new(read(&serde_json::to_value(&described).ok()?["Table"]));
        let mut known = self.lock();
        if known.changes == before {
            known.tables.insert(table.to_owned(), Arc::clone(&keys));
        }
        Some(keys)
    }

    /// Forgets all of them.
    pub(super) fn forget(&self) {
        let mut known = self.lock();
        known.changes += 1;
        known.tables.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(table: &Value) -> TableKeys {
    let indexes = ["GlobalSecondaryIndexes", "LocalSecondaryIndexes"]
        .into_iter()
        .flat_map(|kind| table[kind].as_array().into_iter().flatten())
        .filter_map(|index| Some((index["IndexName"].as_str()?.to_owned(), partition(&index["KeySchema"])?)));
    let stream = table["LatestStreamLabel"].as_str().map(str::to_owned);
    TableKeys { partition: partition(&table["KeySchema"]), indexes: indexes.collect(), stream }
}

/// None where there are several: an index may have them.
fn partition(schema: &Value) -> Option<String> {
    let mut hashed = schema.as_array()?.iter().filter(|key| key["KeyType"] == "HASH");
    let first = hashed.next()?["AttributeName"].as_str()?;
    hashed.next().is_none().then(|| first.to_owned())
}
