//! Database files: a folder that is removed at the end, files made full fast, and the search for lost orders.
//!
//! orderd itself makes the first, empty file, and all others are copies of it: so they have its schema, and its triggers keep
//! the counts exact while a file is filled. Filling does without journal and fsync; the finished file is as orderd would have
//! left it, with random ids, so that its index is as scattered as after years of service.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags, params};

use crate::Result;
use crate::client::Outcome;
use crate::process::Process;
use crate::workload::{STORED, order_id, order_id_text};

/// What takes part in filling a file.
#[derive(Debug, Clone, Copy, Default)]
pub struct Contents {
    /// Orders that are `Completed`; numbers from 0 in the series of [`SEED`].
    pub completed: u64,
    /// Orders that are `Processing`, as after a crash.
    pub processing: u64,
    /// Orders that are `Pending`.
    pub pending: u64,
}

/// The series that filled files take their ids from. No load creates orders of it.
pub const SEED: u64 = 1_000_000_000;

/// The folder, on the file system of the build: a temporary one in memory would have no fsync to wait for.
pub struct Folder {
    path: PathBuf,
    empty: PathBuf,
}

impl Folder {
    /// Makes the folder and the empty file.
    pub fn create() -> Result<Folder> {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bench-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        let folder = Folder { empty: path.join("empty.db"), path };
        Process::orderd(&folder.empty, &[])?.stop()?;
        Ok(folder)
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A database without orders. Takes the place of the one of this name.
    pub fn fresh(&self, name: &str) -> Result<PathBuf> {
        let path = self.path(name);
        remove(&path)?;
        std::fs::copy(&self.empty, &path)?;
        Ok(path)
    }

    /// A database that another build has made, of whatever version that writes. Takes the place of the one of this name.
    pub fn made_by(&self, binary: &Path, name: &str) -> Result<PathBuf> {
        let path = self.path(name);
        remove(&path)?;
        Process::build(binary, &path, &[])?.stop()?;
        Ok(path)
    }

    /// A database with orders.
    pub fn filled(&self, name: &str, contents: Contents) -> Result<PathBuf> {
        let path = self.fresh(name)?;
        self.fill(&path, contents)?;
        Ok(path)
    }

    /// Puts orders into an empty database.
    pub fn fill(&self, path: &Path, contents: Contents) -> Result<()> {
        let mut connection = Connection::open(path)?;
        // The page cache holds the whole index, and what a crash would cost is a file that nobody needs.
        connection.execute_batch(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA locking_mode = EXCLUSIVE; PRAGMA cache_size = -1500000",
        )?;
        let transaction = connection.transaction()?;
        {
            let mut insert = transaction.prepare(
                "INSERT INTO orders
                 (order_id, user_id, item_ids, total_amount, status, attempts, created_at, started_at, completed_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            )?;
            let now_ms = crate::now_ms();
            let statuses =
                [("Completed", contents.completed), ("Processing", contents.processing), ("Pending", contents.pending)];
            let mut number = 0;
            for (status, count) in statuses {
                let started_at = (status != "Pending").then_some(now_ms);
                let completed_at = (status == "Completed").then_some(now_ms + 5_000);
                for _ in 0..count {
                    let id = order_id(SEED, number);
                    let attempts = i64::from(started_at.is_some());
                    let [user, items, amount] = STORED;
                    let id = order_id_text(&id);
                    insert.execute(params![id, user, items, amount, status, attempts, now_ms, started_at, completed_at])?;
                    number += 1;
                }
            }
        }
        transaction.commit()?;
        connection.execute_batch("PRAGMA locking_mode = NORMAL; PRAGMA journal_mode = WAL; PRAGMA wal_checkpoint(TRUNCATE)")?;
        drop(connection);
        // Or the disk is busy with this while something is measured.
        std::fs::File::open(path)?.sync_all()?;
        Ok(())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// Removes a database and what SQLite and orderd put beside it.
pub fn remove(database: &Path) -> Result<()> {
    for suffix in ["", "-wal", "-shm", ".lock"] {
        let mut name = database.as_os_str().to_os_string();
        name.push(suffix);
        match std::fs::remove_file(&name) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
    }
    Ok(())
}

/// Looks up every order that was acknowledged. One that is missing is an error.
pub fn verify(database: &Path, outcome: &Outcome) -> Result<()> {
    let connection = Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let mut find = connection.prepare("SELECT EXISTS (SELECT 1 FROM orders WHERE order_id = ?1)")?;
    for (seed, count) in &outcome.acknowledged {
        for number in 0..*count {
            let id = order_id(*seed, number);
            if !find.query_row([order_id_text(&id)], |row| row.get::<_, bool>(0))? {
                let lost = order_id_text(&id);
                return Err(format!("LOST: order {lost} was acknowledged and is not in {}", database.display()).into());
            }
        }
    }
    Ok(())
}
