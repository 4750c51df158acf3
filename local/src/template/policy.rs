//! What the role of a function allows: as much of IAM's policies as the template uses.

use serde::Deserialize;

/// The allowed actions, with the resources that they are allowed on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    allowed: Vec<(String, String)>,
}

/// A policy document, as `CloudFormation` has it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct PolicyDocument {
    statement: Vec<Statement>,
}

/// A condition narrows what is allowed; none of those in use can be told from a call, so they are not looked at.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Statement {
    #[serde(rename = "Sid")]
    _sid: Option<String>,
    effect: Effect,
    action: OneOrMore,
    resource: OneOrMore,
    #[serde(rename = "Condition")]
    _condition: Option<serde_json::Value>,
}

/// A denial would have to be understood, and there is none.
#[derive(Debug, Deserialize)]
enum Effect {
    Allow,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

impl OneOrMore {
    fn all(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::More(more) => more,
        }
    }
}

impl Policy {
    pub(super) fn of(documents: &[PolicyDocument]) -> Self {
        let mut allowed = Vec::new();
        for statement in documents.iter().flat_map(|document| &document.statement) {
            let Effect::Allow = statement.effect;
            for action in statement.action.all() {
                allowed.extend(statement.resource.all().iter().map(|resource| (action.clone(), resource.clone())));
            }
        }
        Self { allowed }
    }

    /// Whether `action` is allowed on `resource`.
    pub fn allows(&self, action: &str, resource: &str) -> bool {
        self.allowed.iter().any(|(actions, resources)| matches(actions, action) && matches(resources, resource))
    }

    /// Every allowed action, with the pattern of its resources.
    pub fn allowed(&self) -> impl Iterator<Item = (&str, &str)> {
        self.allowed.iter().map(|(action, resource)| (action.as_str(), resource.as_str()))
    }
}

/// Whether `text` is of the pattern, in which `*` stands for any characters.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, rest)) => text.strip_prefix(start).is_some_and(|text| {
            text.char_indices().map(|(at, _)| at).chain([text.len()]).any(|at| matches(rest, &text[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Promise: what is not allowed in so many words is not allowed.
    #[test]
    fn policies_allow_what_they_name() {
        let document = json!({"Statement": [
            {"Effect": "Allow", "Action": ["ssm:GetParameters", "ssm:PutParameter"], "Resource": "arn:aws:ssm:r:1:parameter/t/*"},
            {"Sid": "Describe", "Effect": "Allow", "Action": "ssm:DescribeParameters", "Resource": ["*"]},
        ]});
        let policy = Policy::of(&[serde_json::from_value(document).unwrap()]);
        assert!(policy.allows("ssm:PutParameter", "arn:aws:ssm:r:1:parameter/t/acme/k"));
        assert!(policy.allows("ssm:DescribeParameters", "*"));
        for (action, resource) in [
            ("ssm:PutParameter", "arn:aws:ssm:r:1:parameter/other/k"),
            ("ssm:DeleteParameter", "arn:aws:ssm:r:1:parameter/t/k"),
            ("ssm:GetParameter", "arn:aws:ssm:r:1:parameter/t/k"),
        ] {
            assert!(!policy.allows(action, resource), "{action} {resource}");
        }
        assert_eq!(policy.allowed().count(), 3);
        let denial = json!({"Statement": [{"Effect": "Deny", "Action": "*", "Resource": "*"}]});
        assert!(serde_json::from_value::<PolicyDocument>(denial).is_err());
    }
}
