//! The issuer's public keys: fetched when needed, kept while they serve.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use jsonwebtoken::jwk::JwkSet;
use lambda_http::http::{StatusCode, Uri};

/// The largest key set that is read, in bytes: what API Gateway's JWT authorizer accepts too.
const MAX_KEY_SET_BYTES: usize = 150_000;
/// How long a fetch may take.
const FETCH_TIMEOUT: Duration = Duration::from_millis(1_500);

/// Brings the issuer's current keys.
#[async_trait]
pub trait FetchKeys: Send + Sync {
    /// Fetches the key set.
    async fn fetch(&self) -> Result<JwkSet, KeyFetchError>;
}

/// Why the keys could not be fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFetchError {
    /// No answer in time.
    #[error("the key set did not arrive within {} ms", FETCH_TIMEOUT.as_millis())]
    Timeout,
    /// No connection, or it broke.
    #[error("the key set could not be fetched: {0}")]
    Transport(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Another status than 200.
    #[error("the key set's address answered {0}")]
    Status(StatusCode),
    /// Not a key set.
    #[error("what the key set's address answered is no JWK set: {0}")]
    Form(#[source] serde_json::Error),
}

/// Keys from an HTTP(S) address.
pub struct HttpKeys {
    address: Uri,
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
}

impl HttpKeys {
    /// Keys from `address`.
    pub fn new(address: Uri) -> std::io::Result<Self> {
        let connector = HttpsConnectorBuilder::new().with_native_roots()?.https_or_http().enable_http1().build();
        Ok(Self { address, client: Client::builder(TokioExecutor::new()).build(connector) })
    }
}

#[async_trait]
impl FetchKeys for HttpKeys {
    async fn fetch(&self) -> Result<JwkSet, KeyFetchError> {
        let fetch = async {
            let response = self
                .client
                .get(self.address.clone())
                .await
                .map_err(|error| KeyFetchError::Transport(Box::new(error)))?;
            if response.status() != StatusCode::OK {
                return Err(KeyFetchError::Status(response.status()));
            }
            let body = Limited::new(response.into_body(), MAX_KEY_SET_BYTES)
                .collect()
                .await
                .map_err(KeyFetchError::Transport)?;
            serde_json::from_slice(&body.to_bytes()).map_err(KeyFetchError::Form)
        };
        tokio::time::timeout(FETCH_TIMEOUT, fetch).await.map_err(|_| KeyFetchError::Timeout)?
    }
}
