//! Reading the table: names, and answers that are not complete.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    time::Instant,
};

use super::*;
use crate::{aws::FailureKind, fixture};

/// The ledgers in the table at `endpoint`, and a reader's scope.
async fn ledger(endpoint: &str) -> (Ledger, TenantScope) {
    let settings = fixture::settings(&[("AWS_ENDPOINT_URL", endpoint)]).unwrap();
    let scope = fixture::reader(&settings).await;
    let clients = AwsClients::new(&settings.backend.aws, &settings.clock);
    (Ledger::new(clients, settings.backend.table, Arc::new(settings.backend.routes), settings.clock), scope)
}

/// A table that answers each of `requests` with `answer`, one connection each.
fn table(requests: usize, answer: &'static str) -> (String, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let serving = std::thread::spawn(move || {
        for _ in 0..requests {
            let mut connection = BufReader::new(listener.accept().unwrap().0);
            let (mut line, mut length) = (String::new(), 0);
            while line != "\r\n" {
                line.clear();
                connection.read_line(&mut line).unwrap();
                if let Some(digits) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = digits.trim().parse().unwrap();
                }
            }
            connection.read_exact(&mut vec![0; length]).unwrap();
            let head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/x-amz-json-1.0\r\n";
            let whole = format!("{head}content-length: {}\r\n\r\n{answer}", answer.len());
            connection.get_mut().write_all(whole.as_bytes()).unwrap();
        }
    });
    (endpoint, serving)
}

/// A table that leaves keys unprocessed is asked again, after ever longer waits, before it counts
/// as throttled.
#[tokio::test]
async fn unprocessed_keys_are_asked_for_ever_later() {
    let nothing = r#"{"Responses": {}, "UnprocessedKeys":
        {"something": {"Keys": [{"pk": {"S": "TENANT#acme"}, "sk": {"S": "ENTRY#tenant_config_k"}}]}}}"#;
    let (endpoint, serving) = table(MAX_UNPROCESSED_ROUNDS, nothing);
    let (ledger, scope) = ledger(&endpoint).await;
    let begun = Instant::now();
    let error = ledger.get_many(&scope, vec!["ENTRY#tenant_config_k".to_owned()]).await.expect_err("nothing came");
    let waited = begun.elapsed();
    serving.join().unwrap();
    assert!(matches!(&error, LedgerError::Aws(failure) if failure.kind == FailureKind::Throttled), "{error}");
    // At least half of 20, 40, 80 and 160 ms.
    assert!(waited >= Duration::from_millis(150), "{waited:?}");
}

/// An entry's key is what stands behind the first prefix, whatever it holds.
#[test]
fn the_prefix_of_an_entry_is_taken_off_once() {
    for (sort_key, key) in [("ENTRY#a", "a"), ("ENTRY#ENTRY#a", "ENTRY#a"), ("ENTRY#", "")] {
        assert_eq!(keys::key_of_entry(sort_key), key);
    }
}
