//! Bytes that no SDK would send: each is answered in AWS's way, and none panics or hangs.

use emulator::{Emulator, Options};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::clients::{Outcome, start};

/// Sends a request as it is and reads the whole answer.
pub(crate) async fn send(emulator: &Emulator, head: &str, body: &[u8]) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(emulator.url().trim_start_matches("http://")).await?;
    let head = format!("{head}\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body).await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn target(name: &str) -> String {
    let version = if name.starts_with("DynamoDB") { "1.0" } else { "1.1" };
    format!(
        "POST / HTTP/1.1\r\nX-Amz-Target: {name}\r\nContent-Type: application/x-amz-json-{version}\r\n\
         Authorization: AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/any/aws4_request, SignedHeaders=host, \
         Signature=b\r\nX-Amz-Date: 20260101T000000Z"
    )
}

/// Guards: malformed calls get a 4xx with a type that SDKs can read.
#[tokio::test]
async fn malformed_calls_are_answered() -> Outcome {
    let (emulator, _aws) = start(Options::default()).await;
    let form = "POST / HTTP/1.1\r\nContent-Type: application/x-www-form-urlencoded".to_owned();
    let not_json: Vec<&[u8]> =
        vec![b"", b"{", b"[]", b"null", b"\"x\"", b"\xff\xfe", b"{\"Name\":1}", b"{\"Names\":{}}"];
    let mut calls: Vec<(String, Vec<u8>)> = Vec::new();
    for operation in [
        "AmazonSSM.PutParameter",
        "AmazonSSM.GetParameter",
        "AmazonSSM.GetParameters",
        "AmazonSSM.GetParametersByPath",
        "AmazonSSM.GetParameterHistory",
        "AmazonSSM.DeleteParameter",
        "AmazonSSM.DeleteParameters",
        "AmazonSSM.LabelParameterVersion",
        "AmazonSSM.ListTagsForResource",
        "AWSEvents.PutEvents",
        "DynamoDB_20120810.GetItem",
        "DynamoDB_20120810.TransactWriteItems",
    ] {
        calls.extend(not_json.iter().map(|body| (target(operation), body.to_vec())));
    }
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000)).into_bytes();
    for operation in ["AmazonSSM.PutParameter", "AWSEvents.PutEvents", "DynamoDB_20120810.PutItem"] {
        calls.push((target(operation), deep.clone()));
    }
    for odd in [
        "AmazonSSM",
        "AmazonSSM.",
        "AmazonSSM.Nothing",
        "AWSEvents.Nothing",
        "DynamoDB_20120810.Nothing",
        "Nothing.At.All",
        ".",
    ] {
        calls.push((target(odd), b"{}".to_vec()));
    }
    calls.push((form.clone(), b"Action=".to_vec()));
    calls.push((form.clone(), b"Action=AssumeRole&Version=2011-06-15".to_vec()));
    calls.push((form, b"\xff".to_vec()));
    calls.push(("POST / HTTP/1.1".to_owned(), b"{}".to_vec()));
    calls.push(("POST /elsewhere HTTP/1.1".to_owned(), b"{}".to_vec()));
    calls.push(("DELETE / HTTP/1.1".to_owned(), Vec::new()));
    calls.push(("OPTIONS / HTTP/1.1\r\nOrigin: http://evil.example".to_owned(), Vec::new()));
    // A web page's script, which must not be let in by the engine's friendliness.
    let page = format!("{}\r\nOrigin: http://evil.example", target("DynamoDB_20120810.GetItem"));
    calls.push((page, b"{}".to_vec()));
    for (head, body) in calls {
        let answer = send(&emulator, &head, &body).await?;
        let start: String = String::from_utf8_lossy(&body).chars().take(40).collect();
        assert!(answer.starts_with("HTTP/1.1 4"), "{head} {start:?}: {answer}");
        assert!(answer.contains("__type") || answer.contains("<Code>"), "{head} {start:?}: {answer}");
        assert!(answer.contains("x-amzn-requestid: "), "{head}: {answer}");
        assert!(!answer.contains("access-control-allow"), "{head}: {answer}");
    }
    Ok(())
}

/// Guards: 16 MB are taken, as `DynamoDB` does; more get an answer, not a broken connection.
#[tokio::test]
async fn large_bodies_are_answered() -> Outcome {
    let (emulator, _aws) = start(Options::default()).await;
    let head = target("AmazonSSM.GetParameter");
    let body = |bytes: usize| format!("{{\"Name\":\"{}\"}}", "x".repeat(bytes - 11)).into_bytes();
    let most = 16 * 1024 * 1024;
    let answer = send(&emulator, &head, &body(most)).await?;
    assert!(answer.contains("ValidationException"), "{}", &answer[..200]);
    let answer = send(&emulator, &head, &body(most + 1)).await?;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    Ok(())
}

/// Guards: a tool that asks who it is gets an answer, and one that asks whether anyone is there,
/// too.
#[tokio::test]
async fn identity_and_readiness_are_answered() -> Outcome {
    let (emulator, _aws) = start(Options { account: "111122223333".to_owned(), ..Options::default() }).await;
    let form = "POST / HTTP/1.1\r\nContent-Type: application/x-www-form-urlencoded; charset=utf-8";
    let answer = send(&emulator, form, b"Action=GetCallerIdentity&Version=2011-06-15").await?;
    assert!(answer.contains("<Account>111122223333</Account>"), "{answer}");
    let answer = send(&emulator, "GET / HTTP/1.1", b"").await?;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("ready\n"), "{answer}");
    Ok(())
}

/// Guards: it listens where it was told to, and says so when it cannot.
#[tokio::test]
async fn a_taken_port_is_an_error() -> Outcome {
    let (emulator, _aws) = start(Options::default()).await;
    let taken = emulator.url().trim_start_matches("http://").parse()?;
    let error = Emulator::start(Options { listen: taken, ..Options::default() }).await.expect_err("taken");
    assert_eq!(error.to_string(), "cannot listen");
    Ok(())
}
