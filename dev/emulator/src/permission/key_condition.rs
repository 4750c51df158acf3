//! Which partition key a query is for: the part of key conditions that IAM's `dynamodb:LeadingKeys`
//! comes from.
//!
//! The engine's own parser is private. This one need not take all that the engine takes: what it
//! does not read has no leading key, and policies that ask for one deny it. But what it reads, it
//! must read as the engine does.

use serde_json::Value;

/// Conditions of one `KeyConditionExpression`: partition key and sort key. More are refused by the
/// service.
const MOST: usize = 2;

/// The value that a query's key conditions fix for the attribute `key`, as it stands in the
/// request.
pub(super) fn partition_value<'a>(request: &'a Value, key: &str) -> Option<&'a Value> {
    let (expression, legacy) = (&request["KeyConditionExpression"], &request["KeyConditions"]);
    match (expression, legacy) {
        (Value::String(expression), Value::Null) => {
            let names = &request["ExpressionAttributeNames"];
            let mut found = None;
            for condition in Parser::of(expression)?.conditions()? {
                let name = match condition.name.strip_prefix('#') {
                    Some(_) => names[condition.name.as_str()].as_str()?,
                    None => condition.name.as_str(),
                };
                if name == key {
                    // Two conditions on one attribute: whoever reads them differently must not
                    // decide.
                    if found.is_some() {
                        return None;
                    }
                    found = Some(condition.equals?);
                }
            }
            match &request["ExpressionAttributeValues"][found?] {
                Value::Null => None,
                value => Some(value),
            }
        }
        (Value::Null, Value::Object(conditions)) => {
            let condition = conditions.get(key).filter(|condition| condition["ComparisonOperator"] == "EQ")?;
            match condition["AttributeValueList"].as_array()?.as_slice() {
                [value] => Some(value),
                _ => None,
            }
        }
        _ => None,
    }
}

/// A condition on one attribute.
#[derive(Debug, PartialEq, Eq)]
struct KeyCondition {
    /// As written: `pk`, or `#pk` with its name elsewhere.
    name: String,
    /// The placeholder of the value, if it is to be equal to one.
    equals: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// A name, `#name` or a keyword.
    Word(String),
    /// `:value`
    Value(String),
    /// An operator, a bracket or a comma.
    Sign(&'static str),
}

/// Signs of key conditions, longer ones first.
const SIGNS: [&str; 9] = ["<=", ">=", "<>", "<", ">", "=", "(", ")", ","];

struct Parser {
    tokens: Vec<Token>,
    at: usize,
}

impl Parser {
    fn of(mut text: &str) -> Option<Self> {
        let mut tokens = Vec::new();
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        while let Some(first) = text.bytes().next() {
            if first.is_ascii_whitespace() {
                text = &text[1..];
                continue;
            }
            if let Some(sign) = SIGNS.into_iter().find(|sign| text.starts_with(sign)) {
                tokens.push(Token::Sign(sign));
                text = &text[sign.len()..];
                continue;
            }
            let mark = usize::from(matches!(first, b'#' | b':'));
            let length = mark + text.bytes().skip(mark).take_while(|byte| is_name(*byte)).count();
            // A name begins with no digit; one that is marked may.
            if length == mark || (mark == 0 && first.is_ascii_digit()) {
                return None;
            }
            let (word, rest) = text.split_at(length);
            tokens.push(if first == b':' { Token::Value(word.to_owned()) } else { Token::Word(word.to_owned()) });
            text = rest;
        }
        Some(Self { tokens, at: 0 })
    }

    /// All of it: conditions joined by `AND`, each of them and all together in brackets or not.
    fn conditions(mut self) -> Option<Vec<KeyCondition>> {
        let mut found = Vec::new();
        self.joined(&mut found, 0)?;
        (self.at == self.tokens.len() && found.len() <= MOST).then_some(found)
    }

    fn joined(&mut self, found: &mut Vec<KeyCondition>, depth: usize) -> Option<()> {
        loop {
            if self.take_sign("(") {
                // Deeper than anybody writes, and no deeper than the stack.
                if depth > 8 {
                    return None;
                }
                self.joined(found, depth + 1)?;
                self.sign(")")?;
            } else {
                found.push(self.condition()?);
            }
            if !self.take_keyword("AND") {
                return Some(());
            }
        }
    }

    fn condition(&mut self) -> Option<KeyCondition> {
        let name = match self.next()? {
            Token::Word(name) => name,
            // A value may stand first, as in `:value = pk`.
            Token::Value(value) => {
                let is_equal = match self.next()? {
                    Token::Sign("=") => true,
                    Token::Sign("<" | "<=" | ">" | ">=") => false,
                    _ => return None,
                };
                return Some(KeyCondition { name: self.attribute()?, equals: is_equal.then_some(value) });
            }
            Token::Sign(_) => return None,
        };
        // The one function of key conditions; its name is written small.
        if name == "begins_with" && self.take_sign("(") {
            let name = self.attribute()?;
            self.sign(",")?;
            self.value()?;
            self.sign(")")?;
            return Some(KeyCondition { name, equals: None });
        }
        let name = Some(name).filter(|name| !is_keyword(name))?;
        if self.take_keyword("BETWEEN") {
            self.value()?;
            self.keyword("AND")?;
            self.value()?;
            return Some(KeyCondition { name, equals: None });
        }
        match self.next()? {
            Token::Sign("=") => Some(KeyCondition { name, equals: Some(self.value()?) }),
            Token::Sign("<" | "<=" | ">" | ">=") => {
                self.value()?;
                Some(KeyCondition { name, equals: None })
            }
            _ => None,
        }
    }

    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.at += 1;
        token
    }

    fn attribute(&mut self) -> Option<String> {
        match self.next()? {
            Token::Word(word) => Some(word).filter(|word| !is_keyword(word)),
            _ => None,
        }
    }

    fn value(&mut self) -> Option<String> {
        match self.next()? {
            Token::Value(name) => Some(name),
            _ => None,
        }
    }

    fn sign(&mut self, sign: &str) -> Option<()> {
        self.take_sign(sign).then_some(())
    }

    fn keyword(&mut self, keyword: &str) -> Option<()> {
        self.take_keyword(keyword).then_some(())
    }

    fn take_sign(&mut self, sign: &str) -> bool {
        self.take(|token| matches!(token, Token::Sign(found) if *found == sign))
    }

    fn take_keyword(&mut self, keyword: &str) -> bool {
        self.take(|token| matches!(token, Token::Word(word) if word.eq_ignore_ascii_case(keyword)))
    }

    fn take(&mut self, wanted: impl FnOnce(&Token) -> bool) -> bool {
        let is_wanted = self.tokens.get(self.at).is_some_and(wanted);
        self.at += usize::from(is_wanted);
        is_wanted
    }
}

/// Words that are no attribute's name without a `#`, in key conditions at least.
fn is_keyword(word: &str) -> bool {
    ["AND", "OR", "NOT", "BETWEEN", "IN"].iter().any(|keyword| word.eq_ignore_ascii_case(keyword))
}
