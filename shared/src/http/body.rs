//! Request bodies: JSON objects whose members are all known.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, IgnoredAny, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::value::RawValue;

use super::{Problem, ProblemType, comment, query::MAX_COUNTER};
use crate::{
    model::{comment::Comment, entry::Version, value::ConfigValue},
    redact::Redacted,
};

/// How much of what the JSON parser says is passed on, in characters: it repeats names and texts of
/// the body, however long they are.
const MAX_SHOWN: usize = 200;
/// How many items of a list are kept; no request may have more.
const MAX_ITEMS: usize = 100;

/// `PUT /v1/config/{key+}`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PutBody {
    value: Redacted<Box<RawValue>>,
    #[serde(default)]
    comment: Redacted<Option<String>>,
}

/// `POST /v1/rollback/{key+}`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollbackBody {
    version: u64,
    #[serde(default)]
    comment: Redacted<Option<String>>,
}

/// `POST /v1/batch-get`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchGetBody {
    keys: Items,
}

/// `POST /v1/transactions`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TransactionBody {
    operations: Items,
    #[serde(default)]
    comment: Redacted<Option<String>>,
}

/// One operation of a transaction.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct OperationBody {
    /// What to do.
    pub op: OperationName,
    /// The key.
    pub key: String,
    /// The value of a put.
    #[serde(default, deserialize_with = "null_is_a_value")]
    value: Option<Redacted<Box<RawValue>>>,
    /// As the header `If-Match`.
    #[serde(default)]
    pub if_match: Option<String>,
    /// As the header `If-None-Match`.
    #[serde(default)]
    pub if_none_match: Option<String>,
}

/// The operations of transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OperationName {
    /// Create or replace.
    Put,
    /// Delete.
    Delete,
}

impl PutBody {
    /// The value.
    pub fn value(&self) -> Result<ConfigValue, Problem> {
        Ok(ConfigValue::parse(self.value.get())?)
    }

    /// Why it is written.
    pub fn comment(&self) -> Result<Option<Comment>, Problem> {
        comment(self.comment.as_deref(), ProblemType::InvalidBody)
    }
}

impl RollbackBody {
    /// The version whose value the key gets.
    pub fn version(&self) -> Result<Version, Problem> {
        if (1..=MAX_COUNTER).contains(&self.version) {
            Ok(Version::new(self.version))
        } else {
            Err(Problem::new(ProblemType::InvalidBody, "versions count from 1"))
        }
    }

    /// Why the key goes back there.
    pub fn comment(&self) -> Result<Option<Comment>, Problem> {
        comment(self.comment.as_deref(), ProblemType::InvalidBody)
    }
}

impl BatchGetBody {
    /// How many keys there are.
    pub fn count(&self) -> usize {
        self.keys.count
    }

    /// The keys as texts. One that is none has the problem.
    pub fn keys(&self) -> impl Iterator<Item = Result<String, Problem>> {
        self.keys.kept.iter().enumerate().map(|(index, raw)| {
            serde_json::from_str(raw.get()).map_err(|error| malformed("keys", index, &error).of_item(index, None))
        })
    }
}

impl TransactionBody {
    /// How many operations there are.
    pub fn count(&self) -> usize {
        self.operations.count
    }

    /// Why it is written, all of it.
    pub fn comment(&self) -> Result<Option<Comment>, Problem> {
        comment(self.comment.as_deref(), ProblemType::InvalidBody)
    }

    /// Puts and deletes. One that is not of its form has the problem.
    pub fn operations(&self) -> impl Iterator<Item = Result<OperationBody, Problem>> {
        self.operations.kept.iter().enumerate().map(|(index, raw)| match serde_json::from_str(raw.get()) {
            Ok(Object(operation)) => Ok(operation),
            Err(error) => {
                // What is wrong may stand beside a key that tells the caller more than the position
                // does.
                let named: Option<Object<Named>> = serde_json::from_str(raw.get()).ok();
                let key = named.as_ref().map(|Object(named)| named.key.as_str());
                Err(malformed("operations", index, &error).of_item(index, key))
            }
        })
    }
}

impl OperationBody {
    /// The value of a put; none for a delete.
    pub fn value(&self) -> Result<Option<ConfigValue>, Problem> {
        match (self.op, &self.value) {
            (OperationName::Put, Some(value)) => Ok(Some(ConfigValue::parse(value.get())?)),
            (OperationName::Delete, None) => Ok(None),
            (OperationName::Put, None) => {
                Err(Problem::new(ProblemType::InvalidBody, format!("the put of {:?} has no value", self.key)))
            }
            (OperationName::Delete, Some(_)) => Err(Problem::new(
                ProblemType::InvalidBody,
                format!("the delete of {:?} has a value; leave it out", self.key),
            )),
        }
    }
}

/// Parses a body.
pub(super) fn parse<T: DeserializeOwned>(body: &str, form: &str) -> Result<T, Problem> {
    match serde_json::from_str(body) {
        Ok(Object(parsed)) => Ok(parsed),
        Err(error) => {
            let rule = format!("the body is not a JSON object of the form {form}: {}", shown(&error));
            Err(Problem::new(ProblemType::InvalidBody, rule))
        }
    }
}

fn malformed(list: &str, index: usize, error: &serde_json::Error) -> Problem {
    Problem::new(ProblemType::InvalidBody, format!("{list}[{index}] is not of its form: {}", shown(error)))
}

fn shown(error: &serde_json::Error) -> String {
    error.to_string().chars().take(MAX_SHOWN).collect()
}

/// A list, whose items are parsed one by one, so that a problem can say which of them has it.
#[derive(Debug)]
struct Items {
    kept: Redacted<Vec<Box<RawValue>>>,
    count: usize,
}

impl<'de> Deserialize<'de> for Items {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Items;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Items, A::Error> {
                let mut kept = Vec::new();
                while kept.len() < MAX_ITEMS {
                    let Some(item) = sequence.next_element()? else { break };
                    kept.push(item);
                }
                // Millions of items fit into a body; those that are too many are not worth memory.
                let mut count = kept.len();
                while sequence.next_element::<IgnoredAny>()?.is_some() {
                    count += 1;
                }
                Ok(Items { kept: Redacted(kept), count })
            }
        }
        deserializer.deserialize_seq(List)
    }
}

/// An object with a key, whatever else it holds.
#[derive(Deserialize)]
struct Named {
    key: String,
}

/// A JSON object. Code that serde derives takes an array of the members' values for one too, which
/// nobody means to send.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_map(Members(PhantomData)).map(Object)
    }
}

fn null_is_a_value<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Redacted<Box<RawValue>>>, D::Error> {
    Redacted::deserialize(deserializer).map(Some)
}
