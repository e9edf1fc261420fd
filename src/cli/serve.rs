//! `orderd serve`: supervises a child that serves, or serves: as that child, or alone.
//!
//! A serving process does what it is told, one event after the other: by signals, by its parent, or by a server in trouble. A
//! server that needs a fresh process goes on serving until its parent has one; alone, it stops in order and says so by its exit
//! status.

use std::fmt::Display;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::arguments::Given;
use super::table::Subcommand;
use super::{print, unknown_variables};
use crate::config::{Config, Token};
use crate::error::Error;
use crate::os::logging;
use crate::os::manager::{self, Manager};
use crate::os::signals::{self, SIGUSR1, SIGUSR2};
use crate::server::{Foundations, Refusing, Server, Trouble};
use crate::supervisor::{self, Ground, Inherited, Parent, Socket};

/// How often a server that retires is asked whether its work is done. It serves nobody any more.
const RETIREMENT_CHECK: Duration = Duration::from_millis(20);
/// How often the parent is asked for a renewal until it has begun one. Signals that come together are heard in any order, so a
/// request may seem to come from the process before.
const RENEWAL_REMINDER: Duration = Duration::from_millis(250);

/// How long a process that can't serve answers 503 before another one tries. Service is to be back 5 s after what stands in its way is
/// gone, and the parent waits for up to two.
const MEANWHILE: Duration = Duration::from_secs(1);

/// Its row.
pub const SUBCOMMAND: Subcommand = Subcommand {
    name: "serve",
    usage: "[--FLAG VALUE]...",
    summary: "take orders and process them; what orderd alone does",
    more: TWINS,
    words: 0..=0,
    flags: &[],
    settings: None,
    run,
};

/// Also said where the help of all subcommands lists a server's flags.
pub const TWINS: &str = "Every flag of a server has a twin in the environment, such as ORDERD_LISTEN; the flag wins.";

/// Serves until a signal asks for a stop.
fn run(config: &Config, _given: &Given) -> Result<(), Error> {
    logging::init(config.log_level, config.log_format);
    #[cfg(feature = "postgres")]
    if let Some(node) = supervisor::guard::node() {
        supervisor::guard::guard(&node);
        return Ok(());
    }
    // Before anything is made; each process that serves reads it anew.
    config.token.as_ref().map(Token::read).transpose()?;
    if let Some(inherited) = Inherited::take(config)? {
        return serve_as_child(config, inherited);
    }
    manager::move_socket_to_standard_input()?;
    unknown_variables().for_each(|what| log::warn!("{what}"));
    if config.supervisor {
        match supervisor::own_program() {
            Ok(_) => {
                supervisor::supervise(config, announce)?;
                log::info!("stopped");
                return Ok(());
            }
            Err(e) => log::warn!(
                "no second process can be started without {e}; mount /proc, or say --no-supervisor. Serving without a supervisor"
            ),
        }
    }
    serve_alone(config)?;
    log::info!("stopped");
    Ok(())
}

fn serve_as_child(config: &Config, inherited: Inherited) -> Result<(), Error> {
    let Inherited { socket, lock, predecessor_lives, restarts, parent } = inherited;
    // While there is one thread.
    let listener = socket.listener()?;
    let (events, inbox) = channel();
    let sender = events.clone();
    signals::watch(&[SIGUSR1, SIGUSR2], move |signal| {
        let event = match signal {
            SIGUSR1 => Event::Retire,
            SIGUSR2 => Event::Alone,
            _ => Event::Stop,
        };
        let _ = sender.send(event);
    })?;
    let has_served = lock.has_been_used() && !predecessor_lives;
    let foundations = Foundations { listener: Some(listener), lock, predecessor_lives, restarts };
    let server = match start(config, foundations, events) {
        Err(e) if has_served => return refuse_meanwhile(config, &socket, &inbox, e),
        started => started?,
    };
    // The parent listens there too.
    server.leave_socket();
    parent.child_serves();
    follow(server, &inbox, Some(parent))
}

/// Answers 503 for a while, where a process before this one has served and this one can't. Then it ends with the reason, and its
/// parent tries again.
fn refuse_meanwhile(config: &Config, socket: &Socket, events: &Receiver<Event>, why: Error) -> Result<(), Error> {
    // For the same reason this may be impossible, too.
    let Some(refusing) = socket.listener().ok().and_then(|listener| Refusing::start(config, listener).ok()) else {
        return Err(why);
    };
    let told = events.recv_timeout(MEANWHILE);
    refusing.end();
    if let Ok(Event::Stop) = told { Ok(()) } else { Err(why) }
}

fn serve_alone(config: &Config) -> Result<(), Error> {
    let (events, inbox) = channel();
    let (mut is_stopping, sender) = (false, events.clone());
    // Which one it is, its lock says.
    let locked = Arc::new(OnceLock::new());
    let database = locked.clone();
    // The status of a stop that a second signal has cut short; 0 of one that none has.
    let cut_short = Arc::new(AtomicU8::new(0));
    let cut = cut_short.clone();
    signals::watch(&[SIGUSR1, SIGUSR2], move |signal| {
        if matches!(signal, SIGUSR1 | SIGUSR2) {
            log::warn!("there is no supervisor to renew this process; start a fresh one yourself");
            return;
        }
        if is_stopping {
            log::warn!("stopped by a second signal");
            let status = u8::try_from(128 + signal).unwrap_or(1);
            cut.store(status, Ordering::SeqCst);
            database.get().into_iter().for_each(|database: &PathBuf| supervisor::end_commands(database));
            std::process::exit(status.into());
        }
        is_stopping = true;
        Manager::of_this_process().stopping();
        let _ = sender.send(Event::Stop);
    })?;
    let Ground { listener, address, is_lent, lock } = Ground::take(config)?;
    let _ = locked.set(lock.database().to_path_buf());
    let server = start(config, Foundations { listener: Some(listener), lock, predecessor_lives: false, restarts: 0 }, events)?;
    if is_lent {
        server.leave_socket();
    }
    announce(&server);
    let manager = Manager::of_this_process();
    manager.ready(&format!("listening on {server}"));
    supervisor::keep_telling(manager, address)?;
    follow(server, &inbox, None)?;
    match cut_short.load(Ordering::SeqCst) {
        0 => Ok(()),
        exit_status => Err(Error::Reported { exit_status }),
    }
}

fn start(config: &Config, foundations: Foundations, events: Sender<Event>) -> Result<Server, Error> {
    Server::start_on(config, foundations, move |trouble| {
        let _ = events.send(Event::Trouble(trouble));
    })
}

/// What a serving process is told.
enum Event {
    Stop,
    /// Another process serves now.
    Retire,
    /// The process that served before has ended.
    Alone,
    Trouble(Trouble),
}

/// What a serving process is about to do by itself.
#[derive(Clone, Copy)]
enum Pending {
    Nothing,
    /// Ask its parent again to be replaced.
    Renewal(Parent),
    /// End, as soon as its work is done.
    Retirement,
}

/// Does what it is told until the server has ended. Its parent, if it has one, kills it when that takes too long or a second
/// signal says so; a second one here may be the first one's copy, as systemd tells every process.
fn follow(server: Server, events: &Receiver<Event>, parent: Option<Parent>) -> Result<(), Error> {
    let mut pending = Pending::Nothing;
    loop {
        let event = match pending {
            Pending::Nothing => events.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Pending::Renewal(_) => events.recv_timeout(RENEWAL_REMINDER),
            Pending::Retirement => events.recv_timeout(RETIREMENT_CHECK),
        };
        match (event, pending) {
            (Ok(Event::Retire), _) => {
                pending = Pending::Retirement;
                server.retire();
            }
            (Ok(Event::Alone), _) => server.alone(),
            // The database may no longer be what this process believes it to be: nothing more is to be done to it.
            (Ok(Event::Trouble(Trouble::Broken(_))), _) => {
                // Dropped, it would stop in order, and wait for what can't be written any more.
                std::mem::forget(server);
                return Err(Error::Reported { exit_status: 1 });
            }
            (Ok(Event::Trouble(_)), Pending::Nothing) => match parent {
                Some(parent) => {
                    parent.renewal_is_needed();
                    pending = Pending::Renewal(parent);
                }
                None => {
                    server.stop();
                    return Err(Error::Reported { exit_status: supervisor::RENEW });
                }
            },
            (Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected), _) => {
                log::info!("stopping");
                server.stop();
                return Ok(());
            }
            (Err(RecvTimeoutError::Timeout), Pending::Renewal(parent)) => parent.renewal_is_needed(),
            (Err(RecvTimeoutError::Timeout), Pending::Retirement) if server.is_retired() => {
                // Its parent may need its place for another.
                server.leave(|| matches!(events.try_recv(), Ok(Event::Stop)));
                return Ok(());
            }
            (Ok(Event::Trouble(_)) | Err(RecvTimeoutError::Timeout), _) => {}
        }
    }
}

/// The one line on standard output.
fn announce(address: &impl Display) {
    print(&format!("listening on {address}\n"));
}
