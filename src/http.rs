//! The front door: the only place that names tiny_http.

pub mod blocking;
pub mod census;
pub mod client;
pub mod connections;
pub mod intake;
pub mod listener;
pub mod percent;
pub mod response;
pub mod sockets;
pub mod turns;
pub mod watchdog;
