//! The invariants of absence that ARCHITECTURE.md lists: what must not stand where.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use local::welcome::Welcome;

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// All Rust sources under `folder`, with their path from the root and their text.
pub(crate) fn sources(folder: &str) -> io::Result<Vec<(String, String)>> {
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
        // The fixture gets one from a token, as anybody must, and names its type.
        let in_auth = name.starts_with("shared/src/auth/") || name == "shared/src/fixture.rs";
        assert!(in_auth || !text.contains("TenantScope {"), "{name} makes a TenantScope");
        let for_refresh = in_auth || name == "shared/src/refresh.rs";
        assert!(for_refresh || !text.contains("for_outbox"), "{name} takes the authority over all tenants");
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
            // rustfmt wraps code, and on stable leaves comments as they are.
            let wide = text.lines().position(|line| line.trim_start().starts_with("//") && line.chars().count() > 100);
            assert_eq!(wide.map(|line| line + 1), None, "this line of {name} is a comment of over 100 columns");
        }
    }
    Ok(())
}

/// The blocks of shell commands in a text.
fn shell_blocks(text: &str) -> Vec<String> {
    // Words for `.ci/docs` may stand behind the fence.
    let blocks = text.split("\n```sh").skip(1).filter_map(|rest| rest.split_once('\n'));
    blocks.map(|(_, rest)| rest.split("```").next().unwrap_or_default().to_owned()).collect()
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
            // The command, not a pattern.
            (None, '[') if characters.clone().next().is_some_and(char::is_whitespace) => None,
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

/// The texts that people read, by their name: those at the root, and those in `docs/`.
fn documents() -> io::Result<Vec<(PathBuf, String)>> {
    let within = |folder: PathBuf| fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect();
    let at_the_root: Vec<PathBuf> = within(root())?;
    let mut open: Vec<_> = at_the_root.into_iter().filter(|path| path.is_file()).collect();
    open.push(root().join("docs"));
    let mut found = Vec::new();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            let inside: io::Result<Vec<_>> = within(path);
            open.extend(inside?);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            let text = fs::read_to_string(&path)?;
            found.push((path, text));
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
    for right in ["a#b", "a '# b' \"?*[ # \\\" #\" \\#", "a 'b\n# c'", "if [ a = b ]"] {
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
        blocks.extend(shell_blocks(&text).into_iter().map(|block| (name.display().to_string(), block)));
    }
    let readme = root().join("README.md").display().to_string();
    let readme = |(name, _): &&(String, String)| *name == readme;
    let first: Vec<_> = blocks.iter().filter(readme).map(|(_, block)| block.as_str()).take(2).collect();
    assert_eq!(first, ["cargo run -p local\n", "cargo test --workspace\n"], "two commands are all that a start takes");
    for (name, block) in blocks {
        assert_eq!(lines_that_zsh_misreads(&block), [""; 0], "{name}");
    }
    Ok(())
}

/// A text without its blocks of code and its code within lines.
fn without_code(text: &str) -> String {
    let mut in_block = false;
    let prose = text.lines().filter(|line| {
        let is_fence = line.trim_start().starts_with("```");
        in_block ^= is_fence;
        !in_block && !is_fence
    });
    let lines: Vec<_> = prose.map(|line| line.split('`').step_by(2).collect::<Vec<_>>().join("")).collect();
    lines.join("\n")
}

/// Where the links of a text lead to.
fn links(text: &str) -> Vec<String> {
    let prose = without_code(text);
    prose.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target.to_owned()).collect()
}

/// The names that the headings of a text can be linked by, as GitHub makes them.
fn anchors(text: &str) -> Vec<String> {
    let mut in_block = false;
    let headings = text.lines().filter(|line| {
        in_block ^= line.trim_start().starts_with("```");
        !in_block && line.starts_with('#')
    });
    let named = headings.map(|heading| {
        let title = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || ['-', '_', ' '].contains(c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    });
    named.collect()
}

/// Promise: what a document points to is there: the file, and the heading in it.
#[test]
fn links_lead_somewhere() -> io::Result<()> {
    let text = "# A b, c …\n[x](y.md) and `[no](z.md)`\n```\n# no\n[no](z.md)\n```\n";
    assert_eq!((links(text), anchors(text)), (vec!["y.md".to_owned()], vec!["a-b-c-".to_owned()]));

    let documents = documents()?;
    let mut broken = Vec::new();
    for (path, text) in &documents {
        for link in links(text).iter().filter(|link| !link.contains("://") && !link.starts_with("mailto:")) {
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { path.clone() } else { path.with_file_name("").join(file) };
            let has_heading = anchor.is_empty()
                || fs::read_to_string(&target).is_ok_and(|text| anchors(&text).iter().any(|one| one == anchor));
            if !target.exists() || !has_heading {
                broken.push(format!("{} to {link}", path.display()));
            }
        }
    }
    assert_eq!(broken, [""; 0]);
    Ok(())
}

/// Promise: who is walked through the code finds what is named, where it is said to be.
#[test]
fn walkthroughs_name_what_is_there() -> io::Result<()> {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md"))?;
    let (_, walks) = text.split_once("\n## Walkthroughs\n").unwrap_or_default();
    let walks = walks.split("\n## ").next().unwrap_or_default();
    let steps: Vec<Vec<_>> = walks
        .lines()
        .map(|line| line.split('|').map(str::trim).collect::<Vec<_>>())
        .filter(|cells| cells.len() == 6 && cells[1].parse::<u32>().is_ok())
        .collect();
    assert!(steps.len() > 20, "{steps:?}");
    let code = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let mut missing = Vec::new();
    for cells in steps {
        let files = code(cells[3])
            .into_iter()
            .map(|file| if file.contains("/src/") { root().join(file) } else { root().join("shared/src").join(file) });
        let texts: Vec<_> = files.map(|file| fs::read_to_string(file).unwrap_or_default()).collect();
        for name in code(cells[2]) {
            let function = format!("fn {}", name.rsplit("::").next().unwrap_or_default());
            let is_there = |text: &String| ['(', '<'].iter().any(|next| text.contains(&format!("{function}{next}")));
            if !texts.iter().any(is_there) {
                missing.push(format!("{name} in {}", cells[3]));
            }
        }
    }
    assert_eq!(missing, [""; 0]);
    Ok(())
}

/// Promise: a source file that a document names is there, though files are moved and renamed.
#[test]
fn documents_name_files_that_are_there() -> io::Result<()> {
    // Names that stand for any.
    const EXAMPLES: [&str; 3] = ["x", "x/mod", "shared/src/store/NAME"];
    let mut known = String::from("\n");
    for folder in ["shared", "functions", "stream", "clients", "dev"] {
        for (name, _) in sources(folder)? {
            known.push_str(&name);
            known.push('\n');
        }
    }
    let mut missing = Vec::new();
    for (document, text) in documents()? {
        // Code between single backticks, on one line.
        for name in text.lines().flat_map(|line| line.split('`').skip(1).step_by(2)) {
            let stem = name.strip_suffix(".rs").filter(|stem| !EXAMPLES.contains(stem));
            if stem.is_some() && !known.contains(&format!("/{name}\n")) && !known.contains(&format!("\n{name}\n")) {
                missing.push(format!("{}: {name}", document.display()));
            }
        }
    }
    assert_eq!(missing, [""; 0]);
    Ok(())
}

/// The names of settings that stand at the beginning of a chapter's rows.
fn documented(text: &str, chapter: &str) -> Vec<String> {
    let (_, rest) = text.split_once(chapter).unwrap_or_default();
    let chapter = rest.split("\n## ").next().unwrap_or_default();
    let rows = chapter.lines().filter_map(|line| line.strip_prefix("| `")?.split(" |").next());
    rows.flat_map(|names| names.split('`').step_by(2)).filter(|name| !name.contains(',')).map(str::to_owned).collect()
}

/// Promise: who deploys finds each parameter of the template, and no variable that nobody reads.
#[test]
fn settings_are_documented() -> io::Result<()> {
    let text = fs::read_to_string(root().join("docs/operations/settings.md"))?;
    let template = fs::read_to_string(root().join("template.yaml"))?;
    let (_, parameters) = template.split_once("\nParameters:\n").unwrap_or_default();
    let parameters = parameters.split("\nRules:\n").next().unwrap_or_default().lines();
    let names = parameters.filter_map(|line| line.strip_prefix("  ")?.strip_suffix(':'));
    let mut given: Vec<_> = names.filter(|name| !name.starts_with([' ', '#'])).map(str::to_owned).collect();
    let mut told = documented(&text, "## Parameters of the template\n");
    given.sort_unstable();
    told.sort_unstable();
    assert_eq!(told, given, "told on the left, there on the right");

    let code = [sources("shared/src")?, sources("stream/src")?].concat();
    for chapter in
        ["## Environment variables of the functions\n", "## Environment variables of the streaming service\n"]
    {
        let told = documented(&text, chapter);
        assert!(told.len() > 10, "{told:?}");
        for name in told {
            let quoted = format!("\"{name}\"");
            assert!(code.iter().any(|(_, text)| text.contains(&quoted)), "nobody reads {name}");
        }
    }
    Ok(())
}
