//! The order of the modules: no circle between the top-level modules of any crate, and the floors
//! of `shared`. Both are computed from the sources' imports.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    str::FromStr,
};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

use crate::invariants::{root, sources};

/// The floors of `shared`, lowest first. A module imports from its own floor and those below it.
const FLOORS: [(&str, &[&str]); 10] = [
    ("words", &["model", "clock", "redact"]),
    ("ground", &["telemetry", "limit", "backoff"]),
    ("who", &["auth"]),
    ("AWS", &["aws"]),
    ("data", &["ledger", "store", "event"]),
    ("memory", &["cache"]),
    ("backend", &["backend"]),
    ("use cases", &["outbox", "import", "read", "write", "tail", "reconcile", "refresh"]),
    ("edge", &["http", "function", "process"]),
    ("top", &["settings"]),
];

/// What stands for `lib.rs` and `main.rs` in the graph of a crate.
const ROOT: &str = "the crate's root";

/// A path in a module: `["crate"]` is left out, `super` and `self` are resolved.
type ModulePath = Vec<String>;

/// What one file says about modules.
#[derive(Debug, Default)]
struct Scan {
    /// Paths inside the crate that code outside of tests names.
    uses: BTreeSet<ModulePath>,
    /// Modules that are there for tests alone.
    tests: BTreeSet<ModulePath>,
    /// Modules declared here.
    declared: BTreeSet<ModulePath>,
    /// What a `use` gives a name to: its name here, and the path it stands for.
    renamed: BTreeMap<ModulePath, ModulePath>,
}

impl Scan {
    fn of(text: &str, module: &[String]) -> Result<Self, String> {
        let mut scan = Self::default();
        scan.walk(&tokens(TokenStream::from_str(text).map_err(|error| error.to_string())?), module);
        Ok(scan)
    }

    fn walk(&mut self, tokens: &[TokenTree], module: &[String]) {
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            at += 1;
            match token {
                TokenTree::Punct(punct) if punct.as_char() == '#' && is_for_tests(tokens.get(at)) => {
                    at = self.skip_item(tokens, at + 1, module);
                }
                TokenTree::Group(group) => self.walk(&self::tokens(group.stream()), module),
                TokenTree::Ident(ident) if ident == "mod" => {
                    let Some(TokenTree::Ident(name)) = tokens.get(at) else { continue };
                    let inner = joined(module, [name.to_string()]);
                    self.declared.insert(inner.clone());
                    at += 1;
                    if let Some(TokenTree::Group(body)) = tokens.get(at) {
                        self.walk(&self::tokens(body.stream()), &inner);
                        at += 1;
                    }
                }
                TokenTree::Ident(ident) if ident == "use" => {
                    let end = at + tokens[at..].iter().take_while(|token| !is_punct(Some(token), ';')).count();
                    self.read_use(&tokens[at..end], &[], module);
                    at = end;
                }
                TokenTree::Ident(first) if is_path_separator(&tokens[at..]) => {
                    // Behind another `::` it is not the beginning of a path.
                    let begins = at < 3 || !is_path_separator(&tokens[at - 3..]);
                    let mut path = vec![first.to_string()];
                    while is_path_separator(&tokens[at..])
                        && let Some(TokenTree::Ident(next)) = tokens.get(at + 2)
                    {
                        path.push(next.to_string());
                        at += 3;
                    }
                    if begins {
                        self.note(&path, module);
                    }
                }
                _ => {}
            }
        }
    }

    /// Goes past an item that tests alone see, from after its `#[cfg(test)]`.
    fn skip_item(&mut self, tokens: &[TokenTree], mut at: usize, module: &[String]) -> usize {
        while let Some(token) = tokens.get(at) {
            at += 1;
            match (token, tokens.get(at)) {
                (TokenTree::Ident(ident), Some(TokenTree::Ident(name))) if ident == "mod" => {
                    self.tests.insert(joined(module, [name.to_string()]));
                }
                (TokenTree::Group(group), _) if group.delimiter() == Delimiter::Brace => break,
                (TokenTree::Punct(punct), _) if punct.as_char() == ';' => break,
                _ => {}
            }
        }
        at
    }

    /// Reads one tree of a `use`, behind the path `before`.
    fn read_use(&mut self, tokens: &[TokenTree], before: &[String], module: &[String]) {
        let mut path = before.to_vec();
        let mut tokens = tokens;
        loop {
            match tokens {
                [TokenTree::Group(group), ..] => {
                    for tree in self::tokens(group.stream()).split(|token| is_punct(Some(token), ',')) {
                        if !tree.is_empty() {
                            self.read_use(tree, &path, module);
                        }
                    }
                    return;
                }
                [TokenTree::Ident(name), rest @ ..] if is_path_separator(rest) => {
                    path.push(name.to_string());
                    tokens = &rest[2..];
                }
                [TokenTree::Ident(name), rest @ ..] => {
                    path.push(name.to_string());
                    if name == "self" && path.len() > 1 {
                        path.pop();
                    }
                    let known_as = match rest {
                        [TokenTree::Ident(_), TokenTree::Ident(other)] => other.to_string(),
                        _ => path.last().cloned().unwrap_or_default(),
                    };
                    if let Some(resolved) = self.note(&path, module) {
                        self.renamed.insert(joined(module, [known_as]), resolved);
                    }
                    return;
                }
                [TokenTree::Punct(punct), ..] if punct.as_char() == '*' => {
                    self.note(&joined(&path, ["*".to_owned()]), module);
                    return;
                }
                // `::name` is another crate's.
                _ => return,
            }
        }
    }

    /// Notes what a path means if it begins in this crate.
    fn note(&mut self, path: &[String], module: &[String]) -> Option<ModulePath> {
        let mut base = module.to_vec();
        let mut rest = path;
        match path.first()?.as_str() {
            "crate" => {
                base.clear();
                rest = &rest[1..];
            }
            "self" => rest = &rest[1..],
            "super" => {
                while rest.first().is_some_and(|first| first == "super") {
                    base.pop();
                    rest = &rest[1..];
                }
            }
            // In the root, a path may begin with a module's name; elsewhere such a path stays
            // inside its own top-level module.
            first if module.is_empty() && self.declared.contains(&[first.to_owned()][..]) => {}
            _ => return None,
        }
        let resolved = joined(&base, rest.iter().cloned());
        self.uses.insert(resolved.clone());
        Some(resolved)
    }
}

fn tokens(stream: TokenStream) -> Vec<TokenTree> {
    stream.into_iter().collect()
}

fn joined(path: &[String], more: impl IntoIterator<Item = String>) -> ModulePath {
    path.iter().cloned().chain(more).collect()
}

fn is_punct(token: Option<&TokenTree>, wanted: char) -> bool {
    matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == wanted)
}

fn is_path_separator(tokens: &[TokenTree]) -> bool {
    is_punct(tokens.first(), ':') && is_punct(tokens.get(1), ':')
}

/// Whether what follows a `#` is `[cfg(test)]`.
fn is_for_tests(token: Option<&TokenTree>) -> bool {
    matches!(token, Some(TokenTree::Group(group)) if group.stream().to_string().replace(' ', "") == "cfg(test)")
}

/// Who imports from whom in a crate, with the files and the names that tie them. The root is left
/// out: it is the parent of all other modules.
#[derive(Debug, Default)]
struct Graph {
    arrows: BTreeMap<(String, String), BTreeSet<String>>,
}

impl Graph {
    /// From the files of a crate, each with its path below `src/` and its text.
    fn of<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, String> {
        let mut scans = BTreeMap::new();
        for (file, text) in files {
            let module = module_of(file);
            let scan = Scan::of(text, &module).map_err(|error| format!("{file}: {error}"))?;
            scans.insert(file, (module, scan));
        }
        let tests: BTreeSet<_> = scans.values().flat_map(|(_, scan)| &scan.tests).collect();
        let is_test = |module: &[String]| (1..=module.len()).any(|end| tests.contains(&module[..end].to_vec()));
        let roots = scans.values().filter(|(module, _)| module.is_empty());
        let top: BTreeSet<_> =
            roots.clone().flat_map(|(_, scan)| &scan.declared).filter_map(|path| path.first()).collect();
        let exported: BTreeMap<_, _> = roots.flat_map(|(_, scan)| &scan.renamed).collect();
        let owner = |path: &ModulePath| {
            let path = exported.get(&path[..path.len().min(1)].to_vec()).copied().unwrap_or(path);
            path.first().filter(|first| top.contains(first)).map_or(ROOT, String::as_str).to_owned()
        };

        let mut graph = Self::default();
        for (file, (module, scan)) in &scans {
            if is_test(module) {
                continue;
            }
            let from = owner(module);
            for path in &scan.uses {
                let to = owner(path);
                if from != to && from != ROOT && to != ROOT && !is_test(path) {
                    let name = path.last().cloned().unwrap_or_default();
                    graph.arrows.entry((from.clone(), to)).or_default().insert(format!("{file}: {name}"));
                }
            }
        }
        Ok(graph)
    }

    /// The arrows between modules that lead back to each other, in words.
    fn circles(&self) -> Vec<String> {
        let reached = |from: &str| {
            let (mut open, mut seen) = (vec![from], BTreeSet::new());
            while let Some(module) = open.pop() {
                for (_, to) in self.arrows.keys().filter(|(from, _)| from == module) {
                    if seen.insert(to.as_str()) {
                        open.push(to);
                    }
                }
            }
            seen
        };
        let ties = self.arrows.iter().filter(|((from, to), _)| reached(to).contains(from.as_str()));
        ties.map(|((from, to), names)| {
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            format!("{from} -> {to} ({})", names.join(", "))
        })
        .collect()
    }
}

/// The module that a file of `src/` holds.
fn module_of(file: &str) -> ModulePath {
    let mut path: ModulePath = file.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if path.last().is_some_and(|last| last == "mod") || path == ["lib"] || path == ["main"] {
        path.pop();
    }
    path
}

/// The graph of the crate in `folder`.
fn graph_of(folder: &str) -> io::Result<Graph> {
    let source = format!("{folder}/src");
    let files = sources(&source)?;
    let below = |name: &str| name.strip_prefix(&source).unwrap_or(name).trim_start_matches('/').to_owned();
    let files: Vec<_> = files.into_iter().map(|(name, text)| (below(&name), text)).collect();
    // A program in `bin/` is a crate of its own.
    let own = files.iter().filter(|(name, _)| !name.starts_with("bin/"));
    Graph::of(own.map(|(name, text)| (name.as_str(), text.as_str()))).map_err(io::Error::other)
}

/// The folders of all crates.
fn crates() -> io::Result<Vec<String>> {
    let (mut open, mut found) = (vec![root()], Vec::new());
    while let Some(folder) = open.pop() {
        if folder.join("Cargo.toml").is_file() && folder.join("src").is_dir() {
            let name = folder.strip_prefix(root()).unwrap_or(&folder);
            found.push(name.to_string_lossy().replace('\\', "/"));
        }
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let is_built = path.file_name().is_some_and(|name| name == "target");
            let is_hidden = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with('.'));
            if path.is_dir() && !is_built && !is_hidden && !folder.ends_with("src") {
                open.push(path);
            }
        }
    }
    Ok(found)
}

/// The arrows of `shared` that lead up, in words.
fn arrows_up(graph: &Graph) -> Vec<String> {
    let floor = |module: &str| FLOORS.iter().position(|(_, modules)| modules.contains(&module));
    let name = |floor: Option<usize>| floor.map_or("no floor", |floor| FLOORS[floor].0);
    let up = graph
        .arrows
        .iter()
        .filter(|((from, to), _)| floor(from).is_none() || floor(to).is_none() || floor(to) > floor(from));
    up.map(|((from, to), names)| {
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        format!("{from} ({}) -> {to} ({}): {}", name(floor(from)), name(floor(to)), names.join(", "))
    })
    .collect()
}

/// Promise: no circle runs between the top-level modules of any crate.
#[test]
fn modules_import_in_one_direction() -> io::Result<()> {
    let crates = crates()?;
    assert!(crates.len() > 10, "{crates:?}");
    let mut circles = Vec::new();
    for folder in crates {
        circles.extend(graph_of(&folder)?.circles().into_iter().map(|tie| format!("{folder}: {tie}")));
    }
    assert!(circles.is_empty(), "these imports form circles:\n{}", circles.join("\n"));
    Ok(())
}

/// Promise: a module of `shared` imports from its own floor and those below it, and every module
/// has a floor.
#[test]
fn floors_rest_on_lower_floors() -> io::Result<()> {
    let up = arrows_up(&graph_of("shared")?);
    assert!(up.is_empty(), "these imports lead up:\n{}", up.join("\n"));
    for (floor, modules) in FLOORS {
        for module in modules {
            let source = root().join("shared/src");
            let exists = source.join(module).join("mod.rs").is_file() || source.join(format!("{module}.rs")).is_file();
            assert!(exists, "the floor {floor:?} has no module {module}");
        }
    }
    Ok(())
}

/// The arrows of a made-up crate, as `from -> to`.
fn arrows(files: &[(&str, &str)]) -> Vec<String> {
    let graph = Graph::of(files.iter().copied()).expect("the sources can be read");
    graph.arrows.keys().map(|(from, to)| format!("{from} -> {to}")).collect()
}

/// Promise: the scanner finds an import in every form that it takes.
#[test]
fn imports_are_found_in_every_form() {
    let lib = ("lib.rs", "mod a; mod b; pub mod c; pub use c::{Exported, Other as Known}; fn f() { b::go(); }");
    for text in [
        "use crate::b::Name;",
        "use crate::{b::{self, d::Name}};",
        "use crate::b;",
        "use crate::b::*;",
        "pub(crate) use super::b::{Name as Other};",
        "fn f() { crate::b::go() }",
        "fn f() -> Vec<crate::b::Name> { vec![] }",
        "fn f() { println!(\"{}\", super::b::go()); }",
        "mod inner { use super::super::b::Name; }",
        "#[cfg(unix)] use crate::b::Name;",
        "/// Text.\n#[derive(Debug)] struct S { field: crate::b::Name }",
    ] {
        assert_eq!(arrows(&[lib, ("a.rs", text)]), ["a -> b"], "{text}");
    }
    assert_eq!(arrows(&[lib, ("a/deep/mod.rs", "use super::super::b::Name;")]), ["a -> b"]);
    // What the root passes on belongs to the module that it comes from.
    for text in ["use crate::Exported;", "use crate::Known;", "use super::{Exported};"] {
        assert_eq!(arrows(&[lib, ("a.rs", text)]), ["a -> c"], "{text}");
    }
    assert_eq!(arrows(&[lib, ("a.rs", "use crate::Own;")]), [""; 0], "the root is left out");
}

/// Promise: the scanner takes nothing else for an import.
#[test]
fn only_imports_outside_of_tests_count() {
    let lib = ("lib.rs", "mod a; mod b;");
    for text in [
        "#[cfg(test)] mod tests { use crate::b::Name; }",
        "#[cfg(test)] use crate::b::Name;",
        "#[cfg(test)] pub(crate) fn f() { crate::b::go() } use std::fmt;",
        "/// [`crate::b::Name`]\nfn f() {}",
        "use std::b; use ::b::Name; use b::Name; fn f() { std::b::go() }",
        "mod b { pub struct Name; } use self::b::Name;",
        "mod deep { use super::b::Name; }",
        "const TEXT: &str = \"crate::b::Name\";",
    ] {
        assert_eq!(arrows(&[lib, ("a.rs", text)]), [""; 0], "{text}");
    }
    let declared = [lib, ("a/mod.rs", "#[cfg(test)]\nmod tests;"), ("a/tests/mod.rs", "use crate::b::Name;")];
    assert_eq!(arrows(&declared), [""; 0]);
}

/// Promise: a circle is found, with what ties it, and what only hangs on to it is not named.
#[test]
fn circles_are_named() {
    let files = [
        ("lib.rs", "mod a; mod b; mod c; mod d;"),
        ("a.rs", "use crate::b::B; use crate::d::D;"),
        ("b/mod.rs", "mod part;"),
        ("b/part.rs", "use crate::{c::C, d::D};"),
        ("c.rs", "fn f() { super::a::go() }"),
        ("d.rs", ""),
    ];
    let graph = Graph::of(files).expect("the sources can be read");
    assert_eq!(graph.circles(), ["a -> b (a.rs: B)", "b -> c (b/part.rs: C)", "c -> a (c.rs: go)"]);
}

/// Promise: an import from a higher floor is named, and so is a module without a floor.
#[test]
fn arrows_up_are_named() {
    let files = [
        ("lib.rs", "mod model; mod ledger; mod store; mod read; mod new;"),
        ("model.rs", "use crate::ledger::Ledger;"),
        ("store.rs", "use crate::{ledger::Ledger, model::Key};"),
        ("new.rs", "use crate::model::Key;"),
    ];
    let up = arrows_up(&Graph::of(files).expect("the sources can be read"));
    let expected = ["model (words) -> ledger (data): model.rs: Ledger", "new (no floor) -> model (words): new.rs: Key"];
    assert_eq!(up, expected);
}
