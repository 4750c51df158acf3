//! The local suite for the benchmark of the streaming service, without that service: the benchmark
//! starts config-stream itself, as its own process. And, as the command `idle`, a benchmark of the
//! suite itself ([`idle`]).
//!
//! Without a command it says on standard output, as a line of JSON, where it is and what
//! config-stream is to be started with. Each line on standard input is a question and gets a line
//! of JSON: `calls` for what was asked of the AWS services so far, `token NAME` for the token of a
//! tenant. The end of standard input ends it.

mod idle;

use std::{
    env,
    error::Error,
    io::{self, Write},
    process::ExitCode,
};

use local::{Options, Suite, issuer::DEFAULT_SCOPE};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, stdin};

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error + Send + Sync>> {
    let arguments: Vec<_> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => answer().await?,
        ["hold", tenants] => idle::hold(tenants.parse()?).await?,
        ["idle"] => {
            let report = tokio::task::spawn_blocking(idle::run).await??;
            write!(io::stdout(), "{report}")?;
            return Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        _ => return Err("the commands are none, and `idle`".into()),
    }
    Ok(ExitCode::SUCCESS)
}

async fn answer() -> Result<(), Box<dyn Error + Send + Sync>> {
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
