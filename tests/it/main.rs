//! The promises of orderd, held from the outside: over real sockets, against a server in this process and against the binary.
//!
//! One binary, so that it links once. `harness` owns what is shared; the other modules have one subject each. Tests cite the
//! numbers of the promises in the crate's front page. Nothing here sleeps for luck: what takes time is polled to a deadline
//! that is far beyond what it needs.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report, also in its helpers")]

mod api;
mod bodies;
mod cli;
mod command;
mod crash;
mod crowd;
mod door;
mod examples;
mod framing;
mod grouping;
mod harness;
mod hazards;
mod hostile;
mod input;
mod load;
mod operator;
mod processing;
mod records;
mod retries;
mod stop;
mod supervisor;
mod tidy;
mod work;
mod worker;
