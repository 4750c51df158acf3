//! Reads everything that can be configured, once at start, from an injectable source (in Lambda:
//! the environment), into the settings of each module.

use ::http::Uri;
use aws_credential_types::Credentials;

use crate::{
    auth::{KeySource, TokenSettings},
    aws::{AwsSettings, MAX_SESSIONS, OwnCredentials, RoleArn, Roles, TrustedRoots, UnusableBundle},
    backend::BackendSettings,
    clock::Clock,
    limit::RequestLimit,
    model::routing::{DEFAULT_ROUTES, InvalidRoutes, TagRoutes},
    store::ParameterSettings,
    telemetry::{InvalidDaemonAddress, Telemetry, Tracer},
};

/// The functions' settings. Each is one environment variable, named at its field.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What functions and the streaming service share.
    pub shared: SharedSettings,
    /// `EVENT_BUS_NAME`: the EventBridge bus that `Config Changed` goes to.
    pub event_bus: String,
    /// Where lines and traces of invocations go. Set by the Lambda service:
    /// `AWS_LAMBDA_FUNCTION_NAME`, the name that metrics know the function by, and
    /// `AWS_XRAY_DAEMON_ADDRESS`, the X-Ray daemon.
    pub telemetry: Telemetry,
}

/// The settings that functions and the streaming service share: those of reading.
#[derive(Clone, Debug)]
pub struct SharedSettings {
    /// Where ledgers and stores are.
    pub backend: BackendSettings,
    /// Whose tokens are accepted.
    pub tokens: TokenSettings,
    /// `TENANT_RATE_LIMIT` and `TENANT_BURST_LIMIT`: how many requests a second each tenant may
    /// make of an environment over time, 100 by default, and how many at once, 200 by default. None
    /// if the rate is 0.
    pub tenant_limit: Option<RequestLimit>,
    /// `CACHE_MAX_BYTES`: how much memory the entries of a warm environment may take; 32 MiB by
    /// default.
    pub cache_max_bytes: u64,
    /// Tells the time.
    pub clock: Clock,
}

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
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
    /// The settings in the process's environment.
    pub fn from_environment() -> Result<Self, InvalidSettings> {
        Self::load(&|name| std::env::var(name).ok())
    }

    /// Reads all settings from `source`: name → value. An empty value counts as none.
    pub fn load(source: &dyn Fn(&str) -> Option<String>) -> Result<Self, InvalidSettings> {
        let read = Reader(source);
        let (id, secret) = (read.required("AWS_ACCESS_KEY_ID")?, read.required("AWS_SECRET_ACCESS_KEY")?);
        let credentials = Credentials::from_keys(id, secret, read.optional("AWS_SESSION_TOKEN"));
        let mut shared = SharedSettings::load(source, OwnCredentials::Fixed(credentials))?;
        shared.backend.parameters.kms_key = read.optional("PARAMETER_KMS_KEY_ID");
        Ok(Self {
            shared,
            event_bus: read.required("EVENT_BUS_NAME")?,
            telemetry: Telemetry::lambda(
                read.optional("AWS_LAMBDA_FUNCTION_NAME"),
                read.optional("AWS_XRAY_DAEMON_ADDRESS").map(|at| Tracer::new(&at)).transpose()?,
            ),
        })
    }
}

impl SharedSettings {
    /// Reads the settings from `source`: name → value. An empty value counts as none. Without the
    /// key that parameters are encrypted with: reading needs none.
    pub fn load(source: &dyn Fn(&str) -> Option<String>, credentials: OwnCredentials) -> Result<Self, InvalidSettings> {
        let read = Reader(source);
        let tokens = read.tokens()?;
        let cache_max_bytes = match read.optional("CACHE_MAX_BYTES") {
            None => 32 * 1024 * 1024,
            Some(value) => value.parse().map_err(|_| InvalidSettings::Unusable {
                name: "CACHE_MAX_BYTES",
                value,
                expected: "a number of bytes",
            })?,
        };
        let rate = read.count("TENANT_RATE_LIMIT", 100, 0, "a number of requests a second, or 0 for no limit")?;
        let burst = read.count("TENANT_BURST_LIMIT", 200, 1, "a number of requests, at least 1")?;
        let (region, endpoint) = (read.required("AWS_REGION")?, read.optional("AWS_ENDPOINT_URL"));
        let table = read.required("TABLE_NAME")?;
        let root = parameter_root(read.optional("PARAMETER_ROOT").unwrap_or_else(|| "/tenantry".to_owned()))?;
        let roles = match read.required("TENANT_ROLE_ARN")?.as_str() {
            // Never by leaving it out.
            "none" => None,
            tenant => Some(Roles {
                tenant: role("TENANT_ROLE_ARN", tenant)?,
                system: read.optional("SYSTEM_ROLE_ARN").map(|arn| role("SYSTEM_ROLE_ARN", &arn)).transpose()?,
                table: table.clone(),
                parameter_root: root.clone(),
                region: region.clone(),
            }),
        };
        let roots = TrustedRoots::choose(read.optional("AWS_CA_BUNDLE").as_deref(), endpoint.as_deref(), &region)?;
        Ok(Self {
            backend: BackendSettings {
                table,
                routes: TagRoutes::parse(read.optional("TAG_ROUTES").as_deref().unwrap_or(DEFAULT_ROUTES))?,
                parameters: ParameterSettings { root, kms_key: None },
                aws: AwsSettings { region, endpoint, credentials, max_sessions: MAX_SESSIONS, roles, roots },
            },
            tokens,
            tenant_limit: (rate > 0).then_some(RequestLimit { rate, burst }),
            cache_max_bytes,
            clock: Clock::system(),
        })
    }

    /// That there is a role for work across tenants where there is one for tenants: config-refresh
    /// needs both.
    pub fn require_system_role(&self) -> Result<(), InvalidSettings> {
        let lacks = self.backend.aws.roles.as_ref().is_some_and(|roles| roles.system.is_none());
        if lacks { Err(InvalidSettings::Missing("SYSTEM_ROLE_ARN")) } else { Ok(()) }
    }
}

/// Reads single settings from a source. An empty value counts as none.
struct Reader<'a>(&'a dyn Fn(&str) -> Option<String>);

impl Reader<'_> {
    fn optional(&self, name: &'static str) -> Option<String> {
        (self.0)(name).filter(|value| !value.is_empty())
    }

    fn required(&self, name: &'static str) -> Result<String, InvalidSettings> {
        self.optional(name).ok_or(InvalidSettings::Missing(name))
    }

    fn count(
        &self,
        name: &'static str,
        default: u32,
        least: u32,
        expected: &'static str,
    ) -> Result<u32, InvalidSettings> {
        let Some(value) = self.optional(name) else { return Ok(default) };
        let number = value.parse().ok().filter(|number| *number >= least);
        number.ok_or(InvalidSettings::Unusable { name, value, expected })
    }

    fn tokens(&self) -> Result<TokenSettings, InvalidSettings> {
        let issuer = self.required("TOKEN_ISSUER")?;
        let keys = match self.optional("JWKS_URL") {
            Some(value) => KeySource::At(url("JWKS_URL", value)?),
            None => KeySource::of_issuer(&issuer).ok_or_else(|| InvalidSettings::Unusable {
                name: "TOKEN_ISSUER",
                value: issuer.clone(),
                expected: "a URL such as https://issuer.example.com, https unless its host is this machine; or give JWKS_URL",
            })?,
        };
        let audience = self.required("TOKEN_AUDIENCE")?;
        let audience = list("TOKEN_AUDIENCE", audience, "one audience or several with a comma between them")?;
        let scope_claims = self.optional("SCOPE_CLAIMS").unwrap_or_else(|| "scope,scp".to_owned());
        let expected = "the name of a claim, or several with a comma between them";
        Ok(TokenSettings {
            issuer,
            audience,
            keys,
            tenant_claim: self.optional("TENANT_CLAIM").unwrap_or_else(|| "custom:tenantId".to_owned()),
            scope_claims: list("SCOPE_CLAIMS", scope_claims, expected)?,
            author_claim: self.optional("AUTHOR_CLAIM"),
        })
    }
}

/// The items of a list that is separated by commas, none of them empty.
fn list(name: &'static str, value: String, expected: &'static str) -> Result<Vec<String>, InvalidSettings> {
    let all: Vec<_> = value.split(',').map(|one| one.trim().to_owned()).collect();
    let fits = !all.iter().any(String::is_empty);
    fits.then_some(all).ok_or(InvalidSettings::Unusable { name, value, expected })
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

    fn load(changes: &[(&str, &str)]) -> Result<SharedSettings, String> {
        let loaded = Settings::load(&|name| {
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
        });
        loaded.map(|settings| settings.shared).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_apply_where_nothing_is_set() {
        let settings = load(&[]).unwrap();
        assert_eq!(settings.backend.parameters.root, "/tenantry");
        let KeySource::Described(address) = settings.tokens.keys else { panic!("no keys are named") };
        assert_eq!(address, "https://issuer/.well-known/openid-configuration");
        assert_eq!(
            (settings.tokens.scope_claims, settings.tokens.author_claim),
            (vec!["scope".into(), "scp".into()], None)
        );
        assert_eq!(settings.backend.routes.tags().count(), 3);
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
