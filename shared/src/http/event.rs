//! Requests as API Gateway passes them to a function (HTTP API, payload format 2.0).
//!
//! The event is read here rather than by `lambda_http`: that crate's conversion panics on query
//! strings and `Host` headers that are no part of a valid URI, and a client could end a function's
//! environment with one.

use std::{collections::HashMap, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    Problem, ProblemType, body,
    fields::{names_in_lower_case, null_is_empty, texts_only},
    page_tag::sha256_hex,
    query::Query,
};
use crate::{
    auth::{Authenticator, Permission, Presented, TenantScope},
    ledger::IdempotencyClaim,
    model::{
        entry::{EntityTagList, Precondition, Revision},
        key::ConfigKey,
        routing::TagRoutes,
    },
    read::Freshness,
    redact::Redacted,
};

/// The longest `Idempotency-Key`, in bytes.
const MAX_IDEMPOTENCY_KEY_BYTES: usize = 255;

/// What some programs put before a text in UTF-8.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// An API Gateway HTTP API event, payload format 2.0: the parts that are used. `Debug` shows the
/// request line without its query.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    #[serde(default)]
    raw_path: String,
    // `cargo lambda watch` sends null where there is no query.
    #[serde(default, deserialize_with = "null_is_empty")]
    raw_query_string: Redacted<String>,
    #[serde(default, deserialize_with = "names_in_lower_case")]
    headers: Redacted<HashMap<String, String>>,
    #[serde(default, deserialize_with = "null_is_empty")]
    path_parameters: HashMap<String, String>,
    request_context: RequestContext,
    #[serde(default)]
    body: Redacted<Option<String>>,
    #[serde(default)]
    is_base64_encoded: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RequestContext {
    #[serde(default)]
    stage: Option<String>,
    #[serde(default)]
    request_id: Option<String>,
    http: HttpDescription,
    #[serde(default)]
    authorizer: Option<Authorizer>,
}

#[derive(Debug, Deserialize)]
struct HttpDescription {
    method: String,
}

#[derive(Debug, Deserialize)]
struct Authorizer {
    #[serde(default)]
    jwt: Option<JwtAuthorizer>,
}

#[derive(Debug, Deserialize)]
struct JwtAuthorizer {
    #[serde(default, deserialize_with = "texts_only")]
    claims: Redacted<HashMap<String, String>>,
}

impl Event {
    /// The request's method.
    pub fn method(&self) -> &str {
        &self.request_context.http.method
    }

    /// API Gateway's id of the request, for the log.
    pub fn request_id(&self) -> &str {
        self.request_context.request_id.as_deref().unwrap_or_default()
    }

    /// The one of `routes` that the request is for. Routes are written as the template's route keys
    /// are, such as `GET /v1/config/{key+}`. HEAD is answered as GET is, body included. The server
    /// in front drops the body, and takes the Content-Length from it (RFC 9110, 9.3.2).
    pub fn route(&self, routes: &[&'static str]) -> Option<&'static str> {
        let asked = if self.method() == "HEAD" { "GET" } else { self.method() };
        let is_for = |route: &&&'static str| {
            let Some((method, path)) = route.split_once(' ') else { return false };
            method == asked
                && match path.strip_suffix("{key+}") {
                    Some(prefix) => self.path().starts_with(prefix),
                    None => path == self.path(),
                }
        };
        routes.iter().find(is_for).copied()
    }

    /// The path as it came, without the stage that stands in front of it unless it is `$default`.
    pub fn path(&self) -> &str {
        let stage = self.request_context.stage.as_deref().filter(|stage| *stage != "$default");
        stage
            .and_then(|stage| self.raw_path.strip_prefix('/')?.strip_prefix(stage))
            .filter(|rest| rest.starts_with('/'))
            .unwrap_or(&self.raw_path)
    }

    /// The key behind `prefix` in the path.
    ///
    /// API Gateway's documentation disagrees with itself on whether the path and its parameter are
    /// decoded. So both are decoded exactly once, and must agree. No character of a key needs
    /// encoding, so a plain key always passes.
    pub fn key(&self, prefix: &str, routes: &TagRoutes) -> Result<ConfigKey, Problem> {
        let raw = self.path().strip_prefix(prefix).unwrap_or_default();
        let decoded = percent_decode_str(raw).decode_utf8().ok();
        let key =
            decoded.filter(|decoded| self.path_parameters.get("key").is_none_or(|parameter| parameter == decoded));
        match key {
            Some(key) => Ok(ConfigKey::parse(&key, routes)?),
            None => Err(Problem::new(
                ProblemType::InvalidKey,
                "the key in the path is encoded ambiguously; send it as it is, no character of a key needs percent-encoding",
            )),
        }
    }

    /// The value of a header, whose name is given in lower case; several of one name arrive joined
    /// by commas.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The query's parameters; none but those in `known`, and each at most once.
    pub fn query(&self, known: &'static [&'static str]) -> Result<Query, Problem> {
        if percent_decode_str(&self.raw_query_string).decode_utf8().is_err() {
            // The decoder would replace such bytes by text that the client did not send.
            return Err(Problem::new(ProblemType::InvalidParameter, "the query is not UTF-8, percent-encoded"));
        }
        let mut values = HashMap::new();
        for (name, value) in form_urlencoded::parse(self.raw_query_string.as_bytes()) {
            let Some(known_name) = known.iter().find(|one| **one == name) else {
                let accepted = if known.is_empty() {
                    "none is accepted here".to_owned()
                } else {
                    format!("accepted here: {}", known.join(", "))
                };
                let shown: String = name.chars().take(40).collect();
                return Err(Problem::new(
                    ProblemType::InvalidParameter,
                    format!("unknown query parameter {shown:?}; {accepted}"),
                ));
            };
            if values.insert(*known_name, value.into_owned()).is_some() {
                return Err(Problem::new(
                    ProblemType::InvalidParameter,
                    format!("the query parameter {known_name} stands twice; send it once"),
                ));
            }
        }
        Ok(Query::new(values))
    }

    /// The body as text, without a byte order mark: a parser of JSON may ignore one (RFC 8259,
    /// 8.1), and some clients send it.
    pub fn body(&self) -> Result<String, Problem> {
        let refused = |detail: &str| Problem::new(ProblemType::InvalidBody, detail);
        let body = self.body.as_deref().unwrap_or_default();
        if body.is_empty() {
            return Ok(String::new());
        }
        self.is_not_encoded()?;
        let mut text = if self.is_base64_encoded {
            let bytes = BASE64_STANDARD.decode(body).map_err(|_| refused("the body is marked as base64 and is not"))?;
            String::from_utf8(bytes).map_err(|_| refused("the body is not UTF-8; send JSON"))?
        } else {
            body.to_owned()
        };
        if text.starts_with(BYTE_ORDER_MARK) {
            text.drain(..BYTE_ORDER_MARK.len_utf8());
        }
        Ok(text)
    }

    /// The body as an object of the given form; `form` shows it to people.
    pub fn json<T: DeserializeOwned>(&self, form: &str) -> Result<(String, T), Problem> {
        let text = self.body()?;
        let parsed = body::parse(&text, form)?;
        Ok((text, parsed))
    }

    /// That the body is not compressed. Limits count the bytes that are sent, and no decompressor
    /// is linked.
    fn is_not_encoded(&self) -> Result<(), Problem> {
        let codings = self.header("content-encoding").unwrap_or_default().split(',').map(str::trim);
        match codings.filter(|coding| !coding.is_empty()).find(|coding| !coding.eq_ignore_ascii_case("identity")) {
            None => Ok(()),
            Some(coding) => {
                let shown: String = coding.chars().take(40).collect();
                let rule =
                    format!("the body has the content coding {shown:?}; send it as it is, without Content-Encoding");
                Err(Problem::new(ProblemType::UnsupportedMediaType, rule))
            }
        }
    }

    /// `If-Match` and `If-None-Match`.
    pub fn precondition(&self) -> Result<Precondition, Problem> {
        Ok(Precondition {
            if_match: self.entity_tag_list("if-match")?,
            if_none_match: self.entity_tag_list("if-none-match")?,
        })
    }

    /// A header that lists entity tags.
    fn entity_tag_list(&self, name: &str) -> Result<Option<EntityTagList>, Problem> {
        let parse = |text: &str| {
            text.parse().map_err(|error| {
                Problem::new(ProblemType::InvalidParameter, format!("the header {name} is malformed: {error}"))
            })
        };
        self.header(name).map(parse).transpose()
    }

    /// How fresh the answer must be, by `Cache-Control` (RFC 9111, 5.2.1; RFC 5861, 4). Of a
    /// directive that stands twice, the stricter one counts.
    pub fn freshness(&self, min_revision: Option<Revision>) -> Freshness {
        let header = self.header("cache-control").unwrap_or_default();
        let shortest = |wanted: &str| {
            let durations = directives(header).filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
            durations.map(|(_, duration)| duration).min()
        };
        let max_age = shortest("max-age").filter(|_| shortest("no-cache").is_none());
        Freshness {
            max_age: max_age.unwrap_or_default(),
            stale_if_error: shortest("stale-if-error").unwrap_or_default(),
            min_revision,
        }
    }

    /// The request's idempotency claim, if it carries an `Idempotency-Key`. `body` is what it asks
    /// for besides method, path and conditions, which for a DELETE is the comment of its query.
    ///
    /// Only hashes are kept. The request's hash is salted with the key, which is not kept. So a
    /// reader of the table cannot guess a short secret value from the hash.
    pub fn idempotency(&self, body: &str) -> Result<Option<IdempotencyClaim>, Problem> {
        let Some(key) = self.header("idempotency-key") else { return Ok(None) };
        let key = key.trim().trim_matches('"');
        let fits = (1..=MAX_IDEMPOTENCY_KEY_BYTES).contains(&key.len())
            && key.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b',' | b'"'));
        if !fits {
            return Err(Problem::new(
                ProblemType::InvalidParameter,
                format!(
                    "the header Idempotency-Key must be one key of 1 to {MAX_IDEMPOTENCY_KEY_BYTES} visible ASCII characters without commas and quotes, such as a UUID"
                ),
            ));
        }
        let condition = |name| self.header(name).unwrap_or_default();
        let request = [key, self.method(), self.path(), condition("if-match"), condition("if-none-match"), body];
        Ok(Some(IdempotencyClaim { key_hash: sha256_hex(&[key]), request_hash: sha256_hex(&request) }))
    }

    /// Who is calling, if they may do what takes `permission`.
    pub async fn authorize(
        &self,
        authenticator: &Authenticator,
        permission: Permission,
    ) -> Result<TenantScope, Problem> {
        let claims = self.request_context.authorizer.as_ref().and_then(|authorizer| authorizer.jwt.as_ref());
        let presented = match (claims, self.header("authorization")) {
            (Some(jwt), Some(authorization)) => Presented::Checked { claims: &jwt.claims, authorization },
            (None, Some(header)) => Presented::Authorization(header),
            // API Gateway passes on the token that it has checked. Claims without one do not come
            // from it.
            (_, None) => Presented::Nothing,
        };
        let scope = authenticator.authenticate(presented).await?.authorize(permission)?;
        Ok(scope)
    }
}

/// The directives of a `Cache-Control` header, each with its duration.
fn directives(header: &str) -> impl Iterator<Item = (&str, Duration)> {
    header.split(',').map(|directive| {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        let digits = value.trim().trim_matches('"');
        // A number that is too large means a long time. What is no number is read in the strictest
        // way.
        let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        let seconds = if is_number { digits.parse().unwrap_or(u32::MAX) } else { 0 };
        (name.trim(), Duration::from_secs(seconds.into()))
    })
}
