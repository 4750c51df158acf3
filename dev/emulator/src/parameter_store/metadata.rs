//! Labels of versions and tags of parameters.

use serde::Deserialize;
use serde_json::{Value, json};

use super::name::Place;
use super::store::{Store, Tables, Version};
use super::{Change, Operation, not_found};
use crate::wire::{AwsError, parse, required};

/// Labels of one version ("Working with parameter labels" in the Systems Manager user guide).
const MAX_LABELS: usize = 10;

/// Characters of a label (same page).
const MAX_LABEL: usize = 100;

/// Tags of a parameter, and their sizes (`Tag` in the API reference).
const MAX_TAGS: usize = 50;
const MAX_TAG_KEY: usize = 128;
const MAX_TAG_VALUE: usize = 256;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Tag {
    pub(super) key: String,
    pub(super) value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Label {
    name: Option<String>,
    parameter_version: Option<i64>,
    labels: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Resource {
    #[serde(rename = "ResourceType")]
    kind: Option<String>,
    #[serde(rename = "ResourceId")]
    id: Option<String>,
    tags: Option<Vec<Tag>>,
    tag_keys: Option<Vec<String>>,
}

/// `LabelParameterVersion`; labels that break the rules are named in the answer, the others are put
/// on the version.
pub(super) fn label(store: &Store, place: &Place, body: &[u8]) -> Result<(Value, Option<Change>), AwsError> {
    let request: Label = parse(body)?;
    let labels = required(request.labels.as_ref(), "labels")?;
    if labels.is_empty() || labels.len() > MAX_LABELS {
        return Err(AwsError::constraint("[labels]", "labels", &format!("have length between 1 and {MAX_LABELS}")));
    }
    store.transaction(|tables| {
        let version = labelled_version(tables, place, &request)?;
        let (valid, invalid): (Vec<_>, Vec<_>) = labels.iter().partition(|label| is_label(label));
        let mut all = tables.labels(&version.name, version.number)?;
        all.extend(valid.iter().map(|label| (*label).clone()));
        all.sort_unstable();
        all.dedup();
        if all.len() > MAX_LABELS {
            return Err(AwsError::new(
                "ParameterVersionLabelLimitExceeded",
                format!("A parameter version can have a maximum of {MAX_LABELS} labels. Move one or more labels to another version and try again."),
            ));
        }
        for label in &valid {
            tables.put_label(&version.name, label, version.number)?;
        }
        let change = (!valid.is_empty()).then(|| Change::of(Operation::LabelParameterVersion, &version));
        Ok((json!({ "InvalidLabels": invalid, "ParameterVersion": version.number }), change))
    })
}

/// `UnlabelParameterVersion`
pub(super) fn unlabel(store: &Store, place: &Place, body: &[u8]) -> Result<Value, AwsError> {
    let request: Label = parse(body)?;
    required(request.parameter_version, "parameterVersion")?;
    let labels = required(request.labels.as_ref(), "labels")?;
    store.transaction(|tables| {
        let version = labelled_version(tables, place, &request)?;
        let (mut removed, mut invalid) = (Vec::new(), Vec::new());
        for label in labels {
            let was_there = tables.remove_label(&version.name, label, version.number)?;
            if was_there { &mut removed } else { &mut invalid }.push(label);
        }
        Ok(json!({ "RemovedLabels": removed, "InvalidLabels": invalid }))
    })
}

/// `AddTagsToResource`
pub(super) fn add(store: &Store, place: &Place, body: &[u8]) -> Result<Value, AwsError> {
    let request: Resource = parse(body)?;
    let tags = required(request.tags.as_deref(), "tags")?;
    check(tags)?;
    store.transaction(|tables| {
        let name = resource(tables, place, &request)?;
        for tag in tags {
            tables.put_tag(&name, &tag.key, &tag.value)?;
        }
        if tables.tags(&name)?.len() > MAX_TAGS {
            return Err(AwsError::new("TooManyTagsError", format!("A resource can have at most {MAX_TAGS} tags.")));
        }
        Ok(json!({}))
    })
}

/// `RemoveTagsFromResource`
pub(super) fn remove(store: &Store, place: &Place, body: &[u8]) -> Result<Value, AwsError> {
    let request: Resource = parse(body)?;
    let keys = required(request.tag_keys.as_ref(), "tagKeys")?;
    store.transaction(|tables| {
        let name = resource(tables, place, &request)?;
        for key in keys {
            tables.remove_tag(&name, key)?;
        }
        Ok(json!({}))
    })
}

/// `ListTagsForResource`
pub(super) fn list(store: &Store, place: &Place, body: &[u8]) -> Result<Value, AwsError> {
    let request: Resource = parse(body)?;
    store.transaction(|tables| {
        let name = resource(tables, place, &request)?;
        let tags: Vec<Value> =
            tables.tags(&name)?.into_iter().map(|(key, value)| json!({ "Key": key, "Value": value })).collect();
        Ok(json!({ "TagList": tags }))
    })
}

/// Whether tags are within their limits.
pub(super) fn check(tags: &[Tag]) -> Result<(), AwsError> {
    if tags.len() > MAX_TAGS {
        return Err(AwsError::new("TooManyTagsError", format!("A resource can have at most {MAX_TAGS} tags.")));
    }
    for tag in tags {
        let key = tag.key.chars().count();
        if key == 0 || key > MAX_TAG_KEY || tag.value.chars().count() > MAX_TAG_VALUE {
            return Err(AwsError::validation(format!(
                "A tag has a key of 1 to {MAX_TAG_KEY} and a value of at most {MAX_TAG_VALUE} characters."
            )));
        }
    }
    Ok(())
}

fn labelled_version(tables: &Tables<'_>, place: &Place, request: &Label) -> Result<Version, AwsError> {
    let name = place.asked(required(request.name.as_deref(), "name")?)?.name;
    let latest = tables.latest(&name)?.ok_or_else(|| not_found(&name))?;
    match request.parameter_version {
        None => Ok(latest),
        Some(version) => tables.version(&name, version)?.ok_or_else(|| {
            AwsError::new(
                "ParameterVersionNotFound",
                format!(
                    "Systems Manager could not find version {version} of {name}. Verify the version and try again."
                ),
            )
        }),
    }
}

fn is_label(label: &str) -> bool {
    let start_reserved =
        label.get(..3).is_some_and(|start| start.eq_ignore_ascii_case("aws") || start.eq_ignore_ascii_case("ssm"));
    !label.is_empty()
        && label.len() <= MAX_LABEL
        && !start_reserved
        && !label.starts_with(|first: char| first.is_ascii_digit())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

fn resource(tables: &Tables<'_>, place: &Place, request: &Resource) -> Result<String, AwsError> {
    let kind = required(request.kind.as_deref(), "resourceType")?;
    if kind != "Parameter" {
        return Err(AwsError::new(
            "InvalidResourceType",
            format!("The emulator has no resources of type {kind:?}, only Parameter."),
        ));
    }
    let name = place.asked(required(request.id.as_deref(), "resourceId")?)?.name;
    if tables.exists(&name)? {
        return Ok(name);
    }
    Err(AwsError::new(
        "InvalidResourceId",
        "The resource ID is not valid. Verify that you entered the correct ID and try again.",
    ))
}
