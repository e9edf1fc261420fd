//! The store by its surface: what is answered, in what order, and what one change's misfortune means for the others.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

#[cfg(feature = "postgres")]
#[path = "../../tests/it/harness/cluster.rs"]
#[allow(dead_code, reason = "the tests of the whole, whose it is, harm servers of their own")]
pub(super) mod cluster;
#[cfg(feature = "postgres")]
#[allow(dead_code, reason = "the other target uses the rest")]
#[path = "../../tests/it/harness/proxy.rs"]
pub(super) mod proxy;
#[cfg(feature = "postgres")]
#[allow(dead_code, reason = "the other target uses the rest")]
#[path = "../../tests/it/harness/slow.rs"]
mod slow;

use super::sqlite::tests::by_hand;
use super::*;
#[cfg(feature = "postgres")]
pub(super) use slow::quick_or_slow;

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
        #[cfg(feature = "postgres")]
        cluster::assert_no_deadlock();
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
        let folder = Folder::new();
        Fixture::of(folder.lock(), folder)
    }

    /// The same on a server, in a schema of its own, if there is one to be had.
    #[cfg(feature = "postgres")]
    pub(super) fn on_server() -> Option<Fixture> {
        Some(Fixture::at(&cluster::cluster()?.fresh_url("")))
    }

    /// One of the instances that share the schema of this URL.
    #[cfg(feature = "postgres")]
    pub(super) fn at(url: &str) -> Fixture {
        Fixture::of(Lock::acquire(url.as_ref()).unwrap(), Folder::new())
    }

    /// Another one of the same kind, which shares nothing with it.
    pub(super) fn another(&self) -> Fixture {
        #[cfg(feature = "postgres")]
        if self.lock.server().is_some() {
            return Fixture::on_server().unwrap();
        }
        Fixture::new()
    }

    fn of(lock: Lock, folder: Folder) -> Fixture {
        let clock = Clock::manual(10);
        let (tell, broken) = channel();
        let store = Store::open(&lock, opening(clock.clone()), move |e| tell.send(e).unwrap()).unwrap();
        Fixture { store: Arc::new(store), clock, broken, lock, _folder: folder }
    }

    /// The same file, after the store was closed.
    pub(super) fn reopened(&self) -> Store {
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

pub(super) fn ended(order: Claimed, outcome: Outcome) -> Vec<Ending> {
    vec![Ending { order, outcome }]
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
fn what_is_in_processing_is_listed_with_its_claim_whoever_made_it() {
    let f = Fixture::new();
    f.create_all(["1", "2", "3", "4"]);
    let claimed = f.claim(3);
    answer(|done| f.store.process(ended(claimed[1], Outcome::Completed), 0, false, done)).unwrap();
    let id = |id: &str| OrderId::new(id).unwrap();
    assert_eq!(f.store.in_processing().unwrap(), [(claimed[0], id("1")), (claimed[2], id("3"))]);
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
