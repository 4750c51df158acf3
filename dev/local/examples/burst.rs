//! How a burst of `write-back` values gets into Parameter Store by the schedule alone, although few
//! puts a second are let through: how long it takes, and how many puts are refused on the way.
//!
//! `cargo run -p local --example burst`; two minutes, on loopback alone.

mod operator;

use std::{collections::BTreeMap, error::Error, time::Duration};

use http::{Request, header::AUTHORIZATION};
use http_body_util::Full;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use local::{Options, Suite};
use tokio::time::{Instant, sleep};

/// How many keys are written at once.
const KEYS: usize = 120;
/// How many puts a second Parameter Store takes; AWS does not say how many it does.
const PUTS_PER_SECOND: f64 = 3.0;
/// When to stop looking.
const PATIENCE: Duration = Duration::from_mins(10);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let routes = r#"{"back_config_": {"store": "parameter-store", "strategy": "write-back"}}"#;
    let parameters = BTreeMap::from([("TagRoutes".to_owned(), routes.to_owned())]);
    let suite =
        Suite::start(Options { parameters, run_schedules: true, lose_events: true, ..Options::default() }).await?;
    suite.emulator().faults().limit("PutParameter", PUTS_PER_SECOND);
    let token = suite.token("acme", "config/write")?;
    let client = Client::builder(TokioExecutor::new()).build_http();
    let parameter_store = operator::parameter_store(&suite);
    let begun = Instant::now();
    for n in 0..KEYS {
        let put = Request::put(format!("{}/v1/config/back_config_{n}", suite.http_url()))
            .header(AUTHORIZATION, format!("Bearer {token}"))
            .body(Full::<bytes::Bytes>::from(format!(r#"{{"value": {n}}}"#)))?;
        let answer = client.request(put).await?;
        if !answer.status().is_success() {
            return Err(format!("a write was answered {}", answer.status()).into());
        }
    }
    eprintln!("{KEYS} values are written after {:.1} s", begun.elapsed().as_secs_f64());
    let calls = suite.emulator().calls();
    loop {
        let (puts, there) = (calls.count("PutParameter"), count(&parameter_store).await?);
        eprintln!("{:5.0} s: {there} of them are in Parameter Store, after {puts} puts", begun.elapsed().as_secs_f64());
        if there == KEYS || begun.elapsed() > PATIENCE {
            break;
        }
        sleep(Duration::from_secs(10)).await;
    }
    suite.stop().await;
    Ok(())
}

/// How many parameters there are.
async fn count(parameter_store: &aws_sdk_ssm::Client) -> Result<usize, Box<dyn Error>> {
    let (mut count, mut token) = (0, None);
    loop {
        let page = parameter_store.describe_parameters().max_results(50).set_next_token(token).send().await?;
        count += page.parameters().len();
        token = page.next_token;
        if token.is_none() {
            return Ok(count);
        }
    }
}
