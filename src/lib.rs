//! orderd takes orders over HTTP, keeps them in one SQLite file, processes them in the background and says how they are.
//!
//! This library is all of it; the `orderd` binary calls its command line. A program can run a server inside itself and use its
//! orders without HTTP, and so without a socket at all:
//!
//! ```
//! use std::time::Duration;
//! use orderd::{Config, Listen, NewOrder, Server, Status, Work};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = std::env::temp_dir().join(format!("orderd-embedded-{}", std::process::id()));
//! # std::fs::create_dir_all(&folder)?;
//! let server = Server::start(&Config {
//!     db: folder.join("orders.db"),
//!     listen: Listen::None,
//!     work: Work::function(|order| {
//!         println!("{} ordered {:?}", order.user_id, order.item_ids);
//!         Ok(())
//!     }),
//!     ..Config::default()
//! })?;
//!
//! let orders = server.orders();
//! orders.create(NewOrder::new("123", "ada", ["tea", "milk"], "19.90")?)?; // on disk when it returns
//! let order = orders.wait("123", Duration::from_secs(60))?;
//! assert_eq!(order.status, Status::Completed);
//! assert_eq!(orders.counts()?.completed, 1);
//!
//! server.stop();
//! # std::fs::remove_dir_all(&folder)?;
//! # Ok(())
//! # }
//! ```
//!
//! [`Orders`] also reads, lists, cancels and retries orders, from any thread. A server that listens takes orders over HTTP as well, and says
//! where:
//!
//! ```
//! use std::io::{Read, Write};
//! use std::net::TcpStream;
//! use orderd::{Config, Listen, Server};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = std::env::temp_dir().join(format!("orderd-example-{}", std::process::id()));
//! # std::fs::create_dir_all(&folder)?;
//! let server = Server::start(&Config {
//!     db: folder.join("orders.db"),
//!     listen: Listen::Tcp("127.0.0.1:0".into()), // any free port
//!     ..Config::default()
//! })?;
//! println!("try curl {server}/metrics");
//!
//! let mut client = TcpStream::connect(server.socket_addr().ok_or("no TCP")?)?;
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
//!               | ^   ^                |  |
//!               | |   +----------------+  | fail
//!               | |     retry (delayed),  +------> Failed
//!               | |     put back (stop)              |
//!               | +----------------------------------+
//!               |              revive (operator)
//!               +---> Cancelled
//!             cancel
//! ```
//!
//! # Promises
//!
//! Tests and comments cite them by their numbers. Each comes with the tests that hold it.
//!
//! 1. **A 2xx only after the commit.** An acknowledged order is on disk, whatever happens next.
//!    `no_acknowledged_order_is_lost_by_kill_9`, `a_worker_killed_twenty_times_under_load_costs_no_acknowledged_order`,
//!    `a_change_is_answered_after_its_commit_and_read_back`, `orders_share_commits_over_a_unix_socket_too`.
//! 2. **The row is the truth, a message is a hint.** Every order in the table is processed at least once, whoever put it there and
//!    whatever message was lost. An attempt is counted on disk before it begins. One that a crash cuts short has failed, so
//!    every order ends; an orderly stop or a renewal costs no attempt.
//!    `an_order_whose_processing_was_cut_short_by_kill_9_is_processed_anew`, `an_order_that_someone_puts_in_is_processed`,
//!    `a_claim_that_is_put_back_has_cost_nothing`, `a_restart_forgets_no_delay`,
//!    `after_kill_9_no_command_runs_beside_its_successor_and_attempts_tell_the_truth`,
//!    `a_renewal_by_request_is_no_outage_and_runs_no_command_twice`.
//! 3. **When the store fails we say so.** The answer is 503, nothing is half done, and we never go on without durability.
//!    `while_the_disk_takes_no_orders_the_answer_is_503_and_nothing_is_half_done`,
//!    `a_full_disk_is_answered_with_503_until_there_is_room_again`, `a_failing_disk_costs_no_acknowledged_order`,
//!    `once_the_file_is_gone_everything_is_refused_and_it_is_told_once`.
//! 4. **One process owns a database file.** A second one says so and ends, also while a child is being replaced.
//!    `a_second_orderd_on_the_same_file_says_so_and_the_first_goes_on`,
//!    `a_second_orderd_is_refused_also_while_the_worker_is_being_replaced`,
//!    `a_second_server_on_the_same_file_is_refused_and_the_first_goes_on`.
//! 5. **The same order sent again is stored and processed once.**
//!    `the_same_order_again_is_answered_again_and_stored_once`, `one_order_sent_by_many_at_once_is_stored_once`,
//!    `a_replayed_order_is_not_processed_again`.
//! 6. **A connection has one request under way.** Each request is answered once and in order, sees what those before it did, and
//!    holds up no other connection.
//!    `each_request_of_a_connection_sees_what_those_before_it_did`, `every_request_is_answered_once_whatever_its_neighbours_do`,
//!    `a_badly_framed_request_behind_a_valid_order_hangs_nobody`, `sixty_four_slow_readers_of_records_and_pages_are_hardly_noticed`,
//!    `hosts_that_share_their_ports_are_all_answered`.
//! 7. **Another site's page reads nothing and changes nothing.**
//!    `what_a_browser_says_another_sites_page_sends_is_refused`, `an_origin_that_is_not_the_host_is_refused`,
//!    `a_host_that_is_not_this_machine_is_refused`.
//!
//! # Modules, in reading order
//!
//! A room is a file with its surface and a folder with its parts. `docs/design.md` says who may import whom, and why each
//! mechanism is there.
//!
//! | room | what it owns |
//! |---|---|
//! | [`order`] | what an order is and may become; `body` how a request's body becomes one, `exported` one as a line that moves |
//! | `store` | changes in, answers out, all or nothing, and a few reads; `write` the changes, `commit` many of them with one fsync, `commit/queue` where they wait, `figures` what is counted of them, `backend` the kinds of place behind it, `sqlite` the only SQL, but for that of `postgres`, a feature, `orders` and `ends` what an embedding program does and waits for, `export` all orders of one moment |
//! | `processing` | the thread that has orders processed; `state` its steps, `work` what processing means, `task` and `command` attempts under way, `output` what they print, `journal` what the log has of them, `retries` what follows a failure |
//! | [`api`] | what requests mean and answers say; `query`, `origin`, `accept`, `reply`, `metrics` and `prometheus`, `template` by which requests are counted, `pages` for people |
//! | `http` | connections, framing, bodies and answers, on tiny_http, and nothing of orders: `workers`, `head`, `connections` the one rule, `body` and `blocking` for what goes at a client's speed, `response`, `sockets`, `watchdog`, `told` a line for each, `meters` what is counted of them, `relay` for Unix sockets, `listener`, `probe`, `client`, `percent` |
//! | `service` | what each route does; the only place where `http` and orders meet |
//! | `server` | start and stop: joins the rooms |
//! | `supervisor` | the parent process: `child` as it sees one, `inherited` the child's end, `orphans`, `pace` |
//! | [`config`] | settings, and the defaults with their reasons; `settings` their text forms |
//! | `cli` | the command line; `table` its subcommands, each a file, `arguments` what was typed, `help` |
//! | `os`, `error` | signals, processes, the clock, the log, mutexes, counters; the one error type |
//!
//! **Deliberately absent**: an async runtime (the client of PostgreSQL brings one, with its feature), a web framework, an ORM, a cache
//! of orders in memory, and any write that does not go through `store/commit.rs`.

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

pub use config::{Config, Listen, Token};
pub use error::Error;
pub use http::listener::{Address, Listener};
pub use order::{InvalidOrder, NewOrder, Order, OrderId, Status};
pub use os::clock::Clock;
pub use processing::work::{Work, WorkError};
pub use server::{Foundations, Server, Trouble};
pub use store::orders::{OrderError, Orders, Stored};
pub use store::{Counts, Filter, Lock, Page};
