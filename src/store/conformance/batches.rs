//! Changes that are asked for together are committed together; whatever is committed with what, the answers and the table are those
//! of a model that makes one change after the other in memory.
//!
//! What concerns one order comes in the order in which a batch makes it: sent, ended, put back, revived, cancelled, and claims last. Who
//! asks for two things at once has no order to rely on.

use std::collections::HashMap;
use std::sync::mpsc::{Sender, channel};

use super::super::tests::{Fixture, new_order};
use super::super::*;

/// The clock of the fixture.
const NOW_MS: i64 = 10;

#[derive(Debug, Clone)]
enum Step {
    Create(String, &'static str),
    End(String, Outcome),
    PutBack(String),
    Revive(String),
    Cancel(String),
    Claim(usize),
}

/// What a step was answered, as far as the model knows it.
#[derive(Debug, Clone, PartialEq)]
enum Said {
    Created(Created),
    To(Status),
    Not,
    Unknown,
    Done,
    Claimed(Vec<String>),
}

#[derive(Debug, Clone, PartialEq)]
struct Kept {
    id: String,
    user: String,
    status: Status,
    attempts: u32,
    last_error: Option<String>,
    retry_at: i64,
}

/// The table, in the order of arrival.
#[derive(Default)]
struct Model(Vec<Kept>);

impl Model {
    fn find(&mut self, id: &str) -> Option<&mut Kept> {
        self.0.iter_mut().find(|kept| kept.id == id)
    }

    fn make(&mut self, step: &Step) -> Said {
        match step {
            Step::Create(id, user) => Said::Created(match self.find(id) {
                Some(kept) if kept.user == *user => Created::Replayed,
                Some(_) => Created::Conflict,
                None => {
                    let (user, status) = (user.to_string(), Status::Pending);
                    self.0.push(Kept { id: id.clone(), user, status, attempts: 0, last_error: None, retry_at: 0 });
                    Created::New
                }
            }),
            Step::End(id, outcome) => {
                let kept = self.find(id).unwrap();
                (kept.status, kept.retry_at, kept.last_error) = match outcome.clone() {
                    Outcome::Completed => (Status::Completed, 0, None),
                    Outcome::Retry { at_ms, error } => (Status::Pending, at_ms, Some(error)),
                    Outcome::Failed { error } => (Status::Failed, 0, Some(error)),
                };
                Said::Done
            }
            Step::PutBack(id) => {
                let kept = self.find(id).unwrap();
                (kept.status, kept.attempts) = (Status::Pending, kept.attempts - 1);
                Said::Done
            }
            Step::Revive(id) => self.step(id, Status::Failed, Status::Pending),
            Step::Cancel(id) => self.step(id, Status::Pending, Status::Cancelled),
            Step::Claim(limit) => Said::Claimed(self.claim(*limit)),
        }
    }

    fn step(&mut self, id: &str, from: Status, to: Status) -> Said {
        match self.find(id) {
            None => Said::Unknown,
            Some(kept) if kept.status == from => {
                (kept.status, kept.retry_at) = (to, 0);
                Said::To(to)
            }
            Some(_) => Said::Not,
        }
    }

    /// Of those that are due and those that are fresh half each, and what one kind leaves the other takes.
    fn claim(&mut self, limit: usize) -> Vec<String> {
        let pending = |is_it: fn(i64) -> bool| {
            let mut found: Vec<_> =
                self.0.iter().filter(|kept| kept.status == Status::Pending && is_it(kept.retry_at)).collect();
            found.sort_by_key(|kept| kept.retry_at);
            found.into_iter().map(|kept| kept.id.clone()).collect::<Vec<_>>()
        };
        let (due, fresh) = (pending(|at| (1..=NOW_MS).contains(&at)), pending(|at| at == 0));
        let of_due = due.len().min((limit / 2).max(limit.saturating_sub(fresh.len())));
        let mut ids: Vec<_> = due.into_iter().take(of_due).chain(fresh.into_iter().take(limit - of_due)).collect();
        for id in &ids {
            let kept = self.find(id).unwrap();
            (kept.status, kept.attempts, kept.retry_at) = (Status::Processing, kept.attempts + 1, 0);
        }
        ids.sort();
        ids
    }
}

/// Steps that look random, each with what the model says to it. Between two claims each order is changed in the order of kinds.
fn script(lot: &mut impl FnMut(u64) -> u64, model: &mut Model) -> Vec<(Step, Said)> {
    let mut steps = Vec::new();
    let mut ranks: HashMap<String, usize> = HashMap::new();
    while steps.len() < 400 {
        let id = lot(60).to_string();
        let status = model.find(&id).map(|kept| kept.status);
        let outcome = match lot(4) {
            0 => Outcome::Completed,
            1 => Outcome::Failed { error: format!("no {}", lot(9)) },
            2 => Outcome::Retry { at_ms: [0, 5][lot(2) as usize], error: "later".into() },
            _ => Outcome::Retry { at_ms: 5_000, error: "much later".into() },
        };
        let (rank, step) = match lot(12) {
            0..=4 => (0, Step::Create(id.clone(), ["u", "v"][lot(5) as usize / 4])),
            5 | 6 if status == Some(Status::Processing) => (1, Step::End(id.clone(), outcome)),
            7 if status == Some(Status::Processing) => (2, Step::PutBack(id.clone())),
            8 | 9 => (3, Step::Revive(id.clone())),
            10 if lot(3) == 0 => (4, Step::Cancel(id.clone())),
            11 if lot(2) == 0 => (5, Step::Claim(2 * lot(5) as usize)),
            _ => continue,
        };
        // Sent again is compared with what never changes.
        let is_replay = rank == 0 && status.is_some();
        if !is_replay && ranks.get(&id).is_some_and(|last| *last > rank) {
            continue;
        }
        match step {
            Step::Claim(_) => ranks.clear(),
            _ if is_replay => {}
            _ => _ = ranks.insert(id, rank),
        }
        let said = model.make(&step);
        steps.push((step, said));
    }
    steps
}

/// Asks for what a step is about. What is answered comes with the step's number.
fn ask(f: &Fixture, at: usize, step: &Step, claimed: &mut HashMap<String, Claimed>, said: Sender<(usize, Answer)>) {
    let id = |id: &str| OrderId::new(id).unwrap();
    let tell = move |answer| said.send((at, answer)).unwrap();
    let changed = |changed: Result<Changed, Refused>| match changed.unwrap() {
        Changed::To(order) => Said::To(order.status),
        Changed::Not => Said::Not,
        Changed::Unknown => Said::Unknown,
    };
    match step {
        Step::Create(id, user) => {
            let order = NewOrder { user_id: user.to_string(), ..new_order(id) };
            f.store.create(order, move |created| tell(Answer::Said(Said::Created(created.unwrap()))));
        }
        Step::End(id, outcome) => {
            let ended = vec![Ending { order: claimed.remove(id).unwrap(), outcome: outcome.clone() }];
            f.store.process(ended, 0, false, move |ended| tell(Answer::Claimed(ended.unwrap())));
        }
        Step::PutBack(id) => f.store.put_back(vec![claimed.remove(id).unwrap()], move |back| {
            back.unwrap();
            tell(Answer::Said(Said::Done));
        }),
        Step::Revive(of) => f.store.revive(id(of), move |done| tell(Answer::Said(changed(done)))),
        Step::Cancel(of) => f.store.cancel(id(of), move |done| tell(Answer::Said(changed(done)))),
        Step::Claim(limit) => f.store.process(Vec::new(), *limit, false, move |done| tell(Answer::Claimed(done.unwrap()))),
    }
}

enum Answer {
    Said(Said),
    Claimed(Vec<Claimed>),
}

/// Asks for all of these at once, so that one transaction makes them.
fn in_one_batch(f: &Fixture, steps: &[(Step, Said)], claimed: &mut HashMap<String, Claimed>) {
    let (busy, is_busy) = channel();
    let (go, wait) = channel::<()>();
    // Whatever is asked for while the committer is held up is taken together.
    f.store.probe(move |probed| {
        busy.send(probed.is_ok()).unwrap();
        wait.recv().unwrap();
    });
    assert!(is_busy.recv().unwrap());
    let (sender, receiver) = channel();
    for (at, (step, _)) in steps.iter().enumerate() {
        ask(f, at, step, claimed, sender.clone());
    }
    drop(sender);
    go.send(()).unwrap();
    for (at, answer) in receiver {
        let said = match answer {
            Answer::Said(said) => said,
            Answer::Claimed(claims) if matches!(steps[at].0, Step::Claim(_)) => {
                let of = |claim: &Claimed| f.store.claimed_order(*claim).unwrap().unwrap().order_id.to_string();
                let mut ids: Vec<String> = claims.iter().map(&of).collect();
                claimed.extend(ids.iter().cloned().zip(claims.iter().copied()));
                ids.sort();
                Said::Claimed(ids)
            }
            Answer::Claimed(_) => Said::Done,
        };
        assert_eq!(said, steps[at].1, "{:?}, number {at} of a batch of {}", steps[at].0, steps.len());
    }
}

pub(super) fn any_split_of_a_sequence_of_changes_into_batches_gives_the_table_of_a_model(f: &Fixture) {
    let mut number = 23_u64;
    let mut lot = |n: u64| {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (number >> 33) % n
    };
    let mut model = Model::default();
    let steps = script(&mut lot, &mut model);
    for at_most in [1, 7, usize::MAX] {
        let f = f.another();
        let mut claimed = HashMap::new();
        let mut rest = &steps[..];
        while !rest.is_empty() {
            // A claim sees what came before it, so it is the last of a batch.
            let until_claim = rest.iter().position(|(step, _)| matches!(step, Step::Claim(_))).map_or(rest.len(), |at| at + 1);
            let size = if at_most == usize::MAX { until_claim } else { 1 + lot(at_most as u64) as usize }.min(until_claim);
            let (batch, later) = rest.split_at(size);
            in_one_batch(&f, batch, &mut claimed);
            rest = later;
        }
        let page = f.store.page(&Filter::default(), None, 1_000, usize::MAX).unwrap();
        let found: Vec<_> = page.orders.iter().rev().collect();
        let of_model = |kept: &Kept| (kept.id.clone(), kept.user.clone(), kept.status, kept.attempts, kept.last_error.clone());
        let of_table = |order: &&Order| {
            (order.order_id.to_string(), order.user_id.clone(), order.status, order.attempts, order.last_error.clone())
        };
        let (expected, found): (Vec<_>, Vec<_>) =
            (model.0.iter().map(of_model).collect(), found.iter().map(of_table).collect());
        assert_eq!(found, expected, "in batches of {at_most} at most");
        let counts = f.store.counts().unwrap();
        for status in Status::ALL {
            let of_model = model.0.iter().filter(|kept| kept.status == status).count();
            assert_eq!(counts.of(status), of_model as u64, "{status:?}");
        }
    }
}
