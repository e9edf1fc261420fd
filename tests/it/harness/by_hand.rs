//! What a person does to orders by hand, wherever the servers of the tests keep them: in the sqlite3 shell, or in psql.
//!
//! On PostgreSQL rows that were changed by hand are counted anew, as `docs/scaling.md` says they must be, by the statement that it gives.
//! Here is also said which tests keep their orders in a file always, and why.

use std::path::{Path, PathBuf};

use super::{Folder, PATIENCE};

/// Set when the tests are to be run on PostgreSQL.
#[cfg(feature = "postgres")]
const ON_POSTGRES: &str = "TEST_ON_POSTGRES";

/// Tests that keep their orders in a file all the same, and what of theirs a server has not.
pub const OF_A_FILE: [(&str, &str); 17] = [
    ("a_failing_disk_costs_no_acknowledged_order", "the disk is the server's; postgres::outages has what its failures mean"),
    ("a_file_of_a_newer_orderd_is_refused_and_left_as_it_is", "of the file itself; postgres::start has the same of a schema"),
    ("a_quiet_spell_longer_than_the_read_timeout_is_no_reason_to_stop_accepting", "of a server without fsync the log warns"),
    ("a_second_orderd_is_refused_also_while_the_worker_is_being_replaced", "any number may share a server"),
    ("a_second_orderd_on_the_same_file_says_so_and_the_first_goes_on", "any number may share a server"),
    ("a_second_server_on_the_same_file_is_refused_and_the_first_goes_on", "any number may share a server"),
    ("a_server_that_does_not_start_leaves_nothing_running", "what is there before is a file that is no database"),
    ("a_signal_stops_it_in_an_orderly_way", "the names of the files that are left"),
    ("a_static_binary_serves_in_an_empty_folder_with_and_without_proc", "that binary has no such feature"),
    ("a_stopped_server_answers_nobody_and_gives_everything_back", "the names of the files that are left"),
    ("a_worker_that_says_what_the_user_must_mend_is_followed_by_another_until_that_is_done", "the version of the file"),
    (
        "connections_that_stay_silent_after_half_a_header_are_closed",
        "counts descriptors, and connections to a server come and go",
    ),
    ("process_1_of_a_container_stops_in_an_orderly_way", "the names of the files that are left"),
    ("dashboard_alerts_and_document_name_the_metrics_that_there_are", "postgres::seen has the metrics of instances"),
    (
        "prune_deletes_what_is_old_and_finished_while_no_server_runs",
        "a server's orders are everybody's: no file can be missing",
    ),
    ("the_log_begins_with_what_serves_where_and_what", "that of an instance begins with its server"),
    ("the_counts_stay_exact_when_someone_corrects_the_rows", "SQLite has triggers for that; on a server they are counted anew"),
];

/// What servers in this folder are to have as `--db`: a file, or a schema of its own when the tests are run on PostgreSQL.
pub fn place(folder: &Folder) -> PathBuf {
    #[cfg(feature = "postgres")]
    if is_on_postgres() {
        let name = folder.path().file_name().unwrap().to_str().unwrap().replace('-', "_");
        return super::cluster().expect("PostgreSQL is installed").url(&name, "").into();
    }
    folder.file("orders.db")
}

/// Whether the servers of this test are to keep their orders on PostgreSQL. A test has a thread of its name.
#[cfg(feature = "postgres")]
pub fn is_on_postgres() -> bool {
    let thread = std::thread::current();
    let test = thread.name().and_then(|path| path.rsplit("::").next()).unwrap_or_default();
    std::env::var_os(ON_POSTGRES).is_some() && !OF_A_FILE.iter().any(|(name, _)| *name == test)
}

/// Whether this names a server.
pub fn is_server(db: &Path) -> bool {
    db.starts_with("postgres:")
}

/// Changes rows.
#[track_caller]
pub fn by_hand(db: &Path, sql: &str) {
    #[cfg(feature = "postgres")]
    if is_server(db) {
        let scaling = include_str!("../../../docs/scaling.md");
        let recount = scaling
            .split("```sql\n")
            .find(|part| part.starts_with("BEGIN; LOCK"))
            .unwrap()
            .split("```")
            .next()
            .unwrap()
            .replace("orderd.", "");
        server::run(db, &format!("BEGIN; {sql}; COMMIT; {recount}"));
        return;
    }
    connection(db).execute_batch(sql).unwrap();
}

/// What a query gives: rows by lines, columns with `|` between.
#[track_caller]
pub fn asked_by_hand(db: &Path, sql: &str) -> String {
    #[cfg(feature = "postgres")]
    if is_server(db) {
        return server::run(db, sql);
    }
    let connection = connection(db);
    let mut statement = connection.prepare(sql).unwrap();
    let columns = statement.column_count();
    let text = |value: rusqlite::types::Value| match value {
        rusqlite::types::Value::Null => String::new(),
        rusqlite::types::Value::Integer(n) => n.to_string(),
        rusqlite::types::Value::Real(n) => n.to_string(),
        rusqlite::types::Value::Text(text) => text,
        rusqlite::types::Value::Blob(_) => panic!("there are no blobs"),
    };
    let line = |row: &rusqlite::Row<'_>| Ok((0..columns).map(|n| text(row.get(n).unwrap())).collect::<Vec<_>>().join("|"));
    statement.query_map([], line).unwrap().collect::<Result<Vec<_>, _>>().unwrap().join("\n")
}

/// Keeps everybody else from writing, until it is dropped.
pub enum Held {
    File(#[allow(dead_code, reason = "it holds the lock")] rusqlite::Connection),
    #[cfg(feature = "postgres")]
    Server(std::process::Child),
}

impl Held {
    #[track_caller]
    pub fn on(db: &Path) -> Held {
        #[cfg(feature = "postgres")]
        if is_server(db) {
            return Held::Server(server::hold(db));
        }
        let connection = connection(db);
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        Held::File(connection)
    }
}

#[cfg(feature = "postgres")]
impl Drop for Held {
    fn drop(&mut self) {
        if let Held::Server(psql) = self {
            // With the end of its input it ends, and what it held with it.
            drop(psql.stdin.take());
            psql.wait().unwrap();
        }
    }
}

/// A connection of its own to the file at `path`, such as the sqlite3 shell opens.
pub fn connection(path: &Path) -> rusqlite::Connection {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection.busy_timeout(PATIENCE).unwrap();
    connection
}

/// Puts completed orders `big-0`, `big-1`, … of so many items into the database, as another program might.
pub fn put_large_orders(db: &Path, orders: usize, items: usize) {
    (0..orders).for_each(|n| put_large_order(db, n, items));
}

/// Puts the order `big-{n}` of the user `big` into the database, with so many items of 255 characters that JSON escapes.
pub fn put_large_order(db: &Path, n: usize, items: usize) {
    let items = format!("[{}]", vec![format!("\"{}\"", "\\\"".repeat(255)); items].join(","));
    let columns = "order_id, user_id, item_ids, total_amount, status, created_at, completed_at";
    by_hand(db, &format!("INSERT INTO orders ({columns}) VALUES ('big-{n}', 'big', '{items}', '1', 'Completed', 1000, 1000)"));
}

#[cfg(feature = "postgres")]
mod server {
    use std::io::{BufRead, BufReader, Write};
    use std::path::Path;
    use std::process::{Child, Command, Stdio};

    use crate::harness::cluster;

    /// psql among the tables of a schema.
    fn psql(db: &Path) -> Command {
        let url = db.to_str().unwrap();
        let schema = url.split(['?', '&']).find_map(|parameter| parameter.strip_prefix("schema=")).unwrap();
        let mut psql = cluster().unwrap().psql();
        psql.env("PGOPTIONS", format!("-c search_path={schema}")).stdin(Stdio::piped()).stdout(Stdio::piped());
        psql
    }

    #[track_caller]
    pub fn run(db: &Path, sql: &str) -> String {
        let mut child = psql(db).stderr(Stdio::piped()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        let text = format!("{sql};\n");
        // Not as an argument, which may not be as long as an order.
        let written = std::thread::spawn(move || input.write_all(text.as_bytes()));
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        written.join().unwrap().unwrap();
        String::from_utf8(output.stdout).unwrap().trim_end().to_string()
    }

    #[track_caller]
    pub fn hold(db: &Path) -> Child {
        let mut child = psql(db).spawn().unwrap();
        let lock = b"BEGIN; LOCK TABLE orders IN EXCLUSIVE MODE;\n\\echo held\n";
        child.stdin.as_mut().unwrap().write_all(lock).unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
        assert_eq!(said, "held\n");
        child
    }
}
