//! The issuer's public keys, and which of them tokens are verified with.

use std::collections::{HashMap, hash_map::Entry};

use async_trait::async_trait;
use jsonwebtoken::{
    Algorithm, DecodingKey, DecodingKeyKind,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse},
};
use serde::{Deserialize, de::Error as _};
use serde_json::Value;
use tracing::warn;

use super::fetch::{Document, KeyFetchError};
use crate::model::value::check_unambiguous;

/// The shortest RSA modulus that counts, in bits (RFC 7518, 3.3).
const MIN_RSA_BITS: usize = 2048;
/// The members that only private keys and shared secrets have (RFC 7518, 6.2.2, 6.3.2, 6.4.1).
const PRIVATE_MEMBERS: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// Brings the issuer's current keys.
#[async_trait]
pub trait FetchKeys: Send + Sync {
    /// Fetches the key set.
    async fn fetch(&self) -> Result<KeySet, KeyFetchError>;
}

/// The keys that an issuer's tokens are verified with, by id.
#[derive(Clone, Debug, Default)]
pub struct KeySet(HashMap<String, VerificationKey>);

/// A public key with the one algorithm that it is for.
#[derive(Clone, Debug)]
pub(super) struct VerificationKey {
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

impl KeySet {
    /// Reads a JWK set (RFC 7517, 5). It leaves out keys that are not for signatures, and keys that
    /// nobody should trust.
    pub fn parse(json: &[u8]) -> Result<Self, KeyFetchError> {
        let published = Published::parse(json).map_err(|error| KeyFetchError::Form(Document::Keys, error))?;
        let mut keys: HashMap<String, Option<(AlgorithmParameters, VerificationKey)>> = HashMap::new();
        for (id, parameters, key) in published.keys.into_iter().filter_map(usable) {
            match keys.entry(id) {
                Entry::Vacant(vacant) => _ = vacant.insert(Some((parameters, key))),
                Entry::Occupied(mut same_id) => {
                    // Nobody can know which of the two keys the id means. The same key twice is one
                    // key.
                    if same_id.get().as_ref().is_some_and(|(other, _)| *other != parameters) {
                        warn!("the issuer publishes two keys under one id; neither is used");
                        same_id.insert(None);
                    }
                }
            }
        }
        Ok(Self(keys.into_iter().filter_map(|(id, one)| Some((id, one?.1))).collect()))
    }

    pub(super) fn get(&self, id: &str) -> Option<&VerificationKey> {
        self.0.get(id)
    }
}

/// A JWK set as it is published.
#[derive(Deserialize)]
struct Published {
    keys: Vec<Value>,
}

impl Published {
    fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        let json = std::str::from_utf8(json).map_err(serde_json::Error::custom)?;
        check_unambiguous(json)?;
        serde_json::from_str(json)
    }
}

/// A published key's id and what to verify with it, if it is for RS256 or ES256 signatures. The
/// key's type decides the algorithm.
fn usable(published: Value) -> Option<(String, AlgorithmParameters, VerificationKey)> {
    if PRIVATE_MEMBERS.iter().any(|member| published.get(member).is_some()) {
        warn!("the issuer publishes a key that is not public; it is not used");
        return None;
    }
    // A key that cannot be read is of an unknown kind.
    let Jwk { common, algorithm: parameters } = serde_json::from_value(published).ok()?;
    let (algorithm, key) = match &parameters {
        AlgorithmParameters::RSA(rsa) => (Algorithm::RS256, DecodingKey::from_rsa_components(&rsa.n, &rsa.e)),
        AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, DecodingKey::from_ec_components(&curve.x, &curve.y))
        }
        _ => return None,
    };
    let key = key.ok()?;
    if let DecodingKeyKind::RsaModulusExponent { n, .. } = key.kind()
        && bits(n) < MIN_RSA_BITS
    {
        warn!("the issuer publishes an RSA key of less than {MIN_RSA_BITS} bits; it is not used");
        return None;
    }
    let signs = common.public_key_use.is_none_or(|for_use| for_use == PublicKeyUse::Signature);
    let verifies = common.key_operations.is_none_or(|operations| operations.contains(&KeyOperations::Verify));
    let named = common.key_algorithm.is_none_or(|named| named.to_string() == format!("{algorithm:?}"));
    (signs && verifies && named).then_some((common.key_id?, parameters, VerificationKey { algorithm, key }))
}

/// How many bits a number has, leading zeros left out.
fn bits(big_endian: &[u8]) -> usize {
    let zeros = big_endian.iter().take_while(|byte| **byte == 0).count();
    let significant = &big_endian[zeros..];
    significant.first().map_or(0, |first| significant.len() * 8 - first.leading_zeros() as usize)
}
