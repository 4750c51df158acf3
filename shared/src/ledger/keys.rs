//! The spelling of the table's keys: sort keys, shards, positions in the indexes, and the indexes'
//! names. Nothing else spells them, but for a tenant's partition, which the sessions' policies name
//! as well: [`TenantId::partition`].

use std::collections::HashMap;

use super::attribute::{Item, s};
use crate::{
    auth::TenantScope,
    clock::Timestamp,
    model::{
        entry::{Revision, Version},
        key::ConfigKey,
        tenant::TenantId,
    },
};

/// The sparse index of the items that are in the outbox.
pub(super) const OUTBOX_INDEX: &str = "outbox";
/// The index of the changes by their times, and of the directories of tenants.
pub(super) const CHANGES_INDEX: &str = "changes-by-time";

/// The shards of the indexes across tenants. A tenant's shard follows from its id, so this number
/// can never change.
pub(super) const SHARDS: u32 = 4;

/// The sort key of a tenant's head.
pub(super) const HEAD: &str = "HEAD";
/// The sort key of the queue of a tenant's writers.
pub(super) const QUEUE: &str = "QUEUE";
/// The sort key of the item that puts a tenant into the directory of those that have parameters.
pub(super) const PARAMETERS: &str = "PARAMETERS";
const ENTRY: &str = "ENTRY#";
const VERSION: &str = "VERSION#";
/// What the sort keys of changes begin with.
pub(super) const CHANGE: &str = "CHANGE#";

/// The primary key of an item of the scope's tenant.
pub(super) fn primary_key(scope: &TenantScope, sort_key: String) -> Item {
    key(scope.tenant().partition(), sort_key)
}

/// The primary key of the item that keeps how far the comparison has come.
pub(super) fn reconcile_cursor() -> Item {
    key("SYSTEM#RECONCILE".to_owned(), "CURSOR".to_owned())
}

fn key(partition: String, sort_key: String) -> Item {
    HashMap::from([("pk".to_owned(), s(partition)), ("sk".to_owned(), s(sort_key))])
}

/// The sort key of a key's entry; for a key's beginning, what the sort keys begin with.
pub(super) fn entry_key(key: &str) -> String {
    format!("{ENTRY}{key}")
}

/// The key of an entry's item, as text.
pub(super) fn key_of_entry(sort_key: &str) -> &str {
    sort_key.strip_prefix(ENTRY).unwrap_or(sort_key)
}

pub(super) fn version_prefix(key: &ConfigKey) -> String {
    format!("{VERSION}{key}#")
}

pub(super) fn version_key(key: &ConfigKey, version: Version) -> String {
    format!("{VERSION}{key}#{:020}", version.get())
}

pub(super) fn change_key(revision: Revision) -> String {
    format!("{CHANGE}{:020}", revision.get())
}

pub(super) fn idempotency_key(hash: &str) -> String {
    format!("IDEMPOTENCY#{hash}")
}

/// What a sort key found on an index stands for.
pub(super) enum IndexedKey<'a> {
    Change(Revision),
    Entry(&'a str),
}

pub(super) fn indexed_key(sort_key: &str) -> Option<IndexedKey<'_>> {
    if let Some(digits) = sort_key.strip_prefix(CHANGE) {
        return digits.parse().ok().map(|n| IndexedKey::Change(Revision::new(n)));
    }
    sort_key.strip_prefix(ENTRY).map(IndexedKey::Entry)
}

/// A tenant's shard in the indexes across tenants. FNV-1a, because it must never change with a
/// compiler or library.
pub(super) fn shard(tenant: &TenantId) -> u32 {
    let hash =
        tenant.as_str().bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash % SHARDS
}

/// The outbox's shard of changes to publish. It is apart from the stores' shard, so that a slow
/// store delays no event.
pub(super) fn publish_shard(shard: u32) -> String {
    format!("PUBLISH#{shard}")
}

/// The outbox's shard of keys to replicate.
pub(super) fn replicate_shard(shard: u32) -> String {
    format!("REPLICATE#{shard}")
}

/// A shard of the changes by their times.
pub(super) fn time_shard(shard: u32) -> String {
    format!("CHANGES#{shard}")
}

/// A shard of the tenants' directory.
pub(super) fn directory_shard(shard: u32) -> String {
    format!("TENANTS#{shard}")
}

/// A shard of the directory of the tenants that have parameters.
pub(super) fn parameters_shard(shard: u32) -> String {
    format!("PARAMETERS#{shard}")
}

/// An item's position in the outbox: by the time from which it is due. Behind that stands the time
/// since which it has been in the outbox.
pub(super) fn outbox_position(due: Timestamp, since: Timestamp, tenant: &TenantId) -> String {
    format!("{:015}#{:015}#{tenant}", due.millis(), since.millis())
}

/// What stands behind every position that is due at `now`.
pub(super) fn outbox_bound(now: Timestamp) -> String {
    format!("{:015}", now.millis() + 1)
}

/// From when an item at this position is due, and since when it has been in the outbox.
pub(super) fn outbox_times(position: &str) -> Option<(Timestamp, Timestamp)> {
    let mut times = position.split('#').map(|time| time.parse().ok().map(Timestamp::from_millis));
    Some((times.next()??, times.next()??))
}

/// A change's position among the changes by their times.
pub(super) fn time_position(at: Timestamp, tenant: &TenantId, revision: Revision) -> String {
    format!("{}#{tenant}#{:020}", time_bound(at), revision.get())
}

/// What stands before every change of `since` and later.
pub(super) fn time_bound(since: Timestamp) -> String {
    format!("{:015}", since.millis())
}

/// The time of the change at this position.
pub(super) fn time_of(position: &str) -> Option<Timestamp> {
    position.split('#').next()?.parse().ok().map(Timestamp::from_millis)
}
