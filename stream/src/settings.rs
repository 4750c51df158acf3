//! The service's own settings, besides those that it shares with the functions.

use std::{fs, io, net::SocketAddr, path::PathBuf, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use tenantry::{
    aws::OwnCredentials,
    settings::{InvalidSettings, SharedSettings},
};

/// The service's settings. Each is one environment variable, named at its field; those of
/// [`SharedSettings`] apply as well.
#[derive(Clone, Debug)]
pub struct StreamSettings {
    /// What is shared with the functions. `CACHE_MAX_BYTES` bounds the tenants in memory that
    /// nobody watches, any single one, and all those that are watched, each.
    pub shared: SharedSettings,
    /// `GRPC_ADDRESS`: where gRPC is served; `0.0.0.0:50051` by default.
    pub address: SocketAddr,
    /// `METRICS_ADDRESS`: where `/metrics` is served over HTTP; nowhere by default.
    pub metrics_address: Option<SocketAddr>,
    /// `POLL_INTERVAL_MS`: how often the index of changes is looked at, in milliseconds; 250 by
    /// default.
    pub poll_interval: Duration,
    /// `MAX_WATCHERS`: how many watches there may be; 10,000 by default.
    pub max_watchers: usize,
    /// `MAX_WATCHERS_PER_TENANT`: how many of them of one tenant; 1,000 by default.
    pub max_tenant_watchers: usize,
    /// `HEARTBEAT_SECONDS`: after what time without a message a watch gets a heartbeat; 15 by
    /// default. Less than what load balancers take for idle.
    pub heartbeat: Duration,
    /// `DRAIN_SECONDS`: how long open calls have to end when the service stops; 20 by default.
    pub drain: Duration,
    /// `DRAIN_DELAY_SECONDS`: how long the service says that it is not serving before it turns
    /// calls away, so that load balancers notice; 0 by default.
    pub drain_delay: Duration,
    /// `CHANGE_QUEUE_URL`: an SQS queue of `Config Changed` events, as hints where to look; none by
    /// default.
    pub change_queue: Option<String>,
    /// `SNAPSHOT_FILE` and `SNAPSHOT_KEY`: a file to keep what is in memory in, and the key that it
    /// is encrypted with: 32 bytes in base64.
    pub snapshot: Option<SnapshotSettings>,
    /// `TLS_CERTIFICATE_FILE`, `TLS_KEY_FILE`: the service's certificate chain and key as PEM;
    /// plain text by default, for use behind something that ends TLS. `TLS_CLIENT_CA_FILE`: the
    /// certificates that those of clients must lead to; none is asked for by default.
    pub tls: Option<TlsSettings>,
}

/// Where what is in memory is kept.
#[derive(Clone)]
pub struct SnapshotSettings {
    /// The file.
    pub file: PathBuf,
    /// The key, for AES-256-GCM.
    pub key: [u8; 32],
}

/// The service's certificates, as PEM.
#[derive(Clone)]
pub struct TlsSettings {
    /// Its own, with what leads to the root.
    pub certificate: Vec<u8>,
    /// The key to it.
    pub key: Vec<u8>,
    /// Those that clients' must lead to, if clients must have any.
    pub client_ca: Option<Vec<u8>>,
}

impl std::fmt::Debug for SnapshotSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SnapshotSettings").field("file", &self.file).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for TlsSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsSettings").field("asks_clients", &self.client_ca.is_some()).finish_non_exhaustive()
    }
}

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UnusableSettings {
    /// One of those that are shared with the functions.
    #[error(transparent)]
    Shared(#[from] InvalidSettings),
    /// A file that cannot be read.
    #[error("the setting {name} must be a readable file: {file}: {source}", file = .file.display())]
    File {
        /// The setting.
        name: &'static str,
        /// Its value.
        file: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Two that need each other.
    #[error("the settings {0} and {1} go together; one of them is missing")]
    Half(&'static str, &'static str),
    /// A key of another form. It is not repeated.
    #[error("the setting SNAPSHOT_KEY must be 32 bytes in base64, such as `openssl rand -base64 32` makes")]
    Key,
}

impl StreamSettings {
    /// Reads all settings from `source`: name → value. An empty value counts as none.
    pub fn load(
        source: &dyn Fn(&str) -> Option<String>,
        credentials: OwnCredentials,
    ) -> Result<Self, UnusableSettings> {
        let optional = |name: &'static str| source(name).filter(|value| !value.is_empty());
        let mut shared = SharedSettings::load(source, credentials)?;
        if shared.backend.aws.roles.is_some() {
            shared.require_system_role()?;
        }
        let max_watchers = number(&optional, "MAX_WATCHERS", 10_000, 1)?;
        let seconds = |name, default, least| number(&optional, name, default, least).map(Duration::from_secs);
        // Each watched tenant may need one at the same time.
        shared.backend.aws.max_sessions =
            shared.backend.aws.max_sessions.max(usize::try_from(max_watchers).unwrap_or(usize::MAX).min(5_000));
        Ok(Self {
            shared,
            address: address(&optional, "GRPC_ADDRESS")?.unwrap_or(SocketAddr::from(([0, 0, 0, 0], 50051))),
            metrics_address: address(&optional, "METRICS_ADDRESS")?,
            poll_interval: number(&optional, "POLL_INTERVAL_MS", 250, 10).map(Duration::from_millis)?,
            max_watchers: usize::try_from(max_watchers).unwrap_or(usize::MAX),
            max_tenant_watchers: usize::try_from(number(&optional, "MAX_WATCHERS_PER_TENANT", 1_000, 1)?)
                .unwrap_or(usize::MAX),
            heartbeat: seconds("HEARTBEAT_SECONDS", 15, 1)?,
            drain: seconds("DRAIN_SECONDS", 20, 1)?,
            drain_delay: seconds("DRAIN_DELAY_SECONDS", 0, 0)?,
            change_queue: optional("CHANGE_QUEUE_URL"),
            snapshot: snapshot(&optional)?,
            tls: tls(&optional)?,
        })
    }
}

fn unusable(name: &'static str, value: String, expected: &'static str) -> UnusableSettings {
    UnusableSettings::Shared(InvalidSettings::Unusable { name, value, expected })
}

fn number(
    optional: &dyn Fn(&'static str) -> Option<String>,
    name: &'static str,
    default: u64,
    least: u64,
) -> Result<u64, UnusableSettings> {
    let Some(value) = optional(name) else { return Ok(default) };
    let number = value.parse().ok().filter(|number| (least..=u64::from(u32::MAX)).contains(number));
    number.ok_or_else(|| {
        let expected = match least {
            0 => "a whole number",
            1 => "a whole number, at least 1",
            _ => "a whole number, at least 10",
        };
        unusable(name, value, expected)
    })
}

fn address(
    optional: &dyn Fn(&'static str) -> Option<String>,
    name: &'static str,
) -> Result<Option<SocketAddr>, UnusableSettings> {
    let Some(value) = optional(name) else { return Ok(None) };
    let parsed = value.parse().map_err(|_| unusable(name, value, "an IP address and a port, such as 0.0.0.0:50051"));
    parsed.map(Some)
}

fn snapshot(optional: &dyn Fn(&'static str) -> Option<String>) -> Result<Option<SnapshotSettings>, UnusableSettings> {
    let (file, key) = match (optional("SNAPSHOT_FILE"), optional("SNAPSHOT_KEY")) {
        (None, None) => return Ok(None),
        (Some(file), Some(key)) => (file, key),
        _ => return Err(UnusableSettings::Half("SNAPSHOT_FILE", "SNAPSHOT_KEY")),
    };
    let key =
        BASE64_STANDARD.decode(key.trim()).ok().and_then(|key| key.try_into().ok()).ok_or(UnusableSettings::Key)?;
    Ok(Some(SnapshotSettings { file: file.into(), key }))
}

fn tls(optional: &dyn Fn(&'static str) -> Option<String>) -> Result<Option<TlsSettings>, UnusableSettings> {
    let read = |name: &'static str, file: String| {
        fs::read(&file).map_err(|source| UnusableSettings::File { name, file: file.into(), source })
    };
    let client_ca = optional("TLS_CLIENT_CA_FILE");
    match (optional("TLS_CERTIFICATE_FILE"), optional("TLS_KEY_FILE")) {
        (Some(certificate), Some(key)) => Ok(Some(TlsSettings {
            certificate: read("TLS_CERTIFICATE_FILE", certificate)?,
            key: read("TLS_KEY_FILE", key)?,
            client_ca: client_ca.map(|file| read("TLS_CLIENT_CA_FILE", file)).transpose()?,
        })),
        (None, None) if client_ca.is_none() => Ok(None),
        // Never plain text where somebody meant clients to be checked.
        (None, None) => Err(UnusableSettings::Half("TLS_CLIENT_CA_FILE", "TLS_CERTIFICATE_FILE")),
        _ => Err(UnusableSettings::Half("TLS_CERTIFICATE_FILE", "TLS_KEY_FILE")),
    }
}
