//! `orderd retry`: asks the running server to have failed orders tried again, and says how many.

use super::{print, unknown_variables};
use crate::config::Config;
use crate::error::Error;
use crate::http::client::Client;

/// One order, or all that have failed.
pub fn run(config: &Config, id: Option<String>) -> Result<(), Error> {
    unknown_variables().for_each(|what| eprintln!("orderd: {what}"));
    let client = Client(&config.listen);
    let retried = match id {
        Some(id) => client.retry(&id).map(|()| 1)?,
        None => client.retry_failed()?,
    };
    print(&format!("{retried} {} will be tried again\n", if retried == 1 { "order" } else { "orders" }));
    Ok(())
}
