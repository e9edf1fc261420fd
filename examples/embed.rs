//! A program that runs orderd inside itself and processes orders with a function of its own: it prints a label for each.
//!
//! ```sh
//! cargo run --example embed
//! ```
//!
//! It starts a server on a free port, takes a few orders over HTTP, as from any client, and shows what became of them: one needs
//! two attempts, one can never be sent. Then it stops the server in order. A program that keeps its orders would name a database
//! that stays, and stop when it is told to.

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use orderd::{Address, Config, Listen, Order, Server, Work, WorkError};

fn main() -> Result<(), Box<dyn Error>> {
    run(&mut io::stdout())
}

/// All of the program, telling `out` about it.
///
/// # Errors
/// Whatever stands in the way of the server or of talking to it.
pub fn run(out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    let folder = std::env::temp_dir().join(format!("orderd-embed-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;

    let (labels, printed) = channel();
    let config = Config {
        listen: Listen::Tcp("127.0.0.1:0".into()),
        db: folder.join("orders.db"),
        retry_delay: Duration::from_millis(100),
        work: Work::function(move |order| print_label(order, &labels)),
        ..Config::default()
    };

    let server = Server::start(&config)?;
    let Address::Tcp(address) = server.address().clone() else { unreachable!("we asked for TCP") };
    writeln!(out, "orderd listens on http://{address}")?;

    let ids = ["tea", "books", "piano"];
    for id in ids {
        let order = format!(r#"{{"order_id":"{id}","user_id":"ada","item_ids":["{id}"],"total_amount":19.90}}"#);
        write!(out, "{}", ask(address, "POST", "/order", &order)?)?;
    }
    // Each order ends as Completed or Failed, and each label is printed before its order is Completed.
    for id in ids {
        let record = loop {
            let record = ask(address, "GET", &format!("/orders/{id}"), "")?;
            if record.contains(r#""status":"Completed""#) || record.contains(r#""status":"Failed""#) {
                break record;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        write!(out, "{record}")?;
    }
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

/// One request, one answer; its body.
fn ask(address: SocketAddr, method: &str, path: &str, body: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.split_once("\r\n\r\n").map(|(_, body)| body.to_string()).unwrap_or_default())
}
