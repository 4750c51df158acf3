//! Systems Manager Parameter Store: each key a parameter `<root>/<tenant>/<tag>/<name>`.
//!
//! A JSON string lies there raw, so that direct readers find what they expect. Parameter Store
//! would trim the white space around it, so the ledger keeps that. Any other value lies there as
//! JSON text, and so does a string that Parameter Store would refuse or change all the same. The
//! ledger knows which of the two it is.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use aws_sdk_ssm::{
    error::ProvideErrorMetadata as _,
    operation::put_parameter::PutParameterError,
    types::{Parameter, ParameterTier, ParameterType},
};
use futures_util::future::try_join_all;

use super::{
    ExternalStore, MAX_PARAMETER_ROOT_BYTES, Placed, RouteOptions, StoreContext, StoreError, StoredText, StoredVersion,
    UnusableRoute, ValueRefused, ValueStore,
};
use crate::{
    auth::TenantScope,
    aws::{AwsClients, AwsFailure, FailureKind, Service, once_to_parameter_store},
    backoff::Backoff,
    clock::Timestamp,
    model::{
        entry::{IntentId, Locator, TextKind, Trimmed, ValueFormat, Version},
        key::{ConfigKey, InvalidKey, MAX_NAME_BYTES, MAX_TAG_BYTES},
        refusal::RefusalReason,
        routing::{Strategy, TagRoutes},
        tenant::{InvalidTenantId, MAX_TENANT_ID_BYTES, TenantId},
        value::ConfigValue,
    },
};

/// The largest value of a standard and of an advanced parameter, in bytes (Parameter Store's
/// limits).
const MAX_STANDARD_BYTES: usize = 4 * 1024;
const MAX_ADVANCED_BYTES: usize = 8 * 1024;
// Parameter Store counts a name together with the ARN before it, up to 1,011 characters. The
// longest such prefix, `arn:aws-us-gov:ssm:us-gov-west-1:123456789012:parameter`, takes 56. So no
// name here can be too long.
const _: () =
    assert!(56 + MAX_PARAMETER_ROOT_BYTES + 1 + MAX_TENANT_ID_BYTES + 1 + MAX_TAG_BYTES + 1 + MAX_NAME_BYTES <= 1_011);
/// How much white space around a text the ledger keeps, in bytes. A text with more lies as JSON.
const MAX_TRIMMED_BYTES: usize = 1024;
/// How many versions Parameter Store keeps. The oldest makes room for the next, unless it bears a
/// label.
const MAX_VERSIONS: usize = 100;
/// The most names of one `GetParameters`.
const MAX_NAMES: usize = 10;
/// The first and the last wait for a put that cannot be found yet; they double, 1.55 s in all.
const MIN_LOCATE_WAIT: Duration = Duration::from_millis(50);
const MAX_LOCATE_WAIT: Duration = Duration::from_millis(800);
/// How often a throttled put is tried, and the longest wait between two tries.
const MAX_PUTS: u32 = 3;
const PUT_BACKOFF: Backoff = Backoff::up_to(Duration::from_millis(400));

#[derive(Debug)]
struct ParameterStore {
    clients: AwsClients,
    root: String,
    strategy: Strategy,
    secure: bool,
    kms_key: Option<String>,
    advanced: bool,
}

pub(super) fn open(
    context: &StoreContext<'_>,
    options: &mut RouteOptions,
) -> Result<Arc<dyn ValueStore>, UnusableRoute> {
    let secure = options.take("type", &["String", "SecureString"])? == Some("SecureString");
    let advanced = options.take("tier", &["standard", "advanced"])? == Some("advanced");
    options.finish()?;
    let strategy = match (secure, options.strategy) {
        (false, chosen) => chosen.unwrap_or(Strategy::WriteThrough),
        (true, None | Some(Strategy::WriteAround)) => Strategy::WriteAround,
        (true, Some(other)) => {
            return Err(options.unusable(format!(
                "SecureString is always write-around, because {other} would keep the plaintext in the ledger; leave the strategy out"
            )));
        }
    };
    let StoreContext { clients, parameters } = context;
    Ok(Arc::new(ParameterStore {
        clients: AwsClients::clone(clients),
        root: parameters.root.clone(),
        strategy,
        secure,
        kms_key: parameters.kms_key.clone(),
        advanced,
    }))
}

impl ParameterStore {
    fn name(&self, scope: &TenantScope, key: &ConfigKey) -> String {
        parameter_name(&self.root, scope.tenant(), key)
    }

    /// The type of the route's parameters.
    fn kind(&self) -> ParameterType {
        if self.secure { ParameterType::SecureString } else { ParameterType::String }
    }

    fn max_bytes(&self) -> usize {
        if self.advanced { MAX_ADVANCED_BYTES } else { MAX_STANDARD_BYTES }
    }
}

impl ValueStore for ParameterStore {
    fn check(&self, key: &ConfigKey, value: &ConfigValue) -> Result<(), ValueRefused> {
        let bytes = encode(value).0.len();
        if bytes > self.max_bytes() {
            let (tag, limit) = (key.tag().to_owned(), self.max_bytes());
            return Err(ValueRefused::TooLarge { store: "Parameter Store", tag, bytes, limit });
        }
        Ok(())
    }

    fn external(&self) -> Option<(&dyn ExternalStore, Strategy)> {
        Some((self, self.strategy))
    }

    fn format_of(&self, value: &ConfigValue) -> ValueFormat {
        match encode(value).1 {
            TextKind::Text(_) => ValueFormat::Text,
            TextKind::Json if value.is_text() => ValueFormat::QuotedText,
            TextKind::Json => ValueFormat::Json,
        }
    }

    fn is_secret(&self) -> bool {
        self.secure
    }
}

#[async_trait]
impl ExternalStore for ParameterStore {
    async fn put(
        &self,
        scope: &TenantScope,
        key: &ConfigKey,
        value: &ConfigValue,
        id: &IntentId,
        version: Version,
    ) -> Result<Placed, StoreError> {
        let (text, kind) = encode(value);
        // The SDK must not repeat a put whose answer was lost: a second version would bear the same
        // id.
        let mut put = self
            .clients
            .parameter_store(scope)
            .await?
            .put_parameter()
            .name(self.name(scope, key))
            .value(text)
            .overwrite(true)
            .description(description(id, version))
            .r#type(self.kind());
        if self.secure {
            put = put.set_key_id(self.kms_key.clone());
        }
        if self.advanced {
            // Never taken back: an advanced parameter cannot become a standard one.
            put = put.tier(ParameterTier::Advanced);
        }
        let (mut tries, mut backoff) = (0, PUT_BACKOFF);
        loop {
            tries += 1;
            let failure = match put.clone().customize().config_override(once_to_parameter_store()).send().await {
                Ok(answer) => {
                    let version = u64::try_from(answer.version).unwrap_or_default();
                    return Ok(Placed { version, kind });
                }
                Err(error) => {
                    if let Some(reason) = error.as_service_error().and_then(refusal) {
                        return Err(StoreError::Refused { service: Service::ParameterStore, reason });
                    }
                    // Parameter Store's messages may repeat the value.
                    AwsFailure::of(Service::ParameterStore, "PutParameter", &error).code_only()
                }
            };
            if failure.kind != FailureKind::Throttled || tries == MAX_PUTS {
                return Err(failure.into());
            }
            backoff.wait().await;
        }
    }

    async fn locate(
        &self,
        scope: &TenantScope,
        key: &ConfigKey,
        id: &IntentId,
        version: u64,
    ) -> Result<Locator, StoreError> {
        let name = self.name(scope, key);
        let mut wait = MIN_LOCATE_WAIT;
        loop {
            match self.locate_once(scope, &name, id, version).await {
                // A read may not see at once what was put.
                Err(StoreError::Gone) if wait <= MAX_LOCATE_WAIT => tokio::time::sleep(wait).await,
                found => return found,
            }
            wait *= 2;
        }
    }

    async fn get(
        &self,
        scope: &TenantScope,
        places: &[(&ConfigKey, Locator, &TextKind)],
    ) -> Result<Vec<Option<ConfigValue>>, StoreError> {
        let mut values = Vec::with_capacity(places.len());
        for chunk in places.chunks(MAX_NAMES) {
            let names: Vec<_> = chunk.iter().map(|(key, _, _)| self.name(scope, key)).collect();
            let selectors =
                names.iter().zip(chunk).map(|(name, (_, locator, _))| format!("{name}:{}", locator.version));
            let answer = self
                .clients
                .parameter_store(scope)
                .await?
                .get_parameters()
                .set_names(Some(selectors.collect()))
                .with_decryption(true)
                .send()
                .await
                .map_err(|error| AwsFailure::of(Service::ParameterStore, "GetParameters", &error))?;
            let found = names.iter().zip(chunk).map(async |(name, (key, locator, kind))| {
                let found = answer.parameters().iter().find(|found| found.name() == Some(name));
                match found.map_or(Shown::Another, |found| shown(found, *locator)) {
                    Shown::Wanted(text) => decode(text, kind).map(Some),
                    Shown::Another => Ok(None),
                    Shown::AtAnotherTime => {
                        Ok(self.get_history(scope, key, &[(*locator, *kind)]).await?.pop().flatten())
                    }
                }
            });
            values.extend(try_join_all(found).await?);
        }
        Ok(values)
    }

    async fn get_history(
        &self,
        scope: &TenantScope,
        key: &ConfigKey,
        places: &[(Locator, &TextKind)],
    ) -> Result<Vec<Option<ConfigValue>>, StoreError> {
        let history = self.history(scope, &self.name(scope, key), true).await?;
        let values = places.iter().map(|(wanted, kind)| {
            let found = history.iter().find(|one| {
                u64::try_from(one.version()).ok() == Some(wanted.version)
                    && timestamp(one.last_modified_date()) == Some(wanted.modified_at)
            });
            found.and_then(|one| one.value()).map(|text| decode(text, kind)).transpose()
        });
        values.collect()
    }

    async fn versions(
        &self,
        scope: &TenantScope,
        key: &ConfigKey,
        with_values: bool,
    ) -> Result<Vec<StoredVersion>, StoreError> {
        let history = self.history(scope, &self.name(scope, key), with_values).await?;
        let versions = history.into_iter().map(|one| {
            let version = u64::try_from(one.version()).unwrap_or_default();
            Ok(StoredVersion {
                place: locator(version, one.last_modified_date())?,
                mark: one.description().and_then(mark),
                is_secret: one.r#type() == Some(&ParameterType::SecureString),
                fits: one.r#type() == Some(&self.kind()),
                text: StoredText(one.value.unwrap_or_default()),
            })
        });
        versions.collect()
    }

    async fn in_the_way(&self, scope: &TenantScope, key: &ConfigKey) -> Result<Option<RefusalReason>, StoreError> {
        let history = self.history(scope, &self.name(scope, key), false).await?;
        let has_other_type = history.last().is_some_and(|newest| newest.r#type() != Some(&self.kind()));
        let is_full = history.len() >= MAX_VERSIONS;
        let oldest_is_kept = history.first().is_some_and(|oldest| !oldest.labels().is_empty());
        Ok(match (has_other_type, is_full && oldest_is_kept) {
            (true, _) => Some(RefusalReason::TypeMismatch),
            (false, true) => Some(RefusalReason::OldestVersionLabelled),
            (false, false) => None,
        })
    }

    fn interpret(&self, StoredText(text): &StoredText, format: ValueFormat) -> (ConfigValue, TextKind) {
        let json = || ConfigValue::parse(text).ok();
        let read = match format {
            ValueFormat::Text => None,
            ValueFormat::QuotedText => json().filter(ConfigValue::is_text),
            ValueFormat::Json => json(),
        };
        let raw = || (ConfigValue::from_text(text), TextKind::Text(Trimmed::default()));
        read.map_or_else(raw, |value| (value, TextKind::Json))
    }

    async fn remove(&self, scope: &TenantScope, key: &ConfigKey) -> Result<(), StoreError> {
        let delete = self.clients.parameter_store(scope).await?.delete_parameter().name(self.name(scope, key));
        match delete.customize().config_override(once_to_parameter_store()).send().await {
            Ok(_) => Ok(()),
            Err(error) => {
                let failure = AwsFailure::of(Service::ParameterStore, "DeleteParameter", &error);
                if failure.is("ParameterNotFound") { Ok(()) } else { Err(failure.into()) }
            }
        }
    }
}

impl ParameterStore {
    async fn locate_once(
        &self,
        scope: &TenantScope,
        name: &str,
        id: &IntentId,
        version: u64,
    ) -> Result<Locator, StoreError> {
        // Not by DescribeParameters: whoever may call that sees the parameters of every tenant,
        // because IAM cannot limit it to some.
        let is_ours = |description: Option<&str>| description.and_then(mark).is_some_and(|(found, _)| found == *id);
        let history = self.history(scope, name, false).await?;
        let ours =
            history.iter().find(|one| u64::try_from(one.version()).ok() == Some(version) && is_ours(one.description()));
        Ok(locator(version, ours.ok_or(StoreError::Gone)?.last_modified_date())?)
    }

    /// All versions that Parameter Store keeps, the oldest first. A page may be empty and not be
    /// the last.
    async fn history(
        &self,
        scope: &TenantScope,
        name: &str,
        with_decryption: bool,
    ) -> Result<Vec<aws_sdk_ssm::types::ParameterHistory>, StoreError> {
        let mut versions = Vec::new();
        let mut token = None;
        loop {
            let answer = self
                .clients
                .parameter_store(scope)
                .await?
                .get_parameter_history()
                .name(name)
                .with_decryption(with_decryption)
                .set_next_token(token)
                .send()
                .await;
            let answer = match answer {
                Ok(answer) => answer,
                Err(error) => {
                    let failure = AwsFailure::of(Service::ParameterStore, "GetParameterHistory", &error);
                    return if failure.is("ParameterNotFound") { Ok(Vec::new()) } else { Err(failure.into()) };
                }
            };
            versions.extend(answer.parameters.unwrap_or_default());
            token = answer.next_token;
            if token.is_none() {
                return Ok(versions);
            }
        }
    }
}

/// The name of the parameter that a tenant's key lies in.
pub(super) fn parameter_name(root: &str, tenant: &TenantId, key: &ConfigKey) -> String {
    format!("{root}/{tenant}/{}/{}", key.tag(), key.name())
}

/// Why a parameter is not a key's.
#[derive(Debug, thiserror::Error)]
pub enum NotAKey {
    /// It lies elsewhere.
    #[error("it does not lie under the root of the suite's parameters")]
    Elsewhere,
    /// Its tenant cannot be one.
    #[error("it names no tenant: {0}")]
    Tenant(#[from] InvalidTenantId),
    /// Its tag and name cannot be those of a key.
    #[error("it names no key: {0}")]
    Key(#[from] InvalidKey),
    /// A key of that name lies elsewhere.
    #[error("the tag of {0} is not {1}")]
    OtherTag(ConfigKey, String),
}

/// The tenant and the key whose value would lie in the parameter `name`.
pub(super) fn key_of_parameter(root: &str, routes: &TagRoutes, name: &str) -> Result<(TenantId, ConfigKey), NotAKey> {
    let path = name.strip_prefix(root).and_then(|rest| rest.strip_prefix('/')).ok_or(NotAKey::Elsewhere)?;
    let (tenant, rest) = path.split_once('/').unwrap_or((path, ""));
    let tenant = tenant.parse()?;
    let (tag, name) = rest.split_once('/').unwrap_or((rest, ""));
    let key = ConfigKey::parse(&format!("{tag}{name}"), routes)?;
    if key.tag() == tag { Ok((tenant, key)) } else { Err(NotAKey::OtherTag(key, tag.to_owned())) }
}

/// Why a put is refused for good. Other errors pass, or are a missing permission. Errors about
/// policies, patterns or tiers of a put cannot occur, because our puts have none.
fn refusal(error: &PutParameterError) -> Option<RefusalReason> {
    Some(match error {
        PutParameterError::HierarchyTypeMismatchException(_) => RefusalReason::TypeMismatch,
        PutParameterError::ParameterMaxVersionLimitExceeded(_) => RefusalReason::OldestVersionLabelled,
        PutParameterError::ParameterLimitExceeded(_) => RefusalReason::ParameterLimit,
        PutParameterError::ParameterPatternMismatchException(_) => RefusalReason::PatternMismatch,
        PutParameterError::InvalidKeyId(_) => RefusalReason::KeyUnusable,
        PutParameterError::HierarchyLevelLimitExceededException(_) => RefusalReason::NameTooDeep,
        // The SDK has no type for it.
        other if other.code() == Some("ValidationException") => RefusalReason::Invalid,
        _ => return None,
    })
}

/// The description that every put of ours carries: a mark, the id, and our version.
fn description(id: &IntentId, version: Version) -> String {
    format!("tenantry/1 {id} v{version}")
}

/// The id and version of a description of ours.
fn mark(description: &str) -> Option<(IntentId, Version)> {
    let (id, version) = description.strip_prefix("tenantry/1 ")?.split_once(" v")?;
    Some((IntentId::from_stored(id), Version::new(version.parse().ok()?)))
}

/// How a parameter compares with the locator that it was asked for by.
enum Shown<'a> {
    /// Exactly the locator's version, with its text.
    Wanted(&'a str),
    /// A version of that number with another time. It may be of another life of the name. Or
    /// `GetParameters` shows other times than `GetParameterHistory`, where the locator is from: AWS
    /// does not promise the same milliseconds. The history decides.
    AtAnotherTime,
    /// Another version.
    Another,
}

fn shown(found: &Parameter, locator: Locator) -> Shown<'_> {
    match found.value() {
        Some(text) if u64::try_from(found.version()).ok() == Some(locator.version) => {
            let is_same = timestamp(found.last_modified_date()) == Some(locator.modified_at);
            if is_same { Shown::Wanted(text) } else { Shown::AtAnotherTime }
        }
        _ => Shown::Another,
    }
}

pub(super) fn locator(version: u64, modified_at: Option<&aws_smithy_types::DateTime>) -> Result<Locator, AwsFailure> {
    let modified_at = timestamp(modified_at).ok_or_else(|| {
        AwsFailure::unexpected(Service::ParameterStore, "GetParameterHistory", "a parameter without a date")
    })?;
    Ok(Locator { version, modified_at })
}

fn timestamp(at: Option<&aws_smithy_types::DateTime>) -> Option<Timestamp> {
    let millis = at?.to_millis().ok()?;
    u64::try_from(millis).ok().map(Timestamp::from_millis)
}

/// A value as Parameter Store's text.
fn encode(value: &ConfigValue) -> (String, TextKind) {
    if let Some((raw, trimmed)) = value.to_text().as_deref().and_then(trim) {
        return (raw.to_owned(), TextKind::Text(trimmed));
    }
    // In JSON text two braces can only meet inside a string, where an escape may stand for the
    // second one.
    (value.as_json().replace("{{", "{\\u007b"), TextKind::Json)
}

/// The part of a text that Parameter Store keeps as it is, and the white space around it. None if
/// the text cannot lie there raw: Parameter Store refuses empty values, and takes `{{` for a
/// reference to another parameter.
fn trim(text: &str) -> Option<(&str, Trimmed)> {
    let rest = text.trim_start_matches(may_be_trimmed);
    let raw = rest.trim_end_matches(may_be_trimmed);
    let (start, end) = (&text[..text.len() - rest.len()], &rest[raw.len()..]);
    let is_control = |c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t');
    let is_kept = !raw.is_empty() && !raw.contains("{{") && !raw.contains(is_control);
    let is_short = start.len() + end.len() <= MAX_TRIMMED_BYTES;
    (is_kept && is_short).then(|| (raw, Trimmed { start: start.into(), end: end.into() }))
}

/// Whether Parameter Store may trim a character off the ends of a value. It does not document
/// which. So this is all that some language's `trim` takes for white space, including zero-width
/// spaces and the byte order mark. A text with other control characters never lies raw.
fn may_be_trimmed(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{180e}' | '\u{200b}' | '\u{feff}')
}

fn decode(text: &str, kind: &TextKind) -> Result<ConfigValue, StoreError> {
    match kind {
        TextKind::Text(trimmed) => Ok(ConfigValue::from_text(&trimmed.around(text))),
        TextKind::Json => ConfigValue::parse(text).map_err(StoreError::Unreadable),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(start: &str, end: &str) -> TextKind {
        TextKind::Text(Trimmed { start: start.into(), end: end.into() })
    }

    /// The errors in `PutParameter`'s reference that last have a reason; those that pass, and those
    /// that our puts cannot cause, have none.
    #[test]
    fn each_refusal_has_its_reason() {
        use PutParameterError as Error;
        use aws_sdk_ssm::{error::ErrorMetadata, types::error as e};
        let of_code = |code| Error::generic(ErrorMetadata::builder().code(code).build());
        let wrong_type = e::HierarchyTypeMismatchException::builder().build();
        let labelled = e::ParameterMaxVersionLimitExceeded::builder().build();
        let limit = e::ParameterLimitExceeded::builder().build();
        let pattern = e::ParameterPatternMismatchException::builder().build();
        let too_deep = e::HierarchyLevelLimitExceededException::builder().build();
        for (error, reason) in [
            (Error::HierarchyTypeMismatchException(wrong_type), Some("type-mismatch")),
            (Error::ParameterMaxVersionLimitExceeded(labelled), Some("oldest-version-labelled")),
            (Error::ParameterLimitExceeded(limit), Some("parameter-limit")),
            (Error::ParameterPatternMismatchException(pattern), Some("pattern-mismatch")),
            (Error::InvalidKeyId(e::InvalidKeyId::builder().build()), Some("key-unusable")),
            (Error::HierarchyLevelLimitExceededException(too_deep), Some("name-too-deep")),
            (of_code("ValidationException"), Some("invalid")),
            (Error::TooManyUpdates(e::TooManyUpdates::builder().build()), None),
            (Error::InternalServerError(e::InternalServerError::builder().build()), None),
            (of_code("ThrottlingException"), None),
            (of_code("AccessDeniedException"), None),
        ] {
            assert_eq!(refusal(&error).map(RefusalReason::name), reason, "{error:?}");
        }
    }

    /// Strings lie raw if Parameter Store keeps them but for white space around them, else as JSON
    /// text.
    #[test]
    fn text_is_raw_where_it_survives() {
        let spaces = " ".repeat(MAX_TRIMMED_BYTES);
        let wide = format!(r#""{spaces}x""#);
        let too_wide = format!(r#""{spaces}x ""#);
        for (json, stored, kind) in [
            (r#""db.internal""#, "db.internal", text("", "")),
            (r#""42""#, "42", text("", "")),
            ("42", "42", TextKind::Json),
            (r#"" x""#, "x", text(" ", "")),
            (r#""x\n""#, "x", text("", "\n")),
            (
                r#""\ufeff\r\n a\n\tb \u00a0\u200b\u3000\n""#,
                "a\n\tb",
                text("\u{feff}\r\n ", " \u{a0}\u{200b}\u{3000}\n"),
            ),
            (r#""\u000b\u0085x\f""#, "x", text("\u{b}\u{85}", "\u{c}")),
            (wide.as_str(), "x", text(&spaces, "")),
            (too_wide.as_str(), too_wide.as_str(), TextKind::Json),
            (r#""""#, r#""""#, TextKind::Json),
            (r#"" \n ""#, r#"" \n ""#, TextKind::Json),
            (r#""\ufeff""#, "\"\u{feff}\"", TextKind::Json),
            (r#""x\u0000y""#, r#""x\u0000y""#, TextKind::Json),
            (r#""x\u0000\n""#, r#""x\u0000\n""#, TextKind::Json),
            (r#""a{{b}}\n""#, r#""a{\u007bb}}\n""#, TextKind::Json),
            (r#""{{ssm:a}}""#, r#""{\u007bssm:a}}""#, TextKind::Json),
            (r#""{{{{""#, r#""{\u007b{\u007b""#, TextKind::Json),
            (r#""{{{""#, r#""{\u007b{""#, TextKind::Json),
            (r#"{"a":{"b":"{{"}}"#, r#"{"a":{"b":"{\u007b"}}"#, TextKind::Json),
        ] {
            let value = ConfigValue::parse(json).unwrap();
            assert_eq!(encode(&value), (stored.to_owned(), kind.clone()), "{json}");
            assert_eq!(decode(stored, &kind).unwrap(), value, "{json}");
        }
    }

    proptest! {
        /// What is put comes back byte for byte, and never holds what Parameter Store would refuse
        /// or change.
        #[test]
        fn every_string_round_trips(text in "[{} \\t\\n\\x00\\x0b\\x1c\\u{85}\\u{2028}\\u{feff}a\\\\\"é]{0,12}") {
            let value = ConfigValue::from_text(&text);
            let (stored, kind) = encode(&value);
            prop_assert!(!stored.is_empty() && !stored.contains("{{"));
            let is_trimmed = |c: char| c.is_whitespace() || c <= ' ' || c == '\u{feff}';
            prop_assert_eq!(stored.trim_matches(is_trimmed), &stored);
            prop_assert_eq!(decode(&stored, &kind).unwrap(), value);
        }
    }
}
