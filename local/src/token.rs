//! `local token`: signs a token as the issuer of a data folder, whether or not the suite runs.

use std::path::Path;

use crate::{
    data::{DataError, DataFolder},
    issuer::{Issuer, IssuerError, TokenRequest},
};

/// A token that cannot be signed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The data folder cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The key in it cannot be used.
    #[error("the issuer's key in the data folder is unusable")]
    Issuer(#[from] IssuerError),
}

/// Signs `request` with the key in `folder`, which is made if need be. The token names the issuer of the running suite, or
/// of the latest run; before the first one, the issuer that a run on `default_port` would have.
pub fn sign(folder: &Path, default_port: u16, request: &TokenRequest<'_>) -> Result<String, TokenError> {
    let data = DataFolder::open(folder)?;
    let url = data.issuer_url()?.unwrap_or_else(|| Issuer::url_at(default_port));
    Ok(Issuer::new(url, &data.issuer_key()?)?.token(request)?)
}
