//! The queue of the writers that contend for a tenant's next revision: who is next.
//!
//! A ticket is a number from a counter. A commit that was made with a ticket notes it in the head,
//! so every reader of the head sees whose turn it is. Tickets decide nothing but who waits: the
//! conditions of the commit hold without them.

use aws_sdk_dynamodb::types::ReturnValue;

use super::{
    Ledger, LedgerError,
    attribute::{Item, n},
    item::{FORMAT, Reader},
    keys,
};
use crate::{
    auth::TenantScope,
    aws::{AwsFailure, Service},
    clock::Timestamp,
};

/// The newest ticket that has committed, in the head.
pub(super) const SERVED_TICKET: &str = "servedTicket";
/// The newest ticket that was given out: in the queue's item, and in the head as far as the commit
/// knew.
pub(super) const LAST_TICKET: &str = "lastTicket";
/// When that was, in the queue's item.
const GIVEN_OUT_AT: &str = "givenOutAt";

/// How far a tenant's queue has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queue {
    /// The newest ticket that has committed.
    pub served: u64,
    /// The newest ticket that is known to be given out.
    pub last: u64,
}

/// A place in a tenant's queue.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    /// Its number; the lowest is first.
    pub number: u64,
    /// When the ticket before it was given out; none if there is none.
    pub previous_at: Option<Timestamp>,
}

impl Queue {
    /// Whether somebody waits, as far as is known.
    pub fn is_busy(self) -> bool {
        self.last > self.served
    }

    /// From the head, and from the queue's item if that was read, too.
    pub(super) fn read(head: Option<&Item>, queue: Option<&Item>) -> Self {
        let number = |item: Option<&Item>, name| item.and_then(|item| Reader(item).optional_number(name));
        let last = number(head, LAST_TICKET).max(number(queue, LAST_TICKET));
        Self { served: number(head, SERVED_TICKET).unwrap_or_default(), last: last.unwrap_or_default() }
    }
}

impl Ledger {
    /// Takes the next ticket of the tenant's queue. If the answer is lost, the number is nobody's;
    /// those behind it do not wait for it for long.
    pub async fn take_ticket(&self, scope: &TenantScope, at: Timestamp) -> Result<Ticket, LedgerError> {
        let answer = self
            .clients
            .dynamodb(scope)
            .await?
            .update_item()
            .table_name(&self.table)
            .set_key(Some(keys::primary_key(scope, keys::QUEUE.to_owned())))
            .update_expression("SET #format = :format, #at = :at ADD #last :one")
            .expression_attribute_names("#format", "format")
            .expression_attribute_names("#at", GIVEN_OUT_AT)
            .expression_attribute_names("#last", LAST_TICKET)
            .expression_attribute_values(":format", n(FORMAT))
            .expression_attribute_values(":at", n(at.millis()))
            .expression_attribute_values(":one", n(1))
            .return_values(ReturnValue::UpdatedOld)
            .send()
            .await
            .map_err(|error| AwsFailure::of(Service::DynamoDb, "UpdateItem", &error))?;
        let before = answer.attributes.unwrap_or_default();
        let number = |name| Reader(&before).optional_number(name);
        Ok(Ticket {
            number: number(LAST_TICKET).unwrap_or_default() + 1,
            previous_at: number(GIVEN_OUT_AT).map(Timestamp::from_millis),
        })
    }
}
