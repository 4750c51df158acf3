//! `PutParameter`: every rule that AWS has for a new version, then the version.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use regex_lite::Regex;
use serde::Deserialize;
use serde_json::{Value, json};

use super::metadata::{self, Tag};
use super::name::{self, Place};
use super::store::{Store, Tables, Version};
use super::{Change, Operation};
use crate::wire::{AwsError, parse, required};

/// Bytes of a value ("Managing parameter tiers" in the Systems Manager user guide).
const MAX_STANDARD_VALUE: usize = 4 * 1024;
const MAX_ADVANCED_VALUE: usize = 8 * 1024;

/// Advanced parameters in a region of an account (same page).
const MAX_ADVANCED: i64 = 100_000;

/// Versions kept of a parameter ("Working with parameter versions" in the Systems Manager user
/// guide).
const MAX_VERSIONS: i64 = 100;

/// Characters of a description or an allowed pattern (`PutParameter` in the API reference).
const MAX_TEXT: usize = 1_024;

const TYPES: [&str; 3] = ["SecureString", "StringList", "String"];
const STANDARD: &str = "Standard";
const ADVANCED: &str = "Advanced";
const INTELLIGENT: &str = "Intelligent-Tiering";
const SECURE: &str = "SecureString";
const DEFAULT_KEY: &str = "alias/aws/ssm";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct PutParameter {
    name: Option<String>,
    value: Option<String>,
    r#type: Option<String>,
    description: Option<String>,
    key_id: Option<String>,
    #[serde(default)]
    overwrite: Option<bool>,
    allowed_pattern: Option<String>,
    tags: Option<Vec<Tag>>,
    tier: Option<String>,
    policies: Option<String>,
    data_type: Option<String>,
}

/// Answers the call and says what changed.
pub(super) fn put(store: &Store, place: &Place, body: &[u8]) -> Result<(Value, Change), AwsError> {
    let request: PutParameter = parse(body)?;
    let name = place.new_name(required(request.name.as_deref(), "name")?)?;
    check(&request)?;
    // AWS trims what is around a value and does not say so.
    let value = required(request.value.as_deref(), "value")?.trim();
    if value.is_empty() {
        return Err(AwsError::constraint("", "value", "have length greater than or equal to 1"));
    }
    if value.find("{{").is_some_and(|open| value[open..].contains("}}")) {
        return Err(AwsError::validation("Parameter value: can't nest parameters. Remove {{...}} from the value."));
    }
    store.transaction(|tables| {
        let old = tables.latest(&name)?;
        let new = next_version(tables, &name, value, &request, old.as_ref())?;
        if old.is_some() {
            make_room(tables, &name)?;
        }
        tables.put(&new)?;
        for tag in request.tags.iter().flatten() {
            tables.put_tag(&name, &tag.key, &tag.value)?;
        }
        let answer = json!({ "Version": new.number, "Tier": new.tier });
        let operation = if old.is_some() { Operation::Update } else { Operation::Create };
        Ok((answer, Change::of(operation, &new)))
    })
}

/// What can be said against a request without looking at what is stored.
fn check(request: &PutParameter) -> Result<(), AwsError> {
    let one_of = |text: &Option<String>, member: &str, known: &[&str]| match text {
        Some(text) if !known.contains(&text.as_str()) => {
            Err(AwsError::constraint(text, member, &format!("satisfy enum value set: [{}]", known.join(", "))))
        }
        _ => Ok(()),
    };
    one_of(&request.r#type, "type", &TYPES)?;
    one_of(&request.tier, "tier", &[STANDARD, ADVANCED, INTELLIGENT])?;
    for (text, member) in [(&request.description, "description"), (&request.allowed_pattern, "allowedPattern")] {
        if text.as_ref().is_some_and(|text| text.chars().count() > MAX_TEXT) {
            return Err(AwsError::constraint("...", member, &format!("have length less than or equal to {MAX_TEXT}")));
        }
    }
    if !matches!(request.data_type.as_deref(), None | Some("text" | "aws:ec2:image" | "aws:ssm:integration")) {
        return Err(AwsError::validation(
            "The following data type is not supported: (Data type names are all lowercase.)",
        ));
    }
    if request.policies.as_ref().is_some_and(|policies| !matches!(policies.trim(), "" | "[]" | "[{}]")) {
        return Err(AwsError::validation("The emulator does not know parameter policies."));
    }
    let tags = request.tags.as_deref().unwrap_or_default();
    if !tags.is_empty() && request.overwrite == Some(true) {
        return Err(AwsError::validation(
            "Invalid request: tags and overwrite can't be used together. To create a parameter with tags, please remove \
             overwrite flag. To update tags for an existing parameter, please use AddTagsToResource or \
             RemoveTagsFromResource.",
        ));
    }
    metadata::check(tags)
}

fn next_version(
    tables: &Tables<'_>,
    name: &str,
    value: &str,
    request: &PutParameter,
    old: Option<&Version>,
) -> Result<Version, AwsError> {
    let other = name::other_spelling(name).map(|other| tables.exists(&other)).transpose()?.unwrap_or(false);
    if other || (old.is_some() && request.overwrite != Some(true)) {
        return Err(AwsError::new(
            "ParameterAlreadyExists",
            "The parameter already exists. To overwrite this value, set the overwrite option in the request to true.",
        ));
    }
    let kind = match (&request.r#type, old) {
        (None, None) => {
            return Err(AwsError::validation("A parameter type is required when you create a parameter."));
        }
        (Some(kind), Some(old)) if *kind != old.kind => {
            return Err(AwsError::new(
                "HierarchyTypeMismatchException",
                format!(
                    "Parameter Store doesn't support changing a parameter's type: {name} is a {}, not a {kind}. Delete it \
                     and create it again.",
                    old.kind
                ),
            ));
        }
        (Some(kind), _) => kind.clone(),
        (None, Some(old)) => old.kind.clone(),
    };
    if let Some(pattern) = &request.allowed_pattern {
        check_pattern(pattern, value)?;
    }
    let tier = tier(tables, request.tier.as_deref(), value.len(), old)?;
    if request.key_id.is_some() && kind != SECURE {
        return Err(AwsError::validation(format!("KeyId is for parameters of type SecureString; {name} is a {kind}.")));
    }
    let key_id = (kind == SECURE).then(|| request.key_id.clone().unwrap_or_else(|| DEFAULT_KEY.to_owned()));
    Ok(Version {
        name: name.to_owned(),
        number: old.map_or(1, |old| old.number + 1),
        kind,
        value: value.to_owned(),
        ciphertext: ciphertext(value.len()),
        description: request.description.clone().or_else(|| old.and_then(|old| old.description.clone())),
        tier: tier.to_owned(),
        key_id,
        allowed_pattern: request.allowed_pattern.clone(),
        data_type: request.data_type.clone().unwrap_or_else(|| "text".to_owned()),
        modified: tables.next_time()?,
    })
}

fn check_pattern(pattern: &str, value: &str) -> Result<(), AwsError> {
    let regex = Regex::new(&format!("^(?:{pattern})$"))
        .map_err(|error| AwsError::new("InvalidAllowedPatternException", error.to_string()))?;
    if regex.is_match(value) {
        return Ok(());
    }
    Err(AwsError::new(
        "ParameterPatternMismatchException",
        format!("Parameter value, cannot be validated against allowedPattern: {pattern}"),
    ))
}

/// The tier of the new version. Advanced never goes back; without a tier in the request a parameter
/// keeps its own.
fn tier(
    tables: &Tables<'_>,
    asked: Option<&str>,
    bytes: usize,
    old: Option<&Version>,
) -> Result<&'static str, AwsError> {
    let was_advanced = old.is_some_and(|old| old.tier == ADVANCED);
    let is_new = |tier: &str| old.is_none_or(|old| old.tier != tier);
    let full = |tier: &str, most: i64| Ok::<_, AwsError>(is_new(tier) && tables.count_in_tier(tier)? >= most);
    let tier = match asked {
        Some(ADVANCED) => ADVANCED,
        Some(INTELLIGENT) if was_advanced || bytes > MAX_STANDARD_VALUE || full(STANDARD, tables.max_standard)? => {
            ADVANCED
        }
        Some(STANDARD) if was_advanced => {
            return Err(AwsError::validation(
                "This parameter uses the advanced-parameter tier. You can't downgrade a parameter from the \
                 advanced-parameter tier to the standard-parameter tier. If necessary, you can delete the advanced \
                 parameter and recreate it as a standard parameter.",
            ));
        }
        None if was_advanced => ADVANCED,
        _ => STANDARD,
    };
    let (most_bytes, most) =
        if tier == ADVANCED { (MAX_ADVANCED_VALUE, MAX_ADVANCED) } else { (MAX_STANDARD_VALUE, tables.max_standard) };
    if bytes > most_bytes {
        let hint = if tier == STANDARD {
            " To create a larger parameter value, upgrade the parameter to use the advanced-parameter tier."
        } else {
            ""
        };
        return Err(AwsError::validation(format!(
            "{tier} tier parameters support a maximum parameter value of {most_bytes} characters.{hint} For more \
             information, see https://docs.aws.amazon.com/systems-manager/latest/userguide/parameter-store-advanced-parameters.html"
        )));
    }
    if full(tier, most)? {
        return Err(AwsError::new(
            "ParameterLimitExceeded",
            format!("You have exceeded the number of parameters of the {tier} tier for this AWS account: {most}."),
        ));
    }
    Ok(tier)
}

/// Drops the oldest version when as many are kept as may be. One with a label is not dropped: the
/// write fails instead.
fn make_room(tables: &Tables<'_>, name: &str) -> Result<(), AwsError> {
    let (kept, oldest) = tables.kept(name)?;
    if kept < MAX_VERSIONS {
        return Ok(());
    }
    if !tables.labels(name, oldest)?.is_empty() {
        return Err(AwsError::new(
            "ParameterMaxVersionLimitExceeded",
            format!(
                "You attempted to create a new version of {name} by calling the PutParameter API with the overwrite flag. \
                 Version {oldest}, the oldest version, can't be deleted because it has a label associated with it. Move the \
                 label to another version of the parameter, and try again."
            ),
        ));
    }
    tables.drop_version(name, oldest)
}

/// Looks like what KMS makes of a value, and holds nothing of it.
fn ciphertext(bytes: usize) -> String {
    let mut blob = vec![1, 2, 2, 0, 120];
    blob.extend(std::iter::repeat_with(|| fastrand::u8(..)).take(bytes + 150));
    BASE64.encode(blob)
}

#[cfg(test)]
mod tests {
    use super::super::store::MAX_STANDARD;
    use super::*;

    fn place() -> Place {
        Place { region: "us-east-1".to_owned(), account: "000000000000".to_owned() }
    }

    fn request(name: &str, tier: &str) -> Vec<u8> {
        json!({ "Name": name, "Value": "v", "Type": "String", "Tier": tier }).to_string().into_bytes()
    }

    /// Guards: 10,000 standard parameters, 100,000 advanced ones, and intelligent tiering going on
    /// beyond the first.
    #[test]
    fn a_full_tier_takes_no_more_parameters() {
        let store = Store::open(None).expect("in memory");
        store
            .transaction(|tables| {
                for (tier, count) in [(STANDARD, MAX_STANDARD.into()), (ADVANCED, MAX_ADVANCED - 1)] {
                    tables.fill(tier, count)?;
                }
                Ok(())
            })
            .expect("filled");
        let code = |name: &str, tier: &str| {
            put(&store, &place(), &request(name, tier))
                .map(|(answer, _)| answer["Tier"].clone())
                .map_err(|error| error.code().to_owned())
        };
        assert_eq!(code("one-more", "Standard"), Err("ParameterLimitExceeded".to_owned()));
        assert_eq!(code("one-more", "Intelligent-Tiering"), Ok(json!("Advanced")));
        assert_eq!(code("and-one", "Advanced"), Err("ParameterLimitExceeded".to_owned()));
    }
}
