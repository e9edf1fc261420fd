//! `orderd import`: stores what `orderd export` has written, as it was, in a place that no other orderd owns; in that of a server other
//! instances may be at work.
//!
//! Orders are stored a batch at a time, each of which is there with its counts or not at all, and in the order of arrival. So whatever cuts
//! it short, the same input can be given again: what is there with the same content is left as it is, also if it has been processed
//! since. All that stands before a line that is refused is stored, and nothing behind it. `import/input.rs` says what is refused.

mod input;

use std::fs::File;
use std::io::{IsTerminal, Read};
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, channel};

use self::input::Input;
use super::arguments::Given;
use super::progress::{self, Progress};
use super::table::Subcommand;
use super::{lock, print};
use crate::OrderId;
use crate::config::Config;
use crate::error::Error;
use crate::os::logging::harmless;
use crate::store::{Created, Exported, Opening, Refused, Store};

/// Its row.
pub const SUBCOMMAND: Subcommand = Subcommand {
    name: "import",
    usage: "[FILE | -]",
    summary: "store the orders of an export, while no server runs",
    more: "From FILE, or from standard input. What is there already with the same content is left as it is, so after whatever cut it short \
           the same input is given again. The exit status is 0 only when all that was exported is there.",
    words: 0..=1,
    flags: &[],
    settings: Some(&["db"]),
    run,
};

/// A batch has so many orders, or so many bytes of them; it is one transaction.
const BATCH: usize = 1_000;
const BATCH_BYTES: u64 = 4 << 20;
/// So many orders that are others than those that are there are told; of the rest only how many there are.
const MOST_TOLD: usize = 1_000;

fn run(config: &Config, given: &Given) -> Result<(), Error> {
    // Before anything is made or locked.
    let mut input = Input::begin(open(given)?).map_err(Error::Refused)?;
    let lock = lock(&config.db, "stop it first")?;
    let clock = config.clock.clone();
    let store = Store::open(&lock, Opening { readers: 1, clock, predecessor_lives: false, accept_loss: false }, |_| {})?;
    let mut import = Import { store, under_way: None, imported: 0, already: 0, others: 0, told: Vec::new() };
    let progress = Progress::new();
    let outcome = import.all(&mut input, &progress);
    import.store.close();
    drop(progress);
    import.told.iter().for_each(|line| eprintln!("{line}"));
    let Import { imported, already, others, .. } = import;
    let counts = format!("imported {imported}, already there {already}");
    match outcome {
        Ok(()) if others == 0 => print(&format!("{counts}\n")),
        Ok(()) => {
            let orders = progress::orders(others);
            return Err(Error::Refused(format!("not imported, as others with their ids are there: {orders}; {counts}")));
        }
        Err(why) => {
            return Err(Error::Refused(format!("{why}; {counts}; the whole may be given again")));
        }
    }
    Ok(())
}

fn open(given: &Given) -> Result<File, Error> {
    match given.words.first().filter(|word| *word != "-") {
        Some(name) => File::open(name).map_err(|e| Error::Usage(format!("cannot read {}: {e}", name.display()))),
        None if given.words.is_empty() && std::io::stdin().is_terminal() => Err(Error::Usage(
            "import takes a file that orderd export has written, or the same from standard input; see orderd import --help"
                .into(),
        )),
        // Without the buffer that std's has of its own.
        None => {
            let input = std::io::stdin().as_fd().try_clone_to_owned();
            input.map(File::from).map_err(|e| Error::Refused(format!("standard input: {e}")))
        }
    }
}

/// An import under way.
struct Import {
    store: Store,
    /// What is being stored while more is read. No more than one: behind one that is not stored none may be, as else the order of arrival
    /// would be another when it is given again.
    under_way: Option<Batch>,
    imported: u64,
    already: u64,
    others: u64,
    /// What is said of those others.
    told: Vec<String>,
}

/// Orders that are being stored.
struct Batch {
    answer: Receiver<Result<Vec<Created>, Refused>>,
    /// Each with the number of its line.
    named: Vec<(u64, OrderId)>,
}

impl Import {
    /// Stores all that comes.
    ///
    /// # Errors
    /// Why that was not all, in words.
    fn all<R: Read>(&mut self, input: &mut Input<R>, progress: &Progress) -> Result<(), String> {
        let announced = input.announced.total();
        let mut end = None;
        while end.is_none() {
            let (mut orders, mut named, begin) = (Vec::new(), Vec::new(), input.bytes);
            while end.is_none() && orders.len() < BATCH && input.bytes - begin < BATCH_BYTES {
                match input.next() {
                    Ok(Some((line, order))) => {
                        named.push((line, order.order.order_id.clone()));
                        orders.push(order);
                    }
                    Ok(None) => end = Some(Ok(())),
                    Err(why) => end = Some(Err(why)),
                }
            }
            self.hear()?;
            self.store(orders, named);
            progress.say(|since| progress::of_all(self.imported + self.already + self.others, announced, since));
        }
        self.hear()?;
        end.unwrap_or(Ok(()))
    }

    fn store(&mut self, orders: Vec<Exported>, named: Vec<(u64, OrderId)>) {
        let (done, answer) = channel();
        self.store.import(orders, move |created| _ = done.send(created));
        self.under_way = Some(Batch { answer, named });
    }

    /// Waits until what is under way is stored.
    ///
    /// # Errors
    /// Why it is not.
    fn hear(&mut self) -> Result<(), String> {
        let Some(Batch { answer, named }) = self.under_way.take() else { return Ok(()) };
        let created = answer.recv().map_err(|_| "the store gave no answer")?.map_err(|e| e.to_string())?;
        for (created, (line, id)) in created.into_iter().zip(named) {
            match created {
                Created::New => self.imported += 1,
                Created::Replayed => self.already += 1,
                Created::Conflict => {
                    self.others += 1;
                    match self.told.len() {
                        ..MOST_TOLD => self.told.push(format!("line {line}: another order {} is there", harmless(id.as_str()))),
                        MOST_TOLD => self.told.push("further ones are counted and not told".into()),
                        _ => {}
                    }
                }
            }
        }
        Ok(())
    }
}
