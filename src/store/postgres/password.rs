//! The password that is not in the URL: of `PGPASSWORD`, or of the file that `PGPASSFILE` names, as libpq has them.
//!
//! A line of the file is `host:port:database:user:password`; `*` stands for any, `\:` for a colon. The first that fits counts. A file
//! that others may read is not read, as libpq doesn't either, and that is logged.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use tokio_postgres::Config;
use tokio_postgres::config::Host;

/// The password of the user, at the first host that has one.
pub(super) fn find(config: &Config) -> Option<String> {
    if let Ok(password) = std::env::var("PGPASSWORD") {
        return Some(password);
    }
    let named = std::env::var_os("PGPASSFILE").map(PathBuf::from);
    let file = named.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".pgpass")))?;
    let mode = std::fs::metadata(&file).ok()?.permissions().mode();
    if mode & 0o077 != 0 {
        log::warn!("{} can be read by others and is left aside; make its mode 0600", file.display());
        return None;
    }
    let text = std::fs::read_to_string(&file).ok()?;
    let user = config.get_user().unwrap_or_default();
    let database = config.get_dbname().unwrap_or(user);
    config.get_hosts().iter().enumerate().find_map(|(n, host)| {
        let port = config.get_ports().get(n).or(config.get_ports().first()).copied().unwrap_or(5_432).to_string();
        let host = match host {
            Host::Tcp(name) => name.clone(),
            #[cfg(unix)]
            Host::Unix(_) => "localhost".into(),
        };
        text.lines().find_map(|line| password_in(line, [&host, &port, database, user]))
    })
}

fn password_in(line: &str, wanted: [&str; 4]) -> Option<String> {
    if line.starts_with('#') {
        return None;
    }
    let mut fields = vec![String::new()];
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        // A backslash means the character behind it.
        match c {
            ':' if fields.len() < 5 => fields.push(String::new()),
            '\\' => fields.last_mut()?.extend(chars.next()),
            c => fields.last_mut()?.push(c),
        }
    }
    let fits = fields.iter().zip(wanted).all(|(field, wanted)| field == "*" || field == wanted);
    (fields.len() == 5 && fits).then(|| fields.remove(4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_fits_has_the_password() {
        let of = |line| password_in(line, ["db.example", "5432", "orders", "shop"]);
        assert_eq!(of("db.example:5432:orders:shop:a\\:b\\\\c"), Some("a:b\\c".into()));
        assert_eq!(of("*:*:*:shop:secret:with:colons"), Some("secret:with:colons".into()));
        for line in ["", "# *:*:*:*:x", "*:*:*:other:x", "db.example:5433:*:*:x", "*:*:*:shop"] {
            assert_eq!(of(line), None, "{line}");
        }
    }
}
