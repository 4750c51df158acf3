//! What is printed at start: addresses, tokens, and a tour to paste into a shell.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::Path,
};

use crate::{
    account::{CREDENTIALS, REGION},
    cli::HTTP_PORT,
    issuer::Issuer,
};

/// What the text speaks of.
#[derive(Debug)]
pub struct Welcome<'a> {
    /// The HTTP API.
    pub http_url: &'a str,
    /// The AWS services.
    pub aws_url: &'a str,
    /// The gRPC service, if it runs.
    pub grpc_url: Option<String>,
    /// The token issuer.
    pub issuer: &'a str,
    /// Tokens by tenant.
    pub tokens: &'a BTreeMap<String, String>,
    /// The data folder.
    pub data: &'a Path,
    /// Whether events are delivered.
    pub has_events: bool,
}

/// What is different without events, and how late things are: the sweep takes up what has been owed
/// for a minute, and compares 1,000 parameters, and the keys of 1,000 tenants, each minute.
const WITHOUT_EVENTS: &str = "\
Events are lost (--no-events); each minute, the schedule finds what they would have told. An edit in Parameter Store shows
within about a minute, while there are no more than 1,000 parameters; write-back values are in Parameter Store one to two
minutes after their write. Readers of the API get every write at once, as ever.
";

/// The tour: what a line shows, and the line. Each line stands for itself except that it needs
/// those before it. What it shows is said by a command, since zsh takes no comments at its prompt;
/// so it holds no apostrophe.
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
    (
        "the parameter itself (needs the AWS CLI)",
        r#"aws --endpoint-url "$AWS" ssm get-parameters-by-path --path /tenantry/acme --recursive"#,
    ),
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
        if let Some(grpc_url) = &self.grpc_url {
            writeln!(out, "  gRPC          {grpc_url}")?;
        }
        writeln!(out, "  token issuer  {}\n", self.issuer)?;
        if !self.has_events {
            writeln!(out, "{WITHOUT_EVENTS}")?;
        }
        let at = Issuer::port_of(self.issuer).filter(|port| *port != HTTP_PORT);
        let at = at.map(|port| format!(" --http-port {port}")).unwrap_or_default();
        writeln!(out, "Further tokens: cargo run -p local -- token --tenant TENANT{at}\n")?;
        writeln!(
            out,
            "Paste these lines into another shell, bash or zsh, all at once or one by one; they need curl:\n"
        )?;
        self.write_tour(out)?;
        writeln!(out)?;
        out.flush()
    }

    fn write_tour(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "export API={}", self.http_url)?;
        writeln!(out, "export AWS={}", self.aws_url)?;
        // The version 2 of the AWS CLI shows what is long in a pager, which would read the lines
        // that follow.
        writeln!(
            out,
            "export AWS_ACCESS_KEY_ID={CREDENTIALS} AWS_SECRET_ACCESS_KEY={CREDENTIALS} AWS_DEFAULT_REGION={REGION} AWS_PAGER="
        )?;
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
                writeln!(out, "\necho '== {purpose}'")?;
            }
            writeln!(out, "{line}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: who has switched events off is told so, and how late things are then; nobody else
    /// is.
    #[test]
    fn lost_events_are_told() {
        for has_events in [true, false] {
            let (tokens, data) = (BTreeMap::from([("acme".to_owned(), "t".to_owned())]), Path::new(".tenantry"));
            let grpc_url = Some("g".to_owned());
            let welcome =
                Welcome { http_url: "h", aws_url: "a", grpc_url, issuer: "i", tokens: &tokens, data, has_events };
            let mut text = Vec::new();
            welcome.write(&mut text).unwrap();
            let text = String::from_utf8(text).unwrap();
            assert_eq!(text.contains("Events are lost (--no-events)"), !has_events, "{text}");
            assert!(text.contains("export ACME_TOKEN=t\n"), "{text}");
        }
    }
}
