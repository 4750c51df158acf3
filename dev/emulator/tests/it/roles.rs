//! Roles as AWS SDK clients use them: assumed with tags, and then held to what their policies say.

use std::collections::HashMap;
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_sdk_dynamodb::error::ProvideErrorMetadata as _;
use aws_sdk_dynamodb::types::{
    Get, KeysAndAttributes, Put, PutRequest, TransactGetItem, TransactWriteItem, WriteRequest,
};
use aws_sdk_eventbridge::types::PutEventsRequestEntry;
use aws_sdk_ssm::types::ParameterType;
use aws_sdk_sts::operation::assume_role::AssumeRoleOutput;
use aws_sdk_sts::types::Tag;
use emulator::{Emulator, Fault, Options, Role, RoleCredentials};
use serde_json::{Value, json};

use crate::clients::{Clients, Failure, Outcome, code, start, text};

pub(crate) const ACCOUNT: &str = "111122223333";
pub(crate) const TENANT_ROLE: &str = "arn:aws:iam::111122223333:role/tenant-data";

pub(crate) fn options() -> Options {
    Options { account: ACCOUNT.to_owned(), ..Options::default() }
}

/// Lambda and the roles of the account may assume it.
pub(crate) fn role(name: &str, trust: Value, statements: Value) -> Role {
    let document = |statements: Value| json!({ "Version": "2012-10-17", "Statement": statements });
    Role { name: name.to_owned(), trust: document(trust), policies: vec![document(statements)] }
}

/// A function's role that may assume the role of tenants' data, and that one.
pub(crate) fn add_roles(emulator: &Emulator) -> Outcome {
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

pub(crate) fn clients(emulator: &Emulator, credentials: RoleCredentials) -> Clients {
    let RoleCredentials { access_key_id, secret_access_key, session_token } = credentials;
    Clients::with(emulator.url(), Credentials::from_keys(access_key_id, secret_access_key, Some(session_token)))
}

pub(crate) fn tag(key: &str, value: &str) -> Result<Tag, Failure> {
    Ok(Tag::builder().key(key).value(value).build()?)
}

/// Clients of a function, as Lambda runs it.
pub(crate) fn function(emulator: &Emulator) -> Result<Clients, Failure> {
    let credentials = emulator.credentials_of("config-read").ok_or_else(|| Failure("no credentials".to_owned()))?;
    Ok(clients(emulator, credentials))
}

/// Clients that a function has for a tenant.
pub(crate) async fn tenant(emulator: &Emulator, tenant: &str) -> Result<Clients, Failure> {
    let assumed = function(emulator)?.sts.assume_role().role_arn(TENANT_ROLE).role_session_name("config-read");
    let assumed = assumed.tags(tag("TenantId", tenant)?).send().await?;
    Ok(clients(emulator, given(&assumed)?))
}

/// The credentials in an answer.
pub(crate) fn given(assumed: &AssumeRoleOutput) -> Result<RoleCredentials, Failure> {
    let given = assumed.credentials().ok_or_else(|| Failure("no credentials".to_owned()))?;
    Ok(RoleCredentials {
        access_key_id: given.access_key_id().to_owned(),
        secret_access_key: given.secret_access_key().to_owned(),
        session_token: given.session_token().to_owned(),
    })
}

/// Promise: a role assumed for a tenant reads and writes that tenant's items and no other's, by
/// whatever operation; a batch or transaction with one foreign item does nothing at all.
#[tokio::test]
async fn a_tenants_role_keeps_to_its_items() -> Outcome {
    let (emulator, admin) = start(options()).await;
    admin.table("config").await?;
    add_roles(&emulator)?;
    let acme = tenant(&emulator, "acme").await?;
    let (own, other) = ("TENANT#acme", "TENANT#globex");
    let denied = "AccessDeniedException";
    let dynamodb = &acme.dynamodb;
    let item = |pk: &str| HashMap::from([("pk".to_owned(), text(pk)), ("sk".to_owned(), text("1"))]);

    for (pk, expected) in [(own, "ok"), (other, denied), ("TENANT#", denied), ("TENANT#acme2", denied)] {
        assert_eq!(code(dynamodb.put_item().table_name("config").set_item(Some(item(pk))).send()).await, expected);
        assert_eq!(code(dynamodb.get_item().table_name("config").set_key(Some(item(pk))).send()).await, expected);
        assert_eq!(
            code(
                dynamodb
                    .query()
                    .table_name("config")
                    .key_condition_expression("pk = :p")
                    .expression_attribute_values(":p", text(pk))
                    .send()
            )
            .await,
            expected
        );
        assert_eq!(code(dynamodb.delete_item().table_name("config").set_key(Some(item(pk))).send()).await, expected);
    }
    for (others, expected) in [(vec![own], "ok"), (vec![own, other], denied), (vec![other], denied)] {
        let puts = others.iter().map(|pk| {
            let put = PutRequest::builder().set_item(Some(item(pk))).build()?;
            Ok(WriteRequest::builder().put_request(put).build())
        });
        let puts = puts.collect::<Result<Vec<_>, Failure>>()?;
        assert_eq!(code(dynamodb.batch_write_item().request_items("config", puts).send()).await, expected);
        let keys = KeysAndAttributes::builder().set_keys(Some(others.iter().map(|pk| item(pk)).collect())).build()?;
        assert_eq!(code(dynamodb.batch_get_item().request_items("config", keys).send()).await, expected);
        let gets = others.iter().map(|pk| {
            let get = Get::builder().table_name("config").set_key(Some(item(pk))).build()?;
            Ok(TransactGetItem::builder().get(get).build())
        });
        let gets = gets.collect::<Result<Vec<_>, Failure>>()?;
        assert_eq!(code(dynamodb.transact_get_items().set_transact_items(Some(gets)).send()).await, expected);
        let puts = others.iter().map(|pk| {
            let put = Put::builder().table_name("config").set_item(Some(item(pk))).build()?;
            Ok(TransactWriteItem::builder().put(put).build())
        });
        let puts = puts.collect::<Result<Vec<_>, Failure>>()?;
        assert_eq!(code(dynamodb.transact_write_items().set_transact_items(Some(puts)).send()).await, expected);
    }
    // What has no leading keys at all, and what the role's policy does not name.
    assert_eq!(code(dynamodb.scan().table_name("config").send()).await, denied);
    let statement = format!("SELECT * FROM config WHERE pk = '{own}'");
    assert_eq!(code(dynamodb.execute_statement().statement(statement).send()).await, denied);
    assert_eq!(code(dynamodb.update_item().table_name("config").set_key(Some(item(own))).send()).await, denied);
    assert_eq!(code(dynamodb.delete_table().table_name("config").send()).await, denied);
    assert_eq!(code(dynamodb.get_item().table_name("nowhere").set_key(Some(item(own))).send()).await, denied);

    let all = admin.dynamodb.scan().table_name("config").send().await?;
    assert_eq!(all.items(), [item(own)]);
    // A session without the tag has nothing to itself.
    let assumed = admin.sts.assume_role().role_arn(TENANT_ROLE).role_session_name("untagged").send().await?;
    let untagged = clients(&emulator, given(&assumed)?);
    for pk in [own, "TENANT#", "TENANT#${aws:PrincipalTag/TenantId}"] {
        let get = untagged.dynamodb.get_item().table_name("config").set_key(Some(item(pk)));
        assert_eq!(code(get.send()).await, denied, "{pk}");
    }
    Ok(())
}

/// Promise: a table that is made anew with other keys is judged by these at once.
#[tokio::test]
async fn keys_are_those_of_the_table_that_is_there() -> Outcome {
    let (emulator, admin) = start(options()).await;
    add_roles(&emulator)?;
    let acme = tenant(&emulator, "acme").await?;
    let get = |name: &str, pk: &str, sk: &str| {
        let get = acme.dynamodb.get_item().table_name(name.to_owned());
        code(get.key("pk", text(pk)).key("sk", text(sk)).send())
    };
    admin.table("config").await?;
    assert_eq!(get("config", "TENANT#acme", "TENANT#globex").await, "ok");
    admin.dynamodb.delete_table().table_name("config").send().await?;
    assert_eq!(get("config", "TENANT#acme", "TENANT#globex").await, "AccessDeniedException");
    admin.table_by("config", ["sk", "pk"]).await?;
    assert_eq!(get("config", "TENANT#acme", "TENANT#globex").await, "AccessDeniedException");
    assert_eq!(get("config", "TENANT#globex", "TENANT#acme").await, "ok");
    Ok(())
}

/// Promise: a role assumed for a tenant sees that tenant's parameters and no other's; several are
/// read together or not at all.
#[tokio::test]
async fn a_tenants_role_keeps_to_its_parameters() -> Outcome {
    let (emulator, admin) = start(options()).await;
    add_roles(&emulator)?;
    for tenant in ["acme", "globex"] {
        admin.put_parameter(&format!("/tenantry/{tenant}/a"), "v").await?;
    }
    let acme = tenant(&emulator, "acme").await?;
    let denied = "AccessDeniedException";
    let arn = |name: &str| format!("arn:aws:ssm:us-east-1:{ACCOUNT}:parameter{name}");
    for (name, expected) in [
        ("/tenantry/acme/a".to_owned(), "ok"),
        ("/tenantry/acme/a:1".to_owned(), "ok"),
        (arn("/tenantry/acme/a:1"), "ok"),
        ("/tenantry/globex/a".to_owned(), denied),
        (" /tenantry/globex/a".to_owned(), denied),
        ("/tenantry/globex/a:1".to_owned(), denied),
        (arn("/tenantry/globex/a"), denied),
        ("/tenantry/acme/../globex/a".to_owned(), "ParameterNotFound"),
    ] {
        assert_eq!(code(acme.ssm.get_parameter().name(&name).send()).await, expected, "{name}");
    }
    let some = |names: &[&str]| {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        code(acme.ssm.get_parameters().set_names(Some(names)).send())
    };
    assert_eq!(some(&["/tenantry/acme/a", "/tenantry/acme/b"]).await, "ok");
    assert_eq!(some(&["/tenantry/acme/a", "/tenantry/globex/a"]).await, denied);
    let by_path = |path: &str| code(acme.ssm.get_parameters_by_path().path(path).recursive(true).send());
    assert_eq!(by_path("/tenantry/acme/b").await, "ok");
    assert_eq!(by_path("/tenantry/globex/b").await, denied);
    assert_eq!(by_path("/tenantry").await, denied);
    assert_eq!(by_path("/").await, denied);
    assert_eq!(code(acme.ssm.describe_parameters().send()).await, denied);

    let error = acme.ssm.get_parameter().name("/tenantry/globex/a").send().await.expect_err("denied");
    assert_eq!(error.raw_response().map(|response| response.status().as_u16()), Some(400));
    let expected = format!(
        "User: arn:aws:sts::{ACCOUNT}:assumed-role/tenant-data/config-read is not authorized to perform: ssm:GetParameter on \
         resource: {} because no identity-based policy allows the ssm:GetParameter action",
        arn("/tenantry/globex/a")
    );
    assert_eq!(error.message(), Some(expected.as_str()));
    Ok(())
}

/// Promise: a secret under a key of the account's own takes that key as well, for its own parameter
/// alone; one under the key of Systems Manager does not.
#[tokio::test]
async fn secrets_take_their_key() -> Outcome {
    let (emulator, admin) = start(options()).await;
    let parameters = format!("arn:aws:ssm:us-east-1:{ACCOUNT}:parameter/s/*");
    let key = format!("arn:aws:kms:us-east-1:{ACCOUNT}:key/own");
    let lambda =
        json!({ "Effect": "Allow", "Principal": { "Service": "lambda.amazonaws.com" }, "Action": "sts:AssumeRole" });
    let only_ssm = json!({ "Effect": "Allow", "Action": "ssm:*", "Resource": parameters });
    let with_key = |pattern: &str| {
        json!([only_ssm, {
            "Effect": "Allow",
            "Action": ["kms:Decrypt", "kms:Encrypt"],
            "Resource": key,
            "Condition": {
                "StringEquals": { "kms:ViaService": "ssm.us-east-1.amazonaws.com" },
                "StringLike": { "kms:EncryptionContext:PARAMETER_ARN": pattern }
            }
        }])
    };
    emulator.add_role(role("without", lambda.clone(), only_ssm.clone()))?;
    emulator.add_role(role("with", lambda.clone(), with_key(&parameters)))?;
    emulator.add_role(role("other", lambda, with_key(&parameters.replace("/s/", "/s/b"))))?;
    let put = |clients: &Clients, name: &str, key: Option<&str>| {
        let put = clients.ssm.put_parameter().name(name).value("v").r#type(ParameterType::SecureString).overwrite(true);
        code(put.set_key_id(key.map(str::to_owned)).send())
    };
    let denied = "AccessDeniedException";
    put(&admin, "/s/managed", None).await;
    put(&admin, "/s/a", Some("own")).await;
    for (name, expected) in [("without", denied), ("with", "ok"), ("other", denied)] {
        let credentials = emulator.credentials_of(name).ok_or_else(|| Failure(name.to_owned()))?;
        let clients = clients(&emulator, credentials);
        let ssm = &clients.ssm;
        assert_eq!(put(&clients, "/s/a", Some("own")).await, expected, "{name}");
        assert_eq!(put(&clients, "/s/managed", Some("alias/aws/ssm")).await, "ok", "{name}");
        for (parameter, decrypted) in [("/s/a", expected), ("/s/a:1", expected), ("/s/managed", "ok")] {
            for (decryption, expected) in [(true, decrypted), (false, "ok")] {
                let get = ssm.get_parameter().name(parameter).with_decryption(decryption);
                assert_eq!(code(get.send()).await, expected, "{name} {parameter} {decryption}");
                let get = ssm.get_parameters().names("/s/managed").names(parameter).with_decryption(decryption);
                let found = code(get.send()).await;
                // A name twice is no error of IAM's.
                assert_eq!(found, expected, "{name} {parameter} {decryption}");
            }
        }
        let history = ssm.get_parameter_history().name("/s/a").with_decryption(true);
        assert_eq!(code(history.send()).await, expected, "{name}");
        let history = ssm.get_parameter_history().name("/s/managed").with_decryption(true);
        assert_eq!(code(history.send()).await, "ok", "{name}");
        let by_path = ssm.get_parameters_by_path().path("/s/x").with_decryption(true);
        assert_eq!(code(by_path.send()).await, "ok", "{name}");
    }
    // Under a path lies what is decrypted on the way.
    emulator.add_role(role(
        "without",
        json!({ "Effect": "Allow", "Principal": { "Service": "lambda.amazonaws.com" }, "Action": "sts:AssumeRole" }),
        json!({ "Effect": "Allow", "Action": "ssm:*", "Resource": "*" }),
    ))?;
    let credentials = emulator.credentials_of("without").ok_or_else(|| Failure("without".to_owned()))?;
    let clients = clients(&emulator, credentials);
    for path in ["/s", "/"] {
        for (decryption, expected) in [(true, denied), (false, "ok")] {
            let get = clients.ssm.get_parameters_by_path().path(path).recursive(true).with_decryption(decryption);
            assert_eq!(code(get.send()).await, expected, "{path} {decryption}");
        }
    }
    Ok(())
}

/// Promise: events are allowed by bus, source and kind, all of a call or none.
#[tokio::test]
async fn events_are_allowed_by_their_source() -> Outcome {
    let (emulator, _admin) = start(options()).await;
    emulator.add_role(role(
        "config-write",
        json!({ "Effect": "Allow", "Principal": { "Service": "lambda.amazonaws.com" }, "Action": "sts:AssumeRole" }),
        json!({
            "Effect": "Allow",
            "Action": "events:PutEvents",
            "Resource": format!("arn:aws:events:us-east-1:{ACCOUNT}:event-bus/default"),
            "Condition": { "StringEquals": { "events:source": "tenantry", "events:detail-type": "Config Changed" } }
        }),
    ))?;
    let credentials = emulator.credentials_of("config-write").ok_or_else(|| Failure("none".to_owned()))?;
    let clients = clients(&emulator, credentials);
    let entry = |source: &str, kind: &str| {
        PutEventsRequestEntry::builder().source(source).detail_type(kind).detail("{}").build()
    };
    let good = entry("tenantry", "Config Changed");
    for (entries, expected) in [
        (vec![good.clone()], "ok"),
        (vec![good.clone(), good.clone()], "ok"),
        (vec![good.clone(), entry("other", "Config Changed")], "AccessDeniedException"),
        (vec![entry("tenantry", "Other")], "AccessDeniedException"),
        (vec![PutEventsRequestEntry::builder().build()], "AccessDeniedException"),
    ] {
        assert_eq!(code(clients.events.put_events().set_entries(Some(entries)).send()).await, expected);
    }
    let used = emulator.permissions_used();
    assert_eq!(used, [("config-write".to_owned(), "events:PutEvents".to_owned())].into());
    Ok(())
}

/// Promise: a call that is not allowed is counted, takes no fault, and does nothing; allowed ones
/// suffer theirs.
#[tokio::test]
async fn faults_are_for_calls_that_are_allowed() -> Outcome {
    let (emulator, admin) = start(options()).await;
    admin.table("config").await?;
    add_roles(&emulator)?;
    let acme = tenant(&emulator, "acme").await?;
    let injected = emulator.faults().inject("GetItem", Fault::Throttle, 1);
    let before = emulator.calls().count("GetItem");
    let get = |pk: &str| {
        let get = acme.dynamodb.get_item().table_name("config").key("pk", text(pk)).key("sk", text("1"));
        code(get.send())
    };
    assert_eq!(get("TENANT#globex").await, "AccessDeniedException");
    assert_eq!((injected.hits(), emulator.calls().count("GetItem")), (0, before + 1));
    assert_eq!(get("TENANT#acme").await, "ProvisionedThroughputExceededException");
    assert_eq!(get("TENANT#acme").await, "ok");
    Ok(())
}

/// Promise: `AssumeRole` fails as AWS does, on demand; one whose reply is lost has begun a session
/// that nobody uses.
#[tokio::test]
async fn assuming_a_role_can_fail() -> Outcome {
    let (emulator, _admin) = start(options()).await;
    add_roles(&emulator)?;
    let function = function(&emulator)?;
    let assume = || async {
        let call = function.sts.assume_role().role_arn(TENANT_ROLE).role_session_name("config-read");
        let call = call.tags(tag("TenantId", "acme").expect("a tag"));
        match call.send().await {
            Ok(_) => ("ok".to_owned(), None),
            Err(error) => (
                error.code().unwrap_or("no answer").to_owned(),
                error.raw_response().map(|response| response.status().as_u16()),
            ),
        }
    };
    for (fault, expected) in [
        (Fault::Throttle, ("Throttling", Some(400))),
        (Fault::InternalError, ("InternalFailure", Some(500))),
        (Fault::Reset, ("no answer", None)),
        (Fault::ReplyLost, ("no answer", None)),
        (Fault::Delay(Duration::from_millis(1)), ("ok", None)),
    ] {
        let injected = emulator.faults().inject("AssumeRole", fault, 1);
        let (code, status) = assume().await;
        assert_eq!((code.as_str(), status), expected, "{fault:?}");
        assert_eq!(injected.hits(), 1, "{fault:?}");
        assert_eq!(assume().await.0, "ok");
    }
    let held = emulator.faults().hold("AssumeRole", 0);
    let (answer, ()) = tokio::join!(assume(), async {
        held.reached().await;
        held.release();
    });
    assert_eq!(answer.0, "ok");
    let never = emulator.faults().inject("AssumeRole", Fault::NoReply, 1);
    tokio::select! {
        answer = assume() => panic!("{answer:?}"),
        () = never.reached() => {}
    }
    Ok(())
}
