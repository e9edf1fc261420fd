//! Sockets of the test's own: from an address and a port of its choice, with a small buffer, or with a reset at their end.
//!
//! Addresses of 127.0.0.0/8 stand for hosts. Each test process has its own, so that no two of them meet at one port.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::{AsFd, AsRawFd};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrIn, sockopt};
use orderd::Address;

use super::{PATIENCE, Serving, comes_true};

/// What the tests need at most, and some for others that run at the same time.
const DESCRIPTORS: u64 = 4_096;

/// The address of a host, by its number.
pub fn host(number: u8) -> Ipv4Addr {
    let [_, _, c, d] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 1 + number, c, d)
}

/// The address and port at which a server listens, which must be TCP ones.
#[track_caller]
pub fn tcp_address(server: &impl Serving) -> SocketAddrV4 {
    match server.address() {
        Address::Tcp(std::net::SocketAddr::V4(address)) => *address,
        other => panic!("it does not listen on TCP: {other}"),
    }
}

/// A connection without anything around it.
#[track_caller]
pub fn raw(server: &impl Serving) -> TcpStream {
    TcpStream::connect(tcp_address(server)).unwrap()
}

/// A connection from a host and port of the test's choice. Both are free again soon after it is closed, as it ends with a reset.
pub fn connect_from(from: SocketAddrV4, to: SocketAddrV4) -> io::Result<TcpStream> {
    let mut result = try_from(from, to);
    comes_true(PATIENCE, || {
        let taken =
            result.as_ref().is_err_and(|e| matches!(e.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::AddrInUse));
        if taken {
            result = try_from(from, to);
        }
        !taken
    });
    result
}

fn try_from(from: SocketAddrV4, to: SocketAddrV4) -> io::Result<TcpStream> {
    let socket = new_socket()?;
    socket::setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    resets_when_closed(&socket);
    socket::bind(socket.as_raw_fd(), &SockaddrIn::from(from))?;
    connected(socket, to)
}

/// A connection like one across a network: its segments are short and neither system takes much before this program reads. On
/// loopback the server's would take more than a megabyte. All of it counts only when it is set before.
pub fn connect_from_afar(to: SocketAddrV4) -> io::Result<TcpStream> {
    let socket = new_socket()?;
    socket::setsockopt(&socket, sockopt::RcvBuf, &(32 << 10))?;
    socket::setsockopt(&socket, sockopt::TcpMaxSeg, &1_400)?;
    connected(socket, to)
}

fn new_socket() -> io::Result<std::os::fd::OwnedFd> {
    Ok(socket::socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?)
}

fn connected(socket: std::os::fd::OwnedFd, to: SocketAddrV4) -> io::Result<TcpStream> {
    socket::connect(socket.as_raw_fd(), &SockaddrIn::from(to))?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Has it end with a reset when it is closed, which frees its port at once.
pub fn resets_when_closed(socket: &impl AsFd) {
    let at_once = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    socket::setsockopt(socket, sockopt::Linger, &at_once).unwrap();
}

/// Raises our own limit of open files. Says whether there are enough.
pub fn enough_descriptors() -> bool {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    if soft < DESCRIPTORS && hard >= DESCRIPTORS {
        setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS, hard).unwrap();
    }
    if hard < DESCRIPTORS {
        eprintln!("skipped: {hard} open files are allowed here, and {DESCRIPTORS} are needed");
    }
    hard >= DESCRIPTORS
}
