//! Everything at once: every good request is answered once and correctly, whatever its neighbours do.
//!
//! Good clients of several hosts order and read; around them bodies come late, framing is bad, lengths are absurd, clients flood
//! without reading, read slowly or vanish, and in the middle the worker is renewed. Of that nothing is to be noticed either:
//! a client is told in an answer that its connection ends.

use std::io::{self, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::harness::{
    Answer, Client, Folder, PATIENCE, Process, Serving, SlowReaders, Wanted, Worker, badly_framed, comes_true, connect_from,
    created, get, head, host, long_order, order, post, post_in_chunks, put_large_order, quick_or_slow, tcp_address,
};

/// How many clients of each kind there are.
const GOOD: usize = 6;
/// Fewer lengths than renew a worker by themselves.
const ABSURD: usize = 40;

/// What good clients did.
#[derive(Debug, Default)]
struct Done {
    acknowledged: Vec<String>,
    /// Requests that were answered, of all kinds.
    answered: usize,
}

/// A client that keeps its connection until an answer says that it ends.
struct Good<'a> {
    server: &'a Process,
    number: usize,
    client: Option<Client>,
    done: Done,
}

impl Good<'_> {
    fn connect(&self) -> io::Result<Client> {
        // From hosts that share their ports, one for each client and turn.
        let from = SocketAddrV4::new(host(1 + self.number as u8 % 3), 0);
        Ok(Client::over(connect_from(from, tcp_address(self.server))?))
    }

    /// Sends `requests` in one go, with what comes later after a moment, and reads as many answers.
    fn try_all(&mut self, first: &[u8], later: &[u8], answers: usize) -> io::Result<Vec<Answer>> {
        let mut client = self.client.take().map_or_else(|| self.connect(), Ok)?;
        client.send(first)?;
        if !later.is_empty() {
            std::thread::sleep(Duration::from_millis(5));
            client.send(later)?;
        }
        let got = (0..answers).map(|_| client.read_answer(false)).collect::<io::Result<Vec<_>>>()?;
        self.client = got.iter().all(|answer| answer.header("Connection") != Some("close")).then_some(client);
        Ok(got)
    }

    #[track_caller]
    fn all(&mut self, first: &[u8], later: &[u8], answers: usize) -> Vec<Answer> {
        match self.try_all(first, later, answers) {
            Ok(got) => {
                self.done.answered += answers;
                got
            }
            Err(e) => panic!("no answer, or a broken one: {e}; standard error:\n{}", self.server.stderr()),
        }
    }

    /// One order in each of the ways, and what is to be seen of it.
    fn turn(&mut self, n: usize) {
        let id = format!("good-{}-{n}", self.number);
        let look = get(&format!("/order/{id}")).into_bytes();
        let (whole, long) = (post(order(&id)), post(long_order(&id, 2_000)));
        let answers = match n % 4 {
            0 => [self.all(&whole, b"", 1), self.all(&look, b"", 1)].concat(),
            1 => self.all(&[whole, look].concat(), b"", 2),
            2 => self.all(&long[..300], &[&long[300..], &look].concat(), 2),
            _ => self.all(&[post_in_chunks(&order(&id), 20), look].concat(), b"", 2),
        };
        answers[0].expect(200, &created(&id));
        answers[1].expect_status(200);
        assert_eq!(answers[1].json()["order_id"], id.as_str(), "{}", answers[1].exchange());
        self.done.acknowledged.push(id);
    }
}

/// Does `deed` again and again until `over`, each time over a new connection. What fails there is its own affair.
fn again_and_again(server: &Process, over: &AtomicBool, pause: Duration, mut deed: impl FnMut(TcpStream)) {
    let mut port = 0_u16;
    while !over.load(Ordering::Relaxed) {
        port = (port + 1) % 100;
        // From the same hosts as the good ones, and in turn from the same ports.
        if let Ok(stream) = connect_from(SocketAddrV4::new(host(1 + port as u8 % 3), 26_000 + port), tcp_address(server)) {
            let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
            let _ = stream.set_write_timeout(Some(Duration::from_secs(2)));
            deed(stream);
        }
        std::thread::sleep(pause);
    }
}

#[test]
fn every_request_is_answered_once_whatever_its_neighbours_do() {
    let spell = quick_or_slow(Duration::from_secs(5), Duration::from_secs(30));
    let folder = Folder::new();
    let server = Process::start(&folder, &["--processing-time", "0s", "--read-timeout", "2s"]);
    put_large_order(&server.db(), 0, 115);
    server.served_again();
    let first = Worker::of(&server);
    let at_first = (first.threads(), first.descriptors());
    let slow = [20_000, 50_000, 100_000, 200_000];
    let readers = SlowReaders::start(&server, &slow, &[Wanted { path: "/orders/big-0".into(), bytes: 59_000 }]);
    let (over, absurd) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (server, over, absurd) = (&server, &over, &absurd);
    let done: Vec<Done> = std::thread::scope(|scope| {
        let good = |number| {
            let mut good = Good { server, number, client: None, done: Done::default() };
            for n in 0.. {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                good.turn(n);
            }
            good.done
        };
        let good: Vec<_> = (0..GOOD).map(|number| scope.spawn(move || good(number))).collect();
        let pause = Duration::from_millis(10);
        // A valid order, and what is refused behind it.
        scope.spawn(move || {
            let mut n = 0;
            again_and_again(server, over, pause, |mut stream| {
                n += 1;
                let _ = stream.write_all(&[post(order(&format!("pair-{n}"))), badly_framed("").into_bytes()].concat());
                let _ = io::Read::read_to_end(&mut stream, &mut Vec::new());
            });
        });
        scope.spawn(move || {
            again_and_again(server, over, Duration::from_millis(50), |mut stream| {
                if absurd.fetch_add(1, Ordering::Relaxed) < ABSURD {
                    let _ = stream.write_all(head(&["Content-Length: 9999999999999"]).as_bytes());
                }
            });
        });
        // As much as the server takes, and none of the answers is read.
        scope.spawn(move || {
            let requests = get("/metrics").repeat(200);
            again_and_again(server, over, pause, |mut stream| while stream.write_all(requests.as_bytes()).is_ok() {});
        });
        // Gone at any place of a request, with a reset.
        scope.spawn(move || {
            let whole = post(long_order("vanishing", 1_500));
            let mut cut = 0;
            again_and_again(server, over, Duration::from_millis(2), |mut stream| {
                cut = (cut + 37) % (whole.len() - 1);
                let _ = stream.write_all(&whole[..cut]);
            });
        });
        // Bodies that never end.
        scope.spawn(move || {
            again_and_again(server, over, pause, |mut stream| {
                let _ = stream.write_all((head(&["Content-Length: 2000"]) + "{").as_bytes());
                let _ = io::Read::read(&mut stream, &mut [0; 100]);
            });
        });
        std::thread::sleep(spell / 2);
        server.signal("USR1");
        std::thread::sleep(spell / 2);
        over.store(true, Ordering::Relaxed);
        good.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    drop(readers);

    let answered: usize = done.iter().map(|done| done.answered).sum();
    eprintln!("{answered} good requests were answered");
    assert!(answered > 100, "there was no load");
    server.get("/healthz").expect(200, r#"{"status":"ok"}"#);
    let stored: std::collections::HashSet<_> = server.rows().into_iter().map(|row| row.order_id).collect();
    let lost: Vec<_> = done.iter().flat_map(|done| &done.acknowledged).filter(|id| !stored.contains(*id)).collect();
    assert!(lost.is_empty(), "acknowledged and not stored: {lost:?}");
    assert!(!stored.contains("vanishing"), "it was never whole");
    // What absurd lengths hold stays lost until a renewal: a thread and two descriptors each.
    let at_rest = || {
        let now = Worker::of(server);
        (now.threads(), now.descriptors())
    };
    let calm = comes_true(PATIENCE, || {
        let now = at_rest();
        now.0 <= at_first.0 + ABSURD + 20 && now.1 <= at_first.1 + 2 * ABSURD + 10
    });
    assert!(calm, "(threads, descriptors) were {at_first:?} and are {:?}: {}", at_rest(), server.stderr());
    assert!(comes_true(PATIENCE, || Worker::all_of(server) == 1), "{}", server.stderr());
}
