//! Everything that can be configured, read once at start from an injectable source (in Lambda: the
//! environment).

use std::net::IpAddr;

use aws_credential_types::Credentials;
use lambda_http::http::Uri;

use crate::{
    aws::{MAX_SESSIONS, OwnCredentials, RoleArn, Roles, TrustedRoots, UnusableBundle},
    clock::Clock,
    limit::RequestLimit,
    model::routing::{DEFAULT_ROUTES, InvalidRoutes, TagRoutes},
    telemetry::{InvalidDaemonAddress, Telemetry, Tracer},
};

/// The longest `PARAMETER_ROOT`, in bytes: two segments of 64.
pub const MAX_PARAMETER_ROOT_BYTES: usize = 2 * 65;

/// The suite's settings. Each is one environment variable, named at its field.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// `TABLE_NAME`: the DynamoDB table of the ledger.
    pub table: String,
    /// `EVENT_BUS_NAME`: the EventBridge bus that `Config Changed` goes to.
    pub event_bus: String,
    /// `PARAMETER_ROOT`: the path above all tenants' parameters; `/tenantry` by default.
    pub parameter_root: String,
    /// `PARAMETER_KMS_KEY_ID`: the KMS key for SecureString parameters; by default the account's
    /// `aws/ssm`, which every principal of the account may use.
    pub parameter_kms_key: Option<String>,
    /// `TAG_ROUTES`: JSON, tag → route.
    pub routes: TagRoutes,
    /// Whose tokens are accepted.
    pub tokens: TokenSettings,
    /// `TENANT_RATE_LIMIT` and `TENANT_BURST_LIMIT`: how many requests a second each tenant may
    /// make of an environment over time, 100 by default, and how many at once, 200 by default. None
    /// if the rate is 0.
    pub tenant_limit: Option<RequestLimit>,
    /// `CACHE_MAX_BYTES`: how much memory the entries of a warm environment may take; 32 MiB by
    /// default.
    pub cache_max_bytes: u64,
    /// How AWS is reached.
    pub aws: AwsSettings,
    /// Tells the time.
    pub clock: Clock,
    /// Where it is told what becomes of invocations. By what the Lambda service sets:
    /// `AWS_LAMBDA_FUNCTION_NAME`, the name that metrics know the function by, and
    /// `AWS_XRAY_DAEMON_ADDRESS`, the X-Ray daemon.
    pub telemetry: Telemetry,
}

/// Whose tokens are accepted.
#[derive(Clone, Debug)]
pub struct TokenSettings {
    /// `TOKEN_ISSUER`: must equal `iss`.
    pub issuer: String,
    /// `TOKEN_AUDIENCE`, comma separated: one of them must be in `aud`, or equal `client_id` where
    /// there is no `aud`.
    pub audience: Vec<String>,
    /// Where the issuer's keys are.
    pub keys: KeySource,
    /// `TENANT_CLAIM`: the claim that names the tenant; `custom:tenantId` by default.
    pub tenant_claim: String,
    /// `SCOPE_CLAIMS`, comma separated: the claims that may hold scopes, the first that a token
    /// has; `scope,scp` by default.
    pub scope_claims: Vec<String>,
    /// `AUTHOR_CLAIM`: the claim that names who writes; by default, and where a token has no such
    /// claim, `sub`, else `client_id`.
    pub author_claim: Option<String>,
}

/// Where an issuer's keys are.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// `JWKS_URL`: here.
    At(Uri),
    /// Where the document at this address says: the issuer's description of itself (`OpenID`
    /// Connect Discovery 1.0, 4), which is looked for under `TOKEN_ISSUER`.
    Described(Uri),
}

/// How AWS is reached: the variables that the Lambda service sets, and the SDKs' standard one for
/// another endpoint.
#[derive(Clone)]
pub struct AwsSettings {
    /// `AWS_REGION`.
    pub region: String,
    /// `AWS_ENDPOINT_URL`: another endpoint for all services, as the SDKs understand it.
    pub endpoint: Option<String>,
    /// The process's own credentials: `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
    /// `AWS_SESSION_TOKEN`, or whatever gives others in time.
    pub credentials: OwnCredentials,
    /// How many tenants' sessions are kept. One takes about 20 KB for each service that was called
    /// with it.
    pub max_sessions: usize,
    /// `TENANT_ROLE_ARN`, `SYSTEM_ROLE_ARN`: the roles that are taken on for tenants' data and for
    /// work across tenants. None if `TENANT_ROLE_ARN` says `none`: then all is done with the
    /// function's own rights, and nothing but our own code keeps tenants apart.
    pub roles: Option<Roles>,
    /// `AWS_CA_BUNDLE`, a file: the root certificates that are trusted instead of those that
    /// [`TrustedRoots::choose`] takes.
    pub roots: TrustedRoots,
}

impl std::fmt::Debug for AwsSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AwsSettings")
            .field("region", &self.region)
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidSettings {
    /// One that has no default is not set.
    #[error("the setting {0} is missing")]
    Missing(&'static str),
    /// One whose text means nothing.
    #[error("the setting {name} is {value:?}; it must be {expected}")]
    Unusable {
        /// The setting.
        name: &'static str,
        /// What it is.
        value: String,
        /// What it must be.
        expected: &'static str,
    },
    /// An unusable address of the X-Ray daemon.
    #[error(transparent)]
    Daemon(#[from] InvalidDaemonAddress),
    /// Unusable root certificates.
    #[error("the setting AWS_CA_BUNDLE must be a file of root certificates: {0}")]
    Roots(#[from] UnusableBundle),
    /// Unusable routes.
    #[error("the setting TAG_ROUTES: {0}")]
    Routes(#[from] InvalidRoutes),
}

impl Settings {
    /// Reads all settings from `source`: name → value. An empty value counts as none.
    pub fn load(source: &dyn Fn(&str) -> Option<String>) -> Result<Self, InvalidSettings> {
        let optional = |name: &'static str| source(name).filter(|value| !value.is_empty());
        let required = |name: &'static str| optional(name).ok_or(InvalidSettings::Missing(name));
        let (id, secret) = (required("AWS_ACCESS_KEY_ID")?, required("AWS_SECRET_ACCESS_KEY")?);
        let credentials = Credentials::from_keys(id, secret, optional("AWS_SESSION_TOKEN"));
        Self::with_credentials(source, OwnCredentials::Fixed(credentials))
    }

    /// Reads all settings but the credentials.
    pub fn with_credentials(
        source: &dyn Fn(&str) -> Option<String>,
        credentials: OwnCredentials,
    ) -> Result<Self, InvalidSettings> {
        let optional = |name: &'static str| source(name).filter(|value| !value.is_empty());
        let required = |name: &'static str| optional(name).ok_or(InvalidSettings::Missing(name));

        let issuer = required("TOKEN_ISSUER")?;
        let keys = match optional("JWKS_URL") {
            Some(value) => KeySource::At(url("JWKS_URL", value)?),
            None => KeySource::Described(description(&issuer)?),
        };
        let list = |name: &'static str, value: String, expected: &'static str| {
            let all: Vec<_> = value.split(',').map(|one| one.trim().to_owned()).collect();
            let fits = !all.iter().any(String::is_empty);
            fits.then_some(all).ok_or(InvalidSettings::Unusable { name, value, expected })
        };
        let expected = "one audience or several with a comma between them";
        let audience = list("TOKEN_AUDIENCE", required("TOKEN_AUDIENCE")?, expected)?;
        let scope_claims = optional("SCOPE_CLAIMS").unwrap_or_else(|| "scope,scp".to_owned());
        let expected = "the name of a claim, or several with a comma between them";
        let scope_claims = list("SCOPE_CLAIMS", scope_claims, expected)?;
        let cache_max_bytes = match optional("CACHE_MAX_BYTES") {
            None => 32 * 1024 * 1024,
            Some(value) => value.parse().map_err(|_| InvalidSettings::Unusable {
                name: "CACHE_MAX_BYTES",
                value,
                expected: "a number of bytes",
            })?,
        };
        let count = |name: &'static str, default: u32, least: u32, expected: &'static str| {
            let Some(value) = optional(name) else { return Ok(default) };
            let number = value.parse().ok().filter(|number| *number >= least);
            number.ok_or(InvalidSettings::Unusable { name, value, expected })
        };
        let rate = count("TENANT_RATE_LIMIT", 100, 0, "a number of requests a second, or 0 for no limit")?;
        let burst = count("TENANT_BURST_LIMIT", 200, 1, "a number of requests, at least 1")?;
        let (region, endpoint) = (required("AWS_REGION")?, optional("AWS_ENDPOINT_URL"));
        let table = required("TABLE_NAME")?;
        let parameter_root = parameter_root(optional("PARAMETER_ROOT").unwrap_or_else(|| "/tenantry".to_owned()))?;
        let roles = match required("TENANT_ROLE_ARN")?.as_str() {
            // Never by leaving it out.
            "none" => None,
            tenant => Some(Roles {
                tenant: role("TENANT_ROLE_ARN", tenant)?,
                system: optional("SYSTEM_ROLE_ARN").map(|arn| role("SYSTEM_ROLE_ARN", &arn)).transpose()?,
                table: table.clone(),
                parameter_root: parameter_root.clone(),
                region: region.clone(),
            }),
        };
        Ok(Self {
            table,
            event_bus: required("EVENT_BUS_NAME")?,
            parameter_root,
            parameter_kms_key: optional("PARAMETER_KMS_KEY_ID"),
            routes: TagRoutes::parse(optional("TAG_ROUTES").as_deref().unwrap_or(DEFAULT_ROUTES))?,
            tokens: TokenSettings {
                issuer,
                audience,
                keys,
                tenant_claim: optional("TENANT_CLAIM").unwrap_or_else(|| "custom:tenantId".to_owned()),
                scope_claims,
                author_claim: optional("AUTHOR_CLAIM"),
            },
            tenant_limit: (rate > 0).then_some(RequestLimit { rate, burst }),
            cache_max_bytes,
            aws: AwsSettings {
                roots: TrustedRoots::choose(optional("AWS_CA_BUNDLE").as_deref(), endpoint.as_deref(), &region)?,
                region,
                endpoint,
                credentials,
                max_sessions: MAX_SESSIONS,
                roles,
            },
            clock: Clock::system(),
            telemetry: Telemetry::lambda(
                optional("AWS_LAMBDA_FUNCTION_NAME"),
                optional("AWS_XRAY_DAEMON_ADDRESS").map(|at| Tracer::new(&at)).transpose()?,
            ),
        })
    }

    /// That there is a role for work across tenants where there is one for tenants: config-refresh
    /// needs both.
    pub fn require_system_role(&self) -> Result<(), InvalidSettings> {
        let lacks = self.aws.roles.as_ref().is_some_and(|roles| roles.system.is_none());
        if lacks { Err(InvalidSettings::Missing("SYSTEM_ROLE_ARN")) } else { Ok(()) }
    }

    /// The settings in the process's environment.
    pub fn from_environment() -> Result<Self, InvalidSettings> {
        Self::load(&|name| std::env::var(name).ok())
    }
}

fn role(name: &'static str, arn: &str) -> Result<RoleArn, InvalidSettings> {
    let expected = "the ARN of an IAM role, or, for TENANT_ROLE_ARN, none";
    RoleArn::parse(arn).ok_or_else(|| InvalidSettings::Unusable { name, value: arn.to_owned(), expected })
}

/// The address that the setting `name` is.
fn url(name: &'static str, value: String) -> Result<Uri, InvalidSettings> {
    let address = value.parse().ok().filter(|address: &Uri| matches!(address.scheme_str(), Some("https" | "http")));
    let expected = "a URL such as https://issuer.example.com/keys";
    address.ok_or(InvalidSettings::Unusable { name, value, expected })
}

/// Where an issuer describes itself.
fn description(issuer: &str) -> Result<Uri, InvalidSettings> {
    let address = format!("{}/.well-known/openid-configuration", issuer.strip_suffix('/').unwrap_or(issuer));
    // The description is looked for behind the issuer's path, so it can have nothing behind that.
    let address = address.parse().ok().filter(|address| is_protected(address) && !issuer.contains(['?', '#']));
    address.ok_or_else(|| InvalidSettings::Unusable {
        name: "TOKEN_ISSUER",
        value: issuer.to_owned(),
        expected: "a URL such as https://issuer.example.com, https unless its host is this machine; or give JWKS_URL",
    })
}

/// Whether nobody on the way can change what is fetched from here: by TLS, or because it does not
/// leave the machine.
pub(crate) fn is_protected(address: &Uri) -> bool {
    let host = address.host().unwrap_or_default().trim_matches(['[', ']']);
    let is_loopback = host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    !host.is_empty()
        && match address.scheme_str() {
            Some("https") => true,
            Some("http") => is_loopback,
            _ => false,
        }
}

/// Parameter Store's rules for the beginning of a name: a path, at most two levels here (so that
/// tenant, tag and ten segments stay within its 15), and neither `aws` nor `ssm` in front.
fn parameter_root(value: String) -> Result<String, InvalidSettings> {
    let segments: Vec<_> = value.strip_prefix('/').unwrap_or_default().split('/').collect();
    let fits = segments.len() <= 2
        && segments.iter().all(|segment| {
            (1..=64).contains(&segment.len())
                && segment.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        })
        && !["aws", "ssm"].iter().any(|reserved| segments[0].to_ascii_lowercase().starts_with(reserved));
    if fits {
        return Ok(value);
    }
    Err(InvalidSettings::Unusable {
        name: "PARAMETER_ROOT",
        value,
        expected: "a path of one or two segments of A-Z, a-z, 0-9, '_', '.', '-', not beginning with aws or ssm, such as /tenantry",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(changes: &[(&str, &str)]) -> Result<Settings, String> {
        Settings::load(&|name| {
            if let Some((_, value)) = changes.iter().find(|(changed, _)| *changed == name) {
                return Some((*value).to_owned());
            }
            match name {
                "TABLE_NAME"
                | "EVENT_BUS_NAME"
                | "TOKEN_AUDIENCE"
                | "AWS_REGION"
                | "AWS_ACCESS_KEY_ID"
                | "AWS_SECRET_ACCESS_KEY" => Some(name.to_lowercase()),
                "TOKEN_ISSUER" => Some("https://issuer/".to_owned()),
                "TENANT_ROLE_ARN" => Some("none".to_owned()),
                _ => None,
            }
        })
        .map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_apply_where_nothing_is_set() {
        let settings = load(&[]).unwrap();
        assert_eq!(settings.parameter_root, "/tenantry");
        let KeySource::Described(address) = settings.tokens.keys else { panic!("no keys are named") };
        assert_eq!(address, "https://issuer/.well-known/openid-configuration");
        assert_eq!(
            (settings.tokens.scope_claims, settings.tokens.author_claim),
            (vec!["scope".into(), "scp".into()], None)
        );
        assert_eq!(settings.routes.tags().count(), 3);
        assert_eq!(settings.tenant_limit, Some(RequestLimit { rate: 100, burst: 200 }));
    }

    /// A tenant's requests are limited unless that is switched off.
    #[test]
    fn a_rate_of_zero_is_no_limit() {
        for (rate, burst, expected) in [
            ("0", "", None),
            ("0", "1", None),
            ("7", "", Some((7, 200))),
            ("", "7", Some((100, 7))),
            ("4294967295", "4294967295", Some((u32::MAX, u32::MAX))),
        ] {
            let settings = load(&[("TENANT_RATE_LIMIT", rate), ("TENANT_BURST_LIMIT", burst)]).unwrap();
            assert_eq!(settings.tenant_limit.map(|limit| (limit.rate, limit.burst)), expected, "{rate} {burst}");
        }
    }

    /// An issuer describes itself behind its path, whether or not that ends in a slash (Discovery
    /// 1.0, 4). Plain HTTP is for this machine alone. Where the keys are named, nobody asks the
    /// issuer, and it may be called anything.
    #[test]
    fn an_issuer_describes_itself() {
        for (issuer, expected) in [
            ("https://issuer/", "https://issuer/.well-known/openid-configuration"),
            ("https://issuer/pool", "https://issuer/pool/.well-known/openid-configuration"),
            ("https://issuer/pool/", "https://issuer/pool/.well-known/openid-configuration"),
            ("http://127.0.0.1:8080/_local", "http://127.0.0.1:8080/_local/.well-known/openid-configuration"),
            ("http://localhost:1", "http://localhost:1/.well-known/openid-configuration"),
            ("http://[::1]:1", "http://[::1]:1/.well-known/openid-configuration"),
        ] {
            let tokens = load(&[("TOKEN_ISSUER", issuer)]).unwrap().tokens;
            let KeySource::Described(address) = tokens.keys else { panic!("no keys are named") };
            assert_eq!((tokens.issuer.as_str(), address.to_string().as_str()), (issuer, expected));
        }
        let named = [("TOKEN_ISSUER", "issuer"), ("JWKS_URL", "http://host.docker.internal:8080/keys")];
        let KeySource::At(address) = load(&named).unwrap().tokens.keys else { panic!("keys are named") };
        assert_eq!(address, named[1].1);
        let claims = [("SCOPE_CLAIMS", "permissions , roles"), ("AUTHOR_CLAIM", "email")];
        let tokens = load(&claims).unwrap().tokens;
        assert_eq!(
            (tokens.scope_claims, tokens.author_claim.as_deref()),
            (vec!["permissions".into(), "roles".into()], Some("email"))
        );
    }

    /// What cannot be used is refused at start, with its name and what it must be; secrets stay out
    /// of debug output.
    #[test]
    fn unusable_settings_are_refused_by_name() {
        for (name, value, message) in [
            ("TABLE_NAME", "", "TABLE_NAME is missing"),
            ("CACHE_MAX_BYTES", "lots", "must be a number of bytes"),
            ("TENANT_RATE_LIMIT", "-1", "TENANT_RATE_LIMIT is \"-1\"; it must be a number of requests a second"),
            ("TENANT_RATE_LIMIT", "0.5", "TENANT_RATE_LIMIT"),
            ("TENANT_RATE_LIMIT", "4294967296", "TENANT_RATE_LIMIT"),
            ("TENANT_BURST_LIMIT", "0", "TENANT_BURST_LIMIT is \"0\"; it must be a number of requests, at least 1"),
            ("TENANT_BURST_LIMIT", "many", "TENANT_BURST_LIMIT"),
            ("TOKEN_AUDIENCE", "a,", "TOKEN_AUDIENCE"),
            ("PARAMETER_ROOT", "tenantry", "PARAMETER_ROOT"),
            ("PARAMETER_ROOT", "/", "PARAMETER_ROOT"),
            ("PARAMETER_ROOT", "/a/b/c", "PARAMETER_ROOT"),
            ("PARAMETER_ROOT", "/AWS-x", "PARAMETER_ROOT"),
            ("TAG_ROUTES", "[]", "TAG_ROUTES"),
            ("TOKEN_ISSUER", "issuer", "TOKEN_ISSUER is \"issuer\"; it must be a URL"),
            ("TOKEN_ISSUER", "http://issuer.example", "https unless its host is this machine"),
            ("TOKEN_ISSUER", "http://127.0.0.1.example", "https unless its host is this machine"),
            ("TOKEN_ISSUER", "ftp://127.0.0.1", "TOKEN_ISSUER"),
            ("TOKEN_ISSUER", "https://issuer/?a=b", "TOKEN_ISSUER"),
            ("TOKEN_ISSUER", "https://issuer/#a", "TOKEN_ISSUER"),
            ("JWKS_URL", "keys", "JWKS_URL"),
            ("SCOPE_CLAIMS", "scope,", "SCOPE_CLAIMS is \"scope,\"; it must be the name of a claim"),
            ("TENANT_ROLE_ARN", "", "TENANT_ROLE_ARN is missing"),
            ("TENANT_ROLE_ARN", "None", "the ARN of an IAM role"),
            ("TENANT_ROLE_ARN", "arn:aws:iam::1234:role/r", "the ARN of an IAM role"),
            ("TENANT_ROLE_ARN", "arn:aws:iam::123456789012:user/u", "the ARN of an IAM role"),
            ("AWS_CA_BUNDLE", "/nowhere/at/all", "AWS_CA_BUNDLE"),
            ("AWS_XRAY_DAEMON_ADDRESS", "somewhere", "an IP address and a port"),
        ] {
            let error = load(&[(name, value)]).expect_err(value);
            assert!(error.contains(message), "{error}");
        }
        let settings = load(&[("AWS_SECRET_ACCESS_KEY", "hush")]).unwrap();
        assert!(!format!("{settings:?}").contains("hush"));
    }
}
