//! HTTP as API Gateway passes it to a function (HTTP API, payload format 2.0), and as it takes the
//! answer back.
//!
//! The event is read here rather than by `lambda_http`: that crate's conversion panics on query
//! strings and `Host` headers that are no part of a valid URI, and a client could end a function's
//! environment with one.

mod body;
mod cursor;
mod problem;
mod respond;

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    fmt,
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use percent_encoding::percent_decode_str;
use serde::{
    Deserialize, Deserializer,
    de::{self, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

pub use aws_lambda_events::apigw::ApiGatewayV2httpResponse as Answer;
pub use body::{BatchGetBody, OperationBody, OperationName, PutBody, RollbackBody, TransactionBody};
pub use cursor::{Cursor, CursorKind};
pub use problem::{Problem, ProblemType};
pub use respond::{EntryView, Respond, StoreView, VersionView, WrittenView};

use crate::{
    auth::{Authenticator, Permission, Presented, TenantScope},
    ledger::{Head, IdempotencyClaim},
    model::{
        comment::Comment,
        entry::{ETag, EntityTagList, Precondition, Revision, Version},
        key::ConfigKey,
        routing::TagRoutes,
    },
    read::Freshness,
    redact::Redacted,
    telemetry,
};

/// The longest `Idempotency-Key`, in bytes.
const MAX_IDEMPOTENCY_KEY_BYTES: usize = 255;

/// What some programs put before a text in UTF-8.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// More headers, or claims, than most requests have, so that their map does not have to grow. Every
/// call pays for this parsing.
const USUAL_FIELDS: usize = 24;

/// The largest version or revision that is looked for; none will ever be reached.
const MAX_COUNTER: u64 = 1_000_000_000_000_000_000;

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
    /// are, such as `GET /v1/config/{key+}`. HEAD is answered as GET is, body included: who speaks
    /// HTTP with the client leaves that out, and knows by it which Content-Length to send (RFC
    /// 9110, 9.3.2).
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
    /// API Gateway's documents disagree on whether it decodes the path and its parameter, so both
    /// are looked at after exactly one decoding, and must agree. No character of a key needs
    /// encoding, so nobody who sends keys plainly is hurt.
    pub fn key(&self, prefix: &str, routes: &TagRoutes) -> Result<ConfigKey, Problem> {
        let raw = self.path().strip_prefix(prefix).unwrap_or_default();
        let decoded = percent_decode_str(raw).decode_utf8().ok();
        let key =
            decoded.filter(|decoded| self.path_parameters.get("key").is_none_or(|parameter| parameter == decoded));
        match key {
            Some(key) => {
                let key = ConfigKey::parse(&key, routes)?;
                telemetry::note_key(&key);
                Ok(key)
            }
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
            // What stands for such bytes afterwards is nothing that the client sent.
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
        Ok(Query(Redacted(values)))
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

    /// That the body comes as it is. Its limits count what is sent, and nothing here links what
    /// would unpack it.
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
    /// Only hashes are kept. The request's is salted with the key, which is not kept, so that
    /// nobody who reads the table can guess a short secret value from it.
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
            // Claims that come without the token are none of API Gateway's, which passes on what it
            // checks.
            (_, None) => Presented::Nothing,
        };
        let scope = authenticator.authenticate(presented).await?.authorize(permission)?;
        telemetry::note_tenant(scope.tenant());
        Ok(scope)
    }
}

/// A query's parameters.
#[derive(Debug)]
pub struct Query(Redacted<HashMap<&'static str, String>>);

impl Query {
    /// A parameter's text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// A count within `1..=max`.
    pub fn limit(&self, max: usize) -> Result<usize, Problem> {
        match self.number("limit")? {
            None => Ok(max),
            Some(limit) => match usize::try_from(limit) {
                Ok(limit) if (1..=max).contains(&limit) => Ok(limit),
                _ => Err(Problem::new(ProblemType::InvalidParameter, format!("limit must be from 1 to {max}"))),
            },
        }
    }

    /// A version.
    pub fn version(&self) -> Result<Option<Version>, Problem> {
        match self.number("version")? {
            Some(0) => Err(Problem::new(ProblemType::InvalidParameter, "versions count from 1")),
            number => Ok(number.map(Version::new)),
        }
    }

    /// Why something is written.
    pub fn comment(&self) -> Result<Option<Comment>, Problem> {
        Comment::parse(self.text("comment").unwrap_or_default())
            .map_err(|error| Problem::comment(error, ProblemType::InvalidParameter))
    }

    /// A revision.
    pub fn revision(&self, name: &'static str) -> Result<Option<Revision>, Problem> {
        Ok(self.number(name)?.map(Revision::new))
    }

    fn number(&self, name: &'static str) -> Result<Option<u64>, Problem> {
        let parse = |text: &str| {
            whole_number(text).ok_or_else(|| {
                Problem::new(ProblemType::InvalidParameter, format!("{name} must be a whole number, in digits only"))
            })
        };
        self.text(name).map(parse).transpose()
    }
}

/// A whole number in its one decimal spelling, as large as any counter gets at most.
fn whole_number(text: &str) -> Option<u64> {
    text.parse().ok().filter(|number: &u64| number.to_string() == text && *number <= MAX_COUNTER)
}

/// The directives of a `Cache-Control` header, each with its duration.
fn directives(header: &str) -> impl Iterator<Item = (&str, Duration)> {
    header.split(',').map(|directive| {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        let digits = value.trim().trim_matches('"');
        // Too long for a number is a long time; what is no number at all is the strictest reading.
        let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        let seconds = if is_number { digits.parse().unwrap_or(u32::MAX) } else { 0 };
        (name.trim(), Duration::from_secs(seconds.into()))
    })
}

/// The entity tag of one tenant's pages of one kind.
#[derive(Debug)]
pub struct PageTag<'a> {
    /// The tag routes, as [`digest`] has them: they decide which keys are shown, and what is a
    /// secret.
    pub routes: &'a str,
    /// Who asks: not everybody sees the values of secrets.
    pub scope: &'a TenantScope,
    /// What is paged through, and what the query says of the page.
    pub query: &'a [&'a str],
}

impl PageTag<'_> {
    /// The form of today's pages.
    const FORMAT: &'static str = "page/1";
    /// How many hexadecimal digits of the digest are kept.
    const DIGITS: usize = 16;

    /// The page's tag at `head`. The commit's id is in it besides the revision, so that none of a
    /// restored table's is taken for another.
    pub fn at(&self, head: &Head) -> ETag {
        let rights = if self.scope.may_read_secrets() { "secrets" } else { "" };
        let (commit, tenant) = (head.commit.to_string(), self.scope.tenant().as_str());
        let state = [Self::FORMAT, tenant, head.epoch.as_str(), &commit, rights, self.routes];
        let mut digest = sha256_hex(&[&state, self.query].concat());
        digest.truncate(Self::DIGITS);
        ETag::of_page(head.revision, &digest)
    }
}

/// A digest of settings.
pub fn digest(settings: &impl fmt::Debug) -> String {
    sha256_hex(&[&format!("{settings:?}")])
}

/// SHA-256 over parts that cannot run into each other, in hexadecimal.
fn sha256_hex(parts: &[&str]) -> String {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part.as_bytes());
    }
    context.finish().as_ref().iter().fold(String::with_capacity(64), |hex, byte| hex + &format!("{byte:02x}"))
}

fn null_is_empty<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// API Gateway sends the names of headers in lower case; `sam local` leaves them as the client
/// spelt them.
fn names_in_lower_case<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Redacted<HashMap<String, String>>, D::Error> {
    struct Headers;

    impl<'de> Visitor<'de> for Headers {
        type Value = HashMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("headers or null")
        }

        fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
            Ok(HashMap::new())
        }

        fn visit_map<A: MapAccess<'de>>(self, mut given: A) -> Result<Self::Value, A::Error> {
            let mut headers: HashMap<String, String> = HashMap::with_capacity(USUAL_FIELDS);
            while let Some((mut name, value)) = given.next_entry::<String, String>()? {
                name.make_ascii_lowercase();
                match headers.entry(name) {
                    Entry::Vacant(vacant) => _ = vacant.insert(value),
                    Entry::Occupied(mut several) => several.get_mut().extend([",", &value]),
                }
            }
            Ok(headers)
        }
    }

    deserializer.deserialize_any(Headers).map(Redacted)
}

/// Claims arrive as text; what is not is no claim that anything here goes by. One that stands twice
/// has two meanings, and no event of API Gateway's.
fn texts_only<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Redacted<HashMap<String, String>>, D::Error> {
    struct Claims;

    impl<'de> Visitor<'de> for Claims {
        type Value = HashMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("claims or null")
        }

        fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
            Ok(HashMap::new())
        }

        fn visit_map<A: MapAccess<'de>>(self, mut given: A) -> Result<Self::Value, A::Error> {
            let mut claims = HashMap::with_capacity(USUAL_FIELDS);
            let mut others = HashSet::new();
            while let Some((name, value)) = given.next_entry::<String, _>()? {
                let stands_twice = match value {
                    Text(Some(value)) => others.contains(&name) || claims.insert(name, value).is_some(),
                    Text(None) => claims.contains_key(&name) || !others.insert(name),
                };
                if stands_twice {
                    return Err(de::Error::custom("a claim stands twice"));
                }
            }
            Ok(claims)
        }
    }

    deserializer.deserialize_any(Claims).map(Redacted)
}

/// A text, or none where something else stands.
struct Text(Option<String>);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl<'de> Visitor<'de> for Any {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("anything")
            }

            fn visit_str<E>(self, text: &str) -> Result<Text, E> {
                Ok(Text(Some(text.to_owned())))
            }

            fn visit_string<E>(self, text: String) -> Result<Text, E> {
                Ok(Text(Some(text)))
            }

            fn visit_bool<E>(self, _: bool) -> Result<Text, E> {
                Ok(Text(None))
            }

            fn visit_i64<E>(self, _: i64) -> Result<Text, E> {
                Ok(Text(None))
            }

            fn visit_u64<E>(self, _: u64) -> Result<Text, E> {
                Ok(Text(None))
            }

            fn visit_f64<E>(self, _: f64) -> Result<Text, E> {
                Ok(Text(None))
            }

            fn visit_unit<E>(self) -> Result<Text, E> {
                Ok(Text(None))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Text, A::Error> {
                while items.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Text(None))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Text, A::Error> {
                while fields.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Text(None))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests;
