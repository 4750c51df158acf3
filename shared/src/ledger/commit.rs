//! A commit: one `TransactWriteItems` that moves the head by one and writes entries, versions, the
//! change and the request's result.

use std::{collections::HashMap, time::Duration};

use aws_sdk_dynamodb::{
    config::{http::HttpResponse, retry::RetryConfig},
    error::SdkError,
    operation::transact_write_items::TransactWriteItemsError,
    types::{AttributeValue, Put, TransactWriteItem, Update},
};
use serde::{Deserialize, Serialize};

use super::{
    Change, ChangeOperation, ChangedKey, Head, Ledger, LedgerError, ReplicaState,
    expression::{Expression, unless_empty},
    item::{self, FORMAT, Item, Reader, n, s},
    keys,
    outbox::{GRACE, STORE_IS_NOT_FURTHER, id_set},
    refusal,
};
use crate::{
    auth::TenantScope,
    aws::{AwsFailure, FailureKind, Service},
    clock::Timestamp,
    model::{
        comment::Comment,
        entry::{Author, CommitId, Entry, Epoch, IntentId, Locator, Revision, State, ValueFormat, Version},
        key::ConfigKey,
        refusal::Refusal,
        tenant::TenantId,
    },
};

/// How long changes are kept for readers to follow.
const CHANGES_KEPT: Duration = Duration::from_hours(7 * 24);
/// How long the result of a request with an idempotency key is kept.
const RESULTS_KEPT: Duration = Duration::from_hours(24);
/// How often a commit is sent, unchanged, until its outcome is known.
const MAX_SENDS: usize = 4;
/// The longest wait between two sends of one commit.
const MAX_RESEND_WAIT: Duration = Duration::from_millis(300);

/// A commit as it is meant to be.
#[derive(Debug)]
pub struct Plan {
    /// The head that the commit follows.
    pub head: Head,
    /// The commit's id, the same for every attempt of one request.
    pub commit: CommitId,
    /// When the commit takes place.
    pub at: Timestamp,
    /// What is written; no key twice.
    pub writes: Vec<PlannedWrite>,
    /// Why, if who commits says so.
    pub comment: Option<Comment>,
    /// The request that the commit fulfils, if it carries an idempotency key.
    pub idempotency: Option<IdempotencyClaim>,
}

/// One write of a commit.
#[derive(Debug)]
pub struct PlannedWrite {
    /// The key.
    pub key: ConfigKey,
    /// The version that is current before the write; none for a key that never had one.
    pub previous: Option<Version>,
    /// The version that the write becomes.
    pub version: Version,
    /// Whether the key has no value before the write.
    pub creates: bool,
    /// What the key says from now on.
    pub state: State,
    /// What the key's values are from now on; none where that stays as it is.
    pub format: Option<ValueFormat>,
    /// What the write means for the tag's store.
    pub store: StoreChange,
    /// Whether the values of the key's earlier versions go with it, because they lie in that store
    /// alone.
    pub removes_older_values: bool,
}

/// What a write means for the store outside the ledger.
#[derive(Debug)]
pub enum StoreChange {
    /// There is none.
    None,
    /// A call to it follows at once, announced under this id.
    Intent(IntentId),
    /// config-refresh calls it.
    Later,
    /// It has the value already.
    Done(PutBefore),
    /// The write was found there.
    Found(Found),
    /// There is no write: the store refuses the current version, or has taken it after all.
    Refusal {
        /// The refusal, if it is one.
        refusal: Option<Refusal>,
        /// The calls that have to be announced still where the version was known to be in the
        /// store.
        made_up: Vec<IntentId>,
    },
}

/// What somebody did to a store, and not through us.
#[derive(Clone, Debug)]
pub struct Found {
    /// When, as the store says.
    pub at: Timestamp,
    /// Where it lies; none for a removal.
    pub place: Option<Locator>,
    /// The id that the newest version up to there bears that bears one.
    pub mark: Option<IntentId>,
    /// Whether a later put of ours had replaced it already.
    pub superseded: bool,
    /// Whether the puts of the tag's route fit on it, as they do not on another type.
    pub fits: bool,
    /// Whether it is of another life of the name than what the ledger knows of the store, and
    /// nothing of ours lies on it.
    pub is_anew: bool,
    /// What the ledger knew of the store when it was found.
    pub known: ReplicaState,
}

/// A put that went before its commit.
#[derive(Clone, Debug)]
pub struct PutBefore {
    /// The id that the put was announced under.
    pub id: IntentId,
    /// The version that the put was described as: the next one at that time.
    pub described: Version,
    /// The store's own version of it.
    pub placed: u64,
    /// The store's version that the ledger had noted before the put.
    pub seen: Option<u64>,
}

/// A request's idempotency key and content, as hashes.
#[derive(Clone, Debug)]
pub struct IdempotencyClaim {
    /// The hash of the key.
    pub key_hash: String,
    /// The hash of everything that the request asks for.
    pub request_hash: String,
}

/// What a commit did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Receipt {
    /// The commit's revision.
    pub revision: Revision,
    /// When it took place, in milliseconds since the epoch.
    pub at_millis: u64,
    /// Who committed.
    pub author: String,
    /// What was written, in the order of the request.
    pub writes: Vec<WrittenKey>,
}

/// What a commit did to one key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WrittenKey {
    /// The key.
    pub key: String,
    /// The version that was written.
    pub version: Version,
    /// Its entity tag.
    pub etag: String,
    /// Whether the key was deleted.
    pub deleted: bool,
    /// Whether the key had no value before.
    pub created: bool,
    /// Whether the values of the key's earlier versions go with it.
    #[serde(default)]
    pub removes_older_values: bool,
}

/// How an attempt to commit ended.
#[derive(Debug)]
pub enum CommitOutcome {
    /// It took place.
    Committed(Receipt, Change),
    /// Something it was planned upon has changed. Nothing was written.
    Conflict,
}

impl PlannedWrite {
    fn found(&self) -> Option<&Found> {
        if let StoreChange::Found(found) = &self.store { Some(found) } else { None }
    }

    fn refusal(&self) -> Option<&Option<Refusal>> {
        if let StoreChange::Refusal { refusal, .. } = &self.store { Some(refusal) } else { None }
    }

    fn is_superseded(&self) -> bool {
        self.found().is_some_and(|found| found.superseded)
    }
}

impl Plan {
    fn revision(&self) -> Revision {
        self.head.revision.next()
    }

    /// What the key of a write says once that is committed.
    pub(crate) fn entry(&self, scope: &TenantScope, write: &PlannedWrite) -> Entry {
        Entry {
            key: write.key.clone(),
            version: write.version,
            revision: self.revision(),
            author: self.author(scope),
            comment: self.comment.clone(),
            modified_at: write.found().map_or(self.at, |found| found.at),
            commit: self.commit.clone(),
            state: write.state.clone(),
            superseded: write.is_superseded(),
            refusal: write.refusal().copied().flatten(),
        }
    }

    /// Whoever committed something that was found, or what a store made of it, is not who did that.
    fn author(&self, scope: &TenantScope) -> Author {
        if self.writes.iter().any(|write| write.found().is_some() || write.refusal().is_some()) {
            Author::external()
        } else {
            scope.author().clone()
        }
    }

    fn receipt(&self, scope: &TenantScope) -> Receipt {
        let writes = self.writes.iter().map(|write| {
            let entry = self.entry(scope, write);
            WrittenKey {
                key: entry.key.to_string(),
                version: entry.version,
                etag: entry.etag().to_string(),
                deleted: !entry.is_live(),
                created: write.creates,
                removes_older_values: write.removes_older_values,
            }
        });
        Receipt {
            revision: self.revision(),
            at_millis: self.at.millis(),
            author: self.author(scope).as_str().to_owned(),
            writes: writes.collect(),
        }
    }

    fn change(&self, scope: &TenantScope) -> Change {
        let keys = self.writes.iter().map(|write| {
            let entry = self.entry(scope, write);
            ChangedKey {
                key: entry.key.to_string(),
                version: entry.version,
                operation: match (write.refusal(), &entry.state) {
                    (Some(Some(_)), _) => ChangeOperation::Refuse,
                    (Some(None), _) => ChangeOperation::Accept,
                    _ if entry.superseded => ChangeOperation::Supersede,
                    (None, State::Live(_)) => ChangeOperation::Put,
                    (None, State::Deleted) => ChangeOperation::Delete,
                },
                refusal: entry.refusal,
            }
        });
        Change {
            revision: self.revision(),
            author: self.author(scope),
            comment: self.comment.clone(),
            at: self.at,
            commit: self.commit.clone(),
            expires_at: self.at.plus(CHANGES_KEPT),
            keys: keys.collect(),
        }
    }
}

impl Ledger {
    /// Attempts a commit.
    ///
    /// Where the outcome of a send is open, the same transaction is sent again at the same head:
    /// whichever of the sends arrives first moves the head, so no other can take effect. Once the
    /// head has moved, the change at the next revision tells by its commit id whose commit it was.
    pub async fn commit(&self, scope: &TenantScope, plan: &Plan) -> Result<CommitOutcome, LedgerError> {
        let receipt = plan.receipt(scope);
        let items = self.transaction(scope, plan, &receipt)?;
        // The SDK's own retries would hide that an earlier send may have taken effect.
        let once = aws_sdk_dynamodb::Config::builder().retry_config(RetryConfig::disabled());
        let mut open = None;
        for sends_left in (0..MAX_SENDS).rev() {
            let request =
                self.clients.dynamodb(scope).await?.transact_write_items().set_transact_items(Some(items.clone()));
            let Err(error) = request.customize().config_override(once.clone()).send().await else {
                return Ok(CommitOutcome::Committed(receipt, plan.change(scope)));
            };
            let failure = AwsFailure::of(Service::DynamoDb, "TransactWriteItems", &error);
            match (judge(&error, &failure), open.take()) {
                (Judgement::HeadMoved | Judgement::Conflict, None) => return Ok(CommitOutcome::Conflict),
                (Judgement::HeadMoved, Some(lost_sight_by)) => {
                    return match self.change(scope, plan.revision()).await {
                        Ok(Some(change)) if change.commit == plan.commit => {
                            Ok(CommitOutcome::Committed(receipt, change))
                        }
                        Ok(_) => Ok(CommitOutcome::Conflict),
                        Err(_) => Err(LedgerError::OutcomeUnknown(lost_sight_by)),
                    };
                }
                (Judgement::Open, _) => open = Some(failure),
                (Judgement::Throttled, None) if sends_left > 0 => {}
                (Judgement::Throttled | Judgement::Refused, None) => return Err(failure.into()),
                // This send did nothing, but an earlier one still may.
                (_, Some(lost_sight_by)) => open = Some(lost_sight_by),
            }
            tokio::time::sleep(MAX_RESEND_WAIT.mul_f64(fastrand::f64())).await;
        }
        // Without an open outcome the last failure would have been returned.
        let unseen = || AwsFailure::unexpected(Service::DynamoDb, "TransactWriteItems", "no answer");
        Err(LedgerError::OutcomeUnknown(open.unwrap_or_else(unseen)))
    }

    fn transaction(
        &self,
        scope: &TenantScope,
        plan: &Plan,
        receipt: &Receipt,
    ) -> Result<Vec<TransactWriteItem>, LedgerError> {
        let tenant = scope.tenant();
        let build_error = |error: aws_sdk_dynamodb::error::BuildError| {
            AwsFailure::unexpected(Service::DynamoDb, "TransactWriteItems", error.to_string())
        };
        let put = |item: Item, condition: &str, values: Option<Item>| {
            let put = Put::builder()
                .table_name(&self.table)
                .set_item(Some(item))
                .condition_expression(condition)
                .set_expression_attribute_values(values);
            put.build().map(|put| TransactWriteItem::builder().put(put).build()).map_err(build_error)
        };
        let update = |expression: Expression, sort_key: String| {
            let update = Update::builder()
                .table_name(&self.table)
                .set_key(Some(keys::primary_key(scope, sort_key)))
                .update_expression(expression.update())
                .condition_expression(expression.condition)
                .set_expression_attribute_names(unless_empty(expression.names))
                .set_expression_attribute_values(unless_empty(expression.values));
            update.build().map(|update| TransactWriteItem::builder().update(update).build()).map_err(build_error)
        };

        let mut items = vec![update(head_update(plan, tenant), keys::HEAD.to_owned())?];
        for write in &plan.writes {
            if let Some(refusal) = write.refusal() {
                let of_entry = refusal::on_entry(write, refusal.as_ref(), tenant);
                items.push(update(of_entry, keys::entry_key(write.key.as_str()))?);
                let of_version = refusal::on_item(refusal.as_ref(), "attribute_exists(pk)");
                items.push(update(of_version, keys::version_key(&write.key, write.version))?);
                continue;
            }
            let entry = plan.entry(scope, write);
            items.push(update(entry_update(plan, write, &entry, tenant), keys::entry_key(write.key.as_str()))?);
            let mut version = keys::primary_key(scope, keys::version_key(&write.key, entry.version));
            version.extend(item::entry_attributes(&entry).into_iter().map(|(name, value)| (name.to_owned(), value)));
            if let StoreChange::Intent(id) | StoreChange::Done(PutBefore { id, .. }) = &write.store {
                // The ids that were given out for a version stay with it: that is how its puts are
                // known as ours later.
                version.insert("intentIds".to_owned(), AttributeValue::Ss(vec![id.as_str().to_owned()]));
            }
            items.push(put(version, "attribute_not_exists(pk)", None)?);
        }
        items.push(put(plan.change(scope).item(tenant, plan.at.plus(GRACE)), "attribute_not_exists(pk)", None)?);
        if let Some(claim) = &plan.idempotency {
            let now = HashMap::from([(":now".to_owned(), n(plan.at.seconds()))]);
            items.push(put(
                idempotency_item(scope, claim, plan, receipt),
                "attribute_not_exists(pk) OR expiresAt < :now",
                Some(now),
            )?);
        }
        Ok(items)
    }
}

/// What a failed send means.
#[derive(Debug, PartialEq, Eq)]
enum Judgement {
    /// Another commit came first, perhaps an earlier send of this very one.
    HeadMoved,
    /// Something else stood in the way; nothing was written by this send.
    Conflict,
    /// It may or may not have taken place.
    Open,
    /// It did not; the same may pass a moment later.
    Throttled,
    /// It did not, and would not the next time.
    Refused,
}

fn judge(error: &SdkError<TransactWriteItemsError, HttpResponse>, failure: &AwsFailure) -> Judgement {
    let Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) = error.as_service_error() else {
        return match failure.kind {
            FailureKind::Unavailable => Judgement::Open,
            FailureKind::Throttled => Judgement::Throttled,
            FailureKind::Refused | FailureKind::CircuitOpen { .. } => Judgement::Refused,
        };
    };
    // The reasons come in the order of the items; the head is the first. Where nothing was wrong
    // with an item, the code is "None".
    let codes = || cancelled.cancellation_reasons().iter().map(|reason| reason.code().unwrap_or("None"));
    if codes().next() == Some("ConditionalCheckFailed") {
        return Judgement::HeadMoved;
    }
    let mut worst = Judgement::Conflict;
    for code in codes() {
        match code {
            "None" | "ConditionalCheckFailed" | "TransactionConflict" => {}
            "ThrottlingError" | "ProvisionedThroughputExceeded" => worst = Judgement::Throttled,
            _ => return Judgement::Refused,
        }
    }
    worst
}

/// Of what was found in the store: how far it has been looked through, and what lies there. Refused
/// where the ledger knows more of the store by now.
fn note_found(expression: &mut Expression, found: &Found, version: Version) {
    let known = &found.known;
    let unchanged = |name: &str, known: bool| {
        if known { format!("{name} = :known_{name}") } else { format!("attribute_not_exists({name})") }
    };
    let absorbed = known.imported_through;
    let mut conditions = vec![
        unchanged("importedThrough", absorbed.is_some()),
        unchanged("importedThroughModifiedAt", absorbed.is_some()),
        unchanged("storeVersion", known.store_version.is_some()),
    ];
    if !found.superseded {
        // None was under way then. One that has begun since may have removed what was found, even
        // if its time is over.
        conditions.push(unchanged("removingUntil", known.removing_until.is_some()));
        if let Some(until) = known.removing_until {
            expression.values.insert(":known_removingUntil".to_owned(), n(until.millis()));
        }
    }
    if let Some(absorbed) = absorbed {
        expression.values.insert(":known_importedThrough".to_owned(), n(absorbed.version));
        expression.values.insert(":known_importedThroughModifiedAt".to_owned(), n(absorbed.modified_at.millis()));
    }
    if let Some(store_version) = known.store_version {
        expression.values.insert(":known_storeVersion".to_owned(), n(store_version));
    }
    if found.fits {
        expression.remove(item::OTHER_TYPE);
    } else {
        expression.set(item::OTHER_TYPE, AttributeValue::Bool(true));
    }
    if let Some(mark) = &found.mark {
        expression.set("importedThroughId", s(mark.as_str()));
    }
    match found.place {
        Some(place) => {
            expression.set("importedThrough", n(place.version));
            expression.set("importedThroughModifiedAt", n(place.modified_at.millis()));
        }
        None => {
            for gone in ["importedThrough", "importedThroughModifiedAt", "storeVersion"] {
                expression.remove(gone);
            }
        }
    }
    if !found.superseded {
        expression.set("replicatedVersion", n(version.get()));
        if let Some(place) = found.place {
            expression.set("storeVersion", n(place.version));
        } else {
            // Calls that are abandoned do not stand in the way; new ones do.
            conditions.push(unchanged("intents", !known.intents.is_empty()));
            if !known.intents.is_empty() {
                expression.values.insert(":known_intents".to_owned(), id_set(&known.intents));
            }
        }
    }
    if found.superseded && found.is_anew {
        // What we had put is gone. Else a removal would take what lies there now for ours.
        expression.remove("storeVersion");
    }
    for condition in conditions {
        expression.condition = format!("{} AND {condition}", expression.condition);
    }
}

fn head_update(plan: &Plan, tenant: &TenantId) -> Expression {
    let first = plan.head.revision == Revision::ZERO;
    let mut expression =
        Expression::new(if first { "attribute_not_exists(pk)" } else { "revision = :expected" }.to_owned());
    expression.set("format", n(FORMAT));
    expression.set("revision", n(plan.revision().get()));
    expression.set("commitId", s(plan.commit.to_string()));
    if first {
        expression.set("epoch", s(Epoch::random().as_str()));
        expression.set("timeShard", s(keys::directory_shard(keys::shard(tenant))));
        expression.set("timeKey", s(tenant.as_str()));
    } else {
        expression.values.insert(":expected".to_owned(), n(plan.head.revision.get()));
    }
    expression
}

fn entry_update(plan: &Plan, write: &PlannedWrite, entry: &Entry, tenant: &TenantId) -> Expression {
    let condition = if write.previous.is_some() { "version = :expected" } else { "attribute_not_exists(version)" };
    let mut expression = Expression::new(condition.to_owned());
    if let Some(previous) = write.previous {
        expression.values.insert(":expected".to_owned(), n(previous.get()));
    }
    if let Some(found) = write.found() {
        note_found(&mut expression, found, entry.version);
    }
    if entry.superseded {
        expression.set("latestVersion", n(entry.version.get()));
        return expression;
    }
    for (name, value) in item::entry_attributes(entry) {
        expression.set(name, value);
    }
    if let Some((name, value)) = write.format.map(item::format_attribute) {
        expression.set(name, value);
    }
    let of_the_store = [item::REFUSED_REASON, item::REFUSED_SINCE, item::OTHER_TYPE];
    let of_the_value = ["comment", "value", "locatorVersion", "locatorModifiedAt", "textKind", "trimmed"];
    for stale in of_the_value.into_iter().chain(of_the_store) {
        if !expression.names.contains_key(&format!("#{stale}")) {
            expression.remove(stale);
        }
    }
    if !entry.is_live() {
        expression.set("deletedVersion", n(entry.version.get()));
    }
    let mut due = |from: Timestamp| {
        expression.set("outboxShard", s(keys::replicate_shard(keys::shard(tenant))));
        expression.set("outboxKey", s(keys::outbox_position(from, plan.at, tenant)));
    };
    match &write.store {
        StoreChange::None | StoreChange::Found(_) | StoreChange::Refusal { .. } => {}
        StoreChange::Later => due(plan.at),
        StoreChange::Intent(id) => {
            due(plan.at.plus(GRACE));
            expression.other.push("ADD intents :intents".to_owned());
            expression.values.insert(":intents".to_owned(), AttributeValue::Ss(vec![id.as_str().to_owned()]));
        }
        StoreChange::Done(PutBefore { id, described, placed, seen }) => {
            if *described != entry.version {
                // The description names another version's item, which does not have the id.
                expression.other.push("ADD expiredIntents :intents".to_owned());
            }
            expression.set("replicatedVersion", n(entry.version.get()));
            expression.set("storeVersion", n(*placed));
            // Where somebody else has taken the put for abandoned, or is known to have put another
            // value after it, what it put is not what the store shows.
            expression.condition.push_str(" AND contains(intents, :id) AND ");
            expression.condition.push_str(STORE_IS_NOT_FURTHER);
            expression.values.insert(":id".to_owned(), s(id.as_str()));
            expression.values.insert(":seen".to_owned(), n(seen.unwrap_or_default()));
            expression.other.push("DELETE intents :intents".to_owned());
            expression.values.insert(":intents".to_owned(), AttributeValue::Ss(vec![id.as_str().to_owned()]));
        }
    }
    expression
}

fn idempotency_item(scope: &TenantScope, claim: &IdempotencyClaim, plan: &Plan, receipt: &Receipt) -> Item {
    let mut stored = keys::primary_key(scope, keys::idempotency_key(&claim.key_hash));
    let text = serde_json::to_string(receipt).unwrap_or_default();
    stored.extend([
        ("format".to_owned(), n(FORMAT)),
        ("requestHash".to_owned(), s(&claim.request_hash)),
        ("result".to_owned(), s(text)),
        ("expiresAt".to_owned(), n(plan.at.plus(RESULTS_KEPT).seconds())),
    ]);
    stored
}

/// A stored result with its request's hash, unless it has expired.
pub(super) fn read_receipt(found: &Item, now: Timestamp) -> Result<Option<(String, Receipt)>, LedgerError> {
    let read = Reader(found);
    if read.number("expiresAt")? < now.seconds() {
        return Ok(None);
    }
    let receipt = serde_json::from_str(read.text("result")?).map_err(|_| read.damaged("result"))?;
    Ok(Some((read.text("requestHash")?.to_owned(), receipt)))
}
