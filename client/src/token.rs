//! Where access tokens come from. One is asked for when there is none, or when the service has refused the last one.

use std::{future::Future, sync::Arc};

use futures_util::future::BoxFuture;
use tokio::sync::Mutex;
use tonic::metadata::{Ascii, MetadataValue};

use crate::error::{BoxError, Error};

/// Gives access tokens. Any `Fn() -> Future<Output = Result<String, E>>` is one, and so is [`StaticToken`].
pub trait TokenSource: Send + Sync {
    /// A token that is valid now, without `Bearer`. It is used for all calls until the service refuses it; then this is called again,
    /// by one call at a time.
    fn token(&self) -> BoxFuture<'_, Result<String, BoxError>>;

    /// Whether another token may come when the last one is refused. If not, a refused token ends a watch.
    fn renews(&self) -> bool {
        true
    }
}

impl<F, Fut, E> TokenSource for F
where
    F: Fn() -> Fut + Send + Sync,
    Fut: Future<Output = Result<String, E>> + Send + 'static,
    E: Into<BoxError> + 'static,
{
    fn token(&self) -> BoxFuture<'_, Result<String, BoxError>> {
        let token = self();
        Box::pin(async move { token.await.map_err(Into::into) })
    }
}

/// One token, which nobody renews: for tools that run shortly.
#[derive(Clone)]
pub struct StaticToken(String);

impl StaticToken {
    /// This token, without `Bearer`.
    pub fn new(token: impl Into<String>) -> Self {
        Self(token.into())
    }
}

impl TokenSource for StaticToken {
    fn token(&self) -> BoxFuture<'_, Result<String, BoxError>> {
        Box::pin(async { Ok(self.0.clone()) })
    }

    fn renews(&self) -> bool {
        false
    }
}

/// The token in use.
pub(crate) struct Tokens {
    source: Arc<dyn TokenSource>,
    /// Held while a token is asked for, so that many calls ask once.
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    header: Option<MetadataValue<Ascii>>,
    /// Counts the tokens, so that a late refusal of an old one does not throw away the new one.
    generation: u64,
}

/// What goes into the `authorization` metadata, and which token it is.
#[derive(Clone)]
pub(crate) struct Authorization {
    pub(crate) header: MetadataValue<Ascii>,
    generation: u64,
}

impl Tokens {
    pub(crate) fn new(source: Arc<dyn TokenSource>) -> Self {
        Self { source, held: Mutex::default() }
    }

    /// The token in use, or a new one.
    pub(crate) async fn authorization(&self) -> Result<Authorization, Error> {
        let mut held = self.held.lock().await;
        if let Some(header) = &held.header {
            return Ok(Authorization { header: header.clone(), generation: held.generation });
        }
        let token = self.source.token().await.map_err(|error| Error::Token(error.into()))?;
        let mut header: MetadataValue<Ascii> =
            format!("Bearer {token}").parse().map_err(|error| Error::Token(Arc::new(error)))?;
        header.set_sensitive(true);
        held.generation += 1;
        held.header = Some(header.clone());
        Ok(Authorization { header, generation: held.generation })
    }

    /// Notes that the service refused this token. Returns whether another one may come.
    pub(crate) async fn refused(&self, authorization: &Authorization) -> bool {
        let mut held = self.held.lock().await;
        if held.generation == authorization.generation {
            held.header = None;
        }
        self.source.renews()
    }
}
