use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use idalloc_core::OnRegression;
use serde_json::json;

use super::fixtures::{FILE_DSN, no_env, parse, with};
use super::*;
use crate::dsn::{Dsn, Secret};

fn identifier(text: &str) -> Identifier {
    Identifier::new(text).expect(text)
}

fn defaults() -> Config {
    Config {
        store: StoreSection {
            dsn: Dsn::Sqlite(FILE_DSN["sqlite:".len()..].into()),
            table: TableSpec {
                database: None,
                name: identifier("segments"),
                tag_column: identifier("app_tag"),
            },
            tag_column: identifier("app_tag"),
            watermark_path: None,
            any_file_system: false,
        },
        api: ApiSection {
            tokens: None,
            tag_limits: TagLimits::default(),
            limits: ApiLimits {
                alloc_timeout: Duration::from_secs(2),
                batch_max: 10_000,
                lease_max: 1_000_000,
            },
        },
        http: HttpSection {
            host: [0, 0, 0, 0].into(),
            port: 8880,
            engine: HttpEngine::Tokio,
            drain_time: Duration::from_secs(5),
            cors_origins: CorsOrigins::Listed(Vec::new()),
            names: Vec::new(),
            limits: EngineLimits {
                read_timeout: Duration::from_secs(5),
                write_timeout: Duration::from_secs(5),
                idle_timeout: Duration::from_secs(75),
                buffer_bytes_max: 64 << 20,
                workers: std::thread::available_parallelism().unwrap().get(),
                connections_max: 16_384,
            },
        },
        allocator: AllocatorSection {
            refill_threads: 2,
            preload_tags: 64,
            tag_reload: Duration::from_secs(10),
            segment_seconds: 10,
            step_factor_max: 1000,
            on_regression: OnRegression::Refuse,
            failover_guard: true,
            failover_steps: 1000,
        },
        log: LogSection { format: LogFormat::Text },
        operator: OperatorSection {
            host: Ipv4Addr::LOCALHOST.into(),
            port: 8881,
            token: None,
            tokens: AdminTokens::default(),
            names: Vec::new(),
            metrics_tags: 50,
        },
    }
}

#[test]
fn only_the_dsn_has_no_default() {
    assert_eq!(parse(r#" {"DSN": "sqlite:a.db"} "#), Ok(defaults()));
    assert_eq!(parse("{}"), Err(ConfigError::DsnMissing));
}

#[test]
fn every_key_reaches_its_field() {
    let text = r#"{
        "DSN": "u:p@tcp(h)/db", "table": "ids.t$1", "TagColumn": "biz_tag", "HttpHost": "::1", "HttpPort": 0,
        "HttpReadTimeout": 1, "HttpWriteTimeout": 2, "HttpIdleTimeout": 3, "HttpEngine": "may_minihttp",
        "HttpBufferMemory": 16, "DrainSeconds": 17,
        "Workers": 4, "MaxConnections": 5, "AllocTimeout": 6, "MaxBatch": 7, "MaxLease": 8, "RefillThreads": 9,
        "PreloadTags": 0, "TagReloadSeconds": 11,
        "SegmentSeconds": 12, "MaxStepFactor": 13, "WatermarkPath": "w.db", "OnRegression": "advance", "FailoverGuard": "off",
        "FailoverSteps": 16, "AllowUnreliableFileSystem": "no", "LogFormat": "json",
        "AccessTokens": {"0123456789abcdef": "*", "a-token-for-two-tags": ["a", "\u00e9"]},
        "CorsOrigins": ["https://App.example.com"], "HttpNames": ["ids.example.com."],
        "TagLimits": {"*": {"ids_per_second": 18, "burst": 19}, "a": {"ids_per_second": 20}},
        "AdminHost": "0.0.0.0", "AdminPort": 14, "AdminToken": "the-operator's-token",
        "AdminTokens": {"ann": "the-token-of-ann"},
        "AdminNames": ["Ids.example.com", "idalloc-0.idalloc_nodes"], "MetricsTags": 15
    }"#;
    let expected = Config {
        store: StoreSection {
            dsn: "u:p@tcp(h)/db".parse().unwrap(),
            table: TableSpec {
                database: Some(identifier("ids")),
                name: identifier("t$1"),
                tag_column: identifier("biz_tag"),
            },
            tag_column: identifier("biz_tag"),
            watermark_path: Some("w.db".into()),
            any_file_system: false,
        },
        api: ApiSection {
            tokens: Some(AccessTokens(BTreeMap::from([
                ("0123456789abcdef".into(), AccessScope::All.into()),
                (
                    "a-token-for-two-tags".into(),
                    AccessScope::Tags(["a", "\u{e9}"].map(Into::into).into()).into(),
                ),
            ]))),
            tag_limits: TagLimits {
                named: BTreeMap::from([("a".into(), RateLimit { ids_per_second: 20, burst: 20 })]),
                others: Some(RateLimit { ids_per_second: 18, burst: 19 }),
            },
            limits: ApiLimits { alloc_timeout: Duration::from_millis(6), batch_max: 7, lease_max: 8 },
        },
        http: HttpSection {
            host: Ipv6Addr::LOCALHOST.into(),
            port: 0,
            engine: HttpEngine::MayMinihttp,
            drain_time: Duration::from_secs(17),
            limits: EngineLimits {
                read_timeout: Duration::from_millis(1),
                write_timeout: Duration::from_millis(2),
                idle_timeout: Duration::from_millis(3),
                buffer_bytes_max: 16 << 20,
                workers: 4,
                connections_max: 5,
            },
            cors_origins: CorsOrigins::Listed(vec!["https://app.example.com".into()]),
            names: vec!["ids.example.com".into()],
        },
        allocator: AllocatorSection {
            refill_threads: 9,
            preload_tags: 0,
            tag_reload: Duration::from_secs(11),
            segment_seconds: 12,
            step_factor_max: 13,
            on_regression: OnRegression::Advance,
            failover_guard: false,
            failover_steps: 16,
        },
        log: LogSection { format: LogFormat::Json },
        operator: OperatorSection {
            host: Ipv4Addr::UNSPECIFIED.into(),
            port: 14,
            token: Some(Secret::new("the-operator's-token")),
            tokens: AdminTokens(vec![
                ("AdminToken".into(), Secret::new("the-operator's-token")),
                ("ann".into(), Secret::new("the-token-of-ann")),
            ]),
            names: ["ids.example.com", "idalloc-0.idalloc_nodes"].map(Into::into).into(),
            metrics_tags: 15,
        },
    };
    assert_eq!(parse(text), Ok(expected));
}

#[test]
fn the_shipped_file_is_accepted() {
    assert!(matches!(parse(include_str!("../../config.json")).unwrap().store.dsn, Dsn::MySql(_)));
}

#[test]
fn integers_keep_to_their_range() {
    for key in KEYS.iter() {
        let (name, Some(range)) = (key.name(), key.range()) else { continue };
        for allowed in [range.start(), range.end()] {
            assert!(with(name, &json!(allowed)).is_ok(), "{name} {allowed}");
        }
        let below = json!(*range.start() as i64 - 1);
        for value in [below, json!(range.end() + 1), json!(1.0), json!("1"), json!(null), json!(u64::MAX)] {
            let expected = format!("{name} is {value}: allowed is a whole number, {}", key.allowed_text());
            assert_eq!(with(name, &value).unwrap_err().to_string(), expected);
        }
    }
}

#[test]
fn ranges_and_defaults_are_the_documented_ones() {
    let rows: Vec<_> = KEYS
        .iter()
        .filter(|key| key.range().is_some())
        .map(|key| format!("{} {}: {}", key.name(), key.default_text(), key.allowed_text()))
        .collect();
    let expected = [
        "AllocTimeout 2000: 1 to 60000 ms",
        "MaxBatch 10000: 1 to 100000 IDs",
        "MaxLease 1000000: 1 to 1000000000 IDs",
        "HttpPort 8880: 0 to 65535 (0: any free port)",
        "DrainSeconds 5: 0 to 3600 s",
        "HttpReadTimeout 5000: 1 to 3600000 ms",
        "HttpWriteTimeout 5000: 1 to 3600000 ms",
        "HttpIdleTimeout 75000: 1 to 3600000 ms",
        "HttpBufferMemory 64: 1 to 65536 MiB",
        "Workers available cores: 1 to 1024 threads",
        "MaxConnections 16384: 1 to 1000000 connections",
        "RefillThreads 2: 1 to 64 threads",
        "PreloadTags 64: 0 to 1000000 tags",
        "TagReloadSeconds 10: 1 to 3600 s",
        "SegmentSeconds 10: 1 to 3600 s",
        "MaxStepFactor 1000: 1 to 1000000 steps",
        "FailoverSteps 1000: 1 to 1000000000 steps",
        "AdminPort 8881: 0 to 65535 (0: none)",
        "MetricsTags 50: 0 to 1000 tags",
    ];
    assert_eq!(rows, expected);
}

#[test]
fn texts_are_checked() {
    for (name, value) in [
        ("table", json!("")),
        ("table", json!("a`b")),
        ("table", json!("a.b.c")),
        ("table", json!(".b")),
        ("table", json!("x".repeat(65))),
        ("table", json!(1)),
        ("TagColumn", json!("a.b")),
        ("TagColumn", json!("a b")),
        ("TagColumn", json!("\u{e9}")),
        ("HttpHost", json!("example.com")),
        ("HttpHost", json!("")),
        ("HttpHost", json!(null)),
        ("HttpEngine", json!("Tokio")),
        ("FailoverGuard", json!(true)),
        ("LogFormat", json!("xml")),
        ("AdminHost", json!("example.com")),
    ] {
        let key = KEYS.iter().find(|key| key.name() == name).unwrap();
        let expected = format!("{name} is {value}: allowed is {}", key.allowed_text());
        assert_eq!(with(name, &value).unwrap_err().to_string(), expected);
    }
    assert_eq!(with("HttpHost", &json!("localhost")).unwrap().http.host, IpAddr::from([127, 0, 0, 1]));
    assert!(with("table", &json!("x".repeat(64))).is_ok());
}

#[test]
fn embedded_is_a_file_and_every_default() {
    let mut expected = defaults();
    expected.store.dsn = Dsn::Sqlite("idalloc.db".into());
    assert_eq!(Config::embedded(&no_env), Ok(expected));
}

#[test]
fn what_is_shown_names_every_key_and_is_accepted_again_but_for_secrets() {
    let text = json!({
        "DSN": "hunter2:hunter2@tcp(h)/db", "table": "ids.t$1", "HttpPort": 14, "AdminToken": "hunter2-hunter2-hunter2",
        "AccessTokens": {"hunter2-hunter2-hunter2": "*"}, "LogFormat": "json", "MetricsTags": 3,
        "AdminTokens": {"ann": "hunter2-hunter2-hunter3"}, "AdminNames": ["ids.example.com"],
        "CorsOrigins": ["*"], "HttpNames": ["::1", "ids.example.com"],
        "TagLimits": {"*": {"ids_per_second": 1}}
    });
    let config = parse(&text.to_string()).unwrap();
    let mut shown = config.shown();
    assert!(!shown.to_string().contains("hunter2"), "{shown}");
    let names: BTreeSet<_> = shown.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(names, KEYS.iter().map(Key::name).collect());
    for secret in ["DSN", "AdminToken", "AdminTokens", "AccessTokens"] {
        assert!(shown[secret].is_string(), "{secret}");
        shown[secret] = text[secret].clone();
    }
    assert_eq!(parse(&shown.to_string()), Ok(config));
}

#[test]
fn load_reads_a_file_and_names_one_that_is_absent() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.json");
    let error = Config::load(&path).unwrap_err();
    assert!(matches!(&error, ConfigError::Read { path: named, .. } if *named == path), "{error}");
    std::fs::write(&path, r#"{"DSN": "sqlite:a.db", "HttpPort": 65536}"#).unwrap();
    let error = Config::load(&path).unwrap_err();
    assert!(matches!(error, ConfigError::BadValue { name: "HttpPort", .. }), "{error}");
}

#[test]
fn every_key_says_what_it_is_for_and_each_is_there_once() {
    assert!(KEYS.iter().all(|key| key.doc().ends_with('.') && !key.doc().contains("  ")), "{KEYS:?}");
    assert_eq!(KEYS.iter().map(Key::name).collect::<BTreeSet<_>>().len(), KEYS.len());
}
