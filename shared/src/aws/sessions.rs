//! Credentials of one tenant each: sessions of a role that AWS limits to the tenant that they are
//! tagged with.
//!
//! What our own code asks for by mistake under another tenant's name is then refused where the data
//! lie. There is no way back to the function's own rights: where no session can be had, there is no
//! client.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aws_credential_types::Credentials;
use aws_sdk_sts::types::Tag;
use quick_cache::sync::Cache;
use serde_json::json;
use tokio::sync::Mutex;
use tracing::warn;

use super::{AwsFailure, Service};
use crate::{
    clock::{Clock, Timestamp},
    model::tenant::TenantId,
};

/// How long a session lasts: as long as that of a role that was taken on from another role may
/// (STS, role chaining).
const LIFETIME: Duration = Duration::from_hours(1);
/// How long before its end a session is used no more: a call that has begun is to end with it, and
/// clocks differ.
const MARGIN: Duration = Duration::from_mins(1);
/// How long before its end a session is renewed, by one of those who use it. Up to twice that, at
/// random, so that what began together is not renewed together.
const AHEAD: Duration = Duration::from_mins(5);
/// How long a renewal may take, since there is a session that serves; the first session has as long
/// as any call to AWS.
const RENEWAL_TIMEOUT: Duration = Duration::from_secs(1);
/// How long after a renewal that failed the next one is tried.
const RENEWAL_PAUSE: Duration = Duration::from_secs(30);
/// How long a session that could not be had is not asked for again: those who waited for it would
/// else ask one after the other.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);
/// How many sessions an environment keeps, those that were not used lately go first. One takes
/// about 20 KB for each service that was called with it, most of it the SDK's client.
pub(crate) const MAX_SESSIONS: usize = 500;
/// The session tag that names the tenant. The roles' policies in template.yaml go by it.
const TENANT_TAG: &str = "TenantId";

/// Where the tenants' data lie, and the roles that lead there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roles {
    /// `TENANT_ROLE_ARN`: the role of a tenant's data; which of them decides the session's tag.
    pub tenant: RoleArn,
    /// `SYSTEM_ROLE_ARN`: the role of what belongs to no tenant. config-refresh alone has one.
    pub system: Option<RoleArn>,
    /// `TABLE_NAME`.
    pub table: String,
    /// `PARAMETER_ROOT`.
    pub parameter_root: String,
    /// `AWS_REGION`.
    pub region: String,
}

/// The ARN of an IAM role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleArn {
    arn: String,
    partition: String,
    account: String,
}

impl RoleArn {
    /// Takes `arn:<partition>:iam::<account>:role/<name>` apart.
    pub fn parse(arn: &str) -> Option<Self> {
        let parts: Vec<_> = arn.splitn(6, ':').collect();
        let ["arn", partition, "iam", "", account, role] = parts[..] else { return None };
        let is_account = account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit());
        let is_role = role.strip_prefix("role/").is_some_and(|name| !name.is_empty());
        let (partition, account) = (partition.to_owned(), account.to_owned());
        (is_account && is_role && !partition.is_empty()).then(|| Self { arn: arn.to_owned(), partition, account })
    }
}

/// Whose rights a call is made with.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Principal {
    /// A tenant's.
    Tenant(TenantId),
    /// Those of the work across tenants.
    System,
}

/// A session, and the clients that use it.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) credentials: Credentials,
    pub(super) dynamodb: OnceLock<aws_sdk_dynamodb::Client>,
    pub(super) ssm: OnceLock<aws_sdk_ssm::Client>,
    /// When it is used no more.
    ends: Timestamp,
    /// From when it is renewed, in milliseconds.
    renew_from: AtomicU64,
    /// Locked by who renews it.
    renewing: Mutex<()>,
}

/// The sessions of an environment.
#[derive(Debug)]
pub(super) struct Sessions {
    roles: Roles,
    clock: Clock,
    kept: Cache<Principal, Arc<Session>>,
    /// What could not be had just now, until when, and why.
    failed: Cache<Principal, (Timestamp, AwsFailure)>,
}

impl Sessions {
    pub(super) fn new(roles: Roles, max: usize, clock: Clock) -> Self {
        Self { roles, clock, kept: Cache::new(max), failed: Cache::new(max) }
    }

    /// The session of `principal`: one that is kept, or a new one, which whoever asks for it
    /// meanwhile gets as well.
    pub(super) async fn of(
        &self,
        sts: &aws_sdk_sts::Client,
        principal: &Principal,
    ) -> Result<Arc<Session>, AwsFailure> {
        if let Some(session) = self.kept.get(principal) {
            let now = self.clock.now();
            if now.millis() < session.renew_from.load(Ordering::Relaxed) {
                return Ok(session);
            }
            if now < session.ends {
                return Ok(self.renewed(sts, principal, session).await);
            }
            self.kept.remove_if(principal, |kept| Arc::ptr_eq(kept, &session));
        }
        self.kept.get_or_insert_async(principal, self.first(sts, principal)).await
    }

    /// A session where there is none. If it cannot be had, those who wait for it hear the same.
    async fn first(&self, sts: &aws_sdk_sts::Client, principal: &Principal) -> Result<Arc<Session>, AwsFailure> {
        let now = self.clock.now();
        if let Some((until, failure)) = self.failed.get(principal)
            && now < until
            // Longer than that only if the clock went back.
            && until.since(now) <= FAILURE_PAUSE
        {
            return Err(failure);
        }
        let begun = self.begin(sts, principal).await;
        if let Err(failure) = &begun {
            self.failed.insert(principal.clone(), (self.clock.now().plus(FAILURE_PAUSE), failure.clone()));
        }
        begun
    }

    /// A new session instead of one that will end soon. One caller sees to it; the others go on
    /// with the one they have, and so does everybody if there is no new one.
    async fn renewed(&self, sts: &aws_sdk_sts::Client, principal: &Principal, session: Arc<Session>) -> Arc<Session> {
        let Ok(_renewing) = session.renewing.try_lock() else { return session.clone() };
        let error = match tokio::time::timeout(RENEWAL_TIMEOUT, self.begin(sts, principal)).await {
            Ok(Ok(renewed)) => {
                self.kept.insert(principal.clone(), Arc::clone(&renewed));
                return renewed;
            }
            Ok(Err(error)) => error.to_string(),
            Err(late) => late.to_string(),
        };
        warn!(error, "a session could not be renewed; the old one goes on serving");
        session.renew_from.store(self.clock.now().plus(RENEWAL_PAUSE).millis(), Ordering::Relaxed);
        session.clone()
    }

    async fn begin(&self, sts: &aws_sdk_sts::Client, principal: &Principal) -> Result<Arc<Session>, AwsFailure> {
        const OPERATION: &str = "AssumeRole";
        let unusable = |what: &str| AwsFailure::unexpected(Service::Sts, OPERATION, what);
        let begun = self.clock.now();
        let mut request = sts.assume_role().duration_seconds(i32::try_from(LIFETIME.as_secs()).unwrap_or(i32::MAX));
        request = match principal {
            Principal::Tenant(tenant) => {
                let tag = Tag::builder().key(TENANT_TAG).value(tenant.as_str()).build();
                request
                    .role_arn(&self.roles.tenant.arn)
                    // Names have two characters at least, and 64 at most: one more than the longest
                    // tenant.
                    .role_session_name(format!("@{tenant}"))
                    .tags(tag.map_err(|error| unusable(&error.to_string()))?)
                    .policy(self.roles.session_policy(tenant))
            }
            Principal::System => {
                let role =
                    self.roles.system.as_ref().ok_or_else(|| unusable("there is no role for work across tenants"))?;
                request.role_arn(&role.arn).role_session_name("system")
            }
        };
        // Boxed, because the future is as large as the SDK's, and every call of a tenant's is
        // around it.
        let answer = Box::pin(request.send()).await.map_err(|error| AwsFailure::of(Service::Sts, OPERATION, &error))?;
        let given = answer.credentials.ok_or_else(|| unusable("an answer without credentials"))?;
        let ahead = AHEAD.mul_f64(1.0 + fastrand::f64());
        Ok(Arc::new(Session {
            credentials: Credentials::from_keys(
                given.access_key_id,
                given.secret_access_key,
                Some(given.session_token),
            ),
            dynamodb: OnceLock::new(),
            ssm: OnceLock::new(),
            // By the time that was asked for, and our clock alone: the answer names the end by
            // another one.
            ends: begun.plus(LIFETIME).minus(MARGIN),
            renew_from: AtomicU64::new(begun.plus(LIFETIME).minus(MARGIN + ahead).millis()),
            renewing: Mutex::new(()),
        }))
    }
}

impl Roles {
    /// What a tenant's session may do at most, by literal names: a second lock beside the role's
    /// policies, which find the tenant's name in the session's tag. What of this a function may do
    /// is for its role to say.
    pub fn session_policy(&self, tenant: &TenantId) -> String {
        let RoleArn { partition, account, .. } = &self.tenant;
        let Self { table, parameter_root, region, .. } = self;
        let parameters = format!("arn:{partition}:ssm:{region}:{account}:parameter{parameter_root}/{tenant}/*");
        json!({
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Action": "dynamodb:*",
                    "Resource": format!("arn:{partition}:dynamodb:{region}:{account}:table/{table}"),
                    "Condition": {
                        "ForAllValues:StringEquals": {"dynamodb:LeadingKeys": tenant.partition()},
                        // For all of none holds, too.
                        "Null": {"dynamodb:LeadingKeys": "false"},
                    },
                },
                {"Effect": "Allow", "Action": "ssm:*", "Resource": &parameters},
                {
                    "Effect": "Allow",
                    "Action": "kms:*",
                    "Resource": "*",
                    "Condition": {"StringLike": {"kms:EncryptionContext:PARAMETER_ARN": &parameters}},
                },
                // The table's key: whose items they are is not known to KMS.
                {
                    "Effect": "Allow",
                    "Action": "kms:*",
                    "Resource": "*",
                    "Condition": {"StringLike": {"kms:ViaService": format!("dynamodb.{region}.*")}},
                },
            ],
        })
        .to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roles(table: &str, parameter_root: &str) -> Roles {
        Roles {
            tenant: RoleArn::parse("arn:aws-us-gov:iam::123456789012:role/path/tenantry-ConfigReadTenantRole").unwrap(),
            system: None,
            table: table.to_owned(),
            parameter_root: parameter_root.to_owned(),
            region: "us-gov-west-1".to_owned(),
        }
    }

    /// Promise: a session policy names its tenant and no other, by no pattern that could be one, in
    /// each resource of a tenant's.
    #[test]
    fn a_session_policy_names_one_tenant() {
        let policy = roles("config", "/tenantry").session_policy(&"acme.eu-1_x".parse().unwrap());
        let policy: serde_json::Value = serde_json::from_str(&policy).unwrap();
        let [items, parameters, parameter_keys, _] = policy["Statement"].as_array().unwrap().as_slice() else {
            panic!()
        };
        assert_eq!(items["Resource"], "arn:aws-us-gov:dynamodb:us-gov-west-1:123456789012:table/config");
        assert_eq!(items["Condition"]["ForAllValues:StringEquals"]["dynamodb:LeadingKeys"], "TENANT#acme.eu-1_x");
        let path = "arn:aws-us-gov:ssm:us-gov-west-1:123456789012:parameter/tenantry/acme.eu-1_x/*";
        assert_eq!(parameters["Resource"], path);
        assert_eq!(parameter_keys["Condition"]["StringLike"]["kms:EncryptionContext:PARAMETER_ARN"], path);
    }

    /// Promise: the longest names there are make no policy that STS refuses for its length, 2,048
    /// characters.
    #[test]
    fn a_session_policy_fits() {
        let root = format!("/{0}/{0}", "r".repeat(64));
        let tenant = "t".repeat(crate::model::tenant::MAX_TENANT_ID_BYTES).parse().unwrap();
        assert!(roles(&"t".repeat(255), &root).session_policy(&tenant).len() <= 2_048);
    }
}
