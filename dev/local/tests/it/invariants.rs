//! The invariants of absence that ARCHITECTURE.md lists: what must not stand where.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use local::welcome::Welcome;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
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
                let name = path.strip_prefix(root()).unwrap_or(&path).to_string_lossy().replace('\\', "/");
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
    let corner = ["shared/src/aws/", "shared/src/event.rs", "shared/src/ledger/", "shared/src/store/"];
    for (name, text) in [sources("shared/src")?, sources("functions")?, sources("stream/src")?].concat() {
        // The queue of hints is the streaming service's alone.
        let allowed = corner.iter().any(|allowed| name.starts_with(allowed)) || name == "stream/src/hints.rs";
        assert!(allowed || !text.contains("aws_sdk_"), "{name} calls AWS past the ledger and the stores");
    }
    Ok(())
}

/// Promise: nobody but `auth` makes the proof that a caller may act for a tenant, and nobody but
/// config-refresh's service takes the authority to act for any.
#[test]
fn scopes_come_from_auth_alone() -> io::Result<()> {
    for (name, text) in [sources("shared/src")?, sources("functions")?, sources("stream/src")?].concat() {
        let in_auth = name.starts_with("shared/src/auth/");
        assert!(in_auth || !text.contains("TenantScope {"), "{name} makes a TenantScope");
        let for_refresh = in_auth || name == "shared/src/refresh.rs";
        assert!(for_refresh || !text.contains("for_owed_work"), "{name} takes the authority over all tenants");
        let for_polling = in_auth || name == "stream/src/poller.rs";
        assert!(
            for_polling || !text.contains("for_recent_changes"),
            "{name} takes the authority to see who has changed"
        );
    }
    Ok(())
}

/// Promise: what is deployed depends on nothing made for local runs or tests, and the emulator
/// knows nothing of what it serves.
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
        "clients/rust",
        "clients/proto",
    ] {
        for local in ["emulator", "local", "bench"] {
            let depends = manifest(folder)?.lines().any(|line| line.starts_with(local));
            assert!(!depends, "{folder} depends on {local}");
        }
    }
    for product in ["tenantry", "config-read", "config-write", "config-refresh", "config-claims", "config-stream"] {
        let depends = manifest("dev/emulator")?.lines().any(|line| line.starts_with(product));
        assert!(!depends, "the emulator depends on {product}");
    }
    // Whoever uses the client takes in nothing of the service and nothing of AWS.
    for service in ["tenantry", "aws-", "config-stream"] {
        let depends = manifest("clients/rust")?.lines().any(|line| line.starts_with(service));
        assert!(!depends, "the client depends on {service}");
    }
    Ok(())
}

/// Promise: handlers are thin, and no file is longer than anybody would read.
#[test]
fn files_stay_readable() -> io::Result<()> {
    for folder in ["shared", "functions", "stream", "clients", "dev"] {
        for (name, text) in sources(folder)? {
            let limit = if name.starts_with("functions/") && name.ends_with("/main.rs") { 40 } else { 600 };
            let lines = text.lines().count();
            assert!(lines <= limit, "{name} has {lines} lines; at most {limit} are readable");
        }
    }
    Ok(())
}

/// The blocks of shell commands in a text.
fn shell_blocks(text: &str) -> Vec<String> {
    let blocks = text.split("\n```sh\n").skip(1);
    blocks.map(|rest| rest.split("```").next().unwrap_or_default().to_owned()).collect()
}

/// The lines of a block that zsh, the default shell of macOS, takes for something else than bash
/// does, with the reason.
fn lines_that_zsh_misreads(block: &str) -> Vec<String> {
    let (mut quote, mut before, mut found) = (None, '\n', Vec::new());
    let (mut characters, mut line) = (block.chars(), 0);
    while let Some(character) = characters.next() {
        let why = match (quote, character) {
            (Some(open), _) if character == open => {
                quote = None;
                None
            }
            (Some('\''), _) => None,
            // What it stands before is itself; a line that ends with it goes on.
            (_, '\\') if characters.next() == Some('\n') => {
                line += 1;
                continue;
            }
            (None, '\'' | '"') => {
                quote = Some(character);
                None
            }
            // At the prompt it has no comments.
            (None, '#') if before.is_whitespace() => Some("a comment"),
            // It refuses a pattern that no file matches.
            (None, '?' | '*' | '[') => Some("a pattern"),
            // A placeholder that nothing quotes is a redirection.
            (None, '<') => Some("a redirection"),
            _ => None,
        };
        if let Some(why) = why {
            found.push(format!("{why} in: {}", block.lines().nth(line).unwrap_or_default()));
        }
        line += usize::from(character == '\n');
        before = character;
    }
    found
}

/// The texts that people read, by their name.
fn documents() -> io::Result<Vec<(String, String)>> {
    let mut open = vec![root().join("README.md"), root().join("ARCHITECTURE.md"), root().join("docs")];
    let mut found = Vec::new();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(
                fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>()?,
            );
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push((path.display().to_string(), fs::read_to_string(&path)?));
        }
    }
    Ok(found)
}

/// Promise: what is to be pasted into a shell works in zsh as in bash, line by line, in the
/// documents and in what is printed at the start.
#[test]
fn commands_are_pasted_into_any_shell() -> io::Result<()> {
    for wrong in ["a # b", "# b", "a \\\n# b", "curl $API/a?b=c", "ls *", "a \"b\" [c]", "a 'b\nc' # d", "a <b>"] {
        assert_eq!(lines_that_zsh_misreads(wrong).len(), 1, "{wrong}");
    }
    for right in ["a#b", "a '# b' \"?*[ # \\\" #\" \\#", "a 'b\n# c'"] {
        assert_eq!(lines_that_zsh_misreads(right), [""; 0], "{right}");
    }

    let tokens = ["acme", "globex"].map(|tenant| (tenant.to_owned(), "t".to_owned())).into();
    let welcome = Welcome {
        http_url: "http://127.0.0.1:1",
        aws_url: "http://127.0.0.1:2",
        grpc_url: None,
        issuer: "http://127.0.0.1:1/_local/issuer",
        tokens: &tokens,
        data: Path::new(".tenantry"),
        has_events: true,
    };
    let mut printed = Vec::new();
    welcome.write(&mut printed)?;
    let printed = String::from_utf8_lossy(&printed);
    let (_, tour) = printed.split_once("export API").unwrap_or_default();
    assert!(tour.lines().count() > 20, "{printed}");
    let mut blocks = vec![("the tour".to_owned(), tour.to_owned())];

    for (name, text) in documents()? {
        blocks.extend(shell_blocks(&text).into_iter().map(|block| (name.clone(), block)));
    }
    let readme = |(name, _): &&(String, String)| name.ends_with("README.md");
    assert_eq!(
        blocks.iter().find(readme).map(|(_, block)| block.as_str()),
        Some("cargo run -p local\ncargo test --workspace\n"),
        "two commands are all that a start takes"
    );
    for (name, block) in blocks {
        assert_eq!(lines_that_zsh_misreads(&block), [""; 0], "{name}");
    }
    Ok(())
}
