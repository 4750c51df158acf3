//! Values: any JSON that every reader reads alike, kept in one spelling.

use serde_json::Value;
use tenantry::model::value::{ConfigValue, InvalidValue, MAX_DEPTH};

use crate::{Outcome, assert_blames_the_request};

/// The input as a value, and its first bytes as a number.
pub fn check(input: &[u8]) -> Outcome {
    if let Some(bits) = input.first_chunk() {
        check_double(f64::from_bits(u64::from_be_bytes(*bits)));
    }
    let Ok(text) = std::str::from_utf8(input) else { return Outcome::Refused };
    check_text(text);
    match ConfigValue::parse(text) {
        Ok(value) => {
            assert_canonical(&value);
            assert_eq!(
                serde_json::from_str::<Value>(text).ok(),
                serde_json::from_str::<Value>(value.as_json()).ok(),
                "the value of {text:?} changed to {:?}",
                value.as_json()
            );
            assert!(depth(text) <= MAX_DEPTH, "{text:?} is too deep, and was taken");
            assert!(value.as_json().len() <= text.len(), "{text:?} grew");
            Outcome::Accepted
        }
        Err(error) => {
            if let InvalidValue::Number(_) = error {
                assert!(serde_json::from_str::<Value>(text).is_ok(), "the wrong fault is named in {text:?}");
            }
            assert_blames_the_request(error.into());
            Outcome::Refused
        }
    }
}

/// What a value's JSON text must be: itself after another trip, with nothing between tokens.
pub fn assert_canonical(value: &ConfigValue) {
    let json = value.as_json();
    let again = ConfigValue::parse(json).unwrap_or_else(|error| panic!("{json:?} was kept, and is no value: {error}"));
    assert_eq!(again.as_json(), json, "a second spelling");
    assert_eq!(serde_json::to_string(value).ok().as_deref(), Some(json));
    assert_eq!(value.to_text().is_some(), json.starts_with('"'));
    if let Some(text) = value.to_text() {
        assert_eq!(ConfigValue::from_text(&text).as_json(), json, "two spellings of one text");
    }
}

/// Any text is a value as a JSON string, and comes back.
fn check_text(text: &str) {
    let value = ConfigValue::from_text(text);
    assert_eq!(value.to_text().as_deref(), Some(text));
    assert_canonical(&value);
}

/// Every double is a value as JSON writers print it.
fn check_double(double: f64) {
    if double.is_finite() {
        let json = Value::from(double).to_string();
        let value = ConfigValue::parse(&json).unwrap_or_else(|error| panic!("{json} is a double: {error}"));
        assert_eq!(value.as_json(), json);
    }
}

/// How deep the brackets of a valid JSON text go.
fn depth(json: &str) -> usize {
    let (mut now, mut most, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                now += 1;
                most = most.max(now);
            }
            b']' | b'}' if !in_string => now -= 1,
            _ => {}
        }
    }
    most
}
