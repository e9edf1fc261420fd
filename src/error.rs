//! The one error type: a variant for each cause, with what one needs to mend it.
//!
//! Knows no HTTP status: `api.rs` decides what a client hears, and says nothing of the inside; the log says it all, once.
//! [`Error::exit_status`] is what the program ends with.

use std::path::PathBuf;
use std::{fmt, io};

/// What can go wrong between the command line and the disk.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A flag, an environment variable or a value of one makes no sense. The text says which, and how to mend it.
    Usage(String),
    /// The address cannot be listened on: it is taken, not ours, or no address.
    Listen {
        /// As configured.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// Another process owns the database.
    Owned {
        /// The database, not its lock file.
        file: PathBuf,
    },
    /// The file is no database of orderd's. It has not been touched.
    Foreign {
        /// The file as found.
        file: PathBuf,
    },
    /// A newer orderd has written the file. It has not been touched.
    TooNew {
        /// The database.
        file: PathBuf,
        /// The schema version in the file.
        found: i64,
        /// The newest schema version that this program knows.
        known: i64,
    },
    /// The folder that the database is to be made in does not exist.
    NoFolder {
        /// The database.
        file: PathBuf,
    },
    /// Opening the database would lose orders that were acknowledged: a file is missing, or its log is damaged. Nothing has been
    /// touched.
    WouldLose {
        /// Which file, and what is wrong with it.
        what: String,
    },
    /// The database is no longer the file that this orderd has opened before: it was moved, emptied or replaced while orderd
    /// runs. Nothing has been touched.
    Replaced {
        /// The database.
        file: PathBuf,
    },
    /// The file, or something beside it that the database needs, cannot be opened for reading and writing.
    Unusable {
        /// The database or its lock file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file that is to be made, such as a backup, exists or can't be written. Nothing has been touched.
    Target {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A restore was cut short while it took damaged files away. They are set aside.
    Unrestored {
        /// The database.
        file: PathBuf,
    },
    /// The disk takes no write, for another reason than being full: a quota, a limit of the file's size, a file system that has
    /// become read-only. The transaction is rolled back, nothing is half done, and trying again later makes sense.
    Unwritable(String),
    /// A page of the database makes no sense. The transaction is rolled back. What does not need that page can be read and
    /// written; a person has to mend it.
    Corrupt(String),
    /// The disk is full. The transaction is rolled back, nothing is half done, and trying again later makes sense.
    DiskFull,
    /// Another program holds the database's write lock for longer than we wait. Rolled back; trying again makes sense.
    Busy,
    /// Writing failed in a way after which nothing is known for sure: the change may or may not be on disk. No further write
    /// is acknowledged; the process must end, and its successor recovers from the log.
    Broken(String),
    /// The server can't be reached, or takes no writes. Nothing was changed.
    #[cfg(feature = "postgres")]
    Offline(String),
    /// The connection was lost in the middle of a change, which may or may not be stored. Asking again is safe.
    #[cfg(feature = "postgres")]
    Unknown(String),
    /// The server has given a change up, as another program's got in its way or a lock took too long. Rolled back; trying again makes
    /// sense.
    #[cfg(feature = "postgres")]
    Held(String),
    /// Anything else that the database reports. Rolled back.
    Database(Box<dyn std::error::Error + Send + Sync>),
    /// A thread cannot be started.
    Thread(io::Error),
    /// No worker process can be started.
    Worker(io::Error),
    /// A subcommand can't reach the server that it is about.
    Unreachable {
        /// As configured.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// The server refuses what a subcommand asks for. The text says what and why.
    Refused(String),
    /// Standard output takes no more, for another reason than that nobody reads it any longer.
    Output(io::Error),
    /// What is wrong has been said already, by a worker or in the log; only the exit status is left to pass on.
    Reported {
        /// The status to exit with.
        exit_status: u8,
    },
}

impl Error {
    /// Whether the same call may succeed later without anybody ending this process.
    pub fn is_transient(&self) -> bool {
        #[cfg(feature = "postgres")]
        if let Error::Held(_) = self {
            return true;
        }
        self.is_away() || matches!(self, Error::DiskFull | Error::Unwritable(_) | Error::Busy)
    }

    /// Whether there is a server that can't be reached.
    pub fn is_away(&self) -> bool {
        #[cfg(feature = "postgres")]
        if let Error::Offline(_) | Error::Unknown(_) = self {
            return true;
        }
        false
    }

    /// Whether the user has been told already.
    pub fn is_reported(&self) -> bool {
        matches!(self, Error::Reported { .. })
    }

    /// The status to exit with: 2 when the user must mend a flag or a file, 1 when the machine failed or a server refused.
    pub fn exit_status(&self) -> u8 {
        match self {
            Error::Usage(_)
            | Error::Listen { .. }
            | Error::Owned { .. }
            | Error::Foreign { .. }
            | Error::TooNew { .. }
            | Error::NoFolder { .. }
            | Error::WouldLose { .. }
            | Error::Replaced { .. }
            | Error::Target { .. }
            | Error::Unrestored { .. }
            | Error::Corrupt(_)
            | Error::Unusable { .. } => 2,
            Error::Unreachable { .. } | Error::Refused(_) | Error::Output(_) => 1,
            Error::DiskFull | Error::Unwritable(_) | Error::Busy | Error::Broken(_) | Error::Database(_) => 1,
            Error::Thread(_) | Error::Worker(_) => 1,
            #[cfg(feature = "postgres")]
            Error::Offline(_) | Error::Unknown(_) | Error::Held(_) => 1,
            Error::Reported { exit_status } => *exit_status,
        }
    }
}

/// One line that names what is wrong and the remedy.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Usage(text) => f.write_str(text),
            Error::Listen { address, source } if source.kind() == io::ErrorKind::AddrInUse => {
                write!(
                    f,
                    "cannot listen on {address}: it is in use; stop the program that uses it, or choose another with --listen"
                )
            }
            Error::Listen { address, source } => {
                write!(f, "cannot listen on {address}: {source}; choose another address with --listen")
            }
            Error::Owned { file } => write!(
                f,
                "{} is in use by another orderd; stop that one first, or choose another file with --db",
                file.display()
            ),
            Error::Foreign { file } => {
                write!(f, "{} is not an orderd database; choose another file with --db, or move it away", file.display())
            }
            Error::TooNew { file, found, known } => write!(
                f,
                "{} was written by a newer orderd (schema {found}, this program knows {known}); install that version",
                file.display()
            ),
            Error::Unusable { file, source } => {
                let remedy = match source.kind() {
                    io::ErrorKind::PermissionDenied => "mend its permissions, or choose",
                    _ => "choose",
                };
                write!(f, "cannot open {} for reading and writing: {source}; {remedy} another file with --db", file.display())
            }
            Error::NoFolder { file } => {
                let folder = file.parent().unwrap_or(file).display();
                write!(
                    f,
                    "the folder {folder} does not exist, in which {} was to be made; make it with mkdir -p, or choose another file \
                     with --db",
                    file.display()
                )
            }
            Error::WouldLose { what } => write!(
                f,
                "{what}; put back what is missing or restore a backup, or start once with --accept-loss, which sets the old files \
                 aside and goes on without what is lost"
            ),
            Error::Replaced { file } => write!(
                f,
                "{} was moved, emptied or replaced while orderd runs; put it back, or stop orderd before another file takes its \
                 place",
                file.display()
            ),
            Error::Target { file, source } => write!(f, "cannot write {}: {source}", file.display()),
            Error::Unrestored { file } => write!(
                f,
                "a restore of {} was cut short; run orderd restore again, the old files are set aside beside it",
                file.display()
            ),
            Error::Unwritable(what) => write!(f, "the disk takes no writes: {what}"),
            Error::Corrupt(what) => write!(
                f,
                "the database is damaged ({what}); stop orderd and restore a backup, or save what can be read with the .recover \
                 of the sqlite3 shell"
            ),
            Error::DiskFull => f.write_str("the disk is full"),
            #[cfg(feature = "postgres")]
            Error::Held(what) => write!(f, "another program holds up the database: {what}"),
            Error::Busy => f.write_str("another program holds the database's write lock"),
            Error::Broken(what) => write!(f, "the database can no longer be written safely: {what}"),
            Error::Database(source) => write!(f, "database: {source}"),
            #[cfg(feature = "postgres")]
            Error::Offline(what) => write!(f, "the database can't be reached: {what}"),
            #[cfg(feature = "postgres")]
            Error::Unknown(what) => write!(f, "it may or may not be stored: {what}"),
            Error::Thread(source) => write!(f, "cannot start a thread: {source}; raise the limit of processes"),
            Error::Worker(source) => write!(f, "cannot start a worker process: {source}; try --no-supervisor"),
            Error::Unreachable { address, source } => {
                write!(f, "cannot reach orderd at {address}: {source}; start it, or say with --listen where it is")
            }
            Error::Refused(text) => f.write_str(text),
            Error::Output(source) => write!(f, "cannot write to standard output: {source}"),
            Error::Reported { exit_status } => write!(f, "ended with status {exit_status}; see above"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Listen { source, .. }
            | Error::Unreachable { source, .. }
            | Error::Unusable { source, .. }
            | Error::Target { source, .. }
            | Error::Thread(source)
            | Error::Output(source)
            | Error::Worker(source) => Some(source),
            Error::Database(source) => Some(&**source),
            _ => None,
        }
    }
}
