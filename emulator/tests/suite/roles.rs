//! Roles as AWS SDK clients use them: assumed with tags, and then held to what their policies say.

use aws_credential_types::Credentials;
use aws_sdk_sts::types::Tag;
use emulator::{Emulator, Options, Role, RoleCredentials};
use serde_json::{Value, json};

use crate::clients::{Clients, Failure, Outcome, code, start, text};

const ACCOUNT: &str = "111122223333";
const TENANT_ROLE: &str = "arn:aws:iam::111122223333:role/tenant-data";

fn options() -> Options {
    Options { account: ACCOUNT.to_owned(), ..Options::default() }
}

/// Lambda and the roles of the account may assume it.
fn role(name: &str, trust: Value, statements: Value) -> Role {
    let document = |statements: Value| json!({ "Version": "2012-10-17", "Statement": statements });
    Role { name: name.to_owned(), trust: document(trust), policies: vec![document(statements)] }
}

/// A function's role that may assume the role of tenants' data, and that one.
fn add_roles(emulator: &Emulator) -> Outcome {
    emulator.add_role(role(
        "config-read",
        json!({ "Effect": "Allow", "Principal": { "Service": "lambda.amazonaws.com" }, "Action": "sts:AssumeRole" }),
        json!({ "Effect": "Allow", "Action": ["sts:AssumeRole", "sts:TagSession"], "Resource": TENANT_ROLE }),
    ))?;
    emulator.add_role(role(
        "tenant-data",
        json!({
            "Effect": "Allow",
            "Principal": { "AWS": format!("arn:aws:iam::{ACCOUNT}:role/config-read") },
            "Action": ["sts:AssumeRole", "sts:TagSession"],
            "Condition": {
                "StringLike": { "aws:RequestTag/TenantId": "?*" },
                "ForAllValues:StringEquals": { "aws:TagKeys": "TenantId" }
            }
        }),
        json!([
            {
                "Effect": "Allow",
                "Action": [
                    "dynamodb:GetItem", "dynamodb:BatchGetItem", "dynamodb:Query", "dynamodb:Scan", "dynamodb:PutItem",
                    "dynamodb:DeleteItem", "dynamodb:BatchWriteItem", "dynamodb:PartiQLSelect"
                ],
                "Resource": format!("arn:aws:dynamodb:us-east-1:{ACCOUNT}:table/config*"),
                "Condition": {
                    "ForAllValues:StringEquals": { "dynamodb:LeadingKeys": "TENANT#${aws:PrincipalTag/TenantId}" },
                    "Null": { "dynamodb:LeadingKeys": "false" }
                }
            },
            {
                "Effect": "Allow",
                "Action": "ssm:*",
                "Resource": format!("arn:aws:ssm:us-east-1:{ACCOUNT}:parameter/tenantry/${{aws:PrincipalTag/TenantId}}/*")
            }
        ]),
    ))?;
    Ok(())
}

fn clients(emulator: &Emulator, credentials: RoleCredentials) -> Clients {
    let RoleCredentials { access_key_id, secret_access_key, session_token } = credentials;
    Clients::with(emulator.url(), Credentials::from_keys(access_key_id, secret_access_key, Some(session_token)))
}

fn tag(key: &str, value: &str) -> Result<Tag, Failure> {
    Ok(Tag::builder().key(key).value(value).build()?)
}

/// Clients of a function, as Lambda runs it.
fn function(emulator: &Emulator) -> Result<Clients, Failure> {
    let credentials = emulator.credentials_of("config-read").ok_or_else(|| Failure("no credentials".to_owned()))?;
    Ok(clients(emulator, credentials))
}

/// Clients that a function has for a tenant.
async fn tenant(emulator: &Emulator, tenant: &str) -> Result<Clients, Failure> {
    let assumed = function(emulator)?.sts.assume_role().role_arn(TENANT_ROLE).role_session_name("config-read");
    let assumed = assumed.tags(tag("TenantId", tenant)?).send().await?;
    let given = assumed.credentials().ok_or_else(|| Failure("no credentials".to_owned()))?;
    let credentials = RoleCredentials {
        access_key_id: given.access_key_id().to_owned(),
        secret_access_key: given.secret_access_key().to_owned(),
        session_token: given.session_token().to_owned(),
    };
    Ok(clients(emulator, credentials))
}

/// Promise: a role assumed for a tenant reads and writes that tenant's data and no other's.
#[tokio::test]
async fn a_tenants_role_meets_a_wall() -> Outcome {
    let (emulator, admin) = start(options()).await;
    admin.table("config").await?;
    add_roles(&emulator)?;
    let acme = tenant(&emulator, "acme").await?;
    let get = |pk: &str| acme.dynamodb.get_item().table_name("config").key("pk", text(pk)).key("sk", text("1")).send();
    assert_eq!(code(get("TENANT#acme")).await, "ok");
    assert_eq!(code(get("TENANT#globex")).await, "AccessDeniedException");
    let value = |name: &str| acme.ssm.get_parameter().name(name).send();
    assert_eq!(code(value("/tenantry/acme/a")).await, "ParameterNotFound");
    assert_eq!(code(value("/tenantry/globex/a")).await, "AccessDeniedException");
    Ok(())
}
