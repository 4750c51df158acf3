//! A key's value at one version, and the counters that order everything: versions, revisions,
//! epochs.

use std::{borrow::Cow, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    clock::Timestamp,
    model::{comment::Comment, key::ConfigKey, refusal::Refusal, value::ConfigValue},
};

/// Counts the writes of one key: 1, 2, 3, … never reused, not after a delete either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version(u64);

/// Counts the commits of one tenant, without gaps. [`Revision::ZERO`] is before the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Revision(u64);

/// One life of a tenant's ledger. A restored table gets a new one, so that what was known about the
/// old one is not believed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Epoch(Box<str>);

macro_rules! counter {
    ($name:ident) => {
        impl $name {
            /// The counter at `n`.
            pub const fn new(n: u64) -> Self {
                Self(n)
            }

            /// The count.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The next one.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}
counter!(Version);
counter!(Revision);

impl Version {
    /// A key's first version.
    pub const FIRST: Self = Self(1);
}

impl Revision {
    /// Before the first commit.
    pub const ZERO: Self = Self(0);
}

/// A commit's id: 128 random bits in hexadecimal, so that a writer can tell its own commit from
/// another's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CommitId(CommitName);

/// Ids that are made here take no allocation: a service that holds tenants in memory has one for
/// each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum CommitName {
    Random([u8; COMMIT_BYTES]),
    Other(Box<str>),
}

const COMMIT_BYTES: usize = 16;

/// The id of one write intent: the time at which it was given out, and 64 random bits. The put that
/// it announces bears it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IntentId(Box<str>);

macro_rules! identifier {
    ($name:ident) => {
        impl $name {
            /// As it was stored.
            pub fn from_stored(text: &str) -> Self {
                Self(text.into())
            }

            /// As text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}
identifier!(Epoch);
identifier!(IntentId);

impl Epoch {
    /// The epoch that a tenant has before its first commit.
    pub fn empty() -> Self {
        Self("0".into())
    }

    /// A new epoch.
    pub fn random() -> Self {
        Self(random_hex::<6>().into())
    }
}

impl CommitId {
    /// A new commit id.
    pub fn random() -> Self {
        Self(CommitName::Random(random()))
    }

    /// As it was stored.
    pub fn from_stored(text: &str) -> Self {
        let is_random =
            text.len() == 2 * COMMIT_BYTES && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let number = if is_random { u128::from_str_radix(text, 16).ok() } else { None };
        Self(number.map_or_else(|| CommitName::Other(text.into()), |number| CommitName::Random(number.to_be_bytes())))
    }
}

impl fmt::Display for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            CommitName::Random(bytes) => write!(f, "{:032x}", u128::from_be_bytes(*bytes)),
            CommitName::Other(text) => f.write_str(text),
        }
    }
}

impl IntentId {
    /// A new id, given out at `now`.
    pub fn new(now: Timestamp) -> Self {
        Self(format!("{:011x}-{}", now.millis(), random_hex::<8>()).into())
    }

    /// When the id was given out.
    pub fn given_out_at(&self) -> Timestamp {
        let millis = self.0.split('-').next().and_then(|hex| u64::from_str_radix(hex, 16).ok());
        Timestamp::from_millis(millis.unwrap_or_default())
    }
}

fn random_hex<const BYTES: usize>() -> String {
    random::<BYTES>().iter().fold(String::with_capacity(2 * BYTES), |hex, byte| hex + &format!("{byte:02x}"))
}

/// Random bytes from the operating system, because environments that start in the same instant must
/// not draw the same.
fn random<const BYTES: usize>() -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        // Without the system's entropy the process's own generator still tells our ids apart.
        fastrand::fill(&mut bytes);
    }
    bytes
}

/// The author: the token's subject, or [`Author::external`] for what did not come through this
/// service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Author(Box<str>);

impl Author {
    /// The longest author that is kept, in characters; a longer one is cut.
    const MAX_CHARS: usize = 128;

    /// An author by name.
    pub fn new(name: &str) -> Self {
        Self(name.chars().take(Self::MAX_CHARS).collect())
    }

    /// The author of what was written to a store directly.
    pub fn external() -> Self {
        Self("external".into())
    }

    /// The author as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Where a value lies in its store: for Parameter Store, the parameter's version and its
/// last-modified time. A parameter that was deleted and made anew begins again at version 1, and
/// only the time tells the two lives apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Locator {
    /// The store's own version of the value.
    pub version: u64,
    /// When the store says that version was written.
    pub modified_at: Timestamp,
}

/// How a value is written in a store that holds plain text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextKind {
    /// A JSON string, raw, except for what was trimmed of it.
    Text(Trimmed),
    /// JSON text.
    Json,
}

/// The white space around a text that its store would not keep. The ledger keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trimmed {
    /// What stands before the text.
    pub start: Box<str>,
    /// What stands after it.
    pub end: Box<str>,
}

impl Trimmed {
    /// The whole text again.
    pub fn around(&self, text: &str) -> String {
        [&self.start, text, &self.end].concat()
    }
}

/// What a key's values are, by the last API write. It decides how an edit in the key's store is
/// read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ValueFormat {
    /// JSON strings, which lie raw in the store. Keys that the API never wrote have it, too.
    #[default]
    Text,
    /// JSON strings. The last one could not lie raw in the store, so it lies there as JSON.
    QuotedText,
    /// Any JSON.
    Json,
}

/// Where an entry's value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Held {
    /// Here.
    Value(ConfigValue),
    /// In the tag's store.
    Elsewhere(Locator, TextKind),
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// The key has a value.
    Live(Held),
    /// The key was deleted. Its versions go on counting.
    Deleted,
}

/// One version of a key, as the ledger keeps it.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The key.
    pub key: ConfigKey,
    /// Which write of the key this is.
    pub version: Version,
    /// The commit that wrote it.
    pub revision: Revision,
    /// Who wrote it.
    pub author: Author,
    /// The author's comment, if there is one.
    pub comment: Option<Comment>,
    /// When.
    pub modified_at: Timestamp,
    /// The id of the commit that wrote it.
    pub commit: CommitId,
    /// Value or tombstone.
    pub state: State,
    /// Whether a later put had replaced it in its store before it was imported. It stands in the
    /// history, and never was current.
    pub superseded: bool,
    /// The refusal by its store, if there is one.
    pub refusal: Option<Refusal>,
}

impl Entry {
    /// Whether the key has a value.
    pub fn is_live(&self) -> bool {
        matches!(self.state, State::Live(_))
    }

    /// The value, if the ledger holds it itself.
    pub fn value(&self) -> Option<&ConfigValue> {
        match &self.state {
            State::Live(Held::Value(value)) => Some(value),
            _ => None,
        }
    }

    /// Where the value lies, if only the tag's store has it.
    pub fn place(&self) -> Option<(Locator, &TextKind)> {
        match &self.state {
            State::Live(Held::Elsewhere(locator, kind)) => Some((*locator, kind)),
            _ => None,
        }
    }

    /// The version's entity tag, by which writes know it.
    pub fn etag(&self) -> ETag {
        ETag::new(self.version, &self.commit)
    }
}

/// An entity tag (RFC 9110, 8.8.3). A key's version has a strong one: `"<version>-<beginning of the
/// commit id>"`. The version alone would do but for restored tables, where it can come again with
/// another value. A page has a weak one: see [`ETag::of_page`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct ETag(String);

impl ETag {
    /// The tag of `version`, written by `commit`.
    pub fn new(version: Version, commit: &CommitId) -> Self {
        Self(format!("\"{version}-{:.12}\"", commit.to_string()))
    }

    /// The tag of a page at `revision`. `digest` covers everything else that decides the page.
    ///
    /// It is weak, because it promises the same content, not the same bytes: the next release may
    /// write a page differently.
    pub fn of_page(revision: Revision, digest: &str) -> Self {
        Self(format!("W/\"{revision}-{digest}\""))
    }

    /// As it was stored, with its quotes.
    pub fn from_stored(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The tag with its quotes.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is weak.
    pub fn is_weak(&self) -> bool {
        self.0.starts_with(WEAK)
    }

    /// The part that is compared.
    fn opaque(&self) -> &str {
        self.0.strip_prefix(WEAK).unwrap_or(&self.0)
    }

    /// The tag of what is shown. While the store refuses the version it is another one,
    /// `"<version's tag>.<reason>.<since>"`.
    pub fn shown(&self, refusal: Option<&Refusal>) -> Cow<'_, Self> {
        let Some(Refusal { reason, since }) = refusal else { return Cow::Borrowed(self) };
        Cow::Owned(Self(format!("\"{}.{}.{:x}\"", self.0.trim_matches('"'), reason.name(), since.millis())))
    }

    /// The tag of the version itself, without its refusal. A page's tag stays.
    fn of_version(&self) -> Self {
        self.0.split_once('.').map_or_else(|| self.clone(), |(version, _)| Self(format!("{version}\"")))
    }
}

/// What stands before a weak tag.
const WEAK: &str = "W/";

impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The list of entity tags in an `If-Match` or `If-None-Match` header (RFC 9110, 13.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntityTagList {
    /// `*`: any current version.
    Any,
    /// One of these; the flag says whether the tag is weak.
    Tags(Vec<(ETag, bool)>),
}

/// A header that is no list of entity tags.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected * or a comma-separated list of quoted entity tags such as \"3-0123456789ab\", as the ETag header gave them"
)]
pub struct InvalidEntityTagList;

impl EntityTagList {
    /// Strong comparison: a weak tag never matches. A refusal does not matter: the tag of a version
    /// that is shown as refused counts as the version's own.
    pub fn matches_strongly(&self, current: Option<&ETag>) -> bool {
        self.of_versions().matches(current.map(ETag::of_version).as_ref(), false)
    }

    /// Weak comparison.
    pub fn matches_weakly(&self, current: Option<&ETag>) -> bool {
        self.matches(current, true)
    }

    /// Whether only the weak comparison matches the current version: `W/"…"` stands where `"…"` is
    /// meant.
    pub fn matches_only_weakly(&self, current: Option<&ETag>) -> bool {
        let current = current.map(ETag::of_version);
        self.of_versions().matches(current.as_ref(), true) && !self.matches_strongly(current.as_ref())
    }

    /// The same list, with the tags of versions.
    fn of_versions(&self) -> Self {
        match self {
            Self::Any => Self::Any,
            Self::Tags(tags) => Self::Tags(tags.iter().map(|(tag, weak)| (tag.of_version(), *weak)).collect()),
        }
    }

    fn matches(&self, current: Option<&ETag>, weakly: bool) -> bool {
        match (self, current) {
            (_, None) => false,
            (Self::Any, Some(_)) => true,
            (Self::Tags(tags), Some(current)) => {
                let is_current = |tag: &ETag| tag.opaque() == current.opaque();
                tags.iter().any(|(tag, weak)| is_current(tag) && (weakly || !(*weak || current.is_weak())))
            }
        }
    }
}

impl FromStr for EntityTagList {
    type Err = InvalidEntityTagList;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if text == "*" {
            return Ok(Self::Any);
        }
        let mut tags = Vec::new();
        // Empty elements do not count (RFC 9110, 5.6.1.2): clients that join lists make them.
        let is_between = |c: char| c == ',' || c.is_whitespace();
        let mut rest = text.trim_start_matches(is_between);
        while !rest.is_empty() {
            let (weak, quoted) = rest.strip_prefix(WEAK).map_or((false, rest), |tail| (true, tail));
            let body = quoted.strip_prefix('"').ok_or(InvalidEntityTagList)?;
            let end = body.find('"').ok_or(InvalidEntityTagList)?;
            if body[..end].chars().any(|c| c.is_ascii_control() || c == ' ') {
                return Err(InvalidEntityTagList);
            }
            tags.push((ETag(format!("\"{}\"", &body[..end])), weak));
            let behind = body[end + 1..].trim_start();
            if !behind.is_empty() && !behind.starts_with(',') {
                return Err(InvalidEntityTagList);
            }
            rest = behind.trim_start_matches(is_between);
        }
        // A list without a tag is a mistake: as a condition it would never hold, or always.
        if tags.is_empty() { Err(InvalidEntityTagList) } else { Ok(Self::Tags(tags)) }
    }
}

/// What must hold for a key's current version before a write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Precondition {
    /// The current version must be one of these.
    pub if_match: Option<EntityTagList>,
    /// The current version must be none of these.
    pub if_none_match: Option<EntityTagList>,
}

impl Precondition {
    /// Whether the condition holds for a key whose live version has the tag `current`.
    pub fn holds(&self, current: Option<&ETag>) -> bool {
        self.if_match.as_ref().is_none_or(|tags| tags.matches_strongly(current))
            && self.if_none_match.as_ref().is_none_or(|tags| !tags.of_versions().matches_weakly(current))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::refusal::RefusalReason;

    /// RFC 9110, 13.1.1 and 13.1.2: If-Match compares strongly, If-None-Match weakly, `*` means any
    /// live version.
    #[test]
    fn preconditions_follow_the_rfc() {
        let current = ETag::new(Version::new(3), &CommitId::from_stored("e"));
        for (if_match, if_none_match, live, absent) in [
            (None, None, true, true),
            (Some("*"), None, true, false),
            (Some("\"3-e\""), None, true, false),
            (Some("\"2-e\", \"3-e\""), None, true, false),
            (Some("\"2-e\""), None, false, false),
            (Some("W/\"3-e\""), None, false, false),
            (None, Some("*"), false, true),
            (None, Some("\"3-e\""), false, true),
            (None, Some("W/\"3-e\""), false, true),
            (None, Some("\"2-e\""), true, true),
            // As it was shown while a store refused it.
            (Some("\"3-e.parameter-limit.1\""), None, true, false),
            (Some("\"2-e.parameter-limit.1\""), None, false, false),
            (None, Some("\"3-e.type-mismatch.2\""), false, true),
        ] {
            let parse = |text: Option<&str>| text.map(|t| t.parse::<EntityTagList>().unwrap());
            let condition = Precondition { if_match: parse(if_match), if_none_match: parse(if_none_match) };
            assert_eq!(condition.holds(Some(&current)), live, "{condition:?}");
            assert_eq!(condition.holds(None), absent, "{condition:?}");
        }
    }

    /// Promise: a commit is known by the text that was stored, whatever it is, and by nothing else.
    #[test]
    fn a_commit_id_is_its_text() {
        let random = CommitId::random().to_string();
        let texts = [
            "",
            "0",
            "0123456789abcdef0123456789abcdef",
            "0123456789ABCDEF0123456789abcdef",
            "+123456789abcdef0123456789abcdef",
        ];
        for text in texts.into_iter().chain([random.as_str()]) {
            assert_eq!(CommitId::from_stored(text).to_string(), text);
            let same = texts.into_iter().filter(|other| CommitId::from_stored(other) == CommitId::from_stored(text));
            assert_eq!(same.count(), usize::from(text != random), "{text}");
        }
        assert!(
            random.len() == 32
                && ETag::new(Version::FIRST, &CommitId::from_stored(&random)).as_str()
                    == format!("\"1-{}\"", &random[..12])
        );
    }

    #[test]
    fn what_is_no_entity_tag_is_refused() {
        for bad in
            ["", "3-e", "\"3-e", "\"a\" \"b\"", "w/\"a\"", "*, \"a\"", "*,", "\"a b\"", "\"a\tb\"", ",", " , ,", ",a"]
        {
            assert_eq!(bad.parse::<EntityTagList>(), Err(InvalidEntityTagList), "{bad}");
        }
    }

    /// RFC 9110, 8.8.3.2: the tag of a page is weak, whoever sends it back in whichever form.
    #[test]
    fn the_tag_of_a_page_is_weak() {
        let page = ETag::of_page(Revision::new(3), "e");
        assert_eq!(page.as_str(), "W/\"3-e\"");
        for (tags, weakly, strongly) in
            [("W/\"3-e\"", true, false), ("\"3-e\"", true, false), ("\"3-f\"", false, false), ("*", true, true)]
        {
            let tags: EntityTagList = tags.parse().unwrap();
            assert_eq!((tags.matches_weakly(Some(&page)), tags.matches_strongly(Some(&page))), (weakly, strongly));
        }
    }

    /// For `If-Match` a version is the same while its store refuses it. For `If-None-Match` of a
    /// read it is not: what is shown has changed.
    #[test]
    fn a_refused_version_is_still_that_version() {
        let own = ETag::new(Version::new(3), &CommitId::from_stored("e"));
        let refusal = Refusal { reason: RefusalReason::ParameterLimit, since: Timestamp::from_millis(1) };
        let shown = own.shown(Some(&refusal)).into_owned();
        let list = |text: &str| text.parse::<EntityTagList>().unwrap();
        for one in [&own, &shown] {
            for current in [&own, &shown] {
                let (tags, weak) = (list(one.as_str()), list(&format!("W/{one}")));
                assert!(tags.matches_strongly(Some(current)) && !tags.matches_only_weakly(Some(current)));
                assert!(!weak.matches_strongly(Some(current)) && weak.matches_only_weakly(Some(current)));
                assert_eq!(tags.matches_weakly(Some(current)), one == current);
            }
        }
    }

    /// RFC 9110, 5.6.1.2: elements of a list that are empty do not count.
    #[test]
    fn empty_elements_of_a_list_do_not_count() {
        let two: EntityTagList = "\"a\", W/\"b\"".parse().unwrap();
        for same in [",\"a\",W/\"b\"", "\"a\",W/\"b\",", "\"a\",,W/\"b\"", " , ,\"a\" ,\t, W/\"b\" , ,"] {
            assert_eq!(same.parse::<EntityTagList>().as_ref(), Ok(&two), "{same}");
        }
    }
}
