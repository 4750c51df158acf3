//! `local`: runs the suite, or signs a token.

use std::{
    error::Error,
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;
use local::{
    Options, Suite,
    cli::{Arguments, Command, HTTP_PORT, Run, Token},
    issuer::{TENANT_CLAIM, TokenRequest},
    token,
    welcome::Welcome,
};
use tenantry::telemetry::Telemetry;
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;
use tracing_subscriber::EnvFilter;

/// What is logged unless `RUST_LOG` says otherwise. The embedded `DynamoDB` warns of every error it answers with, failed
/// conditions included, which are everyday matters here.
const QUIET: &str = "warn,dynoxide=error";

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Some(Command::Token(token)) => print_token(&token),
        None => run(arguments.run),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A message that cannot be written has no other place to go.
            let _ = writeln!(io::stderr(), "error: {}", chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn print_token(arguments: &Token) -> Result<(), Box<dyn Error>> {
    let request = TokenRequest {
        tenant: &arguments.tenant,
        tenant_claim: TENANT_CLAIM,
        scope: &arguments.scope,
        expires_in: arguments.expires_in,
        claims: &arguments.claims,
    };
    let token = token::sign(&arguments.data, HTTP_PORT, &request)?;
    writeln!(io::stdout(), "{token}")?;
    Ok(())
}

fn run(arguments: Run) -> Result<(), Box<dyn Error>> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(QUIET));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(serve(arguments))
}

async fn serve(arguments: Run) -> Result<(), Box<dyn Error>> {
    // Before anything is up: a signal during the start ends the process in good order, too.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;

    let options = Options {
        http_port: arguments.http_port,
        aws_port: arguments.aws_port,
        grpc_port: Some(arguments.grpc_port),
        data: Some(arguments.data.clone()),
        parameters: arguments.parameters.into_iter().collect(),
        run_schedules: true,
        lose_events: arguments.no_events,
        ready_file: arguments.ready_file,
        telemetry: Telemetry::to(|line| info!(target: "invocation", "{line}"), None),
        ..Options::default()
    };
    let suite = Suite::start(options).await?;
    let tokens = suite.sample_tokens()?;
    let welcome = Welcome {
        http_url: suite.http_url(),
        aws_url: suite.aws_url(),
        grpc_url: suite.grpc_url(),
        issuer: suite.issuer().url(),
        tokens: &tokens,
        data: &arguments.data,
        has_events: !arguments.no_events,
    };
    // Nobody has to read it: the suite runs without a terminal as well.
    let _ = welcome.write(&mut io::stdout().lock());

    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    suite.stop().await;
    Ok(())
}

/// An error with all its causes; those that the message before repeats are left out.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}
