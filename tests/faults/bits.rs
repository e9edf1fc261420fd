//! One flipped bit in the log, after a kill: SQLite ends its recovery there and says nothing.
//!
//! Orders are made one after another, so that each has a commit of its own. A start either refuses the log, with words, or may have
//! lost the last commit at most, as a flip in it looks like a torn end. The control is SQLite alone, which loses the rest in silence.

use std::fs;

use crate::harness::{Folder, PATIENCE, Process, Serving, Worker, comes_true, connection, created, order, post};
use crate::load::{Chance, command};
use crate::runner::{Outcome, rounds};

const ORDERS: usize = 60;

pub fn a_flipped_bit_in_the_log_costs_no_order_in_silence() -> Outcome {
    let rounds = rounds(8, 60, 200)?;
    let crashed = Folder::new();
    let server = Process::start(&crashed, &["--concurrency", "0"]);
    let mut client = server.client();
    for n in 0..ORDERS {
        let id = format!("o-{n}");
        client.ask(post(order(&id))).expect(200, &created(&id));
    }
    let worker = Worker::of(&server);
    server.kill();
    assert!(comes_true(PATIENCE, || !worker.lives()), "the worker outlives its parent");

    let mut chance = Chance(0x66_6c69_7073);
    let (mut refused, mut lost_by_sqlite, mut silent) = (0, 0, Vec::new());
    for round in 0..rounds {
        let folder = Folder::new();
        let copy = |names: &[&str]| names.iter().for_each(|name| _ = fs::copy(crashed.file(name), folder.file(name)).unwrap());
        copy(&["orders.db", "orders.db-wal"]);
        let mut log = fs::read(folder.file("orders.db-wal")).unwrap();
        let bit = chance.below(8 * log.len());
        log[bit / 8] ^= 1 << (bit % 8);
        fs::write(folder.file("orders.db-wal"), &log).unwrap();
        match Process::try_spawn(command(&folder, &["--concurrency", "0", "--no-supervisor"]), &folder) {
            Ok(server) => {
                let there = server.rows().len();
                if there + 1 < ORDERS {
                    silent.push(format!("bit {bit} of {}: {} orders lost", 8 * log.len(), ORDERS - there));
                }
                server.kill();
            }
            Err(ended) => {
                refused += 1;
                assert!(ended.code == Some(2) && ended.stderr.contains("orders.db"), "bit {bit}: {ended:?}");
            }
        }
        if round < 10 {
            copy(&["orders.db"]);
            fs::write(folder.file("orders.db-wal"), &log).unwrap();
            let _ = fs::remove_file(folder.file("orders.db-shm"));
            let count = || {
                connection(&folder.file("orders.db")).query_row("SELECT count(*) FROM orders", [], |row| row.get::<_, u32>(0))
            };
            lost_by_sqlite += ORDERS - count().unwrap_or(0) as usize;
        }
    }
    assert!(lost_by_sqlite > 10, "SQLite alone loses nothing, so no bit that matters was flipped");
    assert!(silent.is_empty(), "{} of {rounds} flips, in silence:\n{}", silent.len(), silent[..silent.len().min(5)].join("\n"));
    Ok(format!("{rounds} flips, {refused} refused, 0 silent losses; control: SQLite alone lost {lost_by_sqlite} orders in 10"))
}
