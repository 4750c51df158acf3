//! Sessions: the credentials that were given out for roles, and until when they are good.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::RoleCredentials;
use super::policy::Policy;

/// What the access key ids of temporary credentials begin with ("Unique identifiers" in the IAM
/// user guide).
pub(super) const TEMPORARY: &str = "ASIA";

/// Sessions in memory. Beyond, those that end soonest are forgotten.
const MOST: usize = 10_000;

/// How long a session is remembered after its end, so that its holder is told that it has ended.
const KEPT: Duration = Duration::hours(1);

/// A role, assumed.
#[derive(Debug)]
pub(crate) struct Session {
    /// The role's name.
    pub(super) role: String,
    pub(super) role_id: String,
    pub(super) name: String,
    pub(super) tags: Vec<(String, String)>,
    pub(super) policy: Option<Policy>,
    pub(super) credentials: RoleCredentials,
    /// None for those of the Lambda service, which renews them before they end.
    pub(super) expires: Option<OffsetDateTime>,
}

/// What the credentials in a call come to.
#[derive(Debug)]
pub(super) enum Found {
    Session(Arc<Session>),
    Expired,
    Unknown,
}

/// The sessions.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    /// By their access key ids.
    known: HashMap<String, Arc<Session>>,
    /// Those that end, by when.
    ends: BTreeSet<(OffsetDateTime, String)>,
}

impl Sessions {
    pub(super) fn insert(&mut self, session: Session, now: OffsetDateTime) {
        while let Some((end, _)) = self.ends.first()
            && (*end + KEPT <= now || self.known.len() >= MOST)
        {
            if let Some((_, id)) = self.ends.pop_first() {
                self.known.remove(&id);
            }
        }
        let id = session.credentials.access_key_id.clone();
        self.ends.extend(session.expires.map(|end| (end, id.clone())));
        self.known.insert(id, Arc::new(session));
    }

    pub(super) fn find(&self, access_key_id: &str, token: Option<&str>, now: OffsetDateTime) -> Found {
        match self.known.get(access_key_id) {
            Some(session) if token != Some(session.credentials.session_token.as_str()) => Found::Unknown,
            Some(session) if session.expires.is_some_and(|expires| expires <= now) => Found::Expired,
            Some(session) => Found::Session(Arc::clone(session)),
            None => Found::Unknown,
        }
    }

    /// The credentials that the Lambda service has for a role.
    pub(super) fn lasting(&self, role: &str) -> Option<RoleCredentials> {
        let mut lasting = self.known.values().filter(|session| session.expires.is_none() && session.role == role);
        lasting.next().map(|session| session.credentials.clone())
    }
}

impl RoleCredentials {
    pub(super) fn random() -> Self {
        let mut token = String::from("emulator");
        for _ in 0..4 {
            token.push_str(&Uuid::new_v4().simple().to_string());
        }
        Self {
            access_key_id: unique_id(TEMPORARY),
            secret_access_key: format!("{:.40}", format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple())),
            session_token: token,
        }
    }
}

/// An identifier as IAM makes them: four letters that tell its kind, and 16 of an alphabet of 32.
pub(super) fn unique_id(kind: &str) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let random = Uuid::new_v4().as_u128() ^ Uuid::new_v4().as_u128().rotate_left(64);
    let letters = (0..16).map(|place| {
        let index = usize::try_from((random >> (place * 5)) & 31).unwrap_or_default();
        char::from(ALPHABET[index])
    });
    kind.chars().chain(letters).collect()
}
