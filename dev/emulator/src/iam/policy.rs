//! Policy documents: taken apart when they come in, whatever is not evaluated refused, and then
//! asked.

use serde_json::{Map, Value};

use super::condition::Condition;
use super::context::Context;
use super::pattern::{Pattern, Syntax};

/// The version of the policy language that knows variables.
const WITH_VARIABLES: &str = "2012-10-17";
const WITHOUT_VARIABLES: &str = "2008-10-17";

/// A policy document that the emulator does not evaluate, and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {reason}")]
pub struct PolicyError {
    place: String,
    reason: String,
}

impl PolicyError {
    pub(super) fn new(place: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { place: place.into(), reason: reason.into() }
    }
}

/// What a document is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// What a role or a session may do.
    Identity,
    /// Who may assume a role.
    Trust,
}

/// What a statement does if it applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    Allow,
    Deny,
}

/// What a document says to a request. Worse is greater: a `Deny` stands against any `Allow`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verdict {
    Nothing,
    Allow,
    Deny,
}

/// A document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Policy(Vec<Statement>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Statement {
    effect: Effect,
    actions: Matcher,
    /// None in a trust policy: it is about its own role.
    resources: Option<Matcher>,
    /// None outside of trust policies: it is about its own role or session.
    principals: Option<Vec<TrustedPrincipal>>,
    condition: Condition,
}

/// `Action` or `Resource`; or `NotAction` or `NotResource`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Matcher {
    patterns: Vec<Pattern>,
    negated: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum TrustedPrincipal {
    /// `*`
    Anyone,
    /// A role, or a session of one.
    Arn(String),
    /// `arn:aws:iam::<account>:root`, or the account's number alone.
    Account(String),
    Service(String),
}

/// Who asks to assume a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asker<'a> {
    Role { role_arn: &'a str, session_arn: &'a str, account: &'a str },
    Service(&'a str),
}

/// What is to be decided.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) action: &'a str,
    pub(super) resource: &'a str,
    pub(super) context: &'a Context,
}

impl Policy {
    pub(super) fn parse(document: &Value, kind: Kind) -> Result<Self, String> {
        let document = document.as_object().ok_or("a policy document is an object")?;
        only(document, &["Version", "Id", "Statement"])?;
        let variables = match document.get("Version").map(Value::as_str) {
            None | Some(Some(WITHOUT_VARIABLES)) => false,
            Some(Some(WITH_VARIABLES)) => true,
            Some(_) => return Err(format!("Version is {WITH_VARIABLES} or {WITHOUT_VARIABLES}")),
        };
        let statements = document.get("Statement").map(one_or_many).unwrap_or_default();
        if statements.is_empty() {
            return Err("there is no Statement".to_owned());
        }
        let number = |(index, statement): (usize, &Value)| {
            Statement::parse(statement, kind, variables).map_err(|reason| format!("statement {}: {reason}", index + 1))
        };
        Ok(Self(statements.into_iter().enumerate().map(number).collect::<Result<_, _>>()?))
    }

    /// What it says of a request. `asker` is for trust policies.
    pub(super) fn verdict(&self, request: Request<'_>, asker: Option<Asker<'_>>) -> Verdict {
        let applying = self.0.iter().filter(|statement| statement.applies(request, asker));
        let verdicts = applying.map(|statement| match statement.effect {
            Effect::Allow => Verdict::Allow,
            Effect::Deny => Verdict::Deny,
        });
        verdicts.max().unwrap_or(Verdict::Nothing)
    }
}

impl Statement {
    fn parse(statement: &Value, kind: Kind, variables: bool) -> Result<Self, String> {
        let statement = statement.as_object().ok_or("it is no object")?;
        let known = match kind {
            Kind::Identity => ["Resource", "NotResource"].as_slice(),
            Kind::Trust => ["Principal"].as_slice(),
        };
        only(statement, &[&["Sid", "Effect", "Action", "NotAction", "Condition"], known].concat())?;
        let effect = match statement.get("Effect").and_then(Value::as_str) {
            Some("Allow") => Effect::Allow,
            Some("Deny") => Effect::Deny,
            _ => return Err("Effect is Allow or Deny".to_owned()),
        };
        let actions = Matcher::parse(statement, "Action", "NotAction", |text| action(text, kind))?;
        if kind == Kind::Trust && actions.negated {
            return Err("NotAction does not stand in a trust policy".to_owned());
        }
        let resources = (kind == Kind::Identity)
            .then(|| Matcher::parse(statement, "Resource", "NotResource", |text| resource(text, variables)));
        let principals = (kind == Kind::Trust).then(|| principals(statement.get("Principal")));
        let condition = statement.get("Condition").map(|condition| Condition::parse(condition, variables));
        Ok(Self {
            effect,
            actions,
            resources: resources.transpose()?,
            principals: principals.transpose()?,
            condition: condition.transpose()?.unwrap_or_default(),
        })
    }

    fn applies(&self, request: Request<'_>, asker: Option<Asker<'_>>) -> bool {
        let Request { action, resource, context } = request;
        self.names_action(action)
            && self.resources.as_ref().is_none_or(|resources| resources.names(resource, context, self.effect))
            && self.principals.as_ref().is_none_or(|principals| {
                asker.is_some_and(|asker| principals.iter().any(|principal| principal.is(asker)))
            })
            && self.condition.holds(context, self.effect)
    }

    fn names_action(&self, action: &str) -> bool {
        let none = Context::default();
        let mut patterns = self.actions.patterns.iter().filter_map(|pattern| pattern.resolve(&none));
        patterns.any(|pattern| pattern.matches_ignoring_case(action)) != self.actions.negated
    }
}

impl Matcher {
    fn parse(
        statement: &Map<String, Value>,
        name: &str,
        negated_name: &str,
        parse: impl Fn(&str) -> Result<Pattern, String>,
    ) -> Result<Self, String> {
        let (values, negated) = match (statement.get(name), statement.get(negated_name)) {
            (Some(values), None) => (values, false),
            (None, Some(values)) => (values, true),
            _ => return Err(format!("it needs either {name} or {negated_name}")),
        };
        let text = |value: &Value| {
            let text = value.as_str().ok_or_else(|| format!("{name} has a value that is no text"))?;
            parse(text)
        };
        let patterns = one_or_many(values).into_iter().map(text).collect::<Result<Vec<_>, _>>()?;
        if patterns.is_empty() {
            return Err(format!("{name} is empty"));
        }
        Ok(Self { patterns, negated })
    }

    /// Whether a resource is among these. A pattern with a variable that has no value is for none;
    /// in a `NotResource` that would allow all of them, so it allows nothing then.
    fn names(&self, resource: &str, context: &Context, effect: Effect) -> bool {
        let resolved: Vec<_> = self.patterns.iter().map(|pattern| pattern.resolve(context)).collect();
        if self.negated && effect == Effect::Allow && resolved.iter().any(Option::is_none) {
            return false;
        }
        resolved.iter().flatten().any(|pattern| pattern.matches(resource)) != self.negated
    }
}

impl TrustedPrincipal {
    fn is(&self, asker: Asker<'_>) -> bool {
        match (self, asker) {
            (Self::Anyone, Asker::Role { .. }) => true,
            (Self::Arn(arn), Asker::Role { role_arn, session_arn, .. }) => arn == role_arn || arn == session_arn,
            (Self::Account(trusted), Asker::Role { account, .. }) => trusted == account,
            (Self::Service(trusted), Asker::Service(service)) => trusted == service,
            // A service is never meant unless it is named.
            (Self::Anyone | Self::Arn(_) | Self::Account(_), Asker::Service(_))
            | (Self::Service(_), Asker::Role { .. }) => false,
        }
    }
}

/// Refuses elements that are not among these.
fn only(document: &Map<String, Value>, known: &[&str]) -> Result<(), String> {
    match document.keys().find(|element| !known.contains(&element.as_str())) {
        Some(element) => Err(format!("the element {element} is not known here")),
        None => Ok(()),
    }
}

/// A list, or the one value that may stand in its place.
pub(super) fn one_or_many(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(values) => values.iter().collect(),
        one => vec![one],
    }
}

/// `*` or `service:Action`, without variables.
fn action(text: &str, kind: Kind) -> Result<Pattern, String> {
    let is_word = |text: &str| {
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'*' | b'?' | b'-'))
    };
    let is_action = text.split_once(':').is_some_and(|(service, name)| is_word(service) && is_word(name));
    if text != "*" && !is_action {
        return Err(format!("{text:?} is no action"));
    }
    if kind == Kind::Trust && !text.get(..4).is_some_and(|service| service.eq_ignore_ascii_case("sts:")) {
        return Err(format!("a trust policy is about actions of STS, and {text:?} is none"));
    }
    Pattern::parse(text, Syntax { wildcards: true, variables: false })
}

/// `*` or an ARN, with variables in its last part alone.
fn resource(text: &str, variables: bool) -> Result<Pattern, String> {
    let pattern = Pattern::parse(text, Syntax { wildcards: true, variables })?;
    // AWS completes an ARN that stops short with wildcards; one that ends with a wildcard needs no
    // completion.
    let is_short = !pattern.has_variables() && text.starts_with("arn:") && text.ends_with('*');
    if text != "*" && !is_short {
        arn_start(&pattern, text)?;
    }
    Ok(pattern)
}

/// Refuses what does not begin as an ARN does, up to its sixth part, in the policy's own words
/// ("Resource element" under "Where you can use policy variables").
pub(super) fn arn_start(pattern: &Pattern, text: &str) -> Result<(), String> {
    let fixed = pattern.before_variables();
    if fixed.matches(':').count() < 5 || !fixed.starts_with("arn:") {
        return Err(format!("{text:?} is no ARN whose first five parts are written out"));
    }
    Ok(())
}

fn principals(element: Option<&Value>) -> Result<Vec<TrustedPrincipal>, String> {
    let kinds = match element {
        Some(Value::String(anyone)) if anyone == "*" => return Ok(vec![TrustedPrincipal::Anyone]),
        Some(Value::Object(kinds)) if !kinds.is_empty() => kinds,
        _ => return Err("a trust policy's statement needs a Principal".to_owned()),
    };
    let mut principals = Vec::new();
    for (kind, names) in kinds {
        for name in one_or_many(names) {
            let name = name.as_str().ok_or_else(|| format!("Principal {kind} has a value that is no text"))?;
            principals.push(match kind.as_str() {
                "AWS" => aws_principal(name)?,
                "Service" if name.ends_with(".amazonaws.com") => TrustedPrincipal::Service(name.to_owned()),
                _ => return Err(format!("the emulator does not know the principal {kind} {name}")),
            });
        }
    }
    if principals.is_empty() {
        return Err("Principal is empty".to_owned());
    }
    Ok(principals)
}

/// AWS takes no wildcard within a principal.
fn aws_principal(name: &str) -> Result<TrustedPrincipal, String> {
    let is_account = |text: &str| text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit());
    let parts: Vec<_> = name.splitn(6, ':').collect();
    match parts.as_slice() {
        ["*"] => Ok(TrustedPrincipal::Anyone),
        [account] if is_account(account) => Ok(TrustedPrincipal::Account((*account).to_owned())),
        ["arn", "aws", "iam", "", account, "root"] if is_account(account) => {
            Ok(TrustedPrincipal::Account((*account).to_owned()))
        }
        ["arn", "aws", "iam" | "sts", "", account, entity]
            if is_account(account)
                && entity.contains('/')
                && !name.contains(['*', '?'])
                && ["role/", "user/", "assumed-role/"].iter().any(|kind| entity.starts_with(kind)) =>
        {
            Ok(TrustedPrincipal::Arn(name.to_owned()))
        }
        _ => Err(format!("the emulator does not know the principal AWS {name}")),
    }
}
