//! What policies together come to ("Policy evaluation logic" in the IAM user guide).

use serde_json::{Value, json};
use time::Duration;

use super::super::{Assumption, Caller, Decision, Iam, PolicyKind, SessionPolicy};
use super::{ACCOUNT, context, document, need, open_trust, role, with_roles};

const TABLE: &str = "arn:aws:dynamodb:eu-central-1:111122223333:table/t";

fn allow(action: &str, resource: &str) -> Value {
    json!({ "Effect": "Allow", "Action": action, "Resource": resource })
}

fn deny(action: &str, resource: &str) -> Value {
    json!({ "Effect": "Deny", "Action": action, "Resource": resource })
}

/// Begins a session and says what it may do.
fn decide(iam: &Iam, tags: &[(&str, &str)], policy: Option<&Value>, action: &str, resource: &str) -> Decision {
    let assumption = Assumption {
        session_name: "session".to_owned(),
        tags: tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        policy: policy.map(|policy| SessionPolicy::parse(&policy.to_string()).expect("a policy")),
        lasts: Duration::hours(1),
    };
    let assumed = iam.assume("r", assumption).expect("the role");
    let Ok(Caller::Role(session)) = super::sessions::caller(iam, &assumed.credentials) else {
        panic!("the session is not known")
    };
    iam.decide(&session, action, resource, &context(&[]))
}

/// Promise: a statement that denies wins wherever it stands; without one, the role's policies must
/// allow, and the session's policy too, if there is one. Nothing is allowed by saying nothing.
#[test]
fn a_deny_wins_and_silence_allows_nothing() {
    use Decision::{Allowed, Denied, NotAllowed};
    use PolicyKind::{Identity, Session};
    let get = "dynamodb:GetItem";
    let any = allow("*", "*");
    for (policies, session, expected) in [
        (vec![], None, NotAllowed(Identity)),
        (vec![any.clone()], None, Allowed),
        (vec![allow(get, TABLE)], None, Allowed),
        (vec![allow("DYNAMODB:getitem", TABLE)], None, Allowed),
        (vec![allow("dynamodb:Get*", TABLE)], None, Allowed),
        (vec![allow("dynamodb:?etItem", TABLE)], None, Allowed),
        (vec![allow("dynamodb:Put*", TABLE)], None, NotAllowed(Identity)),
        (vec![allow(get, &TABLE.to_uppercase().replace("ARN:AWS", "arn:aws"))], None, NotAllowed(Identity)),
        (vec![allow(get, &format!("{TABLE}2"))], None, NotAllowed(Identity)),
        (vec![allow(get, &format!("{TABLE}/index/*"))], None, NotAllowed(Identity)),
        (vec![any.clone(), deny(get, "*")], None, Denied(Identity)),
        (vec![deny(get, "*"), any.clone()], None, Denied(Identity)),
        (vec![any.clone(), deny("dynamodb:PutItem", "*")], None, Allowed),
        (vec![any.clone()], Some(allow(get, TABLE)), Allowed),
        (vec![any.clone()], Some(allow("dynamodb:PutItem", "*")), NotAllowed(Session)),
        (vec![any.clone()], Some(deny(get, "*")), Denied(Session)),
        (vec![allow(get, TABLE)], Some(any.clone()), Allowed),
        // A session's policy gives nothing that the role does not have.
        (vec![], Some(any.clone()), NotAllowed(Identity)),
        (vec![deny(get, "*")], Some(any.clone()), Denied(Identity)),
        (vec![], Some(deny(get, "*")), Denied(Session)),
        // What is not named.
        (vec![json!({ "Effect": "Allow", "NotAction": "dynamodb:Put*", "Resource": "*" })], None, Allowed),
        (vec![json!({ "Effect": "Allow", "NotAction": "dynamodb:Get*", "Resource": "*" })], None, NotAllowed(Identity)),
        (vec![any.clone(), json!({ "Effect": "Deny", "NotAction": "ssm:*", "Resource": "*" })], None, Denied(Identity)),
        (vec![json!({ "Effect": "Allow", "Action": "*", "NotResource": format!("{TABLE}2") })], None, Allowed),
        (vec![json!({ "Effect": "Allow", "Action": "*", "NotResource": TABLE })], None, NotAllowed(Identity)),
        (vec![any.clone(), json!({ "Effect": "Deny", "Action": "*", "NotResource": TABLE })], None, Allowed),
    ] {
        // In one document and in one each, it comes to the same.
        let together = if policies.is_empty() { vec![] } else { vec![document(&json!(policies))] };
        let apart: Vec<_> = policies.iter().map(document).collect();
        for documents in [together, apart] {
            let iam = with_roles([role("r", open_trust(), documents)]);
            let session = session.as_ref().map(document);
            let found = decide(&iam, &[], session.as_ref(), get, TABLE);
            assert_eq!(found, expected, "{policies:?} {session:?}");
        }
    }
}

/// Promise: session tags stand in for policy variables, in resources, in conditions, in the
/// session's own policy; a session without the tag gets nothing.
#[test]
fn session_tags_hold_a_tenant_to_its_own() {
    let parameters = |tenant: &str| format!("arn:aws:ssm:eu-central-1:{ACCOUNT}:parameter/tenantry/{tenant}/key");
    let own = allow("ssm:GetParameter", &parameters("${aws:PrincipalTag/TenantId}"));
    let any = document(&allow("*", "*"));
    let not_own =
        json!({ "Effect": "Allow", "Action": "*", "NotResource": parameters("${aws:PrincipalTag/TenantId}") });
    let deny_others =
        json!({ "Effect": "Deny", "Action": "*", "NotResource": parameters("${aws:PrincipalTag/TenantId}") });
    for (policies, session, tags, resource, expected) in [
        (json!([own]), None, vec![("TenantId", "acme")], "acme", true),
        (json!([own]), None, vec![("tenantid", "acme")], "acme", true),
        (json!([own]), None, vec![("TenantId", "acme")], "globex", false),
        (json!([own]), None, vec![("TenantId", "*")], "globex", false),
        (json!([own]), None, vec![], "globex", false),
        (json!([own]), None, vec![], "", false),
        (json!([own]), None, vec![("TenantId", "")], "globex", false),
        (json!([allow("*", "*")]), Some(document(&own)), vec![("TenantId", "acme")], "acme", true),
        (json!([allow("*", "*")]), Some(document(&own)), vec![("TenantId", "acme")], "globex", false),
        (json!([own]), Some(any.clone()), vec![("TenantId", "acme")], "globex", false),
        // Everything but one's own is not everything when nobody knows whose.
        (json!([not_own]), None, vec![("TenantId", "acme")], "globex", true),
        (json!([not_own]), None, vec![], "globex", false),
        (json!([allow("*", "*"), deny_others]), None, vec![("TenantId", "acme")], "acme", true),
        (json!([allow("*", "*"), deny_others]), None, vec![], "acme", false),
    ] {
        let iam = with_roles([role("r", open_trust(), [document(&policies)])]);
        let found = decide(&iam, &tags, session.as_ref(), "ssm:GetParameter", &parameters(resource));
        assert_eq!(found == Decision::Allowed, expected, "{policies} {session:?} {tags:?} {resource}");
    }
    // Without the newer version a variable is text.
    let old = json!({ "Statement": own });
    let iam = with_roles([role("r", open_trust(), [old])]);
    let found = decide(&iam, &[("TenantId", "acme")], None, "ssm:GetParameter", &parameters("acme"));
    assert_eq!(found, Decision::NotAllowed(PolicyKind::Identity));
}

/// Promise: every call of a role has the condition keys of the account, the role, its session and
/// the place.
#[test]
fn every_call_has_the_global_keys() {
    let iam = with_roles([]);
    for (operator, key, value) in [
        ("StringEquals", "aws:PrincipalAccount", json!(ACCOUNT)),
        ("ArnEquals", "aws:PrincipalArn", json!(format!("arn:aws:iam::{ACCOUNT}:role/r"))),
        ("StringEquals", "aws:PrincipalType", json!("AssumedRole")),
        ("StringLike", "aws:userid", json!("AROA????????????????:session")),
        ("StringEquals", "aws:RequestedRegion", json!("eu-central-1")),
        ("Bool", "aws:SecureTransport", json!(true)),
        ("StringEquals", "aws:PrincipalTag/team", json!("blue")),
    ] {
        let policy =
            json!({ "Effect": "Allow", "Action": "*", "Resource": "*", "Condition": { operator: { key: value } } });
        iam.add_role(role("r", open_trust(), [document(&policy)])).expect("a role");
        assert_eq!(decide(&iam, &[("team", "blue")], None, "a:b", "*"), Decision::Allowed, "{key}");
    }
}

/// Promise: a role is assumed only if the caller's policies and the role's trust policy both allow
/// it, session tags likewise; a deny on either side wins ("Policy evaluation logic", "Passing
/// session tags in AWS STS"; stricter than AWS for roles that trust by name).
#[test]
fn assuming_takes_both_sides() {
    use Decision::{Allowed, Denied, NotAllowed};
    use PolicyKind::{Identity, Trust};
    let target = format!("arn:aws:iam::{ACCOUNT}:role/target");
    let caller = format!("arn:aws:iam::{ACCOUNT}:role/r");
    let both = json!(["sts:AssumeRole", "sts:TagSession"]);
    let trust = |principal: Value| json!([{ "Effect": "Allow", "Principal": principal, "Action": both }]);
    let by_tag = |operator: &str, key: &str, value: Value| json!([{ "Effect": "Allow", "Principal": "*", "Action": both, "Condition": { operator: { key: value } } }]);
    let may = json!([{ "Effect": "Allow", "Action": both, "Resource": target }]);
    let only_assume = json!([allow("sts:AssumeRole", &target)]);
    let denied_tags = json!([allow("*", "*"), deny("sts:TagSession", "*")]);
    let trust_denies = json!([
        { "Effect": "Allow", "Principal": "*", "Action": both },
        { "Effect": "Deny", "Principal": { "AWS": caller }, "Action": "sts:TagSession" }
    ]);
    let session_arn = format!("arn:aws:sts::{ACCOUNT}:assumed-role/r/r");
    let (assume, tagging) = ("sts:AssumeRole", "sts:TagSession");
    for (identity, trust, action, expected) in [
        (&may, trust(json!({ "AWS": caller })), assume, Allowed),
        (&may, trust(json!({ "AWS": caller })), tagging, Allowed),
        (&may, trust(json!({ "AWS": ["arn:aws:iam::111122223333:role/other", caller] })), assume, Allowed),
        (&may, trust(json!({ "AWS": format!("arn:aws:iam::{ACCOUNT}:root") })), assume, Allowed),
        (&may, trust(json!({ "AWS": ACCOUNT })), assume, Allowed),
        (&may, trust(json!({ "AWS": session_arn })), assume, Allowed),
        (&may, trust(json!("*")), assume, Allowed),
        (&may, trust(json!({ "AWS": "arn:aws:iam::999999999999:root" })), assume, NotAllowed(Trust)),
        (&may, trust(json!({ "AWS": "arn:aws:iam::111122223333:role/other" })), assume, NotAllowed(Trust)),
        (&may, trust(json!({ "Service": "lambda.amazonaws.com" })), assume, NotAllowed(Trust)),
        (&only_assume, trust(json!("*")), assume, Allowed),
        (&only_assume, trust(json!("*")), tagging, NotAllowed(Identity)),
        (&denied_tags, trust(json!("*")), tagging, Denied(Identity)),
        (&may, trust_denies, tagging, Denied(Trust)),
        (&json!([allow("dynamodb:*", "*")]), trust(json!({ "AWS": caller })), assume, NotAllowed(Identity)),
        (&json!([allow("sts:*", "arn:aws:iam::*:role/t?rget")]), trust(json!("*")), assume, Allowed),
        (&may, by_tag("StringEquals", "aws:RequestTag/TenantId", json!("acme")), assume, Allowed),
        (&may, by_tag("StringEquals", "aws:requesttag/tenantid", json!("acme")), assume, Allowed),
        (&may, by_tag("StringEquals", "aws:RequestTag/TenantId", json!("globex")), assume, NotAllowed(Trust)),
        (&may, by_tag("ForAllValues:StringEquals", "aws:TagKeys", json!(["TenantId"])), assume, NotAllowed(Trust)),
        (&may, by_tag("ForAllValues:StringEquals", "aws:TagKeys", json!(["TenantId", "Other"])), assume, Allowed),
        (&may, by_tag("StringLike", "sts:RoleSessionName", json!("config-*")), assume, Allowed),
        (&may, by_tag("StringEquals", "sts:ExternalId", json!("x")), assume, NotAllowed(Trust)),
        (&may, by_tag("ArnEquals", "aws:PrincipalArn", json!(caller)), assume, Allowed),
        (&may, by_tag("StringEquals", "aws:PrincipalTag/TenantId", json!("acme")), assume, NotAllowed(Trust)),
    ] {
        let iam = with_roles([role("r", open_trust(), [document(identity)]), role("target", document(&trust), [])]);
        let keys: &[(&str, &[&str])] = &[
            ("sts:RoleSessionName", &["config-read"]),
            ("aws:TagKeys", &["TenantId", "Other"]),
            ("aws:RequestTag/TenantId", &["acme"]),
            ("aws:RequestTag/Other", &["x"]),
        ];
        let found = iam.decide_for("r", action, &target, &context(keys));
        assert_eq!(found, Some(expected), "{identity} {trust} {action}");
    }
    // A role that is not there, and one of another account, trust nobody.
    let iam = with_roles([role("r", open_trust(), [document(&json!([allow("*", "*")]))])]);
    for nobody in [&target, "arn:aws:iam::999999999999:role/r", "*"] {
        assert_eq!(iam.decide_for("r", assume, nobody, &context(&[])), Some(NotAllowed(Trust)), "{nobody}");
    }
    assert_eq!(iam.decide_for("nobody", assume, &target, &context(&[])), None);
}

/// Promise: a refusal says who was refused what, and for want of what; what was allowed is
/// remembered, and only that.
#[test]
fn refusals_read_like_those_of_aws() {
    let policies = [document(&json!([allow("a:Get*", "*"), deny("a:GetSecret", "*")]))];
    let iam = with_roles([role("r", open_trust(), policies)]);
    let credentials = iam.credentials_of("r").expect("credentials");
    let Ok(Caller::Role(session)) = super::sessions::caller(&iam, &credentials) else { panic!("not known") };
    let get = need("a:Get", "arn:x", &[]);
    assert_eq!(iam.authorize(&session, &[]), Ok(()));
    assert_eq!(iam.authorize(&session, std::slice::from_ref(&get)), Ok(()));
    let user = format!("User: arn:aws:sts::{ACCOUNT}:assumed-role/r/r is not authorized to perform:");
    for (action, why) in [
        ("a:Put", "because no identity-based policy allows the a:Put action"),
        ("a:GetSecret", "with an explicit deny in the identity-based policy"),
    ] {
        let needs = [need("a:GetOther", "arn:x", &[]), need(action, "arn:x", &[])];
        assert_eq!(iam.authorize(&session, &needs), Err(format!("{user} {action} on resource: arn:x {why}")));
    }
    assert_eq!(iam.permissions_used(), [("r".to_owned(), "a:Get".to_owned())].into());
}
