//! systemd, Docker and Kubernetes: what can be known of their files without them.

use std::fs;
use std::process::{Command, Stdio};

use idalloc::config::KEYS;
use serde_json::{Value, json};

use super::balancer::quiet_port;
use super::support::mariadb::MariaDb;
use super::support::program::Run;
use super::support::server::Setup;
use super::tools::{approves, installed, program, project_file, text_of};

const UNIT: &str = "deploy/idalloc.service";
const DOCKERFILE: &str = "deploy/Dockerfile";
const COMPOSE: &str = "deploy/docker-compose.yaml";
const MANIFESTS: &str = "deploy/kubernetes.yaml";

/// What the README promises of a clean end.
const CLEAN_END_S: u64 = 8;

fn drain_s() -> u64 {
    default_of("DrainSeconds").parse().expect("seconds")
}

/// What the README promises of a server with all its connections open, in MiB: its tags come on top.
fn memory_mib() -> u64 {
    let number = |key: &str| default_of(key).parse::<u64>().expect("a number");
    16 + number("HttpBufferMemory") + number("MaxConnections") * 4 / 1024
}

/// A limit of memory, in MiB.
fn limit_mib(text: &str) -> u64 {
    let gib = text.trim_end_matches('i').strip_suffix('G').expect("a limit in G or Gi");
    gib.parse::<u64>().expect("a number") * 1024
}

#[test]
fn systemd_accepts_the_unit_and_finds_it_well_confined() {
    let unit = text_of(UNIT);
    let here = unit.replace("/usr/local/bin/idalloc", env!("CARGO_BIN_EXE_idalloc"));
    assert_ne!(here, unit, "the program is where the unit looks for it");
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("idalloc.service");
    fs::write(&file, here).expect("write the unit");
    let file = file.to_str().expect("UTF-8");
    assert_eq!(approves("systemd-analyze", &["verify", "--man=no", file]), "", "no complaint");
    // In tenths, of ten: 9.6 is a service without any confinement.
    approves("systemd-analyze", &["security", "--no-pager", "--offline=true", "--threshold=15", file]);
    let setting = |name: &str| unit.lines().find_map(|line| line.strip_prefix(name)).expect("the setting");
    assert!(setting("TimeoutStopSec=").parse::<u64>().expect("seconds") > drain_s() + CLEAN_END_S);
    assert!(limit_mib(setting("MemoryMax=")) > 2 * memory_mib(), "with room for tags");
    let watermark = default_of("WatermarkPath");
    assert!(
        !watermark.contains('/') && setting("WorkingDirectory=") == "%S/idalloc",
        "it is in StateDirectory"
    );
}

#[test]
fn the_dockerfile_has_nothing_to_complain_of() {
    assert_eq!(approves("hadolint", &[DOCKERFILE]), "");
    assert!(text_of(DOCKERFILE).contains(&format!("\nEXPOSE {}\n", default_of("HttpPort"))));
}

#[test]
fn the_image_tells_a_server_that_serves_from_one_that_does_not() {
    let port = quiet_port();
    let is_healthy = || {
        let mut command = health_check(port);
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        installed("bash", status).success()
    };
    assert!(!is_healthy(), "nobody listens");
    let dir = tempfile::tempdir().expect("a directory");
    let server = Setup::embedded(&dir.path().join("ids.db")).key("HttpPort", port).start();
    server.await_status("/health", 200);
    assert!(is_healthy());
    drop(server);
    let away = MariaDb::start();
    away.kill();
    let server = Setup::on(&away.dsn()).key("HttpPort", port).start();
    assert_eq!(server.get("/health").status, 503, "no tag is loaded");
    assert!(!is_healthy(), "it answers, and cannot serve");
}

/// The Dockerfile's HEALTHCHECK, which has the port written into it.
fn health_check(port: u16) -> Command {
    let dockerfile = text_of(DOCKERFILE).replace("\\\n", "");
    let line = dockerfile.lines().find(|line| line.starts_with("HEALTHCHECK")).expect("a HEALTHCHECK");
    let (_, words) = line.split_once(" CMD ").expect("a command");
    let words: Vec<String> = serde_json::from_str(words).expect("in exec form");
    let (name, args) = words.split_first().expect("a program");
    let mut command = Command::new(name);
    command.args(args.iter().map(|arg| arg.replace("/8880", &format!("/{port}"))));
    command
}

#[test]
fn docker_compose_understands_its_file() {
    let said = |environment: &[(&str, &str)]| {
        let mut command = program("docker-compose");
        command.args(["--file", COMPOSE, "config"]).current_dir(project_file(""));
        installed("docker-compose", command.env_clear().envs(environment.iter().copied()).output())
    };
    let path = std::env::var("PATH").expect("a PATH");
    let complete = [("PATH", path.as_str()), ("IDALLOC_PASSWORD", "pw"), ("MARIADB_ROOT_PASSWORD", "root")];
    let output = said(&complete);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let config = yaml(&String::from_utf8_lossy(&output.stdout)).remove(0);
    let dsn = config["services"]["idalloc"]["environment"]["IDALLOC_DSN"].as_str().expect("a DSN");
    assert!(dsn.parse::<idalloc::dsn::Dsn>().is_ok(), "{dsn}");
    assert!(!said(&complete[..2]).status.success(), "a password is missing");
}

#[test]
fn a_container_without_a_configuration_has_its_watermarks_in_the_volume() {
    let db = MariaDb::start();
    let volume = tempfile::tempdir().expect("a directory");
    let ended = Run::new(volume.path(), &["tag", "advance", "test_business", "--to", "5"])
        .env("IDALLOC_DSN", db.dsn())
        .finish();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let ended =
        Run::new(volume.path(), &["tag", "advance", "test_business"]).env("IDALLOC_DSN", db.dsn()).finish();
    assert!(ended.complaint().contains("no watermark is known"), "{ended:?}");
    assert!(
        volume.path().join(default_of("WatermarkPath")).is_file(),
        "the file is in the working directory"
    );
}

#[test]
fn the_manifests_are_well_formed_and_fit_together() {
    approves("kubernetes-validate", &["--strict", MANIFESTS]);
    approves("kubernetes-validate", &["--strict", "--kubernetes-version", "1.27", MANIFESTS]);
    let manifests = yaml(&text_of(MANIFESTS));
    let of_kind =
        |kind: &str| -> Vec<&Value> { manifests.iter().filter(|one| one["kind"] == kind).collect() };
    let set = of_kind("StatefulSet")[0];
    let pod = &set["spec"]["template"];
    let container = &pod["spec"]["containers"][0];

    let ports: Vec<_> = [("http", "HttpPort"), ("admin", "AdminPort")]
        .map(|(name, key)| (name.to_owned(), default_of(key).parse::<u64>().expect("a port")))
        .into();
    let listed = |ports: &Value, number: &str| -> Vec<(String, u64)> {
        let port = |port: &Value| {
            (port["name"].as_str().expect("a name").to_owned(), port[number].as_u64().expect("a port"))
        };
        ports.as_array().expect("ports").iter().map(port).collect()
    };
    assert_eq!(listed(&container["ports"], "containerPort"), ports);

    let labels = &pod["metadata"]["labels"];
    assert_eq!(&set["spec"]["selector"]["matchLabels"], labels);
    assert_eq!(&of_kind("PodDisruptionBudget")[0]["spec"]["selector"]["matchLabels"], labels);
    for service in of_kind("Service") {
        assert_eq!(&service["spec"]["selector"], labels);
        let exposed = listed(&service["spec"]["ports"], "port");
        assert!(exposed.iter().all(|port| ports.contains(port)), "{exposed:?}");
    }
    let governing = set["spec"]["serviceName"].as_str().expect("a name");
    assert!(of_kind("Service").iter().any(|service| service["metadata"]["name"] == governing));

    for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
        let probe = &container[probe];
        let port =
            [&probe["httpGet"]["port"], &probe["tcpSocket"]["port"]].into_iter().find_map(Value::as_str);
        assert!(ports.iter().any(|(name, _)| Some(name.as_str()) == port), "{probe}");
    }
    let grace = pod["spec"]["terminationGracePeriodSeconds"].as_u64().expect("seconds");
    assert!(grace > drain_s() + CLEAN_END_S);
    let limit = container["resources"]["limits"]["memory"].as_str().expect("a limit");
    assert!(limit_mib(limit) > 2 * memory_mib(), "with room for tags");
}

#[test]
fn the_server_starts_with_the_configuration_of_the_manifests() {
    let manifests = yaml(&text_of(MANIFESTS));
    let set = manifests.iter().find(|one| one["kind"] == "StatefulSet").expect("a StatefulSet");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let pod = &set["spec"]["template"];
    let container = &pod["spec"]["containers"][0];
    let file = manifests[0]["data"]["config.json"].as_str().expect("a configuration");
    let config: Value = serde_json::from_str(file).expect("JSON");
    let (name, service) = (text(&set["metadata"]["name"]), text(&set["spec"]["serviceName"]));
    let nodes = 0..set["spec"]["replicas"].as_u64().expect("a number");
    let names: Vec<_> = nodes.map(|node| format!("{name}-{node}.{service}")).collect();
    assert_eq!(config["AdminNames"], json!(names), "each node by name");
    let watermark = config["WatermarkPath"].clone();
    let mounts = container["volumeMounts"].as_array().expect("mounts");
    let volume =
        mounts.iter().find(|mount| mount["name"] == "watermark").expect("a volume for the watermarks");
    let inside = format!("{}/", volume["mountPath"].as_str().expect("a path"));
    assert!(watermark.as_str().expect("a path").starts_with(&inside), "{watermark} is in {inside}");

    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("config.json"), file).expect("write the configuration");
    let db = MariaDb::start();
    let mut run = Run::new(dir.path(), &["check", "--config", "config.json"]);
    for variable in container["env"].as_array().expect("an environment") {
        let name = variable["name"].as_str().expect("a name");
        run = run.env(name, if name == "IDALLOC_DSN" { db.dsn() } else { "0123456789abcdef".repeat(3) });
    }
    let ended = run.finish();
    assert_eq!(ended.code, Some(0), "{ended:?}");
}

/// The default of a configuration key.
fn default_of(name: &str) -> String {
    let key = KEYS.iter().find(|key| key.name() == name).unwrap_or_else(|| panic!("no key {name}"));
    key.default_text().to_string()
}

/// The documents of a YAML file.
pub fn yaml(text: &str) -> Vec<Value> {
    const TO_JSON: &str = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(sys.argv[1]))))";
    let output = installed("python", program("python").args(["-c", TO_JSON, text]).output());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}
