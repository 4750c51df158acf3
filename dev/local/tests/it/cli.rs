//! The program as a script uses it.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    process::{Child, ChildStdout, Command, Stdio},
};

use local::{Options, Suite};
use serde_json::Value;

type TestResult = Result<(), Box<dyn std::error::Error>>;

fn local(arguments: &[&str]) -> std::io::Result<(Option<i32>, String, String)> {
    let output = Command::new(env!("CARGO_BIN_EXE_local")).args(arguments).output()?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((output.status.code(), text(output.stdout), text(output.stderr)))
}

/// Promise: `local token` prints one token and nothing else, with the claims that were asked for,
/// also one that no tenant has.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn token_prints_a_token() -> TestResult {
    let folder = tempfile::tempdir()?;
    let suite = Suite::start(Options { data: Some(folder.path().to_owned()), ..Options::default() }).await?;
    let port = suite.http_url().rsplit(':').next().ok_or("no port")?;
    let (code, out, errors) = local(&[
        "token",
        "--tenant",
        "acme",
        "--scope",
        "config/read",
        "--claim",
        "a=b",
        "--claim",
        "sub=me",
        "--claim",
        "org=org|123",
        "--expires-in",
        "90",
        "--http-port",
        port,
    ])?;
    assert_eq!((code, errors.as_str()), (Some(0), ""));
    assert_eq!(out.lines().count(), 1);
    let claims: Value = jsonwebtoken::dangerous::insecure_decode_claims(out.trim())?;
    for (name, expected) in [
        ("custom:tenantId", "acme"),
        ("scope", "config/read"),
        ("a", "b"),
        ("sub", "me"),
        ("org", "org|123"),
        ("iss", suite.issuer().url()),
    ] {
        assert_eq!(claims[name], expected, "{name}");
    }
    assert_eq!(claims["exp"].as_i64().zip(claims["iat"].as_i64()).map(|(end, start)| end - start), Some(90));
    suite.stop().await;

    // What the suite leaves behind signs for the next one on that folder, and says that it is for
    // that.
    let data = folder.path().to_str().ok_or("not UTF-8")?;
    let (code, out, errors) = local(&["token", "--tenant", "acme", "--data", data])?;
    assert_eq!((code, out.lines().count()), (Some(0), 1));
    assert!(errors.contains("no suite runs on that folder"), "{errors}");
    Ok(())
}

/// Promise: a failure is one clear message on standard error and a status other than 0.
#[test]
fn failures_are_clear() -> TestResult {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("file");
    fs::write(&file, "")?;
    fs::write(folder.path().join("issuer-key.pem"), "no key")?;
    fs::write(folder.path().join("issuer-url"), "http://127.0.0.1:1/_local/issuer")?;
    let new = folder.path().join("new");
    let text = |path: &std::path::Path| path.to_str().map(str::to_owned).ok_or("not UTF-8");
    let (file, data, new) = (text(&file)?, text(folder.path())?, text(&new)?);
    for (arguments, code, message) in [
        (&["token"][..], 2, "--tenant"),
        (&["token", "--tenant", "a", "--claim", "x"], 2, "NAME=VALUE"),
        (&["token", "--tenant", "Acme Inc"], 2, "a tenant id is 1 to 63 characters"),
        (&["token", "--tenant", "a", "--data", &file], 1, "error: cannot read or write"),
        (&["token", "--tenant", "a", "--data", &data], 1, "error: the issuer's key in the data folder is unusable"),
        (&["token", "--tenant", "a", "--data", &new], 1, "error: no suite has run on the data folder"),
        (&["--data", &file], 1, "error: cannot use the data folder"),
        (&["--http-port", "0", "--aws-port", "0", "--data", &data], 1, "error: not an RSA private key"),
        (&["--http-port", "x"], 2, "--http-port"),
    ] {
        let (found, out, errors) = local(arguments)?;
        assert_eq!((found, out.as_str()), (Some(code), ""), "{arguments:?}: {errors}");
        assert!(errors.contains(message), "{arguments:?}: {errors}");
    }
    assert!(!fs::exists(new)?);
    Ok(())
}

/// A suite in a process of its own, which is ended with this.
struct Process {
    child: Child,
    out: BufReader<ChildStdout>,
    ready: Value,
    _folder: tempfile::TempDir,
}

impl Process {
    /// Starts it, and reads what it prints until it waits for something to do.
    fn start(levels: &str) -> Result<Self, Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        let ready = folder.path().join("ready.json");
        let mut child = Command::new(env!("CARGO_BIN_EXE_local"))
            .args(["--http-port", "0", "--aws-port", "0", "--grpc-port", "0", "--data"])
            .arg(folder.path().join("data"))
            .arg("--ready-file")
            .arg(&ready)
            .env("RUST_LOG", levels)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let out = BufReader::new(child.stdout.take().ok_or("no output")?);
        let mut started = Self { child, out, ready: Value::Null, _folder: folder };
        started.read_until(r#"globex "$API/v1/config""#)?;
        started.ready = serde_json::from_slice(&fs::read(ready)?)?;
        Ok(started)
    }

    /// The next line that begins like this.
    fn read_until(&mut self, begin: &str) -> Result<String, Box<dyn std::error::Error>> {
        loop {
            let mut line = String::new();
            if self.out.read_line(&mut line)? == 0 {
                return Err(format!("it never printed {begin}").into());
            }
            if line.starts_with(begin) {
                return Ok(line);
            }
        }
    }

    /// A request whose body has not come yet.
    fn begin_request(&self) -> Result<TcpStream, Box<dyn std::error::Error>> {
        let address = self.ready["httpUrl"].as_str().and_then(|url| url.strip_prefix("http://")).ok_or("no address")?;
        let token = self.ready["tokens"]["acme"].as_str().ok_or("no token")?;
        let mut stream = TcpStream::connect(address)?;
        write!(
            stream,
            "PUT /v1/config/tenant_config_a HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n\
             Content-Length: 11\r\nConnection: close\r\n\r\n"
        )?;
        Ok(stream)
    }

    #[cfg(unix)]
    fn interrupt(&self) -> TestResult {
        let status = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status()?;
        if status.success() { Ok(()) } else { Err("it cannot be interrupted".into()) }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Promise: Ctrl-C says that the suite stops, and how long that may take; what is open is answered.
/// Its log is lines of JSON, and nothing else.
#[cfg(unix)]
#[test]
fn it_stops_when_asked_to() -> TestResult {
    let mut process = Process::start("invocation=info,config_stream=info")?;
    let mut open = process.begin_request()?;
    process.interrupt()?;
    let told = process.read_until("Stopping")?;
    assert!(told.contains("up to 30 seconds"), "{told}");
    open.write_all(br#"{"value":1}"#)?;
    let answer = std::io::read_to_string(open)?;
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    assert_eq!(process.child.wait()?.code(), Some(0));

    let log = std::io::read_to_string(process.child.stderr.take().ok_or("no log")?)?;
    let lines: Vec<Value> = log.lines().map(serde_json::from_str).collect::<Result<_, _>>().map_err(|_| &*log)?;
    let says = |message: &str| lines.iter().any(|line| line["message"] == message && line["level"] == "INFO");
    assert!(says("invocation") && says("all calls have ended"), "{log}");
    let invocation = lines.iter().find(|line| line["Function"] == "config-write").ok_or("no line of the write")?;
    assert_eq!(invocation["status"], 201, "{invocation}");
    Ok(())
}

/// Promise: a second Ctrl-C waits for nothing.
#[cfg(unix)]
#[test]
fn a_second_interrupt_ends_at_once() -> TestResult {
    let mut process = Process::start("off")?;
    // The stop would wait for its body.
    let _open = process.begin_request()?;
    process.interrupt()?;
    process.read_until("Stopping")?;
    process.interrupt()?;
    assert_eq!(process.child.wait()?.code(), Some(130));
    Ok(())
}
