//! Clients that others generate from the OpenAPI document, and a tool that looks for requests that the document allows and
//! the server refuses, or the other way round.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use super::tools::{project_file, runs};
use idalloc_testing::server::{Server, Setup};

struct Site {
    server: Server,
    directory: TempDir,
}

impl Site {
    /// With a description for every tag, and the document in a file.
    fn new() -> Site {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("ids.db");
        let watermark = directory.path().join("marks.db");
        let setup = Setup::embedded(&file).admin().key("WatermarkPath", watermark.to_str().unwrap());
        let server = setup.start();
        server.await_status("/health", 200);
        let rows = rusqlite::Connection::open(&file).unwrap();
        rows.busy_timeout(std::time::Duration::from_secs(30)).unwrap();
        rows.execute("ALTER TABLE segments ADD COLUMN description TEXT", []).unwrap();
        let document = server.admin().get_admin("/api/openapi.json").body;
        std::fs::write(directory.path().join("openapi.json"), document).unwrap();
        Site { server, directory }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.server.admin_port())
    }

    /// A program of those that tests/install-e2e.sh fetches, run in the site's directory.
    fn tool(&self, program: &str) -> Command {
        let mut command = Command::new(project_file("target/e2e-tools").join(program));
        command.current_dir(self.directory.path());
        command
    }

    /// What a generated client has left: it adds two tags, changes and advances one, and deletes the other.
    fn assert_changed(&self) {
        let tag = |name: &str| self.server.admin().get_admin(&format!("/api/tag?app_tag={name}"));
        assert_eq!(tag("gone").status, 404);
        let kept: Value = tag("kept").json();
        assert_eq!(
            (&kept["step"], &kept["max_id"], &kept["description"]),
            (&20.into(), &"700".into(), &"b".into())
        );
    }
}

fn copy(name: &str, to: &Path) {
    std::fs::copy(project_file("crates/e2e/src/clients").join(name), to.join(name)).expect("copy the client");
}

#[test]
fn what_the_document_allows_is_taken_and_nothing_else() {
    let site = Site::new();
    copy("schemathesis.toml", site.directory.path());
    let mut schemathesis = site.tool("bin/schemathesis");
    schemathesis.args(["--config-file", "schemathesis.toml", "run", "openapi.json", "--url", &site.url()]);
    // The stream of events never ends. The same requests each time: a test must not fail by chance.
    schemathesis.args(["--exclude-path", "/api/events", "--max-examples", "30", "--seed", "1"]);
    runs("schemathesis", &mut schemathesis);
}

#[test]
fn a_client_generated_for_python_adds_changes_advances_and_deletes() {
    let site = Site::new();
    let mut generator = site.tool("bin/openapi-python-client");
    generator.args([
        "generate",
        "--path",
        "openapi.json",
        "--meta",
        "none",
        "--output-path",
        "operators_port",
    ]);
    // It formats what it has written, by a program that lies beside it.
    let tools = project_file("target/e2e-tools/bin");
    let path = std::env::join_paths(
        [tools].into_iter().chain(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())),
    );
    generator.env("PATH", path.unwrap());
    runs("openapi-python-client", &mut generator);
    copy("client.py", site.directory.path());
    runs("the client", site.tool("bin/python").arg("client.py").arg(site.url()));
    site.assert_changed();
}

#[test]
fn a_client_generated_for_javascript_adds_changes_advances_and_deletes() {
    let site = Site::new();
    let modules = project_file("target/e2e-tools/npm/node_modules");
    std::os::unix::fs::symlink(&modules, site.path("node_modules")).unwrap();
    let mut generator = site.tool("npm/node_modules/.bin/openapi-typescript");
    runs("openapi-typescript", generator.args(["openapi.json", "-o", "operators_port.ts"]));
    copy("client.ts", site.directory.path());
    let mut compiler = site.tool("npm/node_modules/.bin/tsc");
    compiler.args(["--strict", "--target", "es2022", "--module", "nodenext", "--skipLibCheck", "client.ts"]);
    runs("tsc", &mut compiler);
    runs("the client", Command::new("node").arg(site.path("client.js")).arg(site.url()));
    site.assert_changed();
}
