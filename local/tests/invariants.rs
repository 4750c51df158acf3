//! The invariants of absence that ARCHITECTURE.md lists: what must not stand where.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All Rust sources under `folder`, with their path from the root and their text.
fn sources(folder: &str) -> io::Result<Vec<(String, String)>> {
    let mut open = vec![root().join(folder)];
    let mut found = Vec::new();
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root()).unwrap_or(&path).to_string_lossy().into_owned();
                found.push((name, fs::read_to_string(&path)?));
            }
        }
    }
    assert!(!found.is_empty(), "{folder} has sources");
    Ok(found)
}

/// Promise: the AWS SDK is called from the files that know one service each, and from nowhere else.
#[test]
fn the_sdk_stays_in_its_corner() -> io::Result<()> {
    let corner =
        ["shared/src/aws.rs", "shared/src/aws/", "shared/src/event.rs", "shared/src/ledger/", "shared/src/store/"];
    for (name, text) in [sources("shared/src")?, sources("functions")?, sources("stream/src")?].concat() {
        // The queue of hints is the streaming service's alone.
        let allowed = corner.iter().any(|allowed| name.starts_with(allowed)) || name == "stream/src/hints.rs";
        assert!(allowed || !text.contains("aws_sdk_"), "{name} calls AWS past the ledger and the stores");
    }
    Ok(())
}

/// Promise: nobody but `auth` makes the proof that a caller may act for a tenant, and nobody but config-refresh's service takes
/// the authority to act for any.
#[test]
fn scopes_come_from_auth_alone() -> io::Result<()> {
    for (name, text) in [sources("shared/src")?, sources("functions")?, sources("stream/src")?].concat() {
        let in_auth = name.starts_with("shared/src/auth/");
        assert!(in_auth || !text.contains("TenantScope {"), "{name} makes a TenantScope");
        let for_refresh = in_auth || name == "shared/src/service/refresh.rs";
        assert!(for_refresh || !text.contains("for_owed_work"), "{name} takes the authority over all tenants");
        let for_following = in_auth || name == "stream/src/follower.rs";
        assert!(
            for_following || !text.contains("for_recent_changes"),
            "{name} takes the authority to see who has changed"
        );
    }
    Ok(())
}

/// Promise: what is deployed depends on nothing made for local runs or tests, and the emulator knows nothing of what it serves.
#[test]
fn the_deployed_depend_on_nothing_local() -> io::Result<()> {
    let manifest = |folder: &str| fs::read_to_string(root().join(folder).join("Cargo.toml"));
    for folder in [
        "shared",
        "functions/config-read",
        "functions/config-write",
        "functions/config-refresh",
        "functions/config-claims",
        "stream",
        "client",
        "proto",
    ] {
        for local in ["emulator", "local", "bench"] {
            let depends = manifest(folder)?.lines().any(|line| line.starts_with(local));
            assert!(!depends, "{folder} depends on {local}");
        }
    }
    for product in ["tenantry", "config-read", "config-write", "config-refresh", "config-claims", "config-stream"] {
        let depends = manifest("emulator")?.lines().any(|line| line.starts_with(product));
        assert!(!depends, "the emulator depends on {product}");
    }
    // Whoever uses the client takes in nothing of the service and nothing of AWS.
    for service in ["tenantry", "aws-", "config-stream"] {
        let depends = manifest("client")?.lines().any(|line| line.starts_with(service));
        assert!(!depends, "the client depends on {service}");
    }
    Ok(())
}

/// Promise: handlers are thin, and no file is longer than anybody would read.
#[test]
fn files_stay_readable() -> io::Result<()> {
    for folder in ["shared", "functions", "stream", "client", "proto", "emulator", "local", "bench"] {
        for (name, text) in sources(folder)? {
            let limit = if name.starts_with("functions/") && name.ends_with("/main.rs") { 40 } else { 600 };
            let lines = text.lines().count();
            assert!(lines <= limit, "{name} has {lines} lines; at most {limit} are readable");
        }
    }
    Ok(())
}
