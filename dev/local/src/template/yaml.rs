//! `CloudFormation`'s YAML as JSON: short tags (`!Ref x`) become their long form (`{"Ref": "x"}`),
//! so that everything after this module knows one way of writing a template.

use saphyr::{LoadableYamlNode, Scalar, Yaml};
use serde_json::{Map, Number, Value};

/// Why a text is no template.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum YamlError {
    /// The text is not YAML.
    #[error("not YAML: {0}")]
    Syntax(#[from] saphyr::ScanError),
    /// The text holds no document, or more than one.
    #[error("expected one YAML document, found {0}")]
    Documents(usize),
    /// YAML that JSON has no word for.
    #[error("{0} cannot stand in a template")]
    Unsupported(String),
}

/// Reads one YAML document.
pub(super) fn parse(text: &str) -> Result<Value, YamlError> {
    let documents = Yaml::load_from_str(text)?;
    match documents.as_slice() {
        [document] => json(document),
        more => Err(YamlError::Documents(more.len())),
    }
}

fn json(node: &Yaml<'_>) -> Result<Value, YamlError> {
    match node {
        Yaml::Value(scalar) => json_scalar(scalar),
        Yaml::Sequence(items) => items.iter().map(json).collect::<Result<_, _>>().map(Value::Array),
        Yaml::Mapping(entries) => {
            let mut object = Map::new();
            for (key, value) in entries {
                object.insert(text_of_key(key)?, json(value)?);
            }
            Ok(Value::Object(object))
        }
        Yaml::Tagged(tag, inner) if tag.handle == "!" => long_form(&tag.suffix, json(inner)?),
        other => Err(YamlError::Unsupported(format!("{other:?}"))),
    }
}

fn json_scalar(scalar: &Scalar<'_>) -> Result<Value, YamlError> {
    Ok(match scalar {
        Scalar::Null => Value::Null,
        Scalar::Boolean(value) => Value::Bool(*value),
        Scalar::Integer(value) => Value::from(*value),
        Scalar::FloatingPoint(value) => Number::from_f64(value.0)
            .map(Value::Number)
            .ok_or_else(|| YamlError::Unsupported(format!("the number {value}")))?,
        Scalar::String(value) => Value::String(value.to_string()),
    })
}

fn text_of_key(key: &Yaml<'_>) -> Result<String, YamlError> {
    match key {
        Yaml::Value(Scalar::String(text)) => Ok(text.to_string()),
        Yaml::Value(Scalar::Integer(number)) => Ok(number.to_string()),
        other => Err(YamlError::Unsupported(format!("the key {other:?}"))),
    }
}

fn long_form(tag: &str, value: Value) -> Result<Value, YamlError> {
    let (name, value) = match (tag, value) {
        ("Ref" | "Condition", value) => (tag.to_owned(), value),
        ("GetAtt", Value::String(text)) => {
            let (resource, attribute) =
                text.split_once('.').ok_or_else(|| YamlError::Unsupported(format!("!GetAtt {text} (no attribute)")))?;
            ("Fn::GetAtt".to_owned(), Value::from(vec![resource, attribute]))
        }
        (_, value) => (format!("Fn::{tag}"), value),
    };
    Ok(Value::Object(Map::from_iter([(name, value)])))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::parse;

    /// Promise: a template means the same in short and in long form.
    #[test]
    fn short_tags_become_long_forms() {
        for (yaml, expected) in [
            ("a: !Ref B", json!({"a": {"Ref": "B"}})),
            ("a: !Sub '${B}/c'", json!({"a": {"Fn::Sub": "${B}/c"}})),
            ("a: !Sub\n  - ${B}\n  - B: c", json!({"a": {"Fn::Sub": ["${B}", {"B": "c"}]}})),
            ("a: !GetAtt B.C.D", json!({"a": {"Fn::GetAtt": ["B", "C.D"]}})),
            ("a: !GetAtt [B, C]", json!({"a": {"Fn::GetAtt": ["B", "C"]}})),
            ("a: !Join [',', !Ref B]", json!({"a": {"Fn::Join": [",", {"Ref": "B"}]}})),
            ("a: !Not [!Condition C]", json!({"a": {"Fn::Not": [{"Condition": "C"}]}})),
            ("a: [1, 1.5, true, null, '1', x]", json!({"a": [1, 1.5, true, null, "1", "x"]})),
            ("a: &b {c: d}\ne: *b", json!({"a": {"c": "d"}, "e": {"c": "d"}})),
        ] {
            assert_eq!(parse(yaml).unwrap(), expected, "{yaml}");
        }
    }

    #[test]
    fn what_is_no_template_is_refused() {
        for (yaml, message) in [
            ("a: [", "not YAML"),
            ("", "found 0"),
            ("a: 1\n---\nb: 2", "found 2"),
            ("a: !GetAtt B", "no attribute"),
            ("a: .nan", "cannot stand in a template"),
            ("a: 1\na: 2", "not YAML"),
        ] {
            let error = parse(yaml).unwrap_err().to_string();
            assert!(error.contains(message), "{yaml}: {error}");
        }
    }
}
