//! The documents say what the program does.

use idalloc::config::KEYS;

const README: &str = include_str!("../README.md");

#[test]
fn the_readme_lists_every_key_with_its_default_and_range() {
    for key in KEYS {
        let row = format!("| {} | {} | {} |", key.name(), key.default_text(), key.allowed_text());
        assert!(README.contains(&row), "the README has no row that starts with: {row}");
    }
    let rows = README.lines().skip_while(|line| !line.starts_with("| key |")).skip(2);
    assert_eq!(rows.take_while(|line| line.starts_with('|')).count(), KEYS.len(), "no other keys");
}

#[test]
fn the_readme_shows_the_two_commands() {
    for command in ["\ncargo run --release\n", "\nmake test\n"] {
        assert!(README.contains(command), "{command}");
    }
}
