//! Where the orders are kept, for the rest of the store: what writes, what reads, and what looks after the place meanwhile.
//!
//! Each is an enum with a variant for every kind of place, and a build that knows but one has but one: then it is that one, and
//! costs nothing. Nothing here decides anything; the committer, the surface and the kinds themselves do.

use std::sync::Arc;

use super::alarm::Alarm;
use super::checkpoints::{Checkpoints, Duty};
use super::figures::{Done, Meters};
use super::write::Write;
use super::{Lock, Opening, sqlite};
use crate::error::Error;

/// What the committer writes to.
pub(super) enum Backend {
    /// A file, and the part that the committer has in copying its log back.
    File(sqlite::Writer, Duty),
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
        }
    }

    /// How much of a log is in use, in bytes; 0 where there is none of ours.
    pub(super) fn log_bytes(&self) -> u64 {
        match self {
            Backend::File(writer, _) => writer.log_bytes(),
        }
    }

    /// After a refusal for want of room: makes some, if it can. Says whether trying again makes sense.
    pub(super) fn makes_room(&mut self) -> bool {
        match self {
            Backend::File(writer, duty) => duty.makes_room(writer),
        }
    }

    /// Something was committed, and everybody has been told.
    pub(super) fn committed(&mut self) {
        match self {
            Backend::File(writer, duty) => duty.committed(writer),
        }
    }

    /// Nothing more is to be written.
    pub(super) fn give_up(&self) {
        match self {
            Backend::File(_, duty) => duty.give_up(),
        }
    }
}

/// What reads.
pub(super) enum Readers {
    File(sqlite::Readers),
}

impl Readers {
    /// Ends them. Later reads are refused.
    pub(super) fn close(&self) {
        match self {
            Readers::File(readers) => readers.close(),
        }
    }
}

/// Reads by the method of that name, whatever it is that reads.
macro_rules! read {
    ($readers:expr, $method:ident($($argument:expr),*)) => {
        match &$readers {
            $crate::store::backend::Readers::File(readers) => readers.view(|view| view.$method($($argument),*)),
        }
    };
}
pub(super) use read;

/// What looks after the place beside the commits.
pub(super) enum Upkeep {
    File(Checkpoints),
}

impl Upkeep {
    /// What a person has to look at, though orders may still be stored.
    pub(super) fn trouble(&self) -> Option<String> {
        match self {
            Upkeep::File(checkpoints) => checkpoints.failing(),
        }
    }

    /// Ends it.
    pub(super) fn close(&self) {
        match self {
            Upkeep::File(checkpoints) => checkpoints.close(),
        }
    }
}

/// Opens the place that `lock` owns.
///
/// # Errors
/// As [`super::Store::open`].
pub(super) fn open(
    lock: &Lock,
    opening: &Opening,
    alarm: Arc<Alarm>,
    meters: Arc<Meters>,
) -> Result<(Backend, Readers, Upkeep), Error> {
    let (writer, readers, copier) = sqlite::open(lock, opening)?;
    let checkpoints = Checkpoints::start(copier, alarm, meters)?;
    Ok((Backend::File(writer, checkpoints.duty()), Readers::File(readers), Upkeep::File(checkpoints)))
}
