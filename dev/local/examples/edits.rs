//! What a burst of edits past Tenantry costs: so many parameters of one tenant are edited within
//! so many seconds, one key each, while another tenant reads. Says how long after the last edit all
//! are seen, the calls that the functions made for each, the events that failed, and how much
//! slower the other tenant's reads became.
//!
//! `cargo run --release -p local --example edits`; or with `EDITS SECONDS` for one row. Parameter
//! Store lets 40 histories a second through. On loopback alone.

mod operator;

use std::{
    collections::BTreeMap,
    error::Error,
    io::{self, Write as _},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aws_sdk_ssm::types::ParameterType;
use emulator::Service;
use http::{Request, header::AUTHORIZATION};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use local::{Options, Suite};
use serde_json::Value;
use tenantry::telemetry::Telemetry;
use tokio::time::{Instant, sleep, sleep_until};

/// What is measured unless one asks for something else: edits, and the seconds that they take.
const ROWS: [(u32, u64); 4] = [(20, 20), (20, 0), (150, 19), (1_000, 60)];
/// Parameter Store's limit for an account and Region.
const HISTORIES_PER_SECOND: f64 = 40.0;
/// When to stop looking.
const PATIENCE: Duration = Duration::from_mins(3);

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let asked: Vec<u32> = std::env::args().skip(1).map(|number| number.parse()).collect::<Result<_, _>>()?;
    let rows = match asked[..] {
        [] => ROWS.to_vec(),
        [edits, seconds] => vec![(edits, seconds.into())],
        _ => return Err("give EDITS SECONDS, or nothing".into()),
    };
    let titles = [
        "edits",
        "within",
        "seen after the last",
        "DynamoDB calls an edit",
        "Parameter Store calls an edit",
        "commits",
        "failed events",
        "another's read, p99 × before",
    ];
    writeln!(io::stdout(), "| {} |\n|{}", titles.join(" | "), " --- |".repeat(titles.len()))?;
    for (edits, seconds) in rows {
        let row = measure(edits, Duration::from_secs(seconds)).await?;
        writeln!(io::stdout(), "| {edits} | {seconds} s | {row} |")?;
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "counts of calls are small")]
async fn measure(edits: u32, within: Duration) -> Result<String, Failure> {
    let failed = Arc::new(AtomicUsize::new(0));
    let noted = Arc::clone(&failed);
    let sink = move |line: &str| {
        noted.fetch_add(usize::from(line.contains(r#""Outcome":"failed""#)), Ordering::Relaxed);
    };
    let parameters = BTreeMap::from([("TenantRateLimit".to_owned(), "0".to_owned())]);
    let suite =
        Suite::start(Options { telemetry: Telemetry::to(sink, None), parameters, ..Options::default() }).await?;
    suite.emulator().faults().limit("GetParameterHistory", HISTORIES_PER_SECOND);
    let operator = operator::parameter_store(&suite);
    let counts = || {
        [Service::DynamoDb, Service::ParameterStore]
            .map(|service| suite.emulator().calls().service_total(service) as f64)
    };
    let at_first = counts();
    let quiet = reads(&suite, Duration::from_secs(5)).await?;

    let before = counts();
    let commits = suite.emulator().calls().count("PutEvents");
    let begun = Instant::now();
    let editing = async {
        for n in 0..edits {
            sleep_until(begun + within * n / edits).await;
            let put = operator.put_parameter().name(format!("/tenantry/acme/param_config_/k{n}"));
            put.value("edited").r#type(ParameterType::String).overwrite(true).send().await?;
        }
        let last = Instant::now();
        suite.emulator().settled().await;
        Ok::<_, Failure>((last, last.elapsed()))
    };
    let (edited, busy) = tokio::join!(editing, reads(&suite, within.max(Duration::from_secs(5))));
    let ((last, mut seen_after), busy) = (edited?, busy?);
    // The counting itself costs calls, so it comes afterwards; until all are seen it goes on.
    let after = counts();
    let commits = suite.emulator().calls().count("PutEvents") - commits;
    while keys(&suite).await? < edits {
        if last.elapsed() > PATIENCE {
            return Err("not all edits were seen".into());
        }
        sleep(Duration::from_millis(200)).await;
        seen_after = last.elapsed();
    }
    // Without those of the other tenant's reads, and without the operator's puts.
    let reading = (before[0] - at_first[0]) * busy.len() as f64 / quiet.len() as f64;
    let calls = [after[0] - before[0] - reading, after[1] - before[1] - f64::from(edits)];
    let row = format!(
        "{:.1} s | {:.1} | {:.1} | {commits} | {} | {:.2}",
        seen_after.as_secs_f64(),
        calls[0] / f64::from(edits),
        calls[1] / f64::from(edits),
        failed.load(Ordering::Relaxed),
        p99(busy) / p99(quiet),
    );
    suite.stop().await;
    Ok(row)
}

/// How long reads of another tenant take, in seconds, one each 20 ms.
async fn reads(suite: &Suite, during: Duration) -> Result<Vec<f64>, Failure> {
    let (url, end) = (format!("{}/v1/config/tenant_config_none", suite.http_url()), Instant::now() + during);
    let mut took = Vec::new();
    while Instant::now() < end {
        let asked = Instant::now();
        get(suite, "globex", &url).await?;
        took.push(asked.elapsed().as_secs_f64());
        sleep_until(asked + Duration::from_millis(20)).await;
    }
    Ok(took)
}

fn p99(mut took: Vec<f64>) -> f64 {
    took.sort_by(f64::total_cmp);
    took.get(took.len() * 99 / 100).copied().unwrap_or_default()
}

/// How many keys the tenant has.
async fn keys(suite: &Suite) -> Result<u32, Failure> {
    let (mut count, mut next) = (0, String::new());
    loop {
        let url = format!("{}/v1/config?prefix=param_config_&limit=100{next}", suite.http_url());
        let page = get(suite, "acme", &url).await?;
        count += page["entries"].as_array().map_or(0, Vec::len);
        let Some(cursor) = page["cursor"].as_str() else { return Ok(u32::try_from(count)?) };
        next = format!("&cursor={cursor}");
    }
}

async fn get(suite: &Suite, tenant: &str, url: &str) -> Result<Value, Failure> {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let token = suite.token(tenant, "config/read")?;
    let get =
        Request::get(url).header(AUTHORIZATION, format!("Bearer {token}")).body(Full::<bytes::Bytes>::default())?;
    let answer = client.request(get).await?;
    Ok(serde_json::from_slice(&answer.into_body().collect().await?.to_bytes())?)
}
