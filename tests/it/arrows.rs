//! Which part of the program may use which: the arrows of ARCHITECTURE.md. A use that is not listed here fails.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Each room of the server, and what it may use of the other rooms and of the workspace's crates.
const ROOMS: &[(&str, &[&str])] = &[
    (
        "admin",
        &[
            "api",
            "config",
            "escape",
            "http",
            "idalloc_core",
            "idalloc_store",
            "logging",
            "readiness",
            "supervise",
        ],
    ),
    ("api", &["config", "idalloc_core"]),
    (
        "cli",
        &[
            "admin",
            "config",
            "escape",
            "http",
            "idalloc_core",
            "idalloc_store",
            "logging",
            "readiness",
            "supervise",
        ],
    ),
    ("config", &["idalloc_core", "idalloc_store"]),
    ("escape", &[]),
    ("http", &["api", "config", "escape", "idalloc_core", "supervise"]),
    ("logging", &["config", "escape", "supervise"]),
    ("readiness", &["http", "idalloc_core"]),
    ("supervise", &["idalloc_core"]),
];

/// What the crates must not be built on: an embedder would compile it.
const FORBIDDEN: &[(&str, &[&str])] = &[
    (
        "idalloc-core",
        &[
            "axum",
            "clap",
            "hyper",
            "idalloc",
            "idalloc-store",
            "may",
            "mysql",
            "ratatui",
            "redb",
            "rusqlite",
            "serde_json",
            "tokio",
            "tracing-subscriber",
        ],
    ),
    ("idalloc-store", &["axum", "clap", "hyper", "idalloc", "may", "ratatui", "tokio", "tracing-subscriber"]),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(of: &Path, found: &mut Vec<PathBuf>) {
    if of.is_file() && of.extension().is_some_and(|ending| ending == "rs") {
        found.push(of.to_owned());
    } else if of.is_dir() {
        fs::read_dir(of).unwrap().for_each(|entry| rust_files(&entry.unwrap().path(), found));
    }
}

/// The names that follow `prefix` in the code: `crate::` gives rooms. Comments and strings count for nothing.
fn names_after<'a>(code: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.flat_map(move |line| line.split(prefix).skip(1)).map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
        &rest[..end]
    })
}

/// Which rooms and crates the files of a room use.
fn uses(room: &str) -> BTreeSet<String> {
    let mut files = Vec::new();
    rust_files(&root().join(format!("src/{room}")), &mut files);
    rust_files(&root().join(format!("src/{room}.rs")), &mut files);
    assert!(!files.is_empty(), "no room {room}");
    let mut used = BTreeSet::new();
    for file in files {
        let code = fs::read_to_string(file).unwrap();
        let rooms = names_after(&code, "crate::").chain(names_after(&code, "idalloc::"));
        used.extend(rooms.filter(|name| ROOMS.iter().any(|(room, _)| room == name)).map(str::to_owned));
        let crates = ["idalloc_core", "idalloc_store"];
        used.extend(crates.into_iter().filter(|name| code.contains(&format!("{name}::"))).map(str::to_owned));
    }
    used.remove(room);
    used
}

#[test]
fn rooms_use_only_what_they_may() {
    for (room, allowed) in ROOMS {
        let allowed: BTreeSet<_> = allowed.iter().map(|name| (*name).to_owned()).collect();
        let others: Vec<_> = uses(room).difference(&allowed).cloned().collect();
        assert!(others.is_empty(), "src/{room} uses {others:?}: see ARCHITECTURE.md for what it may");
    }
}

#[test]
fn every_room_is_known() {
    let rooms = fs::read_dir(root().join("src")).unwrap().map(|entry| entry.unwrap().path());
    for path in rooms {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let is_program = ["lib", "main", "memory"].contains(&name.as_str());
        assert!(
            is_program || ROOMS.iter().any(|(room, _)| *room == name),
            "{} is not listed",
            path.display()
        );
    }
}

#[test]
fn there_is_no_circle() {
    let mut left: BTreeMap<_, BTreeSet<_>> =
        ROOMS.iter().map(|(room, allowed)| (*room, allowed.iter().copied().collect())).collect();
    while !left.is_empty() {
        let leaf = left.iter().find(|(_, uses)| uses.iter().all(|room| !left.contains_key(room)));
        let Some(leaf) = leaf.map(|(room, _)| *room) else { panic!("a circle among {:?}", left.keys()) };
        left.remove(leaf);
    }
}

#[test]
fn the_crates_bring_no_more_than_an_embedder_needs() {
    for (name, forbidden) in FORBIDDEN {
        let manifest = fs::read_to_string(root().join(format!("crates/{name}/Cargo.toml"))).unwrap();
        let tables = manifest.split("\n[").filter(|table| table.starts_with("dependencies]"));
        for line in tables.flat_map(str::lines) {
            let dependency = line.split(['=', '.', ' ']).next().unwrap();
            assert!(!forbidden.contains(&dependency), "crates/{name} depends on {dependency}");
        }
    }
}
