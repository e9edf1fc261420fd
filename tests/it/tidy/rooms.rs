//! The rooms of `src`, and who may import whom: a table, and what in the sources is against it.
//!
//! A room is a folder of `src` with the file beside it, and one on its own where there is no folder. What a file imports is
//! read from its paths: `crate::…`, `super::…` out of its room, and `orderd::…` in the binary. Comments and texts do not count;
//! unit tests do. In the table a room names only rooms that come after it, so there are no circles.

use std::collections::BTreeMap;

/// Each room with the rooms, or parts of them, that it may import. All may import [`FOR_ALL`].
pub const MAY_IMPORT: [(&str, &[&str]); 11] = [
    ("cli", &["supervisor", "server", "config", "http::client", "http::percent", "store"]),
    ("supervisor", &["config", "http::listener", "http::probe", "store"]),
    ("server", &["service", "processing", "http", "store", "config"]),
    ("service", &["api", "http", "store"]),
    // The vocabulary of both.
    ("config", &["processing::Work", "processing::work", "http::Listen", "http::listener", "http::bearer"]),
    ("api", &["store", "http", "order"]),
    ("processing", &["store", "order"]),
    ("store", &["order"]),
    ("order", &[]),
    ("http", &[]),
    ("os", &[]),
];
/// Known to every room.
const FOR_ALL: [&str; 2] = ["os", "error"];
/// The map of the library and the start of the binary, which name everything.
const NOT_HELD: [&str; 2] = ["lib", "main"];
/// A crate, and the paths below which alone it is named.
const NAMED_ONLY_IN: [(&str, &[&str]); 5] = [
    ("rusqlite", &["store/sqlite.rs", "store/sqlite/"]),
    ("tiny_http", &["http.rs", "http/"]),
    ("tokio_postgres", &["store/postgres/"]),
    ("tokio_rustls", &["store/postgres/"]),
    ("tokio", &["store/postgres/"]),
];

/// What is wrong in these files, each of which comes with its path below `src`.
pub fn faults(files: &[(String, String)]) -> Vec<String> {
    let surface = files.iter().find(|(path, _)| path == "lib.rs").map(|(_, text)| surface(text)).unwrap_or_default();
    files.iter().flat_map(|(path, text)| faults_of(path, text, &surface)).collect()
}

fn faults_of(path: &str, text: &str, surface: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let room = path.split(['/', '.']).next().unwrap();
    if NOT_HELD.contains(&room) {
        return Vec::new();
    }
    let words = words(text);
    let mut faults = Vec::new();
    for (name, places) in NAMED_ONLY_IN {
        let named = words.windows(2).any(|pair| pair[0] == name && pair[1] == "::");
        if named && !places.iter().any(|place| path.starts_with(place)) {
            faults.push(format!("{path}: {name} is named outside {}", places.join(" and ")));
        }
    }
    // `error` knows only what is for all.
    let allowed = MAY_IMPORT.iter().find(|(name, _)| *name == room).map(|(_, allowed)| *allowed);
    let Some(allowed) = allowed.or((room == "error").then_some(&[])) else {
        faults.push(format!("{path}: {room} is no room of the table"));
        return faults;
    };
    for mut import in imports(path, &words) {
        // What the crate's front page passes on belongs to the room that it comes from.
        if let Some(origin) = import.first().and_then(|first| surface.get(first)) {
            // The library's face is for the binary to use.
            if room == "cli" {
                continue;
            }
            import = origin.clone();
        }
        let full = import.join("::");
        let is = |place: &&str| full == **place || full.starts_with(&format!("{place}::"));
        if !full.is_empty() && !is(&room) && !FOR_ALL.iter().any(&is) && !allowed.iter().any(&is) {
            faults.push(format!("{path}: the room {room} may not import {full}"));
        }
    }
    faults
}

/// The names that the front page passes on, each with the path that it comes from.
fn surface(lib: &str) -> BTreeMap<String, Vec<String>> {
    let words = words(lib);
    let mut names = BTreeMap::new();
    for at in 1..words.len() {
        if words[at] == "use" && words[at - 1] == "pub" {
            let mut paths = Vec::new();
            tree(&words, at + 1, &[], &mut paths);
            for path in paths.into_iter().map(|path| path.into_iter().filter(|word| word != "crate").collect::<Vec<_>>()) {
                names.insert(path.last().unwrap().clone(), path);
            }
        }
    }
    names
}

/// All paths into this crate that a file names, from the crate's root.
fn imports(path: &str, words: &[String]) -> Vec<Vec<String>> {
    let own: Vec<String> = path.trim_end_matches(".rs").split('/').map(str::to_string).collect();
    // The modules that are open here, with the depth of braces at which each ends.
    let (mut inner, mut depth) = (Vec::<(String, usize)>::new(), 0);
    let mut found = Vec::new();
    let mut at = 0;
    while at < words.len() {
        let word = words[at].as_str();
        let starts_path = words.get(at + 1).is_some_and(|next| next == "::") && (at == 0 || words[at - 1] != "::");
        match word {
            "{" => depth += 1,
            "}" => {
                depth -= 1;
                inner.pop_if(|(_, opened)| *opened == depth);
            }
            "mod" if words.get(at + 2).is_some_and(|next| next == "{") => inner.push((words[at + 1].clone(), depth)),
            "crate" | "orderd" if starts_path => _ = tree(words, at + 2, &[], &mut found),
            "super" if starts_path => {
                let mut here: Vec<_> = own.iter().cloned().chain(inner.iter().map(|(name, _)| name.clone())).collect();
                here.pop();
                let mut rest = at + 2;
                while words.get(rest).is_some_and(|next| next == "super") {
                    here.pop();
                    rest += 2;
                }
                _ = tree(words, rest, &here, &mut found);
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// Adds the paths of the tree that begins here, `a::{b, c::d}`, and returns where it ends.
fn tree(words: &[String], mut at: usize, before: &[String], found: &mut Vec<Vec<String>>) -> usize {
    let mut path = before.to_vec();
    loop {
        match words.get(at).map(String::as_str) {
            Some("{") => {
                at += 1;
                while words.get(at).is_some_and(|word| word != "}") {
                    at = if words[at] == "," { at + 1 } else { tree(words, at, &path, found) };
                }
                return at + 1;
            }
            Some("self") => {}
            Some(word) if is_name(word) => path.push(word.to_string()),
            Some("*") => path.push("*".into()),
            _ => {}
        }
        if words.get(at + 1).is_some_and(|word| word == "::") {
            at += 2;
            continue;
        }
        found.push(path);
        at += 1;
        // Under another name.
        if words.get(at).is_some_and(|word| word == "as") {
            at += 2;
        }
        return at;
    }
}

fn is_name(word: &str) -> bool {
    word.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// The words and signs of a file, without its comments and texts.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if rest.starts_with("r\"") || rest.starts_with("r#") {
            raw_text(rest)
        } else if c == '"' {
            quoted(rest)
        } else if c == '\'' {
            character(rest)
        } else if c.is_alphanumeric() || c == '_' {
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            words.push(rest[..end].to_string());
            end
        } else if rest.starts_with("::") {
            words.push("::".into());
            2
        } else {
            if !c.is_whitespace() {
                words.push(c.to_string());
            }
            c.len_utf8()
        };
        rest = &rest[length..];
    }
    words
}

/// The length of `"…"`.
fn quoted(text: &str) -> usize {
    let mut escaped = true;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of `r#"…"#`, or of the `r` of a name.
fn raw_text(text: &str) -> usize {
    let hashes = text[1..].find(|c| c != '#').unwrap_or(0);
    let begin = 1 + hashes;
    if !text[begin..].starts_with('"') {
        return begin;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    text[begin + 1..].find(&end).map_or(text.len(), |at| begin + 1 + at + end.len())
}

/// The length of `'x'`, or of the `'` of a lifetime.
fn character(text: &str) -> usize {
    let mut chars = text.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), Some(_)) => text[3..].find('\'').map_or(text.len(), |at| 3 + at + 1),
        (Some(_), Some((at, '\''))) => at + 1,
        _ => 1,
    }
}

#[test]
fn in_the_table_a_room_names_only_rooms_after_it() {
    for (n, (room, allowed)) in MAY_IMPORT.iter().enumerate() {
        for import in *allowed {
            let name = import.split("::").next().unwrap();
            let place = MAY_IMPORT.iter().position(|(other, _)| *other == name);
            assert!(place.is_some_and(|place| place > n), "{room} names {import}, so that there may be a circle");
        }
    }
}

#[test]
fn an_import_against_the_table_is_found_with_its_file_and_room() {
    let files =
        |files: &[(&str, &str)]| files.iter().map(|(path, text)| (path.to_string(), text.to_string())).collect::<Vec<_>>();
    let good = files(&[
        ("lib.rs", "pub use http::listener::{Address, Listen as Where}; pub use crate::error::Error; use crate::store;"),
        ("service.rs", "use crate::api::{self, Route};\nuse crate::{error::Error, store::write::{Write, Written}};"),
        (
            "http/head.rs",
            "// crate::store::Lock\n/* crate::api */ use super::body; use crate::os::sync; const A: &str = \"crate::order\";",
        ),
        (
            "http/body.rs",
            "fn f<'a>(c: &'a str) { let _ = '\"'; let _ = ('\\'', r#\"crate::store\"#); crate::error::Error::new(c) }",
        ),
        ("http/workers.rs", "mod tests { use super::*; use super::super::head; use tiny_http::Request; }"),
        ("store/sqlite/read.rs", "use rusqlite::Connection; use crate::order::Order; use crate::Error;"),
        ("config.rs", "use crate::processing::Work; use crate::Address;"),
        ("cli/serve.rs", "use orderd::{Address, Error}; use orderd::server::Server; use crate::cli::healthcheck;"),
        ("error.rs", "use crate::os::clock::Clock;"),
    ]);
    assert_eq!(faults(&good), [""; 0]);
    let bad = files(&[
        ("lib.rs", "pub use http::listener::Address; pub use config::Config;"),
        ("http/head.rs", "use crate::{error::Error, store::{write::Write, Lock}};"),
        ("http/body.rs", "fn f() { let _ = crate::api::Route::Metrics; }"),
        ("store.rs", "use super::http::Request;"),
        ("store/commit.rs", "mod tests { use super::super::super::api; } use rusqlite::Connection;"),
        ("processing/work.rs", "use crate::Config;"),
        ("config.rs", "use crate::processing::task::Task;"),
        ("cli/retry.rs", "use crate::http::head::Head;"),
        ("supervisor.rs", "use tiny_http as http;\nuse tiny_http::Server;"),
        ("stray.rs", ""),
    ]);
    let expected = [
        "http/head.rs: the room http may not import store::write::Write",
        "http/head.rs: the room http may not import store::Lock",
        "http/body.rs: the room http may not import api::Route::Metrics",
        "store.rs: the room store may not import http::Request",
        "store/commit.rs: rusqlite is named outside store/sqlite.rs and store/sqlite/",
        "store/commit.rs: the room store may not import api",
        "processing/work.rs: the room processing may not import config::Config",
        "config.rs: the room config may not import processing::task::Task",
        "cli/retry.rs: the room cli may not import http::head::Head",
        "supervisor.rs: tiny_http is named outside http.rs and http/",
        "stray.rs: stray is no room of the table",
    ];
    assert_eq!(faults(&bad), expected);
}
