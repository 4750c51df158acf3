//! Where a watch is, and what it lets through: whole messages, in order, each once.
//!
//! It knows no connection and no time, only messages. A position moves with the last part of what
//! is told, never before.

use std::{mem, ops::RangeInclusive, sync::Arc};

use config_proto::v1::{self, WatchConfigResponse, watch_config_response};

use super::event::{Change, Event, Heartbeat, Operation, Position, Snapshot, Update};
use crate::entry::Entry;

/// Why a message is not let through. Each ends the connection that it came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Revisions are missing before it.
    Gap,
    /// It is a snapshot from before what was told already, of an instance that cannot know better
    /// now.
    Behind,
    /// It cannot be understood, for this reason.
    Broken(&'static str),
}

impl Refusal {
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Gap => "revisions are missing before it",
            Self::Behind => "it is a snapshot from before what was told already",
            Self::Broken(reason) => reason,
        }
    }
}

/// The state of one watch.
#[derive(Debug)]
pub(crate) struct Tracker {
    /// Whether everything is watched, so that there is no revision that only a heartbeat tells.
    all: bool,
    position: Option<Position>,
    parts: Parts,
    /// Whether something was refused since the last whole snapshot or update.
    suspicious: bool,
}

/// What was told in parts so far.
#[derive(Debug, Default)]
enum Parts {
    #[default]
    None,
    Snapshot {
        revision: u64,
        entries: Vec<Arc<Entry>>,
    },
    Update {
        revision: u64,
        previous_revision: u64,
        changes: Vec<Change>,
        skipped: Option<RangeInclusive<u64>>,
    },
}

impl Tracker {
    pub(crate) fn new(all: bool, position: Option<Position>) -> Self {
        Self { all, position, parts: Parts::None, suspicious: false }
    }

    pub(crate) fn position(&self) -> Option<&Position> {
        self.position.as_ref()
    }

    /// Whether something was refused since the last whole snapshot or update.
    pub(crate) fn is_suspicious(&self) -> bool {
        self.suspicious
    }

    /// A new connection is made: parts of the old one are worth nothing. Returns where it begins.
    pub(crate) fn connecting(&mut self) -> Option<&Position> {
        self.parts = Parts::None;
        self.position.as_ref()
    }

    /// The next connection begins with a snapshot.
    pub(crate) fn start_anew(&mut self) {
        self.position = None;
    }

    /// Notes a refusal. What is refused again after the same position is not going to come right:
    /// then only a snapshot helps. An instance that is behind comes right by itself, and its
    /// snapshot is worse than what is known.
    pub(crate) fn refused(&mut self, refusal: Refusal) {
        match refusal {
            Refusal::Behind => {}
            Refusal::Gap | Refusal::Broken(_) => {
                if mem::replace(&mut self.suspicious, true) {
                    self.start_anew();
                }
            }
        }
    }

    /// Takes a message. `None` if there is nothing to tell: a part, a double, or something that
    /// this client does not know.
    pub(crate) fn take(&mut self, response: WatchConfigResponse) -> Result<Option<Event>, Refusal> {
        let position = response.position.map(Position::from);
        match response.event {
            None => Ok(None),
            Some(watch_config_response::Event::Snapshot(part)) => self.snapshot(part, position),
            Some(watch_config_response::Event::Update(part)) => self.update(part, position),
            Some(watch_config_response::Event::Heartbeat(heartbeat)) => self.heartbeat(&heartbeat, position),
        }
    }

    fn snapshot(&mut self, part: v1::Snapshot, position: Option<Position>) -> Result<Option<Event>, Refusal> {
        let mut entries = match mem::take(&mut self.parts) {
            Parts::None => Vec::new(),
            Parts::Snapshot { revision, entries } if revision == part.revision => entries,
            Parts::Snapshot { .. } | Parts::Update { .. } => return Err(Refusal::Broken("its parts do not match")),
        };
        entries.extend(part.entries.into_iter().map(|entry| Arc::new(Entry::from(entry))));
        if part.more {
            self.parts = Parts::Snapshot { revision: part.revision, entries };
            return Ok(None);
        }
        let position = final_position(position, part.revision)?;
        // One that is not stale is the truth: it is of an earlier revision if the table was
        // restored.
        if let Some(held) = &self.position
            && part.stale
            && position.revision < held.revision
        {
            return Err(Refusal::Behind);
        }
        self.suspicious = false;
        self.position = Some(position.clone());
        Ok(Some(Event::Snapshot(Snapshot { position, entries, stale: part.stale })))
    }

    fn update(&mut self, part: v1::Update, position: Option<Position>) -> Result<Option<Event>, Refusal> {
        let (mut changes, mut skipped) = match mem::take(&mut self.parts) {
            Parts::None => (Vec::new(), None),
            Parts::Update { revision, previous_revision, changes, skipped }
                if (revision, previous_revision) == (part.revision, part.previous_revision) =>
            {
                (changes, skipped)
            }
            Parts::Snapshot { .. } | Parts::Update { .. } => return Err(Refusal::Broken("its parts do not match")),
        };
        for change in part.changes {
            changes.push(parsed(change)?);
        }
        skipped = skipped.or(part.skipped.map(|skipped| skipped.first..=skipped.last));
        if part.more {
            let v1::Update { revision, previous_revision, .. } = part;
            self.parts = Parts::Update { revision, previous_revision, changes, skipped };
            return Ok(None);
        }
        let Some(held) = &self.position else {
            return Err(Refusal::Broken("it is an update before any snapshot"));
        };
        let position = final_position(position, part.revision)?;
        if position.revision <= held.revision {
            return Ok(None);
        }
        if part.previous_revision > held.revision {
            return Err(Refusal::Gap);
        }
        self.suspicious = false;
        self.position = Some(position.clone());
        Ok(Some(Event::Update(Update { position, changes, skipped })))
    }

    fn heartbeat(&mut self, heartbeat: &v1::Heartbeat, position: Option<Position>) -> Result<Option<Event>, Refusal> {
        // Between parts, and before a first snapshot, it is a sign of life and nothing more.
        let (Parts::None, Some(held)) = (&self.parts, &mut self.position) else { return Ok(None) };
        let position = final_position(position, heartbeat.revision)?;
        if position.revision > held.revision && self.all {
            return Err(Refusal::Gap);
        }
        let behind = position.revision < held.revision;
        if !behind {
            *held = position;
        }
        Ok(Some(Event::Heartbeat(Heartbeat { position: held.clone(), stale: heartbeat.stale || behind })))
    }
}

/// The position after a whole message of this revision. No other will do: its token is of this
/// revision only.
fn final_position(position: Option<Position>, revision: u64) -> Result<Position, Refusal> {
    match position {
        Some(position) if position.revision == revision => Ok(position),
        Some(_) => Err(Refusal::Broken("its position is not that of its revision")),
        None => Err(Refusal::Broken("it has no position")),
    }
}

/// A change as the interface has it.
fn parsed(change: v1::KeyChange) -> Result<Change, Refusal> {
    let operation = match (change.operation(), change.entry) {
        (v1::Operation::Put, Some(entry)) => Operation::Put(Arc::new(entry.into())),
        (v1::Operation::Put, None) => return Err(Refusal::Broken("it puts a key without an entry")),
        (v1::Operation::Delete, _) => Operation::Delete,
        (v1::Operation::Supersede, _) => Operation::Supersede,
        (v1::Operation::Refuse, _) => Operation::Refuse,
        (v1::Operation::Accept, _) => Operation::Accept,
        // It may have changed what is current, and nobody here can say how.
        (v1::Operation::Unspecified, _) => return Err(Refusal::Broken("it does something unknown to a key")),
    };
    Ok(Change { key: change.key, version: change.version, operation })
}
