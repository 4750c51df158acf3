//! The three that are compared, as they are started: config-stream over the local suite, the bare
//! service on tonic, and etcd.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
};

use bytes::Bytes;
use config_proto::v1;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    etcd,
    grpc::{Connection, Failure, Target, framed},
    process::{Asked, Process},
};

/// The key that is read, written and watched.
pub(crate) const KEY: &str = "tenant_config_limits";
/// The tenant whose key it is.
const TENANT: &str = "acme";
/// How many bytes a value has, the quotation marks of JSON among them.
const VALUE_BYTES: usize = 1_000;
/// What stands in front of the number of a value.
const MARK: &[u8] = b"value-";
const DIGITS: usize = 8;

const GET: &str = "/tenantry.config.v1.ConfigService/GetConfig";
const BATCH_GET: &str = "/tenantry.config.v1.ConfigService/BatchGetConfig";
const WATCH: &str = "/tenantry.config.v1.ConfigService/WatchConfig";

/// A value of 1 kB that can be told by its number: JSON, for all three.
pub(crate) fn value(number: u32) -> String {
    let text = format!("\"{}{number:0DIGITS$}", String::from_utf8_lossy(MARK));
    format!("{text:x<width$}\"", width = VALUE_BYTES - 1)
}

/// The number of the value in a message; none if it has none.
pub(crate) fn number_in(message: &[u8]) -> Option<u32> {
    let begin = message.windows(MARK.len()).position(|part| part == MARK)? + MARK.len();
    str::from_utf8(message.get(begin..begin + DIGITS)?).ok()?.parse().ok()
}

/// Which one it is, and what only that one needs.
#[derive(Debug)]
enum Kind {
    ConfigStream { http: SocketAddr },
    Hello,
    Etcd { _data: TempDir },
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) name: &'static str,
    pub(crate) target: Target,
    pub(crate) process: Process,
    kind: Kind,
}

/// The local suite, and what config-stream is started with.
#[derive(Debug)]
pub(crate) struct Suite {
    asked: Asked,
    http: SocketAddr,
    environment: BTreeMap<String, String>,
}

impl Suite {
    /// Starts it.
    pub(crate) fn start(binaries: &Path) -> Result<Self, Failure> {
        let mut asked = Asked::start(&binaries.join("bench-suite"))?;
        let said = asked.answer()?;
        let http = said["httpUrl"].as_str().and_then(|url| url.strip_prefix("http://"));
        Ok(Self {
            http: http.ok_or("the suite has no HTTP API")?.parse()?,
            environment: serde_json::from_value(said["environment"].clone())?,
            asked,
        })
    }

    /// What a call of this tenant carries.
    pub(crate) fn bearer(&mut self, tenant: &str) -> Result<String, Failure> {
        let token = self.asked.ask(&format!("token {tenant}"))?;
        Ok(format!("Bearer {}", token.as_str().ok_or("there is no token")?))
    }

    /// Operation of an AWS service → how often it was asked for so far.
    pub(crate) fn calls(&mut self) -> Result<BTreeMap<String, u64>, Failure> {
        Ok(serde_json::from_value(self.asked.ask("calls")?)?)
    }

    /// Starts config-stream against it, with the settings of the template but for where it listens
    /// and how much one tenant may ask.
    pub(crate) fn config_stream(&mut self, binaries: &Path) -> Result<Server, Failure> {
        let mut command = Command::new(binaries.join("config-stream"));
        command.env_clear().envs(&self.environment).env("GRPC_ADDRESS", "127.0.0.1:0").env_remove("METRICS_ADDRESS");
        // Counting its calls is part of what is measured.
        command.env("TENANT_RATE_LIMIT", u32::MAX.to_string()).env("TENANT_BURST_LIMIT", u32::MAX.to_string());
        let (process, address) = Process::until_said(command, serves)?;
        let target = Target { address, token: Some(self.bearer(TENANT)?) };
        Ok(Server { name: "config-stream", target, process, kind: Kind::ConfigStream { http: self.http } })
    }
}

/// The address in the line that says that config-stream serves.
fn serves(line: &str) -> Option<SocketAddr> {
    let line: Value = serde_json::from_str(line).ok()?;
    line.get("address").or_else(|| line.pointer("/fields/address"))?.as_str()?.parse().ok()
}

/// Starts the bare service, which is sent the same token.
pub(crate) fn hello(binaries: &Path, token: Option<String>) -> Result<Server, Failure> {
    let mut command = Command::new(binaries.join("stream-hello"));
    command.arg(value(0));
    let (process, address) = Process::until_said(command, |line| line.parse().ok())?;
    Ok(Server { name: "bare tonic", target: Target { address, token }, process, kind: Kind::Hello })
}

/// Starts etcd, on ports that were free a moment ago.
pub(crate) fn etcd(program: &Path) -> Result<Server, Failure> {
    let data = tempfile::tempdir()?;
    let ports = [TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?, TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?];
    let [client, peer] = [ports[0].local_addr()?, ports[1].local_addr()?].map(|address| format!("http://{address}"));
    let address = ports[0].local_addr()?;
    drop(ports);
    let mut command = Command::new(program);
    command.arg("--data-dir").arg(data.path());
    command.args(["--logger", "zap", "--log-outputs", "stderr", "--initial-cluster-state", "new"]);
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    command.args(["--initial-cluster", &format!("default={peer}")]);
    let (process, ()) = Process::until_logged(command, |line| line.contains("serving client traffic").then_some(()))?;
    Ok(Server { name: "etcd", target: Target { address, token: None }, process, kind: Kind::Etcd { _data: data } })
}

impl Server {
    /// The path and the request of a unary read.
    pub(crate) fn read(&self) -> (&'static str, Bytes) {
        match self.kind {
            Kind::ConfigStream { .. } | Kind::Hello => {
                (GET, framed(&v1::GetConfigRequest { key: KEY.to_owned(), min_revision: 0 }))
            }
            Kind::Etcd { .. } => (etcd::RANGE, etcd::range(KEY)),
        }
    }

    /// The path and the request of a watch of the key, and whether it is the only one that there
    /// can be.
    pub(crate) fn watch(&self) -> (&'static str, Bytes, bool) {
        match self.kind {
            Kind::ConfigStream { .. } | Kind::Hello => {
                let request = v1::WatchConfigRequest { keys: vec![KEY.to_owned()], prefixes: vec![], position: None };
                (WATCH, framed(&request), true)
            }
            Kind::Etcd { .. } => (etcd::WATCH, etcd::watch(KEY), false),
        }
    }

    /// Commits the value of this number; done when the server has answered.
    pub(crate) async fn commit(&self, writer: &Writer, number: u32) -> Result<(), Failure> {
        let value = value(number);
        match (&self.kind, writer) {
            (_, Writer::Http(stream)) => {
                let token = self.target.token.as_deref().unwrap_or_default();
                put(*stream, token, &value).await
            }
            (Kind::Etcd { .. }, Writer::Grpc(connection)) => {
                connection.call(etcd::PUT, &etcd::put(KEY, value)).await.map(drop)
            }
            (_, Writer::Grpc(connection)) => {
                let request = v1::BatchGetConfigRequest { keys: vec![value], min_revision: 0 };
                connection.call(BATCH_GET, &framed(&request)).await.map(drop)
            }
        }
    }

    /// Whoever writes to it.
    pub(crate) async fn writer(&self) -> Result<Writer, Failure> {
        match self.kind {
            Kind::ConfigStream { http } => Ok(Writer::Http(http)),
            _ => Ok(Writer::Grpc(Connection::open(&self.target).await?)),
        }
    }
}

/// How values are written.
#[derive(Debug)]
pub(crate) enum Writer {
    /// Over the HTTP API, a connection for each.
    Http(SocketAddr),
    /// Over a connection that stays.
    Grpc(Connection),
}

/// Puts the key over the HTTP API.
async fn put(http: SocketAddr, token: &str, value: &str) -> Result<(), Failure> {
    let mut stream = TcpStream::connect(http).await?;
    let body = format!("{{\"value\":{value}}}");
    let request = format!(
        "PUT /v1/config/{KEY} HTTP/1.1\r\nhost: {http}\r\nauthorization: {token}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    if answer.starts_with("HTTP/1.1 200") || answer.starts_with("HTTP/1.1 201") {
        Ok(())
    } else {
        Err(format!("the write was answered with {answer}").into())
    }
}

/// The etcd that is asked for, or the one on the path.
pub(crate) fn etcd_program(given: Option<PathBuf>) -> Result<PathBuf, Failure> {
    let missing =
        "etcd is not on PATH; say where it is with --etcd, for instance in the unpacked Debian package etcd-server";
    given.or_else(|| crate::process::on_path("etcd")).ok_or_else(|| missing.into())
}
