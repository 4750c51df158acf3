//! The snapshot on disk: what it serves for, and what never stands in it.

use std::{fs, path::Path};

use emulator::Fault;

use super::*;

const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const OTHER_KEY: &str = "ICECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

async fn start(api: &Api, file: &Path, key: &str) -> Instance {
    let file = file.to_str().expect("a path of text");
    Instance::start(api, &[("SNAPSHOT_FILE", file), ("SNAPSHOT_KEY", key), ("HEARTBEAT_SECONDS", "1")]).await
}

/// Promise: an instance that starts while the stores are down serves what it served last, marked
/// stale, and the truth as soon as they answer. Secrets are not among it, nor is anything readable
/// without the key; a file that was cut off, changed or sealed with another key is not believed.
#[tokio::test]
async fn an_instance_starts_without_the_stores() {
    let api = Api::frozen().await;
    let acme = api.tenant("acme");
    put(&acme, "a", 1).await;
    acme.put("secret_config_key", &json!("hush-hush")).await.expect(201);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("snapshot");
    let instance = start(&api, &file, KEY).await;
    let grpc = instance.tenant(&acme);
    assert_eq!(grpc.value("secret_config_key").await.0, r#""hush-hush""#);
    instance.stream.stop().await;

    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let content = fs::read(&file).unwrap();
    for readable in ["acme", "tenant_config_a", "hush-hush"] {
        assert!(!content.windows(readable.len()).any(|bytes| bytes == readable.as_bytes()), "{readable}");
    }
    for operation in ["GetItem", "BatchGetItem", "Query"] {
        api.suite.emulator().faults().inject(operation, Fault::InternalError, 100_000);
    }
    let instance = start(&api, &file, KEY).await;
    let grpc = instance.tenant(&acme);
    let answer = grpc.get("tenant_config_a", 0).await.unwrap();
    assert_eq!((answer.entry.unwrap().value.as_ref(), answer.revision, answer.stale), (b"1".as_slice(), 2, true));
    assert_eq!(grpc.get("secret_config_key", 0).await.unwrap_err().code(), Code::Unavailable);
    let (mut watching, snapshot) = grpc.watch().await;
    assert!(snapshot.stale && snapshot.revision == 2);
    assert_eq!(snapshot.entries[0].value_status(), v1::ValueStatus::Unavailable, "{}", snapshot.entries[0].key);

    api.suite.emulator().faults().clear();
    api.pass(crate::harness::CIRCUIT);
    let snapshot = watching.snapshot().await;
    assert_eq!(entries(&snapshot.entries), r#"secret_config_key="hush-hush" tenant_config_a=1"#);
    assert!(!snapshot.stale);
    drop(watching);
    // Not dropped, which would write it anew.
    let unbelievable = [
        ("another key", content.clone(), OTHER_KEY),
        ("cut off", content[..content.len() - 1].to_vec(), KEY),
        ("its last frame gone", content[..content.len() - 20].to_vec(), KEY),
        (
            "one bit",
            content.iter().enumerate().map(|(at, byte)| if at == 50 { byte ^ 1 } else { *byte }).collect(),
            KEY,
        ),
        ("another format", [b"tenantr0", &content[8..]].concat(), KEY),
    ];
    for (what, content, key) in unbelievable {
        let file = folder.path().join(what);
        fs::write(&file, content).unwrap();
        let instance = start(&api, &file, key).await;
        assert_eq!(instance.stream.memory().tenants(), (0, 0), "{what}");
    }
    let file = folder.path().join("whole");
    fs::write(&file, content).unwrap();
    assert_eq!(start(&api, &file, KEY).await.stream.memory().tenants(), (1, 0));
}
