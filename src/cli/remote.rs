//! The running server as its subcommands see it: what they ask of it, and what is said when it refuses.
//!
//! Everything goes over HTTP, as the server alone owns the database. What it answers is shown with nothing in it that a terminal
//! obeys: ids and errors are what clients and commands have made of them.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::config::{Config, Token};
use crate::error::Error;
use crate::http::client::{Answer, Client};
use crate::http::percent;
use crate::os::logging::harmless;

/// The most orders on a page.
pub const MAX_PAGE: usize = 100;

/// The running server.
pub struct Remote(Client);

/// A page of orders.
#[derive(Deserialize)]
pub struct Page {
    /// Their records, as they came.
    pub data: Vec<Box<RawValue>>,
    next: Option<String>,
}

/// What is shown of a record.
#[derive(Deserialize)]
pub struct Record {
    pub order_id: String,
    pub user_id: String,
    pub item_ids: Vec<String>,
    pub total_amount: Box<RawValue>,
    pub status: String,
    pub created_at: String,
    pub started_at: Option<String>,
    pub completed_at: Option<String>,
    pub attempts: u64,
    pub last_error: Option<String>,
}

/// Which orders, the newest first.
#[derive(Default)]
pub struct Query<'a> {
    pub status: Option<&'a str>,
    pub user: Option<&'a str>,
    /// How many at the most.
    pub limit: usize,
}

impl Remote {
    /// The server that the settings name, with the token that they name.
    ///
    /// # Errors
    /// [`Error::Usage`] for a token that can't be read.
    pub fn of(config: &Config) -> Result<Remote, Error> {
        let token = config.token.as_ref().map(Token::read).transpose()?;
        Ok(Remote(Client::new(&config.listen, token.as_ref())))
    }

    /// The record of an order.
    ///
    /// # Errors
    /// [`Error::Unreachable`], or [`Error::Refused`] with what the server says. So do all that follow.
    pub fn order(&mut self, id: &str) -> Result<Box<RawValue>, Error> {
        let answer = self.ask("GET", &path(id, ""), id)?;
        parsed(&answer, id)
    }

    /// Does something with an order, such as `retry`.
    pub fn act(&mut self, id: &str, action: &str) -> Result<(), Error> {
        self.ask("POST", &path(id, action), id).map(drop)
    }

    /// Does something with every order of the query of which the server lets it be done, and says with how many.
    pub fn act_on_all(&mut self, query: &Query<'_>, action: &str) -> Result<usize, Error> {
        let mut done = 0;
        self.each_page(query, |remote, page| {
            for record in &page.data {
                let Record { order_id, .. } = record_of(record)?;
                let answer = remote.0.ask("POST", &path(&order_id, action), "", b"")?;
                match answer.status {
                    200 => done += 1,
                    // Somebody else has done it, or has removed the order.
                    404 | 409 => {}
                    _ => return Err(refused(&order_id, &answer)),
                }
            }
            Ok(true)
        })?;
        Ok(done)
    }

    /// Shows page after page until the query's limit, or until `show` says that it is enough.
    pub fn each_page(
        &mut self,
        query: &Query<'_>,
        mut show: impl FnMut(&mut Remote, Page) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let (mut after, mut left) = (String::new(), query.limit);
        while left > 0 {
            let mut target = format!("/orders?limit={}{after}", left.min(MAX_PAGE));
            for (name, value) in [("status", query.status), ("user_id", query.user)] {
                if let Some(value) = value {
                    target += &format!("&{name}={}", percent::encode(value));
                }
            }
            let page: Page = parsed(&self.ask("GET", &target, "the list of orders")?, "the list of orders")?;
            left -= page.data.len().min(left);
            let next = page.next.clone();
            if !show(self, page)? {
                return Ok(());
            }
            match next {
                Some(next) => after = format!("&after={}", percent::encode(&next)),
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// All figures, as Prometheus gets them.
    pub fn figures(&mut self) -> Result<String, Error> {
        let answer = self.0.ask("GET", "/metrics", "Accept: text/plain\r\n", b"")?;
        match answer.status {
            200 => Ok(String::from_utf8_lossy(&answer.body).into_owned()),
            _ => Err(refused("the figures", &answer)),
        }
    }

    fn ask(&mut self, method: &str, target: &str, what: &str) -> Result<Answer, Error> {
        let answer = self.0.ask(method, target, "", b"")?;
        if answer.status == 200 { Ok(answer) } else { Err(refused(what, &answer)) }
    }
}

/// Reads a record.
///
/// # Errors
/// [`Error::Refused`].
pub fn record_of(record: &RawValue) -> Result<Record, Error> {
    serde_json::from_str(record.get()).map_err(|e| not_understood("a record", &e))
}

/// What is said when the server does not do what was asked about `what`.
pub fn refused(what: &str, answer: &Answer) -> Error {
    if answer.status == 401 {
        return Error::Refused("the server asks for its token; name the file with --token-file, or set ORDERD_TOKEN".into());
    }
    Error::Refused(format!("{}: {}", harmless(what), said(answer)))
}

/// What the server says of why it refuses.
pub fn said(answer: &Answer) -> String {
    let said = serde_json::from_slice::<Detail>(&answer.body).map_or_else(|_| format!("status {}", answer.status), words);
    harmless(&said)
}

fn parsed<T: for<'a> Deserialize<'a>>(answer: &Answer, what: &str) -> Result<T, Error> {
    serde_json::from_slice(&answer.body).map_err(|e| not_understood(what, &e))
}

fn not_understood(what: &str, e: &serde_json::Error) -> Error {
    Error::Refused(harmless(&format!("{what}: what was answered is not understood ({e}); is it orderd that listens there?")))
}

fn path(id: &str, action: &str) -> String {
    let slash = if action.is_empty() { "" } else { "/" };
    format!("/orders/{}{slash}{action}", percent::encode(id))
}

#[derive(Deserialize)]
struct Detail {
    detail: Said,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Said {
    Words(String),
    Faults(Vec<Fault>),
}

#[derive(Deserialize)]
struct Fault {
    loc: Vec<serde_json::Value>,
    msg: String,
}

/// Of a fault its place, without the body that all are in, and what is wrong there.
fn words(Detail { detail }: Detail) -> String {
    let faults = match detail {
        Said::Words(words) => return words,
        Said::Faults(faults) => faults,
    };
    let worded = faults.into_iter().map(|Fault { loc, msg }| {
        let steps = loc.iter().skip(1).map(|step| step.as_str().map_or_else(|| step.to_string(), String::from));
        match steps.collect::<Vec<_>>().join(".") {
            place if place.is_empty() => msg,
            place => format!("{place}: {msg}"),
        }
    });
    worded.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_an_order_is_said_with_its_place() {
        let said = |body: &str| words(serde_json::from_str(body).unwrap());
        assert_eq!(said(r#"{"detail":"no","code":"x"}"#), "no");
        let fault = |loc: &str, msg: &str| format!(r#"{{"type":"t","loc":["body"{loc}],"msg":"{msg}"}}"#);
        let faults = [fault(r#","user_id""#, "Field required"), fault(r#","item_ids",0"#, "wrong"), fault("", "no object")];
        let body = format!(r#"{{"detail":[{}]}}"#, faults.join(","));
        assert_eq!(said(&body), "user_id: Field required; item_ids.0: wrong; no object");
    }
}
