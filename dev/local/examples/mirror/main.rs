//! Mirrors one tenant: takes a full list, follows the change feed, and prints each change as a
//! line.
//!
//! While `cargo run -p local` runs, in a shell where the lines that it printed were pasted:
//!
//! ```sh
//! cargo run -p local --example mirror
//! cargo run -p local --example mirror -- --state acme.json      # goes on where it stopped
//! ```
//!
//! Any other suite: `--api https://… --token …`. Where the tenant has secrets, the token needs the
//! scope `config/secrets` besides `config/read`; without it, the first secret that changes ends the
//! mirror. What does the work is `mirror.rs`.

mod client;
mod mirror;

use std::{
    env,
    error::Error,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::Parser;
use client::{Client, MAX_PAGE};
use mirror::{Kept, Mirror, Next};

/// Mirrors one tenant by its change feed.
#[derive(Debug, Parser)]
#[command(name = "mirror")]
struct Arguments {
    /// Address of the HTTP API; without it, that of the ready file, or `$API`.
    #[arg(long, value_name = "URL")]
    api: Option<String>,
    /// The tenant's access token; without it, that of the ready file, or of the environment, such
    /// as `$ACME_TOKEN`.
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// The file that `cargo run -p local -- --ready-file FILE` writes.
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// Whose token of the ready file or the environment to take.
    #[arg(long, default_value = "acme")]
    tenant: String,
    /// File that keeps the copy, with all values, so that the next run goes on from there.
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// How long to wait at the head before looking again, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 1)]
    every: u64,
    /// End once everything is there.
    #[arg(long)]
    once: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A message that cannot be written has no other place to go.
            let _ = writeln!(io::stderr(), "error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    let ready: serde_json::Value = match &arguments.ready_file {
        Some(file) => serde_json::from_slice(&fs::read(file)?)?,
        None => serde_json::Value::Null,
    };
    let told = |pointer: &str| ready.pointer(pointer).and_then(|found| found.as_str()).map(str::to_owned);
    let api = arguments.api.or_else(|| told("/httpUrl")).or_else(|| env::var("API").ok());
    let token = arguments.token.or_else(|| told(&format!("/tokens/{}", arguments.tenant)));
    let token = token.or_else(|| env::var(format!("{}_TOKEN", arguments.tenant.to_uppercase())).ok());
    let client = Client::new(
        &api.ok_or("where is the API? Give --api, --ready-file, or $API")?,
        &token.ok_or(
            "who is the tenant? Give --token, --ready-file, or a token in the environment, such as $ACME_TOKEN",
        )?,
    )?;
    let state = arguments.state.as_deref();
    let mut mirror = Mirror::new(client, MAX_PAGE, state.map(read).transpose()?.flatten());
    loop {
        let step = mirror.step().await?;
        for event in &step.events {
            writeln!(io::stdout(), "{event}")?;
        }
        if let Some((state, kept)) = state.zip(mirror.kept()).filter(|_| !step.events.is_empty()) {
            local::data::write_whole(state, &serde_json::to_vec(kept)?)?;
        }
        match step.next {
            Next::Continue => {}
            Next::AtHead if arguments.once => return Ok(()),
            Next::AtHead => tokio::time::sleep(Duration::from_secs(arguments.every)).await,
            Next::Wait(time) => tokio::time::sleep(time).await,
        }
    }
}

/// What an earlier run kept; none if this is the first.
fn read(state: &Path) -> Result<Option<Kept>, Box<dyn Error>> {
    match fs::read(state) {
        Ok(kept) => Ok(Some(serde_json::from_slice(&kept)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}
