//! Ownership of the place where orders are kept: of the file, or, on a server, of one of this machine's nodes.
//!
//! Either is a lock on a file of this machine, so a parent passes it on to its child in the same way. Whose orders they are on a
//! server is decided there, by leases.

use std::fmt;
use std::fs::File;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{postgres, sqlite};
use crate::error::Error;

/// Proof that this process owns the place, held until dropped.
#[derive(Debug)]
pub struct Lock {
    held: sqlite::Lock,
    server: Option<Arc<postgres::Server>>,
    /// A node's file that is to go with the lock: of one that ends in order, nothing is left to be found.
    goes: Option<PathBuf>,
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Some(node) = &self.goes {
            let _ = std::fs::remove_file(node);
        }
    }
}

impl Lock {
    /// Locks the database at `path`, or a node for the server that it names.
    ///
    /// # Errors
    /// As for a file; [`Error::Usage`] for a URL that makes no sense.
    pub fn acquire(path: &Path) -> Result<Lock, Error> {
        if !postgres::is_server(path) {
            return Ok(Lock { held: sqlite::Lock::acquire(path)?, server: None, goes: None });
        }
        let server = postgres::server(path)?;
        let (node, file) = postgres::node(&server)?;
        Ok(Lock { held: sqlite::Lock::inherited(&node, file)?, server: Some(server), goes: Some(node) })
    }

    /// The lock that another process has acquired and passed on, as the open lock file of what is at `path`.
    ///
    /// # Errors
    /// [`Error::Unusable`] when the path can't be resolved.
    pub(crate) fn inherited(path: &Path, file: File) -> Result<Lock, Error> {
        Ok(Lock { held: sqlite::Lock::inherited(path, file)?, server: None, goes: None })
    }

    /// The same lock, for what `--db` names, if that is a server.
    ///
    /// # Errors
    /// [`Error::Usage`] for a URL that makes no sense.
    pub(crate) fn serving(mut self, db: &Path) -> Result<Lock, Error> {
        self.server = if postgres::is_server(db) { Some(postgres::server(db)?) } else { None };
        Ok(self)
    }

    /// Whether it is a node's, whose orders others take over when its lease has ended.
    pub(crate) fn is_of_node(&self) -> bool {
        self.server.is_some()
    }

    pub(super) fn server(&self) -> Option<&Arc<postgres::Server>> {
        self.server.as_ref()
    }
}

/// What is locked, as people name it.
impl fmt::Display for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.server {
            Some(server) => server.name.fmt(f),
            None => self.held.fmt(f),
        }
    }
}

/// Its file is the database, or the node; commands are named by that.
impl Deref for Lock {
    type Target = sqlite::Lock;

    fn deref(&self) -> &sqlite::Lock {
        &self.held
    }
}
