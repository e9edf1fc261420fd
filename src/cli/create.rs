//! `orderd create`: gives the running server one order from flags, or as many as standard input has, a line of JSON each.
//!
//! An order that was given before is known again, so what was cut short may be given anew as a whole. A line that the server refuses
//! is said with its number and the reason, and costs none of the others. `lines.rs` reads, `create/lanes.rs` sends over many
//! connections at once, `create/tally.rs` counts and says how far it is.

mod lanes;
mod tally;

use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Number;
use serde_json::value::RawValue;

use self::tally::Tally;
use super::arguments::Given;
use super::output;
use super::remote::{self, Remote};
use super::table::{Flag, SERVER, Subcommand};
use crate::config::{Config, Token};
use crate::error::Error;
use crate::http::client::{Answer, Client};
use crate::os::logging::harmless;

/// Its row.
pub const SUBCOMMAND: Subcommand = Subcommand {
    name: "create",
    usage: "[--id I --user U --item I... --amount A]",
    summary: "create an order, or one for each line of standard input",
    more: "Without flags each line of standard input is an order as JSON, as orderd list --json writes it. What was there already is \
           counted and left as it is, so the same input may be given again. The exit status is 1 if any line was refused; the \
           others are stored.",
    words: 0..=0,
    flags: &[
        Flag { name: "id", value: "I", help: "the order's id" },
        Flag { name: "user", value: "U", help: "who orders" },
        Flag { name: "item", value: "I", help: "what is ordered; may be given several times" },
        Flag { name: "amount", value: "A", help: "what it costs: a number, kept as it is written" },
    ],
    settings: SERVER,
    run,
};

/// For how long a server may refuse every order for the moment, or not be there at all, until it is given up.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);
/// The longest time to wait before an order is sent again.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// Says that a body is JSON.
const JSON: &str = "Content-Type: application/json\r\n";

fn run(config: &Config, given: &Given) -> Result<(), Error> {
    let from_flags = SUBCOMMAND.flags.iter().any(|flag| given.has(flag.name));
    let is_terminal = std::io::stdin().is_terminal();
    match from_flags {
        true => create_one(config, given),
        false if is_terminal => Err(Error::Usage(
            "create takes an order from its flags, or one a line from standard input; see orderd create --help".into(),
        )),
        false => create_all(config),
    }
}

fn create_one(config: &Config, given: &Given) -> Result<(), Error> {
    #[derive(Serialize)]
    struct Body<'a> {
        order_id: &'a str,
        user_id: &'a str,
        item_ids: Vec<&'a str>,
        total_amount: Box<RawValue>,
    }
    let needed =
        |flag| given.value(flag).ok_or_else(|| Error::Usage(format!("create needs --{flag}, too; see orderd create --help")));
    let (order_id, user_id, amount) = (needed("id")?, needed("user")?, needed("amount")?);
    needed("item")?;
    // Only a number, so that nothing else gets into the body.
    let total_amount = serde_json::from_str::<Number>(amount).and_then(|_| RawValue::from_string(amount.into()));
    let total_amount = total_amount
        .map_err(|_| Error::Usage(format!("--amount: {amount:?} is not understood; use a number, such as 9.99")))?;
    let body = Body { order_id, user_id, item_ids: given.all("item").collect(), total_amount };
    let body = serde_json::to_vec(&body).expect("texts and a number have a JSON form");
    let mut client = client(config)?;
    let given_up = Instant::now() + GIVE_UP_AFTER;
    loop {
        let answer = client.ask("POST", "/order", JSON, &body)?;
        let said = match Outcome::of(&answer) {
            Outcome::Created => "is created",
            Outcome::Replayed => "was there already",
            Outcome::Later(pause) if Instant::now() < given_up => {
                std::thread::sleep(pause);
                continue;
            }
            _ => return Err(remote::refused(order_id, &answer)),
        };
        return output::write(&format!("{} {said}\n", harmless(order_id))).map(drop);
    }
}

fn create_all(config: &Config) -> Result<(), Error> {
    // Says at once, and once, if nobody is there or the token is wrong.
    Remote::of(config)?.each_page(&remote::Query { limit: 1, ..Default::default() }, |_, _| Ok(false))?;
    // Without the buffer that std's has of its own.
    let input = std::io::stdin().as_fd().try_clone_to_owned().map_err(|e| Error::Refused(format!("standard input: {e}")))?;
    let input = File::from(input);
    let to_come = input.metadata().ok().filter(std::fs::Metadata::is_file).map(|file| file.len());
    let tally = Tally::new(to_come);
    let given_up = lanes::run(input, &|| client(config), &tally);
    let counts = tally.finish();
    output::write(&format!("{counts}\n"))?;
    match given_up {
        Err(e) => Err(Error::Refused(format!("{e}; given up before the end: give the same input again, which does no harm"))),
        Ok(()) if counts.refused > 0 => Err(Error::Reported { exit_status: 1 }),
        Ok(()) => Ok(()),
    }
}

fn client(config: &Config) -> Result<Client, Error> {
    let token = config.token.as_ref().map(Token::read).transpose()?;
    Ok(Client::new(&config.listen, token.as_ref()))
}

/// What became of an order that was sent.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// It is stored.
    Created,
    /// It was stored before.
    Replayed,
    /// It can't be stored just now; to be sent again after a while.
    Later(Duration),
    /// It is no order, or contradicts one that is stored.
    Refused,
    /// No order will be taken from us.
    Hopeless,
}

impl Outcome {
    fn of(answer: &Answer) -> Outcome {
        match answer.status {
            200 if answer.header("Idempotent-Replayed").is_some() => Outcome::Replayed,
            200 => Outcome::Created,
            503 => {
                let seconds = answer.header("Retry-After").and_then(|seconds| seconds.parse().ok()).unwrap_or(1);
                Outcome::Later(Duration::from_secs(seconds).min(MAX_PAUSE))
            }
            401 | 403 | 404 | 405 | 421 => Outcome::Hopeless,
            _ => Outcome::Refused,
        }
    }
}
