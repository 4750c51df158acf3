//! Where access tokens come from. One is asked for when there is none, or when the service has
//! refused the last one.

use std::{
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::{sync, time};
use tonic::metadata::{Ascii, MetadataValue};

use crate::error::{BoxError, Error};

/// Gives access tokens. Any `Fn() -> Future<Output = Result<String, E>>` is one, and so is
/// [`StaticToken`].
pub trait TokenSource: Send + Sync {
    /// A token that is valid now, without `Bearer`. It is used for all calls until the service
    /// refuses it; then this is called again, by one call at a time.
    fn token(&self) -> BoxFuture<'_, Result<String, BoxError>>;

    /// Whether another token may come when the last one is refused. If not, a refused token ends a
    /// watch.
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
    timeout: Duration,
    current: Mutex<Current>,
    /// Held while a token is asked for, so that many calls ask once.
    asking: sync::Mutex<()>,
}

#[derive(Default)]
struct Current {
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

/// The token source took too long.
#[derive(Debug, thiserror::Error)]
#[error("the token source gave none in time")]
struct Late;

impl Tokens {
    pub(crate) fn new(source: Arc<dyn TokenSource>, timeout: Duration) -> Self {
        Self { source, timeout, current: Mutex::default(), asking: sync::Mutex::default() }
    }

    /// The token in use, or a new one.
    pub(crate) async fn authorization(&self) -> Result<Authorization, Error> {
        if let Some(authorization) = self.current().authorization() {
            return Ok(authorization);
        }
        let _asking = self.asking.lock().await;
        // Somebody may have got one meanwhile.
        if let Some(authorization) = self.current().authorization() {
            return Ok(authorization);
        }
        // Else a source that hangs would hold up all calls for ever.
        let asked = time::timeout(self.timeout, self.source.token()).await.map_err(|_| Self::late())?;
        let token = asked.map_err(|error| Error::Token(error.into()))?;
        let mut header: MetadataValue<Ascii> =
            format!("Bearer {token}").parse().map_err(|error| Error::Token(Arc::new(error)))?;
        header.set_sensitive(true);
        let mut current = self.current();
        current.generation += 1;
        current.header = Some(header.clone());
        Ok(Authorization { header, generation: current.generation })
    }

    /// There was no time to wait any longer for a token.
    pub(crate) fn late() -> Error {
        Error::Token(Arc::new(Late))
    }

    /// Notes that the service refused this token. Returns whether another one may come.
    pub(crate) fn refused(&self, authorization: &Authorization) -> bool {
        let mut current = self.current();
        if current.generation == authorization.generation {
            current.header = None;
        }
        self.source.renews()
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Current {
    fn authorization(&self) -> Option<Authorization> {
        Some(Authorization { header: self.header.clone()?, generation: self.generation })
    }
}
