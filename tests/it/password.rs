//! A server that is not the database, or stands between it and here: it asks for the password in every way that the
//! protocol has, and does not get it.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use idalloc::config::TableSpec;
use idalloc::dsn::Dsn;
use idalloc::store::{self, StoreError, StoreReport};
use idalloc_testing::mariadb::{MariaDb, PASSWORD};
use idalloc_testing::proxy::Proxy;
use idalloc_testing::server::{PATIENCE, Setup};
use tempfile::TempDir;

/// What a rogue must not learn.
const SECRET: &str = "hunter2-hunter2";
const NONCE: &[u8; 20] = b"abcdefghijklmnopqrst";

const CACHING_SHA2: &str = "caching_sha2_password";
const NATIVE: &str = "mysql_native_password";

/// The first bytes of a server's packets while a client logs in.
const OK: &[u8] = &[0x00, 0, 0, 2, 0, 0, 0];
const SWITCH: u8 = 0xfe;
const MORE: u8 = 0x01;
const FULL_AUTHENTICATION: u8 = 0x04;
/// What a client asks a server's key with.
const KEY_REQUEST: &[u8] = &[0x02];

// ---- the rogue ----

/// How it asks.
#[derive(Debug, Clone, Copy)]
struct Way {
    /// The plugin of its greeting.
    greets_with: &'static str,
    /// The plugin that it then wants instead; the empty one is asked for as servers before 5.5 did.
    switches_to: Option<&'static str>,
}

const WAYS: [Way; 7] = [
    Way { greets_with: CACHING_SHA2, switches_to: None },
    Way { greets_with: NATIVE, switches_to: Some(CACHING_SHA2) },
    Way { greets_with: CACHING_SHA2, switches_to: Some("sha256_password") },
    Way { greets_with: NATIVE, switches_to: Some("mysql_clear_password") },
    Way { greets_with: CACHING_SHA2, switches_to: Some("mysql_clear_password") },
    Way { greets_with: NATIVE, switches_to: Some("mysql_old_password") },
    Way { greets_with: NATIVE, switches_to: Some("") },
];

/// A server with a key of its own on a free port, which lets everybody in.
struct Rogue {
    port: u16,
    key: Key,
    /// All that a client said, a message for each connection.
    heard: Receiver<Vec<Vec<u8>>>,
}

impl Rogue {
    fn asking(way: Way) -> Rogue {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let key = Key::new();
        let (tell, heard) = channel();
        let public_key = key.public();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                serve(&client, way, &public_key, &tell);
            }
        });
        Rogue { port, key, heard }
    }

    fn dsn(&self, params: &str) -> String {
        format!("root:{SECRET}@tcp(127.0.0.1:{})/id_alloc_db?{params}", self.port)
    }

    /// What the next client to leave told it, in its own words and, where that is possible, decrypted.
    fn learned(&self) -> Vec<Vec<u8>> {
        let mut said = self.heard.recv_timeout(PATIENCE).expect("a client that leaves");
        let decrypted: Vec<_> = said.iter().filter_map(|packet| self.key.decrypt(packet)).collect();
        said.extend(decrypted);
        let without_nonce = |text: &Vec<u8>| {
            text.iter().zip(NONCE.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect::<Vec<_>>()
        };
        let plain: Vec<_> = said.iter().map(without_nonce).collect();
        said.extend(plain);
        said
    }

    fn knows_the_password(&self) -> bool {
        self.learned().iter().any(|text| text.windows(SECRET.len()).any(|part| part == SECRET.as_bytes()))
    }
}

fn serve(client: &TcpStream, way: Way, public_key: &[u8], tell: &Sender<Vec<Vec<u8>>>) {
    let mut said = Vec::new();
    // It ends with the client.
    let _ = interrogate(client, way, public_key, &mut said);
    let _ = tell.send(said);
}

fn interrogate(client: &TcpStream, way: Way, public_key: &[u8], said: &mut Vec<Vec<u8>>) -> io::Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    send(client, 0, &greeting(way.greets_with))?;
    let mut next = hear(client, said)?;
    match way.switches_to {
        None => {}
        Some("") => {
            send(client, next, &[SWITCH])?;
            next = hear(client, said)?;
        }
        Some(plugin) => {
            send(client, next, &[&[SWITCH], plugin.as_bytes(), &[0], NONCE, &[0]].concat())?;
            next = hear(client, said)?;
        }
    }
    send(client, next, &[MORE, FULL_AUTHENTICATION])?;
    next = hear(client, said)?;
    if said.last().is_some_and(|packet| packet == KEY_REQUEST) {
        send(client, next, &[&[MORE], public_key].concat())?;
        next = hear(client, said)?;
    }
    send(client, next, OK)
}

/// As MySQL 8 greets, without TLS.
fn greeting(plugin: &str) -> Vec<u8> {
    const CAPABILITIES: u32 = 0x000f_a6df & !0x0000_0020;
    let [low, high] = [CAPABILITIES as u16, (CAPABILITIES >> 16) as u16].map(u16::to_le_bytes);
    let parts: [&[u8]; 14] = [
        &[10],
        b"8.0.40\0",
        &7u32.to_le_bytes(),
        &NONCE[..8],
        &[0],
        &low,
        &[45],
        &2u16.to_le_bytes(),
        &high,
        &[21],
        &[0; 10],
        &NONCE[8..],
        &[0],
        plugin.as_bytes(),
    ];
    [parts.concat(), vec![0]].concat()
}

fn send(mut client: &TcpStream, sequence: u8, payload: &[u8]) -> io::Result<()> {
    let mut packet = u32::try_from(payload.len()).expect("a short packet").to_le_bytes();
    packet[3] = sequence;
    client.write_all(&[&packet, payload].concat())
}

/// Adds the next packet to what was said, and returns the number of the answer.
fn hear(mut client: &TcpStream, said: &mut Vec<Vec<u8>>) -> io::Result<u8> {
    let mut header = [0; 4];
    client.read_exact(&mut header)?;
    let length = u32::from_le_bytes([header[0], header[1], header[2], 0]);
    let mut payload = vec![0; length as usize];
    client.read_exact(&mut payload)?;
    said.push(payload);
    Ok(header[3].wrapping_add(1))
}

/// A pair of RSA keys in files.
struct Key(TempDir);

impl Key {
    fn new() -> Key {
        let key = Key(TempDir::new().expect("a directory"));
        key.openssl(&["genrsa", "-out", "private.pem", "2048"], &[]).expect("a key");
        key.openssl(&["rsa", "-in", "private.pem", "-pubout", "-out", "public.pem"], &[])
            .expect("its public part");
        key
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("public.pem")
    }

    fn public(&self) -> Vec<u8> {
        fs::read(self.path()).expect("the public key")
    }

    /// `None` if it was not encrypted for this key.
    fn decrypt(&self, text: &[u8]) -> Option<Vec<u8>> {
        let args = ["pkeyutl", "-decrypt", "-inkey", "private.pem", "-pkeyopt", "rsa_padding_mode:oaep"];
        self.openssl(&args, text)
    }

    fn openssl(&self, args: &[&str], input: &[u8]) -> Option<Vec<u8>> {
        let mut command = Command::new("openssl");
        command.args(args).current_dir(self.0.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child =
            command.spawn().unwrap_or_else(|e| panic!("cannot run openssl ({e}): apt-get install openssl"));
        // It need not read what it does not want.
        let _ = child.stdin.take().expect("its input").write_all(input);
        let output = child.wait_with_output().expect("its output");
        output.status.success().then_some(output.stdout)
    }
}

// ---- the client ----

fn check(dsn: &str) -> Result<StoreReport, StoreError> {
    let table = TableSpec::default();
    store::backend(&dsn.parse::<Dsn>().expect("a DSN"), &table).session().check()
}

#[test]
fn a_rogue_server_does_not_get_the_password() {
    for way in WAYS {
        for params in ["", "tls=preferred"] {
            let rogue = Rogue::asking(way);
            let result = check(&rogue.dsn(params));
            assert!(!rogue.knows_the_password(), "{way:?} {params}: {result:?}");
            let Err(StoreError::Denied(text)) = result else { panic!("{way:?} {params}: {result:?}") };
            assert!(!text.contains(SECRET), "{text}");
        }
    }
}

#[test]
fn the_program_says_why_a_password_is_not_sent_and_what_to_do() {
    let rogue = Rogue::asking(WAYS[0]);
    let setup = || Setup::on(&rogue.dsn(""));
    for ended in [setup().check(), setup().refused()] {
        let complaint = ended.complaint();
        for part in
            [&*format!("127.0.0.1:{}", rogue.port), CACHING_SHA2, "tls=true", "tls-ca=", "serverPubKey="]
        {
            assert!(complaint.contains(part), "no {part} in: {complaint}");
        }
        assert!(!rogue.knows_the_password() && !format!("{ended:?}").contains(SECRET), "{ended:?}");
    }
}

#[test]
fn a_running_server_whose_database_is_exchanged_says_it_in_its_log() {
    let (database, rogue) = (MariaDb::start(), Rogue::asking(WAYS[0]));
    database.exec(&format!("CREATE USER ids@'%' IDENTIFIED BY '{SECRET}'"));
    database.exec("GRANT SELECT, UPDATE ON id_alloc_db.segments TO ids@'%'");
    let proxy = Proxy::before(database.port(), "UPDATE");
    let dsn = format!("ids:{SECRET}@tcp(127.0.0.1:{})/id_alloc_db", proxy.port());
    let mut server = Setup::on(&dsn).key("TagReloadSeconds", 1).start();
    server.await_status("/alloc?app_tag=test_business", 200);
    proxy.lead_to(rogue.port);
    server.await_log("serverPubKey=FILE");
    assert!(!rogue.knows_the_password());
    proxy.lead_to(database.port());
    server.await_log("the store answers again");
    server.signal(libc::SIGTERM);
    server.wait();
    assert!(!server.rest_of_log().iter().any(|line| line.contains(SECRET)));
}

#[test]
fn only_who_has_the_private_part_of_the_configured_key_gets_the_password() {
    for way in &WAYS[..2] {
        let server = Rogue::asking(*way);
        let with_key = |key: &Key| format!("serverPubKey={}", key.path().display());
        let _ = check(&server.dsn(&with_key(&server.key)));
        assert!(server.knows_the_password(), "{way:?}: the server that the key is of");
        let result = check(&server.dsn(&with_key(&Key::new())));
        assert!(!server.knows_the_password(), "{way:?}: {result:?}");
        assert!(result.is_err());
    }
}

#[test]
fn a_key_that_is_none_is_named_and_nothing_is_sent() {
    let rogue = Rogue::asking(WAYS[0]);
    let directory = rogue.key.0.path();
    rogue.key.openssl(&["ecparam", "-name", "prime256v1", "-genkey", "-out", "ec.pem"], &[]).expect("a key");
    rogue
        .key
        .openssl(&["ec", "-in", "ec.pem", "-pubout", "-out", "ec-public.pem"], &[])
        .expect("its public part");
    fs::write(directory.join("text.pem"), "no key").expect("write");
    for (name, why) in [
        ("none.pem", "No such file"),
        ("text.pem", "no RSA public key"),
        ("private.pem", "no RSA public key"),
        ("ec-public.pem", "no RSA public key"),
        ("", "Is a directory"),
    ] {
        let path = directory.join(name);
        let result = check(&rogue.dsn(&format!("serverPubKey={}", path.display())));
        let Err(StoreError::Unavailable(text)) = result else { panic!("{name}: {result:?}") };
        assert!(text.contains(&format!("serverPubKey {}: ", path.display())) && text.contains(why), "{text}");
    }
    assert!(rogue.heard.try_recv().is_err(), "nobody connected");
}

/// Its plugins prove that one has the password, without sending it: nothing changes for them.
#[test]
fn mariadbs_accounts_need_neither_tls_nor_a_key() {
    let server = MariaDb::start_with(&["--plugin-load-add=auth_ed25519"]);
    for (user, plugin) in [("native", NATIVE), ("ed", "ed25519")] {
        server.exec(&format!(
            "CREATE USER {user}@127.0.0.1 IDENTIFIED VIA {plugin} USING PASSWORD('{SECRET}')"
        ));
        server.exec(&format!("GRANT SELECT, UPDATE ON id_alloc_db.segments TO {user}@127.0.0.1"));
        let key = Key::new();
        for params in [String::new(), format!("?serverPubKey={}", key.path().display())] {
            let dsn = format!("{user}:{SECRET}@tcp(127.0.0.1:{})/id_alloc_db{params}", server.port());
            check(&dsn).unwrap_or_else(|error| panic!("{user} {params}: {error}"));
        }
    }
    let key = Key::new();
    let wrong = server.dsn().replace(PASSWORD, "wrong") + &format!("?serverPubKey={}", key.path().display());
    let Err(StoreError::Denied(text)) = check(&wrong) else { panic!("not denied") };
    assert!(text.contains("serverPubKey is not this server's key"), "{text}");
}

/// The lines of the blocks of this language under the guide's heading.
fn guide(language: &str) -> String {
    const GUIDE: &str = include_str!("../../docs/OPERATING.md");
    let (_, section) = GUIDE.split_once("### TLS to the database\n").expect("the heading");
    let mut block = None;
    let mut found = String::new();
    for line in section.split("\n#").next().expect("a section").lines().map(str::trim) {
        match (line.strip_prefix("```"), block) {
            (Some(begun), None) => block = Some(begun),
            (Some(_), Some(_)) => block = None,
            (None, Some(it)) if it == language => found = found + line + "\n",
            (None, _) => {}
        }
    }
    found
}

#[test]
fn the_guides_way_to_tls_leads_there() {
    const NAME: &str = "db.example";
    let directory = TempDir::new().expect("a directory");
    // The server runs under another account.
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    let commands = guide("sh").replace(NAME, "localhost");
    let made =
        Command::new("sh").args(["-ec", &commands]).current_dir(directory.path()).output().expect("sh");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    fs::set_permissions(directory.path().join("key.pem"), fs::Permissions::from_mode(0o644)).expect("chmod");
    let options: Vec<String> = guide("ini")
        .lines()
        .filter_map(|line| line.split_once(" = "))
        .map(|(name, path)| {
            format!("--{name}={}", path.replace("/etc/mysql/tls", directory.path().to_str().expect("UTF-8")))
        })
        .collect();
    assert_eq!(options.len(), 3);
    let server = MariaDb::start_with(&options.iter().map(String::as_str).collect::<Vec<_>>());
    server.exec("CREATE USER 'idalloc'@'%' IDENTIFIED BY 'a-password'");
    server.exec("GRANT SELECT, UPDATE ON id_alloc_db.segments TO 'idalloc'@'%'");
    for sql in guide("sql").split(';').map(str::trim).filter(|sql| !sql.is_empty()) {
        server.exec(sql);
    }
    let written = guide("");
    let dsn = written.lines().find(|line| line.starts_with("idalloc:a-password@")).expect("a DSN");
    let dsn = dsn
        .replace(&format!("{NAME}:3306"), &format!("localhost:{}", server.port()))
        .replace("/etc/idalloc", directory.path().to_str().expect("UTF-8"));
    let ended = Setup::on(&dsn).check();
    assert!(ended.code == Some(0) && ended.stdout.contains("connection: TLSv1.3"), "{ended:?}");
    let without = dsn.split_once('?').expect("parameters").0;
    assert!(matches!(check(without), Err(StoreError::Denied(_))), "the account takes TLS alone");
}
