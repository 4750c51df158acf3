//! Answers and errors in the shapes that AWS SDKs parse, and requests read with AWS's own
//! complaints.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// What a connection is answered with.
pub(crate) type Reply = Response<Full<Bytes>>;

/// How a service writes its answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// `application/x-amz-json-1.0`
    Json10,
    /// `application/x-amz-json-1.1`
    Json11,
    /// Form-encoded requests, XML answers
    Query,
}

/// An error as AWS words it: a code that SDKs turn into a type, a message for people.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AwsError {
    status: StatusCode,
    code: Cow<'static, str>,
    message: String,
    members: Map<String, Value>,
    query_code: Option<&'static str>,
}

impl AwsError {
    /// A client error (400).
    pub(crate) fn new(code: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            code: code.into(),
            message: message.into(),
            members: Map::new(),
            query_code: None,
        }
    }

    pub(crate) fn validation(message: impl Into<String>) -> Self {
        Self::new("ValidationException", message)
    }

    /// AWS's wording for a member that breaks its model, for example a name that is too long.
    pub(crate) fn constraint(value: &str, member: &str, constraint: &str) -> Self {
        Self::validation(format!(
            "1 validation error detected: Value '{value}' at '{member}' failed to satisfy constraint: Member must {constraint}"
        ))
    }

    pub(crate) fn missing(member: &str) -> Self {
        Self::validation(format!(
            "1 validation error detected: Value null at '{member}' failed to satisfy constraint: Member must not be null"
        ))
    }

    /// A server error (500) under the name the service has for it.
    pub(crate) fn internal(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(code, message).with_status(StatusCode::INTERNAL_SERVER_ERROR)
    }

    pub(crate) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// Adds a member beside the message.
    pub(crate) fn with_member(mut self, name: &str, value: Value) -> Self {
        self.members.insert(name.to_owned(), value);
        self
    }

    /// Adds the code of the times when the service spoke XML: SDKs know the errors of SQS by that
    /// one, from a header.
    pub(crate) fn with_query_code(mut self, code: &'static str) -> Self {
        self.query_code = Some(code);
        self
    }

    pub(crate) fn code(&self) -> &str {
        &self.code
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn into_reply(self, protocol: Protocol) -> Reply {
        match protocol {
            Protocol::Query => {
                let kind = if self.status.is_server_error() { "Receiver" } else { "Sender" };
                let body = format!(
                    "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>{kind}</Type>\
                     <Code>{}</Code><Message>{}</Message></Error><RequestId>{}</RequestId></ErrorResponse>",
                    escape_xml(&self.code),
                    escape_xml(&self.message),
                    request_id(),
                );
                reply(self.status, "text/xml", body.into())
            }
            Protocol::Json10 | Protocol::Json11 => {
                let mut body = self.members;
                body.insert("__type".to_owned(), json!(self.code));
                // DynamoDB spells it with a capital where the error has further members.
                body.insert(if body.len() > 1 { "Message" } else { "message" }.to_owned(), json!(self.message));
                let mut reply = json_reply(self.status, protocol, &Value::Object(body));
                if let Some(Ok(code)) = self.query_code.map(|code| HeaderValue::try_from(format!("{code};Sender"))) {
                    reply.headers_mut().insert("x-amzn-query-error", code);
                }
                reply
            }
        }
    }
}

/// A JSON answer.
pub(crate) fn json_reply(status: StatusCode, protocol: Protocol, body: &Value) -> Reply {
    let content_type = match protocol {
        Protocol::Json10 => "application/x-amz-json-1.0",
        Protocol::Json11 => "application/x-amz-json-1.1",
        Protocol::Query => "application/json",
    };
    reply(status, content_type, body.to_string().into())
}

/// An answer of any content type.
pub(crate) fn reply(status: StatusCode, content_type: &'static str, body: Bytes) -> Reply {
    let mut reply = Response::new(Full::new(body));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

/// A fresh request id.
pub(crate) fn request_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// Reads a JSON request; members that are not known are passed over, as AWS does.
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, AwsError> {
    serde_json::from_slice(body).map_err(|error| AwsError::new("SerializationException", error.to_string()))
}

/// A member that the request must have.
pub(crate) fn required<T>(member: Option<T>, name: &str) -> Result<T, AwsError> {
    member.ok_or_else(|| AwsError::missing(name))
}

/// Text made safe for XML.
pub(crate) fn escape_xml(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
