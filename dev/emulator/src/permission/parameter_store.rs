//! What calls of Parameter Store need, and what they need of KMS on the way.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::account::Account;
use crate::iam::Need;
use crate::parameter_store::{self, Encrypted, is_own_key};

/// Bytes from which on a value makes a parameter advanced ("Managing parameter tiers" in the
/// Systems Manager user guide).
const MAX_STANDARD_VALUE: usize = 4 * 1024;

/// Which member names the parameter depends on the operation alone: what else is in a request is
/// not looked at by the service.
pub(super) fn needs(account: &Account, operation: &str, body: &Value, encrypted: &[Encrypted]) -> Vec<Need> {
    let action = format!("ssm:{operation}");
    let parameter = |name: &str| parameter_store::resource(account, name);
    let one = |member: &str| body[member].as_str().map_or_else(|| "*".to_owned(), parameter);
    let mut needs = match operation {
        "GetParameters" | "DeleteParameters" => {
            let names = body["Names"].as_array().into_iter().flatten().filter_map(Value::as_str);
            names.map(|name| Need::new(action.as_str(), parameter(name))).collect()
        }
        // What lies under the path needs nothing more.
        "GetParametersByPath" => {
            let path = body["Path"].as_str().unwrap_or_default();
            let resource = format!("parameter/{}", path.strip_prefix('/').unwrap_or(path));
            vec![Need::new(action, account.arn("ssm", &resource))]
        }
        "AddTagsToResource" | "RemoveTagsFromResource" | "ListTagsForResource" => {
            vec![with_tags(Need::new(action, one("ResourceId")), &body["Tags"])]
        }
        "PutParameter" => {
            let mut needs = vec![with_tags(Need::new(action, one("Name")), &body["Tags"])];
            if body["Tags"].as_array().is_some_and(|tags| !tags.is_empty()) {
                needs.push(with_tags(Need::new("ssm:AddTagsToResource", one("Name")), &body["Tags"]));
            }
            needs.extend(encryption(account, body, &one("Name")));
            needs
        }
        "DescribeParameters" => vec![Need::new(action, "*")],
        _ => vec![Need::new(action, one("Name"))],
    };
    let keys: BTreeSet<_> = encrypted.iter().map(|one| (&one.parameter, &one.key)).collect();
    needs.extend(keys.into_iter().map(|(parameter, key)| kms(account, "kms:Decrypt", key, parameter)));
    needs
}

/// A key in the request encrypts the value. An advanced parameter's value is too long for the key
/// itself ("AWS KMS encryption for Parameter Store SecureString parameters").
fn encryption(account: &Account, body: &Value, parameter: &str) -> Option<Need> {
    let key = body["KeyId"].as_str().filter(|key| is_own_key(key))?;
    let is_long = body["Value"].as_str().is_some_and(|value| value.len() > MAX_STANDARD_VALUE);
    let action = if is_long || body["Tier"] == "Advanced" { "kms:GenerateDataKey" } else { "kms:Encrypt" };
    Some(kms(account, action, key, parameter))
}

/// What Systems Manager asks of KMS in the caller's name.
fn kms(account: &Account, action: &str, key: &str, parameter: &str) -> Need {
    let key = match key {
        arn if arn.starts_with("arn:") => arn.to_owned(),
        alias if alias.starts_with("alias/") => account.arn("kms", alias),
        id => account.arn("kms", &format!("key/{id}")),
    };
    Need::new(action, key)
        .with("kms:ViaService", Some(&format!("ssm.{}.amazonaws.com", account.region)))
        .with("kms:CallerAccount", Some(&account.id))
        .with("kms:EncryptionContext:PARAMETER_ARN", Some(parameter))
        .with("kms:EncryptionContextKeys", Some("PARAMETER_ARN"))
}

fn with_tags(mut need: Need, tags: &Value) -> Need {
    let tags = tags.as_array().into_iter().flatten();
    let tags: Vec<_> = tags.filter_map(|tag| Some((tag["Key"].as_str()?, tag["Value"].as_str()?))).collect();
    for (key, value) in &tags {
        need.context.set(&format!("aws:RequestTag/{key}"), *value);
    }
    need.with_all("aws:TagKeys", tags.iter().map(|(key, _)| (*key).to_owned()))
}
