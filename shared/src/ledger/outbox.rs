//! The outbox: what is still to be done for commits. An event is to be published, or a key's value
//! is to be replicated to its store.
//!
//! The outbox is a mark on the item itself, found through the sparse index `outbox`. Only what has
//! done the work takes the mark off.

use std::{ops::Range, time::Duration};

use super::{
    Current, Ledger, LedgerError,
    attribute::{Item, id_set, n, s},
    expression::{Expression, unless_empty},
    item::{self, Reader},
    keys::{self, IndexedKey},
};
use crate::{
    auth::{SystemAuthority, TenantScope},
    aws::{AwsFailure, Service},
    backoff::Backoff,
    clock::Timestamp,
    model::{
        entry::{IntentId, Locator, Revision, TextKind, Version},
        key::ConfigKey,
        tenant::TenantId,
    },
};

/// How long a commit's own process has the work to itself, and how old a write intent must be to
/// count as abandoned: longer than any function of the suite may run.
pub const GRACE: Duration = Duration::from_mins(1);

/// How long a value that a store refuses waits before it is tried again: as long as it has been
/// refused, within these bounds.
pub const MIN_REFUSED_WAIT: Duration = Duration::from_mins(10);
/// See [`MIN_REFUSED_WAIT`].
pub const MAX_REFUSED_WAIT: Duration = Duration::from_hours(6);

/// How many outbox items one query returns.
const OUTBOX_PAGE: i32 = 100;
/// How often an update is tried that conflicts with a commit under way, and the longest wait
/// between two tries.
const MAX_CONFLICTS: usize = 6;
const CONFLICT_BACKOFF: Backoff = Backoff::up_to(Duration::from_millis(150));

/// No removal from the store is under way at `:now`.
const NO_REMOVAL: &str = "(attribute_not_exists(removingUntil) OR removingUntil < :now)";

/// The store is not known to hold something newer than what was put as `:storeVersion`, given that
/// the ledger had noted `:seen` of it. A version that was noted before the put is older than the
/// put, even if its number is higher: then the store has begun to count anew.
pub(super) const STORE_IS_NOT_FURTHER: &str =
    "(attribute_not_exists(storeVersion) OR storeVersion < :storeVersion OR storeVersion = :seen)";

/// What a put left in a store.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The store's own version of the value.
    pub placed: u64,
    /// The store's version that the ledger had noted before the put.
    pub seen: Option<u64>,
    /// Where the value lies now, if only the store has it.
    pub locator: Option<(Locator, TextKind)>,
}

/// An item of the outbox.
#[derive(Clone, Debug)]
pub struct OutboxItem {
    /// The work.
    pub task: OutboxTask,
    /// Since when it has been in the outbox.
    pub since: Timestamp,
    /// From when it may be done. Each failure puts it off.
    pub due: Timestamp,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum OutboxTask {
    /// Publish a change.
    Publish(TenantId, Revision),
    /// Replicate a key's value to its store.
    Replicate(TenantId, String),
}

impl Ledger {
    /// Records the intent to call a key's store before the call is made, in place of the intents in
    /// `replaced`. Refused (`false`) if the recorded intents are other than `seen`, or while the
    /// key's value is being removed from the store.
    pub async fn record_intent(
        &self,
        scope: &TenantScope,
        key: &ConfigKey,
        id: &IntentId,
        seen: &[IntentId],
        replaced: &[IntentId],
    ) -> Result<bool, LedgerError> {
        let now = self.clock.now();
        let kept = seen.iter().filter(|id| !replaced.contains(id));
        let intents: Vec<_> = kept.chain([id]).cloned().collect();
        let mut update = Expression::default();
        update.enter_outbox(scope.tenant(), now.plus(GRACE), now);
        update.set("intents", id_set(&intents));
        // What the replaced calls may have put is still ours.
        update.add_ids("expiredIntents", replaced);
        let unchanged = update.unchanged("intents", (!seen.is_empty()).then(|| id_set(seen)));
        update.value(":now", n(now.millis()));
        // It has been done if the SDK repeats a call whose answer was lost.
        update.and(&format!("(intents = :intents OR ({unchanged} AND {NO_REMOVAL}))"));
        self.update_entry(scope, key, update).await
    }

    /// Removes intents whose calls are over, and takes the key out of the outbox if nothing else is
    /// to be done.
    pub async fn end_calls(&self, scope: &TenantScope, key: &ConfigKey, ended: &[IntentId]) -> Result<(), LedgerError> {
        if !ended.is_empty() {
            let mut update = Expression::new("attribute_exists(pk)");
            update.delete_ids("intents", ended);
            self.update_entry(scope, key, update).await?;
        }
        self.acknowledge(scope, key).await?;
        Ok(())
    }

    /// Removes the intents in `ended`, which must be all there are, of a key that is behind. The
    /// next replicator need not wait for them. Whatever their calls have put wrong, its put
    /// corrects. Does nothing if the key is not behind.
    pub async fn leave_calls(
        &self,
        scope: &TenantScope,
        key: &ConfigKey,
        ended: &[IntentId],
    ) -> Result<(), LedgerError> {
        let behind =
            "attribute_exists(version) AND (attribute_not_exists(replicatedVersion) OR replicatedVersion <> version)";
        let mut update = Expression::new(behind);
        update.require("intents", Some(id_set(ended)));
        update.remove("intents");
        self.update_entry(scope, key, update).await?;
        Ok(())
    }

    /// Takes the sole right, until `until`, to remove from the store the value of a key that is
    /// deleted or never got a version. Refused (`false`) if the key is alive again, if another
    /// process has that right, or if there is an intent other than `known`: its put may be about to
    /// be committed.
    pub async fn begin_removal(
        &self,
        scope: &TenantScope,
        key: &ConfigKey,
        version: Option<Version>,
        known: &[IntentId],
        store_version: Option<u64>,
        until: Timestamp,
    ) -> Result<bool, LedgerError> {
        let now = self.clock.now();
        let mut update = Expression::default();
        update.set("removingUntil", n(until.millis()));
        update.require("version", version.map(|version| n(version.get())));
        if version.is_some() {
            update.require("state", Some(s("deleted")));
        }
        // The store holds what was known, not what was put there since another removal.
        update.require("storeVersion", store_version.map(n));
        update.require("intents", Some(id_set(known)));
        update.value(":now", n(now.millis()));
        // The same `until` is there already if the SDK repeats a call whose answer was lost: no
        // other removal knows the same intents.
        update.and(&format!("(removingUntil = :removingUntil OR {NO_REMOVAL})"));
        self.update_entry(scope, key, update).await
    }

    /// Gives the right to remove back, after the key has moved on.
    pub async fn end_removal(&self, scope: &TenantScope, key: &ConfigKey, until: Timestamp) -> Result<(), LedgerError> {
        let mut update = Expression::default();
        update.require("removingUntil", Some(n(until.millis())));
        update.remove("removingUntil");
        self.update_entry(scope, key, update).await?;
        Ok(())
    }

    /// Keeps a further intent id with the version that it puts.
    pub async fn give_out(
        &self,
        scope: &TenantScope,
        key: &ConfigKey,
        version: Version,
        id: &IntentId,
    ) -> Result<(), LedgerError> {
        let mut update = Expression::new("attribute_exists(pk)");
        update.add_ids("intentIds", std::slice::from_ref(id));
        self.update(scope, keys::version_key(key, version), update).await?;
        Ok(())
    }

    /// The ids of the intents to put a version.
    pub async fn intent_ids(
        &self,
        scope: &TenantScope,
        key: &ConfigKey,
        version: Version,
    ) -> Result<Vec<IntentId>, LedgerError> {
        let found = self.get(scope, keys::version_key(key, version)).await?.unwrap_or_default();
        Ok(item::read_ids(&found, "intentIds"))
    }

    /// Removes the intent id of a put that did nothing from its version.
    pub async fn take_back(
        &self,
        scope: &TenantScope,
        key: &ConfigKey,
        version: Version,
        id: &IntentId,
    ) -> Result<(), LedgerError> {
        let mut update = Expression::new("attribute_exists(pk)");
        update.delete_ids("intentIds", std::slice::from_ref(id));
        self.update(scope, keys::version_key(key, version), update).await?;
        Ok(())
    }

    /// Notes that the store holds `version` and that the calls in `ended` are over. Takes the key
    /// out of the outbox unless other intents are open. What the calls in `made_up_for` may still
    /// put is ours. Refused (`false`) if the key has moved on, or the store is known to be further.
    pub async fn mark_replicated(
        &self,
        scope: &TenantScope,
        key: &ConfigKey,
        version: Version,
        stored: &Stored,
        ended: &[IntentId],
        made_up_for: &[IntentId],
    ) -> Result<bool, LedgerError> {
        let mut update = Expression::default();
        update.require("version", Some(n(version.get())));
        update.set("replicatedVersion", n(version.get()));
        update.set("storeVersion", n(stored.placed));
        if let Some((locator, kind)) = &stored.locator {
            update.set_locator(*locator, kind);
        }
        update.value(":seen", n(stored.seen.unwrap_or_default()));
        update.and(STORE_IS_NOT_FURTHER);
        // A refusal has to be taken back by a commit first, so that readers learn of it.
        update.and("attribute_not_exists(refusedReason)");
        update.add_ids("expiredIntents", made_up_for);
        let mut last = update.clone();
        last.require("intents", Some(id_set(ended)));
        last.remove("intents");
        last.leave_outbox();
        if self.update_entry(scope, key, last).await? {
            return Ok(true);
        }
        update.delete_ids("intents", ended);
        let marked = self.update_entry(scope, key, update).await?;
        if marked {
            self.acknowledge(scope, key).await?;
        }
        Ok(marked)
    }

    /// Moves a version's locator after its value was put again.
    pub async fn relocate(
        &self,
        scope: &TenantScope,
        key: &ConfigKey,
        version: Version,
        (locator, kind): &(Locator, TextKind),
    ) -> Result<(), LedgerError> {
        let mut update = Expression::new("attribute_exists(locatorVersion)");
        update.set_locator(*locator, kind);
        self.update(scope, keys::version_key(key, version), update).await?;
        Ok(())
    }

    /// Notes that a removal has ended: nothing of ours is left in the store, or nothing that may be
    /// removed (`is_left`). The key was deleted at `version` or never got one. The calls in `ended`
    /// are over; they must be all there are. Refused (`false`) if the key has moved on.
    pub async fn mark_removed(
        &self,
        scope: &TenantScope,
        key: &ConfigKey,
        version: Option<Version>,
        ended: &[IntentId],
        is_left: bool,
    ) -> Result<bool, LedgerError> {
        let mut update = Expression::default();
        update.require("version", version.map(|version| n(version.get())));
        update.require("intents", Some(id_set(ended)));
        if let Some(version) = version {
            update.set("replicatedVersion", n(version.get()));
        }
        update.remove("storeVersion");
        update.remove("removingUntil");
        update.remove("intents");
        update.leave_outbox();
        if !is_left {
            // If something was left there, how far it was imported is still known.
            update.remove("importedThrough");
            update.remove("importedThroughModifiedAt");
        }
        // If one of the calls still puts something, it is known as ours.
        update.add_ids("expiredIntents", ended);
        self.update_entry(scope, key, update).await
    }

    /// Takes a key out of the outbox if nothing is to be done: its store is up to date, and no
    /// intent is open.
    pub async fn acknowledge(&self, scope: &TenantScope, key: &ConfigKey) -> Result<bool, LedgerError> {
        let mut update = Expression::new(
            "attribute_not_exists(intents) AND (replicatedVersion = version OR attribute_not_exists(version))",
        );
        update.leave_outbox();
        self.update_entry(scope, key, update).await
    }

    /// Notes how far the store's own versions have been imported, and the id that the last of them
    /// bears. Forgets the expired intents in `done`. Refused (`false`) if another importer has
    /// noted something since the key was read, or another version was committed, which the store
    /// did not have to show then.
    pub async fn note_imported(
        &self,
        scope: &TenantScope,
        key: &ConfigKey,
        known: &Current,
        now: (Locator, Option<&IntentId>),
        done: &[IntentId],
    ) -> Result<bool, LedgerError> {
        let (now, mark) = now;
        let before = known.replica.imported_through;
        let version = known.entry.as_ref().map(|entry| entry.version);
        let mut update = Expression::new("attribute_exists(pk)");
        update.require("version", version.map(|version| n(version.get())));
        update.require("importedThrough", before.map(|before| n(before.version)));
        update.require("importedThroughModifiedAt", before.map(|before| n(before.modified_at.millis())));
        update.set("importedThrough", n(now.version));
        update.set("importedThroughModifiedAt", n(now.modified_at.millis()));
        if let Some(mark) = mark {
            update.set("importedThroughId", s(mark.as_str()));
        }
        update.delete_ids("expiredIntents", done);
        self.update_entry(scope, key, update).await
    }

    /// Puts a key back into the outbox because its store does not show `version`, or shows
    /// something although nothing was ever committed. Refused (`false`) if the key has moved on or
    /// intents are open, whose replicators will see the same.
    pub async fn requeue(
        &self,
        scope: &TenantScope,
        key: &ConfigKey,
        version: Option<Version>,
    ) -> Result<bool, LedgerError> {
        let now = self.clock.now();
        let mut update = Expression::new("attribute_not_exists(intents)");
        update.require("version", version.map(|version| n(version.get())));
        update.enter_outbox(scope.tenant(), now, now);
        update.remove("replicatedVersion");
        self.update_entry(scope, key, update).await
    }

    /// Takes a key out of the outbox whose tag no longer has a store outside the ledger.
    pub async fn forget_store(&self, scope: &TenantScope, key: &ConfigKey) -> Result<(), LedgerError> {
        let mut update = Expression::new("attribute_exists(pk)");
        update.remove("removingUntil");
        update.remove("intents");
        update.leave_outbox();
        self.update_entry(scope, key, update).await?;
        Ok(())
    }

    /// Takes a published change out of the outbox.
    pub async fn mark_published(&self, scope: &TenantScope, revision: Revision) -> Result<(), LedgerError> {
        let mut update = Expression::new("attribute_exists(pk)");
        update.leave_outbox();
        self.update(scope, keys::change_key(revision), update).await?;
        Ok(())
    }

    /// Puts off an item that failed until `due`.
    pub async fn defer(&self, scope: &TenantScope, item: &OutboxItem, due: Timestamp) -> Result<(), LedgerError> {
        let sort_key = match &item.task {
            OutboxTask::Publish(_, revision) => keys::change_key(*revision),
            OutboxTask::Replicate(_, key) => keys::entry_key(key),
        };
        let mut update = Expression::new("attribute_exists(outboxShard)");
        update.set("outboxKey", s(keys::outbox_position(due, item.since, scope.tenant())));
        self.update(scope, sort_key, update).await?;
        Ok(())
    }

    /// Puts off a version that its store goes on refusing, by as long as it has been refused. Its
    /// age in the outbox starts anew: no sweep can help it sooner.
    pub async fn defer_refused(
        &self,
        scope: &TenantScope,
        key: &ConfigKey,
        version: Version,
        since: Timestamp,
    ) -> Result<(), LedgerError> {
        let now = self.clock.now();
        let due = now.plus(now.since(since).clamp(MIN_REFUSED_WAIT, MAX_REFUSED_WAIT));
        let mut update = Expression::new("attribute_exists(outboxShard) AND attribute_exists(refusedReason)");
        update.require("version", Some(n(version.get())));
        update.set("outboxKey", s(keys::outbox_position(due, due, scope.tenant())));
        self.update_entry(scope, key, update).await?;
        Ok(())
    }

    /// The numbers of the shards that the tenants are spread over.
    pub fn shards() -> Range<u32> {
        0..keys::SHARDS
    }

    /// The number of a tenant's shard.
    pub fn shard_of(tenant: &TenantId) -> u32 {
        keys::shard(tenant)
    }

    /// The changes of a shard's tenants that are due to be published, the longest due first, at
    /// most about `limit`.
    ///
    /// The index lags behind the table, so it may list what has been done.
    pub async fn unpublished(
        &self,
        authority: &SystemAuthority,
        shard: u32,
        limit: usize,
    ) -> Result<Vec<OutboxItem>, LedgerError> {
        self.due(authority, keys::publish_shard(shard), limit).await
    }

    /// The keys of a shard's tenants that are due to be replicated, the longest due first, at most
    /// about `limit`. May list what has been done, too.
    pub async fn unreplicated(
        &self,
        authority: &SystemAuthority,
        shard: u32,
        limit: usize,
    ) -> Result<Vec<OutboxItem>, LedgerError> {
        self.due(authority, keys::replicate_shard(shard), limit).await
    }

    async fn due(
        &self,
        authority: &SystemAuthority,
        shard: String,
        limit: usize,
    ) -> Result<Vec<OutboxItem>, LedgerError> {
        let mut items = Vec::new();
        let mut start = None;
        loop {
            let answer = self
                .clients
                .dynamodb_of_system(authority)
                .await?
                .query()
                .table_name(&self.table)
                .index_name(keys::OUTBOX_INDEX)
                .key_condition_expression("outboxShard = :shard AND outboxKey < :due")
                .expression_attribute_values(":shard", s(shard.as_str()))
                .expression_attribute_values(":due", s(keys::outbox_bound(self.clock.now())))
                .set_exclusive_start_key(start)
                .limit(OUTBOX_PAGE)
                .send()
                .await
                .map_err(|error| AwsFailure::of(Service::DynamoDb, "Query", &error))?;
            items.extend(answer.items().iter().filter_map(outbox_item));
            start = answer.last_evaluated_key;
            if start.is_none() || items.len() >= limit {
                return Ok(items);
            }
        }
    }

    async fn update_entry(
        &self,
        scope: &TenantScope,
        key: &ConfigKey,
        expression: Expression,
    ) -> Result<bool, LedgerError> {
        self.update(scope, keys::entry_key(key.as_str()), expression).await
    }

    /// A conditional update; whether the condition held.
    async fn update(&self, scope: &TenantScope, sort_key: String, expression: Expression) -> Result<bool, LedgerError> {
        let request = self
            .clients
            .dynamodb(scope)
            .await?
            .update_item()
            .table_name(&self.table)
            .set_key(Some(keys::primary_key(scope, sort_key)))
            .update_expression(expression.update())
            .condition_expression(expression.condition)
            .set_expression_attribute_names(unless_empty(expression.names))
            .set_expression_attribute_values(unless_empty(expression.values));
        let (mut conflicts, mut backoff) = (0, CONFLICT_BACKOFF);
        loop {
            let Err(error) = request.clone().send().await else { return Ok(true) };
            let failure = AwsFailure::of(Service::DynamoDb, "UpdateItem", &error);
            conflicts += 1;
            match failure.code.as_deref() {
                Some("ConditionalCheckFailedException") => return Ok(false),
                // A commit is under way on the same item. The SDK does not retry this.
                Some("TransactionConflictException") if conflicts < MAX_CONFLICTS => {}
                _ => return Err(failure.into()),
            }
            backoff.wait().await;
        }
    }
}

impl Expression {
    /// Puts a key into the outbox.
    pub(super) fn enter_outbox(&mut self, tenant: &TenantId, due: Timestamp, since: Timestamp) {
        self.set("outboxShard", s(keys::replicate_shard(keys::shard(tenant))));
        self.set("outboxKey", s(keys::outbox_position(due, since, tenant)));
    }

    /// Takes an item out of the outbox.
    fn leave_outbox(&mut self) {
        self.remove("outboxShard");
        self.remove("outboxKey");
    }

    fn set_locator(&mut self, locator: Locator, kind: &TextKind) {
        for (name, value) in item::locator_attributes(locator, kind) {
            self.set(name, value);
        }
    }
}

fn outbox_item(found: &Item) -> Option<OutboxItem> {
    let read = Reader(found);
    let tenant = TenantId::of_partition(read.optional_text("pk")?)?;
    let task = match keys::indexed_key(read.optional_text("sk")?)? {
        IndexedKey::Change(revision) => OutboxTask::Publish(tenant, revision),
        IndexedKey::Entry(key) => OutboxTask::Replicate(tenant, key.to_owned()),
    };
    let (due, since) = keys::outbox_times(read.optional_text("outboxKey")?)?;
    Some(OutboxItem { task, since, due })
}
