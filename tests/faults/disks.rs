//! Disks that take nothing for a while: full, read-only, or closed to larger files; with a renewal, or the end of the worker, in
//! between.
//!
//! Held is promise 3: 503 meanwhile; service and processing back when the disk is, without a hand. A disk can't be remounted
//! read-only while a file on it is open for writing, so the system calls that change or open the files are made to fail with
//! EROFS, as they do once the system itself has made a failing disk read-only.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::harness::{Folder, Process, Serving, Worker, comes_true, connection};
use crate::load::{Load, SOON, after_script, health_of, last_words, serves_soon, status_of};
use crate::means::{self, succeeds};
use crate::mounts::Mount;
use crate::runner::{Extent, Outcome, Skip, extent, rounds};
use crate::trace::Attached;

/// Long enough that some orders are in work when the disk fails.
const FLAGS: [&str; 2] = ["--processing-time", "200ms"];

pub fn service_and_processing_are_back_when_a_full_disk_has_room_again() -> Outcome {
    let rounds = rounds(1, 3, 10)?;
    let mut longest = Duration::ZERO;
    for round in 0..rounds {
        let folder = Folder::new();
        let _disk = Mount::in_memory(&folder, 64 << 20)?;
        let server = Process::start(&folder, &FLAGS);
        let back = meanwhile(&server, round, true, || Filler::start(folder.file("ballast")), drop);
        longest = longest.max(back);
        server.stop();
    }
    Ok(format!(
        "{rounds} rounds, 503 meanwhile, back after {longest:?} at most, 0 lost; control: one deleted by hand is missed"
    ))
}

pub fn service_and_processing_are_back_when_a_read_only_disk_is_writable_again() -> Outcome {
    let rounds = rounds(0, 3, 10)?;
    means::strace()?;
    let mut longest = Duration::ZERO;
    for round in 0..rounds {
        let folder = Folder::new();
        let server = Process::start(&folder, &FLAGS);
        let files = ["", "-wal", "-shm", "-journal"].map(|end| format!("{}{end}", server.db().display()));
        let changing = "pwrite64,ftruncate,fallocate,fsync,fdatasync,openat";
        let (watched, inject) = (format!("trace={changing}"), format!("inject={changing}:error=EROFS"));
        let mut options: Vec<&str> = files.iter().flat_map(|file| ["-P", file.as_str()]).collect();
        options.extend(["-e", &watched, "-e", &inject]);
        let back = meanwhile(&server, round, false, || Attached::to(&server, &folder, &options), drop);
        longest = longest.max(back);
        server.stop();
    }
    Ok(format!(
        "{rounds} rounds, no 200 meanwhile, back after {longest:?} at most, 0 lost; control: one deleted by hand is missed"
    ))
}

pub fn a_limit_on_the_size_of_files_loses_nothing_and_holds_only_as_long_as_it_lasts() -> Outcome {
    let rounds = rounds(0, 3, 10)?;
    if !succeeds("prlimit", &["--version"]) {
        return Err(Skip("prlimit is not installed".into()));
    }
    let mut longest = Duration::ZERO;
    for round in 0..rounds {
        let folder = Folder::new();
        // The signal that comes with the limit is ignored; what is left is the error.
        let server = Process::spawn(after_script(&folder, "trap '' XFSZ; ulimit -S -f 1000", &FLAGS), &folder);
        let limit = |bytes: &str| {
            // Two workers, if one is renewed. One that has just ended has no limits, and its successor has the parent's.
            for id in children(server.id()).into_iter().chain([server.id()]) {
                succeeds("prlimit", &["--pid", &id.to_string(), &format!("--fsize={bytes}:")]);
            }
        };
        let back = meanwhile(&server, round, true, || (), |()| limit("unlimited"));
        longest = longest.max(back);
        server.stop();
    }
    Ok(format!(
        "{rounds} rounds, 503 meanwhile, back after {longest:?} at most, 0 lost; control: one deleted by hand is missed"
    ))
}

/// The room is there when it begins, and taken by another program meanwhile.
pub fn a_backup_that_runs_out_of_room_leaves_no_file_and_the_server_goes_on() -> Outcome {
    let rounds = rounds(1, 5, 20)?;
    let (folder, target) = (Folder::new(), Folder::new());
    let server = Process::start(&folder, &FLAGS);
    connection(&server.db())
        .execute_batch(
            "INSERT INTO orders (order_id, user_id, item_ids, total_amount, status, created_at, completed_at)
             WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 200000)
             SELECT 'p-' || hex(randomblob(8)), 'u', '[\"i\"]', '1', 'Completed', 0, 5 FROM n",
        )
        .unwrap();
    let bytes = fs::metadata(server.db()).unwrap().len() + (32 << 20);
    let _disk = Mount::in_memory(&target, bytes as usize)?;
    let load = Load::start("o", 2, &server);
    let mut cut_short = 0;
    for _ in 0..10 * rounds {
        let copy = target.file("copy.db");
        let mut command = crate::harness::orderd(&folder);
        let mut child = command.arg("backup").arg(&copy).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        comes_true(SOON, || !target.names().is_empty() || child.try_wait().unwrap().is_some());
        let filler = Filler::start(target.file("ballast"));
        let ended = child.wait().unwrap().code();
        drop(filler);
        match ended {
            Some(2) => {
                assert_eq!(target.names(), [""; 0], "cut short, and yet something is left");
                cut_short += 1;
            }
            // It was quicker.
            ended => assert_eq!((ended, fs::remove_file(&copy).is_ok()), (Some(0), true)),
        }
        if cut_short == rounds {
            break;
        }
    }
    assert!(cut_short > 0, "none ran out of room");
    let told = load.stop();
    let lost = told.lost(&server);
    assert_eq!(lost, 0, "acknowledged orders lost");
    server.stop();
    Ok(format!("{cut_short} backups cut short, none of them left a file, {} orders acknowledged", told.acknowledged.len()))
}

/// Has the disk fail under load, and the worker renewed or killed meanwhile; mends it; and says how long it took until an order was
/// taken again. All acknowledged orders must be there and end, those in work at the time of the failure too. Where a fresh worker
/// can start although nothing can be written, whoever asks it must hear 503; elsewhere nobody may hear 200.
#[track_caller]
fn meanwhile<T>(server: &Process, round: usize, starts: bool, fail: impl FnOnce() -> T, mend: impl FnOnce(T)) -> Duration {
    let load = Load::start("o", 4, server);
    load.wait_for_more(50);
    let worker = Worker::of(server);
    let failing = fail();
    let refused = |when: &str| {
        let mut n = 0;
        let refused = comes_true(SOON, || {
            n += 1;
            status_of(server, &format!("{when}-{n}")) == Some(503)
        });
        assert!(refused, "no 503 {when}\n{}", last_words(server));
    };
    let meanwhile = |when: &str| match starts {
        true => refused(when),
        false => assert_ne!(status_of(server, when), Some(200), "taken though nothing can be written"),
    };
    meanwhile("while-the-disk-fails");
    match round % 3 {
        0 => server.signal("USR1"),
        // A fresh worker needs some room to start, which whoever fills the disk may take first: then it starts only when there is
        // room again, and nobody hears 503 meanwhile. The full run shows that it still does.
        1 if extent() == Extent::Full && worker.lives() => worker.signal("KILL"),
        _ => {}
    }
    std::thread::sleep(Duration::from_millis(1_500));
    meanwhile("after-a-renewal");
    mend(failing);
    let back = serves_soon(server, "after");
    let healthy = comes_true(SOON, || health_of(server) == Some(200));
    assert!(healthy, "it stays unhealthy\n{}", last_words(server));
    let told = load.stop();
    told.holds_after_a_drain(server);
    told.misses_a_deleted_one(server);
    back
}

/// The processes that a process has started, whichever of its threads did.
fn children(of: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{of}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<_>>()).collect()
}

/// Another program that takes all the room there is, also what comes free later. When it is dropped, all of it is given back.
struct Filler {
    ballast: PathBuf,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Filler {
    /// Starts it, and waits until the disk is full.
    fn start(ballast: PathBuf) -> Filler {
        let mut file = File::options().create(true).append(true).open(&ballast).unwrap();
        while file.write_all(&[0; 1 << 16]).is_ok() {}
        let over = Arc::new(AtomicBool::new(false));
        let until = over.clone();
        let thread = std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                // Without a pause, as a fresh worker frees a little and takes it again at once.
                let _ = file.write_all(&[0; 1 << 12]);
                std::thread::yield_now();
            }
        });
        Filler { ballast, over, thread: Some(thread) }
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
        let _ = fs::remove_file(&self.ballast);
    }
}
