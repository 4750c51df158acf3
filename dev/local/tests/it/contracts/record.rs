//! What a snapshot is made of: exchanges in words, with a stand-in for what differs each time.

use std::{collections::BTreeMap, fmt::Write};

use serde_json::{Value, json};

use crate::harness::{Answer, Call};

/// Members whose texts differ each time. Their length and their punctuation are part of the
/// contract, so that the stand-in keeps them.
const VARIES: [&str; 9] =
    ["etag", "epoch", "modifiedAt", "at", "since", "trace.id", "request.id", "requestId", "faas.invocation_id"];
/// Members whose numbers differ each time.
const MEASURED: [&str; 3] = ["Timestamp", "Duration", "duration_ms"];
/// Characters of a request that are shown.
const MOST_OF_A_REQUEST: usize = 400;
/// Headers that the connection and API Gateway add, which are not the service's.
const OF_OTHERS: [&str; 3] = ["date", "content-length", "apigw-requestid"];

/// Compares a record with the snapshot of that name.
macro_rules! assert_recorded {
    ($name:literal, $record:expr) => {
        insta::with_settings!({
            snapshot_path => concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/snapshots"),
            prepend_module_to_snapshot => false,
            omit_expression => true,
        }, { insta::assert_snapshot!($name, $record.text()) });
    };
}
pub(super) use assert_recorded;

/// The record of a test.
#[derive(Debug, Default)]
pub(super) struct Record {
    text: String,
    /// What differs each time, with its stand-in.
    stand_ins: BTreeMap<String, String>,
}

impl Record {
    /// Notes a request, and what it is answered.
    pub(super) async fn ask(&mut self, what: &str, call: Call<'_>) -> Answer {
        let request: String = call.text().chars().take(MOST_OF_A_REQUEST).collect();
        let answer = call.await;
        let mut headers: Vec<_> = answer.headers.iter().collect();
        headers.sort_by_key(|(name, _)| name.as_str());
        let headers = headers.into_iter().filter(|(name, _)| !OF_OTHERS.contains(&name.as_str()));
        let headers: Vec<_> =
            headers.map(|(name, value)| (name.as_str(), value.to_str().expect("a header of text"))).collect();
        self.answer(what, &request, answer.status.into(), &headers, &answer.text);
        answer
    }

    /// Notes an event for a function behind API Gateway, and what the function answers.
    pub(super) fn answered(&mut self, what: &str, answer: &Value) {
        let headers = answer["headers"].as_object().expect("headers");
        let headers: Vec<_> =
            headers.iter().map(|(name, value)| (name.as_str(), value.as_str().expect("a text"))).collect();
        let status = answer["statusCode"].as_u64().expect("a status");
        self.answer(what, "(past API Gateway)", status, &headers, answer["body"].as_str().unwrap_or_default());
    }

    fn answer(&mut self, what: &str, request: &str, status: u64, headers: &[(&str, &str)], body: &str) {
        writeln!(self.text, "# {what}\n{request}\n\n{status}").expect("a String takes it");
        for (name, value) in headers {
            if VARIES.contains(name) {
                self.stand_in(value);
            }
            writeln!(self.text, "{name}: {value}").expect("a String takes it");
        }
        match serde_json::from_str(body) {
            Ok(json) => self.json(json),
            Err(_) if body.is_empty() => {}
            Err(_) => writeln!(self.text, "{body}").expect("a String takes it"),
        }
        self.text.push('\n');
    }

    /// Takes note of the entity tag of an answer that is not part of the record.
    pub(super) fn know(&mut self, answer: &Answer) {
        self.stand_in(answer.etag());
    }

    /// Notes JSON that is no answer.
    pub(super) fn note(&mut self, what: &str, json: &Value) {
        writeln!(self.text, "# {what}").expect("a String takes it");
        self.json(json.clone());
        self.text.push('\n');
    }

    /// Notes a text as it is.
    pub(super) fn note_text(&mut self, what: &str, text: &str) {
        writeln!(self.text, "# {what}\n{text}\n").expect("a String takes it");
    }

    fn json(&mut self, mut json: Value) {
        self.learn(&mut json);
        writeln!(self.text, "{json:#}").expect("a String takes it");
    }

    fn learn(&mut self, json: &mut Value) {
        match json {
            Value::Object(members) => {
                for (name, value) in members {
                    match value {
                        Value::String(text) if name == "cursor" => {
                            self.stand_ins.insert(text.clone(), "x".repeat(text.len()));
                        }
                        Value::String(text) if VARIES.contains(&name.as_str()) => self.stand_in(text),
                        // How many there are is up to what is in memory, and told elsewhere.
                        Value::Object(calls) if name == "calls" => {
                            calls.values_mut().for_each(|count| *count = json!("(a number)"));
                        }
                        Value::Number(_) if MEASURED.contains(&name.as_str()) => *value = json!("(a number)"),
                        _ => self.learn(value),
                    }
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.learn(item)),
            _ => {}
        }
    }

    fn stand_in(&mut self, text: &str) {
        // A time keeps its form, all else its length.
        let is_time = text.ends_with('Z') && text.as_bytes().get(10) == Some(&b'T');
        let shape = |character: char| match character {
            '0'..='9' if is_time => '0',
            'a'..='z' | 'A'..='Z' | '0'..='9' | '+' | '/' | '_' if !is_time => 'x',
            other => other,
        };
        // Without its quotes: in JSON they are escaped.
        let bare = text.trim_start_matches("W/").trim_matches('"');
        self.stand_ins.insert(bare.to_owned(), bare.chars().map(shape).collect());
    }

    /// The whole record, with the stand-ins in place.
    pub(super) fn text(&self) -> String {
        // Longest first: none is a part of a later one.
        let mut stand_ins: Vec<_> = self.stand_ins.iter().filter(|(text, _)| !text.is_empty()).collect();
        stand_ins.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
        stand_ins.into_iter().fold(self.text.clone(), |text, (found, shape)| text.replace(found, shape))
    }
}
