//! How writers of one tenant share its ledger: so many write at once, each in an environment of its
//! own as Lambda would have it, and DynamoDB takes its time to answer. Says what was answered, what
//! it cost, how long it took as a multiple of as many writes in a row, and the longest that anyone
//! waited while another committed twice.
//!
//! `cargo run --release -p local --example writers`; or with `WRITERS DELAY_MS ROUNDS` for one row,
//! where each writer writes so many times, one after the other. On loopback alone.

use std::{
    collections::BTreeMap,
    error::Error,
    io::{self, Write as _},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use emulator::{Fault, Schedule, Service};
use futures_util::future::try_join_all;
use local::{Environment, Options, Suite};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

/// What is measured unless one asks for something else: writers, delay in milliseconds, rounds.
const ROWS: [(usize, u64, usize); 8] =
    [(1, 15, 5), (30, 5, 1), (30, 15, 1), (30, 100, 1), (100, 5, 1), (100, 15, 1), (100, 100, 1), (30, 15, 4)];
/// The calls that are answered late.
const SLOW: [&str; 5] = ["BatchGetItem", "GetItem", "Query", "TransactWriteItems", "UpdateItem"];
/// How many writes in a row are measured at most; more take as much longer.
const MOST_IN_A_ROW: usize = 30;

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let asked: Vec<usize> = std::env::args().skip(1).map(|number| number.parse()).collect::<Result<_, _>>()?;
    let rows = match asked[..] {
        [] => ROWS.to_vec(),
        [writers, delay, rounds] => vec![(writers, delay.try_into()?, rounds)],
        _ => return Err("give WRITERS DELAY_MS ROUNDS, or nothing".into()),
    };
    let titles = [
        "writers",
        "rounds",
        "DynamoDB answers after",
        "answers",
        "DynamoDB calls a success",
        "time",
        "× as many in a row",
        "longest answer",
        "longest wait while another committed twice",
    ];
    writeln!(io::stdout(), "| {} |\n|{}", titles.join(" | "), " --- |".repeat(titles.len()))?;
    for (writers, delay, rounds) in rows {
        let row = measure(writers, Duration::from_millis(delay), rounds).await?;
        writeln!(io::stdout(), "| {writers} | {rounds} | {delay} ms | {row} |")?;
    }
    Ok(())
}

/// One answer to one writer.
struct Answered {
    writer: usize,
    status: u64,
    from: Instant,
    to: Instant,
}

async fn measure(writers: usize, delay: Duration, rounds: usize) -> Result<String, Failure> {
    let suite = Suite::start(Options::default()).await?;
    let environments = (0..writers).map(|_| suite.another_writer()).collect::<Result<Vec<_>, _>>()?;
    let claims = claims(&suite.token("acme", "config/write")?)?;
    let put = async |writer: usize, environment: &Environment, round: usize| {
        let from = Instant::now();
        let answer = environment.invoke(event(&claims, &format!("tenant_config_{writer}"), round)).await?;
        let status = answer["statusCode"].as_u64().unwrap_or_default();
        if status == 409 && answer["headers"]["retry-after"].is_null() {
            return Err("a 409 does not say when to come back".into());
        }
        Ok::<_, Failure>(Answered { writer, status, from, to: Instant::now() })
    };
    // Environments are warm, and the tenant has a ledger.
    for (writer, environment) in environments.iter().enumerate() {
        put(writer, environment, 0).await?;
    }
    suite.emulator().faults().schedule(Schedule {
        seed: 0,
        faults: vec![(Fault::Delay(delay), 1.0)],
        operations: Some(SLOW.map(str::to_owned).into()),
        max: usize::MAX,
    });
    let begun = Instant::now();
    let in_a_row = environments.iter().take(MOST_IN_A_ROW).enumerate();
    let count = in_a_row.len();
    for (writer, environment) in in_a_row {
        put(writer, environment, 1).await?;
    }
    let one = begun.elapsed() / u32::try_from(count)?;

    let calls = suite.emulator().calls().service_total(Service::DynamoDb);
    let begun = Instant::now();
    let writing = environments.iter().enumerate().map(async |(writer, environment)| {
        let mut answers = Vec::new();
        for round in 0..rounds {
            answers.push(put(writer, environment, round + 2).await?);
        }
        Ok::<_, Failure>(answers)
    });
    let answers: Vec<Answered> = try_join_all(writing).await?.into_iter().flatten().collect();
    let time = begun.elapsed();
    let calls = suite.emulator().calls().service_total(Service::DynamoDb) - calls;
    suite.stop().await;

    let mut statuses = BTreeMap::<_, u32>::new();
    for answer in &answers {
        *statuses.entry(answer.status).or_default() += 1;
    }
    let statuses: Vec<_> = statuses.iter().map(|(status, count)| format!("{count} × {status}")).collect();
    let committed: Vec<_> = answers.iter().filter(|answer| answer.status < 300).collect();
    let successes = u32::try_from(committed.len())?;
    let took = |answer: &Answered| answer.to - answer.from;
    let is_overtaken = |waiting: &&Answered| {
        let mut commits = BTreeMap::<_, usize>::new();
        for other in committed.iter().filter(|other| (waiting.from..waiting.to).contains(&other.to)) {
            *commits.entry(other.writer).or_default() += 1;
        }
        commits.into_values().any(|count| count > 1)
    };
    let unfair = answers.iter().filter(is_overtaken).map(took).max();
    Ok(format!(
        "{} | {:.1} | {:.2} s | {:.2} | {:.2} s | {}",
        statuses.join(", "),
        f64::from(u32::try_from(calls)?) / f64::from(successes.max(1)),
        time.as_secs_f64(),
        time.as_secs_f64() / (one.as_secs_f64() * f64::from(successes.max(1))),
        answers.iter().map(took).max().unwrap_or_default().as_secs_f64(),
        unfair.map_or("none".to_owned(), |wait| format!("{:.2} s", wait.as_secs_f64())),
    ))
}

/// A token's claims as API Gateway tells of them.
fn claims(token: &str) -> Result<Value, Failure> {
    let payload = token.split('.').nth(1).ok_or("a token has three parts")?;
    let claims: Map<String, Value> = serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(payload)?)?;
    let text = |value: Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let told: Map<_, _> = claims.into_iter().map(|(name, value)| (name, text(value).into())).collect();
    Ok(json!({ "token": token, "told": told }))
}

/// A PUT of a key, as API Gateway hands it to the function.
fn event(claims: &Value, key: &str, value: usize) -> Value {
    let path = format!("/v1/config/{key}");
    let authorization = format!("Bearer {}", claims["token"].as_str().unwrap_or_default());
    json!({
        "version": "2.0",
        "rawPath": path,
        "rawQueryString": "",
        "headers": { "authorization": authorization, "content-type": "application/json" },
        "requestContext": {
            "stage": "$default",
            "http": { "method": "PUT", "path": path },
            "authorizer": { "jwt": { "claims": claims["told"], "scopes": null } },
        },
        "body": json!({ "value": value }).to_string(),
        "isBase64Encoded": false,
    })
}
