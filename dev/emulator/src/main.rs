//! The emulator by itself, for the AWS CLI, boto3 and other clients.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use emulator::{Emulator, Options};
use tracing_subscriber::EnvFilter;

/// The AWS services that Tenantry calls, on one port of the loopback interface.
#[derive(Parser)]
struct Arguments {
    /// Port to listen on; 0 takes any free one
    #[arg(long, default_value_t = 4566)]
    port: u16,
    /// Directory for the data; without it everything is kept in memory
    #[arg(long)]
    data: Option<PathBuf>,
    /// Region in ARNs and events
    #[arg(long, default_value = "us-east-1")]
    region: String,
    /// Account in ARNs and events
    #[arg(long, default_value = "000000000000")]
    account: String,
    /// Send empty pages in between, as AWS may
    #[arg(long)]
    empty_pages: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    // The engine warns of every refused write; that is daily business.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,dynoxide=error"));
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr).init();
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error, "the emulator could not run");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Box<dyn std::error::Error>> {
    let emulator = Emulator::start(Options {
        listen: SocketAddr::from(([127, 0, 0, 1], arguments.port)),
        data: arguments.data,
        region: arguments.region,
        account: arguments.account,
        empty_pages: arguments.empty_pages,
    })
    .await?;
    let mut out = std::io::stdout();
    writeln!(out, "{}", emulator.url())?;
    out.flush()?;
    stop_signal().await?;
    emulator.stop().await;
    Ok(())
}

/// Ctrl-C, or what a script sends to end it.
async fn stop_signal() -> std::io::Result<()> {
    #[cfg(unix)]
    let terminated = async {
        use tokio::signal::unix::{SignalKind, signal};
        signal(SignalKind::terminate())?.recv().await;
        Ok(())
    };
    #[cfg(not(unix))]
    let terminated = std::future::pending();
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        terminated = terminated => terminated,
    }
}
