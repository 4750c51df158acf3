//! `DynamoDB`: the embedded engine `dynoxide`, behind its own HTTP server so that its wire errors
//! arrive unchanged.
//!
//! The engine's router is private. Its server therefore listens on a loopback port of its own,
//! which nobody is told, and calls are passed on to it.

mod empty;
mod expiry;
mod keys;
mod partial;

use std::collections::HashMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use dynoxide::Database;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, ORIGIN, TRANSFER_ENCODING};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::StartError;
use crate::faults::{Fault, View};
use crate::shutdown::Shutdown;
use crate::wire::{AwsError, Reply};
use keys::KnownKeys;
pub(crate) use keys::TableKeys;
use partial::Partial;

/// Over the body of an answer; clients do without it if it is not there.
const CHECKSUM: &str = "x-amz-crc32";

const PREFIX: &str = "com.amazonaws.dynamodb.v20120810#";

/// The engine, and the way to it.
pub(crate) struct DynamoDb {
    database: Database,
    keys: Arc<KnownKeys>,
    url: String,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl fmt::Debug for DynamoDb {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("DynamoDb").field("url", &self.url).finish_non_exhaustive()
    }
}

impl DynamoDb {
    /// Opens the tables in `file`, or in memory, and serves them until `shutdown` says so.
    pub(crate) async fn start(
        file: Option<&Path>,
        shutdown: &Shutdown,
    ) -> Result<(Self, Vec<JoinHandle<()>>), StartError> {
        let database = match file {
            None => Database::memory(),
            Some(file) => Database::new(&file.to_string_lossy()),
        }
        .map_err(|error| StartError::DynamoDb(error.to_string()))?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(StartError::Listen)?;
        let url = format!("http://{}/", listener.local_addr().map_err(StartError::Listen)?);

        let sweeping = tokio::spawn(expiry::delete_expired(database.clone(), shutdown.clone()));
        let shutdown = shutdown.clone();
        let served = database.clone();
        let serving = tokio::spawn(async move {
            let stopped = async move { shutdown.requested().await };
            if let Err(error) = dynoxide::server::serve_with_shutdown(listener, served, stopped).await {
                tracing::error!(error, "DynamoDB ended");
            }
        });
        let client = Client::builder(TokioExecutor::new()).build_http();
        Ok((Self { database, keys: Arc::default(), url, client }, vec![serving, sweeping]))
    }

    /// The keys of those tables that there are.
    pub(crate) async fn keys(&self, tables: Vec<String>) -> HashMap<String, Arc<TableKeys>> {
        let mut found = HashMap::new();
        let mut unknown = Vec::new();
        for table in tables {
            match self.keys.known(&table) {
                Some(keys) => drop(found.insert(table, keys)),
                None => unknown.push(table),
            }
        }
        if unknown.is_empty() {
            return found;
        }
        let (database, keys) = (self.database.clone(), Arc::clone(&self.keys));
        // The engine waits for whoever uses the database.
        let looked_up = tokio::task::spawn_blocking(move || {
            let there = |table: String| keys.look_up(&database, &table).map(|keys| (table, keys));
            unknown.into_iter().filter_map(there).collect::<Vec<_>>()
        });
        match looked_up.await {
            Ok(looked_up) => found.extend(looked_up),
            Err(error) => tracing::error!(%error, "the keys of tables could not be looked up"),
        }
        found
    }

    /// Passes a call on and hands back the engine's answer, or as much of it as `view` lets
    /// through.
    pub(crate) async fn call(
        &self,
        operation: &str,
        headers: &HeaderMap,
        body: Bytes,
        view: View,
    ) -> Result<Reply, AwsError> {
        let answer = self.pass_on(operation, headers, body, view).await;
        if matches!(operation, "CreateTable" | "DeleteTable" | "UpdateTable") {
            self.keys.forget();
        }
        answer
    }

    async fn pass_on(&self, operation: &str, headers: &HeaderMap, body: Bytes, view: View) -> Result<Reply, AwsError> {
        empty::check(operation, &body)?;
        let partial = Partial::of(view, operation, &body);
        let body = partial.as_ref().and_then(Partial::request).unwrap_or(body);
        let failed = |error: &dyn std::error::Error| {
            AwsError::internal("InternalServerError", format!("The embedded DynamoDB did not answer: {error}"))
        };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.url.parse().map_err(|error: http::uri::InvalidUri| failed(&error))?;
        *request.headers_mut() = headers.clone();
        // `Origin` goes too: the engine would answer it with leave for every web page to read its
        // data.
        for name in [CONNECTION, CONTENT_LENGTH, EXPECT, HOST, ORIGIN, TRANSFER_ENCODING] {
            request.headers_mut().remove(name);
        }
        let (parts, body) = self.client.request(request).await.map_err(|error| failed(&error))?.into_parts();
        let mut body = body.collect().await.map_err(|error| failed(&error))?.to_bytes();
        let cut = partial.filter(|_| parts.status.is_success()).and_then(|partial| partial.answer(&body));
        let is_cut = cut.is_some();
        body = cut.unwrap_or(body);
        let mut reply = Response::from_parts(parts, Full::new(body));
        if is_cut {
            // Both are of the answer as it was.
            reply.headers_mut().remove(CONTENT_LENGTH);
            reply.headers_mut().remove(CHECKSUM);
        }
        reply.headers_mut().remove(CONNECTION);
        reply.headers_mut().remove(TRANSFER_ENCODING);
        Ok(reply)
    }
}

/// What `DynamoDB` answers to a call that is to fail without being executed.
pub(crate) fn failure(fault: Fault, operation: &str, body: &[u8]) -> AwsError {
    match fault {
        Fault::Throttle => AwsError::new(
            format!("{PREFIX}ProvisionedThroughputExceededException"),
            "The level of configured provisioned throughput for the table was exceeded. Consider increasing your \
             provisioning level with the UpdateTable API.",
        ),
        Fault::TransactionConflict if operation.starts_with("Transact") => {
            let items = serde_json::from_slice::<Value>(body)
                .ok()
                .and_then(|request| request["TransactItems"].as_array().map(Vec::len))
                .unwrap_or(1);
            let codes: Vec<&str> =
                (0..items).map(|item| if item == 0 { "TransactionConflict" } else { "None" }).collect();
            let reasons: Vec<Value> = codes
                .iter()
                .map(|code| match *code {
                    "None" => json!({ "Code": "None" }),
                    code => {
                        json!({ "Code": code, "Message": "Transaction is ongoing for the item" })
                    }
                })
                .collect();
            AwsError::new(
                format!("{PREFIX}TransactionCanceledException"),
                format!(
                    "Transaction cancelled, please refer cancellation reasons for specific reasons [{}]",
                    codes.join(", ")
                ),
            )
            .with_member("CancellationReasons", Value::Array(reasons))
        }
        Fault::TransactionConflict => {
            AwsError::new(format!("{PREFIX}TransactionConflictException"), "Transaction is ongoing for the item")
        }
        _ => AwsError::internal("InternalServerError", "Internal server error"),
    }
}

/// Whether a fault means something to a call. For faults that are not for every call.
pub(crate) fn fits(fault: Fault, operation: &str, body: &[u8]) -> bool {
    match fault {
        Fault::TransactionConflict => {
            operation.starts_with("Transact") || matches!(operation, "PutItem" | "UpdateItem" | "DeleteItem")
        }
        Fault::StalePage => Partial::of(View::Stale, operation, body).is_some(),
        Fault::EmptyPage => Partial::of(View::EmptyPage, operation, body).is_some(),
        _ => false,
    }
}
