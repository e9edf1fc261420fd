//! The source tree itself: headers, sizes, who imports whom, reasons for dependencies, and the agreement of the documents with
//! the code.
//!
//! Nothing is run here. What fails names the file and what to do about it.

mod rooms;

use std::fs;
use std::path::{Path, PathBuf};

use orderd::config::{SETTINGS, Setting};

/// The longest that a file may be, in lines, its tests included.
const MAX_LINES: usize = 600;
/// The most crates in the whole tree of a default build, ours included, and with each feature besides.
const MAX_CRATES: [(&str, usize); 2] = [("default", 44), ("postgres", 104)];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Every Rust file in `src` and `tests`, with its text.
fn sources() -> Vec<(PathBuf, String)> {
    fn collect(folder: &Path, into: &mut Vec<(PathBuf, String)>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, into);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = read(&path);
                into.push((path, text));
            }
        }
    }
    let mut sources = Vec::new();
    ["src", "tests"].iter().for_each(|folder| collect(&root().join(folder), &mut sources));
    assert!(sources.len() > 20, "the files were not found");
    sources
}

#[test]
fn every_file_opens_with_what_it_is_for() {
    for (path, text) in sources() {
        let opening = text.lines().take_while(|line| line.starts_with("//!")).count();
        assert!(opening > 0, "{} does not open with //!", path.display());
    }
}

#[test]
fn no_file_outgrows_its_subject() {
    for (path, text) in sources() {
        let lines = text.lines().count();
        assert!(lines <= MAX_LINES, "{} has {lines} lines; split it by noun", path.display());
    }
}

/// Also that only the store names SQLite, and only the edge names tiny_http.
#[test]
fn a_room_imports_only_those_that_the_table_lets_it() {
    let source = root().join("src");
    let files: Vec<_> = sources()
        .into_iter()
        .filter_map(|(path, text)| Some((path.strip_prefix(&source).ok()?.to_str().unwrap().to_string(), text)))
        .collect();
    let faults = rooms::faults(&files);
    assert!(faults.is_empty(), "{} imports against the table:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn the_changelog_has_a_heading_for_this_version() {
    let changelog = read("CHANGELOG.md");
    let version = env!("CARGO_PKG_VERSION");
    let words = |line: &str| line.split(|c: char| !c.is_alphanumeric() && c != '.' && c != '-').any(|word| word == version);
    assert!(changelog.lines().any(|line| line.starts_with('#') && words(line)), "CHANGELOG.md has no heading for {version}");
}

#[test]
fn the_tree_stays_small() {
    for (features, most) in MAX_CRATES {
        let mut cargo = std::process::Command::new(env!("CARGO"));
        cargo.args(["tree", "--locked", "--offline", "--edges", "normal,build", "--prefix", "none", "--format", "{p}"]);
        let output = match cargo.args(["--features", features]).current_dir(root()).output() {
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
                return eprintln!("not counted, as this user may not run cargo");
            }
            output => output.unwrap(),
        };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let crates: std::collections::BTreeSet<String> =
            text.lines().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect();
        let has = |name: &str| crates.iter().any(|line| line.starts_with(name));
        assert!((1..=most).contains(&crates.len()), "{} crates with {features}, at most {most} are wanted", crates.len());
        assert!(has("rusqlite ") && has("tokio-postgres ") == (features == "postgres"), "{features}: {crates:?}");
    }
}

#[test]
fn every_dependency_has_its_reason_beside_it() {
    let manifest = read("Cargo.toml");
    let mut lines = manifest.lines();
    let mut in_dependencies = false;
    let mut before = "";
    let mut seen = 0;
    for line in &mut lines {
        if line.starts_with('[') {
            in_dependencies = line.trim_matches(['[', ']']).ends_with("dependencies");
        } else if in_dependencies && line.contains('=') && !line.starts_with(['#', ' ']) {
            assert!(before.starts_with('#') || line.contains(" # "), "no reason beside {line}");
            seen += 1;
        }
        before = line;
    }
    assert!(seen > 5, "the dependencies were not found");
}

/// The README's length, in lines: what is longer has a document of its own.
const MAX_README_LINES: usize = 250;

#[test]
fn the_readme_stays_short() {
    let lines = read("README.md").lines().count();
    assert!(lines <= MAX_README_LINES, "README.md has {lines} lines, at most {MAX_README_LINES} are wanted; use docs/");
}

/// The contract has a row for every flag; the README may leave some to it.
#[test]
fn the_contract_has_a_row_for_every_flag_with_its_default_and_the_readme_no_other() {
    let row_of = |setting: &Setting| {
        let default = if setting.is_switch() { "" } else { setting.default };
        format!("| --{} {} | {default} |", setting.flag, setting.value).replace("  ", " ")
    };
    // That of a feature has its row where the feature is described.
    let is_of_all = |setting: &&Setting| setting.flag != "db-file";
    assert!(read("docs/scaling.md").contains("`--db-file FILE`"));
    let rows: Vec<_> = SETTINGS.iter().filter(is_of_all).map(row_of).collect();
    let contract = read("docs/contract.md").replace('`', "");
    for row in &rows {
        assert!(contract.contains(row), "docs/contract.md has no row {row:?}");
    }
    for line in read("README.md").replace('`', "").lines().filter(|line| line.starts_with("| --")) {
        assert!(rows.iter().any(|row| line.starts_with(row)), "README.md has a row that is no flag's: {line:?}");
    }
}

/// A promise names the tests that hold it. A name with so many words can be nothing else.
#[test]
fn the_tests_that_documents_name_are_there() {
    let sources = sources();
    let of_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let mut seen = 0;
    for document in [
        "README.md",
        "docs/contract.md",
        "docs/design.md",
        "docs/processing.md",
        "docs/promises.md",
        "docs/security.md",
        "src/lib.rs",
    ] {
        let text = read(document);
        for name in text.split(|c| !of_name(c)).filter(|word| word.matches('_').count() > 3) {
            let is_there = sources.iter().any(|(_, text)| text.contains(&format!("fn {name}(")));
            assert!(is_there, "{document} names {name}, which is no test");
            seen += 1;
        }
    }
    assert!(seen > 20, "the names were not found");
    for (name, _) in crate::harness::OF_A_FILE {
        assert!(
            sources.iter().any(|(_, text)| text.contains(&format!("fn {name}("))),
            "harness/by_hand.rs names {name}, which is no test"
        );
    }
}

#[test]
fn the_design_has_the_table_of_who_may_import_whom() {
    let design = read("docs/design.md");
    for (room, allowed) in rooms::MAY_IMPORT {
        let names = allowed.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let row = format!("| `{room}` | {} |", if names.is_empty() { "nothing" } else { &names });
        assert!(design.lines().any(|line| line == row), "docs/design.md has no row {row:?}");
    }
}

/// What a clone's reader types must be there to read.
#[test]
fn the_readme_names_the_two_commands_and_the_three_calls() {
    let readme = read("README.md");
    for words in ["cargo run --release", "cargo test", "curl", "/order", "/metrics", "Idempotent-Replayed"] {
        assert!(readme.contains(words), "README.md does not say {words:?}");
    }
}
