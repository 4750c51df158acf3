//! `local`: runs the suite, or signs a token.

use std::{
    error::Error,
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;
use config_stream::signals::StopSignals;
use local::{
    Options, Suite,
    cli::{Arguments, Command, Run, Token},
    issuer::{TENANT_CLAIM, TokenRequest},
    suite::STOP_LIMIT,
    token,
    welcome::Welcome,
};
use tenantry::telemetry::{self, Telemetry};
use tracing::Level;

/// What is logged unless `RUST_LOG` says otherwise. The embedded `DynamoDB` warns of every error it
/// answers with, failed conditions included, which are everyday matters here.
const QUIET: &str = "warn,dynoxide=error";
/// The status of a process that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Some(Command::Token(token)) => print_token(&token),
        None => run(arguments.run),
    };
    result.unwrap_or_else(|error| {
        // A message that cannot be written has no other place to go.
        let _ = writeln!(io::stderr(), "error: {}", chain(error.as_ref()));
        ExitCode::FAILURE
    })
}

fn print_token(arguments: &Token) -> Result<ExitCode, Box<dyn Error>> {
    let request = TokenRequest {
        tenant: &arguments.tenant,
        tenant_claim: TENANT_CLAIM,
        scope: &arguments.scope,
        expires_in: arguments.expires_in,
        claims: &arguments.claims,
    };
    let signed = token::sign(&arguments.place(), &request)?;
    if !signed.is_running {
        // The token is good all the same, if not now.
        let _ = writeln!(io::stderr(), "note: no suite runs on that folder; its next one will take the token");
    }
    writeln!(io::stdout(), "{}", signed.token)?;
    Ok(ExitCode::SUCCESS)
}

fn run(arguments: Run) -> Result<ExitCode, Box<dyn Error>> {
    telemetry::init_to(QUIET, log);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(serve(arguments));
    // A thread that still does something must not hold up the end.
    runtime.shutdown_background();
    result
}

/// A line of the log, in one write, so that no other comes in between.
fn log(line: &str) {
    // Without a reader the line is lost, which harms nothing.
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// The line of an invocation, as the functions write it in Lambda, where `RUST_LOG` asks for it.
fn log_invocation(line: &str) {
    if tracing::enabled!(target: "invocation", Level::INFO) {
        log(line);
    }
}

async fn serve(arguments: Run) -> Result<ExitCode, Box<dyn Error>> {
    let mut signals = StopSignals::listen()?;
    let options = Options {
        http_port: arguments.http_port,
        aws_port: arguments.aws_port,
        grpc_port: Some(arguments.grpc_port),
        data: Some(arguments.data.clone()),
        parameters: arguments.parameters.into_iter().collect(),
        run_schedules: true,
        lose_events: arguments.no_events,
        ready_file: arguments.ready_file,
        telemetry: Telemetry::to(log_invocation, None),
        ..Options::default()
    };
    let suite = tokio::select! {
        started = Suite::start(options) => started?,
        // No request has been answered yet, and the next start goes on where this one stopped.
        stopped = signals.next() => return stopped.map(|()| ExitCode::from(INTERRUPTED)).map_err(Into::into),
    };
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
    // The suite runs without a terminal as well.
    let _ = welcome.write(&mut io::stdout().lock());

    signals.next().await?;
    let limit = STOP_LIMIT.as_secs();
    let told =
        writeln!(io::stdout(), "Stopping. Open calls have up to {limit} seconds to end; Ctrl-C again ends at once.");
    // As above.
    drop(told);
    tokio::select! {
        () = suite.stop() => Ok(ExitCode::SUCCESS),
        again = signals.next() => again.map(|()| ExitCode::from(INTERRUPTED)).map_err(Into::into),
    }
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
