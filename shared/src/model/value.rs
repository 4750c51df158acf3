//! What a setting holds: any JSON value, kept digit for digit.

use std::{collections::HashSet, fmt, sync::Arc};

use serde::{
    Serialize, Serializer,
    de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

/// How deep arrays and objects may be nested: DynamoDB's limit, kept for every store so that a key
/// can change its store.
pub const MAX_DEPTH: usize = 32;

/// The size of an entry in an answer besides its value, in bytes as [`answer_bytes`] counts them:
/// the longest key, author and comment, each character as its longest escape, and the counters.
/// That takes 3,100.
const METADATA_BYTES: usize = 4096;

/// A JSON value as the client wrote it, in one canonical spelling: no white space between tokens,
/// no needless escapes in strings.
///
/// The text, unlike a parsed tree, keeps the order of members and every digit of every number.
/// Because strings have one spelling, the escapes that a store needs vanish on
/// the way back. `Debug` shows the size only, so that no value reaches a log by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct ConfigValue(Arc<str>);

/// Why a text is no value.
#[derive(Debug, thiserror::Error)]
pub enum InvalidValue {
    /// Not JSON, or JSON with a member name twice, or nested too deeply.
    #[error("the value is not acceptable JSON: {0}")]
    Json(#[source] serde_json::Error),
    /// A number that no common JSON reader would give back as it was written.
    #[error(
        "the value holds the number {0}, which loses digits in 64-bit arithmetic; write it as a string, or with at most 17 significant digits and within the range of a double"
    )]
    Number(String),
}

impl ConfigValue {
    /// Checks a JSON text and takes it as a value.
    pub fn parse(json: &str) -> Result<Self, InvalidValue> {
        check_unambiguous(json).map_err(InvalidValue::Json)?;
        let mut compact = String::with_capacity(json.len());
        for token in tokens(json) {
            if token.starts_with('"') && token.contains('\\') {
                let text: String = serde_json::from_str(token).map_err(InvalidValue::Json)?;
                compact.push_str(Self::from_text(&text).as_json());
                continue;
            }
            if token.starts_with(|c: char| c == '-' || c.is_ascii_digit()) && !keeps_its_digits(token) {
                return Err(InvalidValue::Number(token.chars().take(40).collect()));
            }
            compact.push_str(token);
        }
        Ok(Self(compact.into()))
    }

    /// A JSON string.
    pub fn from_text(text: &str) -> Self {
        Self(serde_json::Value::from(text).to_string().into())
    }

    /// The value as JSON text without white space between tokens.
    pub fn as_json(&self) -> &str {
        &self.0
    }

    /// Whether the value is a JSON string.
    pub fn is_text(&self) -> bool {
        self.0.starts_with('"')
    }

    /// The text, if the value is a JSON string.
    pub fn to_text(&self) -> Option<String> {
        if self.is_text() { serde_json::from_str(&self.0).ok() } else { None }
    }
}

/// The most bytes that an entry with this value takes in a function's answer.
///
/// There the body is a JSON string itself, in which each quote and each backslash takes two bytes.
/// JSON text holds nothing else that needs an escape.
pub fn answer_bytes(value: Option<&ConfigValue>) -> usize {
    let escaped = value.map_or(0, |value| {
        let json = value.as_json();
        json.len() + json.bytes().filter(|b| matches!(b, b'"' | b'\\')).count()
    });
    METADATA_BYTES + escaped
}

impl fmt::Debug for ConfigValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConfigValue({} bytes)", self.0.len())
    }
}

impl Serialize for ConfigValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let raw: &RawValue = serde_json::from_str(&self.0).map_err(serde::ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

/// The tokens of a valid JSON text, white space left out.
fn tokens(json: &str) -> impl Iterator<Item = &str> {
    let mut rest = json;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches([' ', '\t', '\n', '\r']);
        let bytes = rest.as_bytes();
        let length = match bytes.first()? {
            b'"' => {
                let mut end = 1;
                while bytes.get(end).is_some_and(|b| *b != b'"') {
                    end += if bytes[end] == b'\\' { 2 } else { 1 };
                }
                end + 1
            }
            b'{' | b'}' | b'[' | b']' | b':' | b',' => 1,
            _ => bytes.iter().position(|b| b",:]} \t\n\r".contains(b)).unwrap_or(bytes.len()),
        };
        let (token, tail) = rest.split_at(length);
        rest = tail;
        Some(token)
    })
}

/// The most significant digits of a number that is no 64-bit integer: with as many, programs print
/// doubles so that no two look alike. What has more loses digits wherever doubles are read.
const MAX_DIGITS: usize = 17;

/// Whether a number is one that readers with 64-bit integers and doubles tell apart from others.
fn keeps_its_digits(number: &str) -> bool {
    // JSON's integers have no leading zeros and no plus sign, so those that fit are spelled as Rust
    // spells them.
    if number.parse::<u64>().is_ok() || number.parse::<i64>().is_ok_and(|n| n != 0) {
        return true;
    }
    let Ok(double) = number.parse::<f64>() else { return false };
    let digits = significant_digits(number);
    // What is too small for a double becomes zero.
    digits <= MAX_DIGITS && double.is_finite() && (double != 0.0 || digits == 0)
}

/// How many digits of a JSON number there are between the first and the last that is not zero.
fn significant_digits(number: &str) -> usize {
    let mantissa = number.split(['e', 'E']).next().unwrap_or_default();
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    digits.trim_matches('0').len()
}

/// Refuses JSON that parsers disagree about, wherever a second reader may come to another meaning:
/// of values, and of tokens.
pub(crate) fn check_unambiguous(json: &str) -> Result<(), serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    Strict { depth: 0 }.deserialize(&mut deserializer)?;
    deserializer.end()
}

/// Reads any JSON value and refuses what parsers disagree about: a member name that stands twice,
/// and deep nesting.
struct Strict {
    depth: usize,
}

impl Strict {
    fn deeper<E: serde::de::Error>(&self) -> Result<Self, E> {
        if self.depth == MAX_DEPTH {
            return Err(E::custom(format_args!("it is nested more than {MAX_DEPTH} levels deep")));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        let depth = self.deeper::<A::Error>()?.depth;
        while sequence.next_element_seed(Self { depth })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let depth = self.deeper::<A::Error>()?.depth;
        let mut names = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            map.next_value_seed(Self { depth })?;
            if let Some(double) = names.replace(name) {
                let shown: String = double.chars().take(40).collect();
                return Err(A::Error::custom(format_args!("the member {shown:?} stands twice in one object")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every JSON value comes back with its order and digits; only white space between tokens and
    /// needless escapes go.
    #[test]
    fn values_are_kept_to_the_letter() {
        for (given, kept) in [
            ("null", "null"),
            (" { \"b\" : 1 , \"a\" : [ true , \" x \\\" , \" ] } ", r#"{"b":1,"a":[true," x \" , "]}"#),
            (r#""\u0041\\\/\u007b\u0000""#, r#""A\\/{\u0000""#),
            ("18446744073709551615", "18446744073709551615"),
            ("-9223372036854775808", "-9223372036854775808"),
            ("1.50", "1.50"),
            ("1e2", "1e2"),
            ("-0", "-0"),
            ("0.1", "0.1"),
            ("1997662077274734.2", "1997662077274734.2"),
            // As many programs print doubles: with 17 significant digits, whether or not fewer
            // would do.
            ("0.10000000000000001", "0.10000000000000001"),
            ("-0.30000000000000004E+2", "-0.30000000000000004E+2"),
            ("2.2250738585072014e-308", "2.2250738585072014e-308"),
            ("4.9406564584124654e-324", "4.9406564584124654e-324"),
            ("1.7976931348623157e308", "1.7976931348623157e308"),
            ("12345678901234567000000", "12345678901234567000000"),
            ("[0.000,0e400,1.00000000000000000000]", "[0.000,0e400,1.00000000000000000000]"),
            ("[]", "[]"),
        ] {
            assert_eq!(ConfigValue::parse(given).expect(given).as_json(), kept);
        }
        assert!(ConfigValue::parse(&format!("{}{}", "[".repeat(32), "]".repeat(32))).is_ok());
    }

    /// What two readers could read in two ways is refused with what to change.
    #[test]
    fn ambiguous_values_are_refused() {
        let deep = format!("{}{}", "[".repeat(33), "]".repeat(33));
        let bottomless = "[".repeat(100_000);
        for (given, message) in [
            ("", "EOF"),
            ("{} {}", "trailing characters"),
            ("NaN", "expected value"),
            (r#"{"a":1,"a":2}"#, "\"a\" stands twice"),
            (r#"{"a":1,"\u0061":2}"#, "\"a\" stands twice"),
            (r#"[{"x":{"a":1,"b":1,"a":1}}]"#, "stands twice"),
            (r#""\ud800""#, "hex escape"),
            (deep.as_str(), "more than 32 levels"),
            (bottomless.as_str(), "more than 32 levels"),
            ("18446744073709551616", "loses digits"),
            ("0.100000000000000006", "loses digits"),
            ("0.10000000000000000555", "loses digits"),
            ("1e400", "out of range"),
            ("-1e-400", "loses digits"),
            ("1e-400", "loses digits"),
            ("[3.14159265358979323846]", "loses digits"),
        ] {
            let error = ConfigValue::parse(given).expect_err(given).to_string();
            assert!(error.contains(message), "{given:.60}: {error}");
        }
    }

    /// The bytes of an answer are counted as the function returns them, its body as a JSON string.
    #[test]
    fn an_answers_bytes_are_those_of_its_escaped_text() {
        for value in ["0", r#""x""#, r#""\"\"\"""#, r#""\u0000\n\\ é 🦀""#, r#"{"a":["",""]}"#] {
            let value = ConfigValue::parse(value).expect(value);
            let escaped = serde_json::json!(value.as_json()).to_string().len() - 2;
            assert_eq!(answer_bytes(Some(&value)) - answer_bytes(None), escaped, "{}", value.as_json());
        }
    }

    #[test]
    fn debug_output_shows_no_value() {
        assert_eq!(format!("{:?}", ConfigValue::from_text("hush")), "ConfigValue(6 bytes)");
    }

    proptest! {
        /// Text survives the trip whatever it holds.
        #[test]
        fn text_round_trips(text in "\\PC*|[\\x00-\\x7f]*") {
            let value = ConfigValue::parse(ConfigValue::from_text(&text).as_json()).unwrap();
            prop_assert_eq!(value.to_text(), Some(text));
        }

        /// Doubles as Rust writes them, and with 17 digits, are within the accepted precision, and
        /// no input makes the parser panic.
        #[test]
        fn doubles_are_accepted_and_noise_is_survived(number in any::<f64>().prop_filter("JSON has no others", |n| n.is_finite()), noise in ".*") {
            prop_assert!(ConfigValue::parse(&serde_json::json!(number).to_string()).is_ok());
            let seventeen = format!("{number:.16e}");
            let kept = ConfigValue::parse(&seventeen).unwrap();
            prop_assert_eq!(kept.as_json(), seventeen);
            let _ = ConfigValue::parse(&noise);
        }
    }
}
