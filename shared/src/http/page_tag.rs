//! The entity tags of pages.

use std::fmt;

use crate::{auth::TenantScope, ledger::Head, model::entry::ETag};

/// The entity tag of one tenant's pages of one kind.
#[derive(Debug)]
pub struct PageTag<'a> {
    /// The tag routes, as [`digest`] has them: they decide which keys are shown, and what is a
    /// secret.
    pub routes: &'a str,
    /// The caller's scope: not everybody sees the values of secrets.
    pub scope: &'a TenantScope,
    /// What is paged through, and what the query says of the page.
    pub query: &'a [&'a str],
}

impl PageTag<'_> {
    /// The form of today's pages.
    const FORMAT: &'static str = "page/1";
    /// How many hexadecimal digits of the digest are kept.
    const DIGITS: usize = 16;

    /// The page's tag at `head`. It contains the commit's id besides the revision, so that a
    /// restored table's pages are not taken for others.
    pub fn at(&self, head: &Head) -> ETag {
        let rights = if self.scope.may_read_secrets() { "secrets" } else { "" };
        let (commit, tenant) = (head.commit.to_string(), self.scope.tenant().as_str());
        let state = [Self::FORMAT, tenant, head.epoch.as_str(), &commit, rights, self.routes];
        let mut digest = sha256_hex(&[&state, self.query].concat());
        digest.truncate(Self::DIGITS);
        ETag::of_page(head.revision, &digest)
    }
}

/// A digest of settings.
pub fn digest(settings: &impl fmt::Debug) -> String {
    sha256_hex(&[&format!("{settings:?}")])
}

/// SHA-256 over parts that cannot run into each other, in hexadecimal.
pub(super) fn sha256_hex(parts: &[&str]) -> String {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part.as_bytes());
    }
    context.finish().as_ref().iter().fold(String::with_capacity(64), |hex, byte| hex + &format!("{byte:02x}"))
}
