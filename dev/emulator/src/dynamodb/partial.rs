//! Answers that show less than there is: eventually consistent reads that lag, and pages that end
//! early.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::faults::View;

/// How a read is cut short.
#[derive(Debug)]
pub(super) enum Partial {
    /// `GetItem` finds no item.
    NoItem,
    /// `Query` or `Scan` finds nothing, and that is all.
    NoItems,
    /// `BatchGetItem` finds nothing in these tables.
    NothingIn(Vec<String>),
    /// `Query` or `Scan` looks at one item: the request to pass on.
    OneItem(Value),
    /// `Query` or `Scan` gets no further than the key that it came with.
    NoFurther(Value),
    /// `BatchGetItem` reads a part of the keys: the request to pass on, and what is left, by table.
    Half { request: Value, left: Map<String, Value> },
}

impl Partial {
    /// None if such a call is never answered that way.
    pub(super) fn of(view: View, operation: &str, body: &[u8]) -> Option<Self> {
        if view == View::Whole {
            return None;
        }
        let request: Value = serde_json::from_slice(body).ok()?;
        let lags = |request: &Value| request["ConsistentRead"] != json!(true);
        match (view, operation) {
            (View::Stale, "GetItem") if lags(&request) => Some(Self::NoItem),
            (View::Stale, "Query" | "Scan") if lags(&request) => Some(Self::NoItems),
            (View::Stale, "BatchGetItem") => {
                let tables = request["RequestItems"].as_object()?.iter();
                let lagging: Vec<String> =
                    tables.filter(|(_, asked)| lags(asked)).map(|(table, _)| table.clone()).collect();
                (!lagging.is_empty()).then_some(Self::NothingIn(lagging))
            }
            (View::EmptyPage, "Query" | "Scan") => {
                let start = request["ExclusiveStartKey"].clone();
                if start.is_null() { with_limit_one(request).map(Self::OneItem) } else { Some(Self::NoFurther(start)) }
            }
            (View::EmptyPage, "BatchGetItem") => half(request),
            _ => None,
        }
    }

    /// What the engine is asked instead, if not what the caller asks.
    pub(super) fn request(&self) -> Option<Bytes> {
        match self {
            Self::OneItem(request) | Self::Half { request, .. } => Some(request.to_string().into()),
            Self::NoItem | Self::NoItems | Self::NothingIn(_) | Self::NoFurther(_) => None,
        }
    }

    /// What the caller is answered instead, if not what the engine answers.
    pub(super) fn answer(self, body: &[u8]) -> Option<Bytes> {
        let mut answer: Map<String, Value> = serde_json::from_slice(body).ok()?;
        match self {
            Self::OneItem(_) => return None,
            Self::NoItem => drop(answer.remove("Item")),
            Self::NoItems => {
                empty(&mut answer);
                answer.remove("LastEvaluatedKey");
            }
            Self::NoFurther(start) => {
                empty(&mut answer);
                answer.insert("LastEvaluatedKey".to_owned(), start);
            }
            Self::NothingIn(tables) => {
                for table in tables {
                    if let Some(items) = answer.get_mut("Responses").and_then(|responses| responses.get_mut(&table)) {
                        *items = json!([]);
                    }
                }
            }
            Self::Half { left, .. } => {
                let unprocessed = answer.entry("UnprocessedKeys").or_insert_with(|| json!({})).as_object_mut()?;
                for (table, rest) in left {
                    // The engine may have left keys of its own, as an answer has its largest size.
                    match unprocessed.get_mut(&table).and_then(|own| own.get_mut("Keys")?.as_array_mut()) {
                        Some(own) => own.extend(rest["Keys"].as_array().cloned().unwrap_or_default()),
                        None => drop(unprocessed.insert(table, rest)),
                    }
                }
            }
        }
        Some(Value::Object(answer).to_string().into())
    }
}

/// Leaves no item; an answer that only counts has none to begin with.
fn empty(answer: &mut Map<String, Value>) {
    if let Some(items) = answer.get_mut("Items") {
        *items = json!([]);
    }
    answer.insert("Count".to_owned(), json!(0));
    answer.insert("ScannedCount".to_owned(), json!(0));
}

/// A limit that is no number, or too small, is left for the engine to refuse.
fn with_limit_one(mut request: Value) -> Option<Value> {
    if !request["Limit"].is_null() && request["Limit"].as_u64().is_none_or(|limit| limit == 0) {
        return None;
    }
    request.as_object_mut()?.insert("Limit".to_owned(), json!(1));
    Some(request)
}

/// Reads half of the keys, rounded up; none if that is all of them.
fn half(mut request: Value) -> Option<Partial> {
    let tables = request.get_mut("RequestItems")?.as_object_mut()?;
    let count = |asked: &Value| asked["Keys"].as_array().map_or(0, Vec::len);
    let mut read = tables.values().map(count).sum::<usize>().div_ceil(2);
    let mut left = Map::new();
    for (table, asked) in tables.iter_mut() {
        let Some(keys) = asked.get_mut("Keys").and_then(Value::as_array_mut) else { continue };
        let rest = keys.split_off(read.min(keys.len()));
        read -= keys.len();
        if !rest.is_empty() {
            let mut unread = asked.clone();
            unread["Keys"] = json!(rest);
            left.insert(table.clone(), unread);
        }
    }
    tables.retain(|table, asked| count(asked) > 0 || !left.contains_key(table));
    (!left.is_empty()).then_some(Partial::Half { request, left })
}
