//! systemd, Docker and Kubernetes: what can be known of their files without them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use idalloc::config::{Config, KEYS};
use serde_json::{Value, json};

use super::balancer::quiet_port;
use super::tools::{approves, installed, program, project_file, text_of};
use idalloc_testing::mariadb::MariaDb;
use idalloc_testing::program::Run;
use idalloc_testing::server::Setup;

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
    let here =
        unit.replace("/usr/local/bin/idalloc", idalloc_testing::program::path().to_str().expect("UTF-8"));
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
    let credential = setting("LoadCredential=").split_once(':').expect("a file").1;
    assert!(unit.contains(&format!("#   install -D -m 600 config.json {credential}\n")), "root's alone");
    assert!(!unit.contains("\nEnvironment="), "everybody may ask systemd for it");
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
    let mut command = program("docker-compose");
    command.args(["--file", COMPOSE, "config"]).current_dir(project_file(""));
    let output = installed("docker-compose", command.output());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let config = yaml(&String::from_utf8_lossy(&output.stdout)).remove(0);
    let services = config["services"].as_object().expect("services");
    for (name, service) in services {
        for port in service["ports"].as_array().into_iter().flatten() {
            let port = port.as_str().expect("a port");
            assert!(port.starts_with("127.0.0.1:"), "{name}: others reach {port}");
        }
        for (variable, value) in service["environment"].as_object().into_iter().flatten() {
            let is_secret = ["PASSWORD", "TOKEN", "DSN"].iter().any(|word| variable.contains(word));
            let by_reference = value.as_str().is_some_and(|value| value.starts_with("/run/secrets/"));
            assert!(!is_secret || by_reference, "{name}: {variable}={value}");
        }
        let used: Vec<_> = service.to_string().split("/run/secrets/").skip(1).map(first_word).collect();
        let given: Vec<_> = service["secrets"].as_array().into_iter().flatten().collect();
        assert_eq!(used.len(), given.len(), "{name}: {used:?}, {given:?}");
        assert!(given.iter().all(|secret| used.iter().any(|used| secret["source"] == *used)), "{given:?}");
    }
}

/// The first word of a text, such as a file's name.
fn first_word(text: &str) -> String {
    text.chars().take_while(|char| char.is_alphanumeric() || "-._".contains(*char)).collect()
}

#[test]
fn the_secrets_that_compose_needs_are_made_as_its_file_says() {
    let compose = text_of(COMPOSE);
    let indented = compose.lines().filter_map(|line| line.strip_prefix("#   "));
    let commands: Vec<_> = indented.take_while(|line| !line.starts_with("docker compose")).collect();
    let dir = tempfile::tempdir().expect("a directory");
    fs::create_dir(dir.path().join("deploy")).expect("a directory");
    let mut shell = Command::new("sh");
    shell.args(["-euc", &commands.join("\n")]).current_dir(dir.path());
    assert!(installed("sh", shell.status()).success(), "{commands:?}");

    let secrets = dir.path().join("deploy/secrets");
    let mode = |path: &Path| fs::metadata(path).expect("what it is").permissions().mode() & 0o777;
    assert_eq!(mode(&secrets), 0o700, "nobody else gets there");
    let text = |name: &str| fs::read_to_string(secrets.join(name)).expect("a secret");
    let config = text("config.json");
    assert!(config.contains(text("password").trim_end()), "one password at both ends");
    Config::from_json(&config, &|_| None).expect("a configuration");
    for file in fs::read_dir(&secrets).expect("the secrets") {
        let file = file.expect("a file");
        assert_eq!(mode(&file.path()), 0o444, "the containers' users can read it");
        let name = file.file_name().into_string().expect("UTF-8");
        assert!(compose.contains(&format!("file: secrets/{name}\n")), "{name} is used");
    }
    // Neither the image's layers nor the repository get them.
    assert!(text_of("deploy/Dockerfile.dockerignore").lines().any(|line| line == "deploy/secrets"));
    assert!(text_of(".gitignore").lines().any(|line| line == "/deploy/secrets"));
}

#[test]
fn every_image_is_pinned() {
    let own = concat!("idalloc:", env!("CARGO_PKG_VERSION"));
    let is_pinned = |image: &str| {
        let digest =
            image.split_once("@sha256:").and_then(|(tag, digest)| tag.contains(':').then_some(digest));
        image == own
            || digest.is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    for (file, field) in [(DOCKERFILE, "FROM "), (COMPOSE, "image: "), (MANIFESTS, "image: ")] {
        let text = text_of(file);
        let lines = text.lines().filter_map(|line| line.trim_start().strip_prefix(field));
        let images: Vec<_> = lines.filter_map(|line| line.split(' ').next()).collect();
        assert!(!images.is_empty() && images.iter().all(|image| is_pinned(image)), "{file}: {images:?}");
    }
    for file in [DOCKERFILE, "docs/OPERATING.md", "docs/OPERATING.zh-CN.md"] {
        assert!(text_of(file).contains(&format!("-t {own} .")), "{file} builds what the others use");
    }
    let dockerfile = text_of(DOCKERFILE);
    let debian = |line: &str| line.starts_with("FROM ") && line.contains("bookworm");
    assert_eq!(dockerfile.lines().filter(|line| debian(line)).count(), 2, "one C library");
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
    assert_well_fenced(&of_kind("NetworkPolicy")[0]["spec"], labels, &ports);
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

/// Whether a policy names who reaches the pods and which ports they reach; the operator's is not for the clients' pods.
fn assert_well_fenced(policy: &Value, labels: &Value, ports: &[(String, u64)]) {
    assert_eq!(&policy["podSelector"]["matchLabels"], labels);
    assert_eq!(policy["policyTypes"], json!(["Ingress", "Egress"]));
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut reached = Vec::new();
    for rule in list(&policy["ingress"]) {
        let (peers, rule_ports) = (list(&rule["from"]), list(&rule["ports"]));
        assert!(!peers.is_empty() && !rule_ports.is_empty(), "everybody, or every port: {rule}");
        for port in rule_ports {
            let name = port["port"].as_str().expect("a port's name").to_owned();
            let is_narrow = peers.iter().all(|peer| peer["podSelector"]["matchLabels"].is_object());
            assert!(name != "admin" || is_narrow, "{rule}");
            reached.push(name);
        }
    }
    reached.sort_unstable();
    let mut named: Vec<_> = ports.iter().map(|(name, _)| name.clone()).collect();
    named.sort_unstable();
    assert_eq!(reached, named);
    let targets = list(&policy["egress"]).iter().flat_map(|rule| list(&rule["ports"])).collect::<Vec<_>>();
    let reaches = |port: u64| targets.iter().any(|target| target["port"] == port);
    assert!(reaches(3306) && reaches(53), "the database, by its name: {targets:?}");
    assert!(list(&policy["egress"]).iter().all(|rule| !list(&rule["ports"]).is_empty()), "not everything");
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
        assert!(variable["valueFrom"]["secretKeyRef"].is_object(), "by reference: {variable}");
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
