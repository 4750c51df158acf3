//! Starts a function as Lambda would, calls it, and reads from the system what that took.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use bench::Failure;

use crate::{
    runtime_api::{Answer, RuntimeApi},
    store::Store,
};

/// Where everything is that the functions need.
#[derive(Debug)]
pub(crate) struct Bench {
    /// The folder of the release binaries.
    pub(crate) binaries: PathBuf,
    /// The store's address and certificate.
    pub(crate) store: Store,
    /// The root certificates that are trusted.
    pub(crate) roots: Roots,
}

/// Files with the store's root certificate, and with so many of Amazon's that reading them costs
/// what it does in Lambda.
#[derive(Debug)]
pub(crate) struct Roots {
    /// Of a function.
    pub(crate) functions: PathBuf,
    /// Of a yardstick.
    pub(crate) yardsticks: PathBuf,
}

/// What is started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Program {
    /// The release binary.
    pub(crate) name: &'static str,
    /// The role that it takes on for tenants, `none` for none. The yardsticks take no notice.
    pub(crate) role: &'static str,
}

impl Program {
    /// One as it is deployed unless it is asked for otherwise.
    pub(crate) const fn new(name: &'static str) -> Self {
        Self { name, role: "arn:aws:iam::123456789012:role/tenantry" }
    }

    /// One that reaches all tenants with its own rights.
    pub(crate) const fn with_own_rights(name: &'static str) -> Self {
        Self { name, role: "none" }
    }

    fn is_yardstick(self) -> bool {
        self.name.starts_with("hello")
    }
}

/// A function that runs.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    api: Option<RuntimeApi>,
    spawned: Instant,
}

/// What a process has used so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// Processor time of all its threads.
    pub(crate) cpu: Duration,
    /// The most memory that was resident at a time, in KiB.
    pub(crate) peak_kib: u32,
}

/// A median and the value that one in a hundred passes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spread {
    pub(crate) p50_micros: f64,
    pub(crate) p99_micros: f64,
}

impl Spread {
    pub(crate) fn of(times: &[Duration]) -> Self {
        let mut micros: Vec<_> = times.iter().map(|time| time.as_secs_f64() * 1e6).collect();
        micros.sort_by(f64::total_cmp);
        let at = |percent: usize| {
            let place = (micros.len() * percent).div_ceil(100).saturating_sub(1);
            micros.get(place).copied().unwrap_or_default()
        };
        Self { p50_micros: at(50), p99_micros: at(99) }
    }
}

impl Bench {
    /// Starts a release binary.
    pub(crate) fn start(&self, program: Program) -> io::Result<Running> {
        self.start_as(Command::new(self.binaries.join(program.name)), program)
    }

    fn start_as(&self, mut command: Command, program: Program) -> io::Result<Running> {
        let api = RuntimeApi::start()?;
        command
            .env_clear()
            .envs(self.environment(&api))
            .env("TENANT_ROLE_ARN", program.role)
            .env("AWS_CA_BUNDLE", if program.is_yardstick() { &self.roots.yardsticks } else { &self.roots.functions })
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let spawned = Instant::now();
        Ok(Running { child: command.spawn()?, api: Some(api), spawned })
    }

    fn environment(&self, api: &RuntimeApi) -> BTreeMap<&'static str, String> {
        [
            ("AWS_LAMBDA_RUNTIME_API", api.address.to_string()),
            ("AWS_LAMBDA_FUNCTION_NAME", "bench".to_owned()),
            ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "128".to_owned()),
            ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST".to_owned()),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned()),
            ("AWS_SESSION_TOKEN", "a-token-of-some-length-".repeat(30)),
            ("AWS_ENDPOINT_URL", format!("https://localhost:{}", self.store.address.port())),
            ("TABLE_NAME", "tenantry-config".to_owned()),
            ("EVENT_BUS_NAME", "tenantry".to_owned()),
            ("TOKEN_ISSUER", "https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_AbCdEfGhI".to_owned()),
            ("TOKEN_AUDIENCE", "3n4b5urk1ft4fl3mg5e62d9ado".to_owned()),
            // Every call is one tenant's. Counting them is part of what is measured.
            ("TENANT_RATE_LIMIT", u32::MAX.to_string()),
            ("TENANT_BURST_LIMIT", u32::MAX.to_string()),
        ]
        .into()
    }

    /// Instructions from the start of a function until its first answer, counted by callgrind. Its
    /// end is among them, which is little.
    pub(crate) fn instructions_of_start(&self, program: Program, event: &Arc<[u8]>) -> Result<f64, Failure> {
        self.instructions_in_all(program, event, 1)
    }

    /// Instructions per call of a warm function, counted by callgrind: the difference between a run
    /// with many calls and one with few, so that the start counts in neither.
    pub(crate) fn instructions_of_call(
        &self,
        program: Program,
        event: &Arc<[u8]>,
        few: u32,
        more: u32,
    ) -> Result<f64, Failure> {
        let all = self.instructions_in_all(program, event, few + more)?;
        Ok((all - self.instructions_in_all(program, event, few)?) / f64::from(more))
    }

    fn instructions_in_all(&self, program: Program, event: &Arc<[u8]>, calls: u32) -> Result<f64, Failure> {
        let name = program.name;
        let mut valgrind = Command::new(on_path("valgrind").ok_or("valgrind is not on PATH")?);
        valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(self.binaries.join(name));
        let running = self.start_as(valgrind, program)?;
        for _ in 0..calls {
            running.call(event)?;
        }
        let said = running.end()?;
        let collected = said.lines().find_map(|line| line.split_once("Collected : ")).map(|(_, count)| count.trim());
        let count = collected.ok_or_else(|| format!("valgrind counted nothing for {name}:\n{said}"))?;
        Ok(count.parse()?)
    }
}

impl Running {
    /// One call.
    pub(crate) fn call(&self, event: &Arc<[u8]>) -> Result<Answer, Failure> {
        let api = self.api.as_ref().ok_or("the function has ended")?;
        Ok(api.call(event)?)
    }

    /// The time from before the process was there until now.
    pub(crate) fn since_spawn(&self, then: Instant) -> Duration {
        then.duration_since(self.spawned)
    }

    /// What the process has used so far.
    pub(crate) fn usage(&self) -> io::Result<Usage> {
        let process = PathBuf::from(format!("/proc/{}", self.child.id()));
        let mut cpu = Duration::ZERO;
        for task in fs::read_dir(process.join("task"))? {
            // Nanoseconds on a processor, nanoseconds waiting for one, turns.
            let schedule = fs::read_to_string(task?.path().join("schedstat"))?;
            let nanos = schedule.split(' ').next().and_then(|nanos| nanos.parse().ok());
            cpu += Duration::from_nanos(nanos.unwrap_or_default());
        }
        let status = fs::read_to_string(process.join("status"))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak_kib = peak.and_then(|peak| peak.trim().trim_end_matches(" kB").parse().ok()).unwrap_or_default();
        Ok(Usage { cpu, peak_kib })
    }

    /// Ends the function, by taking its runtime API away, and returns what it wrote to standard
    /// error.
    pub(crate) fn end(mut self) -> io::Result<String> {
        drop(self.api.take());
        let mut said = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            io::Read::read_to_string(&mut stderr, &mut said)?;
        }
        self.child.wait()?;
        Ok(said)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Only where a measurement was given up; otherwise it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where a program is.
pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// What a zip archive holds besides the one packed file, `bootstrap`, in bytes.
const ARCHIVE_RECORDS: usize = 116;

/// How large a binary is, and how large as the only file of a zip archive, as it is deployed.
pub(crate) fn sizes(binary: &Path) -> Result<(u32, u32), Failure> {
    let content = fs::read(binary)?;
    let mut packed = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    io::Write::write_all(&mut packed, &content)?;
    Ok((content.len().try_into()?, (packed.finish()?.len() + ARCHIVE_RECORDS).try_into()?))
}
