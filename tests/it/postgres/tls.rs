//! Connections that are encrypted, with certificates that openssl makes: a right one is taken, and each wrong one refused in a line that
//! says why. Passwords of every kind, and that none is shown.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use super::Instance;
use crate::harness::{Cluster, Ended, Folder, Kind, Serving, created, order, orderd};

/// Says so where there is no openssl, or no PostgreSQL.
fn server(certificates: &Certificates, port: u16) -> Option<Cluster> {
    let [certificate, key] = ["right.pem", "server.key"].map(|name| certificates.0.file(name).display().to_string());
    let settings =
        ["listen_addresses='127.0.0.1'", "ssl=on", &format!("ssl_cert_file='{certificate}'"), &format!("ssl_key_file='{key}'")];
    let server = Cluster::of(&Kind { settings: &settings, port: Some(port), ..Kind::default() })?;
    let rules = "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n";
    std::fs::write(server.data().join("pg_hba.conf"), rules).unwrap();
    server.sql("CREATE ROLE shop LOGIN PASSWORD 'geheim'");
    server.sql("GRANT CREATE ON DATABASE postgres TO shop");
    server.sql("SELECT pg_reload_conf()");
    Some(server)
}

struct Certificates(Folder);

impl Certificates {
    /// Those of two roots, of which the first has signed all but the foreign one.
    fn new() -> Option<Certificates> {
        if !Command::new("openssl").arg("version").output().is_ok_and(|output| output.status.success()) {
            eprintln!("skipped: there is no openssl, so no certificates were made (Debian: apt-get install openssl)");
            return None;
        }
        let made = Certificates(Folder::new());
        for root in ["root", "stranger"] {
            let key = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30";
            made.openssl(&format!("{key} -subj /CN={root} -keyout {root}.key -out {root}.pem"));
        }
        made.openssl(
            "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost -keyout server.key -out request",
        );
        let right = "subjectAltName=DNS:localhost,IP:127.0.0.1";
        for (name, root, days, extension) in [
            ("right", "root", 30, right),
            ("foreign", "stranger", 30, right),
            ("expired", "root", -1, right),
            ("elsewhere", "root", 30, "subjectAltName=DNS:db.example"),
            ("nameless", "root", 30, "keyUsage=digitalSignature"),
        ] {
            std::fs::write(made.0.file("extension"), extension).unwrap();
            let signed = format!("-CA {root}.pem -CAkey {root}.key -CAcreateserial -days {days}");
            made.openssl(&format!("x509 -req -in request {signed} -extfile extension -out {name}.pem"));
        }
        Some(made)
    }

    #[track_caller]
    fn openssl(&self, words: &str) {
        let mut command = Command::new("openssl");
        let output = command.args(words.split(' ')).current_dir(self.0.path()).output().unwrap();
        assert!(output.status.success(), "openssl {words}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// How an orderd ended that could not begin, with this password.
fn refused(folder: &Folder, url: &str, password: &str, words: &[&str]) {
    let mut command = orderd(folder);
    command.args(["--listen", "127.0.0.1:0", "--db", url]).env("PGPASSWORD", password);
    command.env("XDG_RUNTIME_DIR", folder.path()).env_remove("RUNTIME_DIRECTORY");
    let ended = Ended::of(command);
    ended.expect_refused(words);
    assert!(!password.is_empty() && !ended.stderr.contains(password), "{ended:?}");
}

/// What anybody on the machine can see of a program.
fn shown(instance: &Instance) -> String {
    let lines = instance.all_processes().into_iter().map(|id| std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default());
    lines.map(|line| String::from_utf8_lossy(&line).into_owned()).collect::<Vec<_>>().join("\n") + &instance.stderr()
}

#[test]
fn a_server_is_believed_if_its_certificate_is_right_and_a_password_is_never_shown() {
    let Some(certificates) = Certificates::new() else { return };
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let key = certificates.0.file("server.key");
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    certificates.owned_by_server(&key);
    let Some(server) = server(&certificates, port) else { return };
    let root = certificates.0.file("root.pem").display().to_string();
    let url = |host: &str, more: &str| format!("postgres://shop@{host}:{port}/postgres?schema=it_tls&{more}");
    let verified = url("localhost", &format!("sslmode=verify-full&sslrootcert={root}"));
    let folder = Folder::new();

    // End to end, by each way that a password has, over a name and over an address.
    let by_address = url("127.0.0.1", &format!("sslrootcert={root}"));
    std::fs::write(folder.file("pass"), format!("*:*:*:nobody:wrong\nlocalhost:{port}:postgres:shop:geheim\n")).unwrap();
    std::fs::set_permissions(folder.file("pass"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::write(folder.file("url"), by_address.replace("shop@", "shop:geheim@")).unwrap();
    for (n, (args, variable)) in [
        (["--db", verified.as_str()], Some(("PGPASSWORD", "geheim"))),
        (["--db", &verified], Some(("PGPASSFILE", folder.file("pass").to_str().unwrap()))),
        (["--db-file", "url"], None),
    ]
    .into_iter()
    .enumerate()
    {
        let mut command = orderd(&folder);
        command.args(["--listen", "127.0.0.1:0", "--log-level", "trace", "--processing-time", "0s"]).args(args).envs(variable);
        let instance = Instance::spawn(command, &folder, &verified);
        instance.post(order(&format!("o-{n}"))).expect(200, &created(&format!("o-{n}")));
        instance.wait_until_completed(n as u64 + 1);
        let encrypted = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'shop'";
        assert_eq!(server.sql(encrypted), "t", "{args:?}");
        assert!(!shown(&instance).contains("geheim"), "{args:?}: {}", shown(&instance));
        instance.stop();
    }
    refused(&folder, &verified, "falsch", &["password authentication failed", "PGPASSWORD"]);

    // The keys stay, and the certificates change.
    let with = |name: &str| {
        let file = certificates.0.file(&format!("{name}.pem"));
        server.sql(&format!("ALTER SYSTEM SET ssl_cert_file = '{}'", file.display()));
        server.sql("SELECT pg_reload_conf()");
        let changed = || server.sql("SHOW ssl_cert_file") == file.display().to_string();
        crate::harness::poll_until(super::MINUTE, changed);
    };
    for (name, words) in [
        ("foreign", &["certificate", "UnknownIssuer", "sslrootcert="][..]),
        ("expired", &["certificate", "Expired", "valid now"]),
        ("elsewhere", &["certificate", "localhost", "subjectAltName"]),
        ("nameless", &["certificate", "localhost", "subjectAltName"]),
    ] {
        with(name);
        refused(&folder, &verified, "geheim", words);
    }
    with("right");
    refused(&folder, &url("localhost", "sslmode=verify-full&sslrootcert=system"), "geheim", &["certificate", "sslrootcert="]);
    refused(&folder, &url("localhost", "sslmode=require"), "geheim", &["verify-full"]);
    server.sql("ALTER SYSTEM SET ssl = off");
    server.sql("SELECT pg_reload_conf()");
    crate::harness::poll_until(super::MINUTE, || server.sql("SHOW ssl") == "off");
    refused(&folder, &verified, "geheim", &["TLS", "sslmode=disable"]);
}

impl Certificates {
    /// PostgreSQL takes no key that is another's.
    fn owned_by_server(&self, key: &Path) {
        let is_root = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) == 0;
        if is_root {
            std::os::unix::fs::chown(key, Some(65_534), Some(65_534)).unwrap();
        }
    }
}
