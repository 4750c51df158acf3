//! Opens at the start the connections that the first call will use.

use std::time::Duration;

use aws_sdk_dynamodb::{config::http::HttpResponse, error::SdkError, types::AttributeValue};
use futures_util::future::join;
use tracing::warn;

use super::{AwsClients, Service, error_chain};

/// How long the start of a function waits for its connections.
const WARM_UP_TIMEOUT: Duration = Duration::from_secs(1);
/// The partition key that is asked for to open the connection. No item has it.
const WARM_UP_KEY: &str = "WARM-UP";

impl AwsClients {
    /// Opens the connections that the first call will use: to DynamoDB by asking for an item that
    /// does not exist, and to STS by asking for the caller's identity. Any answer will do, also a
    /// refusal. If none comes in time, the first call opens its connection itself.
    pub async fn warm_up(&self, table: &str) {
        let key = |name: &str| AttributeValue::S(name.to_owned());
        let get =
            self.own_dynamodb().get_item().table_name(table).key("pk", key(WARM_UP_KEY)).key("sk", key(WARM_UP_KEY));
        let sts = async {
            match &self.0.sessions {
                Some(_) => self.sts().get_caller_identity().send().await.map(drop),
                None => Ok(()),
            }
        };
        let (dynamodb, sts) =
            join(warm(Service::DynamoDb, Box::pin(get.send())), warm(Service::Sts, Box::pin(sts))).await;
        for cold in [dynamodb, sts].into_iter().flatten() {
            warn!(error = cold, "a connection could not be opened at the start");
        }
    }
}

/// Why a connection is not open; none if it is.
async fn warm<T, E>(
    service: Service,
    calling: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
) -> Option<String>
where
    E: std::error::Error + 'static,
{
    match tokio::time::timeout(WARM_UP_TIMEOUT, calling).await {
        Ok(Ok(_) | Err(SdkError::ServiceError(_))) => None,
        Ok(Err(error)) => Some(format!("{service}: {}", error_chain(&error))),
        Err(_) => Some(format!("{service}: no answer within {} s", WARM_UP_TIMEOUT.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use aws_credential_types::Credentials;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::{
        aws::{AwsSettings, OwnCredentials, TrustedRoots},
        clock::Clock,
    };

    fn clients(endpoint: std::net::SocketAddr) -> AwsClients {
        let settings = AwsSettings {
            region: "us-east-1".to_owned(),
            endpoint: Some(format!("http://{endpoint}")),
            credentials: OwnCredentials::Fixed(Credentials::from_keys("id", "key", None)),
            max_sessions: 1,
            roles: None,
            roots: TrustedRoots::Amazon,
        };
        AwsClients::new(&settings, &Clock::system())
    }

    /// A store that takes the connection and says nothing holds up no start for longer than it may.
    #[tokio::test(start_paused = true)]
    async fn a_silent_store_holds_up_no_start() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let began = tokio::time::Instant::now();
        clients(silent.local_addr().unwrap()).warm_up("table").await;
        assert!(began.elapsed() < WARM_UP_TIMEOUT + Duration::from_millis(50));
    }

    /// A refusal warms as well: the next call goes over the same connection, the only one that is
    /// taken here.
    #[tokio::test]
    async fn the_first_call_finds_the_connection_open() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let clients = clients(listener.local_addr().unwrap());
        let store = async {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut requests = Vec::new();
            for _ in 0..2 {
                let mut request = String::new();
                while !request.ends_with("}}}") {
                    let mut some = [0; 4096];
                    let count = connection.read(&mut some).await.unwrap();
                    request += std::str::from_utf8(&some[..count]).unwrap();
                }
                let body = r#"{"__type":"com.amazon.coral.service#AccessDeniedException"}"#;
                let answer = format!("HTTP/1.1 400 Bad Request\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                connection.write_all(answer.as_bytes()).await.unwrap();
                requests.push(request);
            }
            requests
        };
        let calls = async {
            clients.warm_up("table").await;
            clients.warm_up("table").await;
        };
        let (requests, ()) = tokio::join!(store, calls);
        assert!(requests.iter().all(|request| request.contains(WARM_UP_KEY)));
    }
}
