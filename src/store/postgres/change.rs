//! What changes orders: a batch of changes in, sorted by kind into a few statements, sent as one transaction in one round trip.
//!
//! Runs on the committer thread, which owns the [`Writer`]. The answers are those that the changes would have got one after the other:
//! within a batch they concern different orders, but for the same order sent twice, which is settled here before anything is sent.
//! Should several concern one order all the same, they are made in the order of their kinds: nobody has heard of one of them before
//! all of them were asked for.
//!
//! After [`Error::Unknown`] the changes may be on disk or not. Those who asked ask again, and every change bears that. A claim
//! whose answer was lost is the exception, as nobody would ask for it again: so the writer knows what it has handed out, and puts
//! back the rest before it does anything else.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_postgres::Row;

use super::connection::{Call, Line, Parameter, WRITE_PATIENCE, jittered};
use super::import;
use super::lease::Lease;
use super::read::{get, order_of, status_in};
use super::sql::{self, Sql};
use crate::error::Error;
use crate::order::{Amount, NewOrder, Order, OrderId, Status};
use crate::store::figures::Done;
use crate::store::rows::{items_from_text, items_to_text};
use crate::store::write::{Changed, Claimed, Created, Ending, LONGEST_WAIT_MS, Outcome, Process, Prune, Pruned, Write};

/// The counts have so many rows, each with the instances whose id leaves the same rest.
const SLOTS: i64 = 64;
/// The most orders that are deleted in one transaction.
const PRUNED_AT_ONCE: i64 = 500;
/// How far below the lowest place of the last claim the next one looks, and how often one looks at all places. The index of fresh orders
/// begins with the dead entries of those that were claimed, and an old snapshot of anybody keeps them there.
const FLOOR_SLACK: i64 = 256;
const LOOK_AT_ALL_EVERY: Duration = Duration::from_secs(1);
/// So often a transaction is tried again that the server has rolled back because of another, and the pause before that. One that has
/// waited for longer than the last has had its patience.
const TRIES: usize = 3;
const TRY_AGAIN: Duration = Duration::from_millis(20);
const TRY_NO_LONGER: Duration = Duration::from_secs(2);
/// The most bytes of orders in one statement: a message may have a gigabyte.
const MOST_BYTES: usize = 16 << 20;

/// The connection that writes.
pub(in crate::store) struct Writer {
    line: Line,
    lease: Arc<Lease>,
    /// The instance that has claimed what is held.
    holder: i64,
    /// The claims that have been handed out and not ended.
    held: HashMap<i64, u32>,
    /// Whether claims may have been made whose answer was lost.
    in_doubt: bool,
    /// Whether endings may have been recorded that are recorded now again.
    is_repeat: bool,
    floor: i64,
    looked_at_all: Option<Instant>,
}

impl Writer {
    pub(super) fn new(line: Line, lease: Arc<Lease>) -> Writer {
        Writer {
            line,
            lease,
            holder: 0,
            held: HashMap::new(),
            in_doubt: false,
            is_repeat: false,
            floor: 0,
            looked_at_all: None,
        }
    }

    /// Makes all of the changes, or none, and keeps their answers.
    ///
    /// # Errors
    /// [`Error::Unknown`] when nobody knows; after any other none of them is made.
    pub(in crate::store) fn apply(&mut self, batch: &mut [Write], now_ms: i64) -> Result<Done, Error> {
        let outcome = self.try_apply(batch, now_ms);
        self.in_doubt |= matches!(outcome, Err(Error::Unknown(_)));
        outcome
    }

    fn try_apply(&mut self, batch: &mut [Write], now_ms: i64) -> Result<Done, Error> {
        let me = self.lease.id();
        if me != self.holder {
            // What the one before me held is not mine to end.
            self.held.clear();
            self.holder = me;
            self.in_doubt = false;
        }
        self.is_repeat = false;
        self.reconcile(me)?;
        let begun = Instant::now();
        let mut tries = 0;
        loop {
            let plan = Plan::new(batch, self.claim_from(), me, now_ms);
            if plan.calls.is_empty() {
                break;
            }
            match self.line.transaction(&plan.calls, WRITE_PATIENCE) {
                Ok(rows) => {
                    let parts = plan.parts;
                    return self.answer(batch, &parts, rows, now_ms);
                }
                Err(Error::Held(_)) if tries < TRIES && begun.elapsed() < TRY_NO_LONGER => {
                    tries += 1;
                    std::thread::sleep(jittered(TRY_AGAIN));
                }
                Err(e) => return Err(e),
            }
        }
        self.answer(batch, &[], Vec::new(), now_ms)
    }

    /// Puts back what is ours and not known.
    fn reconcile(&mut self, me: i64) -> Result<(), Error> {
        if !self.in_doubt {
            return Ok(());
        }
        let (places, attempts): (Vec<i64>, Vec<i32>) = self.held.iter().map(|(seq, attempt)| (*seq, *attempt as i32)).unzip();
        let parameters: Vec<Parameter<'static>> = vec![Box::new(me), Box::new(places), Box::new(attempts), Box::new(slot(me))];
        let call = Call::new(sql::RECONCILE, parameters);
        let back = self.line.transaction(&[call], WRITE_PATIENCE)?;
        (self.in_doubt, self.is_repeat) = (false, true);
        if !back[0].is_empty() {
            log::info!("put back {} claims whose answer was lost", back[0].len());
        }
        Ok(())
    }

    /// The lowest place to look at for fresh orders.
    fn claim_from(&self) -> i64 {
        if self.looked_at_all.is_some_and(|at| at.elapsed() < LOOK_AT_ALL_EVERY) { self.floor } else { 0 }
    }

    fn answer(&mut self, batch: &mut [Write], parts: &[Part], rows: Vec<Vec<Row>>, now_ms: i64) -> Result<Done, Error> {
        let mut found = Found { now_ms, ..Found::default() };
        for (part, rows) in parts.iter().zip(rows) {
            found.add(part, rows)?;
        }
        self.look_up_older(batch, &mut found)?;
        // No order is both new and, by its first record, another's.
        let mut first: HashMap<String, NewOrder> = HashMap::new();
        for (at, write) in batch.iter_mut().enumerate() {
            match write {
                Write::Create(asked) => {
                    let created = found.created(&asked.change, &mut first)?;
                    asked.answer = Some(created);
                }
                Write::Import(asked) => {
                    let imported = asked.change.iter().map(|exported| found.created(&exported.order, &mut first));
                    asked.answer = Some(imported.collect::<Result<_, _>>()?);
                }
                Write::Revive(asked) => asked.answer = Some(found.changed(&asked.change, Status::Pending)),
                Write::Cancel(asked) => asked.answer = Some(found.changed(&asked.change, Status::Cancelled)),
                Write::Probe(asked) => asked.answer = Some(()),
                // The clocks of several machines are kept by NTP; one that was set is no reason to have everybody's orders wait.
                Write::ShiftRetries(asked) => asked.answer = Some(()),
                Write::Prune(asked) => asked.answer = found.pruned.remove(&at),
                Write::PutBack(asked) => {
                    asked.change.iter().for_each(|claim| _ = self.held.remove(&claim.seq));
                    asked.answer = Some(());
                }
                Write::Process(asked) => {
                    let Process { ended, claim } = &asked.change;
                    self.ended(ended, &found.ended);
                    let claimed = found.claimed.remove(&at).unwrap_or_default();
                    if *claim > 0 {
                        self.claimed(&claimed, *claim);
                    }
                    asked.answer = Some(claimed.into_iter().map(|(claim, _)| claim).collect());
                }
            }
        }
        Ok(found.done)
    }

    fn ended(&mut self, endings: &[Ending], ended: &HashSet<i64>) {
        for ending in endings {
            self.held.remove(&ending.order.seq);
            if !ended.contains(&ending.order.seq) && !self.is_repeat {
                log::warn!("order number {} was changed by someone else while it was processed", ending.order.seq);
            }
        }
    }

    fn claimed(&mut self, claimed: &[(Claimed, bool)], limit: usize) {
        self.held.extend(claimed.iter().map(|(claim, _)| (claim.seq, claim.attempt)));
        let lowest = claimed.iter().filter(|(_, is_fresh)| *is_fresh).map(|(claim, _)| claim.seq).min();
        if self.claim_from() == 0 {
            self.looked_at_all = Some(Instant::now());
        }
        if let Some(lowest) = lowest {
            self.floor = lowest.saturating_sub(FLOOR_SLACK);
        }
        // There may be some below.
        if claimed.len() < limit {
            self.looked_at_all = None;
        }
    }

    /// Orders that were there before: what they are, by a read after the commit.
    fn look_up_older(&mut self, batch: &[Write], found: &mut Found) -> Result<(), Error> {
        let created = batch.iter().filter_map(|write| match write {
            Write::Create(asked) => Some(&asked.change),
            _ => None,
        });
        let imported = batch.iter().flat_map(|write| match write {
            Write::Import(asked) => asked.change.as_slice(),
            _ => &[],
        });
        let ids = created.chain(imported.map(|exported| &exported.order)).map(|order| order.order_id.as_str());
        let mut missing: Vec<String> = ids.filter(|id| !found.new.contains(*id)).map(str::to_string).collect();
        if missing.is_empty() {
            return Ok(());
        }
        missing.sort_unstable();
        missing.dedup();
        // What has been committed is; but those who asked can't be told what.
        let committed = |e: Error| Error::Unknown(e.to_string());
        let call = Call::new(sql::OLDER, vec![Box::new(missing)]);
        let rows = self.line.transaction(&[call], WRITE_PATIENCE).map_err(committed)?;
        for row in &rows[0] {
            let older = Older { user_id: get(row, 1)?, items: get(row, 2)?, amount: get(row, 3)? };
            found.older.insert(get(row, 0)?, older);
        }
        Ok(())
    }
}

fn slot(me: i64) -> i16 {
    me.rem_euclid(SLOTS) as i16
}

/// What a statement of the plan is about.
enum Part {
    Nothing,
    Create,
    End,
    PutBack,
    Revive,
    Cancel,
    Records,
    Prune(usize),
    Claim(usize),
}

/// The statements that a batch comes to.
struct Plan {
    calls: Vec<Call<'static>>,
    parts: Vec<Part>,
}

impl Plan {
    fn new(batch: &[Write], floor: i64, me: i64, now_ms: i64) -> Plan {
        let mut plan = Plan { calls: Vec::new(), parts: Vec::new() };
        let slot = slot(me);
        let (mut orders, mut endings, mut back) = (Vec::new(), Vec::new(), Vec::<&Claimed>::new());
        let (mut revived, mut cancelled, mut probes) = (Vec::new(), Vec::new(), false);
        for write in batch {
            match write {
                Write::Create(asked) => orders.push(&asked.change),
                Write::Process(asked) => endings.extend(&asked.change.ended),
                Write::PutBack(asked) => back.extend(&asked.change),
                Write::Revive(asked) => revived.push(asked.change.as_str().to_string()),
                Write::Cancel(asked) => cancelled.push(asked.change.as_str().to_string()),
                Write::Probe(_) => probes = true,
                Write::Import(asked) => plan.add(Part::Create, sql::IMPORT, import::parameters(&asked.change, slot)),
                Write::Prune(_) | Write::ShiftRetries(_) => {}
            }
        }
        plan.create(&orders, now_ms, slot);
        plan.end(endings, now_ms, me, slot);
        if !back.is_empty() {
            back.sort_unstable_by_key(|claim| claim.seq);
            let seqs: Vec<i64> = back.iter().map(|claim| claim.seq).collect();
            let attempts: Vec<i32> = back.iter().map(|claim| claim.attempt as i32).collect();
            plan.add(Part::PutBack, sql::PUT_BACK, vec![Box::new(seqs), Box::new(attempts), Box::new(me), Box::new(slot)]);
        }
        let mut records: Vec<String> = revived.iter().chain(&cancelled).cloned().collect();
        if !revived.is_empty() {
            plan.add(Part::Revive, sql::REVIVE, vec![Box::new(distinct(revived)), Box::new(slot)]);
        }
        if !cancelled.is_empty() {
            plan.add(Part::Cancel, sql::CANCEL, vec![Box::new(distinct(cancelled)), Box::new(slot), Box::new(now_ms)]);
        }
        if !records.is_empty() {
            records = distinct(records);
            plan.add(Part::Records, sql::ORDERS, vec![Box::new(records)]);
        }
        for (at, write) in batch.iter().enumerate() {
            match write {
                Write::Prune(asked) => {
                    let Prune { status, before_ms, after } = asked.change;
                    let parameters: Vec<Parameter<'static>> =
                        vec![Box::new(after), Box::new(before_ms), Box::new(slot), Box::new(PRUNED_AT_ONCE)];
                    plan.add(Part::Prune(at), sql::prune(status), parameters);
                }
                // Last, so that it sees what the others have done.
                Write::Process(asked) if asked.change.claim > 0 && me != 0 => {
                    let limit = asked.change.claim as i64;
                    // By lot, so that neither kind waits for ever where there is only one place at a time.
                    let share = limit / 2 + limit % 2 * (RandomState::new().build_hasher().finish() % 2) as i64;
                    let parameters: Vec<Parameter<'static>> = vec![
                        Box::new(limit),
                        Box::new(now_ms),
                        Box::new(me),
                        Box::new(slot),
                        Box::new(floor),
                        Box::new(share),
                        Box::new(LONGEST_WAIT_MS),
                    ];
                    plan.add(Part::Claim(at), sql::CLAIM, parameters);
                }
                _ => {}
            }
        }
        // Behind all that locks orders, as every statement locks these before the counts.
        if probes {
            plan.add(Part::Nothing, sql::PROBE, vec![Box::new(slot)]);
        }
        plan
    }

    fn add(&mut self, part: Part, sql: Sql, parameters: Vec<Parameter<'static>>) {
        self.parts.push(part);
        self.calls.push(Call::new(sql, parameters));
    }

    /// Each id once: the first one of the batch is what is stored.
    fn create(&mut self, orders: &[&NewOrder], now_ms: i64, slot: i16) {
        let mut seen = HashSet::new();
        let mut columns: [Vec<String>; 4] = Default::default();
        let mut bytes = 0;
        let send = |plan: &mut Plan, columns: &mut [Vec<String>; 4]| {
            let [ids, users, items, amounts] = std::mem::take(columns);
            let parameters: Vec<Parameter<'static>> =
                vec![Box::new(ids), Box::new(users), Box::new(items), Box::new(amounts), Box::new(now_ms), Box::new(slot)];
            plan.add(Part::Create, sql::CREATE, parameters);
        };
        for order in orders.iter().filter(|order| seen.insert(order.order_id.as_str())) {
            let items = items_to_text(&order.item_ids);
            bytes += items.len() + order.user_id.len() + order.order_id.as_str().len();
            columns[0].push(order.order_id.as_str().to_string());
            columns[1].push(order.user_id.clone());
            columns[2].push(items);
            columns[3].push(order.total_amount.as_str().to_string());
            if bytes > MOST_BYTES {
                bytes = 0;
                send(self, &mut columns);
            }
        }
        if !columns[0].is_empty() {
            send(self, &mut columns);
        }
    }

    fn end(&mut self, mut endings: Vec<&Ending>, now_ms: i64, me: i64, slot: i16) {
        if endings.is_empty() {
            return;
        }
        endings.sort_unstable_by_key(|ending| ending.order.seq);
        let seqs: Vec<i64> = endings.iter().map(|ending| ending.order.seq).collect();
        let attempts: Vec<i32> = endings.iter().map(|ending| ending.order.attempt as i32).collect();
        let (mut statuses, mut times, mut errors) = (Vec::new(), Vec::new(), Vec::new());
        for ending in endings {
            let (status, at_ms, error) = match &ending.outcome {
                Outcome::Completed => (Status::Completed, 0, ""),
                Outcome::Retry { at_ms, error } => (Status::Pending, *at_ms, error.as_str()),
                Outcome::Failed { error } => (Status::Failed, 0, error.as_str()),
            };
            statuses.push(status.as_str());
            times.push(at_ms);
            // The one character that PostgreSQL's texts can't hold; a command may say anything.
            errors.push(error.replace('\0', "\u{fffd}"));
        }
        let parameters: Vec<Parameter<'static>> = vec![
            Box::new(seqs),
            Box::new(attempts),
            Box::new(statuses),
            Box::new(times),
            Box::new(errors),
            Box::new(now_ms),
            Box::new(me),
            Box::new(slot),
        ];
        self.add(Part::End, sql::END, parameters);
    }
}

fn distinct(mut ids: Vec<String>) -> Vec<String> {
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// An order that was there before.
struct Older {
    user_id: String,
    items: String,
    amount: String,
}

impl Older {
    fn is(&self, order: &NewOrder) -> bool {
        self.user_id == order.user_id
            && items_from_text(&self.items) == order.item_ids
            && Amount::from_stored(self.amount.clone()) == order.total_amount
    }
}

/// What the statements have given back.
#[derive(Default)]
struct Found {
    now_ms: i64,
    done: Done,
    new: HashSet<String>,
    older: HashMap<String, Older>,
    ended: HashSet<i64>,
    revived: HashSet<String>,
    cancelled: HashSet<String>,
    records: HashMap<String, Order>,
    pruned: HashMap<usize, Pruned>,
    claimed: HashMap<usize, Vec<(Claimed, bool)>>,
}

impl Found {
    fn add(&mut self, part: &Part, rows: Vec<Row>) -> Result<(), Error> {
        match part {
            Part::Nothing => {}
            Part::Create => {
                self.done.created += rows.len() as u64;
                rows.iter().try_for_each(|row| get(row, 0).map(|id| _ = self.new.insert(id)))?;
            }
            Part::End => {
                for row in &rows {
                    self.ended.insert(get(row, 0)?);
                    let attempts = &mut self.done.attempts;
                    match status_in(row, 1)? {
                        Status::Completed => attempts.completed += 1,
                        Status::Failed => attempts.failed += 1,
                        _ => attempts.retried += 1,
                    }
                    self.done.begun_ms.extend(get::<Option<i64>>(row, 2)?);
                }
            }
            Part::PutBack => self.done.attempts.put_back += rows.len() as u64,
            Part::Revive => rows.iter().try_for_each(|row| get(row, 0).map(|id| _ = self.revived.insert(id)))?,
            Part::Cancel => {
                self.done.cancelled += rows.len() as u64;
                rows.iter().try_for_each(|row| get(row, 0).map(|id| _ = self.cancelled.insert(id)))?;
            }
            Part::Records => {
                for row in &rows {
                    let order = order_of(row)?;
                    self.records.insert(order.order_id.as_str().to_string(), order);
                }
            }
            Part::Prune(at) => {
                if let Some(row) = rows.first() {
                    let looked_at: i64 = get(row, 1)?;
                    let last: Option<i64> = get(row, 2)?;
                    let next = last.filter(|_| looked_at == PRUNED_AT_ONCE);
                    self.pruned.insert(*at, Pruned { deleted: get(row, 0)?, next });
                }
            }
            Part::Claim(at) => {
                let mut claimed = Vec::new();
                for row in &rows {
                    let attempt: i32 = get(row, 1)?;
                    if attempt == 1 {
                        self.done.waited_ms.push(self.now_ms.saturating_sub(get(row, 3)?));
                    }
                    claimed.push((Claimed { seq: get(row, 0)?, attempt: attempt as u32 }, get(row, 2)?));
                }
                // Those that are tried again first, then in the order of arrival.
                claimed.sort_unstable_by_key(|(claim, is_fresh)| (*is_fresh, claim.seq));
                self.claimed.insert(*at, claimed);
            }
        }
        Ok(())
    }

    fn created(&self, order: &NewOrder, first: &mut HashMap<String, NewOrder>) -> Result<Created, Error> {
        let id = order.order_id.as_str();
        let is_same = if self.new.contains(id) {
            let Some(first) = first.get(id) else {
                first.insert(id.to_string(), order.clone());
                return Ok(Created::New);
            };
            first == order
        } else {
            // Deleted in the moment between: nobody knows what it was.
            let older =
                self.older.get(id).ok_or_else(|| Error::Unknown("an order was deleted while it was sent again".into()))?;
            older.is(order)
        };
        Ok(if is_same { Created::Replayed } else { Created::Conflict })
    }

    /// Of the same change of one order in a batch, the first is made and the others are not. One that is revived and cancelled besides
    /// has been both, the one before the other.
    fn changed(&mut self, id: &OrderId, to: Status) -> Changed {
        let Some(record) = self.records.get(id.as_str()) else { return Changed::Unknown };
        let changed = if to == Status::Cancelled { &mut self.cancelled } else { &mut self.revived };
        if !changed.remove(id.as_str()) {
            return Changed::Not;
        }
        Changed::To(Box::new(Order { status: to, ..record.clone() }))
    }
}

#[cfg(test)]
mod tests;
