//! A query's parameters.

use std::collections::HashMap;

use super::{Problem, ProblemType, comment};
use crate::{
    model::{
        comment::Comment,
        entry::{Revision, Version},
    },
    redact::Redacted,
};

/// The largest version or revision that is accepted; no counter will ever reach it.
pub(super) const MAX_COUNTER: u64 = 1_000_000_000_000_000_000;

/// A query's parameters.
#[derive(Debug)]
pub struct Query(Redacted<HashMap<&'static str, String>>);

impl Query {
    pub(super) fn new(values: HashMap<&'static str, String>) -> Self {
        Self(Redacted(values))
    }

    /// A parameter's text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// A count within `1..=max`.
    pub fn limit(&self, max: usize) -> Result<usize, Problem> {
        match self.number("limit")? {
            None => Ok(max),
            Some(limit) => match usize::try_from(limit) {
                Ok(limit) if (1..=max).contains(&limit) => Ok(limit),
                _ => Err(Problem::new(ProblemType::InvalidParameter, format!("limit must be from 1 to {max}"))),
            },
        }
    }

    /// A version.
    pub fn version(&self) -> Result<Option<Version>, Problem> {
        match self.number("version")? {
            Some(0) => Err(Problem::new(ProblemType::InvalidParameter, "versions count from 1")),
            number => Ok(number.map(Version::new)),
        }
    }

    /// Why something is written.
    pub fn comment(&self) -> Result<Option<Comment>, Problem> {
        comment(self.text("comment"), ProblemType::InvalidParameter)
    }

    /// A revision.
    pub fn revision(&self, name: &'static str) -> Result<Option<Revision>, Problem> {
        Ok(self.number(name)?.map(Revision::new))
    }

    fn number(&self, name: &'static str) -> Result<Option<u64>, Problem> {
        let parse = |text: &str| {
            whole_number(text).ok_or_else(|| {
                Problem::new(ProblemType::InvalidParameter, format!("{name} must be a whole number, in digits only"))
            })
        };
        self.text(name).map(parse).transpose()
    }
}

/// A whole number in its one decimal spelling, as large as any counter gets at most.
pub(super) fn whole_number(text: &str) -> Option<u64> {
    text.parse().ok().filter(|number: &u64| number.to_string() == text && *number <= MAX_COUNTER)
}
