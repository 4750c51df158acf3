//! What the comparison of the stores with the ledgers reads: the tenants, their keys, and how far
//! it has come.

use serde::{Deserialize, Serialize};

use super::{
    Current, Ledger, LedgerError, Range,
    attribute::{Item, n, s},
    item::{self, Reader},
    keys,
};
use crate::{
    auth::{SystemAuthority, TenantScope},
    aws::{AwsFailure, Service},
    model::{key::ConfigKey, tenant::TenantId},
    telemetry::Round,
};

/// How many tenants one query returns.
const TENANTS_PAGE: i32 = 50;

/// How far the comparison of the stores with the ledgers has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "camelCase")]
pub enum Cursor {
    /// At the beginning.
    #[default]
    Begin,
    /// Among the parameters, at a token of Parameter Store's.
    Parameters {
        /// Its token.
        token: String,
    },
    /// Among the entries.
    Entries {
        /// The shard of the directory of tenants that have parameters.
        shard: u32,
        /// The tenant; those before it are done.
        tenant: Option<String>,
        /// The tenant's last key that is done.
        key: Option<String>,
    },
}

impl Ledger {
    /// How far the comparison has come, and what this round has counted. At the beginning if
    /// nothing usable is stored.
    pub async fn reconciled(&self, authority: &SystemAuthority) -> Result<(Cursor, Round), LedgerError> {
        let answer = self
            .clients
            .dynamodb_of_system(authority)
            .await?
            .get_item()
            .table_name(&self.table)
            .set_key(Some(keys::reconcile_cursor()))
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| AwsFailure::of(Service::DynamoDb, "GetItem", &error))?;
        let text = |name| answer.item.as_ref().and_then(|item| Reader(item).optional_text(name));
        let cursor = text("cursor").and_then(|text| serde_json::from_str(text).ok());
        let round = text("round").and_then(|text| serde_json::from_str(text).ok());
        Ok((cursor.unwrap_or_default(), round.unwrap_or_default()))
    }

    /// Stores how far the comparison has come, and what this round has counted.
    pub async fn note_reconciled(
        &self,
        authority: &SystemAuthority,
        cursor: &Cursor,
        round: &Round,
    ) -> Result<(), LedgerError> {
        let mut noted = keys::reconcile_cursor();
        noted.insert("format".to_owned(), n(item::FORMAT));
        noted.insert("cursor".to_owned(), s(serde_json::to_string(cursor).unwrap_or_default()));
        noted.insert("round".to_owned(), s(serde_json::to_string(round).unwrap_or_default()));
        self.clients
            .dynamodb_of_system(authority)
            .await?
            .put_item()
            .table_name(&self.table)
            .set_item(Some(noted))
            .send()
            .await
            .map_err(|error| AwsFailure::of(Service::DynamoDb, "PutItem", &error))?;
        Ok(())
    }

    /// The next tenants that have parameters, of a shard of their directory, after `after`; none at
    /// its end.
    pub async fn tenants_with_parameters(
        &self,
        authority: &SystemAuthority,
        shard: u32,
        after: Option<&TenantId>,
    ) -> Result<Vec<TenantId>, LedgerError> {
        let answer = self
            .clients
            .dynamodb_of_system(authority)
            .await?
            .query()
            .table_name(&self.table)
            .index_name(keys::CHANGES_INDEX)
            .key_condition_expression("timeShard = :shard AND timeKey > :after")
            .expression_attribute_values(":shard", s(keys::parameters_shard(shard)))
            // No tenant id sorts before a space.
            .expression_attribute_values(":after", s(after.map_or(" ", TenantId::as_str)))
            .limit(TENANTS_PAGE)
            .send()
            .await
            .map_err(|error| AwsFailure::of(Service::DynamoDb, "Query", &error))?;
        let tenant = |found: &Item| found.get("timeKey").and_then(|key| key.as_s().ok()?.parse().ok());
        Ok(answer.items().iter().filter_map(tenant).collect())
    }

    /// A tenant's next entries after the key `after`, deleted ones among them, at most about
    /// `limit`. Also the last key that was read, if there are more.
    pub async fn entries_after(
        &self,
        scope: &TenantScope,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<(ConfigKey, Current)>, Option<String>), LedgerError> {
        let bound = after.map(keys::entry_key);
        let start = keys::entry_key("");
        let range = Range { prefix: &start, after: bound.as_deref(), descending: false, page: limit };
        let mut entries = Vec::new();
        let last = self
            .scan_range(scope, range, |found| {
                if let Ok(key) = ConfigKey::parse(keys::key_of_entry(Reader(found).text("sk")?), &self.routes) {
                    entries.push((key.clone(), Current::read(found, key)?));
                }
                Ok(entries.len() < limit)
            })
            .await?;
        Ok((entries, last.map(|sort_key| keys::key_of_entry(&sort_key).to_owned())))
    }

    /// What the ledger knows of these keys. At most [`super::MAX_BATCH_KEYS`].
    pub async fn currents(
        &self,
        scope: &TenantScope,
        keys: &[ConfigKey],
    ) -> Result<Vec<(ConfigKey, Current)>, LedgerError> {
        let items = self.get_many(scope, keys.iter().map(|key| keys::entry_key(key.as_str())).collect()).await?;
        let currents = keys.iter().map(|key| {
            let found = items.get(&keys::entry_key(key.as_str())).map(|found| Current::read(found, key.clone()));
            Ok((key.clone(), found.transpose()?.unwrap_or_default()))
        });
        currents.collect()
    }
}
