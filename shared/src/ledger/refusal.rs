//! What a commit writes that notes what a store made of the current version: that it refuses it, or
//! has taken it after all.
//!
//! It is a commit like any other, because readers answer from memory at a revision: what moves no
//! revision would not be seen.

use super::{
    commit::{PlannedWrite, StoreChange},
    expression::Expression,
    item::{self, n, s},
    keys,
    outbox::{MIN_REFUSED_WAIT, id_set},
};
use crate::model::{refusal::Refusal, tenant::TenantId};

/// What an item says of its store's verdict from now on.
pub(super) fn on_item(verdict: Option<&Refusal>, condition: &str) -> Expression {
    let mut expression = Expression::new(condition.to_owned());
    match verdict {
        Some(refusal) => {
            for (name, value) in item::refusal_attributes(refusal) {
                expression.set(name, value);
            }
        }
        None => {
            for name in [item::REFUSED_REASON, item::REFUSED_SINCE] {
                expression.remove(name);
            }
        }
    }
    expression
}

/// The same of a current version. A key is never both refused and followed: who notes the one looks
/// that the other is not there, or takes it back.
pub(super) fn on_entry(write: &PlannedWrite, verdict: Option<&Refusal>, tenant: &TenantId) -> Expression {
    let mut expression = on_item(verdict, "version = :expected");
    expression.values.insert(":expected".to_owned(), n(write.version.get()));
    if let Some(refusal) = verdict {
        let mut not_followed = "attribute_not_exists(replicatedVersion) OR replicatedVersion <> :expected".to_owned();
        if let StoreChange::Refusal { made_up, .. } = &write.store
            && !made_up.is_empty()
        {
            not_followed.push_str(" OR intents = :intents");
            expression.values.insert(":intents".to_owned(), id_set(made_up));
            expression.remove("replicatedVersion");
        }
        // Once for each reason.
        let is_new = "attribute_not_exists(refusedReason) OR refusedReason <> :refusedReason";
        expression.condition = format!("{} AND ({not_followed}) AND ({is_new})", expression.condition);
        let due = refusal.since.plus(MIN_REFUSED_WAIT);
        expression.set("outboxShard", s(keys::replicate_shard(keys::shard(tenant))));
        expression.set("outboxKey", s(keys::outbox_position(due, due, tenant)));
    } else {
        expression.condition.push_str(" AND attribute_exists(refusedReason)");
        // What was in the way is gone.
        expression.remove(item::OTHER_TYPE);
    }
    expression
}
