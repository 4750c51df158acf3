//! How the issuer's keys are fetched, and what is taken for keys.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

const DESCRIPTION: &str = "/pool/.well-known/openid-configuration";

/// Keys from this address, as `JWKS_URL` has it.
fn at(address: Uri) -> HttpKeys {
    HttpKeys::new(&TokenSettings { keys: KeySource::At(address), ..settings() })
}

/// Reads a request, and says for which path it is.
fn read_path(connection: &mut TcpStream) -> String {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        connection.read_exact(&mut byte).unwrap();
        request.extend(byte);
    }
    String::from_utf8(request).unwrap().split(' ').nth(1).unwrap().to_owned()
}

/// A server with pages, and what it was asked for.
struct Site {
    address: SocketAddr,
    pages: Arc<Mutex<HashMap<&'static str, Vec<u8>>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Site {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let site = Self { address: listener.local_addr().unwrap(), pages: Arc::default(), asked: Arc::default() };
        let (pages, asked) = (Arc::clone(&site.pages), Arc::clone(&site.asked));
        // It ends with the process.
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let mut connection = connection.unwrap();
                let path = read_path(&mut connection);
                let page = pages.lock().unwrap().get(path.as_str()).cloned();
                asked.lock().unwrap().push(path);
                let _ = connection.write_all(&page.unwrap_or_else(|| answer("404 Not Found", "")));
            }
        });
        site
    }

    fn issuer(&self) -> String {
        format!("http://{}/pool", self.address)
    }

    fn put(&self, path: &'static str, page: Vec<u8>) {
        self.pages.lock().unwrap().insert(path, page);
    }

    /// Says that the keys are at this address.
    fn describe(&self, issuer: &str, jwks_uri: &str) {
        let description = json!({"issuer": issuer, "jwks_uri": jwks_uri, "response_types_supported": ["code"]});
        self.put(DESCRIPTION, answer("200 OK", &description.to_string()));
    }

    fn keys(&self) -> HttpKeys {
        let issuer = self.issuer();
        let keys = KeySource::Described(format!("http://{}{DESCRIPTION}", self.address).parse().unwrap());
        HttpKeys::new(&TokenSettings { issuer, keys, ..settings() })
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

/// Promise: the keys are where the issuer says, wherever that is. It is asked again where they
/// cannot be had there any more, and each hour.
#[tokio::test]
async fn a_description_leads_to_the_keys() {
    let site = Site::new();
    let (old, new) = ("/discovery/v2.0/keys?p=a", "/elsewhere");
    let set = |kid: &str| answer("200 OK", &json!({"keys": [rsa_jwk(kid)]}).to_string());
    site.describe(&site.issuer(), &format!("http://{}{old}", site.address));
    site.put(old, set("first"));
    // What is often there, and need not be.
    site.put("/pool/.well-known/jwks.json", set("guessed"));
    let keys = site.keys();
    for asked in [&[DESCRIPTION, old][..], &[old]] {
        assert!(keys.fetch().await.unwrap().get("first").is_some());
        assert_eq!(site.asked(), asked);
    }
    site.describe(&site.issuer(), &format!("http://{}{new}", site.address));
    site.put(new, set("second"));
    site.put(old, answer("410 Gone", ""));
    for asked in [&[old, DESCRIPTION, new][..], &[new]] {
        assert!(keys.fetch().await.unwrap().get("second").is_some());
        assert_eq!(site.asked(), asked);
    }
    tokio::time::pause();
    tokio::time::advance(Duration::from_hours(1)).await;
    tokio::time::resume();
    assert!(keys.fetch().await.is_ok());
    assert_eq!(site.asked(), [DESCRIPTION, new]);
    // Nowhere: the next fetch begins with the question.
    site.put(new, answer("500 Internal Server Error", ""));
    assert!(keys.fetch().await.is_err());
    assert_eq!(site.asked(), [new, DESCRIPTION, new]);
    assert!(keys.fetch().await.is_err());
    assert_eq!(site.asked(), [DESCRIPTION, new]);
}

/// Promise: a description is believed if it is the issuer's own, by its exact name, and names an
/// address that nobody on the way can forge. The error says what is wrong with it.
#[tokio::test]
async fn a_description_is_of_the_issuer_and_leads_to_a_safe_address() {
    let site = Site::new();
    let own = site.issuer();
    let safe = format!("http://{}/keys", site.address);
    site.put("/keys", answer("200 OK", &json!({"keys": [rsa_jwk("rsa")]}).to_string()));
    for (issuer, jwks_uri, expected) in [
        ("https://evil.example", safe.as_str(), "is of the issuer \"https://evil.example\""),
        (&format!("{own}/"), &safe, "is of the issuer"),
        (&own.to_uppercase(), &safe, "is of the issuer"),
        ("", &safe, "is of the issuer"),
        (
            &own,
            "http://issuer.example/keys",
            "names \"http://issuer.example/keys\" as jwks_uri; it must be an https URL",
        ),
        (&own, "http://127.0.0.1.example/keys", "must be an https URL"),
        (&own, "http://127.0.0.1@evil.example/keys", "must be an https URL"),
        (&own, "ftp://127.0.0.1/keys", "must be an https URL"),
        (&own, "file:///etc/passwd", "must be an https URL"),
        (&own, "/keys", "must be an https URL"),
        (&own, "keys", "must be an https URL"),
        (&own, "", "must be an https URL"),
        (&"x".repeat(100_000), &safe, "is of the issuer \"xxxx"),
    ] {
        site.describe(issuer, jwks_uri);
        let error = site.keys().fetch().await.expect_err(jwks_uri).to_string();
        assert!(error.contains(expected) && error.len() < 400, "{error}");
        assert_eq!(site.asked(), [DESCRIPTION], "{jwks_uri}");
    }
    let good = json!({"issuer": own, "jwks_uri": safe}).to_string();
    let location = format!("HTTP/1.1 301 Moved Permanently\r\nlocation: {safe}\r\ncontent-length: 0\r\n\r\n");
    for (page, expected) in [
        (
            location.clone().into_bytes(),
            "discovery document's address answered 301 Moved Permanently; only 200 is taken, and redirections",
        ),
        (answer("404 Not Found", &good), "discovery document's address answered 404"),
        (answer("200 OK", "<html>"), "no discovery document"),
        (answer("200 OK", "[]"), "no discovery document"),
        (answer("200 OK", &json!({"issuer": own}).to_string()), "missing field `jwks_uri`"),
        (answer("200 OK", &json!({"jwks_uri": safe}).to_string()), "missing field `issuer`"),
        (answer("200 OK", &json!({"issuer": own, "jwks_uri": [safe]}).to_string()), "no discovery document"),
        (answer("200 OK", &good.replace("{\"issuer\"", "{\"jwks_uri\":\"https://evil.example\",\"issuer\"")), "twice"),
        (answer("200 OK", &format!("{good}{}", " ".repeat(150_000))), "discovery document could not be fetched"),
    ] {
        site.put(DESCRIPTION, page);
        let error = site.keys().fetch().await.expect_err(expected).to_string();
        assert!(error.contains(expected), "{expected}: {error}");
        assert_eq!(site.asked(), [DESCRIPTION], "{expected}");
    }
    site.put(DESCRIPTION, answer("200 OK", &good));
    site.put("/keys", location.into_bytes());
    let error = site.keys().fetch().await.expect_err("a redirection").to_string();
    assert!(error.contains("the key set's address answered 301"), "{error}");
}

/// Promise: where the settings name the keys' address, nobody asks the issuer where they are.
#[tokio::test]
async fn a_named_address_needs_no_description() {
    let site = Site::new();
    site.put("/keys", answer("200 OK", &json!({"keys": [rsa_jwk("rsa")]}).to_string()));
    let keys = at(format!("http://{}/keys", site.address).parse().unwrap());
    assert!(keys.fetch().await.unwrap().get("rsa").is_some());
    assert_eq!(site.asked(), ["/keys"]);
}

/// Promise: description and keys have to come within one time, so that an issuer that says nothing,
/// or nothing of its keys, holds no request up for ever.
#[tokio::test(start_paused = true)]
async fn a_silent_issuer_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let issuer = format!("http://{}", listener.local_addr().unwrap());
    let keys = KeySource::Described(format!("{issuer}/.well-known/openid-configuration").parse().unwrap());
    let error = HttpKeys::new(&TokenSettings { issuer, keys, ..settings() }).fetch().await.expect_err("silence");
    assert!(matches!(error, KeyFetchError::Timeout), "{error}");
}

/// What an address that answers `response`, and then hangs up, gives as keys.
async fn served(response: Vec<u8>) -> Result<KeySet, KeyFetchError> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/keys", listener.local_addr().unwrap()).parse().unwrap();
    let server = std::thread::spawn(move || {
        let (mut connection, _) = listener.accept().unwrap();
        read_path(&mut connection);
        // The client may hang up in the middle of what it does not want.
        let _ = connection.write_all(&response);
    });
    let result = at(address).fetch().await;
    server.join().unwrap();
    result
}

fn answer(status: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// Keys are a JWK set of bearable size, from an answer of 200. A redirection is not followed: it
/// could lead anywhere.
#[tokio::test]
async fn only_a_key_set_is_taken_for_keys() {
    let set = json!({"keys": [rsa_jwk("rsa"), {"kty": "AKP", "kid": "of tomorrow"}]}).to_string();
    let keys = served(answer("200 OK", &set)).await.unwrap();
    assert!(keys.get("rsa").is_some() && keys.get("of tomorrow").is_none());

    let padded = |length: usize| format!("{set}{}", " ".repeat(length - set.len()));
    assert!(served(answer("200 OK", &padded(150_000))).await.is_ok());
    let redirection = b"HTTP/1.1 302 Found\r\nlocation: /keys\r\ncontent-length: 0\r\n\r\n".to_vec();
    for (response, expected) in [
        (answer("200 OK", &padded(150_001)), "could not be fetched"),
        (answer("200 OK", ""), "no key set"),
        (answer("200 OK", "<html>"), "no key set"),
        (answer("200 OK", "{}"), "no key set"),
        (answer("200 OK", "[]"), "no key set"),
        (answer("200 OK", r#"{"keys":{}}"#), "no key set"),
        (answer("200 OK", &set.replace("{\"keys\"", "{\"keys\":[],\"keys\"")), "twice"),
        (answer("200 OK", &set.replace("\"alg\":", "\"kid\":\"other\",\"alg\":")), "twice"),
        (answer("404 Not Found", &set), "answered 404"),
        (answer("500 Internal Server Error", &set), "answered 500"),
        (answer("204 No Content", ""), "answered 204"),
        (redirection, "answered 302"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 90\r\n\r\n{".to_vec(), "could not be fetched"),
        (b"SSH-2.0-OpenSSH\r\n".to_vec(), "could not be fetched"),
    ] {
        let error = served(response).await.expect_err(expected).to_string();
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

/// Promise: an address that begins to answer and never ends does not hold a request up for ever.
#[tokio::test(start_paused = true)]
async fn an_answer_without_end_is_given_up() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/keys", listener.local_addr().unwrap()).parse().unwrap();
    let serving = async {
        let (mut connection, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(connection.read_u8().await.unwrap());
        }
        let begin = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"keys\":[";
        connection.write_all(begin).await.unwrap();
        std::future::pending::<()>().await;
    };
    let keys = at(address);
    let error = tokio::select! {
        () = serving => unreachable!("it serves without end"),
        result = keys.fetch() => result.expect_err("nothing is complete"),
    };
    assert!(matches!(error, KeyFetchError::Timeout), "{error}");
}

/// An address that takes the connection and says nothing does not hold a request up for ever.
#[tokio::test(start_paused = true)]
async fn a_silent_address_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/keys", listener.local_addr().unwrap()).parse().unwrap();
    let error = at(address).fetch().await.expect_err("nobody has answered");
    assert!(matches!(error, KeyFetchError::Timeout), "{error}");
}
