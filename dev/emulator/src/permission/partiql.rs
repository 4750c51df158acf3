//! Which table a `PartiQL` statement is about, and what it does there.
//!
//! The engine's own parser is private. This one reads what statements begin with; where it is not
//! sure, it names no table.

/// What a statement needs permission for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Statement {
    /// Several, where the kind of statement cannot be told.
    pub(super) actions: &'static [&'static str],
    pub(super) table: Option<Table>,
}

/// A table, or one of its indexes.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) name: String,
    pub(super) index: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// A keyword, or a name without quotation marks.
    Word(String),
    /// A name in quotation marks.
    Quoted(String),
    Other(char),
}

/// Takes the beginning of a statement apart.
pub(super) fn read(text: &str) -> Statement {
    let unknown =
        Statement { actions: &["PartiQLSelect", "PartiQLInsert", "PartiQLUpdate", "PartiQLDelete"], table: None };
    let Some(tokens) = tokens(text) else { return unknown };
    let is = |at: usize, keyword: &str| matches!(tokens.get(at), Some(Token::Word(word)) if word.eq_ignore_ascii_case(keyword));
    // An attribute of that name would be read as the keyword: with a second one it is not sure
    // which is which.
    let from = || {
        let mut found = (0..tokens.len()).filter(|at| is(*at, "FROM"));
        found.next().filter(|_| found.next().is_none())
    };
    let (actions, at): (&[&str], _) = if is(0, "SELECT") {
        (&["PartiQLSelect"], from().map(|from| from + 1))
    } else if is(0, "INSERT") {
        (&["PartiQLInsert"], is(1, "INTO").then_some(2))
    } else if is(0, "UPDATE") {
        (&["PartiQLUpdate"], Some(1))
    } else if is(0, "DELETE") {
        (&["PartiQLDelete"], is(1, "FROM").then_some(2))
    } else {
        return unknown;
    };
    Statement { actions, table: at.and_then(|at| table(&tokens[at..])) }
}

/// `table`, `"table"` or `"table"."index"`.
fn table(tokens: &[Token]) -> Option<Table> {
    let name = |token: &Token| match token {
        Token::Word(name) | Token::Quoted(name) if !name.is_empty() => Some(name.clone()),
        _ => None,
    };
    let (index, after) = match tokens.get(1) {
        Some(Token::Other('.')) => (Some(name(tokens.get(2)?)?), 3),
        _ => (None, 1),
    };
    let is_whole = matches!(tokens.get(after), None | Some(Token::Word(_) | Token::Other(';')));
    Some(Table { name: name(tokens.first()?)?, index }).filter(|_| is_whole)
}

/// None where something stands that might be read differently elsewhere: a comment, a literal of
/// another language, a quotation without its end.
fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            _ if letter.is_ascii_whitespace() => {}
            '"' | '\'' => {
                let mut quoted = String::new();
                loop {
                    match letters.next()? {
                        end if end == letter && letters.peek() == Some(&letter) => quoted.extend(letters.next()),
                        end if end == letter => break,
                        other => quoted.push(other),
                    }
                }
                // A text in single quotes is a value, and names nothing.
                tokens.push(if letter == '"' { Token::Quoted(quoted) } else { Token::Other('\'') });
            }
            '`' => return None,
            '-' if letters.peek() == Some(&'-') => return None,
            '/' if letters.peek() == Some(&'*') => return None,
            _ if letter.is_ascii_alphabetic() || letter == '_' => {
                let mut word = String::from(letter);
                while let Some(next) = letters.next_if(|next| next.is_ascii_alphanumeric() || *next == '_') {
                    word.push(next);
                }
                tokens.push(Token::Word(word));
            }
            other => tokens.push(Token::Other(other)),
        }
    }
    Some(tokens)
}
