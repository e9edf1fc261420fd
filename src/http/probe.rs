//! A question from outside: does a server answer? Asked by the parent of the process that serves.
//!
//! The question is a request that only a worker thread answers: a line that is no request would be answered by tiny_http
//! itself, which proves nothing of the workers. Whatever HTTP comes back is a sign of life, a refusal too.
//!
//! Every step has a bound, also where the backlog is full and connecting would wait.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr, sockopt};
use nix::sys::time::TimeVal;

use super::listener::Address;

/// Any answer will do. `localhost` is a name that every server takes.
const QUESTION: &[u8] = b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
/// What an answer begins with.
const ANSWER: &[u8] = b"HTTP/1.";
/// How long to wait before asking again, when a connection was closed without an answer or none came about.
const PAUSE: Duration = Duration::from_millis(250);

/// What came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// An answer.
    Answer,
    /// Nothing, though somebody listens.
    Silence,
    /// It could not be asked, for reasons that are not its own: its address is gone, or we have no descriptor left.
    Unasked,
}

/// Asks the server at `address`, again and again if need be, until it answers or `patience` is over.
pub fn ask(address: &Address, patience: Duration) -> Heard {
    let until = Instant::now() + patience;
    let mut heard = Heard::Unasked;
    while let Ok(left) = left(until) {
        match ask_once(address, left, until) {
            Heard::Answer => return Heard::Answer,
            Heard::Silence => heard = Heard::Silence,
            Heard::Unasked => {}
        }
        std::thread::sleep(PAUSE.min(until.saturating_duration_since(Instant::now())));
    }
    heard
}

fn ask_once(address: &Address, patience: Duration, until: Instant) -> Heard {
    let answered = match address {
        Address::Tcp(address) => TcpStream::connect_timeout(&reachable(*address), patience)
            .map(|stream| exchange(&stream, until, |left| stream.set_read_timeout(Some(left)))),
        Address::Unix(path) => {
            connect_unix(path, patience).map(|stream| exchange(&stream, until, |left| stream.set_read_timeout(Some(left))))
        }
    };
    match answered {
        Ok(Ok(true)) => Heard::Answer,
        Ok(_) => Heard::Silence,
        // The backlog is full.
        Err(e) if matches!(e.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) => Heard::Silence,
        Err(_) => Heard::Unasked,
    }
}

/// Whether an answer begins. Its rest is of no interest.
fn exchange(
    mut stream: impl Read + Write,
    until: Instant,
    set_patience: impl Fn(Duration) -> io::Result<()>,
) -> io::Result<bool> {
    stream.write_all(QUESTION)?;
    let mut answer = [0; ANSWER.len()];
    let mut read = 0;
    while read < answer.len() {
        set_patience(left(until)?)?;
        match stream.read(&mut answer[read..])? {
            0 => return Ok(false),
            more => read += more,
        }
    }
    Ok(answer == ANSWER)
}

/// The time that is left, never zero, which would mean for ever.
fn left(until: Instant) -> io::Result<Duration> {
    match until.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
        left => Ok(left.max(Duration::from_millis(1))),
    }
}

/// Who listens on all addresses is reached on loopback.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

/// Unlike std's, gives up when the backlog stays full.
pub(super) fn connect_unix(path: &Path, patience: Duration) -> io::Result<UnixStream> {
    let socket = socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let patience = TimeVal::new(patience.as_secs() as i64, i64::from(patience.subsec_micros()));
    socket::setsockopt(&socket, sockopt::SendTimeout, &patience)?;
    socket::connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(UnixStream::from(socket))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;

    const BRIEFLY: Duration = Duration::from_millis(300);

    fn serve_one(answer: &'static str) -> Address {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut question = vec![0; QUESTION.len()];
            stream.read_exact(&mut question).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            // The listener lives on, so that whoever asks again is not refused.
            std::thread::sleep(Duration::from_secs(2));
        });
        address
    }

    #[test]
    fn any_http_answer_is_a_sign_of_life_and_nothing_else_is() {
        assert_eq!(ask(&serve_one("HTTP/1.1 405 Method Not Allowed\r\n\r\n"), Duration::from_secs(30)), Heard::Answer);
        assert_eq!(ask(&serve_one("SSH-2.0-OpenSSH_9.2\r\n"), BRIEFLY), Heard::Silence);
        assert_eq!(ask(&serve_one(""), BRIEFLY), Heard::Silence);
    }

    #[test]
    fn an_address_where_nobody_listens_says_nothing_of_a_server() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(ask(&Address::Tcp(free), BRIEFLY), Heard::Unasked);
        assert_eq!(ask(&Address::Unix("/no/such/socket".into()), BRIEFLY), Heard::Unasked);
    }

    #[test]
    fn a_full_backlog_is_silence_and_is_not_waited_for() {
        let path = std::env::temp_dir().join(format!("orderd-probe-{}.sock", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        socket::listen(&listener, socket::Backlog::new(0).unwrap()).unwrap();
        let _waiting = UnixStream::connect(&path).unwrap();
        let begun = Instant::now();
        assert_eq!(ask(&Address::Unix(path.clone()), BRIEFLY), Heard::Silence);
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        std::fs::remove_file(path).unwrap();
    }
}
