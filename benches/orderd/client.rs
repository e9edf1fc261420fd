//! A keep-alive HTTP/1.1 client that costs little: what it burns, the server on the same machine lacks.
//!
//! Each thread owns many connections, has a request under way on all of them, and goes round: it waits for the answer of one,
//! sends the next request there, and turns to the next. So an answer costs one read and one write, nothing polls, and the
//! server finds work on all other connections meanwhile. An answer that lies ready until its turn comes counts as latency;
//! that is the same for all contestants.
//!
//! Connections are opened one by one, each after the first answer on the one before: tiny_http may leave connections that
//! arrive together unanswered, and the contestants that are nothing but tiny_http could not be measured.
//!
//! Any answer but 200, and silence for [`PATIENCE`], is an error that ends the run.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use crate::Result;
use crate::process::Process;
use crate::workload::{Ask, Requests};

/// How long a server may stay silent.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Threads that drive the connections of a load: of 1, 2, 3, 4, 8 and 64, these got the most out of tiny_http alone on two
/// cores, as much as wrk.
const THREADS: usize = 4;

/// A connection that stays open.
pub struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
    sent_at: Instant,
}

impl Connection {
    /// Connects, and asks nothing yet.
    pub fn open(address: SocketAddr) -> Result<Connection> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Connection { stream, received: Vec::with_capacity(1_024), sent_at: Instant::now() })
    }

    /// Sends a request.
    pub fn send(&mut self, request: &[u8]) -> Result<()> {
        self.sent_at = Instant::now();
        Ok(self.stream.write_all(request)?)
    }

    /// Waits for the answer to the request last sent and says how long it took.
    pub fn receive(&mut self) -> Result<Duration> {
        self.received.clear();
        let mut part = [0; 1_024];
        loop {
            let bytes = match self.stream.read(&mut part) {
                Ok(0) => return Err("the server closed the connection instead of answering".into()),
                Ok(bytes) => bytes,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    let silence = format!("no answer within {} s", PATIENCE.as_secs());
                    return Err(io::Error::new(io::ErrorKind::TimedOut, silence).into());
                }
                Err(e) => return Err(e.into()),
            };
            self.received.extend_from_slice(&part[..bytes]);
            if answer_is_whole(&self.received)? {
                return Ok(self.sent_at.elapsed());
            }
        }
    }

    fn receive_us(&mut self) -> Result<u32> {
        Ok(self.receive()?.as_micros().min(u128::from(u32::MAX)) as u32)
    }

    /// The body of the answer last received.
    pub fn body(&self) -> &[u8] {
        head_end(&self.received).map_or(&[], |end| &self.received[end..])
    }

    /// One request and its answer.
    pub fn ask(&mut self, request: &[u8]) -> Result<Duration> {
        self.send(request)?;
        self.receive()
    }
}

/// Opens `count` connections, each with an answer before the next.
pub fn open(address: SocketAddr, count: usize) -> Result<Vec<Connection>> {
    let mut requests = Requests::new(Ask::Metrics, 0);
    (0..count)
        .map(|_| {
            let mut connection = Connection::open(address)?;
            connection.ask(requests.next())?;
            Ok(connection)
        })
        .collect()
}

/// Questions asked at full speed.
pub struct Load<'a> {
    /// Whom.
    pub server: &'a Process,
    /// What.
    pub ask: Ask,
    /// On how many connections.
    pub connections: usize,
    /// For how long.
    pub duration: Duration,
}

/// What came of a [`Load`].
pub struct Outcome {
    /// When the first request was sent.
    pub started: Instant,
    /// Answers a second.
    pub rate: f64,
    /// Processor time of the server, if there is one.
    pub cpu: Option<Duration>,
    /// Of every answer, in microseconds, sorted.
    pub latencies_us: Vec<u32>,
    /// The orders that were acknowledged: the first so many of each seed's series.
    pub acknowledged: Vec<(u64, u64)>,
}

impl Outcome {
    /// The latency that a share of the answers did not exceed, in milliseconds.
    pub fn percentile_ms(&self, share: f64) -> f64 {
        let last = self.latencies_us.len().saturating_sub(1);
        self.latencies_us.get((last as f64 * share).round() as usize).map_or(f64::NAN, |us| f64::from(*us) / 1_000.0)
    }

    /// How many orders were acknowledged.
    pub fn orders(&self) -> u64 {
        self.acknowledged.iter().map(|(_, count)| count).sum()
    }
}

impl Load<'_> {
    /// Runs it, and returns once everything that was asked has been answered.
    pub fn run(&self) -> Result<Outcome> {
        let mut idle = open(self.server.address, self.connections)?;
        let cpu_before = self.server.cpu();
        let threads = THREADS.min(self.connections);
        let at_once = Barrier::new(threads);
        let started = Instant::now();
        let driven = std::thread::scope(|scope| {
            let drivers: Vec<_> = (0..threads)
                .map(|n| {
                    let mine = idle.split_off(idle.len() - idle.len() / (threads - n));
                    let ask = self.ask.of_thread(n as u64);
                    let at_once = &at_once;
                    scope.spawn(move || {
                        at_once.wait();
                        drive(mine, ask, n as u64, Instant::now() + self.duration)
                    })
                })
                .collect();
            drivers
                .into_iter()
                .map(|driver| driver.join().unwrap_or_else(|_| Err("a client thread panicked".into())))
                .collect::<Result<Vec<_>>>()
        })?;
        let cpu = Some(self.server.cpu().saturating_sub(cpu_before));
        let in_time: u64 = driven.iter().map(|d| d.in_time).sum();
        let acknowledged = (0..)
            .zip(&driven)
            .filter_map(|(n, driven)| match self.ask.of_thread(n) {
                Ask::Create { seed } => Some((seed, driven.latencies_us.len() as u64)),
                _ => None,
            })
            .collect();
        let mut latencies_us: Vec<u32> = driven.into_iter().flat_map(|d| d.latencies_us).collect();
        latencies_us.sort_unstable();
        Ok(Outcome { started, rate: in_time as f64 / self.duration.as_secs_f64(), cpu, latencies_us, acknowledged })
    }
}

impl Ask {
    /// Threads create orders of different series.
    fn of_thread(self, thread: u64) -> Ask {
        match self {
            Ask::Create { seed } => Ask::Create { seed: seed + thread },
            other => other,
        }
    }
}

struct Driven {
    /// Answers before the time was over.
    in_time: u64,
    latencies_us: Vec<u32>,
}

fn drive(mut connections: Vec<Connection>, ask: Ask, draws: u64, until: Instant) -> Result<Driven> {
    let mut requests = Requests::new(ask, draws);
    let mut driven = Driven { in_time: 0, latencies_us: Vec::with_capacity(1 << 18) };
    for connection in &mut connections {
        connection.send(requests.next())?;
    }
    let mut turn = 0;
    loop {
        driven.latencies_us.push(connections[turn].receive_us()?);
        if Instant::now() >= until {
            break;
        }
        driven.in_time += 1;
        connections[turn].send(requests.next())?;
        turn = (turn + 1) % connections.len();
    }
    // What was asked in time is still answered, and counts as acknowledged.
    connections.swap_remove(turn);
    for connection in &mut connections {
        driven.latencies_us.push(connection.receive_us()?);
    }
    Ok(driven)
}

fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
}

/// Whether `bytes` are a whole answer. An answer other than 200 is an error that quotes it.
fn answer_is_whole(bytes: &[u8]) -> Result<bool> {
    const LENGTH: &[u8] = b"content-length:";
    let Some(end) = head_end(bytes) else { return Ok(false) };
    let head = &bytes[..end];
    if !head.starts_with(b"HTTP/1.1 200 ") {
        return Err(format!("the server answered {:?}", String::from_utf8_lossy(bytes)).into());
    }
    let length = head
        .split(|b| *b == b'\n')
        .find_map(|line| {
            line.get(..LENGTH.len()).filter(|name| name.eq_ignore_ascii_case(LENGTH)).map(|_| &line[LENGTH.len()..])
        })
        .and_then(|value| std::str::from_utf8(value).ok()?.trim().parse::<usize>().ok())
        .ok_or("the server answered without a Content-Length")?;
    Ok(bytes.len() >= end + length)
}
