//! The promises of orderd, held from the outside: over real sockets, against a server in this process and against the binary.
//!
//! One binary, so that it links once. Its rooms are those of `src`: `api` what requests mean, `http` connections and whatever
//! clients do with them, `store` what is on disk, `processing` what becomes of orders, `server` what an embedding program does,
//! `process` the binary, its signals and its
//! two processes. `harness` owns what is shared. Tests cite the numbers of the promises in the crate's front page. Nothing
//! here sleeps for luck: what takes time is polled to a deadline that is far beyond what it needs.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report, also in its helpers")]

mod harness;
mod tidy;

mod api {
    mod browsers;
    mod docs;
    mod home;
    mod input;
    mod metrics;
    mod openapi;
    mod pages;
    mod records;
    mod requests;
    mod tester;
    mod token;
}

mod http {
    mod bodies;
    mod connections;
    mod crowd;
    mod everything;
    mod framing;
    mod hazards;
    mod hostile;
    mod hosts;
    mod pipelines;
    mod slow_readers;
    mod unix;
}

mod store {
    pub mod backup;
    mod check;
    mod crash;
    mod disk;
    mod grouping;
    pub mod moving;
    mod opening;
    mod restore;
    mod retention;
    mod versions;
}

mod processing {
    mod cancel;
    mod command;
    mod interrupted;
    mod life;
    mod retries;
    mod work;
}

mod server {
    mod embedding;
}

#[cfg(feature = "postgres")]
mod postgres {
    mod deadline;
    mod disks;
    mod hangs;
    mod instance;
    mod ledger;
    mod load;
    mod moving;
    mod outages;
    mod seen;
    mod standby;
    mod start;
    mod takeover;
    mod tls;
    mod tools;

    use instance::{Instance, MINUTE, Over, assert_books, assert_books_on, on_postgres, schema_of};
    use load::under_load;
}

mod process {
    mod ask;
    mod carried;
    mod cli;
    mod create;
    mod deploy;
    mod examples;
    mod log;
    mod manager;
    mod memory;
    mod operator;
    mod prometheus;
    mod renewal;
    mod start;
    mod stop;
    mod strangers;
    mod supervisor;
    mod token;
}
