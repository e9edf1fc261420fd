//! One connection, used by one thread at a time: connected when it is needed, given up when it fails, with a deadline on every wait.
//!
//! A [`Connection`] is a client of the library and the little runtime that it lives on, in the thread that waits for it. A [`Line`] is
//! a connection that comes back: while there is none, it is refused at once and tried again after a pause that doubles, with jitter,
//! up to a second, so that nobody queues behind a server that is away.
//!
//! What a failure means is decided here. An error of the server that leaves the session alive is an answer: the transaction is rolled
//! back. Whatever ends the session, or the wait for it, is none, even where the server has said something: a commit may be on disk.

use std::collections::HashMap;
use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::error::{Severity, SqlState};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};

use super::sql::Sql;
use super::url::Server;
use crate::error::Error;

/// How long the server may take for a statement, and for a lock, before it gives up, in its own words.
const STATEMENT_TIMEOUT: &str = "10s";
const LOCK_TIMEOUT: &str = "5s";
/// How long we wait for the answer to a change: longer than the server does, so that as a rule it is the one to say no.
pub(super) const WRITE_PATIENCE: Duration = Duration::from_secs(15);
/// How long we wait for what is done once, at the start.
pub(super) const MIGRATION_PATIENCE: Duration = Duration::from_secs(600);
/// How long a server may take to let us in, all of its hosts together: at the start, and later, when somebody waits for it.
const START_PATIENCE: Duration = Duration::from_secs(10);
const RECONNECT_PATIENCE: Duration = Duration::from_secs(5);
/// The pause after a connection that could not be made, the first and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// What each session is set to. A plan is kept for as long as a connection, and may be made while the table is small, so plans that
/// read all of it are out of the question; so are those that put all that an index has in order, for the first few of it.
const SETTINGS: [(&str, &str); 10] = [
    ("synchronous_commit", "on"),
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("jit", "off"),
    ("statement_timeout", STATEMENT_TIMEOUT),
    ("lock_timeout", LOCK_TIMEOUT),
    ("idle_in_transaction_session_timeout", "10s"),
    ("default_transaction_isolation", "read committed"),
];

/// A parameter of a statement.
pub(super) type Parameter<'a> = Box<dyn ToSql + Sync + Send + 'a>;

/// A statement with its parameters.
pub(super) struct Call<'a> {
    pub(super) sql: Sql,
    pub(super) parameters: Vec<Parameter<'a>>,
}

impl<'a> Call<'a> {
    pub(super) fn new(sql: Sql, parameters: Vec<Parameter<'a>>) -> Call<'a> {
        Call { sql, parameters }
    }
}

/// A session with the server.
pub(super) struct Connection {
    client: Client,
    statements: HashMap<Sql, Statement>,
    // Dropped last: it ends what still runs on it, without waiting.
    runtime: Runtime,
}

impl Connection {
    /// Connects, and sets the session up.
    ///
    /// # Errors
    /// [`Error::Usage`] when the server does not let us in as we are; [`Error::Offline`] when it can't be reached.
    pub(super) fn open(server: &Server) -> Result<Connection, Error> {
        Connection::open_within(server, START_PATIENCE)
    }

    fn open_within(server: &Server, patience: Duration) -> Result<Connection, Error> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|e| Error::Offline(e.to_string()))?;
        let connecting = async {
            let (client, session) = server.config.connect(server.tls.clone()).await?;
            // Ends with the client; what it fails with, whoever uses the client hears.
            runtime.spawn(async move { drop(session.await) });
            let settings = SETTINGS.iter().map(|(name, value)| format!("SET {name} = '{value}'"));
            let settings: Vec<_> = settings.chain([format!("SET search_path = {}", server.schema)]).collect();
            // Each alone, as not every engine knows all of them.
            for outcome in join_all(settings.iter().map(|set| client.batch_execute(set))).await {
                match outcome {
                    Err(e) if e.code() != Some(&SqlState::UNDEFINED_OBJECT) => return Err(e),
                    _ => {}
                }
            }
            Ok(client)
        };
        let error = match runtime.block_on(async { tokio::time::timeout(patience, connecting).await }) {
            Ok(Ok(client)) => return Ok(Connection { client, statements: HashMap::new(), runtime }),
            Ok(Err(e)) => not_let_in(server, &e),
            Err(_) => Error::Offline(format!("{} does not answer", server.name)),
        };
        // The system may still be looking a name up.
        runtime.shutdown_background();
        Err(error)
    }

    /// Runs one statement of ours, or several, without parameters.
    ///
    /// # Errors
    /// What became of it.
    pub(super) fn execute(&mut self, sql: &str, patience: Duration) -> Result<(), Error> {
        wait(&self.runtime, Instant::now() + patience, self.client.batch_execute(sql))
    }

    /// The one value of a query, as text.
    ///
    /// # Errors
    /// What became of it.
    pub(super) fn text(&mut self, sql: &str) -> Result<Option<String>, Error> {
        let rows = wait(&self.runtime, Instant::now() + WRITE_PATIENCE, self.client.simple_query(sql))?;
        Ok(rows.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_string),
            _ => None,
        }))
    }

    /// Runs statements as one transaction, sent in one piece, and gives each one's rows. One alone is a transaction by itself.
    ///
    /// # Errors
    /// The first that was refused; then all of them are. After [`Error::Unknown`] nobody knows.
    pub(super) fn transaction(&mut self, calls: &[Call<'_>], patience: Duration) -> Result<Vec<Vec<Row>>, Error> {
        self.transaction_until(calls, Instant::now() + patience)
    }

    fn transaction_until(&mut self, calls: &[Call<'_>], until: Instant) -> Result<Vec<Vec<Row>>, Error> {
        for call in calls {
            if !self.statements.contains_key(&call.sql) {
                #[cfg(test)]
                assert!(super::sql::all().contains(&call.sql), "not in the list of statements: {:?}", call.sql);
                let statement = wait(&self.runtime, until, self.client.prepare(call.sql.text())).map_err(not_yet_sent)?;
                self.statements.insert(call.sql.clone(), statement);
            }
        }
        let mut prepared: Vec<(&Statement, Vec<&(dyn ToSql + Sync)>)> = Vec::new();
        for call in calls {
            prepared.push((&self.statements[&call.sql], call.parameters.iter().map(|p| &**p as &(dyn ToSql + Sync)).collect()));
        }
        if let [(statement, parameters)] = &prepared[..] {
            return wait(&self.runtime, until, self.client.query(*statement, parameters)).map(|rows| vec![rows]);
        }
        type Step<'s> = Pin<Box<dyn Future<Output = Result<Vec<Row>, tokio_postgres::Error>> + 's>>;
        let plain = |sql: &'static str| -> Step<'_> {
            let client = &self.client;
            Box::pin(async move { client.batch_execute(sql).await.map(|()| Vec::new()) })
        };
        let mut steps = vec![plain("BEGIN")];
        for (statement, parameters) in &prepared {
            steps.push(Box::pin(self.client.query(*statement, parameters)));
        }
        steps.push(plain("COMMIT"));
        // Polled in this order, so sent in this order; after an error the server refuses the rest and rolls back.
        let outcomes = wait(&self.runtime, until, async { Ok(join_all(steps).await) })?;
        let mut rows = outcomes.into_iter().collect::<Result<Vec<_>, _>>().map_err(|e| sorted(&e))?;
        rows.pop();
        rows.remove(0);
        Ok(rows)
    }

    /// Whether the server has ended the session, as far as has been heard.
    fn is_over(&self) -> bool {
        // Nobody has listened since the last call.
        self.runtime.block_on(tokio::task::yield_now());
        self.client.is_closed()
    }
}

/// Waits for an answer, but not for ever.
fn wait<T>(
    runtime: &Runtime,
    until: Instant,
    answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Error> {
    match runtime.block_on(async { tokio::time::timeout_at(until.into(), answer).await }) {
        Ok(answer) => answer.map_err(|e| sorted(&e)),
        Err(_) => Err(Error::Unknown("PostgreSQL gave no answer in time".into())),
    }
}

/// What an error of the client means for what was asked.
fn sorted(e: &tokio_postgres::Error) -> Error {
    let Some(said) = e.as_db_error() else {
        return Error::Unknown(with_cause(e));
    };
    if said.parsed_severity() != Some(Severity::Error) {
        return Error::Unknown(format!("PostgreSQL ended the session: {}", said.message()));
    }
    match said.code() {
        code if *code == SqlState::DISK_FULL => Error::DiskFull,
        code if *code == SqlState::READ_ONLY_SQL_TRANSACTION => {
            Error::Offline("PostgreSQL takes no writes here: it is a standby, or read-only".into())
        }
        code if [
            SqlState::T_R_SERIALIZATION_FAILURE,
            SqlState::T_R_DEADLOCK_DETECTED,
            SqlState::LOCK_NOT_AVAILABLE,
            SqlState::QUERY_CANCELED,
        ]
        .contains(code) =>
        {
            Error::Held(said.message().into())
        }
        code => Error::Database(format!("{} ({})", said.message(), code.code()).into()),
    }
}

/// Before anything that changes something was sent, an unknown outcome is none.
pub(super) fn not_yet_sent(e: Error) -> Error {
    match e {
        Error::Unknown(what) => Error::Offline(what),
        e => e,
    }
}

fn not_let_in(server: &Server, e: &tokio_postgres::Error) -> Error {
    let mendable = [
        SqlState::INVALID_PASSWORD,
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
        SqlState::INVALID_CATALOG_NAME,
        SqlState::INSUFFICIENT_PRIVILEGE,
    ];
    let text = format!("{}: {}", server.name, with_cause(e));
    if e.code().is_some_and(|code| mendable.contains(code)) {
        return Error::Usage(format!("{text}; mend the URL of --db, or the password in PGPASSWORD or PGPASSFILE"));
    }
    if text.contains("certificate") {
        return Error::Usage(format!(
            "{text}; a certificate must be valid now, be signed by a root of sslrootcert=, and name the host as a subjectAltName: \
             its common name does not count"
        ));
    }
    if text.contains("password missing") {
        return Error::Usage(format!("{text}; set PGPASSWORD, or PGPASSFILE"));
    }
    if text.contains("does not support TLS") {
        return Error::Usage(format!("{text}; have PostgreSQL speak TLS, or say sslmode=disable on a network that you trust"));
    }
    Error::Offline(text)
}

/// The library says what it was about, and its cause what happened.
fn with_cause(e: &tokio_postgres::Error) -> String {
    if let Some(said) = e.as_db_error() {
        return said.message().to_string();
    }
    match std::error::Error::source(e) {
        Some(cause) => format!("{e}: {cause}"),
        None => e.to_string(),
    }
}

/// A connection that is made anew when it has been lost.
pub(super) struct Line {
    server: Arc<Server>,
    connection: Option<Connection>,
    pause: Duration,
    not_before: Option<Instant>,
    /// Why there is none.
    why: String,
    is_closed: bool,
}

impl Line {
    pub(super) fn new(server: Arc<Server>) -> Line {
        Line { server, connection: None, pause: PAUSE.0, not_before: None, why: String::new(), is_closed: false }
    }

    /// One that is connected already.
    pub(super) fn over(server: Arc<Server>, connection: Connection) -> Line {
        Line { connection: Some(connection), ..Line::new(server) }
    }

    /// The connection, made if there is none and its time has come.
    ///
    /// # Errors
    /// [`Error::Offline`] when there is none to be had now.
    fn connection(&mut self, patience: Duration) -> Result<&mut Connection, Error> {
        if self.is_closed {
            return Err(Error::Database("the store is closed".into()));
        }
        self.connection.take_if(|connection| connection.is_over());
        if self.connection.is_none() {
            if self.not_before.is_some_and(|at| Instant::now() < at) {
                return Err(Error::Offline(self.why.clone()));
            }
            match Connection::open_within(&self.server, patience.min(RECONNECT_PATIENCE)) {
                Ok(connection) => {
                    self.connection = Some(connection);
                    self.pause = PAUSE.0;
                    self.not_before = None;
                }
                Err(e) => {
                    self.why = e.to_string();
                    self.not_before = Some(Instant::now() + jittered(self.pause));
                    self.pause = (self.pause * 2).min(PAUSE.1);
                    return Err(Error::Offline(self.why.clone()));
                }
            }
        }
        self.connection.as_mut().ok_or_else(|| Error::Offline(self.why.clone()))
    }

    /// Runs statements as one transaction, within so much time, connecting included. A connection that fails at it is given up.
    ///
    /// # Errors
    /// As [`Connection::transaction`]; [`Error::Offline`] with nothing sent.
    pub(super) fn transaction(&mut self, calls: &[Call<'_>], patience: Duration) -> Result<Vec<Vec<Row>>, Error> {
        let until = Instant::now() + patience;
        let outcome = self.connection(patience)?.transaction_until(calls, until);
        match &outcome {
            Err(Error::Unknown(_) | Error::Offline(_)) => self.connection = None,
            // Whatever has become of the tables, the next time is another.
            Err(Error::Database(_)) => {
                if let Some(connection) = &mut self.connection {
                    connection.statements.clear();
                }
            }
            _ => {}
        }
        outcome
    }

    /// When it makes sense to ask again.
    pub(super) fn pause(&self) -> Duration {
        self.not_before.map_or(PAUSE.0, |at| at.saturating_duration_since(Instant::now()))
    }

    /// Hangs up for good.
    pub(super) fn close(&mut self) {
        self.is_closed = true;
        self.connection = None;
    }
}

/// Between three quarters of it and five, so that those who were cut off together do not come back together for ever.
pub(super) fn jittered(pause: Duration) -> Duration {
    let lot = (RandomState::new().build_hasher().finish() % 512) as u32;
    pause * (768 + lot) / 1_024
}
