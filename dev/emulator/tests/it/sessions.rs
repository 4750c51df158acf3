//! `AssumeRole` and `GetCallerIdentity` by SDK and on the wire: answers, AWS's limits, and who may.

use aws_sdk_dynamodb::error::ProvideErrorMetadata as _;
use emulator::{Decision, Emulator, PolicyKind};
use serde_json::json;

use crate::clients::{Clients, Failure, Outcome, code, start};
use crate::roles::{ACCOUNT, TENANT_ROLE, add_roles, clients, function, given, options, role, tag, tenant};
use crate::wire::send;

/// Sends a form as SDKs write it, and reads the answer.
async fn form(emulator: &Emulator, fields: &[(&str, &str)]) -> Result<String, Failure> {
    let head = "POST / HTTP/1.1\r\nContent-Type: application/x-www-form-urlencoded\r\nAuthorization: AWS4-HMAC-SHA256 \
                Credential=local/20260101/us-east-1/sts/aws4_request, SignedHeaders=host, Signature=b";
    let encode = |text: &str| {
        let encode = |byte: u8| {
            if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") }
        };
        text.bytes().map(encode).collect::<String>()
    };
    let body: Vec<_> = fields.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
    Ok(send(emulator, head, body.join("&").as_bytes()).await?)
}

/// Promise: an assumed role has what SDKs read of it, its end among it, and says who it is.
#[tokio::test]
async fn an_assumed_role_is_answered_as_aws_does() -> Outcome {
    let (emulator, admin) = start(options()).await;
    add_roles(&emulator)?;
    let assumed = admin.sts.assume_role().role_arn(TENANT_ROLE).role_session_name("config-read@1");
    let assumed = assumed.tags(tag("TenantId", "a c/m:e")?).duration_seconds(43_200).send().await?;
    let session = format!("arn:aws:sts::{ACCOUNT}:assumed-role/tenant-data/config-read@1");
    let user = assumed.assumed_role_user().ok_or_else(|| Failure("no user".to_owned()))?;
    assert_eq!(user.arn(), session);
    assert!(user.assumed_role_id().starts_with("AROA") && user.assumed_role_id().ends_with(":config-read@1"));
    let who = clients(&emulator, given(&assumed)?).sts.get_caller_identity().send().await?;
    assert_eq!((who.arn(), who.account()), (Some(session.as_str()), Some(ACCOUNT)));
    assert_eq!(who.user_id(), Some(user.assumed_role_id()));
    let who = function(&emulator)?.sts.get_caller_identity().send().await?;
    assert_eq!(who.arn(), Some(format!("arn:aws:sts::{ACCOUNT}:assumed-role/config-read/config-read").as_str()));
    let who = admin.sts.get_caller_identity().send().await?;
    assert_eq!(who.arn(), Some(format!("arn:aws:iam::{ACCOUNT}:user/local").as_str()));

    // SDKs call it deprecated; others read it.
    let plain = [("Action", "AssumeRole"), ("RoleArn", TENANT_ROLE), ("RoleSessionName", "ab")];
    let tagged = [plain.as_slice(), &[("Tags.member.1.Key", "k"), ("Tags.member.1.Value", "v")]].concat();
    for (fields, expected) in [(plain.as_slice(), false), (&tagged, true)] {
        let answer = form(&emulator, fields).await?;
        assert_eq!(answer.contains("<PackedPolicySize>1</PackedPolicySize>"), expected, "{answer}");
    }
    Ok(())
}

/// Promise: requests beyond the limits of "`AssumeRole`" in the STS API reference are refused with
/// AWS's codes; those at them are not.
#[tokio::test]
async fn limits_are_those_of_aws() -> Outcome {
    let (emulator, _admin) = start(options()).await;
    add_roles(&emulator)?;
    let policy = |bytes: usize| {
        let policy = r#"{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"*","Resource":"*"}}"#;
        format!("{policy:bytes$}")
    };
    let tags = |count: usize| {
        (1..=count).map(|number| (format!("Tags.member.{number}"), format!("k{number}"), "v".to_owned()))
    };
    let tag = |key: &str, value: &str| vec![("Tags.member.1".to_owned(), key.to_owned(), value.to_owned())];
    let two = |first: &str, second: &str| {
        [tag(first, "1"), vec![("Tags.member.2".to_owned(), second.to_owned(), "2".to_owned())]].concat()
    };
    let long = |letters: usize| "ä".repeat(letters);
    let (ok, validation, malformed) = ("AssumeRoleResult", "ValidationError", "MalformedPolicyDocument");
    for (fields, tags, expected) in [
        (vec![], vec![], ok),
        (vec![("RoleSessionName", "a")], vec![], validation),
        (vec![("RoleSessionName", &*"a".repeat(64))], vec![], ok),
        (vec![("RoleSessionName", &*"a".repeat(65))], vec![], validation),
        (vec![("RoleSessionName", "_+=,.@-")], vec![], ok),
        (vec![("RoleSessionName", "a b")], vec![], validation),
        (vec![("RoleSessionName", "äb")], vec![], validation),
        (vec![("RoleArn", "tenant-data")], vec![], validation),
        (vec![("RoleArn", "arn:aws:iam::111122223333:role/nobody")], vec![], "AccessDenied"),
        (vec![("RoleArn", "arn:aws:iam::999999999999:role/tenant-data")], vec![], "AccessDenied"),
        (vec![("DurationSeconds", "899")], vec![], validation),
        (vec![("DurationSeconds", "900")], vec![], ok),
        (vec![("DurationSeconds", "43201")], vec![], validation),
        (vec![("DurationSeconds", "x")], vec![], validation),
        (vec![("Policy", &*policy(2_048))], vec![], ok),
        (vec![("Policy", &*policy(2_049))], vec![], validation),
        (vec![("Policy", "")], vec![], validation),
        (vec![("Policy", "{")], vec![], malformed),
        (vec![("Policy", "{}")], vec![], malformed),
        (vec![("Policy", &*policy(0).replace("Resource", "Resources"))], vec![], malformed),
        (vec![("TransitiveTagKeys.member.1", "k")], tag("k", "v"), validation),
        (vec![("PolicyArns.member.1.arn", "arn:aws:iam::aws:policy/ReadOnlyAccess")], vec![], validation),
        (vec![("SourceIdentity", "me")], vec![], validation),
        (vec![("SerialNumber", "x")], vec![], validation),
        (vec![("Tags.member.1.Key", "k")], vec![], validation),
        (vec![("Tags.member.1.Value", "v")], vec![], validation),
        (vec![("Tags.member.x.Key", "v")], vec![], validation),
        (vec![("ExternalId", "x")], vec![], ok),
        (vec![("Tags", "")], vec![], ok),
        (vec![], tags(50).collect(), ok),
        (vec![], tags(51).collect(), validation),
        (vec![], tag(&long(128), &long(256)), ok),
        (vec![], tag(&long(129), "v"), validation),
        (vec![], tag("k", &long(257)), validation),
        (vec![], tag("", "v"), validation),
        (vec![], tag("k", ""), ok),
        (vec![], tag("k", "Ünï 1²\u{a0}_.:/=+-@"), ok),
        (vec![], tag("k", "*"), validation),
        (vec![], tag("k", "a#b"), validation),
        (vec![], tag("k", "${x}"), validation),
        (vec![], tag("k", "a\nb"), validation),
        (vec![], tag("k", "a,b"), validation),
        (vec![], tag("a*", "v"), validation),
        (vec![], tag("aws:k", "v"), validation),
        (vec![], two("TenantId", "tenant"), ok),
        (vec![], two("TenantId", "tenantid"), "InvalidParameterValue"),
        (vec![], two("Ä", "ä"), "InvalidParameterValue"),
    ] {
        let given = |name: &str| fields.iter().any(|(field, _)| *field == name);
        let mut all =
            vec![("Action".to_owned(), "AssumeRole".to_owned()), ("Version".to_owned(), "2011-06-15".to_owned())];
        for (name, value) in [("RoleArn", TENANT_ROLE), ("RoleSessionName", "ab")] {
            if !given(name) {
                all.push((name.to_owned(), value.to_owned()));
            }
        }
        all.extend(fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        for (member, key, value) in &tags {
            all.push((format!("{member}.Key"), key.clone()));
            all.push((format!("{member}.Value"), value.clone()));
        }
        let all: Vec<_> = all.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let answer = form(&emulator, &all).await?;
        let status = match expected {
            _ if expected == ok => "HTTP/1.1 200",
            "AccessDenied" => "HTTP/1.1 403",
            _ => "HTTP/1.1 400",
        };
        assert!(answer.starts_with(status), "{fields:?} {tags:?}: {answer}");
        let wanted = if expected == ok { "<AssumeRoleResult>".to_owned() } else { format!("<Code>{expected}</Code>") };
        assert!(answer.contains(&wanted), "{fields:?} {tags:?}: {answer}");
    }
    for missing in ["RoleArn", "RoleSessionName"] {
        let fields = [("Action", "AssumeRole"), ("RoleArn", TENANT_ROLE), ("RoleSessionName", "ab")];
        let rest: Vec<_> = fields.into_iter().filter(|(name, _)| *name != missing).collect();
        let answer = form(&emulator, &rest).await?;
        assert!(answer.contains("<Code>ValidationError</Code>"), "{missing}: {answer}");
    }
    Ok(())
}

/// Promise: a role gets another role only if both sides say so, and for an hour at most; a refusal
/// is AWS's, in XML, with 403.
#[tokio::test]
async fn roles_are_assumed_by_those_who_may() -> Outcome {
    let (emulator, admin) = start(options()).await;
    add_roles(&emulator)?;
    let function = function(&emulator)?;
    let assume = |clients: &Clients| clients.sts.assume_role().role_arn(TENANT_ROLE).role_session_name("ab");
    let tagged = |clients: &Clients| Ok::<_, Failure>(assume(clients).tags(tag("TenantId", "acme")?));
    assert_eq!(code(tagged(&function)?.send()).await, "ok");
    assert_eq!(code(tagged(&function)?.duration_seconds(3_600).send()).await, "ok");
    assert_eq!(code(tagged(&function)?.duration_seconds(3_601).send()).await, "ValidationError");
    // The trust policy wants the tenant's tag, and no other.
    assert_eq!(code(assume(&function).send()).await, "AccessDenied");
    assert_eq!(code(tagged(&function)?.tags(tag("Other", "x")?).send()).await, "AccessDenied");
    // It trusts the function's role, and not itself.
    let acme = tenant(&emulator, "acme").await?;
    let error = tagged(&acme)?.send().await.expect_err("denied");
    assert_eq!(error.raw_response().map(|response| response.status().as_u16()), Some(403));
    let expected = format!(
        "User: arn:aws:sts::{ACCOUNT}:assumed-role/tenant-data/config-read is not authorized to perform: sts:AssumeRole on \
         resource: {TENANT_ROLE} because no identity-based policy allows the sts:AssumeRole action"
    );
    assert_eq!((error.code(), error.message()), (Some("AccessDenied"), Some(expected.as_str())));
    // Nobody else's tags are passed on: the administrator may do it without any.
    assert_eq!(code(assume(&admin).send()).await, "ok");
    let used: Vec<_> = emulator.permissions_used().into_iter().collect();
    let expected = ["sts:AssumeRole", "sts:TagSession"].map(|action| ("config-read".to_owned(), action.to_owned()));
    assert_eq!(used, expected);
    Ok(())
}

/// Promise: a session policy narrows a session to less than its role, in every service.
#[tokio::test]
async fn a_session_policy_narrows_the_role() -> Outcome {
    let (emulator, admin) = start(options()).await;
    add_roles(&emulator)?;
    let parameter = |name: &str| format!("arn:aws:ssm:us-east-1:{ACCOUNT}:parameter/tenantry/{name}");
    let policy = json!({ "Version": "2012-10-17", "Statement": [
        { "Effect": "Allow", "Action": "ssm:Get*", "Resource": parameter("*") },
        { "Effect": "Deny", "Action": "ssm:*", "Resource": parameter("${aws:PrincipalTag/TenantId}/secret") }
    ] });
    let assumed = admin.sts.assume_role().role_arn(TENANT_ROLE).role_session_name("ab");
    let assumed = assumed.tags(tag("TenantId", "acme")?).policy(policy.to_string()).send().await?;
    let clients = clients(&emulator, given(&assumed)?);
    let get = |name: &str| code(clients.ssm.get_parameter().name(format!("/tenantry/{name}")).send());
    assert_eq!(get("acme/a").await, "ParameterNotFound");
    assert_eq!(get("acme/secret").await, "AccessDeniedException");
    assert_eq!(get("globex/a").await, "AccessDeniedException");
    assert_eq!(code(clients.ssm.delete_parameter().name("/tenantry/acme/a").send()).await, "AccessDeniedException");
    Ok(())
}

/// Promise: policies can be asked without a call, and a role that is replaced counts from then on.
#[tokio::test]
async fn policies_can_be_asked() -> Outcome {
    let (emulator, _admin) = start(options()).await;
    add_roles(&emulator)?;
    let parameter = format!("arn:aws:ssm:us-east-1:{ACCOUNT}:parameter/tenantry/acme/a");
    let acme: &[(&str, &[&str])] = &[("aws:PrincipalTag/TenantId", &["acme"])];
    let decide = |context| emulator.decide("tenant-data", "ssm:GetParameter", &parameter, context);
    assert_eq!(decide(acme), Some(Decision::Allowed));
    assert_eq!(decide(&[]), Some(Decision::NotAllowed(PolicyKind::Identity)));
    assert_eq!(emulator.decide("nobody", "ssm:GetParameter", &parameter, acme), None);
    let session = tenant(&emulator, "acme").await?;
    let get = || code(session.ssm.get_parameter().name("/tenantry/acme/a").send());
    assert_eq!(get().await, "ParameterNotFound");
    emulator.add_role(role(
        "tenant-data",
        json!({ "Effect": "Deny", "Principal": "*", "Action": "sts:AssumeRole" }),
        json!({ "Effect": "Deny", "Action": "*", "Resource": "*" }),
    ))?;
    assert_eq!(decide(acme), Some(Decision::Denied(PolicyKind::Identity)));
    assert_eq!(get().await, "AccessDeniedException");
    Ok(())
}
