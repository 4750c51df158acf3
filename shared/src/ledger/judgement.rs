//! What DynamoDB's refusals of a commit mean.

use aws_sdk_dynamodb::{
    config::http::HttpResponse,
    error::SdkError,
    operation::transact_write_items::TransactWriteItemsError,
    types::{CancellationReason, error::TransactionCanceledException},
};

use super::{Head, Queue};
use crate::aws::{AwsFailure, FailureKind};

/// What a failed send means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Judgement {
    /// The head is at another revision. Another commit came first, perhaps an earlier send of this
    /// very one; or one that the plan counts on is still to come.
    HeadMoved {
        /// What the head says; none if there is no head yet.
        there: Option<(Head, Queue)>,
        /// Whether nothing else is in the way.
        is_alone: bool,
    },
    /// Another condition failed; nothing was written by this send.
    Conflict,
    /// It may have taken place.
    Open,
    /// It did not; it may pass a moment later.
    Throttled,
    /// It did not, and would not the next time.
    Refused,
}

/// What a failed send means. The change is the item at `change_at`: where the head has moved on,
/// its place is taken, too.
pub(super) fn judge(
    error: &SdkError<TransactWriteItemsError, HttpResponse>,
    failure: &AwsFailure,
    change_at: usize,
) -> Judgement {
    let Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) = error.as_service_error() else {
        return match failure.kind {
            FailureKind::Unavailable => Judgement::Open,
            FailureKind::Throttled => Judgement::Throttled,
            FailureKind::Refused | FailureKind::CircuitOpen { .. } => Judgement::Refused,
        };
    };
    // The reasons come in the order of the items; the head is the first. Where nothing was wrong
    // with an item, the code is "None".
    if codes(cancelled).next() == Some("ConditionalCheckFailed") {
        let is_alone = codes(cancelled).enumerate().skip(1).all(|(at, code)| at == change_at || code == "None");
        let head = cancelled.cancellation_reasons().first().and_then(CancellationReason::item);
        let there = head.and_then(|item| Some((Head::read(item).ok()?, Queue::read(Some(item), None))));
        return Judgement::HeadMoved { there, is_alone };
    }
    let mut worst = Judgement::Conflict;
    for code in codes(cancelled) {
        match code {
            "None" | "ConditionalCheckFailed" | "TransactionConflict" => {}
            "ThrottlingError" | "ProvisionedThroughputExceeded" => worst = Judgement::Throttled,
            _ => return Judgement::Refused,
        }
    }
    worst
}

fn codes(cancelled: &TransactionCanceledException) -> impl Iterator<Item = &str> {
    cancelled.cancellation_reasons().iter().map(|reason| reason.code().unwrap_or("None"))
}
