//! HTTP as API Gateway passes it to a function, and as it takes the answer back.

mod body;
mod cursor;
mod event;
mod fields;
mod page_tag;
mod problem;
mod query;
mod respond;

pub use aws_lambda_events::apigw::ApiGatewayV2httpResponse as Answer;

pub use body::{BatchGetBody, OperationBody, OperationName, PutBody, RollbackBody, TransactionBody};
pub use cursor::{Cursor, CursorKind};
pub use event::Event;
pub use page_tag::{PageTag, digest};
pub use problem::{Problem, ProblemType};
pub use query::Query;
pub use respond::{EntryView, Respond, StoreView, VersionView, WrittenView, revision_of};

use crate::model::comment::Comment;

/// Why something is written; `place` is the problem of what a wrong comment stands in.
fn comment(text: Option<&str>, place: ProblemType) -> Result<Option<Comment>, Problem> {
    Comment::parse(text.unwrap_or_default()).map_err(|error| Problem::comment(error, place))
}

#[cfg(test)]
mod tests;
