//! What an idle suite costs, and a write, by how much the suite holds.
//!
//! Two suites run side by side, each in a process of its own, started as `cargo run -p local`
//! starts it: with a data folder, the schedules and the streaming service. One holds few tenants,
//! the other many. What counts are the ratios of their processor times.

use std::{
    error::Error,
    fmt, fs,
    io::{self, BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use local::{Options, Suite, issuer::DEFAULT_SCOPE};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, stdin};

/// How many keys a tenant has, and how many of them lie in Parameter Store as well. It takes 10,000
/// parameters, so not all of them can.
const KEYS: usize = 20;
const PARAMETERS: usize = 2;
/// How many tenants the two suites hold.
const TENANTS: [usize; 2] = [10, 1_000];
/// How many writes are measured, one after the other, and how many tenants write where few do.
const WRITES: usize = 500;
const FEW: usize = 10;
/// How long both have to be filled.
const PATIENCE: Duration = Duration::from_mins(6);
/// How long the last writes are left to be done with: the streaming service reads the latest ones
/// again until nothing has come for a minute.
const SETTLE: Duration = Duration::from_secs(70);
/// How much idle time is measured: each schedule comes twice.
const IDLE: Duration = Duration::from_mins(2);
/// How much more processor time the fuller suite may take idle.
const LIMIT: f64 = 1.2;
/// How many clock ticks a second has in `/proc`, on every Linux.
const TICKS: f64 = 100.0;

type Failure = Box<dyn Error + Send + Sync>;

/// What a suite that holds something says, once it does.
#[derive(Debug, Serialize, Deserialize)]
struct Filled {
    /// Milliseconds of processor time that a write took, its client's among them: where few tenants
    /// write, and where all do in turn.
    write_ms: [f64; 2],
}

/// What was measured.
#[derive(Debug)]
pub(crate) struct Report {
    /// Milliseconds for a write, by the number of tenants held: where few write, and where all do.
    writes: [[f64; 2]; 2],
    /// The share of a processor when idle.
    idle: [f64; 2],
}

/// Measures.
pub(crate) fn run() -> Result<Report, Failure> {
    let begun = Instant::now();
    let mut suites = [Holder::start(TENANTS[0])?, Holder::start(TENANTS[1])?];
    let mut writes = [[0.0; 2]; 2];
    suites.iter_mut().try_for_each(Holder::fill)?;
    for (suite, write) in suites.iter_mut().zip(&mut writes) {
        *write = suite.filled()?.write_ms;
    }
    if begun.elapsed() > PATIENCE {
        return Err("the suites took too long to be filled".into());
    }
    let before = [suites[0].cpu()?, suites[1].cpu()?];
    thread::sleep(IDLE);
    let share = |after: f64, before: f64| (after - before) / IDLE.as_secs_f64();
    let idle = [share(suites[0].cpu()?, before[0]), share(suites[1].cpu()?, before[1])];
    Ok(Report { writes, idle })
}

impl Report {
    /// Whether the fuller suite takes no more than it may.
    pub(crate) fn is_good(&self) -> bool {
        self.idle_ratio() <= LIMIT
    }

    fn idle_ratio(&self) -> f64 {
        self.idle[1] / self.idle[0]
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "tenants of {KEYS} keys   idle: % of a processor   ms a write: {FEW} write   all in turn")?;
        let rows = self.idle.iter().zip(self.writes);
        for (tenants, (idle, [few, all])) in TENANTS.iter().zip(rows) {
            writeln!(out, "{tenants:>18}   {:>22.2}   {few:>20.2}   {all:>11.2}", idle * 100.0)?;
        }
        let [few, all] = [0, 1].map(|which| self.writes[1][which] / self.writes[0][which]);
        writeln!(out, "{:>18}   {:>22.2}   {few:>20.2}   {all:>11.2}", "ratio", self.idle_ratio())
    }
}

/// A suite in a process of its own; ends when this is dropped.
#[derive(Debug)]
struct Holder {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Holder {
    fn start(tenants: usize) -> Result<Self, Failure> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["hold", &tenants.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let questions = child.stdin.take().ok_or("there is no standard input")?;
        let answers = BufReader::new(child.stdout.take().ok_or("there is no standard output")?);
        Ok(Self { child, questions, answers })
    }

    fn fill(&mut self) -> Result<(), Failure> {
        Ok(writeln!(self.questions, "fill")?)
    }

    /// Waits until everything is written.
    fn filled(&mut self) -> Result<Filled, Failure> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    }

    /// Seconds of processor time of all its threads, also of those that have ended.
    fn cpu(&self) -> Result<f64, Failure> {
        cpu_of(&self.child.id().to_string())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // There is nothing in it that has to be kept.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn cpu_of(process: &str) -> Result<f64, Failure> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // Behind the name, which may hold anything: the 12th and 13th word are user and system time.
    let words = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().skip(11).take(2);
    let ticks: Vec<f64> = words.map(str::parse).collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<f64>() / TICKS)
}

/// Holds a suite with so many tenants, until standard input ends.
pub(crate) async fn hold(tenants: usize) -> Result<(), Failure> {
    let data = tempfile::tempdir()?;
    let options = Options {
        data: Some(data.path().to_owned()),
        grpc_port: Some(0),
        run_schedules: true,
        parameters: [("TenantRateLimit", "1000000"), ("TenantBurstLimit", "1000000")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        ..Options::default()
    };
    let suite = Suite::start(options).await?;
    let mut asked = [0; 5];
    stdin().read_exact(&mut asked).await?;
    let client = Client::builder(TokioExecutor::new()).build_http();
    let filling = stream::iter(0..tenants).map(|number| fill(&suite, &client, number)).buffer_unordered(2);
    filling.fold(Ok(()), async |all: Result<(), Failure>, one| all.and(one)).await?;
    suite.emulator().settled().await;
    let mut write_ms = [0.0; 2];
    for (writers, taken) in [FEW.min(tenants), tenants].into_iter().zip(&mut write_ms) {
        let before = cpu_of("self")?;
        for number in 0..WRITES {
            write(&suite, &client, number % writers).await?;
        }
        *taken = (cpu_of("self")? - before) * 1_000.0 / f64::from(u32::try_from(WRITES)?);
    }
    tokio::time::sleep(SETTLE).await;
    writeln!(io::stdout(), "{}", serde_json::to_string(&Filled { write_ms })?)?;
    stdin().read_to_end(&mut Vec::new()).await?;
    suite.stop().await;
    Ok(())
}

/// Writes all keys of a tenant at once.
async fn fill(suite: &Suite, client: &Client<HttpConnector, Full<Bytes>>, number: usize) -> Result<(), Failure> {
    let operations = (0..KEYS).map(|key| {
        let tag = if key < PARAMETERS { "param_config_" } else { "tenant_config_" };
        json!({ "op": "put", "key": format!("{tag}key-{key}"), "value": format!("value {key}") })
    });
    let body = json!({ "operations": operations.collect::<Vec<_>>() });
    send(suite, client, number, "POST", "/v1/transactions", body.to_string()).await
}

/// Writes one key of a tenant again.
async fn write(suite: &Suite, client: &Client<HttpConnector, Full<Bytes>>, number: usize) -> Result<(), Failure> {
    let path = format!("/v1/config/tenant_config_key-{}", KEYS - 1);
    send(suite, client, number, "PUT", &path, json!({ "value": "another value" }).to_string()).await
}

async fn send(
    suite: &Suite,
    client: &Client<HttpConnector, Full<Bytes>>,
    number: usize,
    method: &str,
    path: &str,
    body: String,
) -> Result<(), Failure> {
    let token = suite.token(&format!("tenant-{number}"), DEFAULT_SCOPE)?;
    let request = Request::builder()
        .method(method)
        .uri(format!("{}{path}", suite.http_url()))
        .header("authorization", format!("Bearer {token}"))
        .header("content-type", "application/json");
    let answer = client.request(request.body(Full::new(body.into()))?).await?;
    let status = answer.status();
    let said = answer.into_body().collect().await?.to_bytes();
    if status == StatusCode::OK || status == StatusCode::CREATED {
        return Ok(());
    }
    Err(format!("{method} {path} was answered with {status}: {}", String::from_utf8_lossy(&said)).into())
}
