//! What commits still owe: events to publish, stores to bring after. Kept as marks on the items themselves, found through the sparse
//! index `work`, and taken off only by who has done the work.

use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;

use super::{
    Ledger, LedgerError,
    item::{self, OwedKey, Reader, n, s},
    primary_key,
};
use crate::{
    auth::{SystemAuthority, TenantScope},
    aws::{AwsFailure, Service},
    clock::Timestamp,
    entry::{PutId, Revision, Version},
    key::ConfigKey,
    tenant::TenantId,
};

/// How long the one who committed has the work to itself, and how old an announced call must be to count as abandoned: longer
/// than any function of the suite may run.
pub const GRACE: Duration = Duration::from_mins(1);

/// A piece of owed work.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum OwedItem {
    /// A change that is not yet known to be published.
    Publish(TenantId, Revision),
    /// A key whose store is not yet known to have followed.
    Follow(TenantId, String),
}

impl Ledger {
    /// Announces a call to a key's store before it is made. Refused (`false`) while the key's value is being removed there.
    pub async fn announce(&self, scope: &TenantScope, key: &ConfigKey, id: &PutId) -> Result<bool, LedgerError> {
        let now = self.clock.now();
        self.update_entry(
            scope,
            key,
            "SET workShard = :shard, workKey = :due ADD announced :id",
            "attribute_not_exists(removingUntil) OR removingUntil < :now",
            [
                (":shard", s(item::work_shard(item::shard(scope.tenant())))),
                (":due", s(item::work_key(now.plus(GRACE), scope.tenant()))),
                (":id", id_set(std::slice::from_ref(id))),
                (":now", n(now.millis())),
            ],
        )
        .await
    }

    /// Takes the sole right to remove the value of a deleted key, or of one that never got a version, from its store, for
    /// `duration`. Refused (`false`) where the key is alive again, or where a call other than `known` is announced: it may be a put
    /// that is yet to be committed.
    pub async fn begin_removal(
        &self,
        scope: &TenantScope,
        key: &ConfigKey,
        version: Option<Version>,
        known: &[PutId],
        duration: Duration,
    ) -> Result<bool, LedgerError> {
        let mut values = vec![(":until", n(self.clock.now().plus(duration).millis())), (":known", id_set(known))];
        let condition = match version {
            None => "attribute_not_exists(version) AND announced = :known",
            Some(version) => {
                values.extend([(":version", n(version.get())), (":deleted", s("deleted"))]);
                "version = :version AND #state = :deleted AND announced = :known"
            }
        };
        self.update_entry(scope, key, "SET removingUntil = :until", condition, values).await
    }

    /// Keeps a further put id with the version that it is given out for.
    pub async fn give_out(
        &self,
        scope: &TenantScope,
        key: &ConfigKey,
        version: Version,
        id: &PutId,
    ) -> Result<(), LedgerError> {
        self.clients
            .dynamodb(scope)
            .update_item()
            .table_name(&self.table)
            .set_key(Some(primary_key(scope, item::version_key(key, version))))
            .update_expression("ADD putIds :id")
            .condition_expression("attribute_exists(pk)")
            .expression_attribute_values(":id", id_set(std::slice::from_ref(id)))
            .send()
            .await
            .map_err(|error| AwsFailure::of(Service::DynamoDb, "UpdateItem", &error))?;
        Ok(())
    }

    /// Notes that the store has followed to `version`, and that the calls in `ended` are over; takes the key off the index of owed
    /// work unless other calls are open. `store_version` is the store's own version of the value, none after a removal. Refused
    /// (`false`) where the key has moved on, or the store is known to be further.
    pub async fn mark_followed(
        &self,
        scope: &TenantScope,
        key: &ConfigKey,
        version: Version,
        store_version: Option<u64>,
        ended: &[PutId],
    ) -> Result<bool, LedgerError> {
        let mut values = vec![(":version", n(version.get())), (":ended", id_set(ended))];
        let (set, remove, condition) = match store_version {
            None => ("SET followedVersion = :version", "REMOVE storeVersion, removingUntil", "version = :version"),
            Some(store_version) => {
                values.push((":store", n(store_version)));
                (
                    "SET followedVersion = :version, storeVersion = :store",
                    "REMOVE removingUntil",
                    "version = :version AND (attribute_not_exists(storeVersion) OR storeVersion < :store OR followedVersion < :version)",
                )
            }
        };
        let all = format!("{set} {remove}, announced, workShard, workKey");
        if self.update_entry(scope, key, &all, &format!("{condition} AND announced = :ended"), values.clone()).await? {
            return Ok(true);
        }
        let some = format!("{set} {remove} DELETE announced :ended");
        let marked = self.update_entry(scope, key, &some, condition, values).await?;
        if marked {
            self.settle(scope, key).await?;
        }
        Ok(marked)
    }

    /// Takes a key off the index of owed work if nothing is owed: its store has followed, and no announced call is open.
    pub async fn settle(&self, scope: &TenantScope, key: &ConfigKey) -> Result<bool, LedgerError> {
        self.update_entry(
            scope,
            key,
            "REMOVE workShard, workKey",
            "attribute_not_exists(announced) AND (followedVersion = version OR attribute_not_exists(version))",
            [],
        )
        .await
    }

    /// Notes that the calls in `ended` are over for a key that never got a version, and that nothing of it is left in its store.
    pub async fn mark_nothing_left(
        &self,
        scope: &TenantScope,
        key: &ConfigKey,
        ended: &[PutId],
    ) -> Result<bool, LedgerError> {
        self.update_entry(
            scope,
            key,
            "REMOVE removingUntil, announced, workShard, workKey",
            "attribute_not_exists(version) AND announced = :ended",
            [(":ended", id_set(ended))],
        )
        .await
    }

    /// Notes that a change has been published.
    pub async fn mark_published(&self, scope: &TenantScope, revision: Revision) -> Result<(), LedgerError> {
        self.update(scope, item::change_key(revision), "REMOVE workShard, workKey", "attribute_exists(pk)", []).await?;
        Ok(())
    }

    /// Puts a piece of work that failed behind the others, until `due`.
    pub async fn defer(&self, scope: &TenantScope, owed: &OwedItem, due: Timestamp) -> Result<(), LedgerError> {
        let sort_key = match owed {
            OwedItem::Publish(_, revision) => item::change_key(*revision),
            OwedItem::Follow(_, key) => item::entry_key(key),
        };
        let later = [(":due", s(item::work_key(due, scope.tenant())))];
        self.update(scope, sort_key, "SET workKey = :due", "attribute_exists(workShard)", later).await?;
        Ok(())
    }

    /// The numbers of the shards that owed work is spread over.
    pub fn work_shards() -> impl Iterator<Item = u32> {
        0..item::SHARDS
    }

    /// What is owed in a shard and due by now, the oldest first, at most `limit`.
    ///
    /// The index lags behind the table, so an item may be listed although its work has been done.
    pub async fn owed(
        &self,
        authority: &SystemAuthority,
        shard: u32,
        limit: i32,
    ) -> Result<Vec<OwedItem>, LedgerError> {
        let answer = self
            .clients
            .dynamodb_of_system(authority)
            .query()
            .table_name(&self.table)
            .index_name("work")
            .key_condition_expression("workShard = :shard AND workKey < :due")
            .expression_attribute_values(":shard", s(item::work_shard(shard)))
            .expression_attribute_values(":due", s(format!("{:015}", self.clock.now().millis() + 1)))
            .limit(limit)
            .send()
            .await
            .map_err(|error| AwsFailure::of(Service::DynamoDb, "Query", &error))?;
        let items = answer.items.unwrap_or_default();
        let owed = items.iter().filter_map(|found| {
            let read = Reader(found);
            let tenant = item::tenant_of_partition(read.optional_text("pk")?)?;
            Some(match item::owed_key(read.optional_text("sk")?)? {
                OwedKey::Change(revision) => OwedItem::Publish(tenant, revision),
                OwedKey::Entry(key) => OwedItem::Follow(tenant, key.to_owned()),
            })
        });
        Ok(owed.collect())
    }

    async fn update_entry(
        &self,
        scope: &TenantScope,
        key: &ConfigKey,
        update: &str,
        condition: &str,
        values: impl IntoIterator<Item = (&'static str, AttributeValue)> + Send,
    ) -> Result<bool, LedgerError> {
        self.update(scope, item::entry_key(key.as_str()), update, condition, values).await
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
        let values: super::Item = values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let names = condition.contains("#state").then(|| [("#state".to_owned(), "state".to_owned())].into());
        let sent = self
            .clients
            .dynamodb(scope)
            .update_item()
            .table_name(&self.table)
            .set_key(Some(primary_key(scope, sort_key)))
            .update_expression(update)
            .condition_expression(condition)
            .set_expression_attribute_names(names)
            .set_expression_attribute_values((!values.is_empty()).then_some(values))
            .send()
            .await;
        match sent {
            Ok(_) => Ok(true),
            Err(error) => {
                let failure = AwsFailure::of(Service::DynamoDb, "UpdateItem", &error);
                if failure.is("ConditionalCheckFailedException") { Ok(false) } else { Err(failure.into()) }
            }
        }
    }
}

fn id_set(ids: &[PutId]) -> AttributeValue {
    AttributeValue::Ss(ids.iter().map(|id| id.as_str().to_owned()).collect())
}
