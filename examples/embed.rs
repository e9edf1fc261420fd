//! A program that runs orderd inside itself and processes orders with a function of its own: it prints a label for each.
//!
//! ```sh
//! cargo run --example embed
//! ```
//!
//! It starts a server, gives it a few orders, and shows what became of them: one needs two attempts, one can never be sent. Clients
//! could order over HTTP at the same time; with `Listen::None` there would be no socket. Then it stops the server in order. A
//! program that keeps its orders would name a database that stays, and stop when it is told to.

use std::error::Error;
use std::io::{self, Write};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use orderd::{Config, Listen, NewOrder, Order, Server, Work, WorkError};

fn main() -> Result<(), Box<dyn Error>> {
    run(&mut io::stdout())
}

/// All of the program, telling `out` about it.
///
/// # Errors
/// Whatever stands in the way of the server or of its orders.
pub fn run(out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    let folder = std::env::temp_dir().join(format!("orderd-embed-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;

    let (labels, printed) = channel();
    let server = Server::start(&Config {
        listen: Listen::Tcp("127.0.0.1:0".into()),
        db: folder.join("orders.db"),
        retry_delay: Duration::from_millis(100),
        work: Work::function(move |order| print_label(order, &labels)),
        ..Config::default()
    })?;
    writeln!(out, "orderd listens on {server}")?;

    let orders = server.orders();
    let ids = ["tea", "books", "piano"];
    for id in ids {
        // The same order again, as after a crash of this program, does no harm.
        orders.create(NewOrder::new(id, "ada", [id], "19.90")?)?;
    }
    // Each order ends, and each label is printed before its order is Completed.
    for id in ids {
        let order = orders.wait(id, Duration::from_secs(60))?;
        let why = order.last_error.as_deref().unwrap_or("no error");
        writeln!(out, "{id}: {} after {} attempts, {why}", order.status.as_str(), order.attempts)?;
    }
    writeln!(out, "completed: {}", orders.counts()?.completed)?;
    server.stop();
    for label in printed.try_iter() {
        writeln!(out, "label: {label}")?;
    }
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

/// What processing an order means here. It may be called twice for one order, if the program is killed in between; two labels do
/// no harm.
fn print_label(order: &Order, labels: &Sender<String>) -> Result<(), WorkError> {
    match order.order_id.as_str() {
        "piano" => Err(WorkError::fatal("a piano fits no label")),
        "books" if order.attempts == 1 => Err(WorkError::retry("the printer is out of paper")),
        id => labels.send(format!("{id} for {}", order.user_id)).map_err(|_| WorkError::retry("the printer is off")),
    }
}
