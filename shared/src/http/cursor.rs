//! Cursors: where a page ended, as an opaque text that fits its own tenant, route and query only.
//!
//! A cursor grants nothing, since keys are derived from the caller's scope. Its check detects a
//! cursor of another query, whether used by mistake or to probe. That needs no secret.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};

use super::{Problem, ProblemType, page_tag::sha256_hex, query::whole_number};
use crate::model::{key::is_key_prefix, tenant::TenantId};

/// The form of today's cursors.
const FORMAT: &str = "cursor/1";
/// How many hexadecimal digits of the check are kept.
const CHECK_DIGITS: usize = 16;

/// What a cursor pages through.
#[derive(Clone, Copy, Debug)]
pub enum CursorKind<'a> {
    /// The list of keys with a prefix.
    List(&'a str),
    /// The history of a key.
    History(&'a str),
}

/// Makes and reads the cursors of one tenant and query.
#[derive(Clone, Copy, Debug)]
pub struct Cursor<'a> {
    /// Whose.
    pub tenant: &'a TenantId,
    /// Of what.
    pub kind: CursorKind<'a>,
}

impl Cursor<'_> {
    /// The cursor at `position`.
    pub fn at(&self, position: &str) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(format!("{}{position}", self.check(position)))
    }

    /// The position of a cursor.
    pub fn position(&self, cursor: &str) -> Result<String, Problem> {
        let decoded = BASE64_URL_SAFE_NO_PAD.decode(cursor).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        decoded
            .as_deref()
            .and_then(|text| text.split_at_checked(CHECK_DIGITS))
            .filter(|(check, position)| *check == self.check(position) && self.can_be_at(position))
            .map(|(_, position)| position.to_owned())
            .ok_or_else(|| {
                Problem::new(
                    ProblemType::InvalidParameter,
                    "the cursor does not belong to this query; send it back unchanged, with the parameters that it came with, or start without one",
                )
            })
    }

    /// Whether the query can have ended at `position`. Anybody can compute a check, and DynamoDB
    /// fails on a position outside the queried range.
    fn can_be_at(&self, position: &str) -> bool {
        match self.kind {
            CursorKind::List(prefix) => position.starts_with(prefix) && is_key_prefix(position),
            CursorKind::History(_) => whole_number(position).is_some_and(|version| version > 0),
        }
    }

    fn check(&self, position: &str) -> String {
        let (kind, of) = match self.kind {
            CursorKind::List(prefix) => ("list", prefix),
            CursorKind::History(key) => ("history", key),
        };
        let mut check = sha256_hex(&[FORMAT, kind, of, self.tenant.as_str(), position]);
        check.truncate(CHECK_DIGITS);
        check
    }
}
