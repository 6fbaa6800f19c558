//! The documents say what the program does.

use std::collections::BTreeSet;
use std::path::Path;

use idalloc::config::KEYS;
use idalloc::store::report::Code;

const README: &str = include_str!("../../README.md");
const README_ZH: &str = include_str!("../../README.zh-CN.md");
const OPERATING: &str = include_str!("../../docs/OPERATING.md");
const OPERATING_ZH: &str = include_str!("../../docs/OPERATING.zh-CN.md");
const CONTRIBUTING: &str = include_str!("../../CONTRIBUTING.md");
const SECURITY: &str = include_str!("../../SECURITY.md");
const MAKEFILE: &str = include_str!("../../Makefile");
const ALARMS: &str = include_str!("../../deploy/prometheus/rules.yaml");

#[test]
fn the_readme_lists_every_key_with_its_default_range_and_meaning() {
    for key in KEYS.iter() {
        let row = format!("| {} | {} | {} |", key.name(), key.default_text(), key.allowed_text());
        let rest = README.split(&row).nth(1);
        let rest = rest.unwrap_or_else(|| panic!("the README has no row that starts with: {row}"));
        // The README may go on, with a sentence or a link.
        let (doc, cell) = (key.doc().trim_end_matches('.'), rest.trim_start());
        let same = cell.get(..doc.len()).is_some_and(|start| start.eq_ignore_ascii_case(doc));
        assert!(same && cell[doc.len()..].starts_with([';', '.', ' ']), "{row} should go on: {doc}");
    }
    let rows = README.lines().skip_while(|line| !line.starts_with("| key |")).skip(2);
    assert_eq!(rows.take_while(|line| line.starts_with('|')).count(), KEYS.len(), "no other keys");
}

#[test]
fn the_readmes_list_every_code_of_the_check() {
    for (name, text) in [("README.md", README), ("README.zh-CN.md", README_ZH)] {
        for code in Code::ALL {
            assert!(text.contains(&format!("\n| `{}` | ", code.as_str())), "{name} has no row for {code:?}");
        }
    }
}

#[test]
fn the_readme_shows_the_two_commands() {
    for command in ["\ncargo run --release\n", "\nmake test\n"] {
        assert!(README.contains(command), "{command}");
    }
}

#[test]
fn the_documents_name_make_targets_that_exist() {
    for (name, text) in
        [("README.md", README), ("OPERATING.md", OPERATING), ("CONTRIBUTING.md", CONTRIBUTING)]
    {
        let mut count = 0;
        for target in text.split("`make ").skip(1).filter_map(|rest| rest.split_once('`')).map(|(it, _)| it) {
            count += 1;
            assert!(MAKEFILE.contains(&format!("\n{target}:")), "{name}: make {target}");
        }
        assert!(count > 0, "{name}");
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
    for (name, text) in [
        ("README.md", README),
        ("README.zh-CN.md", README_ZH),
        ("docs/OPERATING.md", OPERATING),
        ("docs/OPERATING.zh-CN.md", OPERATING_ZH),
        ("CONTRIBUTING.md", CONTRIBUTING),
        ("SECURITY.md", SECURITY),
    ] {
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

#[test]
fn the_chinese_documents_are_in_step_with_the_english_ones() {
    for (english, chinese) in [(README, README_ZH), (OPERATING, OPERATING_ZH)] {
        let (english, chinese) = (sections(english), sections(chinese));
        let levels = |sections: &[Section]| sections.iter().map(|one| one.level).collect::<Vec<_>>();
        assert_eq!(levels(&chinese), levels(&english), "as many headings, of the same levels");
        for (english, chinese) in english.iter().zip(&chinese) {
            let place = format!("{} / {}", english.title, chinese.title);
            assert_eq!(chinese.code_blocks, english.code_blocks, "{place}: blocks of code");
            assert_eq!(chinese.code_spans, english.code_spans, "{place}: what is set as code");
            assert_eq!(chinese.list_items, english.list_items, "{place}: items of lists");
            assert_eq!(chinese.rows.len(), english.rows.len(), "{place}: rows of tables");
            for (english, chinese) in english.rows.iter().zip(&chinese.rows) {
                assert_eq!(chinese.len(), english.len(), "{place}: columns of {english:?}");
                assert_eq!(numbers(chinese), numbers(english), "{place}: numbers of {english:?}");
            }
        }
    }
}

#[test]
fn the_chinese_readme_lists_every_key_with_its_default() {
    // The defaults that are no values.
    let in_chinese = [("none: required", "无，必填"), ("available cores", "可用核数"), ("none", "无")];
    for key in KEYS.iter() {
        let default = key.default_text().to_string();
        let default = in_chinese
            .iter()
            .find(|(english, _)| *english == default)
            .map_or(default, |(_, it)| (*it).into());
        let row = format!("| {} | {default} | ", key.name());
        assert!(README_ZH.contains(&row), "the Chinese README has no row that starts with: {row}");
    }
}

/// What of a section must be the same in every language.
#[derive(Default)]
struct Section<'a> {
    level: usize,
    title: &'a str,
    code_blocks: Vec<&'a str>,
    /// Sorted, because the order of words is another.
    code_spans: Vec<&'a str>,
    list_items: usize,
    /// Each by its cells.
    rows: Vec<Vec<&'a str>>,
}

fn sections(text: &str) -> Vec<Section<'_>> {
    let mut sections = vec![Section::default()];
    let mut in_code = false;
    for line in text.lines() {
        let fence = line.trim_start().starts_with("```");
        if !in_code && line.starts_with('#') {
            let level = line.bytes().take_while(|byte| *byte == b'#').count();
            sections.push(Section { level, title: line, ..Section::default() });
        }
        let section = sections.last_mut().expect("one at least");
        if in_code || fence {
            section.code_blocks.push(line);
            in_code ^= fence;
            continue;
        }
        section.code_spans.extend(line.split('`').skip(1).step_by(2));
        section.list_items += usize::from(
            line.trim_start_matches(|c: char| c.is_ascii_digit()).starts_with(". ") || line.starts_with("- "),
        );
        if line.starts_with('|') {
            section.rows.push(line.split('|').collect());
        }
    }
    sections.iter_mut().for_each(|section| section.code_spans.sort_unstable());
    sections
}

/// The numbers of a row, sorted.
fn numbers<'a>(cells: &[&'a str]) -> Vec<&'a str> {
    let in_cell =
        |cell: &'a str| cell.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    let mut numbers: Vec<_> = cells.iter().copied().flat_map(in_cell).collect();
    numbers.sort_unstable();
    numbers
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
