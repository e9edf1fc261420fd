//! Unix sockets: each connection is relayed to a listener on the loopback interface, where tiny_http accepts it.
//!
//! Over a Unix socket tiny_http tells connections apart by nothing and inherits no options, so none of what holds for TCP would
//! hold there: no order of requests, no timeouts, no end for a client that doesn't read. Relayed, a connection is like any other.
//!
//! Only what comes from one of the relay's own ports is served: another program of this machine that finds the inner port has not
//! passed the permissions of the socket's file. Each connection costs two threads, which wait in the kernel.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use super::listener::{Listener, own_listener};
use crate::error::Error;
use crate::os::sync::unpoisoned;

/// The pause after a connection could not be accepted, as there are no descriptors.
const SOON: Duration = Duration::from_millis(20);
/// How often to try to be accepted by our own thread.
const MAX_STOP_TRIES: usize = 100;
/// A thread here copies bytes and nothing else.
const STACK_BYTES: usize = 64 << 10;
/// How much is copied at once.
const BUFFER_BYTES: usize = 16 << 10;

/// A running relay.
pub(super) struct Relay {
    ports: Arc<Mutex<HashSet<SocketAddr>>>,
    stopping: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Relay {
    /// Starts to relay what connects to `outer`, and gives the listener where it arrives.
    pub fn start(outer: UnixListener, silence: Duration) -> Result<(TcpListener, Relay), Error> {
        let failed = |source| Error::Listen { address: "127.0.0.1:0, for a Unix socket's connections".into(), source };
        let inner = own_listener().map_err(failed)?;
        let address = inner.local_addr().map_err(failed)?;
        let inner_listener = Listener::Tcp(inner);
        inner_listener.prepare(silence)?;
        let Listener::Tcp(inner) = inner_listener else { unreachable!("it was made above") };
        let (ports, stopping): (Arc<Mutex<HashSet<SocketAddr>>>, Arc<AtomicBool>) = Default::default();
        let (to_add, until) = (ports.clone(), stopping.clone());
        let accept = move || {
            while !until.load(Ordering::Acquire) {
                let accepted = outer.accept().and_then(|(client, _)| join(client, address, silence, &to_add));
                if accepted.is_err() {
                    std::thread::sleep(SOON);
                }
            }
        };
        let thread = Builder::new().name("relay".into()).stack_size(STACK_BYTES).spawn(accept).map_err(Error::Thread)?;
        Ok((inner, Relay { ports, stopping, thread }))
    }

    /// Whether `peer` is one of the relay's own ports.
    pub fn is_from(&self, peer: &SocketAddr) -> bool {
        unpoisoned(&self.ports).contains(peer)
    }

    /// Accepts no more connections on `path`. The last one that is accepted may be anybody's, and is relayed. Where others listen
    /// as well it may take some connections of our own until one is accepted here.
    pub fn stop(&self, path: &Path) {
        self.stopping.store(true, Ordering::Release);
        for _ in 0..MAX_STOP_TRIES {
            if self.thread.is_finished() || UnixStream::connect(path).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Relays one connection, on two threads.
fn join(client: UnixStream, inner: SocketAddr, silence: Duration, ports: &Arc<Mutex<HashSet<SocketAddr>>>) -> io::Result<()> {
    // Of a client that does not read, the server hears only by this.
    client.set_write_timeout(Some(silence))?;
    let server = TcpStream::connect(inner)?;
    server.set_nodelay(true)?;
    let port = server.local_addr()?;
    let (client, server) = (Arc::new(client), Arc::new(server));
    unpoisoned(ports).insert(port);
    let ports = ports.clone();
    let (from_client, to_server) = (client.clone(), server.clone());
    let thread = || Builder::new().name("relay".into()).stack_size(STACK_BYTES);
    let requests = thread().spawn(move || {
        copy(&*from_client, &*to_server);
        let _ = to_server.shutdown(Shutdown::Write);
    });
    let answers = thread().spawn(move || {
        copy(&*server, &*client);
        let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
        unpoisoned(&ports).remove(&port);
    });
    requests.and(answers).map(drop)
}

fn copy(mut from: impl Read, mut to: impl Write) {
    let mut buffer = [0; BUFFER_BYTES];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return,
            Ok(read) => {
                if to.write_all(&buffer[..read]).is_err() {
                    return;
                }
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}
