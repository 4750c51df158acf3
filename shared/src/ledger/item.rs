//! How the ledger's records lie in the table: the attributes of items. Their keys: [`super::keys`].
//!
//! Each item carries `format`, today 1. A reader accepts items with attributes that it does not
//! know, so that a newer writer may add some.

use aws_sdk_dynamodb::types::AttributeValue;

use super::{
    attribute::{Item, n, s},
    commit::Found,
    keys,
};
use crate::{
    clock::Timestamp,
    model::{
        comment::Comment,
        entry::{
            Author, CommitId, Entry, Epoch, Held, IntentId, Locator, Revision, State, TextKind, Trimmed, ValueFormat,
            Version,
        },
        key::ConfigKey,
        refusal::{Refusal, RefusalReason},
        tenant::TenantId,
        value::ConfigValue,
    },
};

/// The format that this code writes.
pub(super) const FORMAT: u64 = 1;

/// The attributes of `ENTRY#` and `VERSION#` items that say that the store refuses the version.
pub(super) const REFUSED_REASON: &str = "refusedReason";
pub(super) const REFUSED_SINCE: &str = "refusedSince";
/// The attribute of `ENTRY#` items that says that the store holds a parameter of another type.
pub(super) const OTHER_TYPE: &str = "otherType";

/// The attribute of `HEAD` that says that the tenant stands in the directory of those that have
/// parameters.
pub(super) const HAS_PARAMETERS: &str = "hasParameters";

/// An item that cannot be read: damaged, or written by another program.
#[derive(Debug, thiserror::Error)]
#[error("the ledger's item {sort_key} has no usable attribute {attribute}")]
pub struct DamagedItem {
    sort_key: String,
    attribute: &'static str,
}

/// Reads attributes and names the one that is missing.
pub(super) struct Reader<'a>(pub(super) &'a Item);

impl<'a> Reader<'a> {
    pub(super) fn text(&self, name: &'static str) -> Result<&'a str, DamagedItem> {
        self.optional_text(name).ok_or_else(|| self.damaged(name))
    }

    pub(super) fn optional_text(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).and_then(|value| value.as_s().ok()).map(String::as_str)
    }

    pub(super) fn number(&self, name: &'static str) -> Result<u64, DamagedItem> {
        self.optional_number(name).ok_or_else(|| self.damaged(name))
    }

    pub(super) fn optional_number(&self, name: &str) -> Option<u64> {
        self.0.get(name)?.as_n().ok()?.parse().ok()
    }

    /// The refusal by the item's store, if there is one.
    fn refusal(&self) -> Option<Refusal> {
        let reason = RefusalReason::from_stored(self.optional_text(REFUSED_REASON)?);
        Some(Refusal { reason, since: Timestamp::from_millis(self.optional_number(REFUSED_SINCE)?) })
    }

    pub(super) fn damaged(&self, attribute: &'static str) -> DamagedItem {
        DamagedItem { sort_key: self.optional_text("sk").unwrap_or("?").to_owned(), attribute }
    }
}

/// The head of a tenant's ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The newest commit.
    pub revision: Revision,
    /// The ledger's life.
    pub epoch: Epoch,
    /// The newest commit's id.
    pub commit: CommitId,
    /// Whether the tenant has, or had, keys in a store outside the ledger, and so stands in the
    /// directory of those that have.
    pub has_parameters: bool,
}

impl Head {
    /// The head of a tenant that never committed.
    pub fn empty() -> Self {
        Self {
            revision: Revision::ZERO,
            epoch: Epoch::empty(),
            commit: CommitId::from_stored("0"),
            has_parameters: false,
        }
    }

    /// The head after so many further commits. Their ids are not known.
    pub(crate) fn after(&self, commits: u32) -> Self {
        Self { revision: Revision::new(self.revision.get() + u64::from(commits)), ..self.clone() }
    }

    pub(super) fn read(item: &Item) -> Result<Self, DamagedItem> {
        let read = Reader(item);
        Ok(Self {
            revision: Revision::new(read.number("revision")?),
            epoch: Epoch::from_stored(read.text("epoch")?),
            commit: CommitId::from_stored(read.text("commitId")?),
            has_parameters: item.contains_key(HAS_PARAMETERS),
        })
    }
}

/// An `ENTRY#` item: the key's current version, and how far it is replicated.
#[derive(Clone, Debug, Default)]
pub struct Current {
    /// The current version; none while the key's first write is under way.
    pub entry: Option<Entry>,
    /// How far the version is replicated to the store.
    pub replica: ReplicaState,
    /// What the key's values are.
    pub format: ValueFormat,
    /// The newest version that is a deletion, if there is one. It took along the earlier values
    /// that only the store had.
    pub deleted: Option<Version>,
    /// Whether the newest foreign version in the store is of another type than the puts of the
    /// tag's route.
    pub has_other_type: bool,
    /// The highest version of the key, if it was superseded when it was imported and so never was
    /// current.
    latest: Option<Version>,
}

/// How far a key's entry is replicated to its tag's store, and how far the store's versions are
/// imported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaState {
    /// The newest version known to be in the store.
    pub replicated: Option<Version>,
    /// The store's own version of it.
    pub store_version: Option<u64>,
    /// The write intents: calls to the store that are not known to have ended.
    pub intents: Vec<IntentId>,
    /// Until when a removal from the store may be under way. No intent is recorded before that.
    pub removing_until: Option<Timestamp>,
    /// Intents whose calls are over, with an outcome that is not known.
    pub expired_intents: Vec<IntentId>,
    /// How far the store's own versions have been imported.
    pub imported_through: Option<Locator>,
    /// The newest intent id among those versions. Any later version that bears it is a copy, in
    /// another life of the name, too.
    pub imported_through_id: Option<IntentId>,
    /// Whether the key is in the outbox.
    pub pending: bool,
}

impl ReplicaState {
    /// Whether a removal from the store may be under way at `now`.
    pub(crate) fn is_being_removed(&self, now: Timestamp) -> bool {
        self.removing_until.is_some_and(|until| until > now)
    }
}

impl Current {
    pub(super) fn read(item: &Item, key: ConfigKey) -> Result<Self, DamagedItem> {
        let read = Reader(item);
        Ok(Self {
            entry: if item.contains_key("version") { Some(read_entry(item, key)?) } else { None },
            replica: ReplicaState {
                replicated: read.optional_number("replicatedVersion").map(Version::new),
                store_version: read.optional_number("storeVersion"),
                intents: read_ids(item, "intents"),
                removing_until: read.optional_number("removingUntil").map(Timestamp::from_millis),
                expired_intents: read_ids(item, "expiredIntents"),
                imported_through: read_locator(&read, "importedThrough", "importedThroughModifiedAt"),
                imported_through_id: read.optional_text("importedThroughId").map(IntentId::from_stored),
                pending: item.contains_key("outboxShard"),
            },
            format: read_format(&read)?,
            deleted: read.optional_number("deletedVersion").map(Version::new),
            has_other_type: item.contains_key(OTHER_TYPE),
            latest: read.optional_number("latestVersion").map(Version::new),
        })
    }

    /// The item once `entry` has been committed for a foreign version.
    pub(crate) fn with_found(mut self, entry: Entry, found: &Found) -> Self {
        self.has_other_type = !found.fits;
        self.replica.imported_through = found.place;
        if found.mark.is_some() {
            self.replica.imported_through_id.clone_from(&found.mark);
        }
        if entry.superseded {
            self.latest = Some(entry.version);
            if found.is_anew {
                self.replica.store_version = None;
            }
        } else {
            self.replica.replicated = Some(entry.version);
            self.replica.store_version = found.place.map(|place| place.version);
            if !entry.is_live() {
                self.deleted = Some(entry.version);
            }
            self.entry = Some(entry);
        }
        self
    }

    /// The version that the key's next write becomes.
    pub fn next_version(&self) -> Version {
        let current = self.entry.as_ref().map(|entry| entry.version);
        current.max(self.latest).map_or(Version::FIRST, Version::next)
    }
}

fn read_locator(read: &Reader<'_>, version: &str, modified_at: &str) -> Option<Locator> {
    let (version, modified_at) = (read.optional_number(version)?, read.optional_number(modified_at)?);
    Some(Locator { version, modified_at: Timestamp::from_millis(modified_at) })
}

/// A set of intent ids; empty where there is none.
pub(super) fn read_ids(item: &Item, name: &str) -> Vec<IntentId> {
    let ids = item.get(name).and_then(|set| set.as_ss().ok());
    ids.into_iter().flatten().map(|id| IntentId::from_stored(id)).collect()
}

/// Reads the entry of an `ENTRY#` or `VERSION#` item.
pub(super) fn read_entry(item: &Item, key: ConfigKey) -> Result<Entry, DamagedItem> {
    let read = Reader(item);
    let state = match read.text("state")? {
        "deleted" => State::Deleted,
        "live" => State::Live(read_held(&read)?),
        _ => return Err(read.damaged("state")),
    };
    Ok(Entry {
        key,
        version: Version::new(read.number("version")?),
        revision: Revision::new(read.number("revision")?),
        author: Author::new(read.text("author")?),
        comment: read_comment(&read),
        modified_at: Timestamp::from_millis(read.number("modifiedAt")?),
        commit: CommitId::from_stored(read.text("commitId")?),
        state,
        superseded: item.contains_key("superseded"),
        refusal: read.refusal(),
    })
}

fn read_comment(read: &Reader<'_>) -> Option<Comment> {
    read.optional_text("comment").map(Comment::from_stored)
}

fn read_held(read: &Reader<'_>) -> Result<Held, DamagedItem> {
    if let Some(json) = read.optional_text("value") {
        return ConfigValue::parse(json).map(Held::Value).map_err(|_| read.damaged("value"));
    }
    let locator = Locator {
        version: read.number("locatorVersion")?,
        modified_at: Timestamp::from_millis(read.number("locatorModifiedAt")?),
    };
    let kind = match read.text("textKind")? {
        "text" => TextKind::Text(read_trimmed(read)?),
        "json" => TextKind::Json,
        _ => return Err(read.damaged("textKind")),
    };
    Ok(Held::Elsewhere(locator, kind))
}

/// What was trimmed of a text; nothing if the item does not say.
fn read_trimmed(read: &Reader<'_>) -> Result<Trimmed, DamagedItem> {
    let Some(trimmed) = read.0.get("trimmed") else { return Ok(Trimmed::default()) };
    match trimmed.as_l().map(Vec::as_slice) {
        Ok([AttributeValue::S(start), AttributeValue::S(end)]) => {
            Ok(Trimmed { start: start.as_str().into(), end: end.as_str().into() })
        }
        _ => Err(read.damaged("trimmed")),
    }
}

fn read_format(read: &Reader<'_>) -> Result<ValueFormat, DamagedItem> {
    match read.optional_text("valueFormat") {
        None | Some("text") => Ok(ValueFormat::Text),
        Some("quoted") => Ok(ValueFormat::QuotedText),
        Some("json") => Ok(ValueFormat::Json),
        Some(_) => Err(read.damaged("valueFormat")),
    }
}

/// The attribute that says what a key's values are.
pub(super) fn format_attribute(format: ValueFormat) -> (&'static str, AttributeValue) {
    let name = match format {
        ValueFormat::Text => "text",
        ValueFormat::QuotedText => "quoted",
        ValueFormat::Json => "json",
    };
    ("valueFormat", s(name))
}

/// The attributes that an entry has in both of its items.
pub(super) fn entry_attributes(entry: &Entry) -> Vec<(&'static str, AttributeValue)> {
    let mut attributes = vec![
        ("format", n(FORMAT)),
        ("version", n(entry.version.get())),
        ("revision", n(entry.revision.get())),
        ("author", s(entry.author.as_str())),
        ("modifiedAt", n(entry.modified_at.millis())),
        ("commitId", s(entry.commit.to_string())),
    ];
    if let Some(comment) = &entry.comment {
        attributes.push(("comment", s(comment.as_str())));
    }
    if entry.superseded {
        attributes.push(("superseded", AttributeValue::Bool(true)));
    }
    match &entry.state {
        State::Deleted => attributes.push(("state", s("deleted"))),
        State::Live(held) => {
            attributes.push(("state", s("live")));
            match held {
                Held::Value(value) => attributes.push(("value", s(value.as_json()))),
                Held::Elsewhere(locator, kind) => attributes.extend(locator_attributes(*locator, kind)),
            }
        }
    }
    attributes
}

/// The attributes that say where a value lies.
pub(super) fn locator_attributes(locator: Locator, kind: &TextKind) -> [(&'static str, AttributeValue); 4] {
    let (name, start, end) = match kind {
        TextKind::Text(Trimmed { start, end }) => ("text", &**start, &**end),
        TextKind::Json => ("json", "", ""),
    };
    [
        ("locatorVersion", n(locator.version)),
        ("locatorModifiedAt", n(locator.modified_at.millis())),
        ("textKind", s(name)),
        ("trimmed", AttributeValue::L(vec![s(start), s(end)])),
    ]
}

/// The attributes that say that a store refuses a version.
pub(super) fn refusal_attributes(refusal: &Refusal) -> [(&'static str, AttributeValue); 2] {
    [(REFUSED_REASON, s(refusal.reason.name())), (REFUSED_SINCE, n(refusal.since.millis()))]
}

/// What one commit did to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedKey {
    /// The key, as text: the log outlives the routes, and a tag may have lost its route since.
    pub key: String,
    /// The version that was written.
    pub version: Version,
    /// What was done.
    pub operation: ChangeOperation,
    /// Why its store refuses it, if the commit notes a refusal.
    pub refusal: Option<Refusal>,
}

/// What was done to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeOperation {
    /// It got a value.
    Put,
    /// It was deleted.
    Delete,
    /// A value was imported that a later one had replaced already. What is current stays.
    Supersede,
    /// Its store refuses the current version, which stays.
    Refuse,
    /// Its store has taken the current version after all.
    Accept,
}

impl ChangeOperation {
    /// Whether the key's value changed.
    pub const fn is_write(self) -> bool {
        matches!(self, Self::Put | Self::Delete)
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Delete => "delete",
            Self::Supersede => "supersede",
            Self::Refuse => "refuse",
            Self::Accept => "accept",
        }
    }
}

/// One commit, as the change log keeps it.
#[derive(Clone, Debug)]
pub struct Change {
    /// The commit's revision.
    pub revision: Revision,
    /// Who committed.
    pub author: Author,
    /// The author's comment, if there is one.
    pub comment: Option<Comment>,
    /// When.
    pub at: Timestamp,
    /// The commit's id.
    pub commit: CommitId,
    /// Until when the change is kept.
    pub expires_at: Timestamp,
    /// What was written.
    pub keys: Vec<ChangedKey>,
}

impl Change {
    pub(super) fn item(&self, tenant: &TenantId, publish_from: Timestamp) -> Item {
        let changed_keys = self.keys.iter().map(|changed| {
            let attributes = [
                ("key", s(&changed.key)),
                ("version", n(changed.version.get())),
                ("operation", s(changed.operation.name())),
            ];
            let refusal = changed.refusal.iter().flat_map(refusal_attributes);
            AttributeValue::M(
                attributes.into_iter().chain(refusal).map(|(name, value)| (name.to_owned(), value)).collect(),
            )
        });
        let shard = keys::shard(tenant);
        let mut item: Item = [
            ("pk", s(tenant.partition())),
            ("sk", s(keys::change_key(self.revision))),
            ("format", n(FORMAT)),
            ("revision", n(self.revision.get())),
            ("author", s(self.author.as_str())),
            ("at", n(self.at.millis())),
            ("commitId", s(self.commit.to_string())),
            ("expiresAt", n(self.expires_at.seconds())),
            ("keys", AttributeValue::L(changed_keys.collect())),
            ("timeShard", s(keys::time_shard(shard))),
            ("timeKey", s(keys::time_position(self.at, tenant, self.revision))),
            ("outboxShard", s(keys::publish_shard(shard))),
            ("outboxKey", s(keys::outbox_position(publish_from, self.at, tenant))),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        if let Some(comment) = &self.comment {
            item.insert("comment".to_owned(), s(comment.as_str()));
        }
        item
    }

    pub(super) fn read(item: &Item) -> Result<Self, DamagedItem> {
        let read = Reader(item);
        let list = item.get("keys").and_then(|list| list.as_l().ok()).ok_or_else(|| read.damaged("keys"))?;
        let keys = list.iter().map(|one| {
            let inner = Reader(one.as_m().map_err(|_| read.damaged("keys"))?);
            let operation = match inner.text("operation")? {
                "put" => ChangeOperation::Put,
                "delete" => ChangeOperation::Delete,
                "supersede" => ChangeOperation::Supersede,
                "refuse" => ChangeOperation::Refuse,
                "accept" => ChangeOperation::Accept,
                _ => return Err(inner.damaged("operation")),
            };
            let key = inner.text("key")?.to_owned();
            let version = Version::new(inner.number("version")?);
            Ok(ChangedKey { key, version, operation, refusal: inner.refusal() })
        });
        Ok(Self {
            revision: Revision::new(read.number("revision")?),
            author: Author::new(read.text("author")?),
            comment: read_comment(&read),
            at: Timestamp::from_millis(read.number("at")?),
            commit: CommitId::from_stored(read.text("commitId")?),
            expires_at: Timestamp::from_millis(read.number("expiresAt")?.saturating_mul(1000)),
            keys: keys.collect::<Result<_, _>>()?,
        })
    }
}
