//! What commits still owe: events to publish, stores to bring after. Kept as marks on the items
//! themselves, found through the sparse index `outbox`, and taken off only by who has done the work.

use std::{ops::Range, time::Duration};

use aws_sdk_dynamodb::types::AttributeValue;

use super::{
    Ledger, LedgerError,
    expression::unless_empty,
    item::{self, Item, Reader, n, s},
    keys::{self, IndexedKey},
};
use crate::{
    auth::{SystemAuthority, TenantScope},
    aws::{AwsFailure, Service},
    clock::Timestamp,
    model::{
        entry::{IntentId, Locator, Revision, TextKind, Version},
        key::ConfigKey,
        tenant::TenantId,
    },
};

/// How long the one who committed has the work to itself, and how old an announced call must be to
/// count as abandoned: longer than any function of the suite may run.
pub const GRACE: Duration = Duration::from_mins(1);

/// How long what a store refuses waits before it is tried again: as long as it has been refused,
/// but no less and no more than this.
pub const MIN_REFUSED_WAIT: Duration = Duration::from_mins(10);
/// See [`MIN_REFUSED_WAIT`].
pub const MAX_REFUSED_WAIT: Duration = Duration::from_hours(6);

/// How many pieces of owed work one query looks up.
const OWED_PAGE: i32 = 100;
/// How often an update that meets a commit under way is tried, and the longest wait between two
/// tries.
const MAX_CONFLICTS: usize = 6;
const MAX_CONFLICT_WAIT: Duration = Duration::from_millis(150);

/// That nobody is removing the value from its store at `:now`.
const NO_REMOVAL: &str = "(attribute_not_exists(removingUntil) OR removingUntil < :now)";

/// That the store is not known to hold something newer than what was put as `:storeVersion`, when
/// `:seen` was noted of it. A version that nobody has noted since is older than the put, even where
/// its number is higher: then the store has begun to count anew.
pub(super) const STORE_IS_NOT_FURTHER: &str =
    "(attribute_not_exists(storeVersion) OR storeVersion < :storeVersion OR storeVersion = :seen)";

const SET_LOCATOR: &str = "locatorVersion = :locatorVersion, locatorModifiedAt = :locatorModifiedAt, \
                           textKind = :textKind, trimmed = :trimmed";

/// What a put has made of a store.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The store's own version of the value.
    pub placed: u64,
    /// The store's version that the ledger had noted before the put.
    pub seen: Option<u64>,
    /// Where the value lies now, if the store alone has it.
    pub locator: Option<(Locator, TextKind)>,
}

/// An item of the outbox.
#[derive(Clone, Debug)]
pub struct OutboxItem {
    /// The work.
    pub task: OutboxTask,
    /// Since when.
    pub since: Timestamp,
    /// From when it may be done; later and later, where it fails.
    pub due: Timestamp,
}

/// A piece of owed work.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum OutboxTask {
    /// A change that is not yet known to be published.
    Publish(TenantId, Revision),
    /// A key whose store is not yet known to have followed.
    Replicate(TenantId, String),
}

impl Ledger {
    /// Announces a call to a key's store before it is made, in the place of those in `replaced`.
    /// Refused (`false`) where other calls than `seen` are announced by now, or while the key's
    /// value is being removed there.
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
        let calls: Vec<_> = kept.chain([id]).cloned().collect();
        let mut values = vec![
            (":shard", s(keys::replicate_shard(keys::shard(scope.tenant())))),
            (":due", s(keys::outbox_position(now.plus(GRACE), now, scope.tenant()))),
            (":calls", id_set(&calls)),
            (":now", n(now.millis())),
        ];
        // What the calls whose place this one takes have put, if anything, is still ours.
        let expired = if replaced.is_empty() {
            ""
        } else {
            values.push((":replaced", id_set(replaced)));
            " ADD expiredIntents :replaced"
        };
        let unchanged = if seen.is_empty() {
            "attribute_not_exists(intents)"
        } else {
            values.push((":seen", id_set(seen)));
            "intents = :seen"
        };
        self.update_entry(
            scope,
            key,
            &format!("SET outboxShard = :shard, outboxKey = :due, intents = :calls{expired}"),
            // Done already if the SDK repeats a call whose answer was lost.
            &format!("intents = :calls OR ({unchanged} AND {NO_REMOVAL})"),
            values,
        )
        .await
    }

    /// Notes that announced calls are over, and takes the key off the index of owed work if nothing
    /// else is owed.
    pub async fn end_calls(&self, scope: &TenantScope, key: &ConfigKey, ended: &[IntentId]) -> Result<(), LedgerError> {
        if !ended.is_empty() {
            let ids = [(":ended", id_set(ended))];
            self.update_entry(scope, key, "DELETE intents :ended", "attribute_exists(pk)", ids).await?;
        }
        self.acknowledge(scope, key).await?;
        Ok(())
    }

    /// Leaves a key that is behind to whoever comes next: the calls in `ended` are over, and no
    /// others are announced. What they may have put wrong is put right by the call that the key is
    /// owed anyway. Does nothing where that is not so.
    pub async fn leave_calls(
        &self,
        scope: &TenantScope,
        key: &ConfigKey,
        ended: &[IntentId],
    ) -> Result<(), LedgerError> {
        let behind =
            "attribute_exists(version) AND (attribute_not_exists(replicatedVersion) OR replicatedVersion <> version)";
        let condition = format!("{behind} AND intents = :ended");
        self.update_entry(scope, key, "REMOVE intents", &condition, [(":ended", id_set(ended))]).await?;
        Ok(())
    }

    /// Takes the sole right to remove the value of a deleted key, or of one that never got a
    /// version, from its store, until `until`. Refused (`false`) where the key is alive again,
    /// where somebody else has that right, or where a call other than `known` is intents: it may
    /// be a put that is yet to be committed.
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
        let mut values = vec![(":until", n(until.millis())), (":known", id_set(known)), (":now", n(now.millis()))];
        let condition = match version {
            None => "attribute_not_exists(version)",
            Some(version) => {
                values.extend([(":version", n(version.get())), (":deleted", s("deleted"))]);
                "version = :version AND #state = :deleted"
            }
        };
        // What lies there is what was known, not what somebody has put since another removal.
        let same_store = match store_version {
            None => "attribute_not_exists(storeVersion)",
            Some(known) => {
                values.push((":storeVersion", n(known)));
                "storeVersion = :storeVersion"
            }
        };
        // The same `until` is there already if the SDK repeats a call whose answer was lost: no
        // other removal knows the same calls.
        let condition =
            format!("{condition} AND {same_store} AND intents = :known AND (removingUntil = :until OR {NO_REMOVAL})");
        self.update_entry(scope, key, "SET removingUntil = :until", &condition, values).await
    }

    /// Gives the right to remove back, after a removal that the key has moved on from.
    pub async fn end_removal(&self, scope: &TenantScope, key: &ConfigKey, until: Timestamp) -> Result<(), LedgerError> {
        let ours = [(":until", n(until.millis()))];
        self.update_entry(scope, key, "REMOVE removingUntil", "removingUntil = :until", ours).await?;
        Ok(())
    }

    /// Keeps a further put id with the version that it is given out for.
    pub async fn give_out(
        &self,
        scope: &TenantScope,
        key: &ConfigKey,
        version: Version,
        id: &IntentId,
    ) -> Result<(), LedgerError> {
        self.change_put_ids(scope, key, version, "ADD intentIds :id", id).await
    }

    /// The put ids that were given out for a version.
    pub async fn intent_ids(
        &self,
        scope: &TenantScope,
        key: &ConfigKey,
        version: Version,
    ) -> Result<Vec<IntentId>, LedgerError> {
        let found = self.get(scope, keys::version_key(key, version)).await?.unwrap_or_default();
        Ok(item::id_set(&found, "intentIds"))
    }

    /// Takes back a put id whose call did nothing.
    pub async fn take_back(
        &self,
        scope: &TenantScope,
        key: &ConfigKey,
        version: Version,
        id: &IntentId,
    ) -> Result<(), LedgerError> {
        self.change_put_ids(scope, key, version, "DELETE intentIds :id", id).await
    }

    async fn change_put_ids(
        &self,
        scope: &TenantScope,
        key: &ConfigKey,
        version: Version,
        update: &str,
        id: &IntentId,
    ) -> Result<(), LedgerError> {
        let ids = [(":id", id_set(std::slice::from_ref(id)))];
        self.update(scope, keys::version_key(key, version), update, "attribute_exists(pk)", ids).await?;
        Ok(())
    }

    /// Notes that the store has got `version`, and that the calls in `ended` are over; takes the
    /// key off the index of owed work unless other calls are open. What those of them in
    /// `made_up_for` put, should they come after all, is still ours. Refused (`false`) where the
    /// key has moved on, or the store is known to be further.
    pub async fn mark_replicated(
        &self,
        scope: &TenantScope,
        key: &ConfigKey,
        version: Version,
        stored: &Stored,
        ended: &[IntentId],
        made_up_for: &[IntentId],
    ) -> Result<bool, LedgerError> {
        let mut values = vec![
            (":version", n(version.get())),
            (":storeVersion", n(stored.placed)),
            (":seen", n(stored.seen.unwrap_or_default())),
            (":ended", id_set(ended)),
        ];
        let mut set = "SET replicatedVersion = :version, storeVersion = :storeVersion".to_owned();
        if let Some((locator, kind)) = &stored.locator {
            set = format!("{set}, {SET_LOCATOR}");
            values.extend(locator_values(*locator, kind));
        }
        // That it was refused has to be taken back first, which readers are to be told.
        let condition =
            format!("version = :version AND {STORE_IS_NOT_FURTHER} AND attribute_not_exists(refusedReason)");
        let expire = if made_up_for.is_empty() {
            ""
        } else {
            values.push((":madeUpFor", id_set(made_up_for)));
            " ADD expiredIntents :madeUpFor"
        };
        let all = format!("{set} REMOVE intents, outboxShard, outboxKey{expire}");
        let no_other = format!("{condition} AND intents = :ended");
        if self.update_entry(scope, key, &all, &no_other, values.clone()).await? {
            return Ok(true);
        }
        let marked =
            self.update_entry(scope, key, &format!("{set}{expire} DELETE intents :ended"), &condition, values).await?;
        if marked {
            self.acknowledge(scope, key).await?;
        }
        Ok(marked)
    }

    /// Moves the locator that a version is kept with, after its value was put again.
    pub async fn relocate(
        &self,
        scope: &TenantScope,
        key: &ConfigKey,
        version: Version,
        (locator, kind): &(Locator, TextKind),
    ) -> Result<(), LedgerError> {
        let sort_key = keys::version_key(key, version);
        let update = format!("SET {SET_LOCATOR}");
        self.update(scope, sort_key, &update, "attribute_exists(locatorVersion)", locator_values(*locator, kind))
            .await?;
        Ok(())
    }

    /// Notes that nothing of ours is left in the store of a key that was deleted at `version`, or
    /// that never got one, or nothing that may be removed (`is_left`), and that the calls in
    /// `ended`, which are all there are, are over. Refused (`false`) where the key has moved on.
    pub async fn mark_removed(
        &self,
        scope: &TenantScope,
        key: &ConfigKey,
        version: Option<Version>,
        ended: &[IntentId],
        is_left: bool,
    ) -> Result<bool, LedgerError> {
        let mut values = vec![(":ended", id_set(ended))];
        let (set, condition) = match version {
            None => ("", "attribute_not_exists(version)"),
            Some(version) => {
                values.push((":version", n(version.get())));
                ("SET replicatedVersion = :version ", "version = :version")
            }
        };
        // What was left there has been looked through as far as it had been.
        let gone = if is_left { "" } else { ", importedThrough, importedThroughModifiedAt" };
        // Should one of the calls put something after all, it is known as ours.
        let update = format!(
            "{set}REMOVE storeVersion, removingUntil, intents, outboxShard, outboxKey{gone} ADD expiredIntents :ended"
        );
        self.update_entry(scope, key, &update, &format!("{condition} AND intents = :ended"), values).await
    }

    /// Takes a key off the index of owed work if nothing is owed: its store has followed, and no
    /// announced call is open.
    pub async fn acknowledge(&self, scope: &TenantScope, key: &ConfigKey) -> Result<bool, LedgerError> {
        self.update_entry(
            scope,
            key,
            "REMOVE outboxShard, outboxKey",
            "attribute_not_exists(intents) AND (replicatedVersion = version OR attribute_not_exists(version))",
            [],
        )
        .await
    }

    /// Notes how far the store's own versions have been looked through, and the id that the last of
    /// them bears; and forgets the ids in `done`, which need not be known any more. Refused
    /// (`false`) where somebody else has noted something since.
    pub async fn note_imported(
        &self,
        scope: &TenantScope,
        key: &ConfigKey,
        before: Option<Locator>,
        now: (Locator, Option<&IntentId>),
        done: &[IntentId],
    ) -> Result<bool, LedgerError> {
        let (now, mark) = now;
        let mut values = vec![(":version", n(now.version)), (":at", n(now.modified_at.millis()))];
        let mut update = "SET importedThrough = :version, importedThroughModifiedAt = :at".to_owned();
        if let Some(mark) = mark {
            values.push((":mark", s(mark.as_str())));
            update.push_str(", importedThroughId = :mark");
        }
        if !done.is_empty() {
            values.push((":done", id_set(done)));
            update.push_str(" DELETE expiredIntents :done");
        }
        let condition = match before {
            None => "attribute_exists(pk) AND attribute_not_exists(importedThrough)",
            Some(before) => {
                values.extend([(":before", n(before.version)), (":beforeAt", n(before.modified_at.millis()))]);
                "importedThrough = :before AND importedThroughModifiedAt = :beforeAt"
            }
        };
        self.update_entry(scope, key, &update, condition, values).await
    }

    /// Owes a key's store that it be brought after again, because it does not show what is
    /// committed as `version`, or shows something although nothing ever was, whatever was noted.
    /// Refused (`false`) where the key has moved on or calls are open, which look for themselves.
    pub async fn requeue(
        &self,
        scope: &TenantScope,
        key: &ConfigKey,
        version: Option<Version>,
    ) -> Result<bool, LedgerError> {
        let now = self.clock.now();
        let mut values = vec![
            (":shard", s(keys::replicate_shard(keys::shard(scope.tenant())))),
            (":due", s(keys::outbox_position(now, now, scope.tenant()))),
        ];
        let unmoved = match version {
            None => "attribute_not_exists(version)",
            Some(version) => {
                values.push((":version", n(version.get())));
                "version = :version"
            }
        };
        let update = "SET outboxShard = :shard, outboxKey = :due REMOVE replicatedVersion";
        let condition = format!("{unmoved} AND attribute_not_exists(intents)");
        self.update_entry(scope, key, update, &condition, values).await
    }

    /// Notes that nothing is owed to a store any more, because the key's tag has none outside the
    /// ledger now.
    pub async fn forget_store(&self, scope: &TenantScope, key: &ConfigKey) -> Result<(), LedgerError> {
        let all = "REMOVE removingUntil, intents, outboxShard, outboxKey";
        self.update_entry(scope, key, all, "attribute_exists(pk)", []).await?;
        Ok(())
    }

    /// Notes that a change has been published.
    pub async fn mark_published(&self, scope: &TenantScope, revision: Revision) -> Result<(), LedgerError> {
        self.update(scope, keys::change_key(revision), "REMOVE outboxShard, outboxKey", "attribute_exists(pk)", [])
            .await?;
        Ok(())
    }

    /// Puts a piece of work that failed behind the others, until `due`.
    pub async fn defer(&self, scope: &TenantScope, item: &OutboxItem, due: Timestamp) -> Result<(), LedgerError> {
        let sort_key = match &item.task {
            OutboxTask::Publish(_, revision) => keys::change_key(*revision),
            OutboxTask::Replicate(_, key) => keys::entry_key(key),
        };
        let later = [(":due", s(keys::outbox_position(due, item.since, scope.tenant())))];
        self.update(scope, sort_key, "SET outboxKey = :due", "attribute_exists(outboxShard)", later).await?;
        Ok(())
    }

    /// Puts off the work of a version that its store goes on refusing, by as long as it has been
    /// refused. It counts as owed from then on, since nobody waits for it who could be helped.
    pub async fn put_off_refused(
        &self,
        scope: &TenantScope,
        key: &ConfigKey,
        version: Version,
        since: Timestamp,
    ) -> Result<(), LedgerError> {
        let now = self.clock.now();
        let due = now.plus(now.since(since).clamp(MIN_REFUSED_WAIT, MAX_REFUSED_WAIT));
        let values = [(":due", s(keys::outbox_position(due, due, scope.tenant()))), (":version", n(version.get()))];
        let condition = "version = :version AND attribute_exists(outboxShard) AND attribute_exists(refusedReason)";
        self.update_entry(scope, key, "SET outboxKey = :due", condition, values).await?;
        Ok(())
    }

    /// The numbers of the shards that tenants, and what is owed to them, are spread over.
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
    /// The index lags behind the table, so work may be listed although it has been done.
    pub async fn unpublished(
        &self,
        authority: &SystemAuthority,
        shard: u32,
        limit: usize,
    ) -> Result<Vec<OutboxItem>, LedgerError> {
        self.owed(authority, keys::publish_shard(shard), limit).await
    }

    /// The keys of a shard's tenants whose stores are due to be brought after, the longest due
    /// first, at most about `limit`. May list what has been done, too.
    pub async fn unreplicated(
        &self,
        authority: &SystemAuthority,
        shard: u32,
        limit: usize,
    ) -> Result<Vec<OutboxItem>, LedgerError> {
        self.owed(authority, keys::replicate_shard(shard), limit).await
    }

    async fn owed(
        &self,
        authority: &SystemAuthority,
        work_shard: String,
        limit: usize,
    ) -> Result<Vec<OutboxItem>, LedgerError> {
        let mut owed = Vec::new();
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
                .expression_attribute_values(":shard", s(work_shard.as_str()))
                .expression_attribute_values(":due", s(keys::outbox_bound(self.clock.now())))
                .set_exclusive_start_key(start)
                .limit(OWED_PAGE)
                .send()
                .await
                .map_err(|error| AwsFailure::of(Service::DynamoDb, "Query", &error))?;
            owed.extend(answer.items().iter().filter_map(outbox_item));
            start = answer.last_evaluated_key;
            if start.is_none() || owed.len() >= limit {
                return Ok(owed);
            }
        }
    }

    async fn update_entry(
        &self,
        scope: &TenantScope,
        key: &ConfigKey,
        update: &str,
        condition: &str,
        values: impl IntoIterator<Item = (&'static str, AttributeValue)> + Send,
    ) -> Result<bool, LedgerError> {
        self.update(scope, keys::entry_key(key.as_str()), update, condition, values).await
    }

    /// A conditional update; whether the condition held.
    async fn update(
        &self,
        scope: &TenantScope,
        sort_key: String,
        update: &str,
        condition: &str,
        values: impl IntoIterator<Item = (&'static str, AttributeValue)> + Send,
    ) -> Result<bool, LedgerError> {
        let values: Item = values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let names = condition.contains("#state").then(|| [("#state".to_owned(), "state".to_owned())].into());
        let request = self
            .clients
            .dynamodb(scope)
            .await?
            .update_item()
            .table_name(&self.table)
            .set_key(Some(keys::primary_key(scope, sort_key)))
            .update_expression(update)
            .condition_expression(condition)
            .set_expression_attribute_names(names)
            .set_expression_attribute_values(unless_empty(values));
        let mut conflicts = 0;
        loop {
            let Err(error) = request.clone().send().await else { return Ok(true) };
            let failure = AwsFailure::of(Service::DynamoDb, "UpdateItem", &error);
            conflicts += 1;
            match failure.code.as_deref() {
                Some("ConditionalCheckFailedException") => return Ok(false),
                // A commit is under way on the same item. The SDK does not count this among what it
                // tries again.
                Some("TransactionConflictException") if conflicts < MAX_CONFLICTS => {}
                _ => return Err(failure.into()),
            }
            tokio::time::sleep(MAX_CONFLICT_WAIT.mul_f64(fastrand::f64())).await;
        }
    }
}

/// The values of [`SET_LOCATOR`].
fn locator_values(locator: Locator, kind: &TextKind) -> [(&'static str, AttributeValue); 4] {
    let [(_, version), (_, modified_at), (_, kind), (_, trimmed)] = item::locator_attributes(locator, kind);
    [(":locatorVersion", version), (":locatorModifiedAt", modified_at), (":textKind", kind), (":trimmed", trimmed)]
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

pub(super) fn id_set(ids: &[IntentId]) -> AttributeValue {
    AttributeValue::Ss(ids.iter().map(|id| id.as_str().to_owned()).collect())
}
