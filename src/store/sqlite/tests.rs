//! What only the inside of the store shows: each guard within a transaction, and the cost of a page by the size of the file.

use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::*;
use crate::order::Status;
use crate::os::clock::Clock;
use crate::store::tests::{Folder, new_order, opening};
use crate::store::{Claimed, Created, Ending, Filter, Outcome};

/// Changes a file as another program does, such as the sqlite3 shell.
pub(in crate::store) fn by_hand(lock: &Lock, sql: &str) {
    Connection::open(lock.database()).unwrap().execute_batch(sql).unwrap();
}

/// Each end is guarded by the attempt that it ends, whatever comes late.
#[test]
fn a_late_ending_of_an_old_attempt_does_not_overwrite_a_new_one() {
    let folder = Folder::new();
    let lock = folder.lock();
    let (mut writer, readers, _) = open(&lock, &opening(Clock::system())).unwrap();
    let new = new_order("1");
    let record = || readers.view(|view| view.order(&new.order_id)).unwrap().unwrap();
    let failed = |error: &str| Outcome::Failed { error: error.into() };
    let retry = |error: &str| Outcome::Retry { at_ms: 40, error: error.into() };

    assert_eq!(writer.transaction(|tx| tx.create(&new, 10)).unwrap(), Created::New);
    let first = writer.transaction(|tx| tx.claim(10, 20)).unwrap();
    assert_eq!(first, [Claimed { seq: 1, attempt: 1 }]);
    let cut_short = Ending { order: first[0], outcome: Outcome::Retry { at_ms: 0, error: "cut short".into() } };
    assert!(writer.transaction(|tx| tx.end(&cut_short, 30)).unwrap());
    let late = |outcome: Outcome| Ending { order: first[0], outcome };
    for outcome in [Outcome::Completed, failed("late"), retry("late")] {
        assert!(!writer.transaction(|tx| tx.end(&late(outcome), 30)).unwrap(), "it is pending, in no attempt");
    }
    let second = writer.transaction(|tx| tx.claim(10, 40)).unwrap();
    assert_eq!(second, [Claimed { seq: 1, attempt: 2 }]);
    for outcome in [Outcome::Completed, failed("late"), retry("late")] {
        assert!(!writer.transaction(|tx| tx.end(&late(outcome), 50)).unwrap(), "it is in its second attempt");
    }
    let found = record();
    assert_eq!((found.status, found.attempts, found.last_error), (Status::Processing, 2, Some("cut short".into())));

    let end = |outcome: Outcome| Ending { order: second[0], outcome };
    assert!(writer.transaction(|tx| tx.end(&end(failed("no stock")), 60)).unwrap());
    for outcome in [Outcome::Completed, failed("twice"), retry("twice")] {
        assert!(!writer.transaction(|tx| tx.end(&end(outcome), 70)).unwrap(), "it has ended");
    }
    let found = record();
    assert_eq!((found.status, found.last_error.as_deref(), found.completed_at), (Status::Failed, Some("no stock"), None));
}

/// Another program cuts the log between the look before a transaction and its commit. What is written behind the cut would be lost.
#[test]
fn a_log_that_is_cut_in_the_middle_of_a_commit_takes_none() {
    let folder = Folder::new();
    let lock = folder.lock();
    let (mut writer, ..) = open(&lock, &opening(Clock::system())).unwrap();
    let log = file::with_suffix(lock.database(), "-wal");
    let cut_to = |share: u64| {
        let bytes = std::fs::metadata(&log).unwrap().len();
        std::fs::File::options().write(true).open(&log).unwrap().set_len(bytes * share / 100).unwrap();
    };
    let mut create = |n: u32, deed: &dyn Fn()| {
        writer.transaction(|tx| {
            deed();
            tx.create(&new_order(&n.to_string()), 10)
        })
    };
    (0..3).for_each(|n| _ = create(n, &|| {}).unwrap());
    // As another program may do it, between two commits and right before one.
    by_hand(&lock, "PRAGMA wal_checkpoint(TRUNCATE)");
    (3..6).for_each(|n| _ = create(n, &|| {}).unwrap());
    let kept = std::fs::read(&log).unwrap();
    for (n, share) in [(6, 0), (7, 50), (8, 1)] {
        let cut = create(n, &|| cut_to(share));
        assert!(matches!(cut, Err(Error::Broken(_))), "cut to {share} %: {cut:?}");
        std::fs::write(&log, &kept).unwrap();
    }
}

/// What the writer adds to the counts is what the triggers would have.
#[test]
fn the_counts_are_those_that_the_triggers_keep() {
    let folder = Folder::new();
    let lock = folder.lock();
    let (mut writer, readers, _) = open(&lock, &opening(Clock::system())).unwrap();
    let end = |order: Claimed, outcome: Outcome| Ending { order, outcome };
    writer
        .transaction(|tx| {
            for n in 0..5 {
                tx.create(&new_order(&n.to_string()), 100)?;
            }
            let claimed = tx.claim(4, 200)?;
            // The clock was set back meanwhile.
            tx.end(&end(claimed[0], Outcome::Completed), 50)?;
            tx.end(&end(claimed[1], Outcome::Completed), 350)?;
            tx.end(&end(claimed[2], Outcome::Failed { error: "x".into() }), 350)
        })
        .unwrap();
    let kept = readers.view(|view| view.counts()).unwrap();
    assert_eq!((kept.pending, kept.processing, kept.completed, kept.failed), (1, 1, 2, 1));
    assert_eq!(kept.processing_ms, 250);
    // All rows once more, by another program.
    Connection::open(lock.database())
        .unwrap()
        .execute_batch(
            "CREATE TEMP TABLE copy AS SELECT * FROM orders;
             DELETE FROM orders;
             UPDATE status_counts SET orders = 0, processing_ms = 0;
             INSERT INTO orders SELECT * FROM copy",
        )
        .unwrap();
    assert_eq!(readers.view(|view| view.counts()).unwrap(), kept);
}

/// One user owns nearly all of many orders, so that whoever reads the wrong index reads most of it. Compared with the same pages
/// of a small file; a wrong index would take hundreds of times as long.
#[test]
fn a_page_of_many_orders_takes_as_long_as_one_of_few() {
    if ["CI", "RUN_SLOW_TESTS"].iter().all(|name| std::env::var_os(name).is_none()) {
        return;
    }
    let few = pages(2_000);
    let many = pages(200_000);
    for ((what, few), (_, many)) in few.iter().zip(&many) {
        // The slowest page here has a hundred records.
        assert!(*many < 8 * *few + Duration::from_millis(5), "{what}: {many:?} of many, {few:?} of few");
    }
}

/// How long the pages of each filter take, at best, in the middle of a file of so many orders.
fn pages(orders: i64) -> Vec<(String, Duration)> {
    let folder = Folder::new();
    let lock = folder.lock();
    let (_writer, readers, _) = open(&lock, &opening(Clock::system())).unwrap();
    // All of one user's, but for two; all completed, but for the oldest few. None has failed.
    Connection::open(lock.database())
        .unwrap()
        .execute_batch(&format!(
            "PRAGMA synchronous = OFF;
             INSERT INTO orders (order_id, user_id, item_ids, total_amount, status, created_at, completed_at, retry_at)
             WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {orders})
             SELECT 'o-' || n, iif(n IN (3, 300), 'rare', 'most'), '[\"i\"]', '1',
                    CASE WHEN n > 400 OR n % 4 = 3 THEN 'Completed' WHEN n % 4 = 2 THEN 'Processing' ELSE 'Pending' END,
                    0, 0, iif(n <= 400 AND n % 4 = 1, 1, 0) FROM n"
        ))
        .unwrap();
    let mut pages = Vec::new();
    for status in [None].into_iter().chain(Status::ALL.map(Some)) {
        for user_id in [None, Some("most"), Some("rare"), Some("nobody")] {
            let filter = Filter { status, user_id: user_id.map(str::to_string) };
            for before in [None, Some(orders / 2)] {
                let read = || readers.view(|view| view.page(&filter, before, 100, usize::MAX)).unwrap();
                read();
                let best = (0..5).map(|_| {
                    let begun = Instant::now();
                    read();
                    begun.elapsed()
                });
                pages.push((format!("{filter:?} before {before:?}"), best.min().unwrap()));
            }
        }
    }
    pages
}
