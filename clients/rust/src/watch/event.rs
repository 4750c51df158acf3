//! What a watch tells, and the position to go on from.

use std::{fmt, num::ParseIntError, ops::RangeInclusive, str::FromStr, sync::Arc};

use config_proto::v1;

use crate::entry::Entry;

/// A point in a tenant's history. Its text (`Display`, `FromStr`), `41@<token>`, can be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// All changes up to this revision are known.
    pub revision: u64,
    /// Opaque, and of this revision only: the service sees by it whether the history and the watch
    /// are still the same. Without it (empty), neither is checked.
    pub token: String,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.revision, self.token)
    }
}

/// A text that is no position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a position is written `<revision>@<token>`")]
pub struct ParsePositionError {
    #[source]
    source: Option<ParseIntError>,
}

impl FromStr for Position {
    type Err = ParsePositionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (revision, token) = text.split_once('@').ok_or(ParsePositionError { source: None })?;
        let revision = revision.parse().map_err(|source| ParsePositionError { source: Some(source) })?;
        Ok(Self { revision, token: token.to_owned() })
    }
}

impl From<v1::Position> for Position {
    fn from(position: v1::Position) -> Self {
        Self { revision: position.revision, token: position.token }
    }
}

impl From<Position> for v1::Position {
    fn from(position: Position) -> Self {
        Self { revision: position.revision, token: position.token }
    }
}

/// What a watch tells. Whoever has acted on an event can store its position, and later go on from
/// there.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// All that is watched. It replaces everything that was told before, and may be of an earlier
    /// revision if the table was restored.
    Snapshot(Snapshot),
    /// What has changed.
    Update(Update),
    /// Nothing but that the watch is alive, and where it is.
    Heartbeat(Heartbeat),
}

impl Event {
    /// Where to go on after this event.
    pub fn position(&self) -> &Position {
        match self {
            Self::Snapshot(Snapshot { position, .. })
            | Self::Update(Update { position, .. })
            | Self::Heartbeat(Heartbeat { position, .. }) => position,
        }
    }
}

/// All that is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Where to go on.
    pub position: Position,
    /// The entries, in byte order of their keys.
    pub entries: Vec<Arc<Entry>>,
    /// Whether the service's stores do not answer, so that this is the last that was known. A newer
    /// snapshot follows once they do.
    pub stale: bool,
}

/// A commit, as far as it is watched; or several, if the watch was too slow for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// Where to go on.
    pub position: Position,
    /// What was done to which keys: of one commit, all or nothing; of several, the last that was
    /// done to each key.
    pub changes: Vec<Change>,
    /// The revisions that are not told one by one, since the watch was too slow; what they left
    /// behind is among the changes.
    pub skipped: Option<RangeInclusive<u64>>,
}

/// What was done to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: String,
    /// The version that was written.
    pub version: u64,
    /// What was done.
    pub operation: Operation,
}

/// What a change did to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// It got a value.
    Put(Arc<Entry>),
    /// It was deleted.
    Delete,
    /// A value from outside was found that a later one had replaced already. What is current stays.
    Supersede,
    /// The key's store turned out to refuse the current version, which stays.
    Refuse,
    /// The store has taken the current version, which it had refused.
    Accept,
}

/// Nothing but where the watch is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Where to go on.
    pub position: Position,
    /// Whether there may be changes that the service does not know yet: its stores do not answer,
    /// or the instance is behind.
    pub stale: bool,
}
