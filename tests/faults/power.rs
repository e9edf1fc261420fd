//! Power loss: an ext4 in a file is cut off under load, so that whatever was not synced is gone, and mounted again.
//!
//! Also after a sync that failed. The system forgets what such a sync should have written, which strace alone does not cause: so
//! the test takes those bytes out of the log afterwards, unless they were written again. The control of both is a writer that
//! does what orderd must not, and an orderd whose syncs are not made. Held is promise 1.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use crate::harness::{Folder, PATIENCE, Process, Worker, comes_true, is_running};
use crate::load::{Chance, Load, command, last_words};
use crate::means;
use crate::mounts::Mount;
use crate::runner::{Outcome, Skip, rounds};
use crate::trace;

/// Room for the log to grow until it is copied back.
const MEBIBYTES: u64 = 96;
const FLAGS: [&str; 2] = ["--processing-time", "10ms"];

pub fn a_power_loss_takes_no_acknowledged_order() -> Outcome {
    let rounds = rounds(1, 4, 20)?;
    let control = lost_in_control()?;
    let with_normal = lost_with_normal()?;
    let mut chance = Chance(0x70_6f77_6572);
    let mut acknowledged = 0;
    for _ in 0..rounds {
        let (folder, images) = (Folder::new(), Folder::new());
        let mount = Mount::ext4(&folder, &images, MEBIBYTES)?;
        let server = Process::start(&folder, &FLAGS);
        let load = Load::start("o", 8, &server);
        load.wait_for_more(50 + chance.below(400));
        // Nobody runs on after a power loss, so the processes stand still when it comes.
        [Worker::with_id(server.id()), Worker::of(&server)].iter().for_each(|process| process.signal("STOP"));
        mount.cut();
        server.kill();
        let told = load.stop();
        mount.again();
        let server = Process::start(&folder, &FLAGS);
        told.holds_after_a_drain(&server);
        acknowledged += told.acknowledged.len();
        server.stop();
    }
    Ok(format!(
        "{rounds} rounds, {acknowledged} acknowledged, 0 lost; controls: orderd with NORMAL lost {with_normal}, SQLite without syncs \
         {control} of 300"
    ))
}

/// Cuts the power under an orderd whose syncs are not made, though it is told so. Says how many of its orders are lost.
fn lost_with_normal() -> Result<String, Skip> {
    if means::strace().is_err() {
        return Ok("nothing, as strace is not here".into());
    }
    let (folder, images) = (Folder::new(), Folder::new());
    let mount = Mount::ext4(&folder, &images, MEBIBYTES)?;
    Process::start(&folder, &FLAGS).stop();
    let options = [&["-e", "trace=fsync,fdatasync"][..], &trace::UNSYNCED].concat();
    let server = Process::spawn(trace::command(&folder, &images, &options, &FLAGS), &folder);
    let load = Load::start("o", 4, &server);
    load.wait_for_more(50);
    let id = server.id();
    mount.cut();
    let told = load.stop();
    server.kill();
    assert!(comes_true(PATIENCE, || !is_running(id)), "it lives");
    mount.again();
    // One that refuses what it finds has none of them either.
    let lost = match Process::try_spawn(command(&folder, &FLAGS), &folder) {
        Ok(server) => told.lost(&server),
        Err(_) => told.acknowledged.len(),
    };
    assert!(lost > 0, "the control loses nothing, so the power is not cut");
    Ok(format!("{lost} of {}", told.acknowledged.len()))
}

/// Here the processes go on, and a 200 without a good sync would be a false one. ext4 itself says now and then that a sync has
/// succeeded while its journal is being given up; that much is counted, and is not orderd's to mend.
pub fn a_disk_that_dies_under_load_is_followed_by_no_200_without_a_sync() -> Outcome {
    let rounds = rounds(0, 2, 20)?;
    let control = lost_in_control()?;
    means::strace()?;
    let (mut acknowledged, mut lied) = (0, 0);
    for round in 0..rounds {
        let (folder, images) = (Folder::new(), Folder::new());
        let mount = Mount::ext4(&folder, &images, MEBIBYTES)?;
        let server = Process::spawn(trace::command(&folder, &images, &trace::ALL, &FLAGS), &folder);
        let load = Load::start("o", 8, &server);
        load.wait_for_more(50 + 10 * round);
        let before = load.so_far();
        mount.cut();
        std::thread::sleep(Duration::from_millis(50));
        let (told, id) = (load.stop(), server.id());
        server.kill();
        assert!(comes_true(PATIENCE, || !is_running(id)), "it lives");
        trace::answers(&trace::calls(&images.file("trace")), "o").are_synced();
        mount.again();
        let server = Process::start(&folder, &FLAGS);
        before.holds(&server);
        lied += told.lost(&server);
        acknowledged += told.acknowledged.len();
        server.stop();
    }
    Ok(format!(
        "{rounds} rounds, {acknowledged} acknowledged, 0 without a sync, 0 lost of those before; {lied} whose sync the system \
         had called good; control without syncs lost {control} of 300"
    ))
}

pub fn a_power_loss_after_a_failed_sync_takes_no_acknowledged_order() -> Outcome {
    let rounds = rounds(0, 2, 10)?;
    Mount::can_be_cut()?;
    means::strace()?;
    let control = lost_behind_a_hole();
    assert!(control > 0, "the control loses nothing, so nothing is taken out of its log");
    let (mut acknowledged, mut failures) = (0, 0);
    for round in 0..rounds {
        let (folder, images) = (Folder::new(), Folder::new());
        let mount = Mount::ext4(&folder, &images, MEBIBYTES)?;
        Process::start(&folder, &FLAGS).stop();
        // At this sync of any thread, which spares those few of a start.
        let inject = format!("inject=fsync,fdatasync:error=EIO:when={}", 20 + 3 * round);
        let options = ["-e", "trace=pwrite64,ftruncate,unlink,unlinkat,fsync,fdatasync", "-e", &inject];
        let server = Process::spawn(trace::command(&folder, &images, &options, &FLAGS), &folder);
        let load = Load::start("o", 8, &server);
        let failed = || trace::injected(&images.file("trace"));
        assert!(comes_true(PATIENCE, || failed() > 0), "no sync fails\n{}", last_words(&server));
        // What comes behind the failure is what would be lost with it.
        load.wait_for_more(100);
        mount.cut();
        let told = load.stop();
        let id = server.id();
        server.kill();
        assert!(comes_true(PATIENCE, || !is_running(id)), "it lives");
        let calls = trace::calls(&images.file("trace"));
        failures += calls.iter().filter(|call| call.is_failed_sync()).count();
        mount.again();
        trace::forget(&folder.file("orders.db-wal"), &trace::lost_of_log(&calls));
        let server = Process::start(&folder, &FLAGS);
        told.holds_after_a_drain(&server);
        acknowledged += told.acknowledged.len();
        server.stop();
    }
    Ok(format!(
        "{rounds} rounds with {failures} failed syncs, {acknowledged} acknowledged, 0 lost; control behind a hole lost {control} of 50"
    ))
}

/// The control of both. Skips the test where nothing can be cut off.
fn lost_in_control() -> Result<usize, Skip> {
    Mount::can_be_cut()?;
    let lost = lost_without_syncs()?;
    assert!(lost > 0, "the control loses nothing, so the power is not cut");
    Ok(lost)
}

/// Cuts the power under a writer that does not sync. Says how many of its 300 rows are lost.
fn lost_without_syncs() -> Result<usize, Skip> {
    let (folder, images) = (Folder::new(), Folder::new());
    let mount = Mount::ext4(&folder, &images, 16)?;
    let writer = Connection::open(folder.file("control.db")).unwrap();
    writer.execute_batch("PRAGMA journal_mode=wal; PRAGMA synchronous=OFF; CREATE TABLE rows (n)").unwrap();
    (0..300).for_each(|n| _ = writer.execute("INSERT INTO rows VALUES (?1)", [n]).unwrap());
    mount.cut();
    drop(writer);
    mount.again();
    Ok(300 - rows_in(&folder.file("control.db")))
}

/// Writes on behind a commit whose sync has failed, as the log looks after a power loss. Says how many of the 50 rows that were
/// synced afterwards are lost.
fn lost_behind_a_hole() -> usize {
    let (folder, image) = (Folder::new(), Folder::new());
    let (file, log) = (folder.file("control.db"), folder.file("control.db-wal"));
    let writer = Connection::open(&file).unwrap();
    writer.execute_batch("PRAGMA journal_mode=wal; PRAGMA synchronous=FULL; CREATE TABLE rows (n)").unwrap();
    let hole_from = fs::metadata(&log).unwrap().len();
    writer.execute("INSERT INTO rows VALUES (-1)", []).unwrap();
    let hole_to = fs::metadata(&log).unwrap().len();
    (0..50).for_each(|n| _ = writer.execute("INSERT INTO rows VALUES (?1)", [n]).unwrap());
    [&file, &log].iter().for_each(|from| _ = fs::copy(from, image.file(from.file_name().unwrap().to_str().unwrap())).unwrap());
    trace::forget(&image.file("control.db-wal"), &[(hole_from, hole_to)]);
    50_usize.saturating_sub(rows_in(&image.file("control.db")))
}

/// How many rows a control's file has. One that cannot be read has none.
fn rows_in(file: &Path) -> usize {
    let count = || Connection::open(file)?.query_row("SELECT count(*) FROM rows", [], |row| row.get::<_, u32>(0));
    count().unwrap_or(0) as usize
}
