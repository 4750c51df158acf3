//! Parameter Store, and KMS on its way.

use serde_json::{Value, json};

use super::{check, expect};
use crate::Service;
use crate::parameter_store::Encrypted;
use crate::permission::Stored;

fn arn(name: &str) -> String {
    format!("arn:aws:ssm:eu-central-1:1:parameter/{name}")
}

/// Promise: a call needs the parameters that it names, whatever the spelling, and those alone
/// ("Actions, resources, and condition keys for AWS Systems Manager").
#[test]
fn parameters_are_needed_by_their_arn() {
    let one = |action: &str, name: &str| vec![expect(action, &arn(name), &[])];
    for (operation, body, expected) in [
        ("GetParameter", json!({ "Name": "/a/b" }), one("ssm:GetParameter", "a/b")),
        ("GetParameter", json!({ "Name": "a" }), one("ssm:GetParameter", "a")),
        ("GetParameter", json!({ "Name": " /a/b " }), one("ssm:GetParameter", "a/b")),
        ("GetParameter", json!({ "Name": "/a/b:3" }), one("ssm:GetParameter", "a/b")),
        ("GetParameter", json!({ "Name": "/a/b:label" }), one("ssm:GetParameter", "a/b")),
        ("GetParameter", json!({ "Name": arn("a/b:3") }), one("ssm:GetParameter", "a/b")),
        ("GetParameterHistory", json!({ "Name": "/a" }), one("ssm:GetParameterHistory", "a")),
        ("DeleteParameter", json!({ "Name": "/a" }), one("ssm:DeleteParameter", "a")),
        ("LabelParameterVersion", json!({ "Name": "/a" }), one("ssm:LabelParameterVersion", "a")),
        (
            "GetParameter",
            json!({ "Name": "arn:aws:ssm:eu-central-1:2:parameter/a" }),
            vec![expect("ssm:GetParameter", "arn:aws:ssm:eu-central-1:2:parameter/a", &[])],
        ),
        (
            "GetParameters",
            json!({ "Names": ["/a/b:3", "c"] }),
            vec![expect("ssm:GetParameters", &arn("a/b"), &[]), expect("ssm:GetParameters", &arn("c"), &[])],
        ),
        // The member that the service reads counts, and no other.
        (
            "GetParameters",
            json!({ "Name": "/mine", "Path": "/mine", "Names": ["/others"] }),
            one("ssm:GetParameters", "others"),
        ),
        ("GetParameter", json!({ "Path": "/mine", "Name": "/others" }), one("ssm:GetParameter", "others")),
        ("DeleteParameters", json!({ "Name": "/mine", "Names": ["/others"] }), one("ssm:DeleteParameters", "others")),
        (
            "GetParametersByPath",
            json!({ "Name": "/mine", "Path": "/others" }),
            one("ssm:GetParametersByPath", "others"),
        ),
        ("GetParametersByPath", json!({ "Path": "/a/b", "Recursive": true }), one("ssm:GetParametersByPath", "a/b")),
        ("GetParametersByPath", json!({ "Path": "/" }), one("ssm:GetParametersByPath", "")),
        ("DescribeParameters", json!({ "Name": "/a" }), vec![expect("ssm:DescribeParameters", "*", &[])]),
        ("GetParameter", json!({ "Path": "/mine" }), vec![expect("ssm:GetParameter", "*", &[])]),
        ("Unknown", json!({}), vec![expect("ssm:Unknown", "*", &[])]),
        (
            "AddTagsToResource",
            json!({ "ResourceType": "Parameter", "ResourceId": "/a", "Name": "/mine", "Tags": [{ "Key": "k", "Value": "v" }] }),
            vec![expect("ssm:AddTagsToResource", &arn("a"), &[("aws:RequestTag/k", &["v"]), ("aws:TagKeys", &["k"])])],
        ),
        (
            "PutParameter",
            json!({ "Name": "/a", "Tags": [{ "Key": "k", "Value": "v" }] }),
            ["ssm:PutParameter", "ssm:AddTagsToResource"]
                .map(|action| expect(action, &arn("a"), &[("aws:RequestTag/k", &["v"]), ("aws:TagKeys", &["k"])]))
                .to_vec(),
        ),
    ] {
        check(Service::ParameterStore, operation, &body, &Stored::default(), &expected);
    }
}

/// Promise: a value is encrypted and decrypted in the caller's name, with the parameter as
/// encryption context, unless the key is that of Systems Manager itself ("AWS KMS encryption for
/// Parameter Store `SecureString` parameters").
#[test]
fn keys_of_ones_own_are_needed() {
    let key = |action: &str, key: &str| {
        expect(
            action,
            &format!("arn:aws:kms:eu-central-1:1:{key}"),
            &[
                ("kms:ViaService", &["ssm.eu-central-1.amazonaws.com"]),
                ("kms:CallerAccount", &["1"]),
                ("kms:EncryptionContext:PARAMETER_ARN", &["arn:aws:ssm:eu-central-1:1:parameter/a"]),
                ("kms:EncryptionContextKeys", &["PARAMETER_ARN"]),
            ],
        )
    };
    let own = |id: &str| json!({ "Name": "/a", "Type": "SecureString", "Value": "v", "KeyId": id });
    let with = |name: &str, value: Value| {
        let mut body = own("k");
        body[name] = value;
        body
    };
    let put = expect("ssm:PutParameter", &arn("a"), &[]);
    for (body, expected) in [
        (own("k"), Some(key("kms:Encrypt", "key/k"))),
        (own("alias/b"), Some(key("kms:Encrypt", "alias/b"))),
        (own("arn:aws:kms:eu-central-1:1:key/k"), Some(key("kms:Encrypt", "key/k"))),
        (with("Tier", json!("Advanced")), Some(key("kms:GenerateDataKey", "key/k"))),
        (with("Value", json!("v".repeat(4_097))), Some(key("kms:GenerateDataKey", "key/k"))),
        (with("Value", json!("v".repeat(4_096))), Some(key("kms:Encrypt", "key/k"))),
        // The type is known from the version before.
        (with("Type", json!(null)), Some(key("kms:Encrypt", "key/k"))),
        (own("alias/aws/ssm"), None),
        (own("arn:aws:kms:eu-central-1:1:alias/aws/ssm"), None),
        (with("KeyId", json!(null)), None),
    ] {
        let expected: Vec<_> = [put.clone()].into_iter().chain(expected).collect();
        check(Service::ParameterStore, "PutParameter", &body, &Stored::default(), &expected);
    }
    let one = Encrypted { parameter: arn("a"), key: "k".to_owned() };
    let stored = Stored { encrypted: vec![one.clone(), one], ..Stored::default() };
    let expected = [expect("ssm:GetParameter", &arn("a"), &[]), key("kms:Decrypt", "key/k")];
    check(Service::ParameterStore, "GetParameter", &json!({ "Name": "/a" }), &stored, &expected);
}
