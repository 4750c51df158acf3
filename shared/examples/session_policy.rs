//! Prints the policy of a tenant's session, as it is sent to STS: for a look at it, and for checks
//! by other policy evaluators.
//!
//! `TABLE_NAME=… PARAMETER_ROOT=… AWS_REGION=… TENANT_ROLE_ARN=… cargo run -p tenantry --example
//! session_policy -- acme`; what is not set is what the local suite has.

use std::{
    env,
    error::Error,
    io::{self, Write},
};

use tenantry::aws::{RoleArn, Roles};

fn main() -> Result<(), Box<dyn Error>> {
    let setting = |name: &str, default: &str| env::var(name).unwrap_or_else(|_| default.to_owned());
    let role = setting("TENANT_ROLE_ARN", "arn:aws:iam::000000000000:role/tenantry-ConfigReadTenantRole");
    let roles = Roles {
        tenant: RoleArn::parse(&role).ok_or("TENANT_ROLE_ARN must be the ARN of a role")?,
        system: None,
        table: setting("TABLE_NAME", "tenantry-ConfigTable"),
        parameter_root: setting("PARAMETER_ROOT", "/tenantry"),
        region: setting("AWS_REGION", "us-east-1"),
    };
    let tenant = env::args().nth(1).ok_or("name a tenant")?.parse()?;
    Ok(writeln!(io::stdout(), "{}", roles.session_policy(&tenant))?)
}
