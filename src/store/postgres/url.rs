//! Which server, from its URL: hosts, user, database, TLS, and orderd's own parameters; and where its password comes from.
//!
//! A URL is read as libpq reads it, with `sslmode`, `sslrootcert`, `schema` and `lease` taken out first. A password is in the URL, in
//! `PGPASSWORD`, or in the file that `PGPASSFILE` names, `~/.pgpass` if it names none. It is never part of a text that is made here:
//! what is logged is [`Server::name`].

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

use super::tls::Tls;
use crate::error::Error;

/// How long an instance may be silent before its orders are taken over, and the bounds of that.
const LEASE: Duration = Duration::from_secs(30);
const LEASES: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(600));
/// What a read may take whatever the lease is, at the least and at the most.
const SHORTEST_PATIENCE: Duration = Duration::from_millis(300);
const LONGEST_PATIENCE: Duration = Duration::from_secs(15);
/// How long each address of each host may be silent before the next one is tried. Of several hosts the first may be gone with its
/// machine, and somebody waits meanwhile.
const CONNECT_PATIENCE: Duration = Duration::from_secs(1);
/// A connection over which nothing comes is asked after this, as often again, and given up then.
const KEEPALIVE: (Duration, u32) = (Duration::from_secs(5), 2);

/// Where the orders are.
pub(in crate::store) struct Server {
    /// How to connect.
    pub(super) config: Config,
    /// How to be sure of whom we talk to.
    pub(super) tls: Tls,
    /// The schema that holds our tables.
    pub(super) schema: String,
    /// What it is called in the log, without the password.
    pub(in crate::store) name: String,
    /// How long an instance may be silent.
    pub(super) lease: Duration,
    /// Whether the URL itself has a password.
    pub(super) has_password_in_url: bool,
}

/// Whether the value of `--db` names a server and no file.
pub fn is_server(db: &Path) -> bool {
    let text = db.to_string_lossy();
    text.starts_with("postgres://") || text.starts_with("postgresql://")
}

impl Server {
    /// Reads a URL, the environment and the password file.
    ///
    /// # Errors
    /// [`Error::Usage`] with what is wrong and how to mend it, without the URL, as there may be a password in it.
    pub(super) fn parse(db: &Path) -> Result<Server, Error> {
        let url = db.to_str().ok_or_else(|| usage("the URL is no UTF-8"))?;
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let (mut sslmode, mut root, mut schema, mut lease) = (None, None, None, LEASE);
        let mut rest = Vec::new();
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            match key {
                "sslmode" => sslmode = Some(value.to_string()),
                "sslrootcert" => root = Some(decoded(value)?),
                "schema" => schema = Some(value.to_string()),
                "lease" => lease = lease_of(value)?,
                _ => rest.push(parameter),
            }
        }
        let separator = if rest.is_empty() { "" } else { "?" };
        // What it says of a URL that it can't read may hold a part of it.
        let mut config: Config = format!("{base}{separator}{}", rest.join("&")).parse().map_err(|_| {
            usage("the URL is not understood; it looks like postgres://user@host:5432/name?sslmode=verify-full&sslrootcert=system")
        })?;
        if config.get_hosts().is_empty() {
            config.host("localhost");
        }
        if config.get_ports().len() > 1 && config.get_ports().len() != config.get_hosts().len() {
            return Err(usage(
                "there are several ports, and not one for each host; write postgres://user@one:5432,two:5433/name",
            ));
        }
        let schema = schema.unwrap_or_else(|| "orderd".into());
        let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if !schema.starts_with(|c: char| c.is_ascii_lowercase()) || !schema.chars().all(is_plain) || schema.len() > 63 {
            return Err(usage("schema= has a name of small letters, digits and underscores, such as orderd"));
        }
        let tls = tls(&config, sslmode.as_deref(), root.as_deref())?;
        config.ssl_mode(if tls.is_wanted() { SslMode::Require } else { SslMode::Disable });
        config
            .target_session_attrs(TargetSessionAttrs::ReadWrite)
            .connect_timeout(CONNECT_PATIENCE)
            .keepalives(true)
            .keepalives_idle(KEEPALIVE.0)
            .keepalives_interval(KEEPALIVE.0)
            .keepalives_retries(KEEPALIVE.1)
            .tcp_user_timeout(KEEPALIVE.0 * (KEEPALIVE.1 + 1));
        if config.get_application_name().is_none() {
            config.application_name("orderd");
        }
        let has_password_in_url = config.get_password().is_some();
        if !has_password_in_url && let Some(password) = super::password::find(&config) {
            config.password(password);
        }
        let name = name(&config);
        Ok(Server { config, tls, schema, name, lease, has_password_in_url })
    }

    /// How long a read may take: three in a row must not outlast the time between the end of our own work and that of the lease.
    pub(super) fn read_patience(&self) -> Duration {
        (self.lease / 10).clamp(SHORTEST_PATIENCE, LONGEST_PATIENCE)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Server").field(&self.name).finish()
    }
}

pub(super) fn usage(text: impl fmt::Display) -> Error {
    Error::Usage(format!("--db: {text}"))
}

fn lease_of(text: &str) -> Result<Duration, Error> {
    let lease = humantime::parse_duration(text).ok().filter(|lease| (LEASES.0..=LEASES.1).contains(lease));
    lease.ok_or_else(|| usage("lease= is a time from 2s to 10m, such as 30s"))
}

/// Percent-encoding as in any URL.
fn decoded(text: &str) -> Result<PathBuf, Error> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let hex = |c: Option<u8>| c.and_then(|c| (c as char).to_digit(16));
        bytes.push(match byte {
            b'%' => match (hex(rest.next()), hex(rest.next())) {
                (Some(high), Some(low)) => (high * 16 + low) as u8,
                _ => return Err(usage("sslrootcert= is not percent-encoded")),
            },
            byte => byte,
        });
    }
    String::from_utf8(bytes).map(PathBuf::from).map_err(|_| usage("sslrootcert= is no UTF-8"))
}

/// Off this machine nothing is said in clear, and nothing to whoever happens to answer.
fn tls(config: &Config, mode: Option<&str>, root: Option<&Path>) -> Result<Tls, Error> {
    match mode {
        Some("disable") => Ok(Tls::none()),
        None if root.is_none() && config.get_hosts().iter().all(is_here) => Ok(Tls::none()),
        None | Some("verify-full") => Tls::verified(root),
        Some(mode @ ("allow" | "prefer" | "require" | "verify-ca")) => Err(usage(format_args!(
            "sslmode={mode} does not make sure whom it talks to; use sslmode=verify-full with sslrootcert=FILE or \
             sslrootcert=system, or sslmode=disable on a network that you trust"
        ))),
        Some(_) => Err(usage("sslmode= is verify-full or disable")),
    }
}

fn is_here(host: &Host) -> bool {
    match host {
        Host::Tcp(name) => name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()),
        #[cfg(unix)]
        Host::Unix(_) => true,
    }
}

/// `postgres://host:port/name`, the user left out as well: a log is read by many.
fn name(config: &Config) -> String {
    let ports = config.get_ports();
    let hosts: Vec<String> = config
        .get_hosts()
        .iter()
        .enumerate()
        .map(|(n, host)| {
            let port = ports.get(n).or(ports.first()).copied().unwrap_or(5_432);
            match host {
                Host::Tcp(name) => format!("{name}:{port}"),
                #[cfg(unix)]
                Host::Unix(path) => format!("{}:{port}", path.display()),
            }
        })
        .collect();
    format!("postgres://{}/{}", hosts.join(","), config.get_dbname().or(config.get_user()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str) -> String {
        Server::parse(Path::new(url)).unwrap_err().to_string()
    }

    #[test]
    fn a_server_on_another_machine_is_verified_and_one_on_this_needs_no_encryption() {
        for (url, wanted) in [
            ("postgres://u@localhost/n", false),
            ("postgres://u@127.0.0.2:5433/n", false),
            ("postgresql:///n?host=/run/postgresql", false),
            ("postgres://u@db.example/n?sslmode=disable", false),
            ("postgres://u@db.example/n", true),
            ("postgres://u@localhost,db.example/n", true),
            ("postgres://u@localhost/n?sslmode=verify-full", true),
        ] {
            assert_eq!(Server::parse(Path::new(url)).unwrap().tls.is_wanted(), wanted, "{url}");
        }
        for mode in ["require", "prefer", "allow", "verify-ca"] {
            assert!(refused(&format!("postgres://u@db.example/n?sslmode={mode}")).contains("verify-full"), "{mode}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_without_showing_the_password() {
        for url in [
            "postgres://u:geheim@h:70000/n",
            "postgres://u:geheim@h/n?sslmode=maybe",
            "postgres://u:geheim@localhost/n?schema=Ü",
            "postgres://u:geheim@localhost/n?lease=1ms",
            "postgres://u:geheim@localhost/n?geheim=1",
            "postgres://u:geheim@h/n?sslrootcert=/no/such/file",
            "postgres://u:geheim@h/n?sslrootcert=%zz",
            "postgres://u:geheim@/n?host=/a,/b&port=1,2",
        ] {
            let text = refused(url);
            assert!(text.starts_with("--db: ") && !text.contains("geheim"), "{text}");
        }
        let server = Server::parse(Path::new("postgres://u:geheim@localhost/n?lease=5s")).unwrap();
        assert_eq!((server.name.as_str(), server.lease.as_secs()), ("postgres://localhost:5432/n", 5));
        assert!(!format!("{server:?}{:?}", server.config).contains("geheim"));
    }
}
