//! Text in policies that stands for other text: wildcards and policy variables.
//!
//! A variable's value is put in as literal text: a `*`, `?` or `${…}` in a tag's value matches
//! itself alone.

use super::context::{Context, check_key};

/// Text of a policy, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern(Vec<Part>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    /// `*`
    AnyText,
    /// `?`
    AnyOne,
    /// `${key}` or `${key, 'default'}`
    Variable {
        key: String,
        default: Option<String>,
    },
}

/// What in a text is more than itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Syntax {
    /// `*` and `?`
    pub(super) wildcards: bool,
    /// `${…}`: in documents of version 2012-10-17. In older ones it is literal text.
    pub(super) variables: bool,
}

/// A pattern whose variables have their values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resolved(Vec<Token>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Char(char),
    AnyText,
    AnyOne,
}

impl Pattern {
    pub(super) fn parse(text: &str, syntax: Syntax) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let special = if syntax.variables && rest.starts_with("${") {
                let end = rest.find('}').ok_or_else(|| format!("a policy variable in {text:?} has no end"))?;
                let part = Self::variable(&rest[2..end])?;
                rest = &rest[end + 1..];
                part
            } else {
                rest = &rest[first.len_utf8()..];
                match first {
                    '*' if syntax.wildcards => Part::AnyText,
                    '?' if syntax.wildcards => Part::AnyOne,
                    other => Part::Text(other.to_string()),
                }
            };
            if let Part::Text(more) = special {
                literal.push_str(&more);
            } else {
                if !literal.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut literal)));
                }
                parts.push(special);
            }
        }
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        Ok(Self(parts))
    }

    /// What stands between the braces of a variable.
    fn variable(text: &str) -> Result<Part, String> {
        if let "*" | "?" | "$" = text {
            return Ok(Part::Text(text.to_owned()));
        }
        let (key, default) = match text.split_once(',') {
            None => (text, None),
            Some((key, default)) => {
                let quoted = default.trim().strip_prefix('\'').and_then(|rest| rest.strip_suffix('\''));
                let default = quoted.filter(|text| !text.contains('\''));
                let default = default.ok_or_else(|| format!("the default in ${{{text}}} is not in single quotes"))?;
                (key, Some(default.to_owned()))
            }
        };
        if key.trim() != key || key.contains(['$', '{', '*', '?', '\'']) {
            return Err(format!("${{{text}}} is no policy variable"));
        }
        check_key(key)?;
        Ok(Part::Variable { key: key.to_owned(), default })
    }

    /// The text before the first variable, wildcards and all.
    pub(super) fn before_variables(&self) -> String {
        let fixed = self.0.iter().take_while(|part| !matches!(part, Part::Variable { .. }));
        fixed
            .map(|part| match part {
                Part::AnyText => "*",
                Part::AnyOne => "?",
                Part::Text(text) => text,
                Part::Variable { .. } => "",
            })
            .collect()
    }

    pub(super) fn has_variables(&self) -> bool {
        self.0.iter().any(|part| matches!(part, Part::Variable { .. }))
    }

    /// None if a variable has no value and no default. One with several values has none: AWS takes
    /// variables from keys of a single value only.
    pub(super) fn resolve(&self, context: &Context) -> Option<Resolved> {
        let mut tokens = Vec::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => tokens.extend(text.chars().map(Token::Char)),
                Part::AnyText => tokens.push(Token::AnyText),
                Part::AnyOne => tokens.push(Token::AnyOne),
                Part::Variable { key, default } => {
                    let value = match context.get(key) {
                        [value] => value,
                        [] => default.as_ref()?,
                        _ => return None,
                    };
                    tokens.extend(value.chars().map(Token::Char));
                }
            }
        }
        Some(Resolved(tokens))
    }
}

impl Resolved {
    /// Whether it stands for the whole of `text`, letter by letter.
    pub(super) fn matches(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        matches(&self.0, &text)
    }

    /// The same, the case of letters left aside.
    pub(super) fn matches_ignoring_case(&self, text: &str) -> bool {
        let fold = |token: &Token| match token {
            Token::Char(letter) => letter.to_lowercase().map(Token::Char).collect(),
            other => vec![*other],
        };
        let folded: Vec<Token> = self.0.iter().flat_map(fold).collect();
        let text: Vec<char> = text.chars().flat_map(char::to_lowercase).collect();
        matches(&folded, &text)
    }

    /// Whether it stands for an ARN: each of the six parts by itself, so that no wildcard goes
    /// beyond a colon of the first five.
    pub(super) fn matches_arn(&self, arn: &str) -> bool {
        let pattern: Vec<_> = self.0.splitn(6, |token| *token == Token::Char(':')).collect();
        let arn: Vec<Vec<char>> = arn.splitn(6, ':').map(|part| part.chars().collect()).collect();
        pattern.len() == 6 && arn.len() == 6 && pattern.iter().zip(&arn).all(|(pattern, part)| matches(pattern, part))
    }
}

/// Goes back to the last `*` alone, so that no pattern takes more than a time that grows with both
/// lengths.
fn matches(pattern: &[Token], text: &[char]) -> bool {
    let (mut at, mut read) = (0, 0);
    let mut retry = None;
    while read < text.len() {
        match pattern.get(at) {
            Some(Token::AnyText) => {
                retry = Some((at, read));
                at += 1;
                continue;
            }
            Some(Token::AnyOne) => {
                (at, read) = (at + 1, read + 1);
                continue;
            }
            Some(Token::Char(letter)) if *letter == text[read] => {
                (at, read) = (at + 1, read + 1);
                continue;
            }
            _ => {}
        }
        let Some((star, from)) = retry else { return false };
        retry = Some((star, from + 1));
        (at, read) = (star + 1, from + 1);
    }
    pattern[at..].iter().all(|token| *token == Token::AnyText)
}
