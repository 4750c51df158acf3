//! Starts what is measured, each in a process of its own, and reads from the system what that uses.

use std::{
    ffi::OsStr,
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::mpsc::channel,
    thread,
    time::Duration,
};

use crate::grpc::Failure;

/// How long a process may be silent before it is ready.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running process; ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// Starts a program whose output is read.
    fn start(mut command: Command, output: Stdio, errors: Stdio) -> Result<Self, Failure> {
        let program = Path::new(command.get_program()).display().to_string();
        let child = command.stdin(Stdio::piped()).stdout(output).stderr(errors).spawn();
        Ok(Self { child: child.map_err(|error| format!("{program} does not start: {error}"))? })
    }

    /// Starts a program and waits until what it says on standard output satisfies `find`. What it
    /// says later goes nowhere.
    pub(crate) fn until_said<T>(command: Command, find: impl Fn(&str) -> Option<T>) -> Result<(Self, T), Failure> {
        let mut process = Self::start(command, Stdio::piped(), Stdio::inherit())?;
        let output = process.child.stdout.take().ok_or("there is no standard output")?;
        let found = until_found(output, find)?;
        Ok((process, found))
    }

    /// As [`Process::until_said`], with standard error.
    pub(crate) fn until_logged<T>(command: Command, find: impl Fn(&str) -> Option<T>) -> Result<(Self, T), Failure> {
        let mut process = Self::start(command, Stdio::null(), Stdio::piped())?;
        let errors = process.child.stderr.take().ok_or("there is no standard error")?;
        let found = until_found(errors, find)?;
        Ok((process, found))
    }

    /// Processor time of all its threads so far.
    pub(crate) fn cpu(&self) -> io::Result<Duration> {
        let mut cpu = Duration::ZERO;
        for task in fs::read_dir(format!("/proc/{}/task", self.child.id()))? {
            // Nanoseconds on a processor, nanoseconds waiting for one, turns.
            let schedule = fs::read_to_string(task?.path().join("schedstat"))?;
            let nanos = schedule.split(' ').next().and_then(|nanos| nanos.parse().ok());
            cpu += Duration::from_nanos(nanos.unwrap_or_default());
        }
        Ok(cpu)
    }

    /// How much of it is resident, in KiB.
    pub(crate) fn resident_kib(&self) -> io::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        Ok(resident.and_then(|size| size.trim().trim_end_matches(" kB").parse().ok()).unwrap_or_default())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // There is nothing in it that has to be kept.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn until_found<T>(output: impl Read + Send + 'static, find: impl Fn(&str) -> Option<T>) -> Result<T, Failure> {
    let (to, lines) = channel();
    // To the end, whoever listens: a pipe that nobody reads fills, and stops who writes into it.
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let _ = to.send(line);
        }
    });
    let mut said = String::new();
    while let Ok(line) = lines.recv_timeout(PATIENCE) {
        if let Some(found) = find(&line) {
            return Ok(found);
        }
        said.push_str(&line);
        said.push('\n');
    }
    Err(format!("it did not say that it was ready:\n{said}").into())
}

/// A process that answers each line with a line.
#[derive(Debug)]
pub(crate) struct Asked {
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
    _process: Process,
}

impl Asked {
    /// Starts a program.
    pub(crate) fn start(program: &Path) -> Result<Self, Failure> {
        let mut process = Process::start(Command::new(program), Stdio::piped(), Stdio::inherit())?;
        let questions = process.child.stdin.take().ok_or("there is no standard input")?;
        let answers = BufReader::new(process.child.stdout.take().ok_or("there is no standard output")?);
        Ok(Self { questions, answers, _process: process })
    }

    /// Asks.
    pub(crate) fn ask(&mut self, question: &str) -> Result<serde_json::Value, Failure> {
        writeln!(self.questions, "{question}")?;
        self.answer()
    }

    /// What it says next.
    pub(crate) fn answer(&mut self) -> Result<serde_json::Value, Failure> {
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    }
}

/// Runs a program to its end and reads the JSON that it says.
pub(crate) fn json_of(program: &Path, arguments: &[&str]) -> Result<serde_json::Value, Failure> {
    let output = Command::new(program).args(arguments).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("{} failed", program.display()).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Where a program is.
pub(crate) fn on_path(program: impl AsRef<OsStr>) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let program = Path::new(program.as_ref());
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}
