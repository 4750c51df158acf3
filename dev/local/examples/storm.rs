//! What one tenant's storm does to another: the latency of a tenant that reads quietly, alone and
//! beside one that sends as much as it can, with the limit for each tenant and without. Ratios
//! within one run; the storm, its sender and the suite share this machine's processors.
//!
//! `cargo run --release -p local --example storm`; about a minute, on loopback alone.

use std::{
    collections::BTreeMap,
    error::Error,
    io::{self, Write as _},
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use http::{Request, StatusCode, header::AUTHORIZATION};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use local::{Options, Suite};
use tokio::{
    task::JoinHandle,
    time::{Instant, interval, sleep_until},
};

/// How often the quiet tenant reads, and how many of its reads are measured.
const PAUSE: Duration = Duration::from_millis(20);
const READS: usize = 500;
/// How the storm comes: so many senders, each with so many requests a second.
const SENDERS: usize = 20;
const EACH_PER_SECOND: u64 = 50;
/// A key that both read.
const KEY: &str = "tenant_config_k";

type Failure = Box<dyn Error + Send + Sync>;
type HttpClient = Client<HttpConnector, Full<bytes::Bytes>>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    writeln!(
        io::stdout(),
        "| limit for each tenant | quiet tenant | p50 | p99 | × alone, p50 | × alone, p99 | its errors | storm: 200 | storm: 429 |"
    )?;
    writeln!(io::stdout(), "| --- | --- | --- | --- | --- | --- | --- | --- | --- |")?;
    for (limit, rate) in [("100 a second, the default", None), ("none", Some("0"))] {
        let parameters = rate.map(|rate| ("TenantRateLimit".to_owned(), rate.to_owned()));
        let suite =
            Suite::start(Options { parameters: parameters.into_iter().collect(), ..Options::default() }).await?;
        let client = Client::builder(TokioExecutor::new()).build_http();
        let asking = |tenant: &str| Asking::new(&suite, client.clone(), tenant);
        let (quiet, storm) = (asking("quiet")?, asking("storm")?);
        quiet.write().await?;
        storm.write().await?;
        // The first reads find nothing warm.
        quiet.reads(READS / 5).await?;

        let (alone, errors) = quiet.reads(READS).await?;
        writeln!(io::stdout(), "| {limit} | alone | {} | | | {errors} | | |", times(&alone))?;
        let sessions = suite.emulator().calls().count("AssumeRole");
        let storming: Vec<_> = (0..SENDERS).map(|_| storm.clone().send()).collect();
        let (beside, errors) = quiet.reads(READS).await?;
        for sender in &storming {
            sender.abort();
        }
        join_all(storming).await;
        let answers = storm.answers.lock().map_err(|_| "a sender failed")?.clone();
        let count = |status| answers.get(&status).copied().unwrap_or_default();
        let times_alone = |at| percentile(&beside, at).as_secs_f64() / percentile(&alone, at).as_secs_f64();
        writeln!(
            io::stdout(),
            "| {limit} | beside the storm | {} | {:.2} | {:.2} | {errors} | {} | {} |",
            times(&beside),
            times_alone(50),
            times_alone(99),
            count(StatusCode::OK),
            count(StatusCode::TOO_MANY_REQUESTS),
        )?;
        let requests: u64 = answers.values().sum::<u64>() + READS as u64;
        let asked = suite.emulator().calls().count("AssumeRole") - sessions;
        eprintln!("{asked} calls for credentials in {requests} requests of two tenants, after their first");
        suite.stop().await;
    }
    Ok(())
}

/// Requests of one tenant.
#[derive(Clone)]
struct Asking {
    client: HttpClient,
    url: String,
    authorization: String,
    answers: Arc<std::sync::Mutex<BTreeMap<StatusCode, u64>>>,
}

impl Asking {
    fn new(suite: &Suite, client: HttpClient, tenant: &str) -> Result<Self, Failure> {
        let authorization = format!("Bearer {}", suite.token(tenant, "config/read config/write")?);
        Ok(Self {
            client,
            url: format!("{}/v1/config/{KEY}", suite.http_url()),
            authorization,
            answers: Arc::default(),
        })
    }

    async fn ask(&self, method: &str, body: &'static str) -> Result<StatusCode, Failure> {
        let request = Request::builder().method(method).uri(&self.url).header(AUTHORIZATION, &self.authorization);
        let answer = self.client.request(request.body(Full::from(body))?).await?;
        let status = answer.status();
        answer.into_body().collect().await?;
        Ok(status)
    }

    async fn write(&self) -> Result<(), Failure> {
        match self.ask("PUT", r#"{"value": {"requestsPerSecond": 50}}"#).await? {
            status if status.is_success() => Ok(()),
            status => Err(format!("a write was answered {status}").into()),
        }
    }

    /// Reads at a steady pace, and how long each took from when it was due; and how many were not
    /// answered 200.
    async fn reads(&self, count: usize) -> Result<(Vec<Duration>, usize), Failure> {
        let begun = Instant::now();
        let (mut taken, mut errors) = (Vec::with_capacity(count), 0);
        for at in 0..u32::try_from(count)? {
            let due = begun + PAUSE * at;
            sleep_until(due).await;
            errors += usize::from(self.ask("GET", "").await? != StatusCode::OK);
            taken.push(due.elapsed());
        }
        taken.sort_unstable();
        Ok((taken, errors))
    }

    /// Sends until it is aborted.
    fn send(self) -> JoinHandle<()> {
        tokio::spawn(async move {
            let mut turn = interval(Duration::from_secs(1) / u32::try_from(EACH_PER_SECOND).unwrap_or(1));
            loop {
                turn.tick().await;
                if let (Ok(status), Ok(mut answers)) = (self.ask("GET", "").await, self.answers.lock()) {
                    *answers.entry(status).or_default() += 1;
                }
            }
        })
    }
}

/// The duration that so many percent of the sorted ones do not pass.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(at).copied().unwrap_or_default()
}

fn times(sorted: &[Duration]) -> String {
    let millis = |percent| percentile(sorted, percent).as_secs_f64() * 1e3;
    format!("{:.2} ms | {:.2} ms", millis(50), millis(99))
}
