//! The issuer's keys that are known, and when they are fetched.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::{BoxFuture, FutureExt, Shared};
use tracing::warn;

use super::{
    AuthError, FetchKeys, KeyFetchError,
    jwks::{KeySet, VerificationKey},
    token::TokenError,
};
use crate::clock::{Clock, Timestamp};

/// An unknown key id leads to a new fetch at most this often, so that made-up ids do not burden the
/// issuer.
const REFETCH_INTERVAL: Duration = Duration::from_secs(30);
/// Keys that are older are fetched again, so that a withdrawn key does not serve for ever.
const MAX_KEY_AGE: Duration = Duration::from_hours(1);
/// If that fails, the old keys go on serving, and the next attempt follows after this time.
const RENEWAL_PAUSE: Duration = Duration::from_mins(1);
/// After a failed fetch, nobody fetches for this time. It doubles with each further failure, up to
/// [`MAX_PAUSE`]. Meanwhile every caller gets the failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// The keys of one issuer.
pub(super) struct Keyring(Arc<Inner>);

struct Inner {
    source: Box<dyn FetchKeys>,
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    keys: Arc<KeySet>,
    /// When they came.
    fetched_at: Option<Timestamp>,
    /// The last fetch, if it failed.
    failure: Option<Failure>,
    /// The fetch that is under way.
    fetching: Option<Fetching>,
}

/// A fetch that all callers wait for. It runs in a task of its own, so that it ends for the others,
/// and for later callers, even if the caller who began it gives up.
type Fetching = Shared<BoxFuture<'static, Result<(), Failure>>>;

#[derive(Clone)]
struct Failure {
    error: Arc<KeyFetchError>,
    at: Timestamp,
    /// For how long nobody fetches.
    pause: Duration,
}

impl Failure {
    /// The error for a caller who needs a key.
    fn told(&self, now: Timestamp) -> AuthError {
        let retry_after = self.pause.saturating_sub(now.since(self.at));
        AuthError::KeysUnavailable { reason: Arc::clone(&self.error), retry_after }
    }
}

/// Whether `now` is within `pause` after `at`. A clock that was put back ends every pause, since
/// nobody can tell how long it has lasted.
fn is_within(now: Timestamp, at: Timestamp, pause: Duration) -> bool {
    now >= at && now.since(at) < pause
}

impl State {
    /// Whether it is time for the next fetch: long enough after the keys came, or after the last
    /// fetch failed.
    fn is_old(&self, now: Timestamp) -> bool {
        self.fetched_at.is_some_and(|at| now.since(at) >= MAX_KEY_AGE)
            && self.failure.as_ref().is_none_or(|failure| !is_within(now, failure.at, RENEWAL_PAUSE))
    }
}

impl Keyring {
    pub(super) fn new(source: Box<dyn FetchKeys>, clock: Clock) -> Self {
        Self(Arc::new(Inner { source, clock, state: Mutex::default() }))
    }

    /// The keys that tokens are checked with at present, where they have been fetched.
    pub(super) async fn present(&self) -> Arc<KeySet> {
        self.renew().await;
        Arc::clone(&self.0.state().keys)
    }

    /// The key with this id.
    pub(super) async fn get(&self, id: &str) -> Result<VerificationKey, AuthError> {
        self.renew().await;
        let fetching = {
            let mut state = self.0.state();
            if let Some(found) = state.keys.get(id) {
                return Ok(found.clone());
            }
            let now = self.0.clock.now();
            match (&state.fetching, &state.failure) {
                (Some(fetching), _) => fetching.clone(),
                (None, Some(failure)) if is_within(now, failure.at, failure.pause) => {
                    return Err(failure.told(now));
                }
                _ if state.fetched_at.is_some_and(|at| is_within(now, at, REFETCH_INTERVAL)) => {
                    return Err(TokenError::UnknownKey.into());
                }
                _ => self.begin(&mut state),
            }
        };
        fetching.await.map_err(|failure| failure.told(self.0.clock.now()))?;
        Ok(self.0.state().keys.get(id).cloned().ok_or(TokenError::UnknownKey)?)
    }

    /// Fetches the keys again if they are old. One caller waits for that; the others use the keys
    /// that are known.
    async fn renew(&self) {
        let fetching = {
            let mut state = self.0.state();
            if state.fetching.is_some() || !state.is_old(self.0.clock.now()) {
                return;
            }
            self.begin(&mut state)
        };
        if let Err(Failure { error, .. }) = fetching.await {
            warn!(%error, "the issuer's keys cannot be fetched again; the old ones go on serving");
        }
    }

    /// Begins a fetch. The next one to lock `state` finds it under way.
    fn begin(&self, state: &mut State) -> Fetching {
        let (inner, waiting) = (Arc::clone(&self.0), Arc::clone(&self.0));
        let begun = inner.clock.now();
        let task = tokio::spawn(async move {
            let fetched = inner.source.fetch().await;
            inner.record(begun, fetched)
        });
        // A task that did not end has fetched nothing.
        let lost = move |_| waiting.record(begun, Err(KeyFetchError::Timeout));
        let fetching = task.map(move |ended| ended.unwrap_or_else(lost)).boxed().shared();
        state.fetching = Some(fetching.clone());
        fetching
    }
}

impl Inner {
    /// What became of a fetch.
    fn record(&self, begun: Timestamp, fetched: Result<KeySet, KeyFetchError>) -> Result<(), Failure> {
        let mut state = self.state();
        state.fetching = None;
        match fetched {
            Ok(keys) => {
                *state = State { keys: Arc::new(keys), fetched_at: Some(begun), ..State::default() };
                Ok(())
            }
            Err(error) => {
                let pause = state.failure.as_ref().map_or(FIRST_PAUSE, |last| (last.pause * 2).min(MAX_PAUSE));
                let failure = Failure { error: Arc::new(error), at: self.clock.now(), pause };
                state.failure = Some(failure.clone());
                Err(failure)
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").finish_non_exhaustive()
    }
}
