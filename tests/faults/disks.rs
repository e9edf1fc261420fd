//! Disks that take nothing for a while: full, over a quota, read-only, or closed to larger files; with an orderly renewal in between,
//! and sometimes with the end of the worker, too.
//!
//! Held is promise 3: 503 meanwhile; service and processing back when the disk is, without a hand. In the control an order is
//! deleted by hand, which the check must see. A disk can't be remounted read-only while a file on it is open for writing, so the system
//! calls that change or open the files are made to fail with EROFS; so are those that a quota would refuse, as root has none. An ext4
//! that has failed is made read-only by the kernel itself; whether it may be made writable again is up to the kernel.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::harness::{Folder, PATIENCE, Process, Serving, Worker, comes_true, connection, is_running};
use crate::load::{Back, Load, SOON, after_script, health_of, last_words, status_of};
use crate::means::{self, succeeds};
use crate::mounts::Mount;
use crate::runner::{Outcome, Skip, rounds};
use crate::trace::{self, Attached};

/// Long enough that some orders are in work when the disk fails.
const FLAGS: [&str; 2] = ["--processing-time", "200ms"];
const WORK: Duration = Duration::from_millis(200);
const CONTROL: &str = "control: one deleted by hand is missed";

pub fn service_and_processing_are_back_when_a_full_disk_has_room_again() -> Outcome {
    let rounds = rounds(2, 4, 10)?;
    let mut longest = Back::default();
    for round in 0..rounds {
        let folder = Folder::new();
        let _disk = Mount::in_memory(&folder, 64 << 20)?;
        let server = Process::start(&folder, &FLAGS);
        let back = meanwhile(&server, round, || Filler::start(folder.file("ballast")), drop);
        longest = longest.longer(back);
        server.stop();
    }
    Ok(format!("{rounds} rounds, 503 meanwhile, {longest}, 0 lost; {CONTROL}"))
}

pub fn service_and_processing_are_back_when_a_quota_has_room_again() -> Outcome {
    let rounds = rounds(0, 2, 10)?;
    let options = |files: &[String]| failing(&files[..2], "pwrite64,fallocate", "EDQUOT");
    let longest = while_calls_fail(rounds, options)?;
    Ok(format!("{rounds} rounds, 503 meanwhile, {longest}, 0 lost; {CONTROL}"))
}

pub fn service_and_processing_are_back_when_a_read_only_disk_is_writable_again() -> Outcome {
    let rounds = rounds(0, 2, 10)?;
    let options = |files: &[String]| failing(files, "pwrite64,ftruncate,fallocate,fsync,fdatasync,openat", "EROFS");
    let longest = while_calls_fail(rounds, options)?;
    Ok(format!("{rounds} rounds, 503 meanwhile, {longest}, 0 lost; {CONTROL}"))
}

/// Has system calls fail under load, those that `options` of strace say for the database and the files beside it.
fn while_calls_fail(rounds: usize, options: impl Fn(&[String]) -> Vec<String>) -> Result<Back, Skip> {
    means::strace()?;
    let mut longest = Back::default();
    for round in 0..rounds {
        let folder = Folder::new();
        let server = Process::start(&folder, &FLAGS);
        let files = ["", "-wal", "-shm", "-journal"].map(|end| format!("{}{end}", server.db().display()));
        let options = options(&files);
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let back = meanwhile(&server, round, || Attached::to(&server, &folder, &options), drop);
        longest = longest.longer(back);
        server.stop();
    }
    Ok(longest)
}

/// Options of strace that have these calls on these files fail with this error.
fn failing(files: &[String], calls: &str, error: &str) -> Vec<String> {
    let files = files.iter().flat_map(|file| ["-P".to_string(), file.clone()]);
    files.chain(["-e".into(), format!("trace={calls}"), "-e".into(), format!("inject={calls}:error={error}")]).collect()
}

pub fn a_limit_on_the_size_of_files_loses_nothing_and_holds_only_as_long_as_it_lasts() -> Outcome {
    let rounds = rounds(0, 2, 10)?;
    if !succeeds("prlimit", &["--version"]) {
        return Err(Skip("prlimit is not installed".into()));
    }
    let mut longest = Back::default();
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
        longest = longest.longer(meanwhile(&server, round, || (), |()| limit("unlimited")));
        server.stop();
    }
    Ok(format!("{rounds} rounds, 503 meanwhile, {longest}, 0 lost; {CONTROL}"))
}

/// As in the tests of power loss, a sync that is under way when the kernel gives the journal up may be called good by it and not be.
pub fn a_disk_that_the_kernel_has_made_read_only_loses_nothing() -> Outcome {
    let rounds = rounds(0, 1, 10)?;
    means::strace()?;
    let (mut longest, mut anew, mut acknowledged, mut lied) = (Back::default(), 0, 0, 0);
    for _ in 0..rounds {
        let (folder, images) = (Folder::new(), Folder::new());
        let mount = Mount::ext4(&folder, &images, 64)?;
        let server = Process::spawn(trace::command(&folder, &images, &trace::ALL, &FLAGS), &folder);
        let load = Load::start("o", 4, &server);
        load.wait_for_more(50);
        let before = load.so_far();
        mount.fail()?;
        assert!(is_refused(&server, "while-it-is-read-only"), "no order is refused\n{}", last_words(&server));
        server.signal("USR1");
        std::thread::sleep(Duration::from_secs(1));
        assert!(is_refused(&server, "after-a-renewal"), "no order is refused\n{}", last_words(&server));
        let is_writable = mount.is_writable_again();
        if is_writable {
            longest = longest.longer(Back::of(&server, "after", WORK).in_time(&server));
        }
        let (told, id) = (load.stop(), server.id());
        server.kill();
        assert!(comes_true(PATIENCE, || !is_running(id)), "it lives");
        trace::answers(&trace::calls(&images.file("trace")), "o").are_synced();
        if !is_writable {
            anew += 1;
            mount.again();
        }
        let server = Process::start(&folder, &FLAGS);
        before.holds(&server);
        lied += told.lost(&server);
        acknowledged += told.acknowledged.len();
        server.stop();
    }
    let how = match anew {
        0 => longest.to_string(),
        anew => format!("in {anew} of them the kernel let it be written only when it was mounted anew"),
    };
    Ok(format!(
        "{rounds} rounds, {acknowledged} acknowledged, 0 without a sync, 503 meanwhile, 0 lost of those before; {lied} whose sync the \
         system had called good; {how}"
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

/// Has the disk fail under load; the worker renewed and, in every other round, killed meanwhile; mends it; and says how long it took
/// until service and processing were back. All acknowledged orders must be there and end, those in work at the time of the failure too.
#[track_caller]
fn meanwhile<T>(server: &Process, round: usize, fail: impl FnOnce() -> T, mend: impl FnOnce(T)) -> Back {
    let load = Load::start("o", 4, server);
    load.wait_for_more(50);
    let worker = Worker::of(server);
    let failing = fail();
    assert!(is_refused(server, "while-the-disk-fails"), "no 503\n{}", last_words(server));
    let after = |what: &str| {
        std::thread::sleep(Duration::from_millis(700));
        assert!(is_refused(server, what), "no 503 {what}\n{}", last_words(server));
    };
    server.signal("USR1");
    after("after-a-renewal");
    if round % 2 == 1 {
        if worker.lives() {
            worker.signal("KILL");
        }
        Worker::of(server).signal("KILL");
        after("after-its-death");
    }
    mend(failing);
    let back = Back::of(server, "after", WORK).in_time(server);
    let healthy = comes_true(SOON, || health_of(server) == Some(200));
    assert!(healthy, "it stays unhealthy\n{}", last_words(server));
    let told = load.stop();
    told.holds_after_a_drain(server);
    told.misses_a_deleted_one(server);
    back
}

/// Posts orders until one is answered 503, and says whether one was. None may be taken once one was refused.
fn is_refused(server: &Process, name: &str) -> bool {
    let mut n = 0;
    let mut next = || {
        n += 1;
        status_of(server, &format!("{name}-{n}"))
    };
    comes_true(SOON, || next() == Some(503)) && (0..3).all(|_| next() != Some(200))
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
