//! The benchmark: the release binaries as Lambda runs them, between a stand-in of its runtime API
//! and a stand-in of DynamoDB over TLS, in turns with the least that a function on `lambda_http`
//! can be. What counts are the ratios within one run.
//!
//! It reads `/proc`, so it runs on Linux; instructions are counted where valgrind is installed.

mod http;
mod measure;
mod report;
mod runtime_api;
mod store;

use std::{
    env, fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    sync::Arc,
    time::Duration,
};

use bench::{Failure, Place};
use clap::Parser;

use measure::{Bench, Program, Roots, Running, Spread, on_path, sizes};
use report::{Cold, Report, Size, Warm};
use store::Store;

/// Starts, calls and weighs the release binaries, in turns with a bare `lambda_http` function.
#[derive(Debug, Parser)]
struct Arguments {
    /// A short run with config-read alone, which fails where instructions or memory pass their
    /// limits, or docs/performance.md is of other binaries. Times are never judged.
    #[arg(long)]
    check: bool,
    /// Write the tables into docs/performance.md.
    #[arg(long, conflicts_with_all = ["check", "no_build"])]
    write: bool,
    /// Measure the binaries that are there instead of building them.
    #[arg(long)]
    no_build: bool,
}

/// How often what is done.
struct Amounts {
    cold_rounds: usize,
    warm_rounds: usize,
    warm_calls: usize,
    counted_calls: u32,
}

/// The root certificates that the functions have built in.
const AMAZON_ROOTS: &str = include_str!("../../../shared/src/aws/amazon-roots.pem");
const END_OF_ROOT: &str = "-----END CERTIFICATE-----\n";

/// What the tables are called in docs/performance.md.
const COMMAND: &str = "cargo run --release -p bench";

fn main() -> Result<ExitCode, Failure> {
    let arguments = Arguments::parse();
    let functions: &[_] = if arguments.check {
        &["config-read"]
    } else {
        &["config-read", "config-write", "config-refresh", "config-claims"]
    };
    let counts = on_path("valgrind").is_some();
    if (arguments.check || arguments.write) && !counts {
        return Err("instructions are to be counted, and that needs valgrind".into());
    }
    let place = arguments.write.then(|| Place::of(COMMAND)).transpose()?;
    let binaries = binaries()?;
    if !arguments.no_build {
        build(functions)?;
    }
    let amounts = if arguments.check {
        Amounts { cold_rounds: 5, warm_rounds: 2, warm_calls: 100, counted_calls: 100 }
    } else {
        Amounts { cold_rounds: 60, warm_rounds: 20, warm_calls: 250, counted_calls: 300 }
    };
    let report = run(binaries, functions, &amounts, counts)?;
    let mut out = io::stdout().lock();
    write!(out, "{report}")?;
    if let Some(place) = place {
        place.write(&report.to_string())?;
    }
    if !arguments.check {
        return Ok(ExitCode::SUCCESS);
    }
    let mut wrong = report.passed_limits();
    wrong.extend(report.differences(&bench::page()?));
    for one in &wrong {
        writeln!(io::stderr(), "{one}")?;
    }
    Ok(if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The folder of the release binaries, beside which this one lies.
fn binaries() -> Result<PathBuf, Failure> {
    let own = env::current_exe()?;
    let target = own.parent().and_then(Path::parent).ok_or("the benchmark lies in no target folder")?;
    Ok(target.join("release"))
}

/// Builds the functions and the yardsticks. In one go, so that each crate is built once: what the
/// yardsticks ask of the crates that they share adds nothing to what the functions ask for, so they
/// get the features that they have alone.
fn build(functions: &[&str]) -> Result<(), Failure> {
    let mut build = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.args(["build", "--release", "--locked", "--package=yardsticks"]);
    build.args(functions.iter().map(|function| format!("--package={function}")));
    // Standard output is for the report.
    if build.stdout(Stdio::null()).status()?.success() { Ok(()) } else { Err("the functions do not build".into()) }
}

fn run(binaries: PathBuf, functions: &[&str], amounts: &Amounts, counts: bool) -> Result<Report, Failure> {
    let store = Store::start()?;
    let folder = tempfile::tempdir()?;
    // A function reads a bundle twice, to check it and to use it, and the five that are built in
    // once. So with three it does about what it does in Lambda; a yardstick reads as many as it is
    // given.
    let [ours, yardsticks] = [("functions.pem", 2), ("yardsticks.pem", 4)].map(|(name, amazons)| {
        let roots = AMAZON_ROOTS.split_inclusive(END_OF_ROOT).take(amazons).chain([store.root.as_str()]);
        let file = folder.path().join(name);
        fs::write(&file, roots.collect::<String>()).map(|()| file)
    });
    let roots = Roots { functions: ours?, yardsticks: yardsticks? };
    let bench = Bench { binaries, store, roots };

    // As it comes, and as a caller sends it who is content with an answer that was checked within
    // the hour.
    let mut event: serde_json::Value = serde_json::from_str(include_str!("../../../events/get-entry.json"))?;
    let checked: Arc<[u8]> = serde_json::to_vec(&event)?.into();
    event["headers"]["cache-control"] = "max-age=3600".into();
    let remembered: Arc<[u8]> = serde_json::to_vec(&event)?.into();

    let mut cold = cold(&bench, &checked, amounts.cold_rounds)?;
    let cases = [
        ("hello", Program::new("hello"), &remembered),
        ("config-read, from memory", Program::new("config-read"), &remembered),
        ("hello-get-item", Program::new("hello-get-item"), &checked),
        ("config-read, head checked", Program::new("config-read"), &checked),
        ("config-read, head checked, without tenants' credentials", Program::with_own_rights("config-read"), &checked),
        ("config-read, head checked, with them", Program::new("config-read"), &checked),
    ];
    let mut warm = warm(&bench, &cases, amounts)?;
    if counts {
        for (start, name) in cold.iter_mut().zip(STARTED) {
            start.instructions = Some(bench.instructions_of_start(Program::new(name), &checked)?);
        }
        for (case, (_, program, event)) in warm.iter_mut().zip(&cases) {
            case.instructions = Some(bench.instructions_of_call(*program, event, 50, amounts.counted_calls)?);
        }
    }
    let mut weighed = Vec::new();
    for name in ["hello", "hello-get-item"].iter().chain(functions) {
        let (binary_bytes, zip_bytes) = sizes(&bench.binaries.join(name))?;
        weighed.push(Size { name: (*name).to_owned(), binary_bytes, zip_bytes });
    }
    Ok(Report { cold, warm, sizes: weighed })
}

/// What is started anew.
const STARTED: [&str; 3] = ["hello", "config-read", "hello-get-item"];

/// Each program started anew, in turns, until its first answer.
fn cold(bench: &Bench, event: &Arc<[u8]>, rounds: usize) -> Result<Vec<Cold>, Failure> {
    let mut taken = STARTED.map(|name| (name, Vec::new(), Vec::new(), 0));
    // The first round brings the binaries into memory and counts nowhere.
    for round in 0..=rounds {
        for (name, wall, cpu, peak_kib) in &mut taken {
            let running = bench.start(Program::new(name))?;
            let answer = running.call(event)?;
            let usage = running.usage()?;
            if round > 0 {
                wall.push(running.since_spawn(answer.done));
                cpu.push(usage.cpu);
                *peak_kib = usage.peak_kib.max(*peak_kib);
            }
            running.end()?;
        }
    }
    let cold = |(name, wall, cpu, peak_kib): (&str, Vec<_>, Vec<_>, _)| Cold {
        name: name.to_owned(),
        to_first_answer: Spread::of(&wall),
        cpu: Spread::of(&cpu),
        instructions: None,
        peak_kib,
    };
    Ok(taken.into_iter().map(cold).collect())
}

/// Each case in a process of its own, called in turns.
fn warm(bench: &Bench, cases: &[(&str, Program, &Arc<[u8]>)], amounts: &Amounts) -> Result<Vec<Warm>, Failure> {
    let mut running: Vec<(Running, Vec<Duration>, Duration)> = Vec::new();
    for (_, program, event) in cases {
        let one = bench.start(*program)?;
        for _ in 0..amounts.warm_calls {
            one.call(event)?;
        }
        running.push((one, Vec::new(), Duration::ZERO));
    }
    for _ in 0..amounts.warm_rounds {
        for ((_, _, event), (one, times, cpu)) in cases.iter().zip(&mut running) {
            let before = one.usage()?.cpu;
            for _ in 0..amounts.warm_calls {
                let answer = one.call(event)?;
                times.push(answer.done.duration_since(answer.sent));
            }
            *cpu += one.usage()?.cpu.saturating_sub(before);
        }
    }
    let mut warm = Vec::new();
    for ((label, ..), (one, times, cpu)) in cases.iter().zip(running) {
        let calls = u32::try_from(times.len())?;
        warm.push(Warm {
            case: (*label).to_owned(),
            latency: Spread::of(&times),
            cpu_micros: (cpu / calls.max(1)).as_secs_f64() * 1e6,
            instructions: None,
            peak_kib: one.usage()?.peak_kib,
        });
        one.end()?;
    }
    Ok(warm)
}
