//! orderd takes orders over HTTP, keeps them in one SQLite file, processes them in the background and says how they are.
//!
//! This library is all of it; the `orderd` binary only reads the command line. A program can run a server inside itself:
//!
//! ```
//! use std::io::{Read, Write};
//! use std::net::TcpStream;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = std::env::temp_dir().join(format!("orderd-example-{}", std::process::id()));
//! # std::fs::create_dir_all(&folder)?;
//! let mut config = orderd::Config::default();
//! config.listen = orderd::Listen::Tcp("127.0.0.1:0".into());
//! config.db = folder.join("orders.db");
//!
//! let server = orderd::Server::start(&config)?;
//! let orderd::Address::Tcp(address) = server.address() else { unreachable!("we asked for TCP") };
//!
//! let mut client = TcpStream::connect(address)?;
//! client.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
//! let mut answer = String::new();
//! client.read_to_string(&mut answer)?;
//! assert!(answer.ends_with("\"status_counts\":{\"Pending\":0,\"Processing\":0,\"Completed\":0}}\n"));
//!
//! server.stop();
//! # std::fs::remove_dir_all(&folder)?;
//! # Ok(())
//! # }
//! ```
//!
//! # The life of an order
//!
//! ```text
//!   POST /order           claim               complete
//!  ------------> Pending --------> Processing ----------> Completed
//!                 ^   ^                |  |
//!                 |   +----------------+  | fail
//!                 |     retry (delayed),  +------> Failed
//!                 |     requeue (stop, crash)        |
//!                 +----------------------------------+
//!                              revive (operator)
//! ```
//!
//! # Promises
//!
//! 1. A 2xx only after the commit: an acknowledged order is on disk, whatever happens next.
//! 2. The row is the truth, the channel only a bell: every order in the table is processed, whoever put it there and whatever
//!    message was lost; after a crash interrupted ones begin anew.
//! 3. When the store fails we say so (503), nothing is half done, and we never go on without durability.
//! 4. One process owns a database file.
//!
//! # Modules, in reading order
//!
//! [`order`] what an order is and may become · [`store`] where it is kept, the only SQL · [`commit`] many writes, one fsync ·
//! [`processor`] the thread that has orders processed · [`work`] what that means · [`api`] what requests mean and answers say ·
//! `wire` HTTP's bytes · `server`, `intake` accept loop and workers · `door`, `bodies`, `peers`, `turns`, `census`,
//! `descriptors` what tiny_http lacks · [`supervisor`] keeps the worker process alive · `metrics`, [`query`], [`config`],
//! `client`, `listener`, `clock`, `error`, `lock`, `percent`, [`signals`], [`logging`] what their names say.
//!
//! **Deliberately absent**: an async runtime, a web framework, an ORM, a cache of orders in memory, and any write that does not
//! go through [`commit`].

pub mod api;
#[doc(hidden)]
pub mod cli;
pub mod config;
mod error;
mod http;
pub mod order;
mod os;
mod processing;
mod server;
mod service;
mod store;
mod supervisor;

pub use config::{Config, Listen};
pub use error::Error;
pub use http::client::Client;
pub use http::listener::{Address, Listener};
pub use order::{Order, Status};
pub use os::clock::Clock;
pub use processing::work::{Work, WorkError};
pub use server::{Foundations, Server, Trouble};
pub use store::Lock;
