//! What the template says of the HTTP API as a whole, beside its routes and authorizers.

use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// Which pages of other origins may call an API from a browser, and how: `CorsConfiguration`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields, default)]
pub struct Cors {
    /// Origins, or `*`, `https://*` or `http://*`.
    pub allow_origins: Vec<String>,
    /// Methods that they may use.
    pub allow_methods: Vec<String>,
    /// Headers that they may send.
    pub allow_headers: Vec<String>,
    /// Headers that they may read.
    pub expose_headers: Vec<String>,
    /// How long a browser may believe a preflight's answer, in seconds.
    #[serde(deserialize_with = "seconds")]
    pub max_age: Option<u64>,
    /// Whether they may send cookies.
    pub allow_credentials: bool,
}

/// A number, which is a text where it comes from a parameter.
fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let value = Option::<Value>::deserialize(deserializer)?;
    let number = value.as_ref().map(|value| value.as_u64().or_else(|| value.as_str()?.parse().ok()));
    number.map(|number| number.ok_or_else(|| serde::de::Error::custom("MaxAge is a number of seconds"))).transpose()
}

/// The API's properties that local runs carry out.
const CARRIED_OUT: [&str; 2] = ["Auth", "CorsConfiguration"];
/// Those that change no answer here: logs, names, what is checked when it is deployed, and
/// throttles that are far above what one machine does. A parameter that turns one of them is named
/// by itself.
const WITHOUT_EFFECT: [&str; 7] =
    ["AccessLogSettings", "DefaultRouteSettings", "Description", "FailOnWarnings", "Name", "PropagateTags", "Tags"];

/// The properties of the API `name` that would change its answers, and do not here.
pub(super) fn not_honoured(name: &str, properties: &Value) -> Vec<String> {
    let is_honoured = |property: &str, value: &Value| {
        CARRIED_OUT.contains(&property)
            || WITHOUT_EFFECT.contains(&property)
            || (property == "StageName" && value == "$default")
    };
    let members = properties.as_object().into_iter().flatten();
    let others = members.filter(|(property, value)| !is_honoured(property, value));
    others.map(|(property, _)| format!("{name}.{property} of template.yaml is not honoured here")).collect()
}
