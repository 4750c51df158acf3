//! What `CloudFormation` computes when it deploys a template (`Ref`, `Fn::Sub`, conditions, …),
//! computed for this machine.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use serde_json::{Map, Value};

/// Names that stand in a template without being declared there, as they are locally.
#[derive(Debug, Clone)]
pub struct Deployment {
    /// `AWS::Region`.
    pub region: String,
    /// `AWS::AccountId`, 12 digits.
    pub account: String,
    /// `AWS::StackName`; names that `CloudFormation` would make up begin with it.
    pub stack: String,
    /// Values of the template's parameters; the others have their defaults. Lists are comma
    /// separated.
    pub parameters: BTreeMap<String, String>,
}

/// What in a template has no local value.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResolveError {
    /// A reference to nothing.
    #[error("{0} is neither a parameter nor a resource of the template")]
    UnknownName(String),
    /// A parameter without a default that was given no value.
    #[error("the parameter {0} has neither a default nor a local value")]
    NoValue(String),
    /// Local values for parameters that the template does not declare.
    #[error("the template has no parameter {0}")]
    UnknownParameter(String),
    /// An attribute without a local counterpart.
    #[error("{0}.{1} has no local value")]
    UnknownAttribute(String, String),
    /// An intrinsic function that this module does not compute, or one with arguments it does not
    /// take.
    #[error("{0} is not supported locally")]
    Unsupported(String),
    /// Definitions that refer to one another.
    #[error("the template refers to itself in a circle")]
    Circle,
}

/// The deepest nesting of references; more can only be a circle.
const MAX_DEPTH: usize = 64;

/// Computes the values of one template.
#[derive(Debug)]
pub(super) struct Resolver<'a> {
    template: &'a Value,
    deployment: &'a Deployment,
    /// The parameters that were asked for.
    asked: RefCell<BTreeSet<String>>,
}

impl<'a> Resolver<'a> {
    /// A resolver for `template` in long form.
    pub(super) fn new(template: &'a Value, deployment: &'a Deployment) -> Result<Self, ResolveError> {
        for name in deployment.parameters.keys() {
            if template["Parameters"].get(name).is_none() {
                return Err(ResolveError::UnknownParameter(name.clone()));
            }
        }
        Ok(Self { template, deployment, asked: RefCell::default() })
    }

    /// The parameters that were given a local value which nobody has asked for.
    pub(super) fn unread(&self) -> Vec<&'a str> {
        let asked = self.asked.borrow();
        self.deployment.parameters.keys().filter(|name| !asked.contains(*name)).map(String::as_str).collect()
    }

    /// The value with everything computed; null where nothing is left of it (`AWS::NoValue`).
    pub(super) fn resolve(&self, value: &Value) -> Result<Value, ResolveError> {
        Ok(self.value(value, 0)?.unwrap_or(Value::Null))
    }

    /// What `!Ref` gives for a resource.
    pub(super) fn reference(&self, logical_id: &str) -> Result<Value, ResolveError> {
        Ok(self.name(logical_id, 0)?.unwrap_or(Value::Null))
    }

    /// Whether the condition of this name holds.
    pub(super) fn holds(&self, condition: &str) -> Result<bool, ResolveError> {
        self.condition(condition, 0)
    }

    // `None` is AWS::NoValue: the member or item disappears.
    fn value(&self, value: &Value, depth: usize) -> Result<Option<Value>, ResolveError> {
        if depth > MAX_DEPTH {
            return Err(ResolveError::Circle);
        }
        match value {
            Value::Object(object) => {
                if let Some((name, argument)) = intrinsic(object) {
                    return self.call(name, argument, depth + 1);
                }
                let mut resolved = Map::new();
                for (name, member) in object {
                    if let Some(member) = self.value(member, depth + 1)? {
                        resolved.insert(name.clone(), member);
                    }
                }
                Ok(Some(Value::Object(resolved)))
            }
            Value::Array(items) => {
                let mut resolved = Vec::with_capacity(items.len());
                for item in items {
                    resolved.extend(self.value(item, depth + 1)?);
                }
                Ok(Some(Value::Array(resolved)))
            }
            plain => Ok(Some(plain.clone())),
        }
    }

    fn call(&self, function: &str, argument: &Value, depth: usize) -> Result<Option<Value>, ResolveError> {
        let unsupported = || ResolveError::Unsupported(format!("{function} {argument}"));
        match (function, argument) {
            ("Ref", Value::String(name)) => self.name(name, depth),
            ("Fn::GetAtt", Value::Array(path)) => match path.as_slice() {
                [Value::String(resource), Value::String(attribute)] => {
                    self.attribute(resource, attribute, depth).map(Some)
                }
                _ => Err(unsupported()),
            },
            ("Fn::Sub", Value::String(text)) => self.substitute(text, &Map::new(), depth).map(Some),
            ("Fn::Sub", Value::Array(parts)) => match parts.as_slice() {
                [Value::String(text), Value::Object(names)] => self.substitute(text, names, depth).map(Some),
                _ => Err(unsupported()),
            },
            ("Fn::Join", Value::Array(parts)) => match parts.as_slice() {
                [Value::String(delimiter), list] => {
                    let Some(Value::Array(items)) = self.value(list, depth)? else {
                        return Err(unsupported());
                    };
                    let texts = items.iter().map(text).collect::<Option<Vec<_>>>().ok_or_else(unsupported)?;
                    Ok(Some(Value::String(texts.join(delimiter))))
                }
                _ => Err(unsupported()),
            },
            ("Fn::FindInMap", Value::Array(path)) => {
                let mut found = &self.template["Mappings"];
                for key in path {
                    let key = self.value(key, depth)?.as_ref().and_then(text).ok_or_else(unsupported)?;
                    found = found.get(&key).ok_or_else(unsupported)?;
                }
                if path.len() == 3 { self.value(found, depth) } else { Err(unsupported()) }
            }
            ("Fn::If", Value::Array(parts)) => match parts.as_slice() {
                [Value::String(condition), then, otherwise] => {
                    let chosen = if self.condition(condition, depth)? { then } else { otherwise };
                    self.value(chosen, depth)
                }
                _ => Err(unsupported()),
            },
            _ => Err(unsupported()),
        }
    }

    fn condition(&self, name: &str, depth: usize) -> Result<bool, ResolveError> {
        let expression =
            self.template["Conditions"].get(name).ok_or_else(|| ResolveError::UnknownName(name.to_owned()))?;
        self.is_true(expression, depth + 1)
    }

    fn is_true(&self, expression: &Value, depth: usize) -> Result<bool, ResolveError> {
        let unsupported = || ResolveError::Unsupported(format!("the condition {expression}"));
        if depth > MAX_DEPTH {
            return Err(ResolveError::Circle);
        }
        let (function, argument) = expression.as_object().and_then(intrinsic).ok_or_else(unsupported)?;
        if let ("Condition", Value::String(name)) = (function, argument) {
            return self.condition(name, depth + 1);
        }
        let operands = argument.as_array().ok_or_else(unsupported)?;
        match (function, operands.as_slice()) {
            ("Fn::Equals", [left, right]) => {
                let (left, right) = (self.value(left, depth + 1)?, self.value(right, depth + 1)?);
                // Parameters are texts: `!Equals [!Ref Flag, true]` compares with the text "true".
                Ok(left.as_ref().and_then(text) == right.as_ref().and_then(text))
            }
            ("Fn::Not", [operand]) => Ok(!self.is_true(operand, depth + 1)?),
            ("Fn::And", operands) => {
                operands.iter().try_fold(true, |all, operand| Ok(all && self.is_true(operand, depth + 1)?))
            }
            ("Fn::Or", operands) => {
                operands.iter().try_fold(false, |any, operand| Ok(any || self.is_true(operand, depth + 1)?))
            }
            _ => Err(unsupported()),
        }
    }

    fn name(&self, name: &str, depth: usize) -> Result<Option<Value>, ResolveError> {
        let here = self.deployment;
        match name {
            "AWS::NoValue" => return Ok(None),
            "AWS::Region" => return Ok(Some(here.region.clone().into())),
            "AWS::AccountId" => return Ok(Some(here.account.clone().into())),
            "AWS::StackName" => return Ok(Some(here.stack.clone().into())),
            "AWS::Partition" => return Ok(Some("aws".into())),
            "AWS::URLSuffix" => return Ok(Some("amazonaws.com".into())),
            _ => {}
        }
        if let Some(parameter) = self.template["Parameters"].get(name) {
            self.asked.borrow_mut().insert(name.to_owned());
            return self.parameter(name, parameter).map(Some);
        }
        if let Some(resource) = self.template["Resources"].get(name) {
            let given = match resource["Type"].as_str().unwrap_or_default() {
                "AWS::DynamoDB::Table" => &resource["Properties"]["TableName"],
                "AWS::Events::EventBus" => &resource["Properties"]["Name"],
                "AWS::Serverless::Function" => &resource["Properties"]["FunctionName"],
                "AWS::SQS::Queue" => return self.queue_url(name, resource, depth).map(Some),
                _ => &Value::Null,
            };
            return self.given_name(name, given, depth).map(Some);
        }
        Err(ResolveError::UnknownName(name.to_owned()))
    }

    /// The name that a resource is given, or the one that `CloudFormation` makes up.
    fn given_name(&self, logical_id: &str, given: &Value, depth: usize) -> Result<Value, ResolveError> {
        match self.value(given, depth + 1)? {
            None | Some(Value::Null) => Ok(format!("{}-{logical_id}", self.deployment.stack).into()),
            Some(given) => Ok(given),
        }
    }

    /// `!Ref` gives a queue's address, where others have their name.
    fn queue_url(&self, logical_id: &str, queue: &Value, depth: usize) -> Result<Value, ResolveError> {
        let Deployment { region, account, .. } = self.deployment;
        let name = self.given_name(logical_id, &queue["Properties"]["QueueName"], depth)?;
        let name = text(&name).unwrap_or_default();
        Ok(format!("https://sqs.{region}.amazonaws.com/{account}/{name}").into())
    }

    fn parameter(&self, name: &str, declaration: &Value) -> Result<Value, ResolveError> {
        let value = match self.deployment.parameters.get(name) {
            Some(given) => given.clone(),
            None => text(&declaration["Default"]).ok_or_else(|| ResolveError::NoValue(name.to_owned()))?,
        };
        Ok(match declaration["Type"].as_str() {
            Some("CommaDelimitedList") => value.split(',').map(str::trim).collect::<Vec<_>>().into(),
            _ => value.into(),
        })
    }

    fn attribute(&self, resource: &str, attribute: &str, depth: usize) -> Result<Value, ResolveError> {
        let Deployment { region, account, .. } = self.deployment;
        let definition =
            self.template["Resources"].get(resource).ok_or_else(|| ResolveError::UnknownName(resource.to_owned()))?;
        let name = self.name(resource, depth + 1)?.as_ref().and_then(text).unwrap_or_default();
        let value = match (definition["Type"].as_str().unwrap_or_default(), attribute) {
            ("AWS::DynamoDB::Table", "Arn") => {
                format!("arn:aws:dynamodb:{region}:{account}:table/{name}")
            }
            ("AWS::Events::EventBus", "Arn") => {
                format!("arn:aws:events:{region}:{account}:event-bus/{name}")
            }
            ("AWS::Events::EventBus", "Name") => name,
            ("AWS::IAM::Role", "Arn") => {
                format!("arn:aws:iam::{account}:role/{name}")
            }
            ("AWS::Logs::LogGroup", "Arn") => {
                format!("arn:aws:logs:{region}:{account}:log-group:{name}:*")
            }
            ("AWS::SQS::Queue", "Arn") => {
                format!("arn:aws:sqs:{region}:{account}:{}", name.rsplit('/').next().unwrap_or_default())
            }
            ("AWS::SQS::Queue", "QueueName") => name.rsplit('/').next().unwrap_or_default().to_owned(),
            ("AWS::Serverless::Function", "Arn") => {
                format!("arn:aws:lambda:{region}:{account}:function:{name}")
            }
            _ => {
                return Err(ResolveError::UnknownAttribute(resource.to_owned(), attribute.to_owned()));
            }
        };
        Ok(value.into())
    }

    fn substitute(&self, pattern: &str, names: &Map<String, Value>, depth: usize) -> Result<Value, ResolveError> {
        let unsupported = || ResolveError::Unsupported(format!("Fn::Sub {pattern}"));
        let mut result = String::new();
        let mut rest = pattern;
        while let Some(start) = rest.find("${") {
            result.push_str(&rest[..start]);
            let end = rest[start..].find('}').map(|end| start + end).ok_or_else(unsupported)?;
            let name = &rest[start + 2..end];
            rest = &rest[end + 1..];
            if let Some(literal) = name.strip_prefix('!') {
                result.push_str("${");
                result.push_str(literal);
                result.push('}');
                continue;
            }
            let value = match (names.get(name), name.split_once('.')) {
                (Some(given), _) => self.value(given, depth + 1)?,
                (None, Some((resource, attribute))) => Some(self.attribute(resource, attribute, depth + 1)?),
                (None, None) => self.name(name, depth + 1)?,
            };
            result.push_str(&value.as_ref().and_then(text).ok_or_else(unsupported)?);
        }
        result.push_str(rest);
        Ok(result.into())
    }
}

/// The function and its argument, if the object is a call of one.
pub(super) fn intrinsic(object: &Map<String, Value>) -> Option<(&str, &Value)> {
    let mut members = object.iter();
    match (members.next(), members.next()) {
        (Some((name, argument)), None) if name == "Ref" || name == "Condition" || name.starts_with("Fn::") => {
            Some((name, argument))
        }
        _ => None,
    }
}

/// A scalar as `CloudFormation` writes it into texts.
pub(super) fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::{Deployment, Resolver};
    use crate::template::yaml;

    const TEMPLATE: &str = "
Parameters:
  Root: {Type: String, Default: /t}
  Given: {Type: String}
  Missing: {Type: String}
  List: {Type: CommaDelimitedList, Default: 'a, b'}
  Number: {Type: Number, Default: 5}
Mappings:
  Sizes: {'5': {Cpu: c}}
Conditions:
  Yes: !Equals [!Ref Root, /t]
  No: !Not [!Condition Yes]
  Both: !And [!Condition Yes, !Condition No]
  Either: !Or [!Condition Yes, !Condition No]
  Loop: !Not [!Condition Loop]
Resources:
  Table: {Type: 'AWS::DynamoDB::Table', Properties: {}}
  Bus: {Type: 'AWS::Events::EventBus', Properties: {Name: !Sub '${AWS::StackName}-x'}}
  Queue: {Type: 'AWS::SQS::Queue', Properties: {}}
  Named: {Type: 'AWS::SQS::Queue', Properties: {QueueName: !Ref Given}}
  Circle: {Type: 'AWS::Events::EventBus', Properties: {Name: !Ref Circle}}
  Alarm: {Type: 'AWS::CloudWatch::Alarm', Properties: {}}
";

    fn check(expression: &str) -> Result<serde_json::Value, String> {
        let template = yaml::parse(TEMPLATE).unwrap();
        let deployment = Deployment {
            region: "eu-central-1".into(),
            account: "123456789012".into(),
            stack: "s".into(),
            parameters: BTreeMap::from([("Given".into(), "g".into())]),
        };
        let resolver = Resolver::new(&template, &deployment).unwrap();
        resolver.resolve(&yaml::parse(expression).unwrap()).map_err(|error| error.to_string())
    }

    /// Promise: the functions get locally what `CloudFormation` would give them.
    #[test]
    fn computes_as_cloudformation_does() {
        for (expression, expected) in [
            ("!Ref Root", json!("/t")),
            ("!Ref Given", json!("g")),
            ("!Ref List", json!(["a", "b"])),
            ("!Ref Number", json!("5")),
            ("!Ref Table", json!("s-Table")),
            ("!Ref Bus", json!("s-x")),
            ("!Ref Alarm", json!("s-Alarm")),
            ("!Ref Queue", json!("https://sqs.eu-central-1.amazonaws.com/123456789012/s-Queue")),
            ("!Ref Named", json!("https://sqs.eu-central-1.amazonaws.com/123456789012/g")),
            ("!GetAtt Named.Arn", json!("arn:aws:sqs:eu-central-1:123456789012:g")),
            ("!GetAtt Queue.QueueName", json!("s-Queue")),
            ("!FindInMap [Sizes, !Ref Number, Cpu]", json!("c")),
            ("!Join [',', !Ref List]", json!("a,b")),
            ("!GetAtt Table.Arn", json!("arn:aws:dynamodb:eu-central-1:123456789012:table/s-Table")),
            ("!GetAtt Bus.Arn", json!("arn:aws:events:eu-central-1:123456789012:event-bus/s-x")),
            (
                "!Sub '${Root}/${Bus}/${Table.Arn}'",
                json!("/t/s-x/arn:aws:dynamodb:eu-central-1:123456789012:table/s-Table"),
            ),
            ("!Sub ['${a}${!b}', {a: !Ref Given}]", json!("g${b}")),
            ("!If [Yes, 1, 2]", json!(1)),
            ("!If [No, 1, 2]", json!(2)),
            ("!If [Both, 1, 2]", json!(2)),
            ("!If [Either, 1, 2]", json!(1)),
            ("{a: !If [No, 1, !Ref 'AWS::NoValue'], b: [!Ref 'AWS::NoValue', 2]}", json!({"b": [2]})),
        ] {
            assert_eq!(check(expression).as_ref(), Ok(&expected), "{expression}");
        }
    }

    /// Promise: a construct that local runs cannot honour is named at start, not dropped.
    #[test]
    fn names_what_it_cannot_compute() {
        for (expression, message) in [
            ("!Ref Nowhere", "Nowhere is neither a parameter nor a resource"),
            ("!Ref Missing", "the parameter Missing has neither a default nor a local value"),
            ("!GetAtt Alarm.Arn", "Alarm.Arn has no local value"),
            ("!ImportValue x", "Fn::ImportValue \"x\" is not supported locally"),
            ("!FindInMap [Sizes, '6', Cpu]", "is not supported locally"),
            ("!FindInMap [Sizes, '5']", "is not supported locally"),
            ("!Sub '${Root'", "Fn::Sub ${Root is not supported"),
            ("!Ref Circle", "in a circle"),
            ("!If [Loop, 1, 2]", "in a circle"),
            ("!If [Gone, 1, 2]", "Gone is neither"),
        ] {
            let error = check(expression).unwrap_err();
            assert!(error.contains(message), "{expression}: {error}");
        }
    }
}
