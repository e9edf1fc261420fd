//! The command line: flags and environment → [`Config`] → serve → exit status. Nothing else happens here.
//!
//! What is wrong is said in one line on standard error; the exit status is 2 when the user can mend it, 1 when the machine failed.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use std::sync::mpsc::{Sender, channel};

use orderd::config::SETTINGS;
use orderd::{Config, Error, Listener, Server, logging, store};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

fn main() -> ExitCode {
    let outcome = match parse(std::env::args_os()) {
        Ok(Command::Serve(config)) => serve(&config),
        Ok(Command::Print(text)) => {
            // `orderd --help | head` closes the pipe early.
            let _ = std::io::stdout().write_all(text.as_bytes());
            Ok(())
        }
        Err(e) => Err(e),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("orderd: {e}");
            ExitCode::from(e.exit_status())
        }
    }
}

enum Command {
    Serve(Box<Config>),
    Print(String),
}

/// Reads the environment first and the command line over it.
fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, Error> {
    let mut config = Config::default();
    for setting in SETTINGS {
        let variable = setting.variable();
        if let Some(value) = std::env::var_os(&variable) {
            setting.apply(&mut config, &variable, &value.to_string_lossy())?;
        }
    }
    let usage = |e: lexopt::Error| Error::Usage(format!("{e}; see orderd --help"));
    let mut parser = lexopt::Parser::from_iter(args);
    let mut subcommand = None;
    while let Some(arg) = parser.next().map_err(usage)? {
        match arg {
            lexopt::Arg::Long("help") | lexopt::Arg::Short('h') => return Ok(Command::Print(help())),
            lexopt::Arg::Long("version") | lexopt::Arg::Short('V') => {
                return Ok(Command::Print(format!("orderd {}\n", env!("CARGO_PKG_VERSION"))));
            }
            lexopt::Arg::Long(flag) => match SETTINGS.iter().find(|s| s.flag == flag) {
                Some(setting) => {
                    let value = parser.value().map_err(usage)?;
                    setting.apply(&mut config, &format!("--{}", setting.flag), &value.to_string_lossy())?;
                }
                None => return Err(usage(arg.unexpected())),
            },
            lexopt::Arg::Value(ref word) if word == "serve" && subcommand.is_none() => subcommand = Some("serve"),
            arg => return Err(usage(arg.unexpected())),
        }
    }
    Ok(Command::Serve(Box::new(config)))
}

fn help() -> String {
    let mut text = "orderd takes orders over HTTP, keeps them on disk, processes them and reports how they are.\n\n\
         Usage: orderd [serve] [--FLAG VALUE]...\n\n"
        .to_string();
    for setting in SETTINGS {
        let flag = format!("--{} {}", setting.flag, setting.value);
        text += &format!("  {flag:<22} {} [{}]\n", setting.help, setting.default);
    }
    text += "  --version\n  --help\n\n\
         Every flag has a twin in the environment, such as ORDERD_LISTEN; the flag wins.\n";
    text
}

/// What ends a serving process.
enum End {
    Signal,
    Broken,
}

/// Serves until a signal comes or the database breaks.
fn serve(config: &Config) -> Result<(), Error> {
    logging::init(config.log_level);
    let (events, ends) = channel();
    // Before anything is started: a signal that comes early must not kill a half-started server.
    watch_signals(events.clone())?;
    let listener = Listener::bind(&config.listen)?;
    let lock = store::Lock::acquire(&config.db)?;
    let server = Server::start_on(config, listener, lock, move |_| {
        let _ = events.send(End::Broken);
    })?;
    announce(&server);
    match ends.recv() {
        Ok(End::Broken) => Err(Error::Broken("see the log; starting again recovers what was acknowledged".into())),
        Ok(End::Signal) | Err(_) => {
            log::info!("stopping");
            server.stop();
            log::info!("stopped");
            Ok(())
        }
    }
}

/// The first signal asks for an orderly stop, the second cuts it short. Works for process 1 of a container too, for which the
/// kernel has no default action.
fn watch_signals(events: Sender<End>) -> Result<(), Error> {
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(Error::Thread)?;
    let watch = move || {
        let mut stopping = false;
        for signal in signals.forever() {
            if stopping {
                log::warn!("stopped by a second signal");
                std::process::exit(128 + signal);
            }
            stopping = true;
            let _ = events.send(End::Signal);
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(watch).map_err(Error::Thread)?;
    Ok(())
}

/// The one line on standard output. Nobody may be reading it.
fn announce(server: &Server) {
    let mut stdout = std::io::stdout();
    let _ = writeln!(stdout, "listening on {}", server.address()).and_then(|()| stdout.flush());
}
