//! IAM roles of the template: who may take them on, and what they allow. What policies mean is the
//! emulator's to say.

use serde::Deserialize;
use serde_json::Value;

/// A role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// Its name.
    pub name: String,
    /// Who may take it on: a policy document.
    pub trust: Value,
    /// What it allows: policy documents.
    pub policies: Vec<Value>,
}

impl Role {
    /// Every action that a statement allows, with the pattern of its resources.
    pub fn allowed(&self) -> impl Iterator<Item = (String, String)> {
        let statements = self.policies.iter().flat_map(|document| texts_or_objects(&document["Statement"]));
        let allowing = statements.filter(|statement| statement["Effect"] == "Allow");
        allowing.flat_map(|statement| {
            let resources: Vec<_> = texts_or_objects(&statement["Resource"]).filter_map(Value::as_str).collect();
            let actions = texts_or_objects(&statement["Action"]).filter_map(Value::as_str);
            actions
                .flat_map(|action| resources.iter().map(|resource| (action.to_owned(), (*resource).to_owned())))
                .collect::<Vec<_>>()
        })
    }
}

/// One, or all of a list: where IAM takes one it takes several.
fn texts_or_objects(value: &Value) -> impl Iterator<Item = &Value> {
    match value {
        Value::Array(several) => several.as_slice(),
        one => std::slice::from_ref(one),
    }
    .iter()
}

/// `AWS::IAM::Role`: its properties that mean something here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct RoleProperties {
    assume_role_policy_document: Value,
    #[serde(default)]
    policies: Vec<InlinePolicy>,
    #[serde(rename = "MaxSessionDuration", default)]
    _max_session_duration: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct InlinePolicy {
    #[serde(rename = "PolicyName")]
    _policy_name: String,
    policy_document: Value,
}

/// `AWS::IAM::Policy`, which adds to roles.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct PolicyProperties {
    #[serde(rename = "PolicyName")]
    _policy_name: String,
    policy_document: Value,
    roles: Vec<String>,
}

impl RoleProperties {
    pub(super) fn named(self, name: String) -> Role {
        let policies = self.policies.into_iter().map(|policy| policy.policy_document).collect();
        Role { name, trust: self.assume_role_policy_document, policies }
    }
}

impl PolicyProperties {
    /// Adds the policy to its roles; the first of them that is not there.
    pub(super) fn attach(&self, roles: &mut [Role]) -> Result<(), String> {
        for name in &self.roles {
            let role = roles.iter_mut().find(|role| role.name == *name).ok_or_else(|| name.clone())?;
            role.policies.push(self.policy_document.clone());
        }
        Ok(())
    }
}
