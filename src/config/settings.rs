//! The text forms of settings: flags, their `ORDERD_…` twins in the environment, and the lines of `--help`.
//!
//! [`SETTINGS`] is the one list that all three are made from. A text that makes no sense is refused with what would.
//! Nothing here reads the command line or the environment.

use std::ffi::OsStr;
use std::time::Duration;

use super::{Config, Listen, LogFormat, MAX_DURATION, Token};
use crate::error::Error;
use crate::processing::work::Work;

/// A setting that has a text form.
pub struct Setting {
    /// The flag without its dashes.
    pub flag: &'static str,
    /// What stands for the value in `--help`.
    pub value: &'static str,
    /// The default as shown in `--help`.
    pub default: &'static str,
    /// What it does, in a few words.
    pub help: &'static str,
    set: fn(&mut Config, &str) -> Result<(), String>,
}

/// Every setting that has a text form, in the order of `--help`.
pub const SETTINGS: &[Setting] = &[
    Setting {
        flag: "listen",
        value: "ADDR",
        default: "127.0.0.1:8000",
        help: "where orderd listens; also unix:/run/orderd.sock",
        set: |config, text| listen(text).map(|v| config.listen = v),
    },
    Setting {
        flag: "allow-host",
        value: "NAME",
        default: "none",
        help: "a further name that Host may have on loopback",
        set: |config, text| hosts(text).map(|v| config.allow_hosts = v),
    },
    Setting {
        flag: "token-file",
        value: "FILE",
        default: "none",
        help: "holds the token that requests must bear",
        set: |config, text| match text {
            "" => Err("name a file that holds a token".into()),
            path => {
                config.token = Some(Token::in_file(path));
                Ok(())
            }
        },
    },
    Setting {
        flag: "db",
        value: "FILE",
        default: "orders.db",
        #[cfg(not(feature = "postgres"))]
        help: "the database, made if absent",
        #[cfg(feature = "postgres")]
        help: "the database, made if absent; or postgres://…",
        set: |config, text| match text {
            "" => Err("name a file, such as orders.db".into()),
            path => {
                config.db = path.into();
                Ok(())
            }
        },
    },
    Setting {
        flag: "accept-loss",
        value: "",
        default: "false",
        help: "start although orders are lost; sets old files aside",
        set: |config, text| switch(text).map(|v| config.accept_loss = v),
    },
    Setting {
        flag: "processing-time",
        value: "D",
        default: "5s",
        help: "how long processing an order takes: 250ms, 5s, 2m, 0s",
        set: |config, text| duration(text).map(|v| config.processing_time = v),
    },
    Setting {
        flag: "concurrency",
        value: "N",
        default: "1000; 4 with --exec",
        help: "orders in Processing at once; 0 processes none",
        set: |config, text| number(text, 0..=1_000_000).map(|v| config.concurrency = Some(v)),
    },
    Setting {
        flag: "exec",
        value: "COMMAND",
        default: "none",
        help: "run by sh -c for each order, its JSON on standard input",
        set: |config, text| match text.trim() {
            "" => Err("name a command, such as ./ship.sh".into()),
            _ => {
                config.work = Work::Command(text.into());
                Ok(())
            }
        },
    },
    Setting {
        flag: "exec-timeout",
        value: "D",
        default: "60s",
        help: "how long a command may take before it is ended",
        set: |config, text| some_time(text).map(|v| config.exec_timeout = v),
    },
    Setting {
        flag: "max-attempts",
        value: "N",
        default: "5",
        help: "attempts at an order before it is Failed",
        set: |config, text| number(text, 1..=1_000_000).map(|v| config.max_attempts = v as u32),
    },
    Setting {
        flag: "retry-delay",
        value: "D",
        default: "1s",
        help: "before an order is tried again; doubles up to 1h",
        set: |config, text| duration(text).map(|v| config.retry_delay = v),
    },
    Setting {
        flag: "keep",
        value: "D",
        default: "for ever",
        help: "finished orders are deleted when they ended longer ago",
        set: |config, text| duration(text).map(|v| config.keep = Some(v)),
    },
    Setting {
        flag: "workers",
        value: "N",
        default: "from the cores",
        help: "threads that answer requests",
        set: |config, text| number(text, 1..=256).map(|v| config.workers = v),
    },
    Setting {
        flag: "read-timeout",
        value: "D",
        default: "30s",
        help: "of silence on a connection, and for a whole body",
        set: |config, text| some_time(text).map(|v| config.read_timeout = v),
    },
    Setting {
        flag: "shutdown-timeout",
        value: "D",
        default: "10s",
        help: "how long an orderly stop may take",
        set: |config, text| duration(text).map(|v| config.shutdown_timeout = v),
    },
    Setting {
        flag: "max-memory",
        value: "SIZE",
        default: "512M",
        help: "a serving process that grows past it is replaced",
        set: |config, text| size(text).map(|v| config.max_memory = v),
    },
    Setting {
        flag: "log-level",
        value: "L",
        default: "info",
        help: "off, error, warn, info, debug or trace",
        set: |config, text| {
            text.parse().map(|v| config.log_level = v).map_err(|_| "use off, error, warn, info, debug or trace".into())
        },
    },
    Setting {
        flag: "log-format",
        value: "F",
        default: "text",
        help: "text, or json: one object a line",
        set: |config, text| log_format(text).map(|v| config.log_format = v),
    },
    Setting {
        flag: "no-supervisor",
        value: "",
        default: "false",
        help: "one process only, where another supervisor is",
        set: |config, text| switch(text).map(|v| config.supervisor = !v),
    },
    // For what a URL may hold: the command line is for everybody to see.
    #[cfg(feature = "postgres")]
    Setting {
        flag: "db-file",
        value: "FILE",
        default: "none",
        help: "a file with what --db would say",
        set: |config, file| {
            let text = std::fs::read_to_string(file).map_err(|e| format!("it can't be read: {e}"))?;
            match text.trim() {
                "" => Err("it is empty; write into it what --db would say".into()),
                db => {
                    config.db = db.into();
                    Ok(())
                }
            }
        },
    },
];

impl Setting {
    /// Whether the flag stands alone, without a value.
    pub fn is_switch(&self) -> bool {
        self.value.is_empty()
    }

    /// Whether the flag may be given several times. Its text is then a list with commas.
    pub fn is_list(&self) -> bool {
        self.flag == "allow-host"
    }

    /// Sets it from text.
    ///
    /// # Errors
    /// [`Error::Usage`], one line that starts with `name`, which the user gave it by, and says what is allowed.
    pub fn apply(&self, config: &mut Config, name: &str, text: &str) -> Result<(), Error> {
        #[cfg(not(feature = "postgres"))]
        if self.flag == "db" && ["postgres://", "postgresql://"].iter().any(|scheme| text.starts_with(scheme)) {
            // Without the URL, as there may be a password in it.
            return Err(Error::Usage(format!(
                "{name}: this orderd keeps orders in a file; one for PostgreSQL is made by cargo install --path . --features postgres"
            )));
        }
        (self.set)(config, text).map_err(|remedy| Error::Usage(format!("{name}: {text:?} is not understood; {remedy}")))
    }

    /// Sets it from text that may be no UTF-8: the name of a file is taken as it is.
    ///
    /// # Errors
    /// As [`apply`](Self::apply).
    pub fn apply_os(&self, config: &mut Config, name: &str, text: &OsStr) -> Result<(), Error> {
        match text.to_str() {
            Some(text) => self.apply(config, name, text),
            None if self.flag == "db" => {
                config.db = text.into();
                Ok(())
            }
            None if self.flag == "token-file" => {
                config.token = Some(Token::in_file(text));
                Ok(())
            }
            None => Err(Error::Usage(format!("{name}: {text:?} is not understood; use UTF-8"))),
        }
    }

    /// The name of its twin in the environment.
    pub fn variable(&self) -> String {
        format!("ORDERD_{}", self.flag.to_ascii_uppercase().replace('-', "_"))
    }
}

fn switch(text: &str) -> Result<bool, String> {
    match text {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err("use true or false".into()),
    }
}

fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("use text or json".into()),
    }
}

fn listen(text: &str) -> Result<Listen, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return if path.is_empty() {
            Err("name a path, such as unix:/run/orderd.sock".into())
        } else {
            Ok(Listen::Unix(path.into()))
        };
    }
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(Listen::Tcp(text.into())),
        _ => Err("name a host and a port, such as 127.0.0.1:8000, or unix:/run/orderd.sock".into()),
    }
}

/// Names as `Host` has them, in lower case and without their ports.
fn hosts(text: &str) -> Result<Vec<String>, String> {
    text.split(',').map(|name| host(name.trim())).collect()
}

fn host(text: &str) -> Result<String, String> {
    let remedy = || "name a host, such as orders.example, or several with commas between".to_string();
    // The colons of an IPv6 address stand between brackets.
    let name = match text.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|c| c.is_ascii_digit()) && (!name.contains(':') || name.ends_with(']')) => name,
        _ => text,
    };
    let inner = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
    let is_fine = match inner {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"-._".contains(&c)),
    };
    if is_fine { Ok(name.to_ascii_lowercase()) } else { Err(remedy()) }
}

/// A duration as settings have it.
///
/// # Errors
/// What would be understood.
pub fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration <= MAX_DURATION => Ok(duration),
        _ => Err("durations look like 250ms, 5s, 2m or 0s".into()),
    }
}

fn some_time(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("that leaves no time at all; use at least 1ms".into()),
        duration => Ok(duration),
    }
}

/// What a worker process needs to serve at all.
const MIN_MEMORY: u64 = 16 << 20;

fn size(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.find(|c: char| !c.is_ascii_digit()) {
        Some(at) => text.split_at(at),
        None => (text, ""),
    };
    let shift = match unit {
        "" => Some(0),
        "K" => Some(10),
        "M" => Some(20),
        "G" => Some(30),
        _ => None,
    };
    match (digits.parse::<u64>(), shift) {
        (Ok(number), Some(shift)) if number <= u64::MAX >> shift && number << shift >= MIN_MEMORY => Ok(number << shift),
        _ => Err("sizes look like 512M or 2G, and are at least 16M".into()),
    }
}

fn number(text: &str, allowed: std::ops::RangeInclusive<usize>) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if allowed.contains(&number) => Ok(number),
        _ => Err(format!("use a whole number from {} to {}", allowed.start(), allowed.end())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(flag: &str, text: &str) -> Result<Config, String> {
        let setting = SETTINGS.iter().find(|s| s.flag == flag).unwrap();
        let mut config = Config::default();
        setting.apply(&mut config, &format!("--{flag}"), text).map(|()| config).map_err(|e| e.to_string())
    }

    #[test]
    fn durations_are_read_as_documented() {
        for (text, ms) in [("250ms", 250), ("5s", 5_000), ("2m", 120_000), ("0s", 0), ("1h", 3_600_000)] {
            assert_eq!(set("processing-time", text).unwrap().processing_time.as_millis(), ms, "{text}");
        }
        for text in ["", "5", "-5s", "5 seconds?", "s", "1000000y", "99999999999999999999s"] {
            set("processing-time", text).expect_err(text);
        }
    }

    #[test]
    fn sizes_are_read_as_documented() {
        for (text, bytes) in [("512M", 512 << 20), ("2G", 2 << 30), ("65536K", 64 << 20), ("16777216", 16 << 20)] {
            assert_eq!(set("max-memory", text).unwrap().max_memory, bytes, "{text}");
        }
        for text in ["", "M", "1M", "512m", "512MB", "-1G", "1.5G", "99999999999999999999G", "18014398509481984K"] {
            set("max-memory", text).expect_err(text);
        }
    }

    #[test]
    fn addresses_are_read_as_documented() {
        for text in ["127.0.0.1:8000", "localhost:0", "[::1]:80"] {
            assert_eq!(set("listen", text).unwrap().listen, Listen::Tcp(text.into()));
        }
        assert_eq!(set("listen", "unix:/run/o.sock").unwrap().listen, Listen::Unix("/run/o.sock".into()));
        for text in ["", "8000", ":8000", "localhost", "none", "127.0.0.1:70000", "unix:", "127.0.0.1:http"] {
            set("listen", text).expect_err(text);
        }
    }

    #[test]
    fn names_of_hosts_are_kept_in_lower_case_without_ports() {
        for (text, names) in [
            ("orders.example", &["orders.example"][..]),
            ("Orders.Example:8000", &["orders.example"]),
            ("a, b_c,[::1]:80", &["a", "b_c", "[::1]"]),
        ] {
            assert_eq!(set("allow-host", text).unwrap().allow_hosts, names, "{text}");
        }
        for text in ["", ",", "a,,b", "?", "a b", "http://a", "a:b", "::1", "[::1", "[a]", "*.example"] {
            set("allow-host", text).expect_err(text);
        }
    }

    #[test]
    fn a_refused_value_is_named_with_its_flag_and_the_remedy() {
        assert_eq!(set("workers", "0").unwrap_err(), "--workers: \"0\" is not understood; use a whole number from 1 to 256");
        assert_eq!(SETTINGS[5].variable(), "ORDERD_PROCESSING_TIME");
    }
}
