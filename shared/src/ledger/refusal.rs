//! A refusal commit: it notes that a store refuses the current version, or has taken it after all.
//!
//! It is a commit like any other, because readers answer from memory at a revision. They would not
//! see a change without a new revision.

use super::{
    attribute::{id_set, n},
    commit::{PlannedWrite, StoreChange},
    expression::Expression,
    item,
    outbox::MIN_REFUSED_WAIT,
};
use crate::model::{refusal::Refusal, tenant::TenantId};

/// The update of an item's refusal.
pub(super) fn on_item(refusal: Option<&Refusal>, condition: &str) -> Expression {
    let mut expression = Expression::new(condition);
    match refusal {
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

/// The update of the current version's refusal. A key is never both refused and replicated: each of
/// the two updates requires that the other is absent, or removes it.
pub(super) fn on_entry(write: &PlannedWrite, refusal: Option<&Refusal>, tenant: &TenantId) -> Expression {
    let mut expression = on_item(refusal, "version = :expected");
    expression.value(":expected", n(write.version.get()));
    if let Some(refusal) = refusal {
        let mut not_replicated = "attribute_not_exists(replicatedVersion) OR replicatedVersion <> :expected".to_owned();
        if let StoreChange::Refusal { made_up, .. } = &write.store
            && !made_up.is_empty()
        {
            not_replicated.push_str(" OR intents = :intents");
            expression.value(":intents", id_set(made_up));
            expression.remove("replicatedVersion");
        }
        // One commit for each reason.
        let is_new = "attribute_not_exists(refusedReason) OR refusedReason <> :refusedReason";
        expression.and(&format!("({not_replicated}) AND ({is_new})"));
        let due = refusal.since.plus(MIN_REFUSED_WAIT);
        expression.enter_outbox(tenant, due, due);
    } else {
        expression.and("attribute_exists(refusedReason)");
        expression.remove(item::OTHER_TYPE);
    }
    expression
}
