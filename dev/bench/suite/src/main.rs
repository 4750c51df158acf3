//! The local suite for the benchmark of the streaming service, without that service: the benchmark
//! starts config-stream itself, as its own process.
//!
//! Says on standard output, as a line of JSON, where it is and what config-stream is to be started
//! with. Each line on standard input is a question and gets a line of JSON: `calls` for what was
//! asked of the AWS services so far, `token NAME` for the token of a tenant. The end of standard
//! input ends it.

use std::{
    error::Error,
    io::{self, Write},
};

use local::{Options, Suite, issuer::DEFAULT_SCOPE};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, stdin};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // Schedules run at nobody's word here, so that idle time is idle.
    let suite = Suite::start(Options::default()).await?;
    say(&json!({ "httpUrl": suite.http_url(), "environment": suite.stream_environment() }))?;
    let mut questions = BufReader::new(stdin()).lines();
    while let Some(question) = questions.next_line().await? {
        match question.split_once(' ') {
            None if question == "calls" => say(&json!(suite.emulator().calls().snapshot()))?,
            Some(("token", tenant)) => say(&json!(suite.token(tenant, DEFAULT_SCOPE)?))?,
            _ => return Err(format!("{question:?} is no question").into()),
        }
    }
    suite.stop().await;
    Ok(())
}

fn say(answer: &Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{answer}")?;
    out.flush()
}
