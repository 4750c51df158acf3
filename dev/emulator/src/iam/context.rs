//! What is known of a call beside its action and resource: IAM's condition keys and their values.

use std::collections::BTreeMap;

/// The services whose calls are evaluated. Of their condition keys only those below are ever set,
/// so a policy with another one would be decided by its absence.
const EVALUATED: [&str; 7] = ["aws", "dynamodb", "events", "kms", "sqs", "ssm", "sts"];

/// Condition keys that calls are given, in small letters. A slash or colon at the end stands for
/// keys that go on.
const KNOWN: [&str; 22] = [
    "aws:principalaccount",
    "aws:principalarn",
    "aws:principaltag/",
    "aws:principaltype",
    "aws:requestedregion",
    "aws:requesttag/",
    "aws:securetransport",
    "aws:sourceaccount",
    "aws:sourcearn",
    "aws:tagkeys",
    "aws:userid",
    "dynamodb:enclosingoperation",
    "dynamodb:leadingkeys",
    "dynamodb:select",
    "events:detail-type",
    "events:source",
    "kms:calleraccount",
    "kms:encryptioncontext:",
    "kms:encryptioncontextkeys",
    "kms:viaservice",
    "sts:externalid",
    "sts:rolesessionname",
];

/// Condition keys with their values. The case of keys does not count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Context(BTreeMap<String, Vec<String>>);

impl Context {
    /// Gives a key one value.
    pub(crate) fn set(&mut self, key: &str, value: impl Into<String>) {
        self.set_all(key, [value.into()]);
    }

    /// Gives a key these values. None at all leave it absent.
    pub(crate) fn set_all(&mut self, key: &str, values: impl IntoIterator<Item = String>) {
        let values: Vec<_> = values.into_iter().collect();
        if !values.is_empty() {
            self.0.insert(key.to_lowercase(), values);
        }
    }

    /// The values of a key; none if it is absent.
    pub(super) fn get(&self, key: &str) -> &[String] {
        self.0.get(&key.to_lowercase()).map_or(&[], Vec::as_slice)
    }

    /// Adds the keys of another.
    pub(super) fn extend(&mut self, other: &Self) {
        self.0.extend(other.0.iter().map(|(key, values)| (key.clone(), values.clone())));
    }
}

/// Whether a policy may ask for a key: one that calls are given, or one of a service whose calls
/// never come here.
pub(super) fn check_key(key: &str) -> Result<(), String> {
    let lower = key.to_lowercase();
    let Some((service, name)) = lower.split_once(':') else {
        return Err(format!("{key:?} is no condition key"));
    };
    let is = |known: &str| match lower.strip_prefix(known) {
        Some(rest) => known.ends_with(['/', ':']) != rest.is_empty(),
        None => false,
    };
    if name.is_empty() || (EVALUATED.contains(&service) && !KNOWN.into_iter().any(is)) {
        return Err(format!("the emulator does not evaluate the condition key {key:?}"));
    }
    Ok(())
}
