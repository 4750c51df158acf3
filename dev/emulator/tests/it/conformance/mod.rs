//! What AWS documents, as cases that any server can be asked to keep.
//!
//! By default each case meets an emulator of its own. With `CONFORMANCE_ENDPOINT=http://…` and
//! `CONFORMANCE_SERVER=moto|ministack` it meets that server. Where another server is known to
//! differ from AWS's documentation, the case says so, and then it has to fail there: a mark that is
//! no longer true is reported.

mod dynamodb;
mod eventbridge;
mod parameter_store;

use std::env;

use emulator::{Emulator, Options};

use crate::clients::{Clients, Outcome, start};

/// The servers that the cases can meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Server {
    Emulator,
    Moto,
    Ministack,
}

/// Clients of the server under test, and names that no other case uses there.
struct Aws {
    clients: Clients,
    server: Server,
    unique: String,
    /// Kept alive while the case runs
    _emulator: Option<Emulator>,
}

impl std::ops::Deref for Aws {
    type Target = Clients;

    fn deref(&self) -> &Clients {
        &self.clients
    }
}

impl Aws {
    async fn connect(case: &str) -> Self {
        // The time keeps apart the runs against a server that goes on.
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |time| time.as_millis());
        let unique = format!("{case}-{now}");
        let Ok(url) = env::var("CONFORMANCE_ENDPOINT") else {
            let (emulator, clients) = start(Options::default()).await;
            return Self { clients, server: Server::Emulator, unique, _emulator: Some(emulator) };
        };
        let server = match env::var("CONFORMANCE_SERVER").as_deref() {
            Ok("emulator") => Server::Emulator,
            Ok("moto") => Server::Moto,
            Ok("ministack") => Server::Ministack,
            other => {
                panic!("CONFORMANCE_SERVER must be emulator, moto or ministack, not {other:?}")
            }
        };
        Self { clients: Clients::new(&url), server, unique, _emulator: None }
    }

    /// A parameter's name that is only this case's.
    fn parameter(&self, name: &str) -> String {
        format!("/{}/{name}", self.unique)
    }

    /// Makes a table that is only this case's, with the keys `pk` and `sk`.
    async fn own_table(&self) -> Result<String, crate::clients::Failure> {
        self.clients.table(&self.unique).await?;
        Ok(self.unique.clone())
    }
}

/// Runs a case against the server that the environment names.
async fn run(name: &str, differs: &[(Server, &str)], case: impl AsyncFnOnce(&Aws) -> Outcome) {
    let aws = Aws::connect(name).await;
    let outcome = case(&aws).await;
    let known = differs.iter().find(|(server, _)| *server == aws.server);
    match (outcome, known) {
        (Ok(()), None) | (Err(_), Some(_)) => {}
        (Err(failure), None) => panic!("{name} against {:?}: {failure:?}", aws.server),
        (Ok(()), Some((server, why))) => {
            panic!("{name}: {server:?} was expected to differ but passed; marked with: {why}")
        }
    }
}

/// The table of a module's cases, each with the servers that are wrong there, and why.
macro_rules! cases {
    ($($name:ident: [$($server:ident: $why:literal),*],)*) => {
        mod cases {
            $(
                #[tokio::test]
                async fn $name() {
                    let differs = &[$((crate::conformance::Server::$server, $why)),*];
                    crate::conformance::run(stringify!($name), differs, async |aws| super::$name(aws).await).await;
                }
            )*
        }
    };
}
use cases;
