//! MySQL: tls.

use super::*;

/// A certificate authority, and a certificate of its own for the name `localhost` and no other.
struct Certificates(TempDir);

impl Certificates {
    fn new() -> Certificates {
        let dir = TempDir::new().expect("a temporary directory");
        // The server runs under another account.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        fs::write(dir.path().join("san"), "subjectAltName=DNS:localhost").expect("write");
        for args in [
            "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test-ca -keyout ca.key -out ca.pem",
            "req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout key.pem -out csr.pem",
            "x509 -req -in csr.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile san -out cert.pem",
        ] {
            let output = Command::new("openssl").args(args.split(' ')).current_dir(dir.path()).output();
            let output =
                output.unwrap_or_else(|e| panic!("cannot run openssl ({e}): apt-get install openssl"));
            assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
        }
        fs::set_permissions(dir.path().join("key.pem"), fs::Permissions::from_mode(0o644)).expect("chmod");
        Certificates(dir)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

fn encryption(dsn: &str) -> Result<String, StoreError> {
    let report = connect(dsn).check()?;
    let facts = report.facts();
    let fact = facts.iter().find_map(|fact| fact.strip_prefix("connection: "));
    Ok(fact.unwrap_or_else(|| panic!("{report:?}")).to_owned())
}

#[test]
fn each_tls_mode_keeps_its_promise() {
    let certificates = Certificates::new();
    let option = |name: &str, file: &str| format!("--{name}={}", certificates.path(file).display());
    let args = [option("ssl-ca", "ca.pem"), option("ssl-cert", "cert.pem"), option("ssl-key", "key.pem")];
    let server = MariaDb::start_with(&[&args[0], &args[1], &args[2]]);
    server.exec(&format!("CREATE USER root@localhost2 IDENTIFIED BY '{PASSWORD}'"));

    let by_address = server.dsn();
    let by_name = by_address.replace("127.0.0.1", "localhost");
    let ca = format!("tls=true&tls-ca={}", certificates.path("ca.pem").display());
    let encrypted =
        |dsn: String| encryption(&dsn).unwrap_or_else(|e| panic!("{dsn}: {e}")).starts_with("TLSv1");
    let refused = |dsn: String, why: &str| {
        let result = encryption(&dsn);
        assert!(
            matches!(&result, Err(StoreError::Unavailable(text)) if text.contains(why)),
            "{dsn}: {result:?}"
        );
    };

    assert!(encrypted(format!("{by_name}?{ca}")));
    refused(format!("{by_address}?{ca}"), "not valid for name");
    refused(format!("{by_name}?tls=true"), "UnknownIssuer");
    refused(format!("{by_name}?tls=true&tls-ca=/nonexistent/ca.pem"), "/nonexistent/ca.pem");
    refused(format!("{by_name}?tls=true&tls-ca=/tmp"), "tls-ca /tmp: Is a directory");
    assert!(encrypted(format!("{by_address}?tls=skip-verify")));
    assert!(encrypted(format!("{by_address}?tls=preferred")));
    assert!(!encrypted(format!("{by_address}?tls=false")));
}

#[test]
fn a_server_without_tls_is_used_only_where_that_is_allowed() {
    let server = MariaDb::start_with(&["--skip-ssl"]);
    assert_eq!(encryption(&format!("{}?tls=preferred", server.dsn())).as_deref(), Ok("not encrypted"));
    for tls in ["true", "skip-verify"] {
        let result = encryption(&format!("{}?tls={tls}", server.dsn()));
        assert!(matches!(result, Err(StoreError::Unavailable(_))), "{tls}: {result:?}");
    }
}
