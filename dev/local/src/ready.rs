//! The ready file: how a script learns that all is up, and where.

use std::{collections::BTreeMap, fs, io, path::Path};

use serde::Serialize;

use crate::data::{DataError, write_whole};

/// What a script needs to know.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ready<'a> {
    /// The HTTP API.
    pub http_url: &'a str,
    /// The emulator: the endpoint of every AWS service.
    pub aws_url: &'a str,
    /// The gRPC service, if it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc_url: Option<&'a str>,
    /// The token issuer.
    pub issuer: &'a str,
    /// Its keys.
    pub jwks_url: &'a str,
    /// A token with all scopes for each sample tenant.
    pub tokens: &'a BTreeMap<String, String>,
}

impl Ready<'_> {
    /// Writes the file; it appears with its whole content.
    pub fn write(&self, path: &Path) -> Result<(), DataError> {
        let failed = |error: serde_json::Error| DataError::File { file: path.to_owned(), source: error.into() };
        let mut content = serde_json::to_vec_pretty(self).map_err(failed)?;
        content.push(b'\n');
        write_whole(path, &content)
    }
}

/// Removes the file of an earlier run, which would speak of addresses that are gone.
pub fn remove(path: &Path) -> Result<(), DataError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(DataError::File { file: path.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: scripts find these names, and never half a file.
    #[test]
    fn the_file_appears_whole_and_goes_away() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ready.json");
        let ready = Ready {
            http_url: "http://127.0.0.1:1",
            aws_url: "http://127.0.0.1:2",
            grpc_url: Some("http://127.0.0.1:3"),
            issuer: "http://127.0.0.1:1/_local/issuer",
            jwks_url: "http://127.0.0.1:1/_local/issuer/discovery/keys",
            tokens: &BTreeMap::from([("acme".to_owned(), "t".to_owned())]),
        };
        ready.write(&path).unwrap();
        let content: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(
            content,
            serde_json::json!({
                "httpUrl": "http://127.0.0.1:1",
                "awsUrl": "http://127.0.0.1:2",
                "grpcUrl": "http://127.0.0.1:3",
                "issuer": "http://127.0.0.1:1/_local/issuer",
                "jwksUrl": "http://127.0.0.1:1/_local/issuer/discovery/keys",
                "tokens": {"acme": "t"},
            })
        );
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "no temporary file is left");
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert!(!path.exists());
        assert!(ready.write(&folder.path().join("none/ready.json")).is_err());
    }
}
