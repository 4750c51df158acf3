//! The benchmark of the streaming service: config-stream, a bare service on tonic and etcd, each in
//! a process of its own on this machine, asked in turns by the same client over loopback. What
//! counts are the ratios within one run.
//!
//! It reads `/proc`, so it runs on Linux, and needs `etcd` 3 (Debian's package `etcd-server`).

mod etcd;
mod fan_out;
mod grpc;
mod idle;
mod process;
mod report;
mod servers;
mod unary;
mod watcher;

use std::{
    env, fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use bench::Place;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use grpc::Failure;
use report::Report;
use servers::Suite;

/// Compares the streaming service with a bare service on tonic and with etcd.
#[derive(Debug, Parser)]
struct Arguments {
    /// Write the tables into docs/performance.md.
    #[arg(long, conflicts_with_all = ["check", "no_build"])]
    write: bool,
    /// A short run without etcd and fan-out, which fails where processor time or memory pass their
    /// limits.
    #[arg(long)]
    check: bool,
    /// Measure the binaries that are there instead of building them.
    #[arg(long)]
    no_build: bool,
    /// Where etcd is, unless it is on PATH.
    #[arg(long, value_name = "FILE")]
    etcd: Option<PathBuf>,
}

/// How often what is done.
struct Amounts {
    unary: unary::Amounts,
    fan_out: fan_out::Amounts,
    idle: Duration,
    /// How many tenants are in memory, and how many of them are watched.
    tenants: [&'static str; 2],
}

const FULL: Amounts = Amounts {
    unary: unary::Amounts { rounds: 15, requests: 19_200 },
    fan_out: fan_out::Amounts { rounds: 200, watchers: 1_000 },
    idle: Duration::from_secs(30),
    tenants: ["100000", "1000"],
};
const CHECK: Amounts = Amounts {
    unary: unary::Amounts { rounds: 15, requests: 9_600 },
    fan_out: fan_out::Amounts { rounds: 0, watchers: 0 },
    idle: Duration::ZERO,
    tenants: ["20000", "200"],
};
/// Connections at once: the watchers of all three servers, and some more.
const DESCRIPTORS: u64 = 4_096;

/// What the tables are called in docs/performance.md.
const COMMAND: &str = "cargo run --release -p bench-stream";

fn main() -> Result<ExitCode, Failure> {
    let arguments = Arguments::parse();
    let place = arguments.write.then(|| Place::of(COMMAND)).transpose()?;
    let binaries = binaries()?;
    let etcd = if arguments.check { None } else { Some(servers::etcd_program(arguments.etcd)?) };
    // What is started inherits it.
    if rlimit::increase_nofile_limit(DESCRIPTORS)? < DESCRIPTORS {
        return Err(format!("{DESCRIPTORS} files have to be open at once; raise the hard limit (`ulimit -Hn`)").into());
    }
    if !arguments.no_build {
        build("--package=config-stream --package=bench-stream")?;
        build("--package=bench-suite")?;
    }
    let amounts = if arguments.check { &CHECK } else { &FULL };
    // One thread for the client: what is measured has the others.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(async {
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        // Given up, it still ends what it has started.
        tokio::select! {
            report = run(&binaries, etcd.as_deref(), amounts) => report,
            _ = terminate.recv() => Err("given up".into()),
            _ = interrupt.recv() => Err("given up".into()),
        }
    })?;
    let mut out = io::stdout().lock();
    write!(out, "{report}")?;
    if let Some(place) = place {
        place.write(&report.to_string())?;
    }
    let passed = report.passed_limits();
    for limit in passed.iter().filter(|_| arguments.check) {
        writeln!(io::stderr(), "{limit}")?;
    }
    Ok(if arguments.check && !passed.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The folder of the release binaries, beside which this one lies.
fn binaries() -> Result<PathBuf, Failure> {
    let own = env::current_exe()?;
    let target = own.parent().and_then(Path::parent).ok_or("the benchmark lies in no target folder")?;
    Ok(target.join("release"))
}

/// Builds what is measured. In one go, so that the yardstick is made of the same; the suite is no
/// part of it, because of the features that it asks for.
fn build(packages: &str) -> Result<(), Failure> {
    let mut build = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.args(["build", "--release", "--locked", "--bins"]).args(packages.split(' '));
    // Standard output is for the report.
    if build.stdout(Stdio::null()).status()?.success() { Ok(()) } else { Err("what is measured does not build".into()) }
}

async fn run(binaries: &Path, etcd: Option<&Path>, amounts: &Amounts) -> Result<Report, Failure> {
    let load = load()?;
    let mut suite = Suite::start(binaries)?;
    let ours = suite.config_stream(binaries)?;
    let hello = servers::hello(binaries, ours.target.token.clone())?;
    let etcd = etcd.map(servers::etcd).transpose()?;
    let servers: Vec<_> = [&ours, &hello].into_iter().chain(&etcd).collect();
    for server in &servers {
        server.commit(&server.writer().await?, 0).await?;
    }
    let mut unary = Vec::new();
    for connections in [1, 32] {
        say(&format!("unary reads over {connections} connections"))?;
        unary.extend(unary::measure(&servers, connections, amounts.unary).await?);
    }
    let mut fan_out = Vec::new();
    if amounts.fan_out.rounds > 0 {
        say("commits to all watchers")?;
        fan_out = fan_out::measure(&servers, amounts.fan_out).await?;
    }
    // They have nothing to do with what follows.
    drop((ours, hello, etcd));
    let idle = match amounts.idle {
        Duration::ZERO => None,
        window => {
            say("calls of an idle service")?;
            Some(idle::measure(&mut suite, binaries, window).await?)
        }
    };
    say("memory of tenants")?;
    let mut memory = Vec::new();
    for key_bytes in ["24", "64"] {
        let [tenants, watched] = amounts.tenants;
        let said = process::json_of(&binaries.join("stream-memory"), &[tenants, watched, key_bytes])?;
        memory.push(serde_json::from_value(said)?);
    }
    Ok(Report { load, unary, fan_out, memory, idle })
}

/// Says what is being done, beside the report.
fn say(what: &str) -> io::Result<()> {
    writeln!(io::stderr(), "measuring {what}")
}

/// How many wanted a processor over the last minute: what a run on a busy machine shows is the
/// machine.
fn load() -> Result<f64, Failure> {
    let load = fs::read_to_string("/proc/loadavg")?;
    Ok(load.split(' ').next().ok_or("the load is not known")?.parse()?)
}
