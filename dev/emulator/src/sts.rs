//! Security Token Service: hands out credentials for roles, and says who the caller is.

use std::collections::BTreeMap;

use http::StatusCode;
use time::Duration;
use time::format_description::well_known::Rfc3339;

use crate::iam::{Assumption, Caller, Iam, SessionPolicy};
use crate::wire::{AwsError, Reply, escape_xml, reply, request_id};

/// How long a session lasts, in seconds (`AssumeRole` in the STS API reference; "Role chaining" in
/// the IAM user guide).
const SHORTEST: i64 = 900;
const USUAL: i64 = 3_600;
const LONGEST: i64 = 43_200;
const LONGEST_OF_A_ROLE: i64 = 3_600;

/// Characters of a session policy ("IAM and AWS STS quotas").
const MAX_POLICY: usize = 2_048;

/// Session tags, and characters of their keys and values (same page).
const MAX_TAGS: usize = 50;
const MAX_TAG_KEY: usize = 128;
const MAX_TAG_VALUE: usize = 256;

/// What `AssumeRole` is asked for, read and found to be within AWS's limits.
#[derive(Debug)]
pub(crate) struct AssumeRole {
    pub(crate) role_arn: String,
    pub(crate) session_name: String,
    pub(crate) external_id: Option<String>,
    pub(crate) tags: Vec<(String, String)>,
    policy: Option<SessionPolicy>,
    seconds: i64,
    /// Bytes of the policy and the tags.
    packed: usize,
}

impl AssumeRole {
    pub(crate) fn parse(body: &[u8]) -> Result<Self, AwsError> {
        let mut fields = BTreeMap::new();
        let mut tags: BTreeMap<u32, [Option<String>; 2]> = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(body) {
            match name.as_ref() {
                "Action" | "Version" => {}
                "RoleArn" | "RoleSessionName" | "DurationSeconds" | "Policy" | "ExternalId" => {
                    fields.insert(name.into_owned(), value.into_owned());
                }
                // SDKs send an empty list so.
                "Tags" if value.is_empty() => {}
                other => {
                    let (number, part) = tag_member(other).ok_or_else(|| {
                        invalid(format!("The emulator does not know the parameter {other:?} of AssumeRole."))
                    })?;
                    tags.entry(number).or_default()[part] = Some(value.into_owned());
                }
            }
        }
        let missing = |name: &str| {
            invalid(format!(
                "1 validation error detected: Value null at '{name}' failed to satisfy constraint: Member must not be null"
            ))
        };
        let role_arn = fields.remove("RoleArn").ok_or_else(|| missing("roleArn"))?;
        let session_name = fields.remove("RoleSessionName").ok_or_else(|| missing("roleSessionName"))?;
        if !role_arn.starts_with("arn:aws:iam::") || !(20..=2_048).contains(&role_arn.chars().count()) {
            return Err(invalid(format!("{role_arn} is invalid")));
        }
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || b"_+=,.@-".contains(&byte);
        if !(2..=64).contains(&session_name.len()) || !session_name.bytes().all(letter) {
            return Err(broken(
                &session_name,
                "roleSessionName",
                "satisfy regular expression pattern: [\\w+=,.@-]{2,64}",
            ));
        }
        let seconds = match fields.remove("DurationSeconds") {
            None => USUAL,
            Some(text) => {
                text.parse().ok().filter(|seconds| (SHORTEST..=LONGEST).contains(seconds)).ok_or_else(|| {
                    broken(&text, "durationSeconds", &format!("have value between {SHORTEST} and {LONGEST}"))
                })?
            }
        };
        let policy_text = fields.remove("Policy");
        if let Some(text) = &policy_text
            && !(1..=MAX_POLICY).contains(&text.chars().count())
        {
            return Err(broken(text, "policy", &format!("have length between 1 and {MAX_POLICY}")));
        }
        let policy = policy_text.as_deref().map(SessionPolicy::parse).transpose();
        let policy = policy.map_err(|reason| AwsError::new("MalformedPolicyDocument", reason))?;
        let tags = tags.into_values().map(tag).collect::<Result<Vec<_>, _>>()?;
        check_tags(&tags)?;
        let packed = tags.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
        Ok(Self {
            role_arn,
            session_name,
            external_id: fields.remove("ExternalId"),
            tags,
            policy,
            seconds,
            packed: packed + policy_text.map_or(0, |text| text.len()),
        })
    }
}

/// `Tags.member.<number>.Key` or `.Value`: the number, and which of the two.
fn tag_member(name: &str) -> Option<(u32, usize)> {
    let (number, part) = name.strip_prefix("Tags.member.")?.split_once('.')?;
    let part = match part {
        "Key" => 0,
        "Value" => 1,
        _ => return None,
    };
    Some((number.parse().ok()?, part))
}

fn tag(members: [Option<String>; 2]) -> Result<(String, String), AwsError> {
    match members {
        [Some(key), Some(value)] => Ok((key, value)),
        _ => Err(invalid("A tag has a Key and a Value.".to_owned())),
    }
}

fn check_tags(tags: &[(String, String)]) -> Result<(), AwsError> {
    if tags.len() > MAX_TAGS {
        let message = format!("have length less than or equal to {MAX_TAGS}");
        return Err(broken(&format!("{} tags", tags.len()), "tags", &message));
    }
    for (index, (key, value)) in tags.iter().enumerate() {
        if !(1..=MAX_TAG_KEY).contains(&key.chars().count()) || !key.chars().all(is_tag_letter) {
            return Err(broken(
                key,
                "tags.member.key",
                "satisfy regular expression pattern: [\\p{L}\\p{Z}\\p{N}_.:/=+\\-@]{1,128}",
            ));
        }
        if value.chars().count() > MAX_TAG_VALUE || !value.chars().all(is_tag_letter) {
            return Err(broken(
                value,
                "tags.member.value",
                "satisfy regular expression pattern: [\\p{L}\\p{Z}\\p{N}_.:/=+\\-@]{0,256}",
            ));
        }
        if key.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("aws:")) {
            return Err(invalid(format!("The tag key {key} begins with aws:, which is AWS's own.")));
        }
        if tags[..index].iter().any(|(other, _)| other.to_lowercase() == key.to_lowercase()) {
            return Err(AwsError::new(
                "InvalidParameterValue",
                "Duplicate tag keys found. Please note that Tag keys are case insensitive.",
            ));
        }
    }
    Ok(())
}

/// `[\p{L}\p{Z}\p{N}_.:/=+\-@]`, and some marks of letters that Unicode counts as alphabetic.
/// Neither `*` nor `#`.
fn is_tag_letter(letter: char) -> bool {
    letter.is_alphanumeric() || "_.:/=+-@".contains(letter) || (letter.is_whitespace() && !letter.is_control())
}

fn invalid(message: String) -> AwsError {
    AwsError::new("ValidationError", message)
}

fn broken(value: &str, member: &str, constraint: &str) -> AwsError {
    invalid(format!(
        "1 validation error detected: Value '{value}' at '{member}' failed to satisfy constraint: Member must {constraint}"
    ))
}

/// A call that is not allowed.
pub(crate) fn denied(message: String) -> AwsError {
    AwsError::new("AccessDenied", message).with_status(StatusCode::FORBIDDEN)
}

/// Answers a form-encoded call that is allowed.
pub(crate) fn call(operation: &str, body: &[u8], caller: &Caller, iam: &Iam) -> Result<Reply, AwsError> {
    match operation {
        "GetCallerIdentity" => Ok(answer(operation, &identity(caller, iam))),
        "AssumeRole" => Ok(answer(operation, &assume_role(AssumeRole::parse(body)?, caller, iam)?)),
        _ => Err(AwsError::new(
            "InvalidAction",
            format!(
                "The emulator does not know the operation {operation:?}; of STS it knows AssumeRole and GetCallerIdentity."
            ),
        )),
    }
}

fn identity(caller: &Caller, iam: &Iam) -> String {
    let id = match caller {
        Caller::Administrator => "AIDALOCAL".to_owned(),
        Caller::Role(session) => session.user_id(),
    };
    format!(
        "<Arn>{}</Arn><UserId>{}</UserId><Account>{}</Account>",
        escape_xml(&iam.caller_arn(caller)),
        escape_xml(&id),
        escape_xml(iam.account_id())
    )
}

fn assume_role(request: AssumeRole, caller: &Caller, iam: &Iam) -> Result<String, AwsError> {
    let AssumeRole { role_arn, session_name, tags, policy, seconds, packed, .. } = request;
    if matches!(caller, Caller::Role(_)) && seconds > LONGEST_OF_A_ROLE {
        return Err(invalid(
            "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining"
                .to_owned(),
        ));
    }
    let is_packed = policy.is_some() || !tags.is_empty();
    let assumption = Assumption { session_name, tags, policy, lasts: Duration::seconds(seconds) };
    let assumed = iam.role_of(&role_arn).and_then(|role| iam.assume(role, assumption)).ok_or_else(|| {
        denied(format!(
            "User: {} is not authorized to perform: sts:AssumeRole on resource: {role_arn}",
            iam.caller_arn(caller)
        ))
    })?;
    let expires = assumed.expires.format(&Rfc3339).map_err(|error| {
        AwsError::internal("InternalFailure", format!("The end of the session cannot be written: {error}"))
    })?;
    // How AWS packs is not known; this is what it would be without packing.
    let share = (packed * 100).div_ceil(MAX_POLICY).clamp(1, 100);
    let packed = if is_packed { format!("<PackedPolicySize>{share}</PackedPolicySize>") } else { String::new() };
    let credentials = assumed.credentials;
    Ok(format!(
        "<AssumedRoleUser><AssumedRoleId>{}</AssumedRoleId><Arn>{}</Arn></AssumedRoleUser><Credentials>\
         <AccessKeyId>{}</AccessKeyId><SecretAccessKey>{}</SecretAccessKey><SessionToken>{}</SessionToken>\
         <Expiration>{expires}</Expiration></Credentials>{packed}",
        escape_xml(&assumed.id),
        escape_xml(&assumed.arn),
        credentials.access_key_id,
        credentials.secret_access_key,
        credentials.session_token,
    ))
}

fn answer(operation: &str, result: &str) -> Reply {
    let body = format!(
        "<{operation}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><{operation}Result>{result}\
         </{operation}Result><ResponseMetadata><RequestId>{}</RequestId></ResponseMetadata></{operation}Response>",
        request_id(),
    );
    reply(StatusCode::OK, "text/xml", body.into())
}
