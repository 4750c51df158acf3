//! The calls that read parameters: one, some, by path, described, and with their history.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::name::{self, Asked, Place, Selector};
use super::page::{self, Position};
use super::store::{Store, Tables, Version};
use super::{Encrypted, is_own_key, milliseconds, not_found};
use crate::faults::View;
use crate::wire::{AwsError, parse, required};

/// Names of one `GetParameters`, results of one page of `GetParametersByPath` (API reference).
const MAX_PARAMETERS: usize = 10;

/// Results of one page of `DescribeParameters` or `GetParameterHistory` (API reference).
const MAX_DESCRIBED: usize = 50;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Get {
    name: Option<String>,
    names: Option<Vec<String>>,
    path: Option<String>,
    #[serde(default)]
    recursive: Option<bool>,
    #[serde(default)]
    with_decryption: Option<bool>,
    parameter_filters: Option<Vec<Filter>>,
    filters: Option<Vec<Filter>>,
    max_results: Option<i64>,
    next_token: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Filter {
    key: String,
    option: Option<String>,
    #[serde(default)]
    values: Vec<String>,
}

/// What the calls read, and what they show of it.
pub(super) struct Reader<'a> {
    pub(super) store: &'a Store,
    pub(super) place: &'a Place,
    pub(super) view: View,
    /// Whether some pages of every listing are empty and lead on all the same, as AWS's may be.
    pub(super) empty_pages: bool,
}

impl Reader<'_> {
    fn read<T>(&self, work: impl FnOnce(&Tables<'_>) -> Result<T, AwsError>) -> Result<T, AwsError> {
        if self.view == View::Stale { self.store.behind(work) } else { self.store.transaction(work) }
    }

    /// The answer at `position` if that page is to be empty though more may follow.
    fn empty_page(&self, position: &Position) -> Option<Value> {
        let is_empty = self.view == View::EmptyPage || (self.empty_pages && position.is_empty_page());
        is_empty.then(|| json!({ "Parameters": [], "NextToken": position.after_empty_page() }))
    }

    fn parameter(&self, version: &Version, asked: &Asked, with_decryption: Option<bool>) -> Value {
        let modified = match self.view {
            View::WholeSeconds => (version.modified - 1).div_euclid(1_000) * 1_000,
            _ => version.modified,
        };
        let mut parameter = json!({
            "Name": version.name,
            "Type": version.kind,
            "Value": shown_value(version, with_decryption),
            "Version": version.number,
            "LastModifiedDate": milliseconds(modified),
            "ARN": self.place.arn(&version.name),
            "DataType": version.data_type,
        });
        if let Some(selector) = &asked.selector_text {
            parameter["Selector"] = json!(selector);
        }
        parameter
    }
}

/// `GetParameter`
pub(super) fn one(reader: &Reader<'_>, body: &[u8]) -> Result<Value, AwsError> {
    let request: Get = parse(body)?;
    let asked = reader.place.asked(required(request.name.as_deref(), "name")?)?;
    reader.read(|tables| {
        let version = find(tables, &asked)?;
        Ok(json!({ "Parameter": reader.parameter(&version, &asked, request.with_decryption) }))
    })
}

/// `GetParameters`: what does not exist is named in `InvalidParameters`.
pub(super) fn some(reader: &Reader<'_>, body: &[u8]) -> Result<Value, AwsError> {
    let request: Get = parse(body)?;
    let mut names = required(request.names, "names")?;
    if names.is_empty() {
        return Err(AwsError::constraint("[]", "names", "have length greater than or equal to 1"));
    }
    if names.len() > MAX_PARAMETERS {
        return Err(AwsError::constraint(
            &format!("[{}]", names.join(", ")),
            "names",
            &format!("have length less than or equal to {MAX_PARAMETERS}"),
        ));
    }
    names.sort_unstable();
    names.dedup();
    reader.read(|tables| {
        let (mut found, mut invalid) = (Vec::new(), Vec::new());
        for name in &names {
            let asked = reader.place.asked(name)?;
            match find(tables, &asked) {
                Ok(version) => {
                    found.push(reader.parameter(&version, &asked, request.with_decryption));
                }
                Err(error) if error.code().ends_with("NotFound") => invalid.push(name),
                Err(error) => return Err(error),
            }
        }
        Ok(json!({ "Parameters": found, "InvalidParameters": invalid }))
    })
}

/// `GetParametersByPath`
pub(super) fn by_path(reader: &Reader<'_>, body: &[u8]) -> Result<Value, AwsError> {
    let request: Get = parse(body)?;
    let path = name::path(required(request.path.as_deref(), "path")?)?;
    if request.parameter_filters.is_some_and(|filters| !filters.is_empty()) {
        return Err(AwsError::new("InvalidFilterKey", "The emulator does not know filters for GetParametersByPath."));
    }
    let size = page::size(request.max_results, MAX_PARAMETERS, MAX_PARAMETERS)?;
    let recursive = request.recursive == Some(true);
    let position = Position::of(&format!("path {recursive} {path}"), request.next_token.as_deref())?;
    if let Some(empty) = reader.empty_page(&position) {
        return Ok(empty);
    }
    reader.read(|tables| {
        let mut found = if path.is_empty() {
            // Names without a slash lie under the root, too.
            tables.list(&position.after, size + 1, |version| {
                recursive || !version.name.strip_prefix('/').unwrap_or(&version.name).contains('/')
            })?
        } else {
            tables.under(&format!("{path}/"), !recursive, &position.after, size + 1)?
        };
        let next = next_token(&mut found, size, &position);
        let parameters: Vec<Value> = found
            .iter()
            .map(|version| {
                let asked = Asked {
                    name: version.name.clone(),
                    selector: Selector::Latest,
                    selector_text: None,
                    by_arn: false,
                };
                reader.parameter(version, &asked, request.with_decryption)
            })
            .collect();
        Ok(with_token(json!({ "Parameters": parameters }), next))
    })
}

/// `DescribeParameters`
pub(super) fn describe(reader: &Reader<'_>, body: &[u8]) -> Result<Value, AwsError> {
    let request: Get = parse(body)?;
    let modern = request.parameter_filters.unwrap_or_default();
    // The older form knows no options: a name is filtered by its beginning.
    let older = request.filters.unwrap_or_default().into_iter().map(|mut filter| {
        if filter.key == "Name" {
            filter.option = Some("BeginsWith".to_owned());
        }
        filter
    });
    let filters: Vec<Filter> = modern.into_iter().chain(older).collect();
    for filter in &filters {
        filter.check()?;
    }
    let size = page::size(request.max_results, MAX_PARAMETERS, MAX_DESCRIBED)?;
    let position = Position::of(&format!("describe {filters:?}"), request.next_token.as_deref())?;
    if let Some(empty) = reader.empty_page(&position) {
        return Ok(empty);
    }
    reader.read(|tables| {
        let wanted = |version: &Version| filters.iter().all(|filter| filter.takes(version));
        let mut found = match filters.iter().find(|filter| filter.is_by_name()) {
            // Without a look at all the others.
            Some(filter) => tables.named(&filter.values, &position.after, size + 1, wanted)?,
            None => tables.list(&position.after, size + 1, wanted)?,
        };
        let next = next_token(&mut found, size, &position);
        let parameters: Vec<Value> =
            found.iter().map(|version| Value::Object(metadata(reader.place, version))).collect();
        Ok(with_token(json!({ "Parameters": parameters }), next))
    })
}

/// `GetParameterHistory`, oldest first
pub(super) fn history(reader: &Reader<'_>, body: &[u8]) -> Result<Value, AwsError> {
    let request: Get = parse(body)?;
    let name = reader.place.asked(required(request.name.as_deref(), "name")?)?.name;
    let size = page::size(request.max_results, MAX_DESCRIBED, MAX_DESCRIBED)?;
    let position = Position::of(&format!("history {name}"), request.next_token.as_deref())?;
    let after = position.after.parse().unwrap_or(0);
    reader.read(|tables| {
        let newest = tables.latest(&name)?.ok_or_else(|| not_found(&name))?;
        if let Some(empty) = reader.empty_page(&position) {
            return Ok(empty);
        }
        let mut versions = tables.history(&name, after, newest.number, size + 1)?;
        let more = versions.len() > size;
        versions.truncate(size);
        let next = versions.last().filter(|_| more).map(|last| position.next(&last.number.to_string()));
        let mut entries = Vec::new();
        for version in &versions {
            let mut entry = metadata(reader.place, version);
            entry.remove("ARN");
            entry.insert("Value".to_owned(), json!(shown_value(version, request.with_decryption)));
            entry.insert("Labels".to_owned(), json!(tables.labels(&name, version.number)?));
            entries.push(Value::Object(entry));
        }
        Ok(with_token(json!({ "Parameters": entries }), next))
    })
}

/// Whether a call asks for decrypted values.
pub(super) fn decrypts(body: &[u8]) -> bool {
    parse::<Get>(body).is_ok_and(|request| request.with_decryption == Some(true))
}

/// What a call would decrypt with keys of the account's own.
pub(super) fn encrypted(reader: &Reader<'_>, operation: &str, body: &[u8]) -> Result<Vec<Encrypted>, AwsError> {
    let request: Get = parse(body)?;
    let read = reader.read(|tables| match operation {
        "GetParameter" | "GetParameters" => {
            let names = if operation == "GetParameter" { request.name.map(|name| vec![name]) } else { request.names };
            let asked = names.unwrap_or_default().into_iter().map(|name| reader.place.asked(&name));
            let asked = asked.collect::<Result<Vec<_>, _>>()?;
            Ok(asked.iter().filter_map(|asked| find(tables, asked).ok()).collect())
        }
        "GetParameterHistory" => {
            let name = reader.place.asked(required(request.name.as_deref(), "name")?)?.name;
            tables.history(&name, 0, i64::MAX, usize::MAX)
        }
        "GetParametersByPath" => {
            let path = name::path(required(request.path.as_deref(), "path")?)?;
            // Under the root lies everything, names without a slash as well.
            if path.is_empty() {
                return tables.list("", usize::MAX, |_| true);
            }
            tables.under(&format!("{path}/"), request.recursive != Some(true), "", usize::MAX)
        }
        _ => Ok(Vec::new()),
    })?;
    let own = read.into_iter().filter_map(|version| {
        let key = version.key_id.filter(|key| is_own_key(key))?;
        Some(Encrypted { parameter: reader.place.arn(&version.name), key })
    });
    Ok(own.collect())
}

fn find(tables: &Tables<'_>, asked: &Asked) -> Result<Version, AwsError> {
    let mut name = asked.name.clone();
    if !tables.exists(&name)? {
        match name::other_spelling(&name).filter(|_| asked.by_arn) {
            Some(other) if tables.exists(&other)? => name = other,
            _ => return Err(not_found(&name)),
        }
    }
    match &asked.selector {
        Selector::Latest => return tables.latest(&name)?.ok_or_else(|| not_found(&name)),
        Selector::Version(number) => tables.version(&name, *number)?,
        Selector::Label(label) => tables.labelled(&name, label)?,
    }
    .ok_or_else(|| version_not_found(asked))
}

fn version_not_found(asked: &Asked) -> AwsError {
    let name = &asked.name;
    let what = match &asked.selector {
        Selector::Label(label) => format!("label {label} for parameter {name}. Verify the label"),
        Selector::Version(version) => format!("version {version} of {name}. Verify the version"),
        Selector::Latest => format!("a version of {name}. Verify the name"),
    };
    AwsError::new("ParameterVersionNotFound", format!("Systems Manager could not find {what} and try again."))
}

fn metadata(place: &Place, version: &Version) -> Map<String, Value> {
    let members = [
        ("Name", Some(json!(version.name))),
        ("ARN", Some(json!(place.arn(&version.name)))),
        ("Type", Some(json!(version.kind))),
        ("KeyId", version.key_id.as_ref().map(|key| json!(key))),
        ("LastModifiedDate", Some(milliseconds(version.modified))),
        ("LastModifiedUser", Some(json!(format!("arn:aws:iam::{}:user/local", place.account)))),
        ("Description", version.description.as_ref().map(|text| json!(text))),
        ("AllowedPattern", version.allowed_pattern.as_ref().map(|text| json!(text))),
        ("Version", Some(json!(version.number))),
        ("Tier", Some(json!(version.tier))),
        ("Policies", Some(json!([]))),
        ("DataType", Some(json!(version.data_type))),
    ];
    members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

/// The value, or what stands for it: a secret is shown only to those who ask for decryption.
fn shown_value(version: &Version, with_decryption: Option<bool>) -> &str {
    if version.kind == "SecureString" && with_decryption != Some(true) { &version.ciphertext } else { &version.value }
}

/// Cuts what was read to the page, and says how to go on if more was there.
fn next_token(found: &mut Vec<Version>, size: usize, position: &Position) -> Option<String> {
    let more = found.len() > size;
    found.truncate(size);
    found.last().filter(|_| more).map(|last| position.next(&last.name))
}

fn with_token(mut answer: Value, token: Option<String>) -> Value {
    if let Some(token) = token {
        answer["NextToken"] = json!(token);
    }
    answer
}

impl Filter {
    fn check(&self) -> Result<(), AwsError> {
        let options: &[&str] = match self.key.as_str() {
            "Name" => &["Equals", "BeginsWith", "Contains"],
            "Path" => &["Recursive", "OneLevel"],
            "Type" | "Tier" | "KeyId" | "DataType" => &["Equals", "BeginsWith"],
            key => {
                return Err(AwsError::new(
                    "InvalidFilterKey",
                    format!(
                        "The emulator knows the filter keys Name, Path, Type, Tier, KeyId and DataType, not {key:?}."
                    ),
                ));
            }
        };
        if self.option.as_ref().is_some_and(|option| !options.contains(&option.as_str())) {
            return Err(AwsError::new(
                "InvalidFilterOption",
                format!("The filter option for {} must be one of {}.", self.key, options.join(", ")),
            ));
        }
        if self.values.is_empty() || self.values.len() > 50 || self.values.iter().any(String::is_empty) {
            return Err(AwsError::new("InvalidFilterValue", "A filter needs 1 to 50 values, none of them empty."));
        }
        if self.key == "Path" {
            for value in &self.values {
                name::path(value)?;
            }
        }
        Ok(())
    }

    /// Whether its values are all the names that it takes.
    fn is_by_name(&self) -> bool {
        self.key == "Name" && matches!(self.option.as_deref(), None | Some("Equals"))
    }

    /// One of the values is enough.
    fn takes(&self, version: &Version) -> bool {
        let text = match self.key.as_str() {
            "Type" => &version.kind,
            "Tier" => &version.tier,
            "DataType" => &version.data_type,
            "KeyId" => version.key_id.as_ref().unwrap_or(&version.name),
            _ => &version.name,
        };
        if self.key == "KeyId" && version.key_id.is_none() {
            return false;
        }
        self.values.iter().any(|value| match (self.key.as_str(), self.option.as_deref()) {
            ("Path", option) => {
                let under = text.strip_prefix(value.trim_end_matches('/')).and_then(|rest| rest.strip_prefix('/'));
                under.is_some_and(|rest| option == Some("Recursive") || !rest.contains('/'))
            }
            (_, Some("BeginsWith")) => text.starts_with(value.as_str()),
            (_, Some("Contains")) => text.contains(value.as_str()),
            _ => text == value,
        })
    }
}
