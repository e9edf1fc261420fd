//! Orders on a PostgreSQL server, which many instances of orderd share (the feature `postgres`): the only place that knows of one.
//!
//! A [`Writer`] is one connection that changes things; the committer thread owns it. [`Readers`] are a handful that only read, on any
//! thread, and a [`Keeper`] has one to keep this instance's [`Lease`]. Each waits on its own thread, with a deadline, and comes back by
//! itself after a failure.
//!
//! **Who works on what.** A row in `Processing` has an owner, the id of an instance, and an instance has a lease by the server's clock.
//! Who has none is dead to the others, and what it owned is anybody's: its attempts have failed, and end like any other. So an
//! instance stops its own work before its lease can run out, and nothing of an attempt can be written once another has begun. What
//! is promised of a file holds here too, as far as the server keeps what it has committed.

mod change;
mod connection;
mod export;
mod import;
mod instances;
mod keeper;
mod lease;
mod node;
mod password;
#[cfg(test)]
mod plans;
mod read;
mod schema;
mod sql;
#[cfg(test)]
mod tests;
mod tls;
mod url;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Lock, Opening};
use crate::error::Error;
pub(super) use change::Writer;
use connection::{Connection, Line};
pub(super) use export::Snapshot;
pub use instances::{Instance, Instances};
pub(super) use keeper::Keeper;
pub(super) use lease::Lease;
pub(super) use read::Readers;
pub(super) use url::Server;
pub use url::is_server;

/// The most connections that read: with the writer's and the keeper's they are few enough for many instances on one server.
const MOST_READERS: usize = 4;

/// Which server a URL names.
///
/// # Errors
/// [`Error::Usage`].
pub(super) fn server(url: &Path) -> Result<Arc<Server>, Error> {
    let server = Arc::new(Server::parse(url)?);
    let is_visible = |argument: std::ffi::OsString| argument.as_encoded_bytes().ends_with(url.as_os_str().as_encoded_bytes());
    if server.has_password_in_url && std::env::args_os().any(is_visible) {
        log::warn!("every user of this machine can see the password in --db; use PGPASSWORD, PGPASSFILE or --db-file");
    }
    Ok(server)
}

/// Locks a node of this machine for a server.
///
/// # Errors
/// [`Error::Usage`].
pub(super) fn node(server: &Server) -> Result<(PathBuf, File), Error> {
    node::acquire(server)
}

/// Connects to the server, brings its schema up to date, registers this instance, and gives back one writer, the readers, the keeper
/// and the lease.
///
/// # Errors
/// [`Error::Usage`] and [`Error::TooNew`] with nothing touched; [`Error::Offline`] when it can't be reached.
pub(super) fn open(
    server: &Arc<Server>,
    lock: &Lock,
    opening: &Opening,
) -> Result<(Writer, Readers, Keeper, Arc<Lease>), Error> {
    let unusable = |source| Error::Unusable { file: lock.database().to_path_buf(), source };
    let node = node::name_in(lock.file()).map_err(unusable)?;
    let mut connection = Connection::open(server)?;
    schema::migrate(&mut connection, server)?;
    let lease = Arc::new(Lease::new(server.lease));
    let keeper = Keeper::start(server.clone(), connection, node.clone(), lease.clone())?;
    let line = || Line::new(server.clone());
    let readers = (0..opening.readers.clamp(1, MOST_READERS)).map(|_| line()).collect();
    let readers = Readers::new(readers, server.read_patience(), node, lease.clone());
    Ok((Writer::new(line(), lease.clone()), readers, keeper, lease))
}
