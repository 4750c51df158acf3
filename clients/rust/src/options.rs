//! Where the service is, and how patient the client is with it.

use std::{sync::Arc, time::Duration};

use tonic::transport::{ClientTlsConfig, Endpoint};

use crate::{backoff::Backoff, error::Error, token::TokenSource};

/// How long an instance may be silent, in heartbeats, until its connection counts as dead.
const HEARTBEATS: u32 = 3;

/// Options of a [`Client`](crate::Client). All durations bound something; none is waited for
/// needlessly.
#[derive(Clone)]
#[must_use]
pub struct Options {
    endpoints: Vec<String>,
    pub(crate) token: Arc<dyn TokenSource>,
    tls: Option<ClientTlsConfig>,
    pub(crate) connect_timeout: Duration,
    pub(crate) token_timeout: Duration,
    pub(crate) deadline: Duration,
    pub(crate) attempt_timeout: Duration,
    keepalive: (Duration, Duration),
    heartbeat_interval: Duration,
    pub(crate) max_message_bytes: usize,
    pub(crate) backoff: Backoff,
    pub(crate) reconnect_spread: Duration,
}

impl Options {
    /// The service at this URL, such as `https://config.example.com` or `http://127.0.0.1:50051`,
    /// with tokens from there.
    pub fn new(endpoint: impl Into<String>, token: impl TokenSource + 'static) -> Self {
        Self {
            endpoints: vec![endpoint.into()],
            token: Arc::new(token),
            tls: None,
            connect_timeout: Duration::from_secs(5),
            token_timeout: Duration::from_secs(10),
            deadline: Duration::from_secs(10),
            attempt_timeout: Duration::from_secs(3),
            keepalive: (Duration::from_secs(10), Duration::from_secs(5)),
            heartbeat_interval: Duration::from_secs(15),
            max_message_bytes: 8 << 20,
            backoff: Backoff::default(),
            reconnect_spread: Duration::from_secs(2),
        }
    }

    /// A further URL of the service. Clients begin at any of them, and go to the next when one does
    /// not answer.
    pub fn endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.endpoints.push(endpoint.into());
        self
    }

    /// TLS settings: whom to trust, the client's own certificate. Without them, `https` URLs trust
    /// what this machine trusts.
    pub fn tls(mut self, tls: ClientTlsConfig) -> Self {
        self.tls = Some(tls);
        self
    }

    /// How long it may take to connect. Default: 5 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long the token source may take for a token. Default: 10 s.
    pub fn token_timeout(mut self, timeout: Duration) -> Self {
        self.token_timeout = timeout;
        self
    }

    /// How long an unary call may take, with all its attempts; a list has this time for each of its
    /// pages. Default: 10 s.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// How long one attempt of an unary call may take. If nothing at all comes over its connection
    /// in that time, the next attempt is made over another one; so let it be shorter than the
    /// deadline, and longer than answers take. Default: 3 s.
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = timeout;
        self
    }

    /// How often the connection is tested by an HTTP/2 ping, and how long its answer may take.
    /// Default: every 10 s, 5 s.
    pub fn keepalive(mut self, interval: Duration, timeout: Duration) -> Self {
        self.keepalive = (interval, timeout);
        self
    }

    /// How often the service sends heartbeats. A watch that hears nothing for three of them
    /// connects anew. Default: 15 s.
    pub fn heartbeat_interval(mut self, interval: Duration) -> Self {
        self.heartbeat_interval = interval;
        self
    }

    /// How large an answer may be, in bytes. Default: 8 MiB.
    pub fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.max_message_bytes = bytes;
        self
    }

    /// Pauses between attempts. Default: [`Backoff::default`].
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// The longest first pause of a watch whose open connection was lost: it is drawn evenly from
    /// zero up to there, so that the watches that an instance had do not all come to the next one
    /// at once. A watch that the service itself ends, as it does one by one when it goes away,
    /// pauses as [`Options::backoff`] says. Default: 2 s.
    pub fn reconnect_spread(mut self, spread: Duration) -> Self {
        self.reconnect_spread = spread;
        self
    }

    /// How long a watch may hear nothing.
    pub(crate) fn silence(&self) -> Duration {
        self.heartbeat_interval.saturating_mul(HEARTBEATS)
    }

    /// The endpoints as connections are made to them.
    pub(crate) fn parsed_endpoints(&self) -> Result<Vec<Endpoint>, Error> {
        self.endpoints.iter().map(|url| self.parsed_endpoint(url)).collect()
    }

    fn parsed_endpoint(&self, url: &str) -> Result<Endpoint, Error> {
        let unusable = |error: tonic::transport::Error| Error::InvalidOptions { reason: format!("{url}: {error}") };
        let endpoint = Endpoint::from_shared(url.to_owned()).map_err(unusable)?;
        let https = match endpoint.uri().scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(Error::InvalidOptions { reason: format!("{url}: neither http:// nor https://") }),
        };
        let endpoint = endpoint
            .connect_timeout(self.connect_timeout)
            .http2_keep_alive_interval(self.keepalive.0)
            .keep_alive_timeout(self.keepalive.1)
            .keep_alive_while_idle(true);
        if !https {
            return match self.tls {
                // Else the token would travel in the clear, although somebody took care that it
                // does not.
                Some(_) => Err(Error::InvalidOptions { reason: format!("{url}: TLS settings need https://") }),
                None => Ok(endpoint),
            };
        }
        let tls = self.tls.clone().unwrap_or_else(|| ClientTlsConfig::new().with_native_roots());
        endpoint.tls_config(tls).map_err(unusable)
    }
}
