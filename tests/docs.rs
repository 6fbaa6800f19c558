//! The documents say what the program does.

use std::collections::BTreeSet;
use std::path::Path;

use idalloc::config::KEYS;

const README: &str = include_str!("../README.md");
const OPERATING: &str = include_str!("../docs/OPERATING.md");
const ALARMS: &str = include_str!("../deploy/prometheus/rules.yaml");

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

#[test]
fn the_guide_says_of_every_alarm_what_to_do() {
    let alarms = ALARMS.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    let told = OPERATING.lines().filter_map(|line| line.strip_prefix("### "));
    let told = told.filter(|heading| heading.starts_with("Idalloc"));
    let alarms: BTreeSet<_> = alarms.collect();
    assert!(!alarms.is_empty());
    assert_eq!(told.collect::<BTreeSet<_>>(), alarms);
}

#[test]
fn links_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, text) in [("README.md", README), ("docs/OPERATING.md", OPERATING)] {
        let mut count = 0;
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            if link.contains("://") {
                continue;
            }
            count += 1;
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let beside = root.join(name).parent().expect("a directory").join(path);
            let file = if path.is_empty() { root.join(name) } else { beside };
            assert!(file.exists(), "{name}: {link}");
            if !anchor.is_empty() {
                let target = std::fs::read_to_string(&file).expect("a text");
                assert!(headings(&target).any(|heading| slug(heading) == anchor), "{name}: {link}");
            }
        }
        assert!(count > 0, "{name}");
    }
}

/// The headings of a document, without what looks like one in a block of code.
fn headings(text: &str) -> impl Iterator<Item = &str> {
    let mut in_code = false;
    text.lines().filter(move |line| {
        in_code ^= line.trim_start().starts_with("```");
        !in_code && line.starts_with('#')
    })
}

/// A heading's anchor.
fn slug(heading: &str) -> String {
    let title = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}
