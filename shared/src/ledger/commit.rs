//! A commit: one `TransactWriteItems` that moves the head by one and writes entries, versions, the
//! change and the request's result.

use std::{collections::HashMap, time::Duration};

use aws_sdk_dynamodb::{
    config::retry::RetryConfig,
    types::{AttributeValue, Put, ReturnValuesOnConditionCheckFailure, TransactWriteItem, Update},
};
use serde::{Deserialize, Serialize};

use super::{
    Change, ChangeOperation, ChangedKey, Head, Ledger, LedgerError, Queue, ReplicaState,
    attribute::{Item, id_set, n, s},
    expression::{Expression, unless_empty},
    item::{self, FORMAT, Reader},
    judgement::{Judgement, judge},
    keys,
    outbox::{GRACE, STORE_IS_NOT_FURTHER},
    queue::{LAST_TICKET, SERVED_TICKET},
    refusal,
};
use crate::{
    auth::TenantScope,
    aws::{AwsFailure, Service},
    backoff::Backoff,
    clock::Timestamp,
    model::{
        comment::Comment,
        entry::{Author, CommitId, Entry, Epoch, IntentId, Locator, Revision, State, ValueFormat, Version},
        key::ConfigKey,
        refusal::Refusal,
        tenant::TenantId,
    },
};

/// How long changes are kept.
const CHANGES_KEPT: Duration = Duration::from_hours(7 * 24);
/// How long the result of a request with an idempotency key is kept.
const RESULTS_KEPT: Duration = Duration::from_hours(24);
/// How often a commit is sent, unchanged, until its outcome is known.
const MAX_SENDS: usize = 4;
/// The longest wait between two sends of one commit.
const RESEND_BACKOFF: Backoff = Backoff::up_to(Duration::from_millis(300));

/// A commit as it is meant to be.
#[derive(Debug)]
pub struct Plan {
    /// The head that the commit is based on. Of one that is still to come only the revision is
    /// known.
    pub head: Head,
    /// The commit's id, the same for every attempt of one request.
    pub commit: CommitId,
    /// When the commit takes place.
    pub at: Timestamp,
    /// What is written; no key twice.
    pub writes: Vec<PlannedWrite>,
    /// The author's comment, if there is one.
    pub comment: Option<Comment>,
    /// The request that the commit fulfils, if it carries an idempotency key.
    pub idempotency: Option<IdempotencyClaim>,
    /// How far the queue has come with this commit, if its writer waited there.
    pub queue: Option<Queue>,
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
    /// The key's new state.
    pub state: State,
    /// The format of the key's values from now on; none if it stays.
    pub format: Option<ValueFormat>,
    /// How the write reaches the tag's store.
    pub store: StoreChange,
    /// Whether the values of the key's earlier versions are lost with it, because only that store
    /// has them.
    pub removes_older_values: bool,
}

/// How a write reaches the store outside the ledger.
#[derive(Debug)]
pub enum StoreChange {
    /// There is none.
    None,
    /// The writer replicates it at once, under this intent.
    Intent(IntentId),
    /// config-refresh replicates it.
    Later,
    /// The value was put there before the commit.
    Done(PutBefore),
    /// The write was imported from there.
    Found(Found),
    /// There is no write: the store refuses the current version, or has taken it after all.
    Refusal {
        /// The refusal, if it is one.
        refusal: Option<Refusal>,
        /// The intents that must still be recorded if the version was known to be in the store.
        made_up: Vec<IntentId>,
    },
}

/// A version in a store, or a removal, that did not come from this service.
#[derive(Clone, Debug)]
pub struct Found {
    /// When, as the store says.
    pub at: Timestamp,
    /// Where it lies; none for a removal.
    pub place: Option<Locator>,
    /// The newest intent id among the versions up to there.
    pub mark: Option<IntentId>,
    /// Whether a later put of ours had already replaced it.
    pub superseded: bool,
    /// Whether it is of the type that the tag's route puts. A put does not fit on another type.
    pub fits: bool,
    /// Whether it is of another life of the name than the ledger knows, and nothing of ours lies on
    /// it.
    pub is_anew: bool,
    /// What the ledger knew of the store at that time.
    pub known: ReplicaState,
}

/// A put that was made before its commit.
#[derive(Clone, Debug)]
pub struct PutBefore {
    /// The id of its intent.
    pub id: IntentId,
    /// The version that the put's description names: the next one at that time.
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
    /// Whether the values of the key's earlier versions are lost with it.
    #[serde(default)]
    pub removes_older_values: bool,
}

/// How an attempt to commit ended.
#[derive(Debug)]
pub enum CommitOutcome {
    /// It took place.
    Committed(Receipt, Change),
    /// The head was at another revision, and nothing else is known to be in the way. Nothing was
    /// written.
    HeadMoved(Head, Queue),
    /// Another condition did not hold, or another commit was under way: what it was planned upon
    /// may have changed. Nothing was written.
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

    /// Whether the tenant has parameters from this commit on.
    fn is_first_with_parameters(&self) -> bool {
        !self.head.has_parameters && self.writes.iter().any(|write| !matches!(write.store, StoreChange::None))
    }

    /// The entry that a write becomes.
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

    /// The author of an import or a refusal is not whoever runs the commit.
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
    /// If a send's outcome is unknown, the same transaction is sent again at the same head. The
    /// first send to arrive moves the head, so no other can take effect. Once the head has moved,
    /// the commit id in the change at the next revision tells whose commit it was.
    pub async fn commit(&self, scope: &TenantScope, plan: &Plan) -> Result<CommitOutcome, LedgerError> {
        let receipt = plan.receipt(scope);
        let items = self.transaction(scope, plan, &receipt)?;
        let change_at = 1 + 2 * plan.writes.len();
        // The SDK's own retries would hide that an earlier send may have taken effect.
        let once = aws_sdk_dynamodb::Config::builder().retry_config(RetryConfig::disabled());
        let (mut open, mut backoff) = (None, RESEND_BACKOFF);
        for sends_left in (0..MAX_SENDS).rev() {
            let request =
                self.clients.dynamodb(scope).await?.transact_write_items().set_transact_items(Some(items.clone()));
            let Err(error) = request.customize().config_override(once.clone()).send().await else {
                return Ok(CommitOutcome::Committed(receipt, plan.change(scope)));
            };
            let failure = AwsFailure::of(Service::DynamoDb, "TransactWriteItems", &error);
            match (judge(&error, &failure, change_at), open.take()) {
                (Judgement::HeadMoved { there: Some((head, queue)), is_alone: true }, None) => {
                    return Ok(CommitOutcome::HeadMoved(head, queue));
                }
                (Judgement::HeadMoved { .. } | Judgement::Conflict, None) => return Ok(CommitOutcome::Conflict),
                // An earlier send may still arrive, when the head is where the plan expects it.
                (Judgement::HeadMoved { there, .. }, Some(lost_sight_by))
                    if there.as_ref().map_or(Revision::ZERO, |(head, _)| head.revision) < plan.head.revision =>
                {
                    open = Some(lost_sight_by);
                }
                (Judgement::HeadMoved { .. }, Some(lost_sight_by)) => {
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
            backoff.wait().await;
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
        let put = |item: Item, condition: Option<&str>, values: Option<Item>| {
            let put = Put::builder()
                .table_name(&self.table)
                .set_item(Some(item))
                .set_condition_expression(condition.map(str::to_owned))
                .set_expression_attribute_values(values);
            put.build().map(|put| TransactWriteItem::builder().put(put).build()).map_err(build_error)
        };
        let update = |expression: Expression, sort_key: String| {
            // Whoever came too late, or too early, gets to see the head.
            let shown = (sort_key == keys::HEAD).then_some(ReturnValuesOnConditionCheckFailure::AllOld);
            let update = Update::builder()
                .set_return_values_on_condition_check_failure(shown)
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
                // The version keeps its intent ids. By them its puts are recognised as ours later.
                version.insert("intentIds".to_owned(), id_set(std::slice::from_ref(id)));
            }
            items.push(put(version, Some("attribute_not_exists(pk)"), None)?);
        }
        items.push(put(plan.change(scope).item(tenant, plan.at.plus(GRACE)), Some("attribute_not_exists(pk)"), None)?);
        if let Some(claim) = &plan.idempotency {
            let now = HashMap::from([(":now".to_owned(), n(plan.at.seconds()))]);
            items.push(put(
                idempotency_item(scope, claim, plan, receipt),
                Some("attribute_not_exists(pk) OR expiresAt < :now"),
                Some(now),
            )?);
        }
        if plan.is_first_with_parameters() {
            items.push(put(parameters_item(scope), None, None)?);
        }
        Ok(items)
    }
}

/// Notes a foreign version: what it is, and how far the store has been imported. Refused if the
/// ledger knows more of the store by now.
fn note_found(expression: &mut Expression, found: &Found, version: Version) {
    let known = &found.known;
    let through = known.imported_through;
    expression.require("importedThrough", through.map(|place| n(place.version)));
    expression.require("importedThroughModifiedAt", through.map(|place| n(place.modified_at.millis())));
    expression.require("storeVersion", known.store_version.map(n));
    if !found.superseded {
        // No removal was under way then. One that has begun since may have removed the foreign
        // version, even if its time is over.
        expression.require("removingUntil", known.removing_until.map(|until| n(until.millis())));
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
            // Intents that were known then are abandoned and do not matter; new ones do.
            expression.require("intents", (!known.intents.is_empty()).then(|| id_set(&known.intents)));
        }
    }
    if found.superseded && found.is_anew {
        // What we had put is gone. Otherwise a removal would take what lies there now for ours.
        expression.remove("storeVersion");
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
        expression.value(":expected", n(plan.head.revision.get()));
    }
    if plan.is_first_with_parameters() {
        expression.set(item::HAS_PARAMETERS, AttributeValue::Bool(true));
    }
    if let Some(Queue { served, last }) = plan.queue {
        expression.set(SERVED_TICKET, n(served));
        expression.set(LAST_TICKET, n(last));
    }
    expression
}

fn entry_update(plan: &Plan, write: &PlannedWrite, entry: &Entry, tenant: &TenantId) -> Expression {
    let condition = if write.previous.is_some() { "version = :expected" } else { "attribute_not_exists(version)" };
    let mut expression = Expression::new(condition);
    if let Some(previous) = write.previous {
        expression.value(":expected", n(previous.get()));
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
    match &write.store {
        StoreChange::None | StoreChange::Found(_) | StoreChange::Refusal { .. } => {}
        StoreChange::Later => expression.enter_outbox(tenant, plan.at, plan.at),
        StoreChange::Intent(id) => {
            expression.enter_outbox(tenant, plan.at.plus(GRACE), plan.at);
            expression.add_ids("intents", std::slice::from_ref(id));
        }
        StoreChange::Done(PutBefore { id, described, placed, seen }) => {
            let ids = std::slice::from_ref(id);
            if *described != entry.version {
                // The description names another version, whose item does not have the id.
                expression.add_ids("expiredIntents", ids);
            }
            expression.set("replicatedVersion", n(entry.version.get()));
            expression.set("storeVersion", n(*placed));
            // If another replicator took the put for abandoned, or a later put is known, the store
            // does not show what this put wrote.
            expression.and("contains(intents, :id)");
            expression.and(STORE_IS_NOT_FURTHER);
            expression.value(":id", s(id.as_str()));
            expression.value(":seen", n(seen.unwrap_or_default()));
            expression.delete_ids("intents", ids);
        }
    }
    expression
}

/// Puts the tenant into the directory of those that have parameters, for good: keys come and go.
fn parameters_item(scope: &TenantScope) -> Item {
    let tenant = scope.tenant();
    let mut stored = keys::primary_key(scope, keys::PARAMETERS.to_owned());
    stored.extend([
        ("format".to_owned(), n(FORMAT)),
        ("timeShard".to_owned(), s(keys::parameters_shard(keys::shard(tenant)))),
        ("timeKey".to_owned(), s(tenant.as_str())),
    ]);
    stored
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
