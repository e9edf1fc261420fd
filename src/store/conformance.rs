//! What a store does by its surface, wherever it keeps the orders: every function here is a test on a file, and one on a server.

mod batches;

use std::collections::{HashMap, HashSet};
use std::sync::mpsc::channel;
use std::time::Duration;

use super::tests::{Fixture, answer, ended, new_order};
use super::*;
use crate::order::Timestamp;
use batches::any_split_of_a_sequence_of_changes_into_batches_gives_the_table_of_a_model;

/// Makes the tests of what it is given.
macro_rules! on_each {
    ($($name:ident),* $(,)?) => {
        mod file {
            $(#[test] fn $name() { super::$name(&super::Fixture::new()); })*
        }
        #[cfg(feature = "postgres")]
        mod server {
            $(#[test] fn $name() {
                if let Some(fixture) = super::Fixture::on_server() {
                    super::$name(&fixture);
                }
            })*
        }
    };
}

on_each!(
    a_change_is_answered_after_its_commit_and_read_back,
    the_counts_follow_every_step_of_an_order,
    a_claim_that_is_put_back_has_cost_nothing,
    a_completed_order_has_no_error_any_more,
    orders_that_are_due_and_fresh_ones_take_turns,
    changes_are_finished_in_the_order_of_the_queue_and_a_panic_is_its_own_alone,
    closing_commits_what_is_queued_and_refuses_what_comes_later,
    a_page_holds_as_many_records_as_its_bytes_allow_but_at_least_one,
    the_same_id_twice_in_a_batch_is_one_order_and_the_first_stands,
    one_order_from_many_threads_is_stored_once,
    pages_show_every_order_of_a_status_and_a_user_once,
    a_late_end_changes_nothing_and_a_revived_order_keeps_its_count,
    finished_orders_are_deleted_by_their_age,
    what_is_imported_is_as_it_was_and_counted,
    whatever_happens_in_whatever_order_the_counts_and_the_orders_agree,
    any_split_of_a_sequence_of_changes_into_batches_gives_the_table_of_a_model,
);

fn a_change_is_answered_after_its_commit_and_read_back(f: &Fixture) {
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

fn the_counts_follow_every_step_of_an_order(f: &Fixture) {
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

fn a_claim_that_is_put_back_has_cost_nothing(f: &Fixture) {
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

fn a_completed_order_has_no_error_any_more(f: &Fixture) {
    f.create_all(["1"]);
    let retry = Outcome::Retry { at_ms: 0, error: "no stock".into() };
    answer(|done| f.store.process(ended(f.claim(1)[0], retry), 0, false, done)).unwrap();
    let again = f.claim(1)[0];
    assert_eq!(f.record("1").last_error.as_deref(), Some("no stock"));
    answer(|done| f.store.process(ended(again, Outcome::Completed), 0, false, done)).unwrap();
    assert_eq!(f.record("1").last_error, None);
}

/// One place at a time, as with few commands: whoever always goes first would keep the other kind waiting for ever.
fn orders_that_are_due_and_fresh_ones_take_turns(f: &Fixture) {
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

fn changes_are_finished_in_the_order_of_the_queue_and_a_panic_is_its_own_alone(f: &Fixture) {
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

fn closing_commits_what_is_queued_and_refuses_what_comes_later(f: &Fixture) {
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

fn a_page_holds_as_many_records_as_its_bytes_allow_but_at_least_one(f: &Fixture) {
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

/// Asked for in one go, so that they come in one transaction or a few.
fn the_same_id_twice_in_a_batch_is_one_order_and_the_first_stands(f: &Fixture) {
    let (sender, receiver) = channel();
    let other = |id: &str| NewOrder { user_id: "v".into(), ..new_order(id) };
    for n in 0..100 {
        for (at, order) in [new_order(&n.to_string()), other(&n.to_string()), new_order(&n.to_string())].into_iter().enumerate()
        {
            let sender = sender.clone();
            f.store.create(order, move |created| sender.send((at, created.unwrap())).unwrap());
        }
    }
    drop(sender);
    for (at, created) in receiver {
        assert_eq!(created, [Created::New, Created::Conflict, Created::Replayed][at]);
    }
    assert_eq!(f.store.counts().unwrap().pending, 100);
    assert_eq!(f.record("7").user_id, "u");
}

fn one_order_from_many_threads_is_stored_once(f: &Fixture) {
    let store = &f.store;
    let create = |n: usize| answer(|done| store.create(new_order(&n.to_string()), done)).unwrap();
    let created: Vec<Created> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| (0..50).map(|n| create(n % 10)).collect::<Vec<_>>())).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(created.iter().filter(|created| **created == Created::New).count(), 10);
    assert!(!created.contains(&Created::Conflict));
}

fn pages_show_every_order_of_a_status_and_a_user_once(f: &Fixture) {
    let user = |n: usize| ["u", "v", "w"][n % 3];
    for n in 0..40 {
        let order = NewOrder { user_id: user(n).into(), ..new_order(&format!("{n:02}")) };
        assert_eq!(answer(|done| f.store.create(order, done)).unwrap(), Created::New);
    }
    let claimed = f.claim(20);
    let outcomes = [
        Outcome::Completed,
        Outcome::Failed { error: "no".into() },
        Outcome::Retry { at_ms: 1_000_000, error: "later".into() },
    ];
    let endings = claimed[..15].iter().zip(outcomes.iter().cycle());
    let endings = endings.map(|(order, outcome)| Ending { order: *order, outcome: outcome.clone() }).collect();
    answer(|done| f.store.process(endings, 0, false, done)).unwrap();
    let all = |status: Option<Status>, user_id: Option<&str>, limit: usize| {
        let filter = Filter { status, user_id: user_id.map(str::to_string) };
        let (mut ids, mut before) = (Vec::new(), None);
        loop {
            let page = f.store.page(&filter, before, limit, usize::MAX).unwrap();
            assert!(page.orders.len() <= limit);
            assert!(page.orders.iter().all(|order| status.is_none_or(|status| order.status == status)));
            ids.extend(page.orders.iter().map(|order| order.order_id.to_string()));
            match page.next {
                Some(next) => before = Some(next),
                None => return ids,
            }
        }
    };
    for limit in [1, 7, 100] {
        let mut seen = HashSet::new();
        for status in Status::ALL {
            let of_status = all(Some(status), None, limit);
            assert!(of_status.is_sorted_by(|a, b| a > b), "{status:?}: {of_status:?}");
            let by_user: HashSet<_> = ["u", "v", "w"].iter().flat_map(|user| all(Some(status), Some(user), limit)).collect();
            assert_eq!(by_user, of_status.iter().cloned().collect(), "{status:?}");
            of_status.into_iter().for_each(|id| assert!(seen.insert(id)));
        }
        assert_eq!(seen.len(), 40);
        assert_eq!(all(None, None, limit).len(), 40);
        assert_eq!(all(None, Some("v"), limit).len(), 13);
    }
}

fn a_late_end_changes_nothing_and_a_revived_order_keeps_its_count(f: &Fixture) {
    f.create_all(["1"]);
    let first = f.claim(1)[0];
    let failed = Outcome::Failed { error: "no".into() };
    answer(|done| f.store.process(ended(first, failed.clone()), 0, false, done)).unwrap();
    // It has ended already.
    answer(|done| f.store.process(ended(first, Outcome::Completed), 0, false, done)).unwrap();
    assert_eq!(f.record("1").status, Status::Failed);
    answer(|done| f.store.revive(OrderId::new("1").unwrap(), done)).unwrap();
    let second = f.claim(1)[0];
    assert_eq!((second.seq, second.attempt), (first.seq, 2));
    // Of an attempt that is no longer its last.
    answer(|done| f.store.process(ended(first, Outcome::Completed), 0, false, done)).unwrap();
    assert_eq!((f.record("1").status, f.record("1").attempts), (Status::Processing, 2));
    answer(|done| f.store.process(ended(second, Outcome::Completed), 0, false, done)).unwrap();
    assert_eq!(f.record("1").status, Status::Completed);
}

fn finished_orders_are_deleted_by_their_age(f: &Fixture) {
    f.create_all(["1", "2", "3", "4"]);
    let claimed = f.claim(3);
    answer(|done| f.store.process(ended(claimed[0], Outcome::Completed), 0, false, done)).unwrap();
    f.clock.advance(Duration::from_secs(1));
    answer(|done| f.store.process(ended(claimed[1], Outcome::Completed), 0, false, done)).unwrap();
    answer(|done| f.store.process(ended(claimed[2], Outcome::Failed { error: "no".into() }), 0, false, done)).unwrap();
    let prune = |status, before_ms| answer(|done| f.store.prune(status, before_ms, 0, done)).unwrap();
    let pruned = prune(Status::Completed, 500);
    assert_eq!((pruned.deleted, pruned.next), (vec!["1".to_string()], None));
    assert_eq!(prune(Status::Failed, 500).deleted.len(), 0);
    assert_eq!(prune(Status::Failed, 5_000).deleted, ["3"]);
    let counts = f.store.counts().unwrap();
    assert_eq!((counts.pending, counts.completed, counts.failed, counts.processing_ms), (1, 1, 0, 1_000));
    assert_eq!(f.create("1"), Created::New, "its id is free again");
}

fn what_is_imported_is_as_it_was_and_counted(f: &Fixture) {
    let exported = |id: &str, status: Status, completed_ms: Option<i64>, retry_ms: Option<i64>| Exported {
        order: new_order(id),
        status,
        attempts: 3,
        created_at: Timestamp(1_000),
        started_at: Some(Timestamp(1_100)),
        completed_at: completed_ms.map(Timestamp),
        ended_at: None,
        retry_at: retry_ms.map(Timestamp),
        last_error: Some("no\0stock".into()),
    };
    let import = |orders: Vec<Exported>| answer(|done| f.store.import(orders, done)).unwrap();
    let all = || {
        vec![
            exported("c", Status::Completed, Some(1_250), None),
            exported("b", Status::Pending, None, Some(5_000)),
            exported("d", Status::Processing, None, None),
            // By a clock that was set back meanwhile, and by someone who has forgotten the time.
            exported("e", Status::Completed, Some(900), None),
            exported("f", Status::Completed, None, None),
            exported("a", Status::Failed, None, None),
            exported("g", Status::Cancelled, None, None),
        ]
    };
    f.create_all(["x"]);
    assert_eq!(import(all()), [Created::New; 7]);
    let counts = Counts { pending: 2, processing: 1, completed: 3, failed: 1, cancelled: 1, processing_ms: 250 };
    assert_eq!(f.store.counts().unwrap(), counts);
    let page = f.store.page(&Filter::default(), None, 10, usize::MAX).unwrap();
    assert_eq!(page.orders.iter().map(|order| order.order_id.as_str()).collect::<String>(), "gafedbcx");
    let record = f.record("c");
    assert_eq!((record.status, record.attempts, record.created_at), (Status::Completed, 3, Timestamp(1_000)));
    assert_eq!((record.started_at, record.completed_at), (Some(Timestamp(1_100)), Some(Timestamp(1_250))));
    assert!(record.last_error.is_some_and(|error| error.starts_with("no") && error.ends_with("stock")));
    // What nobody who lives is working on is anybody's to end, and what waits has its time.
    let left = f.store.in_processing().unwrap();
    assert_eq!(left.iter().map(|(claim, id)| (claim.attempt, id.as_str())).collect::<Vec<_>>(), [(3, "d")]);
    answer(|done| f.store.process(ended(left[0].0, Outcome::Completed), 0, false, done)).unwrap();
    assert_eq!(f.claim(10).len(), 1);
    assert_eq!(f.store.next_claim_ms().unwrap(), Some(5_000));

    // It is the same order still, whatever has become of it; and another by whatever a client had sent else.
    assert_eq!(import(all()), [Created::Replayed; 7]);
    let other =
        Exported { order: NewOrder { user_id: "v".into(), ..new_order("c") }, ..exported("c", Status::Pending, None, None) };
    let (new, twice) = (exported("h", Status::Failed, None, None), exported("i", Status::Failed, None, None));
    let unlike = Exported { order: NewOrder { user_id: "v".into(), ..new_order("i") }, ..twice.clone() };
    let imported = import(vec![other, new, twice.clone(), unlike, twice]);
    assert_eq!(imported, [Created::Conflict, Created::New, Created::New, Created::Conflict, Created::Replayed]);
    assert_eq!(f.record("i").user_id, "u");
    assert_eq!(f.store.counts().unwrap().total(), 10);
}

/// Held against a model that does the same in memory.
fn whatever_happens_in_whatever_order_the_counts_and_the_orders_agree(f: &Fixture) {
    let mut lot = 7_u64;
    let mut draw = |n: u64| {
        lot = lot.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (lot >> 33) % n
    };
    let mut model: HashMap<String, Status> = HashMap::new();
    let mut claimed: Vec<Claimed> = Vec::new();
    let mut names: HashMap<i64, String> = HashMap::new();
    for _ in 0..300 {
        let id = draw(40).to_string();
        match draw(6) {
            0 | 1 => {
                let expected = if model.contains_key(&id) { Created::Replayed } else { Created::New };
                assert_eq!(f.create(&id), expected);
                model.entry(id).or_insert(Status::Pending);
            }
            2 => {
                for claim in f.claim(draw(4) as usize) {
                    let order = f.store.claimed_order(claim).unwrap().unwrap();
                    assert_eq!(model.insert(order.order_id.to_string(), Status::Processing), Some(Status::Pending));
                    names.insert(claim.seq, order.order_id.to_string());
                    claimed.push(claim);
                }
            }
            3 if !claimed.is_empty() => {
                let claim = claimed.swap_remove(draw(claimed.len() as u64) as usize);
                let (outcome, status) = match draw(3) {
                    0 => (Outcome::Completed, Status::Completed),
                    1 => (Outcome::Failed { error: "no".into() }, Status::Failed),
                    _ => (Outcome::Retry { at_ms: 5, error: "later".into() }, Status::Pending),
                };
                answer(|done| f.store.process(ended(claim, outcome), 0, false, done)).unwrap();
                model.insert(names[&claim.seq].clone(), status);
            }
            4 => {
                let done = answer(|done| f.store.revive(OrderId::new(&id).unwrap(), done)).unwrap();
                match model.get(&id) {
                    None => assert_eq!(done, Changed::Unknown),
                    Some(Status::Failed) => {
                        assert!(matches!(done, Changed::To(_)), "{done:?}");
                        model.insert(id, Status::Pending);
                    }
                    Some(_) => assert_eq!(done, Changed::Not),
                }
            }
            _ => {
                let done = answer(|done| f.store.cancel(OrderId::new(&id).unwrap(), done)).unwrap();
                if model.get(&id) == Some(&Status::Pending) {
                    assert!(matches!(done, Changed::To(_)), "{done:?}");
                    model.insert(id, Status::Cancelled);
                }
            }
        }
        let counts = f.store.counts().unwrap();
        for status in Status::ALL {
            assert_eq!(counts.of(status), model.values().filter(|found| **found == status).count() as u64, "{status:?}");
        }
    }
    for (id, status) in &model {
        assert_eq!(f.store.status(&OrderId::new(id).unwrap()).unwrap(), Some(*status), "{id}");
    }
}
