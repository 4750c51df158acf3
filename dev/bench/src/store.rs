//! A stand-in for DynamoDB and STS: HTTPS on loopback, two items of one tenant to read, and a
//! session for whoever asks.

use std::{
    io::{self, BufReader},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
};

use bench::Failure;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};
use rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    crypto::aws_lc_rs::{
        self,
        cipher_suite::{TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384},
    },
    pki_types::PrivateKeyDer,
};

use crate::http::{read_request, write_answer};

const HEAD: &str = r#"{"Item":{"pk":{"S":"TENANT#acme"},"sk":{"S":"HEAD"},"format":{"N":"1"},"revision":{"N":"41"},"epoch":{"S":"0193f1f2a3b44c5d8e6f708192a3b4c5"},"commitId":{"S":"7d0c3c1a52cb4f0e9d2b8a6f4e1c0b97"},"directoryShard":{"S":"TENANTS#2"}}}"#;
const ENTRY: &str = r#"{"Item":{"pk":{"S":"TENANT#acme"},"sk":{"S":"ENTRY#tenant_config_limits"},"format":{"N":"1"},"version":{"N":"3"},"revision":{"N":"40"},"author":{"S":"93f4b8a2-50a1-70c5-3f2e-8d1b6a4c7e90"},"modifiedAt":{"N":"1763692800123"},"commitId":{"S":"1f0e2d3c4b5a69788796a5b4c3d2e1f0"},"state":{"S":"live"},"value":{"S":"{\"requestsPerSecond\":50,\"burst\":100,\"plans\":[\"basic\",\"pro\"]}"}}}"#;

/// STS's answer to `AssumeRole`, with a token of the usual length where it says so.
const SESSION: &str = "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult><Credentials>\
    <AccessKeyId>ASIAEXAMPLEEXAMPLE00</AccessKeyId><SecretAccessKey>wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY</SecretAccessKey>\
    <SessionToken>TOKEN</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>\
    <AssumedRoleUser><AssumedRoleId>AROA:@acme</AssumedRoleId><Arn>arn:aws:sts::123456789012:assumed-role/r/@acme</Arn></AssumedRoleUser>\
    </AssumeRoleResult></AssumeRoleResponse>";

/// A running store.
#[derive(Debug)]
pub(crate) struct Store {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// The root certificate that its own was signed with, as PEM.
    pub(crate) root: String,
}

impl Store {
    /// Listens on a free port, with a certificate made for it. It lives as long as the process.
    pub(crate) fn start() -> Result<Self, Failure> {
        let (root, config) = tls()?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let config = Arc::new(config);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let config = Arc::clone(&config);
                // A connection that breaks is its client's to report.
                thread::spawn(move || serve(stream, config));
            }
        });
        Ok(Self { address, root })
    }
}

/// A root of its own and a certificate for `localhost` under it.
fn tls() -> Result<(String, ServerConfig), Failure> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let root = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec!["localhost".to_owned()])?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = params.signed_by(&key, &root)?;
    // In the order of s2n-tls, which AWS's endpoints use: its first suite is not the first of
    // rustls.
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384];
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))?;
    config.ignore_client_order = true;
    Ok((root.pem(), config))
}

fn serve(stream: TcpStream, config: Arc<ServerConfig>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let connection = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut stream = BufReader::new(StreamOwned::new(connection, stream));
    while let Some(request) = read_request(&mut stream)? {
        let asks = |text: &[u8]| request.body.windows(text.len()).any(|part| part == text);
        if asks(b"Action=") {
            let session = SESSION.replace("TOKEN", &"a-token-of-some-length-".repeat(45));
            write_answer(stream.get_mut(), "200 OK", "content-type: text/xml\r\n", session.as_bytes())?;
            continue;
        }
        let item = if asks(b"\"HEAD\"") {
            HEAD
        } else if asks(b"\"ENTRY#") {
            ENTRY
        } else {
            "{}"
        };
        let headers = "server: Server\r\ndate: Sat, 21 Nov 2026 09:00:00 GMT\r\ncontent-type: application/x-amz-json-1.0\r\n\
                       connection: keep-alive\r\nx-amzn-requestid: 4KBNVRGD25RG1KEO9UT4V3FQDJVV4KQNSO5AEMVJF66Q9ASUAAJG\r\n";
        write_answer(stream.get_mut(), "200 OK", headers, item.as_bytes())?;
    }
    Ok(())
}
