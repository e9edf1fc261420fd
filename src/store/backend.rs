//! Where the orders are kept, for the rest of the store: what writes, what reads, and what looks after the place meanwhile.
//!
//! Each is an enum with a variant for every kind of place, and a build that knows but one has but one: then it is that one, and
//! costs nothing. Nothing here decides anything; the committer, the surface and the kinds themselves do.

use std::sync::Arc;

use super::alarm::Alarm;
use super::checkpoints::{Checkpoints, Duty};
use super::figures::{Done, Meters};
#[cfg(feature = "postgres")]
use super::postgres;
use super::sqlite;
use super::tenure::Tenure;
use super::write::Write;
use super::{Lock, Opening};
use crate::error::Error;

/// What the committer writes to.
pub(super) enum Backend {
    /// A file, and the part that the committer has in copying its log back.
    File(sqlite::Writer, Duty),
    /// A server.
    #[cfg(feature = "postgres")]
    Server(postgres::Writer),
}

impl Backend {
    /// Makes all of the changes, each of which keeps its answer, or none of them. They are durable when this returns `Ok`, with what
    /// is counted of them.
    ///
    /// # Errors
    /// Why none of them is made; after [`Error::Broken`] nobody knows.
    pub(super) fn apply(&mut self, batch: &mut [Write], now_ms: i64) -> Result<Done, Error> {
        match self {
            Backend::File(writer, _) => {
                writer.transaction(|tx| batch.iter_mut().try_for_each(|write| write.apply(tx, now_ms)))?;
                Ok(writer.take_done())
            }
            #[cfg(feature = "postgres")]
            Backend::Server(writer) => writer.apply(batch, now_ms),
        }
    }

    /// How much of a log is in use, in bytes; 0 where there is none of ours.
    pub(super) fn log_bytes(&self) -> u64 {
        match self {
            Backend::File(writer, _) => writer.log_bytes(),
            #[cfg(feature = "postgres")]
            Backend::Server(_) => 0,
        }
    }

    /// After a refusal for want of room: makes some, if it can. Says whether trying again makes sense.
    pub(super) fn makes_room(&mut self) -> bool {
        match self {
            Backend::File(writer, duty) => duty.makes_room(writer),
            #[cfg(feature = "postgres")]
            Backend::Server(_) => false,
        }
    }

    /// Something was committed, and everybody has been told.
    pub(super) fn committed(&mut self) {
        match self {
            Backend::File(writer, duty) => duty.committed(writer),
            #[cfg(feature = "postgres")]
            Backend::Server(_) => {}
        }
    }

    /// Nothing more is to be written.
    pub(super) fn give_up(&self) {
        match self {
            Backend::File(_, duty) => duty.give_up(),
            #[cfg(feature = "postgres")]
            Backend::Server(_) => {}
        }
    }
}

/// What reads.
pub(super) enum Readers {
    File(sqlite::Readers),
    #[cfg(feature = "postgres")]
    Server(postgres::Readers),
}

impl Readers {
    /// Those who share the place, if it can be shared.
    ///
    /// # Errors
    /// What the server says.
    #[cfg(feature = "postgres")]
    pub(super) fn instances(&self) -> Result<Option<postgres::Instances>, Error> {
        match self {
            Readers::File(_) => Ok(None),
            Readers::Server(readers) => readers.view(|view| view.instances()).map(Some),
        }
    }

    /// Ends them. Later reads are refused.
    pub(super) fn close(&self) {
        match self {
            Readers::File(readers) => readers.close(),
            #[cfg(feature = "postgres")]
            Readers::Server(readers) => readers.close(),
        }
    }
}

/// Reads by the method of that name, whatever it is that reads.
macro_rules! read {
    ($readers:expr, $method:ident($($argument:expr),*)) => {
        match &$readers {
            $crate::store::backend::Readers::File(readers) => readers.view(|view| view.$method($($argument),*)),
            #[cfg(feature = "postgres")]
            $crate::store::backend::Readers::Server(readers) => readers.view(|view| view.$method($($argument),*)),
        }
    };
}
pub(super) use read;

/// What looks after the place beside the commits.
pub(super) enum Upkeep {
    File(Checkpoints),
    #[cfg(feature = "postgres")]
    Server(postgres::Keeper),
}

impl Upkeep {
    /// What a person has to look at, though orders may still be stored.
    pub(super) fn trouble(&self) -> Option<String> {
        match self {
            Upkeep::File(checkpoints) => checkpoints.failing(),
            #[cfg(feature = "postgres")]
            Upkeep::Server(keeper) => keeper.trouble(),
        }
    }

    /// Ends it.
    pub(super) fn close(&self) {
        match self {
            Upkeep::File(checkpoints) => checkpoints.close(),
            #[cfg(feature = "postgres")]
            Upkeep::Server(keeper) => keeper.close(),
        }
    }
}

/// A place that is open.
pub(super) struct Place {
    pub(super) backend: Backend,
    pub(super) readers: Readers,
    pub(super) upkeep: Upkeep,
    pub(super) tenure: Tenure,
}

/// Opens the place that `lock` owns.
///
/// # Errors
/// As [`super::Store::open`].
pub(super) fn open(lock: &Lock, opening: &Opening, alarm: Arc<Alarm>, meters: Arc<Meters>) -> Result<Place, Error> {
    #[cfg(feature = "postgres")]
    if let Some(server) = lock.server() {
        let (writer, readers, keeper, lease) = postgres::open(server, lock, opening)?;
        return Ok(Place {
            backend: Backend::Server(writer),
            readers: Readers::Server(readers),
            upkeep: Upkeep::Server(keeper),
            tenure: Tenure { lease: Some(lease) },
        });
    }
    let (writer, readers, copier) = sqlite::open(lock, opening)?;
    let checkpoints = Checkpoints::start(copier, alarm, meters)?;
    Ok(Place {
        backend: Backend::File(writer, checkpoints.duty()),
        readers: Readers::File(readers),
        upkeep: Upkeep::File(checkpoints),
        tenure: Tenure::default(),
    })
}
