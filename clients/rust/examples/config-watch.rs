//! Lists, reads and watches a tenant's configuration. Prints JSON lines.
//!
//! ```sh
//! export TENANTRY_TOKEN=…
//! cargo run -p config-client --example config-watch -- list
//! cargo run -p config-client --example config-watch -- get tenant_config_limits
//! cargo run -p config-client --example config-watch -- \
//!     watch --prefix param_config_ --position-file position
//! ```
//!
//! A watch goes on until Ctrl-C. It stores where it is after each line that it has written, so that
//! the next one goes on from there: each change is printed once, or twice if the program is killed
//! between the two.

use std::{
    env,
    error::Error,
    fs,
    io::{self, ErrorKind, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use config_client::{
    Certificate, Client, ClientTlsConfig, Entry, Event, Filter, Identity, Operation, Options, Position, Start,
    StaticToken,
};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::signal;

/// Lists, reads and watches a tenant's configuration.
#[derive(Debug, Parser)]
#[command(name = "config-watch")]
struct Arguments {
    /// The service; given several times, any of these.
    #[arg(long, default_value = "http://127.0.0.1:50051")]
    url: Vec<String>,
    /// The access token, else taken from the environment variable `TENANTRY_TOKEN`.
    #[arg(long)]
    token: Option<String>,
    /// File of the certificate authorities to trust instead of this machine's, in PEM.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// File of a client certificate, in PEM.
    #[arg(long, value_name = "FILE", requires = "key")]
    certificate: Option<PathBuf>,
    /// File of the client certificate's private key, in PEM.
    #[arg(long, value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prints all entries, or those whose key begins with a prefix.
    List {
        /// What the keys begin with.
        #[arg(long, default_value = "")]
        prefix: String,
    },
    /// Prints one entry.
    Get {
        /// The key.
        key: String,
    },
    /// Prints all entries, then each change.
    Watch {
        /// Beginnings of keys to watch; without them, all.
        #[arg(long)]
        prefix: Vec<String>,
        /// Where to keep how far it got, and to go on from.
        #[arg(long, value_name = "FILE")]
        position_file: Option<PathBuf>,
    },
}

/// A line of the output.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    operation: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    revision: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a RawValue>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut causes = vec![error.to_string()];
            let mut error: &dyn Error = error.as_ref();
            while let Some(source) = error.source() {
                causes.push(source.to_string());
                error = source;
            }
            eprintln!("{}", causes.join(": "));
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    let client = connect(&arguments)?;
    match arguments.command {
        Command::List { prefix } => {
            for entry in client.list(prefix).await?.value {
                print(&line("entry", &entry)?)?;
            }
            Ok(())
        }
        Command::Get { key } => {
            let entry = client.get(key).await?.value;
            print(&line("entry", &entry)?)
        }
        Command::Watch { prefix, position_file } => {
            let filter = prefix.into_iter().fold(Filter::all(), Filter::prefix);
            tokio::select! {
                watched = watch(&client, filter, position_file.as_deref()) => watched,
                interrupted = signal::ctrl_c() => Ok(interrupted?),
            }
        }
    }
}

fn connect(arguments: &Arguments) -> Result<Client, Box<dyn Error>> {
    let token = match &arguments.token {
        Some(token) => token.clone(),
        None => env::var("TENANTRY_TOKEN").map_err(|_| "give a token by --token, or by TENANTRY_TOKEN")?,
    };
    let mut urls = arguments.url.iter();
    let first = urls.next().ok_or("give a URL")?;
    let mut options = urls.fold(Options::new(first, StaticToken::new(token)), Options::endpoint);
    if arguments.ca.is_some() || arguments.certificate.is_some() {
        let mut tls = ClientTlsConfig::new();
        tls = match &arguments.ca {
            Some(ca) => tls.ca_certificate(Certificate::from_pem(fs::read(ca)?)),
            None => tls.with_native_roots(),
        };
        if let (Some(certificate), Some(key)) = (&arguments.certificate, &arguments.key) {
            tls = tls.identity(Identity::from_pem(fs::read(certificate)?, fs::read(key)?));
        }
        options = options.tls(tls);
    }
    Ok(Client::connect(options)?)
}

/// Prints what happens. Nothing waits between a line and its position, so Ctrl-C comes before or
/// after both.
async fn watch(client: &Client, filter: Filter, file: Option<&Path>) -> Result<(), Box<dyn Error>> {
    let start = match file.map(stored).transpose()?.flatten() {
        Some(position) => Start::After(position),
        None => Start::Snapshot,
    };
    let mut watch = client.watch(filter, start);
    while let Some(event) = watch.next().await {
        let event = event?;
        tell(&event)?;
        if let Some(file) = file {
            store(file, event.position())?;
        }
    }
    Ok(())
}

/// Prints an event: one line for each key.
fn tell(event: &Event) -> Result<(), Box<dyn Error>> {
    let revision = event.position().revision;
    match event {
        Event::Snapshot(snapshot) => {
            // All that was printed before is replaced by what follows.
            print(&Line { key: None, operation: "snapshot", version: None, revision, value: None })?;
            for entry in &snapshot.entries {
                print(&line("put", entry)?)?;
            }
        }
        Event::Update(update) => {
            for change in &update.changes {
                let operation = match &change.operation {
                    Operation::Put(entry) => {
                        print(&line("put", entry)?)?;
                        continue;
                    }
                    Operation::Delete => "delete",
                    Operation::Supersede => "supersede",
                    Operation::Refuse => "refuse",
                    Operation::Accept => "accept",
                    _ => "unknown",
                };
                let (key, version) = (Some(change.key.as_str()), Some(change.version));
                print(&Line { key, operation, version, revision, value: None })?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn line<'a>(operation: &'static str, entry: &'a Entry) -> Result<Line<'a>, Box<dyn Error>> {
    let value = entry.bytes().map(|bytes| serde_json::from_slice(bytes)).transpose()?;
    Ok(Line { key: Some(&entry.key), operation, version: Some(entry.version), revision: entry.revision, value })
}

fn print(line: &Line<'_>) -> Result<(), Box<dyn Error>> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, line)?;
    out.write_all(b"\n")?;
    Ok(out.flush()?)
}

/// The position in a file, if there is one.
fn stored(file: &Path) -> Result<Option<Position>, Box<dyn Error>> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(Some(text.trim_end().parse().map_err(|error| format!("{}: {error}", file.display()))?)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{}: {error}", file.display()).into()),
    }
}

/// Replaces the file as a whole, so that it never holds half a position.
fn store(file: &Path, position: &Position) -> io::Result<()> {
    let mut new = file.as_os_str().to_owned();
    new.push(".new");
    fs::write(&new, format!("{position}\n"))?;
    fs::rename(&new, file)
}
