//! What a commit writes that notes what a store made of the current version: that it refuses it, or has taken it after all.
//!
//! It is a commit like any other, because readers answer from memory at a revision: what moves no revision would not be seen.

use super::{
    commit::PlannedWrite,
    expression::Expression,
    follow::MIN_REFUSED_WAIT,
    item::{self, n, s},
};
use crate::{refusal::Refusal, tenant::TenantId};

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

/// The same of a current version. A key is never both refused and followed: who notes the one looks that the other is not there.
pub(super) fn on_entry(write: &PlannedWrite, verdict: Option<&Refusal>, tenant: &TenantId) -> Expression {
    let mut expression = on_item(verdict, "version = :expected");
    expression.values.insert(":expected".to_owned(), n(write.version.get()));
    expression.condition.push_str(match verdict {
        // Once for each reason.
        Some(_) => {
            " AND (attribute_not_exists(followedVersion) OR followedVersion <> :expected) \
             AND (attribute_not_exists(refusedReason) OR refusedReason <> :refusedReason)"
        }
        None => " AND attribute_exists(refusedReason)",
    });
    if let Some(refusal) = verdict {
        let due = refusal.since.plus(MIN_REFUSED_WAIT);
        expression.set("workShard", s(item::follow_shard(item::shard(tenant))));
        expression.set("workKey", s(item::work_key(due, due, tenant)));
    }
    expression
}
