//! Condition operators, as "IAM JSON policy elements: Condition operators" and "Multivalued context
//! keys" in the IAM user guide have them.

use serde_json::Value;

use super::context::{Context, check_key};
use super::pattern::{Pattern, Syntax};
use super::policy::{Effect, arn_start, one_or_many};

/// A statement's `Condition`: all of it must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Condition(Vec<Test>);

/// One key under one operator.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Test {
    operator: Operator,
    key: String,
    values: Vec<Pattern>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Operator {
    compares: Compares,
    negated: bool,
    if_exists: bool,
    set: Option<Set>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compares {
    Exactly,
    IgnoringCase,
    Like,
    Arn,
    Bool,
    Null,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Set {
    All,
    Any,
}

impl Operator {
    fn parse(name: &str) -> Result<Self, String> {
        let unknown = || format!("the emulator does not evaluate the condition operator {name:?}");
        let (set, rest) = match name.split_once(':') {
            Some(("ForAllValues", rest)) => (Some(Set::All), rest),
            Some(("ForAnyValue", rest)) => (Some(Set::Any), rest),
            Some(_) => return Err(unknown()),
            None => (None, name),
        };
        let (base, if_exists) = match rest.strip_suffix("IfExists") {
            Some(base) => (base, true),
            None => (rest, false),
        };
        let (compares, negated) = match base {
            "StringEquals" => (Compares::Exactly, false),
            "StringNotEquals" => (Compares::Exactly, true),
            "StringEqualsIgnoreCase" => (Compares::IgnoringCase, false),
            "StringNotEqualsIgnoreCase" => (Compares::IgnoringCase, true),
            "StringLike" => (Compares::Like, false),
            "StringNotLike" => (Compares::Like, true),
            // "ArnEquals and ArnLike behave identically."
            "ArnEquals" | "ArnLike" => (Compares::Arn, false),
            "ArnNotEquals" | "ArnNotLike" => (Compares::Arn, true),
            "Bool" => (Compares::Bool, false),
            // AWS has no NullIfExists, and a set of nothing has no values to go through.
            "Null" if !if_exists && set.is_none() => (Compares::Null, false),
            _ => return Err(unknown()),
        };
        Ok(Self { compares, negated, if_exists, set })
    }

    /// Takes a value of the policy apart. Variables are for strings and ARNs alone ("Where you can
    /// use policy variables").
    fn value(self, text: &str, variables: bool) -> Result<Pattern, String> {
        let literal = Syntax { wildcards: false, variables: false };
        match self.compares {
            Compares::Exactly | Compares::IgnoringCase => Pattern::parse(text, Syntax { variables, ..literal }),
            Compares::Like => Pattern::parse(text, Syntax { wildcards: true, variables }),
            Compares::Arn => {
                let pattern = Pattern::parse(text, Syntax { wildcards: true, variables })?;
                arn_start(&pattern, text)?;
                Ok(pattern)
            }
            Compares::Bool | Compares::Null => match text.to_ascii_lowercase().as_str() {
                "true" | "false" => Pattern::parse(text, literal),
                _ => Err(format!("{text:?} is neither true nor false")),
            },
        }
    }
}

impl Condition {
    pub(super) fn parse(document: &Value, variables: bool) -> Result<Self, String> {
        let operators = document.as_object().ok_or("Condition is no object")?;
        let mut tests = Vec::new();
        for (name, keys) in operators {
            let operator = Operator::parse(name)?;
            for (key, values) in keys.as_object().ok_or_else(|| format!("{name} is no object"))? {
                check_key(key)?;
                let values = one_or_many(values).into_iter().map(|value| match value {
                    Value::String(text) => operator.value(text, variables),
                    // Templates write true and 5 without quotation marks, and AWS takes them.
                    Value::Bool(_) | Value::Number(_) => operator.value(&value.to_string(), variables),
                    _ => Err(format!("{name} of {key} has a value that is no text")),
                });
                let values = values.collect::<Result<Vec<_>, _>>()?;
                if values.is_empty() || (operator.compares == Compares::Null && values.len() > 1) {
                    return Err(format!("{name} of {key} has {} values", values.len()));
                }
                tests.push(Test { operator, key: key.clone(), values });
            }
        }
        Ok(Self(tests))
    }

    pub(super) fn holds(&self, context: &Context, effect: Effect) -> bool {
        self.0.iter().all(|test| test.holds(context, effect))
    }
}

impl Test {
    fn holds(&self, context: &Context, effect: Effect) -> bool {
        let Operator { compares, negated, if_exists, set } = self.operator;
        let values = context.get(&self.key);
        if compares == Compares::Null {
            let absent = if values.is_empty() { "true" } else { "false" };
            return self.compare(absent, context);
        }
        if values.is_empty() && if_exists {
            // AWS looks for IfExists at each value, so ForAnyValue finds nothing that could hold.
            // Its documentation does not say so; "ForAnyValue:StringEqualsIfExists behaving
            // unexpectedly" on AWS re:Post does.
            return set != Some(Set::Any);
        }
        // "If AWS cannot resolve a variable this might cause the entire statement to be invalid."
        // What compares with such a value never matches; where the lack of a match would allow
        // something, the test fails instead.
        let unresolved = || self.values.iter().any(|value| value.resolve(context).is_none());
        if negated && effect == Effect::Allow && unresolved() {
            return false;
        }
        match set {
            Some(Set::All) => values.iter().all(|value| self.compare(value, context) != negated),
            Some(Set::Any) => values.iter().any(|value| self.compare(value, context) != negated),
            // A key of several values under an operator for one: AWS takes any match.
            None => values.iter().any(|value| self.compare(value, context)) != negated,
        }
    }

    /// Whether one of the policy's values stands for the value of the call.
    fn compare(&self, value: &str, context: &Context) -> bool {
        let mut patterns = self.values.iter().filter_map(|pattern| pattern.resolve(context));
        patterns.any(|pattern| match self.operator.compares {
            Compares::Exactly | Compares::Like => pattern.matches(value),
            Compares::IgnoringCase | Compares::Bool | Compares::Null => pattern.matches_ignoring_case(value),
            Compares::Arn => pattern.matches_arn(value),
        })
    }
}
