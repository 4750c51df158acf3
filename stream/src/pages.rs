//! A tenant's entries in memory: sorted, packed, copied on write.
//!
//! Millions of small entries cost more in pointers and allocations than in bytes. So they lie one
//! after the other in pages of a few kilobytes. A change copies the page that it falls into, and
//! readers of the old page keep it.

use std::{collections::BTreeMap, sync::Arc};

use prost::encoding::{decode_varint, encode_varint};
use tenantry::tail::{Value, Valued};

/// After how many bytes a page ends. One entry may be larger.
const PAGE_BYTES: usize = 4_096;

/// Entries in byte order of their keys.
#[derive(Clone, Debug)]
pub struct Pages(List);

/// Most tenants have one page, and need no list.
#[derive(Clone, Debug)]
enum List {
    One(Arc<[u8]>),
    Many(Arc<[Arc<[u8]>]>),
}

/// An entry within a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot<'a> {
    /// The key.
    pub key: &'a str,
    /// Counts the writes of the key.
    pub version: u64,
    /// The tenant's revision that wrote it.
    pub revision: u64,
    /// Its value.
    pub value: SlotValue<'a>,
}

/// A value, or why it is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotValue<'a> {
    /// JSON.
    Present(&'a str),
    /// A secret that was loaded with rights that do not cover it.
    Withheld,
    /// Its store does not have it.
    Unavailable,
}

impl Pages {
    /// These entries.
    pub fn new<'a>(entries: impl IntoIterator<Item = (&'a str, &'a Valued)>) -> Self {
        Self::of(entries.into_iter().map(|(key, entry)| Slot::of(key, entry)))
    }

    /// These entries, in the order of their keys.
    pub fn of<'a>(slots: impl IntoIterator<Item = Slot<'a>>) -> Self {
        let mut writer = Writer::default();
        for slot in slots {
            writer.add(|bytes| write(bytes, slot));
        }
        Self::over(writer.finish())
    }

    fn over(mut pages: Vec<Arc<[u8]>>) -> Self {
        match pages.len() {
            // One without entries, if there are none.
            0 | 1 => Self(List::One(pages.pop().unwrap_or_default())),
            _ => Self(List::Many(pages.into())),
        }
    }

    fn list(&self) -> &[Arc<[u8]>] {
        match &self.0 {
            List::One(page) => std::slice::from_ref(page),
            List::Many(pages) => pages,
        }
    }

    /// The entries that were written by [`Pages::append_to`].
    pub fn read(mut bytes: &[u8]) -> Self {
        Self::of(std::iter::from_fn(move || {
            let (slot, _, behind) = read(bytes)?;
            bytes = behind;
            Some(slot)
        }))
    }

    /// Appends all entries to `bytes`.
    pub fn append_to(&self, bytes: &mut Vec<u8>) {
        self.list().iter().for_each(|page| bytes.extend_from_slice(page));
    }

    /// These entries with some of them put or, where there is none, removed.
    #[must_use]
    pub fn with(&self, changes: &BTreeMap<&str, Option<&Valued>>) -> Self {
        let mut pages: Vec<Arc<[u8]>> = Vec::with_capacity(self.list().len() + 1);
        let mut changes = changes.iter().peekable();
        for (index, page) in self.list().iter().enumerate() {
            let end = self.list().get(index + 1).and_then(|next| first_key(next));
            let is_here = |key: &str| end.is_none_or(|end| key < end);
            if changes.peek().is_none_or(|(key, _)| !is_here(key)) {
                pages.push(Arc::clone(page));
                continue;
            }
            let mut writer = Writer::default();
            let mut rest = page.as_ref();
            while let Some((slot, raw, behind)) = read(rest) {
                while let Some((key, entry)) = changes.next_if(|(key, _)| **key < slot.key) {
                    writer.put(key, *entry);
                }
                match changes.next_if(|(key, _)| **key == slot.key) {
                    Some((key, entry)) => writer.put(key, *entry),
                    None => writer.add(|bytes| bytes.extend_from_slice(raw)),
                }
                rest = behind;
            }
            while let Some((key, entry)) = changes.next_if(|(key, _)| is_here(key)) {
                writer.put(key, *entry);
            }
            pages.extend(writer.finish());
        }
        Self::over(pages)
    }

    /// The entry of a key.
    pub fn get(&self, key: &str) -> Option<Slot<'_>> {
        self.from(key).next().filter(|slot| slot.key == key)
    }

    /// The entries from the key `from` on.
    pub fn from<'a>(&'a self, from: &str) -> impl Iterator<Item = Slot<'a>> + use<'a> {
        let behind = self.list().partition_point(|page| first_key(page).is_some_and(|first| first <= from));
        let mut pages = self.list()[behind.saturating_sub(1)..].iter();
        let mut rest: &[u8] = pages.next().map_or(&[], |page| page);
        // Within the first page only: all others begin after it.
        while let Some((slot, _, behind)) = read(rest)
            && slot.key < from
        {
            rest = behind;
        }
        std::iter::from_fn(move || {
            loop {
                if let Some((slot, _, behind)) = read(rest) {
                    rest = behind;
                    return Some(slot);
                }
                rest = pages.next()?;
            }
        })
    }

    /// All entries.
    pub fn iter(&self) -> impl Iterator<Item = Slot<'_>> {
        self.from("")
    }

    /// How many bytes the entries take.
    pub fn bytes(&self) -> usize {
        // With the reference counts of the pages, and the pointers to them.
        self.list().iter().map(|page| page.len() + 32).sum::<usize>()
    }
}

impl<'a> Slot<'a> {
    fn of(key: &'a str, entry: &'a Valued) -> Self {
        let value = match &entry.value {
            Value::Present(value) => SlotValue::Present(value.as_json()),
            Value::Withheld => SlotValue::Withheld,
            Value::Unavailable => SlotValue::Unavailable,
        };
        Self { key, version: entry.version.get(), revision: entry.revision.get(), value }
    }
}

/// Equal entries may lie in other pages.
impl PartialEq for Pages {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

/// Fills page after page.
#[derive(Default)]
struct Writer {
    pages: Vec<Arc<[u8]>>,
    page: Vec<u8>,
}

impl Writer {
    fn put(&mut self, key: &str, entry: Option<&Valued>) {
        if let Some(entry) = entry {
            self.add(|bytes| write(bytes, Slot::of(key, entry)));
        }
    }

    fn add(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        let begin = self.page.len();
        write(&mut self.page);
        if self.page.len() > PAGE_BYTES && begin > 0 {
            let next = self.page.split_off(begin);
            self.pages.push(std::mem::replace(&mut self.page, next).into());
        }
    }

    fn finish(mut self) -> Vec<Arc<[u8]>> {
        if !self.page.is_empty() {
            self.pages.push(self.page.into());
        }
        self.pages
    }
}

// An entry: the key's length and bytes, version, revision, the value's length and status in one
// number, the value. Numbers are protocol buffers' varints.

const WITHHELD: u64 = 1;
const UNAVAILABLE: u64 = 2;

fn write(bytes: &mut Vec<u8>, slot: Slot<'_>) {
    let (value, status) = match slot.value {
        SlotValue::Present(json) => (json, 0),
        SlotValue::Withheld => ("", WITHHELD),
        SlotValue::Unavailable => ("", UNAVAILABLE),
    };
    encode_varint(slot.key.len() as u64, bytes);
    bytes.extend_from_slice(slot.key.as_bytes());
    encode_varint(slot.version, bytes);
    encode_varint(slot.revision, bytes);
    encode_varint((value.len() as u64) << 2 | status, bytes);
    bytes.extend_from_slice(value.as_bytes());
}

/// The first entry, its bytes, and what lies behind it.
fn read(bytes: &[u8]) -> Option<(Slot<'_>, &[u8], &[u8])> {
    let mut rest = bytes;
    let key = read_key(&mut rest)?;
    let version = decode_varint(&mut rest).ok()?;
    let revision = decode_varint(&mut rest).ok()?;
    let length = decode_varint(&mut rest).ok()?;
    let value = rest.split_off(..usize::try_from(length >> 2).ok()?)?;
    let value = match length & 3 {
        0 => SlotValue::Present(str::from_utf8(value).ok()?),
        WITHHELD => SlotValue::Withheld,
        _ => SlotValue::Unavailable,
    };
    let slot = Slot { key: str::from_utf8(key).ok()?, version, revision, value };
    Some((slot, &bytes[..bytes.len() - rest.len()], rest))
}

/// Takes the key off the beginning of an entry.
fn read_key<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    // The end of a page, for which no error need be made.
    if bytes.is_empty() {
        return None;
    }
    let length = decode_varint(bytes).ok()?;
    bytes.split_off(..usize::try_from(length).ok()?)
}

fn first_key(mut page: &[u8]) -> Option<&str> {
    str::from_utf8(read_key(&mut page)?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tenantry::model::{
        entry::{Revision, Version},
        value::ConfigValue,
    };

    use super::*;

    impl Slot<'_> {
        fn valued(&self) -> Option<Valued> {
            let value = match self.value {
                SlotValue::Present(json) => Value::Present(ConfigValue::parse(json).ok()?),
                SlotValue::Withheld => Value::Withheld,
                SlotValue::Unavailable => Value::Unavailable,
            };
            Some(Valued { version: Version::new(self.version), revision: Revision::new(self.revision), value })
        }
    }

    fn valued(version: u64, revision: u64, value: Value) -> Valued {
        Valued { version: Version::new(version), revision: Revision::new(revision), value }
    }

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            8 => ".{0,200}".prop_map(|text| Value::Present(ConfigValue::from_text(&text))),
            1 => (5_000_usize..9_000).prop_map(|length| Value::Present(ConfigValue::from_text(&"x".repeat(length)))),
            1 => Just(Value::Withheld),
            1 => Just(Value::Unavailable),
        ]
    }

    fn entries() -> impl Strategy<Value = BTreeMap<String, Valued>> {
        let entry = (any::<u64>(), any::<u64>(), value())
            .prop_map(|(version, revision, value)| valued(version, revision, value));
        proptest::collection::btree_map("[a-d]{1,4}", entry, 0..80)
    }

    fn packed(entries: &BTreeMap<String, Valued>) -> Pages {
        Pages::new(entries.iter().map(|(key, entry)| (key.as_str(), entry)))
    }

    fn unpacked(pages: &Pages) -> BTreeMap<String, Valued> {
        pages.iter().map(|slot| (slot.key.to_owned(), slot.valued().unwrap())).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        /// Promise: pages are what a sorted map would be, however they came about: each entry to
        /// the letter, found by its key, in order, and what was read before a change stays as it
        /// was.
        #[test]
        fn pages_are_a_sorted_map(
            mut entries in entries(),
            rounds in proptest::collection::vec((entries(), proptest::collection::vec("[a-d]{1,4}", 0..10)), 0..4),
            from in "[a-d]{0,4}",
        ) {
            let mut pages = packed(&entries);
            for (puts, removed) in rounds {
                let (before, kept) = (unpacked(&pages), pages.clone());
                let mut changes: BTreeMap<&str, Option<&Valued>> = puts.iter().map(|(key, entry)| (key.as_str(), Some(entry))).collect();
                changes.extend(removed.iter().map(|key| (key.as_str(), None)));
                pages = pages.with(&changes);
                for (key, entry) in changes {
                    match entry {
                        Some(entry) => entries.insert(key.to_owned(), entry.clone()),
                        None => entries.remove(key),
                    };
                }
                prop_assert_eq!(unpacked(&kept), before);
            }
            prop_assert_eq!(&unpacked(&pages), &entries);
            prop_assert_eq!(pages.iter().count(), entries.len());
            let found: Vec<_> = pages.from(&from).map(|slot| slot.key).collect();
            let expected: Vec<_> = entries.range(from.clone()..).map(|(key, _)| key.as_str()).collect();
            prop_assert_eq!(found, expected);
            prop_assert_eq!(pages.get(&from).and_then(|slot| slot.valued()), entries.get(&from).cloned());
        }
    }

    /// Promise: a change of one key copies one page, not the tenant.
    #[test]
    fn a_change_copies_one_page() {
        let entries = (0..1_000)
            .map(|n| (format!("key-{n:04}"), valued(1, n, Value::Present(ConfigValue::from_text("some value")))));
        let pages = packed(&entries.collect());
        let changed = pages.with(&BTreeMap::from([("key-0500", None)]));
        let copied = changed.list().iter().filter(|page| !pages.list().iter().any(|old| Arc::ptr_eq(old, page)));
        assert_eq!(copied.count(), 1);
        assert!(pages.list().len() > 5);
    }
}
