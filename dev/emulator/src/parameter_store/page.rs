//! Pages: how many results a call asks for, and the opaque token that leads on.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde::{Deserialize, Serialize};

use crate::wire::AwsError;

/// Where a listing goes on. Bound to what is listed, so that a token of another listing is refused.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Position {
    /// What is listed
    of: String,
    /// The last name or version given out
    pub(super) after: String,
    /// Pages given out
    page: u64,
}

impl Position {
    /// Reads the token of a request, or starts at the beginning.
    pub(super) fn of(listing: &str, token: Option<&str>) -> Result<Self, AwsError> {
        let Some(token) = token.filter(|token| !token.is_empty()) else {
            return Ok(Self { of: listing.to_owned(), ..Self::default() });
        };
        BASE64
            .decode(token)
            .ok()
            .and_then(|json| serde_json::from_slice::<Self>(&json).ok())
            .filter(|position| position.of == listing)
            .ok_or_else(|| AwsError::new("InvalidNextToken", "The specified token isn't valid."))
    }

    /// Whether this page is to be empty though more may follow: every third is, from the first on.
    pub(super) fn is_empty_page(&self) -> bool {
        self.page.is_multiple_of(3)
    }

    /// The token of the next page, which begins after `after`.
    pub(super) fn next(&self, after: &str) -> String {
        let next = Self { of: self.of.clone(), after: after.to_owned(), page: self.page + 1 };
        BASE64.encode(serde_json::to_vec(&next).unwrap_or_default())
    }

    /// The token of the page after an empty one.
    pub(super) fn after_empty_page(&self) -> String {
        self.next(&self.after)
    }
}

/// How many results a page may hold: 1 to `most`, without a wish `default`.
pub(super) fn size(asked: Option<i64>, default: usize, most: usize) -> Result<usize, AwsError> {
    let Some(asked) = asked else {
        return Ok(default);
    };
    let refused = |constraint: String| AwsError::constraint(&asked.to_string(), "maxResults", &constraint);
    match usize::try_from(asked) {
        Ok(size) if (1..=most).contains(&size) => Ok(size),
        Ok(size) if size > most => Err(refused(format!("have value less than or equal to {most}"))),
        _ => Err(refused("have value greater than or equal to 1".to_owned())),
    }
}
