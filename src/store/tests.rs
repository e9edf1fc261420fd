//! The store by its surface: what is answered, in what order, and what one change's misfortune means for the others.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use super::sqlite::tests::by_hand;
use super::*;

/// Longer than anything takes that comes at all.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A folder for one test, removed with it.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Folder {
        static FOLDERS: AtomicU32 = AtomicU32::new(0);
        let name = format!("orderd-unit-{}-{}", std::process::id(), FOLDERS.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        Folder(folder)
    }

    pub(crate) fn lock(&self) -> Lock {
        Lock::acquire(&self.0.join("orders.db")).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn opening(clock: Clock) -> Opening {
    Opening { readers: 2, clock, predecessor_lives: false, accept_loss: false }
}

/// A store in a folder of its own, with a clock that stands at 10 until it is turned.
pub(crate) struct Fixture {
    pub(crate) store: Arc<Store>,
    pub(crate) clock: Clock,
    /// Hears what `on_broken` is told.
    broken: Receiver<Refused>,
    pub(crate) lock: Lock,
    _folder: Folder,
}

impl Fixture {
    pub(crate) fn new() -> Fixture {
        let (folder, clock) = (Folder::new(), Clock::manual(10));
        let lock = folder.lock();
        let (tell, broken) = channel();
        let store = Store::open(&lock, opening(clock.clone()), move |e| tell.send(e).unwrap()).unwrap();
        Fixture { store: Arc::new(store), clock, broken, lock, _folder: folder }
    }

    /// The same file, after the store was closed.
    fn reopened(&self) -> Store {
        Store::open(&self.lock, opening(self.clock.clone()), |e| panic!("{e}")).unwrap()
    }

    pub(crate) fn create(&self, id: &str) -> Created {
        answer(|done| self.store.create(new_order(id), done)).unwrap()
    }

    pub(crate) fn create_all<const N: usize>(&self, ids: [&str; N]) {
        assert_eq!(ids.map(|id| self.create(id)), [Created::New; N]);
    }

    pub(crate) fn claim(&self, claim: usize) -> Vec<Claimed> {
        answer(|done| self.store.process(Vec::new(), claim, false, done)).unwrap()
    }

    pub(crate) fn record(&self, id: &str) -> Order {
        self.store.order(&OrderId::new(id).unwrap()).unwrap().unwrap()
    }
}

/// Asks for a change and waits for its answer.
#[track_caller]
pub(crate) fn answer<A: Send + 'static>(ask: impl FnOnce(Box<dyn FnOnce(A) + Send>)) -> A {
    let (sender, receiver) = channel();
    ask(Box::new(move |answer| sender.send(answer).unwrap()));
    receiver.recv_timeout(PATIENCE).unwrap()
}

pub(crate) fn new_order(id: &str) -> NewOrder {
    let body = format!(r#"{{"order_id":"{id}","user_id":"u","item_ids":["i"],"total_amount":1.50}}"#);
    NewOrder::from_json(body.as_bytes()).unwrap()
}

fn ended(order: Claimed, outcome: Outcome) -> Vec<Ending> {
    vec![Ending { order, outcome }]
}

#[test]
fn a_change_is_answered_after_its_commit_and_read_back() {
    let f = Fixture::new();
    let store = f.store.clone();
    let (created, status) = answer(|done| {
        f.store.create(new_order("1"), move |created| {
            done((created.unwrap(), store.status(&OrderId::new("1").unwrap()).unwrap()));
        });
    });
    assert_eq!((created, status), (Created::New, Some(Status::Pending)));
    assert_eq!(f.create("1"), Created::Replayed);
    let other = NewOrder { user_id: "v".into(), ..new_order("1") };
    assert_eq!(answer(|done| f.store.create(other, done)).unwrap(), Created::Conflict);
    answer(|done| f.store.probe(done)).unwrap();
    assert_eq!(f.store.next_claim_ms().unwrap(), Some(0));
    assert_eq!(f.store.order(&OrderId::new("2").unwrap()).unwrap(), None);
}

#[test]
fn the_counts_follow_every_step_of_an_order() {
    let f = Fixture::new();
    let counts = |pending, processing, completed, failed| {
        let found = f.store.counts().unwrap();
        assert_eq!((found.pending, found.processing, found.completed, found.failed), (pending, processing, completed, failed));
    };
    f.create_all(["1", "2", "3", "4"]);
    let claimed = f.claim(3);
    counts(1, 3, 0, 0);
    f.clock.advance(Duration::from_millis(40));
    answer(|done| f.store.process(ended(claimed[0], Outcome::Completed), 0, false, done)).unwrap();
    let failed = Outcome::Failed { error: "no stock".into() };
    answer(|done| f.store.process(ended(claimed[1], failed), 0, false, done)).unwrap();
    counts(1, 1, 1, 1);
    let retry = Outcome::Retry { at_ms: 90, error: "later".into() };
    answer(|done| f.store.process(ended(claimed[2], retry), 1, false, done)).unwrap();
    counts(1, 1, 1, 1);
    assert_eq!(f.store.next_claim_ms().unwrap(), Some(90));
    let Changed::To(revived) = answer(|done| f.store.revive(OrderId::new("2").unwrap(), done)).unwrap() else {
        panic!("it had failed")
    };
    assert_eq!((revived.status, revived.last_error.as_deref()), (Status::Pending, Some("no stock")));
    let revive = |id: &str| answer(|done| f.store.revive(OrderId::new(id).unwrap(), done)).unwrap();
    assert_eq!((revive("2"), revive("5")), (Changed::Not, Changed::Unknown));
    counts(2, 1, 1, 0);
    let cancel = |id: &str| answer(|done| f.store.cancel(OrderId::new(id).unwrap(), done)).unwrap();
    // One that waits to be tried again, and one that was never tried.
    for id in ["3", "2"] {
        let Changed::To(cancelled) = cancel(id) else { panic!("{id} was pending") };
        assert_eq!((cancelled.status, cancelled.completed_at), (Status::Cancelled, None));
    }
    assert_eq!([cancel("1"), cancel("2"), cancel("4"), revive("2")], [const { Changed::Not }; 4]);
    assert_eq!(cancel("5"), Changed::Unknown);
    counts(0, 1, 1, 0);
    assert_eq!((f.store.counts().unwrap().processing_ms, f.store.counts().unwrap().cancelled), (40, 2));
    assert_eq!(f.store.next_claim_ms().unwrap(), None);
}

#[test]
fn a_delayed_order_waits_by_its_length_when_the_clock_is_set() {
    const YEAR_MS: i64 = 31_536_000_000;
    let f = Fixture::new();
    f.create("1");
    let claimed = f.claim(1);
    let retry = Outcome::Retry { at_ms: 90, error: "later".into() };
    answer(|done| f.store.process(ended(claimed[0], retry), 0, false, done)).unwrap();
    for step_ms in [YEAR_MS, -YEAR_MS] {
        let before = f.store.next_claim_ms().unwrap().unwrap();
        f.store.shift_retries(step_ms);
        answer(|done| f.store.probe(done)).unwrap();
        assert_eq!(f.store.next_claim_ms().unwrap(), Some((before + step_ms).max(1)));
    }
    // While no server ran: the attempt began in the future, and 80 ms later its next one was due.
    by_hand(&f.lock, &format!("UPDATE orders SET retry_at = {YEAR_MS} + 80, started_at = {YEAR_MS}"));
    f.store.close();
    let store = f.reopened();
    answer(|done| store.probe(done)).unwrap();
    assert_eq!(store.next_claim_ms().unwrap(), Some(10 + 80));
}

#[test]
fn a_claim_that_is_put_back_has_cost_nothing() {
    let f = Fixture::new();
    f.create_all(["1", "2"]);
    let claimed = f.claim(2);
    answer(|done| f.store.put_back(vec![claimed[0]], done)).unwrap();
    let record = f.record("1");
    assert_eq!((record.status, record.attempts, record.started_at), (Status::Pending, 0, None));
    assert_eq!((f.record("2").status, f.record("2").attempts), (Status::Processing, 1));
    assert_eq!(f.claim(2), [claimed[0]], "the attempt has its number again");

    // Neither of another attempt, nor of an order that is no longer processed.
    answer(|done| f.store.put_back(vec![Claimed { seq: 2, attempt: 2 }], done)).unwrap();
    answer(|done| f.store.process(ended(claimed[1], Outcome::Completed), 0, false, done)).unwrap();
    answer(|done| f.store.put_back(vec![claimed[1]], done)).unwrap();
    assert_eq!((f.record("2").status, f.record("2").attempts), (Status::Completed, 1));
    let counts = f.store.counts().unwrap();
    assert_eq!((counts.pending, counts.processing, counts.completed), (0, 1, 1));
}

#[test]
fn what_is_in_processing_is_listed_with_its_claim_whoever_made_it() {
    let f = Fixture::new();
    f.create_all(["1", "2", "3", "4"]);
    let claimed = f.claim(3);
    answer(|done| f.store.process(ended(claimed[1], Outcome::Completed), 0, false, done)).unwrap();
    let id = |id: &str| OrderId::new(id).unwrap();
    assert_eq!(f.store.in_processing().unwrap(), [(claimed[0], id("1")), (claimed[2], id("3"))]);
}

#[test]
fn a_completed_order_has_no_error_any_more() {
    let f = Fixture::new();
    f.create_all(["1"]);
    let retry = Outcome::Retry { at_ms: 0, error: "no stock".into() };
    answer(|done| f.store.process(ended(f.claim(1)[0], retry), 0, false, done)).unwrap();
    let again = f.claim(1)[0];
    assert_eq!(f.record("1").last_error.as_deref(), Some("no stock"));
    answer(|done| f.store.process(ended(again, Outcome::Completed), 0, false, done)).unwrap();
    assert_eq!(f.record("1").last_error, None);
}

/// One place at a time, as with few commands: whoever always goes first would keep the other kind waiting for ever.
#[test]
fn orders_that_are_due_and_fresh_ones_take_turns() {
    let f = Fixture::new();
    let ids: Vec<_> = (0..100).map(|n| n.to_string()).collect();
    ids.iter().for_each(|id| _ = f.create(id));
    let retry = |order| Ending { order, outcome: Outcome::Retry { at_ms: 1, error: "later".into() } };
    let due: Vec<_> = f.claim(50).into_iter().map(retry).collect();
    answer(|done| f.store.process(due, 0, false, done)).unwrap();
    let one_by_one: Vec<_> = (0..40).flat_map(|_| f.claim(1)).collect();
    let again = one_by_one.iter().filter(|order| order.attempt == 2).count();
    assert!((5..=35).contains(&again), "{again} of 40");
    // And each kind takes what the other leaves.
    let rest = f.claim(100);
    assert_eq!((one_by_one.len() + rest.len(), f.claim(1)), (100, vec![]));
    assert_eq!(rest.iter().filter(|order| order.attempt == 2).count(), 50 - again);
}

#[test]
fn changes_are_finished_in_the_order_of_the_queue_and_a_panic_is_its_own_alone() {
    let f = Fixture::new();
    let (sender, receiver) = channel();
    for n in 0..5_000 {
        let sender = sender.clone();
        f.store.create(new_order(&n.to_string()), move |created| {
            assert!(n % 3 > 0, "a panic on purpose");
            sender.send((n, created.unwrap())).unwrap();
        });
    }
    drop(sender);
    let finished: Vec<_> = receiver.iter().collect();
    let expected: Vec<_> = (0..5_000).filter(|n| n % 3 > 0).map(|n| (n, Created::New)).collect();
    assert_eq!(finished, expected);
    assert_eq!(f.store.counts().unwrap().pending, 5_000);
}

#[test]
fn a_deferrable_change_waits_for_another_but_not_for_long() {
    let f = Fixture::new();
    f.create("1");
    let begun = Instant::now();
    assert_eq!(answer(|done| f.store.process(Vec::new(), 1, true, done)).unwrap().len(), 1);
    assert!(begun.elapsed() >= Duration::from_millis(5), "{:?}", begun.elapsed());

    // One that comes along takes it with it, in the order of the queue.
    let (sender, receiver) = channel();
    let second = sender.clone();
    f.store.process(Vec::new(), 1, true, move |claimed| sender.send(claimed.unwrap().len()).unwrap());
    f.store.create(new_order("2"), move |_| second.send(9).unwrap());
    assert_eq!(receiver.iter().collect::<Vec<_>>(), [0, 9], "claimed before the order was created");
}

#[test]
fn closing_commits_what_is_queued_and_refuses_what_comes_later() {
    let f = Fixture::new();
    let (sender, receiver) = channel();
    for n in 0..100 {
        let sender = sender.clone();
        f.store.create(new_order(&n.to_string()), move |created| sender.send(created.is_ok()).unwrap());
    }
    f.store.process(Vec::new(), 1, true, move |claimed| sender.send(claimed.is_ok()).unwrap());
    f.store.close();
    assert_eq!(receiver.try_iter().filter(|stored| *stored).count(), 101);
    assert!(answer(|done| f.store.create(new_order("late"), done)).is_err());
    assert!(f.store.counts().is_err());
    f.store.close();
    assert_eq!(f.reopened().counts().unwrap().pending, 99);
}

#[test]
fn the_last_handle_may_be_dropped_by_a_finish() {
    let folder = Folder::new();
    let lock = folder.lock();
    let store = Arc::new(Store::open(&lock, opening(Clock::system()), |_| {}).unwrap());
    let (go, wait) = channel::<()>();
    let last = store.clone();
    let finished = answer(|done| {
        store.probe(move |probed| {
            wait.recv().unwrap();
            drop(last);
            done(probed.is_ok());
        });
        drop(store);
        go.send(()).unwrap();
    });
    assert!(finished);
}

#[test]
fn once_the_file_is_gone_everything_is_refused_and_it_is_told_once() {
    let f = Fixture::new();
    f.create("1");
    std::fs::remove_file(f.lock.database()).unwrap();
    for _ in 0..2 {
        let refused = answer(|done| f.store.create(new_order("2"), done)).unwrap_err();
        assert!(matches!(*refused, Error::Broken(_)), "{refused}");
    }
    f.store.close();
    assert_eq!(f.broken.iter().count(), 1);
}

#[test]
fn a_refused_transaction_stores_nothing_and_the_next_one_is_as_good_as_any() {
    let f = Fixture::new();
    by_hand(&f.lock, "ALTER TABLE status_counts RENAME TO elsewhere");
    let refused = answer(|done| f.store.create(new_order("1"), done)).unwrap_err();
    assert!(matches!(*refused, Error::Database(_)), "{refused}");
    assert_eq!(f.store.status(&OrderId::new("1").unwrap()).unwrap(), None);
    by_hand(&f.lock, "ALTER TABLE elsewhere RENAME TO status_counts");
    assert_eq!(f.create("1"), Created::New);
}

#[test]
fn a_page_holds_as_many_records_as_its_bytes_allow_but_at_least_one() {
    let f = Fixture::new();
    f.create_all(["0", "1", "2", "3", "4", "5"]);
    let one = serde_json::to_vec(&f.record("0")).unwrap().len();
    let page = |before, limit, max_bytes| {
        let page = f.store.page(&Filter::default(), before, limit, max_bytes).unwrap();
        (page.orders.iter().map(|order| order.order_id.to_string()).collect::<String>(), page.next)
    };
    assert_eq!(page(None, 10, usize::MAX), ("543210".into(), None));
    assert_eq!(page(None, 6, 6 * one), ("543210".into(), None));
    assert_eq!(page(None, 4, usize::MAX), ("5432".into(), Some(3)));
    assert_eq!(page(None, 4, 4 * one - 1), ("543".into(), Some(4)));
    assert_eq!(page(Some(4), 4, 0), ("2".into(), Some(3)));
    assert_eq!(page(Some(2), 4, 0), ("0".into(), None));
    assert_eq!(page(Some(1), 4, 0), (String::new(), None));
}
