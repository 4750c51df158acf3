//! Builds `DynamoDB` update expressions with their conditions.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;

use super::attribute::id_set;
use crate::model::entry::IntentId;

/// An update and its condition. Every attribute that is named here is aliased, so that none can be
/// a reserved word.
#[derive(Clone, Default)]
pub(super) struct Expression {
    set: Vec<String>,
    remove: Vec<String>,
    add: Vec<String>,
    delete: Vec<String>,
    pub(super) condition: String,
    pub(super) names: HashMap<String, String>,
    pub(super) values: HashMap<String, AttributeValue>,
}

impl Expression {
    pub(super) fn new(condition: impl Into<String>) -> Self {
        Self { condition: condition.into(), ..Self::default() }
    }

    /// Sets an attribute, whose value is `:name` for the condition.
    pub(super) fn set(&mut self, name: &str, value: AttributeValue) {
        self.set.push(format!("#{name} = :{name}"));
        self.name(name);
        self.values.insert(format!(":{name}"), value);
    }

    pub(super) fn remove(&mut self, name: &str) {
        self.remove.push(format!("#{name}"));
        self.name(name);
    }

    /// Adds ids to a set.
    pub(super) fn add_ids(&mut self, name: &str, ids: &[IntentId]) {
        if !ids.is_empty() {
            self.add.push(format!("#{name} :added_{name}"));
            self.name(name);
            self.values.insert(format!(":added_{name}"), id_set(ids));
        }
    }

    /// Takes ids off a set.
    pub(super) fn delete_ids(&mut self, name: &str, ids: &[IntentId]) {
        if !ids.is_empty() {
            self.delete.push(format!("#{name} :deleted_{name}"));
            self.name(name);
            self.values.insert(format!(":deleted_{name}"), id_set(ids));
        }
    }

    /// Gives a placeholder of the condition its value.
    pub(super) fn value(&mut self, placeholder: &str, value: AttributeValue) {
        self.values.insert(placeholder.to_owned(), value);
    }

    /// A further condition.
    pub(super) fn and(&mut self, condition: &str) {
        if !self.condition.is_empty() {
            self.condition.push_str(" AND ");
        }
        self.condition.push_str(condition);
    }

    /// That an attribute is as it is known; none for one that is not there.
    pub(super) fn unchanged(&mut self, name: &str, known: Option<AttributeValue>) -> String {
        self.name(name);
        let Some(known) = known else { return format!("attribute_not_exists(#{name})") };
        self.values.insert(format!(":known_{name}"), known);
        format!("#{name} = :known_{name}")
    }

    /// The further condition that an attribute is as it is known.
    pub(super) fn require(&mut self, name: &str, known: Option<AttributeValue>) {
        let unchanged = self.unchanged(name, known);
        self.and(&unchanged);
    }

    fn name(&mut self, name: &str) {
        self.names.insert(format!("#{name}"), name.to_owned());
    }

    /// The update expression.
    pub(super) fn update(&self) -> String {
        let clauses = [("SET", &self.set), ("REMOVE", &self.remove), ("ADD", &self.add), ("DELETE", &self.delete)];
        let clauses = clauses.into_iter().filter(|(_, parts)| !parts.is_empty());
        let clauses: Vec<_> = clauses.map(|(keyword, parts)| format!("{keyword} {}", parts.join(", "))).collect();
        clauses.join(" ")
    }
}

/// Names or values as a request has them: none where there are none, because `DynamoDB` refuses an
/// empty map.
pub(super) fn unless_empty<T>(map: HashMap<String, T>) -> Option<HashMap<String, T>> {
    (!map.is_empty()).then_some(map)
}
