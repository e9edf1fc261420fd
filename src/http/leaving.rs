//! How a server leaves the place where it listens: to a successor that listens there too, or for good.
//!
//! **To a successor.** Both processes accept from one queue, and what the old one accepts it must answer. tiny_http's accept thread
//! can't be told to end. What makes it fail, such as a descriptor that is not to be had, may strike between accepting a
//! connection and serving it; and a process that ends with the thread in accept() may lose one that it has just taken. So what the
//! thread listens on is exchanged: standard input, which it is in a process that has a successor, becomes a listener of our own
//! where only nudges arrive. From there on nothing of the old queue can be taken, and descriptors and nudges are there as before.
//!
//! **For good**, as an embedding program goes on: idle connections are closed, as nobody will answer on them.

use std::net::TcpListener;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::listener::own_listener;
use super::turn::Core;
use super::watchdog::{is_accepting, nudge};
use crate::os::standard_input;
use crate::os::sync::unpoisoned;

/// How long the last answers may take of a server that has left its place to a successor: it is in nobody's way.
const LAST_ANSWERS: Duration = Duration::from_secs(10);
/// How long nothing must have come before it is taken that nothing will, while anybody is connected: who has a connection and uses
/// it is told in an answer that it ends.
const SILENCE: Duration = Duration::from_secs(1);
/// The same while nobody is connected, or where tiny_http itself has failed; and how long it takes at the most once somebody waits for the end.
const SHORT_SILENCE: Duration = Duration::from_millis(100);
/// How long tiny_http may take to accept at another place, or to end.
const TO_LEAVE: Duration = Duration::from_secs(2);
/// How often to look.
const PAUSE: Duration = Duration::from_millis(5);

impl Core {
    /// Accepts nothing more of what others accept as well, from the moment it returns. For want of a descriptor it may not be done,
    /// and can be tried again.
    pub(super) fn end_accepting(&self) {
        let (own, until) = (self.sockets.own(), Instant::now() + TO_LEAVE);
        let mut accepting = unpoisoned(&self.watchdog.accepting);
        // Not where it is left already, nor where nobody else listens.
        if *accepting != own || self.listening != standard_input::NUMBER || !is_accepting(self.listening, &own) {
            return;
        }
        let exchanged = own_listener().and_then(|elsewhere| {
            let address = elsewhere.local_addr()?;
            standard_input::exchange(&elsewhere)?;
            *accepting = address;
            Ok((elsewhere, address))
        });
        drop(accepting);
        match exchanged {
            Ok((elsewhere, address)) => {
                // The thread still waits for one connection of the old queue, which a successor may take as well. When it has
                // taken one of the new queue it does so no more.
                let mut is_asked = false;
                while (!is_asked || has_queue(&elsewhere)) && Instant::now() < until {
                    is_asked = is_asked || nudge(&address).is_some();
                    let _ = nudge(&own);
                    std::thread::sleep(PAUSE);
                }
            }
            Err(e) => log::warn!("connections are still accepted by a process that ends: {e}"),
        }
    }

    /// Waits until all that was accepted is answered and nothing more comes on it; not much longer once `is_urgent`.
    pub(super) fn answer_the_rest(&self, is_urgent: impl Fn() -> bool) {
        let begun = Instant::now();
        let mut until = begun + LAST_ANSWERS;
        // One that is short of descriptors or threads lacks what its successor needs as well.
        let is_well = is_accepting(self.listening, &unpoisoned(&self.watchdog.accepting));
        while Instant::now() < until {
            if is_urgent() {
                until = until.min(Instant::now() + SHORT_SILENCE);
            }
            let is_anybody_there = self.sockets.walk().any(|(_, peer)| peer.is_some());
            let silence = if is_anybody_there && is_well { SILENCE } else { SHORT_SILENCE };
            // Whoever has connected just before may not have asked yet.
            if self.connections.silent_for().min(begun.elapsed()) >= silence {
                return;
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// Closes the listening socket and every connection, once nothing is under way any more. What is, is cut.
pub(super) fn close(core: Arc<Core>) {
    let until = Instant::now() + TO_LEAVE;
    let (sockets, listening) = (core.sockets.clone(), core.listening);
    // Whoever waits for a client has the core as well.
    sockets.shutdown_all();
    let last = Arc::downgrade(&core);
    drop(core);
    // With the core goes tiny_http's server, and then its accept thread, which may have taken one more connection.
    while (last.strong_count() > 0 || is_accepting(listening, &sockets.own())) && Instant::now() < until {
        std::thread::sleep(PAUSE);
    }
    sockets.shutdown_all();
}

/// Whether any connection waits to be accepted.
fn has_queue(listener: &TcpListener) -> bool {
    let mut look = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    poll(&mut look, PollTimeout::ZERO) != Ok(0)
}
