//! `local token`: signs a token that the running suite takes. It makes nothing, neither a folder
//! nor a key.
//!
//! A suite is found by its port, where it answers who it is: so what is found does run, whichever
//! data folder it has, and nothing that a killed one left behind is believed.

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf, absolute},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    data::{DataError, DataFolder},
    issuer::{Issuer, IssuerError, TENANT_CLAIM, TokenRequest},
};

/// Where a running suite says who it is, on its HTTP port.
pub const SUITE_PATH: &str = "/_local/suite";
/// How long a suite may take to say that. One that is still starting does so once it has started.
const PATIENCE: Duration = Duration::from_secs(5);
/// Its answer is shorter.
const MAX_ANSWER_BYTES: u64 = 65_536;

/// Who a running suite is, for those who sign tokens beside it. The key itself stays in the data
/// folder, for its owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// Its token issuer.
    pub issuer: String,
    /// The id of the issuer's key.
    pub key_id: String,
    /// The claim that names the tenant.
    pub tenant_claim: String,
    /// Its data folder, if it has one whose path is text.
    pub data: Option<PathBuf>,
}

impl Identity {
    /// That of the suite with this issuer.
    pub fn new(issuer: &Issuer, tenant_claim: &str, data: Option<&Path>) -> Self {
        // The suite's own folder is none of those who ask.
        let data = data.and_then(|data| absolute(data).ok()).filter(|data| data.to_str().is_some());
        let (issuer, key_id) = (issuer.url().to_owned(), issuer.key_id().to_owned());
        Self { issuer, key_id, tenant_claim: tenant_claim.to_owned(), data }
    }
}

/// Which suite a token is for.
#[derive(Debug, Clone)]
pub enum Place {
    /// The one that runs: on `port`, or where the last one on the folder `data` listened.
    Anywhere {
        /// The port that a suite has unless told otherwise.
        port: u16,
        /// The data folder that it has then.
        data: PathBuf,
    },
    /// The one on this port.
    Port(u16),
    /// The one with this data folder, whether it runs or not.
    Folder(PathBuf),
}

/// A signed token.
#[derive(Debug, Clone)]
pub struct Signed {
    /// The token.
    pub token: String,
    /// Whether the suite that takes it runs.
    pub is_running: bool,
}

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
    /// There is no suite.
    #[error(
        "no suite runs here: none answers on {}. Start one with `cargo run -p local`; if it runs, say where, with --http-port PORT or --data DIR",
        ports(.0)
    )]
    Nowhere(Vec<u16>),
    /// There are several.
    #[error("several suites run here, on {}: say which one is meant, with --http-port PORT", ports(.0))]
    Several(Vec<u16>),
    /// No suite ever ran with this folder.
    #[error(
        "no suite has run on the data folder {}, so it has no key to sign with. Start one with `cargo run -p local`, or name the folder of yours with --data DIR",
        .0.display()
    )]
    NoKey(PathBuf),
    /// The suite keeps its key to itself.
    #[error(
        "the suite on 127.0.0.1:{0} names no data folder, so its key cannot be read; name the folder with --data DIR"
    )]
    NoFolder(u16),
    /// The folder that the suite names is not the one that is seen here under that name.
    #[error(
        "the key in {} is not that of the suite on 127.0.0.1:{port}, which may see another folder there; name its folder with --data DIR",
        data.display()
    )]
    OtherKey {
        /// The suite's port.
        port: u16,
        /// The folder that it names.
        data: PathBuf,
    },
}

fn ports(ports: &[u16]) -> String {
    ports.iter().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(" and ")
}

/// Signs a token as the issuer of the suite at `place`, which also says which claim names the
/// tenant.
pub fn sign(place: &Place, request: &TokenRequest<'_>) -> Result<Signed, TokenError> {
    match place {
        Place::Anywhere { port, data } => {
            let mut places = vec![*port];
            places.extend(last_port(&DataFolder::at(data)).filter(|last| last != port));
            let mut found: Vec<_> = places.iter().filter_map(|port| Some((*port, who_runs_on(*port)?))).collect();
            match (found.pop(), found.is_empty()) {
                (None, _) => Err(TokenError::Nowhere(places)),
                (Some((port, identity)), true) => sign_for(port, &identity, request),
                (Some(_), false) => Err(TokenError::Several(places)),
            }
        }
        Place::Port(port) => match who_runs_on(*port) {
            Some(identity) => sign_for(*port, &identity, request),
            None => Err(TokenError::Nowhere(vec![*port])),
        },
        Place::Folder(folder) => {
            let data = DataFolder::at(folder);
            let key = data.known_issuer_key()?.ok_or_else(|| TokenError::NoKey(folder.clone()))?;
            // A suite that never got as far as to listen left a key, but no address.
            let url = data.issuer_url()?.ok_or_else(|| TokenError::NoKey(folder.clone()))?;
            let issuer = Issuer::new(url, &key)?;
            let running = last_port(&data).and_then(who_runs_on).filter(|suite| suite.key_id == issuer.key_id());
            let tenant_claim = running.as_ref().map_or(TENANT_CLAIM, |suite| &suite.tenant_claim);
            let token = issuer.token(&TokenRequest { tenant_claim, ..request.clone() })?;
            Ok(Signed { token, is_running: running.is_some() })
        }
    }
}

fn sign_for(port: u16, suite: &Identity, request: &TokenRequest<'_>) -> Result<Signed, TokenError> {
    let data = suite.data.clone().ok_or(TokenError::NoFolder(port))?;
    let other = || TokenError::OtherKey { port, data: data.clone() };
    let key = DataFolder::at(&data).known_issuer_key()?.ok_or_else(other)?;
    let issuer = Issuer::new(suite.issuer.clone(), &key)?;
    if issuer.key_id() != suite.key_id {
        return Err(other());
    }
    let token = issuer.token(&TokenRequest { tenant_claim: &suite.tenant_claim, ..request.clone() })?;
    Ok(Signed { token, is_running: true })
}

/// Where the last suite with this folder listened.
fn last_port(data: &DataFolder) -> Option<u16> {
    Issuer::port_of(&data.issuer_url().ok()??)
}

/// The suite on a port of this machine, if it is one that answers there.
fn who_runs_on(port: u16) -> Option<Identity> {
    serde_json::from_slice(&get(port, SUITE_PATH).ok()?).ok()
}

/// What is answered with 200, or nothing.
fn get(port: u16, path: &str) -> io::Result<Vec<u8>> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // In HTTP/1.0 an answer comes in one piece, and ends where the connection does.
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer)?;
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or_default();
    let is_ok = answer.starts_with(b"HTTP/1.") && answer.get(8..13) == Some(b" 200 ".as_slice());
    Ok(if is_ok { answer.split_off(head + 4) } else { Vec::new() })
}
