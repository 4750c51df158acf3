//! The ledger: each tenant's record in DynamoDB, and the commit point of every tag.
//!
//! This file reads. [`commit`] writes, [`outbox`] keeps what is still to be done for commits,
//! [`item`] knows the attributes of items, and [`keys`] their keys.

mod attribute;
mod commit;
mod expression;
mod item;
mod judgement;
mod keys;
mod outbox;
mod queue;
mod recent;
mod reconcile;
mod refusal;

use std::{collections::HashMap, sync::Arc, time::Duration};

use aws_sdk_dynamodb::types::KeysAndAttributes;

pub use commit::{
    CommitOutcome, Found, IdempotencyClaim, Plan, PlannedWrite, PutBefore, Receipt, StoreChange, WrittenKey,
};
pub use item::{Change, ChangeOperation, ChangedKey, Current, DamagedItem, Head, ReplicaState};
pub use outbox::{GRACE, MAX_REFUSED_WAIT, MIN_REFUSED_WAIT, OutboxItem, OutboxTask, Stored};
pub use queue::{Queue, Ticket};
pub use recent::ListedChange;
pub use reconcile::Cursor;

use crate::{
    auth::TenantScope,
    aws::{AwsClients, AwsFailure, Service},
    backoff::Backoff,
    clock::Clock,
    model::{
        entry::{Entry, Revision, Version},
        key::ConfigKey,
        routing::TagRoutes,
        value::answer_bytes,
    },
};
use attribute::{Item, s};

/// The most keys of one `BatchGetItem` (DynamoDB's limit).
pub const MAX_BATCH_KEYS: usize = 100;
/// The fewest items that one query fetches, so that deleted keys do not cost a query each on a
/// short page.
const MIN_QUERY_ITEMS: usize = 25;
/// How many queries one scan makes. Among thousands of deleted keys it may end without having found
/// any; the next one goes on from there.
const MAX_QUERIES: usize = 20;
/// How often `UnprocessedKeys` are asked for again before the table counts as throttled.
const MAX_UNPROCESSED_ROUNDS: usize = 5;
/// The longest wait before the second request. It doubles from then on, as AWS asks for.
const UNPROCESSED_BACKOFF: Backoff =
    Backoff::up_to(Duration::from_millis(20)).doubling_to(Duration::MAX).at_least_half();

/// Why the ledger could not do something.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// DynamoDB failed.
    #[error(transparent)]
    Aws(#[from] AwsFailure),
    /// An item is damaged.
    #[error(transparent)]
    Damaged(#[from] DamagedItem),
    /// No answer to a commit came, and its outcome could not be found out.
    #[error("the outcome of the commit is unknown")]
    OutcomeUnknown(#[source] AwsFailure),
}

/// Access to the ledgers of all tenants. Each call is for its scope's tenant.
#[derive(Clone, Debug)]
pub struct Ledger {
    clients: AwsClients,
    table: String,
    routes: Arc<TagRoutes>,
    clock: Clock,
}

/// What a commit is planned upon: the head, the current versions, and an earlier result of the same
/// request. Each is read strongly.
///
/// It is no snapshot, and need not be one: the commit is conditional on every part of it.
#[derive(Debug)]
pub struct Basis {
    /// The head.
    pub head: Head,
    /// The writers that wait. No condition of the commit.
    pub queue: Queue,
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
    /// The last key that was read, if there are more after it.
    pub last: Option<String>,
}

impl Ledger {
    /// The ledgers in `table`.
    pub fn new(clients: AwsClients, table: String, routes: Arc<TagRoutes>, clock: Clock) -> Self {
        Self { clients, table, routes, clock }
    }

    /// Opens the connection to the table before the first invocation. Nothing depends on its
    /// success.
    pub async fn warm_up(&self) {
        self.clients.warm_up(&self.table).await;
    }

    /// The tenant's head, read strongly.
    pub async fn head(&self, scope: &TenantScope) -> Result<Head, LedgerError> {
        match self.get(scope, keys::HEAD.to_owned()).await? {
            Some(found) => Ok(Head::read(&found)?),
            None => Ok(Head::empty()),
        }
    }

    /// A key's current version, read strongly.
    pub async fn current(&self, scope: &TenantScope, key: &ConfigKey) -> Result<Option<Current>, LedgerError> {
        let found = self.get(scope, keys::entry_key(key.as_str())).await?;
        Ok(found.map(|found| Current::read(&found, key.clone())).transpose()?)
    }

    /// Current entries, read strongly, without keys that never existed. Once the entries exceed
    /// `max_bytes` of an answer, it stops and returns the rest of the keys.
    pub async fn entries(
        &self,
        scope: &TenantScope,
        keys: &[ConfigKey],
        max_bytes: usize,
    ) -> Result<(HashMap<ConfigKey, Entry>, Vec<ConfigKey>), LedgerError> {
        let mut found = HashMap::with_capacity(keys.len());
        let mut bytes = 0;
        // A chunk is at most 10 × 256 KiB, so that little is read beyond the limit and thrown away.
        let mut chunks = keys.chunks(10);
        while bytes <= max_bytes {
            let Some(chunk) = chunks.next() else { return Ok((found, Vec::new())) };
            let items = self.get_many(scope, chunk.iter().map(|key| keys::entry_key(key.as_str())).collect()).await?;
            for key in chunk {
                let Some(one) = items.get(&keys::entry_key(key.as_str())) else { continue };
                if let Some(entry) = Current::read(one, key.clone())?.entry {
                    bytes += answer_bytes(entry.value());
                    found.insert(key.clone(), entry);
                }
            }
        }
        Ok((found, chunks.flatten().cloned().collect()))
    }

    /// What a commit of `keys` is planned upon. Those who wait in the queue read the queue's item,
    /// too; for all others the head says enough.
    pub async fn basis(
        &self,
        scope: &TenantScope,
        keys: &[ConfigKey],
        idempotency_hash: Option<&str>,
        waits: bool,
    ) -> Result<Basis, LedgerError> {
        let wanted = keys.iter().map(|key| keys::entry_key(key.as_str()));
        let wanted = wanted.chain(idempotency_hash.map(keys::idempotency_key)).chain([keys::HEAD.to_owned()]);
        let wanted = wanted.chain(waits.then(|| keys::QUEUE.to_owned()));
        let items = self.get_many(scope, wanted.collect()).await?;
        let mut currents = HashMap::with_capacity(keys.len());
        for key in keys {
            if let Some(one) = items.get(&keys::entry_key(key.as_str())) {
                currents.insert(key.clone(), Current::read(one, key.clone())?);
            }
        }
        let earlier = match idempotency_hash.and_then(|hash| items.get(&keys::idempotency_key(hash))) {
            Some(found) => commit::read_receipt(found, self.clock.now())?,
            None => None,
        };
        let head = items.get(keys::HEAD).map_or_else(|| Ok(Head::empty()), Head::read)?;
        let queue = Queue::read(items.get(keys::HEAD), items.get(keys::QUEUE));
        Ok(Basis { head, queue, currents, earlier })
    }

    /// The result of an earlier request with this idempotency key, read strongly.
    pub async fn earlier(&self, scope: &TenantScope, hash: &str) -> Result<Option<(String, Receipt)>, LedgerError> {
        match self.get(scope, keys::idempotency_key(hash)).await? {
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
        let found = self.get(scope, keys::version_key(key, version)).await?;
        Ok(found.map(|found| item::read_entry(&found, key.clone())).transpose()?)
    }

    /// Versions of keys, none twice, without those that never existed.
    pub async fn versions(
        &self,
        scope: &TenantScope,
        wanted: &[(ConfigKey, Version)],
    ) -> Result<Vec<Entry>, LedgerError> {
        let mut found = Vec::with_capacity(wanted.len());
        // Small chunks, as with current entries: unprocessed keys have to be asked for again.
        for chunk in wanted.chunks(25) {
            let items =
                self.get_many(scope, chunk.iter().map(|(key, version)| keys::version_key(key, *version)).collect());
            let items = items.await?;
            for (key, version) in chunk {
                if let Some(one) = items.get(&keys::version_key(key, *version)) {
                    found.push(item::read_entry(one, key.clone())?);
                }
            }
        }
        Ok(found)
    }

    /// A key's versions before `before`, newest first, and whether there are more. Stops early once
    /// they exceed `max_bytes` of an answer.
    pub async fn history(
        &self,
        scope: &TenantScope,
        key: &ConfigKey,
        before: Option<Version>,
        limit: usize,
        max_bytes: usize,
    ) -> Result<(Vec<Entry>, bool), LedgerError> {
        let prefix = keys::version_prefix(key);
        let bound = before.map(|version| keys::version_key(key, version));
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

    /// Live entries whose key begins with `prefix`, after the key `after`, in byte order. Stops
    /// early once they exceed `max_bytes` of an answer, or after many deleted ones. The page may
    /// then be empty and not be the last.
    pub async fn list(
        &self,
        scope: &TenantScope,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        max_bytes: usize,
    ) -> Result<EntryPage, LedgerError> {
        let bound = after.map(keys::entry_key);
        let start = keys::entry_key(prefix);
        let range = Range { prefix: &start, after: bound.as_deref(), descending: false, page: limit + 1 };
        let mut entries = Vec::new();
        let mut bytes = 0;
        let last = self
            .scan_range(scope, range, |found| {
                let text = keys::key_of_entry(item::Reader(found).text("sk")?);
                // A key whose tag has no route any more is not served.
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
        Ok(EntryPage { entries, last: last.map(|sort_key| keys::key_of_entry(&sort_key).to_owned()) })
    }

    /// The changes after `since`, in order, at most `limit`. They end before the first gap in the
    /// log.
    pub async fn changes(
        &self,
        scope: &TenantScope,
        since: Revision,
        limit: usize,
    ) -> Result<Vec<Change>, LedgerError> {
        let bound = keys::change_key(since);
        let range = Range { prefix: keys::CHANGE, after: Some(&bound), descending: false, page: limit };
        let now = self.clock.now();
        let mut changes: Vec<Change> = Vec::new();
        let mut expected = since.next();
        self.scan_range(scope, range, |found| {
            let change = Change::read(found)?;
            // DynamoDB deletes expired items later; they count as expired at once.
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
        let found = self.get(scope, keys::change_key(revision)).await?;
        Ok(found.map(|found| Change::read(&found)).transpose()?)
    }

    async fn get(&self, scope: &TenantScope, sort_key: String) -> Result<Option<Item>, LedgerError> {
        let answer = self
            .clients
            .dynamodb(scope)
            .await?
            .get_item()
            .table_name(&self.table)
            .set_key(Some(keys::primary_key(scope, sort_key)))
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
        let mut wanted: Vec<_> = sort_keys.into_iter().map(|key| keys::primary_key(scope, key)).collect();
        let mut backoff = UNPROCESSED_BACKOFF;
        for round in 0..MAX_UNPROCESSED_ROUNDS {
            if round > 0 {
                backoff.wait().await;
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

    /// Reads the tenant's items of a range, strongly, until `visit` has enough or [`MAX_QUERIES`]
    /// are made. Returns the sort key of the last item visited if more may come after it.
    async fn scan_range(
        &self,
        scope: &TenantScope,
        range: Range<'_>,
        mut visit: impl FnMut(&Item) -> Result<bool, LedgerError> + Send,
    ) -> Result<Option<String>, LedgerError> {
        // An exclusive start key may name an item that does not exist, so it serves as a bound of
        // the range.
        let mut start = range.after.map(|after| keys::primary_key(scope, after.to_owned()));
        let page = range.page.max(MIN_QUERY_ITEMS);
        for queries in 1.. {
            let answer = self
                .clients
                .dynamodb(scope)
                .await?
                .query()
                .table_name(&self.table)
                .key_condition_expression("pk = :pk AND begins_with(sk, :prefix)")
                .expression_attribute_values(":pk", s(scope.tenant().partition()))
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

#[cfg(test)]
mod tests;
