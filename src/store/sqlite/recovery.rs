//! Whether the log that a crash left behind is whole, found out before SQLite opens it.
//!
//! SQLite takes the frames of the log up to the first that is wrong and forgets the rest, without a word. That is right for the
//! tail that a crash tears: a transaction that nobody has heard of. But one bit that flips anywhere takes everything behind it.
//! Two things tell them apart. One transaction is written at a time, and the next only after a sync, so behind a torn tail there
//! is at most one commit. And the log's index (`-shm`), if it is still there, says how many frames had been synced.
//!
//! The formats are those of sqlite.org/fileformat2.html (chapter 4) and sqlite.org/walformat.html. Reads and changes nothing.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::file::with_suffix;
use super::lock::unusable;
use crate::error::Error;

const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;
/// What the log begins with; the lowest bit says in which order its checksums take bytes.
const MAGIC: u32 = 0x377f_0682;
/// The page size that is assumed if the log doesn't say it: SQLite's default, and ours.
const PAGE_BYTES: usize = 4_096;
/// The version in an index, and the length of one of its two copies of a header.
const INDEX_VERSION: u32 = 3_007_000;
const INDEX_HEADER_BYTES: usize = 48;

/// What tells the frames of one round of the log from those of others.
pub(super) type Salts = [u8; 8];
/// Where they are in the header of the log, and in that of a frame.
pub(super) const HEADER_SALTS_AT: u64 = 16;
pub(super) const FRAME_SALTS_AT: u64 = 8;

/// Makes sure that SQLite will find everything in the log of the database at `path` that has been committed.
///
/// # Errors
/// [`Error::WouldLose`] when it would not; [`Error::Unusable`] when the log can't be read.
pub(super) fn check(path: &Path) -> Result<(), Error> {
    let log = with_suffix(path, "-wal");
    let found = match File::open(&log) {
        Ok(file) => Some(read(&file).map_err(unusable(&log))?),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(unusable(&log)(e)),
    };
    let lose = |what: String| Err(Error::WouldLose { what: format!("{}: {what}", log.display()) });
    let (committed, salts) = found.as_ref().map_or((0, None), |log| (log.committed, log.salts));
    if found.is_some_and(|log| log.commits_behind > 1) {
        return lose(format!("the log is damaged behind frame {committed}, and what was committed later can't be read"));
    }
    match fs::read(with_suffix(path, "-shm")).ok().as_deref().and_then(indexed) {
        Some((frames, of)) if frames > committed && salts.is_none_or(|salts| salts == of) => {
            lose(format!("{frames} frames were committed to the log, and {committed} are left"))
        }
        _ => Ok(()),
    }
}

/// What a log holds.
struct Log {
    /// What tells its frames from those of earlier rounds; `None` without a whole header.
    salts: Option<Salts>,
    /// The frames up to the last commit before the first wrong frame.
    committed: u32,
    /// The commits of this round from the first wrong frame on, counted up to two.
    commits_behind: u32,
}

fn read(file: &File) -> io::Result<Log> {
    let bytes = file.metadata()?.len();
    let mut reader = BufReader::with_capacity(1 << 18, file);
    let mut header = [0; HEADER_BYTES];
    if bytes < HEADER_BYTES as u64 {
        return Ok(Log { salts: None, committed: 0, commits_behind: 0 });
    }
    reader.read_exact(&mut header)?;
    let is_big_endian = word(&header, 0) & 1 == 1;
    let mut sum = checksum([0, 0], &header[..24], is_big_endian);
    let is_whole = word(&header, 0) & !1 == MAGIC && sum == [word(&header, 24), word(&header, 28)];
    let page_bytes = if is_whole { word(&header, 8) as usize } else { PAGE_BYTES };
    let frame_bytes = FRAME_HEADER_BYTES + page_bytes;
    let frames = (bytes - HEADER_BYTES as u64) / frame_bytes as u64;
    let (mut good, mut committed) = (0, 0);
    let mut salts = salts_at(&header, HEADER_SALTS_AT as usize);
    if is_whole {
        let mut frame = vec![0; frame_bytes];
        while good < frames {
            reader.read_exact(&mut frame)?;
            sum = checksum(sum, &frame[..8], is_big_endian);
            sum = checksum(sum, &frame[FRAME_HEADER_BYTES..], is_big_endian);
            let is_right = salts_at(&frame, FRAME_SALTS_AT as usize) == salts
                && sum == [word(&frame, 16), word(&frame, 20)]
                && word(&frame, 0) > 0;
            if !is_right {
                break;
            }
            good += 1;
            if word(&frame, 4) > 0 {
                committed = good;
            }
        }
    } else {
        // The first frame that says anything has those that the header had.
        salts = Salts::default();
    }
    let mut commits_behind = 0;
    let mut header = [0; FRAME_HEADER_BYTES];
    for frame in good..frames {
        file.read_exact_at(&mut header, HEADER_BYTES as u64 + frame * frame_bytes as u64)?;
        if salts == Salts::default() {
            salts = salts_at(&header, FRAME_SALTS_AT as usize);
        }
        if salts_at(&header, FRAME_SALTS_AT as usize) == salts && word(&header, 4) > 0 {
            commits_behind += 1;
            if commits_behind > 1 {
                break;
            }
        }
    }
    // A log has no more than 2^32 frames, as the index counts them so.
    Ok(Log { salts: is_whole.then_some(salts), committed: committed as u32, commits_behind })
}

/// How many frames a whole index has counted, and the salts of their log. It is in the byte order of the machine.
fn indexed(index: &[u8]) -> Option<(u32, Salts)> {
    let (header, copy) = (index.get(..INDEX_HEADER_BYTES)?, index.get(INDEX_HEADER_BYTES..2 * INDEX_HEADER_BYTES)?);
    let number = |at: usize| header[at..at + 4].try_into().map_or(0, u32::from_ne_bytes);
    let sum = checksum([0, 0], &header[..40], cfg!(target_endian = "big"));
    let is_whole = header == copy && number(0) == INDEX_VERSION && sum == [number(40), number(44)];
    is_whole.then(|| (number(16), salts_at(header, 32)))
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].try_into().map_or(0, u32::from_be_bytes)
}

fn salts_at(bytes: &[u8], at: usize) -> Salts {
    bytes[at..at + 8].try_into().unwrap_or_default()
}

/// SQLite's checksum of `bytes`, carried on from `sum`.
fn checksum([mut a, mut b]: [u32; 2], bytes: &[u8], is_big_endian: bool) -> [u32; 2] {
    let word = if is_big_endian { u32::from_be_bytes } else { u32::from_le_bytes };
    for pair in bytes.chunks_exact(8) {
        a = a.wrapping_add(word([pair[0], pair[1], pair[2], pair[3]])).wrapping_add(b);
        b = b.wrapping_add(word([pair[4], pair[5], pair[6], pair[7]])).wrapping_add(a);
    }
    [a, b]
}
