//! Slow readers: clients that always have answers to come, and read them steadily at a rate of their own.
//!
//! One thread reads for all of them, so that many cost the machine little. One that is cut connects again. They are far away, so
//! that what they have not read yet stays with the server.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::{Serving, connect_from_afar, get, tcp_address};

const TICK: Duration = Duration::from_millis(20);

/// Some that read until this is dropped.
pub struct SlowReaders {
    over: Arc<AtomicBool>,
    /// How many have read something.
    reading: Arc<AtomicUsize>,
    readers: usize,
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
        let (over, reading) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let to = tcp_address(server);
        let kinds = wanted.iter().cycle();
        let mut readers: Vec<_> = rates
            .iter()
            .zip(kinds)
            .map(|(rate, wanted)| Reader { to, rate: *rate, wanted: wanted.clone(), connection: None, has_read: false })
            .collect();
        let (until, count) = (over.clone(), reading.clone());
        let thread = std::thread::spawn(move || {
            let mut last = Instant::now();
            while !until.load(Ordering::Relaxed) {
                std::thread::sleep(TICK);
                let passed = std::mem::replace(&mut last, Instant::now()).elapsed();
                readers.iter_mut().for_each(|reader| reader.go_on(passed));
                count.store(readers.iter().filter(|reader| reader.has_read).count(), Ordering::Relaxed);
            }
        });
        SlowReaders { over, reading, readers: rates.len(), thread: Some(thread) }
    }

    /// Whether each of them has read something by now.
    pub fn are_all_reading(&self) -> bool {
        self.reading.load(Ordering::Relaxed) == self.readers
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
    has_read: bool,
}

impl Reader {
    /// Reads what its rate allows for this time.
    fn go_on(&mut self, passed: Duration) {
        let mut connection = self.connection.take().or_else(|| {
            let stream = connect_from_afar(self.to).ok()?;
            stream.set_nonblocking(true).ok()?;
            Some((stream, 0))
        });
        let Some((stream, to_come)) = &mut connection else { return };
        // Always more than the server's system takes, so that the server itself has something to write.
        let enough = 2 * self.wanted.bytes + (4 << 20);
        while *to_come < enough {
            if stream.write_all(get(&self.wanted.path).as_bytes()).is_err() {
                return;
            }
            *to_come += self.wanted.bytes;
        }
        let mut bytes = vec![0; (self.rate as f64 * passed.as_secs_f64()) as usize + 1];
        match stream.read(&mut bytes) {
            Ok(read) if read > 0 => {
                *to_come = to_come.saturating_sub(read);
                self.has_read = true;
            }
            Err(e) if e.kind() == ErrorKind::WouldBlock => {}
            // It was cut.
            _ => return,
        }
        self.connection = connection;
    }
}
