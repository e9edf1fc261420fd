//! Several instances on one schema, each by the store's surface: who may still write of an order, who waits for whom, and what a
//! transaction that nobody ends does to claims.

use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::url::Server;
use crate::order::Status;
use crate::store::tests::cluster::{Cluster, cluster};
use crate::store::tests::{Fixture, PATIENCE, answer, ended, new_order, quick_or_slow};
use crate::store::{Claimed, Created, Ending, NewOrder, Outcome, Store};

/// Two instances, and the schema that they share. Their leases are so long that neither learns of anything by itself.
fn two() -> Option<(Fixture, Fixture, &'static Cluster, String)> {
    let url = cluster()?.fresh_url("&lease=10m");
    let schema = url.split(['?', '&']).find_map(|parameter| parameter.strip_prefix("schema=")).unwrap().to_string();
    Some((Fixture::at(&url), Fixture::at(&url), cluster()?, schema))
}

fn session(schema: &str) -> Connection {
    let mut session = Connection::open(&Server::parse(cluster().unwrap().url(schema, "").as_ref()).unwrap()).unwrap();
    session.execute("SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0", 6 * PATIENCE).unwrap();
    session
}

fn retry(at_ms: i64) -> Outcome {
    Outcome::Retry { at_ms, error: "another has it".into() }
}

#[test]
fn what_an_instance_ends_or_puts_back_after_others_have_taken_it_over_changes_nothing() {
    let Some((a, b, cluster, schema)) = two() else { return };
    a.create_all(["1", "2", "3", "4", "5"]);
    let stale = a.claim(5);
    let lapse =
        format!("UPDATE {schema}.instances SET lease_until = '-infinity' WHERE id IN (SELECT owner FROM {schema}.orders)");
    cluster.sql(&lapse);
    // Who is dead to the others claims nothing, whatever it thinks.
    assert_eq!((a.create("6"), a.claim(9)), (Created::New, vec![]));
    let left: Vec<Claimed> = b.store.orphans().unwrap().into_iter().map(|(claim, _)| claim).collect();
    assert_eq!(left, stale);
    let endings = left.iter().map(|order| Ending { order: *order, outcome: retry(0) }).collect();
    assert_eq!(answer(|done| b.store.process(endings, 0, false, done)).unwrap(), []);
    let table = || {
        let columns = "order_id, status, attempts, owner, retry_at, last_error, started_at, completed_at, ended_at";
        cluster.sql(&format!("SELECT {columns} FROM {schema}.orders ORDER BY seq; SELECT * FROM {schema}.counts ORDER BY slot"))
    };
    let failed = Outcome::Failed { error: "no".into() };
    // While they wait for their next attempt, and while the other makes it.
    for attempt in [1, 2] {
        let before = table();
        for (claim, outcome) in stale.iter().zip([Outcome::Completed, retry(77), retry(0), failed.clone()]) {
            answer(|done| a.store.process(ended(*claim, outcome), 0, false, done)).unwrap();
            assert_eq!(table(), before, "{claim:?} of an attempt that is over, beside attempt {attempt}");
        }
        answer(|done| a.store.put_back(vec![stale[4]], done)).unwrap();
        assert_eq!(table(), before, "put back beside attempt {attempt}");
        if attempt == 1 {
            let claimed = b.claim(5);
            assert!(claimed.iter().all(|claim| claim.attempt == 2) && claimed.len() == 5, "{claimed:?}");
        }
    }
    let second = stale.iter().map(|claim| Claimed { attempt: 2, ..*claim });
    let endings = second.map(|order| Ending { order, outcome: Outcome::Completed }).collect();
    answer(|done| b.store.process(endings, 0, false, done)).unwrap();
    let counts = a.store.counts().unwrap();
    assert_eq!((counts.pending, counts.processing, counts.completed, counts.failed), (1, 0, 5, 0));
}

/// As clients do that send to both what neither has acknowledged. The server's log shows whether they waited in a circle.
#[test]
fn the_same_orders_sent_to_two_instances_in_opposite_order_are_each_new_once() {
    let Some((a, b, ..)) = two() else { return };
    const ORDERS: usize = 500;
    let store_of_b: &Store = &b.store;
    for round in 0..8 {
        let is_other = round % 2 == 1;
        let user = |of_b: bool| if of_b && is_other { "v" } else { "u" };
        let send = |store: &Store, of_b: bool| {
            let (sender, receiver) = channel();
            for n in 0..ORDERS {
                let n = if of_b { ORDERS - 1 - n } else { n };
                let order = NewOrder { user_id: user(of_b).into(), ..new_order(&format!("{round}-{n}")) };
                let sender = sender.clone();
                store.create(order, move |created| sender.send((n, created.unwrap())).unwrap());
            }
            drop(sender);
            let mut all: Vec<(usize, Created)> = receiver.iter().collect();
            all.sort_unstable_by_key(|(n, _)| *n);
            all
        };
        let (of_a, of_b) = std::thread::scope(|scope| {
            let of_b = scope.spawn(|| send(store_of_b, true));
            (send(&a.store, false), of_b.join().unwrap())
        });
        let later = if is_other { Created::Conflict } else { Created::Replayed };
        for (a, b) in of_a.iter().zip(&of_b) {
            assert!([(Created::New, later), (later, Created::New)].contains(&(a.1, b.1)), "{a:?} and {b:?}");
        }
    }
    assert_eq!(a.store.counts().unwrap().pending, 8 * ORDERS as u64);
}

#[test]
fn an_order_that_another_transaction_has_just_stored_is_judged_once_that_is_over() {
    let Some((a, _b, _, schema)) = two() else { return };
    let mut other = session(&schema);
    for (id, end, expected) in [
        ("1", "COMMIT", [Created::Replayed, Created::Conflict, Created::Replayed]),
        ("2", "ROLLBACK", [Created::New, Created::Conflict, Created::Replayed]),
    ] {
        other.execute("BEGIN", PATIENCE).unwrap();
        let columns = "order_id, user_id, item_ids, total_amount, status, created_at";
        let values = format!("'{id}', 'u', '[\"i\"]', '1.50', 'Pending', 10");
        other.execute(&format!("INSERT INTO orders ({columns}) VALUES ({values})"), PATIENCE).unwrap();
        let (sender, receiver) = channel();
        for (n, user) in ["u", "v", "u"].into_iter().enumerate() {
            let sender = sender.clone();
            let order = NewOrder { user_id: user.into(), ..new_order(id) };
            a.store.create(order, move |created| sender.send((n, created.unwrap())).unwrap());
        }
        let early = receiver.recv_timeout(Duration::from_millis(300));
        assert!(early.is_err(), "answered while it was open: {early:?}");
        other.execute(end, PATIENCE).unwrap();
        for _ in expected {
            let (n, created) = receiver.recv_timeout(PATIENCE).unwrap();
            assert_eq!(created, expected[n], "{id}, number {n}, after {end}");
        }
    }
}

/// What a forgotten psql or a long pg_dump does: nothing that has died since can be cleaned away, and the indexes fill with it.
#[test]
fn claims_at_the_end_of_a_backlog_are_as_fast_as_at_its_start_while_an_old_snapshot_is_held_and_orders_come() {
    const AT_ONCE: usize = 256;
    let backlog = quick_or_slow(50_000, 1_000_000);
    let Some((a, _b, _, schema)) = two() else { return };
    let mut session_of_filler = session(&schema);
    let fill = format!(
        "INSERT INTO orders (order_id, user_id, item_ids, total_amount, status, created_at)
           SELECT md5(n::text), 'u' || n % 1000, '[\"i\"]', '1', 'Pending', 1 FROM generate_series(1, {backlog}) AS n;
         UPDATE counts SET pending = pending + {backlog} WHERE slot = 0"
    );
    session_of_filler.execute(&fill, 60 * PATIENCE).unwrap();
    let mut reader = session(&schema);
    reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ", PATIENCE).unwrap();
    assert_eq!(reader.text("SELECT count(*) FROM counts").unwrap().as_deref(), Some("64"));
    let (mut claimed, mut took, mut came) = (Vec::new(), Vec::new(), 0);
    // The first ones prepare statements, and fill caches.
    for round in 0.. {
        for n in 0..AT_ONCE / 8 {
            a.store.create(new_order(&format!("{round}-{n}")), |created| assert_eq!(created.unwrap(), Created::New));
            came += 1;
        }
        let endings = claimed.iter().map(|order| Ending { order: *order, outcome: Outcome::Completed }).collect();
        let begun = Instant::now();
        claimed = answer(|done| a.store.process(endings, AT_ONCE, false, done)).unwrap();
        took.push(begun.elapsed());
        assert_eq!(claimed.len(), AT_ONCE);
        if (round + 2) * AT_ONCE > backlog {
            break;
        }
    }
    assert_eq!(reader.text("SELECT count(*) FROM orders WHERE status = 'Completed'").unwrap().as_deref(), Some("0"));
    reader.execute("COMMIT", PATIENCE).unwrap();
    let part = took.len() / 5;
    let rate = |took: &[Duration]| (took.len() * AT_ONCE) as f64 / took.iter().sum::<Duration>().as_secs_f64();
    let (first, last) = (rate(&took[3..part + 3]), rate(&took[took.len() - part..]));
    let counts = a.store.counts().unwrap();
    eprintln!(
        "an old snapshot and {backlog} pending, {came} more meanwhile: {first:.0} claims/s in the first fifth, {last:.0} in the last, \
         a ratio of {:.2}",
        last / first
    );
    assert_eq!(
        counts.of(Status::Completed) + counts.of(Status::Processing) + counts.of(Status::Pending),
        (backlog + came) as u64
    );
    assert!(last / first > quick_or_slow(0.3, 0.5), "claims became slower: {first:.0}/s at first, {last:.0}/s at last");
}
