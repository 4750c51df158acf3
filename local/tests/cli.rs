//! The program as a script uses it.

use std::{fs, process::Command};

use serde_json::Value;

fn local(arguments: &[&str]) -> std::io::Result<(Option<i32>, String, String)> {
    let output = Command::new(env!("CARGO_BIN_EXE_local")).args(arguments).output()?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((output.status.code(), text(output.stdout), text(output.stderr)))
}

/// Promise: `local token` prints one token and nothing else, with the claims that were asked for.
#[test]
fn token_prints_a_token() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let data = folder.path().to_str().ok_or("not UTF-8")?;
    let (code, out, errors) = local(&[
        "token",
        "--tenant",
        "acme",
        "--scope",
        "config/read",
        "--claim",
        "a=b",
        "--claim",
        "sub=me",
        "--expires-in",
        "90",
        "--data",
        data,
    ])?;
    assert_eq!((code, errors.as_str()), (Some(0), ""));
    assert_eq!(out.lines().count(), 1);
    let claims: Value = jsonwebtoken::dangerous::insecure_decode_claims(out.trim())?;
    for (name, expected) in [
        ("custom:tenantId", "acme"),
        ("scope", "config/read"),
        ("a", "b"),
        ("sub", "me"),
        ("iss", "http://127.0.0.1:8080/_local/issuer"),
    ] {
        assert_eq!(claims[name], expected, "{name}");
    }
    assert_eq!(claims["exp"].as_i64().zip(claims["iat"].as_i64()).map(|(end, start)| end - start), Some(90));
    Ok(())
}

/// Promise: a failure is one clear message on standard error and a status other than 0.
#[test]
fn failures_are_clear() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("file");
    fs::write(&file, "")?;
    fs::write(folder.path().join("issuer-key.pem"), "no key")?;
    let (file, data) = (file.to_str().ok_or("not UTF-8")?, folder.path().to_str().ok_or("not UTF-8")?);
    for (arguments, code, message) in [
        (&["token"][..], 2, "--tenant"),
        (&["token", "--tenant", "a", "--claim", "x"], 2, "NAME=VALUE"),
        (&["token", "--tenant", "a", "--data", file], 1, "error: cannot use the data folder"),
        (&["token", "--tenant", "a", "--data", data], 1, "error: the issuer's key in the data folder is unusable"),
        (&["--data", file], 1, "error: cannot use the data folder"),
        (&["--http-port", "0", "--aws-port", "0", "--data", data], 1, "error: not an RSA private key"),
        (&["--http-port", "x"], 2, "--http-port"),
    ] {
        let (found, out, errors) = local(arguments)?;
        assert_eq!((found, out.as_str()), (Some(code), ""), "{arguments:?}: {errors}");
        assert!(errors.contains(message), "{arguments:?}: {errors}");
    }
    Ok(())
}
