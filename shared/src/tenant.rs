//! Who a piece of data belongs to.

use std::{fmt, str::FromStr};

/// The longest tenant id, in bytes.
pub const MAX_TENANT_ID_BYTES: usize = 63;

/// A tenant's identifier: `[A-Za-z0-9][A-Za-z0-9_.-]{0,62}`, case-sensitive, never normalised.
///
/// The alphabet leaves out every character that our storage keys and Parameter Store paths use as a delimiter
/// (`#`, `/`), so that no tenant's keys can reach into another's.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantId(Box<str>);

/// Why a text is no [`TenantId`]. It does not repeat the text: that may be somebody else's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a tenant id is 1 to {MAX_TENANT_ID_BYTES} characters of A-Z, a-z, 0-9, '_', '.', '-', the first a letter or digit"
)]
pub struct InvalidTenantId;

impl TenantId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TenantId {
    type Err = InvalidTenantId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let first_fits = text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
        let all_fit = text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
        if first_fits && all_fit && text.len() <= MAX_TENANT_ID_BYTES {
            Ok(Self(text.into()))
        } else {
            Err(InvalidTenantId)
        }
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
        for bad in [
            "",
            ".a",
            "-a",
            "_a",
            "a/b",
            "a#b",
            "a b",
            " a",
            "a\n",
            "a\0",
            "[a]",
            "a,b",
            "*",
            "ä",
            "а",
            too_long.as_str(),
        ] {
            assert_eq!(bad.parse::<TenantId>(), Err(InvalidTenantId), "{bad:?}");
        }
    }
}
