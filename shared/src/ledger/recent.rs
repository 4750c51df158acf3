//! The latest changes of all tenants: the index `changes-by-time`.

use super::{
    Ledger, LedgerError,
    attribute::{Item, s},
    item::Reader,
    keys::{self, IndexedKey},
};
use crate::{
    auth::IndexAuthority,
    aws::{AwsFailure, Service},
    clock::Timestamp,
    model::{entry::Revision, tenant::TenantId},
};

/// A change, as the index lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedChange {
    /// Whose.
    pub tenant: TenantId,
    /// Which.
    pub revision: Revision,
    /// When it was committed, by the writer's clock.
    pub at: Timestamp,
}

impl Ledger {
    /// The changes of a shard's tenants since `since`, at most about `limit`, in the order of the
    /// writers' clocks.
    ///
    /// The index lags behind the table, and the writers' clocks differ. A change may be listed
    /// after others with later times.
    pub async fn recent_changes(
        &self,
        authority: &IndexAuthority,
        shard: u32,
        since: Timestamp,
        limit: usize,
    ) -> Result<Vec<ListedChange>, LedgerError> {
        let mut listed = Vec::new();
        let mut start = None;
        loop {
            let answer = self
                .clients
                .dynamodb_of_index(authority)
                .await?
                .query()
                .table_name(&self.table)
                .index_name(keys::CHANGES_INDEX)
                .key_condition_expression("timeShard = :shard AND timeKey >= :since")
                .expression_attribute_values(":shard", s(keys::time_shard(shard)))
                .expression_attribute_values(":since", s(keys::time_bound(since)))
                .set_exclusive_start_key(start)
                .send()
                .await
                .map_err(|error| AwsFailure::of(Service::DynamoDb, "Query", &error))?;
            listed.extend(answer.items().iter().filter_map(listed_change));
            start = answer.last_evaluated_key;
            if start.is_none() || listed.len() >= limit {
                return Ok(listed);
            }
        }
    }
}

/// The partition says whose change it is: who may write one tenant's items cannot name another
/// tenant.
fn listed_change(found: &Item) -> Option<ListedChange> {
    let read = Reader(found);
    let tenant = TenantId::of_partition(read.optional_text("pk")?)?;
    let IndexedKey::Change(revision) = keys::indexed_key(read.optional_text("sk")?)? else { return None };
    Some(ListedChange { tenant, revision, at: keys::time_of(read.optional_text("timeKey")?)? })
}
