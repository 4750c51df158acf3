//! The ledger: each tenant's record in DynamoDB, and the commit point of every tag.
//!
//! This file reads; [`commit`] writes; [`outbox`] keeps what a commit still owes; [`item`] knows
//! how records lie in the table.

mod commit;
mod expression;
mod item;
mod outbox;
mod recent;
mod reconcile;
mod refusal;

use std::{collections::HashMap, sync::Arc, time::Duration};

use aws_sdk_dynamodb::types::{AttributeValue, KeysAndAttributes};

pub use commit::{
    CommitOutcome, Found, IdempotencyClaim, Plan, PlannedWrite, PutBefore, Receipt, StoreChange, WrittenKey,
};
pub use item::{Change, ChangeOperation, ChangedKey, Current, DamagedItem, Head, ReplicaState};
pub use outbox::{GRACE, MAX_REFUSED_WAIT, MIN_REFUSED_WAIT, OutboxItem, OutboxTask, Stored};
pub use recent::ListedChange;
pub use reconcile::Cursor;

use crate::{
    auth::TenantScope,
    aws::{AwsClients, AwsFailure, Service},
    clock::Clock,
    model::{
        entry::{Entry, Revision, Version},
        key::ConfigKey,
        routing::TagRoutes,
        value::answer_bytes,
    },
};
use item::{Item, s};

/// The most keys of one `BatchGetItem` (DynamoDB's limit).
pub const MAX_BATCH_KEYS: usize = 100;
/// The fewest items that are fetched at once, so that deleted keys do not cost a query each where a
/// short page is asked for.
const MIN_QUERY_ITEMS: usize = 25;
/// How many queries one walk makes. It may then have found nothing, where thousands of keys are
/// deleted, and is gone on with later.
const MAX_QUERIES: usize = 20;
/// How often keys are asked for that stay among the `UnprocessedKeys`, before the table counts as
/// throttled.
const MAX_UNPROCESSED_ROUNDS: usize = 5;
/// The longest wait before they are asked for the second time; it doubles from then on, as AWS asks
/// for.
const FIRST_UNPROCESSED_WAIT: Duration = Duration::from_millis(20);

/// Why the ledger could not do something.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// DynamoDB failed.
    #[error(transparent)]
    Aws(#[from] AwsFailure),
    /// An item is damaged.
    #[error(transparent)]
    Damaged(#[from] DamagedItem),
    /// No answer to a commit came through, and whether it took place could not be found out.
    #[error("the outcome of the commit is unknown")]
    OutcomeUnknown(#[source] AwsFailure),
}

/// Access to the ledgers of all tenants, each call for the tenant of its scope.
#[derive(Clone, Debug)]
pub struct Ledger {
    clients: AwsClients,
    table: String,
    routes: Arc<TagRoutes>,
    clock: Clock,
}

/// What a commit is planned upon: head, current versions and an earlier result of the same request,
/// each read strongly.
///
/// It is no snapshot. It need not be one, because the commit is conditional on every part of it.
#[derive(Debug)]
pub struct Basis {
    /// The head.
    pub head: Head,
    /// The current version of each key that was asked for and exists.
    pub currents: HashMap<ConfigKey, Current>,
    /// The result of an earlier request with the same idempotency key, with that request's hash.
    pub earlier: Option<(String, Receipt)>,
}

/// Some of a tenant's entries, in key order.
#[derive(Debug)]
pub struct EntryPage {
    /// Live entries.
    pub entries: Vec<Entry>,
    /// The last key that was looked at, if there are more behind it.
    pub last: Option<String>,
}

impl Ledger {
    /// The ledgers in `table`.
    pub fn new(clients: AwsClients, table: String, routes: Arc<TagRoutes>, clock: Clock) -> Self {
        Self { clients, table, routes, clock }
    }

    /// Opens the connection to the table, so that the first invocation finds it open. Nothing
    /// depends on its success.
    pub async fn warm_up(&self) {
        self.clients.warm_up(&self.table).await;
    }

    /// The tenant's head, read strongly.
    pub async fn head(&self, scope: &TenantScope) -> Result<Head, LedgerError> {
        match self.get(scope, item::HEAD.to_owned()).await? {
            Some(found) => Ok(Head::read(&found)?),
            None => Ok(Head::empty()),
        }
    }

    /// A key's current version, read strongly.
    pub async fn current(&self, scope: &TenantScope, key: &ConfigKey) -> Result<Option<Current>, LedgerError> {
        let found = self.get(scope, item::entry_key(key.as_str())).await?;
        Ok(found.map(|found| Current::read(&found, key.clone())).transpose()?)
    }

    /// Current entries, read strongly; those of keys that never existed are missing. Stops, and
    /// names the rest, once the entries have passed `max_bytes` of an answer.
    pub async fn entries(
        &self,
        scope: &TenantScope,
        keys: &[ConfigKey],
        max_bytes: usize,
    ) -> Result<(HashMap<ConfigKey, Entry>, Vec<ConfigKey>), LedgerError> {
        let mut found = HashMap::with_capacity(keys.len());
        let mut bytes = 0;
        // A chunk is at most 10 × 256 KiB, so that what is read beyond the limit is thrown away in
        // small amounts only.
        let mut chunks = keys.chunks(10);
        while bytes <= max_bytes {
            let Some(chunk) = chunks.next() else { return Ok((found, Vec::new())) };
            let items = self.get_many(scope, chunk.iter().map(|key| item::entry_key(key.as_str())).collect()).await?;
            for key in chunk {
                let Some(one) = items.get(&item::entry_key(key.as_str())) else { continue };
                if let Some(entry) = Current::read(one, key.clone())?.entry {
                    bytes += answer_bytes(entry.value());
                    found.insert(key.clone(), entry);
                }
            }
        }
        Ok((found, chunks.flatten().cloned().collect()))
    }

    /// What a commit of `keys` is planned upon.
    pub async fn basis(
        &self,
        scope: &TenantScope,
        keys: &[ConfigKey],
        idempotency_hash: Option<&str>,
    ) -> Result<Basis, LedgerError> {
        let wanted = keys.iter().map(|key| item::entry_key(key.as_str()));
        let wanted = wanted.chain(idempotency_hash.map(item::idempotency_key)).chain([item::HEAD.to_owned()]);
        let items = self.get_many(scope, wanted.collect()).await?;
        let mut currents = HashMap::with_capacity(keys.len());
        for key in keys {
            if let Some(one) = items.get(&item::entry_key(key.as_str())) {
                currents.insert(key.clone(), Current::read(one, key.clone())?);
            }
        }
        let earlier = match idempotency_hash.and_then(|hash| items.get(&item::idempotency_key(hash))) {
            Some(found) => commit::read_receipt(found, self.clock.now())?,
            None => None,
        };
        let head = items.get(item::HEAD).map_or_else(|| Ok(Head::empty()), Head::read)?;
        Ok(Basis { head, currents, earlier })
    }

    /// The result of an earlier request with this idempotency key, read strongly.
    pub async fn earlier(&self, scope: &TenantScope, hash: &str) -> Result<Option<(String, Receipt)>, LedgerError> {
        match self.get(scope, item::idempotency_key(hash)).await? {
            Some(found) => Ok(commit::read_receipt(&found, self.clock.now())?),
            None => Ok(None),
        }
    }

    /// One version of a key.
    pub async fn version(
        &self,
        scope: &TenantScope,
        key: &ConfigKey,
        version: Version,
    ) -> Result<Option<Entry>, LedgerError> {
        let found = self.get(scope, item::version_key(key, version)).await?;
        Ok(found.map(|found| item::read_entry(&found, key.clone())).transpose()?)
    }

    /// Versions of keys, none twice; those that never were are missing.
    pub async fn versions(
        &self,
        scope: &TenantScope,
        wanted: &[(ConfigKey, Version)],
    ) -> Result<Vec<Entry>, LedgerError> {
        let mut found = Vec::with_capacity(wanted.len());
        // As with current entries: what is unprocessed because it is too much is asked for again,
        // so little at a time.
        for chunk in wanted.chunks(25) {
            let items =
                self.get_many(scope, chunk.iter().map(|(key, version)| item::version_key(key, *version)).collect());
            let items = items.await?;
            for (key, version) in chunk {
                if let Some(one) = items.get(&item::version_key(key, *version)) {
                    found.push(item::read_entry(one, key.clone())?);
                }
            }
        }
        Ok(found)
    }

    /// A key's versions below `before`, newest first, and whether there are more. Stops early once
    /// they have passed `max_bytes` of an answer.
    pub async fn history(
        &self,
        scope: &TenantScope,
        key: &ConfigKey,
        before: Option<Version>,
        limit: usize,
        max_bytes: usize,
    ) -> Result<(Vec<Entry>, bool), LedgerError> {
        let prefix = item::version_prefix(key);
        let bound = before.map(|version| item::version_key(key, version));
        let range = Range { prefix: &prefix, after: bound.as_deref(), descending: true, page: limit + 1 };
        let mut versions = Vec::new();
        let mut bytes = 0;
        let more = self
            .scan_range(scope, range, |found| {
                let entry = item::read_entry(found, key.clone())?;
                bytes += answer_bytes(entry.value());
                versions.push(entry);
                Ok(versions.len() < limit && bytes < max_bytes)
            })
            .await?;
        Ok((versions, more.is_some()))
    }

    /// Live entries whose key begins with `prefix`, behind the key `after`, in byte order of the
    /// keys. Stops early once they have passed `max_bytes` of an answer, or after many deleted
    /// ones, and may then have found none and still not be at the end.
    pub async fn list(
        &self,
        scope: &TenantScope,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        max_bytes: usize,
    ) -> Result<EntryPage, LedgerError> {
        let bound = after.map(item::entry_key);
        let start = item::entry_key(prefix);
        let range = Range { prefix: &start, after: bound.as_deref(), descending: false, page: limit + 1 };
        let mut entries = Vec::new();
        let mut bytes = 0;
        let last = self
            .scan_range(scope, range, |found| {
                let text = key_of_entry(item::Reader(found).text("sk")?);
                // A key whose tag has lost its route is nobody's to serve.
                if let Ok(key) = ConfigKey::parse(text, &self.routes)
                    && let Some(entry) = Current::read(found, key)?.entry
                    && entry.is_live()
                {
                    bytes += answer_bytes(entry.value());
                    entries.push(entry);
                }
                Ok(entries.len() < limit && bytes < max_bytes)
            })
            .await?;
        Ok(EntryPage { entries, last: last.map(|sort_key| key_of_entry(&sort_key).to_owned()) })
    }

    /// The changes after `since`, in order, at most `limit`; fewer, or none, where the log has a
    /// gap.
    pub async fn changes(
        &self,
        scope: &TenantScope,
        since: Revision,
        limit: usize,
    ) -> Result<Vec<Change>, LedgerError> {
        let bound = item::change_key(since);
        let range = Range { prefix: "CHANGE#", after: Some(&bound), descending: false, page: limit };
        let now = self.clock.now();
        let mut changes: Vec<Change> = Vec::new();
        let mut expected = since.next();
        self.scan_range(scope, range, |found| {
            let change = Change::read(found)?;
            // DynamoDB deletes what has expired when it gets to it; until then it is expired all
            // the same.
            if change.revision != expected || change.expires_at < now {
                return Ok(false);
            }
            expected = expected.next();
            changes.push(change);
            Ok(changes.len() < limit)
        })
        .await?;
        Ok(changes)
    }

    /// One change.
    pub async fn change(&self, scope: &TenantScope, revision: Revision) -> Result<Option<Change>, LedgerError> {
        let found = self.get(scope, item::change_key(revision)).await?;
        Ok(found.map(|found| Change::read(&found)).transpose()?)
    }

    async fn get(&self, scope: &TenantScope, sort_key: String) -> Result<Option<Item>, LedgerError> {
        let answer = self
            .clients
            .dynamodb(scope)
            .await?
            .get_item()
            .table_name(&self.table)
            .set_key(Some(primary_key(scope, sort_key)))
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| AwsFailure::of(Service::DynamoDb, "GetItem", &error))?;
        Ok(answer.item)
    }

    /// Items by their sort keys, read strongly. At most [`MAX_BATCH_KEYS`] keys, none twice.
    async fn get_many(
        &self,
        scope: &TenantScope,
        sort_keys: Vec<String>,
    ) -> Result<HashMap<String, Item>, LedgerError> {
        let mut found = HashMap::with_capacity(sort_keys.len());
        let mut wanted: Vec<_> = sort_keys.into_iter().map(|key| primary_key(scope, key)).collect();
        let mut longest_wait = FIRST_UNPROCESSED_WAIT;
        for round in 0..MAX_UNPROCESSED_ROUNDS {
            if round > 0 {
                // At least half of it, because the table must get its time; the rest at random, so
                // that readers spread out.
                tokio::time::sleep(longest_wait.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
                longest_wait *= 2;
            }
            let keys = KeysAndAttributes::builder().set_keys(Some(wanted)).consistent_read(true).build();
            let keys =
                keys.map_err(|error| AwsFailure::unexpected(Service::DynamoDb, "BatchGetItem", error.to_string()))?;
            let answer = self
                .clients
                .dynamodb(scope)
                .await?
                .batch_get_item()
                .request_items(&self.table, keys)
                .send()
                .await
                .map_err(|error| AwsFailure::of(Service::DynamoDb, "BatchGetItem", &error))?;
            for one in answer.responses.into_iter().flat_map(HashMap::into_values).flatten() {
                let sort_key = item::Reader(&one).text("sk")?.to_owned();
                found.insert(sort_key, one);
            }
            wanted =
                answer.unprocessed_keys.into_iter().flat_map(HashMap::into_values).flat_map(|rest| rest.keys).collect();
            if wanted.is_empty() {
                return Ok(found);
            }
        }
        Err(AwsFailure::throttled(Service::DynamoDb, "BatchGetItem", "keys stayed unprocessed").into())
    }

    /// Walks the tenant's items of a range, read strongly, until `visit` says that it has enough,
    /// for [`MAX_QUERIES`] at most. The sort key of the last item visited, if more may follow it.
    async fn scan_range(
        &self,
        scope: &TenantScope,
        range: Range<'_>,
        mut visit: impl FnMut(&Item) -> Result<bool, LedgerError> + Send,
    ) -> Result<Option<String>, LedgerError> {
        // An exclusive start key may name an item that does not exist, which makes it a plain bound
        // of the range.
        let mut start = range.after.map(|after| primary_key(scope, after.to_owned()));
        let page = range.page.max(MIN_QUERY_ITEMS);
        for queries in 1.. {
            let answer = self
                .clients
                .dynamodb(scope)
                .await?
                .query()
                .table_name(&self.table)
                .key_condition_expression("pk = :pk AND begins_with(sk, :prefix)")
                .expression_attribute_values(":pk", s(item::partition(scope.tenant())))
                .expression_attribute_values(":prefix", s(range.prefix))
                .consistent_read(true)
                .scan_index_forward(!range.descending)
                .limit(i32::try_from(page).unwrap_or(i32::MAX))
                .set_exclusive_start_key(start)
                .send()
                .await
                .map_err(|error| AwsFailure::of(Service::DynamoDb, "Query", &error))?;
            let items = answer.items.unwrap_or_default();
            let has_next_page = answer.last_evaluated_key.is_some();
            for (index, one) in items.iter().enumerate() {
                if !visit(one)? {
                    let more = index + 1 < items.len() || has_next_page;
                    let last = item::Reader(one).text("sk")?.to_owned();
                    return Ok(more.then_some(last));
                }
            }
            match answer.last_evaluated_key {
                Some(next) if queries == MAX_QUERIES => return Ok(Some(item::Reader(&next).text("sk")?.to_owned())),
                Some(next) => start = Some(next),
                None => break,
            }
        }
        Ok(None)
    }
}

/// A range of a tenant's sort keys.
#[derive(Clone, Copy)]
struct Range<'a> {
    prefix: &'a str,
    after: Option<&'a str>,
    descending: bool,
    /// How many items are wanted, as far as is known.
    page: usize,
}

/// The key of an entry's item, as text.
fn key_of_entry(sort_key: &str) -> &str {
    sort_key.strip_prefix("ENTRY#").unwrap_or(sort_key)
}

fn primary_key(scope: &TenantScope, sort_key: String) -> Item {
    HashMap::from([
        ("pk".to_owned(), s(item::partition(scope.tenant()))),
        ("sk".to_owned(), AttributeValue::S(sort_key)),
    ])
}

#[cfg(test)]
mod tests;
