//! Builds `DynamoDB` update expressions.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;

/// The parts of an update expression. Every attribute is aliased, so that none can be a reserved
/// word.
pub(super) struct Expression {
    set: Vec<String>,
    remove: Vec<String>,
    /// Clauses of other kinds, each with its own keyword.
    pub(super) other: Vec<String>,
    pub(super) condition: String,
    pub(super) names: HashMap<String, String>,
    pub(super) values: HashMap<String, AttributeValue>,
}

impl Expression {
    pub(super) fn new(condition: String) -> Self {
        Self {
            set: Vec::new(),
            remove: Vec::new(),
            other: Vec::new(),
            condition,
            names: HashMap::new(),
            values: HashMap::new(),
        }
    }

    pub(super) fn set(&mut self, name: &str, value: AttributeValue) {
        self.set.push(format!("#{name} = :{name}"));
        self.names.insert(format!("#{name}"), name.to_owned());
        self.values.insert(format!(":{name}"), value);
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.remove.push(format!("#{name}"));
        self.names.insert(format!("#{name}"), name.to_owned());
    }

    /// The update expression.
    pub(super) fn update(&self) -> String {
        let mut parts = Vec::new();
        if !self.set.is_empty() {
            parts.push(format!("SET {}", self.set.join(", ")));
        }
        if !self.remove.is_empty() {
            parts.push(format!("REMOVE {}", self.remove.join(", ")));
        }
        parts.extend(self.other.iter().cloned());
        parts.join(" ")
    }
}

/// Names or values as a request has them: none where there are none, because `DynamoDB` refuses an
/// empty map.
pub(super) fn unless_empty<T>(map: HashMap<String, T>) -> Option<HashMap<String, T>> {
    (!map.is_empty()).then_some(map)
}
