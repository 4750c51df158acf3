//! A commit's comment: why it was made.

use std::fmt;

use serde::Serialize;

/// The longest comment, in characters: Unicode scalar values, whatever bytes they take.
pub const MAX_COMMENT_CHARS: usize = 256;

/// A commit's comment: one line of text that is shown as it was written.
///
/// `Debug` shows the size only, because no log is the place for what people type.
#[derive(Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Comment(Box<str>);

/// Why a text is no comment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidComment {
    /// Too long.
    #[error("the comment has {0} characters; at most {MAX_COMMENT_CHARS} are allowed")]
    TooLong(usize),
    /// A character that could change what stands around the comment where it is shown.
    #[error(
        "the comment holds the character U+{:04X}; it is one line of text, without control characters, line breaks and characters that turn the direction of writing",
        *.0 as u32
    )]
    Control(char),
}

impl Comment {
    /// Parses a comment. An empty or blank one counts as none.
    pub fn parse(text: &str) -> Result<Option<Self>, InvalidComment> {
        let length = text.chars().count();
        if length > MAX_COMMENT_CHARS {
            return Err(InvalidComment::TooLong(length));
        }
        match text.chars().find(|c| is_control(*c)) {
            Some(control) => Err(InvalidComment::Control(control)),
            None if text.trim().is_empty() => Ok(None),
            None => Ok(Some(Self(text.into()))),
        }
    }

    /// As it was stored.
    pub fn from_stored(text: &str) -> Self {
        Self(text.into())
    }

    /// The comment as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Comment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Comment({} bytes)", self.0.len())
    }
}

/// Control characters, line and paragraph separators, and characters that embed, override or
/// isolate a direction of writing. With them a comment in a terminal or a table could pass for
/// something else.
fn is_control(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Characters count, not bytes; what is taken is kept to the letter; blank is none.
    #[test]
    fn a_comment_is_one_line_of_text() {
        for text in ["x", " as asked in #42, \"urgent\" \\o/ ", "größer für Zoë", "שלום", "🦀", "{{x}}", "\u{feff}x"]
        {
            assert_eq!(Comment::parse(text).unwrap().unwrap().as_str(), text);
        }
        for longest in ["x", "é", "🦀", "\""].map(|one| one.repeat(MAX_COMMENT_CHARS)) {
            assert_eq!(Comment::parse(&longest).unwrap().unwrap().as_str(), longest);
            assert_eq!(Comment::parse(&format!("{longest}!")), Err(InvalidComment::TooLong(257)));
        }
        for blank in ["", " ", "\u{a0}\u{2003} "] {
            assert_eq!(Comment::parse(blank), Ok(None), "{blank:?}");
        }
    }

    /// What could move the cursor, begin a line or turn the text around it is refused, and named.
    #[test]
    fn control_characters_are_refused() {
        for control in "\0\t\n\r\u{1b}\u{7f}\u{85}\u{9b}\u{2028}\u{2029}\u{202a}\u{202e}\u{2066}\u{2069}".chars() {
            let refused = Comment::parse(&format!("a{control}b"));
            assert_eq!(refused, Err(InvalidComment::Control(control)));
            let named = format!("U+{:04X};", control as u32);
            assert!(refused.unwrap_err().to_string().contains(&named), "{named}");
        }
        // A line break alone is no blank comment either: what is sent by mistake is told.
        assert_eq!(Comment::parse("\n"), Err(InvalidComment::Control('\n')));
        let shown = format!("{:?}", Comment::parse("between us"));
        assert_eq!(shown, "Ok(Some(Comment(10 bytes)))");
    }
}
