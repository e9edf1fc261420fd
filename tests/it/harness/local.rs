//! A server in this process, with a folder of its own and a clock that the test turns.
//!
//! It shows what an embedding program gets. What takes the time that it is about is done by turning the clock instead.
//! The server is stopped when it is dropped, also when a test fails.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use orderd::{Address, Clock, Config, Listen, Server, Work};

use super::{Folder, Serving, T0, comes_true};

/// A server in this process, on a free port, with a folder of its own and a clock that stands at [`T0`] until it is turned.
pub struct Local {
    server: Option<Server>,
    address: Address,
    config: Config,
    folder: Arc<Folder>,
}

impl Local {
    /// Starts one that processes nothing, so that orders stay `Pending`.
    pub fn idle() -> Local {
        Local::start(|config| config.concurrency = Some(0))
    }

    /// Starts one, set up as `change` wants it.
    pub fn start(change: impl FnOnce(&mut Config)) -> Local {
        Local::start_with(|config, _| change(config))
    }

    fn start_with(change: impl FnOnce(&mut Config, &Folder)) -> Local {
        let folder = Arc::new(Folder::new());
        let listen = Listen::Tcp("127.0.0.1:0".into());
        let mut config = Config { listen, db: folder.db(), clock: Clock::manual(T0), ..Config::default() };
        change(&mut config, &folder);
        Local::start_in(folder, config)
    }

    /// Starts one whose work is `command`, run in its folder and tried again at once.
    pub fn running(command: &str, change: impl FnOnce(&mut Config)) -> Local {
        Local::start_with(|config, folder| {
            config.work = Work::Command(format!("cd {}; {command}", folder.path().display()));
            config.retry_delay = Duration::ZERO;
            change(config);
        })
    }

    /// Stops it, and starts another on the same file with the same clock.
    pub fn restart(mut self, change: impl FnOnce(&mut Config)) -> Local {
        self.stop();
        let mut config = self.config.clone();
        change(&mut config);
        Local::start_in(self.folder.clone(), config)
    }

    pub fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop();
        }
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Turns the clock.
    pub fn turn(&self, by: Duration) {
        self.config.clock.advance(by);
    }

    /// Turns the clock by one processing time and waits until `condition` holds. The processor may not yet have heard of a
    /// claim that is already on disk, and count its time from after the turn; so the clock is turned again if nothing happens.
    #[track_caller]
    pub fn turn_until(&self, mut condition: impl FnMut() -> bool) {
        let came_true = (0..30).any(|_| {
            self.turn(self.config.processing_time);
            comes_true(Duration::from_secs(1), &mut condition)
        });
        assert!(came_true, "did not come true however far the clock was turned");
    }

    fn start_in(folder: Arc<Folder>, config: Config) -> Local {
        let server = Server::start(&config).unwrap_or_else(|e| panic!("the server does not start: {e}"));
        Local { address: server.address().expect("it listens").clone(), server: Some(server), config, folder }
    }
}

impl Serving for Local {
    fn address(&self) -> &Address {
        &self.address
    }

    fn db(&self) -> PathBuf {
        self.config.db.clone()
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.stop();
    }
}
