//! What a store outside the ledger refuses for good: not because it is down or busy, but because of
//! what lies there, or of a limit. Trying again does not help until that has changed.

use serde::{Serialize, Serializer};

use crate::clock::Timestamp;

/// Why a store does not take a value. The names are part of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RefusalReason {
    /// A parameter of another type lies at the key's name.
    TypeMismatch,
    /// The oldest of as many versions as are kept bears a label, so no version can be added.
    OldestVersionLabelled,
    /// The account has as many parameters as it may have.
    ParameterLimit,
    /// The parameter has a pattern of its operator's that the value does not match.
    PatternMismatch,
    /// The key that the value would be encrypted with cannot be used.
    KeyUnusable,
    /// The parameter's name has more levels than the store takes.
    NameTooDeep,
    /// The store does not take the request as it is.
    Invalid,
}

/// All reasons, for reading them back.
const REASONS: [RefusalReason; 7] = [
    RefusalReason::TypeMismatch,
    RefusalReason::OldestVersionLabelled,
    RefusalReason::ParameterLimit,
    RefusalReason::PatternMismatch,
    RefusalReason::KeyUnusable,
    RefusalReason::NameTooDeep,
    RefusalReason::Invalid,
];

impl RefusalReason {
    /// The reason's name for machines.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TypeMismatch => "type-mismatch",
            Self::OldestVersionLabelled => "oldest-version-labelled",
            Self::ParameterLimit => "parameter-limit",
            Self::PatternMismatch => "pattern-mismatch",
            Self::KeyUnusable => "key-unusable",
            Self::NameTooDeep => "name-too-deep",
            Self::Invalid => "invalid",
        }
    }

    /// The obstacle, and what helps.
    pub const fn advice(self) -> &'static str {
        match self {
            Self::TypeMismatch => {
                "a parameter of another type lies at its name; an operator has to move it away, or the tag has to keep its type"
            }
            Self::OldestVersionLabelled => {
                "the oldest of the parameter's 100 versions bears a label, so no version can be added; an operator has to move the label"
            }
            Self::ParameterLimit => {
                "the account has as many parameters as it may have in this region; an operator has to delete some, raise the limit, or give the tag the advanced tier or another store"
            }
            Self::PatternMismatch => {
                "the value does not match the pattern that an operator has set for the parameter; write one that does, or have the pattern changed"
            }
            Self::KeyUnusable => {
                "the key that it is encrypted with is disabled or not there; an operator has to enable it, or set another"
            }
            Self::NameTooDeep => {
                "its name has more levels than Parameter Store takes; choose a key with fewer segments"
            }
            Self::Invalid => "Parameter Store finds the request invalid; its operators find the key in the log",
        }
    }

    /// The reason that was stored by this name. One that only a newer writer knows reads as
    /// invalid.
    pub fn from_stored(name: &str) -> Self {
        REASONS.into_iter().find(|reason| reason.name() == name).unwrap_or(Self::Invalid)
    }

    /// Whether the store shows if the reason still holds.
    pub const fn can_be_seen(self) -> bool {
        matches!(self, Self::TypeMismatch | Self::OldestVersionLabelled)
    }
}

impl Serialize for RefusalReason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// A store's refusal of a key's version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// Why.
    pub reason: RefusalReason,
    /// Since when it is known.
    pub since: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is stored is read back as the same reason.
    #[test]
    fn reasons_are_read_back() {
        for reason in REASONS {
            assert_eq!(RefusalReason::from_stored(reason.name()), reason);
        }
        assert_eq!(RefusalReason::from_stored("of-a-newer-writer"), RefusalReason::Invalid);
    }
}
