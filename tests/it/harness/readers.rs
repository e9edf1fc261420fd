//! Slow readers: clients that always have answers to come, and read them steadily at a rate of their own.
//!
//! One thread reads for all of them, so that many cost the machine little. One that is cut connects again. Their systems take
//! little before they read it, so that the rest stays with the server.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{Serving, connect_with_small_buffer, get, tcp_address};

const TICK: Duration = Duration::from_millis(20);
/// What the reader's system takes at most, in bytes, or twice as much.
const BUFFER: usize = 32 << 10;

/// Some that read until this is dropped.
pub struct SlowReaders {
    over: Arc<AtomicBool>,
    read: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

/// What each of them asks for, again and again.
#[derive(Clone)]
pub struct Wanted {
    pub path: String,
    /// How long the answer is, about.
    pub bytes: usize,
}

impl SlowReaders {
    /// As many as there are rates, which are in bytes a second. They take turns in what they want.
    pub fn start(server: &impl Serving, rates: &[usize], wanted: &[Wanted]) -> SlowReaders {
        let (over, read) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let to = tcp_address(server);
        let kinds = wanted.iter().cycle();
        let mut readers: Vec<_> = rates
            .iter()
            .zip(kinds)
            .map(|(rate, wanted)| Reader { to, rate: *rate, wanted: wanted.clone(), connection: None })
            .collect();
        let (until, count) = (over.clone(), read.clone());
        let thread = std::thread::spawn(move || {
            let mut last = Instant::now();
            while !until.load(Ordering::Relaxed) {
                std::thread::sleep(TICK);
                let passed = std::mem::replace(&mut last, Instant::now()).elapsed();
                for reader in &mut readers {
                    count.fetch_add(reader.go_on(passed) as u64, Ordering::Relaxed);
                }
            }
        });
        SlowReaders { over, read, thread: Some(thread) }
    }

    /// How much they have read, in bytes.
    pub fn bytes(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }
}

impl Drop for SlowReaders {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

struct Reader {
    to: SocketAddrV4,
    rate: usize,
    wanted: Wanted,
    /// The connection, and how many bytes are still to come on it, about.
    connection: Option<(TcpStream, usize)>,
}

impl Reader {
    /// Reads what its rate allows for this time, and says how much there was.
    fn go_on(&mut self, passed: Duration) -> usize {
        let mut connection = self.connection.take().or_else(|| {
            let stream = connect_with_small_buffer(self.to, BUFFER).ok()?;
            stream.set_nonblocking(true).ok()?;
            Some((stream, 0))
        });
        let Some((stream, to_come)) = &mut connection else { return 0 };
        // Always some answers ahead, so that the server has something to write, and never so many requests that these wait.
        let enough = 2 * self.wanted.bytes + (1 << 20);
        while *to_come < enough {
            if stream.write_all(get(&self.wanted.path).as_bytes()).is_err() {
                return 0;
            }
            *to_come += self.wanted.bytes;
        }
        let mut bytes = vec![0; (self.rate as f64 * passed.as_secs_f64()) as usize + 1];
        match stream.read(&mut bytes) {
            Ok(0) => 0,
            Ok(read) => {
                *to_come = to_come.saturating_sub(read);
                self.connection = connection;
                read
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {
                self.connection = connection;
                0
            }
            Err(_) => 0,
        }
    }
}
