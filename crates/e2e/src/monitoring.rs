//! The alarms and the dashboard ask for figures that there are.

use std::collections::BTreeSet;

use serde_json::Value;

use super::platforms::yaml;
use super::tools::{approves, text_of};
use idalloc_testing::server::Setup;

const RULES: &str = "deploy/prometheus/rules.yaml";
const DASHBOARD: &str = "deploy/grafana/idalloc.json";

/// What Prometheus knows by itself.
const OF_PROMETHEUS: [&str; 2] = ["up", "ALERTS"];

#[test]
fn promtool_finds_no_fault_with_the_alarms() {
    approves("promtool", &["check", "rules", "--lint-fatal", RULES]);
    approves("promtool", &["test", "rules", "deploy/prometheus/rules_test.yaml"]);
    approves("promtool", &["check", "config", "--syntax-only", "deploy/prometheus/prometheus.yaml"]);
}

#[test]
fn every_alarm_has_a_test_that_raises_it() {
    let tests = yaml(&text_of("deploy/prometheus/rules_test.yaml")).remove(0);
    let cases = tests["tests"].as_array().expect("tests").iter();
    let raised: BTreeSet<_> = cases
        .filter_map(|case| case["alert_rule_test"].as_array())
        .flatten()
        .filter(|case| case["exp_alerts"].as_array().is_some_and(|alerts| !alerts.is_empty()))
        .map(|case| case["alertname"].as_str().expect("a name").to_owned())
        .collect();
    let alarms: BTreeSet<_> = rules().iter().map(|rule| text(&rule["alert"])).collect();
    assert_eq!(raised, alarms);
}

#[test]
fn alarms_and_dashboard_ask_for_figures_that_the_server_has() {
    let exposed = exposition();
    let alarms: Vec<_> = rules().iter().map(|rule| text(&rule["expr"])).collect();
    let dashboard = serde_json::from_str::<Value>(&text_of(DASHBOARD)).expect("JSON");
    let mut drawn = Vec::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        drawn.extend(panel["targets"].as_array().expect("targets").iter().map(|one| text(&one["expr"])));
    }
    for variable in dashboard["templating"]["list"].as_array().expect("variables") {
        drawn.extend(variable["query"]["query"].as_str().map(str::to_owned));
    }
    assert!(alarms.len() >= 10 && drawn.len() >= 20, "they were found");
    for expression in alarms.iter().chain(&drawn) {
        let names = figures(expression);
        assert!(!names.is_empty(), "{expression}");
        for name in names.iter().filter(|name| !OF_PROMETHEUS.contains(&name.as_str())) {
            let is_exposed = exposed.lines().any(|line| {
                line.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with(['{', ' ']))
            });
            assert!(is_exposed, "{name} of {expression} is not in:\n{exposed}");
        }
        for label in values_of_states(expression) {
            assert!(exposed.contains(&label), "{label} of {expression} is not in:\n{exposed}");
        }
    }
    // The other way round: nobody needs figures that nobody looks at.
    let asked: BTreeSet<_> = alarms.iter().chain(&drawn).flat_map(|expression| figures(expression)).collect();
    let own = exposed.lines().filter_map(|line| line.strip_prefix("# TYPE idalloc_"));
    let unseen: Vec<_> = own
        .map(|line| format!("idalloc_{}", line.split(' ').next().expect("a name")))
        .filter(|name| !asked.contains(name) && !asked.contains(&format!("{name}_bucket")))
        .collect();
    assert_eq!(unseen, ["idalloc_http_connections_accepted_total"]);
}

/// What `/metrics` of a server says that has served.
fn exposition() -> String {
    let dir = tempfile::tempdir().expect("a directory");
    let server = Setup::embedded(&dir.path().join("ids.db")).admin().start();
    server.await_status("/alloc?app_tag=test_business", 200);
    server.admin().get_admin("/metrics").body
}

fn rules() -> Vec<Value> {
    let file = yaml(&text_of(RULES)).remove(0);
    file["groups"][0]["rules"].as_array().expect("rules").clone()
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

/// The names of the figures in a query: words with an underscore that are no label, function or variable.
fn figures(expression: &str) -> Vec<String> {
    let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '$'));
    let is_figure = |word: &&str| {
        ["idalloc_", "process_"].iter().any(|prefix| word.starts_with(prefix)) || OF_PROMETHEUS.contains(word)
    };
    words.filter(is_figure).map(str::to_owned).collect()
}

/// The selectors for one value of a label that idalloc sets.
fn values_of_states(expression: &str) -> Vec<String> {
    let selector = expression.match_indices("state=\"").map(|(at, _)| {
        let value = &expression[at..];
        let end = value.match_indices('"').nth(1).expect("its end").0;
        value[..=end].to_owned()
    });
    selector.collect()
}
