//! What stands between an instance and its server, and can stop passing anything on, either way, or lose an answer.
//!
//! It listens on a socket in a folder of its own. What was sent while nothing is passed on is on its way until it is again, as on a
//! network that comes back.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

const SOCKET: &str = ".s.PGSQL.5432";
/// The last words of the answer to what has been committed, or to anything outside a transaction.
const DONE: &[u8] = b"Z\0\0\0\x05I";

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    ToServer,
    ToClient,
}

/// The proxy. Its connections end when their clients' do.
pub struct Proxy {
    folder: PathBuf,
    passing: Arc<Passing>,
}

#[derive(Default)]
struct Passing {
    is_cut: [AtomicBool; 2],
    loses_answer: AtomicBool,
}

impl Proxy {
    /// One in front of the server that this URL names by the folder of its socket.
    pub fn before(url: &str) -> Proxy {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("orderd-proxy-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).unwrap();
        let listener = UnixListener::bind(folder.join(SOCKET)).unwrap();
        let server = Path::new(host_in(url)).join(SOCKET);
        let passing = Arc::<Passing>::default();
        let all = passing.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(up) = UnixStream::connect(&server) else { continue };
                let (client_2, up_2) = (client.try_clone().unwrap(), up.try_clone().unwrap());
                for (from, to, way) in [(client, up, Way::ToServer), (up_2, client_2, Way::ToClient)] {
                    let passing = all.clone();
                    std::thread::spawn(move || passing.pass_on(from, to, way));
                }
            }
        });
        Proxy { folder, passing }
    }

    /// The URL by which the same is reached through it.
    pub fn url(&self, url: &str) -> String {
        url.replace(&format!("host={}", host_in(url)), &format!("host={}", self.folder.display()))
    }

    /// Stops passing on what goes these ways.
    pub fn cut(&self, ways: &[Way]) {
        ways.iter().for_each(|way| self.passing.is_cut[*way as usize].store(true, Ordering::Relaxed));
    }

    /// Passes everything on again.
    pub fn mend(&self) {
        self.passing.is_cut.iter().for_each(|is_cut| is_cut.store(false, Ordering::Relaxed));
    }

    /// Has the next answer of the server go no further, once it is complete, and the connection end with it.
    #[allow(dead_code, reason = "those who lose none share this file")]
    pub fn lose_next_answer(&self) {
        self.passing.loses_answer.store(true, Ordering::Relaxed);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Passing {
    fn pass_on(&self, mut from: UnixStream, mut to: UnixStream, way: Way) {
        let mut bytes = [0; 16_384];
        let mut lost = Vec::new();
        while let Ok(n @ 1..) = from.read(&mut bytes) {
            while self.is_cut[way as usize].load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(5));
            }
            if way == Way::ToClient && self.loses_answer.load(Ordering::Relaxed) {
                lost.extend_from_slice(&bytes[..n]);
                if lost.ends_with(DONE) {
                    self.loses_answer.store(false, Ordering::Relaxed);
                    break;
                }
            } else if to.write_all(&bytes[..n]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    }
}

fn host_in(url: &str) -> &str {
    url.split_once("host=").unwrap().1.split('&').next().unwrap()
}
