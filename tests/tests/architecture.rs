//! What ARCHITECTURE.md and docs/limits.md say of the source, held against the source: which crate depends on which,
//! that nothing below the crate `proxy` does I/O or asks for the time, and that every limit is listed with its value.
//! No opinion on style: the lints have that.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The crates of the workspace that each crate may depend on, and no others; tests and benchmarks see what users see.
const ARROWS: [(&str, &[&str]); 11] = [
    ("pgsluice-wire", &[]),
    ("pgsluice-sql", &[]),
    ("pgsluice-auth", &[]),
    ("pgsluice-pool", &[]),
    ("pgsluice-config", &[]),
    ("pgsluice-session", &["pgsluice-wire", "pgsluice-auth", "pgsluice-sql"]),
    ("pgsluice-console", &["pgsluice-wire"]),
    (
        "pgsluice-proxy",
        &["pgsluice-wire", "pgsluice-auth", "pgsluice-session", "pgsluice-pool", "pgsluice-config", "pgsluice-console"],
    ),
    ("pgsluice", &["pgsluice-config", "pgsluice-proxy"]),
    ("pgsluice-tests", &["pgsluice-sql"]),
    ("pgsluice-benches", &[]),
];

/// The crates that may do I/O: the runtime is theirs alone.
const MAY_DO_IO: [&str; 4] = ["pgsluice-proxy", "pgsluice", "pgsluice-tests", "pgsluice-benches"];

/// The directories of the crates that may not.
const PURE: [&str; 7] = ["wire", "auth", "sql", "session", "pool", "config", "console"];

/// What their source may not contain. The time, the environment and random numbers are arguments there.
const IMPURE: [&str; 14] = [
    "async fn",
    "async move",
    ".await",
    "tokio",
    "Instant::now",
    "SystemTime::now",
    ".elapsed()",
    "spawn",
    "std::net",
    "std::os",
    "std::env",
    "std::fs",
    "std::io::stdin",
    "getrandom",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests is a directory of the workspace").to_owned()
}

/// Each package of the workspace with the names of everything it depends on, for building and for its tests.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let packages = metadata["packages"].as_array().expect("a list of packages");
    packages.iter().map(|package| (text(&package["name"]), names(&package["dependencies"]))).collect()
}

fn names(dependencies: &Value) -> BTreeSet<String> {
    dependencies.as_array().expect("a list of dependencies").iter().map(|d| text(&d["name"])).collect()
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

#[test]
fn crates_depend_on_each_other_as_drawn() {
    let actual: BTreeMap<_, BTreeSet<_>> = dependencies()
        .into_iter()
        .map(|(name, all)| (name, all.into_iter().filter(|d| d.starts_with("pgsluice")).collect()))
        .collect();
    let drawn: BTreeMap<_, BTreeSet<_>> =
        ARROWS.iter().map(|(name, on)| ((*name).to_owned(), on.iter().map(|d| (*d).to_owned()).collect())).collect();
    assert_eq!(actual, drawn);
}

#[test]
fn the_runtime_is_known_at_the_top_only() {
    let async_crates = [
        "tokio",
        "mio",
        "hyper",
        "rustls",
        "futures",
        "futures-util",
        "async-trait",
        "socket2",
        "getrandom",
        "tracing",
    ];
    for (name, all) in dependencies() {
        let found: Vec<_> = async_crates.iter().filter(|c| all.contains(**c)).collect();
        assert!(found.is_empty() || MAY_DO_IO.contains(&name.as_str()), "{name} depends on {found:?}");
    }
}

/// The source files below a directory, with their paths from the root of the workspace.
fn sources(directory: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory of sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            let name = path.strip_prefix(root()).expect("below the root").display().to_string();
            found.push((name, fs::read_to_string(&path).expect("a source file")));
        }
    }
    found.sort();
    found
}

/// Lines of production code with their numbers: no comments, and no modules of tests, which end with a brace in column 0.
fn code(source: &str) -> Vec<(usize, &str)> {
    let mut in_tests = false;
    let mut lines = Vec::new();
    for (number, line) in source.lines().enumerate() {
        in_tests |= line == "#[cfg(test)]";
        if !in_tests {
            lines.push((number + 1, line.split("//").next().unwrap_or_default()));
        }
        in_tests &= line != "}";
    }
    lines
}

#[test]
fn nothing_below_the_proxy_does_io_or_asks_for_the_time() {
    let mut looked_at = 0;
    let mut found = Vec::new();
    for name in PURE {
        for (file, source) in sources(&root().join("crates").join(name).join("src")) {
            looked_at += 1;
            for (number, line) in code(&source) {
                // An address in a configuration is data; files and the environment are what one module of `config` is
                // asked to read.
                let line = line.replace("std::net::IpAddr", "");
                let asks = file == "crates/config/src/files.rs";
                let allowed = |word: &str| asks && ["std::fs", "std::env", "std::os"].contains(&word);
                let words = IMPURE.iter().filter(|word| line.contains(**word) && !allowed(word));
                found.extend(words.map(|word| format!("{file}:{number}: {word}")));
            }
        }
    }
    assert!(looked_at > 40, "{looked_at} files only: the crates have moved");
    assert!(found.is_empty(), "{found:#?}");
}

/// A limit: its name and the file it stands in.
type Place = (String, String);

/// Every constant of the source whose name ends in `_MAX`.
fn limits_in_source() -> BTreeMap<Place, u64> {
    let mut limits = BTreeMap::new();
    for (file, source) in sources(&root().join("crates")) {
        for (_, line) in code(&source).into_iter().filter(|_| file.contains("/src/")) {
            let Some((_, declared)) = line.split_once("const ") else { continue };
            let Some((name, rest)) = declared.split_once(": ") else { continue };
            if let Some((_, value)) = rest.split_once(" = ").filter(|_| name.ends_with("_MAX")) {
                let value = value.trim_end_matches([' ', ';']);
                limits.insert((name.to_owned(), file.clone()), evaluate(value));
            }
        }
    }
    limits
}

/// The value of a constant, in the few forms the source has.
fn evaluate(expression: &str) -> u64 {
    let seconds = expression.strip_prefix("Duration::from_secs(").and_then(|e| e.strip_suffix(')'));
    let expression = seconds.unwrap_or(expression);
    let both = |(left, right): (&str, &str)| (evaluate(left), evaluate(right));
    if let Some((left, right)) = expression.split_once(" + ").map(both) {
        return left + right;
    }
    if let Some((left, right)) = expression.split_once(" << ").map(both) {
        return left << right;
    }
    if let Some((left, right)) = expression.split_once(" * ").map(both) {
        return left * right;
    }
    let digits = expression.replace('_', "");
    let parsed = digits.strip_prefix("0x").map_or_else(|| digits.parse(), |hex| u64::from_str_radix(hex, 16));
    parsed.unwrap_or_else(|_| panic!("{expression}: teach this test to read it"))
}

/// The rows of the tables in docs/limits.md: `NAME` | number and unit | `file` | what happens.
fn limits_in_documentation() -> BTreeMap<Place, u64> {
    let page = fs::read_to_string(root().join("docs/limits.md")).expect("docs/limits.md");
    let mut limits = BTreeMap::new();
    for line in page.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        let [name, value, file, consequence] = cells.as_slice() else { panic!("a row of four cells: {line}") };
        assert!(!consequence.is_empty(), "what happens at {name}?");
        let number = value.split_whitespace().next().unwrap_or_default().replace(',', "");
        let number = number.parse().unwrap_or_else(|_| panic!("a number begins the second cell: {line}"));
        let before = limits.insert(((*name).to_owned(), format!("crates/{file}")), number);
        assert_eq!(before, None, "{name} is listed twice");
    }
    limits
}

#[test]
fn every_limit_is_listed_with_its_value() {
    let source = limits_in_source();
    assert!(source.len() > 30, "{} limits only: they are declared differently now", source.len());
    let listed = limits_in_documentation();
    let missing: Vec<_> = source.iter().filter(|limit| !listed.iter().any(|l| l == *limit)).collect();
    let wrong: Vec<_> = listed.iter().filter(|limit| !source.iter().any(|s| s == *limit)).collect();
    assert!(
        missing.is_empty() && wrong.is_empty(),
        "docs/limits.md lacks {missing:#?} and has without reason {wrong:#?}"
    );
}

/// `file::test` names on a page, the files as paths.
fn tests_named_on(page: &str) -> Vec<(PathBuf, String)> {
    let page = fs::read_to_string(root().join(page)).expect("a page");
    let named = page.split('`').skip(1).step_by(2).filter_map(|code| code.split_once("::"));
    let named = named.filter(|(file, test)| {
        [file, test]
            .iter()
            .all(|part| part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_/".contains(&b)))
    });
    let path = |file: &str| match file.split_once('/') {
        None => vec![format!("tests/tests/{file}.rs")],
        Some((name, file)) => vec![format!("crates/{name}/tests/{file}.rs"), format!("crates/{name}/src/{file}.rs")],
    };
    let found = named.filter(|(file, _)| *file != "file").map(|(file, test)| {
        let paths = path(file).into_iter().map(|p| root().join(p));
        (paths.into_iter().find(|p| p.exists()).unwrap_or_else(|| panic!("no file {file}")), test.to_owned())
    });
    found.collect()
}

#[test]
fn every_test_that_the_protocol_page_names_is_there() {
    check_tests_named_on("docs/protocol.md", 80);
}

#[test]
fn every_test_that_the_security_page_names_is_there() {
    check_tests_named_on("docs/security.md", 50);
}

fn check_tests_named_on(page: &str, min: usize) {
    let named = tests_named_on(page);
    assert!(named.len() > min, "{} only: they are written differently now", named.len());
    for (file, test) in named {
        let source = fs::read_to_string(&file).expect("it exists");
        let at = source.find(&format!("fn {test}()")).or_else(|| source.find(&format!("fn {test}(")));
        let mut before = source[..at.unwrap_or_else(|| panic!("{} has no test {test}", file.display()))].lines().rev();
        assert!(
            before.find(|line| !line.trim().is_empty()).is_some_and(|line| line.trim().ends_with("test]")),
            "{test} is no test"
        );
    }
}
