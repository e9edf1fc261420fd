//! The servers that orderd is measured against. Each runs in a process of its own, as orderd does: this program, started again
//! with a hidden argument.
//!
//! [`Contestant::Ceiling`] is tiny_http with nothing behind it: it reads a POST's body and answers every request with bytes
//! like orderd's. [`Contestant::Naive`] is what one would write first: parse, insert, commit, answer, each order in its own
//! transaction, with the schema and the durability of orderd. Both go on until they are killed or their parent is gone.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, params};
use tiny_http::{Header, Method, Request, Response, Server};

use crate::Result;
use crate::workload::{ID_BYTES, order_id, order_id_text};

/// As many as orderd has on two cores, where they also did best.
const WORKERS: usize = 4;

/// A server to be measured against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contestant {
    /// tiny_http alone.
    Ceiling,
    /// One transaction an order.
    Naive,
}

impl Contestant {
    /// Its name on the hidden command line.
    pub fn word(self) -> &'static str {
        match self {
            Contestant::Ceiling => "ceiling",
            Contestant::Naive => "naive",
        }
    }

    /// The one of this name.
    pub fn from_word(word: &str) -> Option<Contestant> {
        [Contestant::Ceiling, Contestant::Naive].into_iter().find(|c| c.word() == word)
    }

    /// Serves, and announces the address as orderd does. Returns when standard input closes: the parent is gone.
    pub fn serve(self, database: &Path) -> Result<()> {
        let server = Arc::new(Server::http("127.0.0.1:0").map_err(|e| e.to_string())?);
        let connection = match self {
            Contestant::Ceiling => None,
            Contestant::Naive => Some(Mutex::new(open(database)?)),
        };
        let connection = Arc::new(connection);
        for _ in 0..WORKERS {
            let (server, connection) = (server.clone(), connection.clone());
            std::thread::spawn(move || {
                while let Ok(mut request) = server.recv() {
                    let body = answer_to(&mut request, connection.as_ref().as_ref());
                    respond(request, body);
                }
            });
        }
        let mut stdout = std::io::stdout();
        writeln!(stdout, "listening on http://{}", server.server_addr())?;
        stdout.flush()?;
        std::io::stdin().read_to_end(&mut Vec::new())?;
        Ok(())
    }
}

/// Opens a database with the settings of orderd's writer: a write-ahead log, synced before a commit returns, and all that makes
/// it fast. Without triggers, as there; but nobody counts instead, so a yardstick has less to do than orderd.
pub fn open(database: &Path) -> Result<Connection> {
    let connection = Connection::open(database)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "cache_size", -(8 << 10))?;
    connection.pragma_update(None, "wal_autocheckpoint", 8_000)?;
    Ok(connection)
}

/// Inserts one order as orderd does; whoever calls says when it is committed.
pub fn insert(connection: &Connection, id: &str, user: &str, items: &str, amount: &str, now_ms: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO orders (order_id, user_id, item_ids, total_amount, status, created_at)
             VALUES (?1, ?2, ?3, ?4, 'Pending', ?5)",
        )?
        .execute(params![id, user, items, amount, now_ms])
        .map(|_| ())
}

/// The answer to a POST as JSON, the same length as orderd's; `None` if the order could not be stored.
fn answer_to(request: &mut Request, connection: Option<&Mutex<Connection>>) -> Option<String> {
    if *request.method() == Method::Get {
        let id = order_id(0, 0);
        return Some(format!("{{\"order_id\":\"{}\",\"status\":\"Pending\"}}\n", order_id_text(&id)));
    }
    let mut body = Vec::with_capacity(request.body_length().unwrap_or(0));
    request.as_reader().read_to_end(&mut body).ok()?;
    match connection {
        None => Some(format!("{{\"message\":\"Order created\",\"order_id\":\"{}\"}}\n", "0".repeat(ID_BYTES))),
        Some(connection) => store(&connection.lock().unwrap_or_else(|poisoned| poisoned.into_inner()), &body).ok(),
    }
}

#[derive(serde::Deserialize)]
struct Order<'a> {
    order_id: &'a str,
    user_id: &'a str,
    item_ids: Vec<&'a str>,
    #[serde(borrow)]
    total_amount: &'a serde_json::value::RawValue,
}

fn store(connection: &Connection, body: &[u8]) -> Result<String> {
    let order: Order = serde_json::from_slice(body)?;
    let items = serde_json::to_string(&order.item_ids)?;
    insert(connection, order.order_id, order.user_id, &items, order.total_amount.get(), crate::now_ms())?;
    Ok(format!("{{\"message\":\"Order created\",\"order_id\":\"{}\"}}\n", order.order_id))
}

fn respond(request: Request, body: Option<String>) {
    let status = if body.is_some() { 200 } else { 503 };
    let json = Header::from_bytes("Content-Type", "application/json").expect("both are plain ASCII");
    let response = Response::from_string(body.unwrap_or_default()).with_status_code(status).with_header(json);
    // A client that has gone away is counted by the client.
    let _ = request.respond(response);
}
