//! A tenant's identifier.

use std::{fmt, str::FromStr};

/// The longest tenant id, in bytes.
pub const MAX_TENANT_ID_BYTES: usize = 63;

/// Texts that an untyped reader may have made of something that is no text, as API Gateway does
/// with claims. No tenant has such an id.
const NOBODY: [&str; 4] = ["true", "false", "null", "undefined"];

/// A tenant's identifier: `[A-Za-z0-9][A-Za-z0-9_.-]{0,62}`, case-sensitive, never normalised, and
/// none of `true`, `false`, `null`, `undefined`.
///
/// The alphabet has no character that our table's keys or Parameter Store's paths use as a
/// separator (`#`, `/`), so no tenant's keys can reach into another's.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantId(Box<str>);

/// Why a text is no [`TenantId`]. It repeats at most one character of the text, which may be
/// somebody else's, and long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InvalidTenantId {
    /// Nothing.
    Empty,
    /// Longer than [`MAX_TENANT_ID_BYTES`].
    TooLong,
    /// It begins with this character, which may only come later.
    Begins(char),
    /// It has this character.
    Holds(char),
    /// It may stand for no text at all.
    Nobody,
}

impl std::error::Error for InvalidTenantId {}

impl fmt::Display for InvalidTenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("it is empty"),
            Self::TooLong => f.write_str("it is too long"),
            Self::Begins(first) => write!(f, "it begins with {first:?}"),
            Self::Holds(one) => write!(f, "it has the character {one:?}"),
            Self::Nobody => f.write_str("it is a word that no tenant is called by"),
        }?;
        write!(
            f,
            "; a tenant id is 1 to {MAX_TENANT_ID_BYTES} characters of A-Z, a-z, 0-9, '_', '.', '-', the first a letter \
             or digit, and none of the words {}",
            NOBODY.join(", ")
        )
    }
}

/// What the partition keys of tenants begin with.
const PARTITION: &str = "TENANT#";

impl TenantId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The partition key of the tenant's items in the table. The policies of the tenant's sessions
    /// name it, too.
    pub fn partition(&self) -> String {
        format!("{PARTITION}{self}")
    }

    /// The tenant whose items a partition key is of.
    pub fn of_partition(partition: &str) -> Option<Self> {
        partition.strip_prefix(PARTITION)?.parse().ok()
    }
}

impl FromStr for TenantId {
    type Err = InvalidTenantId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let stranger = |one: &char| !(one.is_ascii_alphanumeric() || matches!(one, '_' | '.' | '-'));
        let first = text.chars().next().ok_or(InvalidTenantId::Empty)?;
        if text.len() > MAX_TENANT_ID_BYTES {
            return Err(InvalidTenantId::TooLong);
        }
        if let Some(one) = text.chars().find(stranger) {
            return Err(InvalidTenantId::Holds(one));
        }
        if !first.is_ascii_alphanumeric() {
            return Err(InvalidTenantId::Begins(first));
        }
        if NOBODY.contains(&text) { Err(InvalidTenantId::Nobody) } else { Ok(Self(text.into())) }
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tenant id holds nothing that delimits our keys, and is never repaired into one that fits.
    #[test]
    fn only_the_documented_alphabet_is_a_tenant() {
        let longest = "a".repeat(63);
        for good in ["a", "0", "Acme", "acme", "acme.eu-1_x", "a..", longest.as_str()] {
            assert_eq!(good.parse::<TenantId>().map(|t| t.to_string()).as_deref(), Ok(good));
        }
        let too_long = "a".repeat(64);
        for (bad, why) in [
            ("", InvalidTenantId::Empty),
            (".a", InvalidTenantId::Begins('.')),
            ("-a", InvalidTenantId::Begins('-')),
            ("_a", InvalidTenantId::Begins('_')),
            ("a/b", InvalidTenantId::Holds('/')),
            ("a#b", InvalidTenantId::Holds('#')),
            ("org|123", InvalidTenantId::Holds('|')),
            ("a b", InvalidTenantId::Holds(' ')),
            (" a", InvalidTenantId::Holds(' ')),
            ("a\n", InvalidTenantId::Holds('\n')),
            ("a\0", InvalidTenantId::Holds('\0')),
            ("[a]", InvalidTenantId::Holds('[')),
            ("a,b", InvalidTenantId::Holds(',')),
            ("*", InvalidTenantId::Holds('*')),
            ("ä", InvalidTenantId::Holds('ä')),
            ("а", InvalidTenantId::Holds('а')),
            (too_long.as_str(), InvalidTenantId::TooLong),
            ("true", InvalidTenantId::Nobody),
            ("false", InvalidTenantId::Nobody),
            ("null", InvalidTenantId::Nobody),
            ("undefined", InvalidTenantId::Nobody),
        ] {
            assert_eq!(bad.parse::<TenantId>(), Err(why), "{bad:?}");
        }
        // Names that have such a word in them are names.
        for good in ["nullable", "true.", "undefined-1", "True", "0"] {
            assert!(good.parse::<TenantId>().is_ok(), "{good}");
        }
    }

    /// Who is told that a text is no tenant id is told why, and by which rule, and not the text
    /// itself.
    #[test]
    fn a_refusal_names_the_rule() {
        for (bad, why) in
            [("org|123", "it has the character '|'; "), ("null", "it is a word that no tenant is called by; ")]
        {
            let said = bad.parse::<TenantId>().unwrap_err().to_string();
            assert!(
                said.starts_with(why) && said.contains("1 to 63 characters") && (bad == "null" || !said.contains(bad))
            );
        }
        let hostile = "\u{202e}".repeat(10_000).parse::<TenantId>().unwrap_err().to_string();
        assert!(hostile.len() < 300, "{hostile}");
    }
}
