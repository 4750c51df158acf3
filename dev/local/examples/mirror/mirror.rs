//! A copy of one tenant's entries that the change feed alone keeps up to date. Take it, and
//! `client.rs`, into your own program.
//!
//! # Why the copy is right
//!
//! - **A list is no snapshot.** Its pages are read one after the other, each at its own revision,
//!   while writes go on. Each entry is at least as new as its page's revision; so whoever follows
//!   the changes after the *lowest* of these revisions learns of everything that a page had read
//!   too early, deletions and new keys among it.
//! - **A change names a key, not a value.** The value is loaded when the change is seen, and may be
//!   newer by then. That is harmless: versions of a key only grow, so its later changes find it
//!   loaded already. Until they have come, the copy may show a part of a transaction: it is what
//!   the tenant had at one moment when [`Next::AtHead`] is said, and nobody writes, not before.
//! - **The revision moves last**, when everything up to it is loaded. Whatever ends a step before
//!   leaves the copy as it was, and the same step can be taken again.
//! - **A log that is not the one we followed** is not believed: another epoch, a gap, a newest
//!   revision behind ours, or another change where our last one was, as in a table that was
//!   restored to an earlier time. Then a fresh list is taken. That is why a page of changes begins
//!   with our last one. Once that is not kept any more, a tenant at rest cannot be told from a
//!   restored one.

use std::{collections::BTreeMap, fmt, mem, time::Duration};

use serde::{Deserialize, Serialize};

use super::client::{
    BatchAnswer, Change, ChangedKey, Changes, ChangesAnswer, Client, Entry, ListPage, MAX_PAGE, MirrorError, Operation,
    Trouble,
};

/// The first wait after a failure is up to this long, each further one up to twice as long as the
/// one before.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// No wait is longer than this and what the service asks for.
const MAX_WAIT: Duration = Duration::from_secs(30);

/// A tenant's copy, and how far it has come.
pub(crate) struct Mirror {
    client: Client,
    page_size: usize,
    kept: Option<Kept>,
    listing: Option<Listing>,
    /// Failures since something last succeeded.
    failures: u32,
}

/// What a mirror needs to go on after a restart: keep it whole or not at all. It holds values,
/// secrets among them.
#[derive(Serialize, Deserialize)]
pub(crate) struct Kept {
    /// The life of the tenant's ledger that this is of.
    epoch: String,
    /// Everything up to this revision is in `entries`, and perhaps something newer.
    revision: u64,
    /// The change at `revision`, once it has been seen.
    last: Option<Change>,
    /// The copy, by key.
    pub(crate) entries: BTreeMap<String, Entry>,
}

/// A list under way.
struct Listing {
    /// As it was before the first page: if it is another one afterwards, the pages are of different
    /// tables.
    epoch: String,
    cursor: Option<String>,
    /// The lowest revision of a page, and the last one's.
    revisions: Option<(u64, u64)>,
    entries: BTreeMap<String, Entry>,
}

/// What came of a step.
pub(crate) struct Step {
    pub(crate) events: Vec<Event>,
    pub(crate) next: Next,
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// The next step, at once.
    Continue,
    /// Nothing: the copy has everything that was committed when the step began. Look again as often
    /// as news matter.
    AtHead,
    /// The same step, after this time.
    Wait(Duration),
}

/// What happened to the copy. As text, a line without values.
#[derive(Debug)]
pub(crate) enum Event {
    /// The feed leads no further from here: everything is read anew.
    FreshList(&'static str),
    /// The copy is that of a whole list.
    Listed { entries: usize, revision: u64 },
    /// A key has a version that the copy did not have.
    Put { key: String, version: u64, revision: u64, has_value: bool },
    /// A key is gone.
    Deleted { key: String },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FreshList(reason) => write!(f, "list    {reason}"),
            Self::Listed { entries, revision } => write!(f, "listed  {entries} entries, revision {revision}"),
            Self::Put { key, version, revision, has_value } => {
                let note = if *has_value { "" } else { ", its value is lost" };
                write!(f, "put     {key} version {version}, revision {revision}{note}")
            }
            Self::Deleted { key } => write!(f, "delete  {key}"),
        }
    }
}

impl Mirror {
    /// An empty copy, or one that goes on from what an earlier one kept. Entries and changes are
    /// read `page_size` at a time: from 2, since a page of changes begins with one that is known
    /// already, to [`MAX_PAGE`].
    pub(crate) fn new(client: Client, page_size: usize, kept: Option<Kept>) -> Self {
        Self { client, page_size, kept, listing: None, failures: 0 }
    }

    /// What there is to keep; none before the first list is complete.
    pub(crate) fn kept(&self) -> Option<&Kept> {
        self.kept.as_ref()
    }

    /// Comes one page further, and never waits by itself. An error means that an operator is
    /// needed.
    pub(crate) async fn step(&mut self) -> Result<Step, MirrorError> {
        match self.one_page().await {
            Ok(step) => {
                self.failures = 0;
                Ok(step)
            }
            Err(Trouble::Later(asked)) => {
                let wait = asked + jitter(self.failures);
                self.failures = self.failures.saturating_add(1);
                Ok(Step { events: Vec::new(), next: Next::Wait(wait) })
            }
            Err(Trouble::Fatal(error)) => Err(error),
        }
    }

    async fn one_page(&mut self) -> Result<Step, Trouble> {
        if let Some(listing) = &mut self.listing {
            let page = self.client.list("", self.page_size, listing.cursor.as_deref()).await?;
            if listing.revisions.is_some_and(|(_, last)| page.revision < last) {
                self.listing = None;
                return self.begin_list("the tenant's revision went back while it was listed").await;
            }
            return Ok(if listing.take(page) { self.take_list() } else { Step::of(Vec::new()) });
        }
        let Some(kept) = &mut self.kept else {
            return self.begin_list("there is no copy yet").await;
        };
        match kept.follow(&self.client, self.page_size).await? {
            Followed::Step(step) => Ok(step),
            Followed::Lost(reason) => self.begin_list(reason).await,
        }
    }

    /// Learns the epoch; the pages come after that, so that a table restored meanwhile shows.
    async fn begin_list(&mut self, reason: &'static str) -> Result<Step, Trouble> {
        let mut answer = self.client.changes(0, 1).await?;
        if let ChangesAnswer::Gone { head } = answer {
            answer = self.client.changes(head, 1).await?;
        }
        let ChangesAnswer::Changes(Changes { epoch, .. }) = answer else { return Err(Trouble::Later(Duration::ZERO)) };
        self.listing = Some(Listing { epoch, cursor: None, revisions: None, entries: BTreeMap::new() });
        Ok(Step::of(vec![Event::FreshList(reason)]))
    }

    /// Has the complete list be the copy.
    fn take_list(&mut self) -> Step {
        let Some(Listing { epoch, revisions, entries: listed, .. }) = self.listing.take() else {
            return Step::of(Vec::new());
        };
        let (revision, _) = revisions.unwrap_or_default();
        let mut entries = self.kept.take().map(|kept| kept.entries).unwrap_or_default();
        let mut events = vec![Event::Listed { entries: listed.len(), revision }];
        let gone: Vec<_> = entries.keys().filter(|key| !listed.contains_key(*key)).cloned().collect();
        let become_of = gone.into_iter().map(|key| (key, None));
        for (key, entry) in become_of.chain(listed.into_iter().map(|(key, entry)| (key, Some(entry)))) {
            events.extend(apply(&mut entries, key, entry));
        }
        self.kept = Some(Kept { epoch, revision, last: None, entries });
        Step::of(events)
    }
}

impl Step {
    fn of(events: Vec<Event>) -> Self {
        Self { events, next: Next::Continue }
    }
}

impl Listing {
    /// Adds a page. Whether it was the last: short and empty ones may have a cursor, too.
    fn take(&mut self, page: ListPage) -> bool {
        let (lowest, _) = self.revisions.unwrap_or((page.revision, page.revision));
        self.revisions = Some((lowest, page.revision));
        self.entries.extend(page.entries.into_iter().map(|entry| (entry.key.clone(), entry)));
        self.cursor = page.cursor;
        self.cursor.is_none()
    }
}

/// What came of following.
enum Followed {
    Step(Step),
    /// The feed is not the one that the copy is of, or does not reach back to it.
    Lost(&'static str),
}

impl Kept {
    /// Takes the next page of changes over, whole or not at all.
    async fn follow(&mut self, client: &Client, page_size: usize) -> Result<Followed, Trouble> {
        // From our last change on, to see that it is still the same one.
        let mut since = self.revision.saturating_sub(1);
        let mut answer = client.changes(since, page_size).await?;
        if matches!(answer, ChangesAnswer::Gone { .. }) && since < self.revision {
            // Perhaps that one alone is not kept any more.
            since = self.revision;
            answer = client.changes(since, page_size).await?;
        }
        let ChangesAnswer::Changes(Changes { revision: head, epoch, commits: mut changes }) = answer else {
            return Ok(Followed::Lost("the changes since the copy are not kept any more"));
        };
        if epoch != self.epoch {
            return Ok(Followed::Lost("the tenant's ledger began a new life"));
        }
        if !(since + 1..).zip(&changes).all(|(expected, change)| change.revision == expected) {
            return Ok(Followed::Lost("the changes have a gap"));
        }
        if since < self.revision {
            if changes.is_empty() || self.last.as_ref().is_some_and(|last| *last != changes[0]) {
                return Ok(Followed::Lost("the copy's last change is not in the feed any more"));
            }
            self.last = Some(changes.remove(0));
        }
        let mut events = Vec::new();
        for (key, entry) in self.what_changed(client, &changes).await? {
            events.extend(apply(&mut self.entries, key, entry));
        }
        // Not the answer's revision: changes that did not fit lie before it, and some that are in
        // the page may lie behind it.
        if let Some(last) = changes.pop() {
            self.revision = last.revision;
            self.last = Some(last);
        }
        let next = if self.revision >= head { Next::AtHead } else { Next::Continue };
        Ok(Followed::Step(Step { events, next }))
    }

    /// What has become of the keys that these changes name; none for those that are gone.
    async fn what_changed(
        &self,
        client: &Client,
        changes: &[Change],
    ) -> Result<BTreeMap<String, Option<Entry>>, Trouble> {
        // Each key's last change decides. What the copy has at that version or a later one was
        // loaded with an earlier change.
        let stays = [Operation::Supersede, Operation::Refuse, Operation::Accept];
        let writes = changes.iter().flat_map(|change| &change.keys).filter(|one| !stays.contains(&one.operation));
        let newest: BTreeMap<_, _> = writes.map(|one| (&one.key, one)).collect();
        let is_news = |key, version| self.entries.get(key).is_none_or(|entry| entry.version < version);
        let news = newest.values().filter(|one| is_news(&one.key, one.version));
        let (gone, wanted): (Vec<&ChangedKey>, Vec<_>) = news.partition(|one| one.operation == Operation::Delete);
        // The feed does not tell when a value that was lost can be had again.
        let is_lost = |(key, entry): &(&String, &Entry)| entry.value.is_none() && !newest.contains_key(key);
        let lost = self.entries.iter().filter(is_lost).map(|(key, _)| key);

        let mut become_of: BTreeMap<_, _> = gone.into_iter().map(|one| (one.key.clone(), None)).collect();
        let wanted: Vec<_> = wanted.into_iter().map(|one| &one.key).chain(lost).cloned().collect();
        for keys in wanted.chunks(MAX_PAGE) {
            load(client, keys.to_vec(), &mut become_of).await?;
        }
        Ok(become_of)
    }
}

/// Loads up to [`MAX_PAGE`] keys.
async fn load(
    client: &Client,
    mut keys: Vec<String>,
    become_of: &mut BTreeMap<String, Option<Entry>>,
) -> Result<(), Trouble> {
    while !keys.is_empty() {
        let batch = match client.batch_get(&keys).await? {
            BatchAnswer::Batch(batch) => batch,
            BatchAnswer::NotServed(index) => {
                // Its tag has lost its route; the feed names it all the same.
                become_of.insert(keys.remove(index), None);
                continue;
            }
        };
        become_of.extend(batch.found.into_iter().map(|entry| (entry.key.clone(), Some(entry))));
        become_of.extend(batch.missing.into_iter().map(|key| (key, None)));
        for key in batch.unavailable {
            let entry = entry_without_value(client, &key).await?;
            become_of.insert(key, entry);
        }
        if batch.unprocessed.len() >= keys.len() {
            return Err(Trouble::Later(Duration::ZERO));
        }
        keys = batch.unprocessed;
    }
    Ok(())
}

/// A key whose value its store has lost: a list tells its version all the same. Of the keys that
/// begin with it, it is the first.
async fn entry_without_value(client: &Client, key: &str) -> Result<Option<Entry>, Trouble> {
    let mut cursor = None;
    loop {
        let page = client.list(key, 1, cursor.as_deref()).await?;
        if let Some(first) = page.entries.into_iter().next() {
            return Ok(Some(first).filter(|first| first.key == key));
        }
        let Some(next) = page.cursor else { return Ok(None) };
        cursor = Some(next);
    }
}

/// Brings a key up to date, and tells if that changed anything.
fn apply(entries: &mut BTreeMap<String, Entry>, key: String, entry: Option<Entry>) -> Option<Event> {
    let Some(mut entry) = entry else {
        return entries.remove(&key).map(|_| Event::Deleted { key });
    };
    let (version, revision, has_value) = (entry.version, entry.revision, entry.value.is_some());
    match entries.get_mut(&key) {
        Some(known) => {
            mem::swap(known, &mut entry);
            if known.etag == entry.etag && has_value == entry.value.is_some() {
                return None;
            }
        }
        None => _ = entries.insert(key.clone(), entry),
    }
    Some(Event::Put { key, version, revision, has_value })
}

/// Full jitter: anything between nothing and a bound that doubles, so that many who failed at once
/// do not come back at once.
fn jitter(failures: u32) -> Duration {
    FIRST_WAIT.saturating_mul(1 << failures.min(16)).min(MAX_WAIT).mul_f64(fastrand::f64())
}
