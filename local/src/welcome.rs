//! What is printed at start: addresses, tokens, and a tour to paste into a shell.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::Path,
};

use crate::suite::{CREDENTIALS, REGION};

/// What the text speaks of.
#[derive(Debug)]
pub struct Welcome<'a> {
    /// The HTTP API.
    pub http_url: &'a str,
    /// The AWS services.
    pub aws_url: &'a str,
    /// The token issuer.
    pub issuer: &'a str,
    /// Tokens by tenant.
    pub tokens: &'a BTreeMap<String, String>,
    /// The data folder.
    pub data: &'a Path,
}

/// The tour: what a line shows, and the line. Each line stands for itself except that it needs those before it.
const TOUR: &[(&str, &str)] = &[
    (
        "DynamoDB: write a value, read it back",
        r#"acme -X PUT "$API/v1/config/tenant_config_limits" -d '{"value": {"requestsPerSecond": 50}}'"#,
    ),
    ("", r#"acme "$API/v1/config/tenant_config_limits""#),
    (
        "its ETag saves the next reader the body: 304",
        r#"ETAG=$(acme "$API/v1/config/tenant_config_limits" | tr -d '\r' | awk 'tolower($1) == "etag:" {print $2}')"#,
    ),
    ("", r#"acme "$API/v1/config/tenant_config_limits" -H "If-None-Match: $ETAG""#),
    (
        "two writers who saw the same version: one wins, the other gets 412",
        r#"acme -X PUT "$API/v1/config/tenant_config_limits" -H "If-Match: $ETAG" -d '{"value": {"requestsPerSecond": 80}}'"#,
    ),
    (
        "",
        r#"acme -X PUT "$API/v1/config/tenant_config_limits" -H "If-Match: $ETAG" -d '{"value": {"requestsPerSecond": 20}}'"#,
    ),
    (
        "Parameter Store: write a value, and look where it lies",
        r#"acme -X PUT "$API/v1/config/param_config_db/primary/host" -d '{"value": "db-1.internal.example"}'"#,
    ),
    ("", r#"acme "$API/v1/config/param_config_db/primary/host""#),
    ("(with the AWS CLI, if there is one)", "@aws"),
    ("list by prefix", r#"acme "$API/v1/config?prefix=param_config_db/""#),
    ("the history, and back to version 1", r#"acme "$API/v1/history/tenant_config_limits""#),
    ("", r#"acme -X POST "$API/v1/rollback/tenant_config_limits" -d '{"version": 1}'"#),
    ("delete: gone for readers, still in the history", r#"acme -X DELETE "$API/v1/config/tenant_config_limits""#),
    ("", r#"acme "$API/v1/config/tenant_config_limits""#),
    ("", r#"acme "$API/v1/history/tenant_config_limits""#),
    ("the other tenant sees nothing of all this", r#"globex "$API/v1/config/param_config_db/primary/host""#),
    ("", r#"globex "$API/v1/config""#),
];

impl Welcome<'_> {
    /// Writes the text.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "Tenantry is running; Ctrl-C stops it. Its data is in {}.\n", self.data.display())?;
        writeln!(out, "  HTTP API      {}", self.http_url)?;
        writeln!(out, "  AWS services  {}", self.aws_url)?;
        writeln!(out, "  token issuer  {}\n", self.issuer)?;
        writeln!(out, "Paste these lines into another shell, all at once or one by one:\n")?;
        writeln!(out, "export API={}", self.http_url)?;
        writeln!(out, "export AWS={}", self.aws_url)?;
        for (tenant, token) in self.tokens {
            let name = tenant.to_uppercase();
            writeln!(out, "export {name}_TOKEN={token}")?;
            writeln!(
                out,
                r#"{tenant}() {{ curl -sS -i -H "Authorization: Bearer ${name}_TOKEN" -H "Content-Type: application/json" "$@"; echo; }}"#
            )?;
        }
        for (purpose, line) in TOUR {
            if !purpose.is_empty() {
                writeln!(out, "\n# {purpose}")?;
            }
            match *line {
                "@aws" => writeln!(
                    out,
                    "AWS_ACCESS_KEY_ID={CREDENTIALS} AWS_SECRET_ACCESS_KEY={CREDENTIALS} AWS_DEFAULT_REGION={REGION} \
                     aws --endpoint-url \"$AWS\" ssm get-parameters-by-path --path /tenantry/acme --recursive"
                )?,
                line => writeln!(out, "{line}")?,
            }
        }
        writeln!(out)?;
        out.flush()
    }
}
