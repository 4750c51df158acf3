//! What somebody does to Parameter Store past the suite, and the event that tells of it.

use aws_sdk_ssm::types::ParameterType;
use local::suite::{ACCOUNT, REGION};
use serde_json::{Value, json};

use crate::harness::Api;

/// How a tag's parameters are typed.
pub(crate) fn kind_of(tag: &str) -> ParameterType {
    if tag == "secret_config_" { ParameterType::SecureString } else { ParameterType::String }
}

/// Overwrites a parameter, or makes it.
pub(crate) async fn edit(api: &Api, name: &str, value: &str, kind: ParameterType) {
    let put = api.parameter_store().put_parameter().name(name).value(value).r#type(kind).overwrite(true);
    put.send().await.expect("Parameter Store takes it");
}

/// Removes a parameter.
pub(crate) async fn remove(api: &Api, name: &str) {
    api.parameter_store().delete_parameter().name(name).send().await.expect("it was there");
}

/// The event that tells of a parameter.
pub(crate) fn told_of(name: &str) -> Value {
    let mut event: Value =
        serde_json::from_str(include_str!("../../../../events/parameter-updated.json")).expect("JSON");
    event["account"] = json!(ACCOUNT);
    event["region"] = json!(REGION);
    event["detail"]["name"] = json!(name);
    event["resources"] = json!([format!("arn:aws:ssm:{REGION}:{ACCOUNT}:parameter{name}")]);
    event
}
