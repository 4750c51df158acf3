//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use tenantry::model::tenant::{InvalidTenantId, TenantId};

use crate::{
    issuer::{DEFAULT_LIFETIME, DEFAULT_SCOPE},
    token::Place,
};

/// The port of the HTTP API if none is asked for.
pub const HTTP_PORT: u16 = 8080;
/// The port of the AWS services if none is asked for.
pub const AWS_PORT: u16 = 4566;
/// The port of the gRPC service if none is asked for.
pub const GRPC_PORT: u16 = 50051;
/// The data folder if none is asked for.
pub const DATA: &str = ".tenantry";

/// Runs the whole suite on this machine: HTTP API, token issuer and the AWS services that it uses.
/// No AWS account is needed, and nothing is reachable from other machines.
#[derive(Debug, Parser)]
#[command(name = "local", version, propagate_version = true, args_conflicts_with_subcommands = true)]
pub struct Arguments {
    /// What to do; without it, the suite runs.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to run the suite.
    #[command(flatten)]
    pub run: Run,
}

/// What else this program does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Prints a token for the suite that runs on this machine.
    Token(Token),
}

/// How to run the suite.
#[derive(Debug, Args)]
pub struct Run {
    /// Port of the HTTP API and the token issuer; 0 takes any free one.
    #[arg(long, value_name = "PORT", default_value_t = HTTP_PORT)]
    pub http_port: u16,
    /// Port of the AWS services; 0 takes any free one.
    #[arg(long, value_name = "PORT", default_value_t = AWS_PORT)]
    pub aws_port: u16,
    /// Port of the gRPC service; 0 takes any free one.
    #[arg(long, value_name = "PORT", default_value_t = GRPC_PORT)]
    pub grpc_port: u16,
    /// Folder for all data; it survives restarts.
    #[arg(long, value_name = "DIR", default_value = DATA)]
    pub data: PathBuf,
    /// File to write once everything is up: JSON with httpUrl, awsUrl, grpcUrl, issuer, jwksUrl and
    /// tokens (tenant → token).
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
    /// Value for a parameter of template.yaml, such as `TagRoutes`; may be given several times.
    #[arg(long = "parameter", value_name = "NAME=VALUE", value_parser = assignment)]
    pub parameters: Vec<(String, String)>,
    /// Loses every event of every bus, which AWS does not promise to deliver either: what they
    /// would have told is found by the schedule, each minute.
    #[arg(long)]
    pub no_events: bool,
}

/// What the token is to say.
#[derive(Debug, Args)]
pub struct Token {
    /// The tenant that the token's holder acts for. For one that no service would take, say so with
    /// --claim.
    #[arg(long, value_parser = tenant)]
    pub tenant: String,
    /// What the holder may do, separated by spaces.
    #[arg(long, default_value = DEFAULT_SCOPE)]
    pub scope: String,
    /// A further claim, which may also replace one of the usual ones; may be given several times.
    #[arg(long = "claim", value_name = "NAME=VALUE", value_parser = assignment)]
    pub claims: Vec<(String, String)>,
    /// For how long the token is valid, in seconds; below zero for one that has expired.
    #[arg(long, value_name = "SECONDS", default_value_t = DEFAULT_LIFETIME, allow_negative_numbers = true)]
    pub expires_in: i64,
    /// Port of the HTTP API of the suite that the token is for. Without it, the suite is looked for
    /// on the usual port, and where the last one on the usual data folder listened.
    #[arg(long, value_name = "PORT")]
    pub http_port: Option<u16>,
    /// Data folder of the suite that the token is for. Such a token can also be had while that does
    /// not run.
    #[arg(long, value_name = "DIR", conflicts_with = "http_port")]
    pub data: Option<PathBuf>,
}

impl Token {
    /// The suite that the token is for.
    pub fn place(&self) -> Place {
        match (self.http_port, &self.data) {
            (Some(port), _) => Place::Port(port),
            (None, Some(data)) => Place::Folder(data.clone()),
            (None, None) => Place::Anywhere { port: HTTP_PORT, data: PathBuf::from(DATA) },
        }
    }
}

fn tenant(text: &str) -> Result<String, InvalidTenantId> {
    text.parse::<TenantId>().map(|tenant| tenant.to_string())
}

fn assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::CommandFactory;

    use super::*;

    fn check(arguments: &str) -> Result<Arguments, String> {
        Arguments::try_parse_from(std::iter::once("local").chain(arguments.split_whitespace()))
            .map_err(|error| error.to_string())
    }

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn defaults_are_a_run_on_the_usual_ports() {
        let arguments = check("").unwrap();
        assert!(arguments.command.is_none());
        assert_eq!((arguments.run.http_port, arguments.run.aws_port, arguments.run.grpc_port), (8080, 4566, 50051));
        assert_eq!(arguments.run.data, PathBuf::from(".tenantry"));
        assert!(!arguments.run.no_events && check("--no-events").unwrap().run.no_events);
    }

    #[test]
    fn a_token_takes_claims_and_a_lifetime() {
        let arguments = check("token --tenant acme --claim a=b=c --claim d= --expires-in -5").unwrap();
        let Some(Command::Token(token)) = arguments.command else { panic!("{arguments:?}") };
        assert_eq!(token.claims, [("a".to_owned(), "b=c".to_owned()), ("d".to_owned(), String::new())]);
        assert_eq!((token.scope.as_str(), token.expires_in), (DEFAULT_SCOPE, -5));
        assert!(matches!(token.place(), Place::Anywhere { port: 8080, data } if data == Path::new(".tenantry")));
    }

    /// Promise: both commands say which version they are.
    #[test]
    fn the_version_is_told() {
        for arguments in ["--version", "-V", "token --version"] {
            assert!(check(arguments).unwrap_err().contains(env!("CARGO_PKG_VERSION")), "{arguments}");
        }
    }

    /// Promise: a wrong call says what is wrong with it.
    #[test]
    fn wrong_calls_are_refused_by_name() {
        for (arguments, message) in [
            ("--http-port 65536", "--http-port <PORT>"),
            ("--aws-port x", "--aws-port <PORT>"),
            ("--data", "--data <DIR>"),
            ("--parameter x", "expected NAME=VALUE"),
            ("--bogus", "--bogus"),
            ("--no-events=yes", "--no-events"),
            ("token", "--tenant <TENANT>"),
            ("token --tenant a --claim =b", "expected NAME=VALUE"),
            ("token --tenant a --claim b", "expected NAME=VALUE"),
            ("token --tenant a --expires-in soon", "--expires-in <SECONDS>"),
            ("token --tenant a --tenant b", "--tenant <TENANT>"),
            ("token --tenant org|123", "a tenant id is 1 to 63 characters of A-Z, a-z, 0-9, '_', '.', '-'"),
            ("token --tenant=", "it is empty; a tenant id is"),
            ("token --tenant a --data d --http-port 1", "cannot be used with"),
            ("tokens", "tokens"),
        ] {
            let error = check(arguments).unwrap_err();
            assert!(error.contains(message), "{arguments}: {error}");
        }
    }
}
