//! Sends orders over many connections at once, so that they share commits.
//!
//! A few threads have a number of connections each, go round, and have one order under way on each connection: an answer then costs
//! a thread one read and one write, and the server finds work on the other connections meanwhile. An order whose connection ended,
//! or which the server could not store just then, is sent again: it is known again if it was stored after all.
//!
//! What is read from standard input waits in a short queue. So memory is bounded, and the server sets the pace.

use std::collections::VecDeque;
use std::io::Read;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use super::tally::Tally;
use super::{GIVE_UP_AFTER, JSON, Outcome};
use crate::cli::lines::{Batch, Line, Lines};
use crate::cli::remote;
use crate::error::Error;
use crate::http::client::Client;
use crate::os::sync::unpoisoned;

/// Threads that send.
const LANES: usize = 4;
/// The connections of each. Together they are as many as the benchmark has.
const CONNECTIONS: usize = 16;
/// Batches that wait to be sent.
const QUEUE: usize = 2 * LANES;
/// Before a server that is not there is looked for again.
const RECONNECT_PAUSE: Duration = Duration::from_millis(200);

/// Sends all lines of `input`.
///
/// # Errors
/// Why the rest was not sent.
pub fn run<R: Read + Send + 'static>(
    input: R,
    client: &(impl Fn() -> Result<Client, Error> + Sync),
    tally: &Tally,
) -> Result<(), Error> {
    let (sender, batches) = sync_channel(QUEUE);
    let read = move || {
        let mut lines = Lines::new(input);
        // Over when it has ended, or nobody sends any more.
        while sender.send(lines.batch()).is_ok() && !lines.has_ended() {}
    };
    // Not waited for: it may wait for input that nobody wants any more.
    std::thread::Builder::new().name("lines".into()).spawn(read).map_err(Error::Thread)?;
    let source = Source { batches: Mutex::new(batches), is_over: AtomicBool::new(false), why: Mutex::new(None) };
    std::thread::scope(|scope| {
        let lanes = (0..LANES).map(|_| {
            let mut lane =
                Lane { source: &source, tally, client, idle: Vec::new(), under_way: VecDeque::new(), left: VecDeque::new() };
            let run = move || {
                if let Err(e) = lane.run() {
                    lane.source.give_up(e);
                }
            };
            std::thread::Builder::new().name("lane".into()).spawn_scoped(scope, run).map_err(Error::Thread)
        });
        let lanes: Vec<_> = lanes.collect();
        while lanes.iter().flatten().any(|lane| !lane.is_finished()) {
            tally.show();
        }
        lanes.into_iter().find_map(Result::err).map_or(Ok(()), Err)
    })?;
    let why = unpoisoned(&source.why).take();
    why.map_or(Ok(()), Err)
}

/// Where all lanes get their lines from.
struct Source {
    batches: Mutex<Receiver<std::io::Result<Batch>>>,
    is_over: AtomicBool,
    why: Mutex<Option<Error>>,
}

impl Source {
    /// The next lines. None when there are no more; or when none are there yet, unless they are to be waited for.
    fn next(&self, wait: bool, tally: &Tally) -> Result<VecDeque<Line>, Error> {
        if self.is_over.load(Ordering::Relaxed) {
            return Ok(VecDeque::new());
        }
        let received = if wait {
            unpoisoned(&self.batches).recv().ok()
        } else {
            // Another lane that waits holds it.
            self.batches.try_lock().ok().and_then(|batches| batches.try_recv().ok())
        };
        match received {
            Some(Ok(batch)) => {
                tally.has_read(batch.bytes_so_far);
                Ok(batch.lines.into())
            }
            Some(Err(e)) => Err(Error::Refused(format!("cannot read standard input: {e}"))),
            None => Ok(VecDeque::new()),
        }
    }

    /// Has all lanes end; the first reason is told.
    fn give_up(&self, why: Error) {
        self.is_over.store(true, Ordering::Relaxed);
        unpoisoned(&self.why).get_or_insert(why);
    }
}

/// A thread with its connections.
struct Lane<'a, F> {
    source: &'a Source,
    tally: &'a Tally,
    client: &'a F,
    idle: Vec<Client>,
    /// In the order in which they were sent.
    under_way: VecDeque<(Client, Order)>,
    /// Lines that are not sent yet.
    left: VecDeque<Line>,
}

/// A line on its way.
struct Order {
    number: u64,
    text: Vec<u8>,
    /// Since when it has been tried.
    since: Instant,
    /// Whether it was written to its connection; if not, there is nothing to wait for.
    is_sent: bool,
}

impl<F: Fn() -> Result<Client, Error>> Lane<'_, F> {
    /// Until there are no more lines and every answer has come.
    fn run(&mut self) -> Result<(), Error> {
        loop {
            while self.under_way.len() < CONNECTIONS
                && let Some(order) = self.next_order()?
            {
                let client = self.idle.pop().map_or_else(self.client, Ok)?;
                self.send(client, order);
            }
            if self.source.is_over.load(Ordering::Relaxed) {
                self.left.clear();
            }
            let Some((client, order)) = self.under_way.pop_front() else { return Ok(()) };
            self.hear(client, order)?;
        }
    }

    fn next_order(&mut self) -> Result<Option<Order>, Error> {
        loop {
            if self.left.is_empty() {
                self.left = self.source.next(self.under_way.is_empty(), self.tally)?;
            }
            match self.left.pop_front() {
                Some(Line { number, text: Some(text) }) => {
                    return Ok(Some(Order { number, text, since: Instant::now(), is_sent: false }));
                }
                Some(Line { number, text: None }) => {
                    self.tally.refused(number, "the line is longer than an order may be, 1 MiB")
                }
                None => return Ok(None),
            }
        }
    }

    fn send(&mut self, mut client: Client, mut order: Order) {
        order.is_sent = client.send("POST", "/order", JSON, &order.text).is_ok();
        self.under_way.push_back((client, order));
    }

    /// Waits for the answer, and sends the order again if it needs that.
    fn hear(&mut self, mut client: Client, order: Order) -> Result<(), Error> {
        let is_late = order.since.elapsed() > GIVE_UP_AFTER;
        let answer = if order.is_sent { client.receive() } else { Err(std::io::ErrorKind::NotConnected.into()) };
        match answer {
            Err(e) if is_late => return Err(client.unreachable(e)),
            Err(_) => {
                // The first time at once: a server that is renewed ends the connections that it has.
                if order.since.elapsed() > RECONNECT_PAUSE {
                    std::thread::sleep(RECONNECT_PAUSE);
                }
                self.send(client, order);
            }
            Ok(answer) => {
                match Outcome::of(&answer) {
                    Outcome::Created => self.tally.created(),
                    Outcome::Replayed => self.tally.replayed(),
                    Outcome::Refused => self.tally.refused(order.number, &remote::said(&answer)),
                    Outcome::Later(_) if is_late => return Err(remote::refused("no order is taken", &answer)),
                    Outcome::Later(pause) => {
                        std::thread::sleep(pause);
                        self.send(client, order);
                        return Ok(());
                    }
                    Outcome::Hopeless => return Err(remote::refused("no order is taken", &answer)),
                }
                self.idle.push(client);
            }
        }
        Ok(())
    }
}
