//! The root certificates that those of AWS's endpoints have to lead to.

use std::{fs, io, sync::Arc};

use aws_smithy_http_client::tls::TrustStore;
use pem::{EncodeConfig, LineEnding, Pem, PemError};
use rustls::{RootCertStore, pki_types::CertificateDer};

/// Those of Amazon Trust Services. Reading these five takes a twentieth of the time that a system's
/// 150 take, in every cold start.
const AMAZON: &[u8] = include_bytes!("amazon-roots.pem");

/// What the parts of a bundle are called that count.
const CERTIFICATE: &str = "CERTIFICATE";

/// Which root certificates are trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrustedRoots {
    /// Amazon's, which are built in.
    Amazon,
    /// The system's.
    System,
    /// Those of a file, as PEM.
    Bundle(Arc<str>),
}

/// A bundle that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UnusableBundle {
    /// The file cannot be read.
    #[error("it cannot be read: {0}")]
    File(#[from] io::Error),
    /// The file is no PEM.
    #[error("it is no PEM: {0}")]
    Form(#[from] PemError),
    /// A certificate cannot be a root.
    #[error("a certificate in it cannot be a root: {0}")]
    Certificate(#[from] rustls::Error),
    /// The file has no certificate.
    #[error("there is no certificate in it")]
    Empty,
}

impl TrustedRoots {
    /// The certificates of the file `bundle`, if it is given. Otherwise Amazon's for the endpoints
    /// of the partitions that are known to use them, and the system's for all others.
    pub fn choose(bundle: Option<&str>, endpoint: Option<&str>, region: &str) -> Result<Self, UnusableBundle> {
        if let Some(path) = bundle {
            return Self::read(&fs::read(path)?);
        }
        let elsewhere = endpoint.is_some_and(|endpoint| endpoint.starts_with("https:"));
        let other_partition = region.starts_with("cn-") || region.starts_with("eusc-") || region.contains("-iso");
        Ok(if elsewhere || other_partition { Self::System } else { Self::Amazon })
    }

    /// The certificates of a bundle, and nothing else of it. The HTTP client panics on a
    /// certificate that it cannot use, so it gets only those that were checked here, in one
    /// canonical form.
    fn read(bundle: &[u8]) -> Result<Self, UnusableBundle> {
        let mut usable = RootCertStore::empty();
        let mut certificates = Vec::new();
        for part in pem::parse_many(bundle)?.into_iter().filter(|part| part.tag() == CERTIFICATE) {
            usable.add(CertificateDer::from(part.contents()))?;
            certificates.push(Pem::new(CERTIFICATE, part.into_contents()));
        }
        if certificates.is_empty() {
            return Err(UnusableBundle::Empty);
        }
        Ok(Self::Bundle(
            pem::encode_many_config(&certificates, EncodeConfig::new().set_line_ending(LineEnding::LF)).into(),
        ))
    }

    /// The same for the HTTP client.
    pub(super) fn store(&self) -> TrustStore {
        match self {
            Self::Amazon => TrustStore::empty().with_pem_certificate(AMAZON),
            Self::System => TrustStore::default(),
            Self::Bundle(pem) => TrustStore::empty().with_pem_certificate(pem.as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::pem::PemObject;

    use super::*;

    #[test]
    fn amazon_s_roots_are_for_amazon_s_endpoints() {
        for (endpoint, region, roots) in [
            (None, "eu-central-1", TrustedRoots::Amazon),
            (None, "us-gov-west-1", TrustedRoots::Amazon),
            (Some("http://127.0.0.1:4566"), "us-east-1", TrustedRoots::Amazon),
            (Some("https://localhost:4566"), "us-east-1", TrustedRoots::System),
            (None, "cn-north-1", TrustedRoots::System),
            (None, "eusc-de-east-1", TrustedRoots::System),
            (None, "us-isob-east-1", TrustedRoots::System),
            (None, "eu-isoe-west-1", TrustedRoots::System),
        ] {
            assert_eq!(TrustedRoots::choose(None, endpoint, region).unwrap(), roots, "{endpoint:?} {region}");
        }
    }

    /// How many certificates the HTTP client gets, all of them such as it can use.
    fn in_use(roots: &TrustedRoots) -> usize {
        let pem = match roots {
            TrustedRoots::Amazon => AMAZON,
            TrustedRoots::System => &[],
            TrustedRoots::Bundle(pem) => pem.as_bytes(),
        };
        let mut store = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            store.add(certificate.unwrap()).unwrap();
        }
        store.len()
    }

    /// The built-in roots are five that the TLS library takes; a file replaces them, wherever calls
    /// go, and a wrong one is refused.
    #[test]
    fn a_bundle_replaces_them() {
        assert_eq!(in_use(&TrustedRoots::Amazon), 5);

        let folder = tempfile::tempdir().unwrap();
        let choose = |content: &[u8]| {
            let file = folder.path().join("roots.pem");
            fs::write(&file, content).unwrap();
            TrustedRoots::choose(file.to_str(), Some("https://localhost"), "cn-north-1")
        };
        assert_eq!(in_use(&choose(AMAZON).unwrap()), 5);
        let one = std::str::from_utf8(AMAZON).unwrap().split_inclusive("-----END CERTIFICATE-----\n").next().unwrap();
        let labelled = one.replacen('\n', "\nOwner: A Company\n\n", 1).replace('\n', "\r\n");
        let others = "# Ours, Universit\u{e4}t\n-----BEGIN CRL-----\nAAAA\n-----END CRL-----\n";
        assert_eq!(in_use(&choose([others, &labelled, one].concat().as_bytes()).unwrap()), 2);
        let no_certificate = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (content, refusal) in [(&b"roots"[..], "no certificate"), (no_certificate, "cannot be a root")] {
            assert!(choose(content).unwrap_err().to_string().contains(refusal), "{refusal}");
        }
        assert!(TrustedRoots::choose(Some("/nowhere"), None, "us-east-1").is_err());
    }
}
