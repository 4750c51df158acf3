//! Tokens that have been verified, remembered for callers who send the same one again and again.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use quick_cache::sync::Cache;

use super::{AuthError, Authenticator, KeySet, Permission, TenantScope, bearer};
use crate::clock::{Clock, Timestamp};

/// How many tokens are remembered. The least recently used go first.
const MAX_TOKENS: usize = 10_000;

/// An authenticator that verifies a token once: until it expires, or the issuer's keys are fetched
/// again.
///
/// Refused tokens are not remembered, so that made-up ones do not drive out good ones.
#[derive(Debug)]
pub struct TokenMemory {
    authenticator: Authenticator,
    permission: Permission,
    clock: Clock,
    /// By a hash that nobody can find a second token for. The tokens themselves are not kept.
    kept: Cache<[u8; 32], Arc<Bearer>>,
}

/// Who presented a token, and for how long it will do.
#[derive(Clone, Debug)]
pub struct Bearer {
    /// What the token permits.
    pub scope: TenantScope,
    /// From when on it is not accepted any more.
    pub expires_at: Timestamp,
    /// With which it was checked.
    keys: Arc<KeySet>,
}

impl TokenMemory {
    /// Remembers who may do what `permission` says.
    pub fn new(authenticator: Authenticator, permission: Permission, clock: Clock) -> Self {
        Self { authenticator, permission, clock, kept: Cache::new(MAX_TOKENS) }
    }

    /// Whose token an `Authorization` header's value holds.
    pub async fn recognize(&self, authorization: &str) -> Result<Arc<Bearer>, AuthError> {
        let token = bearer(authorization)?;
        let mut id = [0; 32];
        id.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        let verifier = &self.authenticator.verifier;
        let keys = verifier.keys.present().await;
        if let Some(known) = self.kept.get(&id)
            && Arc::ptr_eq(&known.keys, &keys)
            && self.clock.now() < known.expires_at
        {
            return Ok(known);
        }
        let passed = verifier.verify(token).await?;
        let scope = self.authenticator.caller(&passed.claims)?.authorize(self.permission)?;
        // The token may have passed with newer keys. Remembered with the older ones, it is verified
        // once more.
        let bearer = Arc::new(Bearer { scope, expires_at: passed.expires_at, keys });
        self.kept.insert(id, Arc::clone(&bearer));
        Ok(bearer)
    }
}
