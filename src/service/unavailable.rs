//! What is answered where the database can't be opened: 503 to everything, so that whoever waits hears it and comes again.
//!
//! Asks nobody and keeps nothing. Runs on the workers.

use std::convert::Infallible;

use crate::api::reply::Refusal;
use crate::http::{Handler, Head, Refused, Reply, Request};

/// Refuses every request.
pub struct Unavailable;

impl Handler for Unavailable {
    type Route = Infallible;
    // Nobody can ask for the counts here.
    const KINDS: &'static [&'static str] = &["all"];

    fn route(&self, _: &Head<'_>) -> Result<Infallible, Reply> {
        Err(Refusal::Unavailable.into())
    }

    fn kind(&self, _: Option<&Infallible>, _: Option<&Head<'_>>) -> usize {
        0
    }

    fn handle(&self, route: Infallible, _: Request) {
        match route {}
    }

    fn refuse(&self, why: Refused) -> Reply {
        Refusal::Http(why).into()
    }
}
